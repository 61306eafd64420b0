"""A large body in pieces: the messages at the beginning of its list are taken out, a part of them at a time.

Owns where such a body may be cut. One pass of the decoder over all of it would hold up everything else. Where it is cut is
guessed, and then certain: a piece that is a list of whole values by itself ends where the next value begins.
"""

import re

import msgspec

from sidecar.apis.shapes import LARGE, Steps

PIECE = 2 * LARGE
"""Bytes that are read in one go, if messages are no longer."""

_HEAD = 128 * 1024
"""Bytes of a body before its messages, at most."""

_OPENS = (b'{"role"', b'{"type"', b'{"parts"')
"""How a message begins."""

CROWD = 100_000
"""Objects and lists that a body has at most which is read as a history, or in pieces."""

_STRIDE = 7
"""Of so many bytes one is looked at to count them: to look at all takes as long as reading."""

_BLANKS = 64
"""Bytes before a message in which the comma is that parts it from the one before."""

_BRACE = b"{"[0]

Raw = msgspec.Raw
_raws = msgspec.json.Decoder(list[Raw]).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Rest:
    """What is left of a body, which is one as well, and the messages that stood before those that are left in it."""

    __slots__ = ("body", "taken")

    def __init__(self, body: bytes | bytearray, taken: list[Raw]) -> None:
        self.body = body
        self.taken = taken


def crowd(body: bytes | bytearray, start: int, end: int, secret: int) -> int:
    """How many objects and lists a part of a body has, by a sample, of which nobody else knows where it begins."""
    sample = body[start + secret % _STRIDE : end : _STRIDE]
    return (sample.count(b"{") + sample.count(b"[")) * _STRIDE


def rest_of(body: bytes | bytearray, name: str, most: int, secret: int) -> Steps[Rest]:
    """A body without messages at the beginning of the list of that name; all of it, where that cannot be read in pieces.

    So many messages are taken at most. They are counted from a place that nobody else knows (`crowd`).
    """
    taken: list[Raw] = []
    whole, crowded = Rest(body, []), 0
    begin = start = _beginning(body, name)
    while start and len(body) - start > LARGE:
        found = yield from _next(body, start)
        if found is None:
            break
        messages, end = found
        crowded += crowd(body, start, end, secret)
        taken += messages
        start = end
        if len(taken) > most or crowded > CROWD:
            return whole
        yield
    if start == begin or body.find(b'"%b"' % name.encode(), start) >= 0:
        return whole
    yield
    return Rest(body[:begin] + body[start:], taken)


def _beginning(body: bytes | bytearray, name: str) -> int:
    """Where the list of that name begins, one of the body's own members; 0 where that is not certain."""
    found = re.compile(rb'"%b"\s*:\s*\[\s*' % name.encode()).search(body, 0, _HEAD)
    if found is None:
        return 0
    try:
        listed = bytes(_members(body[: found.end()] + b"]}")[name])
        return found.end() if not listed[1:-1].strip() else 0
    except (ValueError, RecursionError, KeyError):
        return 0


def _next(body: bytes | bytearray, start: int) -> Steps[tuple[list[Raw], int] | None]:
    """The messages from there on, and where the next one begins; None if that is not found.

    It pauses before it looks further than a piece: a wrong guess there costs a pass over all that lies between.
    """
    for opens in _OPENS:
        end = body.rfind(opens, start + 1, start + PIECE)
        if end < 0:
            yield
            end = body.find(opens, start + PIECE)
            yield
        before = body[max(start, end - _BLANKS) : max(start, end)]
        stop = max(start, end) - len(before) + len(before.rstrip()) - 1
        if stop > start and body[stop : stop + 1] == b",":
            try:
                messages = _raws(b"".join((b"[", memoryview(body)[start:stop], b"]")))
            except (ValueError, RecursionError):
                continue
            return (messages, end) if all(memoryview(one)[0] == _BRACE for one in messages) else None
    return None
