"""Which reads belong to one turn of the event loop, how long they waited in it, and what is looked at again and again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from sidecar.core.clock import MILLISECOND
from sidecar.proxy.loop import LoopTurn, Rounds

MICROSECOND = 1000


class Loop:
    """An event loop's own time, in seconds, as it stands still during a turn."""

    def __init__(self) -> None:
        self.now = 1.0

    def time(self) -> float:
        """The time at which the turn began, in milliseconds' steps."""
        return self.now


class Moments:
    """A loop, a clock, and the turns under test."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.at = 10 * MILLISECOND
        self.turn = LoopTurn(cast("asyncio.AbstractEventLoop", self.loop), lambda: self.at)

    def read_after(self, pause: int) -> int:
        """A read `pause` ns after the one before; gives how long it had waited."""
        self.at += pause
        assert self.turn.read() == self.at
        return self.turn.waited


@pytest.fixture
def moments() -> Moments:
    """Fresh ones."""
    return Moments()


def test_reads_of_one_turn_wait_for_one_another(moments: Moments) -> None:
    """Since the first of them."""
    waits = [moments.read_after(pause) for pause in (0, 40 * MICROSECOND, 60 * MICROSECOND)]
    assert waits == [0, 40 * MICROSECOND, 100 * MICROSECOND]


def test_the_loops_time_tells_a_new_turn(moments: Moments) -> None:
    """However soon after the last it begins."""
    moments.read_after(0)
    moments.loop.now = 1.001
    assert moments.read_after(40 * MICROSECOND) == 0


def test_a_pause_tells_a_new_turn(moments: Moments) -> None:
    """Though the loop's time, which is coarse, has not moved yet."""
    moments.read_after(0)
    assert moments.read_after(200 * MICROSECOND) == 0


def test_a_long_read_is_no_pause(moments: Moments) -> None:
    """What follows at once has waited for all of it: the time when it was done counts."""
    moments.read_after(0)
    since = moments.at
    moments.at += 2 * MILLISECOND
    moments.turn.done(cast("asyncio.Transport", None), since, lambda: None)
    assert moments.read_after(20 * MICROSECOND) == 2 * MILLISECOND + 20 * MICROSECOND


class Timers:
    """A loop whose timers the test lets run."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        """One more."""
        assert delay == 0.05
        self._due.append(call)

    def run(self) -> int:
        """Those that are set by now; how many they were."""
        due, self._due = self._due, []
        for call in due:
            call()
        return len(due)


@pytest.mark.parametrize("count, rounds", [(1, 1), (200, 1), (5000, 25)])
def test_rounds_cost_the_same_however_much_is_looked_at(count: int, rounds: int) -> None:
    """200 looks at most, of each in its turn; with few, every round looks at all."""
    timers, seen = Timers(), Counter[int]()
    looked_at = Rounds(cast("asyncio.AbstractEventLoop", timers))

    class Watched:
        def __init__(self, number: int) -> None:
            self.number = number

        def look(self) -> None:
            seen[self.number] += 1
            looked_at.add(self.look)

    for number in range(count):
        watched = Watched(number)
        looked_at.add(watched.look)
        looked_at.add(watched.look)
    for again in range(1, 4):
        for _ in range(rounds):
            before = seen.total()
            assert timers.run() == 1
            assert seen.total() - before == count // rounds
        assert set(seen.values()) == {again}


def test_rounds_end_where_nothing_is_looked_at_again() -> None:
    """And begin anew with the next."""
    timers, seen = Timers(), list[int]()
    looked_at = Rounds(cast("asyncio.AbstractEventLoop", timers))
    for number in range(2):
        looked_at.add(partial(seen.append, number))
    assert (timers.run(), timers.run(), seen) == (1, 0, [0, 1])
    looked_at.add(partial(seen.append, 2))
    assert (timers.run(), timers.run(), seen) == (1, 0, [0, 1, 2])
