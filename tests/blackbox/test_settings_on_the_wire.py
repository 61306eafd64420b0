"""Settings that change what passes, what is told and where to: each shown at the ports."""

import http.client
from typing import Any

import pytest

from sidecar.testing import (
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    answer,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01".encode()


def own(session: str) -> bytes:
    """The header line that names a session."""
    return b"X-Sidecar-Session-Id: " + session.encode()


def server(sink: OtlpSink, session: str) -> Span:
    """The SERVER span of the session's one request."""
    return sink.span(kind="SERVER", attributes={"session.id": session})


def test_the_callers_trace_may_be_linked(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """`INCOMING_TRACE=link`: a trace of its own that names the caller's; allowed baggage goes on."""
    sidecar = start_sidecar(settings={"INCOMING_TRACE": "link", "FORWARD_BAGGAGE": "tenant"})
    lines = (own("linked"), TRACEPARENT, b"baggage: tenant=t1;p=1,secret=2")
    exchange(sidecar.port, chat_request(headers=lines))
    span = server(sink, "linked")
    assert (span.trace_id == TRACE, span.parent) == (False, "")
    assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE, PARENT)]
    got = upstream.request()
    assert (got.get("traceparent") or b"")[3:35].decode() == span.trace_id
    assert got.get("baggage") == b"tenant=t1;p=1"


def test_the_callers_trace_may_be_ignored(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """`INCOMING_TRACE=ignore`, all baggage forwarded, an id format of the operator's own."""
    settings = {
        "INCOMING_TRACE": "ignore",
        "FORWARD_BAGGAGE": "all",
        "REQUEST_ID_FORMAT": "{session}/{counter}/{random}",
    }
    sidecar = start_sidecar(settings=settings)
    lines = (own("ignored"), TRACEPARENT, b"baggage: a=1,b=2")
    said = exchange(sidecar.port, chat_request(headers=lines))
    span = server(sink, "ignored")
    assert (span.trace_id == TRACE, span.parent, span.links) == (False, "", ())
    assert upstream.request().get("baggage") == b"a=1,b=2"
    assert str(span.attributes["sidecar.request.id"]).startswith("ignored/1/")
    assert said.get("x-sidecar-request-id") == str(span.attributes["sidecar.request.id"]).encode()


def test_no_trace_context_goes_out(start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """`FORWARD_TRACE=off`: the upstream learns nothing of our trace. What is not sampled is in the ledger."""
    environ = {"OTEL_TRACES_SAMPLER": "always_off"}
    sidecar = start_sidecar(settings={"FORWARD_TRACE": "off"}, environ=environ)
    exchange(sidecar.port, chat_request(headers=(own("untraced"),)))
    assert upstream.request().get("traceparent") is None
    traces = sidecar.stats()["telemetry"]["traces"]
    assert traces["created"] == traces["not_sampled"] > 0
    assert sidecar.stop() == 0
    assert sink.find_spans(attributes={"session.id": "untraced"}) == []


def test_an_unsampled_caller_is_kept_to(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """The default sampler follows its parent: no spans, and the upstream is told so."""
    sidecar = start_sidecar()
    line = f"traceparent: 00-{TRACE}-{PARENT}-00".encode()
    exchange(sidecar.port, chat_request(headers=(own("unsampled"), line)))
    traceparent = (upstream.request().get("traceparent") or b"").decode().split("-")
    assert traceparent[1] == TRACE
    assert int(traceparent[3], 16) & 1 == 0
    assert sidecar.stop() == 0
    kinds = {span.kind for span in sink.find_spans(attributes={"session.id": "unsampled"})}
    assert kinds <= {"INTERNAL"}, "the session's own spans are taken all the same"


@pytest.mark.parametrize("semconv, core", [("shipped", "1.41.0"), ("latest", "1.44.0"), ("both", "1.41.0")])
def test_the_conventions_chosen(upstream: ScriptedUpstream, semconv: str, core: str) -> None:
    """`SEMCONV`: the metrics of one choice or both, and the schema that every signal names; over gRPC, for once."""
    upstream.answer(json_answer(chat_completion()))
    with (
        OtlpSink("grpc") as sink,
        RunningSidecar(upstream=upstream.url, sink=sink, settings={"SEMCONV": semconv}) as sidecar,
    ):
        exchange(sidecar.port, chat_request(headers=(own("latest"),)))
        assert server(sink, "latest").resource["service.name"]
        assert sidecar.stop() == 0
        names = {point.metric for point in sink.points}
        sink.wait_for(lambda: any(line.event_name == "session.start" for line in sink.logs))
        told = {item.schema_urls for items in (sink.spans, sink.points, sink.logs) for item in items}
    latest = {"gen_ai.client.inference.duration", "gen_ai.client.inference.usage.input_tokens"}
    shipped = {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}
    assert names & latest == (set() if semconv == "shipped" else latest)
    assert names & shipped == (set() if semconv == "latest" else shipped)
    assert told == {(f"https://opentelemetry.io/schemas/{core}",) * 2}


def test_the_admin_port(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """Health on a port of its own, a token for the rest, metrics as text, and no web page gets in."""
    settings = {"ADMIN_TOKEN": "t0ken-for-tests", "PROMETHEUS": "on", "SEMCONV": "shipped"}
    sidecar = start_sidecar(settings=settings)
    exchange(sidecar.port, chat_request(headers=(own("admin"),)))
    token = {"Authorization": "Bearer t0ken-for-tests"}
    assert sidecar.admin("GET", "/readiness")[0] == 200
    assert sidecar.admin("GET", "/stats")[0] == 401
    assert sidecar.admin("GET", "/stats", headers={"Authorization": "Bearer other"})[0] == 401
    assert sidecar.admin("POST", "/shutdown")[0] == 401
    assert sidecar.admin("GET", "/stats", headers=token)[1]["requests"]["settled"] == 1
    status, text = sidecar.admin("GET", "/metrics", headers=token)
    assert status == 200
    assert "sidecar_requests_total{" in text
    assert 'sidecar_outcome="completed"' in text
    for foreign in ({"Host": "evil.test"}, {"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "cross-site"}):
        assert sidecar.admin("GET", "/stats", headers=token | foreign)[0] == 403


def test_health_on_a_port_of_its_own(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """It answers under any `Host`, and health is all it has."""
    with ScriptedUpstream() as reserved:
        port = reserved.port
    start_sidecar(settings={"HEALTH_LISTEN": f"127.0.0.1:{port}"})
    for path, status in (("/startup", 200), ("/liveness", 200), ("/readiness", 200), ("/stats", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"Host": "10.0.0.7"})
        assert connection.getresponse().status == status
        connection.close()


def test_a_keep_alive_hint_is_kept_to(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """`Keep-Alive: timeout=1` of an upstream is shorter than `POOL_IDLE`: its connection is given up in time."""
    sidecar = start_sidecar(settings={"POOL_IDLE": "1h"})
    lines = (b"Connection: keep-alive", b"Keep-Alive: timeout=1, max=9")
    upstream.answer(answer(b"ok", headers=lines))
    exchange(sidecar.port, request_bytes("GET", "/x"))
    first = upstream.request()
    assert upstream.closed(first).closed == "eof"
    exchange(sidecar.port, request_bytes("GET", "/y"))
    assert upstream.request(1).connection is not first.connection
