"""Runs the command line and measures the turns of its event loop: `with_turns_told.py PYTHON -m sidecar ...`.

Owns the measuring. At SIGUSR1 a line on stderr tells the most CPU time (s) that the process has spent in one turn since
the signal before: `{"event": "turns", "number": 2, "most": 0.004}`. Everything else is as it is.
"""

import asyncio
import json
import os
import select
import signal
import sys
import time

from sidecar.app import Sidecar
from sidecar.cli import main

_EVERY = 0.001
"""Seconds between two looks. A look is due in the turn after it at the latest, and so sees one turn and this at most."""


class Turns:
    """The longest turn of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._looked = time.process_time()
        self._most = 0.0
        self._told = 0

    def look(self) -> None:
        """One turn is over."""
        now = time.process_time()
        self._most = max(self._most, now - self._looked)
        self._looked = now
        self._loop.call_later(_EVERY, self.look)

    def tell(self) -> None:
        """Tells the longest, and begins anew."""
        self._told += 1
        line = json.dumps({"event": "turns", "number": self._told, "most": self._most})
        _say(f"\n{line}\n".encode())  # a line of the log may stand there in part
        self._most = 0.0


def _say(line: bytes) -> None:
    """Writes it to stderr as a whole, also where that is full and does not block."""
    while True:
        try:
            os.write(2, line)
        except BlockingIOError:
            select.select([], [2], [])
        else:
            return


def measure() -> None:
    """Has every sidecar of this process measured from its start on."""
    whole = Sidecar.start

    async def start(self: Sidecar) -> None:
        await whole(self)
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        turns.look()
        loop.add_signal_handler(signal.SIGUSR1, turns.tell)

    setattr(Sidecar, "start", start)  # noqa: B010 - a method is replaced, which types forbid


if __name__ == "__main__":
    measure()
    sys.argv = ["sidecar", *sys.argv[4:]]
    sys.exit(main())
