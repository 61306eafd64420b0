"""What a page's connection is told of the board, and what it holds of it, in the board's own process."""

import asyncio
import gc
import re
from collections.abc import Iterable
from itertools import count, pairwise

import pytest

from sidecar.core.clock import SECOND
from sidecar.live import Board, WatchersError
from sidecar.live import board as boards
from sidecar.live.board import Watcher
from tests.live.boards import Connection, empty_board, in_flight, settled
from tests.pace import within


async def loop_turns(number: int) -> None:
    """Lets the event loop turn."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_slow_browser_is_told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies and waits for it is bounded; others have their frames, and it gets everything once it reads."""
    monkeypatch.setattr(boards, "UNREAD", 1000)
    board = empty_board()
    slow, quick = Connection(), Connection()
    watchers = [board.watch(slow), board.watch(quick)]
    frame = b"x" * 400
    for number in range(2 * boards.FRAMES):
        quick.read()
        for watcher in watchers:
            watcher.offer([frame], number / 10)
        assert frame in quick.read()
        assert slow.get_write_buffer_size() < 1000 + len(frame)
        assert len(watchers[0]._waiting) <= boards.FRAMES
    assert slow.read().count(b"event: hello") == 1
    watchers[0].offer([frame], 10)
    assert slow.read().count(b"event: hello") == 1
    watchers[0].offer([frame], 11)
    assert slow.read() == frame
    for watcher in watchers:
        board.let_go(watcher)


async def test_who_takes_nothing_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and not where something was taken meanwhile."""
    monkeypatch.setattr(boards, "UNREAD", 1)
    board = empty_board()
    way = Connection()
    watcher = board.watch(way)
    for at in (0.0, boards.PATIENCE - 1):
        watcher.offer([b"x"], at)
    way.read()
    for at in (boards.PATIENCE, 2 * boards.PATIENCE - 1):
        watcher.offer([b"x"], at)
    assert not way.is_closing()
    watcher.offer([], 2 * boards.PATIENCE + 2)
    watcher.offer([], 3 * boards.PATIENCE + 3)
    await loop_turns(3)
    assert way.is_closing()
    watcher.offer([], 3 * boards.PATIENCE + 4)
    assert watcher.gone.is_set()
    board.let_go(watcher)


async def test_a_connection_is_looked_at_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this process stood still, the browser may have read all the while: that is seen in the loop's next turn."""
    monkeypatch.setattr(boards, "UNREAD", 1)
    board = empty_board()
    way = Connection()
    watcher = board.watch(way)
    for at in (0.0, boards.PATIENCE + 1):
        watcher.offer([b"x"], at)
    await loop_turns(1)
    way.read()
    await loop_turns(3)
    assert not way.is_closing()
    board.let_go(watcher)


def turns(board: Board) -> bool:
    """Whether a timer is set, or anything waits for one."""
    return board._timer is not None or bool(board._fresh)


async def test_nothing_turns_while_nobody_looks() -> None:
    """No timer before the first browser and after the last; an ended request is kept, and nothing else."""
    board = empty_board()
    board.keep(settled(1))
    assert not turns(board)
    watcher = board.watch(Connection())
    assert turns(board)
    board.keep(settled(2))
    board.let_go(watcher)
    assert not turns(board)


def told(board: Board) -> list[int]:
    """The requests of which a page is told."""
    return [int(one, 16) for one in re.findall(rb'"id":"([0-9a-f]+)"', b"".join(board.everything()))]


def test_both_bounds_hold() -> None:
    """The number and the age: what has ended too long ago goes when another one ends, and when somebody looks."""
    since = 0
    board = Board(limit=3, since=lambda: since, in_flight=list, figures=dict, about={}, now=lambda: 0)
    for number in range(1, 6):
        board.keep(settled(number))  # it ends one second after its number
    assert told(board) == [3, 4, 5]
    since = 5 * SECOND
    assert told(board) == [4, 5]
    assert board.detail("4") is not None
    since = 5 * SECOND + 1
    assert board.detail("4") is None
    since = 10 * SECOND
    board.keep(settled(10))
    assert [kept.key for kept in board._kept.values()] == [10]
    since = 20 * SECOND
    assert told(board) == []


async def test_what_is_too_much_for_a_look_is_counted() -> None:
    """The page is told how many it missed, so that it can ask anew."""
    board = empty_board()
    way = Connection()
    watcher = board.watch(way)
    await loop_turns(3)
    for number in range(1, boards.CHANGES + 4):
        board.keep(settled(number))
    board._look()
    told = way.read()
    assert b'"missed":3' in told
    assert told.count(b'"id":') == boards.CHANGES
    board._look()
    assert way.read() == b""
    board.let_go(watcher)


async def test_what_was_dropped_on_its_way_is_missed() -> None:
    """A request in flight that ends and is never kept: pages are told to ask anew, once; one that is kept late is not."""
    running = [in_flight(1), in_flight(2)]
    board = Board(limit=9, since=lambda: 0, in_flight=lambda: running, figures=dict, about={}, now=lambda: 0)
    way = Connection()
    watcher = board.watch(way)
    board._look()
    running.clear()
    board._look()
    board.keep(settled(2))
    told = b""
    for _ in range(2 * boards._LATE):
        board._look()
        told += way.read()
    assert told.count(b'"missed":1') == 1
    assert not board._leaving
    board.let_go(watcher)


async def test_browsers_have_a_bound() -> None:
    """One too many is refused, until another goes."""
    board = empty_board()
    watchers = [board.watch(Connection()) for _ in range(boards.WATCHERS)]
    with pytest.raises(WatchersError):
        board.watch(Connection())
    board.let_go(watchers[0])
    board.let_go(board.watch(Connection()))
    for watcher in watchers:
        board.let_go(watcher)


async def test_a_crowd_is_told_a_slice_in_each_turn() -> None:
    """Requests have their turns between slices; each browser gets one piece, and all the same."""
    board = empty_board()
    ways = [Connection() for _ in range(2 * boards.SLICE + 1)]
    watchers = [board.watch(way) for way in ways]
    await loop_turns(3)
    for way in ways:
        way.unread.clear()
    board.keep(settled(1))
    board._looks = boards._HEAD_EVERY - 1
    board._look()
    for reached in (boards.SLICE, 2 * boards.SLICE, len(ways)):
        assert sum(bool(way.unread) for way in ways) == reached
        await loop_turns(1)
    (piece,) = {*(b"".join(way.unread) for way in ways)}
    assert {len(way.unread) for way in ways} == {1}
    assert (piece.count(b"event: head"), piece.count(b"event: bars")) == (1, 1)
    for watcher in watchers:
        board.let_go(watcher)


async def test_a_browser_is_told_everything_a_portion_in_each_turn() -> None:
    """So a long past holds nobody up, and what changes meanwhile comes behind it; a browser that leaves is told no more."""
    board = Board(limit=2000, since=lambda: 0, in_flight=list, figures=dict, about={}, now=lambda: 0)
    for number in range(1, 2 * boards.PORTION + 1):
        board.keep(settled(number))
    way, leaves = Connection(), Connection()
    watchers = [board.watch(way), board.watch(leaves)]
    leaves.closing = True
    board.keep(settled(9999))
    board._look()
    seen = [way.read().count(b'"id":')]
    for _ in range(4):
        await loop_turns(1)
        seen.append(way.read().count(b'"id":'))
    assert seen == [boards.PORTION, boards.PORTION, 1, 1, 0]
    assert len(leaves.unread) == 1
    for watcher in watchers:
        board.let_go(watcher)


async def test_everything_comes_in_portions() -> None:
    """However many are kept, no frame has more than a portion of them."""
    limit = 2 * boards.PORTION + 9
    board = Board(limit=limit, since=lambda: 0, in_flight=list, figures=dict, about={}, now=lambda: 0)
    for number in range(1, limit + 50):
        board.keep(settled(number))
    frames = list(board.everything())
    assert [frame.count(b'"id":') for frame in frames] == [0, boards.PORTION, boards.PORTION, 9]
    ids = re.findall(rb'"id":"0*([0-9a-f]+)"', b"".join(frames))
    assert all(int(one, 16) + 1 == int(next_one, 16) for one, next_one in pairwise(ids))


def held_for(ways: Iterable[Connection], watchers: Iterable[Watcher]) -> int:
    """Bytes that lie in these connections and wait for them; what several have in common counts once."""
    pieces = [piece for way in ways for piece in way.unread]
    pieces += [piece for watcher in watchers for piece in watcher._waiting]
    return sum({id(piece): len(piece) for piece in pieces}.values())


def kept_anywhere() -> int:
    """How many ended requests the process has, on a board or by whoever reads of one."""
    gc.collect()
    return sum(isinstance(one, boards._Kept) for one in gc.get_objects())


async def test_browsers_that_take_nothing_hold_little() -> None:
    """All that may look, one after another while requests end: neither frames pile up nor what the board has forgotten."""
    limit = 1000
    board = Board(limit=limit, since=lambda: 0, in_flight=list, figures=dict, about={}, now=lambda: 0)
    numbers, before = count(1), kept_anywhere()
    ways = [Connection() for _ in range(boards.WATCHERS)]
    watchers = []
    for way in ways:
        for _ in range(boards.CHANGES):
            board.keep(settled(next(numbers)))
        watchers.append(board.watch(way))
        await loop_turns(limit // boards.PORTION + 2)
        board._look()
        await loop_turns(boards.WATCHERS // boards.SLICE)
    assert all(way.unread for way in ways)
    assert held_for(ways, watchers) < 16 << 20
    assert kept_anywhere() - before < limit + 2 * boards.CHANGES
    for watcher in watchers:
        board.let_go(watcher)


async def test_a_browser_that_reads_late_is_told_what_is_left() -> None:
    """What was forgotten since it began to read is not told, and what has ended since is."""
    limit = 2 * boards.PORTION
    board = Board(limit=limit, since=lambda: 0, in_flight=list, figures=dict, about={}, now=lambda: 0)
    for number in range(limit):
        board.keep(settled(number))
    frames = board.everything()
    assert [next(frames).count(b'"id":'), next(frames).count(b'"id":')] == [0, boards.PORTION]
    for number in range(limit, limit + boards.PORTION + 10):
        board.keep(settled(number))
    assert [frame.count(b'"id":') for frame in frames] == [boards.PORTION - 10]


def test_no_portion_passes_over_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the past is: to tell all of it takes seconds if each portion begins at the beginning."""
    monkeypatch.setattr(boards, "PORTION", 1)
    limit = 40_000
    board = Board(limit=limit, since=lambda: 0, in_flight=list, figures=dict, about={}, now=lambda: 0)
    for _ in range(limit):
        board.show({"bar": {"id": "1", "end": 1}})
    with within(1):
        assert sum(1 for _ in board.everything()) == 1 + limit
