"""The clients of many streams at once: they open them, count the events that come, and close them.

Owns connections to one proxy and the count; it judges nothing. What the proxy used meanwhile is asked of the
kernel between two looks at the count.
"""

import asyncio
from typing import Self, cast

from bench import traffic

OPEN_TIMEOUT = 15.0
"""Seconds for a thousand streams to have begun, or fewer."""
_AT_ONCE = 50


class _Stream(asyncio.Protocol):
    """One stream: its request goes out at once; events are counted as they come."""

    def __init__(self, owner: "Streams", session: int) -> None:
        self._owner = owner
        self._session = session
        self._transport: asyncio.Transport | None = None
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._owner.request(self._session))

    def data_received(self, data: bytes) -> None:
        """Counts."""
        events = data.count(b"data: ")
        self._owner.events += events
        if events:
            self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Gone: as we wanted, or too early."""
        self.ended.set()

    async def leave(self) -> None:
        """Closes the connection, if there is one."""
        if self._transport is not None:
            self._transport.abort()
            await self.ended.wait()


class Streams:
    """`count` streams through a port, one event every `every` ms in each, asked for at `path`. An asynchronous context manager."""

    def __init__(self, port: int, count: int, every: int, path: str) -> None:
        self._port = port
        self._every = every
        self._path = path
        self._count = count
        self._all: list[_Stream] = []
        self.events = 0

    @property
    def open(self) -> int:
        """How many have begun and are still there."""
        return sum(one.begun.is_set() and not one.ended.is_set() for one in self._all)

    async def __aenter__(self) -> Self:
        """Opens them, some at a time, and waits until each has had an event.

        Raises:
            TimeoutError: that took too long.
        """
        patience = OPEN_TIMEOUT * max(1.0, self._count / 1000)
        try:
            async with asyncio.timeout(patience):
                for first in range(0, self._count, _AT_ONCE):
                    some = range(first, min(first + _AT_ONCE, self._count))
                    await asyncio.gather(*(self._begin(session) for session in some))
        except TimeoutError:
            begun = self.open
            await self.close()
            raise TimeoutError(f"{begun} of {self._count} streams began within {patience:.0f} s") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _begin(self, session: int) -> None:
        stream = _Stream(self, session)
        self._all.append(stream)
        await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", self._port)
        await stream.begun.wait()

    def request(self, session: int) -> bytes:
        """What a stream begins with."""
        return traffic.request(session, every=self._every, path=self._path)

    async def close(self) -> None:
        """Leaves them all."""
        await asyncio.gather(*(one.leave() for one in self._all))
