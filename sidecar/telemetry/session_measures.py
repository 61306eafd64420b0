"""The metrics that the session manager's events and gauges give.

Owns sessions started and ended, waits avoided, and what is live now. A wait becomes known after its turn has
settled; its record carries the context that was kept from the turn.
"""

from collections.abc import Callable
from typing import Protocol

from sidecar.core.clock import SECOND
from sidecar.core.sessions import Revealed, SessionListener, SessionSummary
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import Attributes, ExemplarContext, MetricStore
from sidecar.telemetry.trace import ref_ids


class LiveSessions(Protocol):
    """What is asked of the session manager at each snapshot."""

    @property
    def sessions_active(self) -> int:
        """Sessions live now."""

    @property
    def conversations_active(self) -> int:
        """Conversations live now."""

    @property
    def conversations_busy(self) -> int:
        """Conversations with a request in flight."""

    @property
    def overlapping(self) -> int:
        """Turns in flight that a queue would hold: over conversations, the sum of those beyond the first."""

    @property
    def most_concurrent(self) -> int:
        """Turns in flight in the busiest conversation."""

    def hear_waits(self, told: Callable[[Revealed], object]) -> None:
        """Calls `told`, which never raises, with every wait that becomes known."""


class SessionMeasures(SessionListener):
    """Records what happens to sessions."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._wait_avoided = store.histogram(metrics.WAIT_AVOIDED)

    def observe(self, sessions: LiveSessions) -> None:
        """Lets the store ask `sessions` for its gauges at each snapshot."""
        observe = self._store.observe
        observe(metrics.SESSIONS_ACTIVE, lambda: [(sessions.sessions_active, ())])
        observe(metrics.CONVERSATIONS_ACTIVE, lambda: [(sessions.conversations_active, ())])
        observe(metrics.CONVERSATIONS_BUSY, lambda: [(sessions.conversations_busy, ())])
        observe(metrics.REQUESTS_OVERLAPPING, lambda: [(sessions.overlapping, ())])
        observe(metrics.CONCURRENCY_MAX, lambda: [(sessions.most_concurrent, ())])

    def session_started(self, session_id: str, source: str, at: int) -> None:  # noqa: ARG002
        """One more session, by the rule that named it."""
        self._store.add(metrics.SESSIONS, 1, _source(source))

    def session_ended(self, summary: SessionSummary) -> None:
        """How long it was and how many requests it had."""
        source = _source(summary.source)
        duration = (summary.ended_at - summary.started_at) / SECOND
        self._store.record(metrics.SESSION_DURATION, duration, source, None, summary.ended_at)
        requests = sum(summary.totals.requests.values())
        self._store.record(metrics.SESSION_REQUESTS, requests, source, None, summary.ended_at)

    def wait_avoided(self, revealed: Revealed) -> None:
        """The queue wait that a turn was spared."""
        wait, ref, sampled = revealed
        self._wait_avoided.record(wait / SECOND, ExemplarContext(*ref_ids(ref), sampled))

    def waits_unknown(self, count: int) -> None:
        """Waits that were given up."""
        self._store.add(metrics.WAIT_UNKNOWN, count)


def _source(source: str) -> Attributes:
    return ((n.SESSION_SOURCE, str(source)),)
