"""Server-sent events, taken from bytes as they come; and what is kept of an event that has not ended yet.

Owns the syntax only (WHATWG HTML, "Interpreting an event stream"): what an event's data means is the API readers'
business. Two more things are events, since servers tell errors in them: a field of the name `error`, as older llama.cpp
servers send it, and JSON without any field's name, in one line or in several. It never sees the wire's own bytes change and never raises,
whatever it is fed. The relay feeds it every piece of every stream, so the common case costs a few C calls per event.

An event's bound is here too, and its shortening. The largest events of a stream are large because of one text in them
(an image, a whole answer once more), and nothing that is read of an event is a long text: such a text is replaced by a
filler while it comes. What is still too large, or too costly to read, is given up but for its beginning.
"""

import re
import sys
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

UNCOUNTED = 4 * 1024
"""Bytes that may have come of an event before it takes memory of the room: a tenth of what a stream takes anyway. Most events
are smaller, and one that comes with one read is never kept."""

_LINES = 1 << 13
_OBJECTS = 1 << 15
_MEMBERS = 1 << 20
"""What makes an event costly to read is the number of its parts; these take some milliseconds. Members are told by commas."""

_HEAD = 1024
"""Bytes that are kept of the beginning of an event that is given up."""


_EMPTY = sys.getsizeof(bytearray(1))
"""What a `bytearray` takes beside its bytes, and the end that it keeps behind them."""


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

    `room` is asked for the memory that this takes (bytes) beyond `UNCOUNTED`, and told with a negative number what is given
    back.
    """

    __slots__ = ("_counted", "_data", "_done", "_limit", "_next", "_room", "_whole", "head", "lost")

    def __init__(self, limit: int = EVENT_LIMIT, room: Callable[[int], bool] = unbounded) -> None:
        self._limit = limit
        self._room = room
        self._data = bytearray()
        self._done = 0
        self._counted = 0
        self._whole = min(limit, STEP)
        """The size up to which it is kept as it is: then it is shortened."""
        self._next = min(limit, UNCOUNTED)
        """The size up to which nothing is to be done."""
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
            self._grow()

    def take(self, end: bytes = b"") -> tuple[bytes, bool]:
        """The event, which ends with `end`, and True; or its beginning and False. Then there is room for another."""
        if self.head is None:
            self._data += end
            if len(self._data) > self._whole:
                self._grow()
        if self.head is None and not self._readable():
            self._give_up()
        taken = (bytes(self._data), True) if self.head is None else (self.head, False)
        self.drop()
        return taken

    def latest_line(self, *, ended: bool) -> bytes:
        """The latest line that has ended: all that has come behind the last line feed, if that is `ended`, else before it."""
        data = self._data
        end = len(data) if ended else max(data.rfind(b"\n"), 0)
        return bytes(data[data.rfind(b"\n", 0, end) + 1 : end])

    def so_far(self) -> bytes | None:
        """All that has come, None if it is not to be read."""
        return bytes(self._data) if self.head is None and self._readable() else None

    def drop(self) -> None:
        """Forgets it."""
        self._release()
        self.head = None

    def _grow(self) -> None:
        data = self._data
        if len(data) > self._whole:
            self._shorten()
        taken = sys.getsizeof(data)
        if len(data) > self._limit or not self._room(taken - self._counted):
            self._give_up()
        else:
            self._counted = taken
            self._next = min(self._whole, max(len(data), taken - _EMPTY))

    def _shorten(self) -> None:
        data = self._data
        fresh = shorten(bytes(data[self._done :]))
        quote = fresh.rfind(b'"')
        data[self._done :] = fresh
        self._done = len(data) - (len(fresh) - quote if quote >= 0 else 0)
        self._whole = min(self._limit, len(data) + STEP)

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
        self._whole = min(self._limit, STEP)
        self._next = min(self._limit, UNCOUNTED)


Event = tuple[bytes, bytes]
"""An event's name (empty when it has none) and its data (lines joined by a line feed)."""

_JSON = re.compile(rb'\s*[{\[]\s*(?:[{"]|$)')
"""How a line begins with which JSON does that somebody wrote into the stream as it is."""
_PASSED_OVER = (b":", b"id:", b"retry:")
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
    blank line between events: a line of data that is one `alone` is an event, where another follows or the piece ends there.
    """

    __slots__ = (
        "_after_cr",
        "_alone",
        "_began",
        "_gist",
        "_idle",
        "_name",
        "_newline",
        "_pending",
        "_small",
        "_told",
        "_whole",
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
        self._told = False
        """Lines of this block have been events already."""
        self._name = b""
        """The name that stood before them."""
        self._whole = False
        """This block is read at its end."""

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
        if blocks and (self._pending or self._told or not self._began):
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
            if not self._whole and b"\n" in tail:
                self._read_lines(events)
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
        block, whole = self._pending.take(end)
        if not self._began:
            self._began = True
            block = block.removeprefix(_BOM)
        if whole:
            self._read(block, events)
        else:
            told: list[Event] = []
            self._read(block, told)
            events += [(name, self._gist(data)) for name, data in told]
        self._told = self._whole = False
        self._name = b""

    def _read_lines(self, events: list[Event]) -> None:
        """Reads the lines that have ended, up to the first that is no event by itself: that waits for the block's end."""
        pending, name = self._pending, self._name
        latest = _value(pending.latest_line(ended=self._newline))
        if latest is None:
            return
        block = pending.so_far() if self._alone(latest) else None
        lines = [] if block is None else block.removeprefix(b"" if self._began else _BOM).split(b"\n")
        rest = [] if self._newline else lines[-1:]
        lines = lines[: len(lines) - len(rest)]
        found, name, end = self._leading(lines, name)
        self._whole = not found or end < len(lines)
        if found:
            events += found
            self._told, self._began, self._name = True, True, name
            pending.drop()
            pending.add(b"\n".join(lines[end:] + rest))

    def _leading(self, lines: list[bytes], name: bytes) -> tuple[list[Event], bytes, int]:
        """The events that are a line each, up to the first line that is none and tells something; the name there, and where."""
        found: list[Event] = []
        for at, line in enumerate(lines):
            value = _value(line)
            if value is not None and self._alone(value):
                found.append((name, value))
            elif line.startswith(b"event:"):
                name = _told(line, 6)
            elif line and not line.startswith(_PASSED_OVER):
                return found, name, at
        return found, name, len(lines)

    def _read(self, block: bytes, events: list[Event]) -> None:
        """Reads the lines between two blank lines."""
        if block.startswith(b"event: "):
            name, _, line = block[7:].partition(b"\n")
            if line.startswith(b"data: ") and b"\n" not in line and len(line) > 6:
                events.append((name, line[6:]))
                return
        name, before, lines = self._name, len(events), block.split(b"\n")
        if block.count(b"\ndata:") + block.startswith(b"data:") > 1 or b"\n{" in block or block[:1] == b"{":
            found, behind, end = self._leading(lines, name)
            if len(found) > 1 or end < len(lines):
                events += found
                name, lines = behind, lines[end:]
        data: list[Event] = []
        raw: list[bytes] = []
        ahead = 0
        errors: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                data.append((name, _told(line, 5)))
            elif line.startswith(b"event:"):
                name = _told(line, 6)
            elif line == b"data":
                data.append((name, b""))
            elif line == b"event":
                name = b""
            elif line.startswith(b"error:"):
                errors.append(line[6:].strip())
            elif line and not line.startswith(_PASSED_OVER):
                ahead = ahead if raw else len(data)
                raw.append(line)
        if raw:
            data = self._read_raw(raw, name, data, ahead, events)
        self._tell(name, data, events)
        if self._told and len(events) == before and name == b"error" != self._name:
            events.append((name, b""))  # of what has been told already
        events.extend((b"error", error) for error in errors)
        if len(events) == before and block.strip(b"\n") and not self._told:
            self.keep_alives += 1

    def _read_raw(
        self, raw: list[bytes], name: bytes, data: list[Event], ahead: int, events: list[Event]
    ) -> list[Event]:
        """Reads lines without a field's name, which stand behind so many lines of data; gives the data that is left to tell.

        They may be JSON by themselves, or the rest of the JSON of whose lines only the first is told to be data.
        """
        told = [value for _, value in data[:ahead]]
        whole = b"\n".join(told + raw)
        if told and not self._alone(told[-1]) and self._alone(whole):
            return [(name, whole), *data[ahead:]]
        begin = next((at for at, line in enumerate(raw) if _JSON.match(line)), None)
        if begin is None:
            return data
        self._tell(name, data[:ahead], events)
        events.append((name, b"\n".join(raw[begin:])))
        return data[ahead:]

    def _tell(self, name: bytes, data: list[Event], events: list[Event]) -> None:
        """Tells the lines of data: those with which they begin that are events by themselves, and one that has all others.

        Where that one is broken off, those behind it are events as well: servers write an error there.
        """
        behind: list[Event] = []
        if len(data) > 1:
            alone = next((at for at, (_, line) in enumerate(data) if not self._alone(line)), len(data))
            events += data[:alone]
            data = data[alone:]
            end = len(data)
            while end > 1 and self._alone(data[end - 1][1]):
                end -= 1
            if end < len(data) and not self._alone(b"\n".join([line for _, line in data])):
                data, behind = data[:end], data[end:]
                name = data[-1][0]
        if len(data) > 1 or (data and (data[0][1] or name == b"error")):
            events.append((name, b"\n".join([line for _, line in data])))
        events += behind


def _told(line: bytes, at: int) -> bytes:
    """What a field tells whose name and colon end there: one blank does not count."""
    return line[at + 1 :] if line[at : at + 1] == b" " else line[at:]


def _value(line: bytes) -> bytes | None:
    """What a line tells that may be an event by itself: data, or an object without a field's name."""
    return _told(line, 5) if line.startswith(b"data:") else line if line.startswith(b"{") else None
