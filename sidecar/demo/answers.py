"""What the simulated provider says, in the words of three APIs.

Pure: gives bodies and stream events for one `Reply`; knows no socket, no clock and no chance.
`provider.py` decides what to say, when, and what goes wrong; it alone calls this.
"""

import json
import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

Json = dict[str, object]
"""One JSON object, as it goes out."""

ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: ("invalid_request_error", "invalid_request_error", "The body is not what this API takes."),
    404: ("invalid_request_error", "not_found_error", "The simulated provider has no such route."),
    429: ("rate_limit_error", "rate_limit_error", "Too many requests; the simulated provider is busy."),
    500: ("server_error", "api_error", "The simulated provider fell over. It does that now and then."),
}
"""Status -> error type in OpenAI's words, in Anthropic's words, and the message."""

_TEXT = (
    "a sidecar sits beside the app and every call goes through it unchanged while "
    "each session shows what ran at the same time what waited what failed and what it cost"
)
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer before it is put in an API's words. `created` is Unix seconds; tokens are counts."""

    id: str
    model: str
    created: int
    words: tuple[str, ...]
    input_tokens: int
    finish: str = "stop"

    @property
    def output_tokens(self) -> int:
        """One token per word."""
        return len(self.words)

    @property
    def text(self) -> str:
        """The whole answer."""
        return " ".join(self.words)

    def piece(self, index: int) -> str:
        """Word `index` as a stream carries it: with the space before it."""
        return self.words[index] if index == 0 else f" {self.words[index]}"


def words(count: int) -> tuple[str, ...]:
    """`count` words of filler, always the same ones."""
    return tuple(_WORDS[index % len(_WORDS)] for index in range(count))


def sse(data: Json | str, event: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {text}\n\n".encode()


class Dialect(Protocol):
    """One API: how it says a whole answer, a streamed one, and an error."""

    def body(self, reply: Reply) -> Json:
        """The whole answer."""

    def opening(self, reply: Reply) -> bytes:
        """The events before the first word."""

    def word(self, reply: Reply, index: int) -> bytes:
        """The event that carries word `index`."""

    def closing(self, reply: Reply, *, usage: bool) -> bytes:
        """The events after the last word. `usage`: the caller asked for the token counts."""

    def error(self, status: int) -> Json:
        """The body of an answer that failed."""

    def stream_error(self) -> bytes:
        """An error in the middle of a stream that began well."""


class Chat:
    """OpenAI chat completions."""

    def body(self, reply: Reply) -> Json:
        """The whole answer."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return {**self._head(reply, "chat.completion"), "choices": [choice], "usage": self._usage(reply)}

    def opening(self, reply: Reply) -> bytes:
        """A first chunk that names the role."""
        return self._chunk(reply, {"role": "assistant", "content": ""})

    def word(self, reply: Reply, index: int) -> bytes:
        """A chunk with one word."""
        return self._chunk(reply, {"content": reply.piece(index)})

    def closing(self, reply: Reply, *, usage: bool) -> bytes:
        """The finish reason, the usage if asked for, and the terminator."""
        end = self._chunk(reply, {}, reply.finish)
        if usage:
            head = self._head(reply, "chat.completion.chunk")
            end += sse({**head, "choices": [], "usage": self._usage(reply)})
        return end + sse("[DONE]")

    def error(self, status: int) -> Json:
        """OpenAI's shape: one object with message, type and code."""
        kind, _, message = ERRORS[status]
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def stream_error(self) -> bytes:
        """An error object in place of a chunk."""
        return sse(self.error(500))

    def _head(self, reply: Reply, kind: str) -> Json:
        return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": reply.created, "model": reply.model}

    def _usage(self, reply: Reply) -> Json:
        return {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }

    def _chunk(self, reply: Reply, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse({**self._head(reply, "chat.completion.chunk"), "choices": [choice]})


class Responses:
    """OpenAI responses. Its events carry running numbers, so a stream is numbered from its words."""

    _OPENING = 4

    def body(self, reply: Reply) -> Json:
        """The whole answer."""
        return self._response(reply, "completed")

    def opening(self, reply: Reply) -> bytes:
        """The response, its one message and the message's one part begin."""
        part = {"type": "output_text", "text": "", "annotations": []}
        item = {**self._item(reply), "status": "in_progress", "content": []}
        running = self._response(reply, "in_progress")
        return self._events(
            [
                ("response.created", {"response": running}),
                ("response.in_progress", {"response": running}),
                ("response.output_item.added", {"output_index": 0, "item": item}),
                ("response.content_part.added", {**self._place(reply), "part": part}),
            ],
            first=0,
        )

    def word(self, reply: Reply, index: int) -> bytes:
        """A delta with one word."""
        delta: Json = {**self._place(reply), "delta": reply.piece(index), "logprobs": []}
        return self._events([("response.output_text.delta", delta)], first=self._OPENING + index)

    def closing(self, reply: Reply, *, usage: bool) -> bytes:  # noqa: ARG002 - always told by this API
        """The part, the message and the response end, in that order."""
        part = {"type": "output_text", "text": reply.text, "annotations": []}
        status = "incomplete" if reply.finish == "length" else "completed"
        return self._events(
            [
                ("response.output_text.done", {**self._place(reply), "text": reply.text, "logprobs": []}),
                ("response.content_part.done", {**self._place(reply), "part": part}),
                ("response.output_item.done", {"output_index": 0, "item": self._item(reply)}),
                (f"response.{status}", {"response": self._response(reply, status)}),
            ],
            first=self._OPENING + reply.output_tokens,
        )

    def error(self, status: int) -> Json:
        """OpenAI's shape."""
        return Chat().error(status)

    def stream_error(self) -> bytes:
        """An `error` event."""
        kind, _, message = ERRORS[500]
        return sse({"type": "error", "code": kind, "message": message, "param": None}, "error")

    def _events(self, events: Iterable[tuple[str, Json]], first: int) -> bytes:
        return b"".join(
            sse({"type": kind, "sequence_number": number, **data}, kind)
            for number, (kind, data) in enumerate(events, first)
        )

    def _place(self, reply: Reply) -> Json:
        return {"item_id": f"msg_{reply.id}", "output_index": 0, "content_index": 0}

    def _item(self, reply: Reply) -> Json:
        content = [{"type": "output_text", "text": reply.text, "annotations": []}]
        return {
            "id": f"msg_{reply.id}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }

    def _response(self, reply: Reply, status: str) -> Json:
        done = status != "in_progress"
        usage = {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }
        return {
            "id": f"resp_{reply.id}",
            "object": "response",
            "created_at": reply.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": reply.model,
            "output": [self._item(reply)] if done else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if done else None,
        }


class Messages:
    """Anthropic messages."""

    _FINISH: Mapping[str, str] = {"stop": "end_turn", "length": "max_tokens"}

    def body(self, reply: Reply) -> Json:
        """The whole answer."""
        content: list[Json] = [{"type": "text", "text": reply.text}]
        return self._message(reply, content, self._finish(reply), reply.output_tokens)

    def opening(self, reply: Reply) -> bytes:
        """The message and its one block begin; a ping, as the real one sends."""
        text = {"type": "text", "text": ""}
        block: Json = {"type": "content_block_start", "index": 0, "content_block": text}
        start: Json = {"type": "message_start", "message": self._message(reply, [], None, 1)}
        return self._events(start, block, {"type": "ping"})

    def word(self, reply: Reply, index: int) -> bytes:
        """A delta with one word."""
        delta = {"type": "text_delta", "text": reply.piece(index)}
        return self._events({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, reply: Reply, *, usage: bool) -> bytes:  # noqa: ARG002 - always told by this API
        """The block ends, the stop reason and the usage come, the message ends."""
        delta = {"stop_reason": self._finish(reply), "stop_sequence": None}
        tokens = {"output_tokens": reply.output_tokens}
        return self._events(
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": tokens},
            {"type": "message_stop"},
        )

    def error(self, status: int) -> Json:
        """Anthropic's shape."""
        _, kind, message = ERRORS[status]
        return {"type": "error", "error": {"type": kind, "message": message}}

    def stream_error(self) -> bytes:
        """An `error` event."""
        return self._events(self.error(500))

    def _events(self, *events: Json) -> bytes:
        return b"".join(sse(data, str(data["type"])) for data in events)

    def _finish(self, reply: Reply) -> str:
        return self._FINISH.get(reply.finish, reply.finish)

    def _message(self, reply: Reply, content: list[Json], finish: str | None, output: int) -> Json:
        return {
            "id": f"msg_{reply.id}",
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "stop_reason": finish,
            "stop_sequence": None,
            "usage": {"input_tokens": reply.input_tokens, "output_tokens": output},
        }


def embeddings(model: str, inputs: int, tokens: int, *, base64: bool) -> Json:
    """The answer of the embeddings API: `inputs` vectors of four numbers, as a list or as packed floats."""
    vectors = [(0.5, -0.5, 0.25, float(index)) for index in range(inputs)]
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _packed(vector: tuple[float, ...]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
