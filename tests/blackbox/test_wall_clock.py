"""The wall clock is set while the sidecar runs: an hour forth or back, or three days; or the machine is suspended.

What begins afterwards has the wall's time; durations, orders and time-outs know nothing of it. The sidecar is a process
of its own whose clocks the test sets (`wall/sitecustomize.py`).
"""

import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidecar.telemetry.logs import BURST, LINES_PER_SECOND
from sidecar.testing import (
    Chunk,
    Connection,
    Gate,
    LastChunk,
    OtlpSink,
    Point,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    Span,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    sse_event,
    sse_head,
)
from tests.blackbox.test_collector_ways import deafening

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
STEPS = {"an hour forth": HOUR, "an hour back": -HOUR, "three days forth": 72 * HOUR}
NEAR = 300 * SECOND
"""How far from the wall's time what has just happened may be told: longer than a test, and far from an hour."""

ENVIRON = {
    "OTEL_BSP_SCHEDULE_DELAY": "10",
    "OTEL_BLRP_SCHEDULE_DELAY": "10",
    "OTEL_METRIC_EXPORT_INTERVAL": "2000",
    "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
    "OTEL_LOGS_EXPORTER": "otlp",
}
step = pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))


@dataclass
class Set:
    """A running sidecar and its wall clock."""

    sidecar: RunningSidecar
    path: Path
    offset: int = 0
    slept: int = 0
    _told: int = 0

    def step(self, by: int) -> None:
        """Sets its wall clock."""
        self.offset += by
        self._write()

    def suspend(self, by: int) -> None:
        """Its machine was suspended for that long (ns)."""
        self.slept += by
        self._write()

    def _write(self) -> None:
        with self.path.open("r+b") as file:
            file.write(struct.pack("qq", self.offset, self.slept))

    def told(self, moved: int) -> None:
        """Waits for the line that says so, which is the last of its kind."""
        self._told += 1
        self.sidecar.wait_until(lambda: len(self.sidecar.find_logs("sidecar.clock.jumped")) == self._told)
        line = self.sidecar.find_logs("sidecar.clock.jumped")[-1]
        assert abs(line["sidecar.clock.jump"] - moved / SECOND) < 1
        assert self.now(line["timestamp"])

    def now(self, at: int | str) -> bool:
        """True if that is the present, as this wall clock has it."""
        ns = round(datetime.fromisoformat(at).timestamp() * SECOND) if isinstance(at, str) else at
        return abs(ns - (time.time_ns() + self.offset + self.slept)) < NEAR


def own_wall(path: Path, offset: int = 0) -> dict[str, str]:
    """The environment of a process whose wall clock is what this file says, `offset` ns off the machine's at first."""
    path.write_bytes(struct.pack("qq", offset, 0))
    return {"PYTHONPATH": str(Path(__file__).parent / "wall"), "TEST_WALL": str(path)}


Start = Callable[..., Set]


@pytest.fixture
def start(tmp_path: Path, start_sidecar: Any) -> Start:
    """Starts a sidecar whose wall clock is the test's to set."""
    path = tmp_path / "wall"
    shim = own_wall(path)

    def starting(environ: dict[str, str] | None = None, **options: Any) -> Set:
        return Set(start_sidecar(environ={**ENVIRON, **shim, **(environ or {})}, **options), path)

    return starting


@pytest.fixture(scope="module")
def patient(
    tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream, module_sink: OtlpSink
) -> Iterator[Set]:
    """A sidecar with long time-outs whose wall clock is set again and again."""
    path = tmp_path_factory.mktemp("patient") / "wall"
    settings = {"IDLE_TIMEOUT": "60s", "SESSION_IDLE": "60s", "CLIENT_KEEPALIVE": "60s"}
    environ = {**ENVIRON, **own_wall(path)}
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings=settings, environ=environ
    ) as running:
        yield Set(running, path)


def ask(sidecar: RunningSidecar, upstream: ScriptedUpstream, session: str) -> str:
    """One turn that is answered; gives its request id."""
    upstream.answer(json_answer(chat_completion()))
    said = exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
    assert said.status == 200
    return (said.get("x-sidecar-request-id") or b"").decode()


def spans_of(sink: OtlpSink, session: str) -> list[Span]:
    """The request's spans: each inside its parent, and none longer than the test."""
    server = sink.span(kind="SERVER", attributes={"session.id": session})
    sink.wait_for(lambda: sink.find_spans(name="wait", attributes={"session.id": session}))
    spans = [span for span in sink.spans if span.trace_id == server.trace_id]
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        assert 0 <= span.duration < 2 * NEAR, span
        if span.parent in by_id:
            parent = by_id[span.parent]
            assert parent.start <= span.start <= span.end <= parent.end
        for event in span.events:
            assert span.start <= event.time <= span.end
    return spans


@step
def test_what_begins_after_a_step_has_the_walls_time(
    start: Start, upstream: ScriptedUpstream, sink: OtlpSink, step: int
) -> None:
    """Spans, lines, records, ids, the admin port, points and exemplars; one line tells of the step."""
    one = start()
    ask(one.sidecar, upstream, f"before{step}")
    for span in spans_of(sink, f"before{step}"):
        assert one.now(span.start)
    one.step(step)
    one.told(step)
    session = f"after{step}"
    request_id = ask(one.sidecar, upstream, session)
    spans = spans_of(sink, session)
    assert sorted(span.name for span in spans) == [
        "POST /v1/chat/completions",
        "chat gpt-4o",
        *(["connect"] if len(spans) == 4 else []),
        "wait",
    ]
    assert all(one.now(span.start) and one.now(span.end) for span in spans)
    assert one.now(int(request_id.split(":")[3]) * 1_000_000)
    line = one.sidecar.wait_log("sidecar.request.completed", session_id=session)
    assert one.now(line["timestamp"])
    assert 0 < line.get("sidecar.request.duration", 1) < NEAR / SECOND
    sink.wait_for(lambda: [log for log in sink.logs if log.attributes.get("session.id") == session])
    for log in sink.logs:
        if log.attributes.get("session.id") == session:
            assert one.now(log.time)
    live = next(
        one_ for one_ in one.sidecar.admin("GET", "/sessions")[1]["sessions"] if one_["id"] == session
    )
    assert one.now(live["started_at"])
    assert 0 <= live["idle_s"] < NEAR / SECOND
    assert one.sidecar.stats()["uptime_s"] < NEAR / SECOND
    assert one.sidecar.stop() == 0
    for name, ids in (("session", [f"before{step}", session]), ("conversation", [f"before{step}", session])):
        for session_id in ids:
            ended = sink.span(name=name, attributes={"session.id": session_id})
            assert one.now(ended.end)
            assert 0 <= ended.duration < 2 * NEAR
    assert one.now(one.sidecar.find_logs("sidecar.stopped")[0]["timestamp"])
    assert len(one.sidecar.find_logs("sidecar.clock.jumped")) == 1


@step
def test_a_stream_keeps_the_time_it_began_with(
    patient: Set, upstream: ScriptedUpstream, sink: OtlpSink, step: int
) -> None:
    """Its trace is of one piece; its gaps and chunk times are what they were; no time-out strikes."""
    gate = Gate()
    events = (sse_event(chat_chunk("one")), sse_event(chat_chunk(finish_reason="stop")), b"data: [DONE]\n\n")
    upstream.answer(
        *sse_head(), Chunk(events[0]), Wait(gate), Chunk(events[1]), Chunk(events[2]), LastChunk()
    )
    one = patient
    before = Set(one.sidecar, one.path, one.offset)
    session = f"stream{step}"
    with RawClient(one.sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
        client.read_until(b"one")
        one.step(step)
        one.told(step)
        assert one.sidecar.stats()["requests"]["in_flight"] == 1
        gate.open()
        client.read_until(b"[DONE]")
        client.read_until(b"0\r\n\r\n")
        ask(one.sidecar, upstream, f"{session}-other")
    spans = spans_of(sink, session)
    assert all(before.now(span.start) and before.now(span.end) for span in spans)
    stream = next(span for span in spans if span.name == "stream")
    assert 0 <= stream.attributes["sidecar.stream.gap"] < 2 * NEAR / SECOND  # type: ignore[operator]
    assert all(one.now(span.start) for span in spans_of(sink, f"{session}-other"))
    server = next(span for span in spans if span.kind == "SERVER")
    assert server.attributes["sidecar.outcome"] == "completed"


def latest(sink: OtlpSink) -> list[Point]:
    """The points of the export that came last."""
    found = sink.points
    return [point for point in found if point.time == found[-1].time]


def key(point: Point) -> tuple[str, str]:
    """Which series it is of."""
    return point.metric, repr(sorted(point.attributes.items()))


@step
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_points_keep_their_order_and_their_sums(
    start: Start, upstream: ScriptedUpstream, temporality: str, step: int
) -> None:
    """No point begins after its time, or has an exemplar from outside; what counts goes on; set back, series begin anew."""
    with OtlpSink() as sink:
        preference = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality, **sink.environ()}
        one = start(preference, sink=None)
        ask(one.sidecar, upstream, "a")
        sink.wait_for(lambda: [point for point in sink.points if point.metric == "sidecar.requests"])
        settled = {key(point): point for point in sink.points}
        one.step(step)
        one.told(step)
        ask(one.sidecar, upstream, "b")
        calls = len(sink.calls)
        sink.wait_for(lambda: len([call for call in sink.calls[calls:] if call.signal == "metrics"]) >= 2)
        assert one.sidecar.stop() == 0
        after = [point for point in sink.points if one.now(point.time)]
        assert {key(point) for point in after} >= {
            series for series, point in settled.items() if point.temporality == "cumulative"
        }
        for point in sink.points:
            if point.kind != "gauge":
                assert point.start <= point.time
            assert all(abs(one_.time - point.time) < NEAR for one_ in point.exemplars)
        requests = [point for point in sink.points if point.metric == "sidecar.requests"]
        assert all(point.value is not None for point in requests)
        if temporality == "delta":
            assert sum(point.value or 0 for point in requests) == 2
            assert all(point.time - point.start < NEAR for point in after if point.temporality == "delta")
        else:
            assert (requests[0].value, requests[-1].value) == (1, 2)
            begun_anew = all(one.now(point.start) for point in after if point.kind != "gauge")
            assert begun_anew == (step < 0) or step > 0
            kept = [point for point in requests if one.now(point.time)]
            assert len({point.start for point in kept}) == 1
            assert (kept[0].start == requests[0].start) == (step > 0)


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forth", "back"])
def test_no_timer_strikes_or_waits_because_of_a_step(
    start: Start, upstream: ScriptedUpstream, by: int
) -> None:
    """Idle time-outs, keep-alive and the sessions' idle time count what has passed."""
    upstream.answer(*sse_head(), Chunk(sse_event(chat_chunk("one"))), Wait(Gate()))
    one = start(settings={"IDLE_TIMEOUT": "8s", "CLIENT_KEEPALIVE": "8s", "SESSION_IDLE": "8s"})
    with RawClient(one.sidecar.port) as kept, RawClient(one.sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: silent",)))
        client.read_until(b"one")
        begun = time.monotonic()
        one.step(by)
        one.told(by)
        upstream.answer(json_answer({}))
        kept.send(request_bytes("GET", "/x", headers=(b"X-Sidecar-Session-Id: idle",)))
        assert kept.read_answer().status == 200
        assert one.sidecar.stats()["requests"]["in_flight"] == 1
        line = one.sidecar.wait_log("sidecar.request.failed", session_id="silent")
        assert line["error.type"] == "timeout.idle"
        assert time.monotonic() - begun > 4
        assert kept.is_closed()
        one.sidecar.wait_until(
            lambda: any(line["session.id"] == "idle" for line in one.sidecar.find_logs("session.end"))
        )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forth", "back"])
def test_an_exports_time_is_what_has_passed(
    start: Start, upstream: ScriptedUpstream, protocol: str, by: int
) -> None:
    """A collector that hangs or is busy holds an export up for its time-out, not for an hour: of spans, and of lines."""
    with OtlpSink(protocol) as sink:
        sink.answer_always("traces", SinkAnswer(hang=True))
        sink.answer_always("logs", SinkAnswer(status=503, code="UNAVAILABLE"))
        environ = {**sink.environ(), "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_TIMEOUT": "4000"}
        one = start(environ, sink=None)
        ask(one.sidecar, upstream, "held-up")
        sink.wait_for(lambda: {"traces", "logs"} <= {call.signal for call in sink.calls})
        one.step(by)
        for signal_ in ("traces", "logs"):
            one.sidecar.wait_log("sidecar.telemetry.failing", signal=signal_)
            sink.answer_always(signal_, SinkAnswer())
        ask(one.sidecar, upstream, "goes-on")
        sink.wait_for(lambda: sink.find_spans(attributes={"session.id": "goes-on"}))
        sink.wait_for(lambda: [line for line in sink.logs if line.attributes.get("session.id") == "goes-on"])


@contextmanager
def stopped(sidecar: RunningSidecar) -> Iterator[None]:
    """The process does not run while the block does."""
    sidecar.signal(signal.SIGSTOP)
    try:
        while psutil.Process(sidecar.pid).status() != psutil.STATUS_STOPPED:
            pass
        yield
    finally:
        sidecar.signal(signal.SIGCONT)


def test_the_first_request_after_a_pause_has_the_walls_time(
    patient: Set, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """A machine that was paused notices it with the first thing it does."""
    one = patient
    upstream.answer(json_answer(chat_completion()))
    with RawClient(one.sidecar.port) as client:
        with stopped(one.sidecar):
            client.send(chat_request(headers=(b"X-Sidecar-Session-Id: paused",)))
            one.step(HOUR)
        assert client.read_answer("POST").status == 200
    assert all(one.now(span.start) for span in spans_of(sink, "paused"))
    one.told(HOUR)


# --- a machine that was suspended


def test_a_session_goes_on_after_a_night(start: Start, upstream: ScriptedUpstream) -> None:
    """It is quiet only while a request could come: it ends when that has taken its time."""
    one = start(settings={"SESSION_IDLE": "8s"})
    assert ask(one.sidecar, upstream, "night").split(":")[2] == "1"
    one.suspend(8 * HOUR)
    assert ask(one.sidecar, upstream, "night").split(":")[2] == "2"
    begun = time.monotonic()
    one.suspend(8 * HOUR)
    one.sidecar.wait_until(
        lambda: any(line["session.id"] == "night" for line in one.sidecar.find_logs("session.end"))
    )
    assert time.monotonic() - begun > 5


@pytest.mark.parametrize("slept", [10 * SECOND, 8 * HOUR], ids=["seconds", "a night"])
def test_connections_to_upstreams_are_made_anew(start: Start, upstream: ScriptedUpstream, slept: int) -> None:
    """Within their idle time too: a machine that slept did not hear whether the other side has closed."""
    earlier = {
        connection.number for connection in upstream.connections
    }  # of another sidecar, that has just ended
    one = start(settings={"POOL_IDLE": "60s"})

    def made() -> list[Connection]:
        return [connection for connection in upstream.connections if connection.number not in earlier]

    ask(one.sidecar, upstream, "a")
    ask(one.sidecar, upstream, "b")
    upstream.wait_for(lambda: len(made()) == 1)
    one.suspend(slept)
    ask(one.sidecar, upstream, "c")
    upstream.wait_for(lambda: made()[0].closed == "eof")
    assert [connection.requests for connection in made()] == [2, 1]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_connections_to_the_collector_are_made_anew(
    start: Start, upstream: ScriptedUpstream, protocol: str
) -> None:
    """What was kept would take the next batch along into nowhere."""
    with OtlpSink(protocol) as sink, deafening(sink.port) as (port, deaf):
        environ = {
            **sink.environ(),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_METRICS_EXPORTER": "none",
        }
        one = start(environ, sink=None)

        def all_is_told() -> bool:
            pages = one.sidecar.stats()["telemetry"]
            return all(not pages[signal]["queued"] for signal in ("traces", "logs"))

        ask(one.sidecar, upstream, "before")
        sink.wait_for(lambda: sink.spans and sink.logs)
        one.sidecar.wait_until(all_is_told)
        deaf.set()
        one.suspend(HOUR)
        ask(one.sidecar, upstream, "after")
        sink.wait_for(lambda: sink.find_spans(kind="SERVER", attributes={"session.id": "after"}))
        one.sidecar.wait_until(all_is_told)
        pages = one.sidecar.stats()["telemetry"]
        assert [pages[signal]["unknown"] for signal in ("traces", "logs")] == [0, 0]


def test_a_clock_that_will_not_stand_still_is_not_told_without_end(start: Start) -> None:
    """The lines are limited like all others."""
    one, began = start(), time.monotonic()
    for turn in range(300):
        one.step(HOUR if turn % 2 else -HOUR)
        one.sidecar.stats()
        one.sidecar.admin("GET", "/sessions")
    one.sidecar.stop()
    passing = BURST + (time.monotonic() - began) * LINES_PER_SECOND
    assert 1 <= len(one.sidecar.find_logs("sidecar.clock.jumped")) <= passing + 1
