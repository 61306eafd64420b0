"""How long connections may wait, learnt from what their origin closed; and that it is forgotten again."""

from sidecar.core.clock import SECOND
from sidecar.proxy.connect import Patience


def test_patience_is_learnt_from_two_that_are_alike() -> None:
    """One closed connection is no time-out; two that waited as long are, and a margin is kept."""
    patience = Patience(30 * SECOND)
    patience.closed(5 * SECOND, SECOND)
    assert patience.at(SECOND) == 30 * SECOND
    patience.closed(5 * SECOND, 2 * SECOND)
    assert patience.at(2 * SECOND) == 4 * SECOND


def test_patience_is_learnt_from_many_that_follow_closely() -> None:
    """One every 10 ms, as a busy origin closes them: none is far enough from the one before, but some are from the first."""
    patience = Patience(30 * SECOND)
    for number in range(100):
        patience.closed(5 * SECOND, number * SECOND // 100)
    assert patience.at(SECOND) == 4 * SECOND


def test_a_restart_teaches_nothing() -> None:
    """Connections of any age that end, or such as had hardly waited."""
    patience = Patience(30 * SECOND)
    for waited in (SECOND, 3 * SECOND, SECOND // 50, SECOND // 50, 9 * SECOND):
        patience.closed(waited, 0)
    assert patience.at(0) == 30 * SECOND


def test_a_restart_after_a_burst_teaches_nothing() -> None:
    """Connections that began to wait together have waited alike when all are closed at once."""
    patience = Patience(30 * SECOND)
    for number in range(50):
        patience.closed(3 * SECOND + number, 9 * SECOND + number)
    assert patience.at(9 * SECOND) == 30 * SECOND


def test_what_was_learnt_heals() -> None:
    """It doubles by the minute up to the limit, and one that was still open counts at once."""
    patience = Patience(30 * SECOND)
    for at in (-SECOND, 0):
        patience.closed(SECOND * 3 // 10, at)
    assert patience.at(0) == SECOND * 225 // 1000
    assert patience.at(60 * SECOND) == SECOND * 450 // 1000
    assert patience.at(3600 * SECOND) == 30 * SECOND
    patience.held(8 * SECOND, 0)
    assert patience.at(0) == 7 * SECOND
