"""Time-outs: the lazy timer of a connection, and which of an exchange's time-outs is running.

Owns when a deadline is due and which one it is then. It ends nothing (`flow.py`), and it looks before it judges: what
waits in the sockets is read first, and whoever was heard of meanwhile was not silent. Moments are ns since the epoch.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from sidecar.core.clock import MILLISECOND, SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Phase
from sidecar.errors import (
    ClientBodyTimeoutError,
    ClientIdleTimeoutError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    IdleTimeoutError,
    TimedOutError,
)
from sidecar.proxy.bodies import Answer
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.shared import Limits

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
        """Ends it for good; what would have been called is let go."""
        self._deadline = 0
        self._due = _over
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


def _over(_: int) -> None:
    """Nothing is due any more."""


def patience(late: int) -> int:
    """How long (ns) to look before a deadline that is `late` ns past counts as missed: one turn of the loop, or more.

    Whoever stood still has not heard its peers, nor told them anything: they get that time back, up to a second.
    """
    return min(max(late, _TURN), _GRACE)


LEAST_RATE = 256
"""Bytes a second that a body must have come at, on average and after one `CLIENT_BODY_TIMEOUT`: a slot is not held for
less. The worst mobile link is several times faster."""


class Deadlines:
    """One exchange's timers. `begun` is when the client could begin with the body; `connected`: it has an upstream connection."""

    __slots__ = (
        "_answer",
        "_begun",
        "_exchange",
        "_held_up",
        "_inbound",
        "_limits",
        "_spared",
        "_stalled_at",
        "_unsent",
        "_upload_moved_at",
        "upload_blocked_since",
    )

    def __init__(
        self, exchange: Exchange, inbound: Inbound, answer: Answer, limits: Limits, begun: int
    ) -> None:
        self._exchange = exchange
        self._inbound = inbound
        self._answer = answer
        self._limits = limits
        self._stalled_at = 0
        self._begun = begun or inbound.read_at
        self._held_up = 0
        self.upload_blocked_since = 0
        """Since when the upstream takes no more of the upload, 0 when it does."""
        self._unsent = 0
        """Bytes of it that had not left then, or at the latest look."""
        self._upload_moved_at = 0
        self._spared = (0, 0)

    def upload_blocked(self, now: int, unsent: int) -> None:
        """The upstream takes no more; so many bytes have not left."""
        self.upload_blocked_since, self._unsent = now, unsent

    def upload_left(self, now: int, unsent: int) -> None:
        """So many bytes have not left: if they have become fewer, the upstream takes some, however slowly."""
        if self.upload_blocked_since:
            if unsent < self._unsent:
                self._upload_moved_at = now
            self._unsent = unsent

    def upload_moves(self, now: int) -> None:
        """The upstream takes more again; until `now` the client could not go on."""
        if self.upload_blocked_since:
            self._held_up += now - self.upload_blocked_since
        self.upload_blocked_since = 0
        self._upload_moved_at = now

    def next(self, heard_at: int, *, connected: bool) -> int:
        """When the next timer is due; `heard_at` is when the client was last heard of."""
        limits, exchange = self._limits, self._exchange
        if not exchange.asked:
            return min(heard_at + limits.client_body, self._least())
        if not connected:
            return exchange.asked + limits.connect
        if exchange.first_byte:
            return min(self._idle(), self._stall())
        if exchange.request_end:
            return exchange.request_end + limits.first_byte
        if self.upload_blocked_since:
            return max(self.upload_blocked_since, self._upload_moved_at) + limits.first_byte
        quiet = max(heard_at, exchange.sent, self._upload_moved_at) + limits.client_body
        return min(quiet, self._least() + exchange.sent - exchange.asked)

    def passed(self, now: int, *, connected: bool) -> tuple[TimedOutError, Phase] | None:
        """The timer that has run out, its deadline being past; None: it is only a stall."""
        exchange, limits = self._exchange, self._limits
        if not exchange.asked:
            return ClientBodyTimeoutError(limits.client_body / SECOND), Phase.HEAD
        if not connected:
            return ConnectTimeoutError(limits.connect / SECOND), Phase.CONNECT
        if exchange.first_byte:
            if now < self._idle():
                return None
            phase = Phase.MID_STREAM if self._answer.began else Phase.BEFORE_HEADERS
            whose = ClientIdleTimeoutError if self._answer.blocked_since else IdleTimeoutError
            return whose(limits.idle / SECOND), phase
        if exchange.request_end or self.upload_blocked_since:
            return FirstByteTimeoutError(limits.first_byte / SECOND), Phase.BEFORE_HEADERS
        return ClientBodyTimeoutError(limits.client_body / SECOND), Phase.BEFORE_HEADERS

    def spares(self, deadline: int, backlogs: int) -> bool:
        """What waits to be read had come when the deadline passed. An upstream that goes on sending is not spared again.

        `backlogs` is a number that grows each time that something comes to wait, 0 if nothing waits.
        """
        if self._spared[0] != deadline:
            self._spared = deadline, backlogs
        return backlogs > 0 and self._spared[1] == backlogs

    def stalled(self, now: int) -> bool:
        """Notes a stall; False if this silence has been noted before."""
        stream = self._exchange.stream
        fresh = stream.last_event >= self._stalled_at
        self._stalled_at = now
        if fresh:
            stream.stalled(stream.last_event, now - stream.last_event)
        return fresh

    def _least(self) -> int:
        """When the body is too slow on average, if nothing more of it comes; what the upstream held up is left out."""
        coming = self._limits.client_body + self._inbound.size * SECOND // LEAST_RATE
        return self._begun + self._held_up + coming

    def _idle(self) -> int:
        answer = self._answer
        since = answer.took_at if answer.blocked_since else answer.quiet_since or self._exchange.first_byte
        return since + self._limits.idle

    def _stall(self) -> int:
        if not self._exchange.streams or self._answer.blocked_since:
            return self._idle()
        return max(self._exchange.stream.last_event, self._stalled_at) + self._limits.stall
