"""The relay as a whole, from listening to drained.

Owns the data port and its life. What its connections share is `shared.py`; it carries no request itself.
"""

import asyncio
import contextlib

from sidecar.errors import CannotListenError
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.shared import Shared
from sidecar.settings import Address

_BACKLOG = 1024


class Relay:
    """The data port."""

    def __init__(self, shared: Shared, listen: Address) -> None:
        self._shared = shared
        self._listen = listen
        self._server: asyncio.Server | None = None

    @property
    def draining(self) -> bool:
        """True once nothing new is taken."""
        return self._shared.admission.draining

    async def start(self) -> Address:
        """Listens on the data port; gives the address that was bound.

        Raises:
            CannotListenError: the address cannot be had.
        """
        listen, shared = self._listen, self._shared
        try:
            self._server = await shared.loop.create_server(
                lambda: ClientConnection(shared), listen.host, listen.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise CannotListenError.because(error, str(listen), "SIDECAR_LISTEN") from error
        return Address(listen.host, self._server.sockets[0].getsockname()[1])

    async def drain(self, seconds: float) -> None:
        """Takes nothing new, lets running requests end for `seconds`, and ends the rest as `shutdown`."""
        shared = self._shared
        shared.admission.draining = True
        if self._server is not None:
            self._server.close()
        self.close()
        if shared.busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shared.empty.wait(), seconds)
        for flow in list(shared.flows):
            flow.shut_down()
        shared.pool.close()

    def close(self) -> None:
        """Closes every connection that carries no request."""
        for connection in list(self._shared.connections):
            connection.close_if_idle()
