"""Gigabytes through the running sidecar, up and down, by length and in chunks: every byte, and flat memory.

The bytes are made as they are sent and compared as they come; neither side ever holds more than a piece of them.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import BinaryIO

import psutil
import pytest

from sidecar.testing import OtlpSink, RunningSidecar

TOTAL = {True: 512 << 20, False: 2 << 30}
"""Bytes in chunks, and by length: so many that a fiftieth of them, or 1.1 KiB for each chunk, would be over `GROWTH`."""

PIECE = {True: 64 * 1024, False: 256 * 1024}
"""Bytes of a chunk, and of what is sent at once by length."""

GROWTH = 8 << 20
"""Bytes by which the process may grow: many times what two buffers of 64 KiB and one read need."""

INSPECTED = 32 << 20
"""The same while a body is held back: `INSPECT_LIMIT` of 8 MiB, and a copy of it as it goes on."""

_NOISE = bytes(range(251)) * (PIECE[False] // 251 + 2)
"""A pattern whose length is no power of two, so that a piece in the wrong place is seen."""


def made(at: int, size: int) -> bytes:
    """The `size` bytes of the stream from `at` on."""
    start = at % 251
    return _NOISE[start : start + size]


def say(sock: socket.socket, *, chunked: bool) -> None:
    """Sends the whole stream."""
    size = PIECE[chunked]
    for at in range(0, TOTAL[chunked], size):
        piece = made(at, size)
        sock.sendall(b"%x\r\n%b\r\n" % (size, piece) if chunked else piece)
    if chunked:
        sock.sendall(b"0\r\n\r\n")


def hear(stream: BinaryIO, watch: Callable[[], None], *, chunked: bool) -> int:
    """Takes the whole stream and gives how much of it was right; calls `watch` now and then."""
    right = watched = 0
    most, total = PIECE[chunked], TOTAL[chunked]
    while right < total:
        if right >= watched:
            watch()
            watched += 64 << 20
        size = int(stream.readline(), 16) if chunked else min(most, total - right)
        while size:
            piece = stream.read(min(size, most))
            if not piece or piece != made(right, len(piece)):
                return right
            right += len(piece)
            size -= len(piece)
        if chunked and stream.read(2) != b"\r\n":
            return right
    if chunked:
        assert stream.read(5) == b"0\r\n\r\n"
    return right


def buffered(sock: socket.socket) -> BinaryIO:
    """A stream to read from the socket."""
    return BufferedReader(sock.makefile("rb", buffering=0), PIECE[False])


def read_head(stream: BinaryIO) -> bytes:
    """The bytes of a head."""
    return b"".join(iter(stream.readline, b"\r\n"))


@contextmanager
def upstream(serve: Callable[[socket.socket, BinaryIO], None]) -> Iterator[int]:
    """A server that serves one connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            with connection, buffered(connection) as stream:
                serve(connection, stream)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


class Memory:
    """What a process holds (bytes resident) at most, against what it held when this was made."""

    def __init__(self, sidecar: RunningSidecar) -> None:
        self._process = psutil.Process(sidecar.pid)
        self._before = self._now()
        self.grown = 0

    def _now(self) -> int:
        size: int = self._process.memory_info().rss
        return size

    def look(self) -> None:
        """Takes note."""
        self.grown = max(self.grown, self._now() - self._before)


@contextmanager
def through(
    sink: OtlpSink, serve: Callable[[socket.socket, BinaryIO, Callable[[], None]], None], bound: int = GROWTH
) -> Iterator[tuple[socket.socket, BinaryIO, Memory]]:
    """A client of a sidecar of its own, which tells all it can, in front of such an upstream."""
    memory: list[Memory] = []
    with (
        upstream(lambda connection, stream: serve(connection, stream, memory[0].look)) as port,
        RunningSidecar(upstream=f"http://127.0.0.1:{port}", sink=sink) as sidecar,
        socket.create_connection(("127.0.0.1", sidecar.port), timeout=60) as client,
        buffered(client) as stream,
    ):
        memory.append(Memory(sidecar))
        yield client, stream, memory[0]
        memory[0].look()
        assert memory[0].grown < bound
        assert sidecar.stats()["requests"]["outcomes"] == {"completed": 1}


FRAMED = {True: b"Transfer-Encoding: chunked\r\n", False: b"Content-Length: %d\r\n" % TOTAL[False]}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_down(module_sink: OtlpSink, chunked: bool) -> None:
    """An answer of that size."""

    def serve(connection: socket.socket, stream: BinaryIO, _: Callable[[], None]) -> None:
        read_head(stream)
        connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n" % FRAMED[chunked])
        say(connection, chunked=chunked)

    with through(module_sink, serve) as (client, stream, memory):
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert FRAMED[chunked] in read_head(stream)
        assert hear(stream, memory.look, chunked=chunked) == TOTAL[chunked]


@pytest.mark.parametrize(
    "kind,chunked",
    [("octet-stream", False), ("octet-stream", True), ("json", True)],
    ids=["length", "chunks", "JSON in chunks"],
)
def test_up(module_sink: OtlpSink, kind: str, chunked: bool) -> None:
    """A request of that size; of JSON, as much is held back as may be inspected, and let go."""
    heard: list[int] = []

    def serve(connection: socket.socket, stream: BinaryIO, look: Callable[[], None]) -> None:
        assert FRAMED[chunked] in read_head(stream)
        heard.append(hear(stream, look, chunked=chunked))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    bound = INSPECTED if kind == "json" else GROWTH
    with through(module_sink, serve, bound) as (client, stream, _):
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Type: application/%b\r\n" % kind.encode()
        client.sendall(head + FRAMED[chunked] + b"\r\n")
        say(client, chunked=chunked)
        assert read_head(stream).startswith(b"HTTP/1.1 200 OK\r\n")
        assert heard == [TOTAL[chunked]]


def test_an_upload_waits_for_its_upstream(module_sink: OtlpSink) -> None:
    """What was held back for inspection goes on all at once, and an upstream that takes none of it stops the client."""
    over = threading.Event()

    def serve(_: socket.socket, __: BinaryIO) -> None:
        over.wait(60)

    with (
        upstream(serve) as port,
        RunningSidecar(upstream=f"http://127.0.0.1:{port}", sink=module_sink) as sidecar,
        socket.create_connection(("127.0.0.1", sidecar.port), timeout=2) as client,
    ):
        client.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
        client.sendall(FRAMED[True] + b"\r\n")
        sent = 0
        with suppress(TimeoutError):
            while sent < TOTAL[True]:
                client.sendall(b"%x\r\n%b\r\n" % (PIECE[True], made(0, PIECE[True])))
                sent += PIECE[True]
        over.set()
    assert sent < 2 * INSPECTED
