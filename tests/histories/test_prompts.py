"""Text completions whose prompt grows: each turn's is that of the turn before, the answer to it, and more."""

from random import Random

import pytest

from tests.histories.shown import COMPLETIONS, Answer, Memory, Shown, stream

PREAMBLE = "The following is a conversation with an assistant, who is helpful, creative and very friendly.\n"
ASKED = f"{PREAMBLE}\nHuman: What is the weather like in Oslo?\nAI:"
NEXT = "\nHuman: And in Bergen?\nAI:"


def ask(memory: Memory, prompt: str, session: str | None = None) -> Shown:
    """A prompt comes."""
    return memory.ask(COMPLETIONS, {"model": "m", "prompt": prompt}, session)


def said(memory: Memory, shown: Shown, text: str, *, streamed: bool = True) -> str:
    """It is answered with that text."""
    memory.answer(COMPLETIONS, shown, Answer(text), streamed=streamed)
    return text


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("answer", [" It is cold there, \u00e9t\u00e9 and \U0001f600.\n", " x" * 5000])
def test_a_prompt_that_grows(answer: str, *, streamed: bool) -> None:
    """It belongs to the conversation of the turn whose prompt and answer it begins with."""
    memory = Memory()
    first = ask(memory, ASKED)
    prompt = ASKED + said(memory, first, answer, streamed=streamed) + NEXT
    second = ask(memory, prompt)
    third = ask(memory, prompt + said(memory, second, answer, streamed=streamed) + NEXT)
    assert {second.session, third.session} == {first.session}
    assert [one.past.relation for one in (first, second, third)] == ["first", "continues", "continues"]
    assert third.past.kept is None


def test_a_list_of_one_prompt() -> None:
    """It is that prompt, as LangChain sends it."""
    memory = Memory()
    first = memory.ask(COMPLETIONS, {"model": "m", "prompt": [ASKED]})
    prompt = ASKED + said(memory, first, " It is cold there, and wet.") + NEXT
    second = memory.ask(COMPLETIONS, {"model": "m", "prompt": [prompt]})
    assert (second.session, second.past.relation) == (first.session, "continues")
    assert memory.history(COMPLETIONS, {"prompt": [prompt, prompt]}) is None
    assert memory.history(COMPLETIONS, {"prompt": [""]}) is None


@pytest.mark.parametrize("answer", ["", "\n", " Cold.", "Human: What is"])
def test_an_answer_of_a_word(answer: str) -> None:
    """A preamble that was asked about alone, as one is to warm a cache, joins nobody who begins with it and says that next."""
    memory = Memory()
    said(memory, ask(memory, PREAMBLE), answer)
    others = [ask(memory, PREAMBLE + answer + f" Number {number}:\nAI:") for number in range(2)]
    assert not [one for one in others if one.place.joins]
    for one in others:
        said(memory, one, " A long one, which is enough.")


def test_short_answers_behind_a_long_one() -> None:
    """Once it is known whose it is, a turn goes on from the latest one, however short its answer was."""
    memory = Memory()
    turns = [ask(memory, ASKED)]
    prompt = ASKED + said(memory, turns[0], " It is cold there, and wet.") + NEXT
    for answer in (" Cold.", " No.", " So."):
        turns.append(ask(memory, prompt))
        prompt += said(memory, turns[-1], answer) + NEXT
    turns.append(ask(memory, prompt))
    assert {one.session for one in turns} == {turns[0].session}
    assert [one.past.relation for one in turns] == ["first", *["continues"] * 4]
    assert [one.place.other for one in turns[1:]] == [one.past for one in turns[:-1]]


def test_what_is_no_continuation() -> None:
    """The same preamble, another answer, a prompt that is repeated, and one that is short: none of them joins."""
    memory = Memory()
    first = ask(memory, ASKED)
    answer = said(memory, first, " It is cold there.")
    others = [ask(memory, prompt) for prompt in (ASKED, ASKED + " It is warm." + NEXT, PREAMBLE + "Hello\n")]
    short = ask(memory, "Hello")
    others.append(ask(memory, "Hello" + said(memory, short, " there, how are you?") + " Fine"))
    assert not [one for one in others if one.place.joins]
    assert ask(memory, ASKED + answer + NEXT).session == first.session


def test_alike_in_two_sessions() -> None:
    """Where two conversations say the same, it is neither's, and that is counted."""
    memory = Memory()
    prompts = [ASKED + said(memory, ask(memory, ASKED), " It is cold there.") + NEXT for _ in range(2)]
    assert prompts[0] == prompts[1]
    place = ask(memory, prompts[0]).place
    assert (place.joins, place.ambiguous) == (False, True)


def test_in_a_named_session() -> None:
    """What a turn is to its past: it repeats, branches, races, or has nothing to do with it."""
    memory = Memory()
    first = ask(memory, ASKED, "named")
    answer = said(memory, first, " It is cold.")
    turns = [ask(memory, ASKED + answer + NEXT, "named")]
    turns.append(ask(memory, ASKED + answer + "\nHuman: Why?\nAI:", "named"))
    for one in turns:
        said(memory, one, " So.")
    turns += [
        ask(memory, ASKED + answer + "\nHuman: How?\nAI:", "named"),
        ask(memory, ASKED + answer + NEXT, "named"),
    ]
    turns.append(
        ask(memory, "Something else altogether, which is long enough to be told from all others.\n", "named")
    )
    relations = [one.past.relation for one in turns]
    assert relations == ["continues", "races", "branches", "repeats", "first"]
    assert [one.lane for one in turns] == ["main"] * 4 + ["side:1"]


def test_after_the_client_left() -> None:
    """What it has kept of the answer is known, as far as it went."""
    memory = Memory()
    first = ask(memory, ASKED)
    stream(COMPLETIONS, Answer(" It is cold and it will be."), first.facts, size=7, most=3)
    memory.end(first, complete=False)
    assert ask(memory, ASKED + " It is cold and it wi" + NEXT).session == first.session


@pytest.mark.parametrize("start", [1, 2, 3])
def test_many_at_once(start: int) -> None:
    """Conversations of one preamble side by side: once one has had a long answer it is joined, and none by another."""
    dice, memory = Random(start), Memory()
    prompts = {at: f"{ASKED} {dice.random()}" for at in range(60)}
    sessions: dict[int, str] = {}
    owners: dict[str, int] = {}
    long: set[int] = set()
    for _ in range(600):
        at = dice.randrange(60)
        shown = ask(memory, prompts[at])
        assert at not in long or sessions[at] == shown.session
        assert owners.setdefault(shown.session, at) == at
        sessions[at] = shown.session
        assert shown.place.joins == (at in long)
        answer = said(memory, shown, dice.choice([" Yes.", " No.", f" It is {dice.random()}"]))
        if len(answer) > 16:
            long.add(at)
        prompts[at] += answer + NEXT


@pytest.mark.parametrize(
    "prompt", ["x" * (2 << 20), ["a list", "of texts"], [1, 2, 3], None, 7, "\ud83d" * 100, ""]
)
def test_odd_prompts(prompt: object) -> None:
    """They are large, or no text: read, or left alone."""
    memory = Memory()
    history = memory.history(COMPLETIONS, {"model": "m", "prompt": prompt})
    assert (history is not None) == (isinstance(prompt, str) and len(prompt) > 100)
