"""What the scripted provider says to the clients, in the words of the three APIs they speak."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.testing import (
    Chunk,
    LastChunk,
    Script,
    Wait,
    answer,
    chat_chunk,
    chat_completion,
    sse_event,
    sse_head,
)
from sidecar.testing.steps import Gate

QUESTION = "Add 1 and 2."
TEXT = "Hello"
PIECES = ("Hel", "lo")
TOOL = "add"
ARGUMENTS = {"a": 1, "b": 2}


@dataclass(frozen=True, slots=True)
class Api:
    """One API: whole answers, the events of streams, errors, and what is told of the call (`gen_ai.*`)."""

    name: str
    model: str
    plain: Mapping[str, Any]
    events: Sequence[bytes]
    tool: Mapping[str, Any]
    tool_events: Sequence[bytes]
    limited: Mapping[str, Any]
    broken: Mapping[str, Any]
    facts: Mapping[str, object]
    finish: str
    tool_finish: str

    def rejection(self, status: int) -> Script:
        """An answer that the client may try again, at once."""
        body = json.dumps(self.limited if status == 429 else self.broken).encode()
        headers = (b"Content-Type: application/json", b"retry-after-ms: 1", b"Retry-After: 0")
        return answer(body, status=status, reason=b"No", headers=headers)


def whole(value: Mapping[str, Any], *, packed: bool = False) -> tuple[Script, bytes]:
    """A whole JSON answer, and the payload that it has on the wire."""
    body = json.dumps(value).encode()
    lines = [b"Content-Type: application/json", b"X-Request-Id: req_1", b"X-Odd-CASE: kept"]
    if packed:
        body = gzip.compress(body)
        lines.append(b"Content-Encoding: gzip")
    return answer(body, headers=lines), body


def streamed(events: Sequence[bytes], *, packed: bool = False) -> tuple[Script, bytes]:
    """A whole stream, one chunk per event, and its payload."""
    lines = [b"X-Request-Id: req_1"]
    pieces = list(events)
    if packed:
        lines.append(b"Content-Encoding: gzip")
        packer = zlib.compressobj(wbits=31)
        pieces = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events[:-1]]
        # Clients stop reading at the last event, so the end of the packing comes with it.
        pieces.append(packer.compress(events[-1]) + packer.flush())
    return (*sse_head(lines), *(Chunk(piece) for piece in pieces), LastChunk()), b"".join(pieces)


def held(events: Sequence[bytes], gate: Gate) -> tuple[Script, bytes]:
    """A stream that stops after its first event, until the gate opens; and that event."""
    return (*sse_head(), Chunk(events[0]), Wait(gate)), events[0]


def _chat() -> Api:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": TOOL, "arguments": json.dumps(ARGUMENTS)},
    }
    tool = chat_completion()
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    tool["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    first, last = chat_chunk(), chat_chunk()
    arguments = json.dumps(ARGUMENTS)
    for chunk, function in (
        (first, {"name": TOOL, "arguments": ""}),
        (last, {"arguments": arguments}),
    ):
        begun = {"id": "call_1", "type": "function"} if chunk is first else {}
        delta = {"tool_calls": [{"index": 0, **begun, "function": function}]}
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    end = [sse_event(chat_chunk(usage=usage)), b"data: [DONE]\n\n"]
    return Api(
        name="chat",
        model="gpt-4o",
        plain=chat_completion(TEXT),
        events=[
            *(sse_event(chat_chunk(piece)) for piece in PIECES),
            sse_event(chat_chunk(finish_reason="stop")),
            *end,
        ],
        tool=tool,
        tool_events=[
            sse_event(first),
            sse_event(last),
            sse_event(chat_chunk(finish_reason="tool_calls")),
            *end,
        ],
        limited={
            "error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
        },
        broken={"error": {"message": "sorry", "type": "server_error", "code": None}},
        facts={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.model": "gpt-4o",
        },
        finish="stop",
        tool_finish="tool_calls",
    )


def _message(content: Sequence[Mapping[str, Any]], stop: str | None, written: int) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": written},
    }


def _message_events(block: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]], stop: str) -> list[bytes]:
    def event(kind: str, **more: Any) -> bytes:
        return sse_event({"type": kind, **more}, event=kind)

    return [
        event("message_start", message=_message([], None, 1))
        + event("content_block_start", index=0, content_block=block)
        + event("content_block_delta", index=0, delta=deltas[0]),
        event("ping"),
        *(event("content_block_delta", index=0, delta=delta) for delta in deltas[1:]),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": stop, "stop_sequence": None},
            usage={"output_tokens": 7},
        ),
        event("message_stop"),
    ]


def _messages() -> Api:
    called = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": ARGUMENTS}
    arguments = json.dumps(ARGUMENTS)
    return Api(
        name="messages",
        model="claude-sonnet-5",
        plain=_message([{"type": "text", "text": TEXT}], "end_turn", 7),
        events=_message_events(
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": piece} for piece in PIECES],
            "end_turn",
        ),
        tool=_message([called], "tool_use", 7),
        tool_events=_message_events(
            {**called, "input": {}},
            [{"type": "input_json_delta", "partial_json": part} for part in (arguments[:5], arguments[5:])],
            "tool_use",
        ),
        limited={"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
        broken={"type": "error", "error": {"type": "api_error", "message": "sorry"}},
        facts={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-sonnet-5",
            "gen_ai.request.max_tokens": 100,
            "gen_ai.response.id": "msg_1",
            "gen_ai.response.model": "claude-sonnet-5",
        },
        finish="end_turn",
        tool_finish="tool_use",
    )


def _gemini() -> Api:
    def said(*parts: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        return {
            "candidates": [candidate],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 12},
            "modelVersion": "gemini-2.5-flash",
            "responseId": "resp_1",
        }

    called = {"functionCall": {"name": TOOL, "args": ARGUMENTS}}

    def error(code: int, status: str, message: str) -> dict[str, Any]:
        return {"error": {"code": code, "message": message, "status": status}}

    first, last = PIECES
    return Api(
        name="gemini",
        model="gemini-2.5-flash",
        plain=said({"text": TEXT}, finish="STOP"),
        events=[sse_event(said({"text": first})), sse_event(said({"text": last}, finish="STOP"))],
        tool=said(called, finish="STOP"),
        tool_events=[sse_event(said(called)), sse_event(said({"text": ""}, finish="STOP"))],
        limited=error(429, "RESOURCE_EXHAUSTED", "slow down"),
        broken=error(500, "INTERNAL", "sorry"),
        facts={
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.request.model": "gemini-2.5-flash",
            "gen_ai.response.id": "resp_1",
            "gen_ai.response.model": "gemini-2.5-flash",
        },
        finish="STOP",
        tool_finish="STOP",
    )


CHAT, MESSAGES, GEMINI = _chat(), _messages(), _gemini()
