"""The recorder: telemetry as the relay sees it, and as the session manager's listener.

Owns the one guard: whatever goes wrong in telemetry is caught here, counted, said once in a while, and never
touches a request; with `strict` it is raised on, for tests. It decides nothing and knows no wire; it hands
each event to the spans, the measures and the log. Called on the event loop only.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from random import Random
from typing import Protocol, TypeVar

from opentelemetry.sdk.trace.sampling import Sampler

from sidecar.core.clock import SECOND, STEADY, Clock, Wall
from sidecar.core.exchange import Exchange, RequestHead, Trace
from sidecar.core.facts import Anomaly, Outcome, Route
from sidecar.core.sessions import SessionListener, SessionRequest, SessionSummary
from sidecar.core.shown import shown
from sidecar.core.threads import RACES
from sidecar.core.turns import Guarded
from sidecar.telemetry import names as n
from sidecar.telemetry.factories import Record, RecordFactory, Span, SpanAttributes, SpanFactory, WayOut
from sidecar.telemetry.ledger import LINES, Signal, State, observe_ledger
from sidecar.telemetry.logs import (
    ERROR,
    INFO,
    WARNING,
    Lines,
    Log,
    LongRunning,
    RequestContext,
    level_of,
    recorded,
)
from sidecar.telemetry.measures import LiveSessions, Measures, SessionMeasures
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.queues import LINE, RECORDED_LINE, Calls, Together, Work, Worker
from sidecar.telemetry.request_attributes import (
    NOBODY,
    OwnAttributes,
    RequestAttributes,
    Shape,
    Shapes,
    anomalies_of,
    call_end,
    server_failed,
)
from sidecar.telemetry.spans import (
    MAX_LINKS,
    MOST_TO_MAKE,
    Replays,
    RequestSpans,
    SessionSpans,
    is_off,
    link_count,
    span_count,
    totals_attributes,
)
from sidecar.telemetry.trace import Propagation, RequestTrace, Tracer, ref_ids

_Given = TypeVar("_Given")

PROPAGATORS = ("tracecontext", "baggage")


class RecorderSettings(Protocol):
    """What the recorder takes from the settings."""

    @property
    def semconv(self) -> str:
        """`shipped`, `latest` or `both`."""

    @property
    def incoming_trace(self) -> str:
        """`parent`, `link` or `ignore`."""

    @property
    def forward_trace(self) -> bool:
        """Whether the upstream is told the trace."""

    @property
    def forward_baggage(self) -> str | Collection[str]:
        """`none`, `all`, or the names of members that go on."""

    @property
    def model_limit(self) -> int:
        """Distinct models kept apart in metrics."""

    @property
    def replay_limit(self) -> int:
        """Requests remembered for the replays of sessions; 0: there are none."""

    @property
    def quiet_paths(self) -> Collection[str]:
        """`GET /path` or `HEAD /path` each; a `*` at the end stands for anything."""


PROBED = frozenset({"GET", "HEAD"})
"""The methods of probes."""


class _Quiet:
    """Which requests are only counted: probes, by method and path."""

    def __init__(self, paths: Collection[str]) -> None:
        self._exact = frozenset(path for path in paths if not path.endswith("*"))
        self._below = tuple(path.removesuffix("*") for path in paths if path.endswith("*"))

    def __call__(self, exchange: Exchange) -> bool:
        """Nothing is told of it, unless the server fails."""
        head, upstream = exchange.head, exchange.upstream
        path = head.path
        if upstream is not None and path.startswith(f"/{upstream.name}/"):
            path = path.removeprefix(f"/{upstream.name}")
        asked = f"{head.method} {path}"
        return asked in self._exact or asked.startswith(self._below)


class Recorder:
    """Telemetry, whole (`core.exchange.Telemetry`). `listener` is for the session manager."""

    keep: Callable[[Exchange, Mapping[str, object], Mapping[str, object]], object] | None = None
    """Is given every settled exchange with the fields of its wide line, in two parts; by the worker."""
    not_kept: Callable[[], object] = int
    """Is told of each that it is not given, for want of time."""

    requests_started = requests_settled = requests_quiet = 0
    """Settled requests on quiet paths (`requests_quiet`) are among the settled, and nothing else is told of them."""
    _replays: Replays | None = None
    failures = 0
    """How often the guard caught something, in either thread."""

    def __init__(
        self,
        *,
        settings: RecorderSettings,
        pipeline: WayOut,
        store: MetricStore | None,
        clock: Clock,
        wall: Wall = STEADY,
        sampler: Sampler,
        propagators: Collection[str] = PROPAGATORS,
        lines: Lines,
        spans: SpanFactory | None,
        records: RecordFactory | None,
        random: Random | None = None,
        strict: bool = False,
    ) -> None:
        """`store` None: no metrics are read, so none are recorded; `spans` or `records` None: likewise."""
        self._worker = Worker(self._count_failure)
        self._made = Together(self._make_all)
        self._shapes = Shapes(settings.semconv)
        self._attributes_of = RequestAttributes(settings.semconv)
        self._pipeline = pipeline
        self._strict = strict
        self.quiet = _Quiet(settings.quiet_paths)
        self._clock = clock
        self._tracer = Tracer(sampler, _propagation(settings, propagators), random)
        self.anomalies: Counter[str] = Counter()
        """What should not have happened, by name."""
        self._spans = None if spans is None else RequestSpans(spans, self._tracer.span_id)
        self.log = Log(
            lines,
            clock=clock,
            wall=wall,
            worker=self._worker,
            lost=self._line_lost,
            records=records,
            export=pipeline.log,
        )
        self._long_running = LongRunning(self.log, clock, _request)
        pipeline.wait_for(self._worker)
        parts: list[SessionListener] = [_SessionLines(self.log, clock)]
        self._measures, self._session_measures = None, None
        if store is not None:
            store.asked = partial(self.guard, "metrics", store.asked)
            self._session_measures = SessionMeasures(store)
            bad_answer = self._session_measures.bad_answer
            self._measures = _measures(store, clock, self.anomalies, settings, bad_answer)
            parts.insert(0, self._session_measures)
            observe_ledger(store, pipeline.ledger)
        if spans is not None:
            parts.append(SessionSpans(spans, self._tracer, pipeline, sampler, wall))
            if settings.replay_limit and not is_off(sampler):
                parts.append(self._replaying(spans, wall, settings.replay_limit))
        self.listener: SessionListener = Guarded(self.guard, self.anomaly, parts)
        self.outcomes: Counter[str] = Counter()
        """Settled requests by outcome."""
        self._failing = threading.Lock()

    def _replaying(self, spans: SpanFactory, wall: Wall, limit: int) -> Replays:
        replays = Replays(spans, self._tracer, self._worker, self._pipeline, wall, limit)
        self._replays = replays
        self._worker.between = partial(self.guard, "replay", replays.make)
        return replays

    @property
    def requests_in_flight(self) -> int:
        """Started and not yet settled; refused requests are among them too."""
        return self.requests_started - self.requests_settled

    def attach(self, sessions: LiveSessions) -> None:
        """Lets the gauges ask the session manager at each snapshot. Once, by the composition root."""
        if self._session_measures is not None:
            self._session_measures.observe(sessions)

    def expect(self, upstreams: Iterable[str], *, histories: bool) -> None:
        """Has what is counted by fixed words told as 0 from now on, of these upstreams, and of turns' pasts if they are read."""
        if self._measures is not None and self._session_measures is not None:
            self._measures.begin(upstreams, histories=histories)
            self._session_measures.begin()

    def start(self) -> None:
        """Makes spans and lines in a thread of their own from now on."""
        self._worker.start()

    async def finish(self, timeout: float) -> bool:
        """Makes all that waits; what comes then is made at once. False if that takes longer than `timeout` seconds: it goes on."""
        return await Calls([self._worker.finish]).done(timeout)

    def make_replays(self, *, most: int = MOST_TO_MAKE) -> bool:
        """Hands over the replays of sessions that have ended, as there is room; True if none waits for it. After `finish`.

        `most` may wait on; the older ones are given up, their spans `dropped`.
        """
        replays = self._replays
        if replays is None:
            return True
        # Behind what the worker still has, if it did not come to its end in time.
        self._worker.put_anyway(LINE, self.guard, "replay", partial(replays.make, most=most))
        return not replays.waiting

    # core.exchange.Telemetry

    def begin(self, head: RequestHead, route: Route, start: int) -> Trace:  # noqa: ARG002 - the port's shape
        """Ids for a request's spans, its parent and the sampler's verdict."""
        try:
            return self._tracer.begin(head, route)
        except Exception as error:  # noqa: BLE001 - the guard
            self._caught("begin", error)
            return self._tracer.bare()

    def started(self, exchange: Exchange) -> None:
        """A request is in flight from now on."""
        self.requests_started += 1
        if self._measures is not None:
            self._measures.in_flight[id(exchange)] = exchange

    def arrived(self, exchange: Exchange) -> None:
        """It has joined its conversation."""
        try:
            if exchange.head.method in PROBED and self.quiet(exchange):
                return
            if self._measures is not None:
                self._measures.arrived(exchange)
            if self.log.may_pass(n.REQUEST_GENERATED, exchange.arrived):
                self._generated(exchange)
        except Exception as error:  # noqa: BLE001 - the guard
            self._caught("arrived", error)

    def streaming(self, exchange: Exchange) -> None:
        """Its answer is a stream."""
        if self._measures is not None:
            self.guard("streaming", self._measures.streaming, exchange)

    def orphaned(self) -> None:
        """An answer has turned out to be one that no later turn of its conversation has."""
        if self._measures is not None:
            self.guard("orphaned", self._measures.orphaned)

    def stalled(self, exchange: Exchange, at: int) -> None:
        """Its answer has been silent for too long, since before `at`."""
        self.guard("stalled", self._stalled, exchange, at)

    def settled(self, exchange: Exchange) -> None:
        """It is frozen: spans, metric points and the wide line are made of it, unless it was a probe that went well."""
        verdict, identity = exchange.verdict, exchange.identity
        self.requests_settled += 1
        self.outcomes[Outcome.INTERNAL_ERROR if verdict is None else verdict.outcome] += 1
        if exchange.head.method in PROBED and self.guard("quiet", self._untold, exchange):
            self.requests_quiet += 1
            if self._measures is not None:
                self.guard("left", self._measures.left, exchange)
            return
        if exchange.anomalies or (identity is not None and identity.anomalies):
            self.guard("anomalies", self._count_anomalies, exchange)
        try:
            shape = self._shapes.of(exchange)
        except Exception as error:  # noqa: BLE001 - the guard
            self.guard("not told", self._not_told, exchange)
            self._caught("shape", error)
            return
        if self._measures is not None:
            try:
                self._measures.settled(exchange, shape)
            except Exception as error:  # noqa: BLE001 - the guard: its spans and its line are made all the same
                self._caught("settled", error)
        try:
            self._put_off(exchange, shape)
        except Exception as error:  # noqa: BLE001 - the guard
            self.guard("not told", self._not_told, exchange)
            self._caught("put off", error)

    def long_running(self, exchanges: Iterable[Exchange], after: int) -> None:
        """Says which requests in flight have been running for `after` ns, or for that long again since the last call."""
        self.guard("long running", self._long_running.look, exchanges, after)

    def anomaly(self, anomaly: Anomaly) -> None:
        """Something that should not happen, outside any settled exchange."""
        self.anomalies[anomaly.value] += 1

    def record_lag(self, lag: int) -> None:
        """How late the event loop ran a timer, ns."""
        if self._measures is not None:
            self.guard("record_lag", self._measures.record_lag, lag)

    def close(self) -> None:
        """Says what the log left out. After the last event."""
        self.guard("close", self.log.flush)

    # The guard

    def guard(self, what: str, call: Callable[..., _Given], *given: object) -> _Given | None:
        """What the call gives; what it raises is caught, counted and logged (or raised on if strict): then None."""
        try:
            return call(*given)
        except Exception as error:  # noqa: BLE001 - the guard
            self._caught(what, error)
            return None

    def _count_failure(self, _error: Exception) -> None:
        with self._failing:
            self.failures += 1

    def _caught(self, what: str, error: Exception) -> None:
        self._count_failure(error)
        if self._strict:
            raise error
        try:
            fields: SpanAttributes = {n.MESSAGE: f"{what}: {type(error).__name__}: {shown(str(error))}"}
            self.log.event(n.TELEMETRY_FAILED, ERROR, self._clock(), fields)
        except Exception:  # noqa: BLE001, S110 - the guard: stderr is gone, and the count remains
            pass

    # What the events mean

    def _untold(self, exchange: Exchange) -> bool:
        """A probe that went well."""
        return self.quiet(exchange) and not server_failed(exchange)

    def _count_anomalies(self, exchange: Exchange) -> None:
        self.anomalies.update(anomalies_of(exchange))

    def _generated(self, exchange: Exchange) -> None:
        turn = exchange.turn
        fields: SpanAttributes = {}
        if turn is not None:
            fields = {n.SEQUENCE: turn.sequence, n.OVERLAPS: turn.overlap_count}
        self.log.always(n.REQUEST_GENERATED, INFO, exchange.arrived, fields, _request(exchange))

    def _stalled(self, exchange: Exchange, at: int) -> None:
        if self._measures is not None:
            self._measures.stalled(exchange)
        silent = at - (exchange.stream.last_event or exchange.first_byte or exchange.sent or exchange.start)
        self.log.event(
            n.REQUEST_STALLED, WARNING, at, {n.STALL_DURATION: silent / SECOND}, _request(exchange)
        )

    def _make_all(self, settled: Sequence[tuple[Exchange, Shape]]) -> Callable[[], object]:
        """In the worker: what nobody waits for. A step is taken for all of them before the next. Gives what hands it over."""
        told = [
            (exchange, shape, own)
            for exchange, shape in settled
            if (own := self.guard("attributes", self._attributes_of, exchange, shape)) is not None
        ]
        spans: list[list[Span]] = []
        if self._spans is not None:
            spans = self._each("spans", partial(self._make_spans, self._spans), told)
        lines = self._each("wide line", self._wide_line, told)
        records = self._each("record", self._record, told)
        if self._replays is not None:
            self._each("replay", self._replays.keep, settled)
        lost: Callable[[], object] = int
        whole = len(settled)
        if not whole == len(lines) == len(records) == (whole if self._spans is None else len(spans)):
            lost = partial(self._not_all, settled, spans, lines, records)
        made = [*chain.from_iterable(spans)]
        return partial(self._hand_over, made, lines, [*chain.from_iterable(records)], lost)

    def _hand_over(
        self, spans: list[Span], lines: list[bytes], records: list[Record], lost: Callable[[], object]
    ) -> None:
        if spans:
            self.guard("spans", self._pipeline.span, *spans)
        self.guard("wide line", self.log.give, lines, records)
        lost()

    def _not_all(
        self,
        settled: Sequence[tuple[Exchange, Shape]],
        spans: Sequence[Sequence[Span]],
        lines: Sequence[bytes],
        records: Sequence[Sequence[Record]],
    ) -> None:
        """Counts what the guard has caught the making of: what was to be made, but for what was."""
        to_make = sum(shape.work.spans for exchange, shape in settled if shape.work and _sampled(exchange))
        to_tell = sum(shape.work.records for _, shape in settled if shape.work)
        work = Work(to_make - sum(map(len, spans)), to_tell - sum(map(len, records)))
        self._lost(work, len(settled) - len(lines))

    def _each(
        self, what: str, make: Callable[..., _Given], given: Iterable[tuple[object, ...]]
    ) -> list[_Given]:
        """What is made of each, but of those that raise."""
        return [made for one in given if (made := self.guard(what, make, *one)) is not None]

    def _put_off(self, exchange: Exchange, shape: Shape) -> None:
        work = shape.work
        if work is None:
            spans = 0 if self._spans is None else span_count(exchange)
            work = shape.work = Work(spans, 1 + _tells_failed_call(exchange, shape))
        if work.spans:
            turn, past, trace = exchange.turn, exchange.past, exchange.trace
            # Without these it has a handful of links.
            met = turn is not None and (turn.concurrency > 1 or turn.overlapped_by)
            raced = past is not None and (past.rivals or past.relation is RACES)
            if (met or raced) and link_count(exchange) > MAX_LINKS:
                self.anomaly(Anomaly.LINKS_CAP)
            if not (isinstance(trace, RequestTrace) and trace.sampled):
                self._pipeline.not_made(Signal.TRACES, work.spans)
                work = RECORDED_LINE if work.records == 1 else Work(0, work.records)
        if not self._worker.put(work, self._made, exchange, shape):
            self._lost(work)
            self.not_kept()

    def _not_told(self, exchange: Exchange) -> None:
        """It is in flight no more; of what would have been made of it, with one log record, nothing is."""
        if self._measures is not None:
            self._measures.left(exchange)
        spans = 0 if self._spans is None else span_count(exchange)
        if _sampled(exchange):
            self._lost(Work(spans, 1))
        else:
            self._pipeline.not_made(Signal.TRACES, spans)
            self._lost(RECORDED_LINE)
        self.not_kept()

    def _line_lost(self, records: int = 1) -> None:
        self._lost(Work(0, records))

    def _lost(self, work: Work, lines: int = 1) -> None:
        """Not made: by the worker, for want of room or because the guard has caught something."""
        self._pipeline.not_made(Signal.TRACES, work.spans, State.DROPPED)
        self._pipeline.not_made(Signal.LOGS, work.records, State.DROPPED)
        self._pipeline.ledger.account(LINES).not_made(lines, State.DROPPED)

    def _make_spans(
        self, spans: RequestSpans, exchange: Exchange, shape: Shape, own: OwnAttributes
    ) -> list[Span]:
        trace = exchange.trace
        return (
            spans.build(exchange, trace, shape, own)
            if isinstance(trace, RequestTrace) and trace.sampled
            else []
        )

    def _wide_line(self, exchange: Exchange, shape: Shape, own: OwnAttributes) -> bytes:
        fields = {**own.client.values, **own.server.values, **own.line.values}
        if own.who is not NOBODY:
            fields[n.SESSION_SOURCE] = own.who.records.values[n.SESSION_SOURCE]
        if n.SEQUENCE in own.ids.values:
            fields[n.SEQUENCE] = own.ids.values[n.SEQUENCE]
        if self.keep is not None:
            self.guard("keep", self.keep, exchange, fields, own.alike.values)
        level = level_of(shape.outcome)
        return self.log.line(shape.event, level, exchange.end, fields, _request(exchange), own.alike)

    def _record(self, exchange: Exchange, shape: Shape, own: OwnAttributes) -> list[Record]:
        """The wide line as a log record, which says the same; with the event of a call that failed."""
        attributes = (own.alike, own.who.records, own.ids, own.client, own.server, own.line)
        level = level_of(shape.outcome)
        records = self.log.record(shape.event, level, exchange.end, attributes, _request(exchange))
        if _tells_failed_call(exchange, shape):
            records += self._call_failed(exchange, shape)
        return records

    def _call_failed(self, exchange: Exchange, shape: Shape) -> list[Record]:
        """The event that the conventions have for a model call, if its span is an error."""
        verdict = exchange.verdict
        fields: SpanAttributes = {n.EXCEPTION_TYPE: shape.error or shape.outcome.value}
        if verdict is not None and verdict.message:
            fields[n.EXCEPTION_MESSAGE] = shown(verdict.message)
        context = _request(exchange, exchange.trace.client_span_id)
        return self.log.record(
            n.CALL_FAILED, WARNING, call_end(exchange), (recorded(fields, context),), context
        )


def _sampled(exchange: Exchange) -> bool:
    """Its spans are to be made."""
    trace = exchange.trace
    return isinstance(trace, RequestTrace) and trace.sampled


def _tells_failed_call(exchange: Exchange, shape: Shape) -> bool:
    """A model call's span is an error, of which there is an event."""
    return shape.client is not None and shape.client_failed and exchange.route.operation is not None


def _measures(
    store: MetricStore,
    clock: Clock,
    anomalies: Counter[str],
    settings: RecorderSettings,
    bad_answer: Callable[[str], object],
) -> Measures:
    return Measures(
        store,
        clock,
        anomalies,
        bad_answer=bad_answer,
        semconv=settings.semconv,
        model_limit=settings.model_limit,
    )


def _propagation(settings: RecorderSettings, propagators: Collection[str]) -> Propagation:
    return Propagation.of(
        incoming_trace=settings.incoming_trace,
        forward_trace=settings.forward_trace,
        forward_baggage=settings.forward_baggage,
        propagators=propagators,
    )


def _request(exchange: Exchange, span_id: int | None = None) -> RequestContext:
    """What every line of the request carries: the ids of its SERVER span, or of the span given."""
    trace, identity = exchange.trace, exchange.identity
    return RequestContext(
        trace.trace_id,
        trace.server_span_id if span_id is None else span_id,
        trace.sampled,
        identity.session_id if identity is not None else None,
        identity.conversation_id if identity is not None else None,
        exchange.request_id,
    )


class _SessionLines(SessionListener):
    """The log events of sessions, and of turns out of order."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    def session_started(self, session_id: str, source: str, at: int) -> None:
        """`session.start`."""
        fields: SpanAttributes = {n.SESSION_ID: session_id, n.SESSION_SOURCE: str(source)}
        self._log.event(n.SESSION_START, INFO, at, fields)

    def session_ended(self, summary: SessionSummary) -> None:
        """`session.end`, with the session's sums."""
        fields: SpanAttributes = {
            n.SESSION_ID: summary.session_id,
            n.SESSION_SOURCE: str(summary.source),
            n.DURATION: (summary.ended_at - summary.started_at) / SECOND,
            n.TOTAL_CONVERSATIONS: summary.conversations,
            **totals_attributes(summary.totals),
        }
        # Told when it is known: its last ending may be half an hour ago, and log stores want lines in order.
        self._log.event(n.SESSION_END, INFO, self._clock(), fields)

    def response_out_of_order(self, request: SessionRequest, distance: int) -> None:
        """`sidecar.request.out_of_order`."""
        context = RequestContext(
            *ref_ids(request.ref),
            request.sampled,
            request.session_id,
            request.conversation_id,
            request.request_id,
        )
        fields: SpanAttributes = {n.SEQUENCE: request.sequence, n.DISTANCE: distance}
        self._log.event(n.REQUEST_OUT_OF_ORDER, INFO, self._clock(), fields, context)
