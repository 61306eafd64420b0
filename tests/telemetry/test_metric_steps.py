"""A snapshot that is made in steps: all of it is as of its beginning, and no step is long."""

import pytest
from opentelemetry.sdk.metrics import export as sdk

from sidecar.telemetry.metric_points import IN_ONE_GO
from sidecar.telemetry.metric_store import CARDINALITY_LIMIT, Attributes, MetricStore, Temporality
from sidecar.telemetry.metrics import Metric, MetricKind

COUNTER = Metric("requests", MetricKind.COUNTER, "{request}", "settled", ("k",), integer=True)
LEVEL = Metric("active", MetricKind.UP_DOWN_COUNTER, "{request}", "in flight", ("k",), integer=True)
DURATION = Metric("duration", MetricKind.HISTOGRAM, "s", "how long", ("k",), bounds=(0.1, 0.5, 2.0))
METRICS = (COUNTER, LEVEL, DURATION)
SAMPLED = (7, 9, True)


def some(store: MetricStore, round_: int, series: int = 3 * IN_ONE_GO) -> None:
    """One record on each of so many series of three metrics, most of which are known from the round before."""
    for number in range(round_, round_ + series):
        key: Attributes = (("k", str(number)),)
        store.add(COUNTER, number, key)
        store.add(LEVEL, -1, key)
        store.record(DURATION, number / 1000, key, SAMPLED, round_)


@pytest.mark.parametrize("temporality", Temporality)
def test_a_collect_in_steps_is_as_of_its_beginning(temporality: Temporality) -> None:
    """Whatever is recorded meanwhile is in the next one, and another reader's collect takes nothing of it, or in between."""
    at_once, stepwise = (MetricStore(METRICS, clock=lambda: 10**18) for _ in range(2))
    ways = [[store.reader(temporality), store.scrape] for store in (at_once, stepwise)]
    for round_ in range(3):
        for store in (at_once, stepwise):
            some(store, 100 * round_)
        expected = at_once.collect(ways[0][0])
        collected, steps = stepwise.collecting(ways[1][0])
        for step, _ in enumerate(steps):
            if step < 5 + 9 * round_:  # before, or while, points are made
                for store in (at_once, stepwise):
                    some(store, 1000 + step, series=3)
            elif step == 5 + 9 * round_:
                assert at_once.collect(ways[0][1]) == stepwise.collect(ways[1][1])
        assert collected == expected
        assert step > 3


def test_a_step_is_short() -> None:
    """Of two thousand series a small part is handed over, or made points of, in each."""
    store = MetricStore(METRICS, clock=lambda: 10**18)
    reader = store.reader(Temporality.CUMULATIVE)
    some(store, 0, series=CARDINALITY_LIMIT)
    _, steps = store.collecting(reader)
    assert len([*steps]) >= 2 * 3 * CARDINALITY_LIMIT // IN_ONE_GO


def test_a_collect_behind_another_is_in_steps_as_well() -> None:
    """What the other one has left to do is not done in one go; both are whole, whoever makes their steps."""
    store = MetricStore([COUNTER], clock=lambda: 10**18)
    ways = [store.reader(Temporality.CUMULATIVE), store.scrape]
    for number in range(CARDINALITY_LIMIT):
        store.add(COUNTER, 1, (("k", str(number)),))
    made = [store.collecting(ways[0])]
    next(made[0][1])
    store.add(COUNTER, 1, (("k", "0"),))
    made.append(store.collecting(ways[1]))
    next(made[0][1])
    left = len([*made[1][1]])
    assert left >= 3 * CARDINALITY_LIMIT // IN_ONE_GO
    assert not [*made[0][1]]
    for (metric,), told in zip(
        (one for one, _ in made), (CARDINALITY_LIMIT, CARDINALITY_LIMIT + 1), strict=True
    ):
        points = metric.data.data_points
        assert sum(point.value for point in points if isinstance(point, sdk.NumberDataPoint)) == told
