"""Everybody at once, for long: the books add up, nothing grows, and others hardly notice.

`make soak` plays twenty minutes, CI two (`SOAK_SECONDS`). Every few seconds the collector is well or in another way not
well, and somebody stands still and comes back: the reader of the log, the provider, all clients, the collector, the
sidecar itself. The wall clock is set now and then. What is asked for at the end is exact for the books, and stays below
a stated bound for the rest.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from sidecar.testing import RunningSidecar, exchange, free_port, request_bytes
from tests.blackbox.names import HANG, NameServer
from tests.blackbox.test_wall_clock import HOUR, Set, own_wall
from tests.soak.collector import FAULTS, TIMEOUT, WELL
from tests.soak.peers import PEERS
from tests.soak.provider import SECRET

SECONDS = int(os.environ.get("SOAK_SECONDS", "1200"))
PHASE = 4
"""Seconds between one collector's fault and the next. Who stands still does so for all of them but one."""

MEMORY_MOST = 400 << 20
"""Bytes that the process has resident at most, at any time."""

MEMORY_GROWS = 48 << 20
"""Bytes by which the median of the last third may be over that of the second."""

FILES_LEFT, THREADS_LEFT = 8, 2
"""Open files and threads that may be there when all have gone, beyond those before they came."""

OTHERS_MEDIAN, OTHERS_P99 = 0.020, 0.250
"""Seconds of the sidecar's CPU that pass during a bystander's call, which takes two turns; by the wall it may be more."""

SETTINGS = {
    "CLIENT_HEAD_TIMEOUT": "3s",
    "CLIENT_BODY_TIMEOUT": "3s",
    "FIRST_BYTE_TIMEOUT": "5s",
    "IDLE_TIMEOUT": "5s",
    "STALL_AFTER": "1s",
    "POOL_IDLE": "2s",
    "SESSION_IDLE": "20s",
    "SESSION_LIMIT": "2000",
    "CONVERSATIONS_PER_SESSION": "20",
    "RESPONSE_CHAIN_LIMIT": "2000",
    "INSPECT_MEMORY": "64MiB",
    "PROMETHEUS": "on",
}
ENVIRON = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": str(int(TIMEOUT * 1000)),
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "200",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
}
LOG_READER, SIDECAR = "log reader", "sidecar"
STILL = ("", LOG_READER, "provider", "", "peers", "collector", SIDECAR)
"""Who stands still, phase after phase; the collector's faults turn at another pace, so that they meet in every way."""


class Read(RunningSidecar):
    """A sidecar whose log has a reader that may stand still."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reads = threading.Event()
        self.reads.set()
        self.secrets: list[str] = []
        self.strange: list[str] = []
        """Lines that are not the sidecar's own."""

    def _read(self) -> None:
        stream = self._child().stderr
        assert stream is not None
        with stream:
            for line in stream:
                self.reads.wait()
                with self._changed:
                    self._take(line)
                    self._changed.notify_all()

    def _take(self, line: str) -> None:
        self._lines = [*self._lines[-20:], line.rstrip("\n")]
        if SECRET.decode() in line:
            self.secrets.append(line)
        try:
            record = json.loads(line)
        except ValueError:
            self.strange.append(line)
            return
        if record["event"] in {"sidecar.listening", "sidecar.bug", "sidecar.stopped"}:
            self._logs.append(record)


class Child:
    """A process of the soak's own; it ends when its standard input does."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = (sys.executable, "-m", f"tests.soak.{name}", *map(str, arguments))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self) -> list[str]:
        """The words of its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def tell(self, *words: object) -> None:
        """A line for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """Ends its input; what it says of all it saw."""
        return json.loads(self.process.communicate(timeout=60)[0])


@dataclass(slots=True)
class Watched:
    """What a process holds, once a second."""

    process: psutil.Process
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Once more."""
        with self.process.oneshot():
            self.memory.append(self.process.memory_info().rss)
            self.threads.append(self.process.num_threads())
        self.files.append(self.process.num_fds())

    def as_before(self) -> bool:
        """Files and threads are again what they were at first, as the last look says."""
        self.look()
        return (
            self.files[-1] <= self.files[0] + FILES_LEFT
            and self.threads[-1] <= self.threads[0] + THREADS_LEFT
        )


class Standstills:
    """Lets one of them at a time stand still."""

    def __init__(self, sidecar: Read, children: Mapping[str, Child]) -> None:
        self._sidecar = sidecar
        self._children = children
        self._who = ""

    def stand(self, who: str) -> None:
        """From now on it is this one; nobody, if empty."""
        if who == self._who:
            return
        (self._sidecar.reads.clear if who == LOG_READER else self._sidecar.reads.set)()
        for one, number in ((self._who, signal.SIGCONT), (who, signal.SIGSTOP)):
            if one == SIDECAR:
                self._sidecar.signal(number)
            elif one in self._children:
                self._children[one].process.send_signal(number)
        self._who = who


@dataclass(slots=True)
class Soaked:
    """What was seen of it: `times` are the bystander's, `odd` what it was told in place of answers, `taken` the collector's sums, `ledger` the sidecar's last word."""

    watched: Watched
    times: list[tuple[float, float]]
    odd: list[str]
    played: dict[str, int]
    stats: dict[str, Any]
    steps: int
    flat: bool = False
    code: int | None = None
    ledger: dict[str, dict[str, int]] = field(default_factory=dict)
    taken: dict[str, Any] = field(default_factory=dict)
    bugs: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def figures(self) -> Iterator[str]:
        """Lines for a person."""
        yield f"played: {self.played}"
        yield f"requests: {self.stats['requests']}"
        yield f"anomalies: {self.stats['anomalies']}"
        for page, states in self.ledger.items():
            yield f"{page}: { {state: count for state, count in states.items() if count} }"
        yield f"collector: {self.taken}; the wall clock was set {self.steps} times"
        watched = self.watched
        step = max(1, len(watched.memory) // 20)
        yield f"resident MiB: {[size >> 20 for size in watched.memory[::step]]}, most {max(watched.memory) >> 20}"
        yield f"open files: {watched.files[::step]}, most {max(watched.files)}, then {watched.files[-1]}"
        yield f"threads: {watched.threads[0]}, most {max(watched.threads)}, then {watched.threads[-1]}"
        for name, took in zip(("the wall", "the sidecar's CPU"), zip(*self.times, strict=True), strict=True):
            cuts = [cut * 1e3 for cut in statistics.quantiles(took, n=1000)]
            yield (
                f"others' calls: {len(took)}, ms by {name}: "
                f"median {cuts[499]:.1f}, p99 {cuts[989]:.1f}, most {max(took) * 1e3:.1f}"
            )


def quiet(sidecar: RunningSidecar) -> bool:
    """True when nothing is under way, and nothing waits to be exported."""
    stats = sidecar.stats()
    waiting = sum(states["queued"] for signal, states in stats["telemetry"].items() if signal != "metrics")
    return not stats["requests"]["in_flight"] and not waiting


@contextmanager
def running(folder: Path, provider: Child, bystander: Child, collector: Child) -> Iterator[tuple[Read, Set]]:
    """The sidecar and its wall clock, ready for all of them; the fourth port is for health."""
    ((provided,), (stood_by,), (http, grpc)) = (one.says() for one in (provider, bystander, collector))
    upstreams = {
        "bystander": f"http://127.0.0.1:{stood_by}",
        "refused": "http://127.0.0.1:1",
        "unknown": "http://nobody.test",
        "hanging": "http://hang.test",
    }
    environ = {
        **ENVIRON,
        **own_wall(folder / "wall"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{http}",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{grpc}",
    }
    settings = {
        **SETTINGS,
        "HEALTH_LISTEN": f"127.0.0.1:{free_port()}",
        "UPSTREAMS": ",".join(f"{name}={url}" for name, url in upstreams.items()),
    }
    with NameServer(folder, {"hang.test": HANG}) as names:
        upstream = f"http://127.0.0.1:{provided}"
        with Read(upstream=upstream, settings=settings, environ=environ, launcher=names.launcher) as sidecar:
            yield sidecar, Set(sidecar, folder / "wall")


def play(sidecar: Read, wall: Set, collector: Child, still: Standstills, watched: Watched) -> int:
    """All of it, a second at a time; gives how often the wall clock was set."""
    faults = [fault for name in FAULTS for fault in (name, WELL)]
    steps = 0
    for second in range(SECONDS):
        phase, within = divmod(second, PHASE)
        if not within:
            collector.tell(faults[phase % len(faults)])
            if phase % 10 == 5:
                wall.step(random.choice((HOUR, -HOUR)))
                steps += 1
        still.stand(STILL[phase % len(STILL)] if within < PHASE - 1 else "")
        time.sleep(1)
        watched.look()
    still.stand("")
    collector.tell(WELL)
    return steps


@pytest.fixture(scope="module")
def soaked(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Soaked:
    """What was seen of all of it, from the sidecar's start to its end."""
    folder = tmp_path_factory.mktemp("soak")
    with ExitStack() as stack:
        collector, provider, bystander = (
            stack.enter_context(Child(name)) for name in ("collector", "provider", "bystander")
        )
        sidecar, wall = stack.enter_context(running(folder, provider, bystander, collector))
        watched = Watched(psutil.Process(sidecar.pid))
        # The threads that stay, those of the event loop's library among them, are there after the first call.
        exchange(sidecar.port, request_bytes("GET", "/first"))
        sidecar.wait_until(lambda: quiet(sidecar))
        watched.look()
        health = sidecar._environ["SIDECAR_HEALTH_LISTEN"].rpartition(":")[2]
        with Child("peers", sidecar.port, sidecar.admin_port, health) as peers:
            bystander.tell(sidecar.port, sidecar.pid)
            children = {"peers": peers, "provider": provider, "collector": collector}
            steps = play(sidecar, wall, collector, Standstills(sidecar, children), watched)
            (times, odd), played = bystander.end(), peers.end()
        sidecar.wait_until(lambda: quiet(sidecar), timeout=60)
        seen = Soaked(watched, times, odd, played, sidecar.stats(), steps)
        with suppress(AssertionError):
            sidecar.wait_until(watched.as_before, timeout=30)
        seen.flat = watched.as_before()
        seen.code = sidecar.stop()
        seen.ledger = json.loads(sidecar.find_logs("sidecar.stopped")[0]["telemetry"])
        seen.bugs, seen.secrets = sidecar.find_logs("sidecar.bug"), sidecar.secrets
        seen.strange = sidecar.strange
        collector.tell("sum")
        seen.taken = collector.end()
        capture = pytestconfig.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("", *seen.figures(), sep="\n")  # noqa: T201 - for whoever watches
    return seen


def test_everybody_was_there(soaked: Soaked) -> None:
    """Each kind of peer has been played, and the clock was set."""
    assert soaked.played.keys() == {peer.__name__ for _, peer in PEERS}
    assert soaked.steps


def test_the_books(soaked: Soaked) -> None:
    """Started = settled, no bug, and every item is in one state."""
    requests = soaked.stats["requests"]
    assert requests["started"] == requests["settled"] == sum(requests["outcomes"].values())
    assert requests["settled"] > len(soaked.times) > 0
    assert "internal_error" not in requests["outcomes"]
    assert soaked.bugs == []
    assert soaked.strange == []
    for page, states in soaked.ledger.items():
        assert states["queued"] <= 2 * (page == "lines"), page  # the line that says so, and the one before
        assert states["created"] == sum(states.values()) - states["created"], page


def test_the_collector_has_what_the_ledger_says(soaked: Soaked) -> None:
    """What was confirmed arrived; nothing else did, but perhaps what is `unknown`; nothing arrived twice."""
    taken = soaked.taken
    for page in ("traces", "metrics", "logs"):
        states, came = soaked.ledger[page], taken["taken"][page]
        confirmed = states["exported"] + states["unconfirmed"]
        assert confirmed <= came <= confirmed + states["unknown"], page
    assert taken["twice"] == 0
    assert taken["errors"] == []
    assert taken["requests"] == soaked.stats["requests"]["settled"]


def test_no_secret_is_told(soaked: Soaked) -> None:
    """Neither a credential nor what was asked or answered, in no signal."""
    assert soaked.secrets == soaked.taken["secrets"] == []


def test_nothing_grows(soaked: Soaked) -> None:
    """Memory is flat and below its bound; open files and threads are as before."""
    memory = soaked.watched.memory
    third = len(memory) // 3
    middle, last = memory[third : 2 * third], memory[2 * third :]
    assert max(memory) < MEMORY_MOST
    assert statistics.median(last) < statistics.median(middle) + MEMORY_GROWS
    assert soaked.flat, (soaked.watched.files[-1], soaked.watched.threads[-1])


def test_others_hardly_notice(soaked: Soaked) -> None:
    """They get their answers; and what the sidecar did for others during a bystander's calls."""
    assert soaked.odd == []
    spent = [cpu for _, cpu in soaked.times]
    assert statistics.median(spent) < OTHERS_MEDIAN
    assert statistics.quantiles(spent, n=100)[98] < OTHERS_P99


def test_it_ends_as_asked(soaked: Soaked) -> None:
    """SIGTERM: in time, with 0."""
    assert soaked.code == 0
