"""A snapshot that is made in steps: all of it is as of its beginning, and no step is long."""

import pytest

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
