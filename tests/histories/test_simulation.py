"""Random conversations of clients that mutate their history: what the memory says against what was scripted.

Each example plays some conversations of every kind of client at once in one memory: they begin alike, are answered alike,
branch, race, repeat, are cut off and compacted. No turn may join another conversation, whatever happens; and one that joins
is to its past what the script says.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from sidecar.core.facts import ResponseFacts
from sidecar.core.threads import Relation
from tests.histories.shown import CHAT, GEMINI, MESSAGES, RESPONSES, Answer, Memory, Shown, request_of, stream

EXAMPLES, AT_ONCE = 50, 40
"""2,000 conversations of each start."""

PROMPTS = (
    "Hello there!",
    "What is the weather like in Oslo?",
    "Write a test.",
    "<system-reminder>x</system-reminder> go",
)
COMMON = ("Ok.", "Hello! How can I help you today?", '{"label": "positive", "score": 1}')
Message = dict[str, Any] | Answer
Mutation = Callable[[list[Message], Random], list[Message]]


def _reminded(messages: list[Message], dice: Random) -> list[Message]:
    """A dated reminder stands in another message with each call."""
    users = [at for at, message in enumerate(messages) if _text_of_user(message) is not None]
    at = dice.choice(users)
    reminder = {"type": "text", "text": f"<system-reminder>\nIt is {dice.random()}\n</system-reminder>"}
    text = {"type": "text", "text": _text_of_user(messages[at])}
    return [*messages[:at], {"role": "user", "content": [reminder, text]}, *messages[at + 1 :]]


def _text_of_user(message: Message) -> str | None:
    if isinstance(message, Answer) or message.get("role") != "user":
        return None
    content = message.get("content")
    return content if isinstance(content, str) else None


def _blocks(messages: list[Message], dice: Random) -> list[Message]:
    """A text stands as a string or as a block, and the cache's mark on another one with each call."""
    made: list[Message] = []
    for message in messages:
        text = _text_of_user(message)
        if text is None or dice.random() < 0.5:
            made.append(message)
            continue
        block: dict[str, Any] = {"type": "text", "text": text}
        if dice.random() < 0.5:
            block["cache_control"] = {"type": "ephemeral"}
        made.append({"content": [block], "role": "user"})
    return made


def _final_texts(messages: list[Message], dice: Random) -> list[Message]:
    """Calls and their results are dropped."""
    del dice
    return [
        message
        for message in messages
        if not (message.calls if isinstance(message, Answer) else message.get("role") == "tool")
    ]


def _thoughtless(messages: list[Message], dice: Random) -> list[Message]:
    """Thoughts are not sent back."""
    del dice
    return [
        Answer(message.text, message.calls, response=message.response)
        if isinstance(message, Answer)
        else message
        for message in messages
    ]


def _new_system(messages: list[Message], dice: Random) -> list[Message]:
    """The system prompt is another one with each call."""
    return [{"role": "system", "content": f"It is {dice.random()} o'clock."}, *messages]


def _rewritten_json(messages: list[Message], dice: Random) -> list[Message]:
    """JSON is written anew."""
    del dice
    return [
        Answer(json.dumps(json.loads(message.text), indent=2), message.calls)
        if isinstance(message, Answer) and message.text.startswith("{")
        else message
        for message in messages
    ]


def _in_texts(messages: list[Message], dice: Random) -> list[Message]:
    """Calls stand inside a text."""
    del dice
    return [
        Answer(f"Calling tools:\n{message.calls}")
        if isinstance(message, Answer) and message.calls
        else message
        for message in messages
    ]


def _window(messages: list[Message], dice: Random) -> list[Message]:
    """Only the latest messages are sent."""
    del dice
    return messages[-4:]


def _as_it_is(messages: list[Message], dice: Random) -> list[Message]:
    del dice
    return messages


CLIENTS: dict[str, tuple[str, Mutation]] = {
    "chat": (CHAT, _as_it_is),
    "chat, blocks and cache marks": (CHAT, _blocks),
    "chat, reminders that move": (CHAT, _reminded),
    "chat, final texts only": (CHAT, _final_texts),
    "chat, another system prompt each time": (CHAT, _new_system),
    "chat, JSON written anew": (CHAT, _rewritten_json),
    "chat, calls inside a text": (CHAT, _in_texts),
    "chat, the latest messages": (CHAT, _window),
    "responses": (RESPONSES, _as_it_is),
    "responses, without thoughts": (RESPONSES, _thoughtless),
    "messages, cache marks that move": (MESSAGES, _blocks),
    "messages, reminders that move": (MESSAGES, _reminded),
    "messages, without thoughts": (MESSAGES, _thoughtless),
    "gemini": (GEMINI, _as_it_is),
}
ALL_OF_THEM = 0.97
"""The share of its continuations that each kind of client joins, where ids or texts of its own can tell."""

LESS = {"chat, the latest messages": 0.4}
"""Kinds that leave less to go by."""

GOES_ON, AGAIN, AT_ONCE_WITH, COMPACTED = (
    {Relation.CONTINUES},
    {Relation.REPEATS},
    {Relation.RACES},
    {Relation.REWRITTEN},
)
"""What the script does, as relations."""

ALSO = {
    "chat, the latest messages": {Relation.REWRITTEN},
    "chat, calls inside a text": {Relation.BRANCHES},
}
"""What clients that change their history so much may seem to do: an answer that is not sent back as it was is another one."""


@dataclass
class Conversation:
    """One scripted conversation. `running` are turns whose answer has not ended."""

    name: str
    kind: str
    history: list[Message] = field(default_factory=list)
    latest: Shown | None = None
    known: bool = False
    """Its latest answer can be told from all others."""
    compacted: bool = False
    """Its history has been replaced since the latest turn."""


class World:
    """Conversations at once, and what became of them."""

    def __init__(self, dice: Random, told: dict[str, Counter[str]]) -> None:
        self.dice = dice
        self.told = told
        self.memory = Memory()
        self.owner: dict[str, str] = {}
        self.conversations = [
            Conversation(
                f"{at}", dice.choice([*CLIENTS]), [{"role": "user", "content": dice.choice(PROMPTS)}]
            )
            for at in range(AT_ONCE)
        ]

    def ask(self, one: Conversation, history: list[Message]) -> Shown:
        """A request comes, and may join no conversation but its own."""
        api, mutate = CLIENTS[one.kind]
        shown = self.memory.ask(api, request_of(api, mutate(history, self.dice)))
        assert self.owner.setdefault(shown.session, one.name) == one.name, "joined to another conversation"
        return shown

    def related(self, one: Conversation, shown: Shown, script: set[Relation]) -> None:
        """What the memory takes the turn for is what the script does, if it knows whose it is."""
        found = shown.past.relation
        if not shown.place.joins:
            assert found is Relation.FIRST
        else:
            assert found in script | ALSO.get(one.kind, set()), (one.kind, found, script)

    def answered(self, one: Conversation, shown: Shown) -> tuple[Answer, bool]:
        """It is answered; whether the answer can be told from all others."""
        answer, own = self._answer(one.kind)
        self.memory.answer(CLIENTS[one.kind][0], shown, answer, streamed=self.dice.random() < 0.8)
        return answer, own

    def _answer(self, kind: str) -> tuple[Answer, bool]:
        dice, api = self.dice, CLIENTS[kind][0]
        signature = (
            f"sig{dice.getrandbits(64):x}z9" if dice.random() < 0.5 and api in (MESSAGES, RESPONSES) else ""
        )
        more: Any = {"thought": f"t{dice.getrandbits(40):x}" if signature else "", "signature": signature}
        response = f"resp_{dice.getrandbits(80):x}z1" if api == RESPONSES else ""
        chance = dice.random()
        if chance < 0.25 and kind not in ("chat, final texts only", "chat, JSON written anew"):
            made = f"call_{dice.getrandbits(80):020x}z1" if chance < 0.2 else "call_0"
            call = (made, "look", json.dumps({"at": dice.choice(["here", "there"])}))
            return Answer("", [call], response=response, **more), chance < 0.2
        if chance < 0.45:
            return Answer(dice.choice(COMMON), response=response, **more), False
        if "JSON" in kind:
            return Answer(json.dumps({"value": dice.getrandbits(64), "why": "so"})), True
        return Answer(f"An answer of its own, {dice.getrandbits(64):x}.", response=response, **more), True

    def step(self, one: Conversation) -> None:
        """The conversation goes on in one of its ways."""
        chance = self.dice.random()
        shown = self.ask(one, one.history)
        self.related(one, shown, COMPACTED if one.compacted else GOES_ON)
        if one.latest is not None:
            counts = self.told[one.kind]
            counts["continuations"] += one.known
            counts["joined"] += one.known and shown.place.joins
        if chance < 0.1:
            one.compacted = False
            self._cut(one, shown)
            return
        if chance < 0.2:  # another try, or another sample
            self.answered(one, shown)
            shown = self.ask(one, one.history)
            self.related(one, shown, AGAIN)
        if chance > 0.9:  # it goes on in two ways at once, and one of them is kept
            other = self.ask(one, [*one.history, {"role": "user", "content": f"Or {self.dice.random()}?"}])
            self.related(one, other, AT_ONCE_WITH | COMPACTED if one.compacted else AT_ONCE_WITH)
            if other.past.relation is Relation.RACES:
                assert shown.past.ref in other.past.races
                assert other.past.ref in shown.past.races
            self.answered(one, other)
        one.compacted = False
        answer, one.known = self.answered(one, shown)
        one.latest = shown
        one.history = [*one.history, answer, *self._next(answer)]
        if self.dice.random() < 0.05:
            one.compacted = True
            summary = {"role": "user", "content": f"Continued from before: {self.dice.random()}"}
            one.history = [summary, *one.history[-2:]]
            one.known = bool(answer.calls) and one.known

    def _next(self, answer: Answer) -> list[Message]:
        if answer.calls:
            return [{"role": "user", "content": f"The result is {self.dice.choice(['good', 'bad'])}."}]
        return [
            {"role": "user", "content": self.dice.choice(["Go on.", "Why?", f"And {self.dice.random()}?"])}
        ]

    def _cut(self, one: Conversation, shown: Shown) -> None:
        """The client leaves in the middle of an answer, and keeps what it has of it."""
        api = CLIENTS[one.kind][0]
        answer = Answer(
            f"A long answer that breaks off somewhere, {self.dice.getrandbits(64):x}, before its end."
        )
        stream(api, answer, shown.facts, size=7, most=self.dice.randint(9, 12))
        kept = answer.text[: 7 * self.dice.randint(6, 7)]
        self.memory.end(shown, complete=False)
        one.latest, one.known = shown, False
        one.history = [*one.history, Answer(kept), {"role": "user", "content": "Go on."}]


@pytest.fixture(scope="module")
def told() -> Any:
    """How many of its continuations each kind of client joined, over all examples; written down at the end."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    yield counts
    for kind, count in sorted(counts.items()):
        sys.stdout.write(f"{kind}: {count['joined']} of {count['continuations']} joined\n")


@pytest.mark.parametrize("start", [20261121, 20261123, 20261129])
def test_no_false_join(told: dict[str, Counter[str]], start: int) -> None:
    """Over all examples no turn joins another conversation, and hardly one that can be told stays alone."""
    numbers = Random(start)
    for _ in range(EXAMPLES):
        dice = Random(numbers.getrandbits(64))
        world = World(dice, told)
        for _ in range(AT_ONCE * 6):
            world.step(dice.choice(world.conversations))
    for kind, count in told.items():
        share = count["joined"] / max(1, count["continuations"])
        assert share >= LESS.get(kind, ALL_OF_THEM), (kind, count)


def test_what_is_shown_to_a_reader_is_what_is_asked() -> None:
    """The answers of this simulation are read as answers."""
    facts = ResponseFacts()
    stream(CHAT, Answer("Hi"), facts)
    assert facts.finish_reasons == ["stop"]


LITTLE = ("", "OK", "Yes", "No", "A longer answer, which is known.", "So.")
"""What the turns of one tree are answered with: each of those that ask the same with another one."""

SILENT: dict[str, Message] = {
    CHAT: {"role": "assistant", "content": ""},
    RESPONSES: {"type": "message", "role": "assistant", "content": []},
    MESSAGES: {"role": "assistant", "content": []},
    GEMINI: {"role": "model", "parts": [{"text": ""}]},
}
"""An answer that says nothing, as it is sent back."""


@pytest.mark.parametrize("start", range(20))
@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_short_answers_in_a_tree(api: str, start: int) -> None:
    """In a session that is named, each turn is to its past what it is, also where an answer is a word, or nothing at all.

    What none of the others goes on from is orphaned, but what came behind the last one that went on.
    """
    dice, memory = Random(f"{api} {start}"), Memory()
    turns: list[tuple[Shown, bool]] = []
    last = 0
    asked: dict[str, int] = {}
    continued: set[int] = set()
    answered: list[list[Message]] = []
    for _ in range(25):
        begun = not answered or dice.random() < 0.1
        parent = -1 if begun else dice.randrange(len(answered))
        question = "Where does it go?" if begun else dice.choice(["Go on.", "Why?", "How?"])
        messages = [*([] if begun else answered[parent]), {"role": "user", "content": question}]
        shown = memory.ask(api, request_of(api, messages), "named")
        times = asked[str(messages)] = asked.get(str(messages), -1) + 1
        expected = (
            Relation.BRANCHES if parent in continued else Relation.FIRST if begun else Relation.CONTINUES
        )
        assert shown.past.relation is (Relation.REPEATS if times else expected)
        if not (begun or times):
            continued.add(parent)
            last = len(turns)
        said = Answer(LITTLE[(times + start + len(messages)) % 6] if times < 6 else f"No. {times}")
        if said.text and dice.random() < 0.3:
            said.calls = [(f"call_{dice.getrandbits(60):015x}z19", "look", "{}")]
        memory.answer(api, shown, said, streamed=dice.random() < 0.5)
        answered.append([*messages, said if said.text else SILENT[api]])
        turns.append((shown, bool(said.text)))
    orphans = {at for at, (_, says) in enumerate(turns) if says and at < last and at not in continued}
    assert {at for at, (shown, says) in enumerate(turns) if says and shown.past.orphaned} == orphans
