"""What goes in comes out: exact bytes in both directions, seen from both ends."""

import gzip
import sys
import zlib
from collections.abc import Callable
from contextlib import ExitStack

import brotli
import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    Echo,
    End,
    Flood,
    Garbage,
    Gate,
    Header,
    Informational,
    LastChunk,
    Message,
    OtlpSink,
    RawClient,
    ReadBody,
    Received,
    Reset,
    RunningSidecar,
    ScriptedUpstream,
    Status,
    Wait,
    answer,
    chat_chunk,
    chat_request,
    exchange,
    request_bytes,
    sse,
    sse_event,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INSPECT_LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """A low limit, so that small bodies count as large."""
    return {"INSPECT_LIMIT": str(INSPECT_LIMIT)}


def sent_on(request: Received) -> bytes:
    """The head the upstream got, less the one `traceparent` line that the sidecar adds."""
    lines = request.head.split(b"\r\n")
    own = [line for line in lines if line.lower().startswith(b"traceparent:")]
    assert len(own) == 1, request.head
    return b"\r\n".join(line for line in lines if line not in own)


def passed_back(said: Message) -> bytes:
    """The head the client got, less the one request id line that the sidecar adds."""
    lines = said.head.split(b"\r\n")
    own = [line for line in lines if line.lower().startswith(b"x-sidecar-request-id:")]
    assert len(own) == 1, said.head
    return b"\r\n".join(line for line in lines if line not in own)


# --- requests


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/%7E/%41//x?a|b={c}&d=%7e+%20",
        "//double//slash/",
        "/a/../b/./c",
        "/x?",
        "/x??y=/z?",
        "/v1/models;v=1,2?q='\"<>^`",
        "/v1beta/models/gemini-2.0-flash:generateContent?key=K",
    ],
)
def test_targets_pass_byte_for_byte(sidecar: RunningSidecar, upstream: ScriptedUpstream, target: str) -> None:
    """Nothing in a path or a query is decoded, encoded, merged or normalised."""
    assert exchange(sidecar.port, request_bytes("GET", target)).status == 200
    assert upstream.request().target == target.encode()


def test_a_request_head_passes_in_order_and_case(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Names, order, duplicates and values stay; only the short list of changes is made."""
    head = (
        b"PATCH /x HTTP/1.1\r\n"
        b"x-ODD: 1\r\n"
        b"hOST: app.test\r\n"
        b'Cookie: a=1; b="2"\r\n'
        b"X-odd: 2\r\n"
        b"AUTHORIZATION: Bearer s3cret\r\n"
        b"x-empty:\r\n"
        b"Accept-Encoding: br;q=0.1, zstd\r\n"
        b"X-oDd: 1\r\n"
        b"content-LENGTH: 3\r\n"
        b"\r\n"
    )
    exchange(sidecar.port, head + b"abc")
    got = upstream.request()
    expected = head.replace(b"app.test", upstream.authority.encode())
    assert sent_on(got) == expected.replace(b"x-empty:\r\n", b"x-empty: \r\n")
    assert got.body == b"abc"


def test_hop_by_hop_fields_of_a_request_stop_here(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Those of RFC 9110 and those that `Connection` names; our own as well."""
    dropped = (
        b"Connection: keep-alive, X-Hop, x-other-hop",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"X-Hop: 1",
        b"X-Other-Hop: 2",
        b"X-Sidecar-Session-Id: s-1",
        b"X-Sidecar-Conversation-Id: c-1",
    )
    exchange(sidecar.port, request_bytes("GET", "/x", headers=(b"X-Stays: 1", *dropped, b"X-Last: 2")))
    assert sent_on(upstream.request()) == (
        b"GET /x HTTP/1.1\r\nHost: " + upstream.authority.encode() + b"\r\nX-Stays: 1\r\nX-Last: 2\r\n\r\n"
    )


def test_connection_cannot_take_end_to_end_fields_away(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Naming `Host` or `Content-Length` in `Connection` does not unframe a request."""
    exchange(
        sidecar.port,
        request_bytes("POST", "/x", headers=(b"Connection: close, host, content-length",), body=b"abc"),
    )
    got = upstream.request()
    assert got.get("content-length") == b"3"
    assert got.get("host") == upstream.authority.encode()
    assert got.body == b"abc"


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("br", brotli.compress),
    ("zstd", zstd.compress),
    ("none", bytes),
    ("UTF-8", bytes),
    ("identity gzip", gzip.compress),
]
"""Each in a field of its own."""


@pytest.mark.parametrize("coding,compress", CODINGS)
def test_a_compressed_request_passes_as_it_came(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    coding: str,
    compress: Callable[[bytes], bytes],
) -> None:
    """The body goes on compressed; its session is read from a decoded copy."""
    codings = coding.encode().split()
    session = f"compressed-{coding}"
    body = compress(
        b'{"model": "gpt-4o", "messages": [], "metadata": {"session_id": "%s"}}' % session.encode()
    )
    fields = (b"Content-Type: application/json", *(b"Content-Encoding: " + one for one in codings))
    exchange(sidecar.port, request_bytes("POST", "/v1/chat/completions", headers=fields, body=body))
    got = upstream.request()
    assert got.body == body
    assert got.message.get_all("content-encoding") == codings
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.session.source"] == "body"
    assert span.attributes["sidecar.request.body.state"] == "read"


def test_a_chunked_request_stays_chunked(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """The payload is the same; extensions end here, trailers pass."""
    body = b'5;ext="a"\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n'
    fields = (b"Transfer-Encoding: chunked", b"Trailer: X-Sum")
    exchange(sidecar.port, request_bytes("POST", "/x", headers=fields) + body)
    got = upstream.request()
    assert got.get("transfer-encoding") == b"chunked"
    assert got.get("content-length") is None
    assert got.get("trailer") == b"X-Sum"
    assert got.body == b"hello world"
    assert b"ext" not in got.raw_body
    assert got.message.trailers == [(b"X-Sum", b"1"), (b"x-sum", b"2")]


def test_an_upload_streams(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """A multipart body reaches the upstream piece by piece, before its end is there."""
    kind = b"Content-Type: multipart/form-data; boundary=b"
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/files", headers=(kind, b"Content-Length: 8")) + b"--b\r")
        upstream.wait_for(lambda: upstream.requests and upstream.requests[0].body == b"--b\r")
        assert not upstream.requests[0].complete
        client.send(b"rest")
        assert client.read_answer("POST").body == b"--b\rrest"


def test_a_body_over_the_inspect_limit_streams(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """What was read goes on, the rest streams through, and the span says that it was not read."""
    body = b'{"metadata": {"session_id": "never-read"}, "x": "' + b"y" * (4 * INSPECT_LIMIT) + b'"}'
    head = (
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"X-Sidecar-Session-Id: big",
    )
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=head) + body[: 2 * INSPECT_LIMIT])
        upstream.wait_for(lambda: upstream.requests and len(upstream.requests[0].body) == 2 * INSPECT_LIMIT)
        client.send(body[2 * INSPECT_LIMIT :])
        assert client.read_answer("POST").body == body
    span = sink.span(kind="SERVER", attributes={"session.id": "big"})
    assert span.attributes["sidecar.request.body.state"] == "too_large"
    assert span.attributes["http.request.body.size"] == len(body)


def test_a_json_body_is_read_before_it_goes_on(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Nothing reaches the upstream before the body's end is there; then all of it does, unchanged."""
    request = chat_request(metadata={"session_id": "held"})
    with RawClient(sidecar.port) as client:
        client.send(request[:-5])
        assert exchange(sidecar.port, request_bytes("GET", "/other")).status == 200
        client.send(request[-5:])
        client.read_answer("POST")
    assert [got.path for got in upstream.requests] == ["/other", "/v1/chat/completions"]
    assert request.endswith(b"\r\n\r\n" + upstream.request(1).body)


def test_expect_continue_is_answered_here(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """The client is told to go on; the upstream neither sees `Expect` nor is its own 100 passed on."""
    upstream.answer(Informational(100, reason=b"Continue"), Echo())
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/x", headers=(b"Expect: 100-continue", b"Content-Length: 3")))
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        said = client.read_answer("POST", interim=True)
    assert (said.status, said.body) == (200, b"abc")
    assert upstream.request().get("expect") is None


def test_http_1_0_clients_are_served(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """A chunked answer reaches them without chunks, ended by the close."""
    upstream.answer(Status(), Header(b"Transfer-Encoding: chunked"), Chunk(b"abc"), Chunk(b"de"), LastChunk())
    with RawClient(sidecar.port) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        head, _, body = client.read_to_end().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"abcde"
    assert upstream.request().message.start_line == b"GET /x HTTP/1.1"
    assert upstream.request().get("host") == upstream.authority.encode()


def test_keep_alive_is_used_on_both_sides(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Many requests on one client connection, and over several, go out on one upstream connection."""
    with RawClient(sidecar.port) as client:
        for number in range(3):
            client.send(request_bytes("POST", "/x", body=b"%d" % number))
            assert client.read_answer("POST").body == b"%d" % number
    exchange(sidecar.port, request_bytes("GET", "/y"))
    assert len({id(request.connection) for request in upstream.requests}) == 1


def test_connection_close_is_kept_to(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """A client that asks for it gets the close after its answer; the upstream is not told."""
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x", headers=(b"Connection: close",)))
        assert client.read_answer().get("connection") == b"close"
        assert client.is_closed()
    assert upstream.request().get("connection") is None


def test_pipelined_requests_are_answered_in_order(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """They wait their turn, whatever the upstream would have answered first."""
    paths = [f"/{number}" for number in range(5)]
    with RawClient(sidecar.port) as client:
        client.send(b"".join(request_bytes("POST", path, body=path.encode()) for path in paths))
        bodies = [bytes(client.read_answer("POST").body).decode() for _ in paths]
    assert bodies == paths
    assert [request.path for request in upstream.requests] == paths


def test_an_upgrade_that_is_no_websocket_is_ignored(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """RFC 9110: a server may go on in HTTP/1.1; the offer itself stops here."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x")
    said = exchange(sidecar.port, request_bytes("GET", "/x", headers=upgrade))
    assert said.status == 200
    assert upstream.request().get("upgrade") is None
    assert upstream.request().get("http2-settings") is None


# --- answers


def test_an_answer_head_passes_in_order_and_case(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Odd case, duplicates, cookies, an odd reason: all there, and nothing added but the request id."""
    upstream.answer(
        Status(299, b"Rather  Fine"),
        Header(b"x-ODD: 1"),
        Header(b"Set-Cookie: a=1; Path=/"),
        Header(b"X-odd: 2"),
        Header(b"set-cookie: b=2"),
        Header(b"content-LENGTH: 2"),
        Header(b"X-Bytes: \xfcml\xe4ut"),
        Bytes(b"ok"),
    )
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert passed_back(said) == (
        b"HTTP/1.1 299 Rather  Fine\r\nx-ODD: 1\r\nSet-Cookie: a=1; Path=/\r\nX-odd: 2\r\nset-cookie: b=2\r\n"
        b"content-LENGTH: 2\r\nX-Bytes: \xfcml\xe4ut\r\n\r\n"
    )
    assert said.body == b"ok"


def test_hop_by_hop_fields_of_an_answer_stop_here(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Those of RFC 9110 and those that `Connection` names."""
    lines = (b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=60", b"X-Stays: 2")
    upstream.answer(answer(b"ok", headers=lines))
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert passed_back(said) == b"HTTP/1.1 200 OK\r\nX-Stays: 2\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(sidecar: RunningSidecar, upstream: ScriptedUpstream, status: int) -> None:
    """The client sees the redirect itself."""
    line = b"Location: /elsewhere"
    upstream.answer(answer(b"go", status=status, reason=b"Go", headers=(line,)))
    said = exchange(sidecar.port, request_bytes("GET", "/x"))
    assert (said.status, said.get("location"), said.body) == (status, b"/elsewhere", b"go")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "method,status,length",
    [("HEAD", 200, b"1234"), ("GET", 204, None), ("GET", 304, b"1234"), ("HEAD", 404, b"9")],
)
def test_answers_without_a_body(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, method: str, status: int, length: bytes | None
) -> None:
    """Their `Content-Length` is kept, no body is waited for, and both connections go on."""
    lines = [Header(b"Content-Length: " + length)] if length is not None else []
    upstream.answer(Status(status, b"So"), Header(b"ETag: e"), *lines)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes(method, "/x"))
        said = client.read_answer(method)
        assert (said.status, said.get("content-length"), said.get("etag")) == (status, length, b"e")
        client.send(request_bytes("POST", "/y", body=b"next"))
        assert client.read_answer("POST").body == b"next"
    assert len({id(request.connection) for request in upstream.requests}) == 1


def test_chunks_pass_as_they_come(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Each piece is with the client before the upstream has said the next; trailers pass, extensions do not."""
    gates = [Gate() for _ in range(3)]
    upstream.answer(
        Status(),
        Header(b"Transfer-Encoding: chunked"),
        Header(b"Trailer: X-Sum"),
        Chunk(b"one", b";x=1"),
        Wait(gates[0]),
        Chunk(b"two"),
        Wait(gates[1]),
        LastChunk((b"X-Sum: 1", b"x-sum: 2")),
    )
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        client.read_until(b"\r\n\r\n")
        assert client.read_until(b"one\r\n") == b"3\r\none\r\n"
        gates[0].open()
        assert client.read_until(b"two\r\n") == b"3\r\ntwo\r\n"
        gates[1].open()
        assert client.read_until(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"


def test_early_hints_pass(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """103 reaches the client at once, before the real answer."""
    gate = Gate()
    upstream.answer(Informational(103, (b"Link: </a>; rel=preload",)), Wait(gate), answer(b"ok"))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        hints = client.read_until(b"\r\n\r\n")
        assert hints == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
        gate.open()
        assert client.read_answer().body == b"ok"


def test_an_answer_that_ends_with_its_connection(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """It becomes chunked for an HTTP/1.1 client, whose connection goes on."""
    upstream.answer(Status(), Header(b"X-A: 1"), Bytes(b"until"), Bytes(b" the end"), End())
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        said = client.read_answer()
        assert (said.get("transfer-encoding"), said.body) == (b"chunked", b"until the end")
        client.send(request_bytes("GET", "/y"))
        assert client.read_answer().status == 200


def test_an_http_1_0_upstream(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Its answer passes; its connection is not used again."""
    upstream.answer(Status(version=b"HTTP/1.0"), Header(b"Content-Length: 2"), Bytes(b"ok"), End())
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        said = client.read_answer()
        assert (bytes(said.start_line), said.body) == (b"HTTP/1.1 200 OK", b"ok")
        client.send(request_bytes("GET", "/y"))
        client.read_answer()
    assert len({id(request.connection) for request in upstream.requests}) == 2


@pytest.mark.parametrize("coding,compress", CODINGS)
def test_a_compressed_answer_passes_as_it_came(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    coding: str,
    compress: Callable[[bytes], bytes],
) -> None:
    """The client gets the compressed bytes; what they say is watched through a decompressed copy."""
    codings = coding.encode().split()
    session = f"answer-{coding}".encode()
    events = [chat_chunk("Hi"), chat_chunk(finish_reason="stop")]
    plain = b"".join(sse_event(event) for event in events) + b"data: [DONE]\n\n"
    body = compress(plain)
    middle = len(body) // 2
    upstream.answer(
        Status(),
        Header(b"Content-Type: text/event-stream"),
        *(Header(b"Content-Encoding: " + one) for one in codings),
        Header(b"Transfer-Encoding: chunked"),
        Chunk(body[:middle]),
        Chunk(body[middle:]),
        LastChunk(),
    )
    request = chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session,))
    said = exchange(sidecar.port, request)
    assert said.body == body
    assert said.get_all("content-encoding") == codings
    span = sink.span(kind="CLIENT", attributes={"session.id": session.decode()})
    assert span.attributes["gen_ai.response.finish_reasons"] == ["stop"]


def test_an_early_answer_passes_at_once(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """An answer that begins before the upload's end reaches the client while it still sends."""
    upstream.answer(ReadBody(0), answer(b"no", status=413, reason=b"Too Large"), ReadBody(), path="/v1/files")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/files", headers=(b"Content-Length: 10",)) + b"12345")
        said = client.read_answer("POST")
        assert (said.status, said.body) == (413, b"no")


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize("late", [False, True])
def test_bytes_after_the_end_are_not_passed(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, late: bool
) -> None:
    """Behind the answer in one packet, or on the idle connection: it is closed, and the event counted."""
    before = sidecar.stats()["anomalies"].get("bytes_after_end", 0)
    gate = Gate()
    rest = (Bytes(b"ok"), Wait(gate), Bytes(EVIL)) if late else (Bytes(b"ok" + EVIL),)
    upstream.answer(Status(), Header(b"Content-Length: 2"), *rest)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/x"))
        assert client.read_answer().body == b"ok"
        gate.open()
        assert upstream.closed(upstream.requests[0]).closed in {"eof", "reset"}
        client.send(request_bytes("POST", "/y", body=b"next"))
        assert client.read_answer("POST").body == b"next"
    assert sidecar.stats()["anomalies"]["bytes_after_end"] == before + 1


def test_a_slow_client_slows_the_upstream(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Back-pressure: what is in between stays bounded, and everything arrives in the end."""
    total = 64 << 20
    upstream.drop_connections()
    upstream.answer(Status(), Header(b"Content-Length: %d" % total), Flood(total))
    with RawClient(sidecar.port, receive_buffer=65536) as client:
        client.send(request_bytes("GET", "/x"))
        client.read_until(b"\r\n\r\n")
        sent = _settled(upstream)
        assert sent < total / 2
        received = 0
        while received < total:
            received += len(client.read_some())
    assert received == total


def _settled(upstream: ScriptedUpstream) -> int:
    """How much the upstream could send over all connections, once it can send no more."""

    def total() -> int:
        return sum(connection.sent for connection in upstream.connections)

    upstream.head()
    while True:
        sent = total()
        try:
            upstream.wait_for(lambda sent=sent: total() > sent, timeout=0.3)  # type: ignore[misc]
        except AssertionError:
            return sent


# --- pool


def test_a_pooled_connection_that_closed_is_not_used(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """It leaves the pool at once; the next request gets a fresh one and does not fail."""
    exchange(sidecar.port, request_bytes("GET", "/x"))
    upstream.drop_connections()
    assert exchange(sidecar.port, request_bytes("POST", "/y", body=b"ok")).body == b"ok"
    assert len({id(request.connection) for request in upstream.requests}) == 2


def test_connections_of_slow_clients_are_good_for_others(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Whatever part of an answer was held back for its client, its upstream connection carries the next one."""
    sizes = range(2 << 20, 5 << 20, 64 * 1024)
    with ExitStack() as connections:
        clients = [connections.enter_context(RawClient(sidecar.port, receive_buffer=16384)) for _ in sizes]
        for number, (size, client) in enumerate(zip(sizes, clients, strict=True)):
            upstream.answer(answer(b"x" * size))
            client.send(request_bytes("GET", "/large"))
            upstream.head(number)
        _settled(upstream)
        for size, client in zip(sizes, clients, strict=True):
            assert len(client.read_answer().body) == size
            client.send(request_bytes("GET", "/next"))
        for client in clients:
            assert client.read_answer().status == 200


@pytest.mark.parametrize("end", [Reset(), End()])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX-A: "])
def test_a_stale_connection_is_resent_only_where_that_is_safe(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, said: bytes, end: Reset | End
) -> None:
    """It dies under a request before anything of the answer could pass: GET is sent again, once; POST is not."""
    name, how = f"{type(end).__name__}-{len(said)}", (Garbage(said), end)
    exchange(sidecar.port, request_bytes("GET", "/warm"))
    upstream.answer(how, path="/get")
    header = f"X-Sidecar-Session-Id: resend-{name}".encode()
    assert exchange(sidecar.port, request_bytes("GET", "/get", headers=(header,))).status == 200
    assert [request.path for request in upstream.requests] == ["/warm", "/get", "/get"]
    span = sink.span(kind="CLIENT", attributes={"session.id": f"resend-{name}"})
    assert span.attributes["http.request.resend_count"] == 1
    server = sink.span(kind="SERVER", attributes={"session.id": f"resend-{name}"})
    assert server.attributes["sidecar.anomalies"] == ["connection_resent"]
    upstream.answer_always(how, path="/post")
    assert exchange(sidecar.port, request_bytes("POST", "/post", body=b"x")).status == 502
    assert [request.path for request in upstream.requests].count("/post") == 1


def test_an_event_stream_is_passed_byte_for_byte(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Comments, odd line ends, several data lines: the client sees what the upstream said."""
    events = [
        b": keep-alive\r\n\r\n",
        b'data:{"choices": []}\r\r',
        b"event: x\ndata: {\ndata: }\n\n",
        b"id: 1\nretry: 5\n\n",
        b"data: \xf0\x9f\x98",
        b"\x80 not json\n\n",
    ]
    upstream.answer(sse(events))
    said = exchange(sidecar.port, chat_request(stream=True))
    assert said.body == b"".join(events) + b"data: [DONE]\n\n"
