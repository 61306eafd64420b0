"""What pages are told of requests in flight, look by look."""

import re

import pytest

from sidecar.core.facts import RequestFacts
from sidecar.live import Board
from sidecar.live import board as boards
from tests.live.boards import Connection, in_flight, settled


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
