"""What nobody reads is not made: without metrics and traces a request leaves its line and the counts, and costs less."""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

import sidecar
from sidecar.app import Sidecar
from sidecar.core.facts import Anomaly, Outcome
from sidecar.settings import load
from sidecar.testing import (
    OtlpSink,
    ScriptedUpstream,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
)
from tests.telemetry.world import MakeWorld, World, ms, ref

ROOT = Path(sidecar.__file__).parent
METRICS = {"measures", "metric_store", "metrics"}
SPANS = {"spans", "factories"}
WARM = 3
"""Requests before those that are counted: what requests that are alike have in common is found once."""
REQUESTS = 20
CALLS = 15
"""Calls of Python functions within telemetry on the loop, for one request that leaves its line only: it may only fall."""
ALL_CALLS = 24
"""The same for a request of which everything is told."""


TIMERS = {"_sample_lag", "_expire", "_look_for_long"}
"""Functions of `sidecar/app.py` that are called now and then, the more often the longer the requests take."""


def play(world: World) -> None:
    """A stream, a refusal, a turn with too many links and something odd, one that fails, a session."""
    world.stream()
    world.refuse(503)
    exchange = world.begin()
    world.arrive(exchange, overlaps=tuple(ref(number) for number in range(3)))
    exchange.anomalies += [Anomaly.BODY_INVALID]
    world.recorder.stalled(exchange, ms(5))
    exchange.decide(Outcome.UPSTREAM_FAILED, ms(9), error_type="refused")
    world.settle(exchange, 9, distance=1)
    world.recorder.anomaly(Anomaly.SESSION_EVICTED)
    world.recorder.listener.session_started("s1", "own_header", ms(0))
    world.recorder.record_lag(7)


def _without_ids(world: World) -> list[dict[str, object]]:
    """The lines, but for the ids that are drawn at random: a span of a connection draws one more."""
    return [
        {key: value for key, value in line.items() if key not in {"trace_id", "span_id"}}
        for line in world.lines()
    ]


@pytest.mark.parametrize("metrics", [True, False], ids=["metrics", "no metrics"])
@pytest.mark.parametrize("export_traces", [True, False], ids=["traces", "no traces"])
def test_lines_and_counts_are_the_same_whatever_is_read(
    make_world: MakeWorld, *, metrics: bool, export_traces: bool
) -> None:
    """With and without metrics, with and without traces: the same lines, the same figures of `GET /stats`."""
    whole, world = make_world(), make_world(metrics=metrics, export_traces=export_traces)
    play(whole)
    play(world)
    assert _without_ids(world) == _without_ids(whole)
    for one in (whole.recorder, world.recorder):
        assert (one.requests_started, one.requests_settled, one.failures) == (3, 3, 0)
        assert one.anomalies == {"body_invalid": 1, "session_evicted": 1}
        assert one.outcomes == {"completed": 1, "refused": 1, "upstream_failed": 1}
    assert bool(world.pipeline.spans) == export_traces
    assert bool(world.store.collect(world.store.scrape)) == metrics


class _Calls:
    """Counts the calls of the package's functions in the thread that it is set in, by module."""

    def __init__(self) -> None:
        self.by_module: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """One event of the profiler."""
        if event == "call" and not _of_a_timer(frame):
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT):
                self.by_module[path.relative_to(ROOT).with_suffix("").as_posix()] += 1


def _of_a_timer(frame: FrameType | None) -> bool:
    """Whether it is no request's, but made by one of the sidecar's own timers."""
    while frame is not None and frame.f_code.co_name not in TIMERS:
        frame = frame.f_back
    return frame is not None


def _calls(**environ: str) -> Counter[str]:
    """What the event loop calls for some requests, by module."""
    calls = _Calls()
    port = free_port()

    async def run(upstream: str) -> None:
        given = {
            "SIDECAR_UPSTREAM": upstream,
            "SIDECAR_LISTEN": f"127.0.0.1:{port}",
            "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        }
        running = Sidecar(load({}, {**given, **environ}))
        await running.start()
        try:
            request = chat_request(headers=(b"X-Sidecar-Session-Id: s",))
            for _ in range(WARM):
                await asyncio.to_thread(exchange, port, request)
            sys.setprofile(calls)
            try:
                for _ in range(REQUESTS):
                    await asyncio.to_thread(exchange, port, request)
            finally:
                sys.setprofile(None)
        finally:
            await running.stop()

    with ScriptedUpstream() as upstream:
        upstream.answer_always(json_answer(chat_completion()))
        asyncio.run(run(upstream.url))
    return calls.by_module


def test_what_nobody_reads_is_not_called() -> None:
    """Off: no function of metrics or spans runs, and telemetry's calls for a request have a bound; `/metrics`: metrics do."""
    off = _calls()
    telemetry = {
        name.removeprefix("telemetry/"): n for name, n in off.items() if name.startswith("telemetry/")
    }
    assert {*telemetry} & (METRICS | SPANS) == set()
    assert sum(telemetry.values()) <= CALLS * REQUESTS, sum(telemetry.values()) / REQUESTS
    scraped = {name.removeprefix("telemetry/") for name in _calls(SIDECAR_PROMETHEUS="on")}
    assert {"measures", "metric_store"} <= scraped
    assert not scraped & SPANS


def test_what_everything_costs() -> None:
    """With every signal exported, too, the loop only looks up, adds and queues: the worker makes spans and lines."""
    with OtlpSink() as sink:
        counted = _calls(**{**sink.environ(), "OTEL_METRIC_EXPORT_INTERVAL": "600000"})
    telemetry = {name: n for name, n in counted.items() if name.startswith("telemetry/")}
    assert not {"telemetry/spans", "telemetry/factories"} & {*telemetry}
    assert sum(telemetry.values()) // REQUESTS <= ALL_CALLS, telemetry
