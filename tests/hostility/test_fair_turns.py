"""A peer that keeps the event loop busy does not keep it for itself."""

import gzip
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from sidecar.testing import (
    Bytes,
    Garbage,
    Header,
    OtlpSink,
    RawClient,
    ReadBody,
    RunningSidecar,
    Script,
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
FLOOD = 32 << 20
"""Bytes of a flood that may pass until three others have been served: a hundred reads of it, of 256 KiB at most."""


class Flooding:
    """A script that says `piece` again and again, until there has been `enough`."""

    def __init__(self, first: tuple[Step, ...], piece: bytes, last: bytes) -> None:
        self._first, self._piece, self._last = first, Garbage(piece), Garbage(last)
        self.enough = threading.Event()

    def __iter__(self) -> Iterator[Step]:
        """The steps."""
        yield ReadBody()
        yield from self._first
        while not self.enough.is_set():
            yield self._piece
        yield self._last


def events() -> Flooding:
    """An event stream of the smallest events there are; nothing in it says that it has ended well."""
    return Flooding((*sse_head(), Garbage(b"\r\n")), b"%x\r\n%b\r\n" % (len(PIECE), PIECE), b"0\r\n\r\n")


def hints() -> Flooding:
    """Interim answers."""
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    return Flooding((), b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, last)


@pytest.mark.parametrize("flood,outcome", [(events, "upstream_failed"), (hints, "completed")])
def test_others_are_served_meanwhile(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, flood: Callable[[], Flooding], outcome: str
) -> None:
    """An upstream says as much as it can, all of it costly to read: others wait for a turn, and it ends for none."""
    books = Books(sidecar, sink)
    flooding = flood()
    witness.answer_with(lambda _: cast("Script", flooding), path="/v1/chat/completions")
    taken = 0
    with RawClient(sidecar.port) as client:

        def take() -> None:
            nonlocal taken
            tail = b""
            while not tail.endswith((b"0\r\n\r\n", b"ok")):
                data = client.read_some()
                taken += len(data)
                tail = (tail + data)[-10:]

        client.send(chat_request(stream=True))
        client.read_until(b"\r\n\r\n")
        taking = threading.Thread(target=take)
        taking.start()
        try:
            before = taken
            for number in range(3):
                assert exchange(sidecar.port, request_bytes("GET", f"/{number}"), timeout=60).status == 200
            assert taken - before < FLOOD
        finally:
            flooding.enough.set()
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
