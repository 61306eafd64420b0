"""What every API's readers have in common: what a request tells, and how an answer's facts are kept.

Owns the shapes that all requests share (identity hints) and the base of the readers. A reader fills one
`ResponseFacts` and never raises: what it cannot read it counts. It keeps no prompt and no answer text.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from sidecar.apis.decode import Shape, Thing, Word
from sidecar.apis.errors import UNKNOWN_ERROR
from sidecar.apis.salvage import Steps, UnreadableBody, at_once
from sidecar.core.facts import EventKind, ResponseFacts
from sidecar.core.sse import Event

MAX_CHOICES = 128
"""Finish reasons kept per answer: the largest number of choices an API gives."""


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

    def body(self, data: bytes) -> None:
        """Takes the body. Never raises."""


class Metadata(msgspec.Struct):
    """The members of `metadata` that may name who is talking."""

    session_id: str | None = None
    user_id: str | None = None
    conversation_id: str | None = None


class ConversationRef(msgspec.Struct):
    """A conversation given as an object."""

    id: str | None = None


class RequestBody(msgspec.Struct, kw_only=True):
    """What is read of any JSON request: the fields that may name its session. APIs add their own."""

    session_id: str | None = None
    litellm_session_id: str | None = None
    metadata: Metadata | None = None
    conversation: str | ConversationRef | None = None
    previous_response_id: str | None = None

    def hints(self) -> dict[str, str]:
        """The identity fields that are there, by dotted path."""
        metadata, conversation = self.metadata, self.conversation
        hints = {
            "session_id": self.session_id,
            "litellm_session_id": self.litellm_session_id,
            "previous_response_id": self.previous_response_id,
        }
        if metadata is not None:
            hints["metadata.session_id"] = metadata.session_id
            hints["metadata.user_id"] = metadata.user_id
            hints["metadata.conversation_id"] = metadata.conversation_id
        if conversation is not None:
            hints["conversation"] = (
                conversation.id if isinstance(conversation, ConversationRef) else conversation
            )
        return present(hints)

    def asked_model(self) -> str | None:
        """The model the body names."""
        return None

    def asks_stream(self) -> bool:
        """True when the body asks for a stream."""
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


def several(count: int | None) -> int | None:
    """`gen_ai.request.choice.count` is told only where it is not 1."""
    return None if count == 1 else count


def tier(name: str | None) -> str | None:
    """`openai.request.service_tier` is told only where it is not `auto`."""
    return None if name == "auto" else name


def counted(messages: list[Thing] | None) -> int | None:
    """The number of messages, if there is a list of them."""
    return None if messages is None else len(messages)


T = TypeVar("T", bound=msgspec.Struct)


class Reader(Generic[T]):
    """Keeps what an answer says in its facts. `shape` is what is read of each chunk or body."""

    __slots__ = ("_choices", "_prepared", "_shape", "facts")

    def __init__(self, shape: Shape[T], facts: ResponseFacts) -> None:
        self.facts = facts
        self._shape = shape
        self._choices: list[int] = []
        self._prepared: tuple[T | None] | None = None

    def prepare(self, data: bytes) -> Steps[None]:
        """Reads a large body in steps, so that taking it costs little."""
        self._prepared = ((yield from self._in_steps(data)),)

    def _salvage(self, data: bytes) -> T | None:
        """What fits of something that is not as its API says; what does not is counted as unreadable."""
        return at_once(self._in_steps(data))

    def _in_steps(self, data: bytes) -> Steps[T | None]:
        try:
            found, ignored = yield from self._shape.salvage(data)
        except UnreadableBody:
            self.facts.unreadable += 1
            return None
        self.facts.unreadable += bool(ignored)
        return found

    def _unread(self, name: bytes) -> EventKind:
        """What an event is that could not be read: by its name it may be an error."""
        if name != b"error":
            return EventKind.EVENT
        self.facts.error = UNKNOWN_ERROR
        return EventKind.ERROR

    def _read(self, data: bytes) -> T | None:
        """A whole body, or as much of it as fits."""
        if self._prepared is not None:
            return self._prepared[0]
        try:
            return self._shape.decode(data)
        except (ValueError, RecursionError):
            return self._salvage(data)

    def _finish(self, choice: int, reason: str) -> None:
        """Notes why a choice ended; the reasons stand in the order of the choices."""
        choices, reasons = self._choices, self.facts.finish_reasons
        at = bisect_left(choices, choice)
        if at < len(choices) and choices[at] == choice:
            reasons[at] = reason
        elif len(choices) < MAX_CHOICES:
            choices.insert(at, choice)
            reasons.insert(at, reason)

    def _tokens(self, **counts: int | None) -> None:
        """Notes token counts; later reports replace earlier ones, and what is not told stays."""
        self.facts.tokens.update(present(counts))
