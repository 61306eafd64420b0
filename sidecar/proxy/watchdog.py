"""One lazy timer for a connection and the requests on it.

Moving the deadline later costs nothing: the timer that is already set fires, sees that it is early and
sets itself anew. So a request costs no timer of its own. It never decides what a time-out means, and it looks
before it judges: what waits in the sockets is read first, and whoever was heard of meanwhile was not silent.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from sidecar.core.clock import MILLISECOND, SECOND, Clock

_TURN = MILLISECOND
"""A timer set for this long fires after the event loop has polled its sockets at least once."""

_GRACE = SECOND
"""The most time (ns) that a peer gets back for the time in which nobody here could hear it."""


class Watchdog:
    """Calls `due(at)` just after a deadline that had passed `at` that moment. All in ns since the epoch; 0 is none.

    Between that moment and the call the event loop has polled its sockets: reads of this time are later than `at`.
    """

    __slots__ = ("_clock", "_deadline", "_due", "_handle", "_loop", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, due: Callable[[int], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._due = due
        self._deadline = 0
        self._scheduled = 0
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline: int) -> None:
        """Sets the one deadline; 0 takes it away."""
        self._deadline = deadline
        if deadline and (self._handle is None or deadline < self._scheduled):
            self._schedule(deadline, self._clock())

    def stop(self) -> None:
        """Ends it for good."""
        self._deadline = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self, deadline: int, now: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._scheduled = deadline
        self._handle = self._loop.call_later(max(0, deadline - now) / SECOND, self._fire)

    def _fire(self, passed_at: int = 0) -> None:
        self._handle = None
        if not self._deadline:
            return
        now = self._clock()
        late = now - self._deadline
        if late < 0:
            self._schedule(self._deadline, now)
        elif passed_at >= self._deadline:
            self._deadline = 0
            self._due(passed_at)
        else:
            self._handle = self._loop.call_later(patience(late) / SECOND, partial(self._fire, now))


def patience(late: int) -> int:
    """How long (ns) to look before a deadline is judged that is `late` ns past: one turn of the loop, or more.

    Whoever stood still has not heard its peers, nor told them anything: they get that time back, up to a second.
    """
    return min(max(late, _TURN), _GRACE)
