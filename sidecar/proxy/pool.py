"""Connections to upstreams that wait for their next request, one list per origin.

A connection is in the pool only while nothing is on it; one that closes leaves at once. The youngest is
taken first, so the others can age out. It never opens one.
"""

import asyncio
from collections import defaultdict

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import Upstream
from sidecar.proxy.upstream_side import UpstreamConnection

_SWEEP = 1.0


class Pool:
    """Idle upstream connections. `idle_limit` is how long (ns) one may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, idle_limit: int) -> None:
        self._loop = loop
        self._clock = clock
        self._idle_limit = idle_limit
        self._idle: defaultdict[Upstream, list[UpstreamConnection]] = defaultdict(list)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, upstream: Upstream) -> UpstreamConnection | None:
        """The youngest idle connection to `upstream` that is still good, or None."""
        idle = self._idle.get(upstream)
        now = self._clock()
        while idle:
            connection = idle.pop()
            if not connection.usable or now >= connection.idle_until:
                connection.close()
            elif connection.silent:
                return connection
            # Otherwise something waits to be read, which will end it, and count it if it is bytes.
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Takes a connection back that has finished its answer and may carry another request."""
        if self._closed or not connection.usable:
            connection.close()
            return
        limit = self._idle_limit
        if connection.keep_alive_hint is not None:
            # A second early, because the upstream may close while the next request is on its way.
            limit = min(limit, max(0, connection.keep_alive_hint - 1) * SECOND)
        connection.idle_until = self._clock() + limit
        self._idle[connection.upstream].append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def forget(self, connection: UpstreamConnection) -> None:
        """Takes out a connection that has closed."""
        idle = self._idle.get(connection.upstream)
        if idle and connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Closes every idle connection, now and from now on."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.close()
        self._idle.clear()

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock()
        for idle in list(self._idle.values()):
            for connection in [one for one in idle if now >= one.idle_until]:
                idle.remove(connection)
                connection.close()
        if any(self._idle.values()):
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
