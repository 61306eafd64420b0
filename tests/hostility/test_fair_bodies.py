"""A body is held and read without keeping others from their turn, whatever it holds and however many come at once."""

import gzip
import json
import threading
from collections.abc import Callable

import pytest

from sidecar.testing import Bytes, Header, OtlpSink, RunningSidecar, Status, exchange, request_bytes
from tests.hostility.books import Books
from tests.hostility.others import MEASURED, fair
from tests.hostility.witness import Witness

MIB = 1 << 20
SIZE = 8 * MIB
JSON = b"Content-Type: application/json"
GZIP = b"Content-Encoding: gzip"


@pytest.fixture(scope="module")
def launcher() -> tuple[str, ...]:
    """The turns of its event loop are measured."""
    return MEASURED


def filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    """A text of 8 MiB, most of it the same again and again."""
    return before + unit * ((SIZE - len(before) - len(after)) // len(unit)) + after


def said(begin: bytes, unit: bytes) -> bytes:
    """A chat request whose one message says that."""
    return filled(b'{"model":"m","messages":[{"role":"user","content":"' + begin, unit, b'"}]}')


def told(sink: OtlpSink, name: str, spans: int) -> list[object]:
    """An attribute of the CLIENT spans, which are so many."""
    sink.wait_for(lambda: len(sink.find_spans(kind="CLIENT")) == spans)
    return [span.attributes.get(name) for span in sink.find_spans(kind="CLIENT")]


BODIES: dict[str, Callable[[], bytes]] = {
    "a plain prompt": lambda: said(b"", b"word "),
    "a cut emoji": lambda: said(rb"\ud83d", b"word, "),
    "halves of pairs": lambda: said(b"", rb"\ud800"),
    "mixed messages": lambda: filled(b'{"model":"m","messages":[1', b",{}", b"]}"),
    "empty messages": lambda: filled(b'{"model":"m","messages":[{}', b",{}", b"]}"),
    "members": lambda: filled(b'{"model":"m"', b',"":0', b"}"),
}


@pytest.mark.parametrize("name", BODIES)
def test_requests(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str) -> None:
    """A request's body."""
    books = Books(sidecar, sink)
    sent = request_bytes("POST", "/v1/chat/completions", headers=[JSON], body=BODIES[name]())
    runs = fair(sidecar, lambda: exchange(sidecar.port, sent, timeout=60))
    assert books.outcomes() == ["completed"] * runs
    assert told(sink, "gen_ai.request.model", runs) == ["m"] * runs
    assert witness.taken()[0].endswith(sent[-1000:])


def test_a_compressed_request(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink) -> None:
    """A few bytes that are 8 MiB of empty messages."""
    books = Books(sidecar, sink)
    body = gzip.compress(BODIES["empty messages"]())
    sent = request_bytes("POST", "/v1/chat/completions", headers=[JSON, GZIP], body=body)
    runs = fair(sidecar, lambda: exchange(sidecar.port, sent, timeout=60))
    assert books.outcomes() == ["completed"] * runs
    assert told(sink, "gen_ai.request.model", runs) == ["m"] * runs


CROWDS: dict[str, tuple[list[bytes], Callable[[], bytes]]] = {
    "compressed": ([JSON, GZIP], lambda: gzip.compress(BODIES["mixed messages"]())),
    "many messages": ([JSON], lambda: b'{"model":"m","messages":[' + b"{}," * 40_000 + b"{}]}"),
}
"""Small enough that all of them come in one turn of the event loop."""


@pytest.mark.parametrize("name", CROWDS)
def test_several_at_once(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str) -> None:
    """Small bodies that take long to be read."""
    books = Books(sidecar, sink)
    headers, make = CROWDS[name]
    sent = request_bytes("POST", "/v1/chat/completions", headers=headers, body=make())

    def all_at_once() -> None:
        def one() -> None:
            assert exchange(sidecar.port, sent, timeout=60).status == 200

        clients = [threading.Thread(target=one) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    runs = fair(sidecar, all_at_once)
    assert books.outcomes() == ["completed"] * 6 * runs


_TRIES = 8
"""Answers until a connection has carried another: on a busy machine it may have waited for longer than one may."""

USAGE = b',"usage":{"prompt_tokens":7},"usageMetadata":{"promptTokenCount":7}}'
ANSWERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "choices": ("/v1/chat/completions", lambda: filled(b'{"choices":[1', b",{}", b"]" + USAGE)),
    "candidates": (
        "/v1beta/models/m:generateContent",
        lambda: filled(b'{"candidates":[1', b",{}", b"]" + USAGE),
    ),
    "vectors": ("/v1/embeddings", lambda: filled(b'{"data":[[0', b",-0.0123", b"]]" + USAGE)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str) -> None:
    """A whole answer: its tokens are told, and its connections carry the next request."""
    path, make = ANSWERS[name]
    body = make()
    witness.answer_with(
        lambda _: (Status(), Header(JSON), Header(b"Content-Length: %d" % len(body)), Bytes(body))
    )
    books = Books(sidecar, sink)
    sent = request_bytes("POST", path, headers=[JSON], body=json.dumps({"model": "m"}).encode())

    def one() -> None:
        exchange(sidecar.port, sent, timeout=60)
        # Its connection is free once what has passed is read, on a busy machine some time after its last byte.
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)

    runs, carried = fair(sidecar, one), False
    while not carried and runs < _TRIES:
        before = len(witness.taken())
        one()
        runs, carried = runs + 1, len(witness.taken()) == before
    assert carried
    assert books.outcomes() == ["completed"] * runs
    assert told(sink, "gen_ai.usage.input_tokens", runs) == [7] * runs
