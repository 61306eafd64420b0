"""The stories: what reaches a server when a round is played, and that nothing but a bug ends one."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientSession, web

from sidecar.demo.conversations import play
from sidecar.demo.provider import Provider

PACE = 0.1


@dataclass
class Witness:
    """Passes calls on to the provider and notes what it saw of each."""

    url: str
    calls: list[dict[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    at_once: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        session = request.headers.get("x-sidecar-session-id", "nameless-3")
        name = f"{session}/{request.headers.get('x-claude-code-agent-id', 'main')}"
        body = await request.read()
        self.calls.append(
            {
                "session": session,
                "conversation": name,
                "path": request.path,
                "retry": request.headers.get("x-stainless-retry-count", ""),
                "previous": json.loads(body).get("previous_response_id") or "",
            }
        )
        self.at_once[name] = self.at_once.get(name, 0) + 1
        self.most[name] = max(self.most.get(name, 0), self.at_once[name])
        try:
            return await self._pass_on(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left.append(name)
            raise
        finally:
            self.at_once[name] -= 1

    async def _pass_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        async with (
            ClientSession() as http,
            http.post(self.url + request.path, data=body, headers=request.headers) as answer,
        ):
            response = web.StreamResponse(status=answer.status, headers={"Retry-After": "0.01"})
            response.content_type = answer.content_type
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


@pytest.fixture
async def witness() -> AsyncIterator[tuple[Witness, str]]:
    """A witness in front of a provider, and the base URL that an app is given."""
    async with Provider() as provider:
        seen = Witness(provider.url)
        app = web.Application()
        app.router.add_post("/{path:.*}", seen.handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield seen, f"http://{host}:{port}/v1"
        await runner.cleanup()


async def test_a_round(witness: tuple[Witness, str]) -> None:
    """Seven sessions and one without a name; the polite are polite, the hurried overlap, one leaves, one is turned away and returns."""
    seen, url = witness
    await play(url, 3, seed=0, pace=PACE)

    assert {call["session"] for call in seen.calls} == {
        f"{name}-3"
        for name in (
            "support-chat",
            "notebook",
            "trip-planner",
            "coding-agent",
            "impatient",
            "rush-hour",
            "news-digest",
            "nameless",
        )
    }
    assert seen.most["support-chat-3/main"] == seen.most["notebook-3/main"] == 1
    assert seen.most["trip-planner-3/main"] == 3
    assert seen.most["coding-agent-3/main"] == seen.most["nameless-3/main"] == 2
    assert seen.most["coding-agent-3/explorer"] == 1
    assert seen.left == ["impatient-3/main"]
    rush = [call["retry"] for call in seen.calls if call["session"] == "rush-hour-3"]
    assert rush == ["0", "1", "0"]
    notes = [(call["path"], call["previous"][:5]) for call in seen.calls if call["session"] == "notebook-3"]
    assert notes == [
        ("/v1/embeddings", ""),
        ("/v1/responses", ""),
        ("/v1/responses", "resp_"),
        ("/v1/embeddings", ""),
    ]


@pytest.mark.parametrize("number", [2, 4])
async def test_mishaps_do_not_end_a_round(witness: tuple[Witness, str], number: int) -> None:
    """Whatever becomes of the news, every story is told to its end."""
    seen, url = witness
    await play(url, number, seed=0, pace=PACE)
    assert sum(call["session"] == f"news-digest-{number}" for call in seen.calls) >= 2


async def test_nobody_there() -> None:
    """Without a server every call fails, and the round still ends."""
    async with Provider() as provider:
        gone = provider.url
    await asyncio.wait_for(play(f"{gone}/v1", 1, seed=0, pace=0.01), timeout=60)
