"""The scripted upstream says exactly what it is told and writes down exactly what it hears."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Flood,
    Garbage,
    Gate,
    Header,
    HoldReading,
    Informational,
    LastChunk,
    RawClient,
    ReadBody,
    Received,
    Reset,
    ResumeReading,
    Script,
    ScriptedUpstream,
    Status,
    Wait,
    answer,
    exchange,
    json_answer,
    request_bytes,
    self_signed,
    sse,
)
from tests.pace import promptly


@pytest.fixture
def server() -> Iterator[ScriptedUpstream]:
    """An upstream of this test's own."""
    with ScriptedUpstream() as upstream:
        yield upstream
        assert upstream.errors == []


def test_without_a_script_it_echoes(server: ScriptedUpstream) -> None:
    """A request nobody scripted gets its own body back."""
    said = exchange(server.port, request_bytes("POST", "/x", headers=(b"Content-Type: a/b",), body=b"abc"))
    assert said.head == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\n"
    assert said.body == b"abc"


def test_the_exact_request_is_recorded(server: ScriptedUpstream) -> None:
    """Target, odd case, duplicates and spaces stay as they came."""
    head = b"POST /%7E/%41//x?a|b HTTP/1.1\r\nHost: h\r\nx-ODD: 1\r\nX-odd:  2 \r\nContent-Length: 2\r\n\r\n"
    exchange(server.port, head + b"hi")
    got = server.request()
    assert got.head == head
    assert got.target == b"/%7E/%41//x?a|b"
    assert got.path == "/%7E/%41//x"
    assert got.fields == [(b"Host", b"h"), (b"x-ODD", b"1"), (b"X-odd", b"2"), (b"Content-Length", b"2")]
    assert got.get("X-Odd") == b"1"
    assert got.body == got.raw_body == b"hi"
    assert 0 < got.head_at <= got.body_at


def test_a_chunked_request_is_recorded_raw_and_decoded(server: ScriptedUpstream) -> None:
    """Chunks as the client framed them, with extensions and trailers."""
    framed = b"3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
    exchange(server.port, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + framed)
    got = server.request()
    assert got.body == b"abcde"
    assert got.raw_body == framed
    assert got.message.chunks == [b"abc", b"de"]
    assert got.message.trailers == [(b"T", b"1")]


def test_exact_bytes_are_sent(server: ScriptedUpstream) -> None:
    """Version, reason, header lines and chunks stand on the wire as the script says them."""
    server.answer(
        Informational(103, (b"Link: </a>",)),
        Status(299, b"Fine  so", b"HTTP/1.0"),
        Header(b"x-A: 1"),
        Header(b"X-a:2"),
        Header(b"Transfer-Encoding: chunked"),
        Chunk(b"abc", b";e"),
        LastChunk((b"T: 1",)),
        End(),
    )
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/"))
        assert client.read_to_end() == (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.0 299 Fine  so\r\nx-A: 1\r\nX-a:2\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;e\r\nabc\r\n0\r\nT: 1\r\n\r\n"
        )


def test_garbage_leaves_the_head_open(server: ScriptedUpstream) -> None:
    """Bytes that no HTTP server would say, in the middle of a head."""
    server.answer(Status(), Garbage(b"\x00nonsense"), End())
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/"))
        assert client.read_to_end() == b"HTTP/1.1 200 OK\r\n\x00nonsense"


def test_a_reset_is_a_reset(server: ScriptedUpstream) -> None:
    """The client gets a connection reset, not an end."""
    server.answer(Status(), Header(b"Content-Length: 9"), Bytes(b"abc"), Reset())
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/"))
        with pytest.raises(ConnectionResetError):
            client.read_to_end()


def test_scripts_by_path_and_in_order(server: ScriptedUpstream) -> None:
    """A path's own scripts come first, then those for any path, then what is always said, then the echo."""
    server.answer(answer(b"first"))
    server.answer(answer(b"own"), path="/own")
    server.answer_always(answer(b"always"), path="/own")

    def by_body(request: Received) -> Script:
        return json_answer({"path": request.path})

    server.answer_with(by_body, path="/with")
    order = ("/own", "/x", "/own", "/with", "/y")
    said = [bytes(exchange(server.port, request_bytes("GET", path)).body) for path in order]
    assert said == [b"own", b"first", b"always", b'{"path": "/with"}', b""]


def test_keep_alive_and_pipelining(server: ScriptedUpstream) -> None:
    """Several requests on one connection, also sent at once, are played in turn."""
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/1", body=b"1") + request_bytes("POST", "/2", body=b"2"))
        assert [client.read_answer().body, client.read_answer().body] == [b"1", b"2"]
        client.send(request_bytes("POST", "/3", body=b"3"))
        assert client.read_answer().body == b"3"
    server.wait_for(lambda: server.connections[0].closed)
    (connection,) = server.connections
    assert (connection.requests, connection.closed) == (3, "eof")


def test_how_a_client_leaves_is_seen_while_the_script_waits(server: ScriptedUpstream) -> None:
    """An end and a reset are told apart, with the time, although the script has more to say."""
    gate = Gate()
    server.answer_always(Wait(gate), answer(b"late"))
    leaver, breaker = RawClient(server.port), RawClient(server.port)
    leaver.send(request_bytes("GET", "/leaver"))
    server.request(0)
    breaker.send(request_bytes("GET", "/breaker"))
    server.request(1)
    before = leaver.close()
    breaker.reset()
    first, second = (server.closed(request) for request in server.requests)
    assert (first.closed, second.closed) == ("eof", "reset")
    assert first.closed_at >= before
    gate.open()


def test_an_answer_may_come_before_the_body(server: ScriptedUpstream) -> None:
    """`ReadBody` says when the script needs the body; in front of it the answer begins early."""
    server.answer(ReadBody(0), Informational(102, reason=b"Processing"), ReadBody(2), answer(b"enough"))
    with RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n")
        assert client.read_answer(interim=True).status == 102
        client.send(b"ab")
        assert client.read_answer().body == b"enough"
        assert not server.requests[0].complete
        client.send(b"cd")
        assert server.request().body == b"abcd"


def test_a_flood_stops_where_the_reader_does(server: ScriptedUpstream) -> None:
    """What is written is bounded by what the other side takes, and counted."""
    total = 64 << 20
    server.answer(Status(), Header(b"Content-Length: %d" % total), Flood(total))
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(request_bytes("GET", "/"))
        client.read_until(b"\r\n\r\n")
        server.wait_for(lambda: server.connections and server.connections[0].sent > 65536)
        assert server.connections[0].sent < total


def test_a_busy_server_holds_reading(server: ScriptedUpstream) -> None:
    """After `HoldReading` nothing more is taken until `ResumeReading`."""
    gate = Gate()
    server.answer(ReadBody(0), HoldReading(), Wait(gate), ResumeReading(), ReadBody(), answer(b"ok"))
    with RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
        server.head()
        client.send(b"abc")
        gate.open()
        assert client.read_answer().body == b"ok"


def test_it_can_refuse_and_accept_again(server: ScriptedUpstream) -> None:
    """A closed port refuses; the same port opens again."""
    server.refuse()
    with pytest.raises(ConnectionRefusedError):
        RawClient(server.port)
    server.accept()
    assert exchange(server.port, request_bytes("GET", "/")).status == 200


def test_idle_connections_can_be_dropped(server: ScriptedUpstream) -> None:
    """As a server does that tires of keep-alive."""
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/"))
        client.read_answer()
        server.drop_connections()
        assert client.is_closed()
    assert server.connections[0].closed == "us"


def test_what_never_happens_fails_with_what_did(server: ScriptedUpstream) -> None:
    """A wait that runs out tells the requests that came."""
    exchange(server.port, request_bytes("GET", "/seen"))
    with pytest.raises(AssertionError, match="/seen"):
        server.request(1, timeout=0.01)


def test_shorthands(server: ScriptedUpstream) -> None:
    """An event stream, event by event, each in its chunk."""
    server.answer(sse([{"a": 1}, ("named", "x"), b": comment\n\n"]))
    said = exchange(server.port, request_bytes("GET", "/"))
    assert said.chunks == [
        b'data: {"a": 1}\n\n',
        b"event: named\ndata: x\n\n",
        b": comment\n\n",
        b"data: [DONE]\n\n",
    ]


async def test_async_tests_use_it_as_well() -> None:
    """It runs in a thread of its own, whatever the test's loop does."""
    async with ScriptedUpstream() as upstream:
        assert exchange(upstream.port, request_bytes("GET", "/")).status == 200


def test_tls(tmp_path: Path) -> None:
    """A certificate for loopback, made on the spot."""
    made = self_signed(tmp_path)
    with (
        ScriptedUpstream(tls=made.server_context()) as upstream,
        RawClient(upstream.port, tls=made.client_context()) as client,
    ):
        client.send(request_bytes("GET", "/"))
        assert client.read_answer().status == 200
        assert upstream.url == f"https://127.0.0.1:{upstream.port}"


def test_a_gate_opens_before_or_after(server: ScriptedUpstream) -> None:
    """A gate that is open already holds nobody."""
    gate = Gate()
    gate.open()
    server.answer(Wait(gate), answer(b"through"))
    with promptly(5):
        assert exchange(server.port, request_bytes("GET", "/")).body == b"through"
    assert gate.is_open
