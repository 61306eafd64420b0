"""Opens and closes the ports that aiohttp serves.

Owns the runner of one port, and the form of what aiohttp itself would answer. Port 0 takes any free one, and the bound
address is told. A port that cannot be had raises one clear error.
"""

from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from sidecar.admin.routes import error_answer
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


class _Connection(RequestHandler):
    """aiohttp's own, except that an error before or around the handlers has the form of all others.

    aiohttp would repeat the line that it could not read, in its answer and in the log: it may hold the token.
    """

    __slots__ = ()

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
        answer = error_answer(status, _MALFORMED if status == 400 else HTTPStatus(status).phrase)
        answer.force_close()
        return answer


_MALFORMED = "the request's head is not HTTP, or too long"


class _Server(web.Server):
    """Makes connections of ours."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    """Runs a server of ours."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # an `Expect` is refused before any middleware
                return error_answer(error.status, error.reason)

        return _Server(handle, request_factory=made.request_factory, **self._kwargs)


async def serve(app: web.Application, address: Address, *, setting: str) -> Port:
    """Opens a port. `setting` is the variable that chose the address, for the error's text.

    Raises:
        CannotListenError: the port is in use, or the address is none of this machine's.
    """
    runner = _Runner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        await runner.cleanup()
        raise CannotListenError.because(error, str(address), setting) from error
    host, port = runner.addresses[0][:2]
    return Port(runner, Address(host, port))
