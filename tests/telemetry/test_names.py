"""The tables of names: complete, without doubles, with the buckets and attributes that are documented."""

import pytest

from sidecar.core.exchange import CHUNK_BOUNDS
from sidecar.telemetry import metrics, names
from sidecar.telemetry.metrics import Metric, MetricKind

IDS = {names.SESSION_ID, names.CONVERSATION, names.REQUEST_ID, names.GEN_AI_CONVERSATION}


def test_every_metric_stands_once() -> None:
    """No name is used twice, and every constant of the module is in the table."""
    listed = [metric.name for metric in metrics.ALL_METRICS]
    assert len(listed) == len(set(listed))
    assert {value for value in vars(metrics).values() if isinstance(value, Metric)} == set(
        metrics.ALL_METRICS
    )


@pytest.mark.parametrize("metric", metrics.ALL_METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_whole(metric: Metric) -> None:
    """It has a sentence, known attributes in order, no id among them, and buckets exactly if it is a histogram."""
    assert metric.description.endswith(".")
    assert list(metric.attributes) == sorted(set(metric.attributes))
    assert set(metric.attributes) <= set(names.ALL_ATTRIBUTES)
    assert not set(metric.attributes) & IDS
    assert bool(metric.bounds) == (metric.kind is MetricKind.HISTOGRAM)
    assert list(metric.bounds) == sorted(set(metric.bounds))


def test_buckets_are_the_documented_ones() -> None:
    """First, last and number of bounds of each family."""
    shapes = {
        metric.name: (metric.bounds[0], round(metric.bounds[-1], 4), len(metric.bounds))
        for metric in metrics.metrics_of("shipped")
        if metric.bounds
    }
    durations, from_zero, overhead = (0.01, 655.36, 24), (0, 655.36, 25), (0.00005, 13.1072, 19)
    assert shapes == {
        "gen_ai.client.operation.duration": durations,
        "gen_ai.client.operation.time_to_first_chunk": durations,
        "gen_ai.client.operation.time_per_output_chunk": (0.001, 8.192, 14),
        "gen_ai.client.token.usage": (1, 67108864, 14),
        "http.server.request.duration": durations,
        "sidecar.session.duration": (1, 86400, 16),
        "sidecar.session.requests": (1, 1000, 13),
        "sidecar.conversation.concurrency": (1, 64, 14),
        "sidecar.prompt.cached": (0, 1, 11),
        "sidecar.conversation.wait_avoided": (0, 600, 15),
        "sidecar.conversation.think_time": (0.1, 3600, 15),
        "sidecar.responses.out_of_order.distance": (1, 1000, 13),
        "sidecar.request.phase.duration": from_zero,
        "sidecar.stream.gap": from_zero,
        "sidecar.stream.backpressure": from_zero,
        "sidecar.overhead": overhead,
        "sidecar.event_loop.lag": overhead,
    }
    assert {30.0, 60.0} <= set(metrics.WAIT_BOUNDS)


def test_chunk_buckets_are_the_exchange_s() -> None:
    """What the exchange counts in nanoseconds goes into the same buckets in seconds."""
    assert [round(bound * 1e9) for bound in metrics.CHUNK_SECOND_BOUNDS] == list(CHUNK_BOUNDS)


def test_conventions_choose_the_metrics() -> None:
    """`both` is the union; what a call's metrics are is either choice's own."""
    shipped, latest, both = (set(metrics.metrics_of(choice)) for choice in ("shipped", "latest", "both"))
    assert shipped | latest == both == set(metrics.ALL_METRICS)
    assert {metric.name for metric in shipped - latest} == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
        "gen_ai.client.token.usage",
        "sidecar.tokens.details",
    }
    calls = ("gen_ai.client.inference.", "gen_ai.client.embeddings.")
    assert all(metric.name.startswith(calls) for metric in latest - shipped)
    assert {new for renamed in metrics.LATEST_FOR.values() for new in renamed} == latest - shipped


def test_every_attribute_has_a_sentence_and_a_constant() -> None:
    """The tables are the module's constants, each with its sentence."""
    constants = {value for value in vars(names).values() if type(value) is str} - {
        names.__name__,
        names.__doc__,
    }
    assert {*names.ALL_ATTRIBUTES, *names.ALL_EVENTS} <= constants
    assert all(says.endswith(".") for says in names.ALL_ATTRIBUTES.values())
    assert all(says for says in names.ALL_EVENTS.values())


def test_a_name_cannot_be_defined_twice() -> None:
    """The table itself says no."""
    catalogue = names.Catalogue()
    assert catalogue.define("a.b", "Something.") == "a.b"
    with pytest.raises(ValueError, match=r"a\.b is defined twice"):
        catalogue.define("a.b", "Something else.")
