"""One connection to an upstream: bytes in from the provider, events out to the flow that owns it.

Owns the transport and the question whether the connection can be used again; what bytes mean is read as
`answer_reader.py` says, and the flow pulls it: informational heads, the head, body pieces, the end. It decides no
outcome.
"""

import asyncio
import fcntl
import os
import select
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from sidecar.core.exchange import Upstream
from sidecar.core.headers import Headers
from sidecar.proxy.answer_reader import AnswerReader
from sidecar.proxy.heads import AnswerPlans
from sidecar.proxy.loop import LoopTurn, StepQueue, outermost

SMALL_READ = 1024
"""Bytes of a read up to which nobody waits for long: whoever floods a connection fills larger ones."""

READ = 64 * 1024
"""Bytes read at once of an answer or an upload that comes in large pieces: they are kept if the other side takes no more."""

_RECORD = 16 * 1024
"""Bytes that TLS encrypts as one record, at most."""

LITTLE = 4 * 1024
"""Bytes read at once while there is no room to keep more, on its way up or down: ten thousand such come to 40 MB."""

AT_ONCE = 4 * 1024
"""Bytes that leave with the call that writes them, where nothing waits before them: any system's send buffer takes so many."""


def unread(transport: asyncio.Transport) -> bool:
    """Whether the system has something of the peer that was not read yet."""
    try:
        waits = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return False
    return struct.unpack("i", waits) != (0,)


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes that were written have not arrived: they are in the process, or the system keeps them.

    Under TLS the event loop hides a part of what it keeps. Where the system has no such question (outside Linux), it is
    taken to keep nothing.
    """
    left = transport.get_write_buffer_size()
    try:
        kept = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return left
    kept_bytes: int = struct.unpack("i", kept)[0]
    return left + kept_bytes


class Reader(Protocol):
    """The flow, as its upstream connection sees it."""

    def answer_read(self, at: int) -> None:
        """Something of the answer was read; pull it."""

    def chunk_read(self, chunk: bytes, piece: bytes, at: int) -> None:
        """One whole chunk of the answer was read, with this piece of its body in it."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone (None: a clean end)."""

    def upstream_blocked(self) -> None:
        """Its send buffer is full."""

    def upstream_ready(self) -> None:
        """Its send buffer has drained."""

    def broke(self, error: Exception) -> None:
        """A bug struck."""


class Owner(Protocol):
    """The relay, as its connections see it."""

    @property
    def turn(self) -> LoopTurn:
        """The event loop's turns."""

    @property
    def steps(self) -> StepQueue:
        """Work in steps."""

    @property
    def answer_plans(self) -> AnswerPlans:
        """How answers' heads are read."""

    @property
    def report(self) -> Callable[[Exception], None]:
        """Says that a bug has struck."""

    def room(self, change: int) -> bool:
        """Takes memory for so many bytes if there is some, or gives as many back where the number is negative."""

    def roomy(self) -> bool:
        """There is room for a large read."""

    def read_in_pieces(self, connection: "Connection", transport: asyncio.Transport) -> None:
        """From now on no read of a connection is larger than `READ`, or than `LITTLE` while there is no room."""

    def upstream_closed(self, connection: "UpstreamConnection", *, stray: bool) -> None:
        """A connection has closed; `stray`: because bytes came that belong to no request."""


class UpstreamConnection(AnswerReader, asyncio.Protocol):
    """An HTTP/1.1 client connection. One request at a time."""

    hidden = 0
    """Bytes that the event loop may keep of what it was given, and not tell of."""
    _high = 0
    """Bytes that may wait to leave before the flow is told to wait; it goes on once all have left."""

    def __init__(self, owner: Owner, upstream: Upstream) -> None:
        super().__init__(owner.answer_plans)
        self._owner = owner
        self.upstream = upstream
        self.transport: asyncio.Transport | None = None
        self.reader: Reader | None = None
        self.used = False
        """True once it has carried a whole exchange before."""
        self.idle_since = self.idle_until = 0
        """When it was put into the pool, and how long it may wait there (ns since the epoch)."""
        self.idle_for = 0
        """How long it had waited in the pool when it was taken out (ns)."""
        self.bug: Exception | None = None
        """What broke it before a flow had it."""
        self._given = False
        self.raced = False
        """The upstream ended it before the first byte of an answer."""
        self._divides = True
        """Large reads may be taken in pieces; TLS would keep the rest of one to itself."""
        self._closing = False
        self._paused = False
        self._turn = 0.0
        self._turn_since = 0
        self.working = False
        """Bytes that were too much work for one go are read in turns to come; nothing else is read meanwhile."""
        self.backlogs = 0
        """How often such bytes have come."""
        self._counted = 0
        """Bytes of memory that were taken for its answer's head."""
        self._loss: tuple[Exception | None] | None = None
        """How the connection ended, while bytes from before that are still to be read."""
        self._poll = select.poll()
        self.poll = self._poll.poll
        """Called with 0: nothing when the kernel holds nothing that came while nobody asked: no stray bytes, no end."""

    # The flow's side.

    @property
    def usable(self) -> bool:
        """True while the connection could carry a request."""
        return self.transport is not None and not self._closing and not self.transport.is_closing()

    @property
    def reusable(self) -> bool:
        """True when the answer has ended and the connection may carry another."""
        transport = self.transport
        return self.stays and not self._closing and transport is not None and not transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes of the request that were written and have not arrived."""
        return 0 if self.transport is None else unsent(self.transport)

    @property
    def keep_alive_hint(self) -> int | None:
        """The seconds of the answer's `Keep-Alive: timeout=`, or None."""
        head = self.head
        if head is None or b"keep-alive" not in head.headers.first:
            return None
        return _keep_alive_hint(head.headers)

    def begin(self, reader: Reader, method: str) -> None:
        """Gives the connection to a flow for one exchange."""
        self.reader = reader
        self._given = True
        early = self.unread
        self.reset(method)
        if early or self._closing:
            # It came, or ended, between being opened and being given to its flow, which has not been told.
            if early:
                # Whoever answers without being asked may answer again.
                self.unread, self._stays = early, False
            if self._closing:
                self._loss = (None,)
            asyncio.get_running_loop().call_soon(self._go_on)

    def write(self, data: bytes | bytearray) -> None:
        """Sends bytes of the request."""
        if self.transport is not None:
            self.transport.write(data)

    def pause(self) -> None:
        """Stops reading, because the client takes no more."""
        if not self._paused:
            self._paused = True
            if self.usable and self.transport is not None:
                self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._paused:
            self._paused = False
            self._go_on()

    def finish(self) -> None:
        """Takes the connection from its flow."""
        self.reader = None
        self.used = True
        if self._counted:
            self._count(0)
        if self._paused:
            self.resume()

    def close(self) -> None:
        """Closes at once; nothing that it could still bring is wanted."""
        self._closing = True
        self.reader = None
        if self._counted:
            self._count(0)
        if self.transport is not None:
            self.transport.abort()

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the exchange that is on the connection."""
        reader = self.reader
        if reader is not None:
            reader.broke(error)
        elif self._given:
            self._owner.report(error)
            self.close()
        else:
            self.bug = error
            self.close()

    # asyncio's side.

    @outermost
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._high, low=0)
        if self._divides and not self._owner.roomy():
            self._owner.read_in_pieces(self, self.transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    @outermost
    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        turn = self._owner.turn
        at = turn.read()
        reader = self.reader
        if reader is None:
            self._unasked(data)
            return
        piece = self.one_chunk(data) if self.between_chunks else None
        if piece is not None:
            reader.chunk_read(data, piece, at)
        else:
            self.feed(data)
            if self._kept or self.head_size:
                self._count(self.kept_memory)
            reader.answer_read(at)
        if self.unread:
            self.backlogs += 1
            self._read_later()
        elif len(data) > SMALL_READ:
            self._let_others(turn, len(data), at)

    def _count(self, memory: int) -> None:
        """A large head counts as the memory it takes (bytes); where there is none, the answer cannot be read."""
        if self._owner.room(memory - self._counted):
            self._counted = memory
        else:
            self.malformed = self.malformed or "no memory is left for its head (SIDECAR_INSPECT_MEMORY)"

    def _let_others(self, turn: LoopTurn, size: int, at: int) -> None:
        """A read of this size must not be followed by many more in the same turn."""
        if turn.time != self._turn:
            self._turn, self._turn_since = turn.time, at
        if self.transport is None:
            return
        if size > READ and self._divides:
            self._owner.read_in_pieces(self, self.transport)
        if not self._paused:
            # What TLS has cost before this call is not seen: each such read of it is enough for one turn. So it is where
            # something waits to be read, which may be of this answer.
            more = self._divides and not self._owner.steps.busy
            turn.done(self.transport, self._turn_since if more else 0, self._go_on)

    def _unasked(self, data: bytes) -> None:
        """Bytes that belong to no request, or to the first one, which is about to be sent: a busy server may not wait for it."""
        if self._given:
            self.stray = True
            self.close()
            return
        self.unread += data
        # Over TLS it is told of its connection a moment later.
        if self.transport is not None:
            self.transport.pause_reading()

    @outermost
    def _go_on(self) -> None:
        """Reads on after others have had their turn."""
        if self._paused or self.working:
            return
        if self.unread or self._loss is not None:
            self._read_later()
        elif self.usable and self.transport is not None:
            self.transport.resume_reading()

    def _read_later(self) -> None:
        """Reads what is unread in turns to come."""
        if not self.working and self.reader is not None:
            self.working = True
            if self.usable and self.transport is not None:
                self.transport.pause_reading()
            self._owner.steps.add(self)

    @outermost
    def work(self) -> None:
        """Reads a part of what is unread; behind the last of it comes what happened to the connection since."""
        reader = self.reader
        if self._paused or reader is None:
            self.working = False
            return
        if self.unread:
            self.feed(b"")
            self._count(self.kept_memory)
            reader.answer_read(self._owner.turn.read())
        if not self.unread:
            self.working = False
            loss, self._loss = self._loss, None
            if loss is not None:
                self._lost(*loss)
            else:
                self._go_on()

    @outermost
    def eof_received(self) -> None:
        """asyncio: the upstream has ended its side."""
        self._lost(None)

    @outermost
    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        if exc is not None:
            self._take_rest()
        self._lost(exc)
        self._owner.upstream_closed(self, stray=self.stray)
        self.transport = None

    @outermost
    def pause_writing(self) -> None:
        """asyncio: the send buffer is full."""
        if self.reader is not None:
            self.reader.upstream_blocked()

    @outermost
    def resume_writing(self) -> None:
        """asyncio: the send buffer has drained."""
        if self.reader is not None:
            self.reader.upstream_ready()

    def _lost(self, error: Exception | None) -> None:
        self._closing = True
        reader = self.reader
        if reader is None:
            return
        if self.unread:
            self._loss = self._loss or (error,)
            self._read_later()
            return
        if self.ends_with_connection and error is None:
            self.ended = True
            reader.answer_read(self._owner.turn.read())
        else:
            self.raced = self.head is None and not self.informational
            reader.upstream_lost(error)

    def _take_rest(self) -> None:
        """Takes what came before a write failed: an upstream may answer, and reset, while an upload still comes.

        The system keeps it, the event loop does not read it any more.
        """
        transport = self.transport
        if self.reader is not None and transport is not None:
            with suppress(OSError):
                self.unread += os.read(transport.get_extra_info("socket").fileno(), READ)


class TlsUpstreamConnection(UpstreamConnection):
    """An HTTP/1.1 client connection over TLS: what is written goes to the event loop piece by piece.

    The event loop encrypts at once whatever it is given, and says no more of what it keeps of that: so it is given no more
    than the upstream takes.
    """

    hidden = 2 * _RECORD
    _high = 1  # TLS tells so at that number already

    def __init__(self, owner: Owner, upstream: Upstream) -> None:
        super().__init__(owner, upstream)
        self._divides = False
        self.below: asyncio.Transport | None = None
        """What carries TLS."""
        self._waiting: deque[memoryview] = deque()
        """What has been written and not handed over."""
        self._size = 0
        """Its bytes."""
        self._full = False
        """The event loop takes no more for now."""
        self._blocked = False
        """The flow has been told so."""

    @property
    def unsent(self) -> int:
        """Bytes of the request that were written and have not arrived, encrypted or not."""
        below = 0 if self.below is None else self.below.get_write_buffer_size()
        return self._size + super().unsent + below

    def pause(self) -> None:
        """Stops reading, because the client takes no more: nothing more is received either."""
        super().pause()
        if self.below is not None and not self.below.is_closing():
            self.below.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self.below is not None and not self.below.is_closing():
            self.below.resume_reading()
        super().resume()

    def write(self, data: bytes | bytearray) -> None:
        """Sends bytes of the request."""
        self._waiting.append(memoryview(data))
        self._size += len(data)
        self._hand_over()

    def _hand_over(self) -> None:
        waiting, transport = self._waiting, self.transport
        while waiting and not self._full and transport is not None and self.usable:
            piece, rest = waiting[0][:_RECORD], waiting[0][_RECORD:]
            if rest:
                waiting[0] = rest
            else:
                waiting.popleft()
            self._size -= len(piece)
            transport.write(piece)
            if self.below is not None and self.below.is_closing():
                self._decrypt_rest(self.below, transport)
                return

    def close(self) -> None:
        """Closes at once; nothing that it could still bring is wanted, nor what has not gone."""
        self._waiting.clear()
        self._size = 0
        super().close()

    # asyncio's side.

    @outermost
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        super().connection_made(transport)
        if self.below is not None:
            self.below.set_write_buffer_limits(high=0)  # a write leaves at once, or is known to have failed
        # The event loop throws away what is not decrypted once the connection ends, and decrypts nothing while
        # reading pauses: so nothing more is received meanwhile, neither data nor an end.
        transport.set_read_buffer_limits(high=1, low=0)  # type: ignore[attr-defined]

    @outermost
    def pause_writing(self) -> None:
        """asyncio: the send buffer is full."""
        self._full = True
        if not self._blocked:
            self._blocked = True
            super().pause_writing()

    @outermost
    def resume_writing(self) -> None:
        """asyncio: the send buffer has drained."""
        self._full = False
        self._hand_over()
        if not self._full:
            self._blocked = False
            super().resume_writing()

    def _take_rest(self) -> None:
        """That has been taken where the write failed: now the socket is another's."""

    def _decrypt_rest(self, below: asyncio.Transport, transport: asyncio.Transport) -> None:
        """Takes what came before a write failed, and is still encrypted."""
        secure = transport.get_extra_info("ssl_object")
        with suppress(OSError):  # of which what TLS raises is one
            secure.incoming.write(os.read(below.get_extra_info("socket").fileno(), READ))
            while piece := secure.read(READ):
                self.unread += piece


class KeptSsl(ssl.SSLObject):
    """One side of a TLS connection, whose received bytes can be got at: the event loop throws them away if a write fails.

    To be an `ssl.SSLContext.sslobject_class`.
    """

    incoming: ssl.MemoryBIO
    """What has been received and not decrypted."""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *given: object, **named: object) -> "KeptSsl":
        made: KeptSsl = super()._create(incoming, *given, **named)  # type: ignore[misc]
        made.incoming = incoming
        return made


class Connection(Protocol):
    """An `asyncio.Protocol`, of either side."""

    def data_received(self, data: bytes, /) -> None:
        """Bytes have come."""

    def eof_received(self) -> None:
        """The peer has ended its side."""

    def connection_lost(self, exc: Exception | None, /) -> None:
        """It is gone."""

    def pause_writing(self) -> None:
        """Its send buffer is full."""

    def resume_writing(self) -> None:
        """Its send buffer has drained."""


class InPieces(asyncio.BufferedProtocol):
    """Takes a connection's place once large pieces come over it, and reads no larger ones than `buffer` from then on.

    Not from its beginning: two calls for a read are dearer than one, and what comes piece by piece never needs them.
    While there is not the room that `roomy` asks for, pieces are `LITTLE`.
    """

    def __init__(self, connection: Connection, buffer: memoryview, roomy: Callable[[], bool]) -> None:
        self._buffer = buffer
        self._roomy = roomy
        self._received = connection.data_received
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - how much there is nobody knows
        """asyncio: where to read to."""
        return self._buffer if self._roomy() else self._buffer[:LITTLE]

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: so many bytes have come."""
        self._received(self._buffer[:nbytes].tobytes())

    def eof_received(self) -> None:
        """asyncio: the peer has ended its side."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """asyncio: the send buffer is full."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """asyncio: the send buffer has drained."""
        self._connection.resume_writing()


def _keep_alive_hint(headers: Headers) -> int | None:
    """The seconds of `Keep-Alive: timeout=`, or None."""
    for token in headers.tokens(b"keep-alive"):
        name, _, value = token.partition(b"=")
        if name.strip() == b"timeout" and value.strip().isdigit():
            return int(value.strip()[:6])
    return None
