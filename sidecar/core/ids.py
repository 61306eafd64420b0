"""Which text may be an id: 1 to 200 printable ASCII characters.

Owns that one rule. What is longer is replaced by a digest, so that a megabyte of id costs what any id
costs; what holds control characters or is not ASCII is no id at all. Ids are hints: nothing is allowed by one.
"""

from hashlib import sha256

LONGEST = 200
_DIGITS = 32


def tidy(text: str) -> str | None:
    """The id that `text` stands for, without blanks around it; None if it is empty or no valid id.

    A longer one gives `sha256-` and the first 32 hex digits of its unkeyed SHA-256.
    """
    stripped = text.strip(" \t")
    if not stripped or not (stripped.isascii() and stripped.isprintable()):
        return None
    if len(stripped) <= LONGEST:
        return stripped
    return "sha256-" + sha256(stripped.encode("ascii")).hexdigest()[:_DIGITS]
