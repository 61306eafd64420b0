"""The metric accumulators: plain numbers per attribute set, read out as the SDK's own data points.

Touched by the event loop only: no locks, no clock but the one given, a microsecond per record. What counts is a handle
bound to one attribute set, which finds its series once per period: a few additions, no hashing.
Every record lands in the open period; a collect folds that period into each reader, so that readers
(an OTLP export, a scrape of `/metrics`) keep their temporality and exemplars apart, as in the SDK.
It must never grow past its cardinality limit; a series that is not used any more makes room.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import repeat
from math import inf
from operator import itemgetter
from typing import Any, TypeVar

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import SECOND, STEADY, Clock, Wall
from sidecar.telemetry.metrics import ExemplarFilter, Metric, MetricKind

Attributes = tuple[tuple[str, str | bool | int], ...]
"""Sorted by the caller; the key of one series."""


ExemplarContext = tuple[int, int, bool]
"""The span a measurement belongs to: trace id, span id, and whether it is sampled."""

HeldExemplar = tuple[int | float, int, ExemplarContext | None, Attributes]
"""Value, time, span, and the attributes of the measurement."""


class Total:
    """A running sum."""

    __slots__ = ("start", "used", "value")

    def __init__(self, start: int) -> None:
        self.start = start
        self.used = 0
        """When a reader last got something for it, ns."""
        self.value: int | float = 0

    def begun(self) -> "Total":
        """An empty one that begins where this does."""
        return Total(self.start)

    def merge(self, other: "Total") -> None:
        """Adds another period's sum."""
        self.value += other.value


class Buckets:
    """A histogram's numbers, and the last exemplar of each bucket. What has just been measured waits to be summed up."""

    __slots__ = ("counts", "exemplars", "maximum", "minimum", "start", "total", "used", "waiting")

    def __init__(self, start: int, buckets: int) -> None:
        self.start = start
        self.used = 0
        self.counts = [0] * buckets
        self.total: int | float = 0
        self.minimum: int | float = inf
        self.maximum: int | float = -inf
        self.exemplars: dict[int, HeldExemplar] = {}
        self.waiting: list[HeldExemplar] = []

    def sum_up(self, bounds: Sequence[float], wants: Callable[["ExemplarContext | None"], bool]) -> None:
        """Counts what waits: many at once cost a fraction of what each would alone."""
        waiting = self.waiting
        values = [one[0] for one in waiting]
        buckets = [*map(bisect_left, repeat(bounds), values)]
        for bucket, count in Counter(buckets).items():
            self.counts[bucket] += count
        self.total = sum(values, self.total)
        self.minimum = min(self.minimum, *values)
        self.maximum = max(self.maximum, *values)
        self.exemplars |= {bucket: one for bucket, one in zip(buckets, waiting, strict=True) if wants(one[2])}
        waiting.clear()

    def begun(self) -> "Buckets":
        """An empty one that begins where this does."""
        return Buckets(self.start, len(self.counts))

    def merge(self, other: "Buckets") -> None:
        """Adds another period's numbers; of two exemplars of a bucket the later one stays."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        for bucket, exemplar in other.exemplars.items():
            kept = self.exemplars.get(bucket)
            if kept is None or exemplar[1] >= kept[1]:
                self.exemplars[bucket] = exemplar


class CounterSeries:
    """One series of a counter, for whoever counts on it."""

    __slots__ = ("_attributes", "_metric", "_store", "period", "series")

    series: Total

    def __init__(self, store: "MetricStore", metric: Metric, attributes: Attributes) -> None:
        self._store = store
        self._metric = metric
        self._attributes = attributes
        self.period = -1
        """The period that `series` is good for."""

    def add(self, value: float = 1) -> None:
        """Count."""
        self._store.take(((self, value),), (), 0)

    def open(self) -> None:
        """Find the numbers of the open period."""
        self.period = self._store.period
        self.series = self._store.open_total(self._metric, self._attributes)


class HistogramSeries:
    """One series of a histogram, likewise."""

    __slots__ = ("_metric", "_store", "attributes", "period", "series", "waiting")

    series: Buckets
    waiting: list[HeldExemplar]

    def __init__(self, store: "MetricStore", metric: Metric, attributes: Attributes) -> None:
        self._store = store
        self._metric = metric
        self.attributes = attributes
        self.period = -1

    def record(self, value: float, exemplar: ExemplarContext | None = None, at: int = 0) -> None:
        """One measurement, in the metric's unit; `at` in ns since the epoch, for the exemplar."""
        self._store.take((), ((self, value, exemplar),), at)

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
        store = self._store
        if self.period != store.period:
            self.open()
        series = self.series
        if series.waiting:
            series.sum_up(self._metric.bounds, store.wants)
        series.counts = [mine + more for mine, more in zip(series.counts, counts, strict=True)]
        series.total += total
        series.minimum = min(series.minimum, minimum)
        series.maximum = max(series.maximum, maximum)
        if store.wants(exemplar):
            bucket = bisect_left(self._metric.bounds, maximum)
            series.exemplars[bucket] = (maximum, at or store.clock(), exemplar, self.attributes)

    def open(self) -> None:
        """Find the numbers of the open period."""
        self.period = self._store.period
        self.series = self._store.open_buckets(self._metric, self.attributes)
        self.waiting = self.series.waiting


Counted = Iterable[tuple[CounterSeries, float]]
"""What is to be added, and to which counters."""

Measured = Iterable[tuple[HistogramSeries, float, ExemplarContext | None]]
"""What was measured: for which histogram, in its unit, and by which span."""

Observations = Iterable[tuple[int | float, Attributes]]

_Series = TypeVar("_Series", Total, Buckets)

_TOGETHER = 256
"""How many moments' measurements wait to be summed up, at most."""

OVERFLOW: Attributes = (("otel.metric.overflow", True),)
CARDINALITY_LIMIT = 2000
UNUSED = 3600 * SECOND
"""After so long without a record a series gives up its place to a new one, if there is no other, ns."""


class Temporality(StrEnum):
    """The values of OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    LOW_MEMORY = "lowmemory"

    def is_delta(self, kind: MetricKind, *, observed: bool) -> bool:
        """Whether a metric of this kind is exported as differences."""
        if self is Temporality.CUMULATIVE or kind in {MetricKind.UP_DOWN_COUNTER, MetricKind.GAUGE}:
            return False
        return self is Temporality.DELTA or not observed


@dataclass(slots=True, eq=False)
class Reader:
    """One way out of the store, with its own temporality, exemplars and memory of what it has seen."""

    temporality: Temporality
    previous: int
    """When it last collected, else when the store began, as timestamps have it (ns)."""
    told: int = 0
    """The wall's time of the points that it gave last (ns since the epoch)."""
    moved: int = 0
    """The wall's correction then."""
    totals: dict[Metric, dict[Attributes, Total]] = field(default_factory=dict)
    buckets: dict[Metric, dict[Attributes, Buckets]] = field(default_factory=dict)
    observed: dict[Metric, dict[Attributes, Total]] = field(default_factory=dict)
    since: dict[tuple[Metric, Attributes], int] = field(default_factory=dict)
    """Where differences came back: when they begin, as timestamps have it."""

    def begun(self, metric: Metric, attributes: Attributes, times: "Times") -> int:
        """When a difference begins, by the wall: at the last collect, unless an earlier one came back."""
        return self.since.get((metric, attributes), self.previous) + times.moved


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
        self._callbacks: dict[Metric, list[Callable[[], Observations]]] = {}
        self.period = 0
        """The number of the open period: what a handle has found is good for one."""
        self._begin = clock()
        self._readers: list[Reader] = []
        self._taken = 0
        self.full: Callable[[], object] = lambda: None
        """Called for each series that found no place of its own, and for each that gave up its place."""

    @cached_property
    def scrape(self) -> Reader:
        """The reader behind `/metrics`. Asked for at the start if there is to be one: its first scrape misses nothing."""
        return self.reader(Temporality.CUMULATIVE)

    def reader(self, temporality: Temporality) -> Reader:
        """Another way out. Asked for at the start: it sees what is recorded from now on."""
        reader = Reader(temporality, self._begin)
        self._readers.append(reader)
        return reader

    def counter(self, metric: Metric, attributes: Attributes = ()) -> CounterSeries:
        """A handle on one series of a counter or an up-down counter."""
        return CounterSeries(self, metric, attributes)

    def histogram(self, metric: Metric, attributes: Attributes = ()) -> HistogramSeries:
        """A handle on one series of a histogram."""
        return HistogramSeries(self, metric, attributes)

    def take(self, counted: Counted, measured: Measured, at: int) -> None:
        """Everything that one moment counts and measures, in one call: what a request costs here is mostly calls.

        `at` (ns since the epoch) is for the exemplars; 0: now.
        """
        period = self.period
        for counter, more in counted:
            if counter.period != period:
                counter.open()
            counter.series.value += more
        at = at or self.clock()
        for histogram, value, exemplar in measured:
            if histogram.period != period:
                histogram.open()
            histogram.waiting.append((value, at, exemplar, histogram.attributes))
        self._taken += 1
        if self._taken == _TOGETHER:
            self._sum_up()

    def _sum_up(self) -> None:
        self._taken = 0
        for metric, histograms in self._buckets.items():
            for buckets in histograms.values():
                if buckets.waiting:
                    buckets.sum_up(metric.bounds, self.wants)

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
        # Asked before anything is taken, so that a callback that fails loses no differences.
        observed = {
            metric: [one for callback in callbacks for one in callback()]
            for metric, callbacks in self._callbacks.items()
        }
        self._fold()
        elapsed, moved = self.clock(), self._wall.look()
        now = elapsed + moved
        if moved < reader.moved:
            _set_back(reader, now)
        times = Times(reader.previous + moved, now, moved)
        collected: list[sdk.Metric] = []
        for metric in self.metrics:
            if metric in observed:
                data: _Data | None = self._observed(reader, metric, observed[metric], times)
            elif metric.kind is MetricKind.HISTOGRAM:
                data = _histogram(reader, metric, times)
            else:
                data = _sum(reader, metric, times)
            if data is not None:
                collected.append(sdk.Metric(metric.name, metric.description, metric.unit, data))
        reader.previous, reader.told, reader.moved = elapsed, now, moved
        reader.since = {}
        return collected

    def give_back(self, reader: Reader, metrics: Iterable[sdk.Metric]) -> None:
        """Differences that certainly did not arrive: they are part of the next ones. Totals need no such thing."""
        by_name = {metric.name: metric for metric in self.metrics}
        for exported in metrics:
            metric, data = by_name[exported.name], exported.data
            if isinstance(data, sdk.Gauge) or data.aggregation_temporality is not _temporality(True):
                continue
            series: dict[Metric, Any] = reader.totals if isinstance(data, sdk.Sum) else reader.buckets
            points: Iterable[Any] = data.data_points
            for point in points:
                key: Attributes = tuple(point.attributes.items())
                if metric in self._callbacks:
                    reader.observed[metric][key].value -= point.value
                else:
                    again, own = _again(point, reader.moved), series.setdefault(metric, {})
                    if key not in own and len(own) >= self._limit:
                        self.full()
                        key = OVERFLOW
                    own.setdefault(key, again.begun()).merge(again)
                begun = point.start_time_unix_nano - reader.moved
                reader.since[metric, key] = min(begun, reader.since.get((metric, key), begun))

    def open_total(self, metric: Metric, attributes: Attributes) -> Total:
        """A series's sum in the open period."""
        period = self._totals[metric]
        total = period.get(attributes)
        if total is None:
            known = (reader.totals.get(metric) for reader in self._readers)
            key = self._admit(len(period), attributes, known)
            total = period.setdefault(key, Total(self._wall_time()))
        return total

    def open_buckets(self, metric: Metric, attributes: Attributes) -> Buckets:
        """A series's buckets in the open period."""
        period = self._buckets[metric]
        buckets = period.get(attributes)
        if buckets is None:
            known = (reader.buckets.get(metric) for reader in self._readers)
            key = self._admit(len(period), attributes, known)
            buckets = period.setdefault(key, Buckets(self._wall_time(), len(metric.bounds) + 1))
        return buckets

    def _wall_time(self) -> int:
        return self.clock() + self._wall.correction

    def _admit(self, size: int, attributes: Attributes, known: Iterable[object]) -> Attributes:
        """The key of a series new to this period: its own if there is room or a reader has it, else the overflow's."""
        if size < self._limit or any(isinstance(series, dict) and attributes in series for series in known):
            return attributes
        self.full()
        return OVERFLOW

    def _fold(self) -> None:
        """Close the open period: every reader gets it, and the next one begins empty."""
        self._sum_up()
        self.period += 1
        for metric, totals in self._totals.items():
            self._hand_over(
                totals, [reader.totals.setdefault(metric, {}) for reader in self._readers], metric
            )
        for metric, histograms in self._buckets.items():
            self._hand_over(
                histograms, [reader.buckets.setdefault(metric, {}) for reader in self._readers], metric
            )

    def _hand_over(
        self, period: dict[Attributes, _Series], readers: Iterable[dict[Attributes, _Series]], metric: Metric
    ) -> None:
        """Adds a metric's period to what each reader has, and empties it."""
        now = self.clock()
        # A level that vanished would be wrong for good; a sum begins anew.
        yields = metric.kind is not MetricKind.UP_DOWN_COUNTER
        lost: set[Attributes] = set()
        for mine in readers:
            unused: list[Attributes] | None = None
            for attributes, one in period.items():
                key = attributes
                if key not in mine and len(mine) >= self._limit:
                    if unused is None:
                        unused = _unused(mine, period, now) if yields else []
                    if unused:
                        lost.add(gone := unused.pop())
                        del mine[gone]
                    else:
                        lost.add(key)
                        key = OVERFLOW
                kept = mine.get(key)
                if kept is None:
                    kept = mine[key] = one.begun()
                kept.merge(one)
                kept.used = now
        period.clear()
        for _ in lost:
            self.full()

    def _observed(
        self, reader: Reader, metric: Metric, observations: Observations, times: "Times"
    ) -> "_Data | None":
        known = reader.observed.setdefault(metric, {})
        values: dict[Attributes, int | float] = {}
        for value, attributes in observations:
            key = attributes
            if key not in known:
                key = attributes if len(known) < self._limit else OVERFLOW
                known.setdefault(key, Total(times.previous))
            values[key] = value if metric.kind is MetricKind.GAUGE else values.get(key, 0) + value
        if not values:
            return None
        if metric.kind is MetricKind.GAUGE:
            return sdk.Gauge([_number(key, None, times.now, value) for key, value in values.items()])
        delta = reader.temporality.is_delta(metric.kind, observed=True)
        points = []
        for key, value in values.items():
            before = known[key]
            start = reader.begun(metric, key, times) if delta else before.start
            points.append(_number(key, start, times.now, value - before.value if delta else value))
            before.value = value
        return sdk.Sum(points, _temporality(delta), metric.kind is MetricKind.COUNTER)


_Data = sdk.Sum | sdk.Gauge | sdk.Histogram


def _unused(mine: dict[Attributes, _Series], period: dict[Attributes, _Series], now: int) -> list[Attributes]:
    """The series that nothing was recorded on for `UNUSED`, the longest unused one last."""
    found = [(one.used, key) for key, one in mine.items() if now - one.used >= UNUSED and key not in period]
    return [key for _, key in sorted(found, key=itemgetter(0), reverse=True)]


@dataclass(frozen=True, slots=True)
class Times:
    """A collect's times (ns since the epoch) by the wall: when the one before it was, when it is itself.

    `moved` makes a timestamp the wall's time. The wall may have been set since the last collect: the one before is told
    as long ago as it was, which is what a difference since then is worth.
    """

    previous: int
    now: int
    moved: int


def _set_back(reader: Reader, now: int) -> None:
    """The wall has been set back: no series begins after its point; behind the latest points each begins anew at `now`.

    A start that is not known is told as the time of the first point, says OpenTelemetry's data model; the values go on.
    """
    anew = now < reader.told
    kept: tuple[dict[Metric, dict[Attributes, Total]] | dict[Metric, dict[Attributes, Buckets]], ...] = (
        reader.totals,
        reader.observed,
        reader.buckets,
    )
    for metrics in kept:
        for series in metrics.values():
            for one in series.values():
                one.start = now if anew else min(one.start, now)


def _sum(reader: Reader, metric: Metric, times: Times) -> _Data | None:
    series = reader.totals.get(metric)
    if not series:
        return None
    delta = reader.temporality.is_delta(metric.kind, observed=False)
    points = [
        _number(key, reader.begun(metric, key, times) if delta else total.start, times.now, total.value)
        for key, total in series.items()
    ]
    if delta:
        reader.totals[metric] = {}
    return sdk.Sum(points, _temporality(delta), metric.kind is MetricKind.COUNTER)


def _histogram(reader: Reader, metric: Metric, times: Times) -> _Data | None:
    series = reader.buckets.get(metric)
    if not series:
        return None
    delta = reader.temporality.is_delta(metric.kind, observed=False)
    points = []
    for key, buckets in series.items():
        attributes = dict(key)
        points.append(
            sdk.HistogramDataPoint(
                attributes=attributes,
                start_time_unix_nano=reader.begun(metric, key, times) if delta else buckets.start,
                time_unix_nano=times.now,
                count=sum(buckets.counts),
                sum=buckets.total,
                bucket_counts=tuple(buckets.counts),
                explicit_bounds=metric.bounds,
                min=buckets.minimum,
                max=buckets.maximum,
                exemplars=[
                    _exemplar(held, attributes, times.moved) for _, held in sorted(buckets.exemplars.items())
                ],
            )
        )
        buckets.exemplars = {}
    if delta:
        reader.buckets[metric] = {}
    return sdk.Histogram(points, _temporality(delta))


def _again(point: Any, moved: int) -> Total | Buckets:
    """The numbers a point was made of; `moved` is what made its times the wall's."""
    if isinstance(point, sdk.NumberDataPoint):
        total = Total(point.start_time_unix_nano)
        total.value = point.value
        return total
    buckets = Buckets(point.start_time_unix_nano, len(point.bucket_counts))
    buckets.counts = list(point.bucket_counts)
    buckets.total, buckets.minimum, buckets.maximum = point.sum, point.min, point.max
    for one in point.exemplars:
        context = None if one.trace_id is None else (one.trace_id, one.span_id, True)
        attributes: Attributes = tuple(one.filtered_attributes.items())
        bucket = bisect_left(point.explicit_bounds, one.value)
        buckets.exemplars[bucket] = (one.value, one.time_unix_nano - moved, context, attributes)
    return buckets


def _number(key: Attributes, start: int | None, now: int, value: float) -> sdk.NumberDataPoint:
    # The SDK's type says `int`, its own gauges say `None`: a gauge has no start.
    return sdk.NumberDataPoint(dict(key), start, now, value)  # type: ignore[arg-type]


def _exemplar(held: HeldExemplar, point: dict[str, str | bool | int], moved: int) -> Exemplar:
    value, at, context, attributes = held
    dropped = {key: given for key, given in attributes if key not in point}
    if context is None:
        return Exemplar(dropped, value, at + moved)
    trace_id, span_id, _ = context
    return Exemplar(dropped, value, at + moved, span_id, trace_id)


def _temporality(delta: bool) -> sdk.AggregationTemporality:
    return sdk.AggregationTemporality.DELTA if delta else sdk.AggregationTemporality.CUMULATIVE
