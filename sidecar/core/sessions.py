"""Sessions and conversations (contract)."""

from dataclasses import dataclass

from sidecar.core.anomaly import Anomaly
from sidecar.core.outcome import Outcome


@dataclass(frozen=True, slots=True)
class RequestRef:
    """Enough of a request to link to it: its id, running number and the context of its SERVER span."""

    request_id: str
    sequence: int
    trace_id: int
    span_id: int
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known the moment a request joins its conversation.

    `sequence` is 0 for an untracked request. `overlaps` are the turns of the conversation in flight at
    this arrival, `concurrency` their number with this one; both are empty/0 for requests that are no turn
    or whose session nobody named. `think_time` is in nanoseconds, None where it is not defined.
    """

    request_id: str
    sequence: int
    tracked: bool
    previous: RequestRef | None
    overlaps: tuple[RequestRef, ...]
    concurrency: int
    think_time: int | None


@dataclass(frozen=True, slots=True)
class KnownWait:
    """A wait avoided that has become known: which turn, how long (ns), and the turn's context."""

    request: RequestRef
    wait: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is known the moment a request ends.

    `distance` is the out-of-order distance (0: in order). `overlapped_by` are the turns that arrived while
    this one was in flight. `wait` is this turn's own wait avoided (ns) if known by now. `waits` are all
    waits that became known by this ending, this turn's included. `dropped` counts waits given up by a cap.
    """

    distance: int
    overlapped_by: tuple[RequestRef, ...]
    wait: int | None
    waits: tuple[KnownWait, ...]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session that has ended. `source` is the identity source of its first request."""

    session_id: str
    source: str
    started_at: int
    ended_at: int
    conversations: int
    totals: Totals


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

    def request_generated(self, request: "SessionRequest") -> None:
        """A request was given its id."""

    def request_completed(self, request: "SessionRequest", result: Result) -> None:
        """It ended as `completed`."""

    def request_failed(self, request: "SessionRequest", result: Result) -> None:
        """It ended in any other way."""

    def response_out_of_order(self, request: "SessionRequest", distance: int) -> None:
        """A completed turn that `distance` later ones had overtaken."""

    def wait_known(self, wait: KnownWait) -> None:
        """A turn's wait avoided has become known (0 included)."""

    def waits_unknown(self, count: int) -> None:
        """That many waits were given up: by the cap, an eviction or a shutdown."""

    def anomaly(self, anomaly: Anomaly) -> None:
        """A cap was reached, or an unknown id was ended."""


@dataclass(frozen=True, slots=True)
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
