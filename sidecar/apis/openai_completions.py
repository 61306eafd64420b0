"""OpenAI's text completions, still spoken by many compatible servers.

Owns what a request, a chunk and a body of `/completions` mean. A chunk has the shape of a body.
Shapes: https://platform.openai.com/docs/api-reference/completions
"""

import msgspec

from sidecar.apis.base import ModelRequest, Reader, present, several
from sidecar.apis.decode import Count, Ident, Int64, Shape, Word
from sidecar.apis.errors import error_word, foreign_error, is_error
from sidecar.apis.openai_common import DONE, Timings, Usage, ended, name_answer, name_service, stop_sequences
from sidecar.core.facts import EventKind, ResponseFacts


class CompletionRequest(ModelRequest, kw_only=True):
    """What is read of a request."""

    max_tokens: Int64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Int64 | None = None
    n: Int64 | None = None
    stop: str | list[str] | None = None

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return present(
            {
                "gen_ai.request.max_tokens": self.max_tokens,
                "gen_ai.request.temperature": self.temperature,
                "gen_ai.request.top_p": self.top_p,
                "gen_ai.request.top_k": self.top_k,
                "gen_ai.request.frequency_penalty": self.frequency_penalty,
                "gen_ai.request.presence_penalty": self.presence_penalty,
                "gen_ai.request.seed": self.seed,
                "gen_ai.request.choice.count": several(self.n),
                "gen_ai.request.stop_sequences": stop_sequences(self.stop),
            }
        )


class _Choice(msgspec.Struct):
    index: Count = 0
    text: str | None = None
    finish_reason: Word | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Completion(msgspec.Struct):
    id: Ident | None = None
    model: Word | None = None
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: msgspec.Raw = msgspec.Raw()
    system_fingerprint: Word | None = None


_COMPLETION = Shape(_Completion)


class CompletionReader(Reader[_Completion]):
    """Reads a text completion, streamed or whole."""

    __slots__ = ()

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(_COMPLETION, facts)

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        if data.strip() == DONE:
            return ended(self.facts)
        chunk = self._read(data)
        if chunk is None:
            return self._unread(name, data)
        kind = self._take(chunk)
        if kind is EventKind.ERROR:
            return kind
        error = error_word(data) if name == b"error" else None
        if chunk.choices is None:
            error = error or foreign_error(data)
        return kind if error is None else self._failed(error)

    def body(self, data: bytes) -> bool:
        """Takes the body."""
        body = self._read(data)
        if body is None:
            return False
        self._take(body)
        return self._is_answer(data, something=bool(body.choices))

    def _take(self, part: _Completion) -> EventKind:
        """Takes the facts of a chunk or a body."""
        name_answer(self.facts, part.id, part.model)
        name_service(self.facts, None, part.system_fingerprint)
        kind = EventKind.EVENT
        error = error_word(part.error) if is_error(part.error) else None
        for choice in part.choices or ():
            if choice.text:
                kind = EventKind.CHUNK
            error = self._choice_ended(choice.index, choice.finish_reason, choice.error) or error
        usage = part.usage or part.timings
        if usage:
            self._tokens(usage.tokens())
        return kind if error is None else self._failed(error)
