"""What the relay asks of telemetry, as a shape; `telemetry/recorder.py` fills it.

So the relay reports what happens without knowing OpenTelemetry. Every method is quick, is called on the
event loop, and never raises.
"""

from typing import Protocol

from sidecar.core.anomaly import Anomaly
from sidecar.core.exchange import Exchange, RequestHead, Trace
from sidecar.core.facts import Route


class Telemetry(Protocol):
    """The recorder as the relay sees it. Timestamps are ns since the epoch."""

    def begin(self, head: RequestHead, route: Route, start: int) -> Trace:
        """Chooses the ids of a request's spans and asks the sampler."""

    def started(self, exchange: Exchange) -> None:
        """A request is in flight from now on (its head is whole, or was refused)."""

    def arrived(self, exchange: Exchange) -> None:
        """Identity and arrival are known; `exchange.identity` and `exchange.arrival` are set."""

    def streaming(self, exchange: Exchange) -> None:
        """The answer turned out to be a stream; it counts as an active stream until it settles."""

    def stalled(self, exchange: Exchange, at: int) -> None:
        """An answer has been silent for `STALL_AFTER`; called when it happens."""

    def settled(self, exchange: Exchange) -> None:
        """The exchange is frozen; called exactly once, after `exchange.settle`."""

    def anomaly(self, anomaly: Anomaly) -> None:
        """Counts something that should not happen and that belongs to no settled exchange."""
