"""Requests and answers of chat APIs as clients and providers write them, and the memory that they are shown to."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from sidecar import apis
from sidecar.core.clock import SECOND
from sidecar.core.digests import Digester, History
from sidecar.core.echo import Echo, Prompt
from sidecar.core.facts import ResponseFacts, Route
from sidecar.core.histories import Histories
from sidecar.core.identity import Identity, Source
from sidecar.core.threads import Past, Place, placed

COMPLETIONS = "openai.completions"
CHAT, RESPONSES, MESSAGES, GEMINI = (
    "openai.chat",
    "openai.responses",
    "anthropic.messages",
    "gemini.generate_content",
)

WAITS = 1800 * SECOND
"""How long a call waits for its sub-agent where nobody is told that its conversation has ended."""

Call = tuple[str, str, str]
"""A call's id, the tool's name, its arguments as JSON."""


@dataclass
class Answer:
    """What a model says: a text, calls, thinking with its signature, and the ids of a response and its items."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    thought: str = ""
    signature: str = ""
    response: str = ""


def _pieces(text: str, size: int) -> Iterator[str]:
    yield from (text[at : at + size] for at in range(0, len(text), size))


def _chat(answer: Answer, size: int) -> Iterator[object]:
    for piece in _pieces(answer.text, size):
        yield {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": {"content": piece}}]}
    for at, (made, name, arguments) in enumerate(answer.calls):
        first = {"index": at, "id": made, "function": {"name": name, "arguments": ""}}
        yield {"choices": [{"index": 0, "delta": {"tool_calls": [first]}}]}
        for piece in _pieces(arguments, size):
            yield {
                "choices": [
                    {"index": 0, "delta": {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}}
                ]
            }
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if answer.calls else "stop"}]}


def _responses(answer: Answer, size: int) -> Iterator[object]:
    yield {"type": "response.created", "response": {"id": answer.response or "resp_none"}}
    if answer.thought:
        item = {"type": "reasoning", "id": f"rs_{answer.thought}", "encrypted_content": answer.signature}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    if answer.text:
        for piece in _pieces(answer.text, size):
            yield {"type": "response.output_text.delta", "output_index": 1, "delta": piece}
        yield {
            "type": "response.output_item.done",
            "item": {"type": "message", "id": f"msg_{answer.response}"},
        }
    for made, name, arguments in answer.calls:
        item = {"type": "function_call", "call_id": made, "name": name, "arguments": arguments}
        yield {"type": "response.output_item.done", "item": item}
    yield {"type": "response.completed", "response": {"id": answer.response, "status": "completed"}}


def _messages(answer: Answer, size: int) -> Iterator[object]:
    yield {"type": "message_start", "message": {"id": "msg_1", "model": "m"}}
    at = count()
    if answer.signature:
        yield {"type": "content_block_start", "index": next(at), "content_block": {"type": "thinking"}}
        yield {
            "type": "content_block_delta",
            "delta": {"type": "signature_delta", "signature": answer.signature},
        }
    if answer.text:
        yield {
            "type": "content_block_start",
            "index": next(at),
            "content_block": {"type": "text", "text": ""},
        }
        for piece in _pieces(answer.text, size):
            yield {"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}}
    for made, name, arguments in answer.calls:
        index = next(at)
        block = {"type": "tool_use", "id": made, "name": name, "input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for piece in _pieces(arguments, size):
            delta = {"type": "input_json_delta", "partial_json": piece}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    yield {"type": "message_stop"}


def _completion(answer: Answer, size: int) -> Iterator[object]:
    for piece in _pieces(answer.text, size):
        yield {"id": "cmpl-1", "model": "m", "choices": [{"index": 0, "text": piece}]}
    yield {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}


def _called(made: str, name: str, arguments: str) -> dict[str, object]:
    """A call as Gemini writes it, which may have no id."""
    called = {"name": name, "args": json.loads(arguments)}
    return {"id": made, **called} if made else called


def _gemini(answer: Answer, size: int) -> Iterator[object]:
    for piece in _pieces(answer.text, size):
        yield {"candidates": [{"content": {"role": "model", "parts": [{"text": piece}]}}]}
    for made, name, arguments in answer.calls:
        part: dict[str, object] = {"functionCall": _called(made, name, arguments)}
        if answer.signature:
            part["thoughtSignature"] = answer.signature
        yield {"candidates": [{"content": {"role": "model", "parts": [part]}}]}
    yield {"candidates": [{"finishReason": "STOP"}]}


_EVENTS = {COMPLETIONS: _completion, CHAT: _chat, RESPONSES: _responses, MESSAGES: _messages, GEMINI: _gemini}


PATHS = {
    COMPLETIONS: "/v1/completions",
    CHAT: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    MESSAGES: "/v1/messages",
    GEMINI: "/v1beta/models/g:generateContent",
}


def events_of(api: str, answer: Answer, size: int = 7) -> list[object]:
    """The events in which an answer streams, its text in pieces of so many characters."""
    return [*_EVENTS[api](answer, size)]


def body_of(api: str, answer: Answer) -> object:
    """The answer as one body."""
    return _BODIES[api](answer)


def request_of(
    api: str, messages: Sequence[object], *, stream: bool = False, **more: object
) -> dict[str, object]:
    """A request with these messages; an answer among them stands as the API's clients send it back."""
    body: dict[str, object] = {**more}
    if api == GEMINI:
        return body | {"contents": [_gemini_said(message) for message in messages]}
    body |= {"model": "m", "stream": stream}
    if api == RESPONSES:
        said: list[object] = []
        for message in messages:
            said += _output(message) if isinstance(message, Answer) else [message]
        return body | {"input": said}
    written = _chat_message if api == CHAT else _message_said
    said = [written(message) if isinstance(message, Answer) else message for message in messages]
    return body | {"messages": said}


def _message_said(answer: Answer) -> object:
    return {"role": "assistant", "content": _content(answer)}


def _gemini_said(message: Any) -> object:
    if isinstance(message, Answer):
        return {"role": "model", "parts": _parts(message)}
    return {"role": message["role"], "parts": message.get("parts", [{"text": message.get("content")}])}


def stream(api: str, answer: Answer, facts: ResponseFacts, size: int = 7, most: int | None = None) -> None:
    """Reads the answer as a stream of small pieces, or the first `most` events of it."""
    reader = apis.stream_reader(Route("", api), facts)
    assert reader is not None
    for event in events_of(api, answer, size)[:most]:
        reader.event(b"", msgspec.json.encode(event))


def whole(api: str, answer: Answer, facts: ResponseFacts) -> None:
    """Reads the answer as one body."""
    reader = apis.body_reader(Route("", api), facts)
    assert reader is not None
    assert reader.body(json.dumps(_BODIES[api](answer)).encode())


def _chat_message(answer: Answer) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": answer.text or None}
    if answer.calls:
        message["tool_calls"] = [
            {"id": made, "type": "function", "function": {"name": name, "arguments": arguments}}
            for made, name, arguments in answer.calls
        ]
    return message


def _chat_body(answer: Answer) -> object:
    choice = {"index": 0, "message": _chat_message(answer), "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "choices": [choice]}


def _output(answer: Answer) -> list[object]:
    output: list[object] = []
    if answer.thought:
        thought = {"type": "reasoning", "id": f"rs_{answer.thought}", "encrypted_content": answer.signature}
        output.append(thought)
    if answer.text:
        content = [{"type": "output_text", "text": answer.text}]
        made = f"msg_{answer.response}"
        output.append({"type": "message", "role": "assistant", "id": made, "content": content})
    output += [
        {"type": "function_call", "call_id": made, "name": name, "arguments": arguments}
        for made, name, arguments in answer.calls
    ]
    return output


def _response_body(answer: Answer) -> object:
    return {"id": answer.response, "status": "completed", "output": _output(answer)}


def _content(answer: Answer) -> list[object]:
    content: list[object] = []
    if answer.signature:
        content.append({"type": "thinking", "thinking": answer.thought, "signature": answer.signature})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += [
        {"type": "tool_use", "id": made, "name": name, "input": json.loads(arguments)}
        for made, name, arguments in answer.calls
    ]
    return content


def _message_body(answer: Answer) -> object:
    return {"type": "message", "id": "msg_1", "content": _content(answer), "stop_reason": "end_turn"}


def _parts(answer: Answer) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = [{"text": answer.text}] if answer.text else []
    for made, name, arguments in answer.calls:
        parts.append({"functionCall": _called(made, name, arguments)})
        if answer.signature:
            parts[-1]["thoughtSignature"] = answer.signature
    return parts


def _gemini_body(answer: Answer) -> object:
    content = {"role": "model", "parts": _parts(answer)}
    return {"candidates": [{"content": content, "finishReason": "STOP"}]}


def _completion_body(answer: Answer) -> object:
    return {"id": "cmpl-1", "choices": [{"index": 0, "text": answer.text, "finish_reason": "stop"}]}


_BODIES = {
    COMPLETIONS: _completion_body,
    CHAT: _chat_body,
    RESPONSES: _response_body,
    MESSAGES: _message_body,
    GEMINI: _gemini_body,
}


@dataclass
class Shown:
    """A request that the memory was shown: what it was found to be, and what is remembered of it."""

    place: Place
    past: Past
    session: str
    facts: ResponseFacts
    identity: Identity

    @property
    def lane(self) -> str:
        """Its conversation."""
        return self.identity.conversation_id


class Memory:
    """A memory, and requests shown to it as the relay does."""

    def __init__(self, limit: int = 20_000) -> None:
        self.anomalies: list[str] = []
        self.digester = Digester(b"a key of some bytes")
        self.now = 0
        """When what comes next comes, ns."""
        self.histories = Histories(limit, self.anomalies.append, self._orphaned, WAITS)
        self.orphans = 0
        self._number = count(1)

    def _orphaned(self) -> None:
        self.orphans += 1

    def history(self, api: str, body: object) -> History | None:
        """What is read of a body's past."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        steps = apis.request_steps(Route("", api, turn=True), data, (), self.digester)
        return apis.at_once(steps).history

    def ask(
        self, api: str, body: object, session: str | None = None, identity: Identity | None = None
    ) -> Shown:
        """A request comes, of a session that is named or not, or of an identity that was found."""
        history = self.history(api, body)
        assert history is not None
        number = next(self._number)
        if identity is None:
            source = Source.GENERATED if session is None else Source.KNOWN_HEADER
            named = session or f"made-up-{number}"
            identity = Identity(named, source, session_supplied=session is not None)
        place = self.histories.recognise(history, identity, self.now)
        identity = placed(identity, place)
        prompt = history.begun if isinstance(history, Prompt) else None
        facts = ResponseFacts(echo=(echo := Echo(self.digester, prompt, history.prefill)))
        ref = number.to_bytes(24, "big")
        past = self.histories.remember(
            place,
            history,
            ref,
            echo,
            identity,
        )
        history.forget()
        return Shown(place, past, identity.session_id, facts, identity)

    def answer(self, api: str, shown: Shown, answer: Answer, *, streamed: bool = True) -> None:
        """Its whole answer passes."""
        (stream if streamed else whole)(api, answer, shown.facts)
        self.end(shown)

    def end(self, shown: Shown, *, complete: bool = True) -> None:
        """Its answer has ended."""
        self.histories.answered(shown.past, whole=complete, at=self.now)
