"""Server-sent events, taken from bytes as they come.

Owns the syntax only (WHATWG HTML, "Interpreting an event stream"): what an event's data means is the
API readers' business. Two more things are events, since servers tell errors in them: a field of the name
`error`, as older llama.cpp servers send it, and a JSON object without any field's name. It never sees the wire's own bytes change and never raises, whatever it is fed.
The relay feeds it every piece of every stream, so the common case costs a few C calls per event.
"""

Event = tuple[bytes, bytes]
"""An event's name (empty when it has none) and its data (lines joined by a line feed)."""

EVENT_LIMIT = 1 << 20
"""Bytes of one event above which it is skipped, unless the caller says otherwise."""

_OBJECT = b'{"'
_BOM = b"\xef\xbb\xbf"
_LF = 10
_CR = 13


class SseParser:
    """An incremental parser of one event stream.

    `keep_alives` counts blocks that carry no data: comments, a lone `id` or `retry`. `oversized` counts
    events above the limit (bytes); such an event is skipped up to its blank line, and none of it is kept.
    """

    __slots__ = (
        "_after_cr",
        "_began",
        "_idle",
        "_limit",
        "_newline",
        "_pending",
        "_skipping",
        "keep_alives",
        "oversized",
    )

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self.keep_alives = 0
        self.oversized = 0
        self._limit = limit
        self._pending = bytearray()
        self._newline = False
        self._skipping = False
        self._began = False
        self._after_cr = False
        self._idle = False

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next piece of the stream; gives the events it completed, in order."""
        if (
            self._idle
            and data[:6] == b"data: "
            and data.find(b"\n") == len(data) - 2 <= self._limit
            and data[-1] == _LF
            and b"\r" not in data
        ):
            return [(b"", data[6:-2])]  # the usual piece: one event of one line
        self._idle = False
        events = self._feed(data)
        self._idle = self._began and not (self._pending or self._skipping or self._after_cr)
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
        if self._newline and data[0] == _LF:
            # The blank line stands across two pieces: its first half closed the last one.
            del self._pending[-1:]
            blocks = data[1:].split(b"\n\n")
            blocks.insert(0, b"")
        else:
            blocks = data.split(b"\n\n")
        tail = blocks.pop()
        events: list[Event] = []
        if blocks:
            if self._pending or self._skipping or not self._began:
                self._complete(blocks)
            for block in blocks:
                if block[:6] == b"data: " and b"\n" not in block and len(block) <= self._limit:
                    events.append((b"", block[6:]))
                elif block:
                    self._read(block, events)
            self._newline = False
        if tail:
            self._keep(tail)
        return events

    def finish(self) -> list[Event]:
        """The stream has ended: gives the event that no blank line had closed, if there is one."""
        if self._newline:
            del self._pending[-1:]
            self._newline = False
        blocks = [b""]
        self._complete(blocks)
        events: list[Event] = []
        for block in blocks:
            self._read(block, events)
        return events

    def _complete(self, blocks: list[bytes]) -> None:
        """Puts what was pending in front of the first block, or drops it when that block is too large."""
        if self._skipping:
            self._skipping = False
            del blocks[0]
        elif self._pending:
            blocks[0] = bytes(self._pending) + blocks[0]
            self._pending.clear()
        if not self._began:
            # Nothing was skipped yet (that ends the beginning too), so the first block is there.
            self._began = True
            blocks[0] = blocks[0].removeprefix(_BOM)

    def _keep(self, tail: bytes) -> None:
        """Keeps the beginning of a block until the rest has come, or starts to skip it."""
        self._newline = tail[-1] == _LF
        if self._skipping:
            return
        self._pending += tail
        if len(self._pending) - self._newline > self._limit:
            self._pending.clear()
            self._skipping = True
            self._began = True
            self.oversized += 1

    def _read(self, block: bytes, events: list[Event]) -> None:
        """Reads the lines between two blank lines."""
        if len(block) > self._limit:
            self.oversized += 1
            return
        if block.startswith(b"event: "):
            name, _, line = block[7:].partition(b"\n")
            if line.startswith(b"data: ") and b"\n" not in line:
                events.append((name, line[6:]))
                return
        name = b""
        data: list[bytes] = []
        errors: list[bytes] = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"event:"):
                name = line[7:] if line.startswith(b"event: ") else line[6:]
            elif line == b"data":
                data.append(b"")
            elif line == b"event":
                name = b""
            elif line.startswith(b"error:"):
                errors.append(line[6:].strip())
            elif line.startswith(_OBJECT) and not data:
                events.append((name, block[block.index(line) :]))
                return
        if data:
            events.append((name, data[0] if len(data) == 1 else b"\n".join(data)))
        elif block.strip(b"\n") and not errors:
            self.keep_alives += 1
        events.extend((b"error", error) for error in errors)
