"""The line of time and the wall beside it, with both of the system's clocks in the test's hands."""

import time

import pytest

from sidecar.core.clock import MILLISECOND, SECOND, STANDSTILL, SystemWall, suspended

HOUR = 3600 * SECOND


class Clocks:
    """What the system's clocks say; `late` is how much later the wall is read than asked, once."""

    def __init__(self) -> None:
        self.elapsed = 1000 * SECOND
        self.wall = 1_700_000_000 * SECOND
        self.late = 0

    def read_elapsed(self, *_clock: int) -> int:
        """The clock that nobody sets."""
        return self.elapsed

    def read_wall(self) -> int:
        """The wall clock."""
        self.pass_time(self.late)
        self.late = 0
        return self.wall

    def pass_time(self, ns: int) -> None:
        """Both go on."""
        self.elapsed += ns
        self.wall += ns


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The test's clocks, in the place of the system's."""
    clocks = Clocks()
    monkeypatch.setattr(time, "clock_gettime_ns", clocks.read_elapsed)
    monkeypatch.setattr(time, "monotonic_ns", clocks.read_elapsed)
    monkeypatch.setattr(time, "time_ns", clocks.read_wall)
    return clocks


def test_it_starts_as_the_wall(clocks: Clocks) -> None:
    """And goes on as time passes."""
    wall = SystemWall()
    assert (wall.clock(), wall.look()) == (clocks.wall, 0)
    clocks.pass_time(HOUR)
    assert (wall.clock(), wall.look()) == (clocks.wall, 0)


@pytest.mark.parametrize("step", [HOUR, -HOUR, 72 * HOUR, SECOND, -SECOND])
def test_a_jump_is_told_once(clocks: Clocks, step: int) -> None:
    """The timestamps do not move."""
    wall = SystemWall()
    told: list[int] = []
    wall.jumped = told.append
    before = wall.clock()
    clocks.wall += step
    assert (wall.clock(), wall.look(), wall.look()) == (before, step, step)
    assert told == [step]
    clocks.wall -= step
    assert (wall.look(), told) == (0, [step, -step])


def test_a_slow_drift_is_followed_without_a_word(clocks: Clocks) -> None:
    """In steps of a millisecond or more."""
    wall = SystemWall()
    told: list[int] = []
    wall.jumped = told.append
    for turn in range(1, 2001):
        clocks.pass_time(SECOND)
        clocks.wall += MILLISECOND // 2
        assert abs(wall.look() - turn * MILLISECOND // 2) < MILLISECOND
    assert told == []


@pytest.mark.parametrize("late", [MILLISECOND, 10 * SECOND])
def test_a_pause_between_two_readings_is_no_jump(clocks: Clocks, late: int) -> None:
    """The process had to wait: nobody had set the clock."""
    wall = SystemWall()
    told: list[int] = []
    wall.jumped = told.append
    clocks.late = late
    assert (wall.look(), told) == (0, [])


def test_a_time_in_which_nobody_looked_is_told(clocks: Clocks) -> None:
    """From five seconds on; what the wall did meanwhile has nothing to do with it."""
    wall = SystemWall()
    told: list[int] = []
    wall.stood_still = told.append
    for pause, step in ((STANDSTILL - 1, HOUR), (0, -HOUR), (STANDSTILL, 0), (HOUR, 2 * HOUR), (SECOND, 0)):
        clocks.pass_time(pause)
        clocks.wall += step
        wall.look()
    assert told == [STANDSTILL, HOUR]


def test_a_suspended_machine_is_known_by_two_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that stands still in suspend, and the one that does not."""
    before = suspended()
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: real(which) + HOUR)
    assert abs(suspended() - before - HOUR) < SECOND
