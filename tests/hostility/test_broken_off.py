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
    Gate,
    Header,
    OtlpSink,
    RawClient,
    ReadBody,
    Reset,
    RunningSidecar,
    Status,
    Step,
    Wait,
    request_bytes,
)
from tests.hostility.books import Books
from tests.hostility.witness import Turns, Witness

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
