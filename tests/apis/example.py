"""What an API's golden module is made of: a request, an answer, a stream, and what they tell.

Owns these shapes and what several modules share, and no behaviour. A stream stands in three parts (`first`, `rest`,
`terminator`), so that an ending can fall between any two of them. Facts stand by the attribute names of the spans, written
out from the providers' documentation and the GenAI conventions, not taken from the sidecar's own tables.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sidecar.core.facts import ResponseFacts

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. `early` is what `first` tells, `late` what all of it tells.

    `first` and `rest` carry one piece of output each; `events` counts the events of (first, rest, terminator).
    `error` is an event that says the answer has failed, `broken` what is told when it has come (if not `early`).
    `nothing` is a stream of no answer that ends as its API's streams do, of as many events as `empty` says.
    """

    path: str
    route: str
    request: Mapping[str, Any]
    first: bytes
    rest: bytes
    terminator: bytes
    events: tuple[int, int, int]
    error: bytes
    early: Attributes
    late: Attributes
    media: bytes = b"text/event-stream"
    broken: Attributes | None = None
    odd: str = ""
    """The anomaly that `error` is besides."""
    nothing: bytes = b"data: [DONE]\n\n"
    empty: int = 1


@dataclass(frozen=True, slots=True)
class Example:
    """One API, as it is called. `word` is its error's known word; `answer` a whole answer and `facts` what it tells.

    Bytes in the place of an answer or of a failure are sent as they are, under the type `media`.
    """

    name: str
    path: str
    route: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any] | bytes
    facts: Attributes
    operation: str
    provider: str
    failure: Mapping[str, Any] | bytes
    word: str
    model: str = "gpt-4o"
    turn: bool = True
    asked: Attributes = field(default_factory=dict)
    """What the request tells beyond its model."""
    failed: Attributes = field(default_factory=dict)
    """What `failure`, as a whole answer, tells beside its error."""
    media: bytes = b"application/json"
    stream: Stream | None = None


def event(value: object, name: str = "") -> bytes:
    """One server-sent event."""
    data = value if isinstance(value, str) else json.dumps(value)
    return f"{f'event: {name}' + chr(10) if name else ''}data: {data}\n\n".encode()


def typed(kind: str, **members: object) -> bytes:
    """An event whose name stands in its data too."""
    return event({"type": kind, **members}, kind)


DONE = event("[DONE]")
CHAT_MESSAGES = [{"role": "user", "content": "Hi"}]
OPENAI_ERROR = {"error": {"message": "no", "type": "server_error", "code": None}}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
TOKENS = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 7}


def facts_of(facts: ResponseFacts) -> dict[str, Any]:
    """What was read of an answer, as a golden file has it: without what will be recognised of it."""
    found = asdict(facts)
    del found["echo"]
    return found


def told(answer_id: str | None, model: str, reason: str | None = None, **tokens: int) -> dict[str, Any]:
    """What an answer tells, by the attributes' names."""
    facts: dict[str, Any] = {"gen_ai.response.model": model}
    if answer_id:
        facts["gen_ai.response.id"] = answer_id
    if reason:
        facts["gen_ai.response.finish_reasons"] = [reason]
    return facts | {f"gen_ai.usage.{name}": count for name, count in tokens.items()}


SERVED = {"service_tier": "default", "system_fingerprint": "fp_44709d6fcb"}
TIER = {"openai.response.service_tier": "default"}
FINGERPRINT = {"openai.response.system_fingerprint": "fp_44709d6fcb"}
