"""What an answer's text is: an emoji that a stream has cut in two is one, and thoughts may stand before it."""

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
from tests.pace import within

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


THOUGHT, SPOKEN = "<think>\nThey want it <i>all</i>.\n</think>", "It is what it is, so be it."
THOUGHTS = {
    "short": (f"{THOUGHT}\n\n{SPOKEN}", SPOKEN),
    "behind blanks": (f"\n\n{THOUGHT} {SPOKEN}\n", SPOKEN),
    "begun in the prompt": (f"They want it all.\n</think>\n\n{SPOKEN}", SPOKEN),
    "two of them": (f"{THOUGHT}{SPOKEN}{THOUGHT}{SPOKEN}", f"{SPOKEN}{THOUGHT}{SPOKEN}"),
    "long": (f"<think>{'Well. ' * 3000}</think>\n\n{'It is so. ' * 3000}", "It is so. " * 3000),
    "JSON": (f'{THOUGHT}\n{{"all": "of it", "more": 1.0}}', '{"more": 1,\n"all": "of it"}'),
    "long JSON": (f"{THOUGHT}\n[{'1.0, ' * 3000}2]", f"[{'1,' * 3000}2]"),
    "an emoji": (f"{THOUGHT} {EMOJI}", EMOJI),
    "an end that is cut": (f"{'x' * 4090}</think>{SPOKEN}", SPOKEN),
}


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("text,kept", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize("api", APIS)
def test_thoughts_in_the_text(api: str, text: str, kept: str, streamed: bool, session: str | None) -> None:
    """A client drops them, or keeps them: it is the same answer, of which each is known."""
    for back in (kept, text):
        memory = Memory()
        first = memory.ask(api, request_of(api, [ASKED]), session)
        if streamed:
            stream(api, text, first.facts, size=7)
            memory.end(first)
        else:
            memory.answer(api, first, Answer(text), streamed=False)
        second = memory.ask(api, request_of(api, [ASKED, Answer(back), NEXT]), session)
        assert (second.session, second.past.relation) == (first.session, "continues")
        assert second.past.kept == 1


@pytest.mark.parametrize("lead", range(4080, 4100))
def test_thoughts_that_end_anywhere(lead: int) -> None:
    """Also where a part of the text is digested early."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    echo = first.facts.echo
    assert echo is not None
    for piece in ("x" * lead, *"</think>", *SPOKEN):
        echo.text(0, piece)
    memory.end(first)
    assert memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(SPOKEN), NEXT])).session == first.session


@pytest.mark.parametrize("lead", [100, 4070, 4090, 10_000])
@pytest.mark.parametrize("most", range(16, 20))
def test_thoughts_of_an_answer_that_broke_off(lead: int, most: int) -> None:
    """What a client has kept of what stands behind them is known as well."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    echo = first.facts.echo
    assert echo is not None
    for piece in ("x" * lead, "</think>", *SPOKEN[:20]):
        echo.text(0, piece)
    memory.end(first, complete=False)
    second = memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(SPOKEN[:most]), NEXT]))
    assert (second.session, second.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("said", ["OK", ""])
def test_a_word_behind_thoughts(said: str) -> None:
    """It is the answer of a conversation that is known, and joins none; nothing behind them is no answer."""
    for session in (None, "named"):
        memory = Memory()
        first = memory.ask(CHAT, request_of(CHAT, [ASKED]), session)
        memory.answer(CHAT, first, Answer(f"{THOUGHT}{said}"))
        second = memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(said), NEXT]), session)
        assert second.place.joins is False
        assert second.past.relation == ("first" if session is None else "continues" if said else "rewritten")


def test_the_same_behind_other_thoughts() -> None:
    """Two sessions had the same answer: what stands behind their thoughts tells neither, all of the text does."""
    memory = Memory()
    texts = [f"<think>{thought}</think>{SPOKEN}" for thought in ("One way.", "Another.")]
    turns = [memory.ask(CHAT, request_of(CHAT, [ASKED])) for _ in texts]
    for turn, text in zip(turns, texts, strict=True):
        memory.answer(CHAT, turn, Answer(text))
    for turn, text in zip(turns, texts, strict=True):
        assert memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(text), NEXT])).session == turn.session
    assert memory.ask(CHAT, request_of(CHAT, [ASKED, Answer(SPOKEN), NEXT])).place.ambiguous


@pytest.mark.parametrize(
    "text", ["</think>" * 50_000, "<think>" + "x" * 400_000, "</think>\n" + "[" * 400_000]
)
def test_thoughts_without_end(text: str) -> None:
    """They cost what another text does, and only some of it waits."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, [ASKED]))
    echo = first.facts.echo
    assert echo is not None
    with within(0.5):
        for at in range(0, len(text), 100):
            echo.text(0, text[at : at + 100])
    memory.end(first)
