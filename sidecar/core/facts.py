"""The small facts that every API reader gives, whatever the provider.

Owns shapes only. `apis/` fills them, `exchange.py` keeps them, `telemetry/` reads them. A fact that a
message did not tell is None (or empty), never zero and never guessed. No prompt or answer text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from sidecar.core.digests import History
from sidecar.core.echo import Echo
from sidecar.core.record import record


@dataclass(frozen=True, slots=True)
class Route:
    """What a request's method and path mean.

    `template` has low cardinality (`/v1/chat/completions`; `/{provider path}` when unknown).
    `api` names the API as its record does (`openai.chat`), None when the route is not read in depth.
    `operation` is `gen_ai.operation.name`; `turn` says that it generates; `provider` is
    `gen_ai.provider.name` as far as the API's shape tells; `model` is a model named in the path;
    `streaming` is True when the path itself asks for a stream; `fetches` is the id of an earlier answer
    that is asked for again.
    """

    template: str
    api: str | None = None
    operation: str | None = None
    turn: bool = False
    provider: str | None = None
    model: str | None = None
    streaming: bool = False
    fetches: str | None = None


@record
class RequestFacts:
    """What a request's body says.

    `hints` maps dotted paths of identity fields (`metadata.session_id`, `previous_response_id`, the
    operator's own) to their text. `attributes` holds `gen_ai.request.*` values ready for a span
    (str, bool, int, float or list of str). `ignored` lists fields whose type was not what the API says.
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
