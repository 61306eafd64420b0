"""How long connections may wait, learnt from what their origin closed; and that it is forgotten again."""

from sidecar.core.clock import SECOND
from sidecar.proxy.pool import Patience


def test_patience_is_learnt_from_two_that_are_alike() -> None:
    """One closed connection is no time-out; two that waited as long are, and a margin is kept."""
    patience = Patience(30 * SECOND)
    patience.closed(5 * SECOND, 0)
    assert patience.at(0) == 30 * SECOND
    patience.closed(5 * SECOND, 0)
    assert patience.at(0) == 4 * SECOND


def test_a_restart_teaches_nothing() -> None:
    """Connections of any age that end, or such as had hardly waited."""
    patience = Patience(30 * SECOND)
    for waited in (SECOND, 3 * SECOND, SECOND // 50, SECOND // 50, 9 * SECOND):
        patience.closed(waited, 0)
    assert patience.at(0) == 30 * SECOND


def test_what_was_learnt_heals() -> None:
    """It doubles by the minute up to the limit, and one that was still open counts at once."""
    patience = Patience(30 * SECOND)
    for _ in range(2):
        patience.closed(SECOND * 3 // 10, 0)
    assert patience.at(0) == SECOND * 225 // 1000
    assert patience.at(60 * SECOND) == SECOND * 450 // 1000
    assert patience.at(3600 * SECOND) == 30 * SECOND
    patience.held(8 * SECOND, 0)
    assert patience.at(0) == 7 * SECOND
