"""Random messages survive byte for byte, and random damage never breaks the sidecar, its books, or anybody's framing."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.testing import End, Garbage, OtlpSink, RawClient, RunningSidecar, Step
from tests.hostility import answers, requests_bodies, requests_fields, requests_lines
from tests.hostility.books import Books
from tests.hostility.rows import request
from tests.hostility.strict import Sent, read_answers_strictly, read_strictly, without_id, without_ours
from tests.hostility.witness import Turns, Witness

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.!#$%&'*+^`|~", min_size=1, max_size=12)
VISIBLE = st.binary(max_size=20).map(lambda data: bytes(32 + byte % 95 for byte in data).strip())
FIELDS = st.lists(st.tuples(TOKEN.map(lambda name: b"X-" + name.encode()), VISIBLE), max_size=6)
BODY = st.binary(max_size=3000)
TARGET = st.binary(max_size=30).map(lambda data: b"/" + bytes(33 + byte % 94 for byte in data))
CUTS = st.lists(st.integers(0, 4000), max_size=6)
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Message:
    """A message to be sent in pieces, and how it must arrive."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    sizes: list[int]
    """Of its chunks; none: by length."""
    trailers: list[tuple[bytes, bytes]]
    cuts: list[int]

    def lines(self, *, host: bytes = b"") -> bytes:
        """Its head."""
        framing = b"Transfer-Encoding: chunked" if self.sizes else b"Content-Length: %d" % len(self.body)
        lines = [
            self.start,
            *([b"Host: " + host] if host else []),
            *(b"%b: %b" % one for one in self.fields),
            framing,
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def pieces(self, *, host: bytes = b"") -> list[bytes]:
        """All of it, cut."""
        data = self.lines(host=host)
        left = self.body
        for size in self.sizes:
            if left:
                data += b"%X;e=1\r\n%b\r\n" % (len(left[:size]), left[:size])
                left = left[size:]
        if self.sizes:
            data += b"%x\r\n%b\r\n" % (len(left), left) if left else b""
            data += b"0\r\n" + self.tail() + b"\r\n"
        else:
            data += left
        edges = sorted({0, len(data), *(at % len(data) for at in self.cuts)})
        return [data[start:end] for start, end in pairwise(edges)]

    def tail(self) -> bytes:
        """Its trailers."""
        return b"".join(b"%b: %b\r\n" % one for one in self.trailers) if self.sizes else b""

    def arrived(self, *, host: bytes = b"") -> Sent:
        """What must come of it."""
        return Sent(self.lines(host=host), self.body, self.tail())


def messages(start: st.SearchStrategy[bytes]) -> st.SearchStrategy[Message]:
    """Valid messages that begin with one of these lines."""
    sizes = st.lists(st.integers(1, 900), max_size=8)
    return st.builds(Message, start, FIELDS, BODY, sizes, FIELDS, CUTS)


REQUESTS = messages(
    st.builds(
        lambda method, target: b"%b %b HTTP/1.1" % (method, target),
        st.sampled_from([b"POST", b"PUT", b"PATCH"]),
        TARGET,
    )
)
ANSWERS = messages(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 299 ", b"HTTP/1.1 404 Not  Found", b"HTTP/1.1 503 X"])
)


@pytest.fixture(scope="module", autouse=True)
def alone(module_upstream: Witness) -> Iterator[None]:
    """A wrong script fails the module."""
    yield
    assert module_upstream.errors == []


@given(asked=REQUESTS, answered=ANSWERS, until_the_end=st.booleans())
@QUICK
def test_messages_survive(
    sidecar: RunningSidecar,
    module_upstream: Witness,
    module_sink: OtlpSink,
    asked: Message,
    answered: Message,
    until_the_end: bool,
) -> None:
    """Whatever their fields, bodies, chunks and pieces: the same comes out, up and down."""
    module_upstream.clear()
    books = Books(sidecar, module_sink)
    pieces = [Garbage(piece) for piece in answered.pieces()]
    module_upstream.answer(*pieces, *([End()] if until_the_end else []))
    with RawClient(sidecar.port) as client:
        for piece in asked.pieces(host=b"h"):
            client.send(piece)
        client.read_answer("POST")
        (said,) = read_answers_strictly(client.received, ["POST"])
    (got,) = (one for data in module_upstream.taken() for one in read_strictly(data))
    authority = module_upstream.authority.encode()
    assert Sent(without_ours(got.head, authority), got.payload, got.trailers) == asked.arrived(
        host=b"upstream"
    )
    assert Sent(without_id(said.head), said.payload, said.trailers) == answered.arrived()
    assert len(books.outcomes()) == 1


def damaged(data: bytes, seed: int) -> bytes:
    """The same with some bytes changed, taken away, doubled or put in."""
    dice = random.Random(seed)
    marks = (
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b",",
        b";",
        b"0",
        b"f",
        b"\r\n\r\n",
        b"\xff",
        b"chunked",
        b"Content-Length: 5\r\n",
    )
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0:
                data = data[:at] + dice.choice(marks) + data[at:]
            case 1:
                data = data[:at] + data[at + dice.randint(1, 3) :]
            case 2:
                data = data[:at] + dice.choice(marks) + data[at + 1 :]
            case _:
                data = data[:at] + data[max(0, at - dice.randint(1, 30)) :]
    return data


ASKED = [
    row.data
    for row in (*requests_lines.ROWS, *requests_fields.ROWS, *requests_bodies.ROWS)
    if len(row.data) < 1000
]
ANSWERED = [row.data for row in answers.ROWS if 0 < len(row.data) < 1000]


@given(data=st.sampled_from(ASKED), seed=st.integers(0, 1 << 32))
@settings(QUICK, max_examples=150)
def test_damaged_requests(
    sidecar: RunningSidecar,
    turns: Turns,
    module_upstream: Witness,
    module_sink: OtlpSink,
    data: bytes,
    seed: int,
) -> None:
    """Whatever reaches the upstream can be read in one way only, and every request that began has ended once."""
    module_upstream.clear()
    books = Books(sidecar, module_sink)
    with RawClient(sidecar.port) as client:
        with suppress(OSError):
            client.send(damaged(data, seed))
            turns.wait()
            client.half_close()
        with suppress(ConnectionResetError):
            client.read_to_end()
    assert "internal_error" not in books.outcomes()
    for taken in module_upstream.taken():
        read_strictly(taken)


@given(data=st.sampled_from(ANSWERED), seed=st.integers(0, 1 << 32), ends=st.booleans())
@settings(QUICK, max_examples=100)
def test_damaged_answers(
    sidecar: RunningSidecar,
    turns: Turns,
    module_upstream: Witness,
    module_sink: OtlpSink,
    data: bytes,
    seed: int,
    ends: bool,
) -> None:
    """Whatever reaches the client can be read in one way only; the next request gets its own answer."""
    module_upstream.clear()
    books = Books(sidecar, module_sink)
    script: list[Step] = [Garbage(damaged(data, seed)), End()]
    module_upstream.answer(*(script if ends else script[:1]), path="/x")
    with RawClient(sidecar.port) as client:
        client.send(request(start=b"GET /x HTTP/1.1"))
        module_upstream.head()
        turns.wait()
        client.half_close()
        with suppress(ConnectionResetError):
            client.read_to_end()
        read_answers_strictly(client.received, ["GET"])
    with RawClient(sidecar.port) as client:
        client.send(request(start=b"GET /next HTTP/1.1"))
        assert client.read_answer().body == b"ok"
    assert "internal_error" not in books.outcomes()
