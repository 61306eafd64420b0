"""A thread that does, in order and in batches, what the event loop has put off: spans, lines, log records.

Owns what waits. The event loop only appends; it neither makes nor writes what nobody waits for. Before `start` and
after `finish` a call is made at once, so that the first and the last lines have their places too.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

SIZE = 8192
"""Calls that may wait. A thread that is this far behind gets no processor any more."""

PIECE = 16
"""Calls made at a stretch. A thread that computes on holds the interpreter for 5 ms at a time."""

_TOGETHER = 0.02
"""Seconds for which others may join the first call that waits: what is done in batches finds its caches warm."""

_LOOK = 1.0
"""Seconds after which it looks by itself: two threads that come at the same moment may each take the other for the first."""


def rest() -> None:
    """Let the event loop have the interpreter (measured: its p99 while spans are encoded 1 ms, without this 9 ms)."""
    time.sleep(0.0002)


class Work(NamedTuple):
    """What a call that waits will make, for the ledger."""

    spans: int = 0
    records: int = 0


LINE, RECORDED_LINE = Work(), Work(records=1)

_Entry = tuple[Work, Callable[..., object], tuple[Any, ...]]


class Worker:
    """See the module. `size` bounds what waits; `caught` is told what a call raised, in the thread."""

    def __init__(self, caught: Callable[[Exception], object], size: int = SIZE) -> None:
        self._caught = caught
        self._size = size
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._done: list[Callable[[], object]] = []
        self._running = False
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)

    def start(self) -> None:
        """Put off what comes from now on."""
        self._running = True
        self._thread.start()

    def put(self, work: Work, call: Callable[..., object], *given: Any) -> bool:
        """Have the call made; False if there is no room for it. From any thread. What it raises at once is raised on."""
        if not self._running:
            call(*given)
            return True
        waiting = self._waiting
        if len(waiting) >= self._size:
            return False
        waiting.append((work, call, given))
        if len(waiting) == 1:
            self._wake.set()
        return True

    def waiting(self) -> Work:
        """What all that waits, or is being made, will make."""
        works = [work for work, _, _ in list(self._waiting)]
        return Work(*map(sum, zip(*works, strict=True))) if works else Work()

    def finish(self, done: Callable[[], object]) -> None:
        """Make the calls that wait, and end; then `done` is called, in the thread. On a second call, at once."""
        if self._running:
            self._running = False
            self._done.append(done)
            self._wake.set()
        else:
            done()

    def _work(self) -> None:
        while self._running:
            if self._wake.wait(_LOOK) and self._running:
                time.sleep(_TOGETHER)
            self._wake.clear()
            self._make_all()
        self._make_all()
        for done in self._done:
            with suppress(RuntimeError):  # the loop that waited is gone
                done()

    def _make_all(self) -> None:
        waiting = self._waiting
        while waiting:
            for _ in range(min(PIECE, len(waiting))):
                _, call, given = waiting[0]
                try:
                    call(*given)
                except Exception as error:  # noqa: BLE001 - the outermost handler of this thread
                    self._caught(error)
                waiting.popleft()  # only now: until it is made it waits
            rest()
