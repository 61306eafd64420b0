"""Every metric that is defined is recorded: one scenario, and a point above zero of each. And what is told before that."""

import time
from typing import Any

import pytest

from sidecar.core.facts import Anomaly
from sidecar.core.identity import MADE_UP, Source
from sidecar.core.threads import Break, Relation
from sidecar.telemetry import metrics
from sidecar.telemetry.series import RESULTS
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
    """A stream that is overtaken and stalls, what came after it, a retry, something odd, and a bad answer."""
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
    left = (b"x-ratelimit-remaining-requests: 5", b"x-ratelimit-limit-requests: 9", b"retry-after: 60")
    upstream.answer(json_answer({"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 5}}, headers=left))
    exchange(port, chat_request(path="/v1/embeddings", headers=named()))
    upstream.answer(json_answer({"error": {}}, status=503))
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


def told(sink: OtlpSink) -> dict[str, set[tuple[str, ...]]]:
    """The series of the first export, each with its attributes' values, of the metrics that are counted; all are 0."""
    first = sink.snapshot(after=0)
    counted = [point for point in first if point.monotonic and not point.metric.startswith("process.")]
    own = [point for point in counted if point.metric != "sidecar.telemetry.items"]
    assert {point.value for point in own} == {0}
    return {
        name: {
            tuple(str(value) for _, value in sorted(point.attributes.items()))
            for point in own
            if point.metric == name
        }
        for name in {point.metric for point in own}
    }


def each(*words: object) -> set[tuple[str, ...]]:
    """One series of each word."""
    return {(str(word),) for word in words}


@pytest.mark.parametrize("history", ["join", "off"])
def test_fixed_words_are_told_from_the_start(start_sidecar: Any, sink: OtlpSink, history: str) -> None:
    """At once and without a request: what is counted by them is 0, so that the first of anything is an increase."""
    sink.clear()
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": "600000"}
    settings = {"HISTORY": history, "UPSTREAMS": "other=http://127.0.0.1:9"}
    sidecar = start_sidecar(settings=settings, environ=environ)
    sink.wait_for(lambda: sink.points)
    upstreams = each("default", "other")
    by_result = {(word, *upstream) for word in RESULTS for upstream in upstreams}
    expected = {
        "sidecar.results": by_result | each("refused"),
        **dict.fromkeys(
            (
                *("sidecar.turns", "sidecar.retries", "sidecar.conversation.overlaps"),
                *("sidecar.responses.out_of_order", "sidecar.stream.stalls"),
                *("sidecar.stream.events", "sidecar.stream.bytes"),
            ),
            upstreams,
        ),
        "sidecar.sessions": each(*(source for source in Source if source not in MADE_UP)),
        "sidecar.identity": each(*Source, "no_turn"),
        "sidecar.anomalies": each(*Anomaly),
        "sidecar.conversation.wait_unknown": {()},
        "sidecar.sessions.with_bad_answers": {()},
    }
    pasts = {
        "sidecar.answers.orphaned": {()},
        "sidecar.turns.related": each(*Relation),
        "sidecar.prompt.breaks": each(*Break),
        "sidecar.prompt.read_anew": each(*Break, "none"),
    }
    assert told(sink) == expected | (pasts if history == "join" else {})
    levels = {
        (point.metric, *point.attributes.values()): point.value
        for point in sink.points
        if point.metric.startswith(("sidecar.requests.", "sidecar.streams."))
    }
    each_upstream = ("requests.active", "streams.active", "requests.oldest.age", "requests.silence")
    assert levels == {
        ("sidecar.requests.overlapping",): 0,
        **{(f"sidecar.{name}", *upstream): 0 for name in each_upstream for upstream in upstreams},
    }
    sidecar.stop()


def test_a_session_meets_a_bad_answer_once(
    start_sidecar: Any, sink: OtlpSink, upstream: ScriptedUpstream
) -> None:
    """At its first; a request alone that nobody named is no session."""
    sidecar = start_sidecar()
    upstream.answer_always(json_answer({"error": {}}, status=503))
    for fields in ((), (), named(), named("other"), (b"X-Sidecar-Session-Id: second",)):
        exchange(sidecar.port, chat_request(headers=fields))
    told = {
        point.metric: point.value
        for point in sink.snapshot(after=time.time_ns())
        if point.metric in ("sidecar.sessions.with_bad_answers", "sidecar.sessions") and point.value
    }
    assert told == {"sidecar.sessions.with_bad_answers": 2, "sidecar.sessions": 2}


def test_what_is_left_before_a_rejection(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """By upstream and model, as soon as the head of an answer has come from a model that is known; and how long to wait."""
    sidecar = start_sidecar(settings={"UPSTREAMS": f"other={upstream.url}"})
    upstream.answer(json_answer(chat_completion("Hi")))
    exchange(sidecar.port, chat_request(model="slow"))
    gate = Gate()
    openai = (b"x-ratelimit-limit-tokens: 900", b"x-ratelimit-remaining-tokens: 30")
    upstream.answer((*sse_head(headers=openai), Chunk(sse_event(chat_chunk("a"))), Wait(gate), LastChunk()))
    anthropic = (b"anthropic-ratelimit-requests-limit: 50", b"anthropic-ratelimit-requests-remaining: 0")
    upstream.answer(json_answer(MESSAGE, status=429, headers=(*anthropic, b"retry-after: 17")))
    silent = (*sse_head(), Chunk(sse_event(chat_chunk("b"))), Wait(gate), LastChunk())
    with RawClient(sidecar.port) as client, RawClient(sidecar.port) as later:
        client.send(chat_request(stream=True, model="slow"))
        client.read_until(b'"a"')
        exchange(sidecar.port, chat_request(path="/other/v1/messages", model="claude"))
        upstream.answer(silent)
        later.send(chat_request(stream=True, model="slow"))
        later.read_until(b'"b"')
        upstream.answer(
            json_answer({"error": {"message": "no gateway"}}, status=502)
        )  # and says nothing of it
        exchange(sidecar.port, chat_request(path="/other/v1/messages", model="claude"))
        told = [
            point
            for point in sink.snapshot(after=time.time_ns())
            if point.metric.startswith("sidecar.ratelimit.")
        ]
        gate.open()
        for one in (client, later):
            one.read_until(b"0\r\n\r\n")
    found = {(point.metric, *map(str, point.attributes.values())): point.value for point in told}
    wait = found.pop(("sidecar.ratelimit.retry_after", "claude", "other"))
    assert wait is not None
    assert 0 < wait <= 17
    assert found == {
        ("sidecar.ratelimit.remaining", "slow", "tokens", "default"): 30,
        ("sidecar.ratelimit.limit", "slow", "tokens", "default"): 900,
        ("sidecar.ratelimit.remaining", "claude", "requests", "other"): 0,
        ("sidecar.ratelimit.limit", "claude", "requests", "other"): 50,
    }


def test_the_first_of_its_kind_is_an_increase(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """What became of each request, by the upstream and from 0 on; of a model that nobody has asked for before as well."""
    sink.clear()
    sidecar = start_sidecar(settings={"UPSTREAMS": "gone=http://127.0.0.1:9"})
    sink.wait_for(lambda: sink.points)
    for status in (200, 404, 429, 503):
        upstream.answer(json_answer(chat_completion("Hi"), status=status))
        exchange(sidecar.port, chat_request(model=f"new-{status}"))
    exchange(sidecar.port, chat_request(path="/gone/v1/chat/completions"))
    sidecar.stop()
    found: dict[tuple[object, ...], list[float | None]] = {}
    for point in sink.points:
        if point.metric == "sidecar.results":
            found.setdefault(tuple(point.attributes.values()), []).append(point.value)
    assert {key for key, values in found.items() if values[-1]} == {
        ("completed", "default"),
        ("client_error", "default"),
        ("rate_limited", "default"),
        ("server_error", "default"),
        ("upstream_failed", "gone"),
    }
    assert all((values[0], values[-1]) == (0, 1) for values in found.values() if values[-1])
