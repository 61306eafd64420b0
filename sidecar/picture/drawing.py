"""Draws a picture of lanes as lines of text: pure, from values to lines, the same ones every time.

Every line fits the width it was given. Colours are tones until `paint` turns them into ANSI; without it
the text says the same. `screen.py` calls this; nothing here knows a terminal.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from unicodedata import east_asian_width

from sidecar.core.clock import SECOND
from sidecar.core.identity import MAIN
from sidecar.picture.lanes import Bar, Lane, Sums, queued, sums, tracks

MAX_TRACKS = 6
"""Rows of one lane; what ran beside more than these is told as a number."""


class Tone(StrEnum):
    """How a piece of text is meant; the value is its ANSI parameter."""

    PLAIN = "0"
    STRONG = "1"
    FAINT = "90"
    GOOD = "32"
    LEFT = "33"
    BAD = "31"
    BUSY = "36"


@dataclass(frozen=True, slots=True)
class Span:
    """Some text in one tone."""

    text: str
    tone: Tone = Tone.PLAIN


Line = tuple[Span, ...]

MARKS: Mapping[str, tuple[str, Tone]] = {
    "completed": ("✓", Tone.GOOD),
    "client_left": ("◁", Tone.LEFT),
    "upstream_rejected": ("✗", Tone.BAD),
    "upstream_failed": ("╳", Tone.BAD),
    "error_in_stream": ("!", Tone.BAD),
    "timed_out": ("◔", Tone.BAD),
    "refused": ("⊘", Tone.BAD),
    "shutdown": ("■", Tone.LEFT),
    "internal_error": ("‼", Tone.BAD),
}
"""How a request's end is drawn, by its outcome."""

_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_NOW = "now"
_RUNNING = ("╸", Tone.BUSY)
_RACED = "═"
_OTHER = ("?", Tone.BAD)


@dataclass(frozen=True, slots=True)
class Picture:
    """All that one picture shows. Times in ns since the epoch; `start` to `end` is the width of the lanes.

    `title` and `state` are at the two ends of the first line, `about` below them; `figures` and `footer` are
    named lines below the counts, the first ones quiet, the last ones to be read. `rolling`: the end is now, so the
    scale counts back from there.
    """

    title: str
    state: str
    start: int
    end: int
    now: int
    lanes: tuple[Lane, ...]
    figures: tuple[tuple[str, str], ...] = ()
    footer: tuple[tuple[str, str], ...] = ()
    about: str = ""
    rolling: bool = False


def draw(picture: Picture, width: int, height: int | None = None) -> list[Line]:
    """The picture in lines of at most `width` columns, and at most `height` of them if that is given.

    Where height is short, empty lines go, then lanes in which nothing overlapped, then the queue's rows, then other
    lanes. Lanes that went are counted.
    """
    head = [_ends(Span(f" {picture.title}", Tone.STRONG), Span(f"{picture.state} ", Tone.FAINT), width)]
    head += [(Span(f" {picture.about}", Tone.FAINT),), ()]
    scale = axis(picture.start, picture.end, *_columns(width), rolling=picture.rolling)
    tail = [scale, (), *_counts(picture, width), ()]
    tail += [line for name, text in picture.footer for line in _named(name, text, width, Tone.STRONG)]
    body = _body(picture, width, None)
    if height is not None and len(head) + len(body) + len(tail) > height:
        head, tail = [line for line in head if line], [line for line in tail if line]
        body = _body(picture, width, max(1, height - len(head) - len(tail)))
    lines = [*head, *body, *tail]
    return [cut(line, width) for line in (lines if height is None else lines[:height])]


def lane_rows(lane: Lane, picture: Picture, width: int, *, nested: bool, queue: bool) -> list[Line]:
    """One lane: a row per request that ran beside another, and one that shows what a queue would have done.

    `nested`: the lane above belongs to the same session, so only the conversation is named.
    """
    label, room = _columns(width)
    rows = tracks(lane.bars)
    names = [_name(lane, label, nested=nested)]
    if lane.tally.most_at_once > 1 and len(rows) > 1:
        beyond = f", {len(rows) - MAX_TRACKS} cut" if len(rows) > MAX_TRACKS else ""
        names.append((Span(f"   {lane.tally.most_at_once} at once{beyond}", Tone.FAINT),))
    drawn = [_track(row, picture, room) for row in rows[:MAX_TRACKS]]
    if queue and lane.tally.overlaps:
        names += [()] * (len(drawn) - len(names))
        wait = f"   would queue {brief(lane.tally.wait_avoided)}"
        names.append((Span(wait, Tone.FAINT),))
        drawn.append(_track(queued(lane.bars, picture.now), picture, room, ghost=True))
    names += [()] * (len(drawn) - len(names))
    return [(*_padded(name, label), *row) for name, row in zip(names, drawn, strict=True)]


def axis(start: int, end: int, label: int, room: int, *, rolling: bool = False) -> Line:
    """The scale below the lanes: a mark every 1, 2, 5, 10 ... seconds, as close as legible.

    Seconds since the start; of a rolling picture, seconds before its end.
    """
    length = max(1, end - start)
    legible = (step for step in _STEPS if step * SECOND * room >= 8 * length)
    step = next(legible, length)
    text = [" "] * room
    last = room
    if rolling:
        last = room - len(_NOW) - 1
        text[-len(_NOW) :] = _NOW
    for second in range(step if rolling else 0, length // SECOND + 1, step):
        mark = f"╵{-second if rolling else second} s"
        at = (length - second * SECOND if rolling else second * SECOND) * room // length
        if at + len(mark) <= last:
            text[at : at + len(mark)] = mark
    return (Span(" " * label), Span("".join(text).rstrip(), Tone.FAINT))


def seconds(duration: int) -> str:
    """A duration in ns as a person reads it: `0.4 s`, `12.3 s`, `2 min 5 s`."""
    if duration < 100 * SECOND:
        return f"{duration / SECOND:.1f} s"
    minutes, rest = divmod(round(duration / SECOND), 60)
    return f"{minutes} min {rest} s"


def brief(duration: int) -> str:
    """The same in at most 6 columns, up to 99 hours: `0.4 s`, `12.3 s`, `2m05s`, `3h20m`."""
    if duration < 100 * SECOND:
        return seconds(duration)
    minutes, rest = divmod(round(duration / SECOND), 60)
    return f"{minutes}m{rest:02}s" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}m"


def counted(count: int, word: str) -> str:
    """A count and what it counts: `1 session`, `2 sessions`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def plain(line: Line) -> str:
    """A line without its tones, and without spaces at its end."""
    return "".join(span.text for span in line).rstrip()


def paint(line: Line) -> str:
    """A line with its tones as ANSI colours."""
    return "".join(
        span.text
        if span.tone is Tone.PLAIN or not span.text.strip()
        else f"\x1b[{span.tone}m{span.text}\x1b[0m"
        for span in line
    )


def _columns(width: int) -> tuple[int, int]:
    """How the width is shared: the lanes' names, and the time."""
    label = min(max(22, width // 5), 32)
    return label, max(8, width - label - 1)


def _body(picture: Picture, width: int, room: int | None) -> list[Line]:
    def rows(lanes: Sequence[Lane], *, queue: bool) -> list[Line]:
        above = [None, *(lane.session for lane in lanes)]
        return [
            line
            for lane, session in zip(lanes, above, strict=False)
            for line in lane_rows(lane, picture, width, nested=lane.session == session, queue=queue)
        ]

    lanes = list(picture.lanes)
    lines = rows(lanes, queue=True)
    if room is None or len(lines) <= room:
        return lines or [(Span("   waiting for the first request", Tone.FAINT),)]
    # First go lanes in which nothing overlapped, the oldest first; then the queue's rows; then the oldest of the rest.
    dull = [lane for lane in lanes if not lane.tally.overlaps]
    queue = True
    while len(lines) + (len(lanes) < len(picture.lanes)) > room and lanes:
        if dull:
            lanes.remove(dull.pop(0))
        elif queue:
            queue = False
        else:
            lanes.pop(0)
        lines = rows(lanes, queue=queue)
    if hidden := len(picture.lanes) - len(lanes):
        lines.insert(0, (Span(f"   {hidden} more, in a taller terminal", Tone.FAINT),))
    return lines


def _name(lane: Lane, label: int, *, nested: bool) -> Line:
    if nested:
        name = f"   └ {lane.conversation}"
    else:
        name = f" {lane.session}" if lane.conversation == MAIN else f" {lane.session}/{lane.conversation}"
    state = " ended" if lane.ended and not nested else ""
    room = label - 1 - len(state)
    name = printable(name)
    name = name if len(name) <= room else f"{name[: room - 1]}…"
    return (Span(name, Tone.FAINT if lane.ended else Tone.PLAIN), Span(state, Tone.FAINT))


def _track(row: Iterable[Bar], picture: Picture, room: int, *, ghost: bool = False) -> Line:
    """One row of bars. Bars that touch are moved by a cell, so that each keeps its two ends.

    A bar that is too short for its number takes the cells that it needs, as far as they are free.
    """
    cells: list[tuple[str, Tone]] = [(" ", Tone.PLAIN)] * room
    length = max(1, picture.end - picture.start)
    column: Callable[[int], int] = lambda at: (at - picture.start) * room // length  # noqa: E731
    seen = [bar for bar in row if _stop(bar, picture) >= picture.start and bar.start < picture.end]
    begins = [*(column(bar.start) for bar in seen[1:]), room]
    free = 0
    for bar, after in zip(seen, begins, strict=False):
        if free >= room:
            break
        stop, early = _stop(bar, picture), bar.start < picture.start
        begin = min(max(column(bar.start), free), room - 1)
        wanted = min(begin + early + len(str(bar.sequence)), after - 1)
        last = min(max(column(stop) - ghost, wanted, begin), room - 1)
        cells[begin : last + 1] = _bar(bar, last - begin + 1, ghost=ghost, early=early)
        if stop > picture.end:
            cells[last] = ("›", Tone.FAINT)
        free = last + 1
    return _merged(cells)


def _stop(bar: Bar, picture: Picture) -> int:
    return picture.now if bar.end is None else bar.end


def _bar(bar: Bar, length: int, *, ghost: bool, early: bool) -> list[tuple[str, Tone]]:
    """`early`: it began before the picture. A number is whole, or is left out."""
    edge = [("‹", Tone.FAINT)] if early and length > 1 else []
    length -= len(edge)
    label = str(bar.sequence)
    label = label if len(label) < length else ""
    if ghost:
        text = label.ljust(length, "─") if label or edge else "╶".ljust(length, "─")
        return [*edge, *((character, Tone.FAINT) for character in text)]
    mark, tone = _RUNNING if bar.outcome is None else MARKS.get(bar.outcome, _OTHER)
    line = _RACED if bar.raced else "━" if bar.turn else "─"
    fill = line * (length - 1 - len(label))
    return [
        *edge,
        *((character, Tone.STRONG) for character in label),
        *((character, tone) for character in fill + mark),
    ]


def _merged(cells: Iterable[tuple[str, Tone]]) -> Line:
    spans: list[Span] = []
    for text, tone in cells:
        if spans and spans[-1].tone is tone:
            spans[-1] = Span(spans[-1].text + text, tone)
        else:
            spans.append(Span(text, tone))
    return tuple(spans)


def _counts(picture: Picture, width: int) -> list[Line]:
    total = sums(picture.lanes)
    lines = _wrapped("requests", [Span(str(total.requests), Tone.STRONG), *_outcomes(total)], width)
    tally = total.tally
    words = (
        counted(tally.overlaps, "overlap"),
        f"{tally.out_of_order} out of order",
        f"{tally.most_at_once} at once",
        f"{seconds(tally.wait_avoided)} wait avoided",
    )
    lines += _wrapped("turns", [Span(word) for word in words], width)
    return lines + [line for name, text in picture.figures for line in _named(name, text, width, Tone.PLAIN)]


def _outcomes(total: Sums) -> list[Span]:
    spans = [
        Span(f"{mark} {count} {outcome.replace('_', ' ')}", tone)
        for outcome, count in total.outcomes
        for mark, tone in (MARKS.get(outcome, _OTHER),)
    ]
    if total.running:
        spans.append(Span(f"{_RUNNING[0]} {total.running} running", _RUNNING[1]))
    if total.raced:
        spans.append(Span(f"{_RACED} {total.raced} raced"))
    return spans


def _named(name: str, text: str, width: int, tone: Tone) -> list[Line]:
    return _wrapped(name, [Span(part, tone) for part in text.split("   ")], width)


def _wrapped(name: str, spans: Iterable[Span], width: int) -> list[Line]:
    """A named line of pieces three spaces apart, continued on the next line where the width ends."""
    indent = 15
    lines: list[list[Span]] = []
    used = width
    for span in spans:
        if used + 3 + len(span.text) > width:
            lines.append([Span(f" {'' if lines else name:<{indent - 1}}", Tone.FAINT), span])
            used = indent + len(span.text)
        else:
            lines[-1] += [Span("   "), span]
            used += 3 + len(span.text)
    return [tuple(line) for line in lines]


def _ends(left: Span, right: Span, width: int) -> Line:
    return (left, Span(" " * max(1, width - len(left.text) - len(right.text))), right)


def _padded(line: Line, width: int) -> Line:
    """The line in exactly that many columns, the last of them empty."""
    line = cut(line, width - 1)
    return (*line, Span(" " * (width - sum(len(span.text) for span in line))))


def cut(line: Line, width: int) -> Line:
    """The line, cut at the width; never longer, whatever it was made of."""
    room = width
    spans = []
    for span in line:
        text = span.text[:room]
        room -= len(text)
        spans.append(Span(text, span.tone))
    return tuple(spans)


def printable(text: str) -> str:
    """The text with what would take no column or two replaced, so that lengths are widths."""
    narrow: Callable[[str], bool] = lambda c: c.isprintable() and east_asian_width(c) not in "WF"  # noqa: E731
    return "".join(character if narrow(character) else "·" for character in text)
