"""Caps of the metrics, at a process: what nobody answers takes no place from what somebody does."""

import json
import time
from typing import Any

import pytest

from sidecar.testing import (
    Chunk,
    Garbage,
    LastChunk,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    Step,
    chat_completion,
    exchange,
    json_answer,
    request_bytes,
    sse_event,
    sse_head,
)

NOT_FOUND = json_answer({"error": {"message": "no such model", "code": "model_not_found"}}, status=404)
FAILED = [
    *sse_head(),
    Chunk(sse_event({"error": {"message": "no", "type": "server_error", "code": "server_error"}})),
    LastChunk(),
]
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "modelVersion": "real-gemini",
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "real-claude",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
EMBEDDINGS = {
    "object": "list",
    "data": [],
    "model": "real-embed",
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}

APIS = {
    "chat": ("/v1/chat/completions", "real-chat", chat_completion(model="real-chat"), "chat"),
    "messages": ("/v1/messages", "real-claude", MESSAGE, "chat"),
    "embeddings": ("/v1/embeddings", "real-embed", EMBEDDINGS, "embeddings"),
    "azure": (
        "/openai/deployments/{}/chat/completions",
        "real-azure",
        chat_completion(model="real-azure"),
        "chat",
    ),
    "gemini": ("/v1beta/models/{}:generateContent", "real-gemini", GEMINI, "generate_content"),
}
"""By API: its path, a model that answers, the answer, and the operation."""


def call(sidecar: RunningSidecar, path: str, model: str, session: str) -> None:
    """One request for a model, named in the path or the body."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    headers = [b"X-Sidecar-Session-Id: " + session.encode(), b"Content-Type: application/json"]
    exchange(sidecar.port, request_bytes("POST", path.format(model), body=body, headers=headers))


@pytest.mark.parametrize(
    "junk", [NOT_FOUND, FAILED, [Garbage(b"\x00\r\n\r\n")]], ids=["404", "error in stream", "no HTTP"]
)
def test_models_that_do_not_exist_take_no_place(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, junk: list[Step]
) -> None:
    """A hundred and twenty names that only fail, then one of each API that answers: in metrics, text and span names."""
    sidecar = start_sidecar(settings={"PROMETHEUS": "on", "MODEL_LIMIT": "10"})
    upstream.answer_always(*junk)
    session = f"junk-{time.time_ns()}"
    for number in range(120):
        call(sidecar, APIS["chat"][0], f"junk-{number}", session)
    for path, model, answered, _ in APIS.values():
        upstream.answer(json_answer(answered))
        call(sidecar, path, model, session)
    real = {(operation, model) for _, model, _, operation in APIS.values()}

    for name in (*(f"chat junk-{number}" for number in (0, 60, 119)), *(" ".join(one) for one in real)):
        assert sink.span(name=name, attributes={"session.id": session}).kind == "CLIENT"
    points = [
        point for point in sink.snapshot(after=time.time_ns()) if point.attributes.get("gen_ai.request.model")
    ]
    for metric in ("sidecar.requests", "gen_ai.client.operation.duration"):
        told = {
            (point.attributes["gen_ai.operation.name"], point.attributes["gen_ai.request.model"])
            for point in points
            if point.metric == metric
        }
        assert real <= told
        assert {model for _, model in told} >= {"other"}
        assert len({model for _, model in told if str(model).startswith("junk")}) == 5
    _, text = sidecar.admin("GET", "/metrics")
    for operation, model in real:
        assert f'gen_ai_operation_name="{operation}",gen_ai_provider_name=' in text
        assert f'gen_ai_request_model="{model}"' in text
        assert f'gen_ai_response_model="{model}"' in text
    left_out = (120 - 5, 120 - 32)  # of the metrics, and of the session's span
    assert sidecar.stats()["anomalies"]["model_cap"] == sum(left_out)
