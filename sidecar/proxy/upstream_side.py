"""One connection to an upstream: bytes in from the provider, events out to the flow that owns it.

Owns the answer's parsing and the questions whether the connection can be used again. Feed bytes, then the
flow pulls what they meant: informational heads, the head, body pieces, the end. It decides no outcome.
"""

import asyncio
import select
from typing import Protocol, cast

import httptools

from sidecar.core.exchange import Upstream
from sidecar.core.headers import Field, Headers
from sidecar.proxy.guard import outermost
from sidecar.proxy.loop_turn import LoopTurn
from sidecar.proxy.peers import Reader
from sidecar.proxy.wire import AnswerHead, bodiless, framing, other_coding

_CONTROLS = bytes((*range(9), *range(10, 32), 127))
"""What no reason phrase may hold (RFC 9112, section 4)."""

SMALL_READ = 1024
"""Bytes of a read up to which nobody waits for long: whoever floods a connection fills larger ones."""

HIGH_WATER = 64 * 1024
"""Bytes a transport may hold before the other side's reading pauses."""


class Owner(Protocol):
    """The relay, as its connections see it."""

    @property
    def turn(self) -> LoopTurn:
        """The event loop's turns."""

    @property
    def head_limit(self) -> int:
        """Bytes of an answer's head."""

    @property
    def head_fields(self) -> int:
        """Fields of an answer's head."""

    def upstream_closed(self, connection: "UpstreamConnection", *, stray: bool) -> None:
        """A connection has closed; `stray`: because bytes came that belong to no request."""


class UpstreamConnection(asyncio.Protocol):
    """An HTTP/1.1 client connection. One request at a time."""

    def __init__(self, owner: Owner, upstream: Upstream) -> None:
        self._owner = owner
        self.upstream = upstream
        self.transport: asyncio.Transport | None = None
        self.reader: Reader | None = None
        self.used = False
        """True once it has carried a whole exchange before."""
        self.idle_until = 0
        self.keep_alive_hint: int | None = None
        self._method = "GET"
        self._closing = False
        self._paused = False
        self._turn = 0.0
        self._turn_since = 0
        self._poll = select.poll()
        self._max_size, self._max_fields = owner.head_limit, owner.head_fields
        self._fresh()

    def _fresh(self) -> None:
        """Forgets the last answer; a HEAD answer's parser can't be used again."""
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self.informational: list[AnswerHead] = []
        self.head: AnswerHead | None = None
        self.pieces: list[bytes] = []
        self.trailers: list[Field] = []
        self.ended = False
        self.malformed: str | None = None
        self.stray = False
        self._fields: list[Field] = []
        self._section = self._fields
        """Where the next field belongs: to the head or to the trailers."""
        self._reason = b""
        self._head_size = 0
        self._silent = 0
        self._keep_alive = False

    # The flow's side.

    @property
    def usable(self) -> bool:
        """True while the connection could carry a request."""
        return self.transport is not None and not self._closing and not self.transport.is_closing()

    @property
    def silent(self) -> bool:
        """True when the kernel holds nothing that came while nobody asked: no stray bytes, no end."""
        return not self._poll.poll(0)

    @property
    def reusable(self) -> bool:
        """True when the answer has ended and the connection may carry another."""
        return self.ended and self._keep_alive and not self.stray and not self.malformed and self.usable

    def begin(self, reader: Reader, method: str) -> None:
        """Gives the connection to a flow for one exchange."""
        self.reader = reader
        self._method = method
        self._reset()
        if self.transport is None:
            # It ended between being opened and being given to its flow, which has not been told.
            asyncio.get_running_loop().call_soon(self.eof_received)

    def write(self, data: bytes | bytearray) -> None:
        """Sends bytes of the request."""
        if self.transport is not None:
            self.transport.write(data)

    def pause(self) -> None:
        """Stops reading, because the client takes no more."""
        if not self._paused and self.usable and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self._paused and self.usable and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def finish(self) -> None:
        """Takes the connection from its flow."""
        self.reader = None
        self.used = True
        self.resume()
        if self._method == "HEAD":
            self._fresh()

    def close(self) -> None:
        """Closes at once; nothing that it could still bring is wanted."""
        self._closing = True
        self.reader = None
        if self.transport is not None:
            self.transport.abort()

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the exchange that is on the connection."""
        reader = self.reader
        if reader is not None:
            reader.broke(error)
        else:
            self.close()
            raise error

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    @outermost
    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        turn = self._owner.turn
        at = turn.read()
        if turn.time != self._turn:
            self._turn, self._turn_since = turn.time, at
        reader = self.reader
        if reader is None:
            self.stray = True
            self.close()
            return
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.malformed = self.malformed or "the answer switched protocols unasked"
        except httptools.HttpParserError as error:
            if self.ended:
                self.stray = True
            else:
                self.malformed = self.malformed or f"the answer is not HTTP: {error}"
        if self._silent > self._max_size and not self.ended:
            # A field that has not ended yet, of the head or the trailers, is known to the parser alone.
            self.malformed = self.malformed or "the answer's head or trailers are larger than HEAD_LIMIT"
        reader.answer_read(at)
        if len(data) > SMALL_READ and self.transport is not None and not self._paused:
            turn.done(self.transport, self._turn_since, self._go_on)

    def _go_on(self) -> None:
        """Reads on after others have had their turn."""
        if not self._paused and self.usable and self.transport is not None:
            self.transport.resume_reading()

    @outermost
    def eof_received(self) -> None:
        """asyncio: the upstream has ended its side."""
        self._lost(None)

    @outermost
    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
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
        head = self.head
        if head is not None and not self.ended and error is None and not framing(head.headers).delimited:
            self.ended = True
            reader.answer_read(self._owner.turn.read())
        else:
            reader.upstream_lost(error)

    # httptools' side: called while bytes are fed.

    def on_message_begin(self) -> None:
        """httptools: a message begins."""
        if self.ended:
            self.stray = True
        self._section = self._fields = []
        self._reason = b""
        self._head_size = self._silent = 0

    def on_status(self, reason: bytes) -> None:
        """httptools: (a part of) the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a field of the head, or of the trailers once the head is done."""
        section = self._section
        self._head_size = size = self._head_size + len(name) + len(value) + 4
        if size > self._max_size or len(section) >= self._max_fields:
            if not self.ended:
                self.malformed = (
                    self.malformed or "the answer's head is larger than HEAD_LIMIT or HEAD_FIELDS"
                )
            return
        section.append((name, value))

    def on_headers_complete(self) -> None:
        """httptools: the head is whole."""
        self._section = self.trailers
        self._silent = 0
        if self.ended or self.malformed:
            return
        status = self._parser.get_status_code()
        head = AnswerHead(status, self._reason, self._parser.get_http_version(), Headers(self._fields))
        if status == 101:
            self.malformed = "the answer switched protocols unasked"
        elif self._reason.translate(None, _CONTROLS) != self._reason:
            self.malformed = "the answer's reason has control characters"
        elif status < 100 or head.version not in ("1.0", "1.1") or other_coding(head.headers):
            self.malformed = "the answer has a status, a version or a transfer coding that is not known here"
        elif status < 200:
            self.informational.append(head)
        else:
            self._begin_body(head)

    def _begin_body(self, head: AnswerHead) -> None:
        """The final answer's head is whole."""
        self.head = head
        self._keep_alive = self._parser.should_keep_alive()
        self.keep_alive_hint = _keep_alive_hint(head.headers)
        if bodiless(self._method, head.status):
            self._keep_alive = self._keep_alive or self._persistent(head)
            self.ended = True

    @staticmethod
    def _persistent(head: AnswerHead) -> bool:
        """True when the head alone says that the connection stays (the parser waits for a body's end)."""
        tokens = head.headers.tokens(b"connection")
        return b"close" not in tokens and (head.version == "1.1" or b"keep-alive" in tokens)

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        if self.ended:
            self.stray = True
            return
        if self.head is None:
            return  # the body of an answer whose head was refused: nobody's
        self._silent = 0
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        """httptools: the message is whole."""
        if self.head is not None and not self.ended:
            self.ended = True
            # HTTP/1.0 has no chunks: whoever sends them may mean another end (RFC 9112, section 6.1).
            odd = self.head.version == "1.0" and b"transfer-encoding" in self.head.headers
            self._keep_alive = self._parser.should_keep_alive() and not odd


def _keep_alive_hint(headers: Headers) -> int | None:
    """The seconds of `Keep-Alive: timeout=`, or None."""
    for token in headers.tokens(b"keep-alive"):
        name, _, value = token.partition(b"=")
        if name.strip() == b"timeout" and value.strip().isdigit():
            return int(value.strip()[:6])
    return None
