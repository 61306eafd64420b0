"""A peer that keeps the event loop busy does not keep it for itself."""

import gzip
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self, cast

import pytest

from sidecar.testing import (
    Bytes,
    Certificate,
    End,
    Garbage,
    Header,
    OtlpSink,
    RawClient,
    ReadBody,
    Reset,
    RunningSidecar,
    Script,
    Status,
    Step,
    chat_request,
    exchange,
    request_bytes,
    self_signed,
    sse_head,
)
from tests.hostility.books import Books
from tests.hostility.others import MEASURED, fair
from tests.hostility.witness import Witness

EVENT = b"data: {}\n\n"
FLOOD = 6 << 20
"""Bytes of a flood of events: more than may wait to be read."""

FRAMING = 2 << 20
"""Bytes of a flood of frames: many reads, each of which takes several turns."""


@pytest.fixture(scope="module")
def launcher() -> tuple[str, ...]:
    """The turns of its event loop are measured."""
    return MEASURED


class Flooding:
    """A script that says `piece` again and again, `size` bytes in all."""

    def __init__(self, size: int, first: tuple[Step, ...], piece: bytes, last: bytes) -> None:
        self._first, self._piece, self._last = first, Garbage(piece), Garbage(last)
        self._times = size // len(piece)

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
    return Flooding(FLOOD, (*sse_head(), Garbage(b"\r\n")), b"%x\r\n%b\r\n" % (len(piece), piece), last)


def raw(first: bytes, piece: bytes, last: bytes) -> Flooding:
    """An answer that begins, is very long, and ends."""
    return Flooding(FRAMING, (Garbage(first),), piece * (60_000 // len(piece)), last)


FLOODS = {
    "events": EVENT,
    "pings": b":\n\n",
    "named pings": b"event: ping\n\n",
    "line ends": b"x\r\r\n\n",
}


LAST = b"0\r\n\r\n"


def dechunked(said: bytes) -> bytes:
    """What the chunks hold."""
    data = b""
    while said:
        size, _, said = said.partition(b"\r\n")
        data, said = data + said[: int(size, 16)], said[int(size, 16) + 2 :]
    return data


def take(sidecar: RunningSidecar) -> None:
    """Asks for a stream and takes it to its end. A head may end with a zero and an empty line too: the id in it is random."""
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True))
        tail = b""
        while not tail.endswith((b"\r\n" + LAST, b"ok")):
            tail = (tail + client.read_some())[-10:]


@pytest.mark.parametrize("name", FLOODS)
def test_others_are_served_meanwhile(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """An upstream says as much as it can, all of it costly to read: others wait for a turn, and it ends for none."""
    books = Books(sidecar, sink)
    witness.answer_with(lambda _: cast("Script", events(FLOODS[name])), path="/v1/chat/completions")
    runs = fair(sidecar, lambda: take(sidecar))
    assert books.outcomes() == ["completed"] * runs
    for span in books.spans():
        assert span.attributes.get("sidecar.anomalies") in (None, ["answer_not_read"])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = {
    "hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", OK),
    "hints with fields": (b"", b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % (b"A:\r\n" * 60), OK),
    "nothing but 100": (b"", b"HTTP/1.1 100\r\n\r\n", OK),
    "hints in bare lines": (b"", b"HTTP/1.1 103\n\n", OK),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n", LAST),
    "chunks in bare lines": (CHUNKED, b"1\nx\n", LAST),
    "chunks with extensions": (CHUNKED, b"1;a\r\nx\r\n", LAST),
}


@pytest.mark.parametrize("name", FRAMES)
def test_an_answer_of_frames_alone(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """Interim answers and chunks without number: they pass, a little in each turn, and the answer ends as it should."""
    books = Books(sidecar, sink)
    witness.answer_with(lambda _: cast("Script", raw(*FRAMES[name])), path="/v1/chat/completions")
    runs = fair(sidecar, lambda: take(sidecar))
    assert books.outcomes() == ["completed"] * runs


HEADS = {
    "fields": b"HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 4000 + b"\r\n",
    "fields in bare lines": b"HTTP/1.1 200 OK\n" + b"A:\n" * 5000 + b"\n",
    "folded lines": b"HTTP/1.1 200 OK\r\nA:\r\n" + b" \r\n" * 5000 + b"\r\n",
    "trailers": CHUNKED + b"0\r\n" + b"A:\r\n" * 4000 + b"\r\n",
    "empty lines": b"\r\n" * 9000,
}


@pytest.mark.parametrize("name", HEADS)
def test_an_answer_of_too_many_lines(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """Within HEAD_LIMIT, and beyond HEAD_FIELDS: refused before they are read one by one."""
    witness.answer_always(Garbage(HEADS[name]), path="/v1/chat/completions")
    books = Books(sidecar, sink)

    def ask() -> None:
        for _ in range(20):
            with RawClient(sidecar.port) as client:
                client.send(chat_request())
                client.read_to_end() if name == "trailers" else client.read_answer()

    fair(sidecar, ask)
    assert set(books.outcomes()) == {"upstream_failed"}


ENDINGS: dict[str, tuple[bytes, Step, str, bytes]] = {
    "an end": (LAST, End(), "completed", b"0\r\n\r\n"),
    "a cut": (b"", End(), "upstream_failed", b""),
    "a reset": (b"", Reset(), "upstream_failed", b""),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_ends_a_flood_comes_behind_it(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """The connection's end, which the kernel may tell while frames are unread, waits for them: all of them pass first."""
    last, end, outcome, tail = ENDINGS[name]
    books = Books(sidecar, sink)
    letters = bytes(range(97, 123)) * 4000
    frames = b"".join(b"1\r\n%c\r\n" % letter for letter in letters)
    witness.answer(Garbage(CHUNKED), Garbage(frames + last), end)
    with RawClient(sidecar.port) as client:
        client.send(chat_request())
        said = client.read_to_end() if outcome != "completed" else client.read_until(b"\r\n" + LAST)
    assert said.endswith(tail)
    assert books.outcomes() == [outcome]
    passed = dechunked(said.partition(b"\r\n\r\n")[2])
    assert passed == letters or (name == "a reset" and letters.startswith(passed))


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


BOMBS: dict[str, tuple[Callable[[], bytes], list[str] | None]] = {
    "one event": (
        lambda: gzip.compress(b'data: {"a":"' + b"A" * (72 << 20) + b'"}\n\ndata: [DONE]\n\n'),
        None,
    ),
    "short lines": (lambda: compressed(b"x\n", 72 << 20), ["event_too_large"]),
    "pings": (lambda: compressed(b":\n\n", 72 << 20), ["answer_not_read"]),
    "events": (lambda: compressed(EVENT, 72 << 20), ["answer_not_read"]),
}
"""What makes them, which takes a second each, and what is noted of them."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_answer_that_expands(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, name: str
) -> None:
    """72 MiB out of less than 300 KB: others have their turns, the end is seen or said not to have been."""
    make, anomalies = BOMBS[name]
    body = make()
    fields = (
        b"Content-Type: text/event-stream",
        b"Content-Encoding: gzip",
        b"Content-Length: %d" % len(body),
    )
    script: list[Step] = [Status(), *map(Header, fields), Bytes(body)]
    witness.answer_with(lambda _: script, path="/v1/chat/completions")
    books = Books(sidecar, sink)
    runs = fair(sidecar, lambda: exchange(sidecar.port, chat_request(stream=True)))
    assert books.outcomes() == ["completed"] * runs
    assert [span.attributes.get("sidecar.anomalies") for span in books.spans()] == [anomalies] * runs


class Recorded:
    """A provider that speaks TLS in records of `size` bytes, as many of them at once as the connection takes.

    It gives the answer `said` and ends the connection behind it; `notified`: TLS is told so before.
    """

    def __init__(self, certificate: Certificate) -> None:
        self.size, self.said, self.notified = 16_384, b"", False
        self._context = certificate.server_context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                held, _ = self._listener.accept()
                with held, suppress(OSError):
                    self._answer(held)

    def _answer(self, held: socket.socket) -> None:
        come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
        spoken = self._context.wrap_bio(come, go, server_side=True)
        asked = b""
        while b"\r\n\r\n" not in asked:
            try:
                asked += spoken.read(65536)
            except ssl.SSLWantReadError:
                held.sendall(go.read())
                come.write(held.recv(65536))
        for start in range(0, len(self.said), self.size):
            spoken.write(self.said[start : start + self.size])
        if self.notified:
            with suppress(ssl.SSLWantReadError):
                spoken.unwrap()
        held.sendall(go.read())
        held.shutdown(socket.SHUT_WR)
        while held.recv(65536):
            pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorded, RunningSidecar]]:
    """Such a provider, and a sidecar before it whose turns are measured."""
    made = self_signed(tmp_path_factory.mktemp("provider"))
    trusting = {"SSL_CERT_FILE": str(made.certificate)}
    with (
        Recorded(made) as provider,
        RunningSidecar(upstream=provider.url, launcher=MEASURED, environ=trusting) as sidecar,
    ):
        yield provider, sidecar


RECORDS = {
    "a body": (1, b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000),
    "chunks of a byte": (1, CHUNKED + b"1\r\nx\r\n" * 10_000 + LAST),
    "chunks, one in each": (6, CHUNKED + b"1\r\nx\r\n" * 60_000 + LAST),
    "events": (
        1,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 80014\r\n\r\n"
        + EVENT * 8000
        + b"data: [DONE]\n\n",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_tiny_records(recorded: tuple[Recorded, RunningSidecar], name: str) -> None:
    """An upstream's TLS in records of a byte or of a chunk: each costs its twenty bytes, and nobody else more time."""
    provider, sidecar = recorded
    provider.size, provider.said = RECORDS[name]
    provider.notified = False
    before = Counter(sidecar.stats()["requests"]["outcomes"])
    runs = fair(sidecar, lambda: exchange(sidecar.port, chat_request(stream=True)))
    # What has passed may still be read.
    sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert Counter(sidecar.stats()["requests"]["outcomes"]) - before == {"completed": runs}


BODY = random.Random(1).randbytes(3 << 20)
WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunks": CHUNKED
    + b"".join(b"1000\r\n%b\r\n" % BODY[at : at + 4096] for at in range(0, len(BODY), 4096))
    + LAST,
    "to the end": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("slow", [False, True], ids=["prompt", "slow"])
@pytest.mark.parametrize("notified", [False, True], ids=["cut", "notified"])
@pytest.mark.parametrize("framing", WHOLE)
def test_an_upstreams_tls_ends_right_behind_its_answer(
    recorded: tuple[Recorded, RunningSidecar], framing: str, notified: bool, slow: bool
) -> None:
    """However its client takes it, all of the answer passes: nothing is lost that was received while reading paused."""
    provider, sidecar = recorded
    provider.size, provider.said, provider.notified = 16_384, WHOLE[framing], notified
    for _ in range(4):
        with RawClient(sidecar.port, receive_buffer=4096 if slow else None) as client:
            client.send(request_bytes("GET", "/file"))
            assert client.read_answer().body == BODY
