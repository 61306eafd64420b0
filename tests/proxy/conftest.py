"""What tests of the relay take that hold its transports in their own hands."""

from typing import Any

import pytest

from sidecar.proxy.shared import Shared


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Shared]:
    """What the connections of each relay share that the test starts, as it is made."""
    found: list[Shared] = []
    keep = Shared.__init__

    def init(self: Shared, *given: Any, **named: Any) -> None:
        keep(self, *given, **named)
        found.append(self)

    monkeypatch.setattr(Shared, "__init__", init)
    return found
