"""Peers that are slow, leave halfway, answer too early, or hang up as their connection is used again."""

import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidecar.testing import (
    Chunk,
    End,
    Garbage,
    Gate,
    Header,
    HoldReading,
    LastChunk,
    OtlpSink,
    Pause,
    RawClient,
    ReadBody,
    ResumeReading,
    RunningSidecar,
    Status,
    Wait,
    answer,
    exchange,
    request_bytes,
)
from tests.hostility.books import SPANS_SOON, Books
from tests.hostility.strict import read_strictly
from tests.hostility.witness import Turns, Witness, turns_of
from tests.pace import promptly

JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
Leave = Callable[[RawClient], Any]
WAYS: list[tuple[str, Leave]] = [
    ("close", RawClient.close),
    ("reset", RawClient.reset),
    ("half-close", RawClient.half_close),
]


# --- slow


class Dribbling(RawClient):
    """A client that makes pauses."""

    def pause(self, seconds: float) -> bool:
        """Waits so long for an answer; tells if it has begun."""
        return bool(select.select([self._socket], [], [], seconds)[0])


@pytest.fixture(scope="module")
def hasty(module_upstream: Witness, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that waits for a client for 0.3 s."""
    settings = {"CLIENT_HEAD_TIMEOUT": "0.3s", "CLIENT_BODY_TIMEOUT": "0.3s"}
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings=settings, environ=SPANS_SOON
    ) as running:
        yield running


@pytest.fixture(scope="module")
def patient(module_upstream: Witness, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that waits for a client for 2 s, which no pause of a dribbling one exceeds on a busy machine."""
    settings = {"CLIENT_BODY_TIMEOUT": "2s"}
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings=settings, environ=SPANS_SOON
    ) as running:
        yield running


def timed_out(books: Books) -> tuple[list[str], list[object]]:
    """The outcomes, and what their spans call the error."""
    return books.outcomes(), [span.attributes.get("error.type") for span in books.spans()]


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: "], ids=["start line", "field"])
def test_slowloris(hasty: RunningSidecar, witness: Witness, sink: OtlpSink, begun: bytes) -> None:
    """A head that never stops coming has its time from its first byte on; meanwhile others are served."""
    books = Books(hasty, sink)
    with turns_of(hasty) as turns, RawClient(hasty.port) as client:
        client.send(begun or b"GET /")
        for _ in range(10):
            turns.send(client, [b"a"])
        assert exchange(hasty.port, request_bytes("GET", "/other")).status == 200
        while len(books.outcomes()) < 2:
            turns.send(client, [b"a"])
        assert client.read_answer().status == 408
        assert client.is_closed()
    assert timed_out(books) == (["completed", "timed_out"], [None, "timeout.client_head"])
    assert [one.path for one in witness.requests] == ["/other"]


@pytest.mark.parametrize("line,reached", [(JSON, 0), (b"X-A: 1", 1)], ids=["held", "streamed"])
def test_a_body_that_stops(
    hasty: RunningSidecar, witness: Witness, sink: OtlpSink, line: bytes, reached: int
) -> None:
    """408; of a body that is held nothing goes on, and one that streams ends without its end."""
    books = Books(hasty, sink)
    with RawClient(hasty.port) as client:
        client.send(request_bytes("POST", "/x", headers=(line, CHUNKED)) + b"3\r\nabc\r\n")
        assert client.read_answer("POST").status == 408
        assert client.is_closed()
    assert timed_out(books) == (["timed_out"], ["timeout.client_body"])
    witness.wait_for(witness.broken_off)
    assert [read_strictly(data)[0].whole for data in witness.taken()] == [False] * reached


FRAMES = {"chunks": (CHUNKED, b"1\r\na\r\n"), "length": (b"Content-Length: 100000", b"a")}


@pytest.mark.parametrize("line,reached", [(JSON, 0), (b"X-A: 1", 1)], ids=["held", "streamed"])
@pytest.mark.parametrize("framing", FRAMES)
def test_a_body_that_dribbles(
    patient: RunningSidecar, witness: Witness, sink: OtlpSink, line: bytes, reached: int, framing: str
) -> None:
    """A byte now and then, each in time, holds a place no longer than silence does."""
    books = Books(patient, sink)
    field, byte = FRAMES[framing]
    with turns_of(patient) as turns, Dribbling(patient.port) as client:
        client.send(request_bytes("POST", "/x", headers=(line, field)))
        end = time.monotonic() + 30
        while not client.pause(0.02):  # fifty bytes a second
            assert time.monotonic() < end, "it still holds its place"
            turns.send(client, [byte])
        assert client.read_answer("POST").status == 408
        assert client.is_closed()
    assert timed_out(books) == (["timed_out"], ["timeout.client_body"])
    witness.wait_for(witness.broken_off)
    assert [read_strictly(data)[0].whole for data in witness.taken()] == [False] * reached


@pytest.mark.parametrize("line", [JSON, b"X-A: 1"], ids=["held", "streamed"])
def test_a_slow_body_that_comes(
    patient: RunningSidecar, witness: Witness, sink: OtlpSink, line: bytes
) -> None:
    """It may take longer than the time-out, as long as it comes."""
    books = Books(patient, sink)
    with turns_of(patient) as turns, Dribbling(patient.port) as client:
        client.send(request_bytes("POST", "/x", headers=(line, CHUNKED)))
        end = time.monotonic() + 3
        while time.monotonic() < end:
            turns.send(client, [b"3e8\r\n%b\r\n" % (b" " * 1000)])
            assert not client.pause(0.02)
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert client.read_answer("POST").status == 200
    assert books.outcomes() == ["completed"]


@pytest.fixture(scope="module")
def slow(module_upstream: Witness, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that waits for a client for 0.3 s, and takes a tenth of a second for each read."""
    launcher = (sys.executable, str(Path(__file__).with_name("with_slow_reads.py")), "0.1")
    settings = {"CLIENT_BODY_TIMEOUT": "0.3s"}
    running = RunningSidecar(
        upstream=module_upstream.url,
        sink=module_sink,
        settings=settings,
        environ=SPANS_SOON,
        launcher=launcher,
    )
    with running as sidecar:
        yield sidecar


SENDERS = 5
BULK = 1 << 19
BULKS = {
    "chunks": (CHUNKED, b"10000\r\n%b\r\n" % (b" " * 0x10000) * 8 + b"2\r\n{}\r\n0\r\n\r\n"),
    "tiny chunks": (CHUNKED, b"1\r\n \r\n" * (BULK // 6) + b"2\r\n{}\r\n0\r\n\r\n"),
    "length": (b"Content-Length: %d" % BULK, b"{}".rjust(BULK)),
}


@pytest.mark.parametrize("line", [JSON, b"X-A: 1"], ids=["held", "streamed"])
@pytest.mark.parametrize("framing", BULKS)
def test_a_body_that_waits_to_be_read(
    slow: RunningSidecar, witness: Witness, sink: OtlpSink, line: bytes, framing: str
) -> None:
    """Clients that send as fast as they can are not slow, however long they wait for us; one that is silent is."""
    books = Books(slow, sink)
    field, body = BULKS[framing]
    statuses: list[int] = []

    def send(rest: bytes) -> None:
        with RawClient(slow.port, timeout=60) as client:
            client.send(request_bytes("POST", "/x", headers=(line, field)) + rest)
            statuses.append(client.read_answer("POST").status)

    clients = [threading.Thread(target=send, args=(body,)) for _ in range(SENDERS)]
    clients.append(threading.Thread(target=send, args=(b"1\r\n",)))
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert sorted(statuses) == [200] * SENDERS + [408]
    assert books.outcomes() == ["completed"] * SENDERS + ["timed_out"]


# --- answers


@pytest.fixture(scope="module")
def listening(module_upstream: Witness, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that waits for 2 s for an answer to go on, and for long for one to begin."""
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings={"IDLE_TIMEOUT": "2s"}, environ=SPANS_SOON
    ) as running:
        yield running


BEGUN = b"HTTP/1.1 200 OK\r\nContent-Le"


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["first", "after hints"])
def test_a_head_that_stops(
    listening: RunningSidecar, witness: Witness, sink: OtlpSink, before: bytes
) -> None:
    """An answer that has begun is given up after `IDLE_TIMEOUT`, also where it stops within its head."""
    books = Books(listening, sink)
    witness.answer(Garbage(before + BEGUN), Wait(Gate()))
    with RawClient(listening.port, timeout=30) as client:
        client.send(request_bytes("GET", "/x"))
        assert client.read_answer().status == 504
    assert timed_out(books) == (["timed_out"], ["timeout.idle"])


SLOWLY: dict[str, tuple[bytes, bytes, bytes]] = {
    "a head": (BEGUN, b"ngth: 2\r\nX: abcdef", b"\r\n\r\nok"),
    "a chunk's first line": (b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % CHUNKED, b"0000000000002;a=bcde", b"\r\nok\r\n0\r\n\r\n"),
    "trailers": (b"HTTP/1.1 200 OK\r\n%b\r\n\r\n2\r\nok\r\n0\r\n" % CHUNKED, b"X-Trailer: abcdefghi", b"\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", SLOWLY)
def test_an_answer_that_dribbles(
    listening: RunningSidecar, witness: Witness, sink: OtlpSink, what: str
) -> None:
    """Whoever is heard of is not silent, also where what it says does not pass yet."""
    books = Books(listening, sink)
    begin, middle, end = SLOWLY[what]
    pieces = [step for at in range(20) for step in (Garbage(middle[at : at + 1]), Pause(0.2))]
    witness.answer(Garbage(begin), *pieces, Garbage(end))
    assert exchange(listening.port, request_bytes("GET", "/x")).body == b"ok"
    assert books.outcomes() == ["completed"]


# --- uploads


def test_an_early_answer_ends_the_request_not_the_connection(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """The rest of the upload is thrown away, and the next request has a connection to itself upstream."""
    books = Books(sidecar, sink)
    witness.answer(ReadBody(0), answer(b"no", status=413, reason=b"No"), path="/early")
    rest = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    fields = (b"Content-Length: %d" % (3 + len(rest)),)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/early", headers=fields) + b"abc")
        assert client.read_answer("POST").status == 413
        client.send(rest + request_bytes("GET", "/next"))
        assert client.read_answer().body == b"ok"
    assert books.outcomes() == ["completed", "upstream_rejected"]
    assert [one.path for one in witness.requests] == ["/early", "/next"]
    first, second = witness.requests
    assert first.connection is not second.connection
    assert witness.closed(first).closed is not None
    assert len(first.body) <= 3


LAST = {
    "HTTP/1.0": b"POST /x HTTP/1.0\r\n",
    "close": b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
}


@pytest.mark.parametrize("how", LAST)
def test_an_early_answer_is_over_at_once(sidecar: RunningSidecar, witness: Witness, how: str) -> None:
    """Whoever reads to the connection's end need not send all of its upload for that, and still may."""
    witness.answer(ReadBody(0), Status(), Header(CHUNKED), Chunk(b"no"), LastChunk())
    with RawClient(sidecar.port) as client, turns_of(sidecar) as turns:
        client.send(LAST[how] + b"Content-Length: 10\r\n\r\nabc")
        client.read_until(b"no")
        with promptly(1, sidecar.pid):
            client.read_to_end()
        turns.send(client, [b"def", b"g"])
        client.send(b"hij")


def test_what_follows_an_early_answer_is_not_kept(sidecar: RunningSidecar, witness: Witness) -> None:
    """An upload that goes on and on is read and thrown away, until its connection is closed."""
    witness.answer(ReadBody(0), answer(b"no", status=413, reason=b"No"))
    process = psutil.Process(sidecar.pid)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(b"Content-Length: %d" % (1 << 40),)) + b"abc")
        assert client.read_answer("POST").status == 413
        before = process.memory_info().rss
        for _ in range(128):
            client.send(b"x" * (1 << 20))
        assert process.memory_info().rss - before < 32 << 20
        with pytest.raises(ConnectionError):  # noqa: PT012 - it may happen at any of them
            while True:
                client.send(b"x" * (1 << 20))


@pytest.mark.parametrize("name,leave", WAYS)
def test_an_upload_aborted_while_it_is_inspected(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, turns: Turns, name: str, leave: Leave
) -> None:
    """Nothing of it has gone on, and nothing does."""
    books = Books(sidecar, sink)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(JSON, b"Content-Length: 900")) + b'{"a":')
        turns.wait()
        leave(client)
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert books.outcomes() == ["client_left"]
    assert witness.taken() == []


@pytest.mark.parametrize("name,leave", WAYS)
def test_an_upload_aborted_while_the_upstream_takes_nothing(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str, leave: Leave
) -> None:
    """A reset is noticed though nothing is read of the client; an end, when what stands before it has been read.

    The upstream gets no whole request.
    """
    books = Books(sidecar, sink)
    gate = Gate()
    size = 64 << 20
    witness.answer(ReadBody(0), HoldReading(), Wait(gate), ResumeReading(), ReadBody())
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(b"Content-Length: %d" % size,)))
        witness.head()
        assert client.send_what_fits(b"x" * size) < size
        leave(client)
        if name != "reset":
            gate.open()
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert books.outcomes() == ["client_left"]
    gate.open()
    request = witness.requests[0]
    assert witness.closed(request).closed in {"eof", "reset"}
    assert not request.complete


# --- half-close


def test_a_half_close_of_an_idle_connection(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """It is closed, and nobody has left."""
    books = Books(sidecar, sink)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        assert client.read_answer().status == 200
        client.half_close()
        assert client.read_to_end() == b""
    with RawClient(sidecar.port) as client:
        client.half_close()
        assert client.read_to_end() == b""
    assert books.outcomes() == ["completed"]


@pytest.mark.parametrize("name,leave", WAYS)
def test_a_departure_with_requests_waiting(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, turns: Turns, name: str, leave: Leave
) -> None:
    """Those that were read ahead, and the one that has only begun, have left as well, each once."""
    books = Books(sidecar, sink)
    gate = Gate()
    witness.answer(Wait(gate), path="/first")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first"))
        witness.request()
        client.send(request_bytes("GET", "/second") * 2 + b"GET /half")
        turns.wait()
        leave(client)
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert books.outcomes() == ["client_left"] * 4
    gate.open()
    assert [one.path for one in witness.requests] == ["/first"]


# --- connections that die as they are used again


@contextmanager
def fleeting() -> Iterator[tuple[int, list[bytes]]]:
    """An upstream that answers once, and hangs up on whatever is asked next on the same connection.

    Gives its port, and all that it was asked.
    """
    asked: list[bytes] = []

    def hear(connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
            data += piece
        asked.extend([data.partition(b" HTTP/")[0]] if data else [])
        return bool(data)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if hear(connection):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        hear(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_connections_that_die_as_they_are_reused(module_sink: OtlpSink) -> None:
    """GET is asked again and answered, POST fails and is never asked again; each settles once."""
    rounds = 30
    with (
        fleeting() as (port, asked),
        RunningSidecar(upstream=f"http://127.0.0.1:{port}") as sidecar,
        RawClient(sidecar.port) as client,
    ):
        said = []
        for method in ("GET", "GET", "POST") * rounds:
            client.send(request_bytes(method, "/x", body=b"abc" if method == "POST" else None))
            said.append(client.read_answer(method).status)
        assert said == [200, 200, 502] * rounds
        assert asked == [b"GET /x", b"GET /x", b"GET /x", b"POST /x"] * rounds
        requests = sidecar.stats()["requests"]
        assert (requests["started"], requests["settled"]) == (3 * rounds, 3 * rounds)
        assert requests["outcomes"] == {"completed": 2 * rounds, "upstream_failed": rounds}


def test_a_second_try_that_gets_no_connection(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """It ends while it connects, whatever the dead connection had come to."""
    books = Books(sidecar, sink)
    assert exchange(sidecar.port, request_bytes("GET", "/x")).status == 200
    witness.answer(End())
    witness.refuse()
    try:
        assert exchange(sidecar.port, request_bytes("GET", "/again")).status == 502
    finally:
        witness.accept()
    assert books.outcomes() == ["completed", "upstream_failed"]
    (span,) = (span for span in books.spans() if span.attributes["url.path"] == "/again")
    assert span.attributes["sidecar.outcome.phase"] == "connect"
    assert span.attributes["error.type"] == "connection_refused"
    parts = [part.name for part in sink.find_spans(kind="INTERNAL") if part.trace_id == span.trace_id]
    assert parts == ["connect"]


# --- large heads


def test_a_thousand_fields(start_sidecar: Any, module_upstream: Witness) -> None:
    """Where they are allowed they pass in order, up and down."""
    module_upstream.clear()
    lines = [b"x-%d: %d" % (number % 700, number) for number in range(1000)]
    module_upstream.answer(answer(b"ok", headers=lines))
    sidecar = start_sidecar(settings={"HEAD_FIELDS": "1010"})
    said = exchange(sidecar.port, request_bytes("GET", "/x", headers=lines))
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    assert said.fields[:1000] == fields
    assert module_upstream.request().fields[1:1001] == fields
