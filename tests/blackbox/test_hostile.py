"""Attacks on the relay: what tries to smuggle, to hang, to exhaust or to mislead it, over plain sockets."""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

from sidecar.testing import (
    Chunk,
    End,
    Flood,
    Garbage,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Status,
    Wait,
    answer,
    chat_request,
    exchange,
    request_bytes,
)

TIMEOUT = 30.0
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def own(session: str) -> bytes:
    """The header line that names a session."""
    return b"X-Sidecar-Session-Id: " + session.encode()


def grown(sidecar: RunningSidecar, before: int) -> int:
    """How many MiB the process has grown since it had `before` bytes."""
    return (memory(sidecar) - before) >> 20


def memory(sidecar: RunningSidecar) -> int:
    """What the process holds in memory (bytes)."""
    resident: int = psutil.Process(sidecar.pid).memory_info().rss
    return resident


# --- smuggling


@pytest.mark.parametrize("kind", ["length", "chunks", "JSON"])
def test_a_body_behind_an_upgrade_is_a_body(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, kind: str
) -> None:
    """`Upgrade: h2c` with a body, as Java's client sends it: passed on with it, and never read as a request."""
    lines = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
    if kind == "chunks":
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)
        request = request_bytes("POST", "/v1/x", headers=(*lines, CHUNKED)) + body
    else:
        request = request_bytes(
            "POST", "/v1/x", headers=(*lines, JSON)[: 4 if kind == "JSON" else 3], body=INNER
        )
    with RawClient(sidecar.port) as client:
        client.send(request + request_bytes("GET", "/after"))
        assert client.read_answer("POST").body == INNER
        assert client.read_answer().status == 200
    assert [request.path for request in upstream.requests] == ["/v1/x", "/after"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: h\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_would_change_its_meaning_is_refused(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, data: bytes
) -> None:
    """Versions and codings that the parser lets through, and that could only be passed on as something else."""
    with RawClient(sidecar.port) as client:
        client.send(data)
        assert client.read_answer().status == 400
        assert client.is_closed()
    assert upstream.requests == []


def test_a_length_with_a_tab_is_a_length(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """`Content-Length: 5<tab>`: never a length and chunks at once."""
    upstream.answer(Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 5\t\r\n\r\nabcde"))
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert (said.body, said.get("transfer-encoding")) == (b"abcde", None)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 099 Odd\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_answers_that_cannot_be_passed_truly(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, data: bytes
) -> None:
    """Codings that this hop would lose, and no status: a whole 502, and not a byte of the answer's body before it."""
    upstream.answer(Garbage(data), End())
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert said.start_line == b"HTTP/1.1 502 Bad Gateway"


@pytest.mark.parametrize(
    "number,data",
    list(
        enumerate(
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcgarbage",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\ngarbage",
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
            )
        )
    ),
)
def test_garbage_behind_an_answer_spoils_nothing(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, number: int, data: bytes
) -> None:
    """In the same read as the answer's end: the answer is whole, the client's connection lives on."""
    upstream.answer(Garbage(data))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x", headers=(own(f"garbage-{number}"),)))
        assert client.read_answer().body in {b"abc", b""}
        client.send(request_bytes("GET", "/y"))
        assert client.read_answer().status == 200
    span = sink.span(kind="SERVER", attributes={"session.id": f"garbage-{number}"})
    assert span.attributes["sidecar.outcome"] == "completed"


def test_trailers_carry_nothing_that_heads_may_not(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Our own headers and the caller's trace context do not slip through behind a body."""
    trailers = (b"X-Sidecar-Request-Id: fake", b"X-Stays: 1")
    upstream.answer(Status(), Header(CHUNKED), Chunk(b"a"), LastChunk(trailers))
    rest = b"X-Sidecar-Session-Id: s\r\nbaggage: a=b\r\ntraceparent: x\r\nHost: evil\r\nX-Stays: 2\r\n\r\n"
    body = b"1\r\na\r\n0\r\n" + rest
    said = exchange(sidecar.port, request_bytes("POST", "/x", headers=(CHUNKED,)) + body)
    assert said.trailers == [(b"X-Stays", b"1")]
    assert upstream.request().message.trailers == [(b"X-Stays", b"2")]


# --- hanging


def test_a_pipelined_body_may_come_later(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Reading goes on when it is the turn of a request whose body has not all come."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"1"), path="/first")
    second = chat_request(headers=(own("pipelined-body"),))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first") + second[:-10])
        upstream.request()
        client.send(second[-10:])
        gate.open()
        assert client.read_answer().body == b"1"
        assert client.read_answer("POST").status == 200


class RudeServer:
    """A server that greets every connection as it was told last, and closes it at once."""

    def __init__(self) -> None:
        self.greet: Callable[[socket.socket], None] = lambda _: None
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.port: int = self._server.getsockname()[1]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.greet(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()


@pytest.fixture(scope="module")
def rude_server() -> Iterator[RudeServer]:
    """The server that is rude."""
    with RudeServer() as server:
        yield server


@pytest.fixture(scope="module")
def before_rude(rude_server: RudeServer) -> Iterator[RunningSidecar]:
    """A sidecar in front of it."""
    with RunningSidecar(upstream=f"http://127.0.0.1:{rude_server.port}") as running:
        yield running


def settled(sidecar: RunningSidecar) -> Counter[str]:
    """How many requests have ended, by outcome."""
    return Counter(sidecar.stats()["requests"]["outcomes"])


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "greet", [lambda _: None, _reset, lambda one: one.sendall(b"banner\r\n")], ids=["end", "reset", "banner"]
)
def test_an_upstream_that_hangs_up_at_once(
    before_rude: RunningSidecar, rude_server: RudeServer, greet: Callable[[socket.socket], None]
) -> None:
    """Before the connection is in use: always a 502, never a wait, never an internal error."""
    rude_server.greet = greet
    before = settled(before_rude)
    with RawClient(before_rude.port) as client:
        for _ in range(100):
            client.send(request_bytes("GET", "/x"))
            assert client.read_answer().status == 502
    assert settled(before_rude) - before == {"upstream_failed": 100}


@pytest.mark.parametrize("ends", [True, False], ids=["ends its side", "says that it closes"])
@pytest.mark.parametrize("length", [27, 300_000], ids=["small", "large"])
def test_an_upstream_that_answers_before_it_is_asked(
    before_rude: RunningSidecar, rude_server: RudeServer, length: int, *, ends: bool
) -> None:
    """A busy server says so as soon as a connection stands; whoever calls it directly reads that as the answer."""
    body = b'{"error":{"code":"tokens"}}'.ljust(length)

    def refuse(connection: socket.socket) -> None:
        says = b"" if ends else b"Connection: close\r\n"
        connection.sendall(b"HTTP/1.1 503 Busy\r\n%bContent-Length: %d\r\n\r\n%b" % (says, length, body))
        if ends:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(TIMEOUT)
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass

    rude_server.greet = refuse
    before = settled(before_rude)
    with RawClient(before_rude.port) as client:
        for _ in range(5):
            client.send(chat_request())
            said = client.read_answer("POST")
            assert (said.status, said.body) == (503, body)
    assert settled(before_rude) - before == {"upstream_rejected": 5}


def test_expect_without_go_ahead_closes(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """Refused before it was told to go on: whether its body will follow, nobody knows, so nothing is read as one."""
    sidecar = start_sidecar(settings={"UPSTREAM": "", "UPSTREAMS": f"a={upstream.url}"}, upstream=None)
    fields = (b"Expect: 100-continue", b"Content-Length: 40")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/nope", headers=fields))
        said = client.read_answer("POST")
    assert (said.status, said.get("connection")) == (404, b"close")
    assert exchange(sidecar.port, request_bytes("OPTIONS", "*")).status == 404


# --- exhausting


def test_answers_do_not_pile_up(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """A thousand pipelined requests of a client that reads nothing: its turns come as it takes answers."""
    upstream.answer_always(answer(b"y" * 200_000), path="/big")
    before = memory(sidecar)
    with RawClient(sidecar.port, receive_buffer=4096) as client, RawClient(sidecar.port) as other:
        client.send(request_bytes("GET", "/big") * 1000)
        upstream.wait_for(lambda: len(upstream.requests) > 2)
        for _ in range(100):
            other.send(request_bytes("GET", "/small"))
            other.read_answer()
        assert sum(request.path == "/big" for request in upstream.requests) < 100
        assert grown(sidecar, before) < 50
        for _ in range(30):
            assert len(client.read_answer().body) == 200_000


def test_trailers_without_end(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """A trailer field that never ends is bounded as the head is, from either side."""
    before = memory(sidecar)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(CHUNKED,)) + b"1\r\na\r\n0\r\nX: ")
        with suppress(OSError):
            for _ in range(1000):
                client.send(b"y" * 65536)
    upstream.answer(Status(), Header(CHUNKED), Chunk(b"a"), Garbage(b"0\r\nX: "), Flood(64 << 20))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        with pytest.raises(EOFError):
            client.read_answer()
    assert grown(sidecar, before) < 40


def test_inspect_memory_comes_back(start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Whatever way requests end, a body that needs most of `INSPECT_MEMORY` can be read after them."""
    prompt = "x" * 300_000
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}).encode()
    sidecar = start_sidecar(settings={"INSPECT_MEMORY": str(len(body) * 5 // 2), "CLIENT_BODY_TIMEOUT": "2s"})

    def chat(session: str) -> bytes:
        fields = (JSON, own(session))
        return request_bytes("POST", "/v1/chat/completions", headers=fields, body=body)

    gate = Gate()
    upstream.answer(Wait(gate))
    with RawClient(sidecar.port) as late, RawClient(sidecar.port) as leaves:
        late.send(chat("late")[:-9])
        assert late.read_answer("POST").status == 408
        leaves.send(chat("leaves"))
        upstream.request()
    gate.open()
    bad = chat("bad")[:2000].replace(b"Content-Length: %d" % len(body), CHUNKED)
    assert exchange(sidecar.port, bad).status == 400
    sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert exchange(sidecar.port, chat("whole")).status == 200
    assert (
        sink.span(kind="CLIENT", attributes={"session.id": "whole"}).attributes["gen_ai.request.model"]
        == "gpt-4o"
    )


# --- endings


def _read_all(client: RawClient, size: int, slow: Callable[[], object]) -> int:
    """Takes an answer of `size` bytes, does `slow` just before its end, and gives how much came."""
    taken = 0
    while taken < size - 500_000:
        taken += len(client.read_some())
    slow()
    while data := client.read_some():
        taken += len(data)
    return taken


def test_the_drain_waits_for_slow_readers(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """An answer that was handed to the transport is not whole until the client has it."""
    size = 8 << 20
    upstream.answer(Status(), Header(b"Content-Length: %d" % size), Flood(size))
    sidecar = start_sidecar()

    def terminate() -> None:
        sidecar.signal(15)
        sidecar.wait_log("sidecar.draining")

    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(request_bytes("GET", "/x"))
        client.read_until(b"\r\n\r\n")
        assert _read_all(client, size, terminate) == size
    assert sidecar.wait() == 0


def test_a_late_half_close_loses_nothing(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Once the answer has ended a client may end its side: the rest still reaches it."""
    size = 8 << 20
    upstream.answer(Status(), Header(b"Content-Length: %d" % size), Flood(size))
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(request_bytes("GET", "/x", headers=(b"Connection: close",)))
        client.read_until(b"\r\n\r\n")

        def leave() -> None:
            if sidecar.stats()["requests"]["in_flight"] == 0:
                client.half_close()

        assert _read_all(client, size, leave) == size


def test_pipelined_requests_of_a_drain_are_refused(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """The one under way ends well; those behind it were not left by their client."""
    gate = Gate()
    upstream.answer(Wait(gate), answer(b"1"), path="/first")
    sidecar = start_sidecar()
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first") + request_bytes("GET", "/second") * 2)
        upstream.request()
        sidecar.signal(15)
        sidecar.wait_log("sidecar.draining")
        gate.open()
        assert client.read_answer().body == b"1"
        assert client.is_closed()
    assert sidecar.wait() == 0
    failed = sidecar.find_logs("sidecar.request.failed")
    assert [line["sidecar.outcome"] for line in failed] == ["refused", "refused"]
