"""The metrics of a request's life, from arrival to settling; of sessions; and of the process itself.

Owns which numbers are recorded when; where they go is in `series.py`. It only adds to the accumulators of
`metric_store.py`. How many sessions live, what is in flight, and what the process is (`process.*`, by psutil) is asked
when a snapshot is taken, and nothing of another process ever is.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Protocol

import psutil

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.identity import MADE_UP, Source
from sidecar.core.sessions import SessionListener, SessionSummary, Turn
from sidecar.core.shown import known_method
from sidecar.core.threads import Break, Relation
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import (
    Attributes,
    MetricStore,
    Observations,
    client_span,
    server_span,
)
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.request_attributes import Shape, provider_of
from sidecar.telemetry.series import (
    NO_BREAK,
    OTHER,
    TELLING,
    Alike,
    Cap,
    CommonSeries,
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
        _stopped(shape, exchange),
        None if upstream is None else upstream.host,
        None if upstream is None else upstream.port,
        shape.turn,
    )


def _stopped(shape: Shape, exchange: Exchange) -> bool:
    if not exchange.route.turn:
        return False
    answered = exchange.upstream_status is not None and exchange.upstream_status < 400
    # A caller that left took its own chance to see a reason: that is not the response's omission.
    return bool(exchange.response.finish_reasons) or (answered and shape.outcome is not Outcome.CLIENT_LEFT)


_FETCHED = "chat"
"""The operation that made an answer which is asked for by its id: its tokens count there."""

_Call = tuple[int | dict[str, int] | None, ...]
"""The part of a row that the upstream call tells: its times (ns), and its tokens by their kind."""

_NO_TOKENS: dict[str, int] = {}
_NO_CALL: _Call = (*(None,) * 8, _NO_TOKENS)
"""Where no connection was asked for."""


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
        self._common = CommonSeries(store)
        self._upstreams: dict[str | None, UpstreamSeries] = {}
        self.in_flight: dict[int, Exchange] = {}
        """By its `id`, what has been started and has not settled."""
        self._flights: dict[str | None, _Flights] = {}
        """What a snapshot found of them, by their upstream, and when (ns)."""
        self._looked_at = 0
        self._streams: dict[int, Attributes] = {}
        self._streaming: dict[Attributes, int] = {}
        self._lag = store.histogram(metrics.LOOP_LAG)
        # A snapshot asks in this order: requests in flight are looked at once for all three.
        store.observe(metrics.REQUESTS_ACTIVE, self._active)
        store.observe(
            metrics.STREAMS_ACTIVE, lambda: ((value, key) for key, value in self._streaming.items())
        )
        store.observe(metrics.OLDEST_AGE, lambda: self._since(attrgetter("oldest")))
        store.observe(metrics.SILENCE, lambda: self._since(attrgetter("quietest")))
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
        common = self._common
        for word in (*Source, metrics.NO_TURN):
            common.identity.of(word).add(0)
        if not histories:
            return
        self._store.add(metrics.ORPHANED, 0)
        for relation in Relation:
            common.related.of(relation).add(0)
        for place in Break:
            common.breaks.of(place).add(0)
        for where in (*Break, NO_BREAK):
            common.read_anew.of(where).add(0)

    # What the relay tells

    def arrived(self, exchange: Exchange) -> None:
        """It joined its conversation: who it is, and whom it met there."""
        identity, turn = exchange.identity, exchange.turn
        source: str | None = None
        if identity is not None:
            source = identity.source if exchange.route.turn else metrics.NO_TURN
        concurrency = think_time = wait = overlaps = None
        if turn is not None and turn.concurrency:
            concurrency, think_time, wait = turn.concurrency, turn.think_time, turn.wait
            if turn.overlaps:
                overlaps = 1
        name = None if exchange.upstream is None else exchange.upstream.name
        upstream = self._upstreams.get(name) or self._upstream(name)
        retried = 1 if exchange.retry else None
        at, trace = exchange.arrived, exchange.trace
        upstream.arrivals.take((at, trace, source, concurrency, think_time, wait, overlaps, retried))

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
        if self._streams and id(exchange) in self._streams:
            self._stream_left(exchange)
        at, trace, turn, past = exchange.end, exchange.trace, exchange.turn, exchange.past
        series = shape.at_hand
        if (
            series is None
            or at >= shape.fresh_until
            or shape.places != self._asked.changes + self._answered.changes
        ):
            series = self._series(exchange, shape, exchange.route.operation)
        relation = broke = read_anew = completed = None
        if shape.turn:
            if past is None:
                relation = exchange.relation
            else:
                relation, broke, read_anew = past.relation, past.broke_at, exchange.read_anew
                if broke is not None and read_anew:
                    self._common.read_anew.of(broke).add(read_anew)
                    read_anew = None
            if turn is not None and turn.concurrency:
                completed = 1 if shape.completed else None
        if turn is not None and (turn.distance or turn.revealed):
            self._overlapped(exchange, turn, series, completed)
        call = _NO_CALL if shape.client is None else self._call(exchange, shape, series)
        series.rows.take((at, trace, at - exchange.start, relation, broke, read_anew, completed, *call))
        if exchange.streams:
            _streamed(exchange, series)
        if series.bad and turn is not None and turn.tracked and not turn.generated:
            self._bad_answer(turn.session_id)

    def record_lag(self, lag: int) -> None:
        """How late the event loop ran a timer, ns."""
        self._lag.record(lag / SECOND)

    # Parts of settling

    def _call(self, exchange: Exchange, shape: Shape, series: RequestSeries) -> _Call:
        """What the upstream call was, and what it told."""
        asked, sent, first, last = exchange.asked, exchange.sent, exchange.first_byte, exchange.last_byte
        connect, headers, key = exchange.connect, exchange.upstream_headers, series.headroom
        tokens, end = exchange.response.tokens, last if last and shape.whole else exchange.end
        if key is not None and headers is not None and not TELLING.isdisjoint(headers.first):
            self._headroom.hear(key, exchange, headers)
        body = exchange.needed - exchange.start
        connecting = end - asked if connect is None else connect.end - connect.start
        wait = stream = whole = None
        if sent:
            # As its `wait` span: an answer may begin before the request's body has ended.
            until, since = first or end, exchange.request_end
            if not sent < since <= until:
                since = sent
            body += since - sent
            wait = until - since
            if first:
                stream = (last or end) - first
        if exchange.route.operation is not None:
            whole = end - asked
            if exchange.streams and exchange.stream.first_chunk:
                _chunks(exchange, series)
        elif tokens:
            _fetched(exchange, self._series(exchange, shape, _FETCHED))
            tokens = _NO_TOKENS
        overhead = exchange.overhead_before, exchange.overhead_after, exchange.overhead_loop
        return *overhead, body, connecting, wait, stream, whole, tokens

    def _overlapped(
        self, exchange: Exchange, turn: Turn, series: RequestSeries, completed: int | None
    ) -> None:
        """It was overtaken, or others waited for it."""
        if completed and turn.distance:
            series.upstream.out_of_order.add()
            series.upstream.distance.record(turn.distance, server_span(exchange.trace), exchange.end)
        for wait, ref, sampled, upstream in turn.revealed:
            span = (int.from_bytes(ref[:16], "big"), int.from_bytes(ref[16:], "big"), sampled)
            waited = self._upstreams.get(upstream) or self._upstream(upstream)
            waited.waits.record(wait / SECOND, span)

    def orphaned(self) -> None:
        """An answer that no later turn of its conversation has."""
        self._store.counter(metrics.ORPHANED, ()).add()

    # Series, each found once

    def _upstream(self, name: str | None) -> UpstreamSeries:
        found = self._upstreams[name] = UpstreamSeries(self._store, name, self._common)
        return found

    def _upstream_of(self, exchange: Exchange) -> UpstreamSeries:
        name = None if exchange.upstream is None else exchange.upstream.name
        return self._upstreams.get(name) or self._upstream(name)

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
            found = RequestSeries(
                self._store, alike, self._upstream_of(exchange), self._common, self._semconv
            )
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

    def _active(self) -> Observations:
        """The requests in flight of each upstream that has been asked. The next two are told by the same look at them."""
        now = self._clock()
        self._looked_at = now
        self._flights = flights = {name: _Flights(now) for name in self._upstreams}
        for exchange in self.in_flight.values():
            upstream = exchange.upstream
            name = None if upstream is None else upstream.name
            flight = flights.get(name)
            if flight is None:
                self._upstream(name)
                flight = flights[name] = _Flights(now)
            flight.count += 1
            start, heard = exchange.start, exchange.heard
            flight.oldest = min(flight.oldest, start)
            if heard and heard < flight.quietest:
                flight.quietest = heard
        return ((flight.count, self._upstreams[name].attributes) for name, flight in flights.items())

    def _since(self, which: Callable[["_Flights"], int]) -> Iterator[tuple[float, Attributes]]:
        """By upstream, the longest time since something, of the requests in flight; 0 where there are none."""
        for name, flight in self._flights.items():
            yield (self._looked_at - which(flight)) / SECOND, self._upstreams[name].attributes


class _Flights:
    """The requests in flight of one upstream: since when (ns) the oldest is, and since when the quietest was not heard of."""

    __slots__ = ("count", "oldest", "quietest")

    def __init__(self, now: int) -> None:
        self.count = 0
        self.oldest = self.quietest = now


def _streamed(exchange: Exchange, series: RequestSeries) -> None:
    """What passed, how long the client held it up, and the longest silence."""
    stream, upstream, span = exchange.stream, series.upstream, server_span(exchange.trace)
    upstream.events.add(stream.events)
    upstream.bytes.add(stream.bytes)
    upstream.blocked.record(stream.blocked / SECOND, span, exchange.end)
    series.gap.record(stream.gap / SECOND, span, exchange.end)


def _fetched(exchange: Exchange, made: RequestSeries) -> None:
    """The tokens of an answer that is asked for by its id count where it was made."""
    span = client_span(exchange.trace)
    for kind, told in exchange.response.tokens.items():
        for histogram in made.usage.get(kind, ()):
            histogram.record(told, span, exchange.end)
        if told:
            for counter in made.details.get(kind, ()):
                counter.add(told)


def _chunks(exchange: Exchange, series: RequestSeries) -> None:
    """When the first chunk came, and the times between the others."""
    stream, span = exchange.stream, client_span(exchange.trace)
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


class SessionMeasures(SessionListener):
    """Records what happens to sessions."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
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

    def waits_unknown(self, count: int) -> None:
        """Waits that were given up."""
        self._store.add(metrics.WAIT_UNKNOWN, count)


def _source(source: str) -> Attributes:
    return ((n.SESSION_SOURCE, str(source)),)


def _open_files() -> int:
    """How many files this process has open, where the system says so at once (from Linux 6.2 on); else 0."""
    try:
        return Path("/proc/self/fd").stat().st_size
    except OSError:
        return 0


def observe_process(store: MetricStore) -> None:
    """Lets the store ask for this process's CPU time, memory, open files (Unix) and threads."""
    own = psutil.Process()

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
        observe(metrics.PROCESS_FILES, lambda: [(_open_files() or own.num_fds(), ())])
