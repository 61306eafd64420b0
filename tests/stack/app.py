"""The demo's conversations with a count of their own: what the app's HTTP client sent and got.

Owns the counting, by the client's own hooks. It asks neither the sidecar nor a back end. Used by the stack's tests.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from sidecar.client.naming import SESSION_HEADER
from sidecar.demo.conversations import MISHAPS, STORIES, App
from sidecar.demo.provider import Provider
from sidecar.settings import Address
from sidecar.testing import RunningSidecar, free_port
from tests.stack.backends import Stack

PACE = 0.35
"""The demo's pauses and answers, scaled."""


@dataclass
class Counted:
    """What the clients saw: requests sent, answers by status, requests by session."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    sessions: Counter[str] = field(default_factory=Counter)
    stats: Any = None
    """What the sidecar said when the last call had ended."""

    async def request(self, request: httpx2.Request) -> None:
        """httpx: a request goes out."""
        self.sent += 1
        self.sessions[request.headers[SESSION_HEADER]] += 1

    async def response(self, response: httpx2.Response) -> None:
        """httpx: an answer has begun."""
        self.statuses[response.status_code] += 1


async def play(base_url: str, run: str, counted: Counted) -> None:
    """One round of the demo's stories, all at once, as sessions `<story>-<run>`; nothing in it goes wrong by chance."""
    hooks: dict[str, list[Callable[..., object]]] = {
        "request": [counted.request],
        "response": [counted.response],
    }
    async with (
        DefaultAsyncHttpxClient(trust_env=False, event_hooks=hooks) as http,
        asyncio.TaskGroup() as tasks,
    ):
        for name, story in STORIES.items():
            client = AsyncOpenAI(
                api_key="demo",
                base_url=base_url,
                default_headers={SESSION_HEADER: f"{name}-{run}"},
                http_client=http,
            )
            tasks.create_task(_completed(story(App(client, Random(name), MISHAPS[0], PACE))))


async def _completed(story: Awaitable[None]) -> None:
    await story


@contextmanager
def unending(stack: Stack, service: str) -> Iterator[tuple[Counted, RunningSidecar]]:
    """A sidecar with rounds passing through it, one after another, until the block ends; then the last one ends."""
    with _served(stack, service) as (sidecar, provider):
        counted, enough = Counted(), threading.Event()

        async def rounds() -> None:
            async with provider:
                for number in count(1):
                    await play(f"{sidecar.url}/v1", str(number), counted)
                    if enough.is_set():
                        return

        with ThreadPoolExecutor(1) as pool:
            playing = pool.submit(asyncio.run, rounds())
            try:
                yield counted, sidecar
            finally:
                enough.set()
            playing.result()
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == 0)
        counted.stats = sidecar.stats()


@contextmanager
def demo(stack: Stack, service: str, *runs: str) -> Iterator[tuple[Counted, RunningSidecar]]:
    """A sidecar that exports to the stack, after these rounds have passed through it."""
    counted = Counted()
    with _served(stack, service) as (sidecar, provider):
        play_rounds(sidecar, provider, counted, *runs)
        yield counted, sidecar


def play_rounds(sidecar: RunningSidecar, provider: Provider, counted: Counted, *runs: str) -> None:
    """These rounds, one after another."""

    async def rounds() -> None:
        async with provider:
            for run in runs:
                await play(f"{sidecar.url}/v1", run, counted)

    asyncio.run(rounds())


@contextmanager
def as_readme_has_it(stack: Stack, service: str) -> Iterator[tuple[RunningSidecar, Provider]]:
    """A sidecar at its default settings, started by the README's words."""
    listen = Address("127.0.0.1", free_port())
    words = ("run", "--upstream", f"http://{listen}")
    with RunningSidecar(arguments=words, environ=stack.usual(service)) as sidecar:
        yield sidecar, Provider(seed=1, listen=listen)


@contextmanager
def _served(stack: Stack, service: str) -> Iterator[tuple[RunningSidecar, Provider]]:
    listen = Address("127.0.0.1", free_port())
    settings = {"SESSION_IDLE": "4s"}
    with RunningSidecar(
        upstream=f"http://{listen}", settings=settings, environ=stack.environ(service)
    ) as sidecar:
        yield sidecar, Provider(seed=1, listen=listen)
