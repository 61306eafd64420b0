"""How fast this machine is just now, so that a bound in seconds means the same on each.

Owns two measures. Of CPU time: one pass of the JSON decoder over 8 MiB of numbers, which takes as long as a step of the
longest kind. Of the wall's time: what processes had to wait for a processor meanwhile, as Linux counts it for each thread.
"""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec

_QUIET = 0.014
"""Seconds of CPU that the pass takes on the machine for which bounds are stated."""


@cache
def _numbers() -> bytes:
    return b"[1" + b",1" * ((8 << 20) // 2) + b"]"


def slowness() -> float:
    """How many times longer than on a quiet machine things take on this one; 1 at least."""
    numbers = _numbers()
    begin = time.thread_time()
    msgspec.json.decode(numbers, type=msgspec.Raw)
    return max(1.0, (time.thread_time() - begin) / _QUIET)


def least(run: Callable[[], float], enough: float, runs: int = 8) -> float:
    """What a run tells, in seconds of CPU as a quiet machine would take them: the least of some runs.

    What something costs it costs each time, and a busy machine only adds to it. So the first that is good enough (less than
    `enough`) is the last.
    """
    seen: list[float] = []
    while len(seen) < runs and (not seen or seen[-1] >= enough):
        slow = slowness()
        took = run()
        seen.append(took / max(slow, slowness()))
    return min(seen)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Asserts that this thread takes less CPU time in it, as a quiet machine would take it.

    Python does not look for garbage meanwhile: how long that takes, all that tests have kept until now decides.
    """
    slow = slowness()
    gc.disable()
    begun = time.thread_time()
    try:
        yield
    finally:
        took = time.thread_time() - begun
        gc.enable()
    assert took < seconds * max(slow, slowness()), took


def kept_waiting(pid: int) -> float:
    """Seconds that the threads of a process have waited for a processor, in all; 0 where it has gone."""
    waited = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            waited += int(thread.read_text().split()[1])
    return waited / 1e9


@contextmanager
def promptly(seconds: float, *pids: int) -> Iterator[None]:
    """Asserts that it takes less time, without what these processes and this one were kept waiting for a processor.

    They may end meanwhile.
    """
    begun, over = time.monotonic(), threading.Event()
    before = {pid: kept_waiting(pid) for pid in (os.getpid(), *pids)}
    latest = dict(before)

    def look() -> None:
        for pid, waited in latest.items():
            latest[pid] = max(waited, kept_waiting(pid))

    def watch() -> None:
        while not over.wait(0.02):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
        took = time.monotonic() - begun
    finally:
        over.set()
        watcher.join()
    look()
    waited = sum(latest.values()) - sum(before.values())
    assert took - waited < seconds, (took, waited)
