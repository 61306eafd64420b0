"""Lanes: what a round's picture is made of, one lane per conversation, remembered from snapshot to snapshot.

Pure: takes what the admin port told (already read into `Seen`) and gives frozen lanes; knows no HTTP and no
terminal. Times are ns since the epoch. `drawing.py` draws what this gives.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from sidecar.core.clock import SECOND
from sidecar.core.identity import MAIN

MAX_LANES = 200
MAX_BARS = 2000
"""What is remembered of a round: lanes, and bars of one lane. What comes above is not drawn."""

_MOVED = SECOND
"""How far (ns) a session's start may move, as the wall clock is corrected, without the session being another one."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One request. `end` and `outcome` are None while it runs; `turn` says that it generates, `raced` that it raced another."""

    sequence: int
    start: int
    end: int | None = None
    outcome: str | None = None
    turn: bool = True
    raced: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """What the sidecar counted for one conversation. `wait_avoided` in ns."""

    overlaps: int = 0
    most_at_once: int = 0
    out_of_order: int = 0
    wait_avoided: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A conversation as one snapshot of the admin port shows it."""

    session: str
    session_started: int
    conversation: str
    bars: tuple[Bar, ...]
    tally: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Lane:
    """A conversation ready to be drawn: its bars by arrival. `ended`: its session is over."""

    session: str
    conversation: str
    bars: tuple[Bar, ...]
    tally: Tally = Tally()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Sums:
    """The figures of all lanes together. `outcomes` is sorted by frequency; `running` have none yet."""

    requests: int
    running: int
    raced: int
    outcomes: tuple[tuple[str, int], ...]
    tally: Tally


def sums(lanes: Iterable[Lane]) -> Sums:
    """Adds the lanes up; `most_at_once` is the greatest of one conversation."""
    outcomes: Counter[str] = Counter()
    running = raced = overlaps = most = out_of_order = wait = 0
    for lane in lanes:
        running += sum(bar.outcome is None for bar in lane.bars)
        raced += sum(bar.raced for bar in lane.bars)
        outcomes.update(bar.outcome for bar in lane.bars if bar.outcome is not None)
        overlaps += lane.tally.overlaps
        most = max(most, lane.tally.most_at_once)
        out_of_order += lane.tally.out_of_order
        wait += lane.tally.wait_avoided
    ranked = tuple(sorted(outcomes.items(), key=lambda item: (-item[1], item[0])))
    return Sums(running + outcomes.total(), running, raced, ranked, Tally(overlaps, most, out_of_order, wait))


def tracks(bars: Sequence[Bar]) -> list[list[Bar]]:
    """The fewest rows on which no two requests that ran at the same time share one; first come, topmost."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.sequence)):
        for row in rows:
            end = row[-1].end
            if end is not None and end <= bar.start:
                row.append(bar)
                break
        else:
            rows.append([bar])
    return rows


def queued(bars: Sequence[Bar], now: int) -> list[Bar]:
    """The turns as a queue would have run them: one at a time, in order of arrival, each as long as it took."""
    free = 0
    row = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.sequence)):
        if bar.turn:
            start = max(bar.start, free)
            free = start + (now if bar.end is None else bar.end) - bar.start
            row.append(Bar(bar.sequence, start, free, bar.outcome))
    return row


class Board:
    """The lanes of one round. A conversation that has ended stays until the round is over."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._seen: dict[tuple[str, int, str], Seen] = {}
        self._live: set[tuple[str, int, str]] = set()
        self._starts: dict[str, int] = {}

    def take(self, snapshot: Iterable[Seen], sessions: Collection[str] = ()) -> None:
        """Adds one snapshot: what it shows is up to date. What ran and is in it no more ended unseen, and is dropped.

        `sessions` are the ids of those that are alive beside the ones that it shows.
        """
        live = set()
        for seen in snapshot:
            start = self._starts.get(seen.session, seen.session_started)
            if abs(seen.session_started - start) >= _MOVED:
                start = seen.session_started
            key = (seen.session, start, seen.conversation)
            known = self._seen.get(key)
            if known is None and len(self._seen) >= MAX_LANES:
                continue
            live.add(key)
            if bars := self._merged(known, seen):
                self._starts[seen.session] = start
                self._seen[key] = Seen(*key, bars, seen.tally)
            elif known is not None:
                del self._seen[key]
        for key, unseen in [*self._seen.items()]:
            if key not in live:
                self._put(key, unseen, tuple(bar for bar in unseen.bars if bar.end is not None))
        starts = self._starts
        self._live = live | {key for key in self._seen if key[0] in sessions and key[1] == starts.get(key[0])}

    def _merged(self, known: Seen | None, seen: Seen) -> tuple[Bar, ...]:
        """The bars of a lane that a snapshot shows again, in the order in which they became known."""
        told = {bar.sequence: bar for bar in seen.bars}
        before = () if known is None else known.bars
        bars = {bar.sequence: bar for bar in before if bar.end is not None or bar.sequence in told}
        for sequence, bar in told.items():
            within = bar.end is None or bar.end > self._since
            if within and (sequence in bars or len(bars) < MAX_BARS):
                bars[sequence] = bar
        return tuple(bars.values())

    def _put(self, key: tuple[str, int, str], seen: Seen, bars: tuple[Bar, ...]) -> None:
        """Leaves a lane these bars, or forgets it if there are none."""
        if bars:
            self._seen[key] = replace(seen, bars=bars)
        else:
            del self._seen[key]

    def forget(self, before: int) -> None:
        """Drops bars that ended before that moment (ns), and lanes of which nothing is left."""
        for key, seen in [*self._seen.items()]:
            self._put(key, seen, tuple(bar for bar in seen.bars if bar.end is None or bar.end > before))
        self._since = max(self._since, before)
        alive = {session for session, _, _ in self._seen}
        self._starts = {session: start for session, start in self._starts.items() if session in alive}

    def lanes(self) -> list[Lane]:
        """Every lane so far: sessions by their start, conversations of one together, `main` first."""
        ordered = sorted(
            self._seen.items(),
            key=lambda item: (item[0][1], item[0][0], item[0][2] != MAIN, item[1].bars[0].start),
        )
        return [
            Lane(seen.session, seen.conversation, seen.bars, seen.tally, key not in self._live)
            for key, seen in ordered
        ]
