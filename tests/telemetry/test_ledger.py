"""The loss ledger: every item is in exactly one state."""

import pytest

from grafana import innocence
from sidecar.core import facts
from sidecar.telemetry.ledger import Delivery, Ledger, Signal, State


def test_a_new_ledger_is_empty_and_names_every_state() -> None:
    """States are there with 0, so that a chart of losses shows a line and not a gap."""
    ledger = Ledger()
    states = {
        "created",
        "queued",
        "exported",
        "rejected",
        "dropped",
        "failed",
        "unconfirmed",
        "unknown",
        "not_sampled",
    }
    assert ledger.snapshot() == {
        signal: dict.fromkeys(states, 0) for signal in ("traces", "metrics", "logs", "lines")
    }
    assert len(list(ledger.items())) == 4 * 7
    assert dict(ledger.queues()) == {"traces": 0, "metrics": 0, "logs": 0, "lines": 0}


def test_what_was_not_sampled_was_created() -> None:
    """It counts on both sides."""
    ledger = Ledger()
    ledger.account(Signal.TRACES).not_made(7)
    assert ledger.snapshot()["traces"]["created"] == 7
    assert ("traces", "not_sampled", 7) in list(ledger.items())


def test_a_delivery_is_complete_only_if_all_was_exported() -> None:
    """A zero of another state does not matter, a one does."""
    assert Delivery({State.EXPORTED: 5, State.REJECTED: 0}).complete
    assert not Delivery({State.EXPORTED: 5, State.REJECTED: 1}).complete
    assert not Delivery.of(State.UNKNOWN, 5).complete


@pytest.mark.parametrize("lost", [facts.LOST, tuple(innocence.LOST.split('"')[1].split("|"))])
def test_lost_means_the_same_everywhere(lost: tuple[str, ...]) -> None:
    """On the live page, in the last line of a run, in `sidecar check` and on the dashboard: what is not known to have arrived."""
    assert {*lost} == {*State} - {State.EXPORTED, State.NOT_SAMPLED}
    assert len({*lost}) == len(lost)
