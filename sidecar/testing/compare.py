"""Compares whole spans and metric points, without the parts that differ from run to run.

Owns the normalising: what a test does not name must not be there, and what is volatile must be named as
ignored. So a new attribute, or a lost one, fails the test that knows the span.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sidecar.testing.otlp import Attributes, Point, Span, Value
from sidecar.testing.sink import OtlpSink


def expect_span(
    span: Span,
    *,
    name: str,
    kind: str,
    attributes: Mapping[str, Value],
    ignoring: Collection[str] = (),
    status: str = "UNSET",
    events: Collection[str] = (),
    links: Collection[str] = (),
) -> None:
    """Fails unless the span is exactly this: `attributes` without the keys of `ignoring`, which must be there.

    `events` are the names of its events in order, `links` the values of the links' `sidecar.link`, in any
    order. Ids and times are not compared, except that a span must not end before it starts.
    """
    missing = sorted(key for key in ignoring if key not in span.attributes)
    found = {
        "name": span.name,
        "kind": span.kind,
        "status": span.status,
        "attributes": {key: value for key, value in span.attributes.items() if key not in ignoring},
        "events": [event.name for event in span.events],
        "links": sorted(str(link.attributes.get("sidecar.link")) for link in span.links),
        "missing": missing,
        "ends before it starts": span.end < span.start,
    }
    wanted = {
        "name": name,
        "kind": kind,
        "status": status,
        "attributes": dict(attributes),
        "events": list(events),
        "links": sorted(links),
        "missing": [],
        "ends before it starts": False,
    }
    if found != wanted:
        raise AssertionError("\n".join(_differences(found, wanted)))


def _differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> Iterable[str]:
    yield "the span is not what was expected:"
    for key, value in wanted.items():
        other = found[key]
        if other == value:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            for name in sorted({*value, *other}):
                if name not in other:
                    yield f"  {name}: missing, expected {value[name]!r}"
                elif name not in value:
                    yield f"  {name}: {other[name]!r}, not expected"
                elif other[name] != value[name]:
                    yield f"  {name}: {other[name]!r}, expected {value[name]!r}"
        else:
            yield f"  {key}: {other!r}, expected {value!r}"


def points(source: OtlpSink | Iterable[Point], metric: str, **attributes: Value) -> list[Point]:
    """The points of a metric that carry these attributes, dots written as two underscores.

    `points(sink, "sidecar.requests", sidecar__outcome="completed")`
    """
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    every = source.points if isinstance(source, OtlpSink) else source
    return [
        point
        for point in every
        if point.metric == metric and all(point.attributes.get(key) == value for key, value in wanted.items())
    ]


@dataclass(frozen=True, slots=True)
class Change:
    """By how much one series grew: a counter's value, or a histogram's count, sum and buckets."""

    metric: str
    attributes: Attributes
    value: float = 0
    count: int = 0
    sum: float = 0.0
    buckets: tuple[int, ...] = ()


def changes(before: Iterable[Point], after: Iterable[Point]) -> list[Change]:
    """What the cumulative sums and histograms of `after` have more than those of `before`; gauges are left out.

    Both are one metric export each (`OtlpSink.snapshot`). Series that did not change are left out.
    """
    earlier = {_series(point): point for point in before}
    found = [_change(earlier.get(_series(point)), point) for point in after if point.kind != "gauge"]
    return [change for change in found if change.value or change.count]


def _series(point: Point) -> tuple[str, str]:
    return point.metric, repr(sorted(point.attributes.items()))


def _change(old: Point | None, new: Point) -> Change:
    if new.kind == "sum":
        value = (new.value or 0) - ((old and old.value) or 0)
        return Change(new.metric, new.attributes, value=value)
    buckets = old.buckets if old else (0,) * len(new.buckets)
    return Change(
        new.metric,
        new.attributes,
        count=new.count - (old.count if old else 0),
        sum=new.sum - (old.sum if old else 0.0),
        buckets=tuple(later - sooner for later, sooner in zip(new.buckets, buckets, strict=True)),
    )
