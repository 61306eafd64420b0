"""Ctrl-C, SIGTERM, a closed terminal: the first ends the work in good order, a second ends the sidecar at once.

Owns the signal handlers meanwhile. It ends no process and prints nothing itself: whoever waits
through it is told, and cleans up.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Ending:
    """Waits for work or for the wish to end, whichever comes first. To be made on a running loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.hurry: Callable[[], None] | None = None
        """What a second signal does."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """Somebody wishes it to end."""
        if self._asked.is_set() and self.hurry is not None:
            self.hurry()
        self._asked.set()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None if the end was asked for first, and `work` was cancelled."""
        task = asyncio.create_task(work)
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            task.cancel()
            await asyncio.wait({task, asked})
        return None if task.cancelled() else task.result()
