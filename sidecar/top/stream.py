"""Follows `GET /live/events` of an admin port: each event as it comes, again after the connection has ended.

Owns the one connection, and the form of the events as far as `sessions.py`, which knows what they mean, looks at them.
"""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, TypedDict

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError

from sidecar.core.shown import mask

MAX_FRAME = 64 << 20
"""Bytes of one event; a sidecar's are far smaller."""

_AGAIN = 1.0
RESYNC = 10.0
"""Seconds that a connection lasts, at least, before it is made anew because of what was missed on it."""


class _Bar(TypedDict):
    id: str
    session: str | None
    conversation: str | None
    named: bool
    sequence: int
    turn: bool
    start: int
    end: int | None
    outcome: str | None
    concurrency: int
    distance: int
    races: int
    tokens: int | None


class _Figures(TypedDict, total=False):
    in_flight: int
    errors: int
    telemetry_lost: int
    wait_avoided_s: float


class _Hello(TypedDict):
    now: int
    limit: int
    age_s: float | None
    figures: _Figures


class _Bars(TypedDict):
    now: int
    missed: int
    bars: list[_Bar]


class _Head(TypedDict):
    now: int
    figures: _Figures


_FORMS: Mapping[bytes, msgspec.json.Decoder[Any]] = {
    b"event: hello": msgspec.json.Decoder(_Hello),
    b"event: bars": msgspec.json.Decoder(_Bars),
    b"event: head": msgspec.json.Decoder(_Head),
}


class StreamError(Exception):
    """There is nothing to follow: the port answers with something else."""


async def follow(
    url: str, token: str | None, told: Callable[[str, dict[str, Any]], None], state: Callable[[str], None]
) -> None:
    """Follows until it is cancelled. `told` is given each event's name and document, `state` what became of the way there.

    Raises:
        StreamError: the port is there, and has no such stream for us.
    """
    if token and "@" in url:
        raise StreamError(
            f"{mask(url)}: SIDECAR_ADMIN_TOKEN is sent, so there is no place for a user in the URL"
        )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = ClientTimeout(total=None, sock_connect=5, sock_read=30)
    async with ClientSession(headers=headers, timeout=timeout, read_bufsize=1 << 20) as http:
        while True:
            try:
                await _once(http, url, told, state)
            except (InvalidURL, NonHttpUrlClientError):
                raise StreamError(f"{mask(url)}: an http:// URL is needed") from None
            except (ClientError, TimeoutError, OSError) as error:
                state(f"no sidecar at {mask(url)}: {type(error).__name__}; trying again")
            await asyncio.sleep(_AGAIN)


async def _once(
    http: ClientSession, url: str, told: Callable[[str, dict[str, Any]], None], state: Callable[[str], None]
) -> None:
    shown = mask(url)
    async with http.get(f"{url}/live/events") as answer:
        if answer.status == 401:
            raise StreamError(f"{shown} needs its token: set SIDECAR_ADMIN_TOKEN")
        if answer.status != 200:
            raise StreamError(f"{shown}: /live/events answers {answer.status}")
        if answer.content_type != "text/event-stream":
            raise StreamError(f"{shown} is not the admin port of a sidecar")
        state("live")
        text, missed, since = b"", 0, monotonic()
        async for piece in answer.content.iter_any():
            *frames, text = (text + piece).split(b"\n\n")
            if len(text) > MAX_FRAME:
                raise StreamError(f"{shown} does not send a sidecar's stream")
            for frame in frames:
                event, _, data = frame.partition(b"\n")
                form = _FORMS.get(event)
                if form is None:
                    continue
                try:
                    document = form.decode(data.removeprefix(b"data: "))
                except (msgspec.DecodeError, RecursionError):
                    raise StreamError(f"{shown} does not send this version's stream") from None
                told(event[7:].decode(), document)
                missed += document.get("missed", 0)
            if missed and monotonic() - since >= RESYNC:
                return  # a new connection is told everything: what ended unseen is in flight here
