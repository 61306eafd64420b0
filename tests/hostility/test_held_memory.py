"""What is held of bodies is counted as the memory it takes, in however small chunks it comes; what slow clients cost."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import brotli
import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    Garbage,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    Status,
    Step,
    Wait,
    answer,
    chat_request,
    exchange,
    request_bytes,
    sse_head,
)
from tests.hostility.books import SPANS_SOON
from tests.hostility.witness import Witness
from tests.pace import kept_waiting

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
SIZE = 2 * MIB
BODIES = 3
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
BOUND = 3 * BODIES * SIZE
"""Bytes by which the process may grow: what is held with an eighth more, a copy on its way, and what reads leave behind."""

CONTAINER = 512 * MIB
FULL = 200 * MIB
"""Bytes that the process takes at least when `SIDECAR_INSPECT_MEMORY` is full, or the test has not filled it."""

STREAMS = 24
WINDOW = 8 * MIB
ROOM = 32 * MIB
QUIET = {"OTEL_METRIC_EXPORT_INTERVAL": "60000", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Exports alone keep a process busy; and what is freed goes back to the system, as the image has it."""

READERS = 60
LARGE = 16 * MIB
SLOW = 8 * 1024
"""Bytes that a client may cost that takes nothing, once the memory for what waits is used up: a read, and what it is made of."""


def in_small_chunks(before: bytes, unit: bytes, after: bytes) -> bytes:
    """A JSON body of `SIZE` in chunks of two bytes, as it stands on the wire."""
    count = SIZE // 2
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in before)
    return (
        chunks
        + b"2\r\n%b\r\n" % unit * count
        + b"".join(b"1\r\n%c\r\n" % byte for byte in after)
        + b"0\r\n\r\n"
    )


def most_resident(sidecar: RunningSidecar) -> int:
    """Bytes of memory that the process has had at most."""
    lines = Path(f"/proc/{sidecar.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def grown_by_several(sidecar: RunningSidecar, request: bytes) -> int:
    """How much the process grew at most while some clients sent this at once; all are answered."""
    exchange(sidecar.port, chat_request())
    before = most_resident(sidecar)
    statuses: list[int] = []
    clients = [
        threading.Thread(target=lambda: statuses.append(exchange(sidecar.port, request, timeout=120).status))
        for _ in range(BODIES)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert statuses == [200] * BODIES
    return most_resident(sidecar) - before


@contextmanager
def limited(size: int) -> Iterator[tuple[tuple[str, ...], Callable[[RunningSidecar], int]]]:
    """A launcher that puts a process into a memory cgroup of `size` bytes, and how much it took at most.

    Where no cgroup can be made there is no launcher, and what is told is the resident memory.
    """
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    version_1 = (first / "memory.limit_in_bytes").exists()
    group = (first if version_1 else second) / f"held-memory-{os.getpid()}"
    limit, peak = (
        ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if version_1 else ("memory.max", "memory.peak")
    )
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError:
        yield (), most_resident
        return
    enter = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    try:
        yield enter, lambda _: int((group / peak).read_text())
    finally:
        group.rmdir()


def nearly_whole(connection: RawClient, body: bytes) -> RawClient:
    """Sends a request whose JSON comes in chunks of 64 bytes, but for its last ones."""
    connection.send(request_bytes("POST", "/v1/chat/completions", headers=(JSON, CHUNKED)))
    connection.send(body)
    return connection


def test_the_defaults_fit_into_the_container(witness: Witness, module_sink: OtlpSink) -> None:
    """512 MiB is the limit of the Compose file and the manifests: `SIDECAR_INSPECT_MEMORY` may be full at any time."""
    filling = b"40\r\n%b\r\n" % (b"a" * 64) * (7 * MIB // 64)
    head = b'{"model":"m","x":"'
    begun = b"%x\r\n%b\r\n" % (len(head), head) + filling
    witness.answer_with(
        lambda request: (
            (Status(), Header(JSON), Header(CHUNKED), Garbage(b"\r\n" + begun), Wait(gate), LastChunk())
            if request.get("X-Play")
            else answer(b"{}", headers=(JSON,))
        )
    )
    gate = Gate()
    with limited(CONTAINER) as (launcher, peak):
        patient = {"CLIENT_BODY_TIMEOUT": "10m"}
        running = RunningSidecar(upstream=witness.url, sink=module_sink, launcher=launcher, settings=patient)
        with running as sidecar, ExitStack() as stack:
            downloads = [stack.enter_context(RawClient(sidecar.port, timeout=240)) for _ in range(16)]
            readers = [threading.Thread(target=one.read_answer, args=("POST",)) for one in downloads]
            for one, reader in zip(downloads, readers, strict=True):
                one.send(chat_request(headers=(b"X-Play: 1",)))
                reader.start()
            uploads = [
                nearly_whole(stack.enter_context(RawClient(sidecar.port, timeout=240)), begun)
                for _ in range(20)
            ]
            assert sidecar.running
            gate.open()
            for one in uploads:
                one.send(b'2\r\n"}\r\n0\r\n\r\n')
            assert [one.read_answer("POST").status for one in uploads] == [200] * len(uploads)
            for reader in readers:
                reader.join()
            sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0, timeout=60)
            assert FULL < peak(sidecar) < CONTAINER


def test_requests(witness: Witness, module_sink: OtlpSink) -> None:
    """Bodies that are held until they are whole."""
    body = in_small_chunks(b'{"model":"m","x":"', b"ab", b'"}')
    sent = request_bytes("POST", "/v1/chat/completions", headers=(JSON, CHUNKED)) + body
    with RunningSidecar(upstream=witness.url, sink=module_sink) as sidecar:
        assert grown_by_several(sidecar, sent) < BOUND


def test_answers(witness: Witness, module_sink: OtlpSink) -> None:
    """The copies of whole answers."""
    body = in_small_chunks(b'{"model":"m","x":"', b"ab", b'"}')
    witness.answer_with(lambda _: (Status(), Header(JSON), Header(CHUNKED), Garbage(b"\r\n" + body)))
    with RunningSidecar(upstream=witness.url, sink=module_sink) as sidecar:
        assert grown_by_several(sidecar, chat_request()) < BOUND


def test_an_answer_too_large_to_be_held(witness: Witness, module_sink: OtlpSink) -> None:
    """Of vectors the two ends are kept: model and tokens are told, and what stands between them costs nothing."""
    vectors = b",".join([b'{"object":"embedding","index":0,"embedding":[0.25,-0.125]}'] * 200_000)
    body = b'{"object":"list","data":[%b],"model":"m-2","usage":{"prompt_tokens":7}}' % vectors
    fields = Header(JSON), Header(b"Content-Length: %d" % len(body))
    witness.answer_with(lambda _: (Status(), *fields, Bytes(body)), path="/v1/embeddings")
    request = request_bytes(
        "POST", "/v1/embeddings", headers=[JSON], body=json.dumps({"model": "m", "input": "x"}).encode()
    )
    with RunningSidecar(upstream=witness.url, sink=module_sink, environ=SPANS_SOON) as sidecar:
        module_sink.clear()
        assert exchange(sidecar.port, request, timeout=60).body == body
        module_sink.wait_for(lambda: module_sink.find_spans(kind="CLIENT"))
    told = module_sink.find_spans(kind="CLIENT")[0].attributes
    assert told["gen_ai.response.model"] == "m-2"
    assert told["gen_ai.usage.input_tokens"] == 7
    assert module_sink.find_spans(kind="SERVER")[0].attributes["sidecar.anomalies"] == ["answer_not_read"]


def by_zstd(data: bytes) -> bytes:
    """In a frame of the largest window that is read, its end not told."""
    maker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 23})
    return maker.compress(data) + maker.flush(zstd.ZstdCompressor.FLUSH_BLOCK)


def by_brotli(data: bytes) -> bytes:
    """With a window of 8 MiB, its end not told."""
    maker = brotli.Compressor(quality=5, lgwin=23)
    return bytes(maker.process(data) + maker.flush())


WINDOWS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "zstd": (b"zstd", by_zstd),
    "brotli": (b"br", by_brotli),
}


@pytest.mark.parametrize("coding", WINDOWS)
def test_windows(witness: Witness, module_sink: OtlpSink, coding: str) -> None:
    """Compressed streams that have filled their decoders' windows, all at once: as many are read as there is room for."""
    name, compress = WINDOWS[coding]
    coded = compress(b'data: {"x":"%b"}\n\n' % (b"a" * 65_500) * (WINDOW >> 16))
    gate = Gate()
    witness.answer_always(
        sse_head((b"Content-Encoding: " + name,)),
        Chunk(coded),
        Wait(gate),
        LastChunk(),
        path="/v1/chat/completions",
    )
    running = RunningSidecar(
        upstream=witness.url, sink=module_sink, settings={"INSPECT_MEMORY": str(ROOM)}, environ=QUIET
    )
    module_sink.clear()
    with running as sidecar, ExitStack() as clients:
        exchange(sidecar.port, request_bytes("GET", "/warm"))
        before = most_resident(sidecar)
        asked = [clients.enter_context(RawClient(sidecar.port)) for _ in range(STREAMS)]
        for client in asked:
            client.send(chat_request(stream=True))
            client.read_until(coded[-8:])
        until_nothing_moves(sidecar)
        assert most_resident(sidecar) - before < ROOM + 40 * MIB
        gate.open()
        for client in asked:
            client.read_until(b"0\r\n\r\n")
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    spans = [span for span in module_sink.find_spans(kind="SERVER") if span.name.endswith("completions")]
    passed_over = [span for span in spans if span.attributes.get("sidecar.anomalies") == ["answer_not_read"]]
    assert len(spans) == STREAMS
    assert 0 < len(spans) - len(passed_over) <= ROOM // WINDOW


def until_nothing_moves(sidecar: RunningSidecar) -> None:
    """Returns once the process has used next to no CPU time for half a second, nor waited for some."""
    clock = (~sidecar.pid << 3) | 2  # clock_getcpuclockid(3)

    def wanted() -> float:
        return time.clock_gettime(clock) + kept_waiting(sidecar.pid)

    used, since = wanted(), time.monotonic()

    def still() -> bool:
        nonlocal used, since
        now, at = wanted(), time.monotonic()
        if at - since < 0.5:
            return False
        busy, used, since = (now - used) / (at - since), now, at
        return busy < 0.1

    sidecar.wait_until(still, timeout=60)


FRAMINGS: dict[str, tuple[Step, ...]] = {
    "length": (Header(b"Content-Length: %d" % LARGE), Bytes(b"x" * LARGE)),
    "chunks": (Header(CHUNKED), Garbage(b"\r\n" + (b"40000\r\n" + b"x" * 0x40000 + b"\r\n") * (LARGE >> 18))),
    "events": (
        Header(b"Content-Type: text/event-stream"),
        Header(CHUNKED),
        Garbage(b"\r\n" + (b"1000\r\n" + b"data: {}\n\n".ljust(0x1000) + b"\r\n") * (LARGE >> 12)),
    ),
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_clients_that_take_nothing(witness: Witness, module_sink: OtlpSink, framing: str) -> None:
    """A large answer waits at the upstream, but for a bounded piece of it.

    What the system takes for a client has passed, and may wait to be read: that is bounded for all of them at once.
    """
    witness.answer_with(lambda _: (Status(), *FRAMINGS[framing]), path="/files/large")
    running = RunningSidecar(
        upstream=witness.url, sink=module_sink, settings={"INSPECT_MEMORY": str(4 * MIB)}, environ=QUIET
    )
    with running as sidecar, ExitStack() as clients:
        exchange(sidecar.port, chat_request())
        before = most_resident(sidecar)
        for _ in range(READERS):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", sidecar.port))
            client.sendall(request_bytes("GET", "/files/large"))
        until_nothing_moves(sidecar)
        assert sidecar.stats()["requests"]["in_flight"] == READERS
        assert most_resident(sidecar) - before < 4 * MIB + READERS * SLOW + 4 * MIB
