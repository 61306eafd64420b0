"""Traffic that is allowed but rare, and upstreams that break rules: what passes, and what is answered instead."""

import gzip
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unicodedata import category

import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Garbage,
    Gate,
    Header,
    Informational,
    LastChunk,
    OtlpSink,
    RawClient,
    ReadBody,
    Reset,
    RunningSidecar,
    ScriptedUpstream,
    Status,
    Step,
    Wait,
    answer,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def own(session: str) -> bytes:
    """The header line that names a session."""
    return b"X-Sidecar-Session-Id: " + session.encode()


def outcome(sink: OtlpSink, session: str) -> tuple[Any, Any]:
    """The outcome of the session's one request, and what was odd about it."""
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    return span.attributes["sidecar.outcome"], span.attributes.get("sidecar.anomalies")


# --- clients


@pytest.mark.parametrize(
    "data",
    [
        chat_request(metadata={"session_id": "slowly"}),
        request_bytes("POST", "/x", headers=(b"Transfer-Encoding: chunked",))
        + b"5;e=1\r\nhello\r\n2\r\nyo\r\n0\r\nT: 1\r\n\r\n",
    ],
    ids=["json", "chunked"],
)
def test_a_request_byte_by_byte(sidecar: RunningSidecar, upstream: ScriptedUpstream, data: bytes) -> None:
    """However a request is cut into packets, the upstream gets the same."""
    whole = exchange(sidecar.port, data)
    with RawClient(sidecar.port) as client:
        for at in range(len(data)):
            client.send(data[at : at + 1])
        assert client.read_answer("POST").body == whole.body
    first, second = upstream.requests
    assert (first.body, first.message.trailers) == (second.body, second.message.trailers)
    assert [name for name, _ in first.fields] == [name for name, _ in second.fields]


def test_expect_continue_with_a_body_that_is_read(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """The client is told to go on before its JSON body is needed, not after."""
    body = b'{"model": "m", "messages": []}'
    fields = (b"Expect: 100-continue", b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=fields))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        assert client.read_answer("POST").body == body


def test_an_absolute_target(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """RFC 9112: it is accepted, and its path and query go on as they are."""
    said = exchange(sidecar.port, b"GET http://other.test/a/%7E?b|c HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.status == 200
    assert upstream.request().target == b"/a/%7E?b|c"
    assert upstream.request().get("host") == upstream.authority.encode()


@pytest.mark.parametrize(
    "target", ["http:///a", "http://:80/a", "http://u@/a", "http://[::1/a", "https://?a"]
)
def test_an_absolute_target_without_a_host(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, target: str
) -> None:
    """RFC 9110, 4.2.1: it is to be refused."""
    said = exchange(sidecar.port, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (said.status, upstream.requests) == (400, [])


@pytest.mark.parametrize("rest,asked", [(b"", b"*"), (b"/", b"/"), (b"?a", b"/?a")])
def test_options_of_an_absolute_target(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, rest: bytes, asked: bytes
) -> None:
    """RFC 9112, 3.2.4: of a whole server it is asked with an asterisk."""
    exchange(sidecar.port, b"OPTIONS http://other.test%b HTTP/1.1\r\nHost: x\r\n\r\n" % rest)
    assert upstream.request().target == asked


@pytest.mark.parametrize("name", ["Connection", "Proxy-Connection"])
def test_a_close_is_answered_with_a_close(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, name: str
) -> None:
    """Both fields close: the answer says so, and no second request of the connection is read."""
    one = f"GET / HTTP/1.1\r\nHost: x\r\n{name}: close\r\n\r\n".encode()
    with RawClient(sidecar.port) as client:
        client.send(one + one)
        said = client.read_to_end()
    assert said.count(b"HTTP/1.1 ") == said.count(b"Connection: close") == len(upstream.requests) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY", "PROPFIND"])
def test_methods(sidecar: RunningSidecar, upstream: ScriptedUpstream, method: str) -> None:
    """Each passes with its body, GET too."""
    said = exchange(sidecar.port, request_bytes(method, "/x", body=b"abc"))
    assert said.body == b"abc"
    assert (upstream.request().method, upstream.request().get("content-length")) == (method, b"3")


def test_http_1_0_clients_get_neither_hints_nor_trailers(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """HTTP/1.0 has no interim answers and no chunks."""
    upstream.answer(
        Informational(103),
        Status(),
        Header(b"Transfer-Encoding: chunked"),
        Chunk(b"abc"),
        LastChunk((b"T: 1",)),
    )
    with RawClient(sidecar.port) as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        said = client.read_to_end()
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_head_that_tells_of_chunks(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, version: str
) -> None:
    """RFC 9112, 6.1: a client of HTTP/1.0 is told of no transfer coding, to HEAD neither."""
    upstream.answer(Status(), Header(b"Transfer-Encoding: chunked"), Bytes(b""))
    with RawClient(sidecar.port) as client:
        client.send(f"HEAD / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = client.read_to_end()
    assert (b"Transfer-Encoding: chunked" in said) == (version == "1.1")


def test_many_pipelined_requests(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Hundreds at once: all answered in order, with bounded reading ahead."""
    paths = [f"/{number}" for number in range(300)]
    with RawClient(sidecar.port) as client:
        client.send(b"".join(request_bytes("POST", path, body=path.encode()) for path in paths))
        assert [client.read_answer("POST").body.decode() for _ in paths] == paths


@pytest.mark.parametrize("half", [b"", b"half of "], ids=["before its answer", "in its answer"])
@pytest.mark.parametrize(
    "second",
    [
        request_bytes("GET", "/second"),
        request_bytes("POST", "/second", body=b"{}"),
        chat_request(path="/second"),
        request_bytes("GET", "/second") * 2,
    ],
    ids=["get", "post", "json", "two"],
)
def test_a_request_that_comes_during_another_one_waits(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, half: bytes, second: bytes
) -> None:
    """It is whole, and is read on its own, while the one before it is under way."""
    gate = Gate()
    begun = (Status(), Header(b"Transfer-Encoding: chunked"), Chunk(half)) if half else ()
    rest = (Chunk(b"one"), LastChunk()) if half else answer(b"one")
    upstream.answer(*begun, Wait(gate), *rest, path="/first")
    upstream.answer_always(answer(b"two"), path="/second")
    count = second.count(b"/second")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first"))
        upstream.head()
        if half:
            client.read_until(half)
        client.send(second)
        exchange(sidecar.port, request_bytes("GET", "/read-later"))
        assert [request.path for request in upstream.requests] == ["/first", "/read-later"]
        gate.open()
        if half:
            assert client.read_until(b"0\r\n\r\n") == b"\r\n3\r\none\r\n0\r\n\r\n"
        else:
            assert client.read_answer().body == b"one"
        assert [client.read_answer().body for _ in range(count)] == [b"two"] * count
    assert [request.path for request in upstream.requests[2:]] == ["/second"] * count


def test_a_request_behind_a_large_upload(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """What follows a streamed body on the same connection is the next request."""
    size = 3 << 20
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/files", body=b"x" * size) + request_bytes("GET", "/next"))
        assert len(client.read_answer("POST").body) == size
        assert client.read_answer().status == 200


# --- answers


def test_an_answer_byte_by_byte(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """However an answer is cut into packets, the client gets the same."""
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;e=1\r\nhello\r\n2\r\nyo\r\n0\r\nT: 1\r\n\r\n"
    )
    upstream.answer(*(Garbage(raw[at : at + 1]) for at in range(len(raw))))
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert (said.body, said.trailers) == (b"helloyo", [(b"T", b"1")])


@pytest.mark.parametrize("how", [End(), Reset()])
def test_an_early_refusal_reaches_the_client(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, how: Step
) -> None:
    """An upstream that refuses an upload and hangs up: the client reads why."""
    upstream.answer(ReadBody(0), answer(b"too big", status=413, reason=b"No"), how)
    with RawClient(sidecar.port) as client:
        head = request_bytes("POST", "/v1/files", headers=(b"Content-Length: 1000000",))
        client.send(head + b"x" * 1000)
        said = client.read_answer("POST")
    assert (said.status, said.body) == (413, b"too big")


BAD_ANSWERS: list[tuple[str, tuple[Step, ...]]] = [
    ("two lengths", (Status(), Header(b"Content-Length: 3"), Header(b"Content-Length: 4"), Bytes(b"abcd"))),
    (
        "chunked and gzip",
        (Status(), Header(b"Transfer-Encoding: chunked, gzip"), Chunk(b"abc"), LastChunk()),
    ),
    ("bare CR", (Garbage(b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 0\r\n\r\n"),)),
    ("switched protocols", (Status(101, b"Switching Protocols"), Header(b"Upgrade: websocket"))),
    (
        "huge head",
        (Status(), *(Header(b"X-%d: " % n + b"y" * 1000) for n in range(100)), Header(b"Content-Length: 0")),
    ),
    (
        "too many fields",
        (Status(), *(Header(b"X-%d: 1" % n) for n in range(300)), Header(b"Content-Length: 0")),
    ),
    ("not HTTP", (Garbage(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), End())),
]


@pytest.mark.parametrize("script", [case[1] for case in BAD_ANSWERS], ids=[case[0] for case in BAD_ANSWERS])
def test_answers_that_are_not_http(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, script: tuple[Step, ...]
) -> None:
    """None of it reaches the client: a whole 502 does, and the upstream's connection is closed."""
    upstream.answer(*script)
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert (said.status, json.loads(said.body)["error"]["code"]) == (502, "upstream_failed")
    assert upstream.closed(upstream.request()).closed is not None


def test_a_connection_that_dies_after_hints_is_not_resent(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """A byte of an answer had come, if only of an interim one: 502, not a second try."""
    exchange(sidecar.port, request_bytes("GET", "/warm"))
    upstream.answer(Informational(103), Reset())
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/hinted"))
        assert [client.read_answer(interim=True).status for _ in range(2)] == [103, 502]
    assert [request.path for request in upstream.requests] == ["/warm", "/hinted"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_decoded_passes(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, stream: bool
) -> None:
    """It says gzip and is none: the client gets the bytes, the span says that they were not read."""
    kind = b"text/event-stream" if stream else b"application/json"
    fields = (b"Content-Encoding: gzip", b"Content-Type: " + kind)
    upstream.answer(answer(b"no gzip at all", headers=fields))
    session = f"undecodable-{stream}"
    said = exchange(sidecar.port, chat_request(stream=stream, headers=(own(session),)))
    assert said.body == b"no gzip at all"
    assert outcome(sink, session) == ("completed", ["answer_not_read"])


def test_a_compressed_body_that_grows_without_end(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """A few bytes that would be hundreds of megabytes: passed on, and given up as soon as the limit is met."""
    bomb = gzip.compress(b'{"model": "' + b"a" * (100 << 20) + b'"}', 1)
    fields = (b"Content-Type: application/json", b"Content-Encoding: gzip", own("bomb"))
    said = exchange(sidecar.port, request_bytes("POST", "/v1/chat/completions", headers=fields, body=bomb))
    assert said.body == bomb
    # What this upstream answers is the request again, and so is no answer.
    assert outcome(sink, "bomb")[1] == ["answer_not_read", "body_too_large"]
    assert upstream.request().body == bomb


STEERING = "\x1b[31m\x07\r\x7f\x9b2J\u202e\u2028"


@pytest.fixture(params=["json", "console"])
def scraped(
    request: pytest.FixtureRequest, sink: OtlpSink, module_upstream: ScriptedUpstream
) -> Iterator[RunningSidecar]:
    """A sidecar with `/metrics`, whose lines have this form."""
    settings = {"PROMETHEUS": "on", "LOG_FORMAT": request.param}
    running = RunningSidecar(upstream=module_upstream.url, sink=sink, settings=settings).launch()
    try:
        running.wait_until(lambda: "sidecar.listening" in running.stderr)
        line = next(line for line in running.stderr.splitlines() if "sidecar.listening" in line)
        running.port, running.admin_port = map(int, re.findall(r"127\.0\.0\.1:(\d+)", line))
        yield running
    finally:
        running.kill()


def test_nothing_steers_a_terminal(
    scraped: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Controls and marks of direction in models, reasons, ids and names reach no signal; letters do, as they were."""
    sink.clear()
    choice = {"index": 0, "finish_reason": f"r{STEERING}", "message": {"content": "x"}}
    told = {"id": f"i{STEERING}", "model": f"a{STEERING}\ud800", "choices": [choice]}
    upstream.answer(json_answer(told))
    fields = ("User-Agent: Jürgen/1 日本 \x9b31m".encode(), own("steered"), b"Connection: close")
    exchange(scraped.port, chat_request(model=f"m{STEERING}\ud800", stop=f"s{STEERING}", headers=fields))
    upstream.answer(json_answer({"error": {"code": f"c{STEERING}"}}, status=400))
    exchange(scraped.port, request_bytes("GET", "/x%1b", headers=(own("steered"), b"User-Agent: J\xfcrgen")))
    sink.wait_for(lambda: len(sink.find_spans(kind="SERVER")) == 2)
    sink.wait_for(lambda: sum("http.route" in line.attributes for line in sink.logs) == 2)
    span = sink.find_spans(kind="CLIENT")[0]
    assert span.attributes["gen_ai.request.model"] == "m�[31m����2J���"
    agents = {one.attributes["user_agent.original"] for one in sink.find_spans(kind="SERVER")}
    assert agents == {"Jürgen/1 日本 �31m", "Jürgen"}
    signals = {
        "spans": "".join(texts([[one.name, one.status_message, one.attributes] for one in sink.spans])),
        "logs": "".join(texts([one.attributes for one in sink.logs])),
        "points": "".join(texts([one.attributes for one in sink.points])),
        "stderr": scraped.stderr.replace("\n", ""),
        "/metrics": scraped.admin("GET", "/metrics")[1].replace("\n", ""),
        "/sessions": "".join(texts(scraped.admin("GET", "/sessions/steered")[1])),
    }
    steering = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert {signal for signal, text in signals.items() if {*map(category, text)} & steering} == set()


def texts(value: Any) -> Iterator[str]:
    """Every text inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


# --- answers that are not what their type says

IMAGE = '{"image": "' + "iVBORw0KGgo" * (20 * 1024 * 1024 // 11) + '", '
MUCH = random.Random(1).randbytes(10_000).hex()
"""More than is looked at to tell what an answer is, compressed as well."""
SAID = f'data: {{"choices": [{{"delta": {{"content": "{MUCH}"}}}}]}}\n\n'
STOPPED = (
    'data: {"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 7}}\n\ndata: [DONE]\n\n'
)
ENDED = '{"type": "response.completed", "response": {"status": "completed", "usage": {"output_tokens": 7}}}'
BODIES: dict[str, tuple[str, str, str, tuple[Any, Any, Any]]] = {
    "an error": (
        "/v1/chat/completions",
        "text/event-stream",
        '{"error": {"code": "server_error"}}',
        ("error_in_stream", "server_error", None),
    ),
    "a whole answer": (
        "/v1/chat/completions",
        "text/event-stream",
        '{"choices": [{"index": 0, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}',
        ("completed", None, 7),
    ),
    "an event of 20 MiB": (
        "/v1/responses",
        "text/event-stream",
        f"data: {ENDED.replace('{', IMAGE, 1)}\n\n",
        ("completed", None, 7),
    ),
    "events that come at once": (
        "/v1/chat/completions",
        "text/plain",
        SAID + STOPPED,
        ("completed", None, 7),
    ),
    "an error behind events that come at once": (
        "/v1/chat/completions",
        "application/octet-stream",
        f'{SAID}data: {{"error": {{"code": "server_error"}}}}\n\n{STOPPED}',
        ("error_in_stream", "server_error", 7),
    ),
    "events behind blank lines": (
        "/v1/chat/completions",
        "text/plain",
        "\n" * 10_000 + STOPPED,
        ("completed", None, 7),
    ),
    "a message that comes at once": (
        "/v1/messages",
        "text/event-stream",
        f'{{"content": ["{MUCH}"], "type": "message", "stop_reason": "end_turn", "usage": {{"output_tokens": 7}}}}',
        ("completed", None, 7),
    ),
}


CODED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda text: gzip.compress(text, 1),
    "zstd": zstd.compress,
    "identity zstd": zstd.compress,
}
"""Each in a field of its own."""


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("name", BODIES)
def test_what_an_answer_is_by_its_bytes(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str, coding: str
) -> None:
    """JSON that is called a stream is read as what it is, and an event is read though it is large."""
    path, media, text, expected = BODIES[name]
    body = CODED[coding](text.encode())
    fields = [f"Content-Type: {media}".encode(), b"Content-Length: %d" % len(body)]
    fields += [f"Content-Encoding: {one}".encode() for one in coding.split()]
    upstream.answer(Status(), *map(Header, fields), Bytes(body))
    session = f"{name} {coding}".replace(" ", "-")
    sent = json.dumps({"model": "m", "stream": True, "messages": [], "input": "x"}).encode()
    headers = (b"Content-Type: application/json", own(session))
    assert exchange(sidecar.port, request_bytes("POST", path, headers=headers, body=sent)).body == body
    call = sink.span(kind="CLIENT", attributes={"session.id": session})
    told = call.attributes.get("error.type"), call.attributes.get("gen_ai.usage.output_tokens")
    assert (outcome(sink, session), *told) == ((expected[0], None), *expected[1:])


def test_an_address_of_ipv6_is_the_same_on_both_spans(sink: OtlpSink) -> None:
    """Without brackets, as the conventions have it: the app's word for the sidecar, and the upstream's own."""
    with ScriptedUpstream(host="::1") as upstream:
        upstream.answer(json_answer(chat_completion()))
        settings = {"LISTEN": "[::1]:0"}
        with RunningSidecar(upstream=upstream.url, sink=sink, settings=settings) as sidecar:
            with RawClient(sidecar.port, host="::1") as client:
                body = json.dumps({"model": "gpt-4o", "messages": []}).encode()
                fields = (b"Content-Type: application/json", b"X-Sidecar-Session-Id: ipv6")
                host = f"[::1]:{sidecar.port}"
                client.send(
                    request_bytes("POST", "/v1/chat/completions", headers=fields, body=body, host=host)
                )
                assert client.read_answer("POST").status == 200
            assert upstream.request().get("Host") == f"[::1]:{upstream.port}".encode()
            for kind, port in (("SERVER", sidecar.port), ("CLIENT", upstream.port)):
                span = sink.span(kind=kind, attributes={"session.id": "ipv6"})
                assert (span.attributes["server.address"], span.attributes["server.port"]) == ("::1", port)
