"""The demo's app: eight sessions that call an LLM through the sidecar with the real `openai` client.

Each is a small story of what apps do: wait politely, ask several things at once, hang up, be turned away and
try again, send a sub-agent, name no session and send a second message before the first is answered. It knows the sidecar as any app does, by `sidecar.client`, and reads nothing back.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import openai
from openai import DefaultAsyncHttpxClient

from sidecar.client import AsyncOpenAI, session
from sidecar.demo.plan import Plan

AGENT_HEADER = "X-Claude-Code-Agent-Id"

Messages = tuple[Any, ...]
"""What has been said so far, as chat completions carry it."""

TITLE: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "title",
        "schema": {"type": "object", "properties": {"title": {"type": "string"}}},
    },
}
"""The form of an answer that is a title and nothing else, as agents ask for one."""

QUIET = Plan(words=28)
"""A plan of ordinary length: about 1.6 s."""

MISHAPS = (Plan(words=40), Plan(fail="error"), Plan(fail="cut"), Plan(fail="500"))
"""What becomes of the news: all goes well, or an error in the stream, a stream cut short, a refusal."""


@dataclass(frozen=True, slots=True)
class App:
    """One session of one round: the client, and the dice. `pace` scales every pause and every answer."""

    client: AsyncOpenAI
    chance: Random
    mishap: Plan
    pace: float = 1.0

    async def pause(self, seconds: float) -> None:
        """Thinks for a while."""
        await asyncio.sleep(seconds * self.pace)

    def headers(self, plan: Plan) -> dict[str, str]:
        """What asks the simulated provider for an answer as planned, a little varied."""
        vary = self.chance.uniform(0.9, 1.1) * self.pace
        varied = Plan(
            words=plan.words,
            first=round(plan.first * vary, 4),
            pace=round(plan.pace * vary, 4),
            fail=plan.fail,
            after=plan.after,
        )
        return varied.header()

    async def ask(
        self,
        text: str,
        plan: Plan = QUIET,
        *,
        past: Messages = (),
        hang_up_after: int | None = None,
        begun: asyncio.Event | None = None,
    ) -> Messages:
        """One streamed chat turn after what was said before, and what has been said by its end.

        The app may hang up after some pieces of the answer. `begun`: the answer has begun.
        """
        asked = (*past, {"role": "user", "content": text})
        stream = await self.client.chat.completions.create(
            model="demo-large",
            messages=[*asked],
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=self.headers(plan),
        )
        if begun is not None:
            begun.set()
        pieces: list[str] = []
        async with stream:
            async for piece in stream:
                pieces += [choice.delta.content or "" for choice in piece.choices]
                if hang_up_after is not None and len(pieces) >= hang_up_after:
                    break
        return (*asked, {"role": "assistant", "content": "".join(pieces)})

    async def ask_for_a_title(self, text: str, plan: Plan) -> None:
        """One chat turn that is not streamed, and asks for a title."""
        await self.client.chat.completions.create(
            model="demo-small",
            messages=[{"role": "user", "content": text}],
            response_format=TITLE,
            extra_headers=self.headers(plan),
        )

    async def respond(self, text: str, plan: Plan, *, previous: str | None) -> str:
        """One turn of the responses API, which continues `previous`; gives its id."""
        answer = await self.client.responses.create(
            model="demo-large",
            input=text,
            previous_response_id=previous,
            extra_headers=self.headers(plan),
        )
        return answer.id

    async def embed(self, texts: list[str]) -> None:
        """Embeddings: a request, but no turn."""
        await self.client.embeddings.create(
            model="demo-embedding", input=texts, extra_headers=self.headers(Plan(first=0.3))
        )


async def support_chat(app: App) -> None:
    """Polite: one turn after the other, with time to read in between."""
    for text in ("My parcel is late.", "It is number 4711.", "Thank you, that helps."):
        await app.ask(text)
        await app.pause(0.9)


async def notebook(app: App) -> None:
    """Polite too, with embeddings before and a response that continues the one before it."""
    await app.embed(["what a sidecar is", "what a queue was"])
    first = await app.respond("Summarise my notes.", Plan(words=30), previous=None)
    await app.pause(0.7)
    await app.respond("Shorter, please.", Plan(words=20), previous=first)
    await app.embed(["the summary"])


async def trip_planner(app: App) -> None:
    """Three turns at once that end in the order 3, 1, 2; then one that sums them up.

    Each is asked when the answer to the one before has begun: their order is certain on a slow machine, too.
    """
    await app.pause(0.2)
    async with asyncio.TaskGroup() as tasks:
        for text, words in (("Find trains.", 60), ("Find hotels.", 84), ("How is the weather?", 22)):
            begun = asyncio.Event()
            tasks.create_task(app.ask(text, Plan(words=words), begun=begun))
            await begun.wait()
            await app.pause(0.15)
    await app.pause(0.4)
    await app.ask("Put it together.", Plan(words=24))


async def impatient(app: App) -> None:
    """Hangs up in the middle of an answer and asks again."""
    await app.pause(0.5)
    await app.ask("Write a long essay.", Plan(words=200), hang_up_after=30)
    await app.pause(0.8)
    await app.ask("A short one, then.", Plan(words=20))


async def rush_hour(app: App) -> None:
    """Is told 429 and `Retry-After`; the client waits and sends it again, as it does for every app."""
    await app.pause(0.8)
    await app.ask("Is anybody there?", Plan(words=32, fail="429"))
    await app.pause(0.6)
    await app.ask("Good.", Plan(words=16))


async def coding_agent(app: App) -> None:
    """An agent: a title call beside its first turn, in a lane of its own, then a sub-agent that works beside it."""
    explorer = App(
        app.client.with_options(default_headers={AGENT_HEADER: "explorer"}), app.chance, app.mishap, app.pace
    )

    async def explore() -> None:
        for path in ("src", "tests"):
            await explorer.ask(f"Read {path}.", Plan(words=26))
            await app.pause(0.2)

    async with asyncio.TaskGroup() as tasks:
        begun = asyncio.Event()
        tasks.create_task(app.ask("Fix the bug.", Plan(words=40), begun=begun))
        await begun.wait()
        await app.ask_for_a_title("A title for this.", Plan(words=12))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(explore())
        tasks.create_task(app.ask("Plan the fix while we look around.", Plan(words=70)))
    await app.ask("Now write it.", Plan(words=24))


async def news_digest(app: App) -> None:
    """Something goes wrong now and then; the app shrugs and goes on."""
    await app.pause(1.5)
    await _shrug(app.ask("What is new?", app.mishap))
    await app.pause(0.8)
    await _shrug(app.ask("And the weather?", Plan(words=18)))


async def walk(app: App) -> None:
    """Names no session, so its calls join by their history; and asks again before it is answered, which is a race.

    What it says first is said nowhere else: two sessions with the same past could not be told apart.
    """
    past = await app.ask(f"A walk, please, number {secrets.token_hex(4)}.", Plan(words=18))
    await app.pause(0.5)
    async with asyncio.TaskGroup() as tasks:
        begun = asyncio.Event()
        tasks.create_task(app.ask("Along the river.", Plan(words=50), past=past, begun=begun))
        await begun.wait()
        await app.pause(0.3)
        past = await app.ask("No, over the hill.", Plan(words=16), past=past)
    await app.ask("And lunch on the way.", Plan(words=16), past=past)


STORIES: dict[str, Callable[[App], Awaitable[None]]] = {
    "support-chat": support_chat,
    "notebook": notebook,
    "trip-planner": trip_planner,
    "coding-agent": coding_agent,
    "impatient": impatient,
    "rush-hour": rush_hour,
    "news-digest": news_digest,
}
"""Every named session of a round, by the name that its id begins with."""

NAMELESS = "walk"
"""The story that is told without one."""


async def play(
    base_url: str, number: int, *, seed: int, pace: float = 1.0, run: str | None = None
) -> tuple[str, ...]:
    """Plays round `number`, all stories at once, against an OpenAI-compatible `base_url`.

    `run` goes into the session ids. Gives the names of the stories that a failed call broke off.
    """
    mishap = MISHAPS[(seed + number - 1) % len(MISHAPS)]
    suffix = f"{number}" if run is None else f"{run}-{number}"
    async with (
        DefaultAsyncHttpxClient(trust_env=False) as http,
        AsyncOpenAI(api_key="demo", base_url=base_url, http_client=http) as client,
        asyncio.TaskGroup() as tasks,
    ):
        nameless = App(client, Random(f"{seed}:{number}"), mishap, pace)
        told = {NAMELESS: tasks.create_task(_shrug(walk(nameless)))}
        for name, story in STORIES.items():
            chance = Random(f"{seed}:{number}:{name}")
            with session(f"{name}-{suffix}"):
                told[name] = tasks.create_task(_shrug(story(App(client, chance, mishap, pace))))
    return tuple(name for name in (*STORIES, NAMELESS) if not told[name].result())


async def _shrug(story: Awaitable[object]) -> bool:
    """An app whose call fails goes on living; what happened is the sidecar's to show. True: none failed."""
    through = True
    try:
        await story
    except* (openai.OpenAIError, OSError):
        through = False
    return through
