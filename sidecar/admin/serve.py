"""Opens and closes the ports that aiohttp serves.

Owns the runner of one port; it knows nothing of what is served. Port 0 takes any free one, and the bound
address is told. A port that cannot be had raises one clear error.
"""

from aiohttp import web

from sidecar.errors import CannotListenError
from sidecar.settings_values import Address

CLOSE_TIMEOUT = 1.0
"""Seconds that answers on their way get when a port is closed."""


class Port:
    """A port that is open. `address` is what was bound."""

    def __init__(self, runner: web.AppRunner, address: Address) -> None:
        self._runner = runner
        self.address = address

    async def close(self) -> None:
        """Stops listening and closes what is open; takes `CLOSE_TIMEOUT` at most."""
        await self._runner.cleanup()


async def serve(app: web.Application, address: Address, *, setting: str) -> Port:
    """Opens a port. `setting` is the variable that chose the address, for the error's text.

    Raises:
        CannotListenError: the port is in use, or the address is none of this machine's.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise CannotListenError.because(error, str(address), setting) from error
    host, port = runner.addresses[0][:2]
    return Port(runner, Address(host, port))
