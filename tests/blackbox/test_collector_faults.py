"""A collector that is down, slow, busy, wrong or silent: no request feels it, and the ledger says what became of all.

Each row is one fault, over HTTP and gRPC. The sidecar is a process of its own; its ledger is read from its admin port,
and compared with what the collector says that it took.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.testing import (
    Garbage,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
)
from tests.blackbox.names import NameServer

HTTP, GRPC = "http/protobuf", "grpc"
SIGNALS = ("traces", "logs", "metrics")
REQUESTS = 4
"""Requests while the fault lasts, and as many again after it."""

ENVIRON = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_BLRP_SCHEDULE_DELAY": "20",
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
}

ANSWER = json.dumps(chat_completion()).encode()


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be no good collector, and the state in which items end while it lasts.

    `down`: nothing listens. `whole_time`: an export ends with its time-out, or with the last try before it. Where a
    `partial_success` rejects, `rejects` is how many of each export.
    """

    name: str
    state: str
    answer: SinkAnswer = field(default_factory=SinkAnswer)
    down: bool = False
    whole_time: bool = False
    protocols: tuple[str, ...] = (HTTP, GRPC)

    @property
    def milliseconds(self) -> str:
        """The time-out of an export. A busy machine brings an answer late, and an export too.

        Of one that is tried again for 5.5 s, the last of three tries begins 1.9 s or more before the end.
        """
        return "5500" if self.whole_time else "20000"

    @property
    def rejects(self) -> int:
        """Items of each export that a `partial_success` rejects."""
        return self.answer.rejected


def said(status: int, code: str, **more: object) -> SinkAnswer:
    """The same refusal in both protocols."""
    return SinkAnswer(status=status, code=code, **more)  # type: ignore[arg-type]


FAULTS = (
    Fault("down", "failed", down=True, whole_time=True),
    Fault("slow", "exported", SinkAnswer(delay=0.2)),
    Fault("429", "failed", said(429, "RESOURCE_EXHAUSTED"), whole_time=True),
    Fault(
        "429 with Retry-After",
        "failed",
        said(429, "UNAVAILABLE", headers={"Retry-After": "1"}),
        whole_time=True,
    ),
    Fault("503", "failed", said(503, "UNAVAILABLE"), whole_time=True),
    Fault("500", "failed", said(500, "INTERNAL")),
    Fault("400", "failed", said(400, "INVALID_ARGUMENT")),
    Fault("401", "failed", said(401, "UNAUTHENTICATED")),
    Fault("404", "failed", said(404, "UNIMPLEMENTED")),
    Fault("garbage", "unconfirmed", SinkAnswer(garbage=b"\xff<html>no</html>"), protocols=(HTTP,)),
    Fault(
        "a web page",
        "unconfirmed",
        SinkAnswer(garbage=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}),
        protocols=(HTTP,),
    ),
    Fault("hangs up", "unknown", SinkAnswer(status=503, hang_up=True), protocols=(HTTP,)),
    # So slow that not even its status is known in time.
    Fault(
        "a byte at a time",
        "unknown",
        SinkAnswer(status=503, drip=1.0),
        whole_time=True,
        protocols=(HTTP,),
    ),
    Fault("half of it", "exported", SinkAnswer(rejected=1, message="too old")),
    Fault("hanging", "unknown", SinkAnswer(hang=True), whole_time=True),
)
ROWS = [(fault, protocol) for protocol in (HTTP, GRPC) for fault in FAULTS if protocol in fault.protocols]


def ledger(sidecar: RunningSidecar) -> dict[str, dict[str, int]]:
    """What the admin port says, after checking that it adds up: every item created is in one state."""
    counts: dict[str, dict[str, int]] = sidecar.stats()["telemetry"]
    for signal, states in counts.items():
        others = {state: count for state, count in states.items() if state != "created"}
        assert states["created"] == sum(others.values()), (signal, states)
    return counts


def settled(sidecar: RunningSidecar, requests: int) -> dict[str, dict[str, int]]:
    """The ledger once that many requests have settled and their spans and lines wait no more."""

    def quiet() -> bool:
        stats = sidecar.stats()
        counts = stats["telemetry"]
        return bool(
            stats["requests"]["in_flight"] == 0
            and len(sidecar.find_logs("sidecar.request.completed")) == requests
            and not counts["traces"]["queued"]
            and not counts["logs"]["queued"]
        )

    sidecar.wait_until(quiet)
    return ledger(sidecar)


def grown(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """By how much each count of one signal has grown, where it has."""
    return {state: now[state] - before[state] for state in now if now[state] != before[state]}


def ask(sidecar: RunningSidecar, upstream: ScriptedUpstream, session: str, requests: int = REQUESTS) -> None:
    """Requests whose answers are as the provider sent them."""
    upstream.answer_always(json_answer(chat_completion()))
    for _ in range(requests):
        answer = exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
        assert (answer.status, answer.body) == (200, ANSWER)


def apply(sink: OtlpSink, fault: Fault | None) -> None:
    """Lets the fault begin, or end."""
    if fault is not None and fault.down:
        sink.stop()
        return
    for signal in SIGNALS:
        sink.answer_always(signal, fault.answer if fault is not None else SinkAnswer())


def told_at_the_end(sidecar: RunningSidecar, sink: OtlpSink) -> None:
    """Its last line adds up, and agrees with the collector about the metrics too."""
    assert sidecar.stop() == 0
    stopped = json.loads(sidecar.find_logs("sidecar.stopped")[0]["telemetry"])
    assert stopped["traces"]["created"] == sum(
        count for state, count in stopped["traces"].items() if state != "created"
    )
    # An answer that a busy machine brings too late is `unknown`, though it was taken.
    metrics = stopped["metrics"]
    taken = sink.accepted("metrics")
    told = metrics["exported"] + metrics["unconfirmed"]
    assert told <= taken <= told + metrics["unknown"]


@pytest.fixture(scope="module")
def exporting(
    request: pytest.FixtureRequest, module_upstream: ScriptedUpstream
) -> Iterator[tuple[RunningSidecar, OtlpSink]]:
    """A sidecar and its collector, by protocol and time-out (ms): one fault after another is theirs, and none lasts."""
    protocol, milliseconds = request.param
    with OtlpSink(protocol) as sink:
        environ = {**sink.environ(), **ENVIRON, "OTEL_EXPORTER_OTLP_TIMEOUT": milliseconds}
        with RunningSidecar(upstream=module_upstream.url, environ=environ) as sidecar:
            yield sidecar, sink
            told_at_the_end(sidecar, sink)


@pytest.mark.parametrize(
    "exporting,fault",
    [((protocol, fault.milliseconds), fault) for fault, protocol in ROWS],
    ids=[f"{fault.name}, {protocol}" for fault, protocol in ROWS],
    indirect=["exporting"],
    scope="module",
)
def test_a_fault_and_its_end(
    fault: Fault, exporting: tuple[RunningSidecar, OtlpSink], upstream: ScriptedUpstream
) -> None:
    """While it lasts, requests pass and the ledger is exact; when it ends, everything new is exported again."""
    sidecar, sink = exporting
    asked = len(sidecar.find_logs("sidecar.request.completed"))
    start, calls = settled(sidecar, asked), len(sink.calls)
    taken = {signal: sink.accepted(signal) for signal in SIGNALS}
    apply(sink, fault)
    ask(sidecar, upstream, f"during {fault.name}")
    asked += REQUESTS
    before = settled(sidecar, asked)
    for signal in ("traces", "logs"):
        states = grown(before[signal], start[signal])
        created = states.pop("created")
        exports = sum(call.signal == signal for call in sink.calls[calls:])
        rejected = {"rejected": exports * fault.rejects} if fault.rejects else {}
        expected = {fault.state: created - sum(rejected.values()), **rejected}
        assert created >= REQUESTS * (3 if signal == "traces" else 1)
        assert states == {state: count for state, count in expected.items() if count}
        assert sink.accepted(signal) - taken[signal] == states.get("exported", 0) + states.get(
            "unconfirmed", 0
        )

    if fault.down:
        sink.start()
    apply(sink, None)

    def exported_again() -> bool:
        """A gRPC channel waits a while before it connects again: until then exports fail as before."""
        nonlocal asked
        ask(sidecar, upstream, "in between", 1)
        asked += 1
        now = settled(sidecar, asked)
        return all(now[signal]["exported"] > before[signal]["exported"] for signal in ("traces", "logs"))

    sidecar.wait_until(exported_again)
    before = settled(sidecar, asked)
    ask(sidecar, upstream, f"after {fault.name}")
    after = settled(sidecar, asked + REQUESTS)
    for signal in ("traces", "logs"):
        assert grown(after[signal], before[signal]).keys() == {"created", "exported"}
        assert sink.accepted(signal) == after[signal]["exported"] + after[signal]["unconfirmed"]
    attributes = {"session.id": f"after {fault.name}"}
    assert len(sink.find_spans(kind="SERVER", attributes=attributes)) == REQUESTS


def test_what_finds_no_room_is_dropped(upstream: ScriptedUpstream) -> None:
    """A queue of eight behind a batch of four that gets no answer: all others are dropped, to the span."""
    with OtlpSink() as sink:
        sink.answer_always("traces", SinkAnswer(hang=True))
        environ = {
            **sink.environ(),
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60000",
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        }
        with RunningSidecar(upstream=upstream.url, environ=environ) as sidecar:
            ask(sidecar, upstream, "first")  # the first request's four spans are a batch
            sink.wait_for(lambda: [call for call in sink.calls if call.signal == "traces"])
            ask(sidecar, upstream, "more")
            sidecar.wait_until(lambda: len(sidecar.find_logs("sidecar.request.completed")) == 2 * REQUESTS)
            states = ledger(sidecar)["traces"]
            assert (states["queued"], states["dropped"]) == (12, states["created"] - 12)
            assert states["created"] >= 2 * REQUESTS * 3
            sidecar.kill()  # it would wait for the answer


@contextmanager
def nobody() -> Iterator[str]:
    """An endpoint where nothing listens."""
    yield f"http://127.0.0.1:{free_port()}"


@contextmanager
def no_such_host() -> Iterator[str]:
    """An endpoint whose name does not resolve."""
    yield "http://nowhere.invalid:4318"


@contextmanager
def another_server() -> Iterator[str]:
    """An HTTP server that knows nothing of OTLP."""
    with ScriptedUpstream() as server:
        server.answer_always(json_answer({"error": "no such page"}, status=404, reason=b"Not Found"))
        yield server.url


@contextmanager
def no_http() -> Iterator[str]:
    """Something that speaks another protocol."""
    with ScriptedUpstream() as server:
        server.answer_always(Garbage(b"\x00\x01220 mail.example ESMTP\r\n\r\n"))
        yield server.url


@contextmanager
def grpc_port() -> Iterator[str]:
    """A collector's gRPC port, asked over HTTP."""
    with OtlpSink(GRPC) as sink:
        yield sink.endpoint


@pytest.mark.parametrize("endpoint", [nobody, no_such_host, another_server, no_http, grpc_port])
def test_a_wrong_endpoint_is_said_once(
    endpoint: Callable[[], AbstractContextManager[str]], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """One clear line for each signal, with the endpoint in it; after that the ledger counts, and no line is added."""
    with endpoint() as url, NameServer(tmp_path, {}) as names:
        # What this machine's name server makes of a name that does not exist, and how soon, is not asked.
        launcher = names.launcher if endpoint is no_such_host else ()
        environ = {**ENVIRON, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_LOGS_EXPORTER": "otlp"}
        with RunningSidecar(upstream=upstream.url, environ=environ, launcher=launcher) as sidecar:
            for batch in range(3):
                ask(sidecar, upstream, f"wrong-{batch}")
                states = settled(sidecar, (batch + 1) * REQUESTS)
                assert states["traces"]["exported"] == states["logs"]["exported"] == 0
            for signal in SIGNALS:
                sidecar.wait_log("sidecar.telemetry.failing", signal=signal)
            lines = sidecar.find_logs("sidecar.telemetry.failing")
            assert sorted(line["signal"] for line in lines) == ["logs", "metrics", "traces"]
            assert all(
                url in line["endpoint"] and "OTEL_EXPORTER_OTLP_ENDPOINT" in line["hint"] for line in lines
            )
            assert sidecar.find_logs("sidecar.library") == []
