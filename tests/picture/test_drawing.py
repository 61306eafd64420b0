"""The picture, line by line, at several widths and heights."""

import pytest

from sidecar.picture.drawing import Line, Picture, Span, Tone, axis, draw, lane_rows, paint, plain, seconds
from sidecar.picture.lanes import Bar, Lane, Tally

S = 1_000_000_000


def bar(sequence: int, start: float, end: float | None, outcome: str = "completed", turn: bool = True) -> Bar:
    """A bar with its times in seconds; it runs if it has no end."""
    stop = None if end is None else round(end * S)
    return Bar(sequence, round(start * S), stop, None if end is None else outcome, turn)


TRIP = Lane(
    "trip-planner-1",
    "main",
    (bar(1, 0.3, 3.8), bar(2, 0.7, 5.7), bar(3, 1.1, 2.6), bar(4, 6.3, None)),
    Tally(overlaps=2, most_at_once=3, out_of_order=2, wait_avoided=7_300_000_000),
)


def picture(*lanes: Lane, now: float = 6.9) -> Picture:
    """A picture of 12 seconds with these lanes."""
    return Picture(
        title="sidecar demo · round 1",
        state="next round in 4 s",
        start=0,
        end=12 * S,
        now=round(now * S),
        lanes=lanes,
        figures=(("since start", "21 started = 20 settled + 1 in flight   7 sessions, 7 live"),),
        about="a lane per conversation",
        footer=(("your own app", "export OPENAI_BASE_URL=http://127.0.0.1:7070/v1"),),
    )


def rows(
    lane: Lane, *, width: int = 80, nested: bool = False, queue: bool = True, now: float = 6.9
) -> list[str]:
    """A lane's rows as text."""
    return [plain(line) for line in lane_rows(lane, picture(now=now), width, nested=nested, queue=queue)]


def test_a_whole_picture() -> None:
    """Everything at 80 columns: title, lanes with their overlaps and the queue's row, scale, counts, the way in."""
    lanes = (
        Lane("support-chat-1", "main", (bar(1, 0.2, 1.6), bar(2, 2.4, 4.0), bar(3, 5.0, 6.1)), ended=True),
        TRIP,
        Lane("coding-agent-1", "main", (bar(1, 0.4, 2.5), bar(2, 2.7, 6.0, "error_in_stream"))),
        Lane("coding-agent-1", "explorer", (bar(1, 3.0, 4.5, "client_left"), bar(2, 5.0, 5.2, turn=False))),
    )
    assert [plain(line) for line in draw(picture(*lanes), 80)] == [
        " sidecar demo · round 1                                       next round in 4 s",
        " a lane per conversation",
        "",
        " support-chat-1 ended 1━━━━━━✓   2━━━━━━━✓   3━━━━✓",
        " trip-planner-1        1━━━━━━━━━━━━━━━━✓          4━━╸",
        "   3 at once             2━━━━━━━━━━━━━━━━━━━━━━━✓",
        "                           3━━━━━━✓",
        "   would queue 7.3 s   1────────────────2──────────────────────3──────4──",
        " coding-agent-1        1━━━━━━━━━✓2━━━━━━━━━━━━━━━!",
        "   └ explorer                       1━━━━━━◁ 2✓",
        "                      ╵0 s     ╵2 s      ╵4 s     ╵6 s      ╵8 s     ╵10 s",
        "",
        " requests      11   ✓ 8 completed   ◁ 1 client left   ! 1 error in stream",
        "               ╸ 1 running",
        " turns         2 overlaps   2 out of order   3 at once   7.3 s wait avoided",
        " since start   21 started = 20 settled + 1 in flight   7 sessions, 7 live",
        "",
        " your own app  export OPENAI_BASE_URL=http://127.0.0.1:7070/v1",
    ]


def test_a_picture_before_the_first_request() -> None:
    """Says that it waits, and what it waits for."""
    assert "   waiting for the first request" in [plain(line) for line in draw(picture(), 80)]


@pytest.mark.parametrize("width", [1, 20, 40, 80, 81, 140, 300])
@pytest.mark.parametrize("height", [None, 1, 8, 24, 60])
def test_every_line_fits(width: int, height: int | None) -> None:
    """No line is wider and no picture higher than asked for, whatever ids the lanes have."""
    wild = "会話\x1b[2J" * 30
    lines = draw(picture(TRIP, Lane(wild, wild, TRIP.bars)), width, height)
    assert all(sum(len(span.text) for span in line) <= width for line in lines)
    assert height is None or len(lines) <= height
    assert not any("\x1b" in plain(line) or "会" in plain(line) for line in lines)


def test_a_low_terminal_gives_up_dull_lanes_first() -> None:
    """After the empty lines: the oldest of them, counted; then the queue's rows; what overlapped stays longest."""
    lanes = [Lane(f"chat-{number}", "main", (bar(1, number, number + 1),)) for number in range(6)]
    full = draw(picture(*lanes, TRIP), 80)

    def lower(by: int) -> list[str]:
        return [plain(line) for line in draw(picture(*lanes, TRIP), 80, len(full) - by)]

    without = lower(1)
    assert "" not in without
    assert sum(line.startswith(" chat-") for line in without) == 6
    empty = sum(not plain(line) for line in full)
    assert empty == 3
    shorter = lower(empty + 1)
    assert shorter[2] == "   2 more, in a taller terminal"
    assert shorter[3].startswith(" chat-2")
    lowest = lower(empty + 5)
    assert lowest[2] == "   6 more, in a taller terminal"
    assert lowest[3].startswith(" trip-planner-1")
    assert lowest[6].startswith("   would queue 7.3 s")
    beyond = lower(empty + 6)
    assert beyond[3].startswith(" trip-planner-1")
    assert not any("would queue" in line for line in beyond)
    assert beyond[-1] == " your own app  export OPENAI_BASE_URL=http://127.0.0.1:7070/v1"


def test_wider_terminals_get_finer_lanes() -> None:
    """The names keep their room, the time takes the rest."""
    assert rows(TRIP, width=140)[0] == (
        " trip-planner-1               1━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━✓                      4━━━━╸"
    )


def test_short_requests_keep_their_ends() -> None:
    """Each takes a cell at least; bars that touch move aside instead of running together."""
    lane = Lane("quick", "main", (bar(1, 0, 0.01), bar(2, 0.02, 0.03), bar(3, 0.5, 1.0, "timed_out")))
    assert rows(lane) == [" quick                ✓✓3━◔"]


def test_more_bars_than_cells() -> None:
    """What has no room left at the edge is not drawn; nothing breaks."""
    many = tuple(bar(number, number / 100, number / 100 + 0.005) for number in range(1, 400))
    (row,) = rows(Lane("busy", "main", many))
    assert row == " busy                 " + "✓" * 57


def test_bars_beyond_the_picture_are_cut_visibly() -> None:
    """On either side."""
    lane = Lane("long", "main", (bar(1, -5, 2), bar(2, 3, 99)))
    assert rows(lane) == [" long                 ‹━━━━━━━━✓    2" + "━" * 41 + "›"]


def test_what_lies_wholly_outside_is_not_drawn() -> None:
    """Neither before nor after."""
    assert rows(Lane("gone", "main", (bar(1, -5, -2), bar(2, 13, 14)))) == [" gone"]


def test_a_crowd_is_told_as_a_number() -> None:
    """Only so many rows for one lane."""
    crowd = tuple(bar(number, number / 10, 9) for number in range(1, 11))
    drawn = rows(Lane("crowd", "main", crowd, Tally(most_at_once=10)), width=120)
    assert len(drawn) == 6
    assert drawn[1].startswith("   10 at once, 4 cut ")


def test_names() -> None:
    """A conversation that is not `main` is named after its session; long names are cut with a sign."""
    bars = (bar(1, 0, 1),)
    assert rows(Lane("s", "agent", bars))[0].startswith(" s/agent  ")
    assert rows(Lane("s", "agent", bars), nested=True)[0].startswith("   └ agent  ")
    assert rows(Lane("0123456789" * 4, "main", bars, ended=True))[0].startswith(" 0123456789012… ended 1")


def test_an_outcome_nobody_knows() -> None:
    """Drawn as a question, not as a success."""
    assert rows(Lane("s", "main", (bar(1, 0, 1, "brand_new"),))) == [" s                    1━━━?"]


@pytest.mark.parametrize(
    "length, room, expected",
    [
        (12, 57, "╵0 s     ╵2 s      ╵4 s     ╵6 s      ╵8 s     ╵10 s"),
        (12, 20, "╵0 s    ╵5 s"),
        (3, 40, "╵0 s         ╵1 s         ╵2 s"),
        (90_000, 40, "╵0 s"),
    ],
)
def test_axis(length: int, room: int, expected: str) -> None:
    """Marks at round seconds, never closer than legible, never cut."""
    assert plain(axis(0, length * S, 2, room)).strip() == expected


@pytest.mark.parametrize(
    "duration, text",
    [(0, "0.0 s"), (49_000_000, "0.0 s"), (7_340_000_000, "7.3 s"), (125 * S, "2 min 5 s")],
)
def test_seconds(duration: int, text: str) -> None:
    """Durations as people read them."""
    assert seconds(duration) == text


def test_paint() -> None:
    """Tones become colours, spaces stay spaces; without them the text is the same."""
    line: Line = (Span(" a "), Span("b", Tone.GOOD), Span("  ", Tone.FAINT))
    assert paint(line) == " a \x1b[32mb\x1b[0m  "
    assert plain(line) == " a b"
