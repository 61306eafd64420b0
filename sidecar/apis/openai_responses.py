"""OpenAI's responses API.

Owns what a request, an event and a body of `/responses` mean. The word for a response's end is its
status (`completed`, `cancelled`) or, when it is incomplete, the reason it gives (`max_output_tokens`).
Shapes: https://platform.openai.com/docs/api-reference/responses
"""

from typing import TypeVar

import msgspec

from sidecar.apis.base import ModelRequest, Reader, present, tier
from sidecar.apis.decode import Count, Ident, Int64, Shape, Thing, Word
from sidecar.apis.errors import is_error
from sidecar.apis.openai_common import (
    DONE,
    Format,
    InputDetails,
    OutputDetails,
    ended,
    failed,
    name_answer,
    output_type,
)
from sidecar.core.facts import EventKind, ResponseFacts


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
                "openai.request.service_tier": tier(self.service_tier),
            }
        )


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class _Incomplete(msgspec.Struct):
    reason: Word | None = None


class _Response(msgspec.Struct):
    id: Ident | None = None
    model: Word | None = None
    status: Word | None = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


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
_PING = "keepalive"


T = TypeVar("T", bound=msgspec.Struct)


class _ResponseReader(Reader[T]):
    """Takes the facts of a response object, which stands alone or inside an event."""

    __slots__ = ()

    def _response(self, response: _Response) -> None:
        name_answer(self.facts, response.id, response.model)
        status = response.status
        if status == "incomplete":
            details = response.incomplete_details
            self._finish(0, (details.reason if details else None) or status)
        elif status in _FINISHED:
            self._finish(0, status)
        usage = response.usage
        if usage:
            given = usage.input_tokens_details or InputDetails()
            made = usage.output_tokens_details or OutputDetails()
            self._tokens(
                input=usage.input_tokens,
                output=usage.output_tokens,
                cache_read=given.cached_tokens,
                cache_write=given.cache_write_tokens,
                reasoning=made.reasoning_tokens,
            )


class ResponsesStream(_ResponseReader[_Event]):
    """Reads a streamed response."""

    __slots__ = ("_decode",)

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(_EVENT, facts)
        self._decode = _EVENT.decode

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        try:
            event = self._decode(data)
        except (ValueError, RecursionError):
            if data.strip() == DONE:
                return ended(self.facts)
            salvaged = self._salvage(data)
            if salvaged is None:
                return self._unread(name)
            event = salvaged
        kind = _ERROR if name == b"error" else event.type or name.decode("latin-1")
        if kind.endswith(".delta"):
            return EventKind.CHUNK if event.delta else EventKind.EVENT
        if kind == _PING:
            return EventKind.IDLE
        response = event.response
        if response is not None:
            self._response(response)
        if kind in _ERRORS or (response is not None and is_error(response.error)):
            return failed(self.facts, event.error if response is None else response.error, data)
        if kind in _ENDS:
            return ended(self.facts)
        if kind == _ITEM_DONE and event.item is not None and event.item.carries_output():
            return EventKind.CHUNK
        return EventKind.CHUNK if kind == _OTHER_OUTPUT else EventKind.EVENT


class ResponsesBody(_ResponseReader[_Response]):
    """Reads a whole response."""

    __slots__ = ()

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(_RESPONSE, facts)

    def body(self, data: bytes) -> None:
        """Takes the body."""
        body = self._read(data)
        if body is None:
            return
        self._response(body)
        if body.status == "failed" or is_error(body.error):
            failed(self.facts, body.error)
