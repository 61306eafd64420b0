"""An event that has not ended yet: what is kept of it, within a bound.

Owns the bound and the shortening. The largest events of a stream are large because of one text in them (an image, a
whole answer once more), and nothing that is read of an event is a long text: such a text is replaced by a filler while
it comes. What is still too large, or too costly to read, is given up but for its beginning. Pure, and it never raises.
"""

import re
from collections.abc import Callable

EVENT_LIMIT = 1 << 20
"""Bytes of one event, long texts shortened, above which it is not read, unless the caller says otherwise."""

FILLER = b"x" * 2304
"""Stands for a long text: too long to be taken for a name, an id or a reason, and not empty."""

_LONG = re.compile(
    rb'"(?=[^":,\]}\s])(?:(?=[^"\n]{4096})(?:[^"\\\n]++|\\[^\n])*+|(?:[^"\\\n]++|\\[^\n]){512,}+)'
)
"""A quote and a long text behind it: 4 KiB without another quote, or with some hundred escapes. Behind a quote that ends
a text, JSON has one of the characters that are left out, so the quote begins a text or stands inside of one."""

_SHORTENED = b'"' + FILLER

STEP = 64 * 1024
"""Bytes that are shortened in one go. An event up to this size is kept as it is."""

_LINES = 1 << 15
_OBJECTS = 1 << 16
"""What makes an event costly to read is the number of its parts; these take some milliseconds."""

_HEAD = 1024
"""Bytes that are kept of the beginning of an event that is given up."""


def shorten(data: bytes) -> bytes:
    """The same JSON text with fillers for long texts; a character that `data` cuts at its end stays as it is."""
    end = len(data)
    for back in range(1, min(4, end) + 1):
        if data[-back] >= 0xC0:
            end -= back
            break
        if data[-back] < 0x80:
            break
    return _LONG.sub(_SHORTENED, data[:end]) + data[end:]


def unbounded(change: int) -> bool:
    """There is always room."""
    del change
    return True


class Pending:
    """What has come of one event.

    `room` is asked for memory (bytes) when the event becomes large, and told with a negative number what is given back.
    """

    __slots__ = ("_counted", "_data", "_done", "_limit", "_next", "_room", "head", "lost")

    def __init__(self, limit: int = EVENT_LIMIT, room: Callable[[int], bool] = unbounded) -> None:
        self._limit = limit
        self._room = room
        self._data = bytearray()
        self._done = 0
        self._counted = 0
        self._next = min(limit, STEP)
        self.head: bytes | None = None
        """The beginning of an event that has been given up, None otherwise."""
        self.lost = 0
        """Events that have been given up."""

    def __bool__(self) -> bool:
        """True when something of an event has come."""
        return bool(self._data) or self.head is not None

    def add(self, part: bytes) -> None:
        """More of the event."""
        if self.head is not None:
            return
        self._data += part
        if len(self._data) > self._next:
            self._shorten()

    def take(self) -> tuple[bytes, bool]:
        """The event, which has ended, and True; or its beginning and False. Then there is room for another."""
        if self.head is None and not self._readable():
            self._give_up()
        taken = (bytes(self._data), True) if self.head is None else (self.head, False)
        self.drop()
        return taken

    def drop(self) -> None:
        """Forgets it."""
        self._release()
        self.head = None

    def _shorten(self) -> None:
        data = self._data
        fresh = shorten(bytes(data[self._done :]))
        quote = fresh.rfind(b'"')
        data[self._done :] = fresh
        self._done = len(data) - (len(fresh) - quote if quote >= 0 else 0)
        self._next = min(self._limit, len(data) + STEP)
        more = len(data) - self._counted
        if len(data) > self._limit or not self._room(more):
            self._give_up()
        else:
            self._counted += more

    def _readable(self) -> bool:
        data = self._data
        return len(data) <= STEP or (data.count(b"\n") <= _LINES and data.count(b"{") <= _OBJECTS)

    def _give_up(self) -> None:
        head = bytes(self._data[: min(_HEAD, self._limit)])
        self._release()
        self.head = head
        self.lost += 1

    def _release(self) -> None:
        if self._counted:
            self._room(-self._counted)
            self._counted = 0
        self._data = bytearray()
        self._done = 0
        self._next = min(self._limit, STEP)
