"""When a client leaves, the upstream's connection is closed at once, whatever was going on: within 100 ms on a quiet machine."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    Flood,
    Gate,
    Header,
    HoldReading,
    LastChunk,
    OtlpSink,
    RawClient,
    ReadBody,
    Received,
    ResumeReading,
    RunningSidecar,
    ScriptedUpstream,
    Status,
    Wait,
    chat_request,
    exchange,
    request_bytes,
    sse_head,
)
from tests.hostility.witness import turns_of

PROMPT = 100_000_000
"""Nanoseconds within which the upstream must know, or else:"""

TURNS = 20
"""How often the sidecar's event loop comes round meanwhile, on a machine that takes longer for that."""

Leave = Callable[[RawClient], Any]


def _half_close(client: RawClient) -> None:
    client.half_close()


LEAVING: list[tuple[str, Leave]] = [
    ("close", RawClient.close),
    ("reset", RawClient.reset),
    ("half-close", _half_close),
]


def left_promptly(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, request: Received, client: RawClient, leave: Leave
) -> None:
    """Lets the client leave and fails unless the upstream's connection is closed in time."""
    with turns_of(sidecar) as turns:
        before, came_round = time.time_ns(), 0
        leave(client)
        while request.connection.closed is None and time.time_ns() - before < 300 * PROMPT:
            turns.wait()
            came_round += 1
    connection = upstream.closed(request)
    assert connection.closed in {"eof", "reset"}
    assert connection.closed_at - before < PROMPT or came_round <= TURNS


@pytest.mark.parametrize("name,leave", LEAVING)
def test_before_the_first_byte(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str, leave: Leave
) -> None:
    """The upstream is still thinking."""
    gate = Gate()
    upstream.answer(Wait(gate))
    session = f"before-{name}"
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
        left_promptly(sidecar, upstream, upstream.request(), client, leave)
    gate.open()
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == "client_left"
    assert span.attributes["sidecar.outcome.phase"] == "before_headers"


@pytest.mark.parametrize("name,leave", LEAVING)
def test_mid_stream(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str, leave: Leave
) -> None:
    """The upstream has said something, and is silent now."""
    gate = Gate()
    upstream.answer(sse_head(), Chunk(b"data: {}\n\n"), Wait(gate), LastChunk())
    session = f"mid-{name}"
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))
        client.read_until(b"data: {}\n\n")
        left_promptly(sidecar, upstream, upstream.request(), client, leave)
    gate.open()
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == "client_left"
    assert span.attributes["sidecar.outcome.phase"] == "mid_stream"


@pytest.mark.parametrize("name,leave", LEAVING)
def test_while_it_uploads(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, name: str, leave: Leave
) -> None:
    """A body that streams through breaks off: the upstream must not take it for whole."""
    upstream.answer(ReadBody())
    head = (b"Content-Type: application/octet-stream", b"Transfer-Encoding: chunked")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/files", headers=head) + b"3\r\nabc\r\n")
        upstream.wait_for(lambda: upstream.requests and upstream.requests[0].body == b"abc")
        request = upstream.requests[0]
        left_promptly(sidecar, upstream, request, client, leave)
    assert not request.complete


@pytest.mark.parametrize("name,leave", LEAVING[:2])
def test_while_it_does_not_read(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, name: str, leave: Leave
) -> None:
    """The answer is held back by a client that takes nothing, and then goes."""
    total = 64 << 20
    upstream.answer(Status(), Header(b"Content-Length: %d" % total), Flood(total))
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(request_bytes("GET", "/x"))
        client.read_until(b"\r\n\r\n")
        request = upstream.request()
        upstream.wait_for(lambda: request.connection.sent > 1 << 20)
        left_promptly(sidecar, upstream, request, client, leave)


def test_behind_a_pipeline(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """With more requests read ahead: the running one is closed, the waiting ones never go out."""
    gate = Gate()
    upstream.answer(Wait(gate), path="/first")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/first") + request_bytes("GET", "/second"))
        left_promptly(sidecar, upstream, upstream.request(), client, RawClient.close)
    gate.open()
    sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
    assert [request.path for request in upstream.requests] == ["/first"]


def test_others_are_not_touched(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """One client's leaving ends its own upstream connection and no other."""
    gate = Gate()
    upstream.answer_always(Wait(gate), Status(), Header(b"Content-Length: 2"), Bytes(b"ok"), path="/slow")
    with RawClient(sidecar.port) as stays, RawClient(sidecar.port) as goes:
        stays.send(request_bytes("GET", "/slow"))
        upstream.request(0)
        goes.send(request_bytes("GET", "/slow"))
        left_promptly(sidecar, upstream, upstream.request(1), goes, RawClient.reset)
        gate.open()
        assert stays.read_answer().body == b"ok"
    assert exchange(sidecar.port, request_bytes("GET", "/after")).status == 200


@pytest.fixture(scope="module")
def scant(module_upstream: ScriptedUpstream, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that has memory for one large body at a time."""
    settings = {"INSPECT_MEMORY": str(3 * len(LARGE))}
    with RunningSidecar(upstream=module_upstream.url, sink=module_sink, settings=settings) as running:
        yield running


LARGE = json.dumps(
    {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{n} words"} for n in range(60_000)]}
).encode()
"""A body that takes many turns to read."""

BODIES: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "plain": ((b"Content-Length: %d" % len(LARGE),), LARGE),
    "chunked": ((b"Transfer-Encoding: chunked",), b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)),
    "gzip": (
        (b"Content-Encoding: gzip", b"Content-Length: %d" % len(gzip.compress(LARGE, mtime=0))),
        gzip.compress(LARGE, mtime=0),
    ),
}


def large(session: str, form: str, *, behind: bytes = b"") -> bytes:
    """A request with that body."""
    fields, body = BODIES[form]
    own = b"X-Sidecar-Session-Id: " + session.encode()
    fields = (b"Content-Type: application/json", own, *fields)
    return request_bytes("POST", "/v1/chat/completions", headers=fields) + body + behind


@pytest.mark.parametrize("behind", [b"", request_bytes("GET", "/behind")], ids=["alone", "pipelined"])
@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("name,leave", LEAVING)
def test_while_its_large_body_is_read(
    scant: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    name: str,
    leave: Leave,
    form: str,
    behind: bytes,
) -> None:
    """It has sent all of it and goes: nothing of it goes on, or the upstream is told, and its memory is there again."""
    gate, session = Gate(), f"read-{name}-{form}-{len(behind)}"
    upstream.answer_always(Wait(gate), path="/v1/chat/completions")
    with RawClient(scant.port) as client:
        client.send(large(session, form, behind=behind))
        leave(client)
        span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == "client_left"
    assert span.attributes["sidecar.outcome.phase"] == "before_headers"
    scant.wait_until(lambda: scant.stats()["requests"]["in_flight"] == 0)
    for request in upstream.requests:
        assert upstream.closed(request).closed in {"eof", "reset"}
    gate.open()
    upstream.clear()
    whole = f"{session}-whole"
    assert exchange(scant.port, large(whole, form)).status == 200
    call = sink.span(kind="CLIENT", attributes={"session.id": whole})
    assert call.attributes["gen_ai.request.model"] == "gpt-4o"
    requests = scant.stats()["requests"]
    assert requests["started"] == requests["settled"]


def test_while_the_upstream_takes_nothing(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """An upload held back by the upstream: the departure is noticed with the next write at the latest."""
    gate = Gate()
    size = 64 << 20
    upstream.answer(ReadBody(0), HoldReading(), Wait(gate), ResumeReading(), ReadBody())
    fields = (
        b"Content-Type: application/octet-stream",
        b"Content-Length: %d" % size,
        b"X-Sidecar-Session-Id: held-back",
    )
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/files", headers=fields))
        upstream.head()
        assert client.send_what_fits(b"x" * size) < size
        client.reset()
    gate.open()
    span = sink.span(kind="SERVER", attributes={"session.id": "held-back"})
    assert span.attributes["sidecar.outcome"] == "client_left"
