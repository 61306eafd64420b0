"""Which reader reads which answer.

Owns the choice only: by the route's API for what an answer means, by its content type for how its bytes
are cut into events. Routes that are not read in depth have no reader.
"""

import re
from collections.abc import Callable
from enum import Enum

from sidecar.apis.anthropic_messages import MessagesBody, MessagesStream
from sidecar.apis.base import BodyReader, EventParser, StreamReader
from sidecar.apis.gemini import GenerateReader
from sidecar.apis.json_array import JsonArrayParser
from sidecar.apis.openai_chat import ChatBody, ChatStream
from sidecar.apis.openai_completions import CompletionReader
from sidecar.apis.openai_embeddings import EmbeddingsBody
from sidecar.apis.openai_responses import ResponsesBody, ResponsesStream
from sidecar.core.facts import ResponseFacts, Route
from sidecar.core.sse import SseParser

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""What an event stream begins with."""

_OBJECT_TYPES = frozenset(
    f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonlines", "jsonlines", "json-seq")
)
"""Types of one JSON object on each line."""

_TYPE = re.compile(rb'\s*\{\s*("type"\s*:\s*"[\w.]{1,100}")\s*[,}]')

_STREAMS: dict[str, Callable[[ResponseFacts], StreamReader]] = {
    "openai.chat": ChatStream,
    "openai.completions": CompletionReader,
    "openai.responses": ResponsesStream,
    "anthropic.messages": MessagesStream,
    "gemini.generate_content": GenerateReader,
}
_BODIES: dict[str, Callable[[ResponseFacts], BodyReader]] = {
    "openai.chat": ChatBody,
    "openai.completions": CompletionReader,
    "openai.responses": ResponsesBody,
    "openai.embeddings": EmbeddingsBody,
    "anthropic.messages": MessagesBody,
    "gemini.generate_content": GenerateReader,
}


def stream_reader(route: Route, facts: ResponseFacts) -> StreamReader | None:
    """A reader for the events of a streamed answer, None when the route's streams are not read."""
    make = _STREAMS.get(route.api or "")
    return None if make is None else make(facts)


def body_reader(route: Route, facts: ResponseFacts) -> BodyReader | None:
    """A reader for a whole answer, None when the route's answers are not read."""
    make = _BODIES.get(route.api or "")
    return None if make is None else make(facts)


class Form(Enum):
    """How an answer's bytes are cut into what is read."""

    EVENTS = "events"
    """Server-sent events."""
    OBJECTS = "objects"
    """JSON objects, in an array or one after another."""
    WHOLE = "whole"
    """Its whole body at once, or not at all."""


def streams_are_read(route: Route) -> bool:
    """True when the events of the route's streams are read, so that its first bytes matter more than its type."""
    return route.api in _STREAMS


def undecided(start: bytes) -> bool:
    """True while the first bytes of an answer, blanks left out, do not say what it is."""
    return any(field.startswith(start) and field != start for field in _FIELDS)


def form(route: Route, content_type: str | None, start: bytes = b"", *, rejected: bool = False) -> Form:
    """What an answer is, by its type, and by its first bytes (blanks left out) where its route is read in depth.

    An event stream is one on any route. Objects are a stream where Gemini was asked for one, unless the answer says why
    there is none (`rejected`: a status of 400 or more), and where the type says that there is one on each line.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    read = streams_are_read(route)
    array = route.streaming and route.api == "gemini.generate_content"
    objects = read and not rejected and (array or kind in _OBJECT_TYPES)
    if read and start.startswith(_FIELDS):
        return Form.EVENTS
    if read and start.startswith((b"{", b"[")):
        return Form.OBJECTS if objects else Form.WHOLE
    if kind == "text/event-stream":
        return Form.EVENTS
    return Form.OBJECTS if objects and kind in _OBJECT_TYPES | {"application/json"} else Form.WHOLE


def event_parser(form: Form, limit: int, room: Callable[[int], bool]) -> EventParser:
    """What cuts an answer of this form into events of `limit` bytes at most; it asks `room` for memory."""
    make = SseParser if form is Form.EVENTS else JsonArrayParser
    return make(limit, gist=_gist, room=room)


def _gist(head: bytes) -> bytes:
    """What the beginning of an event that is too large tells for certain: its type, where that comes first."""
    found = _TYPE.match(head)
    return b"{" + found[1] + b"}" if found else b"{}"
