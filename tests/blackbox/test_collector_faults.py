"""A collector that is down, slow, busy, wrong or silent: no request feels it, and the ledger says what became of all.

Each row is one fault, over HTTP and gRPC. The sidecar is a process of its own; its ledger is read from its admin port,
and compared with what the collector says that it took.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.testing import (
    Garbage,
    OtlpSink,
    ReadBody,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    answer,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
)
from tests.blackbox.names import NameServer
from tests.pace import promptly

HTTP, GRPC = "http/protobuf", "grpc"
SIGNALS = ("traces", "logs", "metrics")
REQUESTS = 4
"""Requests while the fault lasts, and as many again after it."""

ENVIRON = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_BLRP_SCHEDULE_DELAY": "20",
    "OTEL_METRIC_EXPORT_INTERVAL": "100",
}

ANSWER = json.dumps(chat_completion()).encode()


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to be no good collector, and the state in which items end while it lasts.

    `down`: nothing listens. Where a `partial_success` rejects, `rejects` is how many of each export.
    """

    name: str
    state: str
    answer: SinkAnswer = field(default_factory=SinkAnswer)
    down: bool = False
    protocols: tuple[str, ...] = (HTTP, GRPC)

    @property
    def rejects(self) -> int:
        """Items of each export that a `partial_success` rejects."""
        return self.answer.rejected


def said(status: int, code: str, **more: object) -> SinkAnswer:
    """The same refusal in both protocols."""
    return SinkAnswer(status=status, code=code, **more)  # type: ignore[arg-type]


FAULTS = (
    Fault("down", "failed", down=True),
    Fault("slow", "exported", SinkAnswer(delay=0.2)),
    Fault("429", "failed", said(429, "RESOURCE_EXHAUSTED")),
    Fault("429 with Retry-After", "failed", said(429, "UNAVAILABLE", headers={"Retry-After": "1"})),
    Fault("503", "failed", said(503, "UNAVAILABLE")),
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
    Fault("a byte at a time", "unknown", SinkAnswer(status=503, drip=1.0), protocols=(HTTP,)),
    Fault("half of it", "exported", SinkAnswer(rejected=1, message="too old")),
    Fault("hanging", "unknown", SinkAnswer(hang=True)),
)
ROWS = [(fault, protocol) for fault in FAULTS for protocol in fault.protocols]


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


@pytest.mark.parametrize(
    "fault,protocol", ROWS, ids=[f"{fault.name}, {protocol}" for fault, protocol in ROWS]
)
def test_a_fault_and_its_end(fault: Fault, protocol: str, upstream: ScriptedUpstream) -> None:
    """While it lasts, requests pass and the ledger is exact; when it ends, everything new is exported again."""
    with OtlpSink(protocol) as sink:
        apply(sink, fault)
        endless = fault.answer.hang or fault.answer.drip
        # A busy machine brings an answer late, and an export too.
        environ = {**sink.environ(), **ENVIRON, "OTEL_EXPORTER_OTLP_TIMEOUT": "5000" if endless else "20000"}
        with RunningSidecar(upstream=upstream.url, environ=environ) as sidecar:
            ask(sidecar, upstream, "during")
            before = settled(sidecar, REQUESTS)
            for signal in ("traces", "logs"):
                states = {state: count for state, count in before[signal].items() if count}
                created = states.pop("created")
                calls = sum(call.signal == signal for call in sink.calls)
                rejected = {"rejected": calls * fault.rejects} if fault.rejects else {}
                expected = {fault.state: created - sum(rejected.values()), **rejected}
                assert created >= REQUESTS * (3 if signal == "traces" else 1)
                assert states == {state: count for state, count in expected.items() if count}
                assert sink.accepted(signal) == states.get("exported", 0) + states.get("unconfirmed", 0)

            if fault.down:
                sink.start()
            apply(sink, None)
            asked = REQUESTS

            def exported_again() -> bool:
                """A gRPC channel waits a while before it connects again: until then exports fail as before."""
                nonlocal asked
                ask(sidecar, upstream, "in between", 1)
                asked += 1
                now = settled(sidecar, asked)
                return all(
                    now[signal]["exported"] > before[signal]["exported"] for signal in ("traces", "logs")
                )

            sidecar.wait_until(exported_again)
            before = settled(sidecar, asked)
            ask(sidecar, upstream, "after")
            after = settled(sidecar, asked + REQUESTS)
            for signal in ("traces", "logs"):
                fresh = {
                    state: after[signal][state] - before[signal].get(state, 0) for state in after[signal]
                }
                assert {state for state, count in fresh.items() if count} == {"created", "exported"}
                assert sink.accepted(signal) == after[signal]["exported"] + after[signal]["unconfirmed"]
            assert len(sink.find_spans(kind="SERVER", attributes={"session.id": "after"})) == REQUESTS
        stopped = json.loads(sidecar.find_logs("sidecar.stopped")[0]["telemetry"])
        assert stopped["traces"]["created"] == sum(
            count for state, count in stopped["traces"].items() if state != "created"
        )
        # An answer that a busy machine brings too late is `unknown`, though it was taken.
        metrics = stopped["metrics"]
        taken = sink.accepted("metrics")
        told = metrics["exported"] + metrics["unconfirmed"]
        assert told <= taken <= told + metrics["unknown"]


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


# --- collectors that never come to an end


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
"""An empty SETTINGS frame (RFC 9113, section 6.5)."""


_GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\0\0\0\0\x02"
"""A GOAWAY frame of an internal error (section 6.8), about which gRPC has a line of its own for stderr."""


@dataclass(frozen=True, slots=True)
class Dribble:
    """What a collector says at once, and then over and over, a piece each `every` seconds."""

    name: str
    at_once: bytes
    again: bytes
    protocol: str = HTTP
    scheme: str = "http"
    every: float = 0.2


DRIBBLES = (
    Dribble("nothing", b"", b""),
    Dribble("status line", b"HTTP/1.1 200 O", b"K"),
    Dribble("head", _OK + b"X-A: ", b"a"),
    Dribble("fields", _OK, b"X-A: b\r\n"),
    Dribble("body with a length", _OK + b"Content-Length: 1000\r\n\r\n", b"\0"),
    Dribble("body without an end", _OK + b"\r\n", b"\0"),
    Dribble("chunks", _OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n\0\r\n"),
    Dribble("chunk size", _OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    Dribble("trailers", _OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
    Dribble("refusal's body", b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n", b"a"),
    Dribble("interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    Dribble("flood of interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, every=0.0),
    Dribble("TLS record", b"\x16\x03\x03\x40\x00", b"\x02", scheme="https"),
    Dribble("nothing", b"", b"", GRPC),
    Dribble("frame", _SETTINGS[:3], b"", GRPC),
    Dribble("frames", _SETTINGS, _SETTINGS, GRPC),
    Dribble("flood of frames", _SETTINGS, _SETTINGS * 100, GRPC, every=0.0),
    Dribble("goodbyes", _SETTINGS, _GOAWAY, GRPC),
    Dribble(
        "answer's fields", _SETTINGS + b"\0\0\x01\x01\0\0\0\0\x01\x88", b"\0\0\x01\x09\0\0\0\0\x01\x88", GRPC
    ),
    Dribble("TLS record", b"\x16\x03\x03\x40\x00", b"\x02", GRPC, scheme="https"),
)


@contextmanager
def dribbling(dribble: Dribble) -> Iterator[str]:
    """An endpoint that does so to everybody who connects."""
    over = threading.Event()

    def serve(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.recv(65536)
            peer.sendall(dribble.at_once)
            while not over.wait(dribble.every):
                peer.sendall(dribble.again)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(server.accept()[0],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"{dribble.scheme}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(30)


@contextmanager
def never_accepting() -> Iterator[str]:
    """An endpoint whose port takes no connection any more, and refuses none."""
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def goes_on_without(url: str, protocol: str, upstream: ScriptedUpstream) -> None:
    """Each export ends within its time as a whole, which is said; the next one is tried; the shutdown is in time."""
    environ = {
        **ENVIRON,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    settings = {"SHUTDOWN_TIMEOUT": "4s"}
    with RunningSidecar(upstream=upstream.url, settings=settings, environ=environ) as sidecar:
        for batch in (1, 2):

            def told(batch: int = batch) -> bool:
                counts = ledger(sidecar)["traces"]
                return counts["created"] >= 3 * batch and not counts["queued"]

            with promptly(1 + 8, sidecar.pid):  # the time-out, and what is done besides
                ask(sidecar, upstream, f"batch-{batch}", 1)
                sidecar.wait_until(told)
        states = ledger(sidecar)["traces"]
        assert states["failed"] + states["unknown"] == states["created"]
        assert sidecar.wait_log("sidecar.telemetry.failing")["signal"] == "traces"
        assert len(sidecar.find_logs("sidecar.telemetry.failing")) == 1
        # No library's own line is among them.
        assert [line for line in sidecar.stderr.splitlines() if not line.startswith("{")] == []
        ask(sidecar, upstream, "last", 1)
        with promptly(4 + 8, sidecar.pid):
            assert sidecar.stop() == 0


@pytest.mark.parametrize(
    "dribble", DRIBBLES, ids=[f"{dribble.name}, {dribble.protocol}" for dribble in DRIBBLES]
)
def test_an_answer_that_never_ends_takes_one_time_out(dribble: Dribble, upstream: ScriptedUpstream) -> None:
    """Whatever comes a piece at a time: head, body, frames, the TLS handshake."""
    with dribbling(dribble) as url:
        goes_on_without(url, dribble.protocol, upstream)


@pytest.mark.parametrize("protocol", [HTTP, GRPC])
def test_a_connection_that_never_stands_takes_one_time_out(protocol: str, upstream: ScriptedUpstream) -> None:
    """Likewise."""
    with never_accepting() as url:
        goes_on_without(url, protocol, upstream)


def test_a_redirect_to_itself_is_a_refusal(upstream: ScriptedUpstream) -> None:
    """It is not followed, not even once."""
    with ScriptedUpstream() as collector:
        collector.answer_always(
            ReadBody(),
            answer(
                b"", status=307, reason=b"Here", headers=(f"Location: {collector.url}/v1/traces".encode(),)
            ),
        )
        goes_on_without(collector.url, HTTP, upstream)
        traces = [one.body for one in collector.requests if one.path == "/v1/traces"]
        assert len(traces) >= 3
        assert len(set(traces)) == len(traces)
