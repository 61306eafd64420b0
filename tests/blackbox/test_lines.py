"""The process's own lines: no stream they go to, whatever becomes of it, is felt by a request, the drain or the exit code.

Each row is one thing that stdin, stdout and stderr may be. The ledger says what became of the lines.
"""

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    answer,
    chat_request,
    exchange,
    free_port,
    request_bytes,
    sse_head,
)
from tests.pace import promptly

DATA = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
STREAMS = 3
PIPE = 4096
"""Bytes that a pipe holds, which is the least that it can."""
REQUESTS = 40
"""Enough to fill a pipe with their lines, and the queue of lines after it."""
PROMPT = 8.0
"""Seconds that they take at most. To a reader of 1 KB/s their lines alone would take three times as long."""
WAITING = 20
"""How many lines may wait."""
SHUTDOWN = 6.0


@dataclass
class Streams:
    """What one sidecar has as its streams, and what the test holds of them."""

    shell: str = 'exec "$@"'
    stderr: int = subprocess.PIPE
    started: Callable[[], object] = lambda: None
    """What happens to them once it serves."""
    held: ExitStack = field(default_factory=ExitStack)


Open = Callable[[Path], Streams]


def small_pipe() -> tuple[int, int]:
    """A pipe that is soon full: its end to read from, and its end to write to."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
    return reader, writer


def unread(_folder: Path) -> Streams:
    """A pipe whose reader stands still: a log shipper that hangs, a paused `less`."""
    reader, writer = small_pipe()
    return _ending_with(writer, reader)


def unread_and_non_blocking(_folder: Path) -> Streams:
    """The same, from a parent that has made it non-blocking."""
    reader, writer = small_pipe()
    os.set_blocking(writer, False)
    return _ending_with(writer, reader)


def paused_terminal(_folder: Path) -> Streams:
    """A terminal that nobody reads: Ctrl-S."""
    master, slave = pty.openpty()
    return _ending_with(slave, master)


def unread_socket(_folder: Path) -> Streams:
    """A socket, as service managers give, which cannot be opened anew without waiting."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return _ending_with(theirs.detach(), ours.detach())


def slow(_folder: Path) -> Streams:
    """A reader of 1 KB/s."""
    reader, writer = small_pipe()
    streams = _ending_with(writer, reader)
    ended = threading.Event()

    def read() -> None:
        with suppress(OSError):
            while not ended.wait(1) and os.read(reader, 1000):
                pass

    thread = threading.Thread(target=read)
    streams.held.callback(thread.join)
    streams.held.callback(ended.set)
    thread.start()
    return streams


def reader_gone(_folder: Path) -> Streams:
    """A pipe whose reader has ended before the start."""
    reader, writer = os.pipe()
    os.close(reader)
    return _ending_with(writer)


def reader_leaves(_folder: Path) -> Streams:
    """A pipe whose reader ends later."""
    reader, writer = small_pipe()
    streams = _ending_with(writer)
    streams.started = lambda: os.close(reader)
    return streams


def full_device(_folder: Path) -> Streams:
    """A disk that is full from the start."""
    return Streams('exec "$@" 2>/dev/full')


def full_file(folder: Path) -> Streams:
    """A file that takes some lines, a part of one, and no more."""
    return Streams(f'ulimit -f 8; exec "$@" 2>{folder}/lines')


def read_only(_folder: Path) -> Streams:
    """A descriptor that is open, and not for writing."""
    return Streams('exec "$@" 2</dev/null')


def _ending_with(writer: int, *readers: int) -> Streams:
    """Streams whose stderr is `writer`; all is closed at the end."""
    streams = Streams(stderr=writer)
    for descriptor in (writer, *readers):
        streams.held.callback(os.close, descriptor)
    return streams


def closed(*descriptors: int) -> Open:
    """Streams that are not there at all."""
    words = " ".join(f"{descriptor}>&-" for descriptor in descriptors)
    return lambda _folder: Streams(f'exec "$@" {words}')


STANDING: tuple[Open, ...] = (unread, unread_and_non_blocking, paused_terminal, unread_socket, slow)
FAILING: tuple[Open, ...] = (reader_gone, reader_leaves, full_device, full_file, read_only)
CLOSED = {
    "closed " + " ".join(map(str, some)): closed(*some)
    for count in (1, 2, 3)
    for some in combinations((0, 1, 2), count)
}
ROWS: dict[str, Open] = {made.__name__: made for made in (*STANDING, *FAILING)} | CLOSED


@contextmanager
def serving(
    streams: Streams, upstream: ScriptedUpstream, sink: OtlpSink | None, form: str = "json", **environ: str
) -> Iterator[RunningSidecar]:
    """A sidecar with these streams, once it is ready."""
    port, admin = free_port(), free_port()
    sidecar = RunningSidecar(
        upstream=upstream.url,
        sink=sink,
        settings={
            "LISTEN": f"127.0.0.1:{port}",
            "ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "SHUTDOWN_TIMEOUT": f"{SHUTDOWN:g}s",
            "LOG_FORMAT": form,
        },
        environ={"OTEL_BLRP_MAX_QUEUE_SIZE": str(WAITING), **environ},
        launcher=("/bin/sh", "-c", streams.shell, "sh"),
        stderr=streams.stderr,
    )
    sidecar.port, sidecar.admin_port = port, admin
    with streams.held:
        try:
            sidecar.launch()
            sidecar.wait_until(lambda: sidecar.admin("GET", "/readiness")[0] == 200)
            streams.started()
            yield sidecar
        finally:
            sidecar.kill()


def lines_of(sidecar: RunningSidecar) -> dict[str, int]:
    """What became of its lines, after checking that the ledger adds up."""
    lines: dict[str, int] = sidecar.stats()["telemetry"]["lines"]
    assert lines["created"] == sum(count for state, count in lines.items() if state != "created")
    return lines


def ask(sidecar: RunningSidecar, upstream: ScriptedUpstream, requests: int = REQUESTS) -> None:
    """Requests that are answered, and the event loop turns."""
    upstream.answer_always(answer(b"ok"))
    with promptly(PROMPT, sidecar.pid), RawClient(sidecar.port) as client:
        for _ in range(requests):
            client.send(request_bytes("GET", "/quick"))
            assert client.read_answer().body == b"ok"
    assert sidecar.admin("GET", "/liveness")[0] == 200


def end_while_streaming(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, session: str, most: float = SHUTDOWN
) -> None:
    """SIGTERM with streams running, which then end; from the last one's end to the exit, with code 0, it is `most` seconds."""
    gate = Gate()
    steps = (sse_head(), Chunk(DATA), Wait(gate), Chunk(b"data: [DONE]\n\n"), LastChunk())
    upstream.clear()
    upstream.answer_always(*steps)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(STREAMS)]
        for client in clients:
            client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
            client.read_until(DATA)
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_until(lambda: sidecar.admin("GET", "/readiness")[0] == 503)
        assert sidecar.admin("GET", "/liveness")[0] == 200
        gate.open()
        for client in clients:
            assert client.read_to_end().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    with promptly(most, sidecar.pid):
        assert sidecar.wait() == 0


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("row", ROWS)
def test_no_stream_is_felt(
    row: str, form: str, upstream: ScriptedUpstream, sink: OtlpSink, tmp_path: Path
) -> None:
    """Requests, health, a drain with streams running, spans, the exit code: as with a healthy one. Lines are counted."""
    session = f"{row}-{form}".replace(" ", "-")
    with serving(ROWS[row](tmp_path), upstream, sink, form) as sidecar:
        ask(sidecar, upstream)
        if row not in CLOSED:
            lost = "dropped" if ROWS[row] in STANDING else "failed"
            sidecar.wait_until(lambda: lines_of(sidecar)[lost] > 0)
        sidecar.wait_until(lambda: lines_of(sidecar)["created"] >= REQUESTS)
        assert lines_of(sidecar)["queued"] <= 2 * WAITING
        end_while_streaming(sidecar, upstream, session)
    servers = sink.find_spans(kind="SERVER", attributes={"session.id": session})
    assert [span.attributes["sidecar.outcome"] for span in servers] == ["completed"] * STREAMS
    if row == "full_file":
        text = (tmp_path / "lines").read_bytes()
        assert len(text) in (8 * 512, 8 * 1024)


LOUD = """
import ctypes, sys, threading, time

def later():
    while not sys.stderr.write_through:
        time.sleep(0.01)
    for _ in range(200):
        ctypes.PyDLL(None).write(2, b"c" * 1023 + b"\\n", 1024)
        print("p" * 1023, file=sys.stderr)
    open({marker!r}, "w").close()

threading.Thread(target=later, daemon=True).start()
"""
"""A library that writes to stderr by itself, from C with Python's one lock held, and by `print`."""


@pytest.mark.parametrize("row", ["unread", "paused_terminal", "reader_leaves"])
def test_what_libraries_write_themselves_waits_for_nobody(
    row: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """It never goes through the log, so its stream must not stand still under it."""
    marker = tmp_path / "written"
    (tmp_path / "sitecustomize.py").write_text(LOUD.format(marker=str(marker)))
    with serving(ROWS[row](tmp_path), upstream, None, PYTHONPATH=str(tmp_path)) as sidecar:
        sidecar.wait_until(marker.exists)
        ask(sidecar, upstream)
        assert sidecar.stop() == 0


def unread_fifo(path: Path) -> Callable[[], object]:
    """A pipe with a name, whose reader stands still until the end."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE)
    return lambda: os.close(reader)


@pytest.mark.parametrize("stdout", ["unread", "reader leaves", "full", "closed"])
def test_console_exporters_are_not_felt(stdout: str, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Spans, metrics and log records for a stdout that does not take them: counted, and nothing else."""
    path = {"full": Path("/dev/full"), "closed": "&-"}.get(stdout, tmp_path / "out")
    streams = Streams(f'exec "$@" 2>{tmp_path}/lines >{path}')
    if stdout in ("unread", "reader leaves"):
        close = unread_fifo(tmp_path / "out")
        if stdout == "unread":
            streams.held.callback(close)
        else:
            streams.started = close
    console = {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "METRICS", "LOGS")}
    delays = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BLRP_SCHEDULE_DELAY": "20"}
    with serving(streams, upstream, None, **console, **delays, OTEL_METRIC_EXPORT_INTERVAL="100") as sidecar:
        ask(sidecar, upstream)
        end_while_streaming(sidecar, upstream, "console", SHUTDOWN + 1)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    (stopped,) = (line for line in lines if line["event"] == "sidecar.stopped")
    ledger = json.loads(stopped["telemetry"])
    for signal_, states in ledger.items():
        assert states["created"] == sum(states.values()) - states["created"], signal_
        if stdout in ("reader leaves", "full") and signal_.startswith("console_"):
            assert states["failed"] > 0, signal_
    assert ledger["console_traces"]["dropped"] > 0 or stdout != "unread"


def test_a_second_signal_exits_at_once(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Whatever waits to be written."""
    gate = Gate()
    with serving(unread(tmp_path), upstream, None) as sidecar:
        ask(sidecar, upstream)
        upstream.clear()
        upstream.answer(Wait(gate))
        with RawClient(sidecar.port) as client:
            client.send(request_bytes("GET", "/slow"))
            upstream.request()
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_until(lambda: sidecar.admin("GET", "/readiness")[0] == 503)
            sidecar.signal(signal.SIGTERM)
            with promptly(SHUTDOWN, sidecar.pid):
                assert sidecar.wait() == -signal.SIGTERM
        gate.open()


def test_what_was_lost_is_told_once_the_stream_moves(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Every line that came through is whole, none is there twice, and those that are missing are told in one line."""
    reader, writer = small_pipe()
    streams = _ending_with(writer)
    taken: list[bytes] = []

    def read() -> None:
        while piece := os.read(reader, 65536):
            taken.append(piece)

    thread = threading.Thread(target=read)
    with serving(streams, upstream, None, OTEL_BLRP_MAX_QUEUE_SIZE="64") as sidecar:
        os.close(writer)
        streams.held.pop_all()
        ask(sidecar, upstream, 3 * REQUESTS)
        sidecar.wait_until(lambda: lines_of(sidecar)["dropped"] > 0)
        thread.start()
        sidecar.wait_until(lambda: lines_of(sidecar)["queued"] == 0)
        dropped = lines_of(sidecar)["dropped"]
        sidecar.wait_until(lambda: b"sidecar.telemetry.recovered" in b"".join(taken))
        assert exchange(sidecar.port, request_bytes("GET", "/after")).status == 200
        assert sidecar.stop() == 0
    thread.join()
    os.close(reader)
    lines = [json.loads(line) for line in b"".join(taken).splitlines()]
    told = [line for line in lines if line["event"] == "sidecar.telemetry.recovered"]
    assert [(line["level"], line["signal"], line["lost"]) for line in told] == [("warning", "lines", dropped)]
    assert [line["event"] for line in lines].count("sidecar.stopped") == 1
    ids = [line["span_id"] for line in lines if line["event"] == "sidecar.request.completed"]
    assert len(ids) == len(set(ids))
    final = json.loads(lines[-1]["telemetry"])["lines"]
    assert final["created"] == len(lines) - 1 + dropped
