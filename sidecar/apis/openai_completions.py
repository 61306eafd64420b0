"""OpenAI's text completions, still spoken by many compatible servers.

Owns what a request, a chunk and a body of `/completions` mean. A chunk has the shape of a body.
Shapes: https://platform.openai.com/docs/api-reference/completions
"""

from collections.abc import Callable

import msgspec

from sidecar.apis.base import DONE, Api, Path, Reader, RequestBody, ended, present
from sidecar.apis.errors import error_word, foreign_error, is_error
from sidecar.apis.openai_common import SamplingRequest, Timings, Usage, name_answer, name_service
from sidecar.apis.shapes import Count, Ident, Shape, Word
from sidecar.core.digests import Digester
from sidecar.core.echo import Prompt
from sidecar.core.facts import EventKind


class CompletionRequest(SamplingRequest, kw_only=True):
    """What is read of a request."""

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return present(self.sampling())


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


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT


class CompletionReader(Reader[_Completion, _Completion]):
    """Reads a text completion, streamed or whole."""

    __slots__ = ()

    event_shape = _COMPLETION
    shape = _COMPLETION

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means."""
        if data.strip() == DONE:
            return ended(self.facts)
        chunk = self._event(data)
        if chunk is None:
            return self._unread(name, data)
        kind = self._take(chunk)
        if kind is EventKind.ERROR:
            return kind
        error = error_word(data) if name == b"error" else None
        if chunk.choices is None:
            error = error or foreign_error(data)
        return kind if error is None else self._failed(error)

    def _answers(self, body: _Completion, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        self._take(body)
        return bool(body.choices)

    def _take(self, part: _Completion) -> EventKind:
        """Takes the facts of a chunk or a body."""
        name_answer(self.facts, part.id, part.model)
        name_service(self.facts, None, part.system_fingerprint)
        kind = _NO_OUTPUT
        error = error_word(part.error) if is_error(part.error) else None
        for choice in part.choices or ():
            if choice.text:
                kind = _OUTPUT
                if self.facts.echo is not None:
                    self.facts.echo.text(choice.index, choice.text)
            failed = self._choice_ended(choice.index, choice.finish_reason, choice.error)
            error = error or failed
        usage = part.usage or part.timings
        if usage:
            self._tokens(usage.tokens())
        return kind if error is None else self._failed(error)


class _Past(msgspec.Struct):
    prompt: str | tuple[str] | None = None
    """LangChain sends a list of one."""


_past = msgspec.json.Decoder(_Past)


def _history(body: bytes | bytearray, _whole: RequestBody | None) -> Callable[[Digester], Prompt] | None:
    """The past of a text completion: a prompt that is one text."""
    prompt = _past.decode(body).prompt
    if isinstance(prompt, tuple):
        (prompt,) = prompt
    return (lambda digester: Prompt(digester, prompt)) if prompt else None


API = Api(
    name="openai.completions",
    title="OpenAI's completions",
    paths=(Path(end="/completions", operation="text_completion", turn=True, provider="openai"),),
    request=CompletionRequest,
    stream=CompletionReader,
    body=CompletionReader,
    history=_history,
    prompts=True,
    finish_reasons="stop length content_filter",
)
