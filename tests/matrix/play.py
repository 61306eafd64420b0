"""Plays one cell of the matrix through whatever proxy stands between, and checks the bytes on both sides.

Owns what client and provider do. It knows the proxy by its port alone, so it serves for any proxy.
"""

from collections.abc import Mapping

from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Gate,
    Header,
    LastChunk,
    Message,
    MessageReader,
    RawClient,
    Received,
    ScriptedUpstream,
    Status,
    Step,
    Wait,
    request_bytes,
)
from tests.matrix.cells import Cell

REASONS: Mapping[int, bytes] = {200: b"OK", 429: b"Too Many Requests", 503: b"Service Unavailable"}


def script(cell: Cell, gate: Gate) -> tuple[Step, ...]:
    """What the provider does."""
    ending = cell.ending
    if not ending.begins:
        return (Wait(gate), End())
    head: list[Step] = [Status(ending.status, REASONS[ending.status])]
    head.append(Header(b"Content-Type: " + cell.media))
    if cell.coding != "identity":
        head.append(Header(b"Content-Encoding: " + cell.coding.encode()))
    last: list[Step] = [Wait(gate)] if ending.waits else []
    last += [End()] if ending.closes or ending.waits else []
    if not cell.streams:
        head.append(Header(b"Content-Length: %d" % cell.promised))
        return (*head, *(Bytes(piece) for piece in cell.pieces()), *last)
    head.append(Header(b"Transfer-Encoding: chunked"))
    chunks = [Chunk(piece) for piece in cell.pieces()]
    return (*head, *chunks, *last) if last else (*head, *chunks, LastChunk())


def request(cell: Cell, session: str, prefix: str = "") -> bytes:
    """The request's bytes."""
    lines = (b"Content-Type: application/json", b"X-Sidecar-Session-Id: " + session.encode())
    return request_bytes("POST", prefix + cell.path, headers=lines, body=cell.body)


def read(client: RawClient, until: int | None) -> Message:
    """The answer as far as it comes, or as far as `until` bytes of its payload."""
    reader = MessageReader("POST")
    while not reader.message.complete and (until is None or len(reader.message.payload) < until):
        try:
            data = client.read_some()
        except ConnectionResetError:
            break
        if not data:
            break
        reader.feed(data)
    return reader.message


def play(
    cell: Cell,
    port: int,
    upstream: ScriptedUpstream,
    session: str,
    *,
    path_prefix: str = "",
    own_timers: bool,
) -> Message | None:
    """Plays the cell and gives the answer as the client got it, None if it left before there was one.

    `path_prefix` leads to another provider than `upstream`, which is then told nothing. `own_timers`: a time-out of
    the proxy ends what waits; where it ends a request before its answer, what it says of that is the proxy's own.
    """
    gate = Gate()
    upstream.clear()
    upstream.answer(*script(cell, gate))
    data = request(cell, session, path_prefix)
    ending = cell.ending
    sent = b"".join(cell.pieces()) if ending.begins else b""
    try:
        with RawClient(port) as client:
            client.send(data[: -len(cell.body) // 2] if ending.upload else data)
            if ending.leaves and not ending.begins:
                received = upstream.request()
                client.close()
                check_request(cell, received)
                upstream.closed(received)
                return None
            message = read(client, len(sent) if ending.leaves else None)
        if not (ending.upload or path_prefix):
            received = upstream.request()
            check_request(cell, received)
            if ending.leaves or ending.timer:
                upstream.closed(received)
    finally:
        gate.open()
    if ending.begins or not own_timers:
        check_answer(cell, message, sent)
    return message


def check_request(cell: Cell, received: Received) -> None:
    """The provider got what the client sent."""
    assert received.method == "POST"
    assert received.target == cell.path.encode()
    assert received.get("content-type") == b"application/json"
    assert received.body == cell.body


def check_answer(cell: Cell, message: Message, sent: bytes) -> None:
    """The client got what the provider sent, to the last byte, and learned whether that was all."""
    assert message.head, "no answer came"
    assert message.status == cell.ending.status
    assert message.get("content-type") == cell.media
    coding = None if cell.coding == "identity" else cell.coding.encode()
    assert message.get("content-encoding") == coding
    assert message.body == sent
    whole = not (cell.ending.closes or cell.ending.waits)
    if not cell.ending.leaves:
        assert message.complete == whole
