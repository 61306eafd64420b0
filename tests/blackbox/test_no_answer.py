"""A good status that is no success: errors wherever they stand, and turns without an answer.

Owns what the client gets, what the spans call it, and that other facts of the same answer are told.
"""

import json
from typing import Any
from uuid import uuid4

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream, Span, answer, exchange, request_bytes

DONE = b"data: [DONE]\n\n"
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, GEMINI = "/v1/messages", "/v1beta/models/vertex/gemini-2.5-flash:streamGenerateContent?alt=sse"
OUTPUT = {
    CHAT: b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    TEXT: b'data: {"id":"x","choices":[{"index":0,"text":"Hi"}]}\n\n',
    RESPONSES: b'data: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
    MESSAGES: b'data: {"type":"content_block_delta","delta":{"text":"Hi"}}\n\n',
    GEMINI: b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}\n\n',
}
RAW = b'{\n  "error": {\n    "type": "api_error",\n    "message": "m"\n  }\n}\n\n'
FAILED_CHOICE = (
    b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error",'
    b'"error":{"code":502,"message":"Provider returned error"}}]}\n\n'
)


def call(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, path: str, body: bytes, media: bytes
) -> tuple[Span, Span]:
    """Sends a turn that is answered so; gives its SERVER and its CLIENT span. The client gets every byte."""
    upstream.answer(answer(body, headers=(b"Content-Type: " + media,)))
    asked = json.dumps({"model": "m", "stream": media != b"application/json"}).encode()
    session = f"none-{uuid4()}"
    fields = (b"Content-Type: application/json", b"X-Sidecar-Session-Id: " + session.encode())
    said = exchange(sidecar.port, request_bytes("POST", path, headers=fields, body=asked))
    assert (said.status, said.body) == (200, body)
    named = {"session.id": session}
    return sink.span(kind="SERVER", attributes=named), sink.span(kind="CLIENT", attributes=named)


FAILED = [
    ("a choice that failed", CHAT, FAILED_CHOICE + DONE, "502"),
    (
        "Groq's place",
        CHAT,
        OUTPUT[CHAT] + b'data: {"choices":[],"x_groq":{"error":"no room"}}\n\n' + DONE,
        "error",
    ),
    (
        "Groq's place, beside a choice",
        CHAT,
        b'data: {"choices":[{"delta":{"content":"a"}}],"x_groq":{"error":"server_error"}}\n\n' + DONE,
        "server_error",
    ),
    ("a choice that failed, after output", CHAT, OUTPUT[CHAT] + FAILED_CHOICE + DONE, "502"),
    *(
        (
            f"a field error: {path}",
            path,
            OUTPUT[path] + b'error: {"code":500,"message":"m"}\n\n' + DONE,
            "500",
        )
        for path in OUTPUT
    ),
    *(
        (
            f"plain text, then the terminator: {path}",
            path,
            OUTPUT[path] + b"event: error\ndata: no\n\n" + DONE,
            "error",
        )
        for path in OUTPUT
    ),
    *(
        (f"plain text: {path}", path, OUTPUT[path] + b"event: error\ndata: server_error\n\n", "server_error")
        for path in OUTPUT
    ),
    *(
        (f"an object alone: {path}", path, b'{"error":{"type":"api_error"}}\n', "api_error")
        for path in OUTPUT
    ),
    *((f"raw, between events: {path}", path, OUTPUT[path] + RAW + DONE, "api_error") for path in OUTPUT),
    *((f"raw, ahead of events: {path}", path, RAW + DONE, "api_error") for path in OUTPUT),
]


@pytest.mark.parametrize("path, body, word", [row[1:] for row in FAILED], ids=[row[0] for row in FAILED])
def test_an_error_in_a_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, path: str, body: bytes, word: str
) -> None:
    """Both spans are errors, with the provider's word where it is known."""
    server, client = call(sidecar, upstream, sink, path, body, b"text/event-stream")
    assert server.attributes["sidecar.outcome"] == "error_in_stream"
    for span in (server, client):
        assert (span.status, span.attributes["error.type"]) == ("ERROR", word)


EMPTY = [
    (CHAT, DONE),
    (CHAT, b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n' + DONE),
    (TEXT, DONE),
    (RESPONSES, DONE),
    (MESSAGES, b'data: {"type":"message_start","message":{"id":"x"}}\n\ndata: {"type":"message_stop"}\n\n'),
]


@pytest.mark.parametrize("path, body", EMPTY)
def test_a_stream_without_an_answer(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, path: str, body: bytes
) -> None:
    """The terminator of nothing is a failure of the upstream."""
    server, client = call(sidecar, upstream, sink, path, body, b"text/event-stream")
    assert server.attributes["sidecar.outcome"] == "upstream_failed"
    assert (client.status, client.attributes["error.type"]) == ("ERROR", "no_answer")


WHOLE: list[tuple[str, bytes, bytes, dict[str, Any]]] = [
    (
        CHAT,
        b"<!doctype html><title>Sign in</title>",
        b"text/html",
        {"sidecar.anomalies": ["answer_not_read"]},
    ),
    (MESSAGES, b"", b"application/json", {"sidecar.anomalies": ["answer_not_read"]}),
    (TEXT, b"null", b"application/json", {"sidecar.anomalies": ["answer_not_read"]}),
    (
        RESPONSES,
        b'{"id":"x","status":"compl',
        b"application/json",
        {"sidecar.anomalies": ["answer_not_read"]},
    ),
    (
        CHAT,
        b'{"choices":null,"base_resp":{"status_code":1004,"status_msg":"x"}}',
        b"application/json",
        {"sidecar.outcome": "error_in_stream", "error.type": "error"},
    ),
    (
        GEMINI.replace("stream", "").replace("Generate", "generate"),
        b'{"code":429,"message":"x"}',
        b"application/json",
        {"sidecar.outcome": "error_in_stream", "error.type": "429"},
    ),
    (
        CHAT,
        b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":-1,"completion_tokens":7}}',
        b"application/json",
        {"sidecar.anomalies": ["answer_invalid"], "gen_ai.usage.output_tokens": 7},
    ),
]


@pytest.mark.parametrize("path, body, media, told", WHOLE)
def test_a_whole_body_that_is_no_answer(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    path: str,
    body: bytes,
    media: bytes,
    told: dict[str, Any],
) -> None:
    """It is said not to have been read, or to be the error that it is; never is it a silent success."""
    server, client = call(sidecar, upstream, sink, path, body, media)
    attributes = {**client.attributes, **server.attributes}
    assert {name: attributes.get(name) for name in told} == told
    if "sidecar.outcome" not in told:
        assert server.attributes["sidecar.outcome"] == "completed"
