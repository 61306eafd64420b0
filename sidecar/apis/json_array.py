"""A stream of JSON objects, taken out of an array as its elements complete.

Owns the syntax of a Gemini stream that was not asked for as events (no `alt=sse`): the answer is one
JSON array that arrives piece by piece. It has the same face as the SSE parser, so the relay need not
know which of the two it feeds, and it never raises, whatever it is fed.
"""

import re
from collections.abc import Callable

from sidecar.core.sse import EVENT_LIMIT, STEP, Event, Pending, no_gist, unbounded

_REST_OF_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OPENING, _CLOSING = re.compile(rb"[{\[]++"), re.compile(rb"[}\]]++")
_QUOTE, _CLOSERS = b'"'[0], b"}]"

_DEPTH = 3
"""Levels that are passed over at once, without a step of Python for each bracket."""


def _nested(depth: int) -> bytes:
    """A pattern for a value without an end of what it stands in: text, and whole objects and arrays up to `depth`."""
    flat = rb'[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"'
    return flat if not depth else flat + rb"|[{\[](?:" + _nested(depth - 1) + rb")*+[}\]]"


_INSIDE = re.compile(b"(?:" + _nested(_DEPTH) + b")*+", re.DOTALL)


class JsonArrayParser:
    """An incremental parser of an array of objects (or of objects one after the other).

    `oversized` counts the objects that are not read (`Pending`); such an object is an event whose data is what `gist`
    makes of its beginning. `keep_alives` is always 0: the format has none.
    """

    __slots__ = ("_depth", "_escape", "_gist", "_pending", "_small", "_text", "keep_alives")

    def __init__(
        self,
        limit: int = EVENT_LIMIT,
        *,
        gist: Callable[[bytes], bytes] = no_gist,
        room: Callable[[int], bool] = unbounded,
    ) -> None:
        self.keep_alives = 0
        self._small = min(limit, STEP)
        self._gist = gist
        self._pending = Pending(limit, room)
        self._depth = 0
        self._text = False
        self._escape = False
        """A piece has ended behind a backslash, which is kept back."""

    @property
    def oversized(self) -> int:
        """Objects that were not read."""
        return self._pending.lost

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next piece of the stream; gives the objects it completed as events without a name."""
        if self._escape and data:
            data = b"\\" + data
            self._escape = False
        events: list[Event] = []
        at = begin = 0
        while at < len(data):
            if not self._depth:
                begin = at = data.find(b"{", at)
                if at < 0:
                    break
                self._depth = 1
                at += 1
            at = self._inside(data, at)
            if not self._depth:
                self._complete(data[begin:at], events)
        if self._depth:
            self._pending.add(data[begin : len(data) - self._escape])
        return events

    def finish(self) -> list[Event]:
        """The stream has ended; an object that was not closed is no event."""
        self._pending.drop()
        return []

    def _inside(self, data: bytes, at: int) -> int:
        """Goes on within an object, to its end or the end of `data`; says how far."""
        end = len(data)
        if self._text:
            at = self._rest_of_text(data, at)
        while at < end and (at := _match_end(_INSIDE, data, at)) < end:
            mark = data[at]
            if mark == _QUOTE:
                self._text = True
                at = self._rest_of_text(data, at + 1)
            elif mark in _CLOSERS:
                closed = min(_match_end(_CLOSING, data, at) - at, self._depth)
                self._depth -= closed
                at += closed
                if not self._depth:
                    break
            else:
                opened = _match_end(_OPENING, data, at) - at
                self._depth += opened
                at += opened
        return at

    def _rest_of_text(self, data: bytes, at: int) -> int:
        """Goes on within a text, to the character behind it or the end of `data`."""
        at = _match_end(_REST_OF_TEXT, data, at)
        if at == len(data):
            return at
        if data[at] == _QUOTE:
            self._text = False
            return at + 1
        self._escape = True
        return len(data)

    def _complete(self, end: bytes, events: list[Event]) -> None:
        """The object that is being read is whole."""
        pending = self._pending
        if not pending and len(end) <= self._small:
            events.append((b"", end))
            return
        data, whole = pending.take(end)
        events.append((b"", data if whole else self._gist(data)))


def _match_end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where the match ends that begins at `at`, `at` itself if there is none."""
    found = pattern.match(data, at)
    return at if found is None else found.end()
