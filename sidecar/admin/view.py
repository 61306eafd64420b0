"""What the admin port shows: every document, field by field, and the protocol that supplies them.

Owns names and units of the admin API's JSON; `docs/admin.md` repeats them for readers and a test holds the two
together. Ages and durations are seconds, moments are RFC 3339 in UTC; what is not known is null.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol, TypedDict


class RequestCounts(TypedDict):
    """Requests of all kinds since the start; `started` = `settled` + `in_flight` at every moment."""

    started: int
    settled: int
    in_flight: int
    quiet: int
    """Of the settled ones, those on a quiet path that went well: they are in no span, line or request metric."""
    outcomes: dict[str, int]
    """Settled requests by outcome."""


class SessionCounts(TypedDict):
    """The session manager's own stats."""

    total: int
    active: int
    """Sessions alive now."""
    completed: int
    """Requests that completed."""
    failed: int
    """Requests that ended in any other way."""
    out_of_order: int
    """Completed turns that later ones had overtaken."""


class Stats(TypedDict):
    """`GET /stats`."""

    version: str
    state: Literal["ready", "draining"]
    uptime_s: float
    requests: RequestCounts
    sessions: SessionCounts
    telemetry: dict[str, dict[str, int]]
    """The loss ledger: per signal (`traces`, `metrics`, `logs`; `lines` on stderr), items by state."""
    anomalies: dict[str, int]
    """Things that should not happen, by name; only those that did."""


class Figures(TypedDict):
    """The head of the live page."""

    state: Literal["ready", "draining"]
    in_flight: int
    sessions: int
    """Sessions alive now."""
    wait_avoided_s: float
    errors: int
    """Requests that ended in another way than completed, client left or shutdown."""
    settled: int
    telemetry_lost: int
    """Items of all signals that did not reach the collector, or may not have."""


class SessionView(TypedDict):
    """One row of `GET /sessions`."""

    id: str
    source: str
    """Which rule of the identity table gave the id."""
    started_at: str
    idle_s: float | None
    """Time since its last ending; null while a request is in flight."""
    conversations: int
    requests: int
    """Arrived so far."""
    in_flight: int


class ConversationView(TypedDict):
    """One conversation of a session."""

    id: str
    supplied: bool
    """False where the caller named none and it is the session's `main`."""
    started_at: str
    requests: int
    in_flight: int
    overlaps: int
    """Turns that arrived while another was in flight."""
    most_at_once: int
    out_of_order: int
    wait_avoided_s: float
    """What a one-at-a-time queue would have made its turns wait, as far as known."""


class ActiveRequest(TypedDict):
    """A request in flight."""

    request_id: str
    conversation_id: str
    sequence: int
    streaming: bool
    turn: bool
    started_at: str
    age_s: float
    trace_id: str
    """32 hex digits."""


class RunningRequest(TypedDict):
    """A request in flight, oldest first; null is what it has not told yet."""

    request_id: str | None
    session_id: str | None
    conversation_id: str | None
    sequence: int | None
    upstream: str | None
    model: str | None
    streaming: bool
    phase: str
    """`body`, `connect`, `wait` or `stream`."""
    age_s: float
    """Since its first byte."""
    silence_s: float | None
    """Since its upstream was last heard of, or could have begun to answer; null before it was asked."""
    started_at: str
    trace_id: str
    """32 hex digits."""


class Running(TypedDict):
    """`GET /sessions?sort=age`: both lists have what has been running longest first, and 1000 at most."""

    sessions: list[SessionView]
    """Those with a request in flight."""
    requests: list[RunningRequest]


class RecentRequest(TypedDict):
    """A request that has ended, newest first."""

    request_id: str
    conversation_id: str
    sequence: int
    outcome: str
    model: str | None
    turn: bool
    out_of_order: int
    """How many later turns of its conversation had completed before it; 0 is in order."""
    wait_avoided_s: float | None
    """What a one-at-a-time queue would have made it wait; null where that was not known at its end."""
    races: int
    """Turns that it raced, or that raced it."""
    started_at: str
    ended_at: str
    duration_s: float
    trace_id: str


class SessionDetail(SessionView):
    """`GET /sessions/{id}`. The lists are bounded; `conversations` stays the number of all."""

    conversation_list: list[ConversationView]
    active: list[ActiveRequest]
    recent: list[RecentRequest]


class Rendering(NamedTuple):
    """A text that takes long to make."""

    steps: Iterator[None]
    """What is to be done for it on the event loop, little in each step."""
    text: Callable[[], tuple[bytes, str]]
    """Makes it and its whole `Content-Type` after that, in any thread."""


class AdminView(Protocol):
    """What the admin port asks of the sidecar. Every method is quick and is called on the event loop."""

    def ready(self) -> bool:
        """False from the moment the drain begins. Depends on neither upstream nor collector."""

    def stats(self) -> Stats:
        """The whole sidecar in numbers."""

    def sessions(self) -> list[SessionView]:
        """Sessions alive now."""

    def running(self) -> Running:
        """What is in flight, by age."""

    def session(self, session_id: str) -> SessionDetail | None:
        """One session that is alive, or None."""

    def metrics(self, accept: str) -> Rendering:
        """All metrics of this moment. `accept` is the request's `Accept`, or empty."""

    def shutdown(self) -> None:
        """Begins the drain and returns at once; a second call changes nothing."""
