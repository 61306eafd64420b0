"""How long a read waited behind other reads of the same event-loop turn.

The first read of a turn marks its beginning; every later one in the same turn has waited since then. A turn is known
by the loop's own time, which stands still during a turn, and by the pause before a read: no call is scheduled for it,
which would cost the loop a turn of its own each time.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sidecar.core.clock import Clock

_STAY = 2_000_000
"""How long (ns) the reads of one turn may take before their connection lets others have their turn."""

_SHARE = 5_000_000
"""How long (ns) work in steps may go on in one turn; one step may take longer."""

_PAUSE = 100_000
"""Nanoseconds since a read after which the next one begins a turn: within a turn, reads follow at once."""


class LoopTurn:
    """Marks the turns of one event loop.

    The loop's time is in milliseconds. Turns that follow one another without a pause within one of them count as one, so
    a wait may then be told longer than it was, by less than a millisecond.
    """

    __slots__ = ("_began", "_busy_until", "_clock", "_loop", "time", "waited")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self.time = 0.0
        """The loop's own time at the latest read; it does not change within a turn."""
        self._began = 0
        self._busy_until = 0
        self.waited = 0
        """How long (ns) the latest read had waited."""

    def read(self) -> int:
        """The present (ns since the epoch), and in `waited` how long the caller had waited for its turn."""
        now, time = self._clock(), self._loop.time()
        if time != self.time or now - self._busy_until > _PAUSE:
            self.time = time
            self._began = now
        self._busy_until = now
        self.waited = now - self._began
        return now

    def over(self) -> bool:
        """Whether the reads of this turn have taken so long that what is dear waits for turns to come."""
        self._busy_until = now = self._clock()
        return now - self._began > _STAY

    def done(self, transport: asyncio.Transport, since: int, go_on: Callable[[], None]) -> None:
        """A connection's reads of some size, since `since` in this turn, have taken so long. If that is much, it pauses.

        The transport would read on in the same turn for as long as there is something, and nobody else would be
        served meanwhile. `go_on` is called when it may.
        """
        self._busy_until = now = self._clock()
        if now - since > _STAY and not transport.is_closing():
            transport.pause_reading()
            self._loop.call_soon(go_on)


class Stepwise(Protocol):
    """Work that is done in steps."""

    working: bool
    """False once nothing is left to do."""

    def work(self) -> None:
        """Does the next step. Never raises."""


class StepQueue:
    """Work in steps, a little in each turn and one's after another's, however much of it comes at once."""

    __slots__ = ("_clock", "_due", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting: deque[Stepwise] = deque()
        self._due = False

    def add(self, work: Stepwise) -> None:
        """Begins with it in a later turn."""
        self._waiting.append(work)
        self._go_on()

    def _turn(self) -> None:
        self._due = False
        end = self._clock() + _SHARE
        while self._waiting:
            first = self._waiting[0]
            if first.working:
                first.work()
            if not first.working:
                self._waiting.popleft()
            if self._clock() > end:
                self._waiting.rotate(-1)
                break
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._due:
            self._due = True
            self._loop.call_soon(self._turn)
