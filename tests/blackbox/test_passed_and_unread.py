"""What has passed is looked at before what came after it decides: a departure, a time-out, a break, a drain's end."""

import gzip
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sidecar.testing import (
    Chunk,
    End,
    Garbage,
    Gate,
    Header,
    LastChunk,
    OtlpSink,
    Pause,
    RawClient,
    ReadBody,
    Reset,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Status,
    Step,
    Wait,
    answer,
    chat_completion,
    chat_request,
    request_bytes,
    sse_head,
)
from tests.conftest import StartSidecar

EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\n'
WHOLE = [True, False]


def told(events: int, *, whole: bool) -> bytes:
    """A few bytes that are so many events, with or without the stream's end."""
    return gzip.compress(EVENT * events + USAGE + (b"data: [DONE]\n\n" if whole else b": here\n\n"))


def ask(client: RawClient, session: str) -> None:
    """Asks for a stream."""
    client.send(chat_request(stream=True, headers=(b"X-Sidecar-Session-Id: " + session.encode(),)))


def server_span(sink: OtlpSink, session: str) -> Span:
    """The request's span; all that had passed was looked at, so that its tokens and its reason are known."""
    call = sink.span(kind="CLIENT", attributes={"session.id": session})
    assert call.attributes["gen_ai.usage.output_tokens"] == 9
    assert call.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    return sink.span(kind="SERVER", attributes={"session.id": session})


LEAVING: dict[str, Callable[[RawClient], object]] = {
    "close": RawClient.close,
    "reset": RawClient.reset,
    "half-close": RawClient.half_close,
}


@pytest.mark.parametrize("whole", WHOLE, ids=["ended", "not ended"])
@pytest.mark.parametrize("name", LEAVING)
def test_the_client_leaves(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str, whole: bool
) -> None:
    """A few bytes, too many events for one turn: if its end has passed, the call is complete, whoever leaves then."""
    gate, session, sent = Gate(), f"left-{name}-{whole}", told(40_000, whole=whole)
    upstream.answer(sse_head((b"Content-Encoding: gzip",)), Chunk(sent), Wait(gate), LastChunk())
    with RawClient(sidecar.port) as client:
        ask(client, session)
        client.read_until(sent[-8:])
        LEAVING[name](client)
        upstream.closed(upstream.request())
    gate.open()
    assert server_span(sink, session).attributes["sidecar.outcome"] == (
        "completed" if whole else "client_left"
    )
    sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)


BREAKING: dict[str, Step] = {"end": End(), "reset": Reset(), "no chunk": Garbage(b"what\r\n")}


@pytest.mark.parametrize("whole", WHOLE, ids=["ended", "not ended"])
@pytest.mark.parametrize("name", BREAKING)
def test_the_upstream_fails(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str, whole: bool
) -> None:
    """It breaks off, or says what is no HTTP, behind what it has said."""
    gate, session, sent = Gate(), f"broke-{name}-{whole}", told(40_000, whole=whole)
    upstream.answer(sse_head((b"Content-Encoding: gzip",)), Chunk(sent), Wait(gate), BREAKING[name])
    with RawClient(sidecar.port) as client:
        ask(client, session)
        client.read_until(sent[-8:])
        gate.open()
        assert not client.read_to_end().endswith(b"0\r\n\r\n")
    span = server_span(sink, session)
    if whole:
        assert span.attributes["sidecar.outcome"] == "completed"
    else:
        assert span.attributes["sidecar.outcome"] == "upstream_failed"
        assert span.attributes["error.type"] == ("malformed" if name == "no chunk" else "cut_short")


@pytest.fixture(scope="module")
def impatient(module_upstream: ScriptedUpstream, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar that waits next to no time for more of an answer."""
    settings = {"IDLE_TIMEOUT": "20ms", "STALL_AFTER": "20ms"}
    with RunningSidecar(upstream=module_upstream.url, sink=module_sink, settings=settings) as running:
        yield running


@pytest.mark.parametrize("whole", WHOLE, ids=["ended", "not ended"])
def test_the_upstream_is_silent(
    impatient: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, whole: bool
) -> None:
    """It has said all it will, and does not end: the time-out comes long before all of it has been read."""
    gate, session, sent = Gate(), f"silent-{whole}", told(40_000, whole=whole)
    head = sse_head((b"Content-Encoding: gzip",))
    # Head and chunk in one write: an upstream that stood still between them would be silent by itself.
    upstream.answer(head, Garbage(b"\r\n%x\r\n%b\r\n" % (len(sent), sent)), Wait(gate))
    with RawClient(impatient.port) as client:
        ask(client, session)
        assert sent in client.read_to_end()
    gate.open()
    span = server_span(sink, session)
    if whole:
        assert span.attributes["sidecar.outcome"] == "completed"
    else:
        assert span.attributes["sidecar.outcome"] == "timed_out"
        assert span.attributes["error.type"] == "timeout.idle"


LETTERS = bytes(range(97, 123)) * 16_000
FRAMES = b"\r\n" + b"".join(b"1\r\n%c\r\n" % letter for letter in LETTERS)


def test_what_has_come_passes_before_a_time_out(
    start_sidecar: StartSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Frames that take many turns to read, longer than the time-out: it begins when the last of them has passed."""
    # Half a second of work, in which a busy machine may let the upstream stand still for a while.
    sidecar = start_sidecar(settings={"IDLE_TIMEOUT": "150ms"})
    upstream.answer(Status(), Header(b"Transfer-Encoding: chunked"), Garbage(FRAMES + b"0\r\n\r\n"))
    with RawClient(sidecar.port) as client:
        ask(client, "frames")
        assert client.read_answer("POST").body == LETTERS
    span = sink.span(kind="SERVER", attributes={"session.id": "frames"})
    assert span.attributes["sidecar.outcome"] == "completed"


WHOLE_BODY = json.dumps(chat_completion("x" * 1_000_000) | {"more": ["word"] * 600_000, "end": 1}).encode()
"""A large answer that takes many turns to read."""


@pytest.mark.parametrize("number", range(3))
def test_the_upload_turns_out_to_be_broken(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, number: int
) -> None:
    """An answer that did not wait for the whole request has passed as a whole: what becomes of the upload comes too late."""
    session = f"broken-upload-{number}"
    lines = (b"X-Sidecar-Session-Id: " + session.encode(), b"Transfer-Encoding: chunked")
    said = answer(WHOLE_BODY, headers=(b"Content-Type: application/json",))
    upstream.answer(ReadBody(0), said)
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=lines) + b"1\r\na\r\n")
        client.read_until(b'"end": 1}')
        client.send(b"no size\r\n")
        assert client.read_to_end() == b""
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == "completed"
    call = sink.span(kind="CLIENT", attributes={"session.id": session})
    assert call.attributes["gen_ai.usage.output_tokens"] == 7


STREAMS = 20


def test_the_drain_ends(start_sidecar: StartSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """While streams end one after another, all of it dear to read: who has had its end is complete, the others are not."""
    sent, gate, over = told(1_000, whole=True), Gate(), Gate()
    for number in range(STREAMS):
        pause = Pause(0.6 + number * 0.04)
        upstream.answer(sse_head((b"Content-Encoding: gzip",)), Wait(gate), pause, Chunk(sent), Wait(over))
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": "4s"})
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(STREAMS)]
        for number, client in enumerate(clients):
            ask(client, f"drained-{number}")
            client.read_until(b"\r\n\r\n")
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        gate.open()
        had = [sent in client.read_to_end() for client in clients]
    over.open()
    assert sidecar.wait() == 0
    told_of = [
        sink.span(kind="SERVER", attributes={"session.id": f"drained-{number}"}).attributes["sidecar.outcome"]
        for number in range(STREAMS)
    ]
    assert told_of == ["completed" if whole else "shutdown" for whole in had]
    assert any(had)
