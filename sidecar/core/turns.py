"""What the session manager takes and gives, and who is told of it.

Owns the shapes, every one frozen, and the listeners: a listener that raises is counted and never disturbs a
request, the session manager or the other listeners. `sessions.py` re-exports them, and others import them
from there. Timestamps are ns since the epoch, durations ns.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

from sidecar.core.clock import SECOND
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.record import record


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The caps of the session manager.

    `session_idle` (ns) is the quiet after which a session ends. `sessions` and `conversations_per_session`
    bound what is tracked, `response_chain` and `retry_keys` what is remembered of answers and of
    `Idempotency-Key`s, `pending_waits` the unknown waits per conversation, `links` the requests that one
    request or conversation refers to, `recent` the ended requests kept per session for the live view.
    """

    session_idle: int = 30 * 60 * SECOND
    sessions: int = 100_000
    conversations_per_session: int = 1000
    response_chain: int = 100_000
    pending_waits: int = 1000
    links: int = 32
    retry_keys: int = 10_000
    recent: int = 20


@record
class RequestRef:
    """Enough of a request to link to it: its id, running number and the context of its SERVER span."""

    request_id: str
    sequence: int
    trace_id: int
    span_id: int
    sampled: bool = True


@record
class Arrival:
    """What is known the moment a request joins its conversation.

    `sequence` is 0 for an untracked request. `overlaps` are the turns of the conversation in flight at
    this arrival (the latest `SessionLimits.links` of them), `concurrency` their full number with this one;
    both are empty/0 for requests that are no turn or whose session nobody named. `think_time` is in
    nanoseconds, None where it is not defined.
    """

    request_id: str
    sequence: int
    tracked: bool
    previous: RequestRef | None
    overlaps: tuple[RequestRef, ...]
    concurrency: int
    think_time: int | None

    @property
    def overlap_count(self) -> int:
        """How many turns it overlaps, named in `overlaps` or not."""
        return self.concurrency - 1 if self.concurrency else 0


@record
class KnownWait:
    """A wait avoided that has become known: which turn, how long (ns), and the turn's context."""

    request: RequestRef
    wait: int


@record
class Settlement:
    """What is known the moment a request ends.

    `distance` is the out-of-order distance (0: in order). `overlapped_by` are the turns that arrived while
    this one was in flight (the first `SessionLimits.links` of them; `overlapped_by_rest` counts the others).
    `wait` is this turn's own wait avoided (ns) if known by now. `waits` are all waits that became known by
    this ending, and this turn's if it was known at its arrival: over all settlements each wait stands once.
    `dropped` is 1 if the cap gave this turn's wait up, else 0.
    """

    distance: int
    overlapped_by: tuple[RequestRef, ...]
    wait: int | None
    waits: tuple[KnownWait, ...]
    dropped: int = 0
    overlapped_by_rest: int = 0

    @property
    def overlapped_by_count(self) -> int:
        """How many turns arrived while this one was in flight, named in `overlapped_by` or not."""
        return len(self.overlapped_by) + self.overlapped_by_rest


@record
class Result:
    """How a request ended, as the session manager needs to know it for its sums."""

    outcome: Outcome
    duration: int = 0
    model: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a conversation or a session. Times in ns; tokens as reported, None if none reported any."""

    requests: dict[Outcome, int]
    turns: int
    input_tokens: int | None
    output_tokens: int | None
    overlaps: int
    most_at_once: int
    out_of_order: int
    waits_known: int
    wait_avoided: int
    waits_unknown: int
    model_time: int
    think_time: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A conversation that has ended. `links` are (`first`|`last`|`slowest`|`failed`|`overlapping`, request)."""

    session_id: str
    conversation_id: str
    source: str
    supplied: bool
    started_at: int
    ended_at: int
    totals: Totals
    links: tuple[tuple[str, RequestRef], ...]
    links_dropped: int
    session_supplied: bool = True
    """Somebody named the session; False where a made-up id was continued."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session that has ended. `source` is the identity source of its first request."""

    session_id: str
    source: str
    started_at: int
    ended_at: int
    conversations: int
    totals: Totals


@record
class SessionRequest:
    """A request as the session manager knows it."""

    request_id: str
    session_id: str
    conversation_id: str
    sequence: int
    streaming: bool
    turn: bool
    arrived_at: int
    ref: RequestRef


@record
class ChainEntry:
    """Whose answer a response id is: what `previous_response_id` leads to.

    `generated` says that its session id was made up and that no request has continued it yet;
    `session_supplied` that somebody named it, for good.
    """

    response_id: str
    session_id: str
    conversation_id: str
    conversation_supplied: bool
    generated: bool
    ref: RequestRef
    session_supplied: bool = True


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Everything counted since the start, and what is live now. Times in ns.

    `total_requests` = `completed_requests` + `failed_requests` + `active_requests`, always. Waits,
    overlaps and out-of-order responses are those of turns of named sessions. `untracked_requests` passed
    without a place in their conversation because a cap was reached.
    """

    total_sessions: int
    active_sessions: int
    total_requests: int
    active_requests: int
    completed_requests: int
    failed_requests: int
    untracked_requests: int
    active_conversations: int
    busy_conversations: int
    turns: int
    overlaps: int
    overlapping_requests: int
    most_concurrent: int
    out_of_order_responses: int
    waits_known: int
    wait_avoided: int
    waits_unknown: int
    anomalies: Mapping[Anomaly, int]


@record
class RecentRequest:
    """A request that has ended, as the live view shows it. `wait` is None if it was not known by then."""

    request: SessionRequest
    outcome: Outcome
    ended_at: int
    distance: int
    wait: int | None
    model: str | None


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that is being tracked. `last_ended_at` is None until a request of it has ended."""

    session_id: str
    source: str
    started_at: int
    last_ended_at: int | None
    conversations: int
    active: int
    requests: int
    completed: int
    failed: int
    out_of_order: int


@dataclass(frozen=True, slots=True)
class LiveConversation:
    """A conversation that is being tracked; `sequence` is its last request's number.

    `concurrency` counts its turns in flight, `waits_open` the waits that are not known yet.
    """

    conversation_id: str
    supplied: bool
    started_at: int
    last_ended_at: int | None
    sequence: int
    concurrency: int
    waits_open: int
    totals: Totals
    active: tuple[SessionRequest, ...]


@dataclass(frozen=True, slots=True)
class SessionView:
    """One live session in depth; `recent` are its latest ended requests, the newest last."""

    session: LiveSession
    conversations: tuple[LiveConversation, ...]
    recent: tuple[RecentRequest, ...]


class SessionListener:
    """What happens to sessions, one method each; override what you need. `at` is ns since the epoch.

    A method that raises is counted (`listener_failed`) and the others are still called.
    """

    def session_started(self, session_id: str, source: str, at: int) -> None:
        """A named session's first request arrived."""

    def session_ended(self, summary: SessionSummary) -> None:
        """After `conversation_ended` of each of its conversations."""

    def conversation_started(self, session_id: str, conversation_id: str, at: int) -> None:
        """A conversation's first request arrived."""

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """With its session, or earlier through the cap."""

    def request_generated(self, request: SessionRequest) -> None:
        """A request was given its id."""

    def request_completed(self, request: SessionRequest, result: Result) -> None:
        """It ended as `completed`."""

    def request_failed(self, request: SessionRequest, result: Result) -> None:
        """It ended in any other way."""

    def response_out_of_order(self, request: SessionRequest, distance: int) -> None:
        """A completed turn that `distance` later ones had overtaken."""

    def wait_known(self, wait: KnownWait) -> None:
        """A turn's wait avoided has become known (0 included)."""

    def waits_unknown(self, count: int) -> None:
        """That many waits were given up: by the cap, an eviction or a shutdown."""

    def anomaly(self, anomaly: Anomaly) -> None:
        """A cap was reached, or an unknown id was ended."""


_Given = ParamSpec("_Given")


def overrides(listener: SessionListener, event: Callable[..., None]) -> bool:
    """True if the listener has a method of its own for this event of `SessionListener`."""
    method = getattr(listener, event.__name__)
    return getattr(method, "__func__", method) is not event


class Listeners:
    """The listeners of one session manager, and the count of each anomaly they were told."""

    __slots__ = ("_listeners", "_told", "anomalies")

    def __init__(self) -> None:
        self._listeners: tuple[SessionListener, ...] = ()
        self._told: dict[Callable[..., None], list[Callable[..., None]]] = {}
        self.anomalies: Counter[Anomaly] = Counter()

    def add(self, listener: SessionListener) -> None:
        """Tells `listener` from now on; one that is known already stays known once."""
        if listener not in self._listeners:
            self._listeners = (*self._listeners, listener)
            self._told = {}

    def remove(self, listener: SessionListener) -> None:
        """Tells `listener` no more; an unknown one is none of our business."""
        self._listeners = tuple(known for known in self._listeners if known is not listener)
        self._told = {}

    def tell(
        self,
        event: Callable[Concatenate[SessionListener, _Given], None],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> None:
        """Tells every listener that cares; one that raises is counted as `listener_failed`.

        `event` is the method of `SessionListener`: `tell(SessionListener.waits_unknown, 3)`.
        """
        for call in self._calls(event):
            if _raises(call, *given, **named):
                self.anomalies[Anomaly.LISTENER_FAILED] += 1
                for known in self._calls(SessionListener.anomaly):
                    _raises(known, Anomaly.LISTENER_FAILED)

    def anomaly(self, anomaly: Anomaly) -> None:
        """Counts an anomaly and tells it."""
        self.anomalies[anomaly] += 1
        self.tell(SessionListener.anomaly, anomaly)

    def _calls(self, event: Callable[..., None]) -> list[Callable[..., None]]:
        """The listeners' own methods for an event; found once, while the listeners stay the same."""
        calls = self._told.get(event)
        if calls is None:
            calls = self._told[event] = [
                getattr(listener, event.__name__)
                for listener in self._listeners
                if overrides(listener, event)
            ]
        return calls


def _raises(call: Callable[..., None], *given: object, **named: object) -> bool:
    try:
        call(*given, **named)
    except Exception:  # noqa: BLE001 - the guard: whatever a listener does, the request goes on
        return True
    return False
