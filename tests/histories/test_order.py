"""The next turn comes at an odd time: before its answer has ended, after a part of it, after a failure, after a restart."""

import json
from typing import Any
from weakref import ref

import pytest

from sidecar.core.histories import PER_THREAD
from tests.histories.shown import CHAT, GEMINI, MESSAGES, RESPONSES, Answer, Memory, Shown, request_of, stream
from tests.pace import within

APIS = (CHAT, RESPONSES, MESSAGES, GEMINI)
SAID = Answer("An answer that comes in a number of small pieces.", response="resp_0a1b2c3d4e5f6a7b")
ASKED: list[Any] = [{"role": "user", "content": "Say something."}]
NEXT = {"role": "user", "content": "And then?"}


def part_of(length: int) -> Answer:
    """As much of the answer as a client has kept."""
    return Answer(SAID.text[:length], response="resp_none")


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("api", APIS)
def test_before_the_last_byte(api: str, session: str | None) -> None:
    """The client has the whole answer, and we have not seen its end: no race, once that has come."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED), session)
    stream(api, SAID, first.facts, size=7, most=-1)
    second = memory.ask(api, request_of(api, [*ASKED, SAID, NEXT]), session)
    assert second.session == first.session
    assert second.past.relation == "races"
    memory.end(first)
    assert second.past.relation == "continues"
    assert first.past.races == second.past.races == ()


def test_what_has_been_told_as_a_race_stays_one() -> None:
    """It ended before the answer that it had ended here: its figures are out, and its span has to say the same."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED))
    stream(CHAT, SAID, first.facts, size=7, most=-1)
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    memory.end(second)
    memory.end(first)
    assert second.past.relation == "races"
    assert (first.past.races, second.past.races) == ((second.past.ref,), (first.past.ref,))


@pytest.mark.parametrize("earlier", [True, False], ids=["earlier", "later"])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "in flight"])
@pytest.mark.parametrize("api", APIS)
def test_beside_one_that_asked_the_same(api: str, cut: bool, earlier: bool) -> None:
    """Another session has asked the same at once, and has its own answer by now: it is not the one that goes on."""
    memory = Memory()
    turns = [memory.ask(api, request_of(api, ASKED)) for _ in range(2)]
    mine, other = turns if earlier else turns[::-1]
    memory.answer(api, other, Answer("Something else altogether.", response="resp_1a1b2c3d4e5f6a7b"))
    stream(api, SAID, mine.facts, most=7)
    if cut:
        memory.end(mine, complete=False)
    after = memory.ask(api, request_of(api, [*ASKED, part_of(28), NEXT]))
    assert after.session == mine.session
    assert memory.ask(api, request_of(api, [*ASKED, YES, NEXT])).place.ambiguous is False


def test_beside_many_that_were_rejected() -> None:
    """They have said nothing that could come back, so they stand in nobody's way."""
    memory = Memory()
    for _ in range(10):
        memory.end(memory.ask(CHAT, request_of(CHAT, ASKED)), complete=False)
    mine = memory.ask(CHAT, request_of(CHAT, ASKED))
    stream(CHAT, SAID, mine.facts, most=7)
    memory.end(mine, complete=False)
    after = memory.ask(CHAT, request_of(CHAT, [*ASKED, part_of(28), NEXT]))
    assert (after.session, after.past.relation) == (mine.session, "continues")


@pytest.mark.parametrize("api", APIS)
def test_with_a_part_of_an_answer_that_goes_on(api: str) -> None:
    """It was sent before the answer it should have had was whole: a race, and both name each other."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED))
    stream(api, SAID, first.facts, size=7, most=6)
    second = memory.ask(api, request_of(api, [*ASKED, part_of(28), NEXT]))
    stream(api, SAID, first.facts)
    memory.end(first)
    assert second.session == first.session
    assert second.past.relation == "races"
    assert (first.past.races, second.past.races) == ((second.past.ref,), (first.past.ref,))


@pytest.mark.parametrize("kept", [21, 28, 35])
@pytest.mark.parametrize("api", APIS)
def test_after_the_client_left(api: str, kept: int) -> None:
    """What it has kept of the answer is known as such, also if some of what passed did not reach it."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED))
    stream(api, SAID, first.facts, size=7, most=7)
    memory.end(first, complete=False)
    second = memory.ask(api, request_of(api, [*ASKED, part_of(kept), NEXT]))
    assert second.session == first.session
    assert second.past.relation == "continues"


BLANK = " " * 15 + "\n"


@pytest.mark.parametrize("behind", ["", " And then it goes on."])
@pytest.mark.parametrize("complete", [True, False], ids=["whole", "cut"])
def test_an_answer_of_many_blanks(complete: bool, behind: str) -> None:
    """A model that says nothing but blanks from somewhere on is known by the rest, and costs what another answer does."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED))
    echo = first.facts.echo
    assert echo is not None
    with within(0.05):
        for piece in (SAID.text, *[BLANK] * 12_000, *behind):
            echo.text(0, piece)
        memory.end(first, complete=complete)
    said = Answer(SAID.text + BLANK * 12_000 + behind if behind else SAID.text)
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, said, NEXT]))
    assert second.session == first.session
    short = memory.ask(CHAT, request_of(CHAT, [NEXT]))
    stream(CHAT, Answer("OK" + BLANK * 1000), short.facts, size=16)
    memory.end(short, complete=complete)
    assert not memory.ask(CHAT, request_of(CHAT, [NEXT, Answer("OK"), NEXT])).place.joins


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("api", [CHAT, MESSAGES, GEMINI])
def test_an_answer_that_is_large(api: str, streamed: bool, session: str | None) -> None:
    """As one is that holds a picture: it is known when it comes back, though its message is digested in pieces."""
    memory, said = Memory(), Answer("A picture, as it is drawn. " * 20_000)
    first = memory.ask(api, request_of(api, ASKED), session)
    if streamed:
        stream(api, said, first.facts, size=1000)
        memory.end(first)
    else:
        memory.answer(api, first, said, streamed=False)
    second = memory.ask(api, request_of(api, [*ASKED, said, NEXT]), session)
    assert (second.session, second.past.relation) == (first.session, "continues")


def test_without_waiting_at_all() -> None:
    """The next message is sent while the first has no answer yet."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED), "named")
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, NEXT]), "named")
    memory.answer(CHAT, first, SAID)
    assert second.past.relation == "races"
    assert first.past.races == (second.past.ref,)


def test_after_a_rejection() -> None:
    """A retry says what was said before; what follows continues the one that was answered."""
    memory = Memory()
    begun = memory.ask(CHAT, request_of(CHAT, ASKED))
    memory.answer(CHAT, begun, SAID)
    rejected = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    memory.end(rejected, complete=False)
    again = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    answer = Answer("The second answer of them all.")
    memory.answer(CHAT, again, answer)
    after = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT, answer, NEXT]))
    assert [one.past.relation for one in (begun, rejected, again, after)] == [
        "first",
        "continues",
        "repeats",
        "continues",
    ]
    assert {one.session for one in (rejected, again, after)} == {begun.session}


def test_after_a_restart() -> None:
    """Nothing is known of what went by before; the conversation is a new one, and goes on from there."""
    memory = Memory()
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]))
    assert (second.place.joins, second.past.relation) == (False, "first")
    answer = Answer("The first answer after the restart.")
    memory.answer(CHAT, second, answer)
    third = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT, answer, NEXT]))
    assert (third.session, third.past.relation) == (second.session, "continues")


def test_turns_without_a_past_that_repeat() -> None:
    """Calls of a session that carry no history stay in its main thread, also behind one that was tried again."""
    memory = Memory()
    asked = [memory.ask(CHAT, request_of(CHAT, [NEXT]), "named") for _ in range(2)]
    asked.append(memory.ask(CHAT, request_of(CHAT, ASKED), "named"))
    assert [one.lane for one in asked] == ["main"] * 3
    assert [one.past.relation for one in asked] == ["first", "repeats", "first"]


@pytest.mark.parametrize("again", [SAID.text, "Another answer of some length."], ids=["same", "other"])
@pytest.mark.parametrize("api", [CHAT, MESSAGES, GEMINI])
def test_an_answer_that_was_given_twice(api: str, again: str) -> None:
    """A later turn that has it has that of both, so neither is orphaned; one that said something else is."""
    memory, turns, asked = Memory(), [], [*ASKED]
    for said in (SAID, Answer(again), Answer("Last of all.")):
        turns.append(memory.ask(api, request_of(api, asked), "named"))
        memory.answer(api, turns[-1], said)
        if len(turns) == 2:
            asked += [said, NEXT]
    assert [one.past.relation for one in turns] == ["first", "repeats", "continues"]
    assert [one.past.orphaned for one in turns] == [again != SAID.text, False, False]


SILENT: dict[str, Any] = {
    CHAT: {"role": "assistant", "content": ""},
    RESPONSES: {"type": "message", "role": "assistant", "content": []},
    MESSAGES: {"role": "assistant", "content": []},
    GEMINI: {"role": "model", "parts": [{"text": ""}]},
}
"""An answer that says nothing, as it is sent back."""

YES, NO = Answer("Yes", response="resp_yes"), Answer("No", response="resp_no")


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("text", ["", "  ", "\n\n", "OK"])
@pytest.mark.parametrize("api", APIS)
def test_answers_that_say_little(api: str, text: str, streamed: bool) -> None:
    """An answer of no text, of blanks, or of a word continues as any other does, where the conversation is known."""
    memory, said = Memory(), Answer(text, response="resp_none")
    first = memory.ask(api, request_of(api, ASKED), "named")
    memory.answer(api, first, said, streamed=streamed)
    back = said if text else SILENT[api]
    second = memory.ask(api, request_of(api, [*ASKED, back, NEXT]), "named")
    assert (second.past.relation, second.place.other) == ("continues", first.past)
    other = memory.ask(api, request_of(api, [*ASKED, SAID, NEXT]), "named")
    assert other.past.relation == "rewritten"


@pytest.mark.parametrize("session", [None, "named"])
def test_calls_without_ids(session: str | None) -> None:
    """Gemini's calls may have none: a turn with their results continues, where an earlier answer or a name tells whose it is."""
    memory, said = Memory(), SAID
    begun = memory.ask(GEMINI, request_of(GEMINI, ASKED), session)
    memory.answer(GEMINI, begun, said)
    asked = [*ASKED, said, NEXT]
    calling = memory.ask(GEMINI, request_of(GEMINI, asked), session)
    call = Answer("", [("", "look", '{"id": 7}')])
    memory.answer(GEMINI, calling, call)
    given = {"functionResponse": {"name": "look", "response": {"status": "ok"}}}
    after = memory.ask(
        GEMINI, request_of(GEMINI, [*asked, call, {"role": "user", "parts": [given]}]), session
    )
    assert {calling.session, after.session} == {begun.session}
    assert [calling.past.relation, after.past.relation] == ["continues", "continues"]
    assert after.place.other is calling.past


@pytest.mark.parametrize("ended", [True, False], ids=["both ended", "one in flight"])
@pytest.mark.parametrize("api", APIS)
def test_samples_of_a_word(api: str, ended: bool) -> None:
    """Of several answers to the same request the one that comes back is known, not the latest, however short it is."""
    memory = Memory()
    yes, no = (memory.ask(api, request_of(api, ASKED), "named") for _ in range(2))
    memory.answer(api, yes, YES)
    if ended:
        memory.answer(api, no, NO)
    after = memory.ask(api, request_of(api, [*ASKED, YES, NEXT]), "named")
    assert (after.past.relation, after.place.other) == ("continues", yes.past)
    if not ended:
        memory.answer(api, no, NO)
    after = memory.ask(api, request_of(api, [*ASKED, NO, NEXT]), "named")
    assert (after.past.relation, after.place.other) == ("continues", no.past)


@pytest.mark.parametrize("text", ["OK", "", " "])
@pytest.mark.parametrize("api", APIS)
def test_little_before_the_last_byte(api: str, text: str) -> None:
    """Who has all of a short answer before we have seen its end did not race it; who has another one did."""
    memory, said = Memory(), Answer(text, response="resp_none")
    first = memory.ask(api, request_of(api, ASKED), "named")
    stream(api, said, first.facts, most=-1)
    second = memory.ask(api, request_of(api, [*ASKED, said if text else SILENT[api], NEXT]), "named")
    other = memory.ask(api, request_of(api, [*ASKED, YES, NEXT]), "named")
    none = memory.ask(api, request_of(api, [*ASKED, {"role": "user", "content": "Well?"}]), "named")
    assert second.past.relation == "races"
    memory.end(first)
    assert [one.past.relation for one in (second, other, none)] == ["continues", "races", "races"]


CACHED = {"cache_control": {"type": "ephemeral"}}


def _image(size: int) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * size}}


LARGE: dict[str, Any] = {
    "an image": lambda size: [_image(size)],
    "an image in a result": lambda size: [
        {"type": "tool_result", "tool_use_id": "toolu_0a1b2c3d4e5f", "content": [_image(size)]}
    ],
    "a document": lambda size: [
        {"type": "document", "title": "T", "source": {"type": "text", "data": "x" * size}},
        {"type": "text", "text": "What of it?"},
    ],
    "a text": lambda size: [{"type": "text", "text": "x" * size}],
    "a text of JSON": lambda size: [{"type": "text", "text": '{"a": 3.14}, ' * (size // 10)}],
}


@pytest.mark.parametrize("size", [100, 100_000, 400_000])
@pytest.mark.parametrize("made", LARGE.values(), ids=LARGE)
def test_a_cache_mark_on_something_large(made: Any, size: int) -> None:
    """A block is the same one without its mark, and with its members in another order, however large it is."""
    memory = Memory()
    blocks = made(size)
    marked = [{**block, **CACHED} for block in blocks]
    swapped = [dict(reversed(block.items())) for block in blocks]
    first = memory.ask(MESSAGES, request_of(MESSAGES, [{"role": "user", "content": marked}]))
    memory.answer(MESSAGES, first, SAID)
    for content in (blocks, swapped):
        asked = [{"role": "user", "content": content}, SAID, {"role": "user", "content": f"Go {content}"}]
        turn = memory.ask(MESSAGES, request_of(MESSAGES, asked))
        assert turn.session == first.session
        assert turn.place.parent is first.past
        memory.answer(MESSAGES, turn, YES)


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("member", ["id", "status", "index", "annotations"])
def test_arguments_and_results_are_what_they_say(member: str, size: int) -> None:
    """Members that clients change in a block are no such ones in what a tool is given, and gives: they are the content."""
    memory = Memory()

    def asked(number: int) -> list[Any]:
        call = Answer("", [("", "look", json.dumps({member: f"{number}" * size}))])
        given = {"functionResponse": {"name": "look", "response": {member: f"{number}" * size}}}
        return [*ASKED, call, {"role": "user", "parts": [given]}]

    turns = [memory.ask(GEMINI, request_of(GEMINI, asked(number)), "named") for number in (1, 2, 1)]
    assert [one.past.relation for one in turns][1:] == ["rewritten", "repeats"]


def in_pieces(api: str, answer: Answer, size: int) -> list[Any]:
    """An answer as a client keeps it that adds each piece of a stream to its history."""
    pieces = [answer.text[at : at + size] for at in range(0, len(answer.text), size)]
    return [Answer(piece, response=f"piece{at}") for at, piece in enumerate(pieces)]


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("size", [4, 20])
@pytest.mark.parametrize("api", APIS)
def test_an_answer_in_pieces(api: str, size: int, session: str | None) -> None:
    """What stands in several messages, one behind another, is one answer; google-genai's chats keep a stream's pieces so."""
    memory, asked = Memory(), [*ASKED]
    turns = []
    for number in range(3):
        turns.append(memory.ask(api, request_of(api, asked), session))
        said = Answer(f"{SAID.text} That was number {number}.", response="")
        memory.answer(api, turns[-1], said)
        asked += [*in_pieces(api, said, size), {"role": "user", "content": f"And then, {number}?"}]
    assert {one.session for one in turns} == {turns[0].session}
    assert [one.past.relation for one in turns] == ["first", "continues", "continues"]
    other = [*ASKED, *in_pieces(api, Answer(SAID.text[::-1]), size), NEXT]
    changed = memory.ask(api, request_of(api, other), session)
    assert (changed.place.joins, changed.past.relation) == (False, "rewritten" if session else "first")


@pytest.mark.parametrize("api", APIS)
def test_pieces_before_the_last_byte(api: str) -> None:
    """They are compared as a whole with the answer that is still on its way."""
    memory = Memory()
    first = memory.ask(api, request_of(api, ASKED), "named")
    stream(api, Answer("Yes, sir.", response=""), first.facts, most=-1)
    second = memory.ask(
        api, request_of(api, [*ASKED, *in_pieces(api, Answer("Yes, sir."), 4), NEXT]), "named"
    )
    memory.end(first)
    assert second.past.relation == "continues"


@pytest.mark.parametrize("api", [CHAT, MESSAGES, GEMINI])
def test_answers_with_nothing_between(api: str) -> None:
    """An agent that goes on without a word: two answers stand behind each other, and each is one."""
    memory, more = Memory(), Answer("And another answer, of some length.")
    first = memory.ask(api, request_of(api, ASKED))
    memory.answer(api, first, SAID)
    second = memory.ask(api, request_of(api, [*ASKED, SAID]))
    memory.answer(api, second, more)
    third = memory.ask(api, request_of(api, [*ASKED, SAID, more, NEXT]))
    assert {second.session, third.session} == {first.session}


@pytest.mark.parametrize(
    "back",
    [
        '{"why":"it is \u00e9t\u00e9","score":1,"of":[0.5,-3,1e400]}',
        '```json\n{"of": [5e-1, -3.0, 1e999], "score": 1.0, "why": "it is \\u00e9t\\u00e9"}\n```',
    ],
)
def test_json_that_is_written_anew(back: str) -> None:
    """Its members in another order, its texts with or without escapes, a whole number with or without a fraction."""
    memory, said = Memory(), '{"score": 1.0, "of": [0.50, -3.0, 1e400], "why": "it is \u00e9t\u00e9"}'
    first = memory.ask(CHAT, request_of(CHAT, ASKED))
    memory.answer(CHAT, first, Answer(said))
    second = memory.ask(CHAT, request_of(CHAT, [*ASKED, Answer(back), NEXT]))
    assert (second.session, second.past.relation) == (first.session, "continues")
    other = memory.ask(CHAT, request_of(CHAT, [*ASKED, Answer(back.replace("-3", "-3.5")), NEXT]))
    assert not other.place.joins


def test_who_says_it() -> None:
    """The same words of another participant are other ones."""
    memory = Memory()
    turns = [
        memory.ask(CHAT, request_of(CHAT, [{**NEXT, "name": name}]), "named")
        for name in ("ada", "bob", "ada")
    ]
    assert [one.past.relation for one in turns] == ["first", "first", "repeats"]


@pytest.mark.parametrize("session", [None, "named"])
def test_calls_in_another_order(session: str | None) -> None:
    """A client that sorts its calls and results anew goes on from the latest answer, which stands behind them."""
    memory = Memory()
    calls = [(f"call_{at}0a1b2c3d4e5f", "look", f'{{"at": {at}}}') for at in range(2)]
    results = [{"role": "tool", "tool_call_id": made, "content": f"Of {made}."} for made, _, _ in calls]
    first = memory.ask(CHAT, request_of(CHAT, ASKED), session)
    memory.answer(CHAT, first, Answer("", calls))
    asked = [*ASKED, Answer("", calls[::-1]), *results[::-1]]
    second = memory.ask(CHAT, request_of(CHAT, asked), session)
    memory.answer(CHAT, second, SAID)
    asked = [*ASKED, Answer("", calls), *results, SAID, NEXT]
    third = memory.ask(CHAT, request_of(CHAT, asked), session)
    assert {second.session, third.session} == {first.session}
    assert [one.past.relation for one in (second, third)] == ["continues", "continues"]
    assert third.place.other is second.past


@pytest.mark.parametrize("ids", [("resp_1", "resp_2"), ("resp_0a1b2c3d4e5f6a", "resp_1a1b2c3d4e5f6a")])
def test_an_answer_that_is_named(ids: tuple[str, str]) -> None:
    """`previous_response_id` says which answer a turn goes on from, also where a server counts its answers.

    Its prompt is that of the turn before, and more: it breaks only where it goes on from an earlier one.
    """
    memory, shown, previous = Memory(), [], None
    for made in (*ids, "resp_3"):
        more: Any = {} if previous is None else {"previous_response_id": previous}
        shown.append(memory.ask(RESPONSES, request_of(RESPONSES, [NEXT], **more), "named"))
        memory.answer(RESPONSES, shown[-1], Answer("So.", response=made))
        previous = made
    assert [one.past.relation for one in shown] == ["first", "continues", "continues"]
    assert [one.place.other for one in shown[1:]] == [one.past for one in shown[:-1]]
    assert [(one.past.broke_at, one.past.kept) for one in shown] == [(None, None)] * 3
    again = [
        memory.ask(RESPONSES, request_of(RESPONSES, [NEXT], previous_response_id=made), "named")
        for made in ids[::-1]
    ]
    assert [(one.past.relation, one.past.broke_at) for one in again] == [
        ("repeats", None),
        ("repeats", "message"),
    ]


def test_media_in_a_result() -> None:
    """Two results that differ only in a picture are two."""

    def asked(data: str) -> list[Any]:
        media = [{"inlineData": {"mimeType": "image/png", "data": data}}]
        given = {"functionResponse": {"name": "look", "response": {"seen": True}, "parts": media}}
        return [*ASKED, Answer("", [("", "look", "{}")]), {"role": "user", "parts": [given]}]

    memory = Memory()
    turns = [memory.ask(GEMINI, request_of(GEMINI, asked(data)), "named") for data in ("aa", "bb", "aa")]
    assert [one.past.relation for one in turns][1:] == ["first", "repeats"]


def test_behind_a_request_that_was_made_again() -> None:
    """A turn goes on from the longest request it begins with, also if the beginning of that was asked again since."""
    memory = Memory()

    def turn(messages: list[Any], text: str) -> Shown:
        shown = memory.ask(CHAT, request_of(CHAT, messages), "named")
        memory.answer(CHAT, shown, Answer(text))
        return shown

    asked = [*ASKED, YES, NEXT]
    turn(ASKED, "Yes")
    second = turn(asked, "")
    turn(ASKED, "No")
    other = turn([*ASKED, YES, {"role": "user", "content": "How?"}], "So.")
    third = turn([*asked, SILENT[CHAT], {"role": "user", "content": "Go on."}], "So.")
    assert (third.past.relation, third.place.other) == ("continues", second.past)
    assert other.past.relation == "branches"


def left_of(memory: Memory, turns: int) -> int:
    """How many turns of a named conversation of that length are still there at its end."""
    messages, pasts = [*ASKED], []
    for number in range(turns):
        shown = memory.ask(CHAT, request_of(CHAT, messages), "named")
        said = Answer(f"An answer of its own, with the number {number}.")
        memory.answer(CHAT, shown, said)
        messages += [said, NEXT]
        pasts.append(ref(shown.past))
    del shown
    return sum(past() is not None for past in pasts)


def test_what_is_forgotten_is_gone() -> None:
    """However long a conversation is, its turns that are forgotten are not kept by those that followed them."""
    # The oldest one that is known refers to one more.
    assert left_of(Memory(limit=4), 8) == 4 + 1


def test_what_is_forgotten_is_gone_behind_one_that_rests() -> None:
    """A conversation that nobody goes on with stays known, and keeps none of the turns that another one has forgotten since."""
    memory = Memory()
    memory.answer(CHAT, resting := memory.ask(CHAT, request_of(CHAT, ASKED), "resting"), SAID)
    assert left_of(memory, PER_THREAD + 10) == PER_THREAD + 1
    after = memory.ask(CHAT, request_of(CHAT, [*ASKED, SAID, NEXT]), "resting")
    assert after.place.other is resting.past
