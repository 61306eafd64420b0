"""What pages are told of requests in flight, look by look."""

import re
from collections.abc import Iterator

import pytest

from sidecar.core.exchange import Exchange
from sidecar.core.facts import RequestFacts
from sidecar.live import Board
from sidecar.live import board as boards
from tests.live.boards import Connection, in_flight, settled
from tests.live.test_browsers import loop_turns


def missed(text: bytes) -> int:
    """Of how many requests a page is told that it missed them."""
    return sum(map(int, re.findall(rb'"missed":(\d+)', text)))


@pytest.mark.parametrize("kept", [True, False], ids=["ended", "in-flight"])
async def test_what_finds_no_room_in_a_look_is_missed_once(
    monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """If it has ended; what still runs comes with the next look, and is not missed at all."""
    monkeypatch.setattr(boards, "CHANGES", 3)
    running = [in_flight(number) for number in range(1, 6)]
    board = Board(limit=9, since=lambda: 0, in_flight=lambda: running, figures=dict, about={}, now=lambda: 0)
    way = Connection()
    watcher = board.watch(way)
    board._look()
    board._look()
    way.read()
    if kept:
        running.clear()
        for number in range(1, 6):
            board.keep(settled(number))
    else:
        for one in running:
            one.first_byte = one.start + 1
    told = b""
    for _ in range(2 * boards._LATE):
        board._look()
        told += way.read()
    assert told.count(b'"id":') == (3 if kept else 5)
    assert missed(told) == (2 if kept else 0)
    board.let_go(watcher)


async def test_what_is_learned_of_a_request_in_flight_is_told() -> None:
    """The model that its body asks for, and later the one that answers."""
    one = in_flight(1)
    board = Board(limit=9, since=lambda: 0, in_flight=lambda: [one], figures=dict, about={}, now=lambda: 0)
    way = Connection()
    watcher = board.watch(way)
    board._look()
    assert b'"model":null' in way.read()
    for facts, model in ((one.request, "gpt-4o"), (one.response, "gpt-4o-2024-08-06")):
        if facts is one.request:
            one.request = RequestFacts(model)
        else:
            one.response.model = model
        board._look()
        assert f'"model":"{model}"'.encode() in way.read()
    board._look()
    assert way.read().count(b'"id":') == 0
    board.let_go(watcher)


async def test_a_look_goes_over_some_requests_in_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turns in between, however many are in flight; none is told twice, and the last browser ends it."""
    monkeypatch.setattr(boards, "IN_ONE_GO", 3)
    running, looked_at = [in_flight(number) for number in range(1, 9)], 0

    def looking() -> Iterator[Exchange]:
        nonlocal looked_at
        for looked_at, one in enumerate(running, 1):  # noqa: B007 - told outside
            yield one

    board = Board(limit=9, since=lambda: 0, in_flight=looking, figures=dict, about={}, now=lambda: 0)
    way = Connection()
    watcher = board.watch(way)
    await loop_turns(5)
    way.read()
    looked_at = 0
    board._look()
    seen = [looked_at]
    for _ in range(3):
        await loop_turns(1)
        seen.append(looked_at)
    assert seen == [3, 6, 8, 8]
    assert way.read().count(b'"id":') == 8
    board._look()
    assert looked_at == 3
    board.let_go(watcher)
    await loop_turns(3)
    assert looked_at == 3
