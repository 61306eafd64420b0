"""What should never be sent, and is: refused clearly, or passed on as it came with a word on the span."""

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sidecar.testing import (
    End,
    Garbage,
    Gate,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Wait,
    answer,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
    request_bytes,
    self_signed,
)
from tests.blackbox.names import NameServer

KIND = b"Content-Type: application/json"


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """Small limits, and a name for the upstream where nobody listens."""
    port = free_port()
    return {
        "HEAD_LIMIT": "16KiB",
        "HEAD_FIELDS": "64",
        "MAX_REQUESTS": "4",
        "UPSTREAMS": f"dead=http://127.0.0.1:{port}",
    }


# --- malformed HTTP

MALFORMED: list[tuple[str, bytes, int]] = [
    ("two lengths", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (
        "equal lengths",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        400,
    ),
    ("list of lengths", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    (
        "length and chunked",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked and length",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("signed length", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("negative length", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    ("hex length", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    ("huge length", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
    ("unknown coding", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (
        "chunked not last",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\rX-B: 2\r\n\r\n", 400),
    ("bare LF lines", b"GET / HTTP/1.1\nHost: h\n\n", 400),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\x002\r\n\r\n", 400),
    ("folded line", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n 2\r\n\r\n", 400),
    ("space before colon", b"GET / HTTP/1.1\r\nHost: h\r\nX-A : 1\r\n\r\n", 400),
    ("no colon", b"GET / HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n", 400),
    ("no host", b"GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", 400),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("words", b"hello there\r\n\r\n", 400),
    ("space in target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 400),
    ("authority target", b"GET example.test:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("long head", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"y" * 20000 + b"\r\n\r\n", 431),
    ("long target", b"GET /" + b"y" * 20000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
    ("endless head", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"y" * 20000, 431),
    (
        "many fields",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(64)) + b"\r\n",
        431,
    ),
]


def _refused(sidecar: RunningSidecar) -> int:
    count: int = sidecar.stats()["requests"]["outcomes"].get("refused", 0)
    return count


@pytest.mark.parametrize("data,status", [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed(sidecar: RunningSidecar, upstream: ScriptedUpstream, data: bytes, status: int) -> None:
    """Answered once, closed, never passed on; one exchange that was refused."""
    before = _refused(sidecar)
    with RawClient(sidecar.port) as client:
        client.send(data)
        said = client.read_answer()
        assert (said.status, said.get("connection")) == (status, b"close")
        assert json.loads(said.body)["error"]["message"].startswith("sidecar: ")
        assert client.is_closed()
    assert _refused(sidecar) == before + 1
    assert upstream.requests == []


BAD_BODIES: list[tuple[str, bytes]] = [
    ("size that is none", b"xyz\r\nabc\r\n0\r\n\r\n"),
    ("LF in an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("data longer than its size", b"3\r\nabcdef\r\n0\r\n\r\n"),
    ("huge size", b"fffffffffffffffff\r\nabc\r\n"),
    ("signed size", b"+3\r\nabc\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize("body", [case[1] for case in BAD_BODIES], ids=[case[0] for case in BAD_BODIES])
@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
def test_malformed_chunks(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, body: bytes, kind: str
) -> None:
    """A broken body ends in 400 and a close, and reaches the upstream as no whole request."""
    fields = (b"Content-Type: " + kind.encode(), b"Transfer-Encoding: chunked")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=fields) + body)
        assert client.read_answer("POST").status == 400
        assert client.is_closed()
    assert not any(request.complete for request in upstream.requests)


def test_malformed_after_a_good_one(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """The good request behind which nonsense comes is answered first; nothing after the nonsense is read."""
    smuggled = request_bytes("GET", "/smuggled")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/good", body=b"ok") + b"non sense\r\n\r\n" + smuggled)
        assert client.read_answer("POST").body == b"ok"
        assert client.read_answer().status == 400
        assert client.is_closed()
    assert [request.path for request in upstream.requests] == ["/good"]


# --- bodies and ids that are not what they should be


def _server_span(sink: OtlpSink, said: Any) -> Span:
    request_id = said.get("x-sidecar-request-id").decode()
    return sink.span(kind="SERVER", attributes={"sidecar.request.id": request_id})


ODD_BODIES: list[tuple[str, bytes, str, list[str]]] = [
    ("not JSON", b"{nonsense", "invalid", ["body_invalid"]),
    ("empty", b"", "none", []),
    ("an array", b"[1, 2]", "read", []),
    ("not UTF-8", b'{"model": "\xff\xfe"}', "read", []),
    ("nested", b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid", ["body_invalid"]),
    ("nested objects", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid", ["body_invalid"]),
]


@pytest.mark.parametrize(
    "body,state,anomalies", [case[1:] for case in ODD_BODIES], ids=[c[0] for c in ODD_BODIES]
)
def test_odd_bodies_pass(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    body: bytes,
    state: str,
    anomalies: list[str],
) -> None:
    """The provider gets what the app sent and answers as it likes; the span says what was not read."""
    upstream.answer(answer(b"no", status=400, reason=b"Bad Request"))
    said = exchange(sidecar.port, request_bytes("POST", "/v1/chat/completions", headers=(KIND,), body=body))
    assert (said.status, said.body) == (400, b"no")
    assert upstream.request().body == body
    span = _server_span(sink, said)
    assert span.attributes["sidecar.outcome"] == "upstream_rejected"
    assert span.attributes["sidecar.request.body.state"] == state
    assert span.attributes.get("sidecar.anomalies", []) == anomalies
    # A body that is JSON was read; what of it is not as the API says is named ($: the body itself).
    ignored = {b"[1, 2]": ["$"], b'{"model": "\xff\xfe"}': ["model"]}
    assert span.attributes.get("sidecar.request.ignored") == ignored.get(body)


def test_wrong_types_are_ignored_and_said(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Fields that we read and that are something else: passed on, named on the span, not guessed."""
    odd: dict[str, Any] = {
        "model": 5,
        "stream": "yes",
        "messages": "none",
        "metadata": [1],
        "temperature": "hot",
    }
    said = exchange(sidecar.port, chat_request(**odd))
    assert said.status == 200
    assert json.loads(upstream.request().body) == odd
    span = _server_span(sink, said)
    ignored = span.attributes["sidecar.request.ignored"]
    assert isinstance(ignored, list)
    assert {"model", "stream", "messages", "temperature"} <= set(map(str, ignored))
    client = sink.span(kind="CLIENT", trace_id=span.trace_id)
    assert client.name == "chat"
    assert "gen_ai.request.model" not in client.attributes


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_long_id_is_hashed(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, where: str
) -> None:
    """More than 200 characters become a prefix of their SHA-256; the upstream still sees what was sent."""
    upstream.answer(json_answer(chat_completion()))
    long = where + "x" * (1_000_000 if where == "body" else 10_000)
    if where == "header":
        said = exchange(sidecar.port, chat_request(headers=(b"x-session-id: " + long.encode(),)))
        assert upstream.request().get("x-session-id") == long.encode()
    else:
        said = exchange(sidecar.port, chat_request(metadata={"session_id": long}))
        assert json.loads(upstream.request().body)["metadata"]["session_id"] == long
    span = _server_span(sink, said)
    session = str(span.attributes["session.id"])
    assert len(session) <= 200
    assert long[:50] not in session
    assert span.attributes["sidecar.session.source"] == ("known_header" if where == "header" else "body")
    assert span.attributes["sidecar.anomalies"] == ["id_hashed"]


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\x7fb", "a\tb", "grüße", "😀", ""])
def test_ids_cannot_inject(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, bad: str
) -> None:
    """Control characters and what is not ASCII make an id invalid; nothing of it reaches a head."""
    upstream.answer(json_answer(chat_completion()))
    said = exchange(sidecar.port, chat_request(metadata={"session_id": bad, "conversation_id": bad}))
    assert said.get("x-evil") is None
    span = _server_span(sink, said)
    assert span.attributes["sidecar.session.source"] == "generated"
    assert span.attributes["sidecar.conversation.id"] == "main"
    if bad:
        assert span.attributes["sidecar.anomalies"] == ["id_invalid"]


def test_an_invalid_id_lets_the_next_rule_speak(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """The first rule that gives a valid value counts."""
    upstream.answer(json_answer(chat_completion()))
    said = exchange(
        sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: gr\xfc\xdfe", b"x-session-id: fine"))
    )
    span = _server_span(sink, said)
    assert (span.attributes["session.id"], span.attributes["sidecar.session.source"]) == (
        "fine",
        "known_header",
    )
    assert span.attributes["sidecar.anomalies"] == ["id_invalid"]


# --- what the sidecar answers itself


def test_upstream_down(sidecar: RunningSidecar) -> None:
    """502 in the provider's own shape, with a hint, for OpenAI's and for Anthropic's clients."""
    said = exchange(sidecar.port, chat_request(path="/dead/v1/chat/completions"))
    error = json.loads(said.body)["error"]
    assert (said.status, said.get("content-type")) == (502, b"application/json")
    assert (error["type"], error["code"]) == ("server_error", "upstream_failed")
    assert "is it running" in error["message"]
    said = exchange(sidecar.port, chat_request(path="/dead/v1/messages"))
    body = json.loads(said.body)
    assert (said.status, body["type"], body["error"]["type"]) == (502, "error", "api_error")


def test_unknown_upstream(start_sidecar: Any, module_upstream: ScriptedUpstream) -> None:
    """Without a default, a first segment that names no upstream is 404 and lists those there are."""
    named = {"UPSTREAMS": f"one={module_upstream.url}/base,two={module_upstream.url}"}
    module_upstream.clear()
    sidecar = start_sidecar(upstream=None, settings=named)
    said = exchange(sidecar.port, chat_request(path="/three/v1/chat/completions"))
    assert said.status == 404
    message = json.loads(said.body)["error"]["message"]
    assert "one, two" in message
    assert "'three'" in message
    assert exchange(sidecar.port, request_bytes("GET", "/one/v1/%7Ex?q")).status == 200
    assert exchange(sidecar.port, request_bytes("GET", "/two")).status == 200
    assert [request.target for request in module_upstream.requests] == [b"/base/v1/%7Ex?q", b"/"]


def test_overload(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """One request too many is 503 with `Retry-After`; the others go on, and a slot comes back."""
    gate = Gate()
    upstream.answer_always(Wait(gate), answer(b"ok"), path="/busy")
    clients = [RawClient(sidecar.port) for _ in range(4)]
    for client in clients:
        client.send(request_bytes("GET", "/busy"))
    upstream.request(3)
    said = exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: overload",)))
    assert (said.status, said.get("retry-after")) == (503, b"1")
    assert json.loads(said.body)["error"]["code"] == "overloaded"
    gate.open()
    for client in clients:
        assert client.read_answer().body == b"ok"
        client.close()
    assert exchange(sidecar.port, request_bytes("GET", "/after")).status == 200
    span = sink.span(kind="SERVER", attributes={"session.id": "overload"})
    assert (span.attributes["sidecar.outcome"], span.status) == ("refused", "ERROR")
    assert "sidecar.request.sequence" not in span.attributes


def test_websocket_upgrades_fall_back(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """426 for a client that tries a WebSocket first."""
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    assert exchange(sidecar.port, request_bytes("GET", "/v1/responses", headers=upgrade)).status == 426
    assert upstream.requests == []


# --- starting


def test_bad_settings_are_listed_at_once(tmp_path: Path) -> None:
    """Each with its name, its value and what is allowed; exit code 2; nothing is opened."""
    bad = {
        "UPSTREAM": "ftp://x",
        "IDLE_TIMEOUT": "soon",
        "HEAD_LIMIT": "many",
        "SEMCONV": "newest",
        "LISTEN": "nowhere",
        "MAX_REQUESTS": "-1",
    }
    sidecar = RunningSidecar(settings=bad).launch()
    assert sidecar.wait() == 2
    for name, value in bad.items():
        (line,) = [line for line in sidecar.stderr.splitlines() if f"SIDECAR_{name}" in line]
        assert value in line
    assert "Traceback" not in sidecar.stderr


OTHERS = {
    "OTEL_PROPAGATORS": "tracecontext,baggage,b3",
    "OTEL_TRACES_EXPORTER": "otlp,console,zipkin",
    "OTEL_METRICS_EXPORTER": "prometheus",
    "OTEL_LOGS_EXPORTER": "otlp,loki",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd",
    "OTEL_EXPORTER_OTLP_HEADERS": "a=b,secret",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10s",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "secret",
    "OTEL_TRACES_SAMPLER": "xray",
    "OTEL_TRACES_SAMPLER_ARG": "half",
    "OTEL_SDK_DISABLED": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "5s",
    "OTEL_BSP_MAX_QUEUE_SIZE": "0",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "9999",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "-1",
    "OTEL_METRIC_EXPORT_INTERVAL": "1m",
    "OTEL_METRICS_EXEMPLAR_FILTER": "all",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "both",
    "OTEL_RESOURCE_ATTRIBUTES": "team=a,prod",
    "HTTPS_PROXY": "socks5://u:secret@proxy.test:1080",
    "SSL_CERT_FILE": "/nowhere/bundle.pem",
    "SSL_CERT_DIR": "/nowhere",
}
"""What is set for a whole namespace, and cannot be used here, or not all of it."""


@pytest.mark.parametrize("disabled", ["1", "true"])
def test_what_is_not_ours_stops_nothing(upstream: ScriptedUpstream, sink: OtlpSink, disabled: str) -> None:
    """Each is named in one line, no secret with it; calls pass; the rest holds. A Service's variables are not even named."""
    links = {
        "SIDECAR_INJECTOR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_INJECTOR_PORT_443_TCP": "tcp://10.0.0.1:443",
        "OTEL_COLLECTOR_SERVICE_HOST": "10.0.0.1",
        "OTEL_COLLECTOR_PORT_4318_TCP_PROTO": "tcp",
    }
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_LOG_LEVEL": "debug"}
    environ = {**OTHERS, **endpoint, **links, "OTEL_SDK_DISABLED": disabled}
    upstream.answer(json_answer(chat_completion()))
    with RunningSidecar(upstream=upstream.url, environ=environ) as sidecar:
        session = f"others-{disabled}"
        said = exchange(sidecar.port, chat_request(headers=(f"X-Sidecar-Session-Id: {session}".encode(),)))
        assert said.status == 200
        assert sidecar.stop() == 0
    notes = [line["message"] for line in sidecar.logs if line["level"] == "warning"]
    for name in OTHERS:
        if (name, disabled) != ("OTEL_SDK_DISABLED", "true"):
            assert len([one for one in notes if one.startswith(f"{name}=")]) == 1, name
    assert [one for one in notes if "OTEL_LOG_LEVEL" in one]
    assert "secret" not in sidecar.stderr
    assert not [one for one in notes if "SERVICE_HOST" in one or "_TCP" in one]
    assert bool(sink.find_spans(kind="SERVER", attributes={"session.id": session})) is (disabled == "1")


def test_no_upstream_at_all() -> None:
    """At least one is needed."""
    sidecar = RunningSidecar().launch()
    assert sidecar.wait() == 2
    assert "SIDECAR_UPSTREAM" in sidecar.stderr


@pytest.mark.parametrize("which", ["LISTEN", "ADMIN_LISTEN", "HEALTH_LISTEN"])
def test_a_port_in_use(upstream: ScriptedUpstream, which: str) -> None:
    """One clear line that names address and setting, exit code 1."""
    address = f"127.0.0.1:{upstream.port}"
    sidecar = RunningSidecar(upstream=upstream.url, settings={which: address}).launch()
    assert sidecar.wait() == 1
    lines = [line for line in sidecar.stderr.splitlines() if address in line and "in use" in line]
    assert len(lines) == 1
    assert f"SIDECAR_{which}" in lines[0]
    assert "Traceback" not in sidecar.stderr


def test_a_host_of_which_one_address_is_not_there(
    tmp_path: Path, start_sidecar: Any, upstream: ScriptedUpstream
) -> None:
    """As `localhost` often is, where it has an IPv6 address and the machine none: the others are listened on."""
    names = {"here.test": "192.0.2.1 127.0.0.1 2001:db8::1", "elsewhere.test": "192.0.2.1 2001:db8::1"}
    both = ("LISTEN", "HEALTH_LISTEN")
    with NameServer(tmp_path, names) as server:
        sidecar = start_sidecar(settings=dict.fromkeys(both, "here.test:0"), launcher=server.launcher)
        assert exchange(sidecar.port, request_bytes("GET", "/x")).status == 200
        for which in both:
            stray = RunningSidecar(
                upstream=upstream.url, settings={which: "elsewhere.test:0"}, launcher=server.launcher
            ).launch()
            assert stray.wait() == 1
            reason = f"elsewhere.test:0 (SIDECAR_{which}): the host is not an address of this machine"
            assert reason in stray.stderr


def test_tls_trust(tmp_path: Path, start_sidecar: Any, sink: OtlpSink) -> None:
    """A certificate is checked: an authority that `SSL_CERT_FILE` names is trusted, and no other."""
    made = self_signed(tmp_path)
    with ScriptedUpstream(tls=made.server_context()) as upstream:
        trusting = start_sidecar(upstream=upstream.url, environ={"SSL_CERT_FILE": str(made.certificate)})
        said = exchange(trusting.port, chat_request(headers=(b"X-Sidecar-Session-Id: tls",)))
        assert said.status == 200
        connect = sink.span(name="connect", attributes={"session.id": "tls"})
        assert isinstance(connect.attributes["sidecar.connect.tls"], float)
        strict = start_sidecar(upstream=upstream.url)
        said = exchange(strict.port, chat_request(headers=(b"X-Sidecar-Session-Id: no-tls",)))
        assert said.status == 502
        assert "SSL_CERT_FILE" in json.loads(said.body)["error"]["message"]
        span = sink.span(kind="CLIENT", attributes={"session.id": "no-tls"})
        assert span.attributes["error.type"] == "tls"


def test_egress_by_a_proxy(start_sidecar: Any, module_upstream: ScriptedUpstream) -> None:
    """`HTTP_PROXY` is reached by CONNECT, with its credentials, and `NO_PROXY` goes past it."""
    with ScriptedUpstream() as proxy:
        proxy.answer(answer(), path="models.test:80")
        environ = {"HTTP_PROXY": f"http://user:pass@127.0.0.1:{proxy.port}", "NO_PROXY": "127.0.0.1"}
        settings = {"UPSTREAMS": f"direct={module_upstream.url}"}
        sidecar = start_sidecar(upstream="http://models.test", settings=settings, environ=environ)
        # Those of collectors are told last.
        sidecar.wait_until(lambda: any("collector" in line for line in sidecar.find_logs("sidecar.way_out")))
        ways = [
            {line[key] for key in ("upstream", "to", "by")}
            for line in sidecar.find_logs("sidecar.way_out")
            if "to" in line
        ]
        assert ways == [
            {"default", "http://models.test:80", f"HTTP_PROXY (***@127.0.0.1:{proxy.port})"},
            {"direct", module_upstream.url},
        ]
        assert {line["by"] for line in sidecar.find_logs("sidecar.way_out") if "collector" in line} == {
            "direct"
        }
        module_upstream.clear()
        assert exchange(sidecar.port, request_bytes("GET", "/direct/x")).status == 200
        assert module_upstream.request().path == "/x"
        assert proxy.requests == []
        assert exchange(sidecar.port, request_bytes("POST", "/x", body=b"through")).body == b"through"
        tunnel, request = proxy.requests
        assert (tunnel.method, tunnel.target) == ("CONNECT", b"models.test:80")
        assert tunnel.get("proxy-authorization") == b"Basic dXNlcjpwYXNz"
        assert (request.path, request.get("host")) == ("/x", b"models.test")
        assert request.get("proxy-authorization") is None


@pytest.fixture(scope="module")
def egress() -> Iterator[ScriptedUpstream]:
    """A proxy on the way out."""
    with ScriptedUpstream() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def behind_egress(egress: ScriptedUpstream) -> Iterator[RunningSidecar]:
    """A sidecar that reaches its upstream by it alone."""
    environ = {"HTTP_PROXY": f"http://127.0.0.1:{egress.port}", "NO_PROXY": "127.0.0.1"}
    with RunningSidecar(upstream="http://models.test", environ=environ) as running:
        yield running


@pytest.mark.parametrize(
    "says, told",
    [
        (b"HTTP/1.1 407 Who are you?\r\n\r\n<html>", "answered CONNECT with 407 Who are you?"),
        (b"HTTP/1.0 503 Busy\r\nX: 1\r\n\r\n" + b"x" * 10_000, "answered CONNECT with 503 Busy"),
        (b"SSH-2.0\r\n\r\nmore", "answered CONNECT with what is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "sent more than its answer to CONNECT"),
        (b"HTTP/1.1 200 OK\r\n", "broke off its answer to CONNECT"),
    ],
    ids=["407 with a page", "503 with a large page", "not HTTP", "200 and more", "half a head"],
)
def test_what_a_proxy_says_is_told(
    behind_egress: RunningSidecar, egress: ScriptedUpstream, says: bytes, told: str
) -> None:
    """A proxy that refuses is quoted, whatever page comes with its refusal."""
    egress.answer(Garbage(says), End())
    refused = exchange(behind_egress.port, chat_request())
    assert refused.status == 502
    assert f"the proxy 127.0.0.1:{egress.port} {told}" in json.loads(refused.body)["error"]["message"]


class Tunnel(socketserver.BaseRequestHandler):
    """One CONNECT, and then bytes both ways until either side ends."""

    seen: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        """Reads the head, connects, pipes."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.seen.append(head)
        host, port = head.split()[1].decode().rsplit(":", 1)
        with socket.create_connection((host, int(port))) as far:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self.pipe, args=(far, self.request))
            back.start()
            self.pipe(self.request, far)
            back.join()

    @staticmethod
    def pipe(source: socket.socket, target: socket.socket) -> None:
        """Everything from one to the other, the end included."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def test_tls_goes_through_a_proxys_tunnel(tmp_path: Path, start_sidecar: Any) -> None:
    """`HTTPS_PROXY` is asked for a tunnel; TLS is spoken with the upstream itself, and its certificate checked."""
    made = self_signed(tmp_path)
    with (
        ScriptedUpstream(tls=made.server_context()) as upstream,
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy,
    ):
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        environ = {
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}",
            "SSL_CERT_FILE": str(made.certificate),
        }
        sidecar = start_sidecar(upstream=upstream.url, environ=environ)
        assert exchange(sidecar.port, request_bytes("POST", "/x", body=b"sealed")).body == b"sealed"
        sidecar.stop()
        proxy.shutdown()
    (head,) = Tunnel.seen
    assert head.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % upstream.port)
    assert b"sealed" not in head
