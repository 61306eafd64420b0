"""What must join nothing: ids and texts that a history has, and that show nothing about whose it is."""

from typing import Any

import pytest

from tests.histories.shown import CHAT, GEMINI, MESSAGES, RESPONSES, Answer, Memory, Shown, request_of, stream

APIS = (CHAT, RESPONSES, MESSAGES, GEMINI)
MADE = "call_9f8e7d6c5b4a3f"
ARGUMENTS = '{"where": "here"}'


def user(text: str) -> dict[str, Any]:
    """What a user says."""
    return {"role": "user", "content": text}


def played(
    memory: Memory, api: str, messages: list[Any], answer: Answer, session: str | None = None, **more: Any
) -> Shown:
    """A request, and its answer to the end."""
    shown = memory.ask(api, request_of(api, messages, **more), session)
    memory.answer(api, shown, answer)
    return shown


def result(api: str, made: str, name: str) -> Any:
    """What a tool gave, as the client of an API tells it."""
    if api == CHAT:
        return {"role": "tool", "tool_call_id": made, "content": "It is there."}
    if api == RESPONSES:
        return {"type": "function_call_output", "call_id": made, "output": "It is there."}
    if api == MESSAGES:
        block = {"type": "tool_result", "tool_use_id": made, "content": "It is there."}
        return {"role": "user", "content": [block]}
    given = {"id": made, "name": name, "response": {"output": "It is there."}}
    return {"role": "user", "parts": [{"functionResponse": given}]}


READY = "Goods are taken back within thirty days, if they are as they were. " * 5
"""A long text that an app, or a cache before the model, has ready for many questions."""


@pytest.mark.parametrize(
    "asked,then",
    [
        ("Can I give it back?", "What if I do not like it?"),
        ("Passage 1: thirty days.\n\nCan I give it back?", "Can I give it back?"),
    ],
    ids=["another question", "what was looked up is gone"],
)
@pytest.mark.parametrize("api", APIS)
def test_a_long_answer_alone(api: str, asked: str, then: str) -> None:
    """It shows nothing without its question, also if it is known of one turn only: others may have got it elsewhere."""
    memory, answer = Memory(), Answer(READY)
    played(memory, api, [user(asked)], answer)
    other = memory.ask(api, request_of(api, [user(then), answer, user("And after that?")]))
    assert not other.place.joins
    assert not other.place.ambiguous


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
@pytest.mark.parametrize("api", APIS)
def test_an_id_that_is_spoken_of(api: str, seen: bool) -> None:
    """An answer that mentions another session's call, as one about a log does, is no answer of that session."""
    memory = Memory()
    called = played(memory, api, [user("Look for it.")], Answer("", [(MADE, "look", ARGUMENTS)]))
    asked = [user("Which call has failed, says the log?")]
    said = Answer(f"The call that failed is {MADE}, as the log says.")
    first = played(memory, api, asked, said) if seen else None
    second = played(memory, api, [*asked, said, user("Why?")], Answer("Because of this and that."))
    assert second.session != called.session
    assert second.place.joins == seen
    assert first is None or second.session == first.session


@pytest.mark.parametrize(
    "made",
    ["functions.query_s3bucket2:0", "query_s3bucket2_1", "call_query_s3bucket2_0", "call_20261130T071236Z"],
)
@pytest.mark.parametrize("api", APIS)
def test_ids_that_come_again(api: str, made: str) -> None:
    """Names with a counter, and times: the call and its result have them, and neither shows whose they are."""
    memory, calls = Memory(), [(made, "query_s3bucket2", ARGUMENTS)]
    played(memory, api, [user("Look for it.")], Answer("", calls))
    other = [user("And something else, please."), Answer("", calls), result(api, made, "query_s3bucket2")]
    assert not memory.ask(api, request_of(api, other)).place.joins
    own = [user("Look for it."), Answer("", calls), result(api, made, "query_s3bucket2")]
    assert memory.ask(api, request_of(api, own)).place.joins


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("session", [None, "named"])
def test_a_counter_beside_another_text(api: str, session: str | None) -> None:
    """An id that answers have in common, behind the same request, is no answer's whose text is another one."""
    memory, asked = Memory(), [user("What will it be?")]
    call = ("call_0", "look", ARGUMENTS)
    turns = [
        played(memory, api, asked, Answer(text, [call], response="0"), session) for text in ("Yes", "No")
    ]
    back = result(api, "call_0", "look")
    for text, turn in zip(("Yes", "No"), turns, strict=True):
        after = memory.ask(api, request_of(api, [*asked, Answer(text, [call], response="0"), back]), session)
        if (
            api == RESPONSES and session is None
        ):  # its calls stand apart from its texts: either turn may have made this one
            assert after.place.ambiguous
            continue
        assert (after.session, after.place.other) == (turn.session, turn.past)
    other = memory.ask(api, request_of(api, [*asked, Answer("Never", [call], response="0"), back]), session)
    assert not other.place.joins
    assert session is None or other.past.relation == "rewritten"


@pytest.mark.parametrize("evicted", [1, 5, 10])
@pytest.mark.parametrize("api", APIS)
def test_a_turn_that_is_forgotten(api: str, evicted: int) -> None:
    """What was said alike in a conversation that is remembered no more may be that one's: neither is joined."""
    memory = Memory(limit=40)
    asked, said = [user("Hello there!")], Answer("Hello! How can I help you today?", response="")
    first = played(memory, api, asked, said)
    for number in range(40 + evicted - 1):
        played(
            memory,
            api,
            [user(f"Something else, {number}.")],
            Answer(f"Else it is, number {number}.", response=f"{number}"),
        )
    second = memory.ask(api, request_of(api, asked))
    stream(api, said, second.facts, most=-1)
    assert first.past.forgotten
    after = memory.ask(api, request_of(api, [*asked, said, user("A story, please.")]))
    assert (after.place.joins, after.place.ambiguous) == (False, True)
    memory.end(second)
    after = memory.ask(api, request_of(api, [*asked, said, user("A poem, please.")]))
    assert (after.place.joins, after.place.ambiguous) == (False, True)
    other = [user("Hello, you!")]
    third = played(memory, api, other, said)
    after = memory.ask(api, request_of(api, [*other, said, user("A poem, please.")]))
    assert after.session == third.session != second.session
