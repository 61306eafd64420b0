"""How long a read waited behind other work of the same event-loop turn.

The first read of a turn marks its beginning; every later one in the same turn has waited since then.
Exact for callbacks of one turn, and it costs one scheduled call a turn. Used by both sides of the relay.
"""

import asyncio
from collections.abc import Callable

from sidecar.core.clock import Clock

_STAY = 5_000_000
"""How long (ns) one read may take before its connection lets others have their turn."""


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

    def yields(self, transport: asyncio.Transport, since: int, go_on: Callable[[], None]) -> None:
        """Stops a connection's reading if the read that began at `since` took long; `go_on` is called a turn later.

        The transport would read on in the same turn for as long as there is something, and nobody else would be
        served meanwhile.
        """
        if self._clock() - since > _STAY and not transport.is_closing():
            transport.pause_reading()
            self._loop.call_soon(go_on)

    def _over(self) -> None:
        self._began = 0
