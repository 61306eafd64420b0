"""The times of points: where sums and differences begin, whatever the wall's clock or a callback does."""

from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import SECOND, Wall
from sidecar.telemetry.metric_store import Attributes, MetricStore, Reader, Temporality
from sidecar.telemetry.metrics import Metric, MetricKind
from tests.telemetry.ticking import Ticking

COUNTER = Metric("requests", MetricKind.COUNTER, "{request}", "settled", ("k",), integer=True)
DURATION = Metric("duration", MetricKind.HISTOGRAM, "s", "how long", ("k",), bounds=(0.1, 0.5, 2.0))
GAUGE = Metric("age", MetricKind.GAUGE, "s", "the oldest", ("k",))
TOTAL = Metric("cpu", MetricKind.COUNTER, "s", "used", ("k",))
METRICS = (COUNTER, DURATION, GAUGE, TOTAL)
HOUR = 3600 * SECOND


def _times(store: MetricStore, reader: Reader) -> dict[str, list[tuple[int | None, int]]]:
    return {
        metric.name: [(point.start_time_unix_nano, point.time_unix_nano) for point in metric.data.data_points]
        for metric in store.collect(reader)
    }


def test_times_of_differences_follow_on_each_other() -> None:
    """Each difference begins where the last collect ended; the first, where the store began."""
    clock = Ticking()
    store = MetricStore(METRICS, clock=clock)
    begin = clock.now
    reader = store.reader(Temporality.DELTA)
    store.observe(TOTAL, lambda: [(5.0, ())])
    store.add(COUNTER, 1)
    first = _times(store, reader)
    assert {start for spans in first.values() for start, _ in spans} == {begin}
    store.add(COUNTER, 1, (("k", "new"),))
    second = _times(store, reader)
    assert [start for start, _ in second["requests"]] == [first["requests"][0][1]]
    assert [start for start, _ in second["cpu"]] == [first["cpu"][0][1]]


def test_times_of_totals_keep_their_start() -> None:
    """A total begins with its first measurement and keeps that; a gauge has no start."""
    clock = Ticking()
    store = MetricStore(METRICS, clock=clock)
    store.observe(GAUGE, lambda: [(5.0, ())])
    store.add(COUNTER, 1)
    started = clock.now
    first = _times(store, store.scrape)
    store.add(COUNTER, 1)
    second = _times(store, store.scrape)
    assert first["requests"][0][0] == second["requests"][0][0] == started
    assert second["age"][0][0] is None
    assert second["requests"][0][1] > first["requests"][0][1]


def test_a_wall_that_went_forward_and_back_between_two_collects() -> None:
    """No sum begins after its point, and its start stays as it was told."""
    wall = Wall()
    store = MetricStore([COUNTER, DURATION], clock=Ticking(), wall=wall)
    reader, scraped = store.reader(Temporality.CUMULATIVE), store.scrape
    store.collect(reader)
    wall.correction = HOUR
    store.add(COUNTER, 1)
    store.record(DURATION, 0.2)
    store.collect(scraped)
    wall.correction = 0
    first, second = _times(store, reader), _times(store, reader)
    for name in ("requests", "duration"):
        ((start, at),), ((kept, later),) = first[name], second[name]
        assert start == kept == at < later


def test_a_difference_begins_where_it_was_told_last() -> None:
    """Where a callback fails at a collect the next difference is of two intervals; also one that came back before that."""
    clock = Ticking()
    store = MetricStore([TOTAL], clock=clock)
    begin = clock.now
    reader = store.reader(Temporality.DELTA)
    answers: list[float | None] = [None, 2.0, None, 5.0, 7.0, None, 9.0]

    def asked(_: object) -> list[tuple[float, Attributes]] | None:
        answer = answers.pop(0)
        return None if answer is None else [(answer, ())]

    store.asked = asked
    store.observe(TOTAL, list)
    spans: list[tuple[int, int, float]] = []
    while answers:
        collected = store.collect(reader)
        for metric in collected:
            (point,) = metric.data.data_points
            assert isinstance(point, sdk.NumberDataPoint)
            spans.append((point.start_time_unix_nano, point.time_unix_nano, point.value))
            if len(spans) == 3:
                store.give_back(reader, collected)
    first, second, failed, last = spans
    assert [value for *_, value in spans] == [2.0, 3.0, 2.0, 4.0]
    assert (first[0], second[0]) == (begin, first[1])
    assert failed[0] == last[0] == second[1]
