"""Answers that break off: what has passed reaches a client that is slow, and no client takes it for the whole."""

import signal
import threading
from typing import Any

import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    Connection,
    End,
    Garbage,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    RawClient,
    ReadBody,
    Reset,
    RunningSidecar,
    Status,
    Step,
    Wait,
    answer,
    request_bytes,
)
from tests.hostility.books import SPANS_SOON, Books
from tests.hostility.witness import Turns, Witness, turns_of

CHUNKED = b"Transfer-Encoding: chunked"
OLD = b"GET /x HTTP/1.0\r\n\r\n"
LATE = 3.0
"""Seconds after which a slow client reads: more than what a client that takes nothing gets."""


def late() -> None:
    """Time goes by."""
    threading.Event().wait(LATE)


def standing(connection: Connection, turns: Turns) -> None:
    """Returns once the upstream can say no more, as the client takes nothing."""
    sent, since = -1, 0
    while since < 50:
        turns.wait()
        since = since + 1 if connection.sent == sent else 0
        sent = connection.sent


def read_to_reset(client: RawClient) -> bytes:
    """What comes before the connection is reset."""
    with pytest.raises(ConnectionResetError):
        client.read_to_end()
    return client.received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("how", [End(), Reset()], ids=["end", "reset"])
def test_whoever_knows_no_other_end_is_reset(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, how: Step
) -> None:
    """A client of HTTP/1.0 has neither length nor chunks: the connection's orderly end would be the answer's."""
    books = Books(sidecar, sink)
    witness.answer(Status(), Header(CHUNKED), Chunk(b"half"), how)
    with RawClient(sidecar.port) as client:
        client.send(OLD)
        assert read_to_reset(client) == b"half"
    assert books.outcomes() == ["upstream_failed"]


def test_what_passed_arrives_before_the_reset(sidecar: RunningSidecar, witness: Witness) -> None:
    """A reset throws away what the system still keeps: it waits until a slow client has taken that."""
    body = b"x" * 1_000_000
    witness.answer(Status(), Header(CHUNKED), Chunk(body), End())
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(OLD)
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
        late()
        assert read_to_reset(client) == body


def test_a_whole_answer_ends_in_order(sidecar: RunningSidecar, witness: Witness) -> None:
    """Also where its client is slow."""
    body = b"x" * 5_000_000
    witness.answer(Status(), Header(CHUNKED), Bytes(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)))
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(OLD)
        client.read_until(b"\r\n\r\n")
        late()
        assert client.read_to_end() == body


@pytest.mark.parametrize("signals", [1, 2], ids=["drain", "at once"])
def test_the_end_of_the_process_is_no_end(start_sidecar: Any, witness: Witness, signals: int) -> None:
    """Neither that of the drain, nor one that waits for nothing."""
    witness.answer(Status(), Header(CHUNKED), Chunk(b"half"), Wait(Gate()))
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": "2s"})
    with RawClient(sidecar.port) as client:
        client.send(OLD)
        client.read_until(b"half")
        for _ in range(signals):
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_log("sidecar.draining")
        assert read_to_reset(client) == b"half"
        sidecar.wait()


def test_a_slow_client_gets_all_that_has_passed(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, turns: Turns
) -> None:
    """Of an answer that is cut off while its client takes nothing, all that was read of it still arrives."""
    books = Books(sidecar, sink)
    piece = b"x" * 65_536
    witness.answer(ReadBody(0), Status(), Header(CHUNKED), *[Chunk(piece)] * 400, Wait(Gate()))
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(request_bytes("POST", "/x", headers=(CHUNKED,)) + b"1\r\na\r\n")
        client.read_until(piece)
        standing(witness.head().connection, turns)
        client.send(b"no size\r\n")
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
        late()
        got = client.read_to_end()
        assert not got.endswith(b"\r\n0\r\n\r\n")
    assert books.outcomes() == ["client_left"]
    (span,) = books.spans()
    assert client.received.count(b"x") == span.attributes["http.response.body.size"]


# --- a drain that finds no request under way


@pytest.mark.parametrize("last", [b"", b"no size\r\n"], ids=["unfinished", "broken"])
def test_a_drain_lets_a_client_read_its_answer(start_sidecar: Any, witness: Witness, last: bytes) -> None:
    """What it still sends is read meanwhile, so that no reset takes the answer away."""
    sidecar = start_sidecar()
    witness.answer(ReadBody(0), answer(b"no", status=413, reason=b"No"))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(CHUNKED,)) + b"1\r\na\r\n")
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["settled"] == 1)
        client.send(last)
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        client.send(b"a0000\r\n" + b"x" * 0xA0000 + b"\r\n0\r\n\r\n")
        assert client.read_answer("POST").status == 413
        assert client.read_to_end() == b""
    assert sidecar.wait() == 0


MANY = 200
"""Requests whose answers are more than two systems keep."""


def test_a_drain_tells_requests_that_wait(start_sidecar: Any, witness: Witness) -> None:
    """The first of those that wait until their client takes the answers before is told, as a new one would be."""
    sidecar = start_sidecar()
    # In one write, so that no answer is under way when its client takes no more.
    witness.answer_always(Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000))
    with RawClient(sidecar.port, receive_buffer=4096) as client, turns_of(sidecar) as turns:
        client.send(request_bytes("GET", "/x") * MANY)
        settled, since = -1, 0
        while since < 50:
            turns.wait()
            before, settled = settled, sidecar.stats()["requests"]["settled"]
            since = since + 1 if settled == before else 0
        assert (settled < MANY, sidecar.stats()["requests"]["in_flight"]) == (True, 0)
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        assert [client.read_answer().status for _ in range(settled)] == [200] * settled
        said = client.read_answer()
        assert (said.status, said.get("connection")) == (503, b"close")
        assert client.read_to_end() == b""
    assert sidecar.wait() == 0


def test_a_request_behind_an_answer_that_told_no_close(
    start_sidecar: Any, witness: Witness, sink: OtlpSink
) -> None:
    """Its client may count on an answer: the first of those gets the 503, and none of them goes on."""
    sidecar, gate = start_sidecar(environ=SPANS_SOON), Gate()
    witness.answer(Status(), Header(CHUNKED), Chunk(b"half"), Wait(gate), LastChunk())
    sink.clear()
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x") + request_bytes("GET", "/behind") * 3)
        client.read_until(b"half")
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        gate.open()
        client.read_until(b"\r\n0\r\n\r\n")
        said = client.read_answer()
        assert (said.status, said.get("connection")) == (503, b"close")
        assert client.read_to_end() == b""
    assert sidecar.wait() == 0
    assert [request.path for request in witness.requests] == ["/x"]
    ends = [str(span.attributes["sidecar.outcome"]) for span in sink.find_spans(kind="SERVER")]
    assert sorted(ends) == ["completed"] + ["refused"] * 3


def test_an_answer_is_not_lost_by_what_waits_behind_it(start_sidecar: Any, witness: Witness) -> None:
    """More than is read ahead: a connection that is closed on unread bytes is reset, and that throws away what has not arrived."""
    sidecar, gate, body = start_sidecar(), Gate(), b"x" * 1_000_000
    witness.answer(Wait(gate), *answer(body))
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send_what_fits(request_bytes("GET", "/x") + request_bytes("GET", "/behind") * 20_000)
        witness.request()
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        gate.open()
        said = client.read_answer()
        assert (said.body, said.get("connection")) == (body, b"close")
        assert client.read_to_end() == b""
    assert sidecar.wait() == 0
    assert [request.path for request in witness.requests] == ["/x"]
