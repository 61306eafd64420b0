"""The way out of the process's own lines: a queue, a worker and a page of the ledger, as the signals have.

Owns how many lines may wait, how long their end may take, and that a loss is told once the stream takes lines again.
The event loop only queues: it must never write, because the stream may stand still.
"""

import asyncio
import os

from sidecar.core.clock import SECOND, Clock
from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import LINES, Account, Delivery, State
from sidecar.telemetry.logs import Lines
from sidecar.telemetry.otel_settings import QueueSettings
from sidecar.telemetry.outlet import Calls, Outlet
from sidecar.telemetry.stream_sender import Stream, StreamSender

_DELAY = 0.1
"""Seconds that a line may wait for others, so that they are written together."""
_BATCH = 256
"""Lines written together at most."""
_GRACE = 0.5
"""Seconds at the end, of those there are, for what is under way."""
_REPEAT = 60 * SECOND


class LineOutlet:
    """Lines in their form, and their way out. `lines` may be written to from any thread, before the start, too."""

    def __init__(self, log_format: str, *, stream: Stream, account: Account, size: int, clock: Clock) -> None:
        """`size`: how many lines may wait."""
        self.lines = Lines(log_format, self._put, colours=os.isatty(stream.descriptor))
        self._account = account
        self._clock = clock
        self._told = 0
        self._told_at = clock()
        self._batch = min(_BATCH, size)
        queue = QueueSettings(size=size, batch=self._batch, delay=_DELAY, timeout=0)
        self._outlet = Outlet(LINES, account, StreamSender(stream), queue, self._tell)

    def start(self) -> None:
        """Begin to write."""
        self._outlet.start()

    async def shutdown(self, timeout: float) -> None:
        """Write what waits, and end, within `timeout` seconds; what is not written then is counted, and forgotten."""
        deadline = asyncio.get_running_loop().time() + timeout
        grace = min(_GRACE, timeout / 4)
        # Flushed before it is closed: the last line may be that lines were lost.
        await Calls([self._outlet.flush]).done(timeout - grace)
        closing = Calls([self._outlet.close])
        self._outlet.stop()
        await closing.done(deadline - asyncio.get_running_loop().time())
        self._outlet.abandon()

    def _put(self, line: bytes) -> None:
        self._outlet.offer((line,))

    def _tell(self, delivery: Delivery) -> None:
        """Says how many lines were lost, once there is no crowd left to write; else once a minute."""
        states = self._account.states
        lost = states[State.DROPPED] + states[State.FAILED] - self._told
        if not lost or not delivery.complete:
            return
        now = self._clock()
        if self._account.queued >= self._batch and now - self._told_at < _REPEAT:
            return
        self._told += lost
        self._told_at = now
        self.lines.logger.warning(n.EXPORT_RECOVERED, signal=LINES, lost=lost)
