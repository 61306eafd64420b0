"""Runs `sidecar top`: the terminal in raw mode, the stream, and a picture some times a second.

Owns the terminal's settings, and gives them back whatever happens.
"""

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from sidecar.core.clock import system_clock
from sidecar.core.shown import mask
from sidecar.picture.drawing import plain
from sidecar.picture.ending import Ending
from sidecar.picture.screen import Screen, ScreenError
from sidecar.top.sessions import Sessions
from sidecar.top.stream import StreamError, follow

REDRAW = 0.25
"""Seconds between two pictures."""

PATIENCE = 10.0
"""Seconds for a sidecar to answer, where the table is printed once."""

SETTLE = 1.0
"""Seconds for the stream to tell everything, where the table is printed once."""

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)


def main(url: str, token: str | None, environ: Mapping[str, str], *, once: bool) -> int:
    """Shows the sidecar at `url` (its admin port) until q or Ctrl-C; with `once`, prints the table and ends.

    0: all is well; 1: there is no sidecar's stream, or nothing can be drawn.
    """
    screen = Screen(sys.stdout, environ)
    try:
        if once or not screen.live or not sys.stdin.isatty():
            return asyncio.run(_once(url, token, screen))
        with _raw(sys.stdin.fileno()):
            asyncio.run(_live(url, token, screen))
    except (StreamError, ScreenError) as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"sidecar: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _once(url: str, token: str | None, screen: Screen) -> int:
    sessions, clock, answered = Sessions(), system_clock(), asyncio.Event()

    def state(word: str) -> None:
        sessions.state = word
        answered.set()

    following = asyncio.create_task(
        follow(url, token, lambda event, document: sessions.take(event, document, clock()), state)
    )
    reached = asyncio.create_task(answered.wait())
    await asyncio.wait([following, reached], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    done, _ = await asyncio.wait([following], timeout=SETTLE if sessions.state == "live" else 0)
    for task in (following, reached):
        task.cancel()
    await asyncio.wait([following, reached])
    for task in done:
        task.result()
    if not answered.is_set():
        raise StreamError(f"{mask(url)} did not answer within {PATIENCE:g} s")
    if sessions.state != "live":
        raise StreamError(sessions.state.removesuffix("; trying again"))
    width, _ = screen.size()
    for line in sessions.lines(width, 10_000, clock())[:-2]:
        print(plain(line))
    sys.stdout.flush()
    return 0


async def _live(url: str, token: str | None, screen: Screen) -> None:
    sessions, clock, ending = Sessions(), system_clock(), Ending()

    def state(word: str) -> None:
        sessions.state = word

    def pressed() -> None:
        for key in keys(os.read(sys.stdin.fileno(), 1024).decode(errors="ignore")):
            if not sessions.key(key):
                ending.ask()
        screen.show(lambda width, height: sessions.lines(width, height, clock()))

    async def drawing() -> None:
        while True:
            screen.show(lambda width, height: sessions.lines(width, height, clock()))
            await asyncio.sleep(REDRAW)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(drawing())
            group.create_task(
                follow(url, token, lambda event, document: sessions.take(event, document, clock()), state)
            )

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), pressed)
    try:
        await ending.unless(both())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        loop.remove_reader(sys.stdin.fileno())
        screen.leave()


def keys(text: str) -> Iterator[str]:
    """What was pressed, key by key: an arrow is three characters."""
    yield from _KEY.findall(text)


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Keys come one by one and are not echoed."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
