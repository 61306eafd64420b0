"""Bodies that lie, captures with a byte changed, and what is left in memory of what passed."""

import gc
import json
import tracemalloc
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from sidecar import apis
from sidecar.core import digests
from sidecar.core.digests import Digester
from sidecar.core.echo import Echo, Prompt
from sidecar.core.facts import Route
from sidecar.core.histories import Histories
from sidecar.core.identity import Identity, Source
from tests.histories.captured import NAMES, captured
from tests.histories.shown import CHAT, GEMINI, MESSAGES, RESPONSES, Answer, Memory, request_of
from tests.pace import within

NOBODY = Identity("made-up", Source.GENERATED, session_supplied=False)
USER = {"role": "user", "content": "Hi"}
LARGE = {
    "a million messages": b'{"messages":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "one message of 8 MB": json.dumps({"messages": [{"role": "user", "content": "x" * (8 << 20)}]}).encode(),
    "escapes": b'{"messages":[{"role":"user","content":"' + b"\\n" * (2 << 20) + b'"}]}',
    "nested": b'{"messages":[{"role":"user","content":[' + b"[" * 400_000 + b"]" * 400_000 + b"]}]}",
    "a million blocks": b'{"messages":[{"role":"user","content":[' + b",".join([b"{}"] * 1_000_000) + b"]}]}",
    "system prompt": json.dumps(
        {"messages": [{"role": "system", "content": "x " * (2 << 20)}, USER]}
    ).encode(),
}
ODD = {
    "twice": b'{"messages":[{"role":"user","role":"assistant","content":"a","content":"b"}]}',
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
    "half a pair": b'{"messages":[{"role":"assistant","content":"\\ud83d and something more"}]}',
    "numbers": b'{"messages":[1,null,"x",[],{"role":7,"content":3},{"role":"assistant","tool_calls":[1]}]}',
    "ids that are none": b'{"messages":[{"role":"assistant","tool_calls":[{"id":{"a":1},"function":{"name":[]}}]}]}',
    "texts that are none": b'{"messages":[{"role":"user","content":[{"text":5}]},{"role":"assistant","refusal":5}]}',
    "empty": b'{"messages":[]}',
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("api", [CHAT, MESSAGES])
def test_large_bodies(api: str, body: bytes) -> None:
    """They cost what their size does, whatever they hold."""
    memory = Memory()
    with within(1), suppress(ValueError):
        memory.history(api, body)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_odd_bodies(body: bytes) -> None:
    """What is not as its API says is a message all the same, or the body is not read as a history; it joins nothing."""
    memory = Memory()
    for _ in range(2):
        history = memory.history(CHAT, body)
        if history is not None:
            place = memory.histories.recognise(history, NOBODY)
            assert not place.joins


@pytest.mark.parametrize("role", ["user", "model"])
def test_a_text_that_is_none(role: str) -> None:
    """The same of Gemini's contents."""
    memory = Memory()
    for part in (b'{"text":5}', b'{"text":{}}', b'{"text":"x","thought":7}'):
        body = b'{"contents":[{"role":"%s","parts":[%s]}]}' % (role.encode(), part)
        history = memory.history(GEMINI, body)
        assert history is not None
        assert not memory.histories.recognise(history, NOBODY).joins


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_changed(name: str) -> None:
    """A byte of a request is another one: no error, and no turn joins a session that is not its own."""
    dice = Random(name)
    for _ in range(10):
        memory = Memory()
        for one in captured(name):
            if one.api is None or one.body is None:
                continue
            body = bytearray(json.dumps(one.body).encode())
            body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
            joined = None
            try:
                history = memory.history(one.api, bytes(body))
            except ValueError:
                history = None  # it is no JSON, as the body's other reader says as well
            if history is not None:
                place = memory.histories.recognise(history, NOBODY)
                family = place.thread or place.family
                joined = family.session_id if place.joins and family is not None else None
            shown = memory.ask(one.api, one.body)
            assert joined in (None, shown.session)
            memory.answer(one.api, shown, one.answer)


@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_no_text_is_kept(api: str) -> None:
    """Once a turn has ended, nothing that it said or was told is left in memory."""
    memory, plants = Memory(), ["planted in a question", "planted in an answer", "call_planted0123456789ab"]
    calls = [(plants[2], "planted_tool", json.dumps({"prompt": "planted in a task for another"}))]
    messages: list[Any] = [{"role": "user", "content": plants[0]}]
    shown = memory.ask(api, request_of(api, messages))
    shown.facts.echo = None
    memory.end(shown)
    said = Answer(plants[1] * 20, calls, "planted", "planted-signature-0123456789", "resp_planted0123456789")
    shown = memory.ask(api, request_of(api, messages))
    memory.answer(api, shown, said)
    shown.facts.echo = None
    del messages, said, calls, shown
    held = _reachable(memory)
    assert not [text for text in held if "planted" in text]


def _reachable(root: object) -> list[str]:
    """Every text and all bytes that an object holds, directly or not; types, modules and functions left out."""
    seen: set[int] = set()
    texts: list[str] = []
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one) or type(one).__name__ == "module":
            continue
        seen.add(id(one))
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, bytes | bytearray | memoryview):
            texts.append(bytes(one).decode("latin-1"))
        waiting += gc.get_referents(one)
    return texts


def test_memory_is_bounded() -> None:
    """However many conversations there are, no more is remembered than the limit says, and all of it is found."""
    memory = Memory(limit=100)
    for number in range(1000):
        shown = memory.ask(CHAT, request_of(CHAT, [{"role": "user", "content": f"Question {number}"}]))
        memory.answer(CHAT, shown, Answer(f"An answer to question number {number}."))
    assert memory.histories.turns == 100
    assert memory.anomalies == ["history_evicted"] * 900
    held = memory.histories
    sizes = [len(held._finder.found), len(held._threads), len(held._turns)]
    assert max(sizes) <= 200


def test_memory_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations that come and go leave nothing: three times as many take no more, and each turn less than 3 KB."""
    monkeypatch.setattr(digests, "_KNOWN", 200)
    memory, held = Memory(limit=150), []
    tracemalloc.start()
    for number in range(900):
        question = {"role": "user", "content": f"Question {number:05}"}
        shown = memory.ask(CHAT, request_of(CHAT, [question]))
        memory.answer(CHAT, shown, Answer(f"An answer to question number {number:05}."))
        memory.anomalies.clear()
        if number in (299, 899):
            del shown
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] < 1.05 * held[0]
    assert held[1] < 150 * 3072 + 200 * 1024


def test_many_ids_take_little_memory() -> None:
    """Of a message with many calls, or ids in its text, no more is kept than of any other; of an empty call nothing."""
    memory = Memory()
    shown = memory.ask(CHAT, request_of(CHAT, [USER]))
    reader = apis.stream_reader(Route("", CHAT), shown.facts)
    assert reader is not None
    memory.history(CHAT, request_of(CHAT, [USER]))
    tracemalloc.start()
    for number in range(15):
        ids = [f"call_{number:04}{at:04}" for at in range(1000)]
        messages = [USER, Answer("", [(made, "look", "") for made in ids]), Answer(" ".join(ids))]
        assert memory.history(CHAT, request_of(CHAT, messages)) is not None
        for at in range(100):
            call = {"index": number * 100 + at, "function": {"arguments": ""}}
            event = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
            reader.event(b"", json.dumps(event).encode())
    del ids, messages
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 30 * 16 * 1024


def test_many_ids_beside_many_answers_in_flight() -> None:
    """What a message says is compared once with each answer that still passes, however many ids it has."""
    memory = Memory()
    for _ in range(8):
        echo = memory.ask(CHAT, request_of(CHAT, [USER])).facts.echo
        assert echo is not None
        for choice in range(64):
            for number in range(16):
                echo.text(choice, f"Piece {number} of choice {choice}. " * 10)
    text = " ".join(f"call_{at:08}" for at in range(1100))
    history = memory.history(CHAT, request_of(CHAT, [USER, Answer(text), USER]))
    assert history is not None
    with within(0.1):
        assert not memory.histories.recognise(history, NOBODY).joins


def test_a_long_conversation_is_bounded() -> None:
    """Of one conversation the latest turns are remembered; it goes on all the same."""
    memory, messages = Memory(), [dict(USER)]
    history: list[Any] = [*messages]
    for number in range(100):
        shown = memory.ask(CHAT, request_of(CHAT, history))
        said = Answer(f"An answer of its own, number {number}.")
        memory.answer(CHAT, shown, said)
        history += [said, {"role": "user", "content": f"Then {number}?"}]
        assert shown.place.joins == (number > 0)
    assert memory.histories.turns == 64
    assert memory.anomalies == ["history_conversation_cap"] * 36


@pytest.mark.parametrize("session", ["named", None])
@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_what_a_long_conversation_keeps(api: str, session: str | None) -> None:
    """All that the latest request said, however much it is; if something early was changed, all before that."""
    memory, said = Memory(), Answer("An answer that is long enough.", response="0")
    asked: list[Any] = [USER]
    for number in range(200):
        asked += [Answer(f"{number}", response=f"{number}"), USER]
    memory.answer(api, memory.ask(api, request_of(api, asked), session), said)
    on: list[Any] = [*asked, said, USER]
    turns = [memory.ask(api, request_of(api, on), session) for _ in range(2)]
    assert [one.past.relation for one in turns] == ["continues", "repeats"]
    assert [one.past.kept for one in turns] == [401, 403]
    on[100] = {"role": "user", "content": "Something else."}
    other = memory.ask(api, request_of(api, on), "named")
    assert session is None or (other.past.kept, other.past.broke_at) == (100, "message")


def test_a_long_history_that_is_repeated() -> None:
    """However often it was asked, and whatever stands behind it, what it is costs as much as its length."""
    memory: Memory = Memory()
    messages: list[Any] = [dict(USER)]
    for number in range(4900):
        messages += [
            {"role": "assistant", "content": f"a{number}"},
            {"role": "user", "content": f"q{number}"},
        ]
    again = json.dumps(request_of(CHAT, messages)).encode()
    for _ in range(66):
        memory.answer(CHAT, memory.ask(CHAT, again, "named"), Answer("Yes"))
    asked = [*messages, {"role": "assistant", "content": "No"}, {"role": "user", "content": "Why?"}]
    history = memory.history(CHAT, request_of(CHAT, asked))
    assert history is not None
    with within(0.2):
        place = memory.histories.recognise(history, Identity("named", Source.KNOWN_HEADER))
    assert place.relation == "rewritten"


@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_a_place_is_the_same_however_many_are_asked_for(api: str) -> None:
    """Each place of a long history is as it is when nothing else of that history is looked at."""
    memory, dice = Memory(), Random(api)
    messages: list[Any] = []
    for number in range(40):
        call = Answer("", [(f"call_{number}", "look", "{}")], f"t{number}", f"signature{number}")
        reminder = {"role": "user", "content": f"<system-reminder>{number}</system-reminder>"}
        messages += dice.sample([call, Answer(f"Said {number}"), reminder, {**USER, "name": number}], k=3)
    body = request_of(api, messages)
    whole = memory.history(api, body)
    assert whole is not None
    places = [*whole.latest_places(1000)]
    for at in places:
        alone = memory.history(api, body)
        assert alone is not None
        one, other = whole.point(at), alone.point(at)
        assert [getattr(one, form) for form in one.__slots__] == [
            getattr(other, form) for form in one.__slots__
        ]
    assert len(places) > 20


def test_system_prompts_without_end() -> None:
    """In a session of many lanes: each compares its system prompt with all that are said, of which the first are looked at."""
    memory = Memory()
    dice = Random("prompts")
    for number in range(32):
        words = " ".join(f"w{dice.random()}" for _ in range(16))
        asked = [{"role": "system", "content": words}, {"role": "user", "content": f"Question {number}"}]
        memory.answer(CHAT, memory.ask(CHAT, request_of(CHAT, asked), "named"), Answer(f"Yes {number}"))
    systems = [
        {"role": "system", "content": " ".join(f"w{dice.random()}" for _ in range(16))} for _ in range(9_999)
    ]
    history = memory.history(CHAT, request_of(CHAT, [*systems, dict(USER)]))
    assert history is not None
    with within(0.2):
        memory.histories.recognise(history, Identity("named", Source.KNOWN_HEADER))


def test_what_is_behind_each_place_is_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the same answer was known at every place, and each is looked at from the last one on."""
    memory, asked = Memory(), list[int]()
    messages: list[Any] = [dict(USER)]
    for number in range(300):
        messages += [Answer(f"a{number}"), {"role": "user", "content": f"q{number}"}]
    history = memory.history(CHAT, request_of(CHAT, messages))
    assert history is not None
    keys = [history.point(at).key for at in range(300)]
    point = digests.History.point

    def counted(history: digests.History, at: int) -> digests.Point:
        asked.append(at)
        return point(history, at)

    monkeypatch.setattr(digests.History, "point", counted)
    for at in reversed(range(300)):
        assert history.keys_behind(at, 299) == {*keys[at + 1 :]}
    assert sorted(asked) == [*range(1, 300)]


@pytest.mark.parametrize("known, most", [("every one", 1024), ("the first one", 1)])
def test_many_answers(known: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the answers in a long history those are looked at that may be known, so many; its places are found beforehand."""
    memory, asked = Memory(), list[int]()
    same = "the same at every place" if known == "every one" else "only at this place"
    memory.answer(CHAT, memory.ask(CHAT, request_of(CHAT, [dict(USER)])), Answer(same))
    texts = [
        same,
        *(same if known == "every one" else f"at place number {number}" for number in range(4_998)),
    ]
    messages = [one for text in texts for one in ({"role": "user", "content": "So?"}, Answer(text))]
    history = memory.history(CHAT, request_of(CHAT, [*messages, dict(USER)]))
    assert history is not None
    candidates = Histories._candidates

    def counted(histories: Histories, point: digests.Point, *given: Any) -> Any:
        asked.append(point.count)
        return candidates(histories, point, *given)

    monkeypatch.setattr(Histories, "_candidates", counted)
    monkeypatch.setattr(digests.History, "find_points", pytest.fail)
    assert not memory.histories.recognise(history, NOBODY).joins
    assert asked == ([1] if most == 1 else [*range(9_997, 9_997 - 2 * most, -2)])


def test_what_is_known_of_messages_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each new one the oldest, not thousands at once; what comes again stays."""
    monkeypatch.setattr(digests, "_KNOWN", 100)
    memory = Memory()
    digester = memory.digester
    for number in range(1000):
        question = {"role": "user", "content": f"Question {number}"}
        before = digester.recent.keys() | digester.older.keys()
        memory.history(CHAT, request_of(CHAT, [dict(USER), question]))
        after = digester.recent.keys() | digester.older.keys()
        assert len(before - after) <= 2
        assert len(after) <= 100
    assert len(after) > 95


def test_choices_of_json() -> None:
    """Of all that an answer's choices say 64 KiB are parsed; each can be known by its text all the same."""
    echo, text = Echo(Digester(bytes(32))), f"[{'9.9,' * 16_000}9]"
    for choice in range(64):
        echo.text(choice, text)
    with within(0.1):
        found, _, _ = echo.marks()
    assert len(found) == 65


def test_beginnings_of_a_prompt() -> None:
    """All that are compared are digested in one go, and come to what each does."""
    digester = Digester(bytes(32))
    text = "".join(f"{number} \u00e9" for number in range(10_000))
    prompt, plain = Prompt(digester, text), Prompt(digester, text)
    sizes = [7, 1, 5000, prompt.size, 32, 31]
    prompt.look_ahead(sizes)
    prompt._text = b""
    assert [prompt.digest(size) for size in sizes] == [plain.digest(size) for size in sizes]
