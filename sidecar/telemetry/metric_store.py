"""The metric accumulators: plain numbers per attribute set, read out as the SDK's own data points.

Touched by the event loop only: no locks, no clock but the one given. What counts is a handle bound to one attribute set,
which finds its series once per period. What every request records goes by `Rows`: one append for all of it, summed up
for many requests at once. A record lands in the open period, a row's when it is summed up; a collect has all summed up, and
folds that period into each reader, so that readers (an OTLP export, a scrape of `/metrics`) keep their temporality and
exemplars apart, as in the SDK. It must never grow past its cardinality limit; a series that is not used any more makes room.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from operator import attrgetter, truediv
from typing import Any, NamedTuple, Protocol

from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import SECOND, STEADY, Clock, Wall
from sidecar.core.exchange import Trace
from sidecar.telemetry.metric_points import (
    IN_ONE_GO,
    Attributes,
    Buckets,
    Data,
    ExemplarContext,
    Reader,
    Times,
    Total,
    again,
    histogram_of,
    observed_of,
    set_back,
    sum_of,
    temporality,
    unused,
)
from sidecar.telemetry.metrics import ExemplarFilter, Metric, MetricKind, Temporality

__all__ = [
    "Attributes",
    "ByKind",
    "CounterSeries",
    "ExemplarContext",
    "HistogramSeries",
    "MetricStore",
    "Observations",
    "Reader",
    "Rows",
    "Seconds",
    "Share",
    "Temporality",
    "Words",
    "client_span",
    "server_span",
]

_is_sampled = attrgetter("sampled")


class _Series:
    """What counts: one series of a metric, for whoever records on it. What it has found is good for one period."""

    __slots__ = ("_attributes", "_metric", "_period", "_store")

    def __init__(self, store: "MetricStore", metric: Metric, attributes: Attributes) -> None:
        self._store = store
        self._metric = metric
        self._attributes = attributes
        self._period = -1


class CounterSeries(_Series):
    """One of a counter."""

    __slots__ = ("_total",)

    _total: Total

    def add(self, value: float = 1, since: int = 0) -> None:
        """Count. `since` is when that began, as in `MetricStore.open_total`."""
        if self._period != self._store.period:
            self._total = self._store.open_total(self._metric, self._attributes, since)
            self._period = self._store.period
        self._total.value += value

    def take(self, column: "Column") -> None:
        """Counts what rows have; one that has 0 or None counts nothing."""
        if more := sum(filter(None, column.values)):
            self.add(more, column.since)


class HistogramSeries(_Series):
    """One of a histogram."""

    __slots__ = ("_buckets",)

    _buckets: Buckets

    def record(self, value: float, exemplar: ExemplarContext | None = None, at: int = 0) -> None:
        """One measurement, in the metric's unit; `at` in ns since the epoch, for the exemplar."""
        store = self._store
        self.take(Column((value,), (at or store.clock(),), (exemplar,), _itself, 0, store.wants(exemplar)))

    def record_buckets(
        self,
        counts: Sequence[int],
        total: float,
        minimum: float,
        maximum: float,
        exemplar: ExemplarContext | None = None,
        at: int = 0,
    ) -> None:
        """Many measurements, already in this histogram's buckets (one more than it has bounds).

        The largest of them is the exemplar. Nothing is recorded where every count is 0.
        """
        if not any(counts):
            return
        store, buckets = self._store, self._open()
        buckets.counts = [mine + more for mine, more in zip(buckets.counts, counts, strict=True)]
        buckets.total += total
        buckets.minimum = min(buckets.minimum, minimum)
        buckets.maximum = max(buckets.maximum, maximum)
        if store.wants(exemplar):
            bucket = bisect_left(self._metric.bounds, maximum)
            buckets.hold(bucket, (maximum, at or store.clock(), exemplar, self._attributes))

    def take(self, column: "Column") -> None:
        """Records what rows have measured; one that has None measured nothing."""
        values, at, traces, span, since, wanted = column
        try:
            total = sum(values)
        except TypeError:  # some are None
            measured = [one for one in zip(values, at, traces, strict=True) if one[0] is not None]
            if not measured:
                return
            values, at, traces = zip(*measured, strict=True)
            total = sum(values)
        buckets = self._open(since)
        numbers = [*map(bisect_left, repeat(self._metric.bounds), values)]
        counts = Counter(numbers)
        for bucket, count in counts.items():
            buckets.counts[bucket] += count
        buckets.total += total
        buckets.minimum = min(buckets.minimum, *values)
        buckets.maximum = max(buckets.maximum, *values)
        last = len(numbers) - 1
        if wanted:
            backwards = numbers[::-1]
            held: Iterable[tuple[int, int]] = [(bucket, last - backwards.index(bucket)) for bucket in counts]
        else:
            wants = self._store.wants
            held = {
                bucket: place for place, bucket in enumerate(numbers) if wants(span(traces[place]))
            }.items()
        for bucket, place in held:
            buckets.hold(bucket, (values[place], at[place], span(traces[place]), self._attributes))

    def _open(self, since: int = 0) -> Buckets:
        """The numbers of the open period."""
        if self._period != self._store.period:
            self._buckets = self._store.open_buckets(self._metric, self._attributes, since)
            self._period = self._store.period
        return self._buckets


class Column(NamedTuple):
    """What some rows have for one series each; `since` is when the first of them came, by the wall."""

    values: Sequence[Any]
    at: Sequence[int]
    traces: Sequence[Any]
    span: Callable[[Any], ExemplarContext | None]
    """Which span of a trace is meant."""
    since: int
    wanted: bool
    """All of these traces may have exemplars."""


def _itself(context: ExemplarContext | None) -> ExemplarContext | None:
    return context


def server_span(trace: Trace) -> ExemplarContext:
    """Its SERVER span."""
    return trace.trace_id, trace.server_span_id, trace.sampled


def client_span(trace: Trace) -> ExemplarContext:
    """Its CLIENT span."""
    return trace.trace_id, trace.client_span_id, trace.sampled


class Recordable(Protocol):
    """What a column is recorded on."""

    def take(self, column: Column, /) -> None:
        """Records it."""


class Seconds:
    """Histograms, in s, of what rows have in ns."""

    __slots__ = ("_series",)

    def __init__(self, *series: HistogramSeries) -> None:
        self._series = series

    def take(self, column: Column) -> None:
        """Records what rows have measured; one that has None measured nothing."""
        try:
            values: list[float | None] = [*map(truediv, column.values, repeat(SECOND))]
        except TypeError:  # some are None
            values = [None if value is None else value / SECOND for value in column.values]
        for one in self._series:
            one.take(Column(values, *column[1:]))


class ByKind:
    """What rows have by kind, in one mapping each: the kinds are recorded on series of their own."""

    __slots__ = ("_series",)

    def __init__(self, series: Mapping[str, Sequence[Recordable]]) -> None:
        self._series = series

    def take(self, column: Column) -> None:
        """Records the values of each kind."""
        for kind, series in self._series.items():
            values = _of_kind(column, kind)
            if values.count(None) < len(values):
                for one in series:
                    one.take(Column(values, *column[1:]))


class Share:
    """Which share of one kind another one is, of what rows have by kind."""

    __slots__ = ("_kinds", "_series")

    def __init__(self, series: HistogramSeries, part: str, whole: str) -> None:
        self._series = series
        self._kinds = part, whole

    def take(self, column: Column) -> None:
        """Records the shares; there is none of a whole that is 0 or not told."""
        parts, wholes = (_of_kind(column, kind) for kind in self._kinds)
        if parts.count(None) < len(parts):
            pairs = zip(parts, wholes, strict=True)
            values = [part / whole if whole and part is not None else None for part, whole in pairs]
            self._series.take(Column(values, *column[1:]))


def _of_kind(column: Column, kind: str) -> list[Any]:
    return [*map(dict.get, column.values, repeat(kind))]


class Words:
    """The series of a counter by one attribute, whose values are a fixed list."""

    __slots__ = ("_attribute", "_metric", "_store", "_words")

    def __init__(self, store: "MetricStore", metric: Metric, attribute: str) -> None:
        self._store = store
        self._metric = metric
        self._attribute = attribute
        self._words: dict[str, CounterSeries] = {}

    def of(self, word: str) -> CounterSeries:
        """A word's series."""
        found = self._words.get(word)
        if found is None:
            found = self._words[word] = self._store.counter(self._metric, ((self._attribute, str(word)),))
        return found

    def take(self, column: Column) -> None:
        """Counts the words that rows have; one that has None counts nothing."""
        for word in {*column.values} - {None}:
            self.of(word).add(column.values.count(word), column.since)


class Rows:
    """Series that one moment records on together. Its row waits, and many are summed up at once, column by column.

    `each` counts every row. `server` and `client` are what the places of a row are recorded on, one after the other;
    their exemplars lead to the SERVER span or the CLIENT span.
    """

    __slots__ = ("_columns", "_each", "_since", "_store", "_waiting")

    def __init__(
        self,
        store: "MetricStore",
        each: Iterable[CounterSeries],
        server: Iterable[Sequence[Recordable]],
        client: Iterable[Sequence[Recordable]] = (),
    ) -> None:
        self._store = store
        self._each = tuple(each)
        self._columns = [(server_span, series) for series in server]
        self._columns += [(client_span, series) for series in client]
        self._waiting: list[tuple[Any, ...]] = []
        self._since = 0

    def take(self, row: tuple[Any, ...]) -> None:
        """Records (when, in ns since the epoch; in which trace; and for each place a value, or None)."""
        waiting, store = self._waiting, self._store
        if not waiting:
            self._since = store.begin_rows(self)
        waiting.append(row)
        store.rows_waiting += 1
        if store.rows_waiting >= _TOGETHER:
            store.sum_up()

    def sum_up(self) -> None:
        """Records what waits."""
        rows, self._waiting = self._waiting, []
        for counter in self._each:
            counter.add(len(rows), self._since)
        at, traces, *columns = zip(*rows, strict=True)
        wanted = self._store.wants_all(traces)
        for (span, series), values in zip(self._columns, columns, strict=True):
            column = Column(values, at, traces, span, self._since, wanted)
            for one in series:
                one.take(column)


Observation = tuple[int | float, Attributes]
Observations = Iterable[Observation]
_Observed = Mapping[Metric, Collection[Observation]]

_TOGETHER = 256
"""How many rows wait to be summed up, at most."""

OVERFLOW: Attributes = (("otel.metric.overflow", True),)
CARDINALITY_LIMIT = 2000


class MetricStore:
    """All metrics of the process; see the module."""

    def __init__(
        self,
        metrics: Iterable[Metric],
        *,
        clock: Clock,
        wall: Wall = STEADY,
        exemplar_filter: str = ExemplarFilter.TRACE_BASED,
        cardinality_limit: int = CARDINALITY_LIMIT,
    ) -> None:
        self.metrics = tuple(metrics)
        self.clock = clock
        self._wall = wall
        self._exemplar_filter = ExemplarFilter(exemplar_filter)
        self._limit = cardinality_limit
        self._totals: dict[Metric, dict[Attributes, Total]] = {}
        self._buckets: dict[Metric, dict[Attributes, Buckets]] = {}
        for metric in self.metrics:
            if metric.kind is MetricKind.HISTOGRAM:
                self._buckets[metric] = {}
            elif metric.kind is not MetricKind.GAUGE:
                self._totals[metric] = {}
        self._closed: Mapping[Metric, dict[Attributes, Any]] = {}
        """What was recorded in the period before this one, as far as readers do not have it yet."""
        self._steps: Iterator[None] = iter(())
        """What is left to do of the latest collect."""
        self._callbacks: dict[Metric, list[Callable[[], Observations]]] = {}
        self.period = 0
        """The number of the open period: what a handle has found is good for one."""
        self._begin = clock()
        self._readers: list[Reader] = []
        self._waiting: list[Rows] = []
        self.rows_waiting = 0
        """How many rows wait to be summed up."""
        self.full: Callable[[], object] = lambda: None
        """Called for each series that found no place of its own, and for each that gave up its place."""
        self.asked: Callable[[Callable[[], Observations]], Observations | None] = lambda ask: [*ask()]
        """What a callback tells, all of it. Who catches what one raises sets another, which gives None then."""

    @cached_property
    def scrape(self) -> Reader:
        """The reader behind `/metrics`. Asked for at the start if there is to be one: its first scrape misses nothing."""
        return self.reader(Temporality.CUMULATIVE)

    def reader(self, temporality: Temporality) -> Reader:
        """Another way out. Asked for at the start: it sees what is recorded from now on."""
        reader = Reader(temporality, self._begin, self._begin)
        self._readers.append(reader)
        return reader

    def counter(self, metric: Metric, attributes: Attributes = ()) -> CounterSeries:
        """A handle on one series of a counter or an up-down counter."""
        return CounterSeries(self, metric, attributes)

    def histogram(self, metric: Metric, attributes: Attributes = ()) -> HistogramSeries:
        """A handle on one series of a histogram."""
        return HistogramSeries(self, metric, attributes)

    def begin_rows(self, rows: Rows) -> int:
        """A first row waits: it will be summed up with all others. Gives the wall's time."""
        now = self._wall_time()
        if not self._waiting:
            self._since = now
        self._waiting.append(rows)
        return now

    def sum_up(self) -> None:
        """Records all rows that wait."""
        self.rows_waiting = 0
        while self._waiting:
            self._waiting.pop(0).sum_up()

    def wants_all(self, traces: Iterable[Trace]) -> bool:
        """Whether measurements of each of these traces may become exemplars."""
        if self._exemplar_filter is ExemplarFilter.TRACE_BASED:
            return all(map(_is_sampled, traces))
        return self._exemplar_filter is ExemplarFilter.ALWAYS_ON

    def wants(self, exemplar: ExemplarContext | None) -> bool:
        """Whether a measurement of this span may become an exemplar."""
        if self._exemplar_filter is ExemplarFilter.TRACE_BASED:
            return exemplar is not None and exemplar[2]
        return self._exemplar_filter is ExemplarFilter.ALWAYS_ON

    def add(self, metric: Metric, value: float, attributes: Attributes = ()) -> None:
        """Count on a counter (never down) or an up-down counter."""
        self.open_total(metric, attributes).value += value

    def record(
        self,
        metric: Metric,
        value: float,
        attributes: Attributes = (),
        exemplar: ExemplarContext | None = None,
        at: int = 0,
    ) -> None:
        """One measurement of a histogram, in its unit; `at` in ns since the epoch, for the exemplar."""
        HistogramSeries(self, metric, attributes).record(value, exemplar, at)

    def observe(self, metric: Metric, callback: Callable[[], Observations]) -> None:
        """Ask `callback` at each collect: a gauge's present values, or a counter's values since the start."""
        self._callbacks.setdefault(metric, []).append(callback)

    def collect(self, reader: Reader) -> list[sdk.Metric]:
        """What `reader` is to export now, in the SDK's data model; metrics without points are left out."""
        collected, steps = self.collecting(reader)
        deque(steps, maxlen=0)
        return collected

    def collecting(self, reader: Reader) -> tuple[list[sdk.Metric], Iterator[None]]:
        """The same in steps: as of now, however long these take; behind another collect that is under way, as of its end."""
        collected: list[sdk.Metric] = []
        self._steps = self._collecting(reader, collected, self._steps)
        next(self._steps, None)
        return collected, self._steps

    def _collecting(
        self, reader: Reader, collected: list[sdk.Metric], under_way: Iterator[None]
    ) -> Iterator[None]:
        """Every reader gets the period that ends here; then what this one has becomes points."""
        yield from under_way
        self.sum_up()
        # Asked before anything is taken, so that a callback that fails loses no differences.
        asked, callbacks = self.asked, self._callbacks.items()
        observed = {metric: [one for ask in asks for one in asked(ask) or ()] for metric, asks in callbacks}
        self.period += 1
        self._closed = {**self._totals, **self._buckets}
        self._totals = {metric: {} for metric in self._totals}
        self._buckets = {metric: {} for metric in self._buckets}
        elapsed, moved = self.clock(), self._wall.look()
        for metric, period in self._closed.items():
            yield from self._hand_over(metric, period, elapsed)
        now = elapsed + moved
        if moved < reader.moved or now < reader.latest:
            set_back(reader, now)
        times, made = Times(now, moved), list[sdk.Metric]()
        for metric in self.metrics:
            if metric in observed:
                data: Data | None = self._observed(reader, metric, observed[metric], times)
            else:
                data = yield from (histogram_of if metric in self._buckets else sum_of)(reader, metric, times)
            if data is not None:
                made.append(sdk.Metric(metric.name, metric.description, metric.unit, data))
            yield
        reader.previous, reader.told, reader.moved, reader.since = elapsed, now, moved, {}
        collected += made  # all of it, or nothing

    def give_back(self, reader: Reader, metrics: Iterable[sdk.Metric]) -> None:
        """Differences that certainly did not arrive: they are part of the next ones. Totals need no such thing."""
        by_name = {metric.name: metric for metric in self.metrics}
        for exported in metrics:
            metric, data = by_name[exported.name], exported.data
            if isinstance(data, sdk.Gauge) or data.aggregation_temporality is not temporality(True):
                continue
            series: dict[Metric, Any] = reader.totals if isinstance(data, sdk.Sum) else reader.buckets
            points: Iterable[Any] = data.data_points
            for point in points:
                key: Attributes = tuple(point.attributes.items())
                begun = point.start_time_unix_nano - reader.moved
                if metric in self._callbacks:
                    one = reader.observed[metric][key]
                    one.value -= point.value
                    one.used = min(one.used, begun)
                    continue
                numbers, own = again(point, reader.moved), series.setdefault(metric, {})
                if key not in own and len(own) >= self._limit:
                    self.full()
                    key = OVERFLOW
                own.setdefault(key, numbers.begun()).merge(numbers)
                reader.since[metric, key] = min(begun, reader.since.get((metric, key), begun))

    def open_total(self, metric: Metric, attributes: Attributes, since: int = 0) -> Total:
        """A series's sum in the open period; one that is new began at `since`, by the wall (0: now)."""
        period = self._totals[metric]
        total = period.get(attributes)
        if total is None:
            key = self._admit(metric, len(period), attributes)
            total = period.setdefault(key, Total(since or self._since_now()))
        return total

    def open_buckets(self, metric: Metric, attributes: Attributes, since: int = 0) -> Buckets:
        """A series's buckets in the open period, likewise."""
        period = self._buckets[metric]
        buckets = period.get(attributes)
        if buckets is None:
            key = self._admit(metric, len(period), attributes)
            buckets = period.setdefault(key, Buckets(since or self._since_now(), len(metric.bounds) + 1))
        return buckets

    def _since_now(self) -> int:
        """When a series begins whose first measurement is made now: not after what waits, some of which may be its own."""
        return self._since if self._waiting else self._wall_time()

    def _wall_time(self) -> int:
        return self.clock() + self._wall.correction

    def _admit(self, metric: Metric, size: int, attributes: Attributes) -> Attributes:
        """The key of a series new to this period: its own if there is room or a reader has it, else the overflow's."""
        if size < self._limit or attributes in self._closed.get(metric, {}):
            return attributes
        if any(attributes in reader.series(metric) for reader in self._readers):
            return attributes
        self.full()
        return OVERFLOW

    def _hand_over(self, metric: Metric, period: dict[Attributes, Any], now: int) -> Iterator[None]:
        """Adds a metric's period to what each reader has, and empties it."""
        # A level that vanished would be wrong for good; a sum begins anew, but a difference is still to be told.
        yields = metric.kind is not MetricKind.UP_DOWN_COUNTER
        lost: set[Attributes] = set()
        for reader in self._readers:
            mine = reader.series(metric)
            out: list[Attributes] | None = None
            for at, (attributes, one) in enumerate(period.items(), 1):
                key = attributes
                if key not in mine and len(mine) >= self._limit:
                    if out is None:
                        out = unused(mine, period, now) if yields and not reader.is_delta(metric) else []
                    if out:
                        lost.add(gone := out.pop())
                        del mine[gone]
                    else:
                        lost.add(key)
                        key = OVERFLOW
                kept = mine.get(key)
                if kept is None:
                    kept = mine[key] = one.begun()
                    reader.latest = max(reader.latest, one.start)
                kept.merge(one)
                kept.used = now
                if not at % IN_ONE_GO:
                    yield
            yield
        period.clear()
        for _ in lost:
            self.full()

    def _observed(
        self, reader: Reader, metric: Metric, observations: Collection[Observation], times: Times
    ) -> Data | None:
        known = reader.observed.setdefault(metric, {})
        since = reader.previous if known else reader.begin
        if metric.kind is MetricKind.GAUGE:  # what is told no more makes room
            for gone in known.keys() - {attributes for _, attributes in observations}:
                del known[gone]
        values: dict[Attributes, int | float] = {}
        for value, attributes in observations:
            key = attributes
            if key not in known:
                if len(known) >= self._limit:
                    self.full()
                    key = OVERFLOW
                if key not in known:
                    known[key] = Total(since + times.moved)
                    known[key].used = since
            values[key] = value if metric.kind is MetricKind.GAUGE else values.get(key, 0) + value
        return observed_of(reader, metric, values, times) if values else None
