"""What requests leave behind: nothing that only Python's collector of garbage would find.

What survives one of its collections is kept from the next ones (`sidecar/app.py`), so that they stay short: what
lies in a cycle then would stay for good.
"""

import asyncio
import gc
import gzip
import json
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from sidecar.app import Sidecar
from sidecar.settings import load
from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    LastChunk,
    OtlpSink,
    RawClient,
    Received,
    Reset,
    ScriptedUpstream,
    Step,
    chat_chunk,
    chat_completion,
    chat_request,
    json_answer,
    self_signed,
    sse_event,
    sse_head,
)

CHAT = "/v1/chat/completions"
EVENTS = [Chunk(sse_event(chat_chunk(text))) for text in "abc"]
ZIPPED = gzip.compress(json.dumps(chat_completion()).encode())
GZIP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"

ANSWERS: dict[str, tuple[Step, ...]] = {
    "whole": json_answer(chat_completion("Hi")),
    "stream": (*sse_head(), *EVENTS, Chunk(sse_event("[DONE]")), LastChunk()),
    "begun": (*sse_head(), *EVENTS, LastChunk()),
    "failed": json_answer({"error": {"message": "no", "type": "server_error"}}, status=500),
    "zipped": (Bytes(GZIP % len(ZIPPED) + ZIPPED),),
    "text": (Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),),
    "odd": (Bytes(b"HTTP/1.1 200 OK\nContent-Length:2\n\nhi"),),
    "cut": (Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), End()),
    "reset": (*sse_head(), *EVENTS, Reset()),
    "silent": (End(),),
    "no HTTP": (Bytes(b"hello\r\n\r\n"), End()),
}
"""What the upstream answers, by what its request's query asks for."""


def answered(request: Received) -> tuple[Step, ...]:
    """The answer that was asked for."""
    return ANSWERS[request.target.decode().partition("?")[2].replace("+", " ")]


def asked(kind: str, *headers: bytes, **body: object) -> bytes:
    """A request for one of the answers."""
    return chat_request(path=f"{CHAT}?{kind.replace(' ', '+')}", headers=headers, **body)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
LEFT = [
    b"",
    HEAD[:30],
    HEAD + b"Content-Length: 9\r\n\r\n{",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n",
]
"""What clients say that leave before they have said all."""
REFUSED = [b"no HTTP\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"]
LARGE = asked("whole", messages=[{"role": "user", "content": "x" * 2_000_000}])


def traffic(port: int) -> None:
    """Every kind of request and of ending, each on a connection of its own."""
    for kind in ANSWERS:
        with RawClient(port) as client:
            client.send(asked(kind, b"X-Sidecar-Session-Id: s", stream=kind in ("stream", "begun", "reset")))
            client.read_to_end() if kind in ("cut", "reset") else client.read_answer("POST")
    for kind in ("stream", "begun"):
        with RawClient(port) as client:
            client.send(asked(kind, stream=True))
            client.read_until(b"\r\n\r\n")
            client.reset()
    for data in LEFT:
        with RawClient(port) as client:
            client.send(data)
            client.reset()
    closed = [
        asked("whole").replace(CHAT.encode(), to + CHAT.encode())
        for to in (b"/closed", b"/named", b"/silent")
    ]
    for data in (*REFUSED, LARGE, *closed):
        with RawClient(port) as client:
            client.send(data)
            client.read_answer("POST")
    with RawClient(port) as client:
        client.send(asked("whole") * 3)
        for _ in range(3):
            client.read_answer("POST")


async def garbage(environ: dict[str, str]) -> Counter[str]:
    """What of the sidecar's objects, and of those beneath it, lies in cycles after traffic."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = Sidecar(load({}, {**environ, "SIDECAR_LISTEN": f"127.0.0.1:{port}"}))
    await running.start()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await asyncio.to_thread(traffic, port)
        await running.stop()
        gc.collect()
        kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    ours = ("sidecar.core.", "sidecar.proxy.", "sidecar.telemetry.", "uvloop.", "ssl.", "_ssl.", "httptools.")
    return Counter(
        {kind: count for kind, count in kinds.items() if kind.startswith(ours) or kind.endswith("Error")}
    )


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_requests_leave_no_cycles(tmp_path: Path, *, encrypted: bool) -> None:
    """Whatever becomes of them."""
    tls = self_signed(tmp_path) if encrypted else None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    server = ScriptedUpstream(tls=tls.server_context() if tls else None)
    with socket.create_server(("127.0.0.1", 0)) as nobody, OtlpSink() as sink, server as upstream:
        upstream.answer_with(answered)
        silent = nobody.getsockname()[1]
        environ = {
            "SIDECAR_UPSTREAM": upstream.url,
            "SIDECAR_UPSTREAMS": f"closed=http://127.0.0.1:{closed},named=http://localhost:{closed},"
            f"silent=https://127.0.0.1:{silent}",
            "SIDECAR_CONNECT_TIMEOUT": "200ms",
            "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
            **({"SSL_CERT_FILE": str(tls.certificate)} if tls else {}),
            **sink.environ(),
        }
        gc.disable()
        try:
            assert uvloop.run(garbage(environ)) == Counter()
        finally:
            gc.enable()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sidecar]:
    """A sidecar that may have this process to itself, which is as before afterwards."""
    for owner, hook in ((warnings, "showwarning"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, hook, getattr(owner, hook))
    before, thresholds = list(gc.callbacks), gc.get_threshold()
    environ = {"UPSTREAM": "http://127.0.0.1:9", "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"}
    yield Sidecar(load({}, {f"SIDECAR_{name}": value for name, value in environ.items()}))
    gc.callbacks[:] = before
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_stays_is_not_walked_through_again(own: Sidecar) -> None:
    """A full collection looks at what has come since the one before, and that is never much."""
    walked = []

    def look(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            walked.append(len(gc.get_objects()))

    own.request_stop()
    uvloop.run(own.serve())
    gc.callbacks.append(look)
    kept: list[list[int]] = [[] for _ in range(1_000_000)]
    assert len(kept) // 3_000 * 0.9 < len(walked)
    assert max(walked) < 8_000


def test_some_requests_are_looked_through_at_once(own: Sidecar) -> None:
    """Also where as much is forgotten as is kept."""
    served, collected = asyncio.Event(), asyncio.Event()

    def look(phase: str, about: dict[str, int]) -> None:
        if phase == "stop":
            (served if about["generation"] == 2 else collected).set()

    async def serve() -> None:
        serving = asyncio.create_task(own.serve())
        await served.wait()
        gc.set_threshold(1_000_000_000)
        collected.clear()
        own.recorder.requests_settled = own.recorder.requests_started = 100
        async with asyncio.timeout(60):
            await collected.wait()
        own.request_stop()
        await serving

    gc.collect()
    gc.callbacks.append(look)
    uvloop.run(serve())
