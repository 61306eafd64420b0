"""The benchmark's own servers and clients, each once and small: nothing here is timed.

nginx and wrk are taken where they are installed; without them their tests say that they were skipped.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from bench import machine, nginx, openloop, profile, rounds, rows, streams, traffic, unary, world
from bench.processes import Running, StartError
from bench.rows import World
from sidecar.testing import free_port

ROOT = Path(__file__).parents[2]
EVERYWHERE = os.sched_getaffinity(0)
PLAN = rounds.Plan(
    rounds=1, columns=rounds.COLUMNS, warm_seconds=1, unary_seconds=1, streams=4, stream_seconds=0.2
)

needs_nginx = pytest.mark.skipif(machine.program("nginx") is None, reason="nginx is not installed")
needs_wrk = pytest.mark.skipif(machine.program("wrk") is None, reason="wrk is not installed")


def test_a_thread_or_a_child_that_ends_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listed may be gone when it is read."""
    listed, gone = Path.glob, subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [path / "0" / "children", *listed(path, pattern)])
    this = machine.family(os.getpid())
    assert this[0] == os.getpid()
    monkeypatch.setattr(machine, "family", lambda pid: [pid, gone.pid])
    assert machine.cpu_seconds(os.getpid()) > 0
    assert machine.resident_mb(os.getpid()) > 0


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The raw provider, as a run starts it."""
    port = free_port()
    command = [sys.executable, "-m", "bench.upstream", str(port)]
    with Running(command, port, tmp_path_factory.mktemp("provider") / "log", EVERYWHERE) as running:
        yield running.answers()


@pytest.fixture
def around(provider: Running, tmp_path: Path) -> World:
    """A world of the raw provider alone; it is its own collector, which answers whatever it is sent."""
    address = f"127.0.0.1:{provider.port}"
    return World(tmp_path, address, address, address, address, address, EVERYWHERE)


def ask(port: int, request: bytes, until: bytes | Callable[[bytes], bool]) -> bytes:
    """What a port answers, up to some bytes, or until it is enough."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        received = b""
        while not (until(received) if callable(until) else until in received):
            data = connection.recv(65536)
            assert data, received
            received += data
    return received


def test_the_provider_answers(provider: Running) -> None:
    """A request that does not stream gets the completion, byte for byte."""
    assert ask(provider.port, traffic.request(1), traffic.answer_body()) == traffic.answer()


def test_the_provider_streams(provider: Running) -> None:
    """Events come again and again, and no two the same one after the other."""
    said: list[bytes] = []

    def enough(received: bytes) -> bool:
        said[:] = re.findall(rb'"content":"([^"]*)"', received)
        return len(said) >= 6

    received = ask(provider.port, traffic.request(1, every=4), enough)
    assert received.startswith(traffic.STREAM_HEAD)
    assert all(one != other for one, other in pairwise(said[1:]))


def test_requests_name_their_sessions() -> None:
    """As many sessions as are told, and valid lengths."""
    asked = traffic.requests()
    assert len({*asked}) == traffic.SESSIONS
    for request in asked:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "answer",
    [traffic.answer(), traffic.STREAM_HEAD + traffic.event(" to") + b"0\r\n\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_an_answer_ends_where_it_ends(answer: bytes, size: int) -> None:
    """By its length or its last chunk, in whatever pieces it comes, one answer after the other."""
    end = traffic.AnswerEnd()
    for _ in range(2):
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        assert [end.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert end.ok
    assert end.feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    assert not end.ok


@pytest.mark.parametrize("name", ["aiohttp", "aiohttp-uvloop", "off", "unread", "full", "logs"])
def test_a_row_passes_everything_on(name: str, around: World, tmp_path: Path) -> None:
    """Answers byte for byte, streams event by event; its CPU and its memory can be told."""
    (row,) = [row for row in rows.ROWS if row.name == name]
    with row.start(around, tmp_path) as proxy:
        proxy.answers()
        before = proxy.cpu()
        assert traffic.answer_body() in ask(proxy.port, traffic.request(2), traffic.answer_body())
        assert traffic.event(" trains") in ask(
            proxy.port, traffic.request(3, every=4, path=row.stream_path), traffic.event(" trains")
        )
        assert proxy.cpu() > before
        assert proxy.memory() > 5


@needs_nginx
def test_the_nginx_row(around: World, tmp_path: Path) -> None:
    """The proxy's and the provider's configurations are valid, and the answer comes through both."""
    port = free_port()
    conf = nginx.upstream(tmp_path / "upstream", port)
    command = [machine.program("nginx") or "", "-c", str(conf), "-p", str(conf.parent)]
    with Running(command, port, tmp_path / "upstream.log", EVERYWHERE) as upstream:
        upstream.answers()
        behind = World(tmp_path, f"127.0.0.1:{port}", around.streams, "", "", "", EVERYWHERE)
        (row,) = [row for row in rows.ROWS if row.name == "nginx"]
        (tmp_path / "proxy").mkdir()
        with row.start(behind, tmp_path / "proxy") as proxy:
            proxy.answers()
            assert len(machine.family(proxy.pid)) == 2
            streamed = ask(proxy.port, traffic.request(1, every=4, path=row.stream_path), b" Basel")
            assert b"text/event-stream" in streamed


@needs_nginx
def test_the_collectors(tmp_path: Path) -> None:
    """One that takes everything, one that refuses, one that accepts and says nothing."""
    with world.made(tmp_path) as (around, said):
        assert "Collector" in said
        export = b"POST /v1/traces HTTP/1.1\r\nHost: c\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        assert ask(int(around.live.rpartition(":")[2]), export, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(around.dead.rpartition(":")[2])), 10)
        with socket.create_connection(
            ("127.0.0.1", int(around.hanging.rpartition(":")[2])), 10
        ) as connection:
            connection.sendall(export)
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


async def test_stream_clients_count_events(provider: Running) -> None:
    """All begin, events are counted, and all are closed in the end."""
    async with streams.Streams(provider.port, 5, 4, traffic.STREAM_PATH) as clients:
        assert clients.open == 5
        before = clients.events
        while clients.events < before + 10:  # noqa: ASYNC110 - they only count
            await asyncio.sleep(0)
    assert clients.open == 0


async def test_streams_that_do_not_begin_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever, and the text says how far it got."""
    monkeypatch.setattr(streams, "OPEN_TIMEOUT", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TimeoutError, match="0 of 2 streams began"),
    ):
        await streams.Streams(silent.getsockname()[1], 2, 4, "/").__aenter__()


def test_the_open_loop_asks_what_it_planned(provider: Running) -> None:
    """As many requests as are due, all answered; latencies are positive and in order."""
    said = openloop.measure(provider.port, 200.0, 0.25)
    assert said.requests == len(openloop.schedule(200.0, 0.25))
    assert said.lost == 0
    assert 0 < said.p50_us <= said.p99_us


def test_the_schedule_is_the_same_every_time() -> None:
    """Seeded, in order, within its time, and about as dense as asked."""
    due = openloop.schedule(1000.0, 2.0)
    assert due == openloop.schedule(1000.0, 2.0) == sorted(due)
    assert 0 < due[0] < due[-1] < 2
    assert 1850 < len(due) < 2150


@pytest.mark.parametrize("share,value", [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_percentiles(share: float, value: float) -> None:
    """The smallest value that so many do not exceed."""
    assert openloop.percentile([float(one) for one in range(100, 0, -1)], share) == value


def test_what_wrk_says_is_read() -> None:
    """The one line of our script, between whatever else it writes."""
    text = 'Running 1s test\nWRK {"requests": 300, "microseconds": 1500000, "p50": 900, "p99": 4000, "errors": 2}\nend'
    said = unary.read_wrk(text)
    assert (said.requests, said.rate, said.p50_us, said.p99_us, said.errors) == (300, 200.0, 900, 4000, 2)
    with pytest.raises(ValueError, match="no summary"):
        unary.read_wrk("unable to connect to 127.0.0.1")


@needs_wrk
def test_wrk_sends_our_requests(provider: Running, tmp_path: Path) -> None:
    """The script is understood by the wrk that is installed, and every request is answered."""
    said = unary.load(provider.url, unary.write_requests(tmp_path), 1)
    assert said.requests > 0
    assert said.errors == 0


@needs_wrk
def test_the_sampler_tells_rooms(around: World, tmp_path: Path) -> None:
    """Two profiles, of requests and of events; rooms of the sidecar add up to what it used."""
    bench = rounds.Bench(around, PLAN, unary.write_requests(tmp_path), 0.0)
    requests, events = profile.measure(bench, tmp_path / "profile")
    assert (requests.unit, events.unit) == ("request", "stream event")
    assert {"proxy", "core", "apis", "telemetry", "event loop and sockets", "worker threads"} <= {
        *requests.rooms
    }
    assert sum(requests.rooms.values()) == pytest.approx(requests.total)
    assert requests.looks > 0


@needs_wrk
def test_a_round_of_one_row(around: World, tmp_path: Path) -> None:
    """Every figure of the table comes of it, and a row that cannot start leaves a sentence."""
    (full,) = [row for row in rows.ROWS if row.name == "full"]
    gone = rows.Row(
        "gone", "a row that ends at once", lambda _, folder: Running(["false"], 1, folder / "log", EVERYWHERE)
    )
    plan = rounds.Plan(
        1,
        rounds.COLUMNS,
        unary_seconds=1,
        stream_seconds=1,
        latency_seconds=0.2,
        streams=4,
        many_streams=8,
        many_every_ms=20,
        most_streams=12,
    )
    bench = rounds.Bench(around, plan, unary.write_requests(tmp_path), 50.0)
    guest, lost = rounds.one_round(bench, 0, [full, gone], tmp_path / "round")
    assert guest.failures == []
    assert {*rounds.TOLD, "load_mb", "traces_created"} <= {*guest.figures}
    assert lost.figures == {}
    assert lost.failures[0].startswith("a row that ends at once, round 1: ")
    assert set(rounds.direct(bench)) >= {"requests_per_s", "p50_us", "p99_us"}


def test_the_floor_passes_what_it_gets(provider: Running, tmp_path: Path) -> None:
    """Answers and streams come through byte for byte, over one connection or over some."""
    port = free_port()
    address = f"127.0.0.1:{provider.port}"
    command = [sys.executable, "-m", "bench.floor", str(port), address, address]
    with Running(command, port, tmp_path / "log", EVERYWHERE) as running:
        running.answers()
        asked = traffic.request(1)
        assert ask(port, asked, traffic.answer_body()) == traffic.answer()
        stream = ask(port, traffic.request(1, every=4, path=traffic.STREAM_PATH), b"data: ")
        assert stream.startswith(traffic.STREAM_HEAD)


def test_a_crowd_of_sessions(around: World, tmp_path: Path) -> None:
    """Each of them has asked once when the load comes."""
    (full,) = [row for row in rows.ROWS if row.name == "full"]
    with full.start(around, tmp_path) as proxy:
        proxy.answers()
        rows.populate(proxy.port, 50)
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}/stats", timeout=30) as stats:
            assert json.load(stats)["sessions"]["active"] >= 50


def test_without_wrk_less_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The columns that need it fall away, and it is said which."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rounds.measurable(PLAN).columns == ("streams", "memory")
    told = rounds.not_measurable(rows.ROWS, PLAN.columns)
    assert "requests/s, CPU per request and added latency: not measured, wrk is not installed" in told
    assert "LiteLLM proxy: not measured, litellm is not installed" in told


def test_a_program_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Not waited for until the time is out."""
    command = [sys.executable, "-c", "raise SystemExit('the port is taken')"]
    running = Running(command, free_port(), tmp_path / "log", EVERYWHERE)
    with running, pytest.raises(StartError, match="the port is taken"):
        running.ready()


def test_unknown_rows_and_columns_are_refused() -> None:
    """By name, before anything starts."""
    for option, value in (("--rows", "aiohttp,apache"), ("--columns", "speed")):
        done = subprocess.run(
            (sys.executable, "-m", "bench", option, value),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.strip() == f"no such row or column: {value.rpartition(',')[2]}"


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """No server of a run outlives it, and its folder is removed."""
    environ = dict(os.environ) | {"TMPDIR": str(tmp_path)}
    command = (sys.executable, "-m", "bench", "--quick", "--rows", "off")
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        this = psutil.Process(run.pid)
        children: list[psutil.Process] = []
        while not any("bench.upstream" in _line(child) for child in children):
            with pytest.raises(subprocess.TimeoutExpired):  # it goes on
                run.wait(0.05)
            children = this.children(recursive=True)
        run.send_signal(signal.SIGINT)
        assert run.wait(120) == 130
    _, alive = psutil.wait_procs(children, 60)
    assert alive == []
    assert [*tmp_path.iterdir()] == []


def _line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
