"""Figures that scripted traffic is known to have caused, and how to ask for them.

Owns the two ways to ask: of exported data points, and of Prometheus (as an expression in the names that its OTLP
receiver gives). It knows no traffic: `scenario.py` has the figures. It never asks anybody itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.testing import Point

_UNITS = {"s": "_seconds", "By": "_bytes"}
"""What Prometheus appends for a unit; annotations in braces append nothing."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one round adds, exactly, to a counter or to a histogram, over all series that carry `where`.

    Of a histogram it is the number of values; with `over`, of those above this bound (one of its bounds); with
    `summed`, their sum.
    """

    metric: Metric
    per_round: int
    where: tuple[tuple[str, str], ...] = ()
    over: float | None = None
    summed: bool = False

    def __str__(self) -> str:
        above = "" if self.over is None else f">{self.over:g}"
        pairs = ",".join(f"{name}={value}" for name, value in self.where)
        return f"{self.metric.name}{above}{' sum' if self.summed else ''} {pairs}".strip()

    def of_points(self, points: Iterable[Point]) -> float:
        """The figure in one export of cumulative data points."""
        return sum(self._of(point) for point in points if self._is(point))

    def _is(self, point: Point) -> bool:
        return point.metric == self.metric.name and all(
            name in point.attributes and _label(point.attributes[name]) == value for name, value in self.where
        )

    def _of(self, point: Point) -> float:
        if self.metric.kind is not MetricKind.HISTOGRAM:
            return point.value or 0
        if self.summed:
            return point.sum
        if self.over is None:
            return point.count
        return sum(point.buckets[point.bounds.index(self.over) + 1 :])

    def promql(self, job: str) -> str:
        """An expression for the figure; `job` is the service's name. It gives nothing while there are no series."""
        name = _name(self.metric)
        selected = [f'job="{job}"', *(f'{label.replace(".", "_")}="{value}"' for label, value in self.where)]
        matchers = ",".join(selected)
        if self.metric.kind is not MetricKind.HISTOGRAM:
            return f"sum({name}_total{{{matchers}}})"
        if self.summed:
            return f"sum({name}_sum{{{matchers}}})"
        every = f"sum({name}_count{{{matchers}}})"
        if self.over is None:
            return every
        return f'{every} - sum({name}_bucket{{{matchers},le=~"{_bound(self.over)}"}})'


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest value of a gauge, in every round alike; it lasts for longer than a second."""

    metric: Metric
    value: int

    def __str__(self) -> str:
        return f"{self.metric.name} peak"

    def of_points(self, points: Iterable[Point]) -> float:
        """The highest value in any number of exports."""
        return max(point.value or 0 for point in points if point.metric == self.metric.name)

    def promql(self, job: str, window: str) -> str:
        """An expression for the highest value within `window` (`10m`)."""
        return f'max(max_over_time({_name(self.metric)}{{job="{job}"}}[{window}]))'


def _name(metric: Metric) -> str:
    """The metric's name in Prometheus, without what its kind appends."""
    return metric.name.replace(".", "_") + _UNITS.get(metric.unit, "")


def _bound(bound: float) -> str:
    """A pattern for the bound's label: a whole one is written with or without a fraction."""
    text = f"{bound:g}"
    return text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"


def _label(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
