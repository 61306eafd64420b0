"""Each of the nine outcomes, as whole spans and metric points from what a collector received.

`shutdown` is in `test_shutdown.py`, because it ends the process.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidecar.app import Sidecar
from sidecar.core.sessions import SessionManager
from sidecar.settings import load
from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Garbage,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    Pause,
    RawClient,
    Reset,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    Span,
    Status,
    Wait,
    answer,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    expect_span,
    free_port,
    json_answer,
    request_bytes,
    sse,
    sse_event,
    sse_head,
)

SERVER_VOLATILE = (
    "sidecar.request.id",
    "client.port",
    "sidecar.request.body.read_time",
    "sidecar.overhead.before",
    "sidecar.overhead.after",
    "sidecar.overhead.loop",
)
CLIENT_VOLATILE = ("sidecar.request.id",)

APART = Pause(0.02)
"""At least what is between two events."""

TIMER = 0.4
"""Seconds of every timer of the impatient sidecar."""

IDLE = 2.0
"""Seconds of the other one's: pings come several times as often on a busy machine too."""


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """A second upstream where nobody listens, and one whose name does not resolve."""
    return {"UPSTREAMS": f"dead=http://127.0.0.1:{free_port()},nowhere=http://nowhere.invalid"}


@pytest.fixture(scope="module")
def impatient_sink() -> Iterator[OtlpSink]:
    """A collector of its own, so that each has the metrics of one process."""
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def impatient(
    impatient_sink: OtlpSink, module_upstream: ScriptedUpstream, blackhole: int
) -> Iterator[RunningSidecar]:
    """A sidecar with short timers up to an answer's begin."""
    timers = ("CLIENT_HEAD", "CLIENT_BODY", "CONNECT", "FIRST_BYTE")
    settings = {f"{name}_TIMEOUT": f"{TIMER}s" for name in timers}
    settings |= {"UPSTREAMS": f"blackhole=http://127.0.0.1:{blackhole}"}
    running = RunningSidecar(upstream=module_upstream.url, sink=impatient_sink, settings=settings)
    with running:
        yield running


@pytest.fixture(scope="module")
def idle(impatient_sink: OtlpSink, module_upstream: ScriptedUpstream) -> Iterator[RunningSidecar]:
    """A sidecar that waits for an answer to begin, and not for one to go on."""
    settings = {"IDLE_TIMEOUT": f"{IDLE}s", "STALL_AFTER": "100ms"}
    running = RunningSidecar(upstream=module_upstream.url, sink=impatient_sink, settings=settings)
    with running:
        yield running


def named(session: str) -> bytes:
    """The header line that names a session."""
    return b"X-Sidecar-Session-Id: " + session.encode()


def who(session: str) -> dict[str, Any]:
    """What every span of a tracked request in a named session says about it."""
    return {
        "session.id": session,
        "sidecar.session.source": "own_header",
        "sidecar.conversation.id": "main",
        "gen_ai.conversation.id": session,
        "sidecar.request.sequence": 1,
    }


def server_attributes(session: str, request: bytes, **changed: Any) -> dict[str, Any]:
    """The SERVER span of a first chat turn; names of `changed` have `__` for dots, None takes one away."""
    attributes = {
        **who(session),
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/v1/chat/completions",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": "sidecar.test",
        "http.request.body.size": len(request.partition(b"\r\n\r\n")[2]),
        "sidecar.outcome": "completed",
        "sidecar.outcome.phase": "end",
        "sidecar.streaming": False,
        "sidecar.request.body.state": "read",
        "sidecar.upstream": "default",
        "sidecar.request.overlaps": 0,
        "sidecar.request.overlapped_by": 0,
        "sidecar.request.out_of_order.distance": 0,
        "sidecar.request.wait_avoided": 0.0,
        "sidecar.turn.relation": "first",
    }
    return _changed(attributes, changed)


def client_attributes(session: str, upstream: ScriptedUpstream, **changed: Any) -> dict[str, Any]:
    """The CLIENT span of a first chat turn; names of `changed` have `__` for dots, None takes one away."""
    attributes = {
        **who(session),
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "network.peer.address": "127.0.0.1",
        "sidecar.connection": "new",
        "sidecar.upstream": "default",
        "sidecar.request.messages": 1,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "openai.api.type": "chat_completions",
    }
    return _changed(attributes, changed)


ANSWERED = {
    "gen_ai__response__id": "chatcmpl-1",
    "gen_ai__response__model": "gpt-4o",
    "gen_ai__response__finish_reasons": ["stop"],
    "gen_ai__usage__input_tokens": 5,
    "gen_ai__usage__output_tokens": 7,
}


def _changed(attributes: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    merged = attributes | {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in merged.items() if value is not None}


def both(sink: OtlpSink, session: str) -> tuple[Span, Span]:
    """The SERVER and the CLIENT span of the one request of a session, after checking who is whose child."""
    server = sink.span(kind="SERVER", attributes={"session.id": session})
    client = sink.span(kind="CLIENT", attributes={"session.id": session})
    assert (client.trace_id, client.parent) == (server.trace_id, server.span_id)
    assert server.start <= client.start <= client.end <= server.end
    return server, client


def children(sink: OtlpSink, client: Span) -> dict[str, Span]:
    """The INTERNAL spans under a CLIENT span, by name."""
    spans = sink.find_spans(kind="INTERNAL", trace_id=client.trace_id)
    assert all(span.parent == client.span_id for span in spans)
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


CALL = (
    ("gen_ai.operation.name", "chat"),
    ("gen_ai.provider.name", "openai"),
    ("gen_ai.request.model", "gpt-4o"),
    ("gen_ai.response.model", "gpt-4o"),
    ("sidecar.streaming", False),
    ("sidecar.upstream", "default"),
)
UPSTREAM = (("sidecar.upstream", "default"),)
OWN_HEADER = (("sidecar.session.source", "own_header"),)


def _key(*pairs: tuple[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(pairs))


def without(pairs: tuple[tuple[str, object], ...], *names: str) -> tuple[tuple[str, object], ...]:
    """The pairs without those names."""
    return tuple(pair for pair in pairs if pair[0] not in names)


# --- completed


def test_completed(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any) -> None:
    """A whole chat completion: every attribute of its spans, every point it adds."""
    upstream.drop_connections()
    request = chat_request(headers=(named("completed"), b"User-Agent: test/1"), temperature=0.5)
    body = json.dumps(chat_completion()).encode()
    with measure() as measured:
        upstream.answer(answer(body, headers=(b"Content-Type: application/json", b"x-request-id: req_9")))
        said = exchange(sidecar.port, request)
        server, client = both(sink, "completed")
    assert said.get("x-sidecar-request-id") == str(server.attributes["sidecar.request.id"]).encode()
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        attributes=server_attributes(
            "completed", request, http__response__body__size=len(body), user_agent__original="test/1"
        ),
        ignoring=SERVER_VOLATILE,
    )
    expect_span(
        client,
        name="chat gpt-4o",
        kind="CLIENT",
        attributes=client_attributes(
            "completed",
            upstream,
            **ANSWERED,
            gen_ai__request__temperature=0.5,
            sidecar__upstream__request_id="req_9",
        ),
        ignoring=CLIENT_VOLATILE,
    )
    parts = children(sink, client)
    assert sorted(parts) == ["connect", "wait"]
    assert parts["connect"].attributes["sidecar.connection"] == "new"
    assert parts["connect"].end <= parts["wait"].start
    traceparent = upstream.request().get("traceparent")
    # The flags say sampled, and that the trace id is random (W3C Trace Context, level 2).
    assert traceparent == f"00-{client.trace_id}-{client.span_id}-03".encode()
    call = _key(*CALL, ("server.address", "127.0.0.1"), ("server.port", upstream.port))
    figures = {
        ("gen_ai.client.operation.duration", call): 1,
        ("gen_ai.client.token.usage", _key(*call, ("gen_ai.token.type", "input"))): 1,
        ("gen_ai.client.token.usage", _key(*call, ("gen_ai.token.type", "output"))): 1,
        (
            "http.server.request.duration",
            _key(
                ("http.request.method", "POST"),
                ("http.response.status_code", 200),
                ("http.route", "/v1/chat/completions"),
                ("url.scheme", "http"),
                *UPSTREAM,
            ),
        ): 1,
        ("sidecar.results", _key(("sidecar.result", "completed"), *UPSTREAM)): 1,
        **{
            ("sidecar.request.phase.duration", _key(("sidecar.request.phase", phase), *UPSTREAM)): 1
            for phase in ("body", "connect", "wait", "stream")
        },
        (
            "sidecar.requests",
            _key(
                *without(CALL, "gen_ai.response.model"),
                ("sidecar.outcome", "completed"),
                ("sidecar.outcome.phase", "end"),
            ),
        ): 1,
        (
            "sidecar.finish_reasons",
            _key(
                *without(CALL, "gen_ai.response.model", "sidecar.streaming"),
                ("sidecar.finish_reason", "stop"),
            ),
        ): 1,
        ("sidecar.identity", OWN_HEADER): 1,
        ("sidecar.sessions", OWN_HEADER): 1,
        ("sidecar.turns", UPSTREAM): 1,
        ("sidecar.turns.related", (("sidecar.turn.relation", "first"),)): 1,
        ("sidecar.conversation.concurrency", UPSTREAM): 1,
        ("sidecar.conversation.wait_avoided", UPSTREAM): 1,
    }
    assert measured.figures() == figures
    tokens = {
        change.attributes["gen_ai.token.type"]: change.sum
        for change in measured.changes
        if change.metric == "gen_ai.client.token.usage"
    }
    assert tokens == {"input": 5, "output": 7}


def test_completed_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """A stream with usage in its last chunk: chunk figures, and a `stream` span."""
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    events = [
        sse_event(chat_chunk("Hel")),
        sse_event(chat_chunk("lo")),
        b": ping\n\n",
        sse_event(chat_chunk("!")),
        sse_event(chat_chunk(finish_reason="stop")),
        sse_event(chat_chunk(usage=usage)),
        b"data: [DONE]\n\n",
    ]
    request = chat_request(stream=True, headers=(named("stream"),))
    gates = [Gate() for _ in events]
    steps = [
        step for event, gate in zip(events, gates, strict=True) for step in (Chunk(event), Wait(gate), APART)
    ]
    with measure() as measured:
        upstream.answer(*sse_head(), *steps, LastChunk())
        with RawClient(sidecar.port) as reader:
            reader.send(request)
            for event, gate in zip(events, gates, strict=True):
                reader.read_until(event)  # the sidecar has read it: the next one comes so much later
                gate.open()
            reader.read_until(b"0\r\n\r\n")
        server, client = both(sink, "stream")
    size = sum(map(len, events))
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        attributes=server_attributes(
            "stream", request, http__response__body__size=size, sidecar__streaming=True
        ),
        ignoring=SERVER_VOLATILE,
    )
    first_chunk = client.attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first_chunk, float)
    assert 0 < first_chunk < client.duration / 1e9
    stream = children(sink, client)["stream"]
    assert stream.attributes["sidecar.stream.bytes"] == size
    assert stream.attributes["sidecar.stream.chunks"] == 3
    assert stream.attributes["sidecar.stream.stalls"] == 0
    gap = stream.attributes["sidecar.stream.gap"]
    assert isinstance(gap, float)
    assert APART.seconds <= gap <= stream.duration / 1e9
    per_chunk = measured.one("gen_ai.client.operation.time_per_output_chunk")
    assert per_chunk.count == 2
    assert 3 * APART.seconds <= per_chunk.sum <= stream.duration / 1e9
    assert measured.one("gen_ai.client.operation.time_to_first_chunk").count == 1
    assert measured.one("sidecar.stream.bytes").value == size
    assert measured.one("sidecar.stream.gap").sum == pytest.approx(gap)


OPENAI = "/v1/chat/completions"
RESPONSES = "/v1/responses"
ANTHROPIC = "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse"


def _response(kind: str, **response: Any) -> tuple[str, Any]:
    value = {"id": "resp_1", "object": "response", "model": "gpt-4o", "output": [], **response}
    return f"response.{kind}", {"type": f"response.{kind}", "response": value}


def _claude(stop: str | None = None) -> list[Any]:
    start = {
        "id": "msg_1",
        "model": "claude",
        "role": "assistant",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    events: list[Any] = [
        ("message_start", {"type": "message_start", "message": start}),
        (
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        ),
    ]
    if stop:
        delta = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 4}}
        events += [("message_delta", delta), ("message_stop", {"type": "message_stop"})]
    return events


def _gemini(finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": "a"}]}, "index": 0} | (
        {"finishReason": finish} if finish else {}
    )
    return {"candidates": [candidate], "modelVersion": "gemini-2.0-flash", **more}


STREAM_ENDS: list[tuple[str, str, list[Any], str, list[str] | None]] = [
    ("chat done", OPENAI, [chat_chunk("a"), "[DONE]"], "completed", None),
    ("chat finish reason", OPENAI, [chat_chunk("a", finish_reason="length")], "completed", ["length"]),
    ("chat nothing", OPENAI, [chat_chunk("a")], "upstream_failed", None),
    ("responses completed", RESPONSES, [_response("completed", status="completed")], "completed", None),
    (
        "responses out of tokens",
        RESPONSES,
        [_response("incomplete", status="incomplete", incomplete_details={"reason": "max_output_tokens"})],
        "completed",
        ["max_output_tokens"],
    ),
    (
        "responses failed",
        RESPONSES,
        [_response("failed", status="failed", error={"code": "server_error", "message": "no"})],
        "error_in_stream",
        None,
    ),
    (
        "responses error",
        RESPONSES,
        [("error", {"type": "error", "code": "server_error"})],
        "error_in_stream",
        None,
    ),
    ("responses nothing", RESPONSES, [_response("created", status="in_progress")], "upstream_failed", None),
    ("messages stop", ANTHROPIC, _claude("end_turn"), "completed", ["end_turn"]),
    ("messages nothing", ANTHROPIC, _claude(), "upstream_failed", None),
    # OpenAI's terminator behind another API's stream: vLLM, LiteLLM (litellm#29201), Foundry (anthropic-sdk-csharp#202).
    ("messages stop and done", ANTHROPIC, [*_claude("end_turn"), "[DONE]"], "completed", ["end_turn"]),
    (
        "messages reason and done",
        ANTHROPIC,
        [*_claude("max_tokens")[:-1], "[DONE]"],
        "completed",
        ["max_tokens"],
    ),
    ("messages cut, and done", ANTHROPIC, [*_claude(), "[DONE]"], "upstream_failed", None),
    ("gemini reason and done", GEMINI, [_gemini("STOP"), "[DONE]"], "completed", ["STOP"]),
    ("gemini cut, and done", GEMINI, [_gemini(), " [DONE]"], "upstream_failed", None),
    (
        "messages error",
        ANTHROPIC,
        [*_claude(), ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "no"}})],
        "error_in_stream",
        None,
    ),
    ("gemini finish reason", GEMINI, [_gemini(), _gemini("STOP")], "completed", ["STOP"]),
    ("gemini blocked", GEMINI, [{"promptFeedback": {"blockReason": "SAFETY"}}], "completed", ["SAFETY"]),
    ("gemini nothing", GEMINI, [_gemini()], "upstream_failed", None),
    ("unknown route", "/v9/anything", [{"a": 1}], "completed", None),
]


@pytest.mark.parametrize(
    "name,path,events,outcome,reasons", STREAM_ENDS, ids=[case[0] for case in STREAM_ENDS]
)
def test_how_a_stream_may_end(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    name: str,
    path: str,
    events: list[Any],
    outcome: str,
    reasons: list[str] | None,
) -> None:
    """Each API's terminator, a finish reason and a clean end, an error event, or nothing of these."""
    session = "end-" + name.replace(" ", "-")
    upstream.answer(sse(events, done=False))
    exchange(sidecar.port, chat_request(path=path, stream=True, headers=(named(session),)))
    server, client = both(sink, session)
    assert server.attributes["sidecar.outcome"] == outcome
    expected = "UNSET" if outcome == "completed" else "ERROR"
    assert (server.status, client.status) == (expected, expected)
    assert "sidecar.anomalies" not in server.attributes
    if reasons is not None:
        assert client.attributes["gen_ai.response.finish_reasons"] == reasons


def test_leaving_right_after_the_end_is_completed(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """The terminator was seen, the connection's last byte was not: the first decisive fact wins."""
    gate = Gate()
    output = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    upstream.answer(sse_head(), Chunk(output + b"data: [DONE]\n\n"), Wait(gate), LastChunk())
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(named("after-end"),)))
        client.read_until(b"[DONE]\n\n")
    server, _ = both(sink, "after-end")
    gate.open()
    assert server.attributes["sidecar.outcome"] == "completed"


@pytest.mark.parametrize(
    "request_line,route", [("GET /v1/models", "/v1/models"), ("HEAD /v1/models", "/v1/models")]
)
def test_requests_that_are_no_turns_complete(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, request_line: str, route: str
) -> None:
    """They are requests of the session with a sequence, and have no figures of the queue."""
    method, path = request_line.split()
    session = f"no-turn-{method}"
    exchange(sidecar.port, request_bytes(method, path, headers=(named(session),)))
    server, client = both(sink, session)
    assert server.name == f"{method} {route}"
    assert server.attributes["sidecar.outcome"] == "completed"
    assert server.attributes["sidecar.request.sequence"] == 1
    assert "sidecar.request.overlaps" not in server.attributes
    assert client.name == f"{method} {route}"


# --- client_left


def test_client_left_mid_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """It went before the end: no error, and its phase."""
    gate = Gate()
    request = chat_request(stream=True, headers=(named("left-mid"),))
    with measure() as measured:
        upstream.answer(
            sse_head(), Chunk(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), Wait(gate)
        )
        with RawClient(sidecar.port) as client_side:
            client_side.send(request)
            client_side.read_until(b"\n\n\r\n")
        server, client = both(sink, "left-mid")
    gate.open()
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        attributes=server_attributes(
            "left-mid",
            request,
            http__response__body__size=50,
            sidecar__streaming=True,
            sidecar__outcome="client_left",
            sidecar__outcome__phase="mid_stream",
        ),
        ignoring=SERVER_VOLATILE,
    )
    assert (client.status, client.attributes.get("error.type")) == ("UNSET", None)
    requests = measured.one("sidecar.requests")
    assert requests.attributes == dict(
        _key(
            *without(CALL, "gen_ai.response.model", "sidecar.streaming"),
            ("sidecar.streaming", True),
            ("sidecar.outcome", "client_left"),
            ("sidecar.outcome.phase", "mid_stream"),
        )
    )
    assert not [change for change in measured.changes if change.metric == "sidecar.turns"]


def test_client_left_before_headers(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """It went while the upstream was silent."""
    gate = Gate()
    request = chat_request(headers=(named("left-early"),))
    upstream.answer(Wait(gate), answer(b"late"))
    with RawClient(sidecar.port) as client_side:
        client_side.send(request)
        upstream.request()
    server, client = both(sink, "left-early")
    gate.open()
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        attributes=server_attributes(
            "left-early",
            request,
            http__response__body__size=0,
            http__response__status_code=None,
            sidecar__outcome="client_left",
            sidecar__outcome__phase="before_headers",
        ),
        ignoring=SERVER_VOLATILE,
    )
    assert (client.status, client.attributes.get("http.response.status_code")) == ("UNSET", None)


def test_client_left_during_its_upload(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """A body that never ends: the request is one departure, and no upstream call where none was made."""
    head = (b"Content-Type: application/json", b"Content-Length: 100", named("left-upload"))
    with RawClient(sidecar.port) as client_side:
        client_side.send(request_bytes("POST", "/v1/chat/completions", headers=head) + b'{"model"')
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 1)
    server = sink.span(kind="SERVER", attributes={"session.id": "left-upload"})
    assert server.attributes["sidecar.outcome"] == "client_left"
    assert server.attributes["sidecar.outcome.phase"] == "before_headers"
    assert sink.find_spans(kind="CLIENT", trace_id=server.trace_id) == []
    assert upstream.requests == []


# --- upstream_rejected


@pytest.mark.parametrize(
    "status,server_status", [(400, "UNSET"), (429, "UNSET"), (500, "ERROR"), (503, "ERROR")]
)
def test_upstream_rejected(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    measure: Any,
    status: int,
    server_status: str,
) -> None:
    """An answer of 400 or more passes; the CLIENT span is an error, the SERVER span from 500 on."""
    session = f"rejected-{status}"
    request = chat_request(headers=(named(session),))
    body = {"error": {"message": "no", "type": "some_error", "code": "rate_limit_exceeded"}}
    exchange(sidecar.port, request_bytes("GET", "/warm"))
    with measure() as measured:
        upstream.answer(json_answer(body, status=status, reason=b"No"))
        said = exchange(sidecar.port, request)
        server, client = both(sink, session)
    assert said.status == status
    assert json.loads(said.body) == body
    failed = server_status == "ERROR"
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        status=server_status,
        attributes=server_attributes(
            session,
            request,
            http__response__body__size=len(said.body),
            http__response__status_code=status,
            sidecar__outcome="upstream_rejected",
            sidecar__outcome__phase="before_headers",
            error__type=str(status) if failed else None,
        ),
        ignoring=SERVER_VOLATILE,
    )
    expect_span(
        client,
        name="chat gpt-4o",
        kind="CLIENT",
        status="ERROR",
        attributes=client_attributes(
            session,
            upstream,
            http__response__status_code=status,
            error__type=str(status),
            sidecar__connection="reused",
            network__peer__address=None,
            sidecar__upstream__error="rate_limit_exceeded",
        ),
        ignoring=CLIENT_VOLATILE,
    )
    assert sorted(children(sink, client)) == ["wait"]
    duration = measured.one("gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == str(status)
    assert measured.one("sidecar.requests").attributes["sidecar.outcome"] == "upstream_rejected"


# --- upstream_failed

CUT = (Status(), Header(b"Content-Length: 100"), Bytes(b"abc"))
FAILURES: list[tuple[str, str, Script, str, str, int | None]] = [
    ("refused", "/dead/v1/chat/completions", (), "connection_refused", "connect", 502),
    ("dns", "/nowhere/v1/chat/completions", (), "dns", "connect", 502),
    ("reset", "/v1/chat/completions", (Reset(),), "connection_reset", "before_headers", 502),
    ("silent end", "/v1/chat/completions", (End(),), "connection_reset", "before_headers", 502),
    (
        "garbage",
        "/v1/chat/completions",
        (Garbage(b"\x00\x01nonsense\r\n\r\n"),),
        "malformed",
        "before_headers",
        502,
    ),
    ("cut by end", "/v1/chat/completions", (*CUT, End()), "cut_short", "mid_stream", None),
    ("cut by reset", "/v1/chat/completions", (*CUT, Reset()), "cut_short", "mid_stream", None),
    (
        "bad chunk",
        "/v1/chat/completions",
        (Status(), Header(b"Transfer-Encoding: chunked"), Chunk(b"abc"), Garbage(b"zz\r\n")),
        "malformed",
        "mid_stream",
        None,
    ),
]


@pytest.mark.parametrize("name,path,script,word,phase,status", FAILURES, ids=[case[0] for case in FAILURES])
def test_upstream_failed(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    name: str,
    path: str,
    script: Script,
    word: str,
    phase: str,
    status: int | None,
) -> None:
    """Refused, reset, malformed, cut short: a provider-shaped 502 with a hint, or a broken answer."""
    session = "failed-" + name.replace(" ", "-")
    upstream.answer(*script)
    upstream.drop_connections()
    with RawClient(sidecar.port) as client_side:
        client_side.send(chat_request(path=path, headers=(named(session),)))
        if status is None:
            with pytest.raises((EOFError, ConnectionResetError)):
                client_side.read_answer("POST")
        else:
            said = client_side.read_answer("POST")
            error = json.loads(said.body)["error"]
            assert (said.status, error["code"]) == (status, "upstream_failed")
            assert "(" in error["message"]
    server, client = both(sink, session)
    assert server.attributes["sidecar.outcome"] == "upstream_failed"
    assert server.attributes["sidecar.outcome.phase"] == phase
    assert server.attributes["http.response.status_code"] == (status or 200)
    for span in (server, client):
        assert (span.status, span.attributes["error.type"]) == ("ERROR", word)
    assert client.attributes.get("http.response.status_code") == (200 if status is None else None)
    if phase == "connect":
        assert list(children(sink, client)) == ["connect"]


def test_a_stream_without_its_end_is_cut_short(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """Clean framing is not enough: neither terminator nor finish reason means that something is missing."""
    request = chat_request(stream=True, headers=(named("no-end"),))
    with measure() as measured:
        upstream.answer(sse([chat_chunk("a")], done=False))
        said = exchange(sidecar.port, request)
        server, client = both(sink, "no-end")
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        status="ERROR",
        attributes=server_attributes(
            "no-end",
            request,
            http__response__body__size=len(said.body),
            sidecar__streaming=True,
            sidecar__outcome="upstream_failed",
            sidecar__outcome__phase="mid_stream",
            error__type="cut_short",
        ),
        ignoring=SERVER_VOLATILE,
    )
    assert client.status == "ERROR"
    assert measured.one("sidecar.finish_reasons").attributes["sidecar.finish_reason"] == "missing"


# --- error_in_stream


def test_error_in_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """An error event inside a 200 stream: the status says fine, the outcome does not."""
    request = chat_request(stream=True, headers=(named("stream-error"),))
    error = {"error": {"message": "boom", "type": "server_error", "code": "rate_limit_exceeded"}}
    exchange(sidecar.port, request_bytes("GET", "/warm"))
    with measure() as measured:
        upstream.answer(sse([chat_chunk("a"), error]))
        said = exchange(sidecar.port, request)
        server, client = both(sink, "stream-error")
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        status="ERROR",
        attributes=server_attributes(
            "stream-error",
            request,
            http__response__body__size=len(said.body),
            sidecar__streaming=True,
            sidecar__outcome="error_in_stream",
            sidecar__outcome__phase="mid_stream",
            error__type="rate_limit_exceeded",
        ),
        ignoring=SERVER_VOLATILE,
    )
    expect_span(
        client,
        name="chat gpt-4o",
        kind="CLIENT",
        status="ERROR",
        attributes=client_attributes(
            "stream-error",
            upstream,
            gen_ai__request__stream=True,
            gen_ai__response__id="chatcmpl-1",
            gen_ai__response__model="gpt-4o",
            error__type="rate_limit_exceeded",
            sidecar__connection="reused",
            network__peer__address=None,
            sidecar__upstream__error="rate_limit_exceeded",
        ),
        ignoring=(*CLIENT_VOLATILE, "gen_ai.response.time_to_first_chunk"),
    )
    requests = measured.one("sidecar.requests").attributes
    assert (requests["sidecar.outcome"], requests["error.type"]) == ("error_in_stream", "rate_limit_exceeded")


# --- timed_out


def _timed_out(span: Span, timer: str, phase: str, status: int | None) -> None:
    assert span.attributes["sidecar.outcome"] == "timed_out"
    assert span.attributes["sidecar.outcome.phase"] == phase
    assert span.attributes["error.type"] == f"timeout.{timer}"
    assert span.attributes.get("http.response.status_code") == status
    assert span.status == "ERROR"
    assert span.duration >= (IDLE if timer == "idle" else TIMER) * 1e9


def test_timed_out_client_head(impatient: RunningSidecar, impatient_sink: OtlpSink) -> None:
    """A head that never ends is answered 408 and closed, and is one exchange."""
    with RawClient(impatient.port) as client:
        client.send(b"GET /slow-head HTTP/1.1\r\nX-Sidecar-Session-Id: slow-head\r\nX-Unfini")
        said = client.read_answer()
        assert said.status == 408
        assert "SIDECAR_CLIENT_HEAD_TIMEOUT" in json.loads(said.body)["error"]["message"]
        assert client.is_closed()
    span = impatient_sink.span(kind="SERVER", attributes={"session.id": "slow-head"})
    _timed_out(span, "client_head", "head", 408)


def test_timed_out_client_body(impatient: RunningSidecar, impatient_sink: OtlpSink) -> None:
    """A body that stops coming is answered 408 and closed; the upstream never heard of it."""
    head = (b"Content-Type: application/json", b"Content-Length: 100", named("slow-body"))
    with RawClient(impatient.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=head) + b"{")
        said = client.read_answer("POST")
        assert said.status == 408
        assert client.is_closed()
    span = impatient_sink.span(kind="SERVER", attributes={"session.id": "slow-body"})
    _timed_out(span, "client_body", "head", 408)
    assert said.get("x-sidecar-request-id") == str(span.attributes["sidecar.request.id"]).encode()
    assert impatient_sink.find_spans(kind="CLIENT", trace_id=span.trace_id) == []


def test_timed_out_connect(impatient: RunningSidecar, impatient_sink: OtlpSink) -> None:
    """No connection stood in time: 504 that names the setting, and a `connect` span as long as the wait."""
    said = exchange(
        impatient.port, chat_request(path="/blackhole/v1/chat/completions", headers=(named("no-connect"),))
    )
    assert "SIDECAR_CONNECT_TIMEOUT" in json.loads(said.body)["error"]["message"]
    server, client = both(impatient_sink, "no-connect")
    _timed_out(server, "connect", "connect", 504)
    assert client.status == "ERROR"
    (connect,) = children(impatient_sink, client).values()
    assert (connect.name, connect.status) == ("connect", "ERROR")
    assert connect.duration >= TIMER * 1e9


def test_timed_out_first_byte(
    impatient: RunningSidecar, upstream: ScriptedUpstream, impatient_sink: OtlpSink
) -> None:
    """The upstream never begins to answer: 504 that names the setting, its connection closed."""
    gate = Gate()
    request = chat_request(headers=(named("no-byte"),))
    upstream.answer(Wait(gate))
    said = exchange(impatient.port, request)
    upstream.closed(upstream.request())
    gate.open()
    assert "SIDECAR_FIRST_BYTE_TIMEOUT" in json.loads(said.body)["error"]["message"]
    server, client = both(impatient_sink, "no-byte")
    _timed_out(server, "first_byte", "before_headers", 504)
    expect_span(
        server,
        name="POST /v1/chat/completions",
        kind="SERVER",
        status="ERROR",
        attributes=server_attributes(
            "no-byte",
            request,
            http__response__body__size=0,
            http__response__status_code=504,
            sidecar__outcome="timed_out",
            sidecar__outcome__phase="before_headers",
            error__type="timeout.first_byte",
        ),
        ignoring=SERVER_VOLATILE,
    )
    assert (client.status, client.attributes["error.type"]) == ("ERROR", "timeout.first_byte")


def test_timed_out_idle_after_stalls(
    idle: RunningSidecar, upstream: ScriptedUpstream, impatient_sink: OtlpSink
) -> None:
    """An answer falls silent: a stall is seen while it lasts, then the answer is broken off."""
    gate = Gate()
    upstream.answer(sse_head(), Chunk(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), Wait(gate))
    with RawClient(idle.port) as client_side:
        client_side.send(chat_request(stream=True, headers=(named("idle"),)))
        with pytest.raises((EOFError, ConnectionResetError)):
            client_side.read_answer("POST")
    server, client = both(impatient_sink, "idle")
    gate.open()
    _timed_out(server, "idle", "mid_stream", 200)
    stream = children(impatient_sink, client)["stream"]
    assert [event.name for event in stream.events] == ["sidecar.request.stalled"]
    assert stream.attributes["sidecar.stream.stalls"] == 1
    gap = stream.attributes["sidecar.stream.gap"]
    assert isinstance(gap, float)
    assert gap >= IDLE, "the silence that ended it was its longest"


def test_pings_keep_a_stream_alive_but_stalled(
    idle: RunningSidecar, upstream: ScriptedUpstream, impatient_sink: OtlpSink
) -> None:
    """Two clocks: comments move the bytes' (no time-out), not the events' (a stall)."""
    pings: list[Any] = []
    for _ in range(12):
        pings += [Pause(IDLE / 10), Chunk(b": ping\n\n")]
    end = (Chunk(b"data: [DONE]\n\n"), LastChunk())
    upstream.answer(sse_head(), Chunk(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), *pings, *end)
    exchange(idle.port, chat_request(stream=True, headers=(named("pings"),)))
    server, client = both(impatient_sink, "pings")
    assert server.attributes["sidecar.outcome"] == "completed"
    stream = children(impatient_sink, client)["stream"]
    assert stream.attributes["sidecar.stream.stalls"] == 1
    gap = stream.attributes["sidecar.stream.gap"]
    assert isinstance(gap, float)
    assert gap >= IDLE


# --- refused


def test_refused(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any) -> None:
    """A WebSocket upgrade: answered 426, no upstream call, no place in the conversation."""
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", named("refused"))
    with measure() as measured:
        said = exchange(sidecar.port, request_bytes("GET", "/v1/responses", headers=upgrade))
        server = sink.span(kind="SERVER", attributes={"session.id": "refused"})
    assert said.status == 426
    assert upstream.requests == []
    assert sink.find_spans(kind="CLIENT", trace_id=server.trace_id) == []
    attributes = server_attributes(
        "refused",
        b"",
        http__request__method="GET",
        http__response__status_code=426,
        http__response__body__size=0,
        url__path="/v1/responses",
        http__route=server.attributes["http.route"],
        sidecar__outcome="refused",
        sidecar__outcome__phase="head",
        sidecar__request__body__state="none",
        sidecar__request__sequence=None,
        sidecar__request__overlaps=None,
        sidecar__request__overlapped_by=None,
        sidecar__request__out_of_order__distance=None,
        sidecar__turn__relation=None,
        sidecar__request__wait_avoided=None,
    )
    volatile = ("client.port", "sidecar.request.id")
    expect_span(server, name=server.name, kind="SERVER", attributes=attributes, ignoring=volatile)
    request_id = str(server.attributes["sidecar.request.id"])
    assert request_id.startswith("refused:main:0:"), "it has an id, and no number"
    assert said.get("x-sidecar-request-id") == request_id.encode()
    assert sidecar.wait_log("sidecar.request.failed", session_id="refused")["request_id"] == request_id
    assert {change.metric for change in measured.changes} == {
        "http.server.request.duration",
        "sidecar.requests",
        "sidecar.results",
    }
    assert measured.one("sidecar.results").attributes == {
        "sidecar.result": "refused",
        "sidecar.upstream": "default",
    }
    assert measured.one("sidecar.requests").attributes["sidecar.outcome"] == "refused"


# --- internal_error


class _Broken(SessionManager):
    """A session manager with a bug."""

    def arrive(self, *args: Any, **kwargs: Any) -> Any:
        """Fails for one session."""
        raise ZeroDivisionError("a bug, injected")


@contextmanager
def _in_process(upstream: ScriptedUpstream, sink: OtlpSink) -> Iterator[int]:
    """The production server in a thread of this process, with a broken part; gives its port."""
    port = free_port()
    environ = {
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        "SIDECAR_UPSTREAM": upstream.url,
        **sink.environ(),
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sidecar-in-process")
    thread.start()

    async def make() -> Sidecar:
        running = Sidecar(load({}, environ), sessions=_Broken())
        await running.start()
        return running

    running = asyncio.run_coroutine_threadsafe(make(), loop).result(60)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(running.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def test_internal_error(upstream: ScriptedUpstream) -> None:
    """A bug of ours: 500 that tells nothing of it, an error span, and the server serves on."""
    with OtlpSink() as sink, _in_process(upstream, sink) as port:
        for number in range(2):
            said = exchange(port, chat_request(headers=(named(f"bug-{number}"),)))
            assert (said.status, json.loads(said.body)["error"]["code"]) == (500, "internal_error")
            assert b"ZeroDivision" not in said.body
            span = sink.span(kind="SERVER", attributes={"session.id": f"bug-{number}"})
            assert span.attributes["sidecar.outcome"] == "internal_error"
            assert (span.status, span.attributes["error.type"]) == ("ERROR", "internal_error")
            assert "ZeroDivision" not in span.status_message
        sink.wait_for(lambda: _internal_errors(sink) == 2)


def _internal_errors(sink: OtlpSink) -> float:
    found = [
        point.value or 0
        for point in sink.points
        if point.metric == "sidecar.requests" and point.attributes["sidecar.outcome"] == "internal_error"
    ]
    return max(found, default=0)
