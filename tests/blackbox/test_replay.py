"""The replay of a session that has ended: its lanes as one small trace, with final figures."""

import json
from typing import Any

import pytest

from sidecar.testing import (
    Gate,
    OtlpSink,
    RawClient,
    ScriptedUpstream,
    SinkAnswer,
    Span,
    Wait,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
)


def named(session: str, conversation: str = "main") -> tuple[bytes, ...]:
    """The fields that name a session and a conversation."""
    return (
        b"X-Sidecar-Session-Id: " + session.encode(),
        b"X-Sidecar-Conversation-Id: " + conversation.encode(),
    )


def play(port: int, upstream: ScriptedUpstream, session: str) -> None:
    """A turn that a later one overtakes, and a sub-agent's that fails."""
    gate = Gate()
    upstream.answer(Wait(gate), *json_answer(chat_completion("Slow")))
    upstream.answer(json_answer(chat_completion("Quick")))
    upstream.answer(json_answer({"error": {}}, status=503))
    with RawClient(port) as client:
        client.send(chat_request(headers=named(session), model="slow"))
        upstream.request()
        exchange(port, chat_request(headers=named(session), model="quick"))
        gate.open()
        client.read_answer("POST")
    exchange(port, chat_request(headers=named(session, "agent")))


def replayed(sink: OtlpSink, session: str) -> list[Span]:
    """The spans of a session's replay, in the order of their making."""
    return [
        span
        for span in sink.spans
        if span.name.startswith("replay ") and span.attributes["session.id"] == session
    ]


def test_a_replay_has_what_became_of_each_request(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Session, conversations, requests, each linked to its real span; a wait that was known only later is there."""
    sidecar = start_sidecar()
    play(sidecar.port, upstream, "lanes")
    sidecar.stop()
    session, main, slow, quick, agent, failed = sorted(
        replayed(sink, "lanes"), key=lambda span: [*NAMES].index((span.name, str(lane(span))))
    )
    assert {span.trace_id for span in (session, main, slow, quick, agent, failed)} == {session.trace_id}
    assert [span.parent for span in (session, main, slow, quick, agent, failed)] == [
        *("", session.span_id, main.span_id, main.span_id, session.span_id, agent.span_id)
    ]
    assert session.attributes == {"session.id": "lanes", "sidecar.session.source": "own_header"}
    assert {span.kind for span in (session, main, slow, quick, agent, failed)} == {"INTERNAL"}
    assert [span.status for span in (main, slow, quick, agent, failed)] == [*["UNSET"] * 4, "ERROR"]
    servers = {
        span.attributes["sidecar.request.id"]: span
        for span in sink.find_spans(kind="SERVER")
        if span.attributes["session.id"] == "lanes"
    }
    for one in (slow, quick, failed):
        real = servers[one.attributes["sidecar.request.id"]]
        assert [(link.trace_id, link.span_id) for link in one.links] == [(real.trace_id, real.span_id)]
        assert one.links[0].attributes == {"sidecar.link": "request"}
        assert (one.start, one.end) == (real.start, real.end)
    keys = ("sidecar.request.sequence", "sidecar.outcome", "sidecar.request.overlaps")
    distance = "sidecar.request.out_of_order.distance"
    assert [[one.attributes[key] for key in (*keys, distance)] for one in (slow, quick, failed)] == [
        [1, "completed", 0, 1],
        [2, "completed", 1, 0],
        [1, "upstream_rejected", 0, 0],
    ]
    real = servers[quick.attributes["sidecar.request.id"]]
    assert "sidecar.request.wait_avoided" not in real.attributes
    wait = quick.attributes["sidecar.request.wait_avoided"]
    assert isinstance(wait, float)
    assert 0 < wait <= (slow.end - quick.start) / 1e9
    assert slow.attributes["sidecar.request.wait_avoided"] == 0
    assert (session.start, session.end) == (slow.start, failed.end)


NAMES = dict.fromkeys(
    (
        *(("replay session", "None"), ("replay conversation", "main"), ("replay chat slow", "main")),
        *(("replay chat quick", "main"), ("replay conversation", "agent"), ("replay chat gpt-4o", "agent")),
    )
)


def lane(span: Span) -> object:
    """The conversation of a span."""
    return span.attributes.get("sidecar.conversation.id")


@pytest.mark.parametrize("limit, spans, omitted", [("1000", 100, 2), ("3", 3, 99), ("0", 0, None)])
def test_a_replay_is_bounded(
    start_sidecar: Any,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    limit: str,
    spans: int,
    omitted: int | None,
) -> None:
    """A hundred requests of a session, and so many of all sessions; the rest is counted. With 0 there is none."""
    upstream.answer_always(json_answer(chat_completion("Hi")))
    sidecar = start_sidecar(settings={"REPLAY_LIMIT": limit})
    session = f"bound-{limit}"
    for _ in range(102):
        exchange(sidecar.port, chat_request(headers=named(session)))
    sidecar.stop()
    found = replayed(sink, session)
    assert len([span for span in found if span.name == "replay chat gpt-4o"]) == spans
    roots = [span.attributes.get("sidecar.replay.omitted") for span in found if span.name == "replay session"]
    assert roots == ([] if omitted is None else [omitted])


def test_a_session_found_by_its_history_has_its_first_request(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """That one had a made-up id of its own until the second one continued it; one that nobody continued has no replay."""
    sidecar = start_sidecar()
    question = {"role": "user", "content": "What is the answer to that?"}
    said = "It is a long answer, long enough."
    for text in (said, "And a second one."):
        upstream.answer(json_answer(chat_completion(text)))
    exchange(sidecar.port, chat_request(messages=[question], model="found"))
    past = [question, {"role": "assistant", "content": said}, question]
    exchange(sidecar.port, chat_request(messages=past, model="found"))
    upstream.answer(json_answer(chat_completion("Alone")))
    exchange(sidecar.port, chat_request(messages=[{"role": "user", "content": "x"}], model="alone"))
    sidecar.stop()
    names = [span.name for span in sink.spans if span.name.startswith("replay ")]
    assert names.count("replay chat found") == 2
    assert "replay chat alone" not in names


CROWD = 80
"""Sessions whose own spans alone are more than may wait."""


@pytest.mark.parametrize("idle", ["4s", "60s"])
def test_many_sessions_end_at_once_and_lose_nothing(
    start_sidecar: Any, upstream: ScriptedUpstream, idle: str
) -> None:
    """By their idle time or with the process: their spans, and then their replays, wait until the queue has room for them."""
    upstream.answer_always(json_answer(chat_completion("Hi")))
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "25"}
    with OtlpSink() as sink:
        sidecar = start_sidecar(sink=sink, settings={"SESSION_IDLE": idle}, environ=environ)
        for number in range(CROWD):
            exchange(sidecar.port, chat_request(headers=named(f"crowd-{number}")))
            if number % 20 == 19:
                sidecar.wait_until(lambda: not sidecar.stats()["telemetry"]["traces"]["queued"])
        sink.answer_always("traces", SinkAnswer(delay=0.5))
        if idle == "4s":
            sink.wait_for(lambda: len(sink.find_spans(name="replay session")) == CROWD)
        sidecar.stop()
        (stopped,) = sidecar.find_logs("sidecar.stopped")
        traces = json.loads(stopped["telemetry"])["traces"]
        assert {state: count for state, count in traces.items() if count} == {
            "created": len(sink.spans),
            "exported": len(sink.spans),
        }
        assert [len(replayed(sink, f"crowd-{number}")) for number in range(CROWD)] == [3] * CROWD


def test_a_session_that_found_no_room_says_so(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """Its replay has no request, and their number; a request alone that nobody named is no session."""
    upstream.answer_always(json_answer(chat_completion("Hi")))
    with OtlpSink() as sink:
        sidecar = start_sidecar(sink=sink, settings={"REPLAY_LIMIT": "1"})
        for session in ("first", "second", "second"):
            exchange(sidecar.port, chat_request(headers=named(session)))
        exchange(sidecar.port, chat_request())
        sidecar.stop()
        assert len(replayed(sink, "first")) == 3
        (alone,) = replayed(sink, "second")
        assert (alone.name, alone.attributes["sidecar.replay.omitted"]) == ("replay session", 2)
        real = sink.span(name="session", attributes={"session.id": "second"})
        assert (alone.start, alone.end) == (real.start, real.end)
        assert len(sink.find_spans(name="session")) == len(sink.find_spans(name="replay session")) == 2
