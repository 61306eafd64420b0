"""The metric accumulators: plain numbers per attribute set, read out as the SDK's own data points.

Touched by the event loop only: no locks, no clock but the one given, a microsecond per record.
Every record lands in the open period; a collect folds that period into each reader, so that readers
(an OTLP export, a scrape of `/metrics`) keep their temporality and exemplars apart, as in the SDK.
It must never grow past its cardinality limit. Written by the measures, read by export and `/metrics`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import Clock
from sidecar.core.record import record

Attributes = tuple[tuple[str, str | bool | int], ...]
"""Sorted by the caller; the key of one series."""
Observations = Iterable[tuple[int | float, Attributes]]

OVERFLOW: Attributes = (("otel.metric.overflow", True),)
CARDINALITY_LIMIT = 2000


class MetricKind(StrEnum):
    """What a metric's numbers are, in the words of the conventions."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


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


class ExemplarFilter(StrEnum):
    """The values of OTEL_METRICS_EXEMPLAR_FILTER."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    TRACE_BASED = "trace_based"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric's identity. Compared by identity: the store is asked about it on every record."""

    name: str
    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...]
    """Every attribute key it may carry."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in `unit`."""
    integer: bool = False
    """Whether its values are whole numbers and exported as such."""


@record
class ExemplarContext:
    """The span a measurement belongs to."""

    trace_id: int
    span_id: int
    sampled: bool


_Exemplar = tuple[int | float, int, ExemplarContext | None, Attributes]
"""Value, time, span, and the attributes of the measurement."""


class _Total:
    """A running sum."""

    __slots__ = ("start", "value")

    def __init__(self, start: int) -> None:
        self.start = start
        self.value: int | float = 0

    def merge(self, other: "_Total") -> None:
        self.value += other.value


class _Buckets:
    """A histogram's numbers, and the last exemplar of each bucket."""

    __slots__ = ("counts", "exemplars", "maximum", "minimum", "start", "total")

    def __init__(self, start: int, buckets: int) -> None:
        self.start = start
        self.counts = [0] * buckets
        self.total: int | float = 0
        self.minimum: int | float = inf
        self.maximum: int | float = -inf
        self.exemplars: dict[int, _Exemplar] = {}

    def merge(self, other: "_Buckets") -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        for bucket, exemplar in other.exemplars.items():
            kept = self.exemplars.get(bucket)
            if kept is None or exemplar[1] >= kept[1]:
                self.exemplars[bucket] = exemplar


@dataclass(slots=True, eq=False)
class Reader:
    """One way out of the store, with its own temporality, exemplars and memory of what it has seen."""

    temporality: Temporality
    previous: int
    """When it last collected, else when the store began: ns since the epoch."""
    totals: dict[Metric, dict[Attributes, _Total]] = field(default_factory=dict)
    buckets: dict[Metric, dict[Attributes, _Buckets]] = field(default_factory=dict)
    observed: dict[Metric, dict[Attributes, _Total]] = field(default_factory=dict)


class MetricStore:
    """All metrics of the process; see the module."""

    def __init__(
        self,
        metrics: Iterable[Metric],
        *,
        clock: Clock,
        exemplar_filter: str = ExemplarFilter.TRACE_BASED,
        cardinality_limit: int = CARDINALITY_LIMIT,
    ) -> None:
        self.metrics = tuple(metrics)
        self._clock = clock
        self._exemplar_filter = ExemplarFilter(exemplar_filter)
        self._limit = cardinality_limit
        self._totals: dict[Metric, dict[Attributes, _Total]] = {}
        self._buckets: dict[Metric, dict[Attributes, _Buckets]] = {}
        for metric in self.metrics:
            if metric.kind is MetricKind.HISTOGRAM:
                self._buckets[metric] = {}
            elif metric.kind is not MetricKind.GAUGE:
                self._totals[metric] = {}
        self._callbacks: dict[Metric, list[Callable[[], Observations]]] = {}
        self._begin = clock()
        self._readers: list[Reader] = []
        self.scrape = self.reader(Temporality.CUMULATIVE)
        """The reader behind `/metrics`: always there, so that the first scrape misses nothing."""

    def reader(self, temporality: Temporality) -> Reader:
        """Another way out. Asked for at the start: it sees what is recorded from now on."""
        reader = Reader(temporality, self._begin)
        self._readers.append(reader)
        return reader

    def add(self, metric: Metric, value: float, attributes: Attributes = ()) -> None:
        """Count on a counter (never down) or an up-down counter."""
        try:
            self._totals[metric][attributes].value += value
        except KeyError:
            self._open_total(metric, attributes).value += value

    def record(
        self,
        metric: Metric,
        value: float,
        attributes: Attributes = (),
        exemplar: ExemplarContext | None = None,
        at: int = 0,
    ) -> None:
        """One measurement of a histogram, in its unit; `at` in ns since the epoch, for the exemplar."""
        try:
            series = self._buckets[metric][attributes]
        except KeyError:
            series = self._open_buckets(metric, attributes)
        bucket = bisect_left(metric.bounds, value)
        series.counts[bucket] += 1
        series.total += value
        if value < series.minimum:  # noqa: PLR1730 - a third of the cost of calling min()
            series.minimum = value
        if value > series.maximum:  # noqa: PLR1730 - likewise
            series.maximum = value
        if self._samples(exemplar):
            series.exemplars[bucket] = (value, at or self._clock(), exemplar, attributes)

    def record_buckets(
        self,
        metric: Metric,
        counts: Sequence[int],
        total: float,
        minimum: float,
        maximum: float,
        attributes: Attributes = (),
        exemplar: ExemplarContext | None = None,
        at: int = 0,
    ) -> None:
        """Many measurements, already in this histogram's buckets (one more than it has bounds).

        The largest of them is the exemplar. Nothing is recorded where every count is 0.
        """
        if not any(counts):
            return
        try:
            series = self._buckets[metric][attributes]
        except KeyError:
            series = self._open_buckets(metric, attributes)
        series.counts = [mine + more for mine, more in zip(series.counts, counts, strict=True)]
        series.total += total
        series.minimum = min(series.minimum, minimum)
        series.maximum = max(series.maximum, maximum)
        if self._samples(exemplar):
            bucket = bisect_left(metric.bounds, maximum)
            series.exemplars[bucket] = (maximum, at or self._clock(), exemplar, attributes)

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
        now = self._clock()
        collected: list[sdk.Metric] = []
        for metric in self.metrics:
            if metric in observed:
                data: _Data | None = self._observed(reader, metric, observed[metric], now)
            elif metric.kind is MetricKind.HISTOGRAM:
                data = _histogram(reader, metric, now)
            else:
                data = _sum(reader, metric, now)
            if data is not None:
                collected.append(sdk.Metric(metric.name, metric.description, metric.unit, data))
        reader.previous = now
        return collected

    def _samples(self, exemplar: ExemplarContext | None) -> bool:
        if self._exemplar_filter is ExemplarFilter.TRACE_BASED:
            return exemplar is not None and exemplar.sampled
        return self._exemplar_filter is ExemplarFilter.ALWAYS_ON

    def _open_total(self, metric: Metric, attributes: Attributes) -> _Total:
        period = self._totals[metric]
        key = self._admit(len(period), attributes, (reader.totals.get(metric) for reader in self._readers))
        return period.setdefault(key, _Total(self._clock()))

    def _open_buckets(self, metric: Metric, attributes: Attributes) -> _Buckets:
        period = self._buckets[metric]
        key = self._admit(len(period), attributes, (reader.buckets.get(metric) for reader in self._readers))
        return period.setdefault(key, _Buckets(self._clock(), len(metric.bounds) + 1))

    def _admit(self, size: int, attributes: Attributes, known: Iterable[object]) -> Attributes:
        """The key of a series new to this period: its own if there is room or a reader has it, else the overflow's."""
        if size < self._limit or any(isinstance(series, dict) and attributes in series for series in known):
            return attributes
        return OVERFLOW

    def _fold(self) -> None:
        """Close the open period: every reader gets it, and the next one begins empty."""
        for metric, totals in self._totals.items():
            for reader in self._readers:
                mine = reader.totals.setdefault(metric, {})
                for attributes, total in totals.items():
                    key = attributes if attributes in mine or len(mine) < self._limit else OVERFLOW
                    mine.setdefault(key, _Total(total.start)).merge(total)
            totals.clear()
        for metric, histograms in self._buckets.items():
            size = len(metric.bounds) + 1
            for reader in self._readers:
                own = reader.buckets.setdefault(metric, {})
                for attributes, buckets in histograms.items():
                    key = attributes if attributes in own or len(own) < self._limit else OVERFLOW
                    own.setdefault(key, _Buckets(buckets.start, size)).merge(buckets)
            histograms.clear()

    def _observed(
        self, reader: Reader, metric: Metric, observations: Observations, now: int
    ) -> "_Data | None":
        known = reader.observed.setdefault(metric, {})
        values: dict[Attributes, int | float] = {}
        for value, attributes in observations:
            key = attributes
            if key not in known:
                key = attributes if len(known) < self._limit else OVERFLOW
                known.setdefault(key, _Total(reader.previous))
            values[key] = value if metric.kind is MetricKind.GAUGE else values.get(key, 0) + value
        if not values:
            return None
        if metric.kind is MetricKind.GAUGE:
            return sdk.Gauge([_number(key, None, now, value) for key, value in values.items()])
        delta = reader.temporality.is_delta(metric.kind, observed=True)
        points = []
        for key, value in values.items():
            before = known[key]
            start = reader.previous if delta else before.start
            points.append(_number(key, start, now, value - before.value if delta else value))
            before.value = value
        return sdk.Sum(points, _temporality(delta), metric.kind is MetricKind.COUNTER)


_Data = sdk.Sum | sdk.Gauge | sdk.Histogram


def _sum(reader: Reader, metric: Metric, now: int) -> _Data | None:
    series = reader.totals.get(metric)
    if not series:
        return None
    delta = reader.temporality.is_delta(metric.kind, observed=False)
    points = [
        _number(key, reader.previous if delta else total.start, now, total.value)
        for key, total in series.items()
    ]
    if delta:
        reader.totals[metric] = {}
    return sdk.Sum(points, _temporality(delta), metric.kind is MetricKind.COUNTER)


def _histogram(reader: Reader, metric: Metric, now: int) -> _Data | None:
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
                start_time_unix_nano=reader.previous if delta else buckets.start,
                time_unix_nano=now,
                count=sum(buckets.counts),
                sum=buckets.total,
                bucket_counts=tuple(buckets.counts),
                explicit_bounds=metric.bounds,
                min=buckets.minimum,
                max=buckets.maximum,
                exemplars=[_exemplar(held, attributes) for _, held in sorted(buckets.exemplars.items())],
            )
        )
        buckets.exemplars = {}
    if delta:
        reader.buckets[metric] = {}
    return sdk.Histogram(points, _temporality(delta))


def _number(key: Attributes, start: int | None, now: int, value: float) -> sdk.NumberDataPoint:
    # The SDK's type says `int`, its own gauges say `None`: a gauge has no start.
    return sdk.NumberDataPoint(dict(key), start, now, value)  # type: ignore[arg-type]


def _exemplar(held: _Exemplar, point: dict[str, str | bool | int]) -> Exemplar:
    value, at, context, attributes = held
    dropped = {key: given for key, given in attributes if key not in point}
    if context is None:
        return Exemplar(dropped, value, at)
    return Exemplar(dropped, value, at, context.span_id, context.trace_id)


def _temporality(delta: bool) -> sdk.AggregationTemporality:
    return sdk.AggregationTemporality.DELTA if delta else sdk.AggregationTemporality.CUMULATIVE
