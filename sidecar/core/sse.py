"""Server-sent events, taken from bytes as they come; and what is kept of an event that has not ended yet.

Owns the syntax only (WHATWG HTML, "Interpreting an event stream"): what an event's data means is the API readers'
business. Two more things are events, since servers tell errors in them: a field of the name `error`, as older llama.cpp
servers send it, and a JSON object without any field's name. It never sees the wire's own bytes change and never raises,
whatever it is fed. The relay feeds it every piece of every stream, so the common case costs a few C calls per event.

An event's bound is here too, and its shortening. The largest events of a stream are large because of one text in them
(an image, a whole answer once more), and nothing that is read of an event is a long text: such a text is replaced by a
filler while it comes. What is still too large, or too costly to read, is given up but for its beginning.
"""

import re
from collections.abc import Callable

EVENT_LIMIT = 1 << 20
"""Bytes of one event, long texts shortened, above which it is not read, unless the caller says otherwise."""

FILLER = b"x" * 2304
"""Stands for a long text: too long to be taken for a name, an id or a reason, and not empty."""

_LONG = re.compile(
    rb'"(?=[^":,\]}\s])(?:((?=[^"\n]{4096})(?:[^"\\\n]++|\\[^\n])*+|(?:[^"\\\n]++|\\[^\n]){512,}+)'
    rb'|(?:[^"\\\n]++|\\[^"\n])*+\\"(?:[^"\\\n]++|\\[^\n])*+)'
)
"""A quote and a long text behind it: 4 KiB without another quote, or with some hundred escapes. Behind a quote that ends
a text, JSON has one of the characters that are left out, so the quote begins a text or stands inside of one. What has fewer
escapes, but a quote inside, is matched as well, without the group: else it would be looked through anew from each of them."""

_INSIDE = re.compile(rb'"(?=[^":,\]}\s])[^"\n]{4096}')
"""A quote inside of such a text, and 4 KiB without another."""

_SHORTENED = b'"' + FILLER

STEP = 64 * 1024
"""Bytes that are shortened in one go. An event up to this size is kept as it is."""

_LINES = 1 << 15
_OBJECTS = 1 << 16
_MEMBERS = 1 << 20
"""What makes an event costly to read is the number of its parts; these take some milliseconds. Members are told by commas."""

_APART = 1024
"""Lines of data, at most, that are as many events: they are read in one go."""

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
    return _LONG.sub(_shortened, data[:end]) + data[end:]


def _shortened(found: re.Match[bytes]) -> bytes:
    """What stands for a text in what is shortened."""
    text = found[0]
    if found[1] is not None:
        return _SHORTENED
    inside = _INSIDE.search(text, 1) if len(text) > 4096 else None
    return text if inside is None else text[: inside.start()] + _SHORTENED


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
        return len(data) <= STEP or (
            data.count(b"\n") <= _LINES and data.count(b"{") <= _OBJECTS and data.count(b",") <= _MEMBERS
        )

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


Event = tuple[bytes, bytes]
"""An event's name (empty when it has none) and its data (lines joined by a line feed)."""

_OBJECT = b'{"'
_BOM = b"\xef\xbb\xbf"
_LF = 10
_CR = 13


def no_gist(head: bytes) -> bytes:
    """Tells nothing of an event that is not read."""
    del head
    return b""


def never(line: bytes) -> bool:
    """No line of an event's data is an event by itself."""
    del line
    return False


class SseParser:
    """An incremental parser of one event stream.

    `keep_alives` counts blocks that carry no data: comments, a lone `id` or `retry`, a `data` that is empty, unless the
    event is called `error`. `oversized` counts the events that are not read (`Pending`). Such an event has its name, where
    that is told before the data, and in place of the data what `gist` makes of its beginning. Some servers leave out the
    blank line between events: where each line of data is one `alone`, they are as many events.
    """

    __slots__ = (
        "_after_cr",
        "_alone",
        "_began",
        "_gist",
        "_idle",
        "_newline",
        "_pending",
        "_small",
        "keep_alives",
    )

    def __init__(
        self,
        limit: int = EVENT_LIMIT,
        *,
        gist: Callable[[bytes], bytes] = no_gist,
        alone: Callable[[bytes], bool] = never,
        room: Callable[[int], bool] = unbounded,
    ) -> None:
        self.keep_alives = 0
        self._small = min(limit, STEP)
        self._gist = gist
        self._alone = alone
        self._pending = Pending(limit, room)
        self._newline = False
        self._began = False
        self._after_cr = False
        self._idle = False

    @property
    def oversized(self) -> int:
        """Events that were not read."""
        return self._pending.lost

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next piece of the stream; gives the events it completed, in order."""
        if (
            self._idle
            and data[:6] == b"data: "
            and 6 < data.find(b"\n") == len(data) - 2 <= self._small
            and data[-1] == _LF
            and b"\r" not in data
        ):
            return [(b"", data[6:-2])]  # the usual piece: one event of one line
        self._idle = False
        events = self._feed(data)
        self._idle = self._began and not (self._newline or self._after_cr or self._pending)
        return events

    def _feed(self, data: bytes) -> list[Event]:
        """Any piece."""
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == _LF:
                data = data[1:]
        if not data:
            return []
        if b"\r" in data:
            self._after_cr = data[-1] == _CR
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._newline:
            # A line has ended with the last piece; a blank line follows it here, or the block goes on.
            self._newline = False
            data = b"\n" + data
        blocks = data.split(b"\n\n")
        tail = blocks.pop()
        events: list[Event] = []
        if blocks and (self._pending or not self._began):
            self._close(blocks.pop(0), events)
        for block in blocks:
            if len(block) > self._small:
                self._close(block, events)
            elif block[:6] == b"data: " and b"\n" not in block and len(block) > 6:
                events.append((b"", block[6:]))
            elif block:
                self._read(block, events)
        if tail:
            self._newline = tail[-1] == _LF
            self._pending.add(tail[:-1] if self._newline else tail)
        return events

    def finish(self) -> list[Event]:
        """The stream has ended: gives the event that no blank line had closed, if there is one."""
        self._newline = False
        events: list[Event] = []
        if self._pending.head is None:
            self._close(b"", events)
        self._pending.drop()
        return events

    def _close(self, end: bytes, events: list[Event]) -> None:
        """The block that is pending ends with `end`."""
        self._pending.add(end)
        block, whole = self._pending.take()
        if not self._began:
            self._began = True
            block = block.removeprefix(_BOM)
        if whole:
            self._read(block, events)
            return
        told: list[Event] = []
        self._read(block, told)
        events += [(name, self._gist(data)) for name, data in told]

    def _read(self, block: bytes, events: list[Event]) -> None:
        """Reads the lines between two blank lines."""
        if block.startswith(b"event: "):
            name, _, line = block[7:].partition(b"\n")
            if line.startswith(b"data: ") and b"\n" not in line and len(line) > 6:
                events.append((name, line[6:]))
                return
        name = b""
        data: list[bytes] = []
        names: list[bytes] = []
        errors: list[bytes] = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                names.append(name)
            elif line.startswith(b"event:"):
                name = line[7:] if line.startswith(b"event: ") else line[6:]
            elif line == b"data":
                data.append(b"")
                names.append(name)
            elif line == b"event":
                name = b""
            elif line.startswith(b"error:"):
                errors.append(line[6:].strip())
            elif line.startswith(_OBJECT) and not data:
                events.append((name, block[block.index(line) :]))
                return
        if 1 < len(data) <= _APART and all(map(self._alone, data)):
            events.extend(zip(names, data, strict=True))
        elif len(data) > 1 or (data and (data[0] or name == b"error")):
            events.append((name, data[0] if len(data) == 1 else b"\n".join(data)))
        elif block.strip(b"\n") and not errors:
            self.keep_alives += 1
        events.extend((b"error", error) for error in errors)
