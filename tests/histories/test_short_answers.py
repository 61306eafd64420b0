"""Answers of a word in named sessions: what is found at once is what the rules find, whatever clients do in between."""

from random import Random
from typing import Any

import pytest

from sidecar.core.identity import Identity, Source
from tests.histories.shown import CHAT, MESSAGES, Answer, Memory, Shown, request_of

WORDS = ("Yes", "No", "OK", "", "An answer that is long enough to be told from all others.")
SYSTEMS = ("You are an agent.", "You answer in a word.", None)
TOOLS: tuple[Any, ...] = ([{"type": "function", "function": {"name": "look"}}], [])


TITLE = {"type": "json_schema", "json_schema": {"schema": {"properties": {"title": {"type": "string"}}}}}


class Talk:
    """One client's conversation, which it goes on with, edits, or sends again."""

    def __init__(self, dice: Random, identity: Identity) -> None:
        self.dice = dice
        self.identity = identity
        self.said: list[Any] = [{"role": "user", "content": dice.choice(("Hi", "Is it?"))}]
        self.system: str | None = SYSTEMS[0]
        self.tools: Any = TOOLS[0]

    def ask(self, api: str, memory: Memory) -> Shown:
        """Its next request."""
        dice = self.dice
        if dice.random() < 0.15:
            self.system = dice.choice((*SYSTEMS, f"{dice.random()} {dice.random()}"))
        if dice.random() < 0.15:
            self.tools = dice.choice(TOOLS)
        if dice.random() < 0.1:
            del self.said[dice.randrange(1, len(self.said) + 1) :]
        if dice.random() < 0.05:
            self.said[0] = {"role": "user", "content": dice.choice(("Hi", "Is it?", "Another."))}
        form = TITLE if dice.random() < 0.2 else None
        if api == MESSAGES:
            body = request_of(api, self.said, tools=self.tools, system=self.system, output_config=form)
        else:
            system = [] if self.system is None else [{"role": "system", "content": self.system}]
            body = request_of(api, [*system, *self.said], tools=self.tools, response_format=form)
        return memory.ask(api, body, None, self.identity)

    def answered(self, answer: Answer) -> None:
        """It keeps the answer, or another one, and says more."""
        kept = answer if self.dice.random() < 0.9 else Answer(self.dice.choice(WORDS[:4]))
        self.said += [kept, {"role": "user", "content": self.dice.choice(("And?", "Why?"))}]


@pytest.mark.parametrize("api", [CHAT, MESSAGES])
@pytest.mark.parametrize("seed", range(20))
def test_at_once_as_by_the_rules(api: str, seed: int) -> None:
    """Each request is asked about in both ways (`conftest.py`); many are found at once."""
    dice, memory = Random(seed), Memory(60)
    identities = [
        Identity("s", Source.OWN_HEADER),
        Identity("s", Source.OWN_HEADER),
        Identity("t", Source.OWN_HEADER),
        Identity("s", Source.OWN_HEADER, "named", conversation_supplied=True),
        Identity("u", Source.GENERATED, session_supplied=False),
    ]
    talks = [Talk(dice, identity) for identity in identities]
    running: list[tuple[Talk, Shown]] = []
    relations: list[str] = []
    for _ in range(200):
        talk = dice.choice(talks)
        shown = talk.ask(api, memory)
        relations.append(shown.past.relation)
        running.append((talk, shown))
        while running and dice.random() < 0.8:
            talk, shown = running.pop(dice.randrange(len(running)))
            answer = Answer(dice.choice(WORDS), response="resp_0a1b2c3d4e")
            memory.answer(api, shown, answer, streamed=dice.random() < 0.5)
            talk.answered(answer)
    assert relations.count("continues") > 20
