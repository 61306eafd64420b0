"""What the metric store keeps, as plain numbers, and what a reader of it is given: the SDK's own data points.

Owns the accumulators, what a way out has seen of them, and how both become points of OpenTelemetry's data model. It
records nothing and knows no clock.
"""

from bisect import bisect_left
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter
from typing import Any, TypeVar

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import SECOND
from sidecar.telemetry.metrics import Metric, MetricKind, Temporality

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
        """When a reader last got something for it, as timestamps have it (ns); of what is observed, when it was last told."""
        self.value: int | float = 0

    def begun(self) -> "Total":
        """An empty one that begins where this does."""
        return Total(self.start)

    def merge(self, other: "Total") -> None:
        """Adds another period's sum."""
        self.value += other.value


class Buckets:
    """A histogram's numbers, and the last exemplar of each bucket."""

    __slots__ = ("counts", "exemplars", "maximum", "minimum", "start", "total", "used")

    def __init__(self, start: int, buckets: int) -> None:
        self.start = start
        self.used = 0
        self.counts = [0] * buckets
        self.total: int | float = 0
        self.minimum: int | float = inf
        self.maximum: int | float = -inf
        self.exemplars: dict[int, HeldExemplar] = {}

    def hold(self, bucket: int, exemplar: HeldExemplar) -> None:
        """Keeps a bucket's exemplar, unless it has a later one."""
        kept = self.exemplars.get(bucket)
        if kept is None or exemplar[1] >= kept[1]:
            self.exemplars[bucket] = exemplar

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
            self.hold(bucket, exemplar)


@dataclass(slots=True, eq=False)
class Reader:
    """One way out of the store, with its own temporality, exemplars and memory of what it has seen."""

    temporality: Temporality
    begin: int
    """When the store began, as timestamps have it (ns)."""
    previous: int
    """When it last collected, else when the store began, likewise."""
    told: int = 0
    """The wall's time of the points that it gave last (ns since the epoch)."""
    moved: int = 0
    """The wall's correction then."""
    latest: int = 0
    """The latest beginning of a series of its own, by the wall as it was then (ns since the epoch)."""
    totals: dict[Metric, dict[Attributes, Total]] = field(default_factory=dict)
    buckets: dict[Metric, dict[Attributes, Buckets]] = field(default_factory=dict)
    observed: dict[Metric, dict[Attributes, Total]] = field(default_factory=dict)
    since: dict[tuple[Metric, Attributes], int] = field(default_factory=dict)
    """Where differences came back: when they begin, as timestamps have it."""

    def is_delta(self, metric: Metric) -> bool:
        """Whether it is given differences of a metric that is recorded."""
        return self.temporality.is_delta(metric.kind, observed=False)

    def series(self, metric: Metric) -> dict[Attributes, Any]:
        """What it has of a metric that is not asked for."""
        kind: dict[Metric, Any] = self.buckets if metric.kind is MetricKind.HISTOGRAM else self.totals
        return kind.setdefault(metric, {})  # type: ignore[no-any-return]

    def begun(self, metric: Metric, attributes: Attributes, times: "Times") -> int:
        """When a difference begins, by the wall: at the last collect, unless an earlier one came back."""
        return self.since.get((metric, attributes), self.previous) + times.moved


Data = sdk.Sum | sdk.Gauge | sdk.Histogram


@dataclass(frozen=True, slots=True)
class Times:
    """When a collect is (ns since the epoch), by the wall.

    `moved` makes a timestamp the wall's time. The wall may have been set since the last collect: the one before is told
    as long ago as it was, which is what a difference since then is worth.
    """

    now: int
    moved: int


def set_back(reader: Reader, now: int) -> None:
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
    reader.latest = min(reader.latest, now)


IN_ONE_GO = 200
"""Series that are handed over, or made points of, in one step: a millisecond or two."""

Steps = Generator[None, None, Data | None]
"""Makes the points of a metric, in steps; None if it has none."""


def sum_of(reader: Reader, metric: Metric, times: Times) -> Steps:
    """The points of a counter; differences are a reader's no more once they are told."""
    series = reader.totals.get(metric)
    if not series:
        return None
    delta = reader.is_delta(metric)
    points: list[sdk.NumberDataPoint] = []
    for key, total in series.items():
        start = reader.begun(metric, key, times) if delta else total.start
        points.append(number(key, start, times.now, total.value))
        if not len(points) % IN_ONE_GO:
            yield
    if delta:
        reader.totals[metric] = {}
    return sdk.Sum(points, temporality(delta), metric.kind is MetricKind.COUNTER)


def observed_of(
    reader: Reader, metric: Metric, values: Mapping[Attributes, int | float], times: Times
) -> Data:
    """The points of what callbacks told: present values of a gauge, or a counter's values since the start."""
    if metric.kind is MetricKind.GAUGE:
        return sdk.Gauge([number(key, None, times.now, value) for key, value in values.items()])
    delta = reader.temporality.is_delta(metric.kind, observed=True)
    points = []
    for key, value in values.items():
        before = reader.observed[metric][key]
        # A callback may have failed at the last collect.
        start = before.used + times.moved if delta else before.start
        points.append(number(key, start, times.now, value - before.value if delta else value))
        before.value, before.used = value, times.now - times.moved
    return sdk.Sum(points, temporality(delta), metric.kind is MetricKind.COUNTER)


def histogram_of(reader: Reader, metric: Metric, times: Times) -> Steps:
    """Likewise of a histogram, with the exemplars since the last collect."""
    series = reader.buckets.get(metric)
    if not series:
        return None
    delta = reader.is_delta(metric)
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
        if not len(points) % IN_ONE_GO:
            yield
    if delta:
        reader.buckets[metric] = {}
    return sdk.Histogram(points, temporality(delta))


def again(point: Any, moved: int) -> Total | Buckets:
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


def number(key: Attributes, start: int | None, now: int, value: float) -> sdk.NumberDataPoint:
    """One point; times in ns since the epoch."""
    # The SDK's type says `int`, its own gauges say `None`: a gauge has no start.
    return sdk.NumberDataPoint(dict(key), start, now, value)  # type: ignore[arg-type]


def _exemplar(held: HeldExemplar, point: dict[str, str | bool | int], moved: int) -> Exemplar:
    value, at, context, attributes = held
    dropped = {key: given for key, given in attributes if key not in point}
    if context is None:
        return Exemplar(dropped, value, at + moved)
    trace_id, span_id, _ = context
    return Exemplar(dropped, value, at + moved, span_id, trace_id)


def temporality(delta: bool) -> sdk.AggregationTemporality:
    """The SDK's word for it."""
    return sdk.AggregationTemporality.DELTA if delta else sdk.AggregationTemporality.CUMULATIVE


UNUSED = 3600 * SECOND
"""After so long without a record a series gives up its place to a new one, if there is no other, ns."""

_Numbers = TypeVar("_Numbers", Total, Buckets)


def unused(
    mine: dict[Attributes, _Numbers], period: dict[Attributes, _Numbers], now: int
) -> list[Attributes]:
    """The series that nothing was recorded on for `UNUSED`, the longest unused one last."""
    found = [(one.used, key) for key, one in mine.items() if now - one.used >= UNUSED and key not in period]
    return [key for _, key in sorted(found, key=itemgetter(0), reverse=True)]
