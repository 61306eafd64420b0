"""One connection of the scripted upstream: reads requests, plays one script for each, in turn.

Owns the transport, and the records of what came over it and how it ended. It never decides what to say:
`upstream.py` chooses the script.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from sidecar.testing import steps as s
from sidecar.testing.messages import Message, MessageReader

_PIECE = 1 << 20
"""Bytes that are handed to a transport at once."""


@dataclass(slots=True, eq=False)
class Connection:
    """One connection as the upstream saw it, `number` counting from 1. Times in ns since the epoch.

    `closed` is how it ended: `eof` (the other side's FIN came first), `reset` (its RST did), `us` (the script
    or the end of the test closed it); None while it is open. `sent` counts the bytes that were handed to the
    kernel's or the transport's buffer.
    """

    number: int = 0
    opened_at: int = 0
    closed: str | None = None
    closed_at: int = 0
    requests: int = 0
    sent: int = 0


@dataclass(slots=True, eq=False)
class Received:
    """One request as it came: exact bytes in `message`, and when its parts came (ns since the epoch, 0: not yet)."""

    connection: Connection
    message: Message
    head_at: int = 0
    body_at: int = 0
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """(time, size of the payload so far), one per piece that came."""

    @property
    def method(self) -> str:
        """The request's method."""
        return self.message.method

    @property
    def target(self) -> bytes:
        """The exact request target."""
        return self.message.target

    @property
    def path(self) -> str:
        """The exact path, without the query."""
        return self.message.path

    @property
    def head(self) -> bytes:
        """The exact bytes of the head."""
        return self.message.head

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields, names, order and case as they came."""
        return self.message.fields

    @property
    def body(self) -> bytes:
        """The payload received so far."""
        return self.message.body

    @property
    def raw_body(self) -> bytes:
        """The payload received so far, chunk framing included."""
        return self.message.raw_body

    @property
    def complete(self) -> bool:
        """True once the whole request has come."""
        return self.message.complete

    def get(self, name: str) -> bytes | None:
        """The first value of the field called `name` (any case), or None."""
        return self.message.get(name)


class _Over(Exception):  # noqa: N818 - a turn of the script, not an error
    """The connection has ended, or the script has ended it."""


class Player(asyncio.Protocol):
    """Plays on one connection. `choose` gives the script for a request; `changed` is told of every event."""

    def __init__(
        self,
        choose: Callable[[Received], s.Script],
        changed: "Callable[[Player, BaseException | None], None]",
    ) -> None:
        self.connection = Connection()
        self.idle_since: float | None = None
        """When it had said its last answer (`time.monotonic`), while it waits for another request; else None."""
        self._choose = choose
        self._changed = changed
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._lost = asyncio.Event()
        self._writable = True
        self._reader = MessageReader()
        self._request = Received(self.connection, self._reader.message)
        self._head: list[bytes] = []

    # --- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self.connection.opened_at = time.time_ns()
        self._task = asyncio.get_running_loop().create_task(self._play())
        self._changed(self, None)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._feed(data)
        self._tell()

    def eof_received(self) -> bool:
        """The other side has ended its half; ours stays open for what the script still says."""
        self._closed("eof")
        self._tell()
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over; its socket is closed when this returns."""
        self._closed("reset" if exc else "us")
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        self._lost.set()
        self._writable = True
        self._tell()

    def pause_writing(self) -> None:
        """The other side does not keep up."""
        self._writable = False

    def resume_writing(self) -> None:
        """The other side has caught up."""
        self._writable = True
        self._wake.set()

    def drop(self) -> None:
        """Ends the connection from this side, at once."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._closed("us")
            self._transport.abort()

    @property
    def over(self) -> bool:
        """True once the transport is gone (a connection whose other side has ended may live on for a while)."""
        return self._lost.is_set()

    async def gone(self) -> None:
        """Returns once the connection is over."""
        await self._lost.wait()

    # --- records

    def _feed(self, data: bytes) -> None:
        reader, request, now = self._reader, self._request, time.time_ns()
        reader.feed(data)
        if reader.head_read and not request.head_at:
            request.head_at = now
        if reader.head_read:
            request.arrivals.append((now, len(request.message.payload)))
        if reader.message.complete and not request.body_at:
            request.body_at = now

    def _closed(self, how: str) -> None:
        if self.connection.closed is None:
            self.connection.closed = how
            self.connection.closed_at = time.time_ns()

    def _tell(self, error: BaseException | None = None) -> None:
        self._wake.set()
        self._changed(self, error)

    # --- playing

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready` holds.

        Raises:
            _Over: the connection ended before.
        """
        while not ready():
            if self._lost.is_set():
                raise _Over
            self._wake.clear()
            await self._wake.wait()

    async def _play(self) -> None:
        try:
            while True:
                await self._play_one()
        except _Over:
            if self._transport is not None:
                self._transport.close()
        except Exception as error:  # noqa: BLE001 - the outermost handler: a wrong script is shown to the test
            self._tell(error)
            self.drop()

    async def _play_one(self) -> None:
        reader = self._reader
        if self.connection.requests:
            self.idle_since = time.monotonic()
        await self._until(lambda: reader.head_read or self.connection.closed is not None)
        self.idle_since = None
        if not reader.head_read:
            raise _Over
        self.connection.requests += 1
        script = self._choose(self._request)
        if not any(isinstance(step, s.ReadBody) for step in script):
            await self._until(lambda: reader.message.complete)
        for step in script:
            await self._step(step)
        await self._say_head()
        await self._until(lambda: reader.message.complete)
        self._reader = MessageReader()
        self._request = Received(self.connection, self._reader.message)
        if reader.rest:
            self._feed(bytes(reader.rest))
        self._tell()

    async def _step(self, step: s.Step) -> None:
        match step:
            case s.Status(code, reason, version):
                self._head = [version + b" %d " % code + reason]
            case s.Header(line):
                self._head.append(line)
            case s.Garbage(data):
                pending = b"".join(line + b"\r\n" for line in self._head)
                self._head = []
                await self._write(pending + data[:_PIECE])
                await self._write(memoryview(data)[_PIECE:])
            case s.Echo():
                kind = self._request.get("content-type") or b"application/octet-stream"
                for part in s.answer(self._request.body, headers=(b"Content-Type: " + kind,)):
                    await self._step(part)
            case s.ReadBody(size):
                message = self._reader.message
                await self._until(
                    lambda: message.complete or (size is not None and len(message.payload) >= size)
                )
            case _:
                await self._say_head()
                await self._say(step)

    async def _say_head(self) -> None:
        if self._head:
            lines, self._head = self._head, []
            await self._write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def _say(self, step: s.Step) -> None:
        match step:
            case s.Informational(code, lines, reason):
                head = (b"HTTP/1.1 %d " % code + reason, *lines)
                await self._write(b"\r\n".join(head) + b"\r\n\r\n")
            case s.Bytes(data):
                await self._write(data)
            case s.Chunk(data, extension):
                await self._write(b"%x%b\r\n%b\r\n" % (len(data), extension, data))
            case s.LastChunk(trailers):
                await self._write(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")
            case s.Flood(total, piece):
                for at in range(0, total, piece):
                    await self._write(b"x" * min(piece, total - at))
            case s.Pause(seconds):
                await asyncio.sleep(seconds)
            case s.Wait(gate):
                await gate.wait()
            case _:
                self._control(step)

    def _control(self, step: s.Step) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise _Over
        match step:
            case s.HoldReading():
                transport.pause_reading()
            case s.ResumeReading():
                transport.resume_reading()
            case s.EndSide():
                transport.write_eof()
            case s.Reset():
                raw = transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._closed("us")
                transport.abort()
                raise _Over
            case _:
                self._closed("us")
                raise _Over

    async def _write(self, data: bytes | memoryview) -> None:
        """Writes a piece once what came before it has left: nobody holds a copy of an answer that is not taken."""
        transport = self._transport
        if transport is None:
            return
        for at in range(0, len(data), _PIECE):
            if self._lost.is_set() or transport.is_closing():
                raise _Over
            piece = data[at : at + _PIECE]
            transport.write(piece)
            self.connection.sent += len(piece)
            self._changed(self, None)
            await self._until(lambda: self._writable)
