"""One connection from an app: bytes in become requests, one after another; answers go out.

Owns the connection: its order of requests, its pauses, its own timers and its end. It hands each request to a
flow, and knows neither HTTP's syntax (`request_reader.py`) nor any upstream. What was read ahead waits here.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import cast

from sidecar import apis
from sidecar.core.clock import MILLISECOND, SECOND
from sidecar.core.exchange import Exchange
from sidecar.errors import ClientHeadTimeoutError, HeadsMemoryError, InternalError, SidecarError
from sidecar.proxy.flow import Flow
from sidecar.proxy.loop import made, outermost
from sidecar.proxy.request_reader import NO_HEAD, Inbound, RequestReader
from sidecar.proxy.shared import Shared, blame
from sidecar.proxy.timers import Watchdog
from sidecar.proxy.upstream_side import READ, SMALL_READ, unread, unsent

_LINGER = 2 * SECOND
"""How long what a client still sends is read and thrown away before its connection closes for good."""

_STEP = MILLISECOND
"""How long (ns) one step of parsing what has been read goes on."""

_LEFT = frozenset((7, 8))
"""TCP_CLOSE (reset) and TCP_CLOSE_WAIT (the peer has ended its side), as `linux/tcp_states.h` numbers them."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """An HTTP/1.x server connection."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        limits = shared.limits
        self._reader = RequestReader(limits.head_size, limits.head_fields)
        self._transport: asyncio.Transport | None = None
        self._flow: Flow | None = None
        self._lingering: Inbound | None = None
        self._linger_keep = False
        self.paused = False
        """It is not read from."""
        self._in_pieces = False
        """It is read in pieces."""
        self._gone = False
        self._endless = False
        """Its orderly end is that of its answer."""
        self._cut = False
        """Its answer has broken off."""
        self._hearing = False
        """Bytes have come of which nothing is known yet."""
        self._watchdog = Watchdog(shared.loop, shared.clock, self._due)
        self.set_deadline = self._watchdog.set
        """When `Flow.due` is to be called (ns since the epoch, 0: not)."""
        self.working = False
        """Bytes that were too much work for one go are parsed in turns to come; nothing else is read meanwhile."""
        self.writable = True
        """False while the client takes no more."""
        self.read_at = 0
        """When the latest bytes came (ns since the epoch)."""
        self._kept = 0
        """Bytes of memory that were taken for what it does not take."""
        self._ahead = 0
        """And for what was read ahead, and large heads."""
        self._untaken = self._took_at = 0
        """Bytes that it had not taken when somebody last looked, and when it last took some (ns since the epoch)."""

    # The flow's side.

    @property
    def heard_at(self) -> int:
        """When the client was last heard of (ns since the epoch): now, while something of it waits to be parsed."""
        return self._shared.clock() if self.working else self.read_at

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""
        if self._transport is not None and not self._gone:
            self._transport.write(data)
            if not self.writable:
                self._kept += len(data)
                self._shared.admission.memory += len(data)

    def took_at(self, now: int) -> int:
        """When the client that takes no more last took some, as far as looks like this one tell (ns since the epoch)."""
        left = 0 if self._transport is None else unsent(self._transport)
        if left < self._untaken:
            self._took_at = now
        self._untaken = left
        return self._took_at

    def pause(self) -> None:
        """Stops reading, because nobody takes more for now; what still comes is read in pieces."""
        transport = self._transport
        if transport is None or self._closing:
            return
        self._read_in_pieces(transport)
        if not self.paused:
            self.paused = True
            transport.pause_reading()
            if hasattr(socket, "TCP_INFO"):
                self._shared.rounds.add(self._look)

    def _read_in_pieces(self, transport: asyncio.Transport) -> None:
        if not self._in_pieces:
            self._in_pieces = True
            self._shared.read_in_pieces(self, transport)

    def resume(self) -> None:
        """Reads on, unless requests that were read ahead still wait."""
        if self.paused and not self._reader.ready and not self._closing and self._transport is not None:
            self.paused = False
            self._go_on()

    def expect_body(self, inbound: Inbound) -> None:
        """The flow wants the body: a client that asked first is told to go on."""
        if inbound.hesitates:
            inbound.expects_continue = False
            self.write(_CONTINUE)

    def flow_done(self, inbound: Inbound, keep: bool, cut: bool, now: int) -> None:
        """The flow has settled at `now`. `keep`: the connection may carry another; `cut`: the answer is incomplete."""
        flow, self._flow = self._flow, None
        if self._ahead:
            self._count_ahead()
        if self._gone or self._transport is None:
            return
        if inbound.broken and not cut:
            self._linger_deaf(self._transport)
        elif inbound.ended and keep and not cut:
            self._next(now)
        elif cut:
            self._cut = True
            # One that has taken nothing for so long that it was given up gets no longer for the rest.
            stuck = not self.writable and now - self._took_at >= self._shared.limits.idle
            self._close(_LINGER if stuck else self._shared.limits.idle)
        else:
            # Whoever was not told of the drain may have sent another, and is told by an answer to that.
            if flow is not None and inbound.keep_alive:
                keep = keep or 0 < flow.exchange.headers_at < self._shared.admission.draining
            if inbound.ended:
                self._last(now, keep=keep)
                return
            self._lingering = inbound
            self._linger_keep = keep
            inbound.unwanted = True
            inbound.take()
            self._watchdog.set(now + _LINGER)
            self.resume()
            if not keep:
                self._end_side(self._transport)

    def ends_answer(self) -> None:
        """The connection's orderly end will be the answer's: whatever else ends it, this process's end too, is a reset."""
        if self._transport is not None and not self._closing:
            self._endless = True
            _let_linger(self._transport, resets=True)

    def drop(self) -> None:
        """A bug has struck: the connection ends at once, and what waits on it has met the bug as well."""
        self._end_reading(InternalError())
        self._abort()

    # The relay's side.

    @outermost
    def close_if_idle(self) -> None:
        """Closes the connection when no request is on it: the relay drains. Those that wait are told so in their turn."""
        if self._idle and self._transport is not None and not unread(self._transport):
            self._close(self._shared.limits.idle)

    @property
    def _idle(self) -> bool:
        return not (self.flushing or self._flow is not None or self._reader.partial is not None)

    @property
    def unheard(self) -> bool:
        """True while no request is on it, as far as it has been read, and not all of it has been."""
        return self._idle and self._transport is not None and unread(self._transport)

    @property
    def flushing(self) -> bool:
        """True while it ends, reads on so that its client can read an answer, or requests wait on it: soon it is over."""
        return self._gone or self._lingering is not None or bool(self._reader.ready)

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the request that is on the connection."""
        if self._flow is not None:
            self._flow.broke(error)
        else:
            self._shared.report(error)
            reader, unknown = self._reader, self._hearing or self._reader.behind
            if unknown and not reader.ready and reader.partial is None and self._lingering is None:
                reader.ready.append(Inbound(self.read_at))  # a request, as far as anybody can tell
            self.drop()

    # asyncio's side.

    @outermost
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self._reader.met(transport.get_extra_info("peername"))
        self._shared.connections.add(self)
        if not self._shared.roomy():
            self._read_in_pieces(self._transport)
        self._watchdog.set(self._shared.clock() + self._shared.limits.client_head)

    @outermost
    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        turn, reader = self._shared.turn, self._reader
        self._hearing = True
        self.read_at = at = turn.read()
        if (
            self._flow is None
            and reader.fresh
            and (whole := self._shared.plans.take(data, at, turn.waited, reader.peer)) is not None
        ):
            self._hearing = False
            reader.ready.append(whole)
            if not whole.ended:
                reader.follow(whole)
            self._start_next()
        else:
            reader.feed(data, at, turn.waited)
            while reader.behind and not turn.over():
                reader.read_on()
            self._hearing = False
            self._advance()
        if self._transport is None:
            return
        if reader.unparsed and reader.behind:
            self._parse_later(self._transport)
        elif len(data) > SMALL_READ and not self.paused:
            flow = self._flow
            if len(data) > READ and flow is not None and flow.exchange.asked and not flow.inbound.ended:
                self._read_in_pieces(self._transport)
            turn.done(self._transport, self.read_at, self._go_on)

    @outermost
    def _go_on(self) -> None:
        """Reads on after others have had their turn."""
        stopped = self.paused or self.working
        if not stopped and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _parse_later(self, transport: asyncio.Transport) -> None:
        """Parses what has been read in turns to come."""
        if not self.working and not self._gone:
            self.working = True
            transport.pause_reading()
            self._shared.steps.add(self)

    @outermost
    def work(self) -> None:
        """Parses some of what has been read."""
        reader, clock = self._reader, self._shared.clock
        until = clock() + _STEP
        while reader.behind and clock() < until:
            reader.read_on()
        self._advance()
        if not reader.behind:
            self.working = False
            self._count_ahead()
            self._go_on()

    @outermost
    def eof_received(self) -> None:
        """asyncio: the client has ended its side, which counts as leaving if anything is under way."""
        if self._flow is None and not self._reader.ready and self._reader.partial is None:
            if self._endless and not self._cut and self._transport is not None:
                _let_linger(
                    self._transport, resets=False
                )  # the event loop closes it as soon as all has been written
            self._close(self._shared.limits.idle)
        else:
            self._left()

    @outermost
    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone, by the client's doing or by ours."""
        del exc
        self._watchdog.stop()
        self._left()
        self._give_back()
        self._reader.close()
        self._shared.disconnected(self)

    @outermost
    def pause_writing(self) -> None:
        """asyncio: the client takes no more for now."""
        self.writable = False
        self._took_at = self._shared.clock()
        self._untaken = 0 if self._transport is None else unsent(self._transport)
        if self._flow is not None:
            self._flow.client_blocked()

    @outermost
    def resume_writing(self) -> None:
        """asyncio: the client takes more."""
        self.writable = True
        self._give_back()
        reader = self._reader
        if self._flow is not None:
            self._flow.client_ready()
        elif reader.ready:
            self._start_waiting()
        elif reader.partial is None and self._lingering is None and not self._gone:
            self._watchdog.set(self._shared.clock() + self._shared.limits.client_keepalive)

    def _give_back(self) -> None:
        """All that was written has left, or never will."""
        self._shared.admission.release(self._kept)
        self._kept = 0

    # Between the two.

    def _advance(self) -> None:
        """Moves on what the latest read has brought."""
        if self._flow is not None:
            self._flow.upload()
        elif self._lingering is not None:
            if self._lingering.ended:
                self._lingering = None
                self._last(self._shared.clock(), keep=self._linger_keep)
        elif self._reader.ready:
            self._start_next()
        elif self._reader.partial is not None:
            self._watchdog.set(self._reader.partial.start + self._shared.limits.client_head)
        if self._flow is not None and self._reader.ready:
            self._let_wait()
        elif self._reader.partial is not None or self._ahead:
            self._head_grows()

    def _let_wait(self) -> None:
        """Requests that were read ahead wait for their turn: nothing more is read until then, nor much at once any more."""
        self.pause()
        self._count_ahead()

    def _head_grows(self) -> None:
        """More of a head has come, or the rest: a large one needs memory, and waits behind a request that is under way."""
        self._count_ahead()
        admission = self._shared.admission
        if self._ahead and self._reader.partial is not None and admission.memory > admission.memory_limit:
            if self._flow is None:
                self._refuse_begun(HeadsMemoryError())
            else:
                self.pause()

    def _count_ahead(self) -> None:
        """What was read ahead counts as the memory it takes, and the head of the request that is under way if it is large."""
        ahead = self._reader.ahead
        if self._flow is not None:
            ahead += self._flow.inbound.head_memory
        self._shared.admission.memory += ahead - self._ahead
        self._ahead = ahead

    def _start_next(self) -> None:
        """The next request's turn, once the client has taken the answers before: they must not pile up."""
        if not self.writable:
            self._let_wait()
            self._watchdog.set(self._shared.clock() + self._shared.limits.idle)
            return
        inbound, admission = self._reader.ready.popleft(), self._shared.admission
        if inbound.head_memory and admission.memory + inbound.head_memory > admission.memory_limit:
            inbound.refusal = inbound.refusal or HeadsMemoryError()
        self._flow = flow = flow_for(self._shared, self, inbound)
        if flow is None:
            self.drop()
        else:
            if self._reader.unparsed:
                self._read_ahead()
            if self._ahead or inbound.head_memory:
                self._count_ahead()
            if self.paused:
                self.resume()
            flow.begin()

    def _read_ahead(self) -> None:
        """There is room for one more request."""
        self._reader.read_on()
        if self._reader.behind and self._transport is not None:
            self._parse_later(self._transport)

    def _next(self, now: int) -> None:
        """The connection is free for its next request from `now` on (ns since the epoch)."""
        if self._reader.ready:
            # Not at once: a pile of pipelined requests must not pile up on the stack.
            self._shared.loop.call_soon(self._start_waiting)
            return
        if self.paused:
            self.resume()
        limits, partial = self._shared.limits, self._reader.partial
        if partial is not None:
            self._watchdog.set(partial.start + limits.client_head)
        else:
            self._watchdog.set(now + limits.client_keepalive)

    def _last(self, now: int, *, keep: bool) -> None:
        """A request is over that may be the connection's last: it carries another if `keep`, but none that is new to a drain."""
        if keep:
            self._next(now)
            if self._shared.admission.draining:
                self.close_if_idle()
        elif self._transport is not None and (
            self._reader.ready or self._reader.partial is not None or unread(self._transport)
        ):
            self._linger_deaf(self._transport)
        else:
            self._close(self._shared.limits.idle)

    @outermost
    def _start_waiting(self) -> None:
        if self._flow is None and self._reader.ready and not self._gone:
            self.read_at = self._shared.clock()
            self._start_next()

    @outermost
    def _look(self) -> None:
        """Whether the client has left while it is not read from.

        A transport that is paused tells nothing of an end or a reset that waits behind unread bytes. The kernel knows: this
        asks it for the connection's TCP state. Where it offers no such question (outside Linux), the next read or write tells.
        """
        transport = self._transport
        if not self.paused or transport is None or transport.is_closing():
            return
        state: int = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state in _LEFT:
            self._left()
        else:
            self._shared.rounds.add(self._look)

    @outermost
    def _left(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._flow is not None:
            self._flow.client_gone()
        for inbound in self._take_waiting():
            self._shared.later.add(partial(self._abandon, inbound))
        self._abort()

    def _abandon(self, inbound: Inbound, error: SidecarError | None = None) -> None:
        flow = flow_for(self._shared, self, inbound)
        if flow is not None:
            flow.abandoned(error)

    def _take_waiting(self) -> list[Inbound]:
        """The requests whose turn will not come, one that is only begun included."""
        partial = self._reader.give_up()
        waiting = list(self._reader.ready)
        self._reader.ready.clear()
        self._count_ahead()
        return waiting if partial is None else [*waiting, partial]

    @outermost
    def _due(self, now: int) -> None:
        if self._flow is not None:
            self._flow.due(now)
        elif self._closing:
            if not self._takes(now):
                self._abort()
        elif self._reader.partial is None:
            if not self._takes(now):
                self._close(_LINGER)
        else:
            self._refuse_begun(ClientHeadTimeoutError(self._shared.limits.client_head / SECOND))

    def _refuse_begun(self, error: SidecarError) -> None:
        """The request whose head is being read goes no further."""
        if (begun := self._reader.give_up()) is None:
            return
        self._count_ahead()
        self._flow = flow = flow_for(self._shared, self, begun)
        if flow is None:
            self.drop()
        else:
            flow.refuse(error)

    def _takes(self, now: int) -> bool:
        """The client still takes the last answer, however slowly."""
        if self.writable:
            return False
        self._watchdog.set(now + _LINGER)
        return now - self.took_at(now) < self._shared.limits.idle

    # Its end.

    @property
    def _closing(self) -> bool:
        return self._gone or self._transport is None or self._transport.is_closing()

    def _linger_deaf(self, transport: asyncio.Transport) -> None:
        """Ends our side and throws away what still comes, so that the client can read its answer."""
        self._end_reading()
        if transport.is_closing():
            return
        self._end_side(transport)
        if self.paused:
            self.paused = False
            transport.resume_reading()
        patience = self._shared.limits.idle if transport.get_write_buffer_size() else _LINGER
        self._watchdog.set(self._shared.clock() + patience)

    @outermost
    def _end_side(self, transport: asyncio.Transport) -> None:
        """Ends our side once what was written has left: the client need not wait for the end of its own."""
        if transport.is_closing():
            return
        if self._endless:
            if transport.get_write_buffer_size():
                self._shared.rounds.add(partial(self._end_side, transport))
                return
            _let_linger(transport, resets=False)
        with suppress(OSError):  # the client has just reset it
            transport.write_eof()

    def _close(self, patience: int) -> None:
        """Closes once what was written has gone; a client that takes longer than `patience` (ns) is cut off."""
        self._end_reading()
        if self._transport is not None:
            self._watchdog.set(self._shared.clock() + patience)
            if self._endless:
                self._end_answer(self._transport)
            else:
                self._transport.close()

    @outermost
    def _end_answer(self, transport: asyncio.Transport) -> None:
        """Closes once what was written has left, or resets once it has arrived: a reset throws away what has not."""
        if transport.is_closing():
            return
        if unsent(transport) if self._cut else transport.get_write_buffer_size():
            self._shared.rounds.add(partial(self._end_answer, transport))
        elif self._cut:
            transport.abort()
        else:
            _let_linger(transport, resets=False)
            transport.close()

    def _end_reading(self, bug: SidecarError | None = None) -> None:
        """Nothing more is read or begun; requests that wait for their turn are told so."""
        self._gone = True
        for inbound in self._take_waiting():
            error = inbound.refusal or bug or self._shared.unserved()
            self._shared.later.add(partial(self._abandon, inbound, error))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _let_linger(transport: asyncio.Transport, *, resets: bool) -> None:
    """Whether the system ends the connection with a reset."""
    linger = struct.pack("ii", resets, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def flow_for(shared: Shared, client: ClientConnection, inbound: Inbound) -> Flow | None:
    """The flow of a request that has come, which counts as started.

    None if a bug of ours keeps it from being made: that has been told, and the request has settled by it.
    """
    flow = made(shared.report, Flow, shared, client, inbound)
    if flow is not None:
        shared.flows.add(flow)
        shared.telemetry.started(flow.exchange)
        return flow
    made(lambda _: None, _settled_by_a_bug, shared, inbound)
    return None


def _settled_by_a_bug(shared: Shared, inbound: Inbound) -> None:
    """Counts a request that has no flow. What keeps its record from being made as well is the bug that has been told."""
    head, now = inbound.head or NO_HEAD, shared.clock()
    trace = shared.telemetry.begin(head, apis.UNKNOWN, inbound.start)
    exchange = Exchange(start=inbound.start, head=head, trace=trace, route=apis.UNKNOWN)
    blame(exchange, now)
    exchange.settle(now)
    shared.telemetry.started(exchange)
    shared.telemetry.settled(exchange)
