"""The provider behind every proxy: raw bytes, prebuilt, from one timer.

Owns streams at the rate that their request names, and answers that do not stream where nginx is missing.
It must cost next to nothing, so it parses no more than it has to, and knows only the requests of `traffic`.
A process of its own: `python -m bench.upstream PORT`.
"""

import asyncio
import gc
import random
import sys
import time
from typing import cast

import uvloop

from bench import traffic

TICK_MS = 2
"""Streams of one rate are spread over ticks, so that they do not all speak at once."""


class Rate:
    """Streams that all get one event in the same time, in turns."""

    def __init__(self, every: int) -> None:
        self.turns: list[set[asyncio.Transport]] = [set() for _ in range(max(1, every // TICK_MS))]
        self._next = 0

    def add(self, stream: asyncio.Transport) -> None:
        """Into the next turn."""
        self.turns[self._next % len(self.turns)].add(stream)
        self._next += 1

    def discard(self, stream: asyncio.Transport) -> None:
        """It has ended."""
        for turn in self.turns:
            turn.discard(stream)


class Streams:
    """All open streams and their timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rates: dict[int, Rate] = {}
        self._events = [traffic.event(word) for word in traffic.WORDS]
        self._ticks = 0
        self._dice = random.Random(1)
        self._due = loop.time()
        self._tick()

    def add(self, stream: asyncio.Transport, every: int) -> None:
        """Begins an answer that never ends by itself."""
        stream.write(traffic.STREAM_HEAD + self._events[-1])
        self._rates.setdefault(every, Rate(every)).add(stream)

    def discard(self, stream: asyncio.Transport) -> None:
        """Its connection is gone."""
        for every, rate in [*self._rates.items()]:
            rate.discard(stream)
            if not any(rate.turns):
                del self._rates[every]

    def _tick(self) -> None:
        self._ticks += 1
        if self._rates:
            # Events come at any time, not in step with the kernel's ticks, which a sampler would keep to as well.
            time.sleep(self._dice.random() * TICK_MS / 2000)
        for rate in self._rates.values():
            cycle, turn = divmod(self._ticks, len(rate.turns))
            event = self._events[cycle % len(self._events)]
            for stream in rate.turns[turn]:
                stream.write(event)
        # What is late is caught up with: the rate holds over any longer time.
        self._due += TICK_MS / 1000
        self._loop.call_at(self._due, self._tick)


class Provider(asyncio.Protocol):
    """One connection; one request at a time, as proxies send them."""

    def __init__(self, streams: Streams, answer: bytes) -> None:
        self._streams = streams
        self._answer = answer
        self._received = bytearray()
        self._end = traffic.AnswerEnd()
        self._transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opened."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answers once a request is whole: requests end as answers do, by length or last chunk."""
        self._received += data
        if self._end.feed(data):
            every = traffic.stream_interval(self._received)
            self._received.clear()
            if every is None:
                self._transport.write(self._answer)
            else:
                self._streams.add(self._transport, every)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Closed."""
        self._streams.discard(self._transport)


async def listen(port: int) -> asyncio.Server:
    """Opens the port on loopback."""
    loop = asyncio.get_running_loop()
    streams, answer = Streams(loop), traffic.answer()
    return await loop.create_server(lambda: Provider(streams, answer), "127.0.0.1", port, backlog=2048)


async def main(port: int) -> None:
    """Serves until it is ended."""
    server = await listen(port)
    gc.collect()
    gc.disable()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
