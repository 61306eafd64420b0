"""The demo's looks at its sidecar: which of them may fail."""

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.demo.show import Options, Show
from sidecar.picture.lanes import Board
from sidecar.picture.unnamed import Unnamed
from sidecar.picture.watch import WatchError


async def away() -> None:
    """What a look at a sidecar comes to that does not answer in time."""
    raise WatchError("the admin port did not answer")


async def alive() -> None:
    """What a sidecar's process says that has not ended."""


@pytest.mark.parametrize("live,once,may", [(True, False, True), (True, True, False), (False, False, False)])
async def test_a_look_that_fails(live: bool, once: bool, may: bool) -> None:
    """It ends nothing where the next one is drawn in its place, as after Ctrl-Z and a while."""
    child: Any = SimpleNamespace(unnamed=Unnamed(), alive=alive)
    screen: Any = SimpleNamespace(live=live)
    watch: Any = SimpleNamespace(look=away)
    composed: Any = None
    show = Show(screen, watch, child, composed, Options(once=once, seed=1, environ={}))
    try:
        await show._look(Board(0), 1, 0, "calls are running")
    except WatchError:
        assert not may
    else:
        assert may
    assert show.picture is None
