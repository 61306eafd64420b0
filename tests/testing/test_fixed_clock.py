"""The fixed clock moves only when told, and never backwards."""

import pytest

from sidecar.testing import FixedClock


def test_it_stands_still_until_moved() -> None:
    """Nanoseconds, advanced by any unit."""
    clock = FixedClock(1_000)
    assert (clock(), clock()) == (1_000, 1_000)
    assert clock.advance(ns=5) == clock() == 1_005
    assert clock.advance(s=1, ms=2, us=3) == 1_005 + 1_002_003_000
    assert repr(clock) == "FixedClock(1002004005)"


def test_it_does_not_run_backwards() -> None:
    """A negative step is refused and changes nothing."""
    clock = FixedClock(10)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(ns=-1)
    assert clock() == 10
