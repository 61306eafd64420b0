"""What runs now is told now: by age on the admin port, as log lines, and as gauges by upstream."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    sse_event,
    sse_head,
)
from tests.blackbox.test_wall_clock import stopped

EVENT = "sidecar.request.long_running"
LONG = 200_000_000
"""Nanoseconds."""
PHASES = ["body", "connect", "wait", "stream"]
"""In the order in which the requests of these tests begin."""


def named(session: str) -> bytes:
    """The field that names a session."""
    return b"X-Sidecar-Session-Id: " + session.encode()


class Held:
    """Four requests in flight, each in another phase, begun one after the other."""

    def __init__(self, sidecar: RunningSidecar, upstream: ScriptedUpstream, stack: ExitStack) -> None:
        self.gate = Gate()
        whole = chat_request(headers=(named("body"),), model="m-body")
        held: dict[str, bytes] = {
            "body": whole[:-1],
            "connect": chat_request(path="/far/v1/chat/completions", headers=(named("connect"),)),
            "wait": chat_request(headers=(named("wait"),), model="m-wait"),
            "stream": chat_request(headers=(named("stream"),), stream=True),
        }
        upstream.answer(Wait(self.gate), *json_answer(chat_completion("Hi")))
        upstream.answer(
            *sse_head(),
            Chunk(sse_event(chat_chunk("a"))),
            Wait(self.gate),
            Chunk(sse_event(chat_chunk(finish_reason="stop"))),
            Chunk(sse_event("[DONE]")),
            LastChunk(),
        )
        self.clients: dict[str, RawClient] = {}
        for number, (phase, request) in enumerate(held.items(), 1):
            client = self.clients[phase] = stack.enter_context(RawClient(sidecar.port))
            client.send(request)
            if phase == "stream":
                client.read_until(b'"a"')
            sidecar.wait_until(
                lambda number=number: [one["phase"] for one in running(sidecar)] == PHASES[:number]  # type: ignore[misc]
            )


def running(sidecar: RunningSidecar) -> list[dict[str, Any]]:
    """What is in flight, by age."""
    status, document = sidecar.admin("GET", "/sessions?sort=age")
    assert status == 200
    return list(document["requests"])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed with the test."""
    with ExitStack() as one:
        yield one


def test_what_runs_is_shown_by_age(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, blackhole: int, stack: ExitStack
) -> None:
    """The oldest first, in each phase, with who it is as far as it has told; sessions likewise; a gauge of each upstream."""
    sidecar = start_sidecar(settings={"UPSTREAMS": f"far=http://127.0.0.1:{blackhole}"})
    held = Held(sidecar, upstream, stack)
    requests = running(sidecar)
    ages = [one.pop("age_s") for one in requests]
    assert ages == sorted(ages, reverse=True)
    silences = [one.pop("silence_s") for one in requests]
    assert silences[0] is None
    assert all(0 <= silence <= age for silence, age in zip(silences[1:], ages[1:], strict=True))
    for one in requests:
        assert (one.pop("request_id") is None) == (one["phase"] == "body")
        assert len(one.pop("trace_id")) == 32
        assert one.pop("started_at").endswith("Z")
    said = {"conversation_id": "main", "sequence": 1, "upstream": "default", "streaming": False}
    untold = dict.fromkeys(("session_id", "conversation_id", "sequence", "model"))
    assert requests == [
        {**said, **untold, "phase": "body"},
        {**said, "session_id": "connect", "model": "gpt-4o", "phase": "connect", "upstream": "far"},
        {**said, "session_id": "wait", "model": "m-wait", "phase": "wait"},
        {**said, "session_id": "stream", "model": "gpt-4o", "phase": "stream", "streaming": True},
    ]
    _, document = sidecar.admin("GET", "/sessions?sort=age")
    assert [one["id"] for one in document["sessions"]] == PHASES[1:]
    assert all(one["in_flight"] == 1 for one in document["sessions"])
    assert [one["id"] for one in sidecar.admin("GET", "/sessions")[1]["sessions"]] == PHASES[:0:-1]
    assert sidecar.admin("GET", "/sessions?sort=size")[0] == 400
    gauges = {
        (point.metric, point.attributes["sidecar.upstream"]): point.value or 0
        for point in sink.snapshot(after=time.time_ns())
        if point.metric in ("sidecar.requests.oldest.age", "sidecar.requests.silence")
    }
    assert gauges["sidecar.requests.oldest.age", "default"] > ages[0]
    assert (
        ages[1]
        < gauges["sidecar.requests.oldest.age", "far"]
        < gauges["sidecar.requests.oldest.age", "default"]
    )
    assert (
        silences[2]
        < gauges["sidecar.requests.silence", "default"]
        < gauges["sidecar.requests.oldest.age", "default"]
    )
    assert silences[1] < gauges["sidecar.requests.silence", "far"]
    held.gate.open()
    held.clients["stream"].read_until(b"[DONE]")


def test_what_runs_for_long_is_said(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, blackhole: int, stack: ExitStack
) -> None:
    """Each time it has run for so long again, in its own context, with its phase; and no more once it has ended."""
    settings = {"UPSTREAMS": f"far=http://127.0.0.1:{blackhole}", "LONG_RUNNING": f"{LONG // 1_000_000}ms"}
    sidecar = start_sidecar(settings=settings)
    held = Held(sidecar, upstream, stack)
    sidecar.wait_until(lambda: len(sidecar.find_logs(EVENT, session_id="wait")) > 1)
    first, second = sidecar.find_logs(EVENT, session_id="wait")[:2]
    trace = [first[name] for name in ("trace_id", "span_id", "request_id")]
    assert trace == [second[name] for name in ("trace_id", "span_id", "request_id")]
    assert first["level"] == "warning"
    ages = [round(line["sidecar.request.age"] * 1e9) for line in (first, second)]
    assert 0 < ages[0] // LONG < ages[1] // LONG
    lines = {
        line["sidecar.request.phase"]: line
        for line in [sidecar.wait_log(EVENT, **{"sidecar.request.phase": phase}) for phase in PHASES]
    }
    assert "sidecar.request.silence" not in lines["body"]
    assert {phase: lines[phase].get("sidecar.upstream") for phase in PHASES} == {
        **dict.fromkeys(PHASES, "default"),
        "connect": "far",
    }
    assert lines["wait"]["gen_ai.request.model"] == "m-wait"
    assert lines["wait"]["sidecar.request.sequence"] == 1
    sink.wait_for(lambda: [line for line in sink.logs if line.event_name == EVENT])
    held.gate.open()
    done = exchange(sidecar.port, chat_request(path="/x", headers=(named("after"),)))
    assert done.status


def test_a_bound_is_kept_and_told(start_sidecar: Any, upstream: ScriptedUpstream, stack: ExitStack) -> None:
    """Twenty lines in each time that is long, of the oldest; the next one says how many were left out."""
    sidecar = start_sidecar(settings={"LONG_RUNNING": "1s"})
    gate = Gate()
    upstream.answer_always((Wait(gate), *json_answer(chat_completion("Hi"))))
    with stopped(sidecar):  # so that all of them begin at once
        for number in range(25):
            stack.enter_context(RawClient(sidecar.port)).send(chat_request(headers=(named(f"s{number:02}"),)))
    sidecar.wait_until(lambda: left_out(sidecar))
    assert left_out(sidecar)[0] >= 5
    before = [one["session_id"] for one in sidecar.find_logs(EVENT)][:20]
    assert len(set(before)) == 20
    assert "s24" not in before
    gate.open()


def left_out(sidecar: RunningSidecar) -> list[int]:
    """What such lines say of those that were left out before them."""
    told = [line.get("sidecar.suppressed", 0) for line in sidecar.find_logs(EVENT)]
    return [int(count) for count in told if count]
