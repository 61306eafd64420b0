"""What all connections and flows of one relay share: clock, limits, pool, admission, sessions, telemetry.

Owns the making of these from the settings, and the one form of our own error answers. It carries no request
and listens nowhere.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sidecar.core.clock import SECOND, Clock, Wall
from sidecar.core.digests import Digester
from sidecar.core.exchange import ConnectTiming, Exchange, Telemetry, Upstream
from sidecar.core.facts import Anomaly
from sidecar.core.histories import Histories
from sidecar.core.identity import IdentityRules
from sidecar.core.sessions import SessionManager
from sidecar.errors import (
    DrainingError,
    InternalError,
    MalformedError,
    RefusedError,
    SidecarError,
    render,
    shape_of,
)
from sidecar.proxy import wire
from sidecar.proxy.arrival import Joining
from sidecar.proxy.connect import Dialer, Pool
from sidecar.proxy.heads import AnswerPlans, RequestPlans
from sidecar.proxy.loop import Later, LoopTurn, Rounds, StepQueue
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.upstream_side import (
    READ,
    Connection,
    InPieces,
    KeptSsl,
    TlsUpstreamConnection,
    UpstreamConnection,
)
from sidecar.proxy.wire import Routes
from sidecar.settings import Settings
from sidecar.ways_out import EgressRules, Trust


class Admission:
    """Requests that hold a slot, and bytes that are held of bodies, which are bounded here.

    A request that finds no slot is refused by its flow; a body that finds no memory streams through unread. What a peer does
    not take, of a request or of an answer, is held nevertheless, and counts: while there is no room, little is read at once.
    """

    __slots__ = ("active", "draining", "memory", "memory_limit")

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.active = 0
        """Requests that hold a slot."""
        self.memory = 0
        """Bytes held over all requests."""
        self.draining = 0
        """Since when nothing new is taken (ns since the epoch); 0: it is."""

    def hold(self, size: int) -> bool:
        """Takes memory for `size` bytes if there is room; what is no more than before always has it."""
        if size > 0 and self.memory + size > self.memory_limit:
            return False
        self.memory += size
        return True

    def roomy(self) -> bool:
        """There is room for a large read."""
        return self.memory + READ <= self.memory_limit

    def release(self, size: int) -> None:
        """Gives memory back."""
        self.memory -= size

    def room(self, change: int) -> bool:
        """Takes memory for so many bytes if there is room, or gives as many back where the number is negative."""
        if change > 0:
            return self.hold(change)
        self.release(-change)
        return True


@dataclass(frozen=True, slots=True)
class Limits:
    """The relay's timers (ns) and bounds (bytes, counts), from the settings."""

    client_head: int
    client_body: int
    client_keepalive: int
    connect: int
    first_byte: int
    idle: int
    stall: int
    head_size: int
    head_fields: int
    inspect: int
    requests: int


def _limits(settings: Settings) -> Limits:
    def ns(seconds: float) -> int:
        return round(seconds * SECOND)

    return Limits(
        client_head=ns(settings.client_head_timeout),
        client_body=ns(settings.client_body_timeout),
        client_keepalive=ns(settings.client_keepalive),
        connect=ns(settings.connect_timeout),
        first_byte=ns(settings.first_byte_timeout),
        idle=ns(settings.idle_timeout),
        stall=ns(settings.stall_after),
        head_size=settings.head_limit,
        head_fields=settings.head_fields,
        inspect=settings.inspect_limit,
        requests=settings.max_requests,
    )


def _rules(settings: Settings) -> IdentityRules:
    return IdentityRules(
        session_headers=settings.session_headers,
        session_fields=settings.session_fields,
        conversation_headers=settings.conversation_headers,
        conversation_fields=settings.conversation_fields,
    )


class Client(Protocol):
    """The client's connection, as a flow sees it."""

    @property
    def writable(self) -> bool:
        """False while the client takes no more."""

    @property
    def paused(self) -> bool:
        """True while it is not read from."""

    def took_at(self, now: int) -> int:
        """When the client that takes no more last took some, as far as looks like this one tell (ns since the epoch)."""

    @property
    def read_at(self) -> int:
        """When the latest bytes came (ns since the epoch)."""

    @property
    def heard_at(self) -> int:
        """When the client was last heard of: now, while something of it waits to be parsed."""

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""

    def expect_body(self, inbound: Inbound) -> None:
        """The body is wanted."""

    def pause(self) -> None:
        """Stops reading."""

    def resume(self) -> None:
        """Reads on."""

    @property
    def set_deadline(self) -> Callable[[int], None]:
        """Says when `due` is to be called (ns since the epoch)."""

    def flow_done(self, inbound: Inbound, keep: bool, cut: bool, now: int) -> None:
        """The flow has settled at `now` (ns since the epoch)."""

    def ends_answer(self) -> None:
        """The connection's orderly end will be the answer's: any other is to be a reset."""

    def drop(self) -> None:
        """Nothing goes on here: a bug has struck."""


class Running(Protocol):
    """A flow, as the drain and the live page see it."""

    exchange: Exchange

    def shut_down(self) -> None:
        """The drain has ended and this request has not; it settles once what it has passed on has been read."""

    def give_up(self) -> None:
        """No time is left for that: it settles at once."""


class Connected(Protocol):
    """A client's connection, as the drain sees it."""

    def close_if_idle(self) -> None:
        """Closes the connection when no request is on it."""

    @property
    def unheard(self) -> bool:
        """True while no request is on it, as far as it has been read, and not all of it has been."""

    @property
    def flushing(self) -> bool:
        """True while no request is under way on it and it will soon be over: what was begun on it has not ended."""


class Shared:
    """One relay's common things. `report` says that a bug has struck, and where."""

    def __init__(
        self,
        settings: Settings,
        *,
        sessions: SessionManager,
        telemetry: Telemetry,
        clock: Clock,
        wall: Wall,
        report: Callable[[Exception], None],
        trust: Trust,
    ) -> None:
        tls = trust.context()
        tls.set_alpn_protocols(["http/1.1"])
        tls.sslobject_class = KeptSsl
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.wall = wall
        self.sessions = sessions
        self.telemetry = telemetry
        self.report = report
        self.limits = _limits(settings)
        self.turn = LoopTurn(self.loop, clock)
        self._read_buffer = memoryview(bytearray(READ))
        self.steps = StepQueue(self.loop)
        self.rounds = Rounds(self.loop)
        self.later = Later(self.loop, clock, report, self.drained)
        self.admission = Admission(settings.inspect_memory)
        self.routes = Routes(settings.upstream, settings.upstreams)
        rules = _rules(settings)
        self.digester = None if settings.history == "off" else Digester(os.urandom(32))
        """What histories are digested by; None where nobody looks at them."""
        waits = round(settings.session_idle * SECOND)
        histories = Histories(settings.history_limit, telemetry.anomaly, telemetry.orphaned, waits)
        sessions.add_listener(histories)
        self.plans = RequestPlans(self.routes, rules, settings.head_limit, settings.head_fields)
        self.answer_plans = AnswerPlans(settings.head_limit, settings.head_fields)
        self.joining = Joining(
            sessions,
            rules,
            telemetry,
            histories if self.digester is not None else None,
            report,
            self.admission.room,
            joins=settings.history == "join",
        )
        self.body_fields = (*settings.session_fields, *settings.conversation_fields)
        self.pool = Pool(self.loop, clock, round(settings.pool_idle * SECOND))
        self._dialer = Dialer(
            self.loop,
            clock,
            EgressRules(settings.environ),
            tls,
            timeout=settings.connect_timeout,
        )
        self.connections: set[Connected] = set()
        self.flows: set[Running] = set()
        self.empty = asyncio.Event()
        """Set, while the relay drains, once nothing is under way any more."""

    def disconnected(self, connection: Connected) -> None:
        """A client's connection is gone."""
        self.connections.discard(connection)
        self.drained()

    @property
    def busy(self) -> bool:
        """True while a request is under way, or the end of its answer."""
        return bool(self.flows or self.later) or any(connection.flushing for connection in self.connections)

    def drained(self) -> None:
        """Something that was under way is over: perhaps all is."""
        if self.admission.draining and not self.busy:
            self.empty.set()

    async def dial(self, upstream: Upstream) -> tuple[UpstreamConnection, ConnectTiming]:
        """A new connection to `upstream`."""
        secure = upstream.scheme == "https"
        side = TlsUpstreamConnection(self, upstream) if secure else UpstreamConnection(self, upstream)
        timing = await self._dialer.dial(upstream, side)
        if side.bug is not None:
            raise side.bug
        return side, timing

    def roomy(self) -> bool:
        """There is room for a large read."""
        return self.admission.roomy()

    def room(self, change: int) -> bool:
        """Takes memory for so many bytes if there is some, or gives as many back where the number is negative."""
        return self.admission.room(change)

    def read_in_pieces(self, connection: Connection, transport: asyncio.Transport) -> None:
        """From now on no read of a connection is larger than `READ`, or than `LITTLE` while there is no room."""
        transport.set_protocol(InPieces(connection, self._read_buffer, self.roomy))

    def upstream_closed(self, connection: UpstreamConnection, *, stray: bool) -> None:
        """A connection has closed; it leaves the pool at once."""
        self.pool.forget(connection)
        if stray:
            self.telemetry.anomaly(Anomaly.BYTES_AFTER_END)

    def unserved(self) -> RefusedError:
        """Why requests that were read ahead are not answered: their connection ends from our side."""
        if self.admission.draining:
            return DrainingError()
        return MalformedError("it follows the last request of its connection")

    def error_answer(self, exchange: Exchange, error: SidecarError, *, close: bool) -> bytes:
        """A whole answer of our own, in the shape that the caller's client reads."""
        upstream = exchange.upstream
        provider = exchange.route.provider or (upstream.provider if upstream is not None else None)
        body = render(error, shape_of(provider))
        return wire.own_answer(
            error.status,
            error.fields,
            b"" if exchange.head.method == "HEAD" else body,
            length=len(body),
            request_id=exchange.request_id,
            close=close,
        )


def blame(exchange: Exchange, at: int) -> None:
    """A bug of ours decides the outcome at `at` (ns since the epoch), unless an earlier fact has."""
    if exchange.verdict is None:
        ours = InternalError()
        exchange.decide(ours.outcome, at, error_type=ours.word, message=ours.message)
