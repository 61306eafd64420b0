"""No credential in any signal: a secret of its own in every place, and a look through everything that is told.

Places are those of a request, of an answer, of a setting, and of the admin port. Signals are spans, metric points,
log records, lines in both formats, the admin port's documents, `/metrics`, our own answers, and what a start that
fails says.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

import pytest

from sidecar.testing import (
    End,
    Garbage,
    OtlpSink,
    RawClient,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    answer,
    json_answer,
    request_bytes,
    sse,
)

CHAT = "/v1/chat/completions"


def key(place: str) -> str:
    """A key of a known form, this place's own."""
    return f"sk-live-{sha256(place.encode()).hexdigest()[:32]}"


def opaque(place: str) -> str:
    """A secret of no form that anybody knows, this place's own."""
    return sha256(b"opaque " + place.encode()).hexdigest()[:32]


def posted(target: str, *lines: str, **fields: object) -> bytes:
    """A chat request to a target, with these header lines first and these fields in its body."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}
    kept = ("Content-Type: application/json", "Connection: close")
    headers = [line.encode() for line in (*lines, *kept)]
    return request_bytes("POST", target, headers=headers, body=json.dumps(body).encode())


# Where nothing of what stands there is shown, any secret is safe; elsewhere one of a known form.
HEADERS = (
    *("Authorization: Bearer {}", "Authorization: Basic {}", "Proxy-Authorization: Basic {}", "Cookie: a={}"),
    *(
        "X-Api-Key: {}",
        "api-key: {}",
        "X-Goog-Api-Key: {}",
        "Ocp-Apim-Subscription-Key: {}",
        "Referer: http://h/?k={}",
    ),
    *("Origin: https://{}.example", "X-Amz-Security-Token: {}", "OpenAI-Organization: {}", "X-Unknown: {}"),
    *(
        "Forwarded: for={}",
        "X-Forwarded-For: {}",
        "Idempotency-Key: {}",
        "Connection: x-{}",
        "Accept: text/{}",
    ),
    *("If-None-Match: {}", "traceparent: 00-{}-0102030405060708-01-{}", "x-stainless-retry-count: {}"),
)
ID_HEADERS = (
    *("X-Sidecar-Session-Id: {}", "X-Sidecar-Conversation-Id: {}", "session-id: {}", "thread-id: {}"),
    *("x-litellm-trace-id: Bearer {}", "x-acme-session-id: {}", "x-claude-code-session-id: {}"),
    *("x-claude-code-agent-id: {}", "x-claude-code-parent-agent-id: {}", "baggage: session.id={}"),
    *(
        "baggage: gen_ai.conversation.id={}",
        "baggage: langfuse_session_id={}",
        "x-request-id: {}",
        "User-Agent: curl/8 {}",
    ),
    *('x-codex-turn-metadata: {{"session_id":"{}"}}', 'x-codex-turn-metadata: {{"agent_name":"{}"}}'),
    *(
        f'x-codex-turn-metadata: {{{{"{name}":"{{}}"}}}}'
        for name in ("turn_id", "parent_turn_id", "root_turn_id", "thread_source")
    ),
    *('x-codex-turn-metadata: {{"request_kind":"{}","thread_id":"t"}}', "User-Agent: a (http://u:{}@h)"),
)
TARGETS = (
    *("/{}/v1/chat/completions", "/v1/{}/chat/completions", "/{}", "/x/{}/y"),
    *(
        "/v1/chat/completions?key={}",
        "/v1/chat/completions?{}",
        "/v1/chat/completions?{}=1",
        "/x?alt={}",
        "/x?a=1;k={}",
    ),
    *(
        "/x;jsessionid={}/y",
        "/v1/messages;key={}",
        "/bot123:{}/getMe",
        "http://u:{}@h/v1/models",
        "http://{}@h/x",
    ),
    *("/x?X-Amz-Credential={}&X-Amz-Signature={}", "/x?api-key={}&api-version=1", "/named/{}/x", "/x#{}"),
    *("/a%2F{}", "//{}//", "/x?starting_after={}", "http://h.example/{}"),
)
ID_TARGETS = (
    *("/v1/models/{}", "/v1/files/{}/content", "/v1/responses/{}", "/v1beta/models/{}:generateContent"),
    *("/openai/deployments/{}/embeddings", "/v1/chat/completions/{}"),
)
FIELDS = (
    *("model", "session_id", "litellm_session_id", "metadata.session_id", "metadata.user_id", "conversation"),
    *(
        "metadata.conversation_id",
        "previous_response_id",
        "prompt_cache_key",
        "user",
        "stop",
        "api_key",
        "temperature",
    ),
    *("max_tokens", "encoding_format", "response_format", "reasoning_effort", "service_tier", "stream"),
)
ANSWER_HEADERS = (
    *("Set-Cookie: s={}", "Location: https://u:{}@h/?k={}", "x-request-id: {}", "openai-organization: {}"),
    *(
        "openai-processing-ms: {}",
        "cf-ray: {}",
        "WWW-Authenticate: Bearer x={}",
        "Server: {}",
        "Retry-After: {}",
    ),
    *("Content-Encoding: {}", "X-Content-Type: x/{}", "Keep-Alive: timeout={}"),
)
HOSTS = ("u:{}@h", "{}@h", "{}.example", "h/{}", "h?{}", "h:{}", "[{}]", "h {}")
LINES = (
    *("{} /v1/models HTTP/1.1", "GET /v1/models HTTP/{}", "GET {} /x HTTP/1.1", "GET /x {}", "{}"),
    *("CONNECT {}:443 HTTP/1.1", "OPTIONS {} HTTP/1.1"),
)


def requests() -> Iterator[tuple[str, str, bytes]]:
    """A place, its secret, and a request that has it there."""
    for line in HEADERS:
        yield line, opaque(line), posted(CHAT, line.replace("{}", opaque(line)))
    for line in ID_HEADERS:
        text = line.replace("{}", key(line)).replace("{{", "{").replace("}}", "}")
        yield line, key(line), posted(CHAT, text)
    parent = f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"
    yield "tracestate", key("state"), posted(CHAT, parent, f"tracestate: vendor={key('state')}")
    for target in (*TARGETS, *ID_TARGETS):
        yield target, key(target), posted(target.replace("{}", key(target)))
    for target in TARGETS:
        yield target, opaque(target), posted(target.replace("{}", opaque(target)))
    encoded = key("encoded").removeprefix("sk")
    yield "encoded", encoded, posted(f"/%73k{encoded}/v1/messages")
    for path in FIELDS:
        name, _, inner = path.partition(".")
        yield path, key(path), posted(CHAT, **{name: {inner: key(path)} if inner else key(path)})
    for host in HOSTS:
        head = (
            f"GET /v1/models HTTP/1.1\r\nHost: {host.replace('{}', key(host))}\r\nConnection: close\r\n\r\n"
        )
        yield host, key(host), head.encode()
    for line in LINES:
        yield (
            line,
            key(line),
            f"{line.replace('{}', key(line))}\r\nHost: h\r\nConnection: close\r\n\r\n".encode(),
        )
    upgrade = opaque("upgrade")
    yield "upgrade", upgrade, posted(CHAT, f"Upgrade: websocket, {upgrade}", "Connection: upgrade")
    for name in (opaque("name"), f"X {opaque('blank')}"):
        yield "a field's name", name.split()[-1], posted(CHAT, f"{name}: x")


def answers() -> Iterator[tuple[str, str, Script]]:
    """A place, its secret, and the upstream's answer that has it there."""
    error: dict[str, object] = {"code": "invalid_api_key", "type": "invalid_request_error"}
    for status in (200, 401, 500):
        secret = opaque(f"message {status}")
        body = {"error": {**error, "message": f"Incorrect API key provided: {secret}."}}
        yield f"message {status}", secret, json_answer(body, status=status)
        for field in ("code", "type", "status", "param"):
            place = f"{field} {status}"
            yield place, key(place), json_answer({"error": {**error, field: key(place)}}, status=status)
    for field in ("id", "model", "object", "system_fingerprint", "service_tier"):
        place = f"answer {field}"
        yield place, key(place), json_answer({"choices": [], field: key(place)})
        place = f"event {field}"
        yield (
            place,
            key(place),
            sse([{"choices": [{"index": 0, "delta": {"content": "x"}}], field: key(place)}]),
        )
    place = "finish reason"
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": key(place)}
    yield place, key(place), json_answer({"choices": [choice]})
    for place in ("error code", "error type", "error message"):
        yield place, key(place), sse([{"error": {**error, place.split()[1]: key(place)}}], done=False)
    for line in ANSWER_HEADERS:
        yield line, key(line), json_answer({}, headers=[line.replace("{}", key(line)).encode()])
    place = "reason phrase"
    yield place, key(place), answer(status=400, reason=key(place).encode())
    for place, text in (
        ("malformed", "HTTP/1.1 2xx {}\r\n{}\r\n\r\n"),
        ("field", "HTTP/1.1 200 OK\r\nX {}\r\n\r\n"),
    ):
        yield place, opaque(place), (Garbage(text.replace("{}", opaque(place)).encode()), End())


def told(sidecar: RunningSidecar, sink: OtlpSink) -> dict[str, str]:
    """Everything that the sidecar has told, by signal."""
    found = {
        "spans": repr(sink.spans),
        "points": repr(sink.points),
        "logs": repr(sink.logs),
        "stderr": sidecar.stderr,
        "/stats": repr(sidecar.admin("GET", "/stats", headers=ASKED)),
        "/metrics": repr(sidecar.admin("GET", "/metrics", headers=ASKED)),
    }
    sessions = sidecar.admin("GET", "/sessions", headers=ASKED)[1]
    found["/sessions"] = repr(sessions)
    for row in sessions["sessions"]:
        found[f"/sessions/{row['id'][:20]}"] = repr(
            sidecar.admin("GET", f"/sessions/{row['id']}", headers=ASKED)
        )
    return found


def leaks(secrets: dict[str, list[str]], found: dict[str, str]) -> set[tuple[str, str]]:
    """Which place's secret stands in which signal."""
    return {
        (place, signal)
        for place, several in secrets.items()
        for secret in several
        for signal, text in found.items()
        if secret in text
    }


TOKEN = opaque("admin token")
ASKED = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text"}


@pytest.fixture(params=["json", "console"])
def guarded(
    request: pytest.FixtureRequest, module_upstream: ScriptedUpstream, sink: OtlpSink
) -> Iterator[RunningSidecar]:
    """A sidecar with every secret that a setting can hold."""
    sink.clear()
    settings = {
        "ADMIN_TOKEN": TOKEN,
        "PROMETHEUS": "on",
        "LOG_FORMAT": request.param,
        "UPSTREAMS": f"named={module_upstream.url}/{key('named path')}",
    }
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {opaque('otlp headers')}",
        "OTEL_RESOURCE_ATTRIBUTES": f"api_key={key('resource')}",
        "HTTPS_PROXY": f"http://user:{opaque('proxy')}@127.0.0.1:9",
    }
    url = f"{module_upstream.url}/{opaque('upstream path')}"
    running = RunningSidecar(upstream=url, sink=sink, settings=settings, environ=environ).launch()
    try:
        running.wait_until(lambda: "sidecar.listening" in running.stderr)
        data, admin = re.findall(r"127\.0\.0\.1:(\d+)", listening(running))
        running.port, running.admin_port = int(data), int(admin)
        yield running
    finally:
        running.kill()


def listening(running: RunningSidecar) -> str:
    """The line that says where it listens."""
    return next(line for line in running.stderr.splitlines() if "sidecar.listening" in line)


SETTINGS = {
    TOKEN: TOKEN,
    **{place: opaque(place) for place in ("upstream path", "otlp headers", "proxy")},
    **{place: key(place) for place in ("named path", "resource")},
}


def test_every_place(guarded: RunningSidecar, sink: OtlpSink, upstream: ScriptedUpstream) -> None:
    """Of a request, of an answer, and of a sidecar that runs."""
    secrets = {place: [secret] for place, secret in SETTINGS.items()}
    ours, sent = "", 0
    upstream.answer_always(json_answer({"choices": []}))
    for place, secret, data in requests():
        secrets.setdefault(place, []).append(secret)
        said = asked(guarded, data)
        ours += said if "sidecar:" in said else ""
        sent += 1
    for place, secret, script in answers():
        secrets.setdefault(place, []).append(secret)
        upstream.answer(script)
        asked(guarded, posted(CHAT))
        sent += 1
    stats = ("GET", "/stats")
    guarded.wait_until(lambda: guarded.admin(*stats, headers=ASKED)[1]["requests"]["settled"] >= sent)
    sink.wait_for(lambda: len(sink.find_spans(kind="SERVER")) >= sent)
    sink.wait_for(lambda: sum("http.route" in line.attributes for line in sink.logs) >= sent)
    found = {**told(guarded, sink), "our answers": ours}
    assert {signal for signal, text in found.items() if len(text) < 100} == set()
    assert sent < guarded.admin(*stats, headers=ASKED)[1]["requests"]["settled"] + 1
    assert leaks(secrets, found) == set()


def asked(sidecar: RunningSidecar, data: bytes) -> str:
    """What comes back, to the connection's end."""
    with RawClient(sidecar.port) as client:
        client.send(data)
        return client.read_to_end().decode("latin-1")


START = (
    ("SIDECAR_LISTEN", "{}"),
    ("SIDECAR_ADMIN_LISTEN", "127.0.0.1:{}"),
    ("SIDECAR_ADMIN_TOKEN", "a {}"),
    ("SIDECAR_UPSTREAM", "https://u:{}@h"),
    ("SIDECAR_UPSTREAM", "https://h/?key={}"),
    ("SIDECAR_UPSTREAM", "https://h/#{}"),
    ("SIDECAR_UPSTREAM", "ftp://h/{}/v1"),
    ("SIDECAR_UPSTREAMS", "a=https://h/?{},b=https://x:{}@h"),
    ("SIDECAR_MAX_REQUESTS", "{}"),
    ("SIDECAR_IDLE_TIMEOUT", "{}"),
    ("SIDECAR_SESSION_HEADERS", "a b {}"),
    ("SIDECAR_SESSION_FIELDS", "a..{}"),
    ("SIDECAR_FORWARD_BAGGAGE", "a b={}"),
    ("SIDECAR_REQUEST_ID_FORMAT", "{}"),
    ("SIDECAR_LOG_FORMAT", "{}"),
    ("SIDECAR_NO_SUCH", "{}"),
)
"""Settings that stop the start."""

OTHERS = (
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h/#{}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://u:{}@h/"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h:x/{}"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "{}"),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a b={}"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "{}"),
    ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "{}"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/x/{}"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "{}"),
    ("OTEL_RESOURCE_ATTRIBUTES", "{}"),
    ("OTEL_PROPAGATORS", "{}"),
    ("OTEL_TRACES_SAMPLER", "{}"),
    ("OTEL_TRACES_SAMPLER_ARG", "{}"),
    ("OTEL_BSP_SCHEDULE_DELAY", "{}"),
    ("SSL_CERT_FILE", "{}"),
    ("SSL_CERT_DIR", "/x/{}"),
    ("HTTP_PROXY", "https://u:{}@p:1"),
    ("HTTP_PROXY", "socks5://{}@p:1"),
    ("HTTP_PROXY", "ftp://p/{}"),
)
"""Variables that are not the sidecar's: what cannot be used is named, and the start goes on."""


def in_turns(
    rows: Iterable[tuple[str, str]], form: Callable[[str], str]
) -> Iterator[dict[str, tuple[str, str]]]:
    """Each name once in a turn, as often as there are values: its secret, and the value with it."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, value in rows:
        secret = form(name + value)
        by_name.setdefault(name, []).append((secret, value.replace("{}", secret)))
    for turn in range(max(map(len, by_name.values()))):
        yield {name: several[turn] for name, several in by_name.items() if turn < len(several)}


def shown(stderr: str, given: dict[str, tuple[str, str]]) -> tuple[set[str], set[str]]:
    """The names that are not told, and those whose secret is."""
    return (
        {name for name in given if name not in stderr},
        {name for name, (secret, _) in given.items() if secret in stderr},
    )


@pytest.mark.parametrize("form", [key, opaque], ids=["key", "opaque"])
def test_a_start_that_fails(form: Callable[[str], str]) -> None:
    """Every bad value is told, with its name, and none with a secret in it."""
    for given in in_turns(START, form):
        running = RunningSidecar(environ={name: value for name, (_, value) in given.items()}).launch()
        assert running.wait() == 2
        assert shown(running.stderr, given) == (set(), set())


@pytest.mark.parametrize("form", [key, opaque], ids=["key", "opaque"])
def test_what_is_passed_over(form: Callable[[str], str]) -> None:
    """Likewise, by a sidecar that serves."""
    for given in in_turns(OTHERS, form):
        environ = {name: value for name, (_, value) in given.items()}
        with RunningSidecar(upstream="http://127.0.0.1:9", environ=environ) as running:
            assert running.stop() == 0
        assert shown(running.stderr, given) == (set(), set())


@pytest.mark.parametrize("form", [key, opaque], ids=["key", "opaque"])
def test_a_query_of_the_collector(form: Callable[[str], str]) -> None:
    """It is used, and shown nowhere, not even where exports fail."""
    secret = form("query")
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:9/?token={secret}",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "500",
    }
    with RunningSidecar(upstream="http://127.0.0.1:9", environ=environ) as running:
        running.wait_log("sidecar.telemetry.failing")
        running.stop()
    assert secret not in running.stderr


@pytest.mark.parametrize("secret", [key("argument"), opaque("argument")])
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--upstream", "https://u:{}@h"),
        ("run", "--no-such={}"),
        ("run", "--no-such", "{}"),
        ("run", "{}"),
        ("run", "--{}"),
        ("run", "--admin-token", "a {}"),
        ("health", "http://u:{}@127.0.0.1:1/{}"),
        ("health", "http://127.0.0.1:1/?k={}"),
        ("health", "ftp://{}@h/"),
    ],
)
def test_arguments(arguments: tuple[str, ...], secret: str) -> None:
    """What the command line was given is not repeated either."""
    running = RunningSidecar(arguments=[argument.replace("{}", secret) for argument in arguments]).launch()
    assert running.wait() != 0
    assert running.stderr
    assert secret not in running.stderr


ADMIN = (
    "GET /stats?token={} HTTP/1.1",
    "GET /sessions/{} HTTP/1.1",
    "GET /{} HTTP/1.1",
    "GET /stats HTTP/1.1\r\nAuthorization: Bearer {}",
    "GET /stats HTTP/1.1\r\nAuthorization: Bearer {}\0",
    "GET /stats HTTP/1.1\r\nAuthorization : Bearer {}",
    "GET /stats?token={} x HTTP/1.1",
    "GET /stats HTTP/1.1\r\nX: " + "x" * 9000 + "{}",
    "GET http://u:{}@h/stats HTTP/1.1",
    "{} / HTTP/1.1",
)


def test_the_admin_port(guarded: RunningSidecar, sink: OtlpSink) -> None:
    """Tokens that are wrong, or clumsily sent, come back nowhere."""
    secrets, said = {place: [secret] for place, secret in SETTINGS.items()}, ""
    for place in ADMIN:
        for secret in (key(place), opaque(place), TOKEN):
            secrets.setdefault(place, []).append(secret)
            with RawClient(guarded.admin_port) as client:
                client.send(
                    f"{place.replace('{}', secret)}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                )
                said += client.read_to_end().decode("latin-1")
    asked(guarded, posted(CHAT, "X-Sidecar-Session-Id: one"))
    sink.wait_for(lambda: sink.find_spans(kind="SERVER"))
    assert leaks(secrets, {**told(guarded, sink), "answers": said}) == set()
