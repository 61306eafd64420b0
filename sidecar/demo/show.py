"""One round after another: plays the conversations, watches the sidecar, draws what it tells.

Owns the rounds, which are as wide as the lanes, and the words around these. What is drawn comes from the admin port; what the app does
comes from `conversations.py`; how it gets to the terminal is `screen.py`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.core.clock import SECOND, system_clock
from sidecar.demo.conversations import play
from sidecar.demo.traffic import ROUND
from sidecar.picture.child import Child, Composed
from sidecar.picture.drawing import Picture
from sidecar.picture.figures import figures
from sidecar.picture.lanes import Board
from sidecar.picture.screen import Screen
from sidecar.picture.unnamed import LANE
from sidecar.picture.watch import Snapshot, Watch, WatchError

ABOUT = "one lane per conversation; calls that overlapped stand below one another"

REDRAW = 0.2
"""Seconds between two looks at the sidecar."""

SETTLING = 2.0
"""Seconds that the sidecar gets at most to settle what the app has the end of already."""

ENDED = "all calls have ended"

PATIENCE = " sidecar demo · the picture of a round follows at its end, in some seconds"
"""Said first where nothing can be redrawn, and a round would pass in silence."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `environ` tells where telemetry goes."""

    once: bool
    seed: int
    environ: Mapping[str, str]


class Show:
    """The rounds of one demo."""

    def __init__(
        self, screen: Screen, watch: Watch, child: Child, composed: Composed, options: Options
    ) -> None:
        self._screen = screen
        self._watch = watch
        self._child = child
        self._composed = composed
        self._options = options
        self._clock = system_clock()
        self.picture: Picture | None = None

    async def run(self) -> None:
        """Plays rounds until it is cancelled, or once; each leaves its picture where nothing can be redrawn.

        Raises:
            ChildError: the sidecar has ended.
        """
        if not self._screen.live:
            self._screen.say(PATIENCE)
        number = 1
        while True:
            await self._round(number)
            if self._options.once or not self._screen.live:
                self._leave_behind()
            if self._options.once:
                return
            number += 1

    async def _round(self, number: int) -> None:
        start = self._clock()
        board = Board(start)
        url = f"http://{self._composed.listen}/v1"
        playing = asyncio.create_task(play(url, number, seed=self._options.seed))
        try:
            while not playing.done():
                await self._look(board, number, start, "calls are running")
                await asyncio.wait([playing], timeout=REDRAW)
            await playing
            await self._last_look(board, number, start)
            while not self._options.once and (left := start + ROUND * SECOND - self._clock()) > 0:
                await self._look(board, number, start, f"next round in {left / SECOND:.0f} s")
                await asyncio.sleep(REDRAW)
        finally:
            playing.cancel()
            await asyncio.wait([playing])

    async def _last_look(self, board: Board, number: int, start: int) -> None:
        """Looks until nothing is in flight any more; only what another app does can last beyond `SETTLING`."""
        until = self._clock() + round(SETTLING * SECOND)
        await self._look(board, number, start, ENDED)
        while self._clock() < until and any(bar.end is None for lane in board.lanes() for bar in lane.bars):
            await asyncio.sleep(REDRAW)
            await self._look(board, number, start, ENDED)

    async def _look(self, board: Board, number: int, start: int, state: str) -> None:
        """Asks the sidecar, and shows what it says; a picture that is drawn again may miss one answer."""
        running = self._child.unnamed.running()
        try:
            snapshot = await self._watch.look()
        except WatchError:
            await self._child.alive()
            if self._screen.live and not self._options.once:
                return
            raise
        unnamed = self._child.unnamed.seen(running, snapshot.sessions)
        board.take([*snapshot.seen, *unnamed], snapshot.sessions)
        lanes = tuple(board.lanes())
        now = self._clock()
        self.picture = Picture(
            title=f"sidecar demo · round {number}",
            about=ABOUT,
            state=state,
            start=start,
            end=max(now, start + round(ROUND * SECOND)),
            now=now,
            lanes=lanes,
            figures=self._figures(snapshot, unnamed=any(lane.session == LANE for lane in lanes)),
            footer=(
                ("in a browser", f"http://{self._composed.admin}/"),
                ("your own app", f"export OPENAI_BASE_URL=http://{self._composed.listen}/v1"),
            ),
        )
        self._screen.redraw(self.picture)

    def _leave_behind(self) -> None:
        if self.picture is not None:
            self._screen.print(self.picture)

    def _figures(self, snapshot: Snapshot, *, unnamed: bool) -> tuple[tuple[str, str], ...]:
        rows = figures(snapshot.stats, self._options.environ)
        if unnamed:
            rows.insert(0, ("no session", "send X-Sidecar-Session-Id to give such calls a lane"))
        if self._composed.remark is not None:
            rows.insert(0, ("port", self._composed.remark))
        return tuple(rows)
