"""OpenAI's text completions, still spoken by many compatible servers, and llama.cpp's own.

Owns what a request, a chunk and a body of `/completions` mean. A chunk has the shape of a body. What llama.cpp answers at
`/completion`, at `/infill`, and at `/completions` without a version before it, has one text and no choices; no terminator
follows. Several prompts have several answers, in a list.
Shapes: https://platform.openai.com/docs/api-reference/completions, llama.cpp's tools/server/README.md
"""

import re
from collections.abc import Callable

import msgspec

from sidecar.apis.base import DONE, Api, Path, RequestBody, ended, in_order, present, reconciled
from sidecar.apis.errors import ERROR_IN_TEXT, error_word, foreign_error, is_error
from sidecar.apis.history import NOTHING, Raw
from sidecar.apis.openai_common import (
    ChoicesReader,
    SamplingRequest,
    Timings,
    Usage,
    name_answer,
    name_service,
)
from sidecar.apis.shapes import Count, Ident, Int64, Shape, Steps, Word
from sidecar.core.digests import Digester, string
from sidecar.core.echo import Prompt
from sidecar.core.facts import EventKind


class CompletionRequest(SamplingRequest, kw_only=True):
    """What is read of a request."""

    n_predict: Int64 | None = None
    """llama.cpp's name for `max_tokens`; what is below zero is no limit."""

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        asked = self.sampling()
        if self.max_tokens is None and (self.n_predict or 0) > 0:
            asked["gen_ai.request.max_tokens"] = self.n_predict
        return present(asked)


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
    index: Raw = NOTHING
    content: Raw = NOTHING
    stop: Raw = NOTHING
    stop_type: Word | None = None
    stopped_eos: Raw = NOTHING
    stopped_word: Raw = NOTHING
    """Where older servers tell `stop_type`."""
    tokens_predicted: Count | None = None
    tokens_evaluated: Count | None = None

    @property
    def alone(self) -> bool:
        """True for llama.cpp's own form: one text, beside which it says whether it is over."""
        return (
            self.choices is None and bytes(self.stop) in _SAYS and bytes(memoryview(self.content)[:1]) == b'"'
        )

    def as_choice(self) -> _Choice:
        """What llama.cpp's own form tells, as a choice. It is over by a stop, or else by its limit, as the server has it."""
        digits, reason = bytes(self.index)[:6], None
        if bytes(self.stop) == _TRUE:
            stopped = self.stop_type in _STOPPED or _TRUE in (
                bytes(self.stopped_eos),
                bytes(self.stopped_word),
            )
            reason = "stop" if stopped else "length"
        index = int(digits) if digits.isdigit() else 0
        return _Choice(index=index, text=string(memoryview(self.content)), finish_reason=reason)

    def used(self) -> dict[str, int]:
        """The counts that it tells."""
        told = self.usage or self.timings
        counts = told.tokens() if told else {}
        if self.usage is None:
            counts |= present({"input": self.tokens_evaluated, "output": self.tokens_predicted})
        return reconciled(counts, None)


class _Body(_Completion):
    answers: list[_Completion] | None = None
    """Those to several prompts."""


_LISTED = b'{"answers":'
_LIST = re.compile(rb"\s*\[\s*\{")


def _object(data: bytes) -> bytes:
    """A body as one object, also where it is a list of them."""
    return b"%b%b}" % (_LISTED, data) if _LIST.match(data) else data


_TRUE = b"true"
_SAYS = frozenset((_TRUE, b"false"))
_STOPPED = frozenset(("eos", "word"))


_COMPLETION = Shape(_Completion)
_BODY = Shape(_Body)


_OUTPUT, _NO_OUTPUT = EventKind.CHUNK, EventKind.EVENT


class CompletionReader(ChoicesReader[_Completion, _Body]):
    """Reads a text completion, streamed or whole."""

    __slots__ = ()

    event_shape = _COMPLETION
    shape = _BODY
    _one_prompt = False

    def prepare(self, data: bytes) -> Steps[None]:
        """Reads a large body in steps, so that taking it costs little."""
        return super().prepare(_object(data))

    def body(self, data: bytes) -> bool:
        """Takes the body, which may be a list of answers."""
        return super().body(_object(data))

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
        if chunk.choices is None and not chunk.alone:
            error = error or foreign_error(data)
        return kind if error is None else self._failed(error)

    def _answers(self, body: _Body, data: bytes) -> bool:
        """Takes the body."""
        if body.answers is not None:
            self._take_all(body.answers)
            if any(answer.choices for answer in body.answers):
                return True
            self.facts.error = self.facts.error or foreign_error(data[len(_LISTED) : -1])
            return False
        self._take(body, whole=True)
        return bool(body.choices) or body.alone

    def _take_all(self, answers: list[_Completion]) -> None:
        """Takes answers of which each tells its own usage: nobody knows whether they have one prompt or several."""
        choices = [[answer.as_choice()] if answer.alone else answer.choices or [] for answer in answers]
        in_order([choice for of_one in choices for choice in of_one])
        made: list[int | None] = []
        for answer, of_one in zip(answers, choices, strict=True):
            own = answer.used()
            made.append(own.get("output"))
            answer.choices, answer.usage, answer.timings = of_one, None, None
            answer.tokens_evaluated = answer.tokens_predicted = None
            self._take(answer, whole=True)
            if len(answers) == 1:
                self._tokens(own)
        outputs = [count for count in made if count is not None]
        if len(outputs) == len(answers) > 1:
            self._tokens({"output": sum(outputs)})

    def _take(self, part: _Completion, *, whole: bool = False) -> EventKind:
        """Takes the facts of a chunk or a body."""
        name_answer(self.facts, part.id, part.model)
        name_service(self.facts, None, part.system_fingerprint)
        kind = _NO_OUTPUT
        error = error_word(part.error) if is_error(part.error) else None
        choices = [part.as_choice()] if part.alone else part.choices or ()
        if len(choices) > 1:
            in_order(choices)
        for choice in choices:
            if choice.text:
                kind = _OUTPUT
                if self.facts.echo is not None and choice.finish_reason != ERROR_IN_TEXT:
                    self.facts.echo.text(choice.index, choice.text)
            failed = self._choice_ended(choice.index, choice.finish_reason, choice.error)
            error = error or failed
        if counts := part.used():
            own = part.timings is not None or part.alone
            if own and whole and len(choices) > 1:
                counts = {}  # it is of the first choice, whose prompt may be another than the others'
            self._tokens(self._so_far(counts) if own and not whole else counts)
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
    paths=(
        Path(end="/completions", operation="text_completion", turn=True, provider="openai"),
        Path(end="/completion", operation="text_completion", turn=True, provider="openai", bare=True),
        Path(end="/infill", operation="text_completion", turn=True, provider="openai", bare=True),
    ),
    request=CompletionRequest,
    stream=CompletionReader,
    body=CompletionReader,
    history=_history,
    prompts=True,
    finish_reasons="stop length content_filter",
)
