"""The metrics of a request's life, from arrival to settling; of sessions; and of the process itself.

Owns which numbers are recorded when; where they go is in `series.py`. It only adds to the accumulators of
`metric_store.py`. How many sessions live, what is in flight, and what the process is (`process.*`, by psutil) is asked
when a snapshot is taken, and nothing of another process ever is.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter
from typing import Protocol

import psutil

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.identity import MADE_UP, Source
from sidecar.core.sessions import Revealed, SessionListener, SessionSummary
from sidecar.core.shown import known_method
from sidecar.core.threads import Break, Past, Relation
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import (
    Attributes,
    CounterSeries,
    ExemplarContext,
    HistogramSeries,
    MetricStore,
    Observations,
)
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.request_attributes import Shape, provider_of
from sidecar.telemetry.series import (
    MOST,
    OTHER,
    TELLING,
    Alike,
    Cap,
    Headroom,
    RequestSeries,
    UpstreamSeries,
    result,
)


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
        result(shape.outcome, exchange.status),
        shape.phase,
        shape.error,
        shape.server_failed,
        shape.reason,
        None if upstream is None else upstream.host,
        None if upstream is None else upstream.port,
    )


_NO_BREAK = "none"
"""Where nothing broke, in `sidecar.prompt.read_anew`."""

_FETCHED = "chat"
"""The operation that made an answer which is asked for by its id: its tokens count there."""


_AT_HAND = SECOND
"""For so long a kind of request keeps the series that it has, ns; then its models' places are refreshed."""


class Measures:
    """Records everything that `metrics.py` defines, but the process's and the ledger's own."""

    def __init__(
        self,
        store: MetricStore,
        clock: Clock,
        anomalies: Counter[str],
        *,
        bad_answer: Callable[[str], object],
        semconv: str,
        model_limit: int,
    ) -> None:
        """`anomalies` is what has been counted, by name; what is capped here is added to it. `bad_answer` is told whose it was."""
        self._bad_answer = bad_answer
        self._store = store
        self._clock = clock
        self._semconv = semconv
        self._asked = Cap(model_limit, partial(_count, anomalies))
        self._answered = Cap(model_limit, partial(_count, anomalies))
        store.full = partial(_count, anomalies, Anomaly.SERIES_CAP)
        self._upstreams: dict[str | None, UpstreamSeries] = {}
        self._words: dict[tuple[Metric, str], CounterSeries] = {}
        self.in_flight: dict[int, Exchange] = {}
        """By its `id`, what has been started and has not settled."""
        self._streams: dict[int, Attributes] = {}
        self._streaming: dict[Attributes, int] = {}
        self._before, self._after, self._loop = (
            store.histogram(metrics.OVERHEAD, ((n.OVERHEAD_PART, part),))
            for part in ("before", "after", "loop")
        )
        self._lag = store.histogram(metrics.LOOP_LAG)
        store.observe(metrics.REQUESTS_ACTIVE, self._active)
        store.observe(
            metrics.STREAMS_ACTIVE, lambda: ((value, key) for key, value in self._streaming.items())
        )
        store.observe(metrics.OLDEST_AGE, lambda: self._longest(attrgetter("start")))
        store.observe(metrics.SILENCE, lambda: self._longest(attrgetter("heard")))
        self._headroom = Headroom(store, clock, self.in_flight, self._asked)
        store.observe(
            metrics.ANOMALIES,
            lambda: ((anomalies[word.value], ((n.ANOMALY, word.value),)) for word in Anomaly),
        )

    def begin(self, upstreams: Iterable[str], *, histories: bool) -> None:
        """Whatever is counted by fixed words is told from now on, as 0; `histories`: turns are looked at for their past."""
        for name in upstreams:
            upstream = self._upstream(name)
            upstream.begin()
            self._streaming.setdefault(upstream.attributes, 0)
        self._store.add(metrics.RESULTS, 0, ((n.RESULT, Outcome.REFUSED.value),))
        for word in (*Source, metrics.NO_TURN):
            self._word(metrics.IDENTITY, n.SESSION_SOURCE, word).add(0)
        if not histories:
            return
        self._store.add(metrics.ORPHANED, 0)
        for relation in Relation:
            self._word(metrics.TURNS_RELATED, n.TURN_RELATION, relation).add(0)
        for place in Break:
            self._word(metrics.PROMPT_BREAKS, n.BROKE_AT, place.value).add(0)
        for where in (*(place.value for place in Break), _NO_BREAK):
            self._word(metrics.READ_ANEW, n.BROKE_AT, where).add(0)

    # What the relay tells

    def arrived(self, exchange: Exchange) -> None:
        """It joined its conversation: who it is, and whom it met there."""
        identity, turn, at = exchange.identity, exchange.turn, exchange.arrived
        counted: list[tuple[CounterSeries, float]] = []
        measured: list[tuple[HistogramSeries, float, ExemplarContext]] = []
        if identity is not None:
            source: str = identity.source if exchange.route.turn else metrics.NO_TURN
            known = self._words.get((metrics.IDENTITY, source))
            counted.append((known or self._word(metrics.IDENTITY, n.SESSION_SOURCE, source), 1))
        name = None if exchange.upstream is None else exchange.upstream.name
        upstream = self._upstreams.get(name) or self._upstream(name)
        if exchange.retry:
            counted.append((upstream.retries, 1))
        if turn is not None and turn.concurrency:
            trace = exchange.trace
            span = (trace.trace_id, trace.server_span_id, trace.sampled)
            measured.append((upstream.concurrency, turn.concurrency, span))
            if turn.overlaps:
                counted.append((upstream.overlaps, 1))
            if turn.think_time is not None:
                measured.append((upstream.think_time, turn.think_time / SECOND, span))
        self._store.take(counted, measured, at)

    def streaming(self, exchange: Exchange) -> None:
        """Its answer is a stream, until it settles."""
        if id(exchange) not in self._streams:
            upstream = self._upstream_of(exchange).attributes
            self._streams[id(exchange)] = upstream
            self._streaming[upstream] = self._streaming.get(upstream, 0) + 1

    def stalled(self, exchange: Exchange) -> None:
        """Its answer is silent."""
        self._upstream_of(exchange).stalls.add()

    def left(self, exchange: Exchange) -> None:
        """It is in flight no more, and that is all that is told of it."""
        self._upstream_of(exchange)
        self.in_flight.pop(id(exchange), None)
        if id(exchange) in self._streams:
            self._stream_left(exchange)

    def _stream_left(self, exchange: Exchange) -> None:
        self._streaming[self._streams.pop(id(exchange))] -= 1

    def settled(self, exchange: Exchange, shape: Shape) -> None:
        """It is frozen."""
        self.in_flight.pop(id(exchange), None)
        if id(exchange) in self._streams:
            self._stream_left(exchange)
        at, trace = exchange.end, exchange.trace
        series = shape.at_hand
        if (
            series is None
            or at >= shape.fresh_until
            or shape.places != self._asked.changes + self._answered.changes
        ):
            series = self._series(exchange, shape, exchange.route.operation)
        span = (trace.trace_id, trace.server_span_id, trace.sampled)
        counted: list[tuple[CounterSeries, float]] = [(series.requests, 1), (series.result, 1)]
        measured: list[tuple[HistogramSeries, float, ExemplarContext]] = [
            (series.http, (at - exchange.start) / SECOND, span)
        ]
        if shape.client is not None:
            measured += (
                (self._before, exchange.overhead_before / SECOND, span),
                (self._after, exchange.overhead_after / SECOND, span),
                (self._loop, exchange.overhead_loop / SECOND, span),
            )
            self._call(exchange, shape, series, counted, measured)
        if exchange.route.turn:
            self._turn(exchange, shape, series, counted, measured)
        if exchange.streams:
            stream, upstream = exchange.stream, series.upstream
            counted += ((upstream.events, stream.events), (upstream.bytes, stream.bytes))
            measured += (
                (upstream.blocked, stream.blocked / SECOND, span),
                (series.gap, stream.gap / SECOND, span),
            )
        self._store.take(counted, measured, at)
        turn = exchange.turn
        if series.bad and turn is not None and turn.tracked and not turn.generated:
            self._bad_answer(turn.session_id)

    def record_lag(self, lag: int) -> None:
        """How late the event loop ran a timer, ns."""
        self._lag.record(lag / SECOND)

    # Parts of settling

    def _call(
        self,
        exchange: Exchange,
        shape: Shape,
        series: RequestSeries,
        counted: list[tuple[CounterSeries, float]],
        measured: list[tuple[HistogramSeries, float, ExemplarContext]],
    ) -> None:
        """What the upstream call was, and what it told."""
        trace, tokens = exchange.trace, exchange.response.tokens
        span = (trace.trace_id, trace.client_span_id, trace.sampled)
        end = exchange.last_byte if shape.whole and exchange.last_byte else exchange.end
        upstream, connect, sent, first = series.upstream, exchange.connect, exchange.sent, exchange.first_byte
        body = exchange.needed - exchange.start
        if connect is None:
            connecting = end - exchange.asked
        else:
            connecting = 0 if connect.kind == "reused" else connect.end - connect.start
        key, headers = series.headroom, exchange.upstream_headers
        if key is not None and headers is not None and not TELLING.isdisjoint(headers.first):
            heard = self._headroom.heard
            before = heard.get(key)
            if len(heard) < MOST if before is None else before[0] < first:
                heard[key] = (first, headers, exchange.correction)
        if sent:
            # As its `wait` span: an answer may begin before the request's body has ended.
            until = first or end
            since = exchange.request_end if sent < exchange.request_end <= until else sent
            body += since - sent
            measured.append((upstream.wait, (until - since) / SECOND, span))
            if first:
                measured.append((upstream.stream, ((exchange.last_byte or end) - first) / SECOND, span))
        measured += (
            (upstream.body, body / SECOND, span),
            (upstream.connect, connecting / SECOND, span),
        )
        if exchange.route.operation is not None:
            duration = (end - exchange.asked) / SECOND
            for histogram in series.durations:
                measured.append((histogram, duration, span))
            if exchange.streams and exchange.stream.first_chunk:
                _chunks(exchange, series, span)
        elif tokens:
            series = self._series(exchange, shape, _FETCHED)
        if tokens:
            for kind, histograms in series.usage.items():
                if (told := tokens.get(kind)) is not None:
                    for histogram in histograms:
                        measured.append((histogram, told, span))
            for kind, counter in series.details:
                if more := tokens.get(kind):
                    counted.append((counter, more))

    def _turn(
        self,
        exchange: Exchange,
        shape: Shape,
        series: RequestSeries,
        counted: list[tuple[CounterSeries, float]],
        measured: list[tuple[HistogramSeries, float, ExemplarContext]],
    ) -> None:
        """Figures of a request that generates; those of the queue only if somebody named its session."""
        answered = exchange.upstream_status is not None and exchange.upstream_status < 400
        # A caller that left took its own chance to see a reason: that is not the response's omission.
        if exchange.response.finish_reasons or (answered and shape.outcome is not Outcome.CLIENT_LEFT):
            counted.append((series.finish, 1))
        tokens = exchange.response.tokens
        if (cached := tokens.get("cache_read")) is not None and (given := tokens.get("input")):
            trace = exchange.trace
            span = (trace.trace_id, trace.client_span_id, trace.sampled)
            measured.append((series.cached, cached / given, span))
        past = exchange.past
        relation = exchange.relation if past is None else past.relation
        if relation is not None:
            known = self._words.get((metrics.TURNS_RELATED, relation))
            counted.append((known or self._word(metrics.TURNS_RELATED, n.TURN_RELATION, relation), 1))
        if past is not None and (past.broke_at is not None or exchange.read_anew):
            self._prompt(exchange, past, counted)
        turn = exchange.turn
        if not shape.completed or turn is None or not turn.concurrency:
            return
        counted.append((series.upstream.turns, 1))
        if turn.distance:
            trace = exchange.trace
            counted.append((series.upstream.out_of_order, 1))
            span = (trace.trace_id, trace.server_span_id, trace.sampled)
            measured.append((series.upstream.distance, turn.distance, span))

    def _prompt(self, exchange: Exchange, past: Past, counted: list[tuple[CounterSeries, float]]) -> None:
        """What became of the prompt before this one, and what the provider read anew."""
        broke = past.broke_at
        if broke is not None:
            counted.append((self._word(metrics.PROMPT_BREAKS, n.BROKE_AT, broke.value), 1))
        if exchange.read_anew:
            where = _NO_BREAK if broke is None else broke.value
            counted.append((self._word(metrics.READ_ANEW, n.BROKE_AT, where), exchange.read_anew))

    def orphaned(self) -> None:
        """An answer that no later turn of its conversation has."""
        self._store.counter(metrics.ORPHANED, ()).add()

    # Series, each found once

    def _upstream(self, name: str | None) -> UpstreamSeries:
        found = self._upstreams[name] = UpstreamSeries(self._store, name)
        return found

    def _upstream_of(self, exchange: Exchange) -> UpstreamSeries:
        name = None if exchange.upstream is None else exchange.upstream.name
        return self._upstreams.get(name) or self._upstream(name)

    def _word(self, metric: Metric, attribute: str, word: str) -> CounterSeries:
        """The counter of one word of a fixed list."""
        found = self._words.get((metric, word))
        if found is None:
            found = self._words[metric, word] = self._store.counter(metric, ((attribute, str(word)),))
        return found

    def _series(self, exchange: Exchange, shape: Shape, operation: str | None) -> RequestSeries:
        """The series of requests like this one, whose models are told as far as there is room for them."""
        asked, answered = exchange.asked_model, exchange.response.model
        completed, end = shape.completed, exchange.end
        key = (
            self._asked(asked, end, completed=completed) if asked else None,
            self._answered(answered, end, completed=completed) if answered else None,
            operation,
        )
        found = shape.series.get(key)
        if found is None:
            alike = series_of(shape, exchange, *key)
            found = RequestSeries(self._store, alike, self._upstream_of(exchange), self._semconv)
            shape.series[key] = found
        if operation == exchange.route.operation:
            # A name that is told as `other` may have a place by the next time.
            shape.at_hand = None if OTHER in key else found
            shape.fresh_until, shape.places = end + _AT_HAND, self._places
        return found

    @property
    def _places(self) -> int:
        """Another number whenever a model has got or lost its place."""
        return self._asked.changes + self._answered.changes

    def _active(self) -> Iterator[tuple[int, Attributes]]:
        """The requests in flight of each upstream that has been asked."""
        active = dict.fromkeys((series.attributes for series in self._upstreams.values()), 0)
        for exchange in self.in_flight.values():
            upstream = self._upstream_of(exchange).attributes
            active[upstream] = active.get(upstream, 0) + 1
        return ((value, attributes) for attributes, value in active.items())

    def _longest(self, since: Callable[[Exchange], int]) -> Iterator[tuple[float, Attributes]]:
        """By upstream, the longest time since something, of the requests in flight; 0 where there are none."""
        now = self._clock()
        found = dict.fromkeys((series.attributes for series in self._upstreams.values()), now)
        for exchange in self.in_flight.values():
            upstream = self._upstream_of(exchange).attributes
            found[upstream] = min(found.get(upstream, now), since(exchange) or now)
        return (((now - at) / SECOND, attributes) for attributes, at in found.items())


def _chunks(exchange: Exchange, series: RequestSeries, span: ExemplarContext) -> None:
    """When the first chunk came, and the times between the others."""
    stream = exchange.stream
    for first in series.firsts:
        first.record((stream.first_chunk - exchange.asked) / SECOND, span, exchange.end)
    if stream.chunks > 1:
        for between in series.betweens:
            between.record_buckets(
                stream.chunk_counts,
                stream.chunk_sum / SECOND,
                stream.chunk_min / SECOND,
                stream.chunk_max / SECOND,
                span,
                exchange.end,
            )


def _count(anomalies: Counter[str], anomaly: Anomaly) -> None:
    anomalies[anomaly.value] += 1


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
        self._waits: dict[str | None, HistogramSeries] = {}
        """By upstream."""
        self._bad: set[str] = set()
        """Sessions that have met a bad answer."""

    def observe(self, sessions: LiveSessions) -> None:
        """Lets the store ask `sessions` for its gauges at each snapshot."""
        observe = self._store.observe
        observe(metrics.SESSIONS_ACTIVE, lambda: [(sessions.sessions_active, ())])
        observe(metrics.CONVERSATIONS_ACTIVE, lambda: [(sessions.conversations_active, ())])
        observe(metrics.CONVERSATIONS_BUSY, lambda: [(sessions.conversations_busy, ())])
        observe(metrics.REQUESTS_OVERLAPPING, lambda: [(sessions.overlapping, ())])
        observe(metrics.CONCURRENCY_MAX, lambda: [(sessions.most_concurrent, ())])

    def begin(self) -> None:
        """What is counted by fixed words is told from now on, as 0."""
        for source in Source:
            if source not in MADE_UP:
                self._store.add(metrics.SESSIONS, 0, _source(source))
        self._store.add(metrics.WAIT_UNKNOWN, 0)
        self._store.add(metrics.SESSIONS_BAD, 0)

    def session_started(self, session_id: str, source: str, at: int) -> None:  # noqa: ARG002
        """One more session, by the rule that named it."""
        self._store.add(metrics.SESSIONS, 1, _source(source))

    def session_ended(self, summary: SessionSummary) -> None:
        """How long it was and how many requests it had."""
        self._bad.discard(summary.session_id)
        source = _source(summary.source)
        duration = (summary.ended_at - summary.started_at) / SECOND
        self._store.record(metrics.SESSION_DURATION, duration, source, None, summary.ended_at)
        requests = sum(summary.totals.requests.values())
        self._store.record(metrics.SESSION_REQUESTS, requests, source, None, summary.ended_at)

    def bad_answer(self, session_id: str) -> None:
        """A session met one."""
        if session_id not in self._bad:
            self._bad.add(session_id)
            self._store.add(metrics.SESSIONS_BAD, 1)

    def wait_avoided(self, revealed: Revealed) -> None:
        """The queue wait that a turn was spared."""
        wait, ref, sampled, upstream = revealed
        series = self._waits.get(upstream)
        if series is None:
            key: Attributes = () if upstream is None else ((n.UPSTREAM, upstream),)
            series = self._waits[upstream] = self._store.histogram(metrics.WAIT_AVOIDED, key)
        span = (int.from_bytes(ref[:16], "big"), int.from_bytes(ref[16:], "big"), sampled)
        self._store.take((), ((series, wait / SECOND, span),), 0)

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
