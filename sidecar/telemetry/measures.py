"""The metrics of a request's life, from arrival to settling; of sessions; and of the process itself.

Owns which numbers are recorded when. The series they go to are found once for all requests that are alike; what
others choose (models, error words) is bounded first. It only adds to the accumulators of `metric_store.py`. What the
process is (`process.*`, by psutil) is read when a snapshot asks, and nothing of another process ever is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import psutil

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.sessions import Revealed, SessionListener, SessionSummary
from sidecar.core.threads import Past
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.bounded import Cap, known_method
from sidecar.telemetry.ledger import Ledger
from sidecar.telemetry.metric_store import (
    Attributes,
    CounterSeries,
    ExemplarContext,
    HistogramSeries,
    MetricStore,
    Observations,
)
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.request_attributes import Shape, call_end, provider_of, request_model
from sidecar.telemetry.trace import ref_ids

_LATEST_TOKENS = {
    "input": metrics.INFERENCE_INPUT_TOKENS,
    "output": metrics.INFERENCE_OUTPUT_TOKENS,
    "cache_read": metrics.INFERENCE_CACHE_READ_TOKENS,
    "cache_write": metrics.INFERENCE_CACHE_WRITE_TOKENS,
    "reasoning": metrics.INFERENCE_REASONING_TOKENS,
}

_DETAILS = ("cache_read", "cache_write", "reasoning")


def attribute_set(*pairs: tuple[str, str | bool | int | None]) -> Attributes:
    """The pairs whose value is known, sorted by name: the key of one series."""
    return tuple(sorted((name, value) for name, value in pairs if value is not None))


class Alike(NamedTuple):
    """What requests have in common that are counted on the same series."""

    upstream: str | None
    template: str
    operation: str | None
    provider: str | None
    asked: str | None
    answered: str | None
    streaming: bool
    method: str
    scheme: str
    status: int | None
    outcome: str
    phase: str | None
    error: str | None
    failed: bool
    reason: str
    host: str | None
    port: int | None


class RequestSeries:
    """The series of requests that are alike; those never recorded on cost nothing but their handles."""

    __slots__ = (
        "between",
        "details",
        "duration",
        "embeddings_duration",
        "embeddings_input",
        "finish",
        "first",
        "gap",
        "http",
        "input",
        "latest_between",
        "latest_duration",
        "latest_first",
        "latest_input",
        "latest_output",
        "latest_tokens",
        "output",
        "requests",
    )

    def __init__(self, store: MetricStore, alike: Alike) -> None:
        models = (
            (n.PROVIDER, alike.provider),
            (n.REQUEST_MODEL, alike.asked),
            (n.UPSTREAM, alike.upstream),
        )
        shared = (*models, (n.OPERATION, alike.operation), (n.STREAMING, alike.streaming))
        server = (n.SERVER_ADDRESS, alike.host), (n.SERVER_PORT, alike.port)
        call = (*shared, *server, (n.RESPONSE_MODEL, alike.answered))
        error = (n.ERROR_TYPE, alike.error)
        whole, chunks = attribute_set(*call, error), attribute_set(*call)
        modality = attribute_set(*call, (n.TOKEN_MODALITY, "unknown"))
        self.requests = store.counter(
            metrics.REQUESTS,
            attribute_set(*shared, (n.OUTCOME, alike.outcome), (n.PHASE, alike.phase), error),
        )
        self.http = store.histogram(
            metrics.HTTP_DURATION,
            attribute_set(
                (n.METHOD, alike.method),
                (n.SCHEME, alike.scheme),
                (n.STATUS, alike.status),
                (n.ROUTE, alike.template),
                (n.ERROR_TYPE, alike.error if alike.failed else None),
            ),
        )
        self.finish = store.counter(
            metrics.FINISH_REASONS,
            attribute_set(*models, (n.FINISH_REASON, alike.reason), (n.OPERATION, alike.operation)),
        )
        self.gap = store.histogram(metrics.STREAM_GAP, attribute_set(*models))
        self.duration = store.histogram(metrics.OPERATION_DURATION, whole)
        self.first = store.histogram(metrics.OPERATION_FIRST_CHUNK, chunks)
        self.between = store.histogram(metrics.OPERATION_PER_CHUNK, chunks)
        self.input = store.histogram(metrics.TOKEN_USAGE, attribute_set(*call, (n.TOKEN_TYPE, "input")))
        self.output = store.histogram(metrics.TOKEN_USAGE, attribute_set(*call, (n.TOKEN_TYPE, "output")))
        self.details = {
            kind: store.counter(metrics.TOKEN_DETAILS, attribute_set(*call, (n.TOKEN_DETAIL, kind)))
            for kind in _DETAILS
        }
        self.latest_duration = store.histogram(metrics.INFERENCE_DURATION, whole)
        self.latest_first = store.histogram(metrics.INFERENCE_FIRST_CHUNK, chunks)
        self.latest_between = store.histogram(metrics.INFERENCE_PER_CHUNK, chunks)
        self.latest_input = store.histogram(metrics.INFERENCE_CALL_INPUT_TOKENS, whole)
        self.latest_output = store.histogram(metrics.INFERENCE_CALL_OUTPUT_TOKENS, whole)
        self.embeddings_duration = store.histogram(metrics.EMBEDDINGS_DURATION, whole)
        self.embeddings_input = store.histogram(metrics.EMBEDDINGS_CALL_INPUT_TOKENS, chunks)
        self.latest_tokens = {
            kind: store.counter(metric, modality) for kind, metric in _LATEST_TOKENS.items()
        }


class UpstreamSeries:
    """The series of requests to one upstream."""

    __slots__ = (
        "attributes",
        "blocked",
        "bytes",
        "concurrency",
        "distance",
        "events",
        "out_of_order",
        "overlaps",
        "retries",
        "stalls",
        "think_time",
        "turns",
    )

    def __init__(self, store: MetricStore, name: str | None) -> None:
        self.attributes = attributes = attribute_set((n.UPSTREAM, name))
        self.blocked = store.histogram(metrics.BACKPRESSURE, attributes)
        self.bytes = store.counter(metrics.STREAM_BYTES, attributes)
        self.concurrency = store.histogram(metrics.CONCURRENCY, attributes)
        self.distance = store.histogram(metrics.DISTANCE, attributes)
        self.events = store.counter(metrics.STREAM_EVENTS, attributes)
        self.out_of_order = store.counter(metrics.OUT_OF_ORDER, attributes)
        self.overlaps = store.counter(metrics.OVERLAPS, attributes)
        self.retries = store.counter(metrics.RETRIES, attributes)
        self.stalls = store.counter(metrics.STREAM_STALLS, attributes)
        self.think_time = store.histogram(metrics.THINK_TIME, attributes)
        self.turns = store.counter(metrics.TURNS, attributes)


def series_of(
    shape: Shape, exchange: Exchange, asked: str | None, answered: str | None, operation: str | None
) -> Alike:
    """What its series are told apart by; the models and the operation as they are told."""
    upstream, head = exchange.upstream, exchange.head
    return Alike(
        None if upstream is None else upstream.name,
        exchange.route.template,
        operation,
        provider_of(exchange),
        asked,
        answered,
        shape.streaming,
        known_method(head.method),
        head.scheme,
        exchange.status,
        shape.outcome.value,
        shape.phase,
        shape.error,
        shape.server_failed,
        shape.reason,
        None if upstream is None else upstream.host,
        None if upstream is None else upstream.port,
    )


_FETCHED = "chat"
"""The operation that made an answer which is asked for by its id: its tokens count there."""


class _Flight(NamedTuple):
    start: int
    upstream: Attributes


class Measures:
    """Records everything that `metrics.py` defines, but the process's and the ledger's own."""

    def __init__(
        self, store: MetricStore, clock: Clock, anomalies: Counter[str], *, semconv: str, model_limit: int
    ) -> None:
        """`anomalies` is what has been counted, by name; what is capped here is added to it."""
        self._store = store
        self._clock = clock
        self._shipped = semconv != "latest"
        self._latest = semconv != "shipped"
        self._request_model = Cap(model_limit, partial(_count, anomalies))
        self._response_model = Cap(model_limit, partial(_count, anomalies))
        store.full = partial(_count, anomalies, Anomaly.SERIES_CAP)
        self._upstreams: dict[str | None, UpstreamSeries] = {}
        self._words: dict[tuple[Metric, str], CounterSeries] = {}
        self._flights: dict[int, _Flight] = {}
        self._streams: dict[int, Attributes] = {}
        self._active: dict[Attributes, int] = {}
        self._streaming: dict[Attributes, int] = {}
        self._overheads = tuple(
            store.histogram(metrics.OVERHEAD, ((n.OVERHEAD_PART, part),))
            for part in ("before", "after", "loop")
        )
        self._lag = store.histogram(metrics.LOOP_LAG)
        store.observe(metrics.REQUESTS_ACTIVE, lambda: _levels(self._active))
        store.observe(metrics.STREAMS_ACTIVE, lambda: _levels(self._streaming))
        store.observe(metrics.OLDEST_AGE, self._oldest)
        store.observe(
            metrics.ANOMALIES, lambda: ((count, ((n.ANOMALY, word),)) for word, count in anomalies.items())
        )

    # What the relay tells

    def started(self, exchange: Exchange) -> None:
        """A request is in flight."""
        upstream = self._upstream(exchange).attributes
        self._flights[id(exchange)] = _Flight(exchange.start, upstream)
        self._active[upstream] = self._active.get(upstream, 0) + 1

    def arrived(self, exchange: Exchange) -> None:
        """It joined its conversation: who it is, and whom it met there."""
        identity, turn = exchange.identity, exchange.turn
        if identity is not None:
            source = identity.source.value if exchange.route.turn else metrics.NO_TURN
            self._word(metrics.IDENTITY, n.SESSION_SOURCE, source).add()
        upstream = self._upstream(exchange)
        if exchange.retry:
            upstream.retries.add()
        if turn is None or not turn.concurrency:
            return
        exemplar, at = _server_exemplar(exchange), exchange.arrived
        upstream.concurrency.record(turn.concurrency, exemplar, at)
        if turn.overlaps:
            upstream.overlaps.add()
        if turn.think_time is not None:
            upstream.think_time.record(turn.think_time / SECOND, exemplar, at)

    def streaming(self, exchange: Exchange) -> None:
        """Its answer is a stream, until it settles."""
        if id(exchange) not in self._streams:
            upstream = self._upstream(exchange).attributes
            self._streams[id(exchange)] = upstream
            self._streaming[upstream] = self._streaming.get(upstream, 0) + 1

    def stalled(self, exchange: Exchange) -> None:
        """Its answer is silent."""
        self._upstream(exchange).stalls.add()

    def left(self, exchange: Exchange) -> None:
        """It is in flight no more."""
        flight = self._flights.pop(id(exchange), None)
        if flight is not None:
            self._active[flight.upstream] -= 1
        stream = self._streams.pop(id(exchange), None)
        if stream is not None:
            self._streaming[stream] -= 1

    def settled(self, exchange: Exchange, shape: Shape) -> None:
        """It is frozen."""
        self.left(exchange)
        series = self._series(exchange, shape, exchange.route.operation)
        series.requests.add()
        server, end = _server_exemplar(exchange), exchange.end
        series.http.record((end - exchange.start) / SECOND, server, end)
        if shape.client is not None:
            before, after, loop = self._overheads
            before.record(exchange.overhead_before / SECOND, server, end)
            after.record(exchange.overhead_after / SECOND, server, end)
            loop.record(exchange.overhead_loop / SECOND, server, end)
            self._call(exchange, shape, series)
        if exchange.route.turn:
            self._turn(exchange, shape, series, server)
        if exchange.streams:
            self._stream(exchange, series, server)

    def record_lag(self, lag: int) -> None:
        """How late the event loop ran a timer, ns."""
        self._lag.record(lag / SECOND)

    # Parts of settling

    def _call(self, exchange: Exchange, shape: Shape, series: RequestSeries) -> None:
        """What the upstream call was, and what it told."""
        trace = exchange.trace
        exemplar = ExemplarContext(trace.trace_id, trace.client_span_id, trace.sampled)
        if exchange.route.operation is not None:
            self._operation(exchange, series, exemplar)
        elif exchange.response.tokens:
            self._tokens(exchange, self._series(exchange, shape, _FETCHED), exemplar)

    def _operation(self, exchange: Exchange, series: RequestSeries, exemplar: ExemplarContext) -> None:
        """The GenAI metrics of the upstream call, under the conventions chosen."""
        at, inference = exchange.end, metrics.is_inference(exchange.route.operation or "")
        duration = (call_end(exchange) - exchange.asked) / SECOND
        if self._shipped:
            series.duration.record(duration, exemplar, at)
            _chunks(exchange, series.first, series.between, exemplar)
        if self._latest and inference:
            series.latest_duration.record(duration, exemplar, at)
            _chunks(exchange, series.latest_first, series.latest_between, exemplar)
        elif self._latest:
            series.embeddings_duration.record(duration, exemplar, at)
        self._tokens(exchange, series, exemplar)

    def _tokens(self, exchange: Exchange, series: RequestSeries, exemplar: ExemplarContext) -> None:
        """The tokens that the answer told, under the conventions chosen."""
        tokens, at = exchange.response.tokens, exchange.end
        given, made = tokens.get("input"), tokens.get("output")
        if self._shipped:
            _record_told(series.input, given, exemplar, at)
            _record_told(series.output, made, exemplar, at)
            _add_tokens(tokens, series.details)
        if self._latest and metrics.is_inference(exchange.route.operation or _FETCHED):
            _record_told(series.latest_input, given, exemplar, at)
            _record_told(series.latest_output, made, exemplar, at)
            _add_tokens(tokens, series.latest_tokens)
        elif self._latest:
            _record_told(series.embeddings_input, given, exemplar, at)

    def _turn(
        self, exchange: Exchange, shape: Shape, series: RequestSeries, exemplar: ExemplarContext
    ) -> None:
        """Figures of a request that generates; those of the queue only if somebody named its session."""
        answered = exchange.upstream_status is not None and exchange.upstream_status < 400
        # A caller that left took its own chance to see a reason: that is not the response's omission.
        if exchange.response.finish_reasons or (answered and shape.outcome is not Outcome.CLIENT_LEFT):
            series.finish.add()
        if (relation := exchange.relation) is not None:
            self._word(metrics.TURNS_RELATED, n.TURN_RELATION, relation.value).add()
        if exchange.past is not None:
            self._prompt(exchange, exchange.past)
        turn = exchange.turn
        if not shape.completed or turn is None or not turn.concurrency:
            return
        upstream = self._upstream(exchange)
        upstream.turns.add()
        if turn.distance:
            upstream.out_of_order.add()
            upstream.distance.record(turn.distance, exemplar, exchange.end)

    def _prompt(self, exchange: Exchange, past: Past) -> None:
        """What became of the prompt before this one, and what the provider read anew."""
        broke = past.broke_at
        if broke is not None:
            self._word(metrics.PROMPT_BREAKS, n.BROKE_AT, broke.value).add()
        if exchange.read_anew:
            where = "none" if broke is None else broke.value
            self._word(metrics.READ_ANEW, n.BROKE_AT, where).add(exchange.read_anew)

    def orphaned(self) -> None:
        """An answer that no later turn of its conversation has."""
        self._store.counter(metrics.ORPHANED, ()).add()

    def _stream(self, exchange: Exchange, series: RequestSeries, exemplar: ExemplarContext) -> None:
        stream, upstream, at = exchange.stream, self._upstream(exchange), exchange.end
        upstream.events.add(stream.events)
        upstream.bytes.add(stream.bytes)
        upstream.blocked.record(stream.blocked / SECOND, exemplar, at)
        series.gap.record(stream.gap / SECOND, exemplar, at)

    # Series, each found once

    def _upstream(self, exchange: Exchange) -> UpstreamSeries:
        name = exchange.upstream.name if exchange.upstream is not None else None
        found = self._upstreams.get(name)
        if found is None:
            found = self._upstreams[name] = UpstreamSeries(self._store, name)
        return found

    def _word(self, metric: Metric, attribute: str, word: str) -> CounterSeries:
        """The counter of one word of a fixed list."""
        found = self._words.get((metric, word))
        if found is None:
            found = self._words[metric, word] = self._store.counter(metric, ((attribute, word),))
        return found

    def _series(self, exchange: Exchange, shape: Shape, operation: str | None) -> RequestSeries:
        """The series of requests like this one, whose models are told as far as there is room for them."""
        asked, answered = request_model(exchange), exchange.response.model
        completed, end = shape.completed, exchange.end
        key = (
            self._request_model(asked, end, completed=completed) if asked else None,
            self._response_model(answered, end, completed=completed) if answered else None,
            operation,
        )
        found = shape.series.get(key)
        if found is None:
            found = shape.series[key] = RequestSeries(self._store, series_of(shape, exchange, *key))
        return found

    def _oldest(self) -> Iterator[tuple[float, Attributes]]:
        if self._flights:
            oldest = min(flight.start for flight in self._flights.values())
            yield max(0, self._clock() - oldest) / SECOND, ()
        else:
            yield 0.0, ()


def _chunks(
    exchange: Exchange, first: HistogramSeries, between: HistogramSeries, exemplar: ExemplarContext
) -> None:
    """When the first chunk came, and the times between the others."""
    stream = exchange.stream
    if not exchange.streams or not stream.first_chunk:
        return
    first.record((stream.first_chunk - exchange.asked) / SECOND, exemplar, exchange.end)
    if stream.chunks > 1:
        between.record_buckets(
            stream.chunk_counts,
            stream.chunk_sum / SECOND,
            stream.chunk_min / SECOND,
            stream.chunk_max / SECOND,
            exemplar,
            exchange.end,
        )


def _record_told(series: HistogramSeries, count: int | None, exemplar: ExemplarContext, at: int) -> None:
    """A count of tokens, if there was one."""
    if count is not None:
        series.record(count, exemplar, at)


def _add_tokens(tokens: Mapping[str, int], counters: Mapping[str, CounterSeries]) -> None:
    """Adds what was told, each count to its own counter."""
    for kind, counter in counters.items():
        if count := tokens.get(kind, 0):
            counter.add(count)


def _count(anomalies: Counter[str], anomaly: Anomaly) -> None:
    anomalies[anomaly.value] += 1


def _levels(levels: dict[Attributes, int]) -> Iterator[tuple[int, Attributes]]:
    return ((value, attributes) for attributes, value in levels.items())


def _server_exemplar(exchange: Exchange) -> ExemplarContext:
    trace = exchange.trace
    return ExemplarContext(trace.trace_id, trace.server_span_id, trace.sampled)


def observe_ledger(store: MetricStore, ledger: Ledger) -> None:
    """Lets the store ask the ledger what became of every item, and how many wait."""
    store.observe(
        metrics.TELEMETRY_ITEMS,
        lambda: (
            (count, ((n.TELEMETRY_SIGNAL, signal), (n.TELEMETRY_STATE, state)))
            for signal, state, count in ledger.items()
        ),
    )
    store.observe(
        metrics.TELEMETRY_QUEUE,
        lambda: ((count, ((n.TELEMETRY_SIGNAL, signal),)) for signal, count in ledger.queues()),
    )


class LiveSessions(Protocol):
    """What is asked of the session manager at each snapshot."""

    @property
    def sessions_active(self) -> int:
        """Sessions live now."""

    @property
    def conversations_active(self) -> int:
        """Conversations live now."""

    @property
    def conversations_busy(self) -> int:
        """Conversations with a request in flight."""

    @property
    def overlapping(self) -> int:
        """Turns in flight that a queue would hold: over conversations, the sum of those beyond the first."""

    @property
    def most_concurrent(self) -> int:
        """Turns in flight in the busiest conversation."""

    def hear_waits(self, told: Callable[[Revealed], object]) -> None:
        """Calls `told`, which never raises, with every wait that becomes known."""


class SessionMeasures(SessionListener):
    """Records what happens to sessions."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._wait_avoided = store.histogram(metrics.WAIT_AVOIDED)

    def observe(self, sessions: LiveSessions) -> None:
        """Lets the store ask `sessions` for its gauges at each snapshot."""
        observe = self._store.observe
        observe(metrics.SESSIONS_ACTIVE, lambda: [(sessions.sessions_active, ())])
        observe(metrics.CONVERSATIONS_ACTIVE, lambda: [(sessions.conversations_active, ())])
        observe(metrics.CONVERSATIONS_BUSY, lambda: [(sessions.conversations_busy, ())])
        observe(metrics.REQUESTS_OVERLAPPING, lambda: [(sessions.overlapping, ())])
        observe(metrics.CONCURRENCY_MAX, lambda: [(sessions.most_concurrent, ())])

    def session_started(self, session_id: str, source: str, at: int) -> None:  # noqa: ARG002
        """One more session, by the rule that named it."""
        self._store.add(metrics.SESSIONS, 1, _source(source))

    def session_ended(self, summary: SessionSummary) -> None:
        """How long it was and how many requests it had."""
        source = _source(summary.source)
        duration = (summary.ended_at - summary.started_at) / SECOND
        self._store.record(metrics.SESSION_DURATION, duration, source, None, summary.ended_at)
        requests = sum(summary.totals.requests.values())
        self._store.record(metrics.SESSION_REQUESTS, requests, source, None, summary.ended_at)

    def wait_avoided(self, revealed: Revealed) -> None:
        """The queue wait that a turn was spared."""
        wait, ref, sampled = revealed
        self._wait_avoided.record(wait / SECOND, ExemplarContext(*ref_ids(ref), sampled))

    def waits_unknown(self, count: int) -> None:
        """Waits that were given up."""
        self._store.add(metrics.WAIT_UNKNOWN, count)


def _source(source: str) -> Attributes:
    return ((n.SESSION_SOURCE, str(source)),)


def observe_process(store: MetricStore, process: psutil.Process | None = None) -> None:
    """Lets the store ask for this process's CPU time, memory, open files (Unix) and threads."""
    own = process or psutil.Process()

    def cpu() -> Observations:
        times = own.cpu_times()
        return ((times.user, ((n.CPU_MODE, "user"),)), (times.system, ((n.CPU_MODE, "system"),)))

    def observe(metric: Metric, read: Callable[[], Observations]) -> None:
        def callback() -> Observations:
            try:
                return read()
            except (OSError, psutil.Error):
                # Reading takes a file descriptor: without one, this is not known, and all else goes out.
                return ()

        store.observe(metric, callback)

    observe(metrics.PROCESS_CPU, cpu)
    observe(metrics.PROCESS_MEMORY, lambda: [(own.memory_info().rss, ())])
    observe(metrics.PROCESS_THREADS, lambda: [(own.num_threads(), ())])
    if psutil.POSIX:
        observe(metrics.PROCESS_FILES, lambda: [(own.num_fds(), ())])
