"""The admin port's paths, and the health-only application for a port of its own.

Owns the mapping from paths to an `AdminView` and the form of answers: JSON, errors too, never cached. It
computes nothing.

    GET  /startup      200 once the port answers; it is opened after the data port
    GET  /liveness     200 while the event loop turns
    GET  /readiness    200, and 503 from the beginning of the drain
    GET  /stats        `view.Stats`
    GET  /sessions     `{"sessions": [view.SessionView, ...]}`
    GET  /sessions/ID  `view.SessionDetail`; 404 for an id that is not alive
    GET  /metrics      OpenMetrics or Prometheus text; 404 unless SIDECAR_PROMETHEUS is on
    POST /shutdown     202; begins the drain, as SIGTERM does
"""

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.admin.guard import checked
from sidecar.admin.view import AdminView
from sidecar.settings_values import Address

_GUARDING = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

HEALTH_PATHS = frozenset({"/startup", "/liveness", "/readiness"})


def create_admin_app(
    view: AdminView, *, listen: Address, token: str | None, prometheus: bool
) -> web.Application:
    """The whole admin application. `listen` is what `Host` is compared with; `token` guards all but health."""
    app = web.Application(middlewares=[_answered, checked(listen, token, HEALTH_PATHS)])
    _add_health(app, view)
    _Documents(view, prometheus=prometheus).add_to(app)
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
    response.headers.update(_GUARDING)
    return response


def error_answer(status: int, message: str) -> web.Response:
    """An error as JSON, with the fields that every answer has."""
    response = _json({"error": {"status": status, "message": message}}, status)
    response.headers.update(_GUARDING)
    return response


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")


def _add_health(app: web.Application, view: AdminView) -> None:
    async def alive(_request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readiness(_request: web.Request) -> web.Response:
        return _json({"status": "ok"}) if view.ready() else _json({"status": "draining"}, 503)

    app.router.add_get("/startup", alive)
    app.router.add_get("/liveness", alive)
    app.router.add_get("/readiness", readiness)


class _Documents:
    """The handlers of everything but health."""

    def __init__(self, view: AdminView, *, prometheus: bool) -> None:
        self._view = view
        self._prometheus = prometheus

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/sessions", self._sessions)
        app.router.add_get("/sessions/{id:.+}", self._session)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/shutdown", self._shutdown)

    async def _stats(self, _request: web.Request) -> web.Response:
        return _json(self._view.stats())

    async def _sessions(self, _request: web.Request) -> web.Response:
        return _json({"sessions": self._view.sessions()})

    async def _session(self, request: web.Request) -> web.Response:
        session = self._view.session(request.match_info["id"])
        if session is None:
            raise web.HTTPNotFound(text="no session of this id is alive; ended ones are in the traces")
        return _json(session)

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._prometheus:
            raise web.HTTPNotFound(text="/metrics is off; SIDECAR_PROMETHEUS=on turns it on")
        accept = request.headers.get("Accept", "")
        body, content_type = self._view.metrics(accept if accept.isascii() else "")
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _shutdown(self, _request: web.Request) -> web.Response:
        self._view.shutdown()
        return _json({"status": "draining"}, 202)
