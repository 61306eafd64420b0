"""The relay as a whole, from listening to drained.

Owns the data port and its life. What its connections share is `shared.py`; it carries no request itself.
"""

import asyncio
import contextlib

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly
from sidecar.errors import CannotListenError
from sidecar.listener import Listener
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.shared import Shared
from sidecar.proxy.timers import patience
from sidecar.settings import Address

_SPARE = 8
"""One of so many file descriptors is left for connections to upstreams."""

_READING = 1.0
"""The most seconds of a drain that are kept for reading what answers have passed on by then."""


class Relay:
    """The data port."""

    def __init__(self, shared: Shared, listen: Address) -> None:
        self._shared = shared
        self._listen = listen
        self._listener: Listener | None = None

    @property
    def draining(self) -> bool:
        """True once nothing new is taken."""
        return bool(self._shared.admission.draining)

    def start(self) -> Address:
        """Listens on the data port; gives the address that was bound.

        Raises:
            CannotListenError: the address cannot be had.
        """
        listen, shared = self._listen, self._shared
        listener = Listener(
            shared.loop,
            lambda: ClientConnection(shared),
            lambda: shared.telemetry.anomaly(Anomaly.OUT_OF_RESOURCES),
            spare=_SPARE,
        )
        try:
            _, port = listener.open(listen.host, listen.port)
        except OSError as error:
            raise CannotListenError.because(error, str(listen), "SIDECAR_LISTEN") from error
        self._listener = listener
        return Address(listen.host, port)

    def exchanges(self) -> list[Exchange]:
        """The requests under way."""
        return [flow.exchange for flow in self._shared.flows]

    def stood_still(self, by: int) -> None:
        """The process did not run for `by` ns: what has become of connections that nobody heard is not known."""
        self._shared.pool.renew()
        self._shared.joining.stood_still(by)

    async def drain(self, seconds: float) -> None:
        """Takes nothing new, lets running requests end, and ends the rest as `shutdown`; all of it within `seconds`."""
        shared = self._shared
        reading = min(_READING, seconds / 2)
        seconds -= reading
        shared.admission.draining = shared.clock()
        until = shared.loop.time() + seconds
        if self._listener is not None:
            await self._listener.finish()
        await self.close()
        while self._unheard and shared.loop.time() < until:
            await asyncio.sleep(0)  # each turn reads some of it
            await self.close()
        if shared.busy and not await self._empty(until - shared.loop.time()):
            late = round((shared.loop.time() - until) * SECOND)
            await self._empty(patience(late) / SECOND)
        await shared.later.each([flow.shut_down for flow in shared.flows])
        until = shared.loop.time() + reading
        while shared.flows and shared.loop.time() < until:  # noqa: ASYNC110 - each turn reads some of it
            await asyncio.sleep(0)
        await shared.later.each([flow.give_up for flow in shared.flows])
        await shared.later.finish()
        shared.pool.close()

    @property
    def _unheard(self) -> bool:
        """True while a client has sent something before it could know of the drain, and that has not been read."""
        return any(connection.unheard for connection in self._shared.connections)

    async def _empty(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._shared.empty.wait(), seconds)
        return self._shared.empty.is_set()

    async def close(self) -> None:
        """Closes every connection that carries no request."""
        shared = self._shared
        await shared.later.each([connection.close_if_idle for connection in shared.connections])
