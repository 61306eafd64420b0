"""What is said of requests while they run.

Owns which of them are told as running for long, and when: each once in each time that is long, the oldest first, so
many and no more; those left out are counted in the next line. It keeps nothing of a request.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Exchange
from sidecar.core.shown import shown
from sidecar.telemetry import names as n
from sidecar.telemetry.logs import WARNING, Log, RequestContext
from sidecar.telemetry.request_attributes import request_model
from sidecar.telemetry.span_factories import SpanAttributes

MOST = 20
"""Lines in each time that is long."""


class LongRunning:
    """See the module. `context` gives what every line of a request carries."""

    def __init__(self, log: Log, clock: Clock, context: Callable[[Exchange], RequestContext]) -> None:
        self._log = log
        self._clock = clock
        self._context = context
        self._looked = self._since = clock()
        self._left = MOST

    def look(self, exchanges: Iterable[Exchange], after: int) -> None:
        """Tells those that have been running for `after` ns, or for that long again since the last call."""
        now, looked = self._clock(), self._looked
        self._looked = now
        if now - self._since >= after:
            self._since, self._left = now, MOST
        due = [
            one
            for one in exchanges
            if not one.end and (now - one.start) // after > max(0, looked - one.start) // after
        ]
        due.sort(key=attrgetter("start"))
        told, more = due[: self._left], due[self._left :]
        self._left -= len(told)
        for exchange in told:
            fields = in_flight_fields(exchange, now)
            self._log.always(n.REQUEST_LONG_RUNNING, WARNING, now, fields, self._context(exchange))
        if more:
            self._log.left_out(n.REQUEST_LONG_RUNNING, len(more), now)


def in_flight_fields(exchange: Exchange, now: int) -> SpanAttributes:
    """What is told of a request that is still running at `now` (ns)."""
    fields: SpanAttributes = {n.AGE: (now - exchange.start) / SECOND, n.REQUEST_PHASE: exchange.doing}
    if exchange.heard:
        fields[n.SILENCE] = (now - exchange.heard) / SECOND
    if exchange.upstream is not None:
        fields[n.UPSTREAM] = exchange.upstream.name
    if model := request_model(exchange):
        fields[n.REQUEST_MODEL] = shown(model)
    if exchange.turn is not None:
        fields[n.SEQUENCE] = exchange.turn.sequence
    return fields
