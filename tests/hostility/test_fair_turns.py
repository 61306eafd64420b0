"""A peer that keeps the event loop busy does not keep it for itself."""

import gzip
import threading

import pytest

from sidecar.testing import (
    Bytes,
    Garbage,
    Header,
    OtlpSink,
    RawClient,
    RunningSidecar,
    Status,
    Step,
    chat_request,
    exchange,
    request_bytes,
    sse_head,
)
from tests.hostility.books import Books
from tests.hostility.witness import Witness

EVENT = b"data: {}\n\n"
PIECE = EVENT * 6000
DENSE: tuple[Step, ...] = (
    *sse_head(),
    Garbage(b"\r\n"),
    *(Garbage(b"%x\r\n%b\r\n" % (len(PIECE), PIECE)) for _ in range(60)),
    Garbage(b"0\r\n\r\n"),
)
HINTS: tuple[Step, ...] = (
    *(Garbage(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000) for _ in range(100)),
    Garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
)


@pytest.mark.parametrize(
    "script,outcome",
    [(DENSE, "upstream_failed"), (HINTS, "completed")],
    ids=["events without an end of their own", "interim answers"],
)
def test_others_are_served_meanwhile(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, script: tuple[Step, ...], outcome: str
) -> None:
    """An upstream says as much as it can, all of it costly to read; others wait for a turn, not for its end."""
    books = Books(sidecar, sink)
    witness.answer(*script, path="/v1/chat/completions")
    ended = threading.Event()
    with RawClient(sidecar.port) as client:

        def take() -> None:
            tail = b""
            while not tail.endswith((b"0\r\n\r\n", b"ok")):
                tail = (tail + client.read_some())[-10:]
            ended.set()

        client.send(chat_request(stream=True))
        client.read_until(b"\r\n\r\n")
        taking = threading.Thread(target=take)
        taking.start()
        for number in range(3):
            assert exchange(sidecar.port, request_bytes("GET", f"/{number}")).status == 200
        assert not ended.is_set()
        taking.join()
    assert books.outcomes() == ["completed"] * 3 + [outcome]


def test_a_compressed_stream_of_countless_events(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """A few bytes that are a hundred thousand events: they pass, and are not all read."""
    body = gzip.compress(EVENT * 100_000 + b"data: [DONE]\n\n")
    fields = (
        b"Content-Type: text/event-stream",
        b"Content-Encoding: gzip",
        b"Content-Length: %d" % len(body),
    )
    witness.answer(Status(), *map(Header, fields), Bytes(body))
    books = Books(sidecar, sink)
    assert exchange(sidecar.port, chat_request(stream=True)).body == body
    assert books.outcomes() == ["completed"]
    assert books.spans()[0].attributes["sidecar.anomalies"] == ["answer_not_read"]
