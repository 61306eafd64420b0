"""Follows `GET /live/events` of an admin port: each event as it comes, again after the connection has ended.

Owns the one connection. What the events mean is `sessions.py`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

MAX_FRAME = 64 << 20
"""Bytes of one event; a sidecar's are far smaller."""

_AGAIN = 1.0


class StreamError(Exception):
    """There is nothing to follow: the port answers with something else."""


async def follow(
    url: str, token: str | None, told: Callable[[str, dict[str, Any]], None], state: Callable[[str], None]
) -> None:
    """Follows until it is cancelled. `told` is given each event's name and document, `state` what became of the way there.

    Raises:
        StreamError: the port is there, and has no such stream for us.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = ClientTimeout(total=None, sock_connect=5, sock_read=30)
    async with ClientSession(headers=headers, timeout=timeout, read_bufsize=1 << 20) as http:
        while True:
            try:
                await _once(http, url, told, state)
            except (ClientError, TimeoutError, OSError) as error:
                state(f"no sidecar at {url}: {type(error).__name__}; trying again")
            await asyncio.sleep(_AGAIN)


async def _once(
    http: ClientSession, url: str, told: Callable[[str, dict[str, Any]], None], state: Callable[[str], None]
) -> None:
    async with http.get(f"{url}/live/events") as answer:
        if answer.status == 401:
            raise StreamError(f"{url} needs its token: set SIDECAR_ADMIN_TOKEN")
        if answer.status != 200:
            raise StreamError(f"{url}/live/events answers {answer.status}")
        if answer.content_type != "text/event-stream":
            raise StreamError(f"{url} is not the admin port of a sidecar")
        state("live")
        text = b""
        async for piece in answer.content.iter_any():
            *frames, text = (text + piece).split(b"\n\n")
            if len(text) > MAX_FRAME:
                raise StreamError(f"{url} does not send a sidecar's stream")
            for frame in frames:
                event, _, data = frame.partition(b"\n")
                if event.startswith(b"event: "):
                    told(event[7:].decode(), _document(data, url))


def _document(data: bytes, url: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data.removeprefix(b"data: "))
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise StreamError(f"{url} does not send a sidecar's stream")
    return found
