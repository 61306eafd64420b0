"""The floor: a relay that passes bytes on and does nothing else, on uvloop.

Owns two connections for each client's, and what little of HTTP it needs to tell where a request goes. No head is
read, nothing is checked, counted or told: what any proxy in Python costs at least.
A process of its own: `python -m bench.floor PORT UPSTREAM STREAMS`.
"""

import asyncio
import sys
from typing import cast

import uvloop

_STREAMS = b"POST /streams/"


class Upstream(asyncio.Protocol):
    """The way back."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Something of the answer."""
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Gone, and so is the client's."""
        self._client.close()


class Client(asyncio.Protocol):
    """The way there. The first request says to which upstream; each comes in one read."""

    def __init__(self, upstream: tuple[str, int], streams: tuple[str, int]) -> None:
        self._places = (upstream, streams)
        self._waiting: list[bytes] = []
        self._asked = False
        self._transport = cast(asyncio.Transport, None)
        self._upstream: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Something of a request."""
        streams = data.startswith(_STREAMS)
        if streams:
            data = b"POST /" + data[len(_STREAMS) :]
        if self._upstream is not None:
            self._upstream.write(data)
            return
        self._waiting.append(data)
        if not self._asked:
            self._asked = True
            asyncio.ensure_future(self._dial(*self._places[streams]))  # noqa: RUF006 - it ends with its connection

    async def _dial(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._upstream, _ = await loop.create_connection(lambda: Upstream(self._transport), host, port)
        self._upstream.write(b"".join(self._waiting))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Gone, and so is the upstream's."""
        if self._upstream is not None:
            self._upstream.close()


async def main(port: int, *upstreams: str) -> None:
    """Serves until it is ended; both upstreams are `host:port`."""
    places = [(host, int(number)) for host, _, number in (one.rpartition(":") for one in upstreams)]
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(places[0], places[1]), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
