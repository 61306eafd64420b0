"""Long texts of an event that is coming are replaced while it comes: what is read of it stays as it is."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.json_array import JsonArrayParser
from sidecar.core.sse import FILLER, STEP, UNCOUNTED, Pending, SseParser, shorten
from tests.pace import within

MIB = 1 << 20
TEXTS = st.sampled_from(
    [
        "",
        "stop",
        "A" * 70_000,
        "a line\n" * 12_000,
        'a "quoted" word, ' * 6_000,
        "\\" * 50_000,
        "é漢😀" * 9_000,
        ": [,]}" * 20_000,
        " " + "b" * 80_000,
        '"' * 30_000,
    ]
)
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def alike(value: Any, other: Any) -> bool:
    """The same but for texts of over 512 characters, of which a part may be replaced; none of those becomes short."""
    if isinstance(value, str) and len(value) > 512 and isinstance(other, str):
        return value == other or (FILLER.decode() in other and len(other) >= len(FILLER))
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(alike, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return list(value) == list(other) and all(map(alike, value.values(), other.values()))
    return bool(value == other)


@given(value=VALUES, ascii_only=st.booleans(), cuts=st.lists(st.integers(1, 90_000), max_size=20))
def test_what_is_left_is_the_same_but_for_long_texts(value: Any, ascii_only: bool, cuts: list[int]) -> None:
    """However it comes: valid JSON of the same shape, names and short texts."""
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert alike(value, json.loads(shorten(data)))
    pending, at = Pending(64 * MIB), 0
    for size in [*cuts, len(data)]:
        pending.add(data[at : at + size])
        at += size
    taken, whole = pending.take()
    assert whole
    assert alike(value, json.loads(taken))


@pytest.mark.parametrize(
    "unit", [b'\\"' * 500 + b'"a', b'\\"' * 300 + b"\n", b'"a\\"'], ids=["texts", "lines", "tiny"]
)
def test_quotes_inside_of_a_text_cost_no_more(unit: bytes) -> None:
    """What stands behind each of them is looked through once, where it is too short to be replaced."""
    data = unit * (STEP // len(unit))
    with within(0.02):
        assert shorten(data) == data


def test_a_long_run_inside_of_a_text_is_replaced() -> None:
    """As a text of its own: what the text begins with stays."""
    assert json.loads(shorten(b'["See \\"' + b"b" * 5000 + b'", "c"]')) == ['See "' + FILLER.decode(), "c"]


def test_a_large_text_takes_no_room() -> None:
    """20 MiB that come in pieces are never held, and memory that was asked for is given back."""
    asked, room = asked_of()
    pending = Pending(MIB, room)
    pending.add(b'{"usage":{"n":7},"image":"')
    for _ in range(320):
        pending.add(b"A" * STEP)
    pending.add(b'","status":"completed"}')
    taken, whole = pending.take()
    assert whole
    found = json.loads(taken)
    assert (found["usage"], found["status"]) == ({"n": 7}, "completed")
    assert len(taken) < 3 * STEP
    assert sum(asked) == 0


def test_an_event_without_room_is_given_up() -> None:
    """When memory is used up, and when it has too many parts to be read in a few milliseconds."""
    full = Pending(MIB, lambda change: change < 0)
    full.add(b"[1,2]" * STEP)
    assert full.take() == ((b"[1,2]" * 205)[:1024], False)
    for costly in (b"{}," * 70_000, b"1\n" * 40_000, b"1," * 1_100_000, b"[]," * 1_100_000):
        pending = Pending(8 * MIB)
        pending.add(costly)
        assert pending.take() == (costly[:1024], False)
        assert pending.lost == 1
        pending.add(b"{}")
        assert pending.take() == (b"{}", True)


def held_back(feed: Callable[[bytes], object], begun: bytes) -> int:
    """The memory (bytes) that a process takes for what a parser keeps of this, fed a read at a time."""
    before = tracemalloc.get_traced_memory()[0]
    for at in range(0, len(begun), STEP // 4):
        feed(begun[at : at + STEP // 4])
    return tracemalloc.get_traced_memory()[0] - before


def asked_of() -> tuple[list[int], Callable[[int], bool]]:
    """What will have been asked of a room that has any, and the room."""
    asked: list[int] = []

    def room(change: int) -> bool:
        asked.append(change)
        return True

    return asked, room


PARSERS: dict[str, tuple[Callable[..., SseParser | JsonArrayParser], bytes, bytes]] = {
    "events": (SseParser, b"data: 1\n\ndata: ", b"\n\n"),
    "array": (JsonArrayParser, b'[{}, {"x":"', b'"}'),
}


@pytest.mark.parametrize("form", PARSERS)
@pytest.mark.parametrize("size", [UNCOUNTED + 1, 3 * UNCOUNTED, STEP // 2, STEP, 3 * STEP])
def test_what_is_kept_of_an_event_is_counted(form: str, size: int) -> None:
    """As the memory it takes, as soon as it is more than a little; and given back once the event has ended."""
    make, before, after = PARSERS[form]
    held, room = asked_of()
    parser = make(MIB, room=room)
    assert parser.feed(before)
    tracemalloc.start()
    try:
        taken = held_back(parser.feed, b"a b" * (size // 3 + 1))
    finally:
        tracemalloc.stop()
    assert taken - 1024 <= sum(held) <= taken + 1024
    assert len(held) < 40
    assert parser.feed(after)
    assert sum(held) == 0


@pytest.mark.parametrize("form", PARSERS)
def test_an_event_that_comes_at_once_asks_for_nothing(form: str) -> None:
    """Nor one of which little waits, nor the last read of one: that is not kept."""
    make, before, after = PARSERS[form]
    held, room = asked_of()
    parser = make(MIB, room=room)
    small, large = b"a b" * (UNCOUNTED // 3 - 20), b"a b" * 8000
    for pieces in ((before + large + after,), (before + small, large + after)):
        assert [event for piece in pieces for event in parser.feed(piece)]
    assert held == []


def test_without_room_no_more_than_a_little_is_kept() -> None:
    """What has come of the event is let go; the next one is read."""
    parser = SseParser(MIB, room=lambda change: change < 0)
    assert parser.feed(b"data: 1\n\n")
    tracemalloc.start()
    try:
        assert held_back(parser.feed, b"data: " + b"a b" * 20_000) < UNCOUNTED
    finally:
        tracemalloc.stop()
    assert parser.feed(b"\n\ndata: 2\n\n") == [(b"", b""), (b"", b"2")]
    assert parser.oversized == 1
