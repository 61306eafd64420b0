"""Of what was asked and answered nothing can be reached from a running sidecar once a request is over."""

import asyncio
import gc
import types
from collections.abc import Iterator

import pytest
import uvloop

from sidecar import app
from sidecar.live.request import Ended
from sidecar.settings import load
from sidecar.testing import (
    Script,
    ScriptedUpstream,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
    sse,
)

ASKED, ANSWERED = "what-was-asked", "what-was-answered"
CODE = (types.ModuleType, types.CodeType, type)

ANSWERS: dict[str, Script] = {
    "whole": json_answer(chat_completion(ANSWERED)),
    "streamed": sse([chat_chunk(ANSWERED), chat_chunk(finish_reason="stop")]),
}


def held(one: object) -> list[object]:
    """What an object holds; of a function, what it was made with."""
    if isinstance(one, types.FunctionType):
        return [*(one.__closure__ or ()), *(one.__defaults__ or ())]
    return gc.get_referents(one)


def reached(root: object) -> Iterator[object]:
    """Everything that can be reached from there, code left out."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        for one in held(waiting.pop()):
            if id(one) not in seen and not isinstance(one, CODE):
                seen.add(id(one))
                waiting.append(one)
                yield one


def says(one: object, what: str) -> bool:
    """True for a text or bytes that hold it."""
    if isinstance(one, bytes | bytearray | memoryview):
        return what.encode() in bytes(one)
    return isinstance(one, str) and what in one


async def play(upstream: str, *, streamed: bool) -> list[object]:
    """What can be reached, of what was said, after a call and with nothing else under way."""
    port = free_port()
    given = {
        "SIDECAR_UPSTREAM": upstream,
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
    }
    running = app.Sidecar(load({}, given))
    await running.start()
    try:
        sent = chat_request(messages=[{"role": "user", "content": ASKED}], stream=streamed)
        await asyncio.to_thread(exchange, port, sent)
        await asyncio.to_thread(exchange, port, b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(60):
            while sum(isinstance(one, Ended) for one in reached(running)) < 2:  # noqa: ASYNC110 - a worker tells of them
                await asyncio.sleep(0)
        return [one for one in reached(running) if says(one, ASKED) or says(one, ANSWERED)]
    finally:
        await running.stop()


@pytest.mark.parametrize("name", ANSWERS)
def test_nothing_said_stays(name: str) -> None:
    """Digests and numbers are all that is kept: by the memory of histories, the live page, and whatever else keeps requests."""
    with ScriptedUpstream() as upstream:
        upstream.answer(ANSWERS[name])
        upstream.answer_always(json_answer({}))
        found = uvloop.run(play(upstream.url, streamed=name == "streamed"))
    assert found == []
