"""A stream of JSON objects, taken out of an array as its elements complete.

Owns the syntax of a Gemini stream that was not asked for as events (no `alt=sse`): the answer is one
JSON array that arrives piece by piece. It has the same face as the SSE parser, so the relay need not
know which of the two it feeds, and it never raises, whatever it is fed.
"""

import re

from sidecar.core.sse import EVENT_LIMIT, Event

_MARKS = re.compile(rb'["\\{}\[\]]')
_QUOTE, _BACKSLASH = b'"\\'
_OPENING = b"{["
_OBJECT = b"{"[0]


class JsonArrayParser:
    """An incremental parser of an array of objects (or of objects one after the other).

    `oversized` counts objects above the limit (bytes); none of such an object is kept. `keep_alives` is
    always 0: the format has none.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_limit",
        "_pending",
        "_text",
        "_too_large",
        "keep_alives",
        "oversized",
    )

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self.keep_alives = 0
        self.oversized = 0
        self._limit = limit
        self._pending = bytearray()
        self._depth = 0
        self._text = False
        self._escaped = -1
        self._too_large = False

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next piece of the stream; gives the objects it completed as events without a name."""
        events: list[Event] = []
        begin = 0
        for found in _MARKS.finditer(data):
            at = found.start()
            mark = data[at]
            if at == self._escaped:
                continue
            if self._text:
                self._text = mark != _QUOTE
                if mark == _BACKSLASH:
                    self._escaped = at + 1
            elif mark == _QUOTE:
                self._text = True
            elif mark in _OPENING:
                if self._depth:
                    self._depth += 1
                elif mark == _OBJECT:
                    self._depth = 1
                    begin = at
            elif self._depth and mark != _BACKSLASH:
                self._depth -= 1
                if not self._depth:
                    self._keep(data[begin : at + 1])
                    self._complete(events)
        self._escaped = 0 if self._escaped == len(data) and data else -1
        if self._depth:
            self._keep(data[begin:])
        return events

    def finish(self) -> list[Event]:
        """The stream has ended; an object that was not closed is no event."""
        return []

    def _keep(self, part: bytes) -> None:
        """Keeps a part of the object that is being read, unless the object has become too large."""
        if self._too_large:
            return
        self._pending += part
        if len(self._pending) > self._limit:
            self._pending.clear()
            self._too_large = True
            self.oversized += 1

    def _complete(self, events: list[Event]) -> None:
        """The object that is being read is whole."""
        if not self._too_large:
            events.append((b"", bytes(self._pending)))
            self._pending.clear()
        self._too_large = False
