"""Counting requests and telling the listeners, in the same breath so that both always agree.

Owns the totals since the start. It decides nothing: what an arrival or an ending means has been found by
`conversation.py`.
"""

from sidecar.core.conversation import Joined, Left, Tracked
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.registry import Registry
from sidecar.core.turns import (
    Arrival,
    KnownWait,
    Listeners,
    RecentRequest,
    Result,
    SessionListener,
    SessionRequest,
    SessionStats,
    Settlement,
)

_NOTHING_JOINED = Joined(None)
_NOTHING_LEFT = Left(0, 0, (), model_dropped=False)


class Tally:
    """Totals of one session manager. Times in ns."""

    __slots__ = (
        "_completed",
        "_failed",
        "_listeners",
        "_out_of_order",
        "_overlaps",
        "_registry",
        "_turns",
        "_untracked",
        "_wait_avoided",
        "_waits_known",
        "arrived",
    )

    def __init__(self, listeners: Listeners, registry: Registry) -> None:
        self._listeners = listeners
        self._registry = registry
        self.arrived = self._completed = self._failed = self._untracked = 0
        self._turns = self._overlaps = self._out_of_order = 0
        self._waits_known = self._wait_avoided = 0

    def arrival(self, tracked: Tracked, joined: Joined | None) -> Arrival:
        """A request has arrived; gives what its caller is told. Number 0 passes untracked."""
        joined = joined or _NOTHING_JOINED
        request, place = tracked.request, tracked.place
        self.arrived += 1
        self._untracked += not request.sequence
        if joined.concurrency:
            self._turns += 1
            self._overlaps += joined.concurrency > 1
        self._listeners.tell(SessionListener.request_generated, request)
        if joined.given_up:
            self._listeners.anomaly(Anomaly.PENDING_WAITS_CAP)
            self._registry.waits_given_up(1)
        if place is not None and place.wait is not None:
            tracked.known_at_arrival = KnownWait(request.ref, place.wait)
            self._wait(tracked.known_at_arrival)
        return Arrival(
            request_id=request.request_id,
            sequence=request.sequence,
            tracked=request.sequence > 0,
            previous=joined.previous,
            overlaps=joined.overlaps,
            concurrency=joined.concurrency,
            think_time=joined.think_time,
        )

    def ending(self, tracked: Tracked, result: Result, left: Left | None) -> Settlement:
        """A request has ended; gives what its caller is told."""
        left = left or _NOTHING_LEFT
        request, place = tracked.request, tracked.place
        if result.outcome is Outcome.COMPLETED:
            self._completed += 1
            self._listeners.tell(SessionListener.request_completed, request, result)
        else:
            self._failed += 1
            self._listeners.tell(SessionListener.request_failed, request, result)
        if left.distance:
            self._out_of_order += 1
            self._listeners.tell(SessionListener.response_out_of_order, request, left.distance)
        for wait in left.waits:
            self._wait(wait)
        own = () if tracked.known_at_arrival is None else (tracked.known_at_arrival,)
        return Settlement(
            distance=left.distance,
            overlapped_by=tuple(tracked.overlapped_by),
            wait=None if place is None else place.wait,
            waits=own + left.waits,
            dropped=int(tracked.figures and place is not None and place.ref is None),
            overlapped_by_rest=left.overlapped_by_rest,
        )

    def _wait(self, wait: KnownWait) -> None:
        self._waits_known += 1
        self._wait_avoided += wait.wait
        self._listeners.tell(SessionListener.wait_known, wait)

    def stats(self, active: int) -> SessionStats:
        """Everything counted since the start, and what is live now; `active` requests are in flight."""
        registry, gauges = self._registry, self._registry.gauges
        return SessionStats(
            total_sessions=registry.started,
            active_sessions=len(registry.sessions),
            total_requests=self.arrived,
            active_requests=active,
            completed_requests=self._completed,
            failed_requests=self._failed,
            untracked_requests=self._untracked,
            active_conversations=gauges.conversations,
            busy_conversations=gauges.busy,
            turns=self._turns,
            overlaps=self._overlaps,
            overlapping_requests=gauges.overlapping,
            most_concurrent=gauges.most_concurrent,
            out_of_order_responses=self._out_of_order,
            waits_known=self._waits_known,
            wait_avoided=self._wait_avoided,
            waits_unknown=registry.waits_unknown,
            anomalies=dict(self._listeners.anomalies),
        )


def recent(request: SessionRequest, result: Result, settlement: Settlement, at: int) -> RecentRequest:
    """An ended request as the live view keeps it."""
    return RecentRequest(
        request=request,
        outcome=result.outcome,
        ended_at=at,
        distance=settlement.distance,
        wait=settlement.wait,
        model=result.model,
    )
