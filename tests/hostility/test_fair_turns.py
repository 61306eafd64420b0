"""A peer that keeps the event loop busy does not keep it for itself."""

import gzip
from collections.abc import Iterator
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
    sse_head,
)
from tests.hostility.books import Books
from tests.hostility.others import fair
from tests.hostility.witness import Witness

EVENT = b"data: {}\n\n"
FLOOD = 6 << 20
"""Bytes of a flood: more than may wait to be read."""


class Flooding:
    """A script that says `piece` again and again."""

    def __init__(self, first: tuple[Step, ...], piece: bytes, last: bytes) -> None:
        self._first, self._piece, self._last = first, Garbage(piece), Garbage(last)
        self._times = FLOOD // len(piece)

    def __iter__(self) -> Iterator[Step]:
        """The steps."""
        yield ReadBody()
        yield from self._first
        for _ in range(self._times):
            yield self._piece
        yield self._last


def events(event: bytes) -> Flooding:
    """An event stream of the smallest events there are, and its end."""
    piece = event * (60_000 // len(event))
    last = b"\n\ndata: [DONE]\n\n"
    last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last)
    return Flooding((*sse_head(), Garbage(b"\r\n")), b"%x\r\n%b\r\n" % (len(piece), piece), last)


def hints() -> Flooding:
    """Interim answers."""
    last = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    return Flooding((), b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, last)


FLOODS = {
    "events": EVENT,
    "pings": b":\n\n",
    "named pings": b"event: ping\n\n",
    "line ends": b"x\r\r\n\n",
}


def take(sidecar: RunningSidecar) -> None:
    """Asks for a stream and takes it to its end."""
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True))
        tail = b""
        while not tail.endswith((b"0\r\n\r\n", b"ok")):
            tail = (tail + client.read_some())[-10:]


@pytest.mark.parametrize("name", FLOODS)
def test_others_are_served_meanwhile(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """An upstream says as much as it can, all of it costly to read: others wait for a turn, and it ends for none."""
    books = Books(sidecar, sink)
    witness.answer_with(lambda _: cast("Script", events(FLOODS[name])), path="/v1/chat/completions")
    fair(sidecar, lambda: take(sidecar))
    assert books.outcomes() == ["completed"] * 3
    for span in books.spans():
        assert span.attributes.get("sidecar.anomalies") in (None, ["answer_not_read"])


def test_interim_answers_without_number(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink) -> None:
    """They pass, and the answer after them."""
    books = Books(sidecar, sink)
    witness.answer_with(lambda _: cast("Script", hints()), path="/v1/chat/completions")
    take(sidecar)
    assert books.outcomes() == ["completed"]


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


def compressed(event: bytes, size: int) -> bytes:
    """So much of one event, and an end, by gzip."""
    return gzip.compress(event * (size // len(event)) + b"\n\ndata: [DONE]\n\n")


BOMBS = {
    "one event": (gzip.compress(b'data: {"a":"' + b"A" * (72 << 20) + b'"}\n\ndata: [DONE]\n\n'), None),
    "short lines": (compressed(b"x\n", 72 << 20), ["event_too_large"]),
    "pings": (compressed(b":\n\n", 72 << 20), ["answer_not_read"]),
    "events": (compressed(EVENT, 72 << 20), ["answer_not_read"]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_answer_that_expands(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """72 MiB out of less than 300 KB: others have their turns, the end is seen or said not to have been."""
    body, anomalies = BOMBS[name]
    fields = (
        b"Content-Type: text/event-stream",
        b"Content-Encoding: gzip",
        b"Content-Length: %d" % len(body),
    )
    script: list[Step] = [Status(), *map(Header, fields), Bytes(body)]
    witness.answer_with(lambda _: script, path="/v1/chat/completions")
    books = Books(sidecar, sink)
    fair(sidecar, lambda: exchange(sidecar.port, chat_request(stream=True)))
    assert books.outcomes() == ["completed"] * 3
    assert [span.attributes.get("sidecar.anomalies") for span in books.spans()] == [anomalies] * 3
