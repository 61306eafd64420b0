"""What peers choose the number of costs the others no more than a turn: requests read ahead, connections, sessions."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sidecar.testing import (
    Gate,
    OtlpSink,
    RawClient,
    RunningSidecar,
    Wait,
    answer,
    exchange,
    request_bytes,
)
from tests.hostility.books import Books
from tests.hostility.others import FAIR, MEASURED, fair
from tests.hostility.witness import Witness

TINY = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
MANY = 5000


@pytest.fixture(scope="module")
def launcher() -> tuple[str, ...]:
    """The turns of its event loop are measured."""
    return MEASURED


@pytest.fixture
def gate(witness: Witness) -> Iterator[Gate]:
    """Holds the answer to `/first` back; opened at the end at the latest."""
    gate = Gate()
    witness.answer_always(Wait(gate), answer(b"first"), path="/first")
    yield gate
    gate.open()


def settle(sidecar: RunningSidecar) -> None:
    """Waits until nothing is under way and nothing has been begun for some asks: what was left settles bit by bit."""
    seen: list[int] = []

    def calm() -> bool:
        requests = sidecar.stats()["requests"]
        assert requests["started"] == requests["settled"] + requests["in_flight"]
        seen.append(requests["started"])
        return requests["in_flight"] == 0 and seen[-10:] == [seen[-1]] * 10

    sidecar.wait_until(calm)


LEAVING = {"reset": RawClient.reset, "close": RawClient.close, "half-close": RawClient.half_close}


@pytest.mark.parametrize("leave", LEAVING)
def test_a_departure_with_thousands_behind_it(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, gate: Gate, leave: str
) -> None:
    """Few have been begun, and all of these are settled."""
    books = Books(sidecar, sink)

    def pile() -> None:
        with RawClient(sidecar.port) as client:
            client.send(request_bytes("GET", "/first"))
            sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 1)
            client.send_what_fits(TINY * MANY)
            LEAVING[leave](client)
        settle(sidecar)

    runs = fair(sidecar, pile)
    outcomes = books.outcomes()
    assert set(outcomes) == {"client_left"}
    assert runs <= len(outcomes) <= runs * (1 + 64 + 1)  # under way, read ahead, begun


def test_many_departures_at_once(sidecar: RunningSidecar, gate: Gate) -> None:
    """Thirty of them, in one turn of the loop; those that had been begun settle bit by bit."""

    def crowd() -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(30)]
            for client in clients:
                client.send(request_bytes("GET", "/first") + TINY * 60)
            sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 30)
            for client in clients:
                client.reset()
        settle(sidecar)

    fair(sidecar, crowd, most=3 * FAIR)
    sidecar.wait_until(lambda: sidecar.stats()["telemetry"]["traces"]["queued"] == 0)


def test_pipelined_requests_are_all_answered_in_order(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """However many there are, and wherever reads and bodies fall."""
    books = Books(sidecar, sink)
    body = b"\r\n\r\nHTTP/1.1" * 40
    sent = [
        request_bytes("POST", f"/{number}", body=body if number % 3 else b"") if number % 2 else TINY
        for number in range(300)
    ]
    witness.answer_always(answer(b"ok"))
    with RawClient(sidecar.port, timeout=30) as client:
        client.send(b"".join(sent))
        for _ in sent:
            assert client.read_answer().body == b"ok"
    assert books.outcomes() == ["completed"] * len(sent)
    posts = [one for one in witness.requests if one.method == "POST"]
    assert [one.path for one in posts] == [f"/{number}" for number in range(1, 300, 2)]
    assert [bytes(one.body) for one in posts] == [body if number % 3 else b"" for number in range(1, 300, 2)]


def test_what_is_read_ahead_is_bounded(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, gate: Gate
) -> None:
    """While the first one waits, the others wait with their client, most of them unread."""
    books = Books(sidecar, sink)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first"))
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 1)
        client.send(TINY * 1000)
        exchange(sidecar.port, request_bytes("GET", "/other"))
        gate.open()
        assert client.read_answer().body == b"first"
        for _ in range(1000):
            assert client.read_answer().status == 200
    assert books.outcomes() == ["completed"] * 1002


CHUNKED = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: upgrade", b"Upgrade: h2c")
DEAR: dict[str, tuple[tuple[bytes, ...], bytes, bytes]] = {
    "chunks of a byte": ((CHUNKED,), b"1\r\nx\r\n", b"0\r\n\r\n"),
    "chunks with extensions": ((CHUNKED,), b"1;a\r\nx\r\n", b"0\r\n\r\n"),
    "chunks of sixteen": ((CHUNKED,), b"10\r\n0123456789abcdef\r\n", b"0\r\n\r\n"),
    "behind an upgrade": ((CHUNKED, *UPGRADE), b"1\r\nx\r\n", b"0\r\n\r\n"),
    "empty lines": ((b"Content-Length: 0",), b"\r\n", b""),
}
"""Requests' fields, and what is dear to parse: a unit of it, and its end."""

CROWD = 8
WIRE = 512 * 1024


@pytest.mark.parametrize("field", [b"Content-Type: application/json", b"X-A: 1"], ids=["held", "streamed"])
@pytest.mark.parametrize("name", DEAR)
def test_requests_that_are_dear_to_parse(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str, field: bytes
) -> None:
    """Some at once: of a read a little is parsed in its turn, the rest bit by bit; every byte goes on, and all settle."""
    fields, unit, last = DEAR[name]
    books = Books(sidecar, sink)
    units = WIRE // len(unit)
    sent = request_bytes("POST", "/v1/x", headers=(field, *fields)) + unit * units + last

    def one() -> None:
        with RawClient(sidecar.port, timeout=60) as client:
            client.send(sent)
            assert client.read_answer("POST").status == 200

    def crowd() -> None:
        clients = [threading.Thread(target=one) for _ in range(CROWD)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    runs = fair(sidecar, crowd)
    assert books.outcomes() == ["completed"] * runs * CROWD
    body = b"".join(unit.split(b"\r\n")[1:]) * units if last else b""
    assert {bytes(one.body) for one in witness.requests} == {body}


def test_a_drain_with_many_connections_and_sessions(start_sidecar: Any, sink: OtlpSink) -> None:
    """Thousands of sessions end while the admin port still answers; every one is told."""
    environ = {"OTEL_METRICS_EXPORTER": "none", "OTEL_BSP_MAX_QUEUE_SIZE": "100000"}
    sidecar = start_sidecar(environ=environ)
    with ExitStack() as stack:
        for _ in range(200):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", sidecar.port)))
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with RawClient(sidecar.port, timeout=60) as client:
            for number in range(500):
                named = b"X-Sidecar-Session-Id: crowd-%d" % number
                client.send(request_bytes("GET", "/x", headers=(named,)))
                assert client.read_answer().status == 200
        assert sidecar.stop() == 0
    assert len({span.attributes["session.id"] for span in sink.find_spans(name="session")}) == 500
