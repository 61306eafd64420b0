"""A large body that is read in pieces tells what one that is read at once does, and no step of it is long."""

import json
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sidecar import apis
from sidecar.apis import catalog, pieces
from sidecar.core.digests import Digester
from sidecar.core.facts import RequestFacts, Route
from tests.pace import least

WHOLE: Any = object()
"""Stands for the end of all steps."""

APIS = {
    "openai.chat": ("messages", "content"),
    "anthropic.messages": ("messages", "content"),
    "openai.responses": ("input", "content"),
    "gemini.generate_content": ("contents", "parts"),
}
ODD: dict[str, bytes] = {
    "a message that is none": b'{"model":"m","messages":[{"role":"user"},%b,7,{"role":"user","content":"a"}]}',
    "no end": b'{"model":"m","messages":[{"role":"user"},%b,{"role":"user"}',
    "no JSON behind": b'{"model":"m","messages":[{"role":"user"},%b,{"role":"user"}],x}',
    "twice": b'{"model":"m","messages":[{"role":"user"},%b,{"role":"user"}],"messages":[{"role":"user"}]}',
    "within another": b'{"model":"m","x":{"messages":[{"role":"user"},%b,{"role":"user"}]},"messages":[{"role":"user"}]}',
    "another type": b'{"model":7,"messages":[{"role":"user"},%b,{"role":"user","content":"a"}]}',
    "blanks": b' {\n"model" : "m", "messages" : [ {"role":"user"} , %b , {"role":"user"} ] , "stream":true }',
    "in a text": b'{"model":"\\"messages\\":[","messages":[{"role":"user"},%b,{"role":"user"}]}',
    "empty": b'{"model":"m","messages":[{},%b,{}]}',
}


def read(api: str, body: bytes) -> tuple[RequestFacts, object, int]:
    """What a body tells, what its history is, and in how many steps."""
    steps = apis.request_steps(Route("", api, turn=True), body, (), Digester(b"a key"))
    taken = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            facts: RequestFacts = end.value
            break
        taken += 1
    history, told = facts.history, (facts.model, facts.messages, facts.ignored, facts.streaming)
    if history is None:
        return told, None, taken  # type: ignore[return-value] # compared and nothing else
    ends = [getattr(history.end, name) for name in history.end.__slots__]
    said = [(at, one.text, one.ids) for at, one in history.said]
    return told, (ends, said, history.digests, history.tools, history.system, history.task), taken  # type: ignore[return-value] # the same


def both(api: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """What is read of a body in pieces, and without."""
    found = []
    for size in (pieces.PIECE, 1 << 40):
        monkeypatch.setattr(catalog, "PIECE", size)
        try:
            found.append(read(api, body))
        except apis.UnreadableBody as error:
            found.append((type(error), None, 0))  # type: ignore[arg-type] # the same
    return found[0], found[1]


def messages(dice: Random, holds: str, size: int) -> list[dict[str, Any]]:
    """Messages of some size in all, one of them large, and some with parts that look like messages."""
    made: list[dict[str, Any]] = []
    while size > 0:
        text = f'{dice.random()} \u00e9 \\ " }},{{ ' + "and more words, " * dice.choice((1, 20, 400))
        if dice.random() < 0.01:
            text *= 2 + 300_000 // len(text)
        parts = [{"text": text}, {"type": "text", "text": '{"role":"user"},{"role":"user"}'}]
        content: Any = parts if holds == "parts" or dice.random() < 0.3 else text
        made.append({"role": dice.choice(("user", "assistant", "model")), holds: content})
        size -= len(text)
    return made


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_pieces_tell_what_the_whole_does(api: str, spaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts, and each digest of its history."""
    name, holds = APIS[api]
    given = {"model": "m", name: messages(Random(api), holds, 3_000_000), "stream": True, "tools": [{"a": 1}]}
    body = json.dumps(given, separators=None if spaced else (",", ":"), ensure_ascii=spaced).encode()
    pieced, whole = both(api, body, monkeypatch)
    assert pieced[:2] == whole[:2]
    assert pieced[1] is not None
    assert pieced[2] > whole[2] or pieced[2] > 10


@pytest.mark.parametrize("size", [140_000, 270_000, 400_000, 600_000])
@pytest.mark.parametrize("api", APIS)
def test_a_few_pieces_too(api: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of bodies that are hardly larger than what is read in one go, whatever stands where one is cut."""
    name, holds = APIS[api]
    for seed in range(10):
        given = {"model": "m", name: messages(Random(seed), holds, size), "tools": [{"a": 1}]}
        pieced, whole = both(api, json.dumps(given).encode(), monkeypatch)
        assert pieced[:2] == whole[:2]


@pytest.mark.parametrize("name", ODD)
def test_odd_bodies_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is odd is read as it ever is, or is no JSON."""
    many = b",".join(b'{"role":"user","content":"%d %b"}' % (at, b"x" * 2000) for at in range(1000))
    pieced, whole = both("openai.chat", ODD[name] % many, monkeypatch)
    assert pieced[:2] == whole[:2]


def longest(
    body: bytes, digesters: Callable[[], Digester | None], enough: float, api: str = "openai.chat"
) -> float:
    """Seconds of CPU of the longest step on a quiet machine, at best of some readings."""

    def run() -> float:
        steps = apis.request_steps(Route("", api, turn=True), body, (), digesters())
        most, done = 0.0, False
        while not done:
            begin = time.thread_time()
            done = next(steps, WHOLE) is WHOLE
            most = max(most, time.thread_time() - begin)
        return most

    return least(run, enough)


@pytest.mark.parametrize("history", ["off", "new", "known"])
def test_no_step_is_long(history: str) -> None:
    """Of a history of 4 MB no step takes more than a millisecond, as a quiet machine would take it."""
    text = "Some words.\n" * 170
    said = [{"role": ("user", "assistant")[at % 2], "content": f"{at} {text}"} for at in range(2000)]
    body = json.dumps({"model": "m", "messages": said, "stream": True}).encode()
    one = Digester(b"a key")
    digesters: dict[str, Callable[[], Digester | None]] = {
        "off": lambda: None,
        "new": lambda: Digester(b"a key"),
        "known": lambda: one,
    }
    assert longest(body, digesters[history], 0.001) < 0.001


def said_by_all(name: str, *contents: str) -> dict[str, object]:
    """Messages of the model that hold that, written as JSON."""
    return {"messages": [{"role": "assistant", name: json.loads(f"[{content}]")} for content in contents]}


def many(unit: str, count: int) -> str:
    """So many of it, in a list."""
    return ",".join([unit] * count)


def thinking(unit: str, count: int) -> str:
    """A block of thinking with a member that holds so many."""
    return f'{{"type":"thinking","x":[{many(unit, count)}]}}'


CROWDS: dict[str, tuple[str, dict[str, object]]] = {
    "calls": ("openai.chat", said_by_all("tool_calls", many('{"id":"x"}', 95_000))),
    "calls of all messages": ("openai.chat", said_by_all("tool_calls", *[many("{}", 2000)] * 45)),
    "reasoning": ("openai.chat", said_by_all("reasoning_details", *[many("{}", 20_000)] * 4)),
    "blocks": ("anthropic.messages", said_by_all("content", *[many("{}", 20_000)] * 4)),
    "numbers": ("anthropic.messages", said_by_all("content", many("0", 1_000_000))),
    "thinking": ("anthropic.messages", said_by_all("content", *[thinking("[]", 20_000)] * 4)),
    "much thinking": ("anthropic.messages", said_by_all("content", many(thinking("{}", 2000), 45))),
    "a prompt of lines": ("anthropic.messages", {"system": "a\n" * 1_300_000, **said_by_all("content", "1")}),
    "large numbers in a text": (
        "openai.chat",
        {"messages": [{"role": "assistant", "content": f"[{many('1e308', 10_900)}]"}], "user": "x" * 150_000},
    ),
    "items": ("openai.responses", {"input": [{"type": "reasoning", "summary": [{}] * 9000}] * 10}),
    "parts": ("gemini.generate_content", {"contents": [{"parts": [{"text": "a"}] * 95_000}]}),
}


@pytest.mark.parametrize("name", CROWDS)
def test_no_step_is_long_where_much_stands_in_a_message(name: str) -> None:
    """Nobody waits for more than a good ten milliseconds, whatever a body of some hundred kilobytes holds."""
    api, given = CROWDS[name]
    body = json.dumps({"model": "m", **given}, separators=(",", ":")).encode()
    assert apis.at_once(apis.request_steps(Route("", api, turn=True), body, (), Digester(b"a key"))).history
    assert longest(body, lambda: Digester(b"a key"), 0.015, api) < 0.015
