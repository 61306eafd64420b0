"""The scenario causes exactly what its table says: held against what a production sidecar exports."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.core.facts import Outcome
from sidecar.telemetry import metrics
from sidecar.testing import OtlpSink, Point
from tests.stack.facts import Fact, Peak
from tests.stack.scenario import Scenario
from tests.stack.scenario_known import KNOWN, OUTCOMES, PEAKS

ROUNDS = 2


@dataclass
class Played:
    """What was exported of the rounds: the last export, every export, and what the admin port says."""

    last: list[Point]
    every: list[Point]
    stats: Any


@pytest.fixture(scope="module")
def played() -> Iterator[Played]:
    """Two rounds, and every session ended."""
    with OtlpSink() as sink, Scenario(sink.environ()) as scenario:
        scenario.play(rounds=ROUNDS)
        scenario.wait_sessions_ended()
        last = sink.snapshot(after=time.time_ns())
        yield Played(last, sink.points, scenario.sidecar.stats())
        assert scenario.upstream.errors == []


@pytest.mark.parametrize("fact", KNOWN, ids=str)
def test_each_figure_is_exact(played: Played, fact: Fact) -> None:
    """Every round adds what the table says, neither more nor less."""
    assert fact.of_points(played.last) == fact.per_round * ROUNDS


@pytest.mark.parametrize("peak", PEAKS, ids=str)
def test_each_peak_is_exact(played: Played, peak: Peak) -> None:
    """What is in flight at the busiest moment, in some export."""
    assert peak.of_points(played.every) == peak.value


def test_the_admin_port_says_the_same(played: Played) -> None:
    """Requests by outcome, and none is left."""
    requests = played.stats["requests"]
    expected = {outcome.value: often * ROUNDS for outcome, often in OUTCOMES.items()}
    assert requests["outcomes"] == expected
    assert (requests["started"], requests["in_flight"]) == (sum(expected.values()), 0)


def test_every_trouble_happens() -> None:
    """Only what ends the sidecar, and what would be a bug of it, is missing."""
    assert {*Outcome} - {*OUTCOMES} == {Outcome.SHUTDOWN, Outcome.INTERNAL_ERROR}


@pytest.mark.parametrize(
    "fact,expected",
    [
        (Fact(metrics.RETRIES, 1), 'sum(sidecar_retries_total{job="x"})'),
        (
            Fact(metrics.REQUESTS, 1, (("sidecar.outcome", "refused"),)),
            'sum(sidecar_requests_total{job="x",sidecar_outcome="refused"})',
        ),
        (
            Fact(metrics.TOKEN_USAGE, 1, summed=True),
            'sum(gen_ai_client_token_usage_sum{job="x"})',
        ),
        (
            Fact(metrics.WAIT_AVOIDED, 1, over=2.5),
            (
                'sum(sidecar_conversation_wait_avoided_seconds_count{job="x"}) - '
                'sum(sidecar_conversation_wait_avoided_seconds_bucket{job="x",le=~"2[.]5"})'
            ),
        ),
        (
            Fact(metrics.CONCURRENCY, 1, over=1.0),
            (
                'sum(sidecar_conversation_concurrency_count{job="x"}) - '
                'sum(sidecar_conversation_concurrency_bucket{job="x",le=~"1([.]0)?"})'
            ),
        ),
    ],
    ids=["counter", "labels", "sum", "bound", "whole bound"],
)
def test_a_figure_as_an_expression(fact: Fact, expected: str) -> None:
    """In the names that Prometheus gives to OTLP metrics."""
    assert fact.promql("x") == expected


def test_a_peak_as_an_expression() -> None:
    """The highest value within a window."""
    expected = 'max(max_over_time(sidecar_requests_overlapping{job="x"}[5m]))'
    assert PEAKS[0].promql("x", "5m") == expected
