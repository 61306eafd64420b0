"""`sidecar run` on a terminal: the sidecar as a child process, and its lanes in place of its lines.

Owns what the picture says around the lanes, and the end. The child is what `sidecar run` is without a terminal: it serves,
and this process only watches it; a look that fails ends nothing.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import TextIO

from sidecar.core.clock import SECOND, system_clock
from sidecar.picture.child import Child, ChildError, Composed
from sidecar.picture.drawing import Picture
from sidecar.picture.ending import Ending
from sidecar.picture.figures import closing, figures
from sidecar.picture.lanes import Board
from sidecar.picture.screen import Screen
from sidecar.picture.watch import Watch, WatchError
from sidecar.settings import Settings
from sidecar.version import VERSION

WINDOW = 30
"""Seconds that are in sight."""

REDRAW = 0.25
"""Seconds between two looks at the sidecar."""

_SPARE = 5.0
"""Seconds for the child to end beyond its own time-out."""


def main(settings: Settings, environ: Mapping[str, str], stream: TextIO) -> int | None:
    """Runs the sidecar until it is told to stop, and gives its exit code; None if `stream` cannot be drawn on.

    `environ` holds every setting as a variable. Ports are those of `settings`, none of them 0. `stream` never fails
    (`sidecar/stdio.py`).
    """
    screen = Screen(stream, environ)
    if not screen.live or 0 in (settings.listen.port, settings.admin_listen.port):
        return None
    composed = Composed(
        {**environ, "SIDECAR_LOG_FORMAT": "json"},
        settings.listen.reachable,
        settings.admin_listen.reachable,
        settings.admin_token,
        None,
    )
    return asyncio.run(_main(settings, screen, composed))


async def _main(settings: Settings, screen: Screen, composed: Composed) -> int:
    ending = Ending()
    async with Watch(f"http://{composed.admin}", composed.token) as watch:
        try:
            child = await ending.unless(Child.start(composed, watch))
        except ChildError as error:
            print(*error.lines, sep="\n", file=sys.stderr)
            return 1
        if child is None:
            return 0
        ending.hurry = child.hurry
        try:
            await ending.unless(_show(settings, screen, watch, child, composed))
        except ChildError:
            pass  # what it said last is told below
        finally:
            screen.leave()
            await child.stop(settings.shutdown_timeout + _SPARE)
    if child.code:
        print(*child.lines, sep="\n", file=sys.stderr)
    elif told := closing(child.stopped, composed.environ):
        screen.say(told)
    return child.code or 0


async def _show(settings: Settings, screen: Screen, watch: Watch, child: Child, composed: Composed) -> None:
    """Draws until it is cancelled. While the sidecar does not say what is new, it draws what it knows.

    Raises:
        ChildError: the sidecar has ended.
    """
    clock = system_clock()
    board = Board(clock())
    upstreams = ", ".join(f"{one.scheme}://{one.authority}" for one in settings.all_upstreams)
    title = f"sidecar {VERSION} · http://{composed.listen} → {upstreams}"
    footer = (
        ("in a browser", f"http://{composed.admin}/"),
        ("point an app", f"export OPENAI_BASE_URL=http://{composed.listen}/v1"),
    )
    rows: list[tuple[str, str]] = []
    while True:
        running = child.unnamed.running()
        try:
            snapshot = await watch.look()
        except WatchError:
            await child.alive()
            state, notes = "no answer", [("admin port", "does not answer; this is what it told last")]
        else:
            board.take([*snapshot.seen, *child.unnamed.seen(running, snapshot.sessions)], snapshot.sessions)
            rows = figures(snapshot.stats, composed.environ)
            state, notes = f"{snapshot.stats.requests.in_flight} in flight", []
        now = clock()
        start = now - WINDOW * SECOND
        board.forget(start)
        if child.trouble is not None:
            notes.append(("log", child.trouble))
        picture = Picture(
            title=title,
            about=f"the last {WINDOW} s; one lane per conversation, calls that overlapped below one another",
            state=state,
            start=start,
            end=now,
            now=now,
            lanes=tuple(board.lanes()),
            figures=(*rows, *notes),
            footer=footer,
            rolling=True,
        )
        screen.redraw(picture)
        await asyncio.sleep(REDRAW)
