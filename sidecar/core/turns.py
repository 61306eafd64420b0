"""One request to the session manager, everything else that it takes and gives, and who is told of it.

Owns the shapes, how a request's own id is composed, and the listeners: one that raises is counted and never disturbs a request, the session manager
or the other listeners. `sessions.py` re-exports them, and others import them from there. Timestamps are ns since
the epoch, durations ns.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Concatenate, ParamSpec

from sidecar.core.clock import SECOND
from sidecar.core.facts import Anomaly, Outcome, record
from sidecar.core.identity import Identity


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The caps of the session manager.

    `session_idle` (ns) is the idle time after which a session ends. `sessions` and `conversations_per_session`
    bound what is tracked, `response_chain` and `retry_keys` what is remembered of answers and of
    `Idempotency-Key`s, `unnamed` what is remembered of turns that a later one's history may make a session, `pending_waits` the unknown waits per conversation, `links` the requests that one
    request or conversation refers to, `recent` the ended requests kept per session for the live view.
    """

    session_idle: int = 30 * 60 * SECOND
    sessions: int = 100_000
    conversations_per_session: int = 1000
    response_chain: int = 100_000
    unnamed: int = 20_000
    pending_waits: int = 1000
    links: int = 32
    retry_keys: int = 10_000
    recent: int = 20


Ref = bytes
"""What links lead to: the context of a request's SERVER span, its trace id and span id, as the caller wrote them."""

Revealed = tuple[int, Ref, bool, str | None]
"""A wait avoided that has become known (ns), and of which turn: its reference, whether it is sampled, its upstream."""


@dataclass(slots=True, eq=False, repr=False)
class Turn:
    """One request to the session manager, which alone writes to it; everybody may read it.

    It names other requests by reference and keeps none of them. Times in ns.
    """

    request_id: str
    identity: Identity
    sequence: int
    """Its number in the conversation; 0 for a request that passes untracked."""
    arrived_at: int
    ref: Ref
    sampled: bool
    streaming: bool
    turn: bool
    """It generates; the figures of a conversation are those of its turns."""
    generated: bool
    """Its session id was made up, and no other request has continued it yet."""
    upstream: str | None = None
    """The name of the upstream that it goes to."""

    # What its arrival meant.
    previous: Ref | None = None
    overlaps: tuple[Ref, ...] = ()
    """The turns in flight at its arrival, the latest `SessionLimits.links` of them."""
    concurrency: int = 0
    """Their full number with this one; 0 if no figures are told of it: it is no turn, nobody named its session, or it
    joined only when a later one continued it."""
    think_time: int | None = None
    """From the last ending to its arrival, where nothing was in flight between them."""
    wait: int | None = None
    """Its wait avoided, as far as it is known by its ending."""
    given_up: bool = False
    """The cap gave its wait up."""

    # What its ending meant.
    ended_at: int | None = None
    outcome: Outcome | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    distance: int = 0
    """How many later turns completed before it; 0 unless it completed itself."""
    overlapped_by: tuple[Ref, ...] = ()
    """The turns that arrived while it was in flight, the first `SessionLimits.links` of them."""
    overlapped_by_rest: int = 0
    """How many more there were."""
    revealed: tuple[Revealed, ...] = ()
    """The waits that became known by its ending; one that is known at its turn's arrival is not among them."""

    # What the session manager alone needs, while it is in flight or stands in the line of waits.
    answers: tuple[bytes, ...] = ()
    """The keys under which its answers are remembered."""
    usage_told: bool = False
    """It told what it used, or another request did for it."""
    number: int = 0
    """Its number among the conversation's turns."""
    overtaken: int = 0
    overtakes: "tuple[Turn, ...]" = ()
    wanted: bool = False
    """Its wait is to be told and is not known yet."""
    took: int | None = None
    """How long the queue would be busy with it: from its arrival until its last byte has passed; None before."""

    @property
    def session_id(self) -> str:
        """The session it belongs to."""
        return self.identity.session_id

    @property
    def conversation_id(self) -> str:
        """Its conversation there."""
        return self.identity.conversation_id

    @property
    def tracked(self) -> bool:
        """False for a request that passed without a place in its conversation, because of a cap."""
        return self.sequence > 0

    @property
    def overlap_count(self) -> int:
        """How many turns it overlaps, named in `overlaps` or not."""
        return self.concurrency - 1 if self.concurrency else 0

    @property
    def overlapped_by_count(self) -> int:
        """How many turns arrived while it was in flight, named in `overlapped_by` or not."""
        return len(self.overlapped_by) + self.overlapped_by_rest

    def request(self) -> "SessionRequest":
        """What listeners and views are told of it."""
        return SessionRequest(
            self.request_id,
            self.session_id,
            self.conversation_id,
            self.sequence,
            self.streaming,
            self.turn,
            self.arrived_at,
            self.ref,
            self.sampled,
        )


@record
class SessionRequest:
    """A request as the session manager knows it. `ref` is what the caller gave as the context of its SERVER span."""

    request_id: str
    session_id: str
    conversation_id: str
    sequence: int
    streaming: bool
    turn: bool
    arrived_at: int
    ref: Ref
    sampled: bool = True


@record
class Result:
    """How a request ended, as listeners are told."""

    outcome: Outcome
    duration: int = 0
    model: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@record
class KnownWait:
    """A wait avoided that has become known: which turn, how long (ns), and whether the turn is sampled."""

    request: Ref
    wait: int
    sampled: bool = True


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
    links: tuple[tuple[str, Ref], ...]
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
    races: int
    """Turns that it raced, or that raced it."""


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

    __slots__ = ("_listeners", "_told", "anomalies", "arrivals", "endings", "waits")

    def __init__(self) -> None:
        self._listeners: tuple[SessionListener, ...] = ()
        self._told: dict[Callable[..., None], list[Callable[..., None]]] = {}
        self.anomalies: Counter[Anomaly] = Counter()
        self.arrivals = self.endings = self.waits = False
        """Whether anybody wants to know of these; nothing is made for listeners where nobody does."""

    def add(self, listener: SessionListener) -> None:
        """Tells `listener` from now on; one that is known already stays known once."""
        if listener not in self._listeners:
            self._know((*self._listeners, listener))

    def remove(self, listener: SessionListener) -> None:
        """Tells `listener` no more; an unknown one is none of our business."""
        self._know(tuple(known for known in self._listeners if known is not listener))

    def _know(self, listeners: tuple[SessionListener, ...]) -> None:
        self._listeners = listeners
        self._told = {}
        told = SessionListener
        self.arrivals = bool(self._calls(told.request_generated))
        self.endings = bool(self._calls(told.request_completed) or self._calls(told.request_failed))
        self.waits = bool(self._calls(told.wait_known))

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


DEFAULT_FORMAT = "{session}:{conversation}:{counter}:{timestamp}:{random}"

FORMAT_FIELDS = ("session", "conversation", "counter", "timestamp", "random")
"""What a format may name. `timestamp` is Unix milliseconds, `random` 8 hex digits, `counter` the sequence."""

_NUMBERS = ("counter", "timestamp")
_NUMBER_SPEC = re.compile(r"(0[1-9][0-9]?)?d?")
_LONGEST_FORMAT = 200
_ALLOWED = f"literal text and the fields {', '.join('{' + name + '}' for name in FORMAT_FIELDS)}; {{random}} is needed"


class RequestIdFormatError(ValueError):
    """A request id format that cannot be used; the text says what is wrong and what is allowed."""

    def __init__(self, template: str, wrong: str) -> None:
        super().__init__(f"request id format {template[:_LONGEST_FORMAT]!r}: {wrong}; allowed: {_ALLOWED}")


class RequestIdFormat:
    """A checked format. Numbers may be padded (`{counter:04d}`); the literal text is printable ASCII without blanks.

    Raises:
        RequestIdFormatError: the template names an unknown field, lacks `{random}` or is malformed.
    """

    __slots__ = ("compose", "template")

    def __init__(self, template: str = DEFAULT_FORMAT) -> None:
        self.template = template
        self.compose: Callable[[Mapping[str, str | int]], str] = _checked(template).__mod__
        """Gives the id of `FORMAT_FIELDS`, each by its name; by `%`, in a third of the time that `str.format` takes."""


def _checked(template: str) -> str:
    """The format as `%` takes it."""
    if len(template) > _LONGEST_FORMAT:
        raise RequestIdFormatError(template, f"longer than {_LONGEST_FORMAT} characters")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise RequestIdFormatError(template, str(error)) from None
    named, text = set(), ""
    for literal, name, spec, conversion in parts:
        if not (literal.isascii() and literal.isprintable()) or " " in literal:
            raise RequestIdFormatError(template, "its text must be printable ASCII without blanks")
        text += literal.replace("%", "%%")
        if name is None:
            continue
        if name not in FORMAT_FIELDS:
            raise RequestIdFormatError(template, f"unknown field {{{name}}}")
        if conversion or (spec and not (name in _NUMBERS and _NUMBER_SPEC.fullmatch(spec))):
            raise RequestIdFormatError(template, f"{{{name}}} cannot be formatted that way")
        named.add(name)
        text += f"%({name}){spec.removesuffix('d')}d" if spec else f"%({name})s"
    if "random" not in named:
        raise RequestIdFormatError(template, "without {random} two requests could share an id")
    return text


class Guarded(SessionListener):
    """Several listeners as one, each told what it cares for under a guard, which catches what it raises."""

    def __init__(
        self,
        guard: Callable[..., object],
        anomaly: Callable[[Anomaly], object],
        parts: Sequence[SessionListener],
    ) -> None:
        """`guard` is given what is told, the call, and what the call is given; anomalies are for `anomaly` alone."""
        self._guard = guard
        self._anomaly = anomaly
        self._calls = {
            event: [
                (event.__name__, getattr(part, event.__name__)) for part in parts if overrides(part, event)
            ]
            for event in _GUARDED
        }

    def _tell(self, event: Callable[..., None], *given: object) -> None:
        for what, call in self._calls[event]:
            self._guard(what, call, *given)

    def session_started(self, session_id: str, source: str, at: int) -> None:
        """To those that care."""
        self._tell(SessionListener.session_started, session_id, source, at)

    def session_ended(self, summary: SessionSummary) -> None:
        """To those that care."""
        self._tell(SessionListener.session_ended, summary)

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """To those that care."""
        self._tell(SessionListener.conversation_ended, summary)

    def response_out_of_order(self, request: SessionRequest, distance: int) -> None:
        """To those that care."""
        self._tell(SessionListener.response_out_of_order, request, distance)

    def waits_unknown(self, count: int) -> None:
        """To those that care."""
        self._tell(SessionListener.waits_unknown, count)

    def anomaly(self, anomaly: Anomaly) -> None:
        """To the one that counts them."""
        self._anomaly(anomaly)


_GUARDED: tuple[Callable[..., None], ...] = (
    SessionListener.session_started,
    SessionListener.session_ended,
    SessionListener.conversation_ended,
    SessionListener.response_out_of_order,
    SessionListener.waits_unknown,
)
"""What they are told, but for anomalies."""
