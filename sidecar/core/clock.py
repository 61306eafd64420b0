"""Clocks: one that tells how much time has passed, what the wall says beside it, and how much was worked.

Every timestamp inside is an integer: nanoseconds since the Unix epoch as the wall clock had it at the start, and from
then on by a clock that nobody sets. Differences, orders and deadlines need no more. The wall clock may jump either
way at any moment (a VM that was paused, a step of NTP), so what leaves the process has its `Wall.correction` added.
The core receives timestamps and never asks for them; the walls of the process read the clock.
"""

import time
from collections.abc import Callable
from functools import partial

Clock = Callable[[], int]
"""Gives the present in ns on the line of time of all timestamps; never runs backwards."""

cpu_time: Callable[[], int] = time.thread_time_ns
"""CPU time (ns) that this thread has had: what a budget of work is told by, however busy the machine is."""

SECOND = 1_000_000_000
MILLISECOND = 1_000_000

JUMP = SECOND
"""From how much on (ns) a move of the wall clock is told; smaller ones are only followed."""

STANDSTILL = 5 * SECOND
"""From how much on (ns) a time in which nobody looked is one in which the process stood still; less is a busy machine."""

_NOISE = MILLISECOND
"""What two readings one after the other may differ by (ns) without any clock having moved."""


class Wall:
    """How far the wall clock is ahead of the timestamps. This one stays where it is put."""

    __slots__ = ("correction",)

    def __init__(self) -> None:
        self.correction = 0
        """What to add (ns) to a timestamp for the wall's time, by the latest look."""

    def look(self) -> int:
        """Looks at the wall clock anew; gives the correction for what begins now."""
        return self.correction


STEADY = Wall()
"""For whoever has no wall clock beside the clock given: timestamps leave as they are."""


class SystemWall(Wall):
    """The system's clocks. `clock` gives the timestamps; `jumped` is told moves of the wall of `JUMP` or more (ns).

    For a process that looks several times a second, `stood_still` is told how long (ns) it did not. On Linux the time of
    a suspended machine has passed too (CLOCK_BOOTTIME). Elsewhere that depends on the system's monotonic clock; where it
    does not count, the wall jumps.
    """

    __slots__ = ("_anchor", "_elapsed", "_least", "_looked_at", "clock", "jumped", "stood_still")

    def __init__(self) -> None:
        super().__init__()
        self._elapsed = _elapsing()
        self._anchor = 0
        self._anchor = self._ahead()
        self._least = self._anchor - _NOISE
        """How far the wall is ahead of what has elapsed, at least, if nobody has set it since."""
        self.clock = _clock(self._anchor)
        self.jumped: Callable[[int], None] = _nobody
        self.stood_still: Callable[[int], None] = _nobody
        self._looked_at = self._elapsed()

    def look(self) -> int:
        """See `Wall`."""
        now = self._elapsed()
        if now - self._looked_at >= STANDSTILL:
            self.stood_still(now - self._looked_at)
        self._looked_at = now
        if not 0 < time.time_ns() - now - self._least < 2 * _NOISE:
            self._follow()
        return self.correction

    def _follow(self) -> None:
        moved = self._ahead() - self.correction
        if -_NOISE < moved < _NOISE:
            return  # nobody had set it: the process had to wait between the two readings
        self.correction += moved
        self._least += moved
        if abs(moved) >= JUMP:
            self.jumped(moved)

    def _ahead(self) -> int:
        """How far the wall is ahead, by the closest of some readings: another thread may run between any two."""
        readings = []
        for _ in range(5):
            before, wall, after = _elapsed(), time.time_ns(), _elapsed()
            readings.append((after - before, wall - (before + after) // 2))
        return min(readings)[1] - self._anchor


def suspended() -> int:
    """How long (ns) the machine has been suspended since it was started; 0 where the system does not say."""
    return _elapsed() - time.monotonic_ns()


def system_clock() -> Clock:
    """A clock of its own, for whoever needs no more than differences."""
    return SystemWall().clock


def _nobody(_moved: int) -> None:
    """Nobody has asked."""


def _elapsing() -> Clock:
    """The clock that nobody sets, as the system gives it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    return time.monotonic_ns


def _elapsed() -> int:
    return _elapsing()()


def _clock(anchor: int) -> Clock:
    """What has elapsed and `anchor`, added without a call in Python: a request asks for the time a dozen times."""
    return map(anchor.__add__, iter(_elapsing(), None)).__next__
