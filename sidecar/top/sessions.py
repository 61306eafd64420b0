"""What `sidecar top` knows and shows: sessions as rows, one of them opened as lanes.

Pure: takes events and keys, gives lines. Times are ns since the epoch, as `sidecar/picture` has them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from sidecar.core.clock import SECOND
from sidecar.core.identity import MAIN
from sidecar.picture.drawing import (
    Line,
    Picture,
    Span,
    Tone,
    brief,
    counted,
    cut,
    draw,
    printable,
    seconds,
)
from sidecar.picture.lanes import Bar, Lane, Tally, queued

WINDOW = 60
"""Seconds of the lanes of an opened session."""

_NO_ERRORS = frozenset({None, "completed", "client_left", "shutdown"})
UNNAMED = "(no session named)"


@dataclass(frozen=True, slots=True)
class Row:
    """One session, by the requests that are known of it. `last` is the latest arrival."""

    session: str
    in_flight: int
    requests: int
    overlaps: int
    errors: int
    tokens: int
    last: int


_SORTS: dict[str, tuple[str, Callable[[Row], int]]] = {
    "i": ("in flight", lambda row: row.in_flight),
    "o": ("overlaps", lambda row: row.overlaps),
    "e": ("errors", lambda row: row.errors),
    "t": ("tokens", lambda row: row.tokens),
    "r": ("requests", lambda row: row.requests),
    "l": ("last", lambda row: row.last),
}

HELP = "sort: i o e t r l   / filter   ↑ ↓ choose   Enter open   Esc back   q quit"


class Sessions:
    """Everything that is on the screen."""

    def __init__(self) -> None:
        self._bars: dict[str, Mapping[str, Any]] = {}
        self._limit = 1000
        self._age = inf
        self._figures: Mapping[str, Any] = {}
        self._ahead = 0
        self._sort = "i"
        self._filter = ""
        self._typing = False
        self._chosen = 0
        self.opened: str | None = None
        self.state = "connecting"

    # --- what is told

    def take(self, event: str, document: Mapping[str, Any], at: int) -> None:
        """One event of the stream, which came at `at` (ns, by this machine's clock)."""
        if event == "hello":
            self._bars.clear()
            self._limit = max(1000, document["limit"])
            self._age = inf if document["age_s"] is None else document["age_s"]
        self._ahead = document["now"] * 1000 - at
        self._figures = document.get("figures", self._figures)
        for bar in document.get("bars", ()):
            known = self._bars.get(bar["id"])
            if known is None or known["end"] is None or bar["end"] is not None:
                self._bars.pop(bar["id"], None)  # those that have ended are in the order of their ends
                self._bars[bar["id"]] = bar
        self._forget(document["now"] - self._age * 1e6)

    def _forget(self, since: float) -> None:
        """What the sidecar does not keep either: the first that ended, and all that ended before `since` (µs)."""
        ended = [key for key, bar in self._bars.items() if bar["end"] is not None]
        over = max(0, len(ended) - self._limit)
        for key in (*ended[:over], *(key for key in ended[over:] if self._bars[key]["end"] < since)):
            del self._bars[key]

    def rows(self) -> list[Row]:
        """The sessions that the filter leaves, in their order."""
        grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for bar in self._bars.values():
            grouped[bar["session"] if bar["named"] else UNNAMED].append(bar)
        rows = [_row(session, bars) for session, bars in grouped.items() if self._filter in session]
        _, key = _SORTS[self._sort]
        return sorted(rows, key=lambda row: (key(row), row.last, row.session), reverse=True)

    # --- what is asked for

    def key(self, pressed: str) -> bool:
        """One key; False when it is the wish to end."""
        if self._typing:
            self._type(pressed)
        elif pressed in {"q", "\x03", "\x04"}:
            return False
        elif pressed in {"\x1b", "b"}:
            self.opened = None
        elif pressed in {"\r", "\n"}:
            rows = self.rows()
            if self.opened is None and rows:
                self.opened = rows[min(self._chosen, len(rows) - 1)].session
        elif pressed in {"\x1b[A", "k"}:
            self._chosen = max(0, self._chosen - 1)
        elif pressed in {"\x1b[B", "j"}:
            self._chosen = min(max(0, len(self.rows()) - 1), self._chosen + 1)
        elif pressed == "/":
            self._typing, self._filter = True, ""
        elif pressed in _SORTS:
            self._sort, self._chosen = pressed, 0
        return True

    def _type(self, pressed: str) -> None:
        if pressed in {"\r", "\n", "\x1b"}:
            self._typing = False
        elif pressed in {"\x7f", "\x08"}:
            self._filter = self._filter[:-1]
        elif len(pressed) == 1 and pressed.isprintable():
            self._filter += pressed
        self._chosen = 0

    # --- what is shown

    def lines(self, width: int, height: int, at: int) -> list[Line]:
        """The screen at `at` (ns, by this machine's clock), in lines that fit."""
        if self.opened is not None:
            return self._lanes(self.opened, width, height, at + self._ahead)
        rows = self.rows()
        chosen = min(self._chosen, max(0, len(rows) - 1))
        room = max(1, height - 5)
        first = max(0, min(chosen - room // 2, len(rows) - room))
        name = max(12, width - 50)
        head = (
            f" {'session':<{name}}{'flight':>7}{'reqs':>7}{'overlap':>8}{'errors':>7}{'tokens':>9}{'ago':>9}"
        )
        lines: list[Line] = [*self._title(len(rows)), (Span(head, Tone.FAINT),)]
        for number, row in enumerate(rows[first : first + room], first):
            shown = printable(row.session)
            shown = shown if len(shown) < name else f"{shown[: name - 2]}…"
            ago = brief(max(0, at + self._ahead - row.last))
            text = f"{'>' if number == chosen else ' '}{shown:<{name}}{row.in_flight:>7}{row.requests:>7}"
            text += f"{row.overlaps:>8}{row.errors:>7}{row.tokens:>9}{ago:>9}"
            busy = Tone.BUSY if row.in_flight else Tone.PLAIN
            lines.append((Span(text, Tone.STRONG if number == chosen else Tone.BAD if row.errors else busy),))
        if not rows:
            lines.append(
                (
                    Span(
                        "   no session yet" if not self._filter else "   no session with that name",
                        Tone.FAINT,
                    ),
                )
            )
        return [cut(line, width) for line in [*lines, (), (Span(f" {HELP}", Tone.FAINT),)][:height]]

    def _title(self, count: int) -> list[Line]:
        figures = self._figures
        told = (
            f"{figures.get('in_flight', 0)} in flight   {counted(figures.get('errors', 0), 'error')}   "
            f"{figures.get('telemetry_lost', 0)} telemetry lost"
        )
        avoided = f"   {seconds(round(figures.get('wait_avoided_s', 0) * SECOND))} wait avoided"
        sort = f" {counted(count, 'session')} by {_SORTS[self._sort][0]}"
        asked = (
            f"   / {printable(self._filter)}{'_' if self._typing else ''}"
            if self._typing or self._filter
            else ""
        )
        return [
            (Span(f" sidecar top · {printable(self.state)}   ", Tone.STRONG), Span(told)),
            (Span(sort + asked + avoided, Tone.FAINT),),
        ]

    def _lanes(self, session: str, width: int, height: int, now: int) -> list[Line]:
        grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        start = now - WINDOW * SECOND
        for bar in self._bars.values():
            own = bar["session"] if bar["named"] else UNNAMED
            if own == session and (bar["end"] is None or bar["end"] * 1000 > start):
                grouped[bar["conversation"] if bar["named"] else MAIN].append(bar)

        def place(name: str) -> tuple[bool, int]:
            return name != MAIN, min(bar["start"] for bar in grouped[name])

        lanes = tuple(_lane(session, name, grouped[name], now) for name in sorted(grouped, key=place))
        picture = Picture(
            title=f"sidecar top · {printable(session)[: max(8, width - 30)]}",
            state=self.state,
            start=start,
            end=now,
            now=now,
            lanes=lanes,
            about=f"the last {WINDOW} s of this session",
            footer=(("keys", HELP),),
            rolling=True,
        )
        return draw(picture, width, height)


def _row(session: str, bars: list[Mapping[str, Any]]) -> Row:
    return Row(
        session,
        sum(bar["end"] is None for bar in bars),
        len(bars),
        sum(bar["concurrency"] > 1 for bar in bars),
        sum(bar["outcome"] not in _NO_ERRORS for bar in bars),
        sum(bar["tokens"] or 0 for bar in bars),
        max(bar["start"] for bar in bars) * 1000,
    )


def _lane(session: str, conversation: str, bars: list[Mapping[str, Any]], now: int) -> Lane:
    """A lane; only turns that have a `concurrency` would have waited, the others are no conversation's that anybody named."""
    bars = sorted(bars, key=lambda bar: (bar["start"], bar["sequence"]))
    drawn = tuple(
        Bar(
            bar["sequence"],
            bar["start"] * 1000,
            None if bar["end"] is None else bar["end"] * 1000,
            bar["outcome"],
            turn=bar["turn"],
            raced=bar["races"] > 0,
        )
        for bar in bars
    )
    turns = [bar for bar in bars if bar["turn"]]
    waits = [
        late.start - bar["start"] * 1000
        for late, bar in zip(queued(drawn, now), turns, strict=True)
        if bar["concurrency"]
    ]
    tally = Tally(
        sum(bar["concurrency"] > 1 for bar in bars),
        max(bar["concurrency"] for bar in bars),
        sum(bar["distance"] > 0 for bar in bars),
        sum(waits),
    )
    return Lane(session, conversation, drawn, tally)
