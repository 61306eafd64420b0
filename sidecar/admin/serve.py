"""Opens and closes the ports that aiohttp serves, and bounds what their peers can hold of them.

Owns the runner and the connections of one port, and the form of what aiohttp itself would answer. Port 0 takes any
free one, and the bound address is told. A port that cannot be had raises one clear error.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from sidecar.admin.answers import error_answer
from sidecar.errors import CannotListenError
from sidecar.listener import Listener
from sidecar.settings_values import Address

CLOSE_TIMEOUT = 1.0
"""Seconds that answers on their way get when a port is closed."""

CONNECTIONS = 16
"""Connections of one port. For one more, the one that said nothing for the longest has to go."""

SILENCE = 30.0
"""Seconds for a request's whole head to arrive, from the connection's beginning or from the last answer."""

_AT_A_TIME = 4
"""Connections taken in one go: those above `CONNECTIONS` hold a file descriptor until they are closed."""

LINGER = 1.0
"""Seconds that the rest of a request's body is read after its answer."""


class Port:
    """A port that is open. `address` is what was bound."""

    def __init__(self, runner: web.AppRunner, listener: Listener, address: Address) -> None:
        self._runner = runner
        self._listener = listener
        self.address = address

    async def close(self) -> None:
        """Stops listening and closes what is open; takes `CLOSE_TIMEOUT` at most."""
        self._listener.close()
        await self._runner.cleanup()


class _Connection(web.RequestHandler):
    """aiohttp's own, one of `held`; and an error before or around the handlers has the form of all others.

    aiohttp would repeat the line that it could not read, in its answer and in the log: it may hold the token.
    """

    __slots__ = ("_held", "heard")

    def __init__(self, held: set["_Connection"], server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._held = held
        self.heard = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._held.add(self)
        if len(self._held) > CONNECTIONS:
            oldest = min(self._held - {self}, key=lambda one: one.heard)
            self._held.discard(oldest)
            if oldest.transport is not None:
                oldest.transport.abort()

    def set_aside(self) -> None:
        """It no longer counts among those of which the longest silent one is closed: what it serves has a bound of its own."""
        self._held.discard(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._held.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        super().data_received(data)

    def _process_keepalive(self) -> None:
        # This process may have stood still: the loop looks at the connection before it is judged.
        self._keepalive_handle = self._loop.call_soon(self._loop.call_soon, super()._process_keepalive)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature; this is what quotes the line
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP, or to a mistake of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, and there is no place for another")
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
        if isinstance(exc, LineTooLong):
            answer = error_answer(431, f"a line of the request's head is over {self.max_line_size} bytes")
        else:
            answer = error_answer(status, _MALFORMED if status == 400 else HTTPStatus(status).phrase)
        answer.force_close()
        return answer


_MALFORMED = "the request's head is not HTTP, or has too many fields"


class _Server(web.Server):
    """Makes connections of ours."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held: set[_Connection] = set()

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._held, self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Runs a server of ours."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            # From Python 3.12 on, aiohttp would take all that a peer pipelines in one turn.
            await asyncio.sleep(0)
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # an `Expect` is refused before any middleware
                return error_answer(error.status, error.reason)

        return _Server(handle, request_factory=made.request_factory, **self._kwargs)


async def serve(
    app: web.Application, address: Address, *, setting: str, short: Callable[[], None] = lambda: None
) -> Port:
    """Opens a port. `setting` is the variable that chose the address, for the error's text.

    `short` is told when there is no file descriptor for a connection.

    Raises:
        CannotListenError: the port is in use, or the address is none of this machine's.
    """
    runner = _Runner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CLOSE_TIMEOUT,
        keepalive_timeout=SILENCE,
        lingering_time=LINGER,
    )
    await runner.setup()
    made: Any = runner.server
    listener = Listener(asyncio.get_running_loop(), made, short, at_a_time=_AT_A_TIME)
    try:
        host, port = listener.open(address.host, address.port)
    except OSError as error:
        await runner.cleanup()
        raise CannotListenError.because(error, str(address), setting) from error
    return Port(runner, listener, Address(host, port))
