"""The metrics' periodic export: snapshots by the interval, temporality as asked, none lost to a slow collector."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from sidecar.telemetry import pipeline
from sidecar.telemetry.metric_store import Attributes
from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.testing import OtlpSink, SinkAnswer
from tests.telemetry.way_out import COUNTER, SLOW, started, until

EVERY = {**SLOW, "OTEL_METRIC_EXPORT_INTERVAL": "20"}


@pytest.fixture(params=["http/protobuf", "grpc"])
def sink(request: pytest.FixtureRequest) -> Iterator[OtlpSink]:
    """A collector of each protocol."""
    with OtlpSink(request.param) as one:
        yield one


def _sum(sink: OtlpSink) -> int:
    return int(sum(point.value or 0 for point in sink.points))


def _reached(sink: OtlpSink, total: int) -> bool:
    return _sum(sink) == total


async def test_totals_leave_by_the_interval(sink: OtlpSink) -> None:
    """Again and again, as long as nothing changes too."""
    out = started({**sink.environ(), **EVERY})
    out.store.add(COUNTER, 2)
    await until(lambda: len(sink.points) >= 3)
    out.store.add(COUNTER, 5)
    await until(lambda: sink.points[-1].value == 7)
    assert {point.temporality for point in sink.points} == {"cumulative"}
    assert len({point.start for point in sink.points}) == 1
    assert await out.pipeline.shutdown(30)
    assert out.states("metrics")["exported"] == len(sink.points)


async def test_the_first_leaves_at_once(sink: OtlpSink) -> None:
    """Before the interval is over, with what is told as 0; what comes later leaves with the next one, or at the end."""
    out = started({**sink.environ(), **EVERY, "OTEL_METRIC_EXPORT_INTERVAL": "600000"})
    out.store.add(COUNTER, 0)
    await until(lambda: len(sink.points) == 1)
    assert sink.points[0].value == 0
    out.store.add(COUNTER, 2)
    assert await out.pipeline.shutdown(30)
    assert [point.value for point in sink.points] == [0, 2]


async def test_differences_add_up_to_the_total(sink: OtlpSink) -> None:
    """Each export says what came since the one before, and nothing when nothing came."""
    out = started({**sink.environ(), **EVERY, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"})
    for total in (1, 3, 6, 10, 15):
        out.store.add(COUNTER, total - _sum(sink))
        await until(partial(_reached, sink, total))
    assert await out.pipeline.shutdown(30)
    assert len(sink.points) == 5
    assert {point.temporality for point in sink.points} == {"delta"}


async def test_a_large_snapshot_is_made_in_several_turns(
    sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have theirs meanwhile; what is recorded then comes with the next one, also where that is the last."""
    monkeypatch.setattr(pipeline, "_SHARE", 0)
    delta = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
    out = started({**sink.environ(), **EVERY, **delta, "OTEL_METRIC_EXPORT_INTERVAL": "600000"})
    keys: list[Attributes] = [(("k", str(number)),) for number in range(1000)]
    for key in keys:
        out.store.add(COUNTER, 1, key)
    await asyncio.sleep(0)
    assert out.states("metrics") == {}
    for key in keys:
        out.store.add(COUNTER, 1, key)
    assert await out.pipeline.shutdown(30)
    assert _reached(sink, 2 * len(keys))
    assert out.states("metrics")["exported"] == 2 * len(keys)


async def test_a_slow_collector_delays_differences_and_loses_none(sink: OtlpSink) -> None:
    """While an export is under way no snapshot is taken; the next one has all."""
    sink.answer("metrics", SinkAnswer(status=503, code="UNAVAILABLE", headers={"Retry-After": "0.1"}))
    out = started({**sink.environ(), **EVERY, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"})
    out.store.add(COUNTER, 1)
    await until(lambda: sink.calls)
    out.store.add(COUNTER, 2)
    out.store.add(COUNTER, 4)
    await until(partial(_reached, sink, 7))
    assert [point.value for point in sink.points] == [1, 6]
    assert await out.pipeline.shutdown(30)
    assert out.states("metrics") == {"created": 2, "exported": 2}


@pytest.mark.parametrize("asked", ["flush", "shutdown"])
async def test_what_somebody_waits_for_leaves_behind_an_export_under_way(
    sink: OtlpSink, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a shutdown's first share is over before that export is."""
    monkeypatch.setattr(pipeline, "_FIRST_SHARE", 0)
    sink.answer("metrics", SinkAnswer(delay=0.5))
    out = started({**sink.environ(), **SLOW})
    out.store.add(COUNTER, 1)
    await until(lambda: sink.calls)
    out.store.add(COUNTER, 2)
    assert await getattr(out.pipeline, asked)(30)
    assert [point.value for point in sink.points] == [1, 3]
    assert out.states("metrics") == {"created": 2, "exported": 2}
    assert await out.pipeline.shutdown(30)


async def test_what_waits_behind_an_export_that_never_settles_is_dropped(sink: OtlpSink) -> None:
    """The last numbers are in the ledger, whatever the collector does."""
    sink.answer_always("metrics", SinkAnswer(hang=True))
    out = started({**sink.environ(), **SLOW})
    out.store.add(COUNTER, 1)
    await until(lambda: sink.calls)
    assert not await out.pipeline.shutdown(1)
    assert out.states("metrics") == {"created": 2, "unknown": 1, "dropped": 1}


async def test_the_last_export_counts_the_last_spans(sink: OtlpSink) -> None:
    """At the end spans leave first, so that the ledger's own metric is told with what became of them."""
    items = Metric("sidecar.telemetry.items", MetricKind.COUNTER, "{item}", "the ledger", ("signal", "state"))
    out = started({**sink.environ(), **SLOW})
    out.store.metrics += (items,)
    out.store.observe(
        items,
        lambda: [
            (n, (("signal", signal), ("state", state))) for signal, state, n in out.pipeline.ledger.items()
        ],
    )
    for number in range(1, 4):
        out.pipeline.span(out.span(number))
    assert await out.pipeline.shutdown(30)
    told = {(point.attributes["signal"], point.attributes["state"]): point.value for point in sink.points}
    assert told["traces", "exported"] == 3


async def test_a_number_that_cannot_be_had_ends_neither_export_nor_shutdown(sink: OtlpSink) -> None:
    """A callback that fails costs one snapshot; the loop is told, the spans still leave."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: told.append(str(context["exception"]))
    )
    gauge = Metric("age", MetricKind.GAUGE, "s", "the oldest", ())
    answers: Iterator[float | OSError] = iter([OSError("once"), 1.5, OSError("again")])

    def age() -> Iterator[tuple[float, Attributes]]:
        answer = next(answers, 2.5)
        if isinstance(answer, OSError):
            raise answer
        yield answer, ()

    out = started({**sink.environ(), **EVERY})
    out.store.metrics += (gauge,)
    out.store.observe(gauge, age)
    await until(lambda: sink.points)
    out.pipeline.span(out.span())
    assert await out.pipeline.shutdown(30)
    assert next(point.value for point in sink.points) == 1.5
    assert told[0] == "once"
    assert out.states("traces") == {"created": 1, "exported": 1}


async def test_nothing_recorded_is_nothing_exported(sink: OtlpSink) -> None:
    """No empty requests."""
    out = started({**sink.environ(), **SLOW})
    assert await out.pipeline.flush(30)
    assert await out.pipeline.shutdown(30)
    assert sink.calls == []
