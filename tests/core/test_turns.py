"""One request to the session manager: what it costs, and what it lets go of."""

import gc
import sys
from types import FrameType

from sidecar import SessionManager
from sidecar.core.facts import Outcome
from sidecar.core.identity import Identity, Source
from sidecar.core.sessions import Revealed


def test_an_everyday_request_is_eight_calls() -> None:
    """A turn of a named session, with a model, tokens and somebody who hears of its wait: arrival and ending."""
    manager = SessionManager()
    heard: list[Revealed] = []
    manager.hear_waits(heard.append)
    identity, one = Identity("s", Source.BODY), bytes(24)

    def request(at: int) -> None:
        turn = manager.arrive(identity, at=at, ref=one, streaming=False, turn=True)
        manager.settle(turn, Outcome.COMPLETED, at=at + 1, model="m", input_tokens=3, output_tokens=4)

    request(1)
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        request(10)
    finally:
        sys.setprofile(None)
    assert calls[1:] == [
        "arrive",
        "new_request_id",
        "__init__",
        "join",
        "settle",
        "leave",
        "turn_passed",
        "leave",
    ]
    assert heard == [(0, one, True, None)] * 2


def test_a_request_keeps_no_other() -> None:
    """Once it has ended, a turn leads to no other turn, to no conversation and to no session."""
    manager, identity = SessionManager(), Identity("s", Source.BODY)
    turns = [
        manager.arrive(identity, at=at, ref=at.to_bytes(24, "big"), streaming=False, turn=True)
        for at in range(5)
    ]
    manager.passed(turns[3], 9)
    for at, turn in enumerate(reversed(turns)):
        manager.settle(turn, Outcome.COMPLETED, at=10 + at, response_id=f"resp_{at}")
    assert [turn.distance for turn in turns] == [4, 3, 2, 0, 0]
    kinds = {
        type(one)
        for turn in turns
        for held in gc.get_referents(turn)
        for one in [held, *gc.get_referents(held)]
    }
    assert {kind.__module__ for kind in kinds} <= {
        "builtins",
        "sidecar.core.identity",
        "sidecar.core.facts",
        "enum",
    }
