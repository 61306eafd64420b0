"""Gemini's generateContent and streamGenerateContent, on Google's AI and Vertex endpoints.

Owns what a request, a chunk and a body mean; a chunk has the shape of a body, and a stream has no
terminator. Thought tokens stand beside the candidates' tokens, and tool-use prompt tokens beside the
prompt's; the facts hold their sums as `output` and `input`, as the conventions ask.
Shapes: https://ai.google.dev/api/generate-content
"""

import msgspec

from sidecar.apis.base import Reader, RequestBody, counted, present, several
from sidecar.apis.decode import Count, Ident, Int64, Shape, Thing, Word
from sidecar.apis.errors import error_word, is_error
from sidecar.core.facts import EventKind, ResponseFacts

_MIME_TYPES = {"text/plain": "text", "application/json": "json"}
_MODALITIES = {"TEXT": "text", "IMAGE": "image", "AUDIO": "speech"}


class _GenerationConfig(msgspec.Struct, rename="camel"):
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_output_tokens: Int64 | None = None
    candidate_count: Int64 | None = None
    seed: Int64 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_mime_type: Word | None = None
    response_modalities: list[Word] | None = None

    def output_type(self) -> str | None:
        """`gen_ai.output.type`, where the request is plain about it."""
        modalities = self.response_modalities or ()
        if modalities:
            return _MODALITIES.get(modalities[0].upper()) if len(modalities) == 1 else None
        return _MIME_TYPES.get(self.response_mime_type or "")


class GenerateRequest(RequestBody, kw_only=True):
    """What is read of a request. The model stands in its path."""

    contents: list[Thing] | None = None
    generation_config: _GenerationConfig | None = msgspec.field(name="generationConfig", default=None)

    def message_count(self) -> int | None:
        """How many contents the request carries."""
        return counted(self.contents)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        config = self.generation_config or _GenerationConfig()
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
                "gen_ai.output.type": config.output_type(),
            }
        )


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    function_call: Thing | None = None
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


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: Count = 0
    content: _Content | None = None
    finish_reason: Word | None = None


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: Word | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None


class _Chunk(msgspec.Struct, rename="camel"):
    response_id: Ident | None = None
    model_version: Word | None = None
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_CHUNK = Shape(_Chunk)


class GenerateReader(Reader[_Chunk]):
    """Reads generated content, streamed (as events or as elements of an array) or whole."""

    __slots__ = ()

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(_CHUNK, facts)

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        chunk = self._read(data)
        if chunk is None:
            return self._unread(name)
        kind = self._take(chunk)
        if name == b"error" and kind is not EventKind.ERROR:
            self.facts.error = error_word(data)
            return EventKind.ERROR
        return kind

    def body(self, data: bytes) -> None:
        """Takes the body."""
        body = self._read(data)
        if body is not None:
            self._take(body)

    def _take(self, part: _Chunk) -> EventKind:
        """Takes the facts of a chunk or a body."""
        facts = self.facts
        facts.id = facts.id or part.response_id or None
        facts.model = facts.model or part.model_version or None
        kind = EventKind.EVENT
        for candidate in part.candidates or ():
            if candidate.content and any(piece.carries_output() for piece in candidate.content.parts or ()):
                kind = EventKind.CHUNK
            if candidate.finish_reason:
                self._finish(candidate.index, candidate.finish_reason)
        feedback = part.prompt_feedback
        if feedback and feedback.block_reason:
            self._finish(0, feedback.block_reason)
        usage = part.usage_metadata
        if usage:
            self._tokens(
                input=_sum(usage.prompt_token_count, usage.tool_use_prompt_token_count),
                output=_sum(usage.candidates_token_count, usage.thoughts_token_count),
                cache_read=usage.cached_content_token_count,
                reasoning=usage.thoughts_token_count,
            )
        if is_error(part.error):
            facts.error = error_word(part.error)
            return EventKind.ERROR
        return kind


def _sum(count: int | None, more: int | None) -> int | None:
    """Both counts together; None when neither is told."""
    return more if count is None else count + (more or 0)
