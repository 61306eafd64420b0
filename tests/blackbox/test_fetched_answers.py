"""Answers that are fetched by their ids: what was made in the background, or kept.

Owns that their usage is told once over all requests for them, in the session of the turn that had them made, and
that none of these requests is a turn.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Step,
    Wait,
    exchange,
    json_answer,
    request_bytes,
    sse,
    sse_event,
    sse_head,
)
from tests.blackbox.conftest import Measure

Answer = Callable[[str], tuple[Step, ...]]
"""How an answer with this id is sent."""

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
USAGE = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
NOTHING = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
CHAT_USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
TOLD = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 7}
BACKGROUND = {"model": "gpt-5", "input": "Hi", "background": True}
STORED = {"model": "gpt-5", "messages": [], "stream": True, "store": True}


def _response(answer_id: str, status: str, **more: object) -> dict[str, object]:
    return {"id": answer_id, "object": "response", "model": "gpt-5", "status": status, **more}


def _chat(answer_id: str, usage: object = CHAT_USAGE) -> dict[str, object]:
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    return {
        "id": answer_id,
        "object": "chat.completion",
        "model": "gpt-5",
        "choices": [choice],
        "usage": usage,
    }


def whole(status: str, **more: object) -> Answer:
    """A response as it stands, as a whole body."""
    return lambda answer_id: json_answer(_response(answer_id, status, **more))


def streamed(status: str, **more: object) -> Answer:
    """A response whose events are played, until it is `status`."""

    def steps(answer_id: str) -> tuple[Step, ...]:
        created = {"type": "response.created", "response": _response(answer_id, "queued")}
        delta = {"type": "response.output_text.delta", "delta": "Hi"}
        last = {"type": f"response.{status}", "response": _response(answer_id, status, **more)}
        return sse([created, delta, last], done=False)

    return steps


def chat(answer_id: str) -> tuple[Step, ...]:
    """A whole chat completion that was kept."""
    return json_answer(_chat(answer_id))


def chat_stream(answer_id: str) -> tuple[Step, ...]:
    """One that streams, and tells no usage."""
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    return sse([{"id": answer_id, "model": "gpt-5", "choices": [choice]}])


class Row(NamedTuple):
    """A turn, how it is answered, and the requests for its answer: (what follows the id, how each is answered).

    `told` is which of all these requests tells the usage: the turn is number 0; None: nobody does.
    """

    name: str
    path: str
    asked: Mapping[str, Any]
    made: Answer
    fetched: tuple[tuple[str, Answer], ...]
    told: int | None
    outcomes: tuple[str, ...] = ()


DONE = whole("completed", usage=USAGE)
ROWS = [
    Row(
        "polls",
        RESPONSES,
        BACKGROUND,
        whole("queued"),
        (("", whole("queued")), ("", whole("in_progress", usage=None)), ("", DONE), ("", DONE)),
        told=3,
    ),
    Row(
        "usage of nothing until it is over",
        RESPONSES,
        BACKGROUND,
        whole("queued", usage=NOTHING),
        (("", whole("in_progress", usage={**USAGE, "output_tokens": 1})), ("", DONE), ("", DONE)),
        told=2,
    ),
    Row(
        "streamed",
        RESPONSES,
        BACKGROUND,
        whole("queued"),
        (("?stream=true", streamed("completed", usage=USAGE)), ("", DONE)),
        told=1,
    ),
    Row(
        "streamed after a poll",
        RESPONSES,
        BACKGROUND,
        whole("in_progress"),
        (("?include[]=x", DONE), ("?stream=true&starting_after=1", streamed("completed", usage=USAGE))),
        told=1,
    ),
    Row(
        "cancelled",
        RESPONSES,
        BACKGROUND,
        whole("queued"),
        (("/cancel", whole("cancelled", usage=USAGE)), ("", whole("cancelled", usage=USAGE))),
        told=1,
    ),
    Row(
        "cut off by a limit",
        RESPONSES,
        BACKGROUND,
        whole("queued"),
        (
            (
                "",
                whole("incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=USAGE),
            ),
        ),
        told=1,
    ),
    Row(
        "failed",
        RESPONSES,
        BACKGROUND,
        whole("queued"),
        (("", whole("failed", usage=USAGE, error={"code": "server_error", "message": "x"})),),
        told=1,
        outcomes=("completed", "error_in_stream"),
    ),
    Row("told at once", RESPONSES, BACKGROUND, DONE, (("", DONE), ("?stream=true", DONE)), told=0),
    Row(
        "in the foreground, streamed",
        RESPONSES,
        {**BACKGROUND, "background": False, "stream": True},
        streamed("completed", usage=USAGE),
        (("", DONE),),
        told=0,
    ),
    Row("a chat completion that is kept", CHAT, {**STORED, "stream": False}, chat, (("", chat),) * 2, told=0),
    Row("a stream that is kept", CHAT, STORED, chat_stream, (("", chat),) * 2, told=1),
    Row(
        "a stream that nobody said to keep", CHAT, {**STORED, "store": None}, chat_stream, (("", chat),), None
    ),
]


def ask(sidecar: RunningSidecar, method: str, path: str, asked: Mapping[str, Any], session: str = "") -> str:
    """Sends a request; gives its id."""
    fields = [b"X-Sidecar-Session-Id: " + session.encode()] if session else []
    body = json.dumps(asked).encode() if method == "POST" else b""
    if body:
        fields.append(b"Content-Type: application/json")
    said = exchange(sidecar.port, request_bytes(method, path, headers=fields, body=body))
    assert (said.status, said.complete) == (200, True)
    return (said.get("x-sidecar-request-id") or b"").decode()


def usage(span: Span) -> dict[str, Any]:
    """What it tells of usage."""
    return {name: value for name, value in span.attributes.items() if name.startswith("gen_ai.usage.")}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_usage_is_told_once(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Measure, row: Row
) -> None:
    """By one span, and by the metrics as often; the requests belong together, and one of them is a turn."""
    session, answer_id = (
        f"fetched-{uuid4()}",
        f"{'resp_' if row.path == RESPONSES else 'chatcmpl-'}{uuid4().hex}",
    )
    with measure() as measured:
        upstream.answer(*row.made(answer_id))
        ids = [ask(sidecar, "POST", row.path, row.asked, session)]
        for after, made in row.fetched:
            upstream.answer(*made(answer_id))
            method = "POST" if after == "/cancel" else "GET"
            ids.append(ask(sidecar, method, f"{row.path}/{answer_id}{after}", {}))
        spans = [sink.span(kind="CLIENT", attributes={"sidecar.request.id": each}) for each in ids]
        servers = [sink.span(kind="SERVER", attributes={"sidecar.request.id": each}) for each in ids]
    assert [usage(span) for span in spans] == [TOLD if at == row.told else {} for at in range(len(ids))]
    assert all(span.attributes["gen_ai.response.id"] == answer_id for span in spans)
    outcomes = row.outcomes or ("completed",) * len(ids)
    assert tuple(span.attributes["sidecar.outcome"] for span in servers) == outcomes
    counted = Counter(change.metric for change in measured.changes for _ in range(change.count or 0))
    assert counted["gen_ai.client.token.usage"] == (0 if row.told is None else 2)
    assert counted["gen_ai.client.operation.duration"] == 1
    assert measured.one("sidecar.turns").value == 1
    for change in measured.changes:
        if change.metric == "gen_ai.client.token.usage":
            assert change.attributes["gen_ai.operation.name"] == "chat"
            assert change.attributes["gen_ai.provider.name"] == "openai"
            assert change.attributes["gen_ai.response.model"] == "gpt-5"
    assert not any(change.metric == "sidecar.anomalies" for change in measured.changes)
    if row.told is not None and row.name != "a chat completion that is kept":
        assert {span.attributes["session.id"] for span in servers} == {session}
    for server, span in zip(servers[1:], spans[1:], strict=True):
        assert "gen_ai.operation.name" not in span.attributes
        assert span.name == server.name
        assert answer_id not in server.name


def test_the_sessions_sum_is_told_once(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Over a made-up session too, which its requests for the answer make one."""
    sidecar = start_sidecar()
    upstream.answer(*whole("queued")("resp_sum"))
    made = ask(sidecar, "POST", RESPONSES, BACKGROUND)
    for answer in (whole("in_progress"), DONE, DONE):
        upstream.answer(*answer("resp_sum"))
        ask(sidecar, "GET", f"{RESPONSES}/resp_sum", {})
    session = sink.span(kind="CLIENT", attributes={"sidecar.request.id": made}).attributes["session.id"]
    sidecar.stop()
    totals = sink.span(name="session", attributes={"session.id": session}).attributes
    assert totals["sidecar.total.requests"] == 4
    assert totals["sidecar.total.turns"] == 1
    assert totals["sidecar.total.tokens.output"] == 7


def test_a_turn_that_is_not_over_tells_its_usage_itself(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Whoever fetches the answer before that tells none."""
    gate, answer_id = Gate(), "resp_both"
    first = {"type": "response.created", "response": _response(answer_id, "in_progress")}
    last = {"type": "response.completed", "response": _response(answer_id, "completed", usage=USAGE)}
    upstream.answer(*sse_head(), Chunk(sse_event(first)), Wait(gate), Chunk(sse_event(last)), LastChunk())
    upstream.answer(*DONE(answer_id), path=f"{RESPONSES}/{answer_id}")
    asked = json.dumps({**BACKGROUND, "stream": True}).encode()
    lines = (b"Content-Type: application/json", b"X-Sidecar-Session-Id: fetched-both")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", RESPONSES, headers=lines, body=asked))
        client.read_until(answer_id.encode())
        fetched = ask(sidecar, "GET", f"{RESPONSES}/{answer_id}", {})
        span = sink.span(kind="CLIENT", attributes={"sidecar.request.id": fetched})
        gate.open()
        client.read_until(b"response.completed")
    assert (span.attributes["session.id"], usage(span)) == ("fetched-both", {})
    turn = sink.span(
        kind="CLIENT", attributes={"session.id": "fetched-both", "gen_ai.operation.name": "chat"}
    )
    assert usage(turn) == TOLD


def test_what_was_forgotten_is_counted_as_such(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """An id that had to go tells its usage nowhere, and the anomaly says why."""
    sidecar = start_sidecar(settings={"RESPONSE_CHAIN_LIMIT": "1"})
    for answer_id in ("resp_old", "resp_new"):
        upstream.answer(*whole("queued")(answer_id))
        ask(sidecar, "POST", RESPONSES, BACKGROUND)
    told = {}
    for answer_id in ("resp_old", "resp_new"):
        upstream.answer(*DONE(answer_id))
        asked = ask(sidecar, "GET", f"{RESPONSES}/{answer_id}", {})
        told[answer_id] = usage(sink.span(kind="CLIENT", attributes={"sidecar.request.id": asked}))
    assert told == {"resp_old": {}, "resp_new": TOLD}
    assert sidecar.stats()["anomalies"] == {"response_chain_evicted": 1}


@pytest.mark.parametrize("answer", ["cut", "no JSON"])
def test_a_stream_that_is_fetched_must_end(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, answer: str
) -> None:
    """As any other; a body that is none is said not to have been read."""
    events = [{"type": "response.output_text.delta", "delta": "Hi"}]
    upstream.answer(*(sse(events, done=False) if answer == "cut" else json_answer([])))
    asked = ask(sidecar, "GET", f"{RESPONSES}/resp_{uuid4().hex}?stream=true", {})
    span = sink.span(kind="SERVER", attributes={"sidecar.request.id": asked})
    said = (span.attributes["sidecar.outcome"], span.attributes.get("sidecar.anomalies"))
    assert said == (("upstream_failed", None) if answer == "cut" else ("completed", ["answer_not_read"]))
