"""The admin port's paths, and the health-only application for a port of its own.

Owns the mapping from paths to an `AdminView`; `page.py` has those of the live page. It computes nothing.

    GET  /startup      200 once the port answers; it is opened after the data port
    GET  /liveness     200 while the event loop turns
    GET  /readiness    200, and 503 from the beginning of the drain
    GET  /stats        `view.Stats`
    GET  /sessions     `{"sessions": [view.SessionView, ...]}`
                       with `?sort=age` what is in flight, `view.Running`
    GET  /sessions/ID  `view.SessionDetail`; 404 for an id that is not alive
    GET  /metrics      OpenMetrics or Prometheus text; 404 unless SIDECAR_PROMETHEUS is on
    POST /shutdown     202; begins the drain, as SIGTERM does
"""

import asyncio
from collections.abc import Iterator

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.admin import page
from sidecar.admin.answers import GUARDING, document, error_answer
from sidecar.admin.guard import checked
from sidecar.admin.view import AdminView
from sidecar.core.clock import MILLISECOND, cpu_time
from sidecar.live import Board
from sidecar.settings_values import Address

_SHARE = 2 * MILLISECOND
"""How long (ns of CPU) a scrape is made in one turn of the event loop."""

HEALTH_PATHS = frozenset({"/startup", "/liveness", "/readiness"})


def create_admin_app(
    view: AdminView, board: Board, *, listen: Address, token: str | None, prometheus: bool
) -> web.Application:
    """The whole admin application. `listen` is what `Host` is compared with; `token` guards what tells anything."""
    app = web.Application(middlewares=[_answered, checked(listen, token, HEALTH_PATHS | page.OPEN_PATHS)])
    page.add_page(app, board)
    _add_health(app, view)
    _Documents(view, prometheus=prometheus).add_to(app)
    return app


def create_page_app(board: Board, *, listen: Address) -> web.Application:
    """The live page alone, for whoever has a board and no sidecar."""
    app = web.Application(middlewares=[_answered, checked(listen, None, page.OPEN_PATHS)])
    page.add_page(app, board)
    return app


def create_health_app(view: AdminView) -> web.Application:
    """Health only, for probes that come to the pod's address under any `Host`."""
    app = web.Application(middlewares=[_answered])
    _add_health(app, view)
    return app


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives every error aiohttp's form of an exception as JSON, and every answer its guarding fields."""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers}
        message = (error.text or "").removeprefix(f"{error.status}: ")
        response = error_answer(error.status, message)
        response.headers.update(kept)
    response.headers.update(GUARDING)
    return response


def _add_health(app: web.Application, view: AdminView) -> None:
    async def alive(_request: web.Request) -> web.Response:
        return document({"status": "ok"})

    async def readiness(_request: web.Request) -> web.Response:
        return document({"status": "ok"}) if view.ready() else document({"status": "draining"}, 503)

    app.router.add_get("/startup", alive)
    app.router.add_get("/liveness", alive)
    app.router.add_get("/readiness", readiness)


class _Documents:
    """The handlers of everything but health."""

    def __init__(self, view: AdminView, *, prometheus: bool) -> None:
        self._view = view
        self._prometheus = prometheus
        self._rendering = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/sessions", self._sessions)
        app.router.add_get("/sessions/{id:.+}", self._session)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/shutdown", self._shutdown)

    async def _stats(self, _request: web.Request) -> web.Response:
        return document(self._view.stats())

    async def _sessions(self, request: web.Request) -> web.Response:
        by = request.query.get("sort")
        if by == "age":
            return document(self._view.running())
        if by is not None:
            raise web.HTTPBadRequest(text="sort: age, or nothing")
        return document({"sessions": self._view.sessions()})

    async def _session(self, request: web.Request) -> web.Response:
        session = self._view.session(request.match_info["id"])
        if session is None:
            raise web.HTTPNotFound(text="no session with this id is alive; ended ones are in the traces")
        return document(session)

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._prometheus:
            raise web.HTTPNotFound(text="/metrics is off; SIDECAR_PROMETHEUS=on turns it on")
        accept = request.headers.get("Accept", "")
        async with self._rendering:  # with many series it takes long: in turns, then aside, and one at a time
            steps, text = self._view.metrics(accept if accept.isascii() else "")
            await _in_turns(steps)
            body, content_type = await asyncio.to_thread(text)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _shutdown(self, _request: web.Request) -> web.Response:
        self._view.shutdown()
        return document({"status": "draining"}, 202)


async def _in_turns(steps: Iterator[None]) -> None:
    """Makes all steps, others in between."""
    until = cpu_time() + _SHARE
    for _ in steps:
        if cpu_time() > until:
            await asyncio.sleep(0)
            until = cpu_time() + _SHARE
