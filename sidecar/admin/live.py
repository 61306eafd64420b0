"""Fills the admin port's documents from the running parts.

Owns the translation from the core's nanoseconds and shapes to what `view.py` documents. It keeps nothing and
changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Protocol

from sidecar.admin.view import (
    ActiveRequest,
    ConversationView,
    Figures,
    RecentRequest,
    Rendering,
    RequestCounts,
    Running,
    RunningRequest,
    SessionDetail,
    SessionView,
    Stats,
)
from sidecar.core import sessions as core
from sidecar.core.clock import SECOND, Clock, Wall
from sidecar.core.exchange import Exchange
from sidecar.core.facts import LOST, Outcome
from sidecar.core.shown import shown
from sidecar.version import VERSION

_NO_ERRORS = frozenset({Outcome.COMPLETED, Outcome.CLIENT_LEFT, Outcome.SHUTDOWN})
_MOST = 1000
"""Requests in flight that are shown by age."""


class Counts(Protocol):
    """The three numbers of every request, and what they ended as."""

    @property
    def requests_started(self) -> int:
        """Since the start, refused ones included."""

    @property
    def requests_settled(self) -> int:
        """Of these, how many have ended."""

    @property
    def requests_quiet(self) -> int:
        """Of the settled ones, those that nothing else tells of."""

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Settled requests by outcome."""

    @property
    def anomalies(self) -> Mapping[str, int]:
        """What should not have happened, by name."""


class Ledger(Protocol):
    """What became of every item of telemetry."""

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Per signal, items by state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """The running sidecar, as the admin port asks for it (`view.AdminView`)."""

    manager: core.SessionManager
    counts: Counts
    in_flight: Callable[[], list[Exchange]]
    ledger: Ledger
    text: Callable[[str], Rendering]
    stop: Callable[[], None]
    draining: Callable[[], bool]
    clock: Clock
    wall: Wall
    started_at: int

    def ready(self) -> bool:
        """False from the moment the drain begins."""
        return not self.draining()

    def stats(self) -> Stats:
        """The whole sidecar in numbers."""
        stats = self.manager.get_session_stats()
        return {
            "version": VERSION,
            "state": "draining" if self.draining() else "ready",
            "uptime_s": (self.clock() - self.started_at) / SECOND,
            "requests": requests_of(self.counts),
            "sessions": {
                "total": stats.total_sessions,
                "active": stats.active_sessions,
                "completed": stats.completed_requests,
                "failed": stats.failed_requests,
                "out_of_order": stats.out_of_order_responses,
            },
            "telemetry": self.ledger.snapshot(),
            "anomalies": dict(self.counts.anomalies),
        }

    def figures(self) -> Figures:
        """The head of the live page."""
        stats = self.manager.get_session_stats()
        started, settled = self.counts.requests_started, self.counts.requests_settled
        return {
            "state": "draining" if self.draining() else "ready",
            "in_flight": started - settled,
            "sessions": stats.active_sessions,
            "wait_avoided_s": stats.wait_avoided / SECOND,
            "errors": sum(n for outcome, n in self.counts.outcomes.items() if outcome not in _NO_ERRORS),
            "settled": settled,
            "telemetry_lost": sum(
                items.get(state, 0) for items in self.ledger.snapshot().values() for state in LOST
            ),
        }

    def sessions(self) -> list[SessionView]:
        """Sessions alive now."""
        now, moved = self.clock(), self.wall.look()
        return [_session(session, now, moved) for session in self.manager.live_sessions()]

    def running(self) -> Running:
        """What is in flight, by age."""
        exchanges = sorted(self.in_flight(), key=attrgetter("start"))[:_MOST]
        now, moved = self.clock(), self.wall.look()
        ids = dict.fromkeys(one.identity.session_id for one in exchanges if one.identity is not None)
        sessions = self.manager.live_sessions_of(ids)
        return {
            "sessions": [_session(session, now, moved) for session in sessions],
            "requests": [_running(one, now, moved) for one in exchanges],
        }

    def session(self, session_id: str) -> SessionDetail | None:
        """One session that is alive, or None."""
        view = self.manager.live_session(session_id)
        if view is None:
            return None
        now, moved = self.clock(), self.wall.look()
        active = (request for one in view.conversations for request in one.active)
        return {
            **_session(view.session, now, moved),
            "conversation_list": [_conversation(one, moved) for one in view.conversations],
            "active": [_active(request, now, moved) for request in islice(active, _MOST)],
            "recent": [_recent(request, moved) for request in reversed(view.recent)],
        }

    def metrics(self, accept: str) -> Rendering:
        """All metrics of this moment."""
        return self.text(accept)

    def shutdown(self) -> None:
        """Begins the drain."""
        self.stop()


def requests_of(counts: Counts) -> RequestCounts:
    """Every request of the process, in numbers."""
    started, settled = counts.requests_started, counts.requests_settled
    return {
        "started": started,
        "settled": settled,
        "in_flight": started - settled,
        "quiet": counts.requests_quiet,
        "outcomes": dict(counts.outcomes),
    }


def _moment(at: int) -> str:
    """The wall's time in RFC 3339, UTC, to the microsecond."""
    moment = datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND // 1000)
    return moment.isoformat().replace("+00:00", "Z")


def _session(session: core.LiveSession, now: int, moved: int) -> SessionView:
    idle = None
    if not session.active and session.last_ended_at is not None:
        idle = (now - session.last_ended_at) / SECOND
    return {
        "id": session.session_id,
        "source": session.source,
        "started_at": _moment(session.started_at + moved),
        "idle_s": idle,
        "conversations": session.conversations,
        "requests": session.requests,
        "in_flight": session.active,
    }


def _conversation(one: core.LiveConversation, moved: int) -> ConversationView:
    return {
        "id": one.conversation_id,
        "supplied": one.supplied,
        "started_at": _moment(one.started_at + moved),
        "requests": one.sequence,
        "in_flight": len(one.active),
        "overlaps": one.totals.overlaps,
        "most_at_once": one.totals.most_at_once,
        "out_of_order": one.totals.out_of_order,
        "wait_avoided_s": one.totals.wait_avoided / SECOND,
    }


def _active(request: core.SessionRequest, now: int, moved: int) -> ActiveRequest:
    return {
        "request_id": request.request_id,
        "conversation_id": request.conversation_id,
        "sequence": request.sequence,
        "streaming": request.streaming,
        "turn": request.turn,
        "started_at": _moment(request.arrived_at + moved),
        "age_s": (now - request.arrived_at) / SECOND,
        "trace_id": request.ref[:16].hex(),
    }


def _running(exchange: Exchange, now: int, moved: int) -> RunningRequest:
    identity, upstream, turn = exchange.identity, exchange.upstream, exchange.turn
    model = exchange.asked_model
    return {
        "request_id": exchange.request_id,
        "session_id": None if identity is None else identity.session_id,
        "conversation_id": None if identity is None else identity.conversation_id,
        "sequence": None if turn is None else turn.sequence,
        "upstream": None if upstream is None else upstream.name,
        "model": shown(model) if model else None,
        "streaming": exchange.streams or exchange.request.streaming or exchange.route.streaming,
        "phase": exchange.doing,
        "age_s": (now - exchange.start) / SECOND,
        "silence_s": (now - exchange.heard) / SECOND if exchange.heard else None,
        "started_at": _moment(exchange.start + moved),
        "trace_id": f"{exchange.trace.trace_id:032x}",
    }


def _recent(recent: core.RecentRequest, moved: int) -> RecentRequest:
    request = recent.request
    return {
        "request_id": request.request_id,
        "conversation_id": request.conversation_id,
        "sequence": request.sequence,
        "outcome": recent.outcome,
        "model": recent.model,
        "turn": request.turn,
        "out_of_order": recent.distance,
        "wait_avoided_s": None if recent.wait is None else recent.wait / SECOND,
        "races": recent.races,
        "started_at": _moment(request.arrived_at + moved),
        "ended_at": _moment(recent.ended_at + moved),
        "duration_s": (recent.ended_at - request.arrived_at) / SECOND,
        "trace_id": request.ref[:16].hex(),
    }
