"""One series of a metric: its numbers in the open period, and the handles that count on it.

Owns what a measurement does to the numbers: a few additions, no hashing and no allocation but an exemplar's.
A handle is bound to one attribute set and finds its series once per period; it never opens one by itself.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Protocol

from sidecar.core.clock import Clock
from sidecar.core.record import record

Attributes = tuple[tuple[str, str | bool | int], ...]
"""Sorted by the caller; the key of one series."""


class MetricKind(StrEnum):
    """What a metric's numbers are, in the words of the conventions."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


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


class Openings(Protocol):
    """The store, as its handles see it."""

    @property
    def clock(self) -> Clock:
        """For exemplars that come without a time."""

    @property
    def exemplar_filter(self) -> ExemplarFilter:
        """Which measurements may become exemplars."""

    @property
    def period(self) -> int:
        """The number of the open period."""

    def open_total(self, metric: Metric, attributes: Attributes, /) -> Total:
        """A series's sum in the open period."""

    def open_buckets(self, metric: Metric, attributes: Attributes, /) -> Buckets:
        """A series's buckets in the open period."""


class CounterSeries:
    """One series of a counter, for whoever counts on it."""

    __slots__ = ("_attributes", "_metric", "_period", "_series", "_store")

    def __init__(self, store: Openings, metric: Metric, attributes: Attributes) -> None:
        self._store = store
        self._metric = metric
        self._attributes = attributes
        self._period = -1

    def add(self, value: float = 1) -> None:
        """Count."""
        store = self._store
        if self._period != store.period:
            self._period = store.period
            self._series = store.open_total(self._metric, self._attributes)
        self._series.value += value


class HistogramSeries:
    """One series of a histogram, likewise."""

    __slots__ = ("_always", "_attributes", "_bounds", "_metric", "_period", "_series", "_store", "_traced")

    def __init__(self, store: Openings, metric: Metric, attributes: Attributes) -> None:
        self._store = store
        self._metric = metric
        self._bounds = metric.bounds
        self._attributes = attributes
        self._always = store.exemplar_filter is ExemplarFilter.ALWAYS_ON
        self._traced = store.exemplar_filter is ExemplarFilter.TRACE_BASED
        self._period = -1

    def record(self, value: float, exemplar: ExemplarContext | None = None, at: int = 0) -> None:
        """One measurement, in the metric's unit; `at` in ns since the epoch, for the exemplar."""
        store = self._store
        if self._period != store.period:
            self._open()
        series = self._series
        bucket = bisect_left(self._bounds, value)
        series.counts[bucket] += 1
        series.total += value
        if value < series.minimum:  # noqa: PLR1730 - a third of the cost of calling min()
            series.minimum = value
        if value > series.maximum:  # noqa: PLR1730 - likewise
            series.maximum = value
        if self._always or (self._traced and exemplar is not None and exemplar.sampled):
            series.exemplars[bucket] = (value, at or store.clock(), exemplar, self._attributes)

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
        if self._period != store.period:
            self._open()
        series = self._series
        series.counts = [mine + more for mine, more in zip(series.counts, counts, strict=True)]
        series.total += total
        series.minimum = min(series.minimum, minimum)
        series.maximum = max(series.maximum, maximum)
        if self._always or (self._traced and exemplar is not None and exemplar.sampled):
            bucket = bisect_left(self._bounds, maximum)
            series.exemplars[bucket] = (maximum, at or store.clock(), exemplar, self._attributes)

    def _open(self) -> None:
        store = self._store
        self._period = store.period
        self._series = store.open_buckets(self._metric, self._attributes)
