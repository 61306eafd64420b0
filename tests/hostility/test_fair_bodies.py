"""A body is held and read without keeping others from their turn, whatever it holds."""

import json

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, exchange, request_bytes
from tests.hostility.books import Books
from tests.hostility.others import fair
from tests.hostility.witness import Witness

MIB = 1 << 20
JSON = b"Content-Type: application/json"


def prompt(text: str) -> bytes:
    """A chat request with such a prompt."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


BODIES = {"a plain prompt": lambda: prompt("word " * (8 * MIB // 5 - 20))}


@pytest.mark.parametrize("name", BODIES)
def test_requests(sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str) -> None:
    """A request's body."""
    books = Books(sidecar, sink)
    sent = request_bytes("POST", "/v1/chat/completions", headers=[JSON], body=BODIES[name]())
    fair(sidecar, lambda: exchange(sidecar.port, sent, timeout=60))
    assert books.outcomes() == ["completed"] * 3
