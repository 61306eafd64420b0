"""The live page's paths: the page itself, its stream of events, and one request opened.

Owns how `sidecar.live` is served. The page's files hold no secret and need no token, so that a browser can load what
then asks for it. They name no other host, and the browser is told to load nothing from elsewhere.

    GET /                    the page
    GET /live/{file}         its script, style and picture
    GET /live/events         what happens, as server-sent events, until the browser leaves
    GET /live/requests/{id}  `sidecar.live.Detail`; 404 for a request that is in flight or not kept
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from aiohttp import HttpVersion11, web

from sidecar.admin.answers import GUARDING, document
from sidecar.live import Board, WatchersError, Way

_FILES = {
    path.name: path.read_bytes() for path in sorted((Path(__file__).parents[1] / "live" / "page").iterdir())
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_PAGE = {
    **GUARDING,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

OPEN_PATHS = frozenset({"/", *(f"/live/{name}" for name in _FILES)})
"""What needs no token."""


def add_page(app: web.Application, board: Board) -> None:
    """Serves the page on what `board` tells, until the application shuts down."""

    async def ending(_app: web.Application) -> None:
        board.close()

    app.router.add_get("/", _file)
    app.router.add_get("/live/events", _events(board))
    app.router.add_get("/live/requests/{id}", _request(board))
    app.router.add_get("/live/{file}", _file)
    app.on_shutdown.append(ending)


async def _file(request: web.Request) -> web.Response:
    name = request.match_info.get("file", "index.html")
    if name not in _FILES:
        raise web.HTTPNotFound
    media = _TYPES[Path(name).suffix]
    return web.Response(body=_FILES[name], content_type=media, charset="utf-8", headers=_PAGE)


def _request(board: Board) -> Callable[[web.Request], Any]:
    async def one(request: web.Request) -> web.Response:
        detail = board.detail(request.match_info["id"])
        if detail is None:
            raise web.HTTPNotFound(text="no ended request with this id is kept")
        return document(detail)

    return one


def _events(board: Board) -> Callable[[web.Request], Any]:
    async def stream(request: web.Request) -> web.StreamResponse:
        if request.version < HttpVersion11:
            raise web.HTTPVersionNotSupported(text="the stream needs HTTP/1.1")
        if request.method != "GET":  # aiohttp takes HEAD for it, and the board writes past its head
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        if board.full:
            raise web.HTTPServiceUnavailable(text="too many browsers are looking")
        # It is silent for as long as somebody looks, and has a bound of its own.
        cast("Any", request.protocol).set_aside()
        response = web.StreamResponse(headers={**GUARDING, "Content-Type": "text/event-stream"})
        if request.transport is None:
            return response
        watcher = None
        with suppress(ConnectionError, WatchersError):
            await response.prepare(request)
            await response.write(
                b":\n\n"
            )  # aiohttp sends the head with the first piece; the board writes past it
            try:
                watcher = board.watch(cast("Way", request.transport))
                await watcher.gone.wait()
            finally:
                if watcher is not None:
                    board.let_go(watcher)
            await response.write_eof()
        return response

    return stream
