"""W3C baggage as far as it names sessions: members and their percent-decoded values.

Owns reading only; what of the caller's baggage is forwarded is decided by the relay. A member that is
malformed is passed over, as the specification asks.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

MAX_MEMBERS = 180
"""Members read of one request; further ones are left alone."""


def members(fields: Iterable[bytes]) -> Mapping[str, str]:
    """The members of every `baggage` field, properties left out; of equal names the first counts."""
    found: dict[str, str] = {}
    for field in fields:
        for member in field.split(b",", MAX_MEMBERS)[:MAX_MEMBERS]:
            name, equals, rest = member.partition(b"=")
            key = name.strip(b" \t").decode("latin-1")
            if equals and key and len(found) < MAX_MEMBERS:
                value = unquote_to_bytes(rest.partition(b";")[0].strip(b" \t"))
                found.setdefault(key, value.decode("utf-8", "replace"))
    return found
