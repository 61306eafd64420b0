"""The next turn comes at an odd time: before its answer has ended, after a part of it, after a failure, after a restart."""

from typing import Any

import pytest

from tests.histories.shown import CHAT, GEMINI, MESSAGES, RESPONSES, Answer, Memory, request_of, stream

APIS = (CHAT, RESPONSES, MESSAGES, GEMINI)
SAID = Answer("An answer that comes in a number of small pieces.", response="resp_0a1b2c3d4e5f6a7b")
ASKED: list[Any] = [{"role": "user", "content": "Say something."}]
NEXT = {"role": "user", "content": "And then?"}


def part_of(length: int) -> Answer:
    """As much of the answer as a client has kept."""
    return Answer(SAID.text[:length], response="resp_none")


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_before_the_last_byte(api: str, session: str | None) -> None:
    """The client has the whole answer, and we have not seen its end: no race, once that has come."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED), session)
    stream(api, SAID, first.facts, size=7, most=-1)
    second = memory.ask(api, request_of(api, [*ASKED, SAID, NEXT]), session)
    assert second.session == first.session
    assert second.past.relation == "races"
    memory.end(first)
    assert second.past.relation == "continues"
    assert first.past.races == second.past.races == ()


@pytest.mark.parametrize("api", APIS)
def test_with_a_part_of_an_answer_that_goes_on(api: str) -> None:
    """It was sent before the answer it should have had was whole: a race, and both name each other."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED))
    stream(api, SAID, first.facts, size=7, most=6)
    second = memory.ask(api, request_of(api, [*ASKED, part_of(28), NEXT]))
    stream(api, SAID, first.facts)
    memory.end(first)
    assert second.session == first.session
    assert second.past.relation == "races"
    assert (first.past.races, second.past.races) == ((second.past.ref,), (first.past.ref,))


@pytest.mark.parametrize("kept", [21, 28, 35])
@pytest.mark.parametrize("api", APIS)
def test_after_the_client_left(api: str, kept: int) -> None:
    """What it has kept of the answer is known as such, also if some of what passed did not reach it."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED))
    stream(api, SAID, first.facts, size=7, most=7)
    memory.end(first, complete=False)
    second = memory.ask(api, request_of(api, [*ASKED, part_of(kept), NEXT]))
    assert second.session == first.session
    assert second.past.relation == "continues"


def test_without_waiting_at_all() -> None:
    """The next message is sent while the first has no answer yet."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED), "named")
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, NEXT]), "named")
    memory.answer(CHAT, first, SAID)
    assert second.past.relation == "races"
    assert first.past.races == (second.past.ref,)


def test_after_a_rejection() -> None:
    """A retry says what was said before; what follows continues the one that was answered."""
    memory = Memory()
    begun = memory.ask(CHAT, request_of(CHAT, ASKED))
    memory.answer(CHAT, begun, SAID)
    rejected = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    memory.end(rejected, complete=False)
    again = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    answer = Answer("The second answer of them all.")
    memory.answer(CHAT, again, answer)
    after = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT, answer, NEXT]))
    assert [one.past.relation for one in (begun, rejected, again, after)] == [
        "first",
        "continues",
        "repeats",
        "continues",
    ]
    assert {one.session for one in (rejected, again, after)} == {begun.session}


def test_after_a_restart() -> None:
    """Nothing is known of what went by before; the conversation is a new one, and goes on from there."""
    memory = Memory()
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    assert (second.place.joins, second.past.relation) == (False, "first")
    answer = Answer("The first answer after the restart.")
    memory.answer(CHAT, second, answer)
    third = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT, answer, NEXT]))
    assert (third.session, third.past.relation) == (second.session, "continues")


def test_turns_without_a_past_that_repeat() -> None:
    """Calls of a session that carry no history stay in its main thread, also behind one that was tried again."""
    memory = Memory()
    asked = [memory.ask(CHAT, request_of(CHAT, [NEXT]), "named") for _ in range(2)]
    asked.append(memory.ask(CHAT, request_of(CHAT, ASKED), "named"))
    assert [one.lane for one in asked] == ["main"] * 3
    assert [one.past.relation for one in asked] == ["first", "repeats", "first"]
