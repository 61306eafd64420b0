"""What is known of one request, in small values: what its API's reader tells, how it ended, what went wrong beside it.

Owns shapes and public words only. `apis/` fills the facts, `exchange.py` keeps them, `telemetry/` reads them. A fact that
a message did not tell is None (or empty), never zero and never guessed. No prompt or answer text. The nine outcomes, each
decided exactly once, and the anomalies, which are counted, are metric labels, dashboard legends and words of alert rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeVar, dataclass_transform

from sidecar.core.digests import History
from sidecar.core.echo import Echo

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_Class]) -> type[_Class]:
    """Declares a value that is made for every request: a slotted dataclass, compared and hashed by its values.

    The type checker holds its fields to be read-only, as those of a frozen dataclass; at run time nothing guards them, which
    makes it ten times cheaper to create (0.2 us against 2.1, seven fields). For what is made once per process or per
    session, a frozen dataclass is the better choice.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


class Outcome(StrEnum):
    """The nine ways a request can end."""

    __hash__ = str.__hash__  # an Enum's own is a call of Python

    COMPLETED = "completed"
    CLIENT_LEFT = "client_left"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_FAILED = "upstream_failed"
    ERROR_IN_STREAM = "error_in_stream"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


class Phase(StrEnum):
    """Where in its life a request was when its outcome was decided (`sidecar.outcome.phase`)."""

    __hash__ = str.__hash__  # an Enum's own is a call of Python

    HEAD = "head"
    """The request's head or body was still being received."""
    CONNECT = "connect"
    """A connection to the upstream was being made."""
    BEFORE_HEADERS = "before_headers"
    """The request was on its way; no answer's head had come."""
    MID_STREAM = "mid_stream"
    """The answer's head had come; its end had not."""
    END = "end"
    """The answer's end had been seen."""


COMPLETED, END = Outcome.COMPLETED, Phase.END
"""Those of most requests. Up to Python 3.11 it takes ten times as long to look a member up on its class."""


class Anomaly(StrEnum):
    """Values of `sidecar.anomaly`. Bounded on purpose: the list is the label's whole value set."""

    ID_HASHED = "id_hashed"
    ID_INVALID = "id_invalid"
    SESSION_UNTRACKED = "session_untracked"
    CONVERSATION_UNTRACKED = "conversation_untracked"
    UNKNOWN_ID_ENDED = "unknown_id_ended"
    SESSION_EVICTED = "session_evicted"
    CONVERSATION_EVICTED = "conversation_evicted"
    RESPONSE_CHAIN_EVICTED = "response_chain_evicted"
    RETRY_KEY_EVICTED = "retry_key_evicted"
    HISTORY_AMBIGUOUS = "history_ambiguous"
    HISTORY_EVICTED = "history_evicted"
    HISTORY_CONVERSATION_CAP = "history_conversation_cap"
    PENDING_WAITS_CAP = "pending_waits_cap"
    LINKS_CAP = "links_cap"
    MODEL_CAP = "model_cap"
    SERIES_CAP = "series_cap"
    BYTES_AFTER_END = "bytes_after_end"
    CONNECTION_RESENT = "connection_resent"
    BODY_TOO_LARGE = "body_too_large"
    BODY_NOT_JSON = "body_not_json"
    BODY_INVALID = "body_invalid"
    BODY_MEMORY_FULL = "body_memory_full"
    BODY_ENCODING = "body_encoding"
    ANSWER_NOT_READ = "answer_not_read"
    ANSWER_INVALID = "answer_invalid"
    ANSWER_ODD_HTTP = "answer_odd_http"
    EVENT_TOO_LARGE = "event_too_large"
    OUT_OF_RESOURCES = "out_of_resources"
    LISTENER_FAILED = "listener_failed"
    RECORD_DROPPED = "record_dropped"


LOST = ("rejected", "dropped", "failed", "unconfirmed", "unknown")
"""What became of telemetry that is not known to have arrived: states of its ledger."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request's method and path mean.

    `template` has low cardinality (`/v1/chat/completions`; `/{provider path}` when unknown).
    `api` names the API as its record does (`openai.chat`), None when the route is not read in depth.
    `operation` is `gen_ai.operation.name`; `turn` says that it generates; `provider` is
    `gen_ai.provider.name` as far as the API's shape tells; `model` is a model named in the path;
    `streaming` is True when the path itself asks for a stream; `fetches` is the id of an earlier answer
    that is asked for again. `kind` is what of it tells requests of different kinds apart.
    """

    template: str
    api: str | None = None
    operation: str | None = None
    turn: bool = False
    provider: str | None = None
    model: str | None = None
    streaming: bool = False
    fetches: str | None = None
    kind: tuple[str | bool | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = self.template, self.api, self.operation, self.provider, self.model
        object.__setattr__(self, "kind", (*named, self.turn, self.streaming))


@record
class RequestFacts:
    """What a request's body says.

    `hints` maps dotted paths of identity fields (`metadata.session_id`, `previous_response_id`, the
    operator's own) to their text, as far as that is looked at. `attributes` holds `gen_ai.request.*` values ready for a
    span (str, bool, int, float or list of str), as much of each as is shown. `ignored` lists fields whose type was not what the API says.
    `stored` is True when it asks that its answer be kept, to be fetched by its id.
    """

    model: str | None = None
    streaming: bool = False
    messages: int | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    stored: bool = False
    history: History | None = None
    """Its past, where that was wanted and could be read."""


NO_FACTS = RequestFacts()
"""Of a request whose body told nothing, or has not been read yet."""


class EventKind(IntEnum):
    """What one event of a stream means to the exchange's clocks and its end."""

    IDLE = 0
    """A ping: moves the byte clock only."""
    EVENT = 1
    """Carries data, but no output (usage, start, bookkeeping)."""
    CHUNK = 2
    """Carries output."""
    END = 3
    """The API's own terminator."""
    ERROR = 4
    """An error event."""


@dataclass(slots=True)
class ResponseFacts:
    """What an answer said so far. One mutable object per exchange, filled by the API's reader.

    Token counts are the provider's own report: `input`, `output`, `cache_read`, `cache_write`,
    `reasoning`. `finish_reasons` keeps the API's words, one per choice. `error` is the provider's error
    code or type when the answer carries one; `ended` says that the API's own terminator was seen.
    `service_tier` is what served it, `system_fingerprint` the provider's name of its configuration.
    """

    id: str | None = None
    model: str | None = None
    finish_reasons: list[str] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    ended: bool = False
    unreadable: int = 0
    service_tier: str | None = None
    system_fingerprint: str | None = None
    echo: Echo | None = None
    """What gathers by what it can be recognised; None where that is not wanted."""
