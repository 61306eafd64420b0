"""Anthropic's messages.

Owns what a request, an event and a body of `/messages` mean. The API reports cached tokens beside its
input tokens; the facts hold their sum as `input`, as the conventions ask (`gen_ai.usage.input_tokens`).
What it takes to summarise a long conversation before answering stands in a list beside both, and is added.
Shapes: https://docs.anthropic.com/en/api/messages-streaming
"""

from functools import reduce

import msgspec

from sidecar.apis.base import (
    DONE,
    Api,
    ModelRequest,
    Path,
    Reader,
    RequestBody,
    both,
    counted,
    ended,
    holds,
    present,
    reconciled,
)
from sidecar.apis.errors import error_word, foreign_error, is_error
from sidecar.apis.history import (
    MODEL,
    NOTHING,
    OTHER,
    SYSTEM,
    USER,
    Raw,
    Said,
    Written,
    asks_title,
    content,
    echoed,
    made_id,
    plain,
    there,
    word,
)
from sidecar.apis.shapes import MOST, Count, Ident, Int64, Shape, Thing, Word
from sidecar.core.digests import Id, Part, string
from sidecar.core.echo import Echo
from sidecar.core.facts import EventKind, ResponseFacts

_OUTPUT_TYPES = {"json_schema": "json"}


class _Format(msgspec.Struct):
    type: Word | None = None


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None
    effort: Word | None = None


class MessagesRequest(ModelRequest, kw_only=True):
    """What is read of a request."""

    messages: list[Thing] | None = None
    max_tokens: Int64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    stop_sequences: list[str] | None = None
    output_config: _OutputConfig | None = None

    def message_count(self) -> int | None:
        """How many messages the request carries."""
        return counted(self.messages)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        form = self.output_config.format if self.output_config else None
        return present(
            {
                "gen_ai.request.max_tokens": self.max_tokens,
                "gen_ai.request.temperature": self.temperature,
                "gen_ai.request.top_p": self.top_p,
                "gen_ai.request.top_k": self.top_k,
                "gen_ai.request.stop_sequences": self.stop_sequences or None,
                "gen_ai.request.reasoning.level": (self.output_config and self.output_config.effort) or None,
                "gen_ai.output.type": _OUTPUT_TYPES.get(form.type or "") if form else None,
            }
        )


class _Whole(MessagesRequest, kw_only=True):
    messages: list[Raw] | None = None  # type: ignore[assignment] # of each it is looked later what it is
    system: Raw = NOTHING
    tools: Raw = NOTHING
    output_format: Raw = NOTHING


class _Counts(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class _Iteration(_Counts):
    type: str | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(_Counts):
    iterations: list[_Iteration] | None = None
    output_tokens_details: _OutputDetails | None = None

    def apart(self, name: str) -> int | None:
        """What compactions took, which the count of that name leaves out; other iterations are in it, or another model's.

        None where they come to more than is believed.
        """
        took = [getattr(each, name) for each in self.iterations or () if each.type == "compaction"]
        whole = reduce(both, took, None)
        return None if (whole or 0) > MOST else whole


class _BedrockMetrics(msgspec.Struct, rename="camel"):
    """Bedrock's own count, in the last event of a stream."""

    input_token_count: Count | None = None
    output_token_count: Count | None = None
    cache_read_input_token_count: Count | None = None
    cache_write_input_token_count: Count | None = None

    def usage(self) -> _Usage:
        """The same as usage."""
        return _Usage(
            self.input_token_count,
            self.output_token_count,
            self.cache_read_input_token_count,
            self.cache_write_input_token_count,
        )


class _Message(msgspec.Struct):
    id: Ident | None = None
    model: Word | None = None
    stop_reason: Word | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Delta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    content: str | None = None
    """Of a compaction."""
    signature: Raw = NOTHING
    citation: Thing | None = None
    stop_reason: Word | None = None


class _Model(msgspec.Struct):
    model: Word | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    to: _Model | None = None
    """Who goes on, behind a fallback."""
    data: str | None = None
    content: list[Thing] | Thing | None = None
    id: Raw = NOTHING
    name: Raw = NOTHING
    text: Raw = NOTHING


class _Event(msgspec.Struct):
    type: str | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    metrics: _BedrockMetrics | None = msgspec.field(name="amazon-bedrock-invocationMetrics", default=None)
    error: msgspec.Raw = msgspec.Raw()
    index: Raw = NOTHING

    def echoed(self, echo: Echo) -> None:
        """Notes by what the answer will be recognised."""
        block, delta = self.content_block, self.delta
        if block is not None:
            echo.id(made_id(block.id), word(block.name))
            echo.id(block.data)
            if there(block.text):
                echo.text(0, string(block.text))
        if delta is not None:
            if delta.text:
                echo.text(0, delta.text)
            if delta.partial_json:
                echo.arguments(0, int.from_bytes(bytes(self.index)[:6]), delta.partial_json)
            if len(delta.signature):
                echo.id(made_id(delta.signature))


class _Body(_Message):
    type: str | None = None
    content: msgspec.Raw = msgspec.Raw()


class _Said(msgspec.Struct, gc=False):
    role: str | None = None
    content: Raw = NOTHING


class _Past(msgspec.Struct, gc=False):
    messages: list[Raw] = []
    system: Raw = NOTHING
    tools: Raw = NOTHING
    output_config: Raw = NOTHING
    output_format: Raw = NOTHING


_past = msgspec.json.Decoder(_Past)
_message = msgspec.json.Decoder(_Said)


def _said(raw: Raw) -> Said:
    """One message of a history."""
    parts: list[Part] = []
    ids: list[Id] = []
    try:
        message = _message.decode(raw)
    except (ValueError, RecursionError):
        return USER, [(OTHER, plain(raw))], ids
    content(message.content, parts, ids)
    return _ROLES.get(message.role or "", USER), parts, ids


_ROLES = {"assistant": MODEL, "system": SYSTEM}


def _history(body: bytes | bytearray, whole: RequestBody | None) -> Written | None:
    """The past of a message."""
    past = whole if isinstance(whole, _Whole) and whole.output_config is None else _past.decode(body)
    if not past.messages:
        return None
    config = past.output_config
    titles = (isinstance(config, Raw) and asks_title(config)) or asks_title(past.output_format)
    return Written(b"messages", past.messages, _said, past.tools, past.system, titles=titles, prefills=True)


_EVENT = Shape(_Event)
_BODY = Shape(_Body)


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT


class MessagesReader(Reader[_Event, _Body]):
    """Reads a message, whose object is a whole body, and stands inside some of a stream's events."""

    __slots__ = ("_apart", "_uncached")

    event_shape = _EVENT
    shape = _BODY

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(facts)
        self._uncached: int | None = None
        self._apart = 0

    def _answers(self, body: _Body, data: bytes) -> bool:
        """Takes the body."""
        error = self._message(body)
        if self.facts.echo is not None:
            parts: list[Part] = []
            ids: list[Id] = []
            content(body.content, parts, ids)
            echoed(self.facts.echo, 0, (MODEL, parts, ids))
        if body.type == "error":
            error = error or error_word(data)
        if error:
            self._failed(error)
        return body.type == "message" or holds(body.content)

    def _message(self, message: _Message, *, begins: bool = False) -> str | None:
        """Takes what it tells; gives the error when it failed. One that `begins` has a placeholder for its output."""
        self.facts.id = self.facts.id or message.id or None
        self.facts.model = self.facts.model or message.model or None
        self._usage(message.usage, begins=begins)
        return self._choice_ended(0, message.stop_reason, message.error)

    def _usage(self, usage: _Usage | None, *, begins: bool = False) -> None:
        """Notes usage. In a stream its counts are cumulative, and what an event need not tell may stand there as 0."""
        if usage is None:
            return
        made = None if begins else usage.output_tokens_details
        counts = {
            "reasoning": made.thinking_tokens if made else None,
            "output": None if begins else both(usage.output_tokens, usage.apart("output_tokens")),
            "cache_read": both(usage.cache_read_input_tokens, usage.apart("cache_read_input_tokens")),
            "cache_write": both(
                usage.cache_creation_input_tokens, usage.apart("cache_creation_input_tokens")
            ),
        }
        self._tokens(reconciled(present(counts), None))
        self._uncached = usage.input_tokens or self._uncached or usage.input_tokens
        self._apart = usage.apart("input_tokens") or self._apart
        if self._uncached is not None:
            tokens = self.facts.tokens
            cached = tokens.get("cache_read", 0) + tokens.get("cache_write", 0)
            self._tokens({"input": self._uncached + self._apart + cached})

    def _handed_over(self, model: str | None) -> None:
        """Another model goes on with a stream: it is the one that answers, and what was told until now is not of it."""
        facts = self.facts
        if model and model != facts.model:
            facts.model = model
            facts.tokens.clear()
            self._uncached, self._apart = None, 0

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        try:
            event = self._decode(data)
        except (ValueError, RecursionError):
            if data.strip() == DONE:
                return self._done()
            salvaged = self._salvage(data)
            if salvaged is None:
                return self._unread(name, data)
            event = salvaged
        kind = "error" if name == b"error" else event.type or name.decode("latin-1")
        delta = event.delta
        if self.facts.echo is not None:
            event.echoed(self.facts.echo)
        if kind == "content_block_delta":
            output = delta is not None and (
                delta.text or delta.partial_json or delta.thinking or delta.citation or delta.content
            )
            return _OUTPUT if output else _NO_OUTPUT
        block = event.content_block
        if kind == "content_block_start" and block is not None:
            if block.type == "fallback" and block.to is not None:
                self._handed_over(block.to.model)
            if block.data or block.content:
                return _OUTPUT  # thinking that is not shown, or what a tool of the provider has found
        if kind == "ping":
            return EventKind.IDLE
        error = self._error(kind, name, event, data)
        if event.message is not None:
            error = self._message(event.message, begins=kind == "message_start") or error
        if delta is not None:
            error = self._choice_ended(0, delta.stop_reason, event.error) or error
        self._usage(event.usage)
        if event.metrics is not None:
            self._usage(event.metrics.usage())
        if error is not None:
            return self._failed(error)
        if kind == "message_stop":
            return ended(self.facts)
        return _NO_OUTPUT

    def _error(self, kind: str, name: bytes, event: _Event, data: bytes) -> str | None:
        """The error that an event tells, or that stands in its place."""
        if is_error(event.error):
            return error_word(event.error)
        if kind == "error" or name == b"error":
            return error_word(data)
        return None if event.type else foreign_error(data)


API = Api(
    name="anthropic.messages",
    title="Anthropic's messages",
    paths=(
        Path(end="/messages", operation="chat", turn=True, provider="anthropic"),
        Path(
            end=":rawPredict",
            publisher="anthropic",
            operation="chat",
            turn=True,
            provider="gcp.vertex_ai",
        ),
        Path(
            end=":streamRawPredict",
            publisher="anthropic",
            operation="chat",
            turn=True,
            provider="gcp.vertex_ai",
            streaming=True,
        ),
    ),
    others=(
        "/messages/count_tokens",
        "/messages/batches",
        "/messages/batches/{batch}",
        "/messages/batches/{batch}/results",
        "/messages/batches/{batch}/cancel",
    ),
    request=MessagesRequest,
    history=_history,
    whole=_Whole,
    messages="messages",
    stream=MessagesReader,
    body=MessagesReader,
    finish_reasons="""
        end_turn max_tokens stop_sequence tool_use pause_turn compaction refusal model_context_window_exceeded
    """,
)
