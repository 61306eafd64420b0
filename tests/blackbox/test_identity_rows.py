"""Every row of the identity table: a request goes in, its spans say who it was and how that is known."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

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
    Wait,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    sse_event,
    sse_head,
)

OTHER = "0f8fad5b-d9cb-469f-a165-70867728950f"
KEYED = "01a22612-7b3a-72a5-bdc4-58ff59815dae"
CACHED = "866553a3-d84c-49c5-b479-cbf7b21a505f"
HEX = "0f8fad5bd9cb469fa16570867728951a"
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """The operator's own names, and a limit that a small body is over."""
    return {
        "SESSION_HEADERS": "X-Team-Session, X-Other-Session",
        "CONVERSATION_HEADERS": "X-Team-Thread",
        "SESSION_FIELDS": "meta.run",
        "CONVERSATION_FIELDS": "meta.thread",
        "INSPECT_LIMIT": "4KiB",
    }


class Row(NamedTuple):
    """A request's header lines and body fields, and what its spans must say."""

    name: str
    source: str
    session: str | None
    headers: tuple[str, ...] = ()
    body: dict[str, Any] = {}  # noqa: RUF012 - never changed
    conversation: str = "main"
    supplied: bool = False
    more: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _known(header: str) -> Row:
    session = f"known-{header.lower()}"
    return Row(f"known {header}", "known_header", session, (f"{header}: {session}",))


KNOWN = (
    "X-Claude-Code-Session-Id",
    "session-id",
    "session_id",
    "x-opencode-session",
    "X-Qwen-Code-Session-Id",
    "agent-session-id",
    "x-session-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
    "x-bf-session-id",
    "Helicone-Session-Id",
    "x-portkey-trace-id",
    "x-session-affinity",
    "X-OpenWebUI-Chat-Id",
)

CODEX = {"session_id": "codex-s", "thread_id": "codex-t", "agent_name": "coder", "request_kind": "turn"}

SESSION_ROWS = [
    Row("own", "own_header", "own-1", ("X-Sidecar-Session-Id: own-1",)),
    Row("configured", "configured_header", "team-1", ("X-Team-Session: team-1",)),
    Row("second configured", "configured_header", "team-2", ("x-other-session: team-2",)),
    *map(_known, KNOWN),
    Row(
        "codex metadata",
        "known_header",
        "codex-s",
        (f"x-codex-turn-metadata: {json.dumps(CODEX)}",),
        conversation="codex-t",
        supplied=True,
        more={"sidecar.agent": "coder", "sidecar.request.kind": "turn"},
    ),
    Row("vendor", "vendor_header", "vendor-12", ("X-Acme-Session-Id: vendor-12",)),
    Row("vendor, too short", "generated", None, ("X-Acme-Session-Id: short",)),
    Row("baggage", "baggage", "bag-1", ("baggage: a=1,session.id=bag-1;p=2",)),
    Row("langfuse baggage", "baggage", "bag 2", ("baggage: langfuse_session_id=bag%202",)),
    Row("configured field", "body", "run-1", body={"meta": {"run": "run-1"}}),
    Row("session_id", "body", "body-1", body={"session_id": "body-1"}),
    Row("litellm_session_id", "body", "body-2", body={"litellm_session_id": "body-2"}),
    Row("metadata.session_id", "body", "body-3", body={"metadata": {"session_id": "body-3"}}),
    Row(
        "user_id, JSON",
        "body",
        "body-4",
        body={"metadata": {"user_id": json.dumps({"session_id": "body-4"})}},
    ),
    Row("user_id, suffix", "body", UUID, body={"metadata": {"user_id": f"user_ab_account__session_{UUID}"}}),
    Row(
        "conversation",
        "body",
        "conv_1",
        body={"conversation": "conv_1"},
        conversation="conv_1",
        supplied=True,
    ),
    Row(
        "conversation.id",
        "body",
        "conv_2",
        body={"conversation": {"id": "conv_2"}},
        conversation="conv_2",
        supplied=True,
    ),
    Row("litellm_trace_id", "body", "body-5", body={"litellm_trace_id": "body-5"}),
    Row(
        "metadata.sessionId",
        "body",
        "body-6",
        body={"metadata": {"sessionId": "body-6", "promptId": "body-6########2"}},
    ),
    Row(
        "metadata.promptId of a side agent",
        "body",
        "body-7",
        body={"metadata": {"sessionId": "body-7", "promptId": "body-7#memory-1f2e#3"}},
        conversation="memory-1f2e",
        supplied=True,
    ),
    Row("user_id, bare", "body", OTHER, body={"metadata": {"user_id": f"session_{OTHER}"}}),
    Row("prompt_cache_key, uuid", "cache_key", KEYED, body={"prompt_cache_key": KEYED}),
    Row("prompt_cache_key, session_", "cache_key", CACHED, body={"prompt_cache_key": f"session_{CACHED}"}),
    Row("prompt_cache_key, hex", "cache_key", f"app-{HEX}", body={"prompt_cache_key": f"app-{HEX}"}),
    Row("prompt_cache_key, hex and more", "generated", None, body={"prompt_cache_key": HEX + "0"}),
    Row(
        "prompt_cache_key, ses_",
        "generated",
        None,
        body={"prompt_cache_key": "ses_dd9f6b979ffeuXscq5Jy5dyK1P"},
    ),
    Row(
        "prompt_cache_key behind a field",
        "body",
        "body-8",
        body={"prompt_cache_key": UUID.replace("0f", "1f"), "session_id": "body-8"},
    ),
    Row(
        "x-parent-session-id",
        "known_header",
        "ses_parent",
        ("x-session-id: ses_child", "x-session-affinity: ses_child", "x-parent-session-id: ses_parent"),
        conversation="ses_child",
        supplied=True,
        more={"sidecar.conversation.parent": "main"},
    ),
    Row("prompt_cache_key", "generated", None, body={"prompt_cache_key": "shared-by-all"}),
    Row("user", "generated", None, body={"user": "u-1"}),
    Row("nothing", "generated", None),
    Row("too large", "uninspected", None, body={"session_id": "never", "x": "y" * 5000}),
]


def _thread(name: str, *headers: str, conversation: str, **more: Any) -> Row:
    session = f"thread-{name.replace(' ', '-')}"
    headers = (f"X-Sidecar-Session-Id: {session}", *headers)
    return Row(f"conversation {name}", "own_header", session, headers, {}, conversation, True, more)


def _thread_in_body(name: str, conversation: str, body: dict[str, Any]) -> Row:
    session = f"thread-{name}"
    header = f"X-Sidecar-Session-Id: {session}"
    return Row(f"conversation {name}", "own_header", session, (header,), body, conversation, True)


SPAWNED = {"thread_id": "t-12", "parent_thread_id": "t-root", "subagent_kind": "thread_spawn"}
IN_A_TURN = {
    "thread_id": "t-15",
    "turn_id": "turn-2",
    "parent_turn_id": "turn-1",
    "root_turn_id": "turn-0",
    "thread_source": "subagent",
}

CONVERSATION_ROWS = [
    _thread("own", "X-Sidecar-Conversation-Id: t-1", conversation="t-1"),
    _thread("configured", "x-team-thread: t-2", conversation="t-2"),
    _thread("thread-id", "thread-id: t-3", conversation="t-3"),
    _thread("thread_id", "thread_id: t-4", conversation="t-4"),
    _thread("conversation_id", "conversation_id: t-5", conversation="t-5"),
    _thread(
        "agent",
        "x-claude-code-agent-id: t-6",
        conversation="t-6",
        **{"sidecar.agent": "t-6", "sidecar.conversation.parent": "main"},
    ),
    _thread(
        "sub-agent",
        "x-claude-code-agent-id: t-7",
        "x-claude-code-parent-agent-id: t-6",
        conversation="t-7",
        **{"sidecar.agent": "t-7", "sidecar.agent.parent": "t-6", "sidecar.conversation.parent": "t-6"},
    ),
    _thread(
        "codex sub-agent",
        f"x-codex-turn-metadata: {json.dumps(SPAWNED)}",
        "x-codex-parent-thread-id: t-root",
        "x-openai-subagent: collab_spawn",
        conversation="t-12",
        **{"sidecar.conversation.parent": "t-root", "sidecar.agent.kind": "collab_spawn"},
    ),
    _thread(
        "codex sub-agent, by its metadata",
        f"x-codex-turn-metadata: {json.dumps(SPAWNED)}",
        conversation="t-12",
        **{"sidecar.conversation.parent": "t-root", "sidecar.agent.kind": "thread_spawn"},
    ),
    _thread(
        "codex turn",
        f"x-codex-turn-metadata: {json.dumps(IN_A_TURN)}",
        conversation="t-15",
        **{
            "sidecar.agent.turn": "turn-2",
            "sidecar.agent.turn.parent": "turn-1",
            "sidecar.agent.turn.root": "turn-0",
            "sidecar.conversation.source": "subagent",
        },
    ),
    _thread(
        "copilot",
        "conversation_id: t-13",
        "x-initiator: agent",
        "x-interaction-type: conversation-subagent",
        conversation="t-13",
        **{"sidecar.request.initiator": "agent", "sidecar.request.kind": "conversation-subagent"},
    ),
    _thread("copilot, odd", "conversation_id: t-14", "x-initiator: nobody", conversation="t-14"),
    _thread("baggage", "baggage: gen_ai.conversation.id=t-8", conversation="t-8"),
    _thread_in_body("field", "t-9", {"meta": {"thread": "t-9"}}),
    _thread_in_body("metadata", "t-10", {"metadata": {"conversation_id": "t-10"}}),
    _thread_in_body("conversation", "t-11", {"conversation": "t-11"}),
]

ROWS = SESSION_ROWS + CONVERSATION_ROWS

WHO = (
    "session.id",
    "sidecar.session.source",
    "sidecar.conversation.id",
    "gen_ai.conversation.id",
    "sidecar.agent",
    "sidecar.agent.parent",
    "sidecar.agent.kind",
    "sidecar.agent.turn",
    "sidecar.agent.turn.parent",
    "sidecar.agent.turn.root",
    "sidecar.conversation.parent",
    "sidecar.conversation.source",
    "sidecar.request.initiator",
    "sidecar.request.kind",
    "sidecar.request.sequence",
    "sidecar.anomalies",
)


def send(sidecar: RunningSidecar, row: Row) -> str:
    """Sends the row's request; gives the request id that the client was told."""
    headers = [line.encode() for line in row.headers]
    said = exchange(sidecar.port, chat_request(headers=headers, **row.body))
    request_id = said.get("x-sidecar-request-id")
    assert request_id is not None
    return request_id.decode()


def spans_of(sink: OtlpSink, request_id: str) -> tuple[Span, Span]:
    """The SERVER and the CLIENT span of a request."""
    wanted = {"sidecar.request.id": request_id}
    return sink.span(kind="SERVER", attributes=wanted), sink.span(kind="CLIENT", attributes=wanted)


def identity(span: Span) -> dict[str, Any]:
    """What a span says about who was talking."""
    return {name: span.attributes[name] for name in WHO if name in span.attributes}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, row: Row) -> None:
    """Session, source, conversation and what belongs to them are exactly these, on every span."""
    upstream.answer(json_answer({"choices": [{"index": 0, "finish_reason": "stop"}]}))
    request_id = send(sidecar, row)
    server, client = spans_of(sink, request_id)
    made_up = row.session is None
    session = server.attributes["session.id"]
    expected = {
        "session.id": session if made_up else row.session,
        "sidecar.session.source": row.source,
        "sidecar.conversation.id": row.conversation,
        "sidecar.request.sequence": 1,
        **row.more,
    }
    if row.supplied:
        expected["gen_ai.conversation.id"] = row.conversation
    elif not made_up:
        expected["gen_ai.conversation.id"] = row.session
    if row.source == "uninspected":
        expected["sidecar.anomalies"] = ["body_too_large"]
    assert identity(server) == expected
    shared = {name: value for name, value in expected.items() if name in client.attributes}
    assert identity(client) == shared
    assert request_id.split(":")[:3] == [str(session), row.conversation, "1"]
    if made_up:
        assert len(str(session)) >= 16


def test_requests_that_are_no_turns_are_told_apart(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, measure: Any
) -> None:
    """Probes and lists of models are not counted as turns that name no session, nor as ones that do."""
    with measure() as measured:
        for headers in ((), (b"X-Sidecar-Session-Id: lists",)):
            upstream.answer(json_answer({"data": []}))
            exchange(sidecar.port, request_bytes("GET", "/v1/models", headers=headers))
    point = measured.one("sidecar.identity")
    assert (point.attributes, point.value) == ({"sidecar.session.source": "no_turn"}, 2)


def test_only_our_own_headers_stop_here(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """All others that name a session pass: some providers need them. Baggage stays unless it is allowed."""
    names = (*KNOWN, "X-Team-Session", "x-codex-turn-metadata", "thread-id", "x-claude-code-agent-id")
    lines = [f"{name}: v-{index}".encode() for index, name in enumerate(names)]
    own = [b"X-Sidecar-Session-Id: s", b"x-sidecar-conversation-id: c", b"baggage: session.id=b"]
    exchange(sidecar.port, chat_request(headers=[*own, *lines]))
    got = upstream.request()
    for index, name in enumerate(names):
        assert got.get(name) == b"v-%d" % index
    for name in ("x-sidecar-session-id", "x-sidecar-conversation-id", "baggage"):
        assert got.get(name) is None


LADDER = (
    ("own_header", "X-Sidecar-Session-Id: ladder-1"),
    ("configured_header", "X-Team-Session: ladder-2"),
    ("known_header", "x-session-id: ladder-3"),
    ("vendor_header", "x-acme-session-id: ladder-4"),
    ("baggage", "baggage: session.id=ladder-5"),
)


@pytest.mark.parametrize("first", range(len(LADDER) + 1))
def test_the_first_rule_wins(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, first: int
) -> None:
    """Of several words for the session, the one that stands higher in the table counts."""
    lines = tuple(line for _, line in reversed(LADDER[first:]))
    row = Row("", "", "", lines, {"session_id": "ladder-6"})
    server, _ = spans_of(sink, send(sidecar, row))
    source = LADDER[first][0] if first < len(LADDER) else "body"
    assert server.attributes["session.id"] == f"ladder-{first + 1}"
    assert server.attributes["sidecar.session.source"] == source


def test_the_response_chain(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """A response that continues one of an unnamed request: both belong to the id that was made up."""

    def ask(previous: str | None, answer_id: str) -> tuple[Span, Span]:
        upstream.answer(
            json_answer(
                {
                    "id": answer_id,
                    "object": "response",
                    "status": "completed",
                    "model": "gpt-4o",
                    "output": [],
                }
            )
        )
        body = {"model": "gpt-4o", "input": "Hi"} | ({"previous_response_id": previous} if previous else {})
        kind = b"Content-Type: application/json"
        request = request_bytes("POST", "/v1/responses", headers=(kind,), body=json.dumps(body).encode())
        said = exchange(sidecar.port, request)
        return spans_of(sink, (said.get("x-sidecar-request-id") or b"").decode())

    first, _ = ask(None, "resp_chain_1")
    second, _ = ask("resp_chain_1", "resp_chain_2")
    third, _ = ask("resp_chain_2", "resp_chain_3")
    assert first.attributes["sidecar.session.source"] == "generated"
    for span, before in ((second, first), (third, second)):
        assert span.attributes["session.id"] == first.attributes["session.id"]
        assert span.attributes["sidecar.session.source"] == "response_chain"
        assert "gen_ai.conversation.id" not in span.attributes, "nobody supplied one"
        links = [link for link in span.links if link.attributes["sidecar.link"] == "continues"]
        assert [link.span_id for link in links] == [before.span_id]
    stranger, _ = ask("resp_never_seen", "resp_chain_4")
    assert stranger.attributes["sidecar.session.source"] == "generated"


def test_only_responses_take_room_in_the_chain(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Ids that no `previous_response_id` can name are not remembered, and push nothing out."""
    sidecar = start_sidecar(settings={"RESPONSE_CHAIN_LIMIT": "1"})

    def ask(path: str, answer: dict[str, object], **body: Any) -> Span:
        upstream.answer(json_answer(answer))
        said = exchange(sidecar.port, chat_request(path=path, **body))
        return spans_of(sink, (said.get("x-sidecar-request-id") or b"").decode())[0]

    first = ask("/v1/responses", {"id": "resp_1", "object": "response", "status": "completed"})
    ask("/v1/chat/completions", {"id": "chatcmpl-1", "object": "chat.completion", "choices": []})
    ask("/v1/messages", {"id": "msg_1", "type": "message", "content": []})
    ask("/v1/completions", {"id": "cmpl-1", "object": "text_completion", "choices": []})
    ask("/v1beta/models/g:generateContent", {"responseId": "g1", "candidates": []})
    second = ask("/v1/responses", {"id": "resp_2"}, previous_response_id="resp_1")
    assert second.attributes["session.id"] == first.attributes["session.id"]
    assert second.attributes["sidecar.session.source"] == "response_chain"


def test_an_answer_can_be_continued_before_it_has_ended(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Its id is known from its first event on; one that arrives at its head is linked as well."""
    gate = Gate()
    created = {"type": "response.created", "response": {"id": "resp_live", "model": "gpt-4o"}}
    upstream.answer(*sse_head(), Chunk(sse_event(created)), Wait(gate), LastChunk())

    def ask(*lines: bytes, **body: str | bool) -> bytes:
        headers = (b"Content-Type: application/json", *lines)
        text = json.dumps({"model": "gpt-4o", "input": "Hi"} | body).encode()
        return request_bytes("POST", "/v1/responses", headers=headers, body=text)

    with RawClient(sidecar.port) as client:
        client.send(ask(b"X-Sidecar-Session-Id: live-chain", stream=True))
        client.read_until(b"resp_live")
        unnamed = exchange(sidecar.port, ask(previous_response_id="resp_live"))
        named_lines = (b"X-Sidecar-Session-Id: live-named", b"X-Sidecar-Conversation-Id: c")
        named = exchange(sidecar.port, ask(*named_lines, previous_response_id="resp_live"))
        gate.open()
    first = sink.span(kind="SERVER", attributes={"session.id": "live-chain", "sidecar.streaming": True})
    for said, session, source in (
        (unnamed, "live-chain", "response_chain"),
        (named, "live-named", "own_header"),
    ):
        span, _ = spans_of(sink, (said.get("x-sidecar-request-id") or b"").decode())
        assert (span.attributes["session.id"], span.attributes["sidecar.session.source"]) == (session, source)
        links = [link for link in span.links if link.attributes["sidecar.link"] == "continues"]
        assert [link.span_id for link in links] == [first.span_id]


@pytest.mark.parametrize(
    "path,body,provider",
    [
        ("/v1/messages", {"model": "claude", "max_tokens": 1, "messages": []}, "anthropic"),
        ("/v1/responses", {"model": "gpt-4o", "input": "x"}, "openai"),
        ("/v1/embeddings", {"model": "e", "input": "x"}, "openai"),
        ("/v1/completions", {"model": "m", "prompt": "x"}, "openai"),
        ("/v1internal:generateContent", {"model": "g", "request": {"contents": []}}, "gcp.gen_ai"),
        ("/anything/else", {"some": "thing"}, None),
    ],
)
def test_every_route_reads_the_body(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    path: str,
    body: dict[str, Any],
    provider: str | None,
) -> None:
    """The same fields name the session on every API, and on routes that nobody knows."""
    session = "route" + path.replace("/", "-")
    data = json.dumps(body | {"metadata": {"session_id": session, "user_id": "u"}}).encode()
    exchange(
        sidecar.port, request_bytes("POST", path, headers=(b"Content-Type: application/json",), body=data)
    )
    span = sink.span(kind="CLIENT", attributes={"session.id": session})
    assert span.attributes["sidecar.session.source"] == "body"
    assert span.attributes.get("gen_ai.provider.name") == provider


def test_identity_is_counted_by_source(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Callable[[], Any]
) -> None:
    """`sidecar.identity` tells, for all rows at once, how much traffic names its session."""
    with measure() as measured:
        for row in ROWS:
            spans_of(sink, send(sidecar, row))
    counted = {
        change.attributes["sidecar.session.source"]: change.value
        for change in measured.changes
        if change.metric == "sidecar.identity"
    }
    assert counted == Counter(row.source for row in ROWS)


def test_retries_are_marked(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """By the caller's count, or because its idempotency key was seen before; linked to what it retries."""
    own = "X-Sidecar-Session-Id: retries"
    first, _ = spans_of(sink, send(sidecar, Row("", "", "", (own, "Idempotency-Key: key-1"))))
    second, _ = spans_of(
        sink, send(sidecar, Row("", "", "", (own, "Idempotency-Key: key-1", "x-stainless-retry-count: 1")))
    )
    third, _ = spans_of(sink, send(sidecar, Row("", "", "", (own, "x-stainless-retry-count: 0"))))
    assert "sidecar.request.retry" not in first.attributes
    assert second.attributes["sidecar.request.retry"] is True
    assert second.attributes["sidecar.request.retry_count"] == 1
    links = {str(link.attributes["sidecar.link"]): link.span_id for link in second.links}
    assert links == {"previous": first.span_id, "retry_of": first.span_id}
    assert "sidecar.request.retry" not in third.attributes


def test_the_callers_trace_is_the_parent(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """W3C `traceparent` in: SERVER span under it; `traceparent` out: it names the CLIENT span."""
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    lines = (f"traceparent: 00-{trace}-{parent}-01", "tracestate: a=b")
    server, client = spans_of(sink, send(sidecar, Row("", "", "", lines)))
    assert (server.trace_id, server.parent) == (trace, parent)
    assert upstream.request().get("traceparent") == f"00-{trace}-{client.span_id}-01".encode()
    assert upstream.request().get("tracestate") == b"a=b"
