"""Lanes of a session whose conversations nobody named: many sub-agents, equal ones, and calls that look like titles."""

import json
from typing import Any

import pytest

from sidecar import apis
from sidecar.core.facts import EventKind, Route
from sidecar.core.identity import Identity, Source
from tests.histories.shown import CHAT, MESSAGES, RESPONSES, Answer, Memory, Shown, request_of
from tests.histories.test_joins import played, result, user

TOOLS = [{"type": "function", "function": {"name": "spawn"}}]
PLANNER = Identity("planned", Source.KNOWN_HEADER, "planner", conversation_supplied=True)


def system(text: str) -> dict[str, Any]:
    """A system prompt."""
    return {"role": "system", "content": text}


def task(number: int) -> str:
    """What a sub-agent is to do."""
    return f"Do the task number {number} of them all."


def spawning(*numbers: int) -> Answer:
    """An answer that calls sub-agents."""
    calls = [
        (f"call_{at:02d}0a1b2c3d4e", "spawn", json.dumps({"prompt": task(number)}))
        for at, number in enumerate(numbers)
    ]
    return Answer("I have it done by others.", calls)


def agent(memory: Memory, number: int, session: str | None, said: str = "", *more: Any) -> Shown:
    """A turn of a sub-agent."""
    answer = Answer(said or f"It is done, that is number {number}.")
    return played(memory, CHAT, [system("You help."), user(task(number)), *more], answer, session)


@pytest.mark.parametrize("session", [None, "named"])
def test_more_agents_than_lanes(session: str | None) -> None:
    """What begins after the last lane is in the main one; the main thread goes on as if nothing had been."""
    memory, calls = Memory(limit=2000), spawning(*range(40))
    asked = [system("You plan."), user("Go.")]
    begun = played(memory, CHAT, asked, calls, session, tools=TOOLS)
    agents = [agent(memory, number, session) for number in range(40)]
    lanes = [one.lane for one in agents]
    assert lanes == [f"side:agent-{number}" for number in range(1, 32)] + ["main"] * 9
    back = [result(CHAT, made, name) for made, name, _ in calls.calls]
    after = played(memory, CHAT, [*asked, calls, *back], Answer("All of it is done."), session, tools=TOOLS)
    assert (after.session, after.lane, after.past.relation) == (begun.session, "main", "continues")
    assert after.place.other is begun.past


@pytest.mark.parametrize("session", [None, "planned"])
def test_agents_of_a_conversation_that_is_named(session: str | None) -> None:
    """Its sub-agents have lanes of their own as well, each another one."""
    memory = Memory()
    memory.answer(
        CHAT,
        memory.ask(CHAT, request_of(CHAT, [user("Go.")], tools=TOOLS), identity=PLANNER),
        spawning(0, 1, 2),
    )
    agents = [agent(memory, number, session) for number in range(3)]
    assert [one.lane for one in agents] == ["side:agent-1", "side:agent-2", "side:agent-3"]
    assert {one.session for one in agents} == {"planned"}


@pytest.mark.parametrize("session", [None, "named"])
def test_agents_of_the_same_task(session: str | None) -> None:
    """As many begin as were called, each in its lane; one more says what an agent has said before."""
    memory, calls = Memory(), spawning(7, 7)
    asked = [system("You plan."), user("Go.")]
    played(memory, CHAT, asked, calls, session, tools=TOOLS)
    said = ["I have rolled a one, alas.", "I have rolled a six, hurray."]
    agents = [agent(memory, 7, session, text) for text in said]
    again = agent(memory, 7, session, "I have rolled a four, so be it.")
    assert [one.lane for one in agents] == ["side:agent-1", "side:agent-2"]
    assert [one.past.relation for one in (*agents, again)] == ["first", "first", "repeats"]
    assert again.lane in [one.lane for one in agents]
    seconds = [
        agent(memory, 7, session, "Yes, of course I am.", Answer(text), user("Sure?")) for text in said
    ]
    assert [one.lane for one in seconds] == ["side:agent-1", "side:agent-2"]
    back = [result(CHAT, made, name) for made, name, _ in calls.calls]
    after = played(memory, CHAT, [*asked, calls, *back], Answer("All of it is done."), session, tools=TOOLS)
    assert after.past.spawned == tuple(one.past.ref for one in seconds)


@pytest.mark.parametrize("session", [None, "named"])
def test_agents_whose_calls_have_one_number(session: str | None) -> None:
    """A server that streams each call in one piece may give all of them the same number; each calls an agent of its own."""
    memory = Memory()
    begun = memory.ask(CHAT, request_of(CHAT, [system("You plan."), user("Go.")], tools=TOOLS), session)
    reader = apis.stream_reader(Route("", CHAT), begun.facts)
    assert reader is not None
    for made, name, arguments in spawning(1, 2).calls:
        call = {"index": 0, "id": made, "function": {"name": name, "arguments": arguments}}
        event = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
        reader.event(b"", json.dumps(event).encode())
    memory.end(begun)
    agents = [agent(memory, number, session) for number in (1, 2)]
    assert [one.lane for one in agents] == ["side:agent-1", "side:agent-2"]
    assert {one.session for one in agents} == {begun.session}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("session", [None, "named"])
def test_an_agent_of_a_function(session: str | None, streamed: bool) -> None:
    """A call of a function, as it was before there were tools, calls an agent as well; the parent goes on from it."""
    memory, asked = Memory(), [system("You plan."), user("Go.")]
    begun = memory.ask(CHAT, request_of(CHAT, asked, functions=TOOLS), session)
    called = {"name": "spawn", "arguments": json.dumps({"prompt": task(1)})}
    message = {"role": "assistant", "content": None, "function_call": called}
    if streamed:
        reader = apis.stream_reader(Route("", CHAT), begun.facts)
        assert reader is not None
        for piece in (
            {"name": "spawn", "arguments": ""},
            *({"arguments": one} for one in called["arguments"]),
        ):
            event = {"choices": [{"index": 0, "delta": {"function_call": piece}}]}
            assert reader.event(b"", json.dumps(event).encode()) is EventKind.CHUNK
        reader.event(b"", b'{"choices":[{"delta":{},"finish_reason":"function_call"}]}')
    else:
        body = apis.body_reader(Route("", CHAT), begun.facts)
        assert body is not None
        assert body.body(json.dumps({"choices": [{"index": 0, "message": message}]}).encode())
    memory.end(begun)
    one = agent(memory, 1, session)
    assert (one.session, one.lane, one.past.relation) == (begun.session, "side:agent-1", "first")
    given = {"role": "function", "name": "spawn", "content": "It is done."}
    after = memory.ask(CHAT, request_of(CHAT, [*asked, message, given], functions=TOOLS), session)
    if session is not None:  # nothing in such a message tells without a name whose it is
        assert (after.past.relation, after.past.spawned) == ("continues", (one.past.ref,))


def test_a_stranger_that_says_an_agents_task() -> None:
    """Once a call's agent has begun, whoever begins alike under another system prompt is nobody's agent."""
    memory = Memory()
    played(memory, CHAT, [system("You plan."), user("Go.")], spawning(7), tools=TOOLS)
    first = agent(memory, 7, None)
    other = played(memory, CHAT, [system("You are somebody else."), user(task(7))], Answer("What?"))
    assert first.place.joins
    assert not other.place.joins


ASKED = "Where does the river go?"


def opened(
    memory: Memory, session: str, before: list[Any], prompt: str = ASKED, tools: Any = TOOLS
) -> tuple[Shown, Shown]:
    """A session's first call without tools, and the first turn of its main thread."""
    first = played(memory, CHAT, before, Answer("To the sea"), session)
    main = played(memory, CHAT, [system("You plan."), user(prompt)], spawning(1), session, tools=tools)
    return first, main


TITLE_CALLS: dict[str, tuple[list[Any], str]] = {
    "the main thread's first message behind another": (
        [system("You name things."), user("Name this:"), user(ASKED)],
        "side:title",
    ),
    "another text": ([system("You sort things."), user(f"What kind is this: {ASKED}")], "side:1"),
    "the same text": ([system("You sort things."), user(ASKED)], "side:1"),
}


@pytest.mark.parametrize("before,lane", TITLE_CALLS.values(), ids=TITLE_CALLS)
def test_a_call_before_the_main_thread(before: list[Any], lane: str) -> None:
    """Seen once, it is known by its system prompt in every other session; a title only if it is made like one."""
    memory = Memory()
    assert [one.lane for one in opened(memory, "first", before)] == ["main", "side:1"]
    assert [one.lane for one in opened(memory, "second", before)] == [lane, "main"]
    again = played(memory, CHAT, before, Answer("To the sea"), "second")
    assert (again.lane, again.past.relation) == (lane, "repeats")


@pytest.mark.parametrize("before", [before for before, _ in TITLE_CALLS.values()], ids=TITLE_CALLS)
@pytest.mark.parametrize("early", [True, False], ids=["known before", "known later"])
def test_a_conversation_without_tools(before: list[Any], early: bool) -> None:
    """What goes on is a main thread, whatever else has come beside its first turn: once known, for good."""
    memory = Memory()
    on = [*before, Answer("To the sea"), user("Why?")]
    if early:
        opened(memory, "first", before)
    for session in ("second", "third"):
        played(memory, CHAT, before, Answer("To the sea"), session)
        played(memory, CHAT, on, Answer("It runs down."), session)
    _, beside = opened(memory, "fourth", before)
    assert beside.lane == "side:1"
    lanes = [played(memory, CHAT, asked, Answer("So."), "fifth").lane for asked in (before, on)]
    assert lanes == ["main", "main"]


@pytest.mark.parametrize("conversation", [None, "named"])
def test_a_compacted_past(conversation: str | None) -> None:
    """An item that stands for a past is one: the thread goes on, and its past is another one than was said."""
    memory = Memory()
    named = Identity(
        "s", Source.KNOWN_HEADER, conversation or "main", conversation_supplied=bool(conversation)
    )

    def turn(items: list[Any], said: Answer) -> Shown:
        body = request_of(RESPONSES, items, instructions="You plan.", tools=TOOLS)
        shown = memory.ask(RESPONSES, body, identity=named)
        memory.answer(RESPONSES, shown, said)
        return shown

    said = Answer("It goes to the sea.", response="resp_0a1b2c3d4e5f")
    begun = turn([user(ASKED)], said)
    turn([user(ASKED), said, user("Why?")], Answer("It runs down.", response="resp_1a1b2c3d4e5f"))
    compacted = {"type": "compaction", "id": "cmp_0a1b2c3d4e5f", "encrypted_content": "gAAAx1y2" * 500}
    after = turn([user(ASKED), compacted, user("And then?")], Answer("No more.", response="resp_2a"))
    assert (after.lane, after.past.relation) == (begun.lane, "rewritten")


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_past_that_an_answer_compacted(streamed: bool) -> None:
    """The item is known by its id where nobody named the session."""
    memory = Memory()
    compacted = {"type": "compaction", "id": "cmp_0a1b2c3d4e5f", "encrypted_content": "gAAAx1y2" * 500}
    first = memory.ask(RESPONSES, request_of(RESPONSES, [user(ASKED)]))
    route = Route("", RESPONSES)
    if streamed:
        reader = apis.stream_reader(route, first.facts)
        assert reader is not None
        reader.event(b"", json.dumps({"type": "response.output_item.done", "item": compacted}).encode())
    else:
        whole = apis.body_reader(route, first.facts)
        assert whole is not None
        whole.body(json.dumps({"id": "resp_1", "status": "completed", "output": [compacted]}).encode())
    memory.end(first)
    second = memory.ask(RESPONSES, request_of(RESPONSES, [user(ASKED), compacted, user("And then?")]))
    assert second.session == first.session


FIRST = Answer("The river goes to the sea.")
SECOND = Answer("It does so because it runs down.")
SUMMARY = Answer("It was asked where the river goes, and why.")
REPLACED: dict[str, tuple[list[Any], str]] = {
    "by the call's answer": ([user("What was said?"), SUMMARY, user("Go on.")], "side:compaction"),
    "by the call's answer and a tail": (
        [user("What was said?"), SUMMARY, user("Why?"), SECOND, user("Go on.")],
        "side:compaction",
    ),
    "by something else": (
        [user("What was said?"), Answer("This and that, and more."), user("Go on.")],
        "side:1",
    ),
    "not at all": (
        [user(ASKED), FIRST, user("Why?"), SECOND, user("What was said?"), SUMMARY, user("Go on.")],
        "side:1",
    ),
}


@pytest.mark.parametrize("after,lane", REPLACED.values(), ids=REPLACED)
def test_a_call_that_writes_a_summary(after: list[Any], lane: str) -> None:
    """What it was for is seen when its answer stands in place of the past; from then on its system prompt says so."""
    memory = Memory()

    def run(session: str) -> list[Shown]:
        mine, main = [system("You plan."), user(ASKED), FIRST, user("Why?")], {"tools": TOOLS}
        turns = [played(memory, CHAT, mine[:2], FIRST, session, **main)]
        turns.append(played(memory, CHAT, mine, SECOND, session, **main))
        past = [system("You summarise."), *mine[1:], SECOND, user("Write a summary.")]
        turns.append(played(memory, CHAT, past, SUMMARY, session))
        turns.append(played(memory, CHAT, [mine[0], *after], Answer("Well then."), session, **main))
        return turns

    assert [one.lane for one in run("first")] == ["main", "main", "side:1", "main"]
    second = run("second")
    assert [one.lane for one in second] == ["main", "main", lane, "main"]
    assert second[2].past.relation == "continues"


@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "no tools"])
def test_a_call_with_examples(tools: Any) -> None:
    """Answers that nobody gave are no past of the main thread's, which goes on as if the call had not been."""
    memory = Memory()
    examples: list[Any] = [
        system("You make a question stand alone."),
        user("And he?"),
        Answer("How old is Ada's son?"),
    ]
    mine: list[Any] = [system("You plan."), user(ASKED)]
    turns, beside = [], []
    for said in (FIRST, SECOND, SUMMARY):
        turns.append(played(memory, CHAT, mine, said, "named", tools=tools))
        question = user(f"After {said.text}: why?")
        beside.append(played(memory, CHAT, [*examples, question], Answer("Why is that so, then?"), "named"))
        mine += [said, user("Why?")]
    assert [one.lane for one in (*turns, *beside)] == ["main"] * 3 + ["side:1"] * 3
    assert [one.past.relation for one in turns] == ["first", "continues", "continues"]
    assert [one.past.relation for one in beside] == ["first"] * 3
    assert [one.past.broke_at for one in turns] == [None] * 3
    assert not [one for one in (*turns, *beside) if one.past.orphaned]


def test_an_app_that_writes_answers_anew() -> None:
    """Under a prompt that holds what was looked up for each turn: what it begins with is the main thread's past, rewritten."""
    memory = Memory()
    turns: list[Shown] = []
    past: list[Any] = [user(ASKED)]
    for number in range(3):
        prompt = system("\n".join(f"Passage {number}.{line}: so it is." for line in range(40)))
        turns.append(
            played(memory, CHAT, [prompt, *past], Answer(f"A long answer, number {number}."), "named")
        )
        past += [Answer(f"Shortened: {number}."), user(f"Why {number}?")]
    assert [one.lane for one in turns] == ["main"] * 3
    assert [one.past.relation for one in turns] == ["first", "rewritten", "rewritten"]


def test_something_is_looked_up_after_small_talk() -> None:
    """In a chat without tools: the system prompt was the same for some turns, and is another one with each from then on."""
    memory, past = Memory(), list[Any]()
    turns: list[Shown] = []
    for number in range(5):
        passages = "\n".join(f"Passage {number}.{line}: so it is." for line in range(40 * (number > 2)))
        answer = Answer(f"A long answer, number {number}.")
        asked = [system(f"You help.\n{passages}"), *past, user(f"What is {number}?")]
        shown = played(memory, CHAT, asked, answer, "named")
        past = [*asked[1:], answer]
        turns.append(shown)
    assert [one.lane for one in turns] == ["main"] * 5
    assert [one.past.relation for one in turns] == ["first", *["continues"] * 4]


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_call_beside_a_chat_without_tools(overlaps: bool) -> None:
    """Under another system prompt it looks like a turn that something was looked up for: it is one, and the next one branches."""
    memory = Memory()
    asked: list[Any] = [system("You help."), user(ASKED)]
    played(memory, CHAT, asked, FIRST, "named")
    asked += [FIRST, user("Why?")]
    played(memory, CHAT, asked, SECOND, "named")
    beside = [system("You suggest what may be asked next."), *asked[1:], SECOND, user("What may be asked?")]
    call = memory.ask(CHAT, request_of(CHAT, beside), "named")
    if not overlaps:
        memory.answer(CHAT, call, Answer("Whether there are boats on it."))
    after = memory.ask(CHAT, request_of(CHAT, [*asked, SECOND, user("And then?")]), "named")
    assert (call.lane, call.past.relation) == ("main", "continues")
    assert (after.lane, after.past.relation) == ("main", "races" if overlaps else "branches")


def test_a_call_that_reads_along() -> None:
    """What a call beside the main thread keeps is what it has in common with the one before it, and there its prompt breaks."""
    memory = Memory()

    def turn(messages: list[Any], said: Answer, prompt: str, *tools: Any) -> Shown:
        shown = memory.ask(MESSAGES, request_of(MESSAGES, messages, system=prompt, tools=tools), "named")
        memory.answer(MESSAGES, shown, said)
        return shown

    mine = [user(ASKED), FIRST, user("Why?")]
    turn(mine[:1], FIRST, "You plan.", *TOOLS)
    first = turn([*mine[:2], user("What is to be noted?")], Answer("A river."), "You take notes.")
    turn(mine, SECOND, "You plan.", *TOOLS)
    second = turn([*mine, SECOND, user("What is to be noted?")], Answer("A sea."), "You take notes.")
    assert (first.lane, second.lane) == ("side:1", "side:1")
    assert (second.past.kept, second.past.broke_at) == (2, "message")


@pytest.mark.parametrize("session", [None, "named"])
def test_agents_that_say_the_same(session: str | None) -> None:
    """Of equal agents each goes on in a lane of its own: as long as they say the same, it does not matter which."""
    memory, said = Memory(), Answer("I shall roll the dice at once.")
    played(memory, CHAT, [system("You plan."), user("Go.")], spawning(7, 7), session, tools=TOOLS)
    for _ in range(2):
        agent(memory, 7, session, said.text)
    asked = [system("You help."), user(task(7)), said, user("Do so.")]
    turns = [memory.ask(CHAT, request_of(CHAT, asked), session) for _ in range(3)]
    assert sorted(one.lane for one in turns[:2]) == ["side:agent-1", "side:agent-2"]
    assert [one.past.relation for one in turns] == ["continues", "continues", "repeats"]
    for number, one in enumerate(turns[:2]):
        memory.answer(CHAT, one, own := Answer(f"I have rolled it, and it is a {number}."))
        after = memory.ask(CHAT, request_of(CHAT, [*asked, own, user("Sure?")]), session)
        assert (after.lane, after.past.relation) == (one.lane, "continues")


def test_another_run_of_the_same_agent() -> None:
    """An agent hands its own task on as it is: who begins as that agent did is another run of it, and none that it called."""
    memory = Memory()
    asked = [system("You plan."), user(task(7))]
    runs = [played(memory, CHAT, asked, spawning(7), tools=TOOLS) for _ in range(2)]
    assert not [one for one in runs if one.place.joins]
    memory = Memory()
    first = played(memory, CHAT, asked, spawning(7), tools=TOOLS)
    called = agent(memory, 7, None)
    assert (called.session, called.lane) == (first.session, "side:agent-1")
