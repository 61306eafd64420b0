"""`sidecar demo`: a simulated provider, the real sidecar in front of it, an app that calls through it, a picture.

Owns the order in which these start and end; with `--through` the sidecar is somebody else's, and there is no
picture. It is a guest like any other: it knows the sidecar by its ports and its settings only, and no other
room may import it.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TypeVar

from sidecar.demo.composed import compose
from sidecar.demo.provider import ANY_PORT, Provider
from sidecar.errors import CannotListenError
from sidecar.picture.child import Child, ChildError
from sidecar.picture.ending import Ending
from sidecar.picture.figures import closing
from sidecar.picture.screen import Screen, ScreenError
from sidecar.picture.watch import Watch, WatchError
from sidecar.settings import Problem, SettingsError
from sidecar.settings_values import ADDRESS, URL, Kind, read_address, read_upstream

__all__ = ["main"]

Read = TypeVar("Read")


def main(
    *,
    once: bool,
    listen: str | None,
    seed: int,
    through: str | None,
    provider: str | None,
    environ: Mapping[str, str],
) -> int:
    """Runs the demo until Ctrl-C or SIGTERM, or for one round; gives the exit code.

    `listen` is the data port's address (None: 127.0.0.1:7070, or any free port if that is taken). `seed`
    decides what goes wrong and how long answers are. `through` is the base URL of a sidecar that runs already
    (None: the demo has its own); `provider` is where the simulated provider listens (None: any free port).
    0: all is well; 1: a port cannot be had, the sidecar could not be run, or `openai` is missing; 2: a
    setting is wrong.
    """
    if find_spec("openai") is None:
        print(
            "the demo needs the openai client: pip install openai, or install the sidecar as '.[demo]'",
            file=sys.stderr,
        )
        return 1
    try:
        serving = Provider(
            seed=seed, listen=_given("--provider", provider, read_address, ADDRESS) or ANY_PORT
        )
        if through is not None:
            _given("--through", through, read_upstream, URL)
            return asyncio.run(_traffic(serving, through, once=once, seed=seed))
        return asyncio.run(_main(serving, once=once, listen=listen, seed=seed, environ=environ))
    except SettingsError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except (CannotListenError, ChildError, ScreenError, WatchError) as error:
        print(error, *getattr(error, "lines", ()), sep="\n", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


def _given(flag: str, text: str | None, read: Callable[[str], Read], kind: Kind) -> Read | None:
    """What an argument says, read as a setting of its kind is."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        raise SettingsError([Problem(flag, text, kind.allowed)]) from None


async def _traffic(serving: Provider, through: str, *, once: bool, seed: int) -> int:
    from sidecar.demo.traffic import drive  # noqa: PLC0415 - it needs openai, whose absence is told above

    async with serving:
        await Ending().unless(drive(through, once=once, seed=seed))
    return 0


async def _main(
    serving: Provider, *, once: bool, listen: str | None, seed: int, environ: Mapping[str, str]
) -> int:
    from sidecar.demo.show import Options, Show  # noqa: PLC0415 - it needs openai, whose absence is told above

    screen = Screen(sys.stdout, environ)
    async with serving as provider:
        composed = compose(environ, listen=listen, upstream=provider.url)
        async with Watch(f"http://{composed.admin}", composed.token) as watch:
            ending = Ending()
            child = await ending.unless(Child.start(composed, watch))
            if child is None:
                return 0
            ending.hurry = child.hurry
            show = Show(screen, watch, child, composed, Options(once=once, seed=seed, environ=environ))
            try:
                await ending.unless(show.run())
            finally:
                try:
                    screen.leave()
                finally:  # a terminal that is gone must not leave a sidecar behind
                    await child.stop()
            if screen.live and not once and show.picture is not None:
                screen.print(show.picture)
            if not once and (told := closing(child.stopped, environ)):
                screen.say(told)
    return 0
