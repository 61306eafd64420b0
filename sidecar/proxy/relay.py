"""The relay as a whole: what its connections share, and its life from listening to drained.

Owns the data port, the pool, admission and the flows under way. It carries no request itself. Made and
ended by `app.py`; health and statistics read its numbers.
"""

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core.anomaly import Anomaly
from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import ConnectTiming, Exchange, Upstream
from sidecar.core.identity import IdentityRules
from sidecar.core.ports import Telemetry
from sidecar.core.sessions import SessionManager
from sidecar.errors import CannotListenError, SidecarError, render, shape_of
from sidecar.proxy import wire
from sidecar.proxy.admission import Admission
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.dial import Dialer, EgressRules
from sidecar.proxy.flow import Flow
from sidecar.proxy.loop_turn import LoopTurn
from sidecar.proxy.pool import Pool
from sidecar.proxy.routes import Routes
from sidecar.proxy.upstream_side import UpstreamConnection
from sidecar.settings import Address, Settings

_BACKLOG = 1024


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


class Relay:
    """The data port and everything behind it."""

    def __init__(
        self,
        settings: Settings,
        *,
        sessions: SessionManager,
        telemetry: Telemetry,
        clock: Clock,
        report: Callable[[Exception], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.sessions = sessions
        self.telemetry = telemetry
        self.limits = _limits(settings)
        self.turn = LoopTurn(self.loop, clock)
        self.admission = Admission(settings.max_requests, settings.inspect_memory)
        self.routes = Routes(settings.upstream, settings.upstreams)
        self.identity_rules = IdentityRules(
            session_headers=settings.session_headers,
            session_fields=settings.session_fields,
            conversation_headers=settings.conversation_headers,
            conversation_fields=settings.conversation_fields,
        )
        self.body_fields = (*settings.session_fields, *settings.conversation_fields)
        self.pool = Pool(self.loop, clock, round(settings.pool_idle * SECOND))
        self.connections: set[ClientConnection] = set()
        self._flows: set[Flow] = set()
        self._empty = asyncio.Event()
        self._dialer = Dialer(self.loop, clock, EgressRules(settings.environ), _trust())
        self._listen = settings.listen
        self._server: asyncio.Server | None = None
        self.report = report
        """Says that a bug has struck, and where."""

    # What the connections and flows ask for.

    @property
    def head_limit(self) -> int:
        """Bytes of an answer's head."""
        return self.limits.head_size

    @property
    def head_fields(self) -> int:
        """Fields of an answer's head."""
        return self.limits.head_fields

    async def dial(self, upstream: Upstream) -> tuple[UpstreamConnection, ConnectTiming]:
        """A new connection to `upstream`."""
        side = UpstreamConnection(self, upstream)
        return side, await self._dialer.dial(upstream, side)

    def upstream_closed(self, connection: UpstreamConnection, *, stray: bool) -> None:
        """A connection has closed; it leaves the pool at once."""
        self.pool.forget(connection)
        if stray:
            self.telemetry.anomaly(Anomaly.BYTES_AFTER_END)

    def entered(self, flow: Flow) -> None:
        """A request is under way."""
        self._flows.add(flow)

    def left(self, flow: Flow) -> None:
        """It has settled."""
        self._flows.discard(flow)
        if not self._flows:
            self._empty.set()

    def generated_id(self) -> str:
        """A session id for a request that names none."""
        return str(uuid.uuid4())

    def error_answer(self, exchange: Exchange, error: SidecarError, *, close: bool) -> bytes:
        """A whole answer of our own, in the shape that the caller's client reads."""
        upstream = exchange.upstream
        provider = exchange.route.provider or (upstream.provider if upstream is not None else None)
        body = render(error, shape_of(provider))
        request_id = exchange.arrival.request_id if exchange.arrival is not None else None
        return wire.own_answer(
            error.status,
            error.fields,
            b"" if exchange.head.method == "HEAD" else body,
            length=len(body),
            request_id=request_id,
            close=close or error.closes,
        )

    # Its life.

    async def start(self) -> Address:
        """Listens on the data port; gives the address that was bound.

        Raises:
            CannotListenError: the address cannot be had.
        """
        try:
            self._server = await self.loop.create_server(
                lambda: ClientConnection(self), self._listen.host, self._listen.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise CannotListenError.because(error, str(self._listen), "SIDECAR_LISTEN") from error
        return Address(self._listen.host, self._server.sockets[0].getsockname()[1])

    async def drain(self, seconds: float) -> None:
        """Takes nothing new, lets running requests end for `seconds`, and ends the rest as `shutdown`."""
        self.admission.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        if self._flows:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        for flow in list(self._flows):
            flow.shut_down()
        self.pool.close()

    def close(self) -> None:
        """Closes every connection that is left."""
        for connection in list(self.connections):
            connection.close_if_idle()


def _trust() -> ssl.SSLContext:
    """The system's trust (`SSL_CERT_FILE` is honoured by OpenSSL itself), the host checked."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
