"""What an answer's text is: an emoji that a stream has cut in two is one."""

import json

import pytest

from sidecar import apis
from sidecar.core.facts import ResponseFacts, Route
from tests.histories.shown import (
    CHAT,
    COMPLETIONS,
    GEMINI,
    MESSAGES,
    RESPONSES,
    Answer,
    Memory,
    events_of,
    request_of,
)

APIS = (CHAT, RESPONSES, MESSAGES, GEMINI)
ASKED = {"role": "user", "content": "Say something."}
NEXT = {"role": "user", "content": "And then?"}
EMOJI = "\U0001f600 and \U0001f44d\U0001f3fd, \ud55c\uae00, \U0010fc00 too"


def in_units(text: str) -> str:
    """The text as JavaScript has it: an emoji is two characters."""
    data = text.encode("utf-16-le")
    return "".join(map(chr, memoryview(data).cast("H")))


def stream(api: str, text: str, facts: ResponseFacts, size: int = 1) -> None:
    """The text comes in pieces of so many units."""
    reader = apis.stream_reader(Route("", api), facts)
    assert reader is not None
    for event in events_of(api, Answer(in_units(text), response="resp_none"), size):
        reader.event(b"", json.dumps(event).encode())


LONG = [lead * "x" + 1500 * "\U0001f600 \U0001f44d" for lead in range(4)]
TEXTS = [EMOJI, "\U0001f600" * 16, "[1, " + json.dumps(EMOJI, ensure_ascii=False) + "]", *LONG]


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("text", TEXTS, ids=[f"{at}-{text[:5]}" for at, text in enumerate(TEXTS)])
@pytest.mark.parametrize("api", APIS)
def test_an_emoji_in_two_pieces(api: str, text: str, session: str | None) -> None:
    """The answer is the text that comes back, wherever it was cut, also where a part of it is digested early."""
    memory = Memory()
    first = memory.ask(api, request_of(api, [ASKED]), session)
    stream(api, text, first.facts)
    memory.end(first)
    back = json.dumps(json.loads(text)) if text[0] == "[" and api == CHAT else text
    second = memory.ask(api, request_of(api, [ASKED, Answer(back), NEXT]), session)
    assert (second.session, second.past.relation) == (first.session, "continues")
    assert first.facts.unreadable == 0


@pytest.mark.parametrize("lead", [100, 4089, 4090, 4091, 4092])
@pytest.mark.parametrize("most", range(8, 14))
def test_emojis_of_an_answer_that_broke_off(lead: int, most: int) -> None:
    """What a client has kept of it by then is known, if that is characters and no half of one."""
    memory, text = Memory(), " " + "\U0001f600" * 6 + " and so on"
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    stream(CHAT, "x" * lead + text[: most // 2], first.facts, lead)
    reader = apis.stream_reader(Route("", CHAT), first.facts)
    assert reader is not None
    for piece in in_units(text[most // 2 :])[:most]:
        reader.event(b"", json.dumps({"choices": [{"delta": {"content": piece}}]}).encode())
    memory.end(first, complete=False)
    told = in_units(text[most // 2 :])[:most].encode("utf-16-le", "surrogatepass")
    kept = "x" * lead + text[: most // 2] + told.decode("utf-16-le", "ignore")
    second = memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(kept), NEXT]))
    assert (second.session, second.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("lead", range(32))
def test_an_emoji_that_a_prompt_grows_by(lead: int) -> None:
    """A prompt with its answer is told by whole blocks of bytes, and none of them ends in half an emoji."""
    memory, asked = Memory(), "x" * lead + "What is the weather like in Oslo?"
    first = memory.ask(COMPLETIONS, {"model": "m", "prompt": asked})
    stream(COMPLETIONS, EMOJI, first.facts)
    memory.end(first)
    second = memory.ask(COMPLETIONS, {"model": "m", "prompt": asked + EMOJI + "\nAnd in Bergen?"})
    assert (second.session, second.past.relation) == (first.session, "continues")


def test_a_task_with_an_emoji_in_two_pieces() -> None:
    """What a call says to a sub-agent is one text as well."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    reader = apis.stream_reader(Route("", CHAT), first.facts)
    assert reader is not None
    for piece in in_units(json.dumps({"prompt": EMOJI}, ensure_ascii=False)):
        call = {"index": 0, "function": {"arguments": piece}}
        reader.event(b"", json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode())
    memory.end(first)
    agent = memory.ask(CHAT, request_of(CHAT, [{"role": "user", "content": EMOJI}]))
    assert (agent.session, agent.lane) == (first.session, "side:agent-1")


@pytest.mark.parametrize(
    "halves", [(0xD83D,), (0xDE00,), (0xDE00, 0xD83D), (0xD83D, 0xD83D), (0xD83D, 0x20, 0xDE00)]
)
def test_halves_that_stand_alone(halves: tuple[int, ...]) -> None:
    """They make nothing of each other, and the rest of the answer is as it is."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    reader = apis.stream_reader(Route("", CHAT), first.facts)
    assert reader is not None
    for piece in ("An answer to you, ", *map(chr, halves), "it is."):
        reader.event(b"", json.dumps({"choices": [{"delta": {"content": piece}}]}).encode())
    memory.end(first)
    said = Answer("An answer to you, \U0001f600it is.")
    assert not memory.ask(CHAT, request_of(CHAT, [ASKED, said, NEXT])).place.joins
