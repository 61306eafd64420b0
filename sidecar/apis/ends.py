"""What the two ends of a JSON object tell whose middle was not kept.

Owns the one rule by which that is exact: only members of the object itself count, and what cannot be told from the
ends alone is left out. Of an answer too large to be held, the ends name the model and the tokens.
"""

import re

import msgspec

from sidecar.apis.shapes import Thing

_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BEGIN = re.compile(rb"\s*\{")
_SIMPLE = re.compile(rb"\s*%b\s*:\s*(?:%b|[-+.0-9A-Za-z]++)\s*," % (_TEXT, _TEXT), re.DOTALL)
"""A member with a text, a number or a word, and the comma behind it."""

_NAME = re.compile(rb',\s*("[A-Za-z_]+"\s*:)')
"""A member's name behind a comma. No text can hold it: a quotation mark in a text has a backslash before it."""

_TRIED = 64
"""Members that are looked at, from the first and from the last."""

_check = msgspec.json.Decoder(Thing).decode


def ends_of(head: bytes, tail: bytes) -> bytes | None:
    """An object of the members with which the object begins and ends, as far as they are whole in the two pieces.

    From the head those are its texts and numbers up to the first list or object; from the tail all members behind some
    comma that close the object, and nothing else.
    """
    begin = _BEGIN.match(head)
    if begin is None:
        return None
    members: list[bytes] = []
    at = begin.end()
    while len(members) < _TRIED and (member := _SIMPLE.match(head, at)):
        members.append(member[0])
        at = member.end()
    last = _last_members(tail)
    found = b"".join(members) + last if last else b"".join(members)[:-1]
    return b"{%b}" % found if found else None


def _last_members(tail: bytes) -> bytes:
    """The most members that close the object: any that stands in an object inside leaves brackets behind."""
    found = b""
    for name in list(_NAME.finditer(tail))[: -_TRIED - 1 : -1]:
        rest = tail[name.start(1) :]
        try:
            _check(b"{" + rest)
        except (ValueError, RecursionError):
            continue
        found = rest
    return found.rstrip()[:-1]
