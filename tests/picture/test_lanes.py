"""Lanes: which rows requests share, what a queue would have done, and what is remembered of a round."""

from sidecar.picture.lanes import Bar, Board, Lane, Seen, Sums, Tally, queued, sums, tracks

S = 1_000_000_000


def bar(
    sequence: int,
    start: float,
    end: float | None,
    outcome: str = "completed",
    *,
    turn: bool = True,
    raced: bool = False,
) -> Bar:
    """A bar with its times in seconds; it runs if it has no end."""
    stop = None if end is None else round(end * S)
    return Bar(sequence, round(start * S), stop, None if end is None else outcome, turn, raced)


def sequences(rows: list[list[Bar]]) -> list[list[int]]:
    """The rows by their bars' numbers."""
    return [[bar.sequence for bar in row] for row in rows]


def test_polite_turns_share_a_row() -> None:
    """A turn that begins when the one before has ended, to the nanosecond, ran beside none."""
    assert sequences(tracks([bar(1, 0, 1), bar(2, 1, 2), bar(3, 5, None)])) == [[1, 2, 3]]


def test_turns_at_the_same_time_have_rows_of_their_own() -> None:
    """A row is taken again as soon as it is free, the topmost first."""
    bars = [bar(4, 2.7, 4), bar(1, 0, 3), bar(2, 1, 5), bar(3, 2, 2.5)]
    assert sequences(tracks(bars)) == [[1], [2], [3, 4]]


def test_nothing_follows_what_still_runs() -> None:
    """A request without an end keeps its row."""
    assert sequences(tracks([bar(1, 0, None), bar(2, 9, None)])) == [[1], [2]]


def test_a_queue_runs_turns_one_at_a_time() -> None:
    """Each begins when it arrives or when the one before is done, and takes as long as it took."""
    waited = queued([bar(1, 0, 3), bar(2, 1, 5), bar(3, 2, 2.5), bar(4, 20, None)], now=21 * S)
    assert [(one.start / S, (one.end or 0) / S) for one in waited] == [(0, 3), (3, 7), (7, 7.5), (20, 21)]


def test_a_queue_never_held_what_is_no_turn() -> None:
    """Embeddings and the like passed it by."""
    assert [one.sequence for one in queued([bar(1, 0, 3, turn=False), bar(2, 1, 2)], now=9 * S)] == [2]


def test_sums_over_lanes() -> None:
    """Counts add up, the most at once is that of one conversation, frequent outcomes come first."""
    lanes = [
        Lane(
            "a",
            "main",
            (bar(1, 0, 1), bar(2, 0, 1, "client_left", raced=True), bar(3, 0, None)),
            Tally(2, 3, 1, 5 * S),
        ),
        Lane("b", "main", (bar(1, 0, 1),), Tally(1, 2, 0, 1 * S)),
    ]
    expected = Sums(4, 1, 1, (("completed", 2), ("client_left", 1)), Tally(3, 3, 1, 6 * S))
    assert sums(lanes) == expected


def test_a_running_request_becomes_an_ended_one() -> None:
    """The later snapshot wins."""
    board = Board(0)
    board.take([Seen("s", 0, "main", (bar(1, 1, None, turn=False),))])
    board.take([Seen("s", 0, "main", (bar(1, 1, 2, turn=False),), Tally(most_at_once=1))])
    assert board.lanes() == [Lane("s", "main", (bar(1, 1, 2, turn=False),), Tally(most_at_once=1))]


def test_an_ended_session_stays_until_the_round_is_over() -> None:
    """It is drawn as ended once the admin port no longer knows it."""
    board = Board(0)
    board.take([Seen("s", 0, "main", (bar(1, 1, 2),))])
    board.take([])
    assert [lane.ended for lane in board.lanes()] == [True]


def test_what_ended_unseen_runs_no_more() -> None:
    """Whether its session is shown without it, is one of those that were not asked for, or is over: how it ended nobody knows."""
    board = Board(0)
    ran = (bar(1, 1, 2), bar(2, 2, None), bar(3, 2, None))
    board.take([Seen(session, 0, "main", ran) for session in ("shown", "not asked", "over")])
    board.take([Seen("shown", 0, "main", (bar(3, 2, 4), bar(4, 4, None)))], {"shown", "not asked"})
    left = {
        lane.session: ([(one.sequence, one.end) for one in lane.bars], lane.ended) for lane in board.lanes()
    }
    assert left == {
        "shown": ([(1, 2 * S), (3, 4 * S), (4, None)], False),
        "not asked": ([(1, 2 * S)], False),
        "over": ([(1, 2 * S)], True),
    }


def test_a_lane_of_which_nothing_is_known_any_more_goes() -> None:
    """It had but one request, which ended unseen; another of its session brings it back."""
    board = Board(0)
    board.take([Seen(session, 0, "main", (bar(1, 1, None),)) for session in ("a", "b")])
    board.take([Seen("a", 0, "main", ())], {"a", "b"})
    assert board.lanes() == []
    board.take([Seen("a", 0, "main", (bar(2, 2, None),))], {"a"})
    assert [(lane.session, lane.ended) for lane in board.lanes()] == [("a", False)]


def test_a_session_that_returns_is_a_new_one() -> None:
    """The same id with another start has a lane of its own, and begins at 1 again."""
    board = Board(0)
    board.take([Seen("s", 1, "main", (bar(1, 1, 2),))])
    board.take([Seen("s", 9 * S, "main", (bar(1, 9, None),))])
    assert [(lane.ended, len(lane.bars)) for lane in board.lanes()] == [(True, 1), (False, 1)]


def test_a_session_is_the_same_when_the_clock_was_corrected() -> None:
    """Its start and its requests move a little with the wall clock, and stay in their lane."""
    board = Board(0)
    board.take([Seen("s", 2 * S, "main", (bar(1, 2, 3),))])
    board.take([Seen("s", 2 * S - 1_500_000, "main", (bar(1, 1.9985, 2.9985), bar(2, 4, None)))])
    assert [(lane.ended, lane.bars) for lane in board.lanes()] == [
        (False, (bar(1, 1.9985, 2.9985), bar(2, 4, None)))
    ]


def test_what_ended_before_the_round_is_not_drawn() -> None:
    """A conversation of the round before has a lane only if something of it reaches into this one."""
    board = Board(10 * S)
    board.take(
        [Seen("old", 0, "main", (bar(1, 1, 2),)), Seen("long", 1, "main", (bar(1, 1, 2), bar(2, 9, 11)))]
    )
    assert [(lane.session, [one.sequence for one in lane.bars]) for lane in board.lanes()] == [("long", [2])]


def test_lanes_are_in_the_order_of_their_sessions() -> None:
    """Oldest session first; its conversations stay together, `main` on top."""
    board = Board(0)
    board.take(
        [
            Seen("young", 2, "main", (bar(1, 3, 4),)),
            Seen("old", 1, "agent", (bar(1, 1, 2),)),
            Seen("old", 1, "main", (bar(1, 2, 3),)),
        ]
    )
    assert [(lane.session, lane.conversation) for lane in board.lanes()] == [
        ("old", "main"),
        ("old", "agent"),
        ("young", "main"),
    ]


def test_a_round_remembers_no_more_than_it_may() -> None:
    """Lanes beyond the cap are not drawn; those there are go on."""
    board = Board(0)
    board.take([Seen(f"s{number}", number, "main", (bar(1, 1, None),)) for number in range(300)])
    assert len(board.lanes()) == 200


def test_what_is_long_over_is_forgotten() -> None:
    """Bars that ended before, and lanes without any; what runs stays, however old, and nothing comes back."""
    board = Board(0)
    seen = [
        Seen("a", 0, "main", (bar(1, 1, 2), bar(2, 3, 9))),
        Seen("b", 0, "main", (bar(1, 1, 2),)),
        Seen("c", 0, "main", (bar(1, 1, None),)),
    ]
    board.take(seen)
    board.forget(5 * S)
    left = {lane.session: [one.sequence for one in lane.bars] for lane in board.lanes()}
    assert left == {"a": [2], "c": [1]}
    board.take(seen)
    assert {lane.session for lane in board.lanes()} == {"a", "c"}
