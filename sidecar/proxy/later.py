"""Work whose amount peers have chosen, done a little per turn of the event loop, in order.

Owns what waits to be done, and how long one turn may take for it. It knows nothing of what it does.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from sidecar.core.clock import MILLISECOND, Clock
from sidecar.proxy.guard import guarded

_STAY = 5 * MILLISECOND
"""How long (ns) one turn may take for such work."""


class Later:
    """Calls that are made soon, as many per turn as there is time for. `report` is told what they raise."""

    __slots__ = ("_calls", "_clock", "_done", "_loop", "_report")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        report: Callable[[Exception], None],
        done: Callable[[], None],
    ) -> None:
        """`done` is called whenever nothing waits any more."""
        self._loop = loop
        self._clock = clock
        self._report = report
        self._done = done
        self._calls: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._calls)

    def add(self, call: Callable[[], None]) -> None:
        """One more."""
        if not self._calls:
            self._loop.call_soon(self._some)
        self._calls.append(call)

    def _some(self) -> None:
        until = self._clock() + _STAY
        while self._calls:
            guarded(self._report, self._calls[0])
            self._calls.popleft()
            if self._calls and self._clock() > until:
                self._loop.call_soon(self._some)
                return
        self._done()

    async def finish(self) -> None:
        """Makes all the calls that wait now."""
        calls, self._calls = self._calls, deque()
        await self.each(partial(guarded, self._report, call) for call in calls)

    async def each(self, calls: Iterable[Callable[[], None]]) -> None:
        """Makes all of them, other work in between."""
        until = self._clock() + _STAY
        for call in calls:
            call()
            if self._clock() > until:
                await asyncio.sleep(0)
                until = self._clock() + _STAY
