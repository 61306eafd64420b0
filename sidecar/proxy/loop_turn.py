"""How long a read waited behind other work of the same event-loop turn.

The first read of a turn marks its beginning; every later one in the same turn has waited since then.
Exact for callbacks of one turn, and it costs one scheduled call a turn. Used by both sides of the relay.
"""

import asyncio

from sidecar.core.clock import Clock


class LoopTurn:
    """Marks the turns of one event loop."""

    __slots__ = ("_began", "_clock", "_loop", "waited")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._began = 0
        self.waited = 0
        """How long (ns) the latest read had waited."""

    def read(self) -> int:
        """The present (ns since the epoch), and in `waited` how long the caller had waited for its turn."""
        now = self._clock()
        if self._began:
            self.waited = now - self._began
        else:
            self._began = now
            self.waited = 0
            self._loop.call_soon(self._over)
        return now

    def _over(self) -> None:
        self._began = 0
