"""Pasts that clients cut, move and write anew, and answers that many turns have in common: whose they are, and who has them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.core.digests import Digester
from sidecar.core.echo import Echo
from sidecar.core.identity import Identity, Source
from tests.histories.shown import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    WAITS,
    Answer,
    Memory,
    Shown,
    request_of,
    stream,
)
from tests.histories.test_joins import APIS, played, result, user
from tests.telemetry.test_session_spans import CONVERSATION

GREETING = Answer("Hello! How can I help you today?", response="resp_hello")
MADE = "call_9f8e7d6c5b4a3f"
TOOLS = [{"type": "function", "function": {"name": "spawn"}}]


def system(text: str) -> dict[str, Any]:
    """A system prompt."""
    return {"role": "system", "content": text}


def said(number: int) -> Answer:
    """An answer of its own."""
    return Answer(f"That is what I say to it, number {number}.", response=f"resp_{number}")


@pytest.mark.parametrize("api", APIS)
def test_a_stranger_that_began_alike(api: str) -> None:
    """What was answered since then nobody here asked for: somebody else has only begun with the same words."""
    memory = Memory()
    played(memory, api, [user("Hi"), GREETING, user("A story.")][:1], GREETING)
    other: list[Any] = [user("Hi"), GREETING, user("A poem."), said(1), user("And then?")]
    assert not memory.ask(api, request_of(api, other)).place.joins
    longer = [*other, said(2), user("So?")]
    assert not memory.ask(api, request_of(api, longer)).place.joins


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_a_client_changes(api: str) -> None:
    """Its question was asked here, so the answer before it is enough."""
    memory = Memory()
    first = played(memory, api, [user("Hi")], GREETING)
    past: list[Any] = [user("Hi"), GREETING, user("A story.")]
    played(memory, api, past, said(1))
    changed = Answer("That is something else than it said.", response="")
    after = memory.ask(api, request_of(api, [*past, changed, user("And then?")]))
    assert after.session == first.session


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_a_call_that_is_written_down(api: str, session: str | None) -> None:
    """A client that tells of a call in a text sends its id back."""
    memory, asked = Memory(), [user("Look for it.")]
    first = played(memory, api, asked, Answer("", [(MADE, "look", "{}")]), session)
    text = f"Calling tools: [{{'id': '{MADE}', 'name': 'look'}}]"
    told = {"role": "assistant", "content": text} if api == RESPONSES else Answer(text)
    after = memory.ask(api, request_of(api, [*asked, told, user("It is there.")]), session)
    assert (after.session, after.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_many_have(api: str, session: str | None) -> None:
    """Each goes on in its own conversation, for its past is another one; also where the first of them are long gone."""
    memory, no = Memory(limit=40), Answer("I am sorry, but I cannot help you with that.", response="resp_no")
    for number in range(60):
        asked = [user(f"Please do the thing number {number}.")]
        name = session and f"{session}-{number}"
        turn = played(memory, api, asked, no, name)
        turns = [memory.ask(api, request_of(api, [*asked, no, user("Why?")]), name)]
        if number > 12:  # one that came nine turns before
            asked = [user(f"Please do the thing number {number - 9}.")]
            early = memory.ask(
                api, request_of(api, [*asked, no, user("Really?")]), session and f"{session}-{number - 9}"
            )
            assert early.past.relation in ("continues", "branches", "races")
        assert (turns[0].session, turns[0].past.relation) == (turn.session, "continues")


def test_an_agent_that_says_the_same_each_time() -> None:
    """It waits for long: one conversation, although many of its turns were answered alike."""
    memory, waits = Memory(), Answer('{"action": "wait", "done": false}')
    past: list[Any] = [user("Wait for it.")]
    turns = []
    for number in range(100):
        turns.append(played(memory, CHAT, past, waits))
        past += [waits, user(f"It is not there, at {number}.")]
    assert {turn.session for turn in turns} == {turns[0].session}
    assert [turn.past.relation for turn in turns[1:]] == ["continues"] * 99


def orphans(turns: list[Shown]) -> list[int]:
    """Which of these turns' answers nobody has."""
    return [at for at, turn in enumerate(turns) if turn.past.orphaned]


@pytest.mark.parametrize("api", [CHAT, MESSAGES, GEMINI])
def test_a_window_that_slides(api: str) -> None:
    """Of each answer the next turn has all, though of its past no more than a part: none is orphaned but what it lacks."""
    memory, turns = Memory(), []
    past: list[Any] = [user("Question 0?")]
    for number in range(5):
        turns.append(played(memory, api, past[-3:], said(number), "named"))
        past += [said(number), user(f"Question {number + 1}?")]
    assert orphans(turns) == []
    memory.ask(api, request_of(api, [user("Question 4?"), said(7), user("Question 6?")]), "named")
    assert orphans(turns) == [4]


def test_a_question_with_what_was_looked_up() -> None:
    """It stands in the latest question alone; the history has the question as it was asked."""
    memory, turns = Memory(), []
    past: list[Any] = []
    for number in range(4):
        asked = user(f"Passages: {number} and {number + 1}.\nQuestion {number}?")
        turns.append(played(memory, CHAT, [*past, asked], said(number), "named"))
        past += [user(f"Question {number}?"), said(number)]
    assert orphans(turns) == []


def test_calls_with_examples_alone() -> None:
    """They are calls of their own, each the first of its kind, whatever examples they begin with."""
    memory = Memory()
    examples: list[Any] = [system("Tell the language."), user("Guten Tag"), Answer("It is German, I think.")]
    turns = [
        played(memory, CHAT, [*examples, user(f"Text number {number}")], said(number), "named")
        for number in range(4)
    ]
    assert [turn.past.relation for turn in turns] == ["first"] * 4
    assert orphans(turns) == []


def test_a_task_that_is_handed_over() -> None:
    """The agent that takes it over has the answer of the one before, and that one goes on with the other's."""
    memory, asked, turns = Memory(), [user("I want my money back.")], []
    calls = Answer("", [(MADE, "transfer_to_refunds", "{}")])
    back = result(CHAT, MADE, "transfer_to_refunds")
    others = [{"type": "function", "function": {"name": "refund"}}]
    turns.append(played(memory, CHAT, [system("You sort."), *asked], calls, "named", tools=TOOLS))
    past = [*asked, calls, back]
    turns.append(played(memory, CHAT, [system("You refund."), *past], said(1), "named", tools=others))
    past += [said(1), user("Thank you.")]
    turns.append(played(memory, CHAT, [system("You sort."), *past], said(2), "named", tools=TOOLS))
    past += [said(2), user("One more thing.")]
    turns.append(played(memory, CHAT, [system("You refund."), *past], said(3), "named", tools=others))
    assert orphans(turns[:3]) == []


@pytest.mark.parametrize("size", [1000, 1025, 3000, 20_000])
@pytest.mark.parametrize("api", [MESSAGES, GEMINI, RESPONSES])
def test_a_signature_of_some_length(api: str, size: int) -> None:
    """An answer of thoughts and a call without an id is known by what it is signed with, and by all of that."""
    signature = ("EqQBCgIYAhIkx7Yq0aB3" * (size // 20 + 1))[:size]
    memory, asked = Memory(), [user("Look for it.")]
    answer = Answer("", [("", "look", "{}")] if api == GEMINI else [], thought="one", signature=signature)
    if api == RESPONSES:
        answer.thought = ""
        answer = Answer("", [], thought="one", signature=signature)
    first = played(memory, api, asked, answer)
    given = {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"at": 1}}}]}
    behind = given if api == GEMINI else user("Go on.")
    assert memory.ask(api, request_of(api, [*asked, answer, behind])).session == first.session
    if api != RESPONSES:  # there a thought has an id of its own
        answer.signature = signature[:-1] + "!"
        assert not memory.ask(api, request_of(api, [*asked, answer, behind])).place.joins


@pytest.mark.parametrize("name", ["prompt", "task", "message", "input", "request", "description"])
def test_what_an_agent_is_told_by(name: str) -> None:
    """The argument that gives it its first message has many names."""
    memory, task = Memory(), "Find the source of that river."
    call = (MADE, "agent", json.dumps({name: task}))
    first = played(memory, CHAT, [system("You plan."), user("Go.")], Answer("", [call]), tools=TOOLS)
    begun = memory.ask(CHAT, request_of(CHAT, [system("You help."), user(task)]))
    assert (begun.session, begun.lane) == (first.session, "side:agent-1")


@pytest.mark.parametrize("how", ["it went on", "its past was written anew", "its conversation ended"])
def test_a_task_that_nobody_waits_for(how: str) -> None:
    """Who says later what a call has said is no agent of it."""
    memory, task = Memory(), "Good morning, everyone!"
    asked: list[Any] = [system("You plan."), user("Greet them.")]
    calls = Answer("", [(MADE, "send", json.dumps({"message": task}))])
    first = played(memory, CHAT, asked, calls, tools=TOOLS)
    if how == "it went on":
        played(memory, CHAT, [*asked, calls, result(CHAT, MADE, "send")], said(1), tools=TOOLS)
    elif how == "its past was written anew":
        named = Identity(first.session, Source.KNOWN_HEADER)
        anew = [asked[0], user("Shortened."), Answer("What I said, in short."), user("Go on.")]
        memory.ask(CHAT, request_of(CHAT, anew, tools=TOOLS), identity=named)
    else:
        summary = replace(CONVERSATION, session_id=first.session, conversation_id=first.lane)
        memory.histories.conversation_ended(summary)
    other = memory.ask(CHAT, request_of(CHAT, [system("You are kind."), user(task)]))
    assert not other.place.joins


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize("session", [None, "named"])
def test_a_task_of_a_single_turn(session: str | None, late: bool) -> None:
    """Nobody tells when a conversation of one turn ends that nobody named: its calls wait for as long as a session may be idle."""
    memory, tasks = Memory(), ["Find the source of that river.", "And where it meets the sea."]
    made = [(f"{MADE}{at}", "agent", json.dumps({"prompt": task})) for at, task in enumerate(tasks)]
    first = played(memory, CHAT, [system("You plan."), user("Go.")], Answer("", made), session, tools=TOOLS)
    memory.now = WAITS + late
    begun = played(memory, CHAT, [system("You help."), user(tasks[0])], said(1))
    assert begun.place.joins == (session is not None or not late)
    memory.now *= 2
    if begun.place.joins:  # from then on it is told of that session as well
        second = memory.ask(CHAT, request_of(CHAT, [system("You help."), user(tasks[1])]))
        assert (second.session, second.lane) == (first.session, "side:agent-2")


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_a_task_of_a_single_turn_and_a_standstill(late: bool) -> None:
    """A time in which nobody could come is no waiting, neither before the call nor behind it."""
    memory, task = Memory(), "Find the source of that river."
    memory.histories.stood_still(WAITS)
    memory.now = WAITS
    made = [(MADE, "agent", json.dumps({"prompt": task}))]
    played(memory, CHAT, [system("You plan."), user("Go.")], Answer("", made), tools=TOOLS)
    memory.histories.stood_still(3 * WAITS)
    memory.now += 4 * WAITS + late
    assert memory.ask(CHAT, request_of(CHAT, [system("You help."), user(task)])).place.joins is not late


def test_the_same_question_to_somebody_else() -> None:
    """Under another system prompt and with other tools it is no repetition."""
    memory = Memory()
    planned = Identity("s", Source.KNOWN_HEADER, "c", conversation_supplied=True)
    bodies = [
        request_of(CHAT, [system("You plan the work."), user("Build it.")], tools=TOOLS),
        request_of(CHAT, [system("Execute what is planned."), user("Build it.")]),
        request_of(CHAT, [system("Execute what is planned."), user("Build it.")]),
    ]
    turns = [memory.ask(CHAT, body, identity=planned) for body in bodies]
    assert [turn.past.relation for turn in turns] == ["first", "first", "repeats"]


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_thoughts_that_a_client_puts_in_front(api: str, session: str | None) -> None:
    """They came apart, and go back within the text."""
    memory, asked = Memory(), [user("Where does it go?")]
    spoken = Answer("The river goes down to the sea.", response="resp_1")
    first = played(memory, api, asked, spoken, session)
    back = Answer(f"<think>\nLet me see.\n</think>\n\n{spoken.text}", response="resp_2")
    after = memory.ask(api, request_of(api, [*asked, back, user("Why?")]), session)
    assert (after.session, after.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_another_question_after_a_rejection(api: str, session: str | None) -> None:
    """What was rejected continued nothing."""
    memory, asked = Memory(), [user("Where does it go?")]
    first = played(memory, api, asked, said(1), session)
    rejected = memory.ask(api, request_of(api, [*asked, said(1), user("Why, in 9,000 pages?")]), session)
    memory.end(rejected, complete=False)
    after = memory.ask(api, request_of(api, [*asked, said(1), user("Why?")]), session)
    assert (after.past.relation, after.place.other) == ("continues", first.past)


def test_an_answer_of_very_many_calls() -> None:
    """No more of them are kept than are looked at."""
    echo = Echo(Digester(b"a key of some bytes"))
    for call in range(5000):
        echo.arguments(0, call, '{"prompt": "Find the source of that river."}')
    assert len(echo._arguments) == 256
    _, _, calls = echo.marks()
    assert calls


def test_an_answer_in_flight_that_has_a_long_id() -> None:
    """Of an id only a kilobyte is kept, whatever its length."""
    memory = Memory()
    shown = memory.ask(MESSAGES, request_of(MESSAGES, [user("Think.")]))
    stream(MESSAGES, Answer("So it is.", signature="aB3" * 20_000), shown.facts)
    echo = shown.facts.echo
    assert echo is not None
    assert max(map(len, echo._ids)) <= 1024
