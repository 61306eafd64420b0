"""The scenario's figures, asked of the real Prometheus: what panels that show trouble are held against."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.stack.backends import Stack
from tests.stack.facts import Fact, Peak
from tests.stack.programs import eventually
from tests.stack.scenario import Scenario
from tests.stack.scenario_known import KNOWN, PEAKS

SERVICE = "stack-scenario"


@pytest.fixture(scope="module")
def scenario(stack: Stack) -> Iterator[Scenario]:
    """Three rounds through the real back ends; the sidecar still runs."""
    with Scenario(stack.environ(SERVICE)) as playing:
        playing.play(rounds=3)
        playing.wait_sessions_ended()
        yield playing


def _is(stack: Stack, expression: str, value: float) -> bool:
    return stack.prometheus.number(expression) == value


@pytest.mark.parametrize("fact", KNOWN, ids=str)
def test_prometheus_has_each_figure(stack: Stack, scenario: Scenario, fact: Fact) -> None:
    """To the last request, by the Collector's way."""
    eventually(partial(_is, stack, fact.promql(SERVICE), fact.per_round * scenario.rounds))


@pytest.mark.parametrize("peak", PEAKS, ids=str)
@pytest.mark.usefixtures("scenario")
def test_prometheus_has_each_peak(stack: Stack, peak: Peak) -> None:
    """The gauge was sampled at the busiest moment."""
    eventually(partial(_is, stack, peak.promql(SERVICE, "10m"), peak.value))


@pytest.mark.usefixtures("scenario")
def test_rates_have_something_to_rate(stack: Stack) -> None:
    """Rounds follow one another: every counter grows within the window of a `rate`."""
    for metric in (
        "sidecar_requests_total",
        "sidecar_conversation_overlaps_total",
        "sidecar_stream_stalls_total",
    ):
        assert eventually(partial(stack.prometheus.number, f'sum(rate({metric}{{job="{SERVICE}"}}[2m]))'))
