"""Which reader reads which answer.

Owns the choice only: by the route's API for what an answer means, by its content type for how its bytes
are cut into events. Routes that are not read in depth have no reader.
"""

from collections.abc import Callable

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


def event_parser(route: Route, content_type: str | None, *, rejected: bool = False) -> EventParser | None:
    """What cuts this answer into events, None when it is no stream.

    An event stream is one on any route; JSON is one where Gemini was asked to stream, unless it says why it did not
    (`rejected`: a status of 400 or more).
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return SseParser()
    streamed = route.streaming and route.api == "gemini.generate_content" and not rejected
    if kind == "application/json" and streamed:
        return JsonArrayParser()
    return None
