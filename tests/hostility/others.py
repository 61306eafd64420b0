"""What other requests wait while a peer keeps the sidecar busy.

Owns the measuring, and nothing hostile. A wait is told in seconds of the sidecar's own CPU: what its event loop did
between a question and its answer. On a busy machine the wall says more than that, and proves nothing.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from statistics import median

from sidecar.testing import RunningSidecar
from tests.hostility.witness import Turns

FAIR = 0.02
"""Seconds of the event loop that no peer may cost the others in one go."""

_TURNS = 2
"""Turns of the event loop that a question takes: others can be busy in each of them."""

_ROUND = 0.01
"""What a question costs by itself at most, with all that happens beside it in a quiet sidecar on a busy machine."""

_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Waited:
    """The longest wait of a question asked again and again (s, of CPU and by the wall), and the CPU spent in all (s)."""

    cpu: float
    wall: float
    spent: float


class _Asking(threading.Thread):
    """Asks for the liveness without a pause, one question after another."""

    def __init__(self, sidecar: RunningSidecar) -> None:
        super().__init__(name="asking", daemon=True)
        self._port = sidecar.admin_port
        self._cpu_clock = (~sidecar.pid << 3) | 2  # clock_getcpuclockid(3) of another process
        self._first = threading.Event()
        self._over = threading.Event()
        self._cpu = self._wall = 0
        self._begun = self.cpu_time()

    def cpu_time(self) -> int:
        """The CPU time of the sidecar (ns)."""
        return time.clock_gettime_ns(self._cpu_clock)

    def run(self) -> None:
        """Asks until it is told to stop."""
        with closing(Turns(self._port, timeout=_PATIENCE)) as turns:
            turns.wait()
            self._first.set()
            while not self._over.is_set():
                cpu, wall = self.cpu_time(), time.monotonic_ns()
                turns.wait()
                self._cpu = max(self._cpu, self.cpu_time() - cpu)
                self._wall = max(self._wall, time.monotonic_ns() - wall)

    def begin(self) -> None:
        """Returns once the first question has been answered."""
        self.start()
        assert self._first.wait(_PATIENCE)

    def end(self) -> Waited:
        """Stops, and says what was seen."""
        spent = self.cpu_time() - self._begun
        self._over.set()
        self.join(_PATIENCE)
        assert not self.is_alive()
        return Waited(self._cpu / 1e9, self._wall / 1e9, spent / 1e9)


def waited(sidecar: RunningSidecar, busy: Callable[[], object], *, repeats: int = 3) -> Waited:
    """How long others wait at most while `busy` runs in this thread: the medians of some runs."""
    runs: list[Waited] = []
    for _ in range(repeats):
        asking = _Asking(sidecar)
        asking.begin()
        try:
            busy()
        finally:
            runs.append(asking.end())
    return Waited(
        median(run.cpu for run in runs), median(run.wall for run in runs), median(run.spent for run in runs)
    )


@cache
def _text() -> bytes:
    return b"word " * ((8 << 20) // 5)


def slowness() -> float:
    """How many times longer the CPU takes than on a quiet machine, where this replaces 8 MiB in 8 ms; 1 at least."""
    begin = time.thread_time()
    _text().replace(b"\\", b"//")
    return max(1.0, (time.thread_time() - begin) / 0.008)


def fair(
    sidecar: RunningSidecar, busy: Callable[[], object], *, most: float = FAIR, repeats: int = 3
) -> Waited:
    """Asserts that nobody waits for more than `most` seconds of CPU a turn while `busy` runs, and gives what was seen."""
    slow = slowness()
    seen = waited(sidecar, busy, repeats=repeats)
    slow = max(slow, slowness())
    assert seen.cpu < (_TURNS * most + _ROUND) * slow, (
        f"{seen}; {slow:.1f} times slower than usual; with nobody busy: {waited(sidecar, _quiet, repeats=1)}"
    )
    return seen


def _quiet() -> None:
    """Lets a few dozen questions be asked."""
    threading.Event().wait(0.2)
