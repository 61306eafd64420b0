"""OpenAI's responses API.

Owns what a request, an event and a body of `/responses` mean. The word for a response's end is its
status (`completed`, `cancelled`) or, when it is incomplete, the reason it gives (`max_output_tokens`).
Shapes: https://platform.openai.com/docs/api-reference/responses
"""

import msgspec

from sidecar.apis.base import Api, ModelRequest, Path, Reader, holds, present, tier
from sidecar.apis.errors import UNKNOWN_ERROR, error_word, foreign_error, is_error
from sidecar.apis.openai_common import (
    DONE,
    Format,
    Reasoning,
    Usage,
    effort,
    ended,
    name_answer,
    name_service,
    output_type,
)
from sidecar.apis.shapes import Ident, Int64, Shape, Thing, Word
from sidecar.core.facts import EventKind


class _Text(msgspec.Struct):
    format: Format | None = None


class ResponsesRequest(ModelRequest, kw_only=True):
    """What is read of a request."""

    input: list[Thing] | str | None = None
    max_output_tokens: Int64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: _Text | None = None
    service_tier: Word | None = None
    reasoning: Reasoning | None = None

    def message_count(self) -> int | None:
        """How many items the input has; a plain text is one."""
        if self.input is None:
            return None
        return 1 if isinstance(self.input, str) else len(self.input)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return present(
            {
                "gen_ai.request.max_tokens": self.max_output_tokens,
                "gen_ai.request.temperature": self.temperature,
                "gen_ai.request.top_p": self.top_p,
                "gen_ai.output.type": output_type(self.text.format if self.text else None),
                "gen_ai.request.previous_response.id": self.previous_response_id or None,
                "gen_ai.request.reasoning.level": effort(self.reasoning),
                "openai.request.service_tier": tier(self.service_tier),
            }
        )


class _Incomplete(msgspec.Struct):
    reason: Word | None = None


class _Response(msgspec.Struct):
    id: Ident | None = None
    model: Word | None = None
    status: Word | None = None
    incomplete_details: _Incomplete | None = None
    output: msgspec.Raw = msgspec.Raw()
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()
    service_tier: Word | None = None


class _Item(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()

    def carries_output(self) -> bool:
        """True when it has a result of its own, as a finished image; other items have come in pieces before."""
        return bytes(memoryview(self.result)[:5]) not in _NO_RESULT


class _Event(msgspec.Struct):
    type: str | None = None
    delta: str | Thing | None = None
    item: _Item | None = None
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw()


_EVENT = Shape(_Event)
_RESPONSE = Shape(_Response)

_OTHER_OUTPUT = "response.image_generation_call.partial_image"
_ENDS = frozenset(("response.completed", "response.incomplete", "response.cancelled"))
_ERROR = "error"
_ERRORS = frozenset((_ERROR, "response.failed", "response.error"))
_FINISHED = frozenset(("completed", "cancelled"))
_ITEM_DONE = "response.output_item.done"
_NO_RESULT = frozenset((b"", b"null", b'""'))
_PENDING = frozenset(("in_progress", "queued"))
"""Of a response that is not over: what it says of its usage is no count yet."""
_STATUSES = _FINISHED | _PENDING | {"failed", "incomplete"}
_PING = "keepalive"


class ResponsesReader(Reader[_Event, _Response]):
    """Reads a response, whose object is a whole body, and stands inside some of a stream's events."""

    __slots__ = ()

    event_shape = _EVENT
    shape = _RESPONSE

    def _answers(self, body: _Response, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        if error := self._response(body):
            self._failed(error)
        return body.status in _STATUSES or holds(body.output)

    def _response(self, response: _Response) -> str | None:
        """Takes what it tells; gives the error when it failed."""
        name_answer(self.facts, response.id, response.model)
        name_service(self.facts, response.service_tier)
        status, reason = response.status, None
        if status == "incomplete":
            details = response.incomplete_details
            reason = (details.reason if details else None) or status
        elif status in _FINISHED:
            reason = status
        if response.usage and status not in _PENDING:
            self._tokens(response.usage.tokens())
        error = self._choice_ended(0, reason, response.error)
        return UNKNOWN_ERROR if error is None and status == "failed" else error

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        try:
            event = self._decode(data)
        except (ValueError, RecursionError):
            if data.strip() == DONE:
                return ended(self.facts)
            salvaged = self._salvage(data)
            if salvaged is None:
                return self._unread(name, data)
            event = salvaged
        kind = _ERROR if name == b"error" else event.type or name.decode("latin-1")
        if kind.endswith(".delta"):
            return EventKind.CHUNK if event.delta else EventKind.EVENT
        if kind == _PING:
            return EventKind.IDLE
        error = None if event.response is None else self._response(event.response)
        if error is None and (kind in _ERRORS or name == b"error" or not event.type):
            error = self._error(kind, name, event, data)
        if error is not None:
            return self._failed(error)
        if kind in _ENDS:
            return ended(self.facts)
        if kind == _ITEM_DONE and event.item is not None and event.item.carries_output():
            return EventKind.CHUNK
        return EventKind.CHUNK if kind == _OTHER_OUTPUT else EventKind.EVENT

    def _error(self, kind: str, name: bytes, event: _Event, data: bytes) -> str | None:
        """The error that an event tells, or that stands in its place."""
        if is_error(event.error):
            return error_word(event.error)
        if kind in _ERRORS or name == b"error":
            return error_word(data)
        return foreign_error(data) if event.response is None else None


API = Api(
    name="openai.responses",
    title="OpenAI's responses",
    paths=(
        Path(end="/responses", operation="chat", turn=True, provider="openai"),
        Path(end="/responses/{response}", method="GET", provider="openai"),
        Path(end="/responses/{response}/cancel", provider="openai"),
    ),
    others=(
        "/responses/input_tokens",
        "/responses/compact",
        "/responses/{response}",
        "/responses/{response}/cancel",
        "/responses/{response}/input_items",
        "/responses",
        "/conversations",
        "/conversations/{conversation}",
        "/conversations/{conversation}/items",
    ),
    own_ids="resp_",
    request=ResponsesRequest,
    stream=ResponsesReader,
    body=ResponsesReader,
    finish_reasons="completed incomplete max_output_tokens content_filter cancelled failed",
)
