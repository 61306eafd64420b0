"""A request that is sent once more starts anew: nothing that was true of the dead connection is of the fresh one."""

import asyncio
import socket

import uvloop

from sidecar import app
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.shared import Shared
from sidecar.proxy.upstream_side import UpstreamConnection
from sidecar.settings import load
from sidecar.testing import ScriptedUpstream, answer
from tests.proxy.test_calls import ANSWER, End


class Told(End):
    """A transport that tells when it is read again, and when the answer's end is written to it."""

    def __init__(self, silent: socket.socket) -> None:
        super().__init__(silent)
        self.resumed, self.written = asyncio.Event(), asyncio.Event()
        self.write = self._write  # type: ignore[method-assign]

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(data)
        if bytes(data).endswith(b"ok"):
            self.written.set()

    def get_write_buffer_size(self) -> int:
        """A lot waits."""
        return 1 << 20

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """It is given what it reads by hand."""

    def resume_reading(self) -> None:
        """It is read again."""
        self.resumed.set()


async def resent(made: list[Shared], url: str) -> bytes:
    """What a client gets whose upload was blocked on a pooled connection that then ended, and that sends the rest later."""
    given = {
        "SIDECAR_UPSTREAM": url,
        "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
    }
    running = app.Sidecar(load({}, given))
    await running.start()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        (shared,) = made
        client, upstream, down = (
            ClientConnection(shared),
            shared.routes.target("GET", b"/").upstream,
            Told(ours),
        )
        assert upstream is not None
        side = UpstreamConnection(shared, upstream)
        client.connection_made(down)
        side.connection_made(Told(ours))
        side.feed(ANSWER)
        side.finish()
        shared.pool.put(side, shared.clock())
        client.data_received(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        side.pause_writing()
        assert client.paused
        side.connection_lost(ConnectionResetError())
        async with asyncio.timeout(20):
            await down.resumed.wait()
            client.data_received(b"def")
            await down.written.wait()
        client.connection_lost(None)
        return b"".join(down.sent)
    finally:
        await running.stop()
        ours.close()
        theirs.close()


def test_an_upload_that_was_blocked_goes_on(made: list[Shared]) -> None:
    """The fresh connection takes it: its client is read again."""
    with ScriptedUpstream() as upstream:
        upstream.answer(answer(b"ok"))
        assert uvloop.run(resent(made, upstream.url)).endswith(b"\r\n\r\nok")
        assert upstream.request().body == b"abcdef"
