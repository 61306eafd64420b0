"""Every metric that is defined is recorded: one scenario, and a point above zero of each."""

from typing import Any

from sidecar.telemetry import metrics
from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    ScriptedUpstream,
    Step,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    sse_event,
    sse_head,
)

UNSEEN = {
    "sidecar.conversation.wait_unknown": "a thousand turns behind one: the caps of the session manager are tested there",
}
"""Metrics that this scenario gives no point above zero, each with the reason."""

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 30,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 9},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 3,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 2,
        "output_tokens": 4,
    },
}


def named(conversation: str = "main") -> tuple[bytes, ...]:
    """The fields that name the one session and a conversation."""
    return b"X-Sidecar-Session-Id: every", b"X-Sidecar-Conversation-Id: " + conversation.encode()


def play(port: int, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """A stream that is overtaken and stalls, what came after it, a retry, and something odd."""
    gate = Gate()
    pieces = [Chunk(sse_event(chat_chunk(text))) for text in ("a", "b")]
    last: list[Step] = [
        Chunk(sse_event({**chat_chunk(finish_reason="stop"), "usage": USAGE})),
        Chunk(sse_event("[DONE]")),
        LastChunk(),
    ]
    upstream.answer((*sse_head(), *pieces, Wait(gate), *last))
    with RawClient(port) as client:
        client.send(chat_request(stream=True, headers=named()))
        client.read_until(b'"b"')
        upstream.answer(json_answer(chat_completion("Hi")))
        slow = Gate()
        upstream.answer((Wait(slow), *json_answer(chat_completion("Hi"))))
        exchange(port, chat_request(headers=named()))
        with RawClient(port) as other:
            other.send(chat_request(headers=named()))
            sink.wait_for(lambda: {"sidecar.requests.overlapping", "sidecar.stream.stalls"} <= seen(sink))
            slow.open()
            other.read_answer("POST")
        gate.open()
        client.read_until(b"[DONE]")
    exchange(port, chat_request(headers=(*named(), b"x-stainless-retry-count: 1")))
    upstream.answer(json_answer(MESSAGE))
    exchange(port, chat_request(path="/v1/messages", headers=named("x" * 300)))
    upstream.answer(json_answer({"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 5}}))
    exchange(port, chat_request(path="/v1/embeddings", headers=named()))
    go_on(port, upstream)


def go_on(port: int, upstream: ScriptedUpstream) -> None:
    """A conversation goes on from the second of two answers, and its prompt breaks."""
    question = {"role": "user", "content": "And then?"}
    for text in ("One of two answers.", "The other one of two."):
        upstream.answer(json_answer({**chat_completion(text), "usage": USAGE}))
        exchange(port, chat_request(headers=named("past"), messages=[question]))
    said = {"role": "assistant", "content": "The other one of two."}
    upstream.answer(json_answer(chat_completion("Hi")))
    tools = [{"type": "function", "function": {"name": "look"}}]
    exchange(port, chat_request(headers=named("past"), messages=[question, said, question], tools=tools))


def seen(sink: OtlpSink) -> set[str]:
    """The metrics that have had a point above zero."""
    return {point.metric for point in sink.points if point.count or point.value}


def test_every_metric_is_recorded(start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Of both conventions; what the scenario cannot show stands above with the reason, and only that."""
    sink.clear()
    upstream.answer_always(json_answer(chat_completion("Hi")))
    settings = {"SEMCONV": "both", "STALL_AFTER": "50ms"}
    sidecar = start_sidecar(settings=settings, environ={"OTEL_BSP_SCHEDULE_DELAY": "300"})
    play(sidecar.port, upstream, sink)
    sidecar.stop()
    defined = {metric.name for metric in metrics.ALL_METRICS}
    assert defined - seen(sink) == set(UNSEEN)
    assert seen(sink) <= defined
