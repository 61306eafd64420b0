"""What a peer does not take, of a request or of an answer: it counts as the memory it takes, and is little while there is no room."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, cast

import pytest
import uvloop

from sidecar.app import Sidecar
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.flow import Flow
from sidecar.proxy.shared import Shared
from sidecar.proxy.upstream_side import LITTLE, READ, UpstreamConnection
from sidecar.settings import load
from sidecar.testing import Certificate, self_signed

PEERS, ROOM = 48, 512 * 1024
SIZE = 300_000
"""Bytes of a body of which next to nothing is taken."""

UPLOAD = b"POST /files HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\nContent-Length: 400000\r\n\r\n" + bytes(
    SIZE
)
DOWNLOAD = b"GET /files HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (b"%b", SIZE) + bytes(SIZE)
OVERHEAD = 256
"""Bytes of memory that the pieces of one body take beside their own, and those of its head."""

After = Callable[[list[socket.socket]], Coroutine[None, None, None]]
"""What clients do in the end."""

MEDIA = pytest.mark.parametrize("media", [b"application/octet-stream", b"application/json"])


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What peers do not take, the system hardly takes either."""

    def keep_little(kind: type[UpstreamConnection] | type[ClientConnection]) -> None:
        made = kind.connection_made

        def connection_made(side: Any, transport: asyncio.BaseTransport) -> None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            made(side, transport)

        monkeypatch.setattr(kind, "connection_made", connection_made)

    keep_little(UpstreamConnection)
    keep_little(ClientConnection)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of an upstream with TLS."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@contextmanager
def listening() -> Iterator[socket.socket]:
    """An upstream of which all connections stand, and which reads nothing by itself."""
    with socket.socket() as upstream:
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upstream.bind(("127.0.0.1", 0))
        upstream.listen(2 * PEERS)
        yield upstream


class Held(NamedTuple):
    """Bytes."""

    waiting: int
    """What the relay holds of bodies."""
    counted: int
    after: int
    """What is counted once the clients have left, or have taken all."""


def kept(transport: asyncio.Transport | None) -> int:
    """Bytes that were written and are in the process."""
    return 0 if transport is None else transport.get_write_buffer_size()


def upward(flow: Flow) -> int:
    """What is kept of an upload that stands still."""
    return 0 if flow._side is None or not flow._client.paused else kept(flow._side.transport)


def downward(flow: Flow) -> int:
    """What is kept of an answer that stands still, while nothing more of it is received."""
    below = getattr(flow._side, "below", None)
    if below is not None and below.is_reading():
        return 0
    return 0 if flow._client.writable else kept(cast("ClientConnection", flow._client)._transport)


async def until(condition: Callable[[], bool]) -> None:
    """Turns the event loop until it holds."""
    async with asyncio.timeout(240):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def asking(port: int, data: bytes) -> socket.socket:
    """A client that has asked, and reads nothing by itself."""
    client, loop = socket.socket(), asyncio.get_running_loop()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # What the sidecar has not read would keep an end from coming.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    with suppress(BlockingIOError):
        client.send(data)
    return client


async def held(
    made: list[Shared],
    upstream: int,
    data: bytes,
    of: Callable[[Flow], int],
    after: After,
    trusted: Certificate | None = None,
) -> Held:
    """What is held, and counted, of requests that come one after another, and of each of which something stands still."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    given = {
        "SIDECAR_UPSTREAM": f"{'https' if trusted else 'http'}://localhost:{upstream}",
        **({} if trusted is None else {"SSL_CERT_FILE": str(trusted.certificate)}),
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        "SIDECAR_INSPECT_MEMORY": str(ROOM),
        "SIDECAR_INSPECT_LIMIT": "1000",
    }
    running = Sidecar(load({}, given))
    await running.start()
    clients: list[socket.socket] = []
    try:
        (shared,) = made

        def waits() -> list[int]:
            return [of(cast("Flow", flow)) for flow in shared.flows]

        for number in range(1, PEERS + 1):
            clients.append(await asking(port, data))
            await until(lambda number=number: len(found := waits()) == number and all(found))  # type: ignore[misc]
        waiting, counted = sum(waits()), shared.admission.memory
        await after(clients)
        await until(lambda: not shared.flows)
        return Held(waiting, counted, shared.admission.memory)
    finally:
        await leave(clients)
        await running.stop()


async def leave(clients: list[socket.socket]) -> None:
    """All of them reset their connections."""
    for client in clients:
        client.close()


async def take(clients: list[socket.socket]) -> None:
    """All of them take the rest."""
    for client in clients:
        took = 0
        while took < SIZE:
            took += len(await asyncio.get_running_loop().sock_recv(client, READ))


@MEDIA
def test_an_upload_that_is_not_taken_counts(made: list[Shared], media: bytes) -> None:
    """As the memory it takes, also where it is not inspected; without room next to nothing of one more is read."""
    with listening() as upstream:
        found = uvloop.run(held(made, upstream.getsockname()[1], UPLOAD % media, upward, leave))
    assert PEERS * LITTLE // 2 < found.waiting <= found.counted
    assert found.counted < ROOM + READ + PEERS * (2 * LITTLE + OVERHEAD)
    assert found.after == 0


@pytest.mark.parametrize("after", [leave, take])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@MEDIA
def test_an_answer_that_is_not_taken_counts(
    made: list[Shared], media: bytes, after: After, tls: bool, certificate: Certificate
) -> None:
    """So does what clients do not take; nothing stays counted once they have taken it, or left."""

    async def both(upstream: socket.socket) -> Held:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(ANSWER % media)
                await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()

        context, trusted = (certificate.server_context(), certificate) if tls else (None, None)
        async with await asyncio.start_server(answer, sock=upstream, ssl=context):
            return await held(made, upstream.getsockname()[1], DOWNLOAD, downward, after, trusted)

    with listening() as upstream:
        found = uvloop.run(both(upstream))
    assert PEERS * LITTLE // 2 < found.waiting <= found.counted
    # Over TLS the event loop decides how much is read at once.
    assert found.counted < ROOM + 4 * READ + PEERS * (4 * READ if tls else 2 * LITTLE + OVERHEAD)
    assert found.after == 0


BEHIND = 24
"""Requests behind one that is under way, of 1,000 bytes and more each."""

PIPELINED = DOWNLOAD + BEHIND * (b"GET /next HTTP/1.1\r\nHost: h\r\nX-Long: %b\r\n\r\n" % (b"x" * 1000))
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"


def ahead(flow: Flow) -> int:
    """What is kept of requests behind one that is under way."""
    reader = cast("ClientConnection", flow._client)._reader
    heads = [value for one in reader.ready if one.head is not None for _, value in one.head.headers.fields]
    return len(reader.unparsed) + sum(one.size for one in reader.ready) + sum(map(len, heads))


async def take_all(clients: list[socket.socket]) -> None:
    """All of them get an answer to each of their requests."""
    for client in clients:
        took = b""
        while took.count(b"HTTP/1.1 204 ") <= BEHIND:
            took += await asyncio.get_running_loop().sock_recv(client, READ)


@pytest.mark.parametrize(
    "data, after",
    [(DOWNLOAD + UPLOAD % b"text/plain", leave), (PIPELINED, leave), (PIPELINED, take_all)],
    ids=["a body", "requests", "requests that are answered"],
)
def test_what_is_sent_behind_a_request_counts(made: list[Shared], data: bytes, after: After) -> None:
    """Without room next to nothing of one more is read; whoever leaves, or is answered, gives it back."""

    async def both(upstream: socket.socket) -> Held:
        go_on = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    await go_on.wait()
                    writer.write(NOTHING)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        async def then(clients: list[socket.socket]) -> None:
            if after is take_all:
                go_on.set()
            await after(clients)

        async with await asyncio.start_server(answer, sock=upstream):
            found = await held(made, upstream.getsockname()[1], data, ahead, then)
            go_on.set()
            return found

    with listening() as upstream:
        found = uvloop.run(both(upstream))
    assert PEERS * LITTLE // 2 < found.waiting <= found.counted
    assert found.counted < ROOM + READ + PEERS * 3 * LITTLE
    assert found.after == 0
