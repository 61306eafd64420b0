"""The accumulators give, for the same input, what the SDK's own instruments give."""

from collections import Counter as Counted
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    ExemplarFilter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    TraceBasedExemplarFilter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from sidecar.core.clock import SECOND
from sidecar.telemetry.metric_store import (
    CARDINALITY_LIMIT,
    OVERFLOW,
    Attributes,
    ExemplarContext,
    MetricStore,
    Rows,
    Temporality,
    Words,
    client_span,
    server_span,
)
from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.telemetry.trace import RequestTrace
from tests.telemetry.ticking import Ticking

COUNTER = Metric("requests", MetricKind.COUNTER, "{request}", "settled", ("k",), integer=True)
LEVEL = Metric("active", MetricKind.UP_DOWN_COUNTER, "{request}", "in flight", ("k",), integer=True)
DURATION = Metric("duration", MetricKind.HISTOGRAM, "s", "how long", ("k",), bounds=(0.1, 0.5, 2.0))
GAUGE = Metric("age", MetricKind.GAUGE, "s", "the oldest", ("k",))
TOTAL = Metric("cpu", MetricKind.COUNTER, "s", "used", ("k",))
OPEN = Metric("files", MetricKind.UP_DOWN_COUNTER, "{file}", "open", ("k",))
METRICS = (COUNTER, LEVEL, DURATION, GAUGE, TOTAL, OPEN)

DELTA, CUMULATIVE = sdk.AggregationTemporality.DELTA, sdk.AggregationTemporality.CUMULATIVE
PREFERENCES: dict[Temporality, dict[type, sdk.AggregationTemporality]] = {
    Temporality.CUMULATIVE: {},
    Temporality.DELTA: {Counter: DELTA, Histogram: DELTA, ObservableCounter: DELTA},
    Temporality.LOW_MEMORY: {Counter: DELTA, Histogram: DELTA},
}
FILTERS: dict[str, Callable[[], ExemplarFilter]] = {
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
    "trace_based": TraceBasedExemplarFilter,
}
SAMPLED, UNSAMPLED = (7, 9, True), (8, 10, False)


class Both:
    """The store and the SDK's instruments, given the same."""

    def __init__(
        self,
        temporality: Temporality = Temporality.CUMULATIVE,
        *,
        exemplar_filter: str = "trace_based",
        limit: int = CARDINALITY_LIMIT,
    ) -> None:
        self.store = MetricStore(
            METRICS, clock=Ticking(), exemplar_filter=exemplar_filter, cardinality_limit=limit
        )
        self.reader = self.store.reader(temporality)
        self.sdk_reader = sdk.InMemoryMetricReader(
            preferred_temporality=PREFERENCES[temporality],
            cardinality_limits=dict.fromkeys(
                (
                    Counter,
                    Histogram,
                    UpDownCounter,
                    ObservableCounter,
                    ObservableGauge,
                    ObservableUpDownCounter,
                ),
                limit,
            ),
        )
        provider = MeterProvider(
            [self.sdk_reader], exemplar_filter=FILTERS[exemplar_filter](), shutdown_on_exit=False
        )
        meter = provider.get_meter("test")
        self._counter = meter.create_counter("requests", "{request}", "settled")
        self._level = meter.create_up_down_counter("active", "{request}", "in flight")
        self._histogram = meter.create_histogram(
            "duration", "s", "how long", explicit_bucket_boundaries_advisory=DURATION.bounds
        )
        self.observed: dict[str, list[tuple[float, Attributes]]] = {"age": [], "cpu": [], "files": []}
        meter.create_observable_gauge("age", [self._sdk_callback("age")], "s", "the oldest")
        meter.create_observable_counter("cpu", [self._sdk_callback("cpu")], "s", "used")
        meter.create_observable_up_down_counter("files", [self._sdk_callback("files")], "{file}", "open")
        for metric in (GAUGE, TOTAL, OPEN):
            self.store.observe(metric, lambda name=metric.name: self.observed[name])  # type: ignore[misc]

    def _sdk_callback(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(value, dict(key)) for value, key in self.observed[name]]

    def add(self, value: int, key: Attributes = ()) -> None:
        """Count on both."""
        self.store.add(COUNTER, value, key)
        self._counter.add(value, dict(key))

    def move(self, value: int, key: Attributes = ()) -> None:
        """Move both up-down counters."""
        self.store.add(LEVEL, value, key)
        self._level.add(value, dict(key))

    def record(self, value: float, key: Attributes = (), exemplar: ExemplarContext | None = None) -> None:
        """Record on both histograms."""
        self.store.record(DURATION, value, key, exemplar)
        self._histogram.record(value, dict(key), context=_context(exemplar))

    def same(self) -> list["Told"]:
        """What both now export, held equal."""
        ours, theirs = told(self.store.collect(self.reader)), told(_metrics(self.sdk_reader))
        assert ours == theirs
        return ours


def _context(exemplar: ExemplarContext | None) -> Context:
    if exemplar is None:
        return Context()
    trace_id, span_id, sampled = exemplar
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    span = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())


def _metrics(reader: sdk.InMemoryMetricReader) -> list[sdk.Metric]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    return [
        m for resource in data.resource_metrics for scope in resource.scope_metrics for m in scope.metrics
    ]


@dataclass(frozen=True)
class Told:
    """A metric without its times."""

    name: str
    unit: str | None
    description: str | None
    kind: str
    temporality: int | None
    monotonic: bool | None
    points: dict[Any, Any]


def told(metrics: list[sdk.Metric]) -> list[Told]:
    """Everything but times, in the order of names."""
    return sorted(
        (
            Told(
                metric.name,
                metric.unit,
                metric.description,
                type(metric.data).__name__,
                getattr(metric.data, "aggregation_temporality", None),
                getattr(metric.data, "is_monotonic", None),
                {
                    frozenset((point.attributes or {}).items()): _values(point)
                    for point in metric.data.data_points
                },
            )
            for metric in metrics
        ),
        key=lambda one: one.name,
    )


def _values(point: Any) -> Any:
    exemplars = [
        (one.value, one.trace_id, one.span_id, one.filtered_attributes or {}) for one in point.exemplars
    ]
    if isinstance(point, sdk.HistogramDataPoint):
        counts = tuple(point.bucket_counts)
        # Fractions are summed up in another order here than there.
        return (
            point.count,
            round(point.sum, 9),
            counts,
            tuple(point.explicit_bounds),
            point.min,
            point.max,
            exemplars,
        )
    # The SDK keeps exemplars of counters too; here they belong to histograms only.
    return (type(point.value), point.value)


def key(name: str) -> Attributes:
    """The attribute set of one series."""
    return (("k", name),)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), st.sampled_from("abcde")),
        st.tuples(st.just("move"), st.integers(-9, 9), st.sampled_from("abcde")),
        st.tuples(
            st.just("record"), st.sampled_from([0.0, 0.1, 0.25, 0.5, 2.0, 7.5]), st.sampled_from("abcde")
        ),
        st.tuples(st.just("traced"), st.sampled_from([0.1, 0.3, 9.0]), st.sampled_from("abcde")),
        st.tuples(st.just("collect"), st.just(0), st.just("")),
    ),
    max_size=40,
)


@pytest.mark.parametrize("temporality", list(Temporality))
@given(steps=STEPS)
def test_any_sequence_exports_what_the_sdk_exports(temporality: Temporality, steps: list[Any]) -> None:
    """Sums, buckets, min, max and exemplars are the SDK's, for every temporality, over a cardinality limit of 3."""
    both = Both(temporality, limit=3)
    for step, value, name in [*steps, ("collect", 0, "")]:
        match step:
            case "add":
                both.add(value, key(name))
            case "move":
                both.move(value, key(name))
            case "record":
                both.record(value, key(name))
            case "traced":
                both.record(value, key(name), SAMPLED)
            case _:
                both.same()


@pytest.mark.parametrize("temporality", list(Temporality))
def test_observed_values_are_the_sdks(temporality: Temporality) -> None:
    """Gauges, observed counters and observed up-down counters, also where a series comes late or goes away."""
    both = Both(temporality)
    both.observed = {"age": [(1.5, ())], "cpu": [(10.0, key("a"))], "files": [(3, ())]}
    both.same()
    both.observed["cpu"] = [(12.5, key("a")), (4.0, key("b"))]
    both.observed["age"] = []
    both.same()
    both.observed["cpu"] = [(5.0, key("b"))]
    both.observed["files"] = [(1, ())]
    both.same()
    both.observed["cpu"] = [(20.0, key("a")), (6.0, key("b"))]
    both.same()


@pytest.mark.parametrize("exemplar_filter", list(FILTERS))
def test_exemplar_filters_are_the_sdks(exemplar_filter: str) -> None:
    """Which measurements become exemplars, and that the last of each bucket stays."""
    both = Both(exemplar_filter=exemplar_filter)
    for value, exemplar in (
        (0.05, SAMPLED),
        (0.3, UNSAMPLED),
        (0.4, SAMPLED),
        (9.0, None),
        (0.06, UNSAMPLED),
    ):
        both.record(value, (), exemplar)
    (metric,) = both.same()
    (point,) = metric.points.values()
    assert len(point[-1]) == {"always_on": 3, "always_off": 0, "trace_based": 2}[exemplar_filter]
    both.record(1.0, (), SAMPLED)
    both.same()


def test_the_limit_counts_attribute_sets_as_the_sdk_does() -> None:
    """The set over the limit is the overflow's, and an exemplar there keeps what the point lost."""
    both = Both(limit=2)
    for name in ("a", "b", "c", "d", "a"):
        both.add(1, key(name))
        both.record(0.2, key(name), SAMPLED)
    told_now = {metric.name: metric for metric in both.same()}
    assert told_now["requests"].points[frozenset(OVERFLOW)] == (int, 2)
    assert told_now["duration"].points[frozenset(OVERFLOW)][-1] == [(0.2, 7, 9, {"k": "d"})]
    both.add(1, key("e"))
    both.same()


def test_the_default_limit_is_2000() -> None:
    """Two thousand sets of their own, and one for all others."""
    both = Both()
    for number in range(2005):
        both.add(1, key(str(number)))
    (metric,) = both.same()
    assert len(metric.points) == 2001
    assert metric.points[frozenset(OVERFLOW)] == (int, 5)


def test_buckets_recorded_at_once_equal_single_records() -> None:
    """A stream's chunk times, bucketed on the way, are what as many records would have been."""
    single = MetricStore([DURATION], clock=Ticking())
    atonce = MetricStore([DURATION], clock=Ticking())
    values = (0.25, 0.05, 3.0, 0.125)
    for value in values:
        single.record(DURATION, value, key("a"))
    series = atonce.histogram(DURATION, key("a"))
    series.record_buckets((1, 2, 0, 1), sum(values), min(values), max(values))
    atonce.histogram(DURATION, key("never")).record_buckets((0, 0, 0, 0), 0.0, 0.0, 0.0)
    assert told(atonce.collect(atonce.scrape)) == told(single.collect(single.scrape))


def test_a_handle_lasts_from_period_to_period() -> None:
    """It counts on the same series as a record by name, before and after a collect."""
    named = MetricStore([COUNTER, DURATION], clock=Ticking())
    bound = MetricStore([COUNTER, DURATION], clock=Ticking())
    requests, duration = bound.counter(COUNTER, key("a")), bound.histogram(DURATION, key("a"))
    for value in (1, 2):
        named.add(COUNTER, value, key("a"))
        named.record(DURATION, value, key("a"))
        requests.add(value)
        duration.record(value)
        assert told(bound.collect(bound.scrape)) == told(named.collect(named.scrape))


@pytest.mark.parametrize("exemplars", FILTERS)
@pytest.mark.parametrize("rounds", [3, 300])
def test_rows_equal_single_records(exemplars: str, rounds: int) -> None:
    """Counted, measured and told in rows, by whatever spans: what as many records would have been, period by period."""
    single = MetricStore([COUNTER, DURATION, LEVEL], clock=Ticking(), exemplar_filter=exemplars)
    atonce = MetricStore([COUNTER, DURATION, LEVEL], clock=Ticking(), exemplar_filter=exemplars)
    a, b = atonce.histogram(DURATION, key("a")), atonce.histogram(DURATION, key("b"))
    levels = Words(atonce, LEVEL, "k")
    count = atonce.counter(COUNTER, key("each"))
    rows = Rows(atonce, (count,), ((a, atonce.counter(COUNTER, key("sum"))), (levels,)), ((b,), ()))
    for period in range(2):
        for number in range(rounds):
            value, at = 2**-number if number < 8 else 2, 1000 * (number + 1)
            trace = RequestTrace(number + 1, number + 2, number + 3, sampled=bool(number % 3))
            other = value * 3 if number % 2 and not period else None
            word = ("up", "down", None)[number % 3]
            rows.take((at, trace, value, word, other, None))
            single.add(COUNTER, 1, key("each"))
            single.add(COUNTER, value, key("sum"))
            single.record(DURATION, value, key("a"), server_span(trace), at)
            if other is not None:
                single.record(DURATION, other, key("b"), client_span(trace), at)
            if word is not None:
                single.add(LEVEL, 1, key(word))
        ours, theirs = atonce.collect(atonce.scrape), single.collect(single.scrape)
        assert told(ours) == told(theirs)
        assert _exemplars(ours) == _exemplars(theirs)


def _exemplars(collected: Iterable[sdk.Metric]) -> list[tuple[float, int, int | None]]:
    """Values, times and spans of all exemplars."""
    points = [point for metric in collected for point in metric.data.data_points]
    exemplars = [one for point in points for one in getattr(point, "exemplars", ())]
    return [(one.value, one.time_unix_nano, one.span_id) for one in exemplars]


def test_buckets_recorded_at_once_give_the_largest_as_exemplar() -> None:
    """Its value is one that was measured, in the bucket it belongs to."""
    store = MetricStore([DURATION], clock=Ticking())
    store.histogram(DURATION).record_buckets((1, 1, 0, 0), 0.35, 0.05, 0.3, SAMPLED, at=77)
    (metric,) = store.collect(store.scrape)
    (exemplar,) = metric.data.data_points[0].exemplars
    assert (exemplar.value, exemplar.time_unix_nano, exemplar.trace_id) == (0.3, 77, 7)


def test_readers_do_not_take_from_each_other() -> None:
    """A scrape between two exports empties neither the differences nor the exemplars of the export."""
    store = MetricStore(METRICS, clock=Ticking())
    reader = store.reader(Temporality.DELTA)
    store.record(DURATION, 0.2, (), SAMPLED)
    scraped = told(store.collect(store.scrape))
    store.record(DURATION, 0.3, (), (11, 12, True))
    store.record(DURATION, 5.0, ())
    exported = told(store.collect(reader))
    assert scraped[0].points[frozenset()][-1] == [(0.2, 7, 9, {})]
    assert exported[0].points[frozenset()] == (
        3,
        5.5,
        (0, 2, 0, 1),
        DURATION.bounds,
        0.2,
        5.0,
        [(0.3, 11, 12, {})],
    )
    assert told(store.collect(store.scrape))[0].points[frozenset()][:2] == (3, 5.5)
    assert store.collect(reader) == []


def test_a_callback_that_fails_loses_nothing() -> None:
    """The differences of the collect that failed are in the next one."""
    answers = iter([OSError("no")])

    def age() -> list[tuple[float, Attributes]]:
        for error in answers:
            raise error
        return [(1.5, ())]

    store = MetricStore(METRICS, clock=Ticking())
    reader = store.reader(Temporality.DELTA)
    store.observe(GAUGE, age)
    store.add(COUNTER, 3)
    with pytest.raises(OSError, match="no"):
        store.collect(reader)
    store.add(COUNTER, 4)
    assert {one.name: one.points[frozenset()] for one in told(store.collect(reader))} == {
        "age": (float, 1.5),
        "requests": (int, 7),
    }


def test_a_metric_nobody_defined_is_refused() -> None:
    """A metric that is not the store's, or of another kind than its numbers, is a mistake that shows at once."""
    store = MetricStore([COUNTER, GAUGE], clock=Ticking())
    with pytest.raises(KeyError):
        store.record(DURATION, 1.0)
    with pytest.raises(KeyError):
        store.add(GAUGE, 1)


HOUR = 3600 * SECOND


@pytest.mark.parametrize("temporality", list(Temporality))
def test_a_day_of_junk_leaves_real_series_and_room_for_new_ones(temporality: Temporality) -> None:
    """Half as many sets an hour as there is room for, none used again: what is used stays, and new ones get in."""
    now = [0]
    store = MetricStore([COUNTER, DURATION], clock=lambda: now[0], cardinality_limit=100)
    lost: list[int] = []
    store.full = lambda: lost.append(now[0])
    readers = {"scrape": store.scrape, "export": store.reader(temporality)}
    counted: Counted[tuple[str, str, object]] = Counted()
    for step in range(24 * 6):
        now[0] = step * HOUR // 6
        hour, junk = step // 6, [f"junk-{number}" for number in range(50 * step // 6, 50 * (step + 1) // 6)]
        for name in (*junk, "real", f"hour-{hour}"):
            store.add(COUNTER, 1, key(name))
            store.record(DURATION, 0.2, key(name), SAMPLED)
        for name, reader in readers.items():
            for metric in told(store.collect(reader)):
                delta = metric.temporality == sdk.AggregationTemporality.DELTA
                assert len(metric.points) <= 100
                for attributes, values in metric.points.items():
                    series = name, metric.name, next(iter(attributes))[1]
                    value = values[0] if metric.kind == "Histogram" else values[1]
                    counted[series] = counted[series] + value if delta else value
    for name in readers:
        for metric_name in ("requests", "duration"):
            assert counted[name, metric_name, "real"] == 24 * 6
            assert [counted[name, metric_name, f"hour-{hour}"] for hour in range(24)] == [6] * 24
            assert counted[name, metric_name, True] == 0
    assert len(lost) > 2 * 1000


def test_a_gauges_series_that_is_told_no_more_makes_room() -> None:
    """However many there have been: the bound is of those told at a time, and one beyond it is an anomaly."""
    observed: list[tuple[float, Attributes]] = []
    store = MetricStore([GAUGE], clock=lambda: 0, cardinality_limit=3)
    lost: list[None] = []
    store.full = lambda: lost.append(None)
    store.observe(GAUGE, lambda: observed)
    reader = store.reader(Temporality.CUMULATIVE)

    def names() -> list[object]:
        (metric,) = told(store.collect(reader))
        return [next(iter(attributes))[1] for attributes in metric.points]

    for number in range(20):
        observed[:] = [(1.0, key(f"{number}-{one}")) for one in range(3)]
        assert names() == [f"{number}-{one}" for one in range(3)]
    assert lost == []
    observed.append((2.0, key("beyond")))
    assert names() == ["19-0", "19-1", "19-2", True]
    assert len(lost) == 1


def test_a_series_that_yielded_begins_anew() -> None:
    """Unused for an hour and for longest, and only if there is no room; its next sum has a start of its own."""
    now = [0]
    store = MetricStore([COUNTER, DURATION, LEVEL], clock=lambda: now[0], cardinality_limit=2)
    lost: list[int] = []
    store.full = lambda: lost.append(now[0])
    reader = store.reader(Temporality.CUMULATIVE)

    def use(at: int, *names: str) -> dict[str, dict[object, tuple[int, object]]]:
        now[0] = at
        for name in names:
            store.add(COUNTER, 1, key(name))
            store.add(LEVEL, 1, key(name))
            store.record(DURATION, 0.2, key(name), SAMPLED)
        scraped, collected = store.collect(store.scrape), store.collect(reader)
        assert told(scraped) == told(collected)
        return {
            metric.name: {
                next(iter((point.attributes or {}).values())): (
                    point.start_time_unix_nano,
                    point.value if isinstance(point, sdk.NumberDataPoint) else point.count,
                )
                for point in metric.data.data_points
            }
            for metric in collected
        }

    assert use(1, "a", "b")["requests"] == {"a": (1, 1), "b": (1, 1)}
    assert use(2, "a")["requests"] == {"a": (1, 2), "b": (1, 1)}
    assert use(HOUR, "c")["requests"] == {"a": (1, 2), "b": (1, 1), True: (HOUR, 1)}
    assert lost == [HOUR] * 3
    points = use(HOUR + 1, "c")
    assert points["requests"] == points["duration"] == {"a": (1, 2), True: (HOUR, 1), "c": (HOUR + 1, 1)}
    assert points["active"] == {"a": (1, 2), "b": (1, 1), True: (HOUR, 2)}
    points = use(2 * HOUR, "b", "a")
    assert points["requests"] == points["duration"] == {"a": (1, 3), "c": (HOUR + 1, 1), "b": (2 * HOUR, 1)}
    assert lost == [HOUR] * 3 + [HOUR + 1] * 3 + [2 * HOUR] * 2


def test_what_comes_back_again_and_again_stays_within_the_limit() -> None:
    """With another reader in between; what finds no room of its own is told together, from where it began."""
    begin = 1_700_000_000 * SECOND
    now = [begin]
    store = MetricStore([COUNTER, DURATION], clock=lambda: now[0], cardinality_limit=10)
    lost: list[int] = []
    store.full = lambda: lost.append(now[0])
    reader, fresh = store.reader(Temporality.DELTA), iter(range(1000))

    def use() -> None:
        now[0] += SECOND
        for number in islice(fresh, 10):
            store.add(COUNTER, 1, key(str(number)))
            store.record(DURATION, 0.2, key(str(number)), SAMPLED)

    for _ in range(5):
        use()
        failed = store.collect(reader)
        use()
        store.collect(store.scrape)
        store.give_back(reader, failed)
    metrics = {metric.name: metric.data.data_points for metric in store.collect(reader)}
    assert [len(points) for points in metrics.values()] == [11, 11]
    numbers = [point for point in metrics["requests"] if isinstance(point, sdk.NumberDataPoint)]
    measured = [point for point in metrics["duration"] if isinstance(point, sdk.HistogramDataPoint)]
    assert sum(point.value for point in numbers) == 100
    assert sum(point.count for point in measured) == 100
    (together,) = (point for point in numbers if (point.attributes or {}) == dict(OVERFLOW))
    assert together.start_time_unix_nano == begin
    assert lost


def test_a_difference_that_is_not_told_yet_makes_no_room() -> None:
    """However long ago it was recorded: what is new is told together."""
    now = [0]
    store = MetricStore([COUNTER, DURATION], clock=lambda: now[0], cardinality_limit=2)
    reader, scraped = store.reader(Temporality.DELTA), store.scrape
    for hours, names in ((0, ("a", "b")), (2, ("c",))):
        now[0] = hours * HOUR
        for name in names:
            store.add(COUNTER, 1, key(name))
            store.record(DURATION, 0.2, key(name), SAMPLED)
        store.collect(scraped)
    for metric in told(store.collect(reader)):
        assert {next(iter(attributes))[1] for attributes in metric.points} == {"a", "b", True}
