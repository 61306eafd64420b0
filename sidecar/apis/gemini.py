"""Gemini's generateContent and streamGenerateContent, on Google's AI and Vertex endpoints.

Owns what a request, a chunk and a body mean; a chunk has the shape of a body, and a stream has no
terminator. Thought tokens stand beside the candidates' tokens, and tool-use prompt tokens beside the
prompt's; the facts hold their sums as `output` and `input`, as the conventions ask. Code Assist, which the Gemini CLI asks
when somebody has logged in, has the same in a member: `request` of a request, beside its model, `response` of an answer.
Shapes: https://ai.google.dev/api/generate-content, and packages/core/src/code_assist/converter.ts of the Gemini CLI
"""

import msgspec

from sidecar.apis.base import (
    DONE,
    MAX_CHOICES,
    Api,
    Path,
    Reader,
    RequestBody,
    both,
    counted,
    in_order,
    present,
    reconciled,
    several,
)
from sidecar.apis.errors import error_word, foreign_error, is_error
from sidecar.apis.history import (
    MODEL,
    NOTHING,
    OTHER,
    RESULT,
    SYSTEM,
    TEXT,
    THOUGHT,
    TOOL,
    USER,
    Form,
    Raw,
    Said,
    Written,
    asks_title,
    call,
    echoed,
    elements,
    form_of,
    made_id,
    plain,
    result,
    says,
    structs,
    there,
)
from sidecar.apis.shapes import Count, Ident, Int64, Shape, Thing, Word
from sidecar.core.digests import Id, Part
from sidecar.core.echo import Echo
from sidecar.core.facts import EventKind

_MIME_TYPES = {"text/plain": "text", "application/json": "json"}
_MODALITIES = {"TEXT": "text", "IMAGE": "image", "AUDIO": "speech"}

# What the numbers of enums are with `$alt=json;enum-encoding=int`, as Google's generated clients ask for by REST. 0 stands
# where nothing is said. From the ones that are left out on, the two protos differ (google/ai/generativelanguage and
# google/cloud/aiplatform): those are told as they came.
_MODALITY_NUMBERS = {1: "TEXT", 2: "IMAGE", 3: "AUDIO"}
_FINISH_NUMBERS = {0: "", 1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION", 5: "OTHER"}
_BLOCK_NUMBERS = {0: "", 1: "SAFETY", 2: "OTHER", 3: "BLOCKLIST", 4: "PROHIBITED_CONTENT"}


def _named(value: str | int | None, numbers: dict[int, str]) -> str | None:
    """The word of an enum, also where its number is given; the number itself where it has no certain word."""
    return numbers.get(value, str(value)) if isinstance(value, int) else value


class _ThinkingConfig(msgspec.Struct, rename="camel"):
    thinking_level: Word | Int64 | None = None

    def level(self) -> str | None:
        """It, unless it is the number of one."""
        return self.thinking_level or None if not isinstance(self.thinking_level, int) else None


class _GenerationConfig(msgspec.Struct, rename="camel"):
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_output_tokens: Int64 | None = None
    candidate_count: Int64 | None = None
    seed: Int64 | None = None
    stop_sequences: list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_mime_type: Word | None = None
    response_modalities: list[Word | Int64] | None = None
    thinking_config: _ThinkingConfig | None = None

    def output_type(self) -> str | None:
        """`gen_ai.output.type`, where the request is plain about it."""
        modalities = self.response_modalities or ()
        if modalities:
            asked = _named(modalities[0], _MODALITY_NUMBERS) or ""
            return _MODALITIES.get(asked.upper()) if len(modalities) == 1 else None
        return _MIME_TYPES.get(self.response_mime_type or "")


class _Request(msgspec.Struct, kw_only=True):
    contents: list[Thing] | None = None
    generation_config: _GenerationConfig | None = msgspec.field(name="generationConfig", default=None)
    session_id: str | None = None


class GenerateRequest(RequestBody, kw_only=True):
    """What is read of a request. The model stands in its path, or beside the `request` that it wraps."""

    contents: list[Thing] | None = None
    generation_config: _GenerationConfig | None = msgspec.field(name="generationConfig", default=None)
    model: Word | None = None
    request: _Request | None = None

    def hints(self) -> dict[str, str]:
        """The identity fields that are there, by dotted path."""
        hints = super().hints()
        if self.request is not None and self.request.session_id is not None:
            hints["request.session_id"] = self.request.session_id
        return hints

    def asked_model(self) -> str | None:
        """The model that a request is for which it wraps."""
        return None if self.request is None else self.model or None

    def message_count(self) -> int | None:
        """How many contents the request carries."""
        return counted((self.request or self).contents)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        config = (self.request or self).generation_config or _GenerationConfig()
        return present(
            {
                "gen_ai.request.max_tokens": config.max_output_tokens,
                "gen_ai.request.temperature": config.temperature,
                "gen_ai.request.top_p": config.top_p,
                "gen_ai.request.top_k": config.top_k,
                "gen_ai.request.frequency_penalty": config.frequency_penalty,
                "gen_ai.request.presence_penalty": config.presence_penalty,
                "gen_ai.request.seed": config.seed,
                "gen_ai.request.choice.count": several(config.candidate_count),
                "gen_ai.request.stop_sequences": config.stop_sequences or None,
                "gen_ai.request.reasoning.level": config.thinking_config and config.thinking_config.level(),
                "gen_ai.output.type": config.output_type(),
            }
        )


class _CalledPart(msgspec.Struct):
    id: Raw = NOTHING
    name: Raw = NOTHING
    args: Raw = NOTHING


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: Raw = NOTHING
    thought_signature: Raw = NOTHING
    function_call: _CalledPart | None = None
    inline_data: Thing | None = None
    file_data: Thing | None = None
    executable_code: Thing | None = None
    code_execution_result: Thing | None = None

    def carries_output(self) -> bool:
        """True when it is more than an empty text or a thought's signature."""
        return bool(
            self.text
            or self.function_call
            or self.inline_data
            or self.file_data
            or self.executable_code
            or self.code_execution_result
        )

    def echoed(self, echo: Echo, choice: int) -> None:
        """Notes by what the answer will be recognised."""
        if len(self.thought_signature):
            echo.id(made_id(self.thought_signature))
        if self.text and bytes(self.thought) != b"true":
            echo.text(choice, self.text)
        called = self.function_call
        if called is not None:
            parts: list[Part] = []
            ids: list[Id] = []
            call(called.id, called.name, called.args, parts, ids)
            echoed(echo, choice, (MODEL, parts, ids))


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: Count = 0
    content: _Content | None = None
    finish_reason: Word | Int64 | None = None
    error: msgspec.Raw = msgspec.Raw()


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: Word | Int64 | None = None


def _ways(count: int | None, part: int | None) -> tuple[int | None, ...]:
    """What the whole may be: the count with the part in there, if that fits, or the part beside it."""
    beside = both(count, part)
    return (count, beside) if (part or 0) <= (count or 0) else (beside,)


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    total_token_count: Count | None = None

    def tokens(self) -> dict[str, int]:
        """The counts that are told, by the words of the facts.

        Thoughts stand beside the candidates and tool use beside the prompt; some servers count one or both in there,
        which the total tells.
        """
        tools, thoughts = self.tool_use_prompt_token_count, self.thoughts_token_count
        ways = [
            (prompt, made)
            for prompt in _ways(self.prompt_token_count, tools)
            for made in _ways(self.candidates_token_count, thoughts)
        ]
        prompt, made = next((way for way in ways if both(*way) == self.total_token_count), ways[-1])
        counts = {
            "input": prompt,
            "output": made,
            "cache_read": self.cached_content_token_count,
            "reasoning": thoughts,
        }
        return reconciled(present(counts), None)


class _Chunk(msgspec.Struct, rename="camel"):
    response_id: Ident | None = None
    model_version: Word | None = None
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Answer(_Chunk, rename="camel"):
    trace_id: Ident | None = None
    response: _Chunk | None = None

    def unwrapped(self) -> _Chunk:
        """What it is, or what it wraps, to which Code Assist gives the id that the client sees."""
        inner = self.response
        if inner is None:
            return self
        inner.response_id = inner.response_id or self.trace_id
        inner.error = inner.error or self.error
        return inner


class _Called(msgspec.Struct, gc=False):
    id: Raw = NOTHING
    name: Raw = NOTHING
    args: Raw = NOTHING
    response: Raw = NOTHING
    parts: Raw = NOTHING


class _Piece(msgspec.Struct, rename="camel", gc=False):
    text: Raw = NOTHING
    thought: bool | None = None
    thought_signature: Raw = NOTHING
    function_call: _Called | None = None
    function_response: _Called | None = None


class _Said(msgspec.Struct, gc=False):
    role: str | None = None
    parts: Raw = NOTHING


class _Past(msgspec.Struct, gc=False):
    contents: list[Raw] = []
    system: Raw = msgspec.field(name="systemInstruction", default=NOTHING)
    system_instruction: Raw = NOTHING
    tools: Raw = NOTHING
    config: Raw = msgspec.field(name="generationConfig", default=NOTHING)
    request: Raw = NOTHING


_past = msgspec.json.Decoder(_Past)
_content = msgspec.json.Decoder(_Said)
_piece = msgspec.json.Decoder(_Piece)
_pieces = msgspec.json.Decoder(list[_Piece])

_ROLES = {"model": MODEL, "function": TOOL, "system": SYSTEM}


def _said(raw: Raw) -> Said:
    """One content of a history."""
    parts: list[Part] = []
    ids: list[Id] = []
    try:
        message = _content.decode(raw)
    except (ValueError, RecursionError):
        return USER, [(OTHER, plain(raw))], ids
    wholes = elements(message.parts)
    if wholes is not None:
        form = form_of(message.parts)
        for piece, whole in zip(structs(_pieces, _piece, message.parts, wholes), wholes, strict=True):
            _part(piece, whole, parts, ids, form)
    elif there(message.parts):
        parts.append((OTHER, plain(message.parts)))
    return _ROLES.get(message.role or "", USER), parts, ids


def _part(piece: _Piece | Raw, whole: Raw, parts: list[Part], ids: list[Id], form: Form) -> None:
    """One part of a content."""
    if isinstance(piece, Raw):
        parts.append((OTHER, form(whole)))
        return
    if made := made_id(piece.thought_signature):
        ids.append((made, ""))
    called, given = piece.function_call, piece.function_response
    if piece.thought:
        parts.append((THOUGHT, form(whole)))
    elif called is not None:
        call(called.id, called.name, called.args, parts, ids, form)
    elif given is not None:
        parts.append((RESULT, bytes(given.name)))
        result(given.id, given.response, parts)
        if given.parts:
            parts.append((RESULT, form(given.parts)))
    elif len(piece.text):
        if there(piece.text):
            parts.append((TEXT if says(piece.text) else OTHER, memoryview(piece.text)))
    elif not made:
        parts.append((OTHER, form(whole)))


def _history(body: bytes | bytearray, _whole: RequestBody | None) -> Written | None:
    """The past of what is to be generated."""
    past = _past.decode(body)
    if past.request and there(past.request):
        past = _past.decode(past.request)
    if not past.contents:
        return None
    system = past.system or past.system_instruction
    system = system if system and there(system) else NOTHING
    titles = asks_title(past.config)
    return Written(
        b"contents", past.contents, _said, past.tools, system, _instruction, titles=titles, texts=False
    )


def _instruction(raw: Raw) -> list[Part]:
    return [(TEXT, plain(raw))]


_ANSWER = Shape(_Answer)


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT

_PARTS = 4096
"""Parts of an event, over all its candidates, of which is noted by what they will be recognised."""


class GenerateReader(Reader[_Answer, _Answer]):
    """Reads generated content, streamed (as events or as elements of an array) or whole."""

    __slots__ = ()

    event_shape = _ANSWER
    shape = _ANSWER

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        if data.strip() == DONE:
            return self._done()
        answer = self._event(data)
        if answer is None:
            return self._unread(name, data)
        chunk = answer.unwrapped()
        kind = self._take(chunk)
        if kind is EventKind.ERROR:
            return kind
        error = error_word(data) if name == b"error" else None
        if chunk.candidates is None and chunk.prompt_feedback is None and chunk.usage_metadata is None:
            error = error or foreign_error(data)
        return kind if error is None else self._failed(error)

    def _answers(self, body: _Answer, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        chunk = body.unwrapped()
        self._take(chunk)
        return bool(chunk.candidates)

    def _take(self, part: _Chunk) -> EventKind:
        """Takes the facts of a chunk or a body."""
        facts = self.facts
        facts.id = facts.id or part.response_id or None
        facts.model = facts.model or part.model_version or None
        kind = _NO_OUTPUT
        error = error_word(part.error) if is_error(part.error) else None
        candidates = part.candidates or ()
        if len(candidates) > 1:
            in_order(candidates)
            candidates = candidates[:MAX_CHOICES]
        left = _PARTS
        for candidate in candidates:
            pieces = (candidate.content and candidate.content.parts) or ()
            if any(piece.carries_output() for piece in pieces):
                kind = _OUTPUT
            if facts.echo is not None:
                for piece in pieces[:left]:
                    piece.echoed(facts.echo, candidate.index)
                left = max(0, left - len(pieces))
            reason = _named(candidate.finish_reason, _FINISH_NUMBERS)
            failed = self._choice_ended(candidate.index, reason, candidate.error)
            error = error or failed
        feedback = part.prompt_feedback
        if feedback and (blocked := _named(feedback.block_reason, _BLOCK_NUMBERS)):
            self._finish(0, blocked)
        if part.usage_metadata:
            self._tokens(part.usage_metadata.tokens())
        return kind if error is None else self._failed(error)


API = Api(
    name="gemini.generate_content",
    title="Gemini's `generateContent` and `streamGenerateContent`",
    paths=(
        Path(end=":generateContent", operation="generate_content", turn=True, provider="gcp.gemini"),
        Path(
            end=":streamGenerateContent",
            operation="generate_content",
            turn=True,
            provider="gcp.gemini",
            streaming=True,
        ),
        Path(
            end="/v1internal:generateContent",
            operation="generate_content",
            turn=True,
            provider="gcp.gen_ai",
        ),
        Path(
            end="/v1internal:streamGenerateContent",
            operation="generate_content",
            turn=True,
            provider="gcp.gen_ai",
            streaming=True,
        ),
        Path(end=":embedContent", operation="embeddings", provider="gcp.gemini", read=False),
        Path(end=":batchEmbedContents", operation="embeddings", provider="gcp.gemini", read=False),
    ),
    request=GenerateRequest,
    history=_history,
    messages="contents",
    stream=GenerateReader,
    body=GenerateReader,
    objects=True,
    finish_reasons="""
        stop max_tokens safety recitation language other blocklist prohibited_content spii malformed_function_call
        image_safety unexpected_tool_call too_many_tool_calls image_prohibited_content image_recitation image_other
        no_image missing_thought_signature malformed_response finish_reason_unspecified block_reason_unspecified
        blocked_reason_unspecified
        jailbreak model_armor
    """,
)
