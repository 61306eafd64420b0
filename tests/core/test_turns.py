"""One request to the session manager: what it costs, until when it is in flight, and what it lets go of."""

import gc
import sys
from types import FrameType

import pytest

from sidecar import SessionManager
from sidecar.core.facts import Outcome
from sidecar.core.identity import ChainEntry, Identity, Source
from sidecar.core.sessions import ConversationSummary, SessionListener, Turn


class _Summaries(SessionListener):
    """Keeps what is told of conversations that have ended."""

    def __init__(self) -> None:
        self.conversations: list[ConversationSummary] = []

    def conversation_ended(self, summary: ConversationSummary) -> None:
        self.conversations.append(summary)


def arrive(
    manager: SessionManager,
    at: int,
    identity: Identity = Identity("s", Source.BODY),  # noqa: B008 - it never changes
    continues: ChainEntry | None = None,
) -> Turn:
    """A turn arrives."""
    ref = at.to_bytes(24, "big")
    return manager.arrive(identity, at=at, ref=ref, streaming=False, turn=True, continues=continues)


def test_an_everyday_request_is_eight_calls() -> None:
    """A turn of a named session, with a model and tokens: arrival and ending."""
    manager = SessionManager()
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


def test_a_request_keeps_no_other() -> None:
    """Once it has ended, a turn leads to no other turn, to no conversation and to no session."""
    manager = SessionManager()
    turns = [arrive(manager, at) for at in range(5)]
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


def test_an_answer_that_has_passed_is_in_flight_no_more() -> None:
    """What is left is to read it, which neither meets nor delays a turn, and takes nothing off the time to think."""
    manager = SessionManager()
    one = arrive(manager, 0)
    manager.passed(one, 10)
    two = arrive(manager, 14)
    assert (two.concurrency, two.think_time, two.wait) == (1, 4, 0)
    manager.settle(two, Outcome.COMPLETED, at=16)
    manager.settle(one, Outcome.COMPLETED, at=20)
    assert one.overlapped_by_count == 0
    assert arrive(manager, 26).think_time == 10


@pytest.mark.parametrize("ended", [None, 20, 24])
def test_a_made_up_request_that_had_passed_is_in_flight_no_more(ended: int | None) -> None:
    """So it is too if the turn that makes its id a session comes while the answer is read, or after that."""
    manager, told = SessionManager(), _Summaries()
    manager.add_listener(told)
    first = arrive(manager, 0, Identity("g", Source.GENERATED))
    manager.learn_response(first, "resp_1")
    for at in (10, 12):
        manager.passed(first, at)
    if ended is not None:
        manager.settle(first, Outcome.COMPLETED, at=ended)
    second = arrive(manager, 25, Identity("g", Source.RESPONSE_CHAIN), manager.chain("resp_1"))
    assert (second.sequence, second.concurrency, second.overlaps) == (2, 1, ())
    assert (second.think_time, second.wait, manager.overlapping) == (15, 0, 0)
    if ended is None:
        manager.settle(first, Outcome.COMPLETED, at=30)
    manager.settle(second, Outcome.COMPLETED, at=40)
    assert first.overlapped_by_count == 0
    manager.shutdown(50)
    totals = told.conversations[0].totals
    assert (totals.turns, totals.most_at_once, totals.overlaps) == (2, 1, 0)
    assert totals.model_time == (ended or 30) + 15
