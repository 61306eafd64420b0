"""OpenAI's chat completions, and everything that speaks like them.

Owns what a request, a chunk and a body of `/chat/completions` mean, with what compatible servers add:
reasoning beside the content, errors inside a stream, usage wherever they put it.
Shapes: https://platform.openai.com/docs/api-reference/chat
"""

import msgspec

from sidecar.apis.base import (
    DONE,
    MAX_CHOICES,
    Api,
    Path,
    RequestBody,
    counted,
    ended,
    in_order,
    present,
    tier,
)
from sidecar.apis.errors import ERROR_IN_TEXT, error_word, foreign_error, is_error
from sidecar.apis.history import (
    CALL,
    MODEL,
    NOTHING,
    OTHER,
    SYSTEM,
    TEXT,
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
    form_of,
    made_id,
    plain,
    result,
    says,
    there,
    word,
)
from sidecar.apis.messages import told
from sidecar.apis.openai_common import (
    ChoicesReader,
    Format,
    Reasoning,
    SamplingRequest,
    Timings,
    Usage,
    effort,
    name_answer,
    name_service,
    output_type,
)
from sidecar.apis.shapes import Count, Ident, Int64, Shape, Thing, Word
from sidecar.core.digests import MOST_IDS, Id, Part, string
from sidecar.core.echo import Echo
from sidecar.core.facts import EventKind


class ChatRequest(SamplingRequest, kw_only=True):
    """What is read of a request."""

    messages: list[Thing] | None = None
    max_completion_tokens: Int64 | None = None
    response_format: Format | None = None
    service_tier: Word | None = None
    store: bool | None = None
    reasoning_effort: Word | None = None
    reasoning: Reasoning | None = None
    """OpenRouter's place for the effort."""

    def asks_store(self) -> bool:
        """True when the body asks that the answer be kept."""
        return self.store is True

    def message_count(self) -> int | None:
        """How many messages the request carries."""
        return counted(self.messages)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        limit = self.max_completion_tokens
        return present(
            {
                **self.sampling(),
                "gen_ai.request.max_tokens": self.max_tokens if limit is None else limit,
                "gen_ai.output.type": output_type(self.response_format),
                "gen_ai.request.reasoning.level": self.reasoning_effort or effort(self.reasoning),
                "openai.request.service_tier": tier(self.service_tier),
            }
        )


class _Whole(ChatRequest, kw_only=True):
    messages: list[Raw] | None = None  # type: ignore[assignment] # of each it is looked later what it is
    tools: Raw = NOTHING
    functions: Raw = NOTHING


_ALONE = -1
"""The number of a call that has none: it is the only one of its answer."""


class _Audio(msgspec.Struct):
    id: Raw = NOTHING
    data: str | None = None
    transcript: str | None = None


class _Function(msgspec.Struct, gc=False):
    name: Raw = NOTHING
    arguments: Raw = NOTHING


class _CalledPiece(msgspec.Struct):
    index: Raw = NOTHING
    id: Raw = NOTHING
    function: Raw = NOTHING

    def echoed(self, echo: Echo, choice: int) -> None:
        """Notes by what the call will be recognised."""
        try:
            function = _function.decode(self.function)
        except ValueError:
            function = _Function()
        echo.id(made_id(self.id), word(function.name))
        echo.arguments(choice, int.from_bytes(bytes(self.index)[:6]), string(function.arguments))


class _Words(msgspec.Struct):
    text: Raw = NOTHING


class _Delta(msgspec.Struct):
    content: str | list[_Words] | None = None
    tool_calls: list[_CalledPiece] | None = None
    reasoning_content: str | None = None
    reasoning: str | Thing | None = None
    reasoning_text: str | None = None
    """Copilot's."""
    refusal: str | None = None
    function_call: _Function | None = None
    audio: _Audio | None = None
    images: list[Thing] | None = None
    reasoning_details: list[Thing] | None = None

    def carries_output(self) -> bool:
        """True when there is something for the reader of the answer, not only a role or an empty text."""
        return bool(
            self.content
            or self.tool_calls
            or self.reasoning_content
            or self.reasoning
            or self.reasoning_text
            or self.refusal
            or self.function_call
            or self.images
            or self.reasoning_details
            or (self.audio and (self.audio.data or self.audio.transcript))
        )

    def echoed(self, echo: Echo, choice: int) -> None:
        """Notes by what the answer will be recognised."""
        text = self.content or self.refusal
        if isinstance(text, list):
            text = "".join([string(words.text) for words in text])
        if text:
            echo.text(choice, text)
        for called in (self.tool_calls or ())[:MOST_IDS]:
            called.echoed(echo, choice)
        if self.function_call is not None:
            echo.arguments(choice, _ALONE, string(self.function_call.arguments))
        if self.audio is not None:
            echo.id(word(self.audio.id))


class _Choice(msgspec.Struct):
    index: Count = 0
    delta: _Delta | None = None
    message: Raw = NOTHING
    finish_reason: Word | None = None
    usage: Usage | None = None
    """Moonshot's place for a stream's usage."""
    error: msgspec.Raw = msgspec.Raw()


class _GroqExtra(msgspec.Struct):
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()
    """Why a stream was stopped early, as groq-python has it."""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    x_groq: _GroqExtra | None = None
    timings: Timings | None = None
    error: msgspec.Raw = msgspec.Raw()


class _NamedChunk(_Chunk):
    id: Ident | None = None
    model: Word | None = None
    service_tier: Word | None = None
    system_fingerprint: Word | None = None


class _Called(msgspec.Struct, gc=False):
    id: Raw = NOTHING
    function: _Function | None = None
    custom: Raw = NOTHING


class _Message(msgspec.Struct, gc=False):
    role: str | None = None
    name: Raw = NOTHING
    content: Raw = NOTHING
    tool_calls: Raw = NOTHING
    tool_call_id: Raw = NOTHING
    function_call: _Function | None = None
    reasoning_content: Raw = NOTHING
    reasoning: Raw = NOTHING
    reasoning_details: Raw = NOTHING
    thinking_blocks: Raw = NOTHING
    refusal: Raw = NOTHING
    audio: Raw = NOTHING


class _Spoken(msgspec.Struct, gc=False):
    id: Raw = NOTHING


class _Past(msgspec.Struct, gc=False):
    messages: list[Raw] = []
    tools: Raw = NOTHING
    functions: Raw = NOTHING
    response_format: Raw = NOTHING


_function = msgspec.json.Decoder(_Function)
_past = msgspec.json.Decoder(_Past)
_message = msgspec.json.Decoder(_Message)
_calls = msgspec.json.Decoder(list[_Called])
_spoken = msgspec.json.Decoder(_Spoken)

_ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "assistant": MODEL,
    "model": MODEL,
    "tool": TOOL,
    "function": TOOL,
}


def _said(raw: Raw) -> Said:
    """One message of a history."""
    try:
        message = _message.decode(raw)
    except (ValueError, RecursionError):
        return USER, [(OTHER, plain(raw))], []
    return _parts_of(message)


def _answered(echo: Echo, choice: int, raw: Raw) -> None:
    """Notes the message of a choice, as it will stand in a history."""
    try:
        message = _message.decode(raw)
    except (ValueError, RecursionError):
        return
    if message.role == "assistant" and not (
        message.function_call
        or (message.tool_calls and there(message.tool_calls))
        or (message.refusal and there(message.refusal))
        or (message.audio and there(message.audio))
    ):
        text = told(message.content)
        if text:
            echo.text(choice, text)
            return
    echoed(echo, choice, _parts_of(message))


def _parts_of(message: _Message) -> Said:
    """What a message is."""
    parts: list[Part] = []
    ids: list[Id] = []
    role = _ROLES.get(message.role or "", USER)
    if message.name:
        parts.append((OTHER, bytes(message.name)))
    if role is TOOL:
        result(message.tool_call_id, message.content, parts)
        return role, parts, ids
    if message.reasoning_content or message.reasoning or message.reasoning_details or message.thinking_blocks:
        thoughts = (
            message.reasoning_content,
            message.reasoning,
            message.reasoning_details,
            message.thinking_blocks,
        )
        parts += [(THOUGHT, plain(thought)) for thought in thoughts if there(thought)]
    if message.content:
        content(message.content, parts, ids)
    if says(message.refusal):
        parts.append((TEXT, memoryview(message.refusal)))
    if message.audio and there(message.audio):
        _add_audio(message.audio, parts, ids)
    if there(message.tool_calls):
        _add_calls(message.tool_calls, parts, ids)
    if message.function_call is not None:
        call(NOTHING, message.function_call.name, message.function_call.arguments, parts, ids)
    return role, parts, ids


def _add_audio(raw: Raw, parts: list[Part], ids: list[Id]) -> None:
    """Adds what a message says aloud: it is sent back by its id alone."""
    try:
        spoken = _spoken.decode(raw).id
    except (ValueError, RecursionError):
        spoken = NOTHING
    parts.append((OTHER, bytes(spoken) or plain(raw)))
    if made := word(spoken):
        ids.append((made, ""))


def _add_calls(listed: Raw, parts: list[Part], ids: list[Id]) -> None:
    """Adds a message's calls. A list of very many is one part, as is what is no list of calls."""
    try:
        called = None if elements(listed) is None else _calls.decode(listed)
    except (ValueError, RecursionError):
        called = None
    if called is None:
        parts.append((CALL, plain(listed)))
        return
    form = form_of(listed)
    for one in called:
        function = one.function or _Function(arguments=one.custom)
        call(one.id, function.name, function.arguments, parts, ids, form)


def _history(body: bytes | bytearray, whole: RequestBody | None) -> Written | None:
    """The past of a chat completion."""
    past = whole if isinstance(whole, _Whole) and whole.response_format is None else _past.decode(body)
    if not past.messages:
        return None
    form = past.response_format
    titles = isinstance(form, Raw) and bool(form) and asks_title(form)
    return Written(b"chat", past.messages, _said, past.tools or past.functions, titles=titles)


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT

_CHUNK = Shape(_Chunk)
_NAMED_CHUNK = Shape(_NamedChunk)


class ChatReader(ChoicesReader[_Chunk, _NamedChunk]):
    """Reads a chat completion. Names are read of a stream's chunks until they are known, then only what changes."""

    __slots__ = ()

    event_shape = _NAMED_CHUNK
    shape = _NAMED_CHUNK

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        decode = self._decode
        try:
            chunk = decode(data)
        except (ValueError, RecursionError):
            if data.strip() == DONE:
                return ended(self.facts)
            salvaged = self._salvage(data)
            if salvaged is None:
                return self._unread(name, data)
            chunk = salvaged
        if decode is not _CHUNK.decode:
            self._name(chunk)
        kind, echo = _NO_OUTPUT, self.facts.echo
        error: str | None = None
        usage, choices = chunk.usage, chunk.choices or ()
        if len(choices) > 1:
            in_order(choices)
            choices = choices[:MAX_CHOICES]
        for choice in choices:
            delta = choice.delta
            if delta is not None and (delta.content or delta.carries_output() or delta.audio):
                if delta.audio is None or delta.carries_output():
                    kind = _OUTPUT
                if echo is not None and choice.finish_reason != ERROR_IN_TEXT:
                    delta.echoed(echo, choice.index)
            if choice.finish_reason or choice.error:
                error = self._choice_ended(choice.index, choice.finish_reason, choice.error) or error
            if choice.usage is not None and usage is None:
                self._tokens(self._so_far(choice.usage.tokens()))
        if usage or chunk.x_groq or chunk.timings:
            counts = _usage(chunk, usage)
            self._tokens(counts if chunk.timings is None else self._so_far(counts))
        if chunk.error or chunk.x_groq or (error is None and (name or not chunk.choices)):
            error = self._error(name, chunk, data) or error
        return kind if error is None else self._failed(error)

    def _error(self, name: bytes, chunk: _Chunk, data: bytes) -> str | None:
        """The error that a chunk tells, or that stands in its place."""
        if is_error(chunk.error):
            return error_word(chunk.error)
        if chunk.x_groq is not None and is_error(chunk.x_groq.error):
            return error_word(chunk.x_groq.error)
        if name == b"error":
            return error_word(data)
        return foreign_error(data) if chunk.choices is None else None

    def _name(self, chunk: _Chunk) -> None:
        """Notes the answer's names, and stops looking for them once they are known."""
        facts = self.facts
        if isinstance(chunk, _NamedChunk):
            name_answer(facts, chunk.id, chunk.model)
            name_service(facts, chunk.service_tier, chunk.system_fingerprint)
        if facts.id is not None and facts.model is not None:
            self._decode = _CHUNK.decode

    def _answers(self, body: _NamedChunk, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        name_answer(self.facts, body.id, body.model)
        name_service(self.facts, body.service_tier, body.system_fingerprint)
        usage, echo, choices = body.usage, self.facts.echo, body.choices or ()
        if len(choices) > 1:
            in_order(choices)
            choices = choices[:MAX_CHOICES]
        for choice in choices:
            if echo is not None and len(choice.message) and choice.finish_reason != ERROR_IN_TEXT:
                _answered(echo, choice.index, choice.message)
            if error := self._choice_ended(choice.index, choice.finish_reason, choice.error):
                self._failed(error)
            if choice.usage is not None and usage is None:
                self._tokens(self._so_far(choice.usage.tokens()))
        counts = _usage(body, usage)
        if body.timings is not None and len(choices) > 1:
            counts.pop("output", None)  # llama.cpp tells what the first choice made
        self._tokens(counts)
        if body.error and is_error(body.error):
            self._failed(error_word(body.error))
        return bool(choices)


def _usage(chunk: _Chunk, usage: Usage | None) -> dict[str, int]:
    """The counts of a chunk or body, wherever they stand."""
    found = usage or (chunk.x_groq and chunk.x_groq.usage) or chunk.timings
    return found.tokens() if found else {}


API = Api(
    name="openai.chat",
    title="OpenAI's chat completions",
    paths=(
        Path(end="/chat/completions", operation="chat", turn=True, provider="openai"),
        Path(end="/fim/completions", operation="text_completion", turn=True, provider="mistral_ai"),
        Path(end="/agents/completions", operation="chat", turn=True, provider="mistral_ai"),
        Path(end="/chat/completions/{completion}", method="GET", provider="openai"),
    ),
    others=(
        "/chat/completions",
        "/chat/completions/{completion}",
        "/chat/completions/{completion}/messages",
    ),
    own_ids="chatcmpl-",
    request=ChatRequest,
    history=_history,
    whole=_Whole,
    messages="messages",
    stream=ChatReader,
    body=ChatReader,
    finish_reasons="""
        stop length tool_calls content_filter function_call error error_finish abort eos eos_token repetition
        insufficient_system_resource model_length network_error sensitive
    """,
)
