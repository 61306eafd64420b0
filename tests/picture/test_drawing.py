"""The picture, line by line, at several widths and heights."""

import json

import pytest

from sidecar.picture.drawing import Line, Picture, Span, Tone, axis, draw, lane_rows, paint, plain, seconds
from sidecar.picture.figures import closing
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
    assert rows(lane) == [" long                 ‹1━━━━━━━✓    2" + "━" * 41 + "›"]


def test_numbers_are_whole_or_left_out() -> None:
    """A short bar takes free cells for its number; one that was cut keeps all its digits, in the queue's row too."""
    bars = (bar(12, -5, 2), bar(13, 3, 3.1), bar(14, 4, 4.1), bar(15, 4.3, 4.4), bar(16, 6, 6.1, turn=False))
    assert rows(Lane("s", "main", bars, Tally(overlaps=1))) == [
        " s                    ‹12━━━━━━✓    13✓  ✓15✓     16✓",
        "   would queue 0.0 s  12───────────────────────────────╶╶15─",
    ]
    assert rows(Lane("s", "main", (bar(12, -0.02, 0.01),))) == [" s                    ‹12✓"]
    assert rows(Lane("s", "main", (bar(12, -0.02, 0.01), bar(13, 0.1, 0.2)))) == [
        " s                    ✓13✓"
    ]


@pytest.mark.parametrize(
    "wait,told",
    [
        (99 * S, "99.0 s "),
        (125 * S, "2m05s "),
        (5999 * S, "99m59s"),
        (6000 * S, "1h40m "),
        (1e6 * S, "277h46m"),
    ],
)
def test_a_long_wait_keeps_to_its_column(wait: float, told: str) -> None:
    """The queue's row begins where the others do, whatever is told beside it."""
    late = Lane("s", "main", (bar(1, 0, 1),), Tally(overlaps=1, wait_avoided=round(wait)))
    assert rows(late)[1] == f"   would queue {told}"[:21].ljust(22) + "1───"


def test_a_crowd_that_was_larger_keeps_to_its_column() -> None:
    """As every name does."""
    crowd = tuple(bar(number, 0, 9) for number in range(1, 1200))
    drawn = rows(Lane("crowd", "main", crowd, Tally(most_at_once=1199)))
    assert [row[21:23] for row in drawn] == [" 1", " 2", " 3", " 4", " 5", " 6"]


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


def test_a_race_is_drawn_double() -> None:
    """Beside a turn that raced nobody, and a request that is no turn."""
    bars = (Bar(1, 0, 2 * S, "completed", raced=True), bar(2, 3, 5), bar(3, 6, 7, turn=False))
    assert rows(Lane("s", "main", bars)) == [" s                    1════════✓    2━━━━━━━━✓    3────✓"]


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
    "length, room, expected",
    [
        (30, 57, "╵-30 s   ╵-25 s    ╵-20 s   ╵-15 s    ╵-10 s   ╵-5 s  now"),
        (60, 57, "╵-60 s   ╵-50 s    ╵-40 s   ╵-30 s    ╵-20 s   ╵-10 s now"),
        (30, 20, "╵-20 s     now"),
        (30, 8, "now"),
    ],
)
def test_axis_of_a_rolling_picture(length: int, room: int, expected: str) -> None:
    """Counts back from now, which is at the right edge, and no mark runs into it."""
    drawn = plain(axis(5 * S, (5 + length) * S, 2, room, rolling=True))
    assert drawn.strip() == expected
    assert drawn.endswith("now")
    assert len(drawn) == 2 + room


@pytest.mark.parametrize(
    "duration, text",
    [(0, "0.0 s"), (49_000_000, "0.0 s"), (7_340_000_000, "7.3 s"), (125 * S, "2 min 5 s")],
)
def test_seconds(duration: int, text: str) -> None:
    """Durations as people read them."""
    assert seconds(duration) == text


@pytest.mark.parametrize(
    "stopped,environ,told",
    [
        (
            {"settled": 3, "outcomes": {"client_left": 1, "completed": 2, "refused": 0}},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
            "sidecar: 3 requests: 2 completed, 1 client left; 1 session; telemetry: 8 exported, 3 lost",
        ),
        ({"settled": 0, "outcomes": {}}, {}, "sidecar: 0 requests; 1 session; telemetry off"),
        (
            {"settled": 1, "outcomes": {"brand_new": 1}},
            {"OTEL_TRACES_EXPORTER": "console"},
            "sidecar: 1 request: 1 brand new; 1 session; telemetry: 8 exported, 3 lost",
        ),
    ],
)
def test_what_is_said_at_the_end(stopped: dict[str, object], environ: dict[str, str], told: str) -> None:
    """One line of requests, outcomes and sessions; of telemetry where any was wanted. Lines on stderr can be lost too."""
    telemetry = {"traces": {"exported": 5, "dropped": 1}, "metrics": {"exported": 3, "failed": 1}}
    line = {
        "event": "sidecar.stopped",
        "requests": json.dumps(stopped),
        "sessions": 1,
        "telemetry": json.dumps({**telemetry, "lines": {"exported": 9, "dropped": 1}}),
    }
    assert closing(json.dumps(line).encode(), environ) == told


@pytest.mark.parametrize("stopped", [b"", b"{}", b'{"requests":"x","sessions":1,"telemetry":"{}"}'])
def test_a_sidecar_that_was_killed_says_nothing(stopped: bytes) -> None:
    """Nothing is made up."""
    assert closing(stopped, {}) is None


def test_paint() -> None:
    """Tones become colours, spaces stay spaces; without them the text is the same."""
    line: Line = (Span(" a "), Span("b", Tone.GOOD), Span("  ", Tone.FAINT))
    assert paint(line) == " a \x1b[32mb\x1b[0m  "
    assert plain(line) == " a b"
