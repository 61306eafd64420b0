"""What the modules of the APIs are made of: the record in which each ends, and the bases of requests and readers.

Owns what a record says of its API, the fields that all requests share (identity hints), and how an answer's facts are
kept. A reader fills one `ResponseFacts` and never raises: what it cannot read it counts. It keeps no prompt and no answer
text.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from sidecar.apis.errors import error_word, failure, foreign_error
from sidecar.apis.history import Past
from sidecar.apis.shapes import LARGE, Shape, Steps, Thing, UnreadableBody, Word, at_once
from sidecar.core.facts import EventKind, ResponseFacts
from sidecar.core.identity import LONGEST_TEXT
from sidecar.core.shown import ITEMS, SEEN
from sidecar.core.sse import Event

MAX_CHOICES = 128
"""Finish reasons kept per answer: the largest number of choices an API gives."""

DONE = b"[DONE]"
"""The terminator of OpenAI's streams, which gateways put behind any other as well."""

_WHOLES = {"reasoning": "output", "cache_read": "input", "cache_write": "input"}
"""Of which count each count is a part."""

_NO_REASON = "null"
"""What KoboldCpp wrote in each chunk of a choice that goes on (AIShell#350)."""

_EVENTS = re.compile(rb"\n(?:data|event|id|retry)?:")
"""Where an event stream begins behind JSON that somebody wrote ahead of it."""

_NOT_NUMBERS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|-?\b(?:NaN|Infinity)\b', re.DOTALL)
"""Texts, which stay, and what Python's JSON writes for numbers that JSON does not have.

A text that does not end is one as well: else all behind each of its quotes would be looked through anew.
"""


class EventParser(Protocol):
    """What cuts an answer's bytes into events: the SSE parser or the JSON array parser."""

    keep_alives: int

    @property
    def oversized(self) -> int:
        """Events that were too large to be read."""

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next piece; gives the events it completed."""

    def finish(self) -> list[Event]:
        """The answer has ended; gives what had not been closed."""


class StreamReader(Protocol):
    """Reads the events of one streamed answer."""

    facts: ResponseFacts

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one event; says what it means. Never raises."""


class BodyReader(Protocol):
    """Reads one whole answer."""

    facts: ResponseFacts

    def prepare(self, data: bytes) -> Steps[None]:
        """Reads a large body in steps, so that taking it costs little. Never raises."""

    def body(self, data: bytes) -> bool:
        """Takes the body; False when it is nothing of an answer of its API, nor an error. Never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One end of a path, and what a request with such a path means, whatever its prefix.

    `end` is literal (`/chat/completions`), has the id of an answer that is asked for again (`/responses/{response}`), or is
    a verb behind the model in the path (`:generateContent`), of the models of one `publisher` if it is named.
    Where it is `bare`, nothing precedes it. `operation` is `gen_ai.operation.name`, `turn` says that it generates, `provider` is who it is if neither prefix nor
    host tell, `streaming` that the path itself asks for a stream. Where it is not `read`, nothing else is known of it.
    """

    end: str
    provider: str
    method: str = "POST"
    operation: str | None = None
    turn: bool = False
    streaming: bool = False
    publisher: str = ""
    read: bool = True
    bare: bool = False

    @property
    def verb(self) -> bool:
        """True for a verb."""
        return self.end.startswith(":")

    @property
    def fetches(self) -> bool:
        """True when it has the id of an answer."""
        return "{" in self.end


ReadHistory: TypeAlias = Callable[[bytes | bytearray, "RequestBody | None"], Past | None]
"""Finds the past that a request carries: in its body, or in what was read of that as `Api.whole` if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API, whole: all that is known of it hangs on this record, in which its module ends.

    `name` is how routes name it (`openai.chat`), `title` how people do. `request` is what is read of a request's body;
    `body` and `stream` make readers of whole and streamed answers (no `stream`: there are none). `history`
    reads the past that a request carries (none: it carries none); it raises ValueError or RecursionError for what is no JSON.
    `whole` is `request` with its messages as they came, where both can be read in one go.
    `messages` is the member that holds them; `prompts` says that this past is one text, and not a list. `others` are templates
    that are known by name only, the more special ones first; an answer's id begins with `own_ids` behind any prefix.
    `finish_reasons` may become labels: words in lower case. `objects` says that what a path asks to be streamed comes as
    JSON objects if not as events.
    """

    name: str
    title: str
    paths: tuple[Path, ...]
    request: type["RequestBody"]
    body: Callable[[ResponseFacts], BodyReader]
    stream: Callable[[ResponseFacts], StreamReader] | None = None
    history: ReadHistory | None = None
    whole: type["RequestBody"] | None = None
    messages: str = ""
    prompts: bool = False
    finish_reasons: str = ""
    others: tuple[str, ...] = ()
    own_ids: str = ""
    objects: bool = False


class Metadata(msgspec.Struct):
    """The members of `metadata` that may name who is talking."""

    session_id: str | None = None
    user_id: str | None = None
    conversation_id: str | None = None
    qwen_session: str | None = msgspec.field(name="sessionId", default=None)
    qwen_prompt: str | None = msgspec.field(name="promptId", default=None)


class ConversationRef(msgspec.Struct):
    """A conversation given as an object."""

    id: str | None = None


class RequestBody(msgspec.Struct, kw_only=True):
    """What is read of any JSON request: the fields that may name its session. APIs add their own."""

    session_id: str | None = None
    litellm_session_id: str | None = None
    litellm_trace_id: str | None = None
    prompt_cache_key: str | None = None
    metadata: Metadata | None = None
    conversation: str | ConversationRef | None = None
    previous_response_id: str | None = None

    def hints(self) -> dict[str, str]:
        """The identity fields that are there, by dotted path; as much of each as identity looks at."""
        metadata, conversation = self.metadata, self.conversation
        hints = {
            "session_id": self.session_id,
            "litellm_session_id": self.litellm_session_id,
            "litellm_trace_id": self.litellm_trace_id,
            "prompt_cache_key": self.prompt_cache_key,
            "previous_response_id": self.previous_response_id,
        }
        if metadata is not None:
            hints["metadata.session_id"] = metadata.session_id
            hints["metadata.user_id"] = metadata.user_id
            hints["metadata.conversation_id"] = metadata.conversation_id
            hints["metadata.sessionId"] = metadata.qwen_session
            hints["metadata.promptId"] = metadata.qwen_prompt
        if conversation is not None:
            hints["conversation"] = (
                conversation.id if isinstance(conversation, ConversationRef) else conversation
            )
        return {path: text[:LONGEST_TEXT] for path, text in hints.items() if text is not None}

    def asked_model(self) -> str | None:
        """The model the body names."""
        return None

    def asks_stream(self) -> bool:
        """True when the body asks for a stream."""
        return False

    def asks_store(self) -> bool:
        """True when the body asks that the answer be kept."""
        return False

    def message_count(self) -> int | None:
        """How many messages it carries, where the API has messages."""
        return None

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return {}


class ModelRequest(RequestBody, kw_only=True):
    """A request that names a model in its body and may ask for a stream."""

    model: Word | None = None
    stream: bool | None = None

    def asked_model(self) -> str | None:
        """The model the body names."""
        return self.model or None

    def asks_stream(self) -> bool:
        """True when the body asks for a stream."""
        return self.stream is True


V = TypeVar("V")


def present(values: Mapping[str, V | None]) -> dict[str, V]:
    """The members that are there."""
    return {name: value for name, value in values.items() if value is not None}


def within_bounds(attributes: Mapping[str, object]) -> dict[str, object]:
    """The same with no more of texts and lists than is shown of them: it is kept when the body is long gone."""
    return {name: _part(value) for name, value in attributes.items()}


def _part(value: object) -> object:
    if isinstance(value, str):
        return value[:SEEN]
    return [str(item)[:SEEN] for item in value[:ITEMS]] if isinstance(value, list) else value


def several(count: int | None) -> int | None:
    """`gen_ai.request.choice.count` is told only where it is not 1."""
    return None if count == 1 else count


def tier(name: str | None) -> str | None:
    """`openai.request.service_tier` is told only where it is not `auto`."""
    return None if name == "auto" else name


def counted(messages: list[Thing] | None) -> int | None:
    """The number of messages, if there is a list of them."""
    return None if messages is None else len(messages)


def both(count: int | None, more: int | None) -> int | None:
    """Both counts together; None when neither is told."""
    return more if count is None else count + (more or 0)


def holds(items: msgspec.Raw) -> bool:
    """True for a list that is not empty, however long it is."""
    return bytes(memoryview(items)[:1]) == b"[" and bytes(memoryview(items)[1:2]) != b"]"


def reconciled(told: dict[str, int], total: int | None) -> dict[str, int]:
    """The counts that were told, with no part larger than its whole; they are changed in place.

    Some providers count a part beside its whole (xAI: reasoning beside completion tokens). Only the total
    proves it: where it exceeds input and output by exactly one choice of the parts, those are added. A part
    that is larger than its whole all the same is left out.
    """
    if total is not None and "input" in told and "output" in told:
        beside = total - told["input"] - told["output"]
        if beside > 0:
            _add_beside(told, beside)
    for part, whole in _WHOLES.items():
        count = told.get(part)
        if count and count > told.get(whole, count):
            del told[part]
    return told


def _add_beside(told: dict[str, int], beside: int) -> None:
    """Adds the parts that come to `beside` to their wholes, if one choice of them does."""
    parts = [part for part in _WHOLES if told.get(part)]
    chosen = (some for size in range(1, 4) for some in combinations(parts, size))
    fitting = [some for some in chosen if sum(told[part] for part in some) == beside]
    for part in fitting[0] if len(fitting) == 1 else ():
        told[_WHOLES[part]] += told[part]


class Numbered(Protocol):
    """One of an answer's choices."""

    index: int


def in_order(choices: Sequence[Numbered]) -> None:
    """Numbers the choices of a list in which none has a number, or all have 0."""
    if not any(choice.index for choice in choices):
        for at, choice in enumerate(choices):
            choice.index = at


def ended(facts: ResponseFacts) -> EventKind:
    """The API's own terminator has come."""
    facts.ended = True
    return EventKind.END


T = TypeVar("T", bound=msgspec.Struct)
E = TypeVar("E", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)


class Reader(ABC, Generic[E, B]):
    """Keeps what an answer says in its facts: `event_shape` is what is read of each event, `shape` of a whole body."""

    __slots__ = ("_choices", "_decode", "_prepared", "facts")

    event_shape: Shape[E]
    shape: Shape[B]

    def __init__(self, facts: ResponseFacts) -> None:
        self.facts = facts
        self._decode: Callable[[bytes], E] = self.event_shape.decode
        self._choices: list[int] = []
        self._prepared: tuple[B | None] | None = None

    def prepare(self, data: bytes) -> Steps[None]:
        """Reads a large body in steps, so that taking it costs little."""
        self._prepared = ((yield from self._in_steps(self.shape, data)),)

    def body(self, data: bytes) -> bool:
        """Takes the body; False when it is nothing of an answer of its API, nor an error of any family."""
        try:
            body = self.shape.decode(data) if self._prepared is None else self._prepared[0]
        except (ValueError, RecursionError):
            if len(data) <= LARGE:
                data = _EVENTS.split(data, 1)[0]
            body = at_once(self._in_steps(self.shape, data))  # as much of it as fits
        if body is None:
            return False
        facts = self.facts
        if self._answers(body, data) or facts.error or facts.finish_reasons:
            return True
        facts.error = foreign_error(data)
        return facts.error is not None or any(facts.tokens.values())

    @abstractmethod
    def _answers(self, body: B, data: bytes) -> bool:
        """Takes the facts of a whole body, whose bytes are `data`; True when something of an answer is there."""

    def _event(self, data: bytes) -> E | None:
        """An event, or as much of it as fits."""
        try:
            return self._decode(data)
        except (ValueError, RecursionError):
            return self._salvage(data)

    def _salvage(self, data: bytes) -> E | None:
        """What fits of an event that is not as its API says; what does not is counted as unreadable."""
        return at_once(self._in_steps(self.event_shape, data))

    def _in_steps(self, shape: Shape[T], data: bytes) -> Steps[T | None]:
        try:
            found, ignored = yield from shape.salvage(_mended(data))
        except UnreadableBody:
            self.facts.unreadable += 1
            return None
        self.facts.unreadable += bool(ignored)
        return found

    def _unread(self, name: bytes, data: bytes) -> EventKind:
        """An event that could not be read: an error if its name says so."""
        return self._failed(error_word(data)) if name == b"error" else EventKind.EVENT

    def _done(self) -> EventKind:
        """Another API's terminator: the end if the answer has told why it ended, else it may have been cut before."""
        return ended(self.facts) if self.facts.finish_reasons else EventKind.EVENT

    def _failed(self, word: str) -> EventKind:
        """An error has come."""
        self.facts.error = word
        return EventKind.ERROR

    def _choice_ended(self, choice: int, reason: str | None, error: msgspec.Raw) -> str | None:
        """Notes why a choice ended; gives the error when that was a failure."""
        if reason and reason != _NO_REASON:
            self._finish(choice, reason)
        return failure(reason, error)

    def _finish(self, choice: int, reason: str) -> None:
        """Notes why a choice ended; the reasons stand in the order of the choices."""
        choices, reasons = self._choices, self.facts.finish_reasons
        if not choices:
            choices.append(choice)
            reasons.append(reason)
            return
        at = bisect_left(choices, choice)
        if at < len(choices) and choices[at] == choice:
            reasons[at] = reason
        elif len(choices) < MAX_CHOICES:
            choices.insert(at, choice)
            reasons.insert(at, reason)

    def _tokens(self, counts: Mapping[str, int]) -> None:
        """Notes token counts. They are cumulative: no later report, which may be a placeholder, lowers them."""
        tokens = self.facts.tokens
        if not tokens:
            tokens.update(counts)
            return
        for name, count in counts.items():
            if count >= tokens.get(name, 0):
                tokens[name] = count


def _mended(data: bytes) -> bytes:
    """The same with what is not UTF-8 replaced, and null for what is not a number in JSON, unless it is large."""
    if len(data) > LARGE:
        return data
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    if b"NaN" in data or b"Infinity" in data:
        data = _NOT_NUMBERS.sub(lambda found: found[0] if found[0][:1] == b'"' else b"null", data)
    return data
