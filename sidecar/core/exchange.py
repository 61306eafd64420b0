"""The sidecar's record of one request, from its first byte to its one outcome.

Owns the decision how a request ended: the first decisive fact wins, and it settles exactly once.
It takes facts with timestamps and never asks for the time; it knows no socket and no telemetry, only the
shape of what the relay tells telemetry.
The relay (`proxy/`) tells it what happened; what it freezes into is read by `telemetry/`.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.core.clock import MILLISECOND
from sidecar.core.facts import (
    COMPLETED,
    END,
    NO_FACTS,
    Anomaly,
    EventKind,
    Outcome,
    Phase,
    RequestFacts,
    ResponseFacts,
    Route,
    record,
)
from sidecar.core.headers import Field, Headers
from sidecar.core.identity import Identity
from sidecar.core.shown import readable
from sidecar.core.threads import Past, Relation
from sidecar.core.turns import Ref, Turn

CHUNK_BOUNDS = tuple(MILLISECOND * 2**k for k in range(14))
"""Upper bounds (ns) of the per-chunk time buckets: 0.001 x 2^k s, k = 0..13."""

_IDLE, _CHUNK = EventKind.IDLE, EventKind.CHUNK

_EMPTY = 64 * 1024
"""Bytes of a stream above which it held something, whether that could be read or not."""

_UNREAD = frozenset((Anomaly.ANSWER_NOT_READ, Anomaly.EVENT_TOO_LARGE))

MAX_STALLS = 32
"""Stalls kept with their times; further ones are only counted."""


class Trace(Protocol):
    """The ids chosen for an exchange at its start, by whoever makes the spans."""

    @property
    def trace_id(self) -> int:
        """128-bit trace id."""

    @property
    def server_span_id(self) -> int:
        """64-bit id of the SERVER span."""

    @property
    def client_span_id(self) -> int:
        """64-bit id of the CLIENT span, the one the upstream is told."""

    @property
    def sampled(self) -> bool:
        """The sampler's verdict."""

    def outbound(self) -> tuple[Field, ...]:
        """The trace header fields that go to the upstream in place of the caller's."""


@record
class RequestHead:
    """A request's head as it was received. `target` is the raw request target, query included."""

    method: str
    target: bytes
    version: str
    headers: Headers
    scheme: str = "http"
    client_address: str | None = None
    client_port: int | None = None

    @property
    def path(self) -> str:
        """The raw path, without the query, as text."""
        return readable(self.target.partition(b"?")[0])

    @property
    def query(self) -> str:
        """The raw query, without the question mark, as text."""
        return readable(self.target.partition(b"?")[2])


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a request goes. `name` is `default` or a name of `UPSTREAMS`."""

    name: str
    scheme: str
    host: str
    port: int
    base_path: bytes = b""
    provider: str | None = None
    kind: tuple[str, str, int, str | None] = field(init=False, repr=False, compare=False)
    """What of it tells requests of different kinds apart."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", (self.name, self.host, self.port, self.provider))

    @property
    def authority(self) -> str:
        """Its host, and its port where that is not the scheme's own: what `Host` says, and a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __hash__(self) -> int:
        """Upstreams are told apart by their names; the pool asks twice per request."""
        return hash(self.name)


@record
class ConnectTiming:
    """How the upstream connection was had. All times in ns since the epoch; None: the step did not occur.

    `kind` is `new` (one was opened), `waited` (one was waited for) or `reused` (taken from the pool).
    `dns_kept`: the addresses were of an earlier look-up, as a fresh one was slow or failed.
    """

    kind: str
    start: int
    end: int
    dns_end: int | None = None
    tcp_end: int | None = None
    tls_end: int | None = None
    address: str | None = None
    dns_kept: bool = False


class Stream:
    """Integer observations on an answer, kept while it passes. Times in ns, sizes in bytes.

    `gap` is the longest silence between data-bearing events from the first byte on. `chunk_counts` are, from the
    first chunk on, the times between chunks, bucketed by `CHUNK_BOUNDS` (one more bucket for what lies above).
    Of an answer that does not stream next to nothing is observed, so next to nothing is made.
    """

    bytes = events = chunks = gap = 0
    first_chunk = last_chunk = last_event = 0
    chunk_counts: list[int]
    chunk_sum = chunk_min = chunk_max = 0
    stalls: tuple[tuple[int, int], ...] = ()
    stall_count = blocked = 0

    def event(self, kind: EventKind, at: int) -> None:
        """Counts one event of the answer that was read at `at`."""
        if kind is _IDLE:
            return
        self.events += 1
        gap = at - self.last_event
        if gap > self.gap and self.last_event:
            self.gap = gap
        self.last_event = at
        if kind is not _CHUNK:
            return
        last = self.last_chunk
        self.last_chunk = at
        self.chunks += 1
        if not last:
            self.first_chunk = at
            self.chunk_counts = [0] * (len(CHUNK_BOUNDS) + 1)
            return
        between = at - last
        self.chunk_counts[bisect_left(CHUNK_BOUNDS, between)] += 1
        self.chunk_sum += between
        if between > self.chunk_max:  # noqa: PLR1730 - a third of the cost of calling max()
            self.chunk_max = between
        if between < self.chunk_min or self.chunks == 2:
            self.chunk_min = between

    def silent_until(self, at: int) -> None:
        """The stream's outcome was decided at `at`: the silence before that was one as well."""
        if self.last_event and at - self.last_event > self.gap:
            self.gap = at - self.last_event

    def stalled(self, since: int, length: int) -> None:
        """Notes a silence that began at `since` and has lasted `length` so far."""
        self.stall_count += 1
        if len(self.stalls) < MAX_STALLS:
            self.stalls += ((since, length),)


@record
class Verdict:
    """The one outcome, when it was decided, and the words that say why."""

    outcome: Outcome
    at: int
    phase: Phase | None = None
    error_type: str | None = None
    message: str | None = None


@dataclass(slots=True)
class Exchange:
    """One request from start to settling. Times are ns since the epoch; 0 means "not reached".

    `start`: first byte of the head. `head_at`: the head was whole. `arrived`: it joined its conversation.
    `needed`: the last input byte that was needed before asking for a connection. `asked`: a connection was
    asked for. `sent`: the request's head was written upstream. `request_end`: its last body byte was.
    `first_byte`/`last_byte`: of the answer, as read. `headers_at`: the answer's head was passed on.
    `end`: nothing more can pass. `correction` (ns) makes them the wall's time, as it was when the request began.
    `overhead_before`, `overhead_after`, `overhead_loop`: what the sidecar
    itself added (ns).
    """

    start: int
    head: RequestHead
    trace: Trace
    route: Route
    upstream: Upstream | None = None
    identity: Identity | None = None
    turn: Turn | None = None
    stray_id: str | None = None
    """The request's own id, where it joins no conversation."""
    request: RequestFacts = NO_FACTS
    response: ResponseFacts = field(default_factory=ResponseFacts)
    stream: Stream = field(default_factory=Stream)
    verdict: Verdict | None = None
    anomalies: list[Anomaly] = field(default_factory=list)
    body_state: str = "none"
    """`read`, `none`, or why the request's body was not read (`too_large`, `not_json`, ...)."""
    retry_count: int = 0
    retry: bool = False
    retry_of: Ref | None = None
    continues: Ref | None = None
    spawned_by: Ref | None = None
    """The request of the parent's conversation behind which a sub-agent's first one came."""
    past: Past | None = None
    """What is remembered of it as a turn that carries its history."""
    raced: tuple[Ref, ...] | None = None
    """The turns that it raced, once it has left, if there are any."""
    read_anew: int | None = None
    """Input tokens that the provider read anew, as it reported them: of this prompt, or of the one before where it broke."""
    recognised: bool = False
    """It is a turn, and histories are looked at: where it has no `past`, it could not be read."""
    head_at: int = 0
    arrived: int = 0
    needed: int = 0
    asked: int = 0
    connect: ConnectTiming | None = None
    sent: int = 0
    request_end: int = 0
    first_byte: int = 0
    headers_at: int = 0
    last_byte: int = 0
    end: int = 0
    status: int | None = None
    upstream_status: int | None = None
    upstream_headers: Headers | None = None
    streams: bool = False
    """The answer is an event stream."""
    watched: bool = True
    """The answer's events could be read; where not, a clean framed end is all there is to go by."""
    resends: int = 0
    request_bytes: int = 0
    overhead_before: int = 0
    overhead_after: int = 0
    overhead_loop: int = 0
    correction: int = 0

    @property
    def relation(self) -> Relation | None:
        """What it is to its past; None where nobody looks."""
        if self.past is not None:
            return self.past.relation
        return Relation.UNREAD if self.recognised else None

    @property
    def races(self) -> tuple[Ref, ...]:
        """The turns that it raced."""
        if self.raced is not None:
            return self.raced
        return () if self.past is None else self.past.races

    @property
    def spawned(self) -> tuple[Ref, ...]:
        """The latest requests of the sub-agents that the answer called from which it goes on."""
        return () if self.past is None else self.past.spawned

    @property
    def request_id(self) -> str | None:
        """The request's own id; None before its identity is known."""
        return self.stray_id if self.turn is None else self.turn.request_id

    @property
    def asked_model(self) -> str | None:
        """The model asked for, by the body or the path."""
        return self.request.model or self.route.model

    @property
    def doing(self) -> str:
        """What its time goes to while it is in flight: `body`, `connect`, `wait` or `stream`."""
        if self.first_byte:
            return "stream"
        if self.sent:
            return "wait" if self.request_end else "body"
        return "connect" if self.asked else "body"

    @property
    def heard(self) -> int:
        """When the upstream was last heard of, else when it could have begun to answer; 0: it has not been asked."""
        return self.last_byte or self.first_byte or self.request_end or self.sent or self.asked

    @property
    def origin(self) -> Upstream:
        """Where it goes.

        Raises:
            RuntimeError: it has no upstream; such a request was to be refused before.
        """
        if self.upstream is None:
            raise RuntimeError("a refused request goes nowhere")
        return self.upstream

    @property
    def settled(self) -> bool:
        """True from the moment it is frozen on."""
        return self.end != 0

    def decide(
        self,
        outcome: Outcome,
        at: int,
        *,
        phase: Phase | None = None,
        error_type: str | None = None,
        message: str | None = None,
    ) -> bool:
        """Decides the outcome, unless an earlier fact has. Says whether this call decided."""
        if self.verdict is not None:
            return False
        self.verdict = Verdict(outcome, at, phase, error_type, message)
        return True

    def answer_began(self, status: int, at: int) -> None:
        """The final answer's head is known. A status of 400 or more decides; so does an answer without a body."""
        self.upstream_status = self.status = status
        if status >= 400:
            self.decide(Outcome.UPSTREAM_REJECTED, at, phase=Phase.BEFORE_HEADERS, error_type=str(status))
        elif self.head.method == "HEAD" or status in (204, 304):
            self.decide(COMPLETED, at, phase=END)

    def event_read(self, kind: EventKind, at: int) -> None:
        """An event of the answer has been read; terminators and error events decide."""
        self.stream.event(kind, at)
        if kind <= _CHUNK:
            return  # it only moves the clocks
        if kind is EventKind.END:
            self._stream_ended(at)
        else:
            self.decide(
                Outcome.ERROR_IN_STREAM,
                at,
                phase=Phase.MID_STREAM,
                error_type=self.response.error or "error",
            )

    def _stream_ended(self, at: int) -> None:
        """The API's terminator has come: an end, unless there was nothing of an answer before it."""
        told, small = self.response, self.stream.bytes <= _EMPTY
        something = self.stream.chunks or told.finish_reasons or told.tokens.get("output") or told.unreadable
        if small and self.watched and not something:
            self.upstream_failed(
                at, "no_answer", "the stream ended without output and without a finish reason"
            )
        else:
            self.decide(COMPLETED, at, phase=END)

    def answer_ended(self, at: int) -> None:
        """The answer's body ended cleanly framed. Whether that is an end depends on what the body was."""
        if self.response.error is not None:
            self.decide(
                Outcome.ERROR_IN_STREAM,
                at,
                phase=Phase.END,
                error_type=self.response.error,
            )
        elif self.streams and self._must_end and not self.response.finish_reasons:
            self.answer_cut(at)
        else:
            self.decide(COMPLETED, at, phase=END)

    @property
    def _must_end(self) -> bool:
        """The stream says itself when it is over, and could be read."""
        route = self.route
        return self.watched and (route.turn or route.fetches is not None)

    def answer_cut(self, at: int) -> None:
        """The answer broke off before its end."""
        self.upstream_failed(at, "cut_short", "the answer broke off before its end")

    def upstream_failed(self, at: int, word: str, message: str | None = None) -> bool:
        """The upstream refused, reset, or sent what is not HTTP; `word` is short and fixed."""
        asked = Phase.BEFORE_HEADERS if self.sent else Phase.CONNECT
        phase = asked if self.upstream_status is None else Phase.MID_STREAM
        return self.decide(Outcome.UPSTREAM_FAILED, at, phase=phase, error_type=word, message=message)

    def client_left(self, at: int) -> bool:
        """The client went away; says whether that decided the outcome."""
        phase = Phase.MID_STREAM if self.headers_at else Phase.BEFORE_HEADERS
        return self.decide(Outcome.CLIENT_LEFT, at, phase=phase)

    def settle(self, at: int) -> None:
        """Freezes the end. The outcome must have been decided; a second call is a bug.

        Raises:
            RuntimeError: the exchange has settled already, or nothing has decided its outcome.
        """
        if self.end or self.verdict is None:
            raise RuntimeError("an exchange settles once, after its outcome is decided")
        self.end = max(at, self.start)
        if self.response.unreadable and not _UNREAD.intersection(self.anomalies):
            self.anomalies.append(Anomaly.ANSWER_INVALID)
        if self.streams:
            self.stream.silent_until(self.verdict.at)


class Referring(Protocol):
    """A request, as far as it refers to others."""

    @property
    def turn(self) -> Turn | None:
        """What it is to its conversation."""

    @property
    def retry_of(self) -> Ref | None:
        """Which it retries."""

    @property
    def continues(self) -> Ref | None:
        """Whose answer it names."""

    @property
    def races(self) -> tuple[Ref, ...]:
        """Those that it raced."""

    @property
    def spawned_by(self) -> Ref | None:
        """Whose answer called it."""

    @property
    def spawned(self) -> tuple[Ref, ...]:
        """Those of the sub-agents that have done their part before it."""


def referred(one: Referring) -> Iterator[tuple[str, Ref]]:
    """All that a request refers to, and why (the values of `sidecar.link`); those that may be many come last."""
    turn = one.turn
    if turn is not None and turn.previous is not None:
        yield "previous", turn.previous
    if one.retry_of is not None:
        yield "retry_of", one.retry_of
    if one.continues is not None:
        yield "continues", one.continues
    for ref in one.races:
        yield "races", ref
    if one.spawned_by is not None:
        yield "spawned_by", one.spawned_by
    for ref in one.spawned:
        yield "spawned", ref
    if turn is not None:
        for ref in (*turn.overlaps, *turn.overlapped_by):
            yield "overlaps", ref


class Telemetry(Protocol):
    """The recorder as the relay sees it. Timestamps are ns since the epoch."""

    def begin(self, head: RequestHead, route: Route, start: int) -> Trace:
        """Chooses the ids of a request's spans and asks the sampler."""

    def started(self, exchange: Exchange) -> None:
        """A request is in flight from now on (its head is whole, or was refused)."""

    def arrived(self, exchange: Exchange) -> None:
        """Identity and arrival are known; `exchange.identity` and `exchange.turn` are set."""

    def streaming(self, exchange: Exchange) -> None:
        """The answer turned out to be a stream; it counts as an active stream until it settles."""

    def stalled(self, exchange: Exchange, at: int) -> None:
        """An answer has been silent for `STALL_AFTER`; called when it happens."""

    def settled(self, exchange: Exchange) -> None:
        """The exchange is frozen; called exactly once, after `exchange.settle`."""

    def orphaned(self) -> None:
        """Counts an answer that no later turn of its conversation has."""

    def anomaly(self, anomaly: Anomaly) -> None:
        """Counts something that should not happen and that belongs to no settled exchange."""
