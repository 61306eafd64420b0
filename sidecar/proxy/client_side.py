"""One connection from an app: bytes in become requests, one after another; answers go out.

Owns request parsing, the order of pipelined requests, and the connection's own timers. It hands each
request to a flow and never knows an upstream. What the parser has read ahead waits here, bounded.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from sidecar.core.clock import SECOND
from sidecar.core.exchange import RequestHead
from sidecar.core.headers import Field
from sidecar.errors import (
    ClientHeadTimeoutError,
    HeadTooLargeError,
    MalformedError,
    RefusedError,
    UpgradeRefusedError,
)
from sidecar.proxy.flow import Flow
from sidecar.proxy.guard import outermost
from sidecar.proxy.hangup import HangupWatch
from sidecar.proxy.inbound import Inbound, request_head
from sidecar.proxy.upstream_side import HIGH_WATER
from sidecar.proxy.watchdog import Watchdog
from sidecar.proxy.wire import framing

if TYPE_CHECKING:
    from sidecar.proxy.relay import Relay

_LINGER = 2 * SECOND
"""How long the rest of an unwanted upload is read and thrown away before the connection closes."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """An HTTP/1.x server connection."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.transport: asyncio.Transport | None = None
        self.flow: Flow | None = None
        self.writable = True
        self._peer: tuple[str, int] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Inbound] = deque()
        self._inbound: Inbound | None = None
        self._in_head = False
        self._url = b""
        self._fields: list[Field] = []
        self._head_size = self._head_fed = 0
        self._begun = self._first_in_read = False
        self._too_large = False
        self._lingering: Inbound | None = None
        self._deaf = False
        self._paused = False
        self._gone = False
        self._linger_keep = False
        self._waited = 0
        self.read_at = 0
        self._watchdog = Watchdog(relay.loop, relay.clock, self._due)
        self._hangup = HangupWatch(relay.loop, self._left)

    # The flow's side.

    @property
    def closing(self) -> bool:
        """True when nothing can be written any more."""
        return self._gone or self.transport is None or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""
        if self.transport is not None and not self._gone:
            self.transport.write(data)

    def set_deadline(self, deadline: int) -> None:
        """When `Flow.due` is to be called (ns since the epoch, 0: not)."""
        self._watchdog.set(deadline)

    def pause(self) -> None:
        """Stops reading, because the upstream takes no more of the upload."""
        if not self._paused and not self.closing and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
            self._hangup.start(self.transport)

    def resume(self) -> None:
        """Reads on, unless requests that were read ahead still wait."""
        if self._paused and not self._waiting and not self.closing and self.transport is not None:
            self._paused = False
            self._hangup.stop()
            self.transport.resume_reading()

    def flow_done(self, inbound: Inbound, *, keep: bool, cut: bool = False) -> None:
        """The flow has settled. `keep`: the connection may carry another; `cut`: the answer is incomplete."""
        self.flow = None
        if self._gone or self.transport is None:
            return
        if cut:
            self._close()
        elif inbound.broken:
            self._linger_deaf()
        elif not inbound.ended:
            self._lingering = inbound
            self._linger_keep = keep
            inbound.take()
            self._watchdog.set(self.relay.clock() + _LINGER)
            self.resume()
        elif not keep:
            self._close()
        else:
            self._next()

    def close_if_idle(self) -> None:
        """Closes the connection when no request is on it: the relay drains."""
        if self.flow is None and not self._in_head and self.transport is not None:
            self.transport.close()

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the request that is on the connection."""
        if self.flow is not None:
            self.flow.broke(error)
        else:
            self._abort()
            raise error

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self._peer = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self.relay.connections.add(self)
        self._watchdog.set(self.relay.clock() + self.relay.limits.client_head)

    @outermost
    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        if self._deaf:
            return
        turn = self.relay.turn
        self.read_at = turn.read()
        self._waited = turn.waited
        continued = self._inbound
        self._begun = continued is not None
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._malformed(f"the request is not HTTP/1.1: {error}")
        if self._in_head and (self._inbound is continued or self._first_in_read):
            # A field that has not ended yet is known to the parser alone: count what it was fed.
            self._head_fed += len(data)
            if self._head_fed > self.relay.limits.head_size:
                self._too_large = True
        if self._too_large:
            self._head_too_large()
        self._advance()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # An upgrade that is not offered is no end of HTTP/1.1 (RFC 9110, section 7.8): read on.
                data = data[upgrade.args[0] :]
                if data:
                    continue
            return

    @outermost
    def eof_received(self) -> None:
        """asyncio: the client has ended its side, which counts as leaving."""
        self._left()

    @outermost
    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone, by the client's doing or by ours."""
        del exc
        self._watchdog.stop()
        self._hangup.stop()
        self._left()
        self._gone = True
        self.relay.connections.discard(self)

    @outermost
    def pause_writing(self) -> None:
        """asyncio: the client takes no more for now."""
        self.writable = False
        if self.flow is not None:
            self.flow.client_blocked()

    @outermost
    def resume_writing(self) -> None:
        """asyncio: the client takes more."""
        self.writable = True
        if self.flow is not None:
            self.flow.client_ready()

    # httptools' side: called while bytes are fed.

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._first_in_read = not self._begun
        self._begun = True
        self._inbound = Inbound(start=self.read_at, waited=self._waited)
        self._in_head = True
        self._url = b""
        self._fields = []
        self._head_size = self._head_fed = 0

    def on_url(self, url: bytes) -> None:
        """httptools: (a part of) the request target."""
        self._url += url
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a field of the head, or of the trailers once the head is done."""
        inbound = self._inbound
        fields = self._fields if self._in_head or inbound is None else inbound.trailers
        self._grow(len(name) + len(value) + 4)
        if len(fields) >= self.relay.limits.head_fields:
            self._too_large = True
        if not self._too_large:
            fields.append((name, value))

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.relay.limits.head_size:
            self._too_large = True

    def on_headers_complete(self) -> None:
        """httptools: the head is whole."""
        inbound = self._inbound
        if inbound is None or self._too_large:
            return
        self._in_head = False
        head = self._take_head(inbound)
        if self._parser.should_upgrade():
            self._refuse_upgrade(inbound, head)
        self._waiting.append(inbound)

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        inbound = self._inbound
        if inbound is not None and inbound is not self._lingering:
            inbound.pieces.append(data)
            inbound.size += len(data)

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        if self._inbound is not None:
            self._inbound.ended = True
        self._inbound = None

    # Between the two.

    @staticmethod
    def _refuse_upgrade(inbound: Inbound, head: RequestHead) -> None:
        """WebSockets and tunnels are not offered; any other upgrade is ignored, as RFC 9110 (7.8) allows."""
        wanted = head.headers.text(b"upgrade") or "a tunnel"
        if "websocket" in wanted.lower() or head.method == "CONNECT":
            inbound.refusal = inbound.refusal or UpgradeRefusedError(wanted)
            inbound.broken = True

    def _take_head(self, inbound: Inbound) -> RequestHead:
        """Gives the request the head as far as it was read, and what is wrong with it."""
        method = self._parser.get_method() if not self._in_head else b""
        version = self._parser.get_http_version() if not self._in_head else "1.1"
        head, problem = request_head(method or b"_OTHER", self._url, version, self._fields, self._peer)
        inbound.head = head
        inbound.read_at = self.read_at
        inbound.framing = framing(head.headers)
        inbound.expects_continue = version == "1.1" and b"100-continue" in head.headers.tokens(b"expect")
        if problem is not None:
            inbound.refusal = MalformedError(problem)
            inbound.broken = True
        return head

    def _advance(self) -> None:
        """Moves on what the latest read has brought."""
        if self.flow is not None:
            self.flow.upload()
        elif self._lingering is not None:
            if self._lingering.ended:
                self._lingering = None
                if self._linger_keep:
                    self._next()
                else:
                    self._close()
        elif self._waiting:
            self._start()
        elif self._in_head and self._inbound is not None:
            self._watchdog.set(self._inbound.start + self.relay.limits.client_head)
        if self.flow is not None and self._waiting:
            self.pause()

    def _start(self) -> None:
        inbound = self._waiting.popleft()
        self._watchdog.set(0)
        self.flow = Flow(self.relay, self, inbound)
        self.flow.begin()

    def _next(self) -> None:
        """The connection is free for its next request."""
        if self._waiting:
            # Not at once: a pile of pipelined requests must not pile up on the stack.
            self.relay.loop.call_soon(self._start_waiting)
            return
        self.resume()
        limits = self.relay.limits
        if self._in_head and self._inbound is not None:
            self._watchdog.set(self._inbound.start + limits.client_head)
        else:
            self._watchdog.set(self.relay.clock() + limits.client_keepalive)

    @outermost
    def _start_waiting(self) -> None:
        if self.flow is None and self._waiting and not self._gone:
            self._start()

    def expect_body(self, inbound: Inbound) -> None:
        """The flow wants the body: a client that asked first is told to go on."""
        if inbound.expects_continue and not inbound.size and not inbound.ended:
            self.write(_CONTINUE)

    def _malformed(self, message: str) -> None:
        self._refuse_rest(MalformedError(message))

    def _head_too_large(self) -> None:
        self._too_large = False
        limits = self.relay.limits
        if max(self._head_size, self._head_fed) > limits.head_size:
            self._refuse_rest(HeadTooLargeError("SIDECAR_HEAD_LIMIT", limits.head_size))
        else:
            self._refuse_rest(HeadTooLargeError("SIDECAR_HEAD_FIELDS", limits.head_fields))

    def _refuse_rest(self, error: RefusedError) -> None:
        """Nothing more of this connection can be read: what was under way ends, or is refused in its turn."""
        self._deaf = True
        inbound = self._inbound
        self._inbound = None
        if inbound is not None and inbound.head is not None:
            inbound.broken = True
            if self.flow is not None and self.flow.inbound is inbound:
                self.flow.malformed(error)
            else:
                inbound.refusal = inbound.refusal or error
            return
        if inbound is None:
            inbound = Inbound(start=self.read_at, waited=self._waited)
        if inbound.head is None:
            self._take_head(inbound)
        inbound.refusal = error
        inbound.broken = True
        self._in_head = False
        self._waiting.append(inbound)

    @outermost
    def _left(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self.flow is not None:
            self.flow.client_gone()
        elif self._in_head and self._inbound is not None:
            self._take_head(self._inbound)
            Flow(self.relay, self, self._inbound).abandoned()
        for inbound in self._waiting:
            Flow(self.relay, self, inbound).abandoned()
        self._waiting.clear()
        self._in_head = False
        self._inbound = None
        self._abort()

    @outermost
    def _due(self, now: int) -> None:
        if self.flow is not None:
            self.flow.due(now)
        elif self.closing:
            self._abort()
        elif self._in_head and self._inbound is not None:
            inbound, self._inbound = self._inbound, None
            self._take_head(inbound)
            self._in_head = False
            self._deaf = True
            inbound.broken = True
            self.flow = Flow(self.relay, self, inbound)
            self.flow.head_timed_out(ClientHeadTimeoutError(self.relay.limits.client_head / SECOND))
        else:
            self._close()

    def _linger_deaf(self) -> None:
        """Ends our side and throws away what still comes, so that the client can read its answer."""
        self._deaf = True
        if self.transport is not None:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._paused = False
            self._hangup.stop()
            self.transport.resume_reading()
        self._watchdog.set(self.relay.clock() + _LINGER)

    def _close(self) -> None:
        """Closes once what was written has gone; a client that takes nothing more is cut off in time."""
        if self.transport is not None:
            self._watchdog.set(self.relay.clock() + _LINGER)
            self.transport.close()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
