"""The metrics of a request's life: from arrival to settling, and of sessions.

Owns which numbers are recorded when, with which attributes. Attribute sets are made once per combination and
kept as tuples; no id is ever among them, and what others choose (models, error words) is bounded first.
Called by the recorder on the event loop; it only adds to the accumulators of `metric_store.py`.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from sidecar.core.anomaly import Anomaly
from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.telemetry import attributes as a
from sidecar.telemetry import names
from sidecar.telemetry.bounded import Cap, error_type, finish_reason, known_method
from sidecar.telemetry.ledger import Ledger
from sidecar.telemetry.metric_store import Attributes, ExemplarContext, Metric, MetricStore
from sidecar.telemetry.portrait import (
    anomalies_of,
    call_end,
    has_client,
    is_streaming,
    outcome_of,
    provider_of,
    request_model,
    server_failed,
)

_CACHE_LIMIT = 20_000
"""Combinations of attributes kept ready; over it they are made anew."""

_PARTS = tuple(((a.OVERHEAD_PART, part),) for part in ("before", "after", "loop"))
_LATEST_TOKENS = {
    "input": names.INFERENCE_INPUT_TOKENS,
    "output": names.INFERENCE_OUTPUT_TOKENS,
    "cache_read": names.INFERENCE_CACHE_READ_TOKENS,
    "cache_write": names.INFERENCE_CACHE_WRITE_TOKENS,
    "reasoning": names.INFERENCE_REASONING_TOKENS,
}


def attribute_set(*pairs: tuple[str, str | bool | int | None]) -> Attributes:
    """The pairs whose value is known, sorted by name: the key of one series."""
    return tuple(sorted((name, value) for name, value in pairs if value is not None))


class _Alike(NamedTuple):
    """What calls have in common whose attribute sets are the same."""

    upstream: str | None
    operation: str | None
    provider: str | None
    asked: str | None
    answered: str | None
    streaming: bool
    outcome: str
    phase: str | None
    error: str | None


class _Call(NamedTuple):
    """The attribute sets of calls that are alike."""

    requests: Attributes
    duration: Attributes
    stream: Attributes
    call: Attributes
    input: Attributes
    output: Attributes
    modality: Attributes


class _Flight(NamedTuple):
    start: int
    upstream: Attributes


class Measures:
    """Records everything that `names.py` defines, but the process's and the ledger's own."""

    def __init__(self, store: MetricStore, clock: Clock, *, semconv: str, model_limit: int) -> None:
        self._store = store
        self._clock = clock
        self._shipped = semconv != "latest"
        self._latest = semconv != "shipped"
        self.anomalies: Counter[str] = Counter()
        """What should not have happened, by name; the admin port shows it."""
        self.request_model = Cap(model_limit, self.anomaly)
        self._response_model = Cap(model_limit, self.anomaly)
        self._calls: dict[_Alike, _Call] = {}
        self._sets: dict[tuple[object, ...], Attributes] = {}
        self._flights: dict[int, _Flight] = {}
        self._streams: dict[int, Attributes] = {}
        self._active: dict[Attributes, int] = {}
        self._streaming: dict[Attributes, int] = {}
        store.observe(names.REQUESTS_ACTIVE, lambda: _levels(self._active))
        store.observe(names.STREAMS_ACTIVE, lambda: _levels(self._streaming))
        store.observe(names.OLDEST_AGE, self._oldest)

    # What the relay tells

    def started(self, exchange: Exchange) -> None:
        """A request is in flight."""
        upstream = self._upstream(exchange)
        self._flights[id(exchange)] = _Flight(exchange.start, upstream)
        self._active[upstream] = self._active.get(upstream, 0) + 1

    def arrived(self, exchange: Exchange) -> None:
        """It joined its conversation: who it is, and whom it met there."""
        identity, arrival = exchange.identity, exchange.arrival
        if identity is not None:
            self._store.add(names.IDENTITY, 1, self._set(a.SESSION_SOURCE, identity.source.value))
        upstream = self._upstream(exchange)
        if exchange.retry:
            self._store.add(names.RETRIES, 1, upstream)
        if arrival is None or not arrival.concurrency:
            return
        exemplar, at = _server_exemplar(exchange), exchange.arrived
        self._store.record(names.CONCURRENCY, arrival.concurrency, upstream, exemplar, at)
        if arrival.overlaps:
            self._store.add(names.OVERLAPS, 1, upstream)
        if arrival.think_time is not None:
            self._store.record(names.THINK_TIME, arrival.think_time / SECOND, upstream, exemplar, at)

    def streaming(self, exchange: Exchange) -> None:
        """Its answer is a stream, until it settles."""
        if id(exchange) not in self._streams:
            upstream = self._upstream(exchange)
            self._streams[id(exchange)] = upstream
            self._streaming[upstream] = self._streaming.get(upstream, 0) + 1

    def stalled(self, exchange: Exchange) -> None:
        """Its answer is silent."""
        self._store.add(names.STREAM_STALLS, 1, self._upstream(exchange))

    def settled(self, exchange: Exchange) -> None:
        """It is frozen."""
        flight = self._flights.pop(id(exchange), None)
        if flight is not None:
            self._active[flight.upstream] -= 1
        stream = self._streams.pop(id(exchange), None)
        if stream is not None:
            self._streaming[stream] -= 1
        upstream = self._upstream(exchange)
        call = self._call(exchange)
        self._store.add(names.REQUESTS, 1, call.requests)
        server = _server_exemplar(exchange)
        self._store.record(
            names.HTTP_DURATION,
            (exchange.end - exchange.start) / SECOND,
            self._http(exchange),
            server,
            exchange.end,
        )
        for word in anomalies_of(exchange):
            self._count_anomaly(word)
        if has_client(exchange):
            self._overhead(exchange, server)
            if exchange.route.operation is not None:
                self._operation(exchange, call)
        if exchange.route.turn:
            self._turn(exchange, upstream, server)
        if exchange.streams:
            self._stream(exchange, call, upstream, server)

    def anomaly(self, anomaly: Anomaly) -> None:
        """Something that should not happen."""
        self._count_anomaly(anomaly.value)

    def _count_anomaly(self, word: str) -> None:
        self.anomalies[word] += 1
        self._store.add(names.ANOMALIES, 1, self._set(a.ANOMALY, word))

    def record_lag(self, lag: int) -> None:
        """How late the event loop ran a timer, ns."""
        self._store.record(names.LOOP_LAG, lag / SECOND)

    # Parts of settling

    def _overhead(self, exchange: Exchange, exemplar: ExemplarContext) -> None:
        spent = (exchange.overhead_before, exchange.overhead_after, exchange.overhead_loop)
        for part, time in zip(_PARTS, spent, strict=True):
            self._store.record(names.OVERHEAD, time / SECOND, part, exemplar, exchange.end)

    def _operation(self, exchange: Exchange, call: _Call) -> None:
        """The GenAI metrics of the upstream call, under the conventions chosen."""
        exemplar = ExemplarContext(
            exchange.trace.trace_id, exchange.trace.client_span_id, exchange.trace.sampled
        )
        inference = names.is_inference(exchange.route.operation or "")
        tokens = exchange.response.tokens
        record, at = self._store.record, exchange.end
        duration = (call_end(exchange) - exchange.asked) / SECOND
        if self._shipped or not inference:
            record(names.OPERATION_DURATION, duration, call.duration, exemplar, at)
        if self._shipped:
            self._chunks(
                exchange, names.OPERATION_FIRST_CHUNK, names.OPERATION_PER_CHUNK, call.call, exemplar
            )
            if (count := tokens.get("input")) is not None:
                record(names.TOKEN_USAGE, count, call.input, exemplar, at)
            if (count := tokens.get("output")) is not None:
                record(names.TOKEN_USAGE, count, call.output, exemplar, at)
        if self._latest and inference:
            record(names.INFERENCE_DURATION, duration, call.duration, exemplar, at)
            self._chunks(
                exchange, names.INFERENCE_FIRST_CHUNK, names.INFERENCE_PER_CHUNK, call.call, exemplar
            )
            for kind, metric in _LATEST_TOKENS.items():
                if count := tokens.get(kind, 0):
                    self._store.add(metric, count, call.modality)

    def _chunks(
        self,
        exchange: Exchange,
        first: Metric,
        between: Metric,
        attributes: Attributes,
        exemplar: ExemplarContext,
    ) -> None:
        stream = exchange.stream
        if not exchange.streams or not stream.first_chunk:
            return
        waited = (stream.first_chunk - exchange.asked) / SECOND
        self._store.record(first, waited, attributes, exemplar, exchange.end)
        if stream.chunks > 1:
            self._store.record_buckets(
                between,
                stream.chunk_counts,
                stream.chunk_sum / SECOND,
                stream.chunk_min / SECOND,
                stream.chunk_max / SECOND,
                attributes,
                exemplar,
                exchange.end,
            )

    def _turn(self, exchange: Exchange, upstream: Attributes, exemplar: ExemplarContext) -> None:
        """Figures of a request that generates; those of the queue only if somebody named its session."""
        completed = outcome_of(exchange) is Outcome.COMPLETED
        reasons = exchange.response.finish_reasons
        answered = exchange.upstream_status is not None and exchange.upstream_status < 400
        # A caller that left took its own chance to see a reason: that is not the response's omission.
        if reasons or (answered and outcome_of(exchange) is not Outcome.CLIENT_LEFT):
            self._store.add(names.FINISH_REASONS, 1, self._finish(exchange, finish_reason(reasons)))
        if not completed or exchange.arrival is None or not exchange.arrival.concurrency:
            return
        self._store.add(names.TURNS, 1, upstream)
        settlement = exchange.settlement
        if settlement is not None and settlement.distance:
            self._store.add(names.OUT_OF_ORDER, 1, upstream)
            self._store.record(names.DISTANCE, settlement.distance, upstream, exemplar, exchange.end)

    def _stream(
        self, exchange: Exchange, call: _Call, upstream: Attributes, exemplar: ExemplarContext
    ) -> None:
        stream, at = exchange.stream, exchange.end
        self._store.add(names.STREAM_EVENTS, stream.events, upstream)
        self._store.add(names.STREAM_BYTES, stream.bytes, upstream)
        self._store.record(names.STREAM_GAP, stream.gap / SECOND, call.stream, exemplar, at)
        self._store.record(names.BACKPRESSURE, stream.blocked / SECOND, upstream, exemplar, at)

    # Attribute sets, each made once

    def _upstream(self, exchange: Exchange) -> Attributes:
        upstream = exchange.upstream
        return self._set(a.UPSTREAM, upstream.name) if upstream is not None else ()

    def _set(self, name: str, value: str) -> Attributes:
        found = self._sets.get((name, value))
        return found if found is not None else self._keep((name, value), attribute_set((name, value)))

    def _keep(self, key: tuple[object, ...], attributes: Attributes) -> Attributes:
        if len(self._sets) >= _CACHE_LIMIT:
            self._sets.clear()
        self._sets[key] = attributes
        return attributes

    def _http(self, exchange: Exchange) -> Attributes:
        verdict = exchange.verdict
        error = error_type(verdict) if verdict is not None and server_failed(exchange) else None
        head = exchange.head
        key = (head.method, head.scheme, exchange.status, exchange.route.template, error)
        found = self._sets.get(key)
        if found is not None:
            return found
        made = attribute_set(
            (a.METHOD, known_method(head.method)),
            (a.SCHEME, head.scheme),
            (a.STATUS, exchange.status),
            (a.ROUTE, exchange.route.template),
            (a.ERROR_TYPE, error),
        )
        return self._keep(key, made) if head.method == known_method(head.method) else made

    def _finish(self, exchange: Exchange, reason: str) -> Attributes:
        model = request_model(exchange)
        model = self.request_model(model) if model else None
        upstream = exchange.upstream.name if exchange.upstream else None
        key = (reason, upstream, exchange.route.operation, provider_of(exchange), model, None)
        found = self._sets.get(key)
        if found is not None:
            return found
        return self._keep(
            key,
            attribute_set(
                (a.FINISH_REASON, reason),
                (a.UPSTREAM, upstream),
                (a.OPERATION, exchange.route.operation),
                (a.PROVIDER, provider_of(exchange)),
                (a.REQUEST_MODEL, model),
            ),
        )

    def _call(self, exchange: Exchange) -> _Call:
        """The attribute sets of calls like this one."""
        model, answered, verdict = request_model(exchange), exchange.response.model, exchange.verdict
        key = _Alike(
            exchange.upstream.name if exchange.upstream else None,
            exchange.route.operation,
            provider_of(exchange),
            self.request_model(model) if model else None,
            self._response_model(answered) if answered else None,
            is_streaming(exchange),
            outcome_of(exchange).value,
            verdict.phase.value if verdict is not None and verdict.phase is not None else None,
            error_type(verdict) if verdict is not None else None,
        )
        found = self._calls.get(key)
        if found is None:
            if len(self._calls) >= _CACHE_LIMIT:
                self._calls.clear()
            found = self._calls[key] = _make_call(key)
        return found

    def _oldest(self) -> Iterator[tuple[float, Attributes]]:
        if self._flights:
            oldest = min(flight.start for flight in self._flights.values())
            yield max(0, self._clock() - oldest) / SECOND, ()
        else:
            yield 0.0, ()


def _make_call(alike: _Alike) -> _Call:
    models = (
        (a.PROVIDER, alike.provider),
        (a.REQUEST_MODEL, alike.asked),
        (a.UPSTREAM, alike.upstream),
    )
    shared = (*models, (a.OPERATION, alike.operation), (a.STREAMING, alike.streaming))
    call = (*shared, (a.RESPONSE_MODEL, alike.answered))
    error = (a.ERROR_TYPE, alike.error)
    return _Call(
        requests=attribute_set(*shared, (a.OUTCOME, alike.outcome), (a.PHASE, alike.phase), error),
        duration=attribute_set(*call, error),
        stream=attribute_set(*models),
        call=attribute_set(*call),
        input=attribute_set(*call, (a.TOKEN_TYPE, "input")),
        output=attribute_set(*call, (a.TOKEN_TYPE, "output")),
        modality=attribute_set(*call, (a.TOKEN_MODALITY, "unknown")),
    )


def _levels(levels: dict[Attributes, int]) -> Iterator[tuple[int, Attributes]]:
    return ((value, attributes) for attributes, value in levels.items())


def _server_exemplar(exchange: Exchange) -> ExemplarContext:
    trace = exchange.trace
    return ExemplarContext(trace.trace_id, trace.server_span_id, trace.sampled)


def observe_ledger(store: MetricStore, ledger: Ledger) -> None:
    """Lets the store ask the ledger what became of every item, and how many wait."""
    store.observe(
        names.TELEMETRY_ITEMS,
        lambda: (
            (count, ((a.TELEMETRY_SIGNAL, signal), (a.TELEMETRY_STATE, state)))
            for signal, state, count in ledger.items()
        ),
    )
    store.observe(
        names.TELEMETRY_QUEUE,
        lambda: ((count, ((a.TELEMETRY_SIGNAL, signal),)) for signal, count in ledger.queues()),
    )
