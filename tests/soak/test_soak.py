"""Everybody at once, for long: the books add up, nothing grows, and others hardly notice.

`make soak` plays twenty minutes, CI two (`SOAK_SECONDS`). The collector and the reader of the log are at times well, at
times not. What is asked for at the end is exact for the books, and stays below a stated bound for the rest.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import pytest

from sidecar.testing import OtlpSink, RunningSidecar, SinkAnswer, exchange, request_bytes
from tests.soak.provider import Provider

SECONDS = int(os.environ.get("SOAK_SECONDS", "1200"))
PHASE = 5.0
"""Seconds between one collector's fault and the next."""

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
    "RESPONSE_CHAIN_LIMIT": "2000",
    "INSPECT_MEMORY": "64MiB",
    "PROMETHEUS": "on",
}
ENVIRON = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "200",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
}
FAULTS = (
    SinkAnswer(),
    SinkAnswer(status=503),
    SinkAnswer(),
    SinkAnswer(delay=2.0),
    SinkAnswer(),
    SinkAnswer(status=400),
    SinkAnswer(),
    SinkAnswer(rejected=1, message="too old"),
)


class Read(RunningSidecar):
    """A sidecar whose log has a reader that may stand still."""

    def __init__(self, upstream: str, upstreams: str, sink: OtlpSink) -> None:
        settings = {**SETTINGS, "UPSTREAMS": upstreams}
        super().__init__(upstream=upstream, sink=sink, settings=settings, environ=ENVIRON)
        self.reads = threading.Event()
        self.reads.set()

    def _read(self) -> None:
        stream = self._child().stderr
        for line in stream or ():
            self.reads.wait()
            with self._changed:
                self._lines = [*self._lines[-20:], line.rstrip("\n")]
                record = json.loads(line)
                if record["event"] in {"sidecar.listening", "sidecar.bug", "sidecar.stopped"}:
                    self._logs.append(record)
                self._changed.notify_all()


@dataclass(slots=True)
class Watched:
    """What a process holds, once a second."""

    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, process: psutil.Process) -> None:
        """Once more."""
        with process.oneshot():
            self.memory.append(process.memory_info().rss)
            self.threads.append(process.num_threads())
        self.files.append(process.num_fds())


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the soak's own; it ends when its standard input does."""
    process = subprocess.Popen(
        (sys.executable, "-m", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def quiet(sidecar: RunningSidecar) -> bool:
    """True when nothing is under way, and nothing waits to be exported."""
    stats = sidecar.stats()
    waiting = sum(states["queued"] for signal, states in stats["telemetry"].items() if signal != "metrics")
    return not stats["requests"]["in_flight"] and not waiting


Times = list[tuple[float, float]]
Soaked = tuple[RunningSidecar, OtlpSink, Watched, Times]


def figures(sidecar: RunningSidecar, watched: Watched, times: Times) -> Iterator[str]:
    """What was seen, as lines for a person."""
    stats = sidecar.stats()
    yield f"requests: {stats['requests']}"
    yield f"ledger: {stats['telemetry']}"
    yield f"anomalies: {stats['anomalies']}"
    step = max(1, len(watched.memory) // 20)
    yield f"resident MiB: {[size >> 20 for size in watched.memory[::step]]}, most {max(watched.memory) >> 20}"
    yield f"open files: {watched.files[::step]}, most {max(watched.files)}"
    yield f"threads: {watched.threads[0]} to {max(watched.threads)}"
    for name, took in zip(("the wall", "the sidecar's CPU"), zip(*times, strict=True), strict=True):
        cuts = [cut * 1e3 for cut in statistics.quantiles(took, n=1000)]
        most = max(took) * 1e3
        yield (
            f"others' calls: {len(took)}, ms by {name}: "
            f"median {cuts[499]:.1f}, p99 {cuts[989]:.1f}, most {most:.1f}"
        )


@pytest.fixture(scope="module")
def soaked(pytestconfig: pytest.Config) -> Iterator[Soaked]:
    """The sidecar after it, still running, all peers gone and everything told; what was seen meanwhile."""
    watched = Watched()
    with OtlpSink() as sink, Provider() as provider, child("tests.soak.bystander") as bystander:
        assert bystander.stdout is not None
        port = bystander.stdout.readline().strip()
        upstreams = (
            f"bystander=http://127.0.0.1:{port},refused=http://127.0.0.1:1,unknown=http://nobody.invalid"
        )
        with Read(provider.url, upstreams, sink) as sidecar:
            process = psutil.Process(sidecar.pid)
            # The threads that stay, those of the event loop's library among them, are there after the first call.
            exchange(sidecar.port, request_bytes("GET", "/first"))
            sidecar.wait_until(lambda: quiet(sidecar))
            watched.look(process)
            with child("tests.soak.peers", str(sidecar.port), str(sidecar.admin_port)) as peers:
                assert bystander.stdin is not None
                bystander.stdin.write(f"{sidecar.port} {sidecar.pid}\n")
                bystander.stdin.flush()
                end = time.monotonic() + SECONDS
                while (left := end - time.monotonic()) > 0:
                    phase = int(left / PHASE)
                    for signal in ("traces", "metrics", "logs"):
                        sink.answer_always(signal, FAULTS[phase % len(FAULTS)])
                    (sidecar.reads.clear if phase % 5 == 2 else sidecar.reads.set)()
                    time.sleep(1)
                    watched.look(process)
                times = json.loads(bystander.communicate()[0])
                peers.communicate()
            sidecar.reads.set()
            for signal in ("traces", "metrics", "logs"):
                sink.answer_always(signal, SinkAnswer())
            sidecar.wait_until(lambda: quiet(sidecar), timeout=60)
            capture = pytestconfig.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled():
                print("", *figures(sidecar, watched, times), sep="\n")  # noqa: T201 - for whoever watches
            yield sidecar, sink, watched, times


def test_the_books(soaked: Soaked) -> None:
    """Started = settled, no bug, and every item is in one state."""
    sidecar, _, _, times = soaked
    requests = sidecar.stats()["requests"]
    assert requests["started"] == requests["settled"] == sum(requests["outcomes"].values())
    assert requests["settled"] > len(times) > 0
    assert "internal_error" not in requests["outcomes"]
    assert sidecar.find_logs("sidecar.bug") == []
    for signal, states in sidecar.stats()["telemetry"].items():
        assert states["created"] == sum(states.values()) - states["created"], signal


def test_the_collector_has_what_the_ledger_says(soaked: Soaked) -> None:
    """Exported arrived; nothing else did, but perhaps what is `unknown`; nothing arrived twice."""
    sidecar, sink, _, _ = soaked
    ledger = sidecar.stats()["telemetry"]
    for signal in ("traces", "logs"):
        states, taken = ledger[signal], sink.accepted(signal)
        assert states["exported"] <= taken <= states["exported"] + states["unknown"], signal
    spans = [(span.trace_id, span.span_id) for span in sink.spans]
    assert len(spans) == len(set(spans))
    assert sink.errors == []


def test_nothing_grows(soaked: Soaked) -> None:
    """Memory is flat and below its bound; open files and threads are as before."""
    sidecar, _, watched, _ = soaked
    third = len(watched.memory) // 3
    middle, last = watched.memory[third : 2 * third], watched.memory[2 * third :]
    assert max(watched.memory) < MEMORY_MOST
    assert statistics.median(last) < statistics.median(middle) + MEMORY_GROWS
    process = psutil.Process(sidecar.pid)
    sidecar.wait_until(lambda: process.num_fds() <= watched.files[0] + FILES_LEFT, timeout=30)
    assert process.num_threads() <= watched.threads[0] + THREADS_LEFT


def test_others_hardly_notice(soaked: Soaked) -> None:
    """What the sidecar did for others during a bystander's calls."""
    spent = [cpu for _, cpu in soaked[-1]]
    assert statistics.median(spent) < OTHERS_MEDIAN
    assert statistics.quantiles(spent, n=100)[98] < OTHERS_P99


def test_it_ends_as_asked(soaked: Soaked) -> None:
    """SIGTERM: in time, with 0."""
    assert soaked[0].stop() == 0
