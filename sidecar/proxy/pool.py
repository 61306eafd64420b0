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

_MARGIN = SECOND
_SHORTEST = SECOND // 10
"""What was closed sooner had not waited too long."""

_RENEWAL = 60 * SECOND
"""After each such time what was learnt counts twice as long: an origin that was restarted is no impatient one."""


def _earlier(seen: int) -> int:
    """A bit less than what was seen (ns), because a request needs time to arrive."""
    return seen - min(_MARGIN, seen // 4)


class Patience:
    """How long connections to one origin may wait (ns): `limit`, or less if it was seen to close them earlier.

    Two in a row that had waited about as long, and were closed at different times, make a time-out. Others are an
    origin that ends: it closes all it has at once, and those of one burst have waited alike.
    """

    __slots__ = ("_at", "_last", "_last_at", "_learnt", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = self._learnt = limit
        self._at = self._last = self._last_at = 0

    def at(self, now: int) -> int:
        """How long one may wait from now on."""
        if self._learnt >= self._limit:
            return self._limit
        return min(self._limit, self._learnt << min((now - self._at) // _RENEWAL, 64))

    def closed(self, waited: int, now: int) -> None:
        """The origin closed one that had waited so long."""
        last, near = self._last, self._last // 8
        alike = waited >= _SHORTEST and abs(waited - last) <= near
        if alike and now - self._last_at <= near:
            return
        self._last, self._last_at = waited, now
        if alike and (learnt := _earlier(min(waited, last))) < self.at(now):
            self._learnt, self._at = learnt, now

    def held(self, waited: int, now: int) -> None:
        """One that had waited so long was still open."""
        if (learnt := _earlier(waited)) > self.at(now):
            self._learnt, self._at = min(learnt, self._limit), now


class Pool:
    """Idle upstream connections. `idle_limit` is how long (ns) one may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, idle_limit: int) -> None:
        self._loop = loop
        self._clock = clock
        self._idle_limit = idle_limit
        self._patience: dict[str, Patience] = {}
        self._idle: defaultdict[str, list[UpstreamConnection]] = defaultdict(list)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, upstream: Upstream) -> UpstreamConnection | None:
        """The youngest idle connection to `upstream` that is still good, or None."""
        idle = self._idle.get(upstream.name)
        now = self._clock()
        while idle:
            connection = idle.pop()
            if now >= connection.idle_until or not connection.usable:
                connection.close()
            elif not connection.poll(0):
                connection.idle_for = now - connection.idle_since
                return connection
            # Otherwise something waits to be read, which will end it, and count it if it is bytes.
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Takes a connection back that has finished its answer and may carry another request."""
        if self._closed:
            connection.close()
            return
        now, hint = self._clock(), connection.keep_alive_hint
        patience = self._patience.get(connection.upstream.name)
        limit = self._idle_limit if patience is None else patience.at(now)
        if hint is not None:
            limit = min(limit, _earlier(hint * SECOND))
        connection.idle_since, connection.idle_until = now, now + limit
        self._idle[connection.upstream.name].append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def forget(self, connection: UpstreamConnection) -> None:
        """Takes out a connection that has closed, and learns from it how long its origin waits."""
        idle = self._idle.get(connection.upstream.name)
        if idle and connection in idle:
            idle.remove(connection)
            now = self._clock()
            self._patience_of(connection).closed(now - connection.idle_since, now)
        elif connection.raced and connection.used:
            self._patience_of(connection).closed(connection.idle_for, self._clock())

    def _patience_of(self, connection: UpstreamConnection) -> Patience:
        known = self._patience.get(connection.upstream.name)
        if known is None:
            known = self._patience[connection.upstream.name] = Patience(self._idle_limit)
        return known

    def close(self) -> None:
        """Closes every idle connection, now and from now on."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.renew()

    def renew(self) -> None:
        """Closes every idle connection: nobody listened for too long to say which still stand. Nothing is learnt."""
        waiting, self._idle = self._idle, defaultdict(list)
        for idle in waiting.values():
            for connection in idle:
                connection.close()

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock()
        for idle in list(self._idle.values()):
            for connection in [one for one in idle if now >= one.idle_until]:
                idle.remove(connection)
                if connection.usable and not connection.poll(0):
                    self._patience_of(connection).held(now - connection.idle_since, now)
                connection.close()
        if any(self._idle.values()):
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
