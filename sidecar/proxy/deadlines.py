"""Which of the timers is running, by how far a request has come.

Owns the five time-outs and the stall of one exchange: when the next is due, and which one it is then. It sets
no timer (`watchdog.py`) and ends nothing (`flow.py`). Moments are ns since the epoch.
"""

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Phase
from sidecar.errors import (
    ClientBodyTimeoutError,
    ClientIdleTimeoutError,
    ConnectTimeoutError,
    FirstByteTimeoutError,
    IdleTimeoutError,
    TimedOutError,
)
from sidecar.proxy.answer import Answer
from sidecar.proxy.inbound import Inbound
from sidecar.proxy.shared import Limits

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
        "_stalled_at",
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
        self._upload_moved_at = 0

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
            return self.upload_blocked_since + limits.first_byte
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
        since = self._answer.blocked_since or self._answer.quiet_since or self._exchange.first_byte
        return since + self._limits.idle

    def _stall(self) -> int:
        if not self._exchange.streams or self._answer.blocked_since:
            return self._idle()
        return max(self._exchange.stream.last_event, self._stalled_at) + self._limits.stall
