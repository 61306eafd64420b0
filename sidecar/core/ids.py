"""Which text may be an id: 1 to 200 printable ASCII characters.

Owns that one rule. What is longer is replaced by a digest, so that a megabyte of id costs what any id
costs; so is what looks like a credential, because an id stands on every span. What holds control characters
or is not ASCII is not an id at all. Ids are hints: nothing is allowed by one.
"""

from functools import lru_cache
from hashlib import sha256

from sidecar.core.shown import is_credential

LONGEST = 200
_DIGITS = 32


def tidy(text: str) -> str | None:
    """The id that `text` stands for, without blanks around it; None if it is empty or no valid id.

    A longer one, and one that looks like a credential, gives `sha256-` and the first 32 hex digits of its
    unkeyed SHA-256.
    """
    stripped = text.strip(" \t")
    if not stripped or not (stripped.isascii() and stripped.isprintable()):
        return None
    if len(stripped) <= LONGEST and not _looks_secret(stripped):
        return stripped
    return "sha256-" + sha256(stripped.encode("ascii")).hexdigest()[:_DIGITS]


_looks_secret = lru_cache(maxsize=4096)(is_credential)
"""A session's requests bring the same few ids again and again."""
