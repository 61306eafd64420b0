"""A simulated LLM provider: three APIs and embeddings, paced streams, failures now and then.

What happens to a request is planned (by a header, by the model's name, or by a seeded draw), so that the
same calls get the same answers. It is only ever the demo's upstream, and it knows nothing of the sidecar before it.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

from aiohttp import web

from sidecar.demo import plan as plans
from sidecar.demo.answers import Chat, Dialect, Json, Messages, Reply, Responses, embeddings, words
from sidecar.demo.plan import PLAN_HEADER, Plan
from sidecar.errors import CannotListenError
from sidecar.settings import Address

MODELS = ("demo-small", "demo-large", "demo-embedding")
"""What `GET /v1/models` lists."""

ANY_PORT = Address("127.0.0.1", 0)

_RETRY_COUNT = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class _Call:
    """A request as the provider understood it."""

    model: str
    stream: bool
    usage: bool
    input_tokens: int
    body: Json


class Provider:
    """The server. Use as an async context manager; `url` is known once it is entered."""

    def __init__(self, *, seed: int = 0, listen: Address = ANY_PORT) -> None:
        self._seed = seed
        self._listen = listen
        self._unplanned = 0
        self._answers = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/embeddings", self._embeddings)
        for path, dialect in (
            ("/v1/chat/completions", Chat()),
            ("/v1/responses", Responses()),
            ("/v1/messages", Messages()),
        ):
            app.router.add_post(path, _Route(self, dialect).answer)
        app.router.add_route("*", "/{path:.*}", self._unknown)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._listen.host, self._listen.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise CannotListenError.because(error, str(self._listen), "--provider") from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{Address(host, port).reachable}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def plan(self, request: web.Request, model: str) -> Plan:
        """What is to happen: told by the header, else by the model's name, else drawn.

        A failure happens to the first attempt only: what is sent again comes through.
        """
        told = request.headers.get(PLAN_HEADER)
        plan = plans.parse(told) if told is not None else plans.of_model(model) or self._draw()
        if request.headers.get(_RETRY_COUNT, "0") != "0":
            return Plan(plan.words, plan.first, plan.pace, finish=plan.finish)
        return plan

    def reply(self, call: _Call, plan: Plan) -> Reply:
        """The next answer, with an id of its own."""
        self._answers += 1
        return Reply(
            id=f"demo{self._answers:08d}",
            model=call.model,
            created=int(time.time()),
            words=words(plan.words),
            input_tokens=call.input_tokens,
            finish=plan.finish,
        )

    def _draw(self) -> Plan:
        self._unplanned += 1
        return plans.drawn(Random(f"{self._seed}:{self._unplanned}"))

    async def _models(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's shape
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "demo"} for name in MODELS]
        return web.json_response({"object": "list", "data": listed})

    async def _embeddings(self, request: web.Request) -> web.Response:
        call = await _read(request)
        if call is None:
            return _failed(Chat(), 400)
        plan = self.plan(request, call.model)
        await asyncio.sleep(plan.first)
        if plan.fail in ("429", "500"):
            return _failed(Chat(), int(plan.fail), plan.retry_after)
        asked = call.body.get("input")
        inputs = len(asked) if isinstance(asked, list) else 1
        packed = call.body.get("encoding_format") == "base64"
        return web.json_response(embeddings(call.model, inputs, call.input_tokens, base64=packed))

    async def _unknown(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's shape
        return _failed(Chat(), 404)


class _Route:
    """One generating API of the provider."""

    def __init__(self, provider: Provider, dialect: Dialect) -> None:
        self._provider = provider
        self._dialect = dialect

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers one call as its plan says."""
        call = await _read(request)
        if call is None:
            return _failed(self._dialect, 400)
        plan = self._provider.plan(request, call.model)
        if plan.fail in ("429", "500"):
            await asyncio.sleep(min(plan.first, 0.2))
            return _failed(self._dialect, int(plan.fail), plan.retry_after)
        reply = self._provider.reply(call, plan)
        if call.stream:
            return await self._stream(request, call, plan, reply)
        await asyncio.sleep(plan.seconds)
        if plan.fail is not None:
            return _failed(self._dialect, 500)
        return web.json_response(self._dialect.body(reply), headers={"x-request-id": f"req_{reply.id}"})

    async def _stream(
        self, request: web.Request, call: _Call, plan: Plan, reply: Reply
    ) -> web.StreamResponse:
        dialect = self._dialect
        response = web.StreamResponse(headers={"x-request-id": f"req_{reply.id}"})
        response.headers["Cache-Control"] = "no-cache"
        response.content_type = "text/event-stream"
        await asyncio.sleep(plan.first)
        await response.prepare(request)
        await response.write(dialect.opening(reply))
        for index in range(plan.words):
            if index:
                await asyncio.sleep(plan.pace)
            if plan.fail is not None and index >= min(plan.after, plan.words - 1):
                return await self._fail(request, response, plan)
            await response.write(dialect.word(reply, index))
        await response.write(dialect.closing(reply, usage=call.usage))
        await response.write_eof()
        return response

    async def _fail(
        self, request: web.Request, response: web.StreamResponse, plan: Plan
    ) -> web.StreamResponse:
        if plan.fail == "cut" and request.transport is not None:
            request.transport.abort()
            return response
        await response.write(self._dialect.stream_error())
        await response.write_eof()
        return response


async def _read(request: web.Request) -> _Call | None:
    """The body of a call; None if it is not what these APIs take."""
    raw = await request.read()
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return None
    options = body.get("stream_options")
    return _Call(
        model=body["model"],
        stream=body.get("stream") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        input_tokens=max(1, len(raw) // 4),
        body=body,
    )


def _failed(dialect: Dialect, status: int, retry_after: int = 1) -> web.Response:
    headers = {"Retry-After": str(retry_after)} if status == 429 else {}
    return web.json_response(dialect.error(status), status=status, headers=headers)
