"""What a unary request costs the event loop, counted in Python calls: the number may only fall.

Counted and not timed, so it is the same on every machine: the real sidecar, full telemetry, and two ends that are no
sockets. What happens now and then (an export, an expiry) is left out: the number is that of the cheapest of many equal requests.
"""

import asyncio
import json
import socket
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
import uvloop

from sidecar import app
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.shared import Shared
from sidecar.proxy.upstream_side import UpstreamConnection
from sidecar.settings import load
from sidecar.testing import OtlpSink, chat_completion, chat_request

KNOWN = Path(__file__).with_name("calls.json")
WARM, REQUESTS = 40, 60

BODY = json.dumps(chat_completion()).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 29 Nov 2026 17:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%b" % (len(BODY), BODY)
)
REQUEST = chat_request(
    headers=(b"User-Agent: a/1", b"X-Sidecar-Session-Id: s", b"X-Sidecar-Conversation-Id: c")
)


class End(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, silent: socket.socket) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "socket": silent})
        self.sent: list[bytes | bytearray | memoryview] = []
        self.write = self.sent.append  # type: ignore[method-assign,assignment] # no call of its own

    def is_closing(self) -> bool:
        """Never."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is nothing to limit."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def abort(self) -> None:
        """Nothing is open."""


class Calls:
    """Counts the calls of Python functions in the thread that it is set in."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """One event of the profiler."""
        self.count += event == "call" and frame.f_code is not End.is_closing.__code__


async def usual(made: list[Shared], **environ: str) -> int:
    """The calls of the usual request."""
    given = {
        "SIDECAR_UPSTREAM": "http://127.0.0.1:9",
        "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    }
    running = app.Sidecar(load({}, {**given, **environ}))
    await running.start()
    ours, theirs = socket.socketpair()
    try:
        (shared,) = made
        client, upstream = ClientConnection(shared), shared.routes.target("GET", b"/").upstream
        assert upstream is not None
        side, up = UpstreamConnection(shared, upstream), End(ours)
        client.connection_made(End(ours))
        side.connection_made(up)
        side.feed(ANSWER)
        side.finish()
        shared.pool.put(side, shared.clock())
        found: Counter[int] = Counter()
        for at in range(WARM + REQUESTS):
            calls = Calls()
            sys.setprofile(calls)
            client.data_received(REQUEST)
            side.data_received(ANSWER)
            sys.setprofile(None)
            assert len(up.sent) == at + 1
            found[calls.count] += at >= WARM
            await asyncio.sleep(0)
        return min(found)
    finally:
        sys.setprofile(None)
        await running.stop()
        ours.close()
        theirs.close()


@pytest.mark.parametrize("kind", ["full", "full, without histories", "off"])
def test_calls(kind: str, made: list[Shared]) -> None:
    """No more than were ever needed; fewer are to be written down in `calls.json`."""
    with OtlpSink() as sink:
        environ = {} if kind == "off" else sink.environ()
        environ["SIDECAR_HISTORY"] = "join" if kind == "full" else "off"
        found = uvloop.run(usual(made, **environ))
    known = json.loads(KNOWN.read_text())[kind]
    assert found <= known
    if sys.version_info[:2] == (3, 11):  # later ones make fewer calls of the same code
        assert found == known
