"""A request's body: the memory that it takes while it is held and read, and while its upstream takes none of it."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest
import uvloop

from sidecar.apis import Steps, at_once
from sidecar.app import Sidecar
from sidecar.core.digests import Digester
from sidecar.core.exchange import RequestHead
from sidecar.core.facts import RequestFacts, Route
from sidecar.core.headers import Headers
from sidecar.proxy.bodies import Upload
from sidecar.proxy.flow import Flow
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.shared import Admission, Shared
from sidecar.proxy.upstream_side import HIGH_WATER, LITTLE, UpstreamConnection
from sidecar.settings import load

CHAT = Route("/v1/chat/completions", api="openai.chat", operation="chat", turn=True)
MESSAGES = [{"role": "user", "content": "some words of a text " * 20}] * 2000
BODY = json.dumps({"model": "m", "messages": MESSAGES}).encode()


def upload(memory: int) -> tuple[Upload, Admission]:
    """A large body that has come, and what is held of so much memory."""
    inbound = Inbound(1)
    inbound.head = RequestHead(
        "POST", b"/v1/chat/completions", "1.1", Headers([(b"Content-Type", b"application/json")])
    )
    inbound.length, inbound.ended = len(BODY), True
    inbound.gather(BODY)
    admission = Admission(memory)
    shared = SimpleNamespace(
        admission=admission, limits=SimpleNamespace(inspect=len(BODY)), digester=Digester(b"key")
    )
    one = Upload(inbound, cast("Shared", shared))
    assert one.hold()
    return one, admission


def test_the_copies_of_a_body_that_is_read_in_pieces_count() -> None:
    """As long as it is read; then the body itself is all that is held."""
    one, admission = upload(3 * len(BODY))
    held = admission.memory
    most = 0

    def steps() -> Steps[RequestFacts]:
        nonlocal most
        reading = one.read(CHAT, ())
        while True:
            try:
                next(reading)
            except StopIteration as end:
                facts: RequestFacts = end.value
                return facts
            most = max(most, admission.memory)
            yield

    assert at_once(steps()).messages == 2000
    assert most == held + len(BODY)
    assert (one.state, admission.memory) == ("read", held)
    one.release()
    assert admission.memory == 0


def test_a_body_without_memory_for_them_passes_unread() -> None:
    """And nothing stays counted."""
    one, admission = upload(len(BODY) + 1000)
    assert at_once(one.read(CHAT, ())).messages is None
    assert one.state == "memory_full"
    one.release()
    assert admission.memory == 0


UPLOADS, ROOM = 48, 512 * 1024
UPLOAD = b"POST /files HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\nContent-Length: 400000\r\n\r\n" + bytes(
    300_000
)
OVERHEAD = 256
"""Bytes of memory that the pieces of one upload take beside their own, and those of its head."""


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What upstreams do not take, the system hardly takes either."""
    made = UpstreamConnection.connection_made

    def made_small(side: UpstreamConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(side, transport)

    monkeypatch.setattr(UpstreamConnection, "connection_made", made_small)


@contextmanager
def takes_nothing() -> Iterator[int]:
    """The port of an upstream whose connections stand, and which reads nothing."""
    with socket.socket() as upstream:
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upstream.bind(("127.0.0.1", 0))
        upstream.listen(2 * UPLOADS)
        yield upstream.getsockname()[1]


class Held(NamedTuple):
    """Bytes."""

    waiting: int
    """What the relay holds of uploads."""
    counted: int
    after: int
    """What is counted once the clients have left."""


def waits(shared: Shared, uploads: int) -> bool:
    """So many uploads are on their way, and their upstream takes no more of any."""
    flows = [cast("Flow", flow) for flow in shared.flows]
    sides = [flow._side for flow in flows]
    stuck = all(
        side is not None and side.waiting and flow._client.paused
        for flow, side in zip(flows, sides, strict=True)
    )
    return stuck and len(flows) == uploads


async def until(condition: Callable[[], bool]) -> None:
    """Turns the event loop until it holds."""
    async with asyncio.timeout(240):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def held(made: list[Shared], upstream: int, media: bytes) -> Held:
    """What is held, and counted, of uploads of this kind that come one after another, and of which none is taken."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    given = {
        "SIDECAR_UPSTREAM": f"http://127.0.0.1:{upstream}",
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        "SIDECAR_INSPECT_MEMORY": str(ROOM),
        "SIDECAR_INSPECT_LIMIT": "1000",
    }
    running = Sidecar(load({}, given))
    await running.start()
    writers: list[asyncio.StreamWriter] = []
    try:
        (shared,) = made
        for number in range(1, UPLOADS + 1):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            resets = struct.pack("ii", 1, 0)  # what the sidecar has not read would keep an end from coming
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, resets)
            writers.append(writer)
            writer.write(UPLOAD % media)
            await until(lambda number=number: waits(shared, number))  # type: ignore[misc]
        flows = [cast("Flow", flow) for flow in shared.flows]
        waiting = sum(flow._side.waiting for flow in flows if flow._side is not None)
        counted = shared.admission.memory
        for writer in writers:
            writer.transport.abort()
        await until(lambda: not shared.flows)
        return Held(waiting, counted, shared.admission.memory)
    finally:
        for writer in writers:
            writer.transport.abort()
        await running.stop()


@pytest.mark.parametrize("media", [b"application/octet-stream", b"application/json"])
@pytest.mark.usefixtures("small_buffers")
def test_an_upload_that_is_not_taken_counts(made: list[Shared], media: bytes) -> None:
    """As the memory it takes, also where it is not inspected; without room next to nothing of one more is read."""
    with takes_nothing() as upstream:
        found = uvloop.run(held(made, upstream, media))
    assert UPLOADS * LITTLE // 2 < found.waiting <= found.counted
    assert found.counted < ROOM + HIGH_WATER + UPLOADS * (2 * LITTLE + OVERHEAD)
    assert found.after == 0


def test_what_is_held_already_needs_no_room() -> None:
    """Uploads that had to be kept come on top of the limit: then nobody gets more, and nobody loses what it has."""
    admission = Admission(100)
    admission.memory = 150
    assert [admission.hold(size) for size in (1, 0, -10)] == [False, True, True]
    assert admission.memory == 140
