"""In every test here, what most requests are is found in both ways: at once, and by the rules for any request."""

import pytest

from sidecar.core.digests import History
from sidecar.core.histories import Histories
from sidecar.core.identity import Identity
from sidecar.core.threads import Place

_by_rules, _at_once = Histories._any, Histories._next


def _same(memory: Histories, history: History, identity: Identity) -> Place | None:
    """What a request is, found at once, if it is; the rules say the same."""
    place = _at_once(memory, history, identity)
    if place is not None:
        assert place == _by_rules(memory, history, identity)
    return place


@pytest.fixture(autouse=True)
def _both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Histories, "_next", _same)
