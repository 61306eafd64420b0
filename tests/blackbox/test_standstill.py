"""The process stands still (stopped, frozen, starved) while its peers do not: it looks before it judges.

Every timer is a row: what came while nobody read is read first, and only who was silent has timed out.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    RawClient,
    ReadBody,
    RunningSidecar,
    ScriptedUpstream,
    Status,
    Wait,
    answer,
    chat_chunk,
    chat_request,
    request_bytes,
    self_signed,
    sse_event,
    sse_head,
)

TIMEOUT = 2.0
"""Seconds of each time-out: it must not be over before the process stands still, on a busy machine either."""

STILL = 2.5
"""Seconds that the process stands still: more than each time-out."""

TIMEOUTS = dict.fromkeys(
    (
        *("CLIENT_HEAD_TIMEOUT", "CLIENT_BODY_TIMEOUT", "CLIENT_KEEPALIVE", "CONNECT_TIMEOUT"),
        *("FIRST_BYTE_TIMEOUT", "IDLE_TIMEOUT", "POOL_IDLE"),
    ),
    f"{TIMEOUT}s",
)
JSON = b"Content-Type: application/json"


@contextmanager
def standing_still(sidecar: RunningSidecar, seconds: float = STILL) -> Iterator[None]:
    """The process stands still while the block runs, and until that time is over."""
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    sidecar.signal(signal.SIGSTOP)
    timer.start()
    try:
        process = psutil.Process(sidecar.pid)
        while process.status() != psutil.STATUS_STOPPED:
            pass
        yield
        assert over.wait(seconds + 30)
    finally:
        timer.cancel()
        sidecar.signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """Time-outs that are all over before the process goes on; a stall is noted before they are."""
    return {**TIMEOUTS, "STALL_AFTER": f"{TIMEOUT / 2}s"}


@dataclass(frozen=True, slots=True)
class Upload:
    """A request in two parts, the second of which is sent while the process stands still."""

    name: str
    before: bytes
    meanwhile: bytes


UPLOADS = (
    Upload("head", b"GET /x HTTP/1.1\r\nHost: h\r\nX-A", b": 1\r\n\r\n"),
    Upload("held body", request_bytes("POST", "/x", headers=(JSON, b"Content-Length: 4")) + b"{", b"}  "),
    Upload("body", request_bytes("POST", "/x", headers=(b"Content-Length: 4",)) + b"a", b"bcd"),
    Upload(
        "chunks",
        request_bytes("POST", "/x", headers=(b"Transfer-Encoding: chunked",)) + b"1\r\na\r\n",
        b"1\r\nb\r\n0\r\n\r\n",
    ),
)


@pytest.mark.parametrize("upload", UPLOADS, ids=[upload.name for upload in UPLOADS])
def test_an_upload_that_came_meanwhile_is_answered(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, upload: Upload
) -> None:
    """It was sent whole in time, as far as its client can know."""
    upstream.answer_always(ReadBody(), answer(b"yes"))
    with RawClient(sidecar.port) as client:
        client.send(upload.before)
        if upload.name in ("body", "chunks"):
            upstream.wait_for(lambda: upstream.requests and upstream.requests[0].message.body == b"a")
        elif upload.name == "held body":
            sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 1)
        with standing_still(sidecar):
            client.send(upload.meanwhile)
        got = client.read_answer("POST")
        assert (got.status, got.body) == (200, b"yes")


def test_a_kept_connection_on_which_a_request_waits_is_not_idle(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """The next request lay in the socket when the time was over."""
    upstream.answer_always(answer(b"yes"))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/1"))
        assert client.read_answer().status == 200
        with standing_still(sidecar):
            client.send(request_bytes("GET", "/2"))
        assert client.read_answer().body == b"yes"


def test_an_answer_that_came_meanwhile_is_passed_on(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """The first byte was there before its time was over."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"yes"))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        request = upstream.request()
        with standing_still(sidecar):
            gate.open()
            upstream.wait_for(lambda: request.connection.sent)
        assert client.read_answer().body == b"yes"


@pytest.mark.parametrize("events", [True, False], ids=["events", "bytes"])
def test_a_stream_whose_chunks_lay_in_the_socket_goes_on(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, events: bool
) -> None:
    """Neither cut nor called stalled by what came too late to be read in time."""
    gate, last = Gate(), Gate()
    head = sse_head() if events else (Status(), Header(b"Transfer-Encoding: chunked"))
    one = sse_event(chat_chunk("one"))
    end = sse_event(chat_chunk(finish_reason="stop")) + b"data: [DONE]\n\n"
    upstream.answer(*head, Chunk(one), Wait(gate), Chunk(one), Wait(last), Chunk(end), LastChunk())
    session = f"goes-on-{events}"
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
        client.read_until(b"one")
        request = upstream.request()
        sent = request.connection.sent
        with standing_still(sidecar):
            gate.open()
            upstream.wait_for(lambda: request.connection.sent > sent)
        client.read_until(b"one")
        last.open()
        client.read_until(b"0\r\n\r\n")
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == "completed"
    assert sidecar.find_logs("sidecar.request.stalled", session_id=session) == []


def silent_head(client: RawClient) -> None:
    """A head that stops in its first field."""
    client.send(b"GET / HTTP/1.1\r\nHost")


def silent_body(client: RawClient) -> None:
    """A body that stops after its first byte."""
    client.send(request_bytes("POST", "/x", headers=(JSON, b"Content-Length: 4")) + b"{")


def silent_upstream(client: RawClient) -> None:
    """A request that the upstream never answers."""
    client.send(request_bytes("GET", "/x"))


@pytest.mark.parametrize(
    "begin,status",
    [(silent_head, 408), (silent_body, 408), (silent_upstream, 504)],
    ids=["head", "body", "first byte"],
)
def test_who_was_silent_has_timed_out(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    begin: Callable[[RawClient], None],
    status: int,
) -> None:
    """Looking once more is no pardon."""
    upstream.answer_always(Wait(Gate()), answer(b"never"))
    before = sidecar.stats()["requests"]["started"]
    with RawClient(sidecar.port) as client:
        begin(client)
        if begin is not silent_head:
            sidecar.wait_until(lambda: sidecar.stats()["requests"]["started"] > before)
        with standing_still(sidecar):
            pass
        assert client.read_answer().status == status


def test_a_tls_handshake_that_waits_for_us_is_no_silent_upstream(start_sidecar: Any, tmp_path: Path) -> None:
    """The server's part of it came while the process stood still; the connection is made, and used."""
    made = self_signed(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        sidecar = start_sidecar(
            upstream=f"https://127.0.0.1:{server.getsockname()[1]}",
            settings=TIMEOUTS,
            environ={"SSL_CERT_FILE": str(made.certificate)},
        )
        with RawClient(sidecar.port) as client:
            client.send(request_bytes("GET", "/x"))
            peer, _ = server.accept()
            assert peer.recv(1, socket.MSG_PEEK)
            context = made.server_context()
            with context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as tls:
                with standing_still(sidecar):
                    tls.settimeout(0.2)
                    with suppress(TimeoutError):
                        tls.do_handshake()  # as far as it goes without the other side
                tls.settimeout(30)
                tls.do_handshake()
                tls.recv(4096)
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
                assert client.read_answer().body == b"yes"


def test_a_drain_that_stood_still_lets_the_answers_end(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """The whole shutdown time is over when it goes on: the answer is there, and telemetry has its reserve."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"yes"))
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": f"{STILL}s"})
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x", headers=(b"X-Sidecar-Session-Id: drained",)))
        request = upstream.request()
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        with standing_still(sidecar):
            gate.open()
            upstream.wait_for(lambda: request.connection.sent)
        assert client.read_answer().body == b"yes"
    assert sidecar.wait() == 0
    span = sink.span(kind="SERVER", attributes={"session.id": "drained"})
    assert span.attributes["sidecar.outcome"] == "completed"


def test_a_session_is_not_quiet_while_nobody_listens(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """Its next request lay in the socket; its upstream gets it over a connection that is known to stand."""
    upstream.answer_always(answer(b"yes"))
    sidecar = start_sidecar(settings={"SESSION_IDLE": "4s", "POOL_IDLE": "60s"})
    request = request_bytes("GET", "/x", headers=(b"X-Sidecar-Session-Id: waits",))
    with RawClient(sidecar.port) as client:
        client.send(request)
        assert client.read_answer().status == 200
        with standing_still(sidecar, 6):
            client.send(request)
        assert client.read_answer().status == 200
    (session,) = sidecar.admin("GET", "/sessions")[1]["sessions"]
    assert session["requests"] == 2
    upstream.wait_for(lambda: upstream.connections[0].closed)
    assert [connection.requests for connection in upstream.connections] == [1, 1]
