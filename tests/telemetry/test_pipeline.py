"""The way out under load, without a collector, and at its end: it never blocks, never hangs, and adds up."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from sidecar.core.clock import SECOND
from sidecar.telemetry.ledger import Delivery, Signal, State
from sidecar.telemetry.queues import FailureLog
from sidecar.testing import OtlpSink, SinkAnswer
from tests.pace import promptly
from tests.telemetry.way_out import COUNTER, FAST, PROTOCOLS, SLOW, adds_up, started, until, way_out


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    """A collector."""
    with OtlpSink() as one:
        yield one


async def test_signals_that_are_off_are_not_created() -> None:
    """With no exporter nothing is counted, nothing waits, no thread runs."""
    threads = threading.active_count()
    out = started({})
    out.pipeline.span(out.span())
    out.pipeline.log(out.record())
    out.pipeline.not_made(Signal.TRACES, 3)
    assert threading.active_count() == threads
    assert await out.pipeline.flush(1)
    assert await out.pipeline.shutdown(1)
    assert [out.states(signal) for signal in ("traces", "logs", "metrics")] == [{}, {}, {}]


async def test_the_ledger_adds_up_at_every_moment(sink: OtlpSink) -> None:
    """Thousands of spans against a collector that takes, refuses and rejects; looked at all the while."""
    answers = [SinkAnswer(), SinkAnswer(status=400), SinkAnswer(rejected=3), SinkAnswer(status=404)] * 10
    sink.answer("traces", *answers)
    out = started(
        {**sink.environ(), **FAST, "OTEL_BSP_MAX_QUEUE_SIZE": "300", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50"}
    )
    looking = threading.Event()
    wrong: list[AssertionError] = []

    def look() -> None:
        while not looking.is_set():
            try:
                adds_up(out.pipeline.ledger)
            except AssertionError as error:
                wrong.append(error)

    looker = threading.Thread(target=look)
    looker.start()
    for burst in range(40):
        for number in range(1, 101):
            out.pipeline.span(out.span(burst * 100 + number))
        out.pipeline.not_made(Signal.TRACES, 2)
        await asyncio.sleep(0)
    assert await out.pipeline.shutdown(30)
    looking.set()
    looker.join()
    assert wrong == []
    states = out.states()
    assert states["created"] == 4080
    assert states["not_sampled"] == 80
    assert states["exported"] == sink.accepted("traces") == len(sink.spans) - states["rejected"]
    assert "queued" not in states


async def test_a_full_queue_drops_what_comes_and_counts_it(sink: OtlpSink) -> None:
    """What was there stays; nothing is exported before the time, as nothing makes a full batch."""
    out = started(
        {**sink.environ(), **SLOW, "OTEL_BSP_MAX_QUEUE_SIZE": "5", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
    )
    sink.answer_always("traces", SinkAnswer(hang=True))
    for number in range(1, 6):
        out.pipeline.span(out.span(number))
    await until(lambda: sink.calls)
    for number in range(6, 14):
        out.pipeline.span(out.span(number))
    assert out.states() == {"created": 13, "queued": 10, "dropped": 3}
    assert dict(out.pipeline.ledger.queues())["traces"] == 10
    assert not await out.pipeline.shutdown(0.1)
    assert out.states() == {"created": 13, "unknown": 5, "dropped": 8}


async def test_a_full_batch_does_not_wait_for_its_time(sink: OtlpSink) -> None:
    """The rest of a batch does."""
    out = started({**sink.environ(), **SLOW, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"})
    for number in range(1, 7):
        out.pipeline.span(out.span(number))
    await until(lambda: out.states() == {"created": 6, "exported": 4, "queued": 2})
    assert await out.pipeline.flush(30)
    assert out.states() == {"created": 6, "exported": 6}
    assert [call.items for call in sink.calls] == [4, 2]
    assert await out.pipeline.shutdown(30)


async def test_what_makes_no_full_batch_leaves_after_the_delay(sink: OtlpSink) -> None:
    """No flush is needed."""
    out = started({**sink.environ(), **FAST})
    out.pipeline.span(out.span())
    out.pipeline.log(out.record())
    await until(lambda: sink.spans and sink.logs)
    assert await out.pipeline.shutdown(30)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_hanging_collector_is_abandoned_in_time(protocol: str) -> None:
    """What was under way is unknown, what waited is dropped, and the shutdown takes the time it was given."""
    with OtlpSink(protocol) as sink:
        for signal in ("traces", "logs", "metrics"):
            sink.answer_always(signal, SinkAnswer(hang=True))
        out = started({**sink.environ(), **SLOW, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"})
        out.store.add(COUNTER, 1)
        for number in range(1, 26):
            out.pipeline.span(out.span(number))
        out.pipeline.log(out.record())
        with promptly(3 + 5):  # time for the exports to be under way, on a busy machine too
            assert not await out.pipeline.shutdown(3)
        assert out.states("traces") == {"created": 25, "unknown": 10, "dropped": 15}
        assert out.states("logs") == {"created": 1, "unknown": 1}
        assert out.states("metrics") == {"created": 1, "unknown": 1}
        sink.stop()
        await until(lambda: not [one for one in threading.enumerate() if one.name.startswith("telemetry-")])
        assert out.states("traces") == {"created": 25, "unknown": 10, "dropped": 15}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_dead_collector_leaves_nothing_unknown(protocol: str) -> None:
    """The end does not wait for the next try: what never connected has failed, what waited is dropped."""
    with OtlpSink(protocol) as gone:
        settings = {**gone.environ(), **SLOW, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    out = started(settings)
    for number in range(1, 26):
        out.pipeline.span(out.span(number))
    with promptly(2 + 4):
        assert not await out.pipeline.shutdown(2)
    assert out.states() == {"created": 25, "failed": 10, "dropped": 15}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_receiver_that_asked_for_silence_is_left_alone(protocol: str) -> None:
    """What comes meanwhile waits, and is dropped beyond the queue's bound; the end tries what waits."""
    with OtlpSink(protocol) as sink:
        busy = SinkAnswer(status=503, code="UNAVAILABLE", headers={"Retry-After": "60"})
        sink.answer("traces", busy)
        bounds = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
        out = started({**sink.environ(), **FAST, **bounds})
        out.pipeline.span(*[out.span()] * 5)
        await until(lambda: out.states() == {"created": 5, "failed": 5})
        for _ in range(2):
            out.pipeline.span(*[out.span()] * 8)
            out.pipeline.log(out.record())
            await until(lambda: out.states("logs").get("exported") == out.states("logs")["created"])
        assert out.states() == {"created": 21, "failed": 5, "queued": 10, "dropped": 6}
        assert len([call for call in sink.calls if call.signal == "traces"]) == 1
        assert await out.pipeline.shutdown(30)
        assert out.states() == {"created": 21, "failed": 5, "exported": 10, "dropped": 6}


async def test_silence_ends_when_the_receiver_said(sink: OtlpSink) -> None:
    """Nobody has to flush, or to make a full batch."""
    sink.answer("traces", SinkAnswer(status=429, headers={"Retry-After": "1"}))
    out = started({**sink.environ(), **FAST, "OTEL_EXPORTER_OTLP_TIMEOUT": "1000"})
    out.pipeline.span(out.span())
    await until(lambda: out.states() == {"created": 1, "failed": 1})
    silent = time.monotonic()
    out.pipeline.span(out.span(2))
    await until(lambda: sink.spans)
    assert time.monotonic() - silent > 0.8
    assert await out.pipeline.shutdown(30)


async def test_one_hanging_signal_does_not_hold_the_others(sink: OtlpSink) -> None:
    """Each has a worker of its own."""
    sink.answer_always("traces", SinkAnswer(hang=True))
    out = started({**sink.environ(), **FAST})
    out.pipeline.span(out.span())
    await until(lambda: sink.calls)
    out.pipeline.log(out.record())
    await until(lambda: sink.logs)
    assert not await out.pipeline.flush(0.05)
    assert not await out.pipeline.shutdown(0.1)
    assert out.states("logs") == {"created": 1, "exported": 1}


async def test_after_the_end_everything_is_dropped(sink: OtlpSink) -> None:
    """A late span is counted, a second shutdown does nothing."""
    out = started({**sink.environ(), **FAST})
    assert await out.pipeline.shutdown(30)
    out.pipeline.span(out.span())
    assert await out.pipeline.flush(1)
    assert await out.pipeline.shutdown(1)
    assert out.states() == {"created": 1, "dropped": 1}


async def test_a_pipeline_that_never_started_ends_at_once(sink: OtlpSink) -> None:
    """What was handed to it was never sent."""
    out = way_out({**sink.environ(), **FAST})
    out.pipeline.span(out.span())
    assert not await out.pipeline.flush(1)
    assert not await out.pipeline.shutdown(30)
    assert out.states() == {"created": 1, "dropped": 1}
    assert sink.calls == []


async def test_failure_and_recovery_are_each_told_once(sink: OtlpSink) -> None:
    """Three failed exports in a minute are one line; the recovery says how many were lost."""
    sink.answer("traces", *[SinkAnswer(status=400)] * 3)
    out = started({**sink.environ(), **SLOW})
    for number in range(1, 6):
        out.pipeline.span(out.span(number))
        assert await out.pipeline.flush(30)
    assert out.events == ["sidecar.telemetry.failing", "sidecar.telemetry.recovered"]
    assert out.lines[1] == {
        "signal": "traces",
        "lost": 3,
        "event": "sidecar.telemetry.recovered",
        "log_level": "info",
    }
    assert await out.pipeline.shutdown(30)


def test_lasting_failure_is_told_once_a_minute() -> None:
    """With how much was lost so far."""
    now = [0]
    out = way_out({})
    lines: list[tuple[str, int]] = []

    class Listening:
        def bind(self, **_: object) -> "Listening":
            return self

        def warning(self, event: str, *, reason: str, lost: int) -> None:
            lines.append((event, lost))

    failures = FailureLog(Signal.LOGS, Listening(), lambda: now[0])
    for second in range(130):
        now[0] = second * SECOND
        failures.tell(Delivery.of(State.FAILED, 2, "HTTP 500"))
    assert lines == [
        ("sidecar.telemetry.failing", 2),
        ("sidecar.telemetry.still_failing", 122),
        ("sidecar.telemetry.still_failing", 242),
    ]
    assert out.events == []


def listening(now: list[int]) -> tuple[list[tuple[int, str, int]], FailureLog]:
    """What an exporter's failures are told to, at the time (ns) in `now`; and each line: its second, its event, what was lost."""
    lines: list[tuple[int, str, int]] = []

    class Listening:
        def bind(self, **_: object) -> "Listening":
            return self

        def warning(self, event: str, *, lost: int, **_: object) -> None:
            lines.append((now[0] // SECOND, event, lost))

        info = warning

    failures = FailureLog(Signal.TRACES, Listening(), lambda: now[0])
    return lines, failures


def test_failures_that_come_by_turns_are_told_once_a_minute() -> None:
    """A line that exports fail, and one that they work again, with all that was lost meanwhile."""
    now = [0]
    lines, failures = listening(now)
    for second in range(0, 124, 2):
        for moment, state in ((second, State.FAILED), (second + 1, State.EXPORTED)):
            now[0] = moment * SECOND
            failures.tell(Delivery.of(state, 1))
    assert lines == [
        (0, "sidecar.telemetry.failing", 1),
        (1, "sidecar.telemetry.recovered", 1),
        (60, "sidecar.telemetry.failing", 30),
        (61, "sidecar.telemetry.recovered", 30),
        (120, "sidecar.telemetry.failing", 30),
        (121, "sidecar.telemetry.recovered", 30),
    ]


def test_what_was_lost_last_is_told_too() -> None:
    """Once exports have worked beyond the minute of the last line; that is a line of its minute as well."""
    now = [0]
    lines, failures = listening(now)
    failed = {0, 10, 61}
    for second in (0, 1, 10, 11, 60, 61, 62, 119, 120, 200):
        now[0] = second * SECOND
        failures.tell(Delivery.of(State.FAILED if second in failed else State.EXPORTED, 1))
    recovered = "sidecar.telemetry.recovered"
    assert lines == [
        (0, "sidecar.telemetry.failing", 1),
        (1, recovered, 1),
        (60, recovered, 1),
        (120, recovered, 1),
    ]


def test_what_found_no_room_is_told_at_once_then_once_a_minute() -> None:
    """While exports go well, too."""
    now = [0]
    lines: list[tuple[int, str, int]] = []

    class Listening:
        def bind(self, **_: object) -> "Listening":
            return self

        def warning(self, event: str, *, lost: int) -> None:
            lines.append((now[0] // SECOND, event, lost))

    failures = FailureLog(Signal.TRACES, Listening(), lambda: now[0])
    for second, dropped in ((0, 0), (1, 5), (2, 5), (3, 9), (60, 9), (61, 12), (200, 12)):
        now[0] = second * SECOND
        failures.tell(Delivery({State.EXPORTED: 1}), dropped)
    assert lines == [(1, "sidecar.telemetry.dropped", 5), (61, "sidecar.telemetry.dropped", 7)]


async def test_more_spans_than_a_queue_takes_are_told(sink: OtlpSink) -> None:
    """By the line, as by the ledger."""
    out = started({**sink.environ(), **FAST, "OTEL_BSP_MAX_QUEUE_SIZE": "10"})
    for number in range(200):
        out.pipeline.span(*[out.span(number)] * 50)
    await until(lambda: "sidecar.telemetry.dropped" in out.events)
    assert await out.pipeline.shutdown(30)
    states = out.states()
    assert states["dropped"] + states["exported"] == states["created"] == 10_000


def test_warnings_are_told_anew_after_an_hour() -> None:
    """Sixteen texts, each once; then a new one is told again, and one of those too."""
    now = [0]
    lines: list[str] = []

    class Listening:
        def bind(self, **_: object) -> "Listening":
            return self

        def warning(self, _event: str, *, reason: str) -> None:
            lines.append(reason)

    failures = FailureLog(Signal.LOGS, Listening(), lambda: now[0])

    def warn(*texts: str) -> list[str]:
        lines.clear()
        for text in texts:
            failures.tell(Delivery({State.EXPORTED: 1}, warning=text))
        return list(lines)

    many = [f"warning {number}" for number in range(16)]
    now[0] = 1800 * SECOND
    assert warn(*many, *many, "one too many") == many
    now[0] = 5399 * SECOND
    assert warn(many[0], "new") == []
    now[0] = 5400 * SECOND
    assert warn("new", "new", many[0]) == ["new", many[0]]


async def test_handing_over_does_not_wait_for_a_dead_collector(sink: OtlpSink) -> None:
    """Two thousand spans while an export hangs: queued or dropped in a moment."""
    sink.answer_always("traces", SinkAnswer(hang=True))
    out = started({**sink.environ(), **FAST, "OTEL_BSP_MAX_QUEUE_SIZE": "1000"})
    out.pipeline.span(out.span())
    await until(lambda: sink.calls)
    one = out.span(2)
    with promptly(5):  # an export may take 10
        for _ in range(2000):
            out.pipeline.span(one)
    assert out.states() == {"created": 2001, "queued": 1001, "dropped": 1000}
    await out.pipeline.shutdown(0)
