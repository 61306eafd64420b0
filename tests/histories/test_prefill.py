"""Anthropic's prefill: a request ends with the beginning of its answer, which goes on from there and comes back as one text."""

from typing import Any

import pytest

from tests.histories.shown import CHAT, MESSAGES, Answer, Memory, Shown, request_of, stream

ASKED = {"role": "user", "content": "Give me all of it."}
NEXT = {"role": "user", "content": "And then?"}
REST = "it is what it is, so be it."


def said(text: str) -> dict[str, Any]:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def asked(memory: Memory, prefill: Any, rest: str, session: str | None, *, streamed: bool = True) -> Shown:
    """A turn whose answer begins with that text, and goes on with the other one."""
    turn = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, prefill]), session)
    memory.answer(MESSAGES, turn, Answer(rest), streamed=streamed)
    return turn


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "prefill,rest",
    [
        ("Well, ", REST),
        ("{", '"all": "of it", "more": 1.0}'),
        ("x" * 5000, REST),
        ("Well, ", "x " * 5000 + "y"),
    ],
    ids=["a word", "JSON", "much", "a long answer"],
)
def test_an_answer_that_was_begun(prefill: str, rest: str, streamed: bool, session: str | None) -> None:
    """The next turn, which has both as one text, continues it; and what comes after it."""
    for first_said in (said(prefill), {"role": "assistant", "content": [{"type": "text", "text": prefill}]}):
        memory = Memory()
        first = asked(memory, first_said, rest, session, streamed=streamed)
        past = [ASKED, said((prefill + rest).replace("1.0", "1")), NEXT]
        second = memory.ask(MESSAGES, request_of(MESSAGES, past), session)
        assert (second.session, second.past.relation) == (first.session, "continues")
        assert (second.past.kept, second.past.broke_at) == (1, None)
        memory.answer(MESSAGES, second, Answer("A third thing altogether."))
        third = memory.ask(
            MESSAGES, request_of(MESSAGES, [*past, said("A third thing altogether."), NEXT]), session
        )
        assert (third.session, third.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("session", [None, "named"])
def test_each_turn_is_begun(session: str | None) -> None:
    """As an app does that wants JSON each time."""
    memory, past, before = Memory(), [ASKED], None
    for number in range(4):
        turn = memory.ask(MESSAGES, request_of(MESSAGES, [*past, said("{")]), session)
        assert turn.past.relation == ("first" if before is None else "continues")
        assert before is None or (turn.session, turn.past.broke_at) == (before.session, None)
        rest = f'"number": "the {number}th"}}'
        memory.answer(MESSAGES, turn, Answer(rest))
        past, before = [*past, said("{" + rest), NEXT], turn


@pytest.mark.parametrize("session", [None, "named"])
def test_an_answer_that_was_cut_goes_on(session: str | None) -> None:
    """An answer that reached its limit is the beginning of the next one: that continues it, and is continued."""
    memory = Memory()
    first = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED]), session)
    memory.answer(MESSAGES, first, Answer("Well, as far as I can see, "))
    second = asked(memory, said("Well, as far as I can see,"), " " + REST, session)
    third = memory.ask(
        MESSAGES, request_of(MESSAGES, [ASKED, said("Well, as far as I can see, " + REST), NEXT]), session
    )
    assert {first.session, second.session, third.session} == {first.session}
    assert [turn.past.relation for turn in (second, third)] == ["continues"] * 2


def test_before_the_last_byte_of_one_that_was_begun() -> None:
    """What is known of it so far is its beginning and what came; the beginning alone is nothing of it."""
    memory, prefill = Memory(), "Well, as far as I can see, "
    first = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, said(prefill)]))
    for _ in range(2):
        assert not memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, said(prefill), NEXT])).place.joins
        memory.end(first, complete=False)
    first = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, said(prefill)]))
    stream(MESSAGES, Answer(REST), first.facts, size=7, most=3)
    second = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, said(prefill + REST[:7]), NEXT]))
    assert (second.session, second.past.relation) == (first.session, "races")
    memory.end(first, complete=False)
    third = memory.ask(MESSAGES, request_of(MESSAGES, [ASKED, said(prefill + REST[:14]), NEXT]))
    assert third.place.joins is False


def test_one_that_was_begun_again() -> None:
    """The same is a repeat; the same question begun otherwise is no continuation, and each has its own answer."""
    memory = Memory()
    first = asked(memory, said("Well, "), REST, "named")
    again = asked(memory, said("Well, "), REST.upper(), "named")
    other = asked(memory, said("Alas, "), REST, "other")
    assert (again.past.relation, other.past.relation) == ("repeats", "first")
    for text, turn in (("Well, " + REST, first), ("Well, " + REST.upper(), again), ("Alas, " + REST, other)):
        body = request_of(MESSAGES, [ASKED, said(text), NEXT])
        second = memory.ask(MESSAGES, body, turn.session)
        assert (second.past.relation, second.place.parent) == ("continues", turn.past)


def test_what_joins_no_answer_that_was_begun() -> None:
    """Neither its beginning nor its rest alone, nor both after another question, nor where an API begins none."""
    memory = Memory()
    asked(memory, said("Well, as far as I can see, "), REST, None)
    texts = ("Well, as far as I can see, ", REST)
    pasts = [[ASKED, said(text), NEXT] for text in texts]
    pasts.append([NEXT, said("".join(texts)), NEXT])
    assert not [past for past in pasts if memory.ask(MESSAGES, request_of(MESSAGES, past)).place.joins]
    turn = memory.ask(CHAT, request_of(CHAT, [NEXT, said("Well, ")]))
    memory.answer(CHAT, turn, Answer(REST))
    assert not memory.ask(CHAT, request_of(CHAT, [NEXT, said("Well, " + REST), NEXT])).place.joins
