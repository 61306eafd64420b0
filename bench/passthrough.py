"""The measure: a plain pass-through as one writes it with aiohttp, streaming both ways, without telemetry.

Owns a server and one client session, nothing else: no sessions, no spans, no care for what goes wrong beyond what
aiohttp takes. A process of its own: `python -m bench.passthrough PORT UPSTREAM STREAMS [uvloop]`.
"""

import sys

import uvloop
from aiohttp import ClientSession, TCPConnector, web

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}


class PassThrough:
    """Requests to /streams/... go to the second upstream, all others to the first."""

    def __init__(self, upstream: str, streams: str) -> None:
        self._upstream = upstream
        self._streams = streams
        self._session: ClientSession | None = None

    async def open(self, app: web.Application) -> None:
        """Makes the session, without a limit on connections and without changing bodies."""
        del app
        self._session = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)

    async def close(self, app: web.Application) -> None:
        """Closes it."""
        del app
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request on, one answer back, piece by piece."""
        if self._session is None:
            raise web.HTTPServiceUnavailable
        target = request.raw_path
        if target.startswith("/streams/"):
            url = self._streams + target.removeprefix("/streams")
        else:
            url = self._upstream + target
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP]
        if request.content_length is not None:
            headers.append(("Content-Length", str(request.content_length)))
        body = request.content if request.body_exists else None
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as upstream:
            answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            for name, value in upstream.headers.items():
                if name.lower() not in HOP:
                    answer.headers.add(name, value)
            answer.content_length = upstream.content_length
            await answer.prepare(request)
            async for piece in upstream.content.iter_any():
                await answer.write(piece)
            await answer.write_eof()
            return answer


def make_app(upstream: str, streams: str) -> web.Application:
    """The application; both upstreams are URLs without a path."""
    through = PassThrough(upstream, streams)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", through.handle)
    app.on_startup.append(through.open)
    app.on_cleanup.append(through.close)
    return app


def main(port: str, upstream: str, streams: str, loop: str = "asyncio") -> None:
    """Serves until it is ended."""
    app = make_app(upstream, streams)
    chosen = uvloop.new_event_loop() if loop == "uvloop" else None
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=chosen)


if __name__ == "__main__":
    main(*sys.argv[1:])
