"""OpenAI's responses API.

Owns what a request, an event and a body of `/responses` mean. The word for a response's end is its
status (`completed`, `cancelled`) or, when it is incomplete, the reason it gives (`max_output_tokens`).
A compaction is a call of the model that costs what it reads and writes, and has neither; no turn follows from it alone.
Shapes: https://platform.openai.com/docs/api-reference/responses
"""

from operator import attrgetter

import msgspec

from sidecar.apis.base import DONE, Api, ModelRequest, Path, Reader, RequestBody, ended, holds, present, tier
from sidecar.apis.errors import UNKNOWN_ERROR, error_word, foreign_error, is_error
from sidecar.apis.history import (
    CALL,
    MODEL,
    NOTHING,
    OTHER,
    RESULT,
    SYSTEM,
    THOUGHT,
    TOOL,
    USER,
    Raw,
    Said,
    Written,
    asks_title,
    call,
    content,
    echoed,
    elements,
    made_id,
    parts_of,
    plain,
    result,
    there,
)
from sidecar.apis.openai_common import (
    Format,
    Reasoning,
    Usage,
    effort,
    name_answer,
    name_service,
    output_type,
)
from sidecar.apis.shapes import Ident, Int64, Shape, Thing, Word
from sidecar.core.digests import Id, Part
from sidecar.core.echo import Echo
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


class _Whole(ResponsesRequest, kw_only=True):
    input: list[Raw] | str | None = None  # type: ignore[assignment] # of each it is looked later what it is
    instructions: Raw = NOTHING
    tools: Raw = NOTHING


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
    result: Raw = NOTHING
    type: Raw = NOTHING
    id: Raw = NOTHING
    call_id: Raw = NOTHING
    name: Raw = NOTHING
    arguments: Raw = NOTHING
    input: Raw = NOTHING
    encrypted_content: Raw = NOTHING

    def carries_output(self) -> bool:
        """True when it has a result of its own, as a finished image; other items have come in pieces before."""
        return bytes(memoryview(self.result)[:5]) not in _NO_RESULT

    def echoed(self, echo: Echo) -> None:
        """Notes by what it will be recognised; its text has been noted in pieces."""
        for made in (self.id, self.encrypted_content):
            echo.id(made_id(made))
        if len(self.call_id):
            arguments = self.arguments if len(self.arguments) else self.input
            called = _Given("function_call", call_id=self.call_id, name=self.name, arguments=arguments)
            echoed(echo, 0, _of(called, NOTHING))


class _Event(msgspec.Struct):
    type: str | None = None
    delta: str | Thing | None = None
    output_index: Raw = NOTHING
    item: _Item | None = None
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def place(self) -> int:
        """Which item of the output it belongs to."""
        digits = bytes(self.output_index)
        return int(digits[:6]) if digits.isdigit() else 0


class _Given(msgspec.Struct, gc=False):
    type: str | None = None
    role: str | None = None
    content: Raw = NOTHING
    id: Raw = NOTHING
    call_id: Raw = NOTHING
    name: Raw = NOTHING
    arguments: Raw = NOTHING
    input: Raw = NOTHING
    output: Raw = NOTHING
    encrypted_content: Raw = NOTHING


class _Rest(msgspec.Struct, gc=False):
    instructions: Raw = NOTHING
    tools: Raw = NOTHING
    text: Raw = NOTHING
    previous_response_id: Raw = NOTHING
    conversation: Raw = NOTHING


class _Past(_Rest, gc=False):
    input: list[Raw] = []


class _Asked(msgspec.Struct, gc=False):
    input: Raw = NOTHING


_NAMED, _NOTHING_NAMED = attrgetter("conversation", "previous_response_id", "text"), (None,) * 3
"""What has to be looked at as it came, if it is there."""

_past = msgspec.json.Decoder(_Past)
_rest_of_past = msgspec.json.Decoder(_Rest)
_asked = msgspec.json.Decoder(_Asked)
_item = msgspec.json.Decoder(_Given)

_ROLES = {"system": SYSTEM, "developer": SYSTEM, "assistant": MODEL}
_OF_A_SERVER = frozenset(("mcp_list_tools", "mcp_approval_request"))
"""What the model's side says of a tool server, beside calls."""


def _said(whole: Raw) -> Said:
    """One item of a history."""
    try:
        item = _item.decode(whole)
    except (ValueError, RecursionError):
        return USER, [(OTHER, plain(whole))], []
    return _of(item, whole)


def _of(item: _Given, whole: Raw) -> Said:
    parts: list[Part] = []
    ids: list[Id] = []
    kind = item.type or "message"
    if made := made_id(item.id):
        ids.append((made, ""))
    if kind == "message":
        content(item.content, parts, ids)
        role = _ROLES.get(item.role or "", USER)
        return role, parts, ids if role is MODEL else []
    if kind in ("reasoning", "compaction"):
        if sealed := made_id(item.encrypted_content):
            ids.append((sealed, ""))
        return MODEL, [(THOUGHT if kind == "reasoning" else OTHER, plain(whole))], ids
    if kind.endswith("_call_output"):
        result(item.call_id, item.output, parts)
        return TOOL, parts, []
    if kind in ("function_call", "custom_tool_call"):
        call(item.call_id, item.name, item.arguments if len(item.arguments) else item.input, parts, ids)
        return MODEL, parts, ids
    if kind == "item_reference":
        return MODEL, [(OTHER, bytes(item.id))], ids
    if kind.endswith("_call") or kind in _OF_A_SERVER:
        if made := made_id(item.call_id):
            ids.append((made, ""))
        return MODEL, [(CALL, plain(whole))], ids
    return USER, [(OTHER, plain(whole))], []


def _history(body: bytes | bytearray, whole: RequestBody | None) -> Written | None:
    """The past of a response, which a `conversation` keeps from being sent."""
    if isinstance(whole, _Whole) and isinstance(whole.input, list) and _NAMED(whole) == _NOTHING_NAMED:
        if not whole.input:
            return None
        return Written(b"responses", whole.input, _said, whole.tools, whole.instructions)
    said: list[Said] = []
    given: list[Raw] = []
    past: _Rest
    try:
        past = listed = _past.decode(body)
        given = listed.input
    except msgspec.ValidationError:  # the input is one text
        past = _rest_of_past.decode(body)
        if parts := parts_of(_asked.decode(body).input):
            said.append((USER, parts, []))
    if there(past.conversation) or not (given or said):
        return None
    previous = made_id(past.previous_response_id)
    if previous:
        said.insert(0, (MODEL, [(RESULT, previous.encode())], [(previous, "")]))
    return Written(
        b"responses",
        given,
        _said,
        past.tools,
        past.instructions,
        before=said,
        previous=previous or None,
        titles=asks_title(past.text),
    )


_EVENT = Shape(_Event)
_RESPONSE = Shape(_Response)

_TEXTS = frozenset(("response.output_text.delta", "response.refusal.delta"))
_OTHER_OUTPUT = "response.image_generation_call.partial_image"
_ENDS = frozenset(("response.completed", "response.incomplete", "response.cancelled"))
_ERROR = "error"
_ERRORS = frozenset((_ERROR, "response.failed", "response.error"))
_FINISHED = frozenset(("completed", "cancelled"))
_ITEM_DONE = "response.output_item.done"
_NO_RESULT = frozenset((b"", b"null", b'""'))
_PENDING = frozenset(("in_progress", "queued"))
"""Of a response that is not over: what it says about its usage does not count yet."""
_STATUSES = _FINISHED | _PENDING | {"failed", "incomplete"}
_PING = "keepalive"


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT


class ResponsesReader(Reader[_Event, _Response]):
    """Reads a response, whose object is a whole body, and stands inside some of a stream's events."""

    __slots__ = ("_begun",)

    event_shape = _EVENT
    shape = _RESPONSE

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(facts)
        self._begun = False

    def _answers(self, body: _Response, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        if error := self._response(body):
            self._failed(error)
        if self.facts.echo is not None and holds(body.output):
            for at, item in enumerate(elements(body.output) or ()):
                echoed(self.facts.echo, at, _said(item))
        return body.status in _STATUSES or holds(body.output)

    def _response(self, response: _Response) -> str | None:
        """Takes what it tells; gives the error when it failed."""
        if self.facts.id is None and self.facts.echo is not None:
            self.facts.echo.id(response.id)
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
            if data.strip() == DONE:  # of a gateway: behind nothing at all it ends that
                return self._done() if self._begun else ended(self.facts)
            salvaged = self._salvage(data)
            if salvaged is None:
                return self._unread(name, data)
            event = salvaged
        self._begun = True
        echo = self.facts.echo
        kind = _ERROR if name == b"error" else event.type or name.decode("latin-1")
        if kind.endswith(".delta"):
            if kind in _TEXTS and echo is not None and isinstance(event.delta, str):
                echo.text(event.place, event.delta)
            return _OUTPUT if event.delta else _NO_OUTPUT
        if kind == _PING:
            return EventKind.IDLE
        error = None if event.response is None else self._response(event.response)
        if error is None and (kind in _ERRORS or name == b"error" or not event.type):
            error = self._error(kind, name, event, data)
        if error is not None:
            return self._failed(error)
        if kind in _ENDS:
            if not self.facts.finish_reasons:  # the response in it does not say its status
                self._finish(0, kind.removeprefix("response."))
            return ended(self.facts)
        if kind == _ITEM_DONE and event.item is not None:
            if echo is not None:
                event.item.echoed(echo)
            if event.item.carries_output():
                return _OUTPUT
        return _OUTPUT if kind == _OTHER_OUTPUT else _NO_OUTPUT

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
        Path(end="/responses/compact", operation="chat", provider="openai"),
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
    history=_history,
    whole=_Whole,
    messages="input",
    stream=ResponsesReader,
    body=ResponsesReader,
    finish_reasons="completed incomplete max_output_tokens content_filter cancelled failed",
)
