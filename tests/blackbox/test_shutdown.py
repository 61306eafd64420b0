"""The end of a process: drain, the outcome `shutdown`, exit codes, signals, and health meanwhile."""

import json
import signal
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    Wait,
    answer,
    chat_request,
    exchange,
    request_bytes,
    sse_head,
)
from tests.pace import promptly

DATA = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
SESSIONS = 30


def own(session: str) -> tuple[bytes]:
    """The header line that names a session."""
    return (b"X-Sidecar-Session-Id: " + session.encode(),)


def by_signal(sidecar: RunningSidecar) -> None:
    """As an orchestrator asks."""
    sidecar.signal(signal.SIGTERM)


def by_interrupt(sidecar: RunningSidecar) -> None:
    """As a terminal asks."""
    sidecar.signal(signal.SIGINT)


def by_hangup(sidecar: RunningSidecar) -> None:
    """As a terminal that closes does: its shell says so, and then the system."""
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_log("sidecar.draining")
    sidecar.signal(signal.SIGHUP)


def by_request(sidecar: RunningSidecar) -> None:
    """As the app of a classic sidecar in a Job asks."""
    assert sidecar.admin("POST", "/shutdown")[0] == 202


def ledger_of(sidecar: RunningSidecar) -> dict[str, int]:
    """What became of its spans, as its last line says."""
    (stopped,) = sidecar.find_logs("sidecar.stopped")
    ledger: dict[str, int] = json.loads(stopped["telemetry"])["traces"]
    return ledger


def test_a_signal_right_after_the_start_is_obeyed(upstream: ScriptedUpstream) -> None:
    """Whoever saw it listen can ask it to stop, and it ends in good order."""
    sidecar = RunningSidecar(upstream=upstream.url).launch()
    sidecar.wait_log("sidecar.listening")
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait() == 0


def test_its_last_line_tells_what_became_of_the_others(start_sidecar: Any) -> None:
    """All of them, those of the sessions' ends too, have been written by then."""
    sidecar = start_sidecar()
    for number in range(SESSIONS):
        request = request_bytes("GET", "/x", headers=own(f"session-{number}"))
        assert exchange(sidecar.port, request).status == 200
    assert sidecar.stop() == 0
    (stopped,) = sidecar.find_logs("sidecar.stopped")
    lines = json.loads(stopped["telemetry"])["lines"]
    assert len(sidecar.find_logs("session.end")) == SESSIONS
    assert lines["queued"] == 0
    assert lines["exported"] == lines["created"] > 2 * SESSIONS


def test_nohup_is_kept_to(start_sidecar: Any) -> None:
    """Whoever ignores a closed terminal goes on, and still ends as others do."""
    sidecar = start_sidecar(launcher=("sh", "-c", 'trap "" HUP && exec "$@"', "sh"))
    sidecar.signal(signal.SIGHUP)
    assert exchange(sidecar.port, request_bytes("GET", "/x")).status == 200
    assert sidecar.stop() == 0


@pytest.mark.parametrize("ask", [by_signal, by_interrupt, by_hangup, by_request])
def test_running_streams_finish(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, ask: Any
) -> None:
    """What runs goes on to its own end; nothing new is taken; sessions end; exit code 0."""
    session = f"drain-{ask.__name__}"
    gate = Gate()
    steps = (sse_head(), Chunk(DATA), Wait(gate), Chunk(b"data: [DONE]\n\n"), LastChunk())
    upstream.answer(*steps, path="/v1/chat/completions")
    sidecar = start_sidecar()
    with RawClient(sidecar.port) as client, RawClient(sidecar.port) as idle:
        idle.send(request_bytes("GET", "/idle"))
        idle.read_answer()
        client.send(chat_request(stream=True, headers=own(session)))
        client.read_until(DATA)
        ask(sidecar)
        sidecar.wait_log("sidecar.draining")
        assert idle.is_closed()
        with pytest.raises((OSError, EOFError)):
            exchange(sidecar.port, request_bytes("GET", "/late"))
        gate.open()
        rest = client.read_to_end()
    assert b"data: [DONE]\n\n" in rest
    assert rest.endswith(b"0\r\n\r\n")
    assert sidecar.wait() == 0
    server = sink.span(kind="SERVER", attributes={"session.id": session})
    assert server.attributes["sidecar.outcome"] == "completed"
    whole = sink.span(name="session", attributes={"session.id": session})
    assert whole.attributes["sidecar.total.requests"] == 1
    conversation = sink.span(name="conversation", attributes={"session.id": session})
    assert [link.span_id for link in whole.links] == [conversation.span_id]
    assert server.span_id in {link.span_id for link in conversation.links}
    assert "/late" not in [request.path for request in upstream.requests]


QUEUED = 200
"""Clients, more than are taken in a turn or two."""


def test_whoever_comes_just_before_the_drain_is_answered(
    start_sidecar: Any, upstream: ScriptedUpstream
) -> None:
    """Its request waits with the system, on a connection that was taken or was not: it goes on, or is told of the drain."""
    upstream.answer_always(answer(b"ok"))
    sidecar = start_sidecar()
    with ExitStack() as stack:
        kept = [stack.enter_context(RawClient(sidecar.port)) for _ in range(10)]
        for client in kept:
            client.send(request_bytes("GET", "/before"))
            client.read_answer()
        sidecar.signal(signal.SIGSTOP)
        clients = kept + [stack.enter_context(RawClient(sidecar.port)) for _ in range(QUEUED)]
        for client in clients:
            client.send(request_bytes("GET", "/just-before"))
        sidecar.signal(signal.SIGTERM)
        sidecar.signal(signal.SIGCONT)
        said = [client.read_answer() for client in clients]
        assert all(client.is_closed() for client in clients)
    assert {one.get("connection") for one in said if one.status != 200} == {b"close"}
    assert {one.status for one in said} <= {200, 503}
    assert sidecar.wait() == 0
    (stopped,) = sidecar.find_logs("sidecar.stopped")
    counts = json.loads(stopped["requests"])
    assert counts["started"] == counts["settled"] == len(kept) + len(clients)


def test_what_outlasts_the_drain_is_shut_down(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """After `SHUTDOWN_TIMEOUT` less its reserve: one stream broken off, one silent call told 503; exit 0."""
    gate = Gate()
    upstream.answer(sse_head(), Chunk(DATA), Wait(gate))
    upstream.answer(Wait(gate))
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": "6s"})
    with RawClient(sidecar.port) as streaming, RawClient(sidecar.port) as waiting:
        streaming.send(chat_request(stream=True, headers=own("shut-stream")))
        streaming.read_until(DATA)
        waiting.send(chat_request(headers=own("shut-wait")))
        upstream.request(1)
        with promptly(6 + 8, sidecar.pid):
            sidecar.signal(signal.SIGTERM)
            said = waiting.read_answer("POST")
            assert (said.status, json.loads(said.body)["error"]["code"]) == (503, "shutdown")
            assert not streaming.read_to_end().endswith(b"0\r\n\r\n")
            assert sidecar.wait() == 0
    gate.open()
    for session, phase, status in (("shut-stream", "mid_stream", 200), ("shut-wait", "before_headers", 503)):
        server = sink.span(kind="SERVER", attributes={"session.id": session})
        assert server.attributes["sidecar.outcome"] == "shutdown"
        assert server.attributes["sidecar.outcome.phase"] == phase
        assert server.attributes["http.response.status_code"] == status
        client = sink.span(kind="CLIENT", attributes={"session.id": session})
        for span in (server, client):
            assert (span.status, span.attributes["error.type"]) == ("ERROR", "shutdown")
        whole = sink.span(name="session", attributes={"session.id": session})
        assert whole.attributes["sidecar.total.requests.shutdown"] == 1


def test_while_large_bodies_are_read(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """The drain ends before all of them have been read: each is told so."""
    content = [{"role": "user", "content": f"{number} words"} for number in range(60_000)]
    gate, count = Gate(), 12
    upstream.answer_always(Wait(gate))
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": "40ms"})
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(count)]
        for client in clients:
            client.send(chat_request(messages=content))
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == count)
        sidecar.signal(signal.SIGTERM)
        said = [client.read_answer("POST") for client in clients]
    assert sidecar.wait() == 0
    gate.open()
    assert [json.loads(one.body)["error"]["code"] for one in said] == ["shutdown"] * count


def test_a_second_signal_exits_at_once(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """While it drains, and without waiting for anything."""
    gate = Gate()
    upstream.answer(Wait(gate))
    sidecar = start_sidecar()
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/slow"))
        upstream.request()
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        assert sidecar.running
        with promptly(15, sidecar.pid):
            sidecar.signal(signal.SIGTERM)
            assert sidecar.wait() != 0
    gate.open()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_hanging_collector_does_not_hold_the_end(upstream: ScriptedUpstream, protocol: str) -> None:
    """The flush is abandoned in time, what became of it is said, and the exit code is 0."""
    with OtlpSink(protocol) as sink:
        for name in ("traces", "metrics", "logs"):
            sink.answer_always(name, SinkAnswer(hang=True))
        settings = {"SHUTDOWN_TIMEOUT": "2s"}
        with RunningSidecar(upstream=upstream.url, sink=sink, settings=settings) as sidecar:
            assert exchange(sidecar.port, chat_request()).status == 200
            with promptly(2 + 6, sidecar.pid):
                assert sidecar.stop() == 0
    ledger = ledger_of(sidecar)
    assert ledger["created"] > 0
    assert ledger["exported"] == 0
    assert ledger["created"] == sum(count for state, count in ledger.items() if state != "created")


def test_health(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """Ready while it serves, whatever upstream and collector do; not ready from the drain on, still alive."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"ok"))
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    sidecar = start_sidecar(environ=environ, settings={"SHUTDOWN_TIMEOUT": "20s"})
    for path in ("/startup", "/liveness", "/readiness"):
        assert sidecar.admin("GET", path)[0] == 200
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/slow"))
        upstream.request()
        by_request(sidecar)
        sidecar.wait_until(lambda: sidecar.admin("GET", "/readiness")[0] == 503)
        assert sidecar.admin("GET", "/liveness")[0] == 200
        stats = sidecar.stats()
        assert (stats["state"], stats["requests"]["in_flight"]) == ("draining", 1)
        by_request(sidecar)
        gate.open()
        assert client.read_answer().body == b"ok"
    assert sidecar.wait() == 0


def test_a_kept_connection_ends_with_the_drain(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """The running request is answered and told of the close; one pipelined behind it never goes out."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"ok"))
    sidecar = start_sidecar()
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/slow") + request_bytes("GET", "/behind"))
        upstream.request()
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        gate.open()
        said = client.read_answer()
        assert (said.body, said.get("connection")) == (b"ok", b"close")
        client.read_to_end()
    assert sidecar.wait() == 0
    assert [request.path for request in upstream.requests] == ["/slow"]


def test_the_collector_may_be_down(upstream: ScriptedUpstream) -> None:
    """A dead collector costs no request anything; what is lost is counted."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    settings = {"SHUTDOWN_TIMEOUT": "2s"}
    with RunningSidecar(upstream=upstream.url, environ=environ, settings=settings) as sidecar:
        threads = [threading.Thread(target=exchange, args=(sidecar.port, chat_request())) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["settled"] == 20)
        assert sidecar.stats()["requests"]["started"] == 20
        assert sidecar.stop() == 0
    ledger = ledger_of(sidecar)
    assert ledger["exported"] == 0
    assert ledger["created"] >= 20
    assert ledger["created"] == sum(count for state, count in ledger.items() if state != "created")


def test_without_a_collector_it_says_so_once(upstream: ScriptedUpstream) -> None:
    """No endpoint, no exporters: one line at the start, and it serves on."""
    with RunningSidecar(upstream=upstream.url) as sidecar:
        for _ in range(3):
            assert exchange(sidecar.port, chat_request()).status == 200
        sidecar.wait_until(lambda: "OTEL_EXPORTER_OTLP_ENDPOINT" in sidecar.stderr)
        lines = [line for line in sidecar.stderr.splitlines() if "OTEL_EXPORTER_OTLP_ENDPOINT" in line]
        assert len(lines) == 1
