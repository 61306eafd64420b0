"""Reads the sidecar's admin port: the live sessions as lanes see them, and its figures.

Whatever is drawn comes from here, never from what whoever draws knows otherwise; so apps that are
pointed at the sidecar get lanes like everybody else. `show.py` asks a few times a second.
"""

from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Struct

from sidecar.core.clock import SECOND
from sidecar.picture.lanes import Bar, Seen, Tally

MAX_SESSIONS = 50
"""Sessions whose details are asked for: the busiest ones, then the youngest."""

T = TypeVar("T")


class Requests(Struct, frozen=True):
    """Of `GET /stats`: requests since the start."""

    started: int
    settled: int
    in_flight: int


class Sessions(Struct, frozen=True):
    """Of `GET /stats`: named sessions since the start, and those alive."""

    total: int
    active: int


class Stats(Struct, frozen=True):
    """What is read of `GET /stats`. `telemetry` is items by state, per signal."""

    requests: Requests
    sessions: Sessions
    telemetry: dict[str, dict[str, int]]


class _Listed(Struct, frozen=True):
    id: str
    started_at: str
    in_flight: int


class _List(Struct, frozen=True):
    sessions: list[_Listed]


class _Conversation(Struct, frozen=True):
    id: str
    overlaps: int
    most_at_once: int
    out_of_order: int
    wait_avoided_s: float


class _Active(Struct, frozen=True):
    conversation_id: str
    sequence: int
    turn: bool
    started_at: str


class _Recent(Struct, frozen=True):
    conversation_id: str
    sequence: int
    turn: bool
    outcome: str
    races: int
    started_at: str
    ended_at: str


class _Detail(Struct, frozen=True):
    id: str
    started_at: str
    conversation_list: list[_Conversation]
    active: list[_Active]
    recent: list[_Recent]


_LIST = msgspec.json.Decoder(_List)
_DETAIL = msgspec.json.Decoder(_Detail)
_STATS = msgspec.json.Decoder(Stats)


class WatchError(Exception):
    """The admin port did not answer, or not with what it should."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the admin port told at one moment. `sessions` are the ids of all that are alive."""

    sessions: frozenset[str]
    seen: tuple[Seen, ...]
    stats: Stats


class Watch:
    """A client of one admin port. Use as an async context manager."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._url = url
        self._http = ClientSession(headers=headers, timeout=ClientTimeout(total=5))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def ready(self) -> bool:
        """Whether the sidecar serves by now."""
        try:
            async with self._http.get(f"{self._url}/readiness") as answer:
                return answer.status == 200
        except (ClientError, TimeoutError):
            return False

    async def look(self) -> Snapshot:
        """The live sessions and the figures.

        Raises:
            WatchError: the sidecar is gone, or is another one than was asked.
        """
        stats = _decoded(_STATS, await self._get("/stats"))
        listed = _decoded(_LIST, await self._get("/sessions")).sessions
        busiest = sorted(listed, key=lambda one: (one.in_flight > 0, one.started_at), reverse=True)
        seen: list[Seen] = []
        for session in busiest[:MAX_SESSIONS]:
            found = await self._get(f"/sessions/{quote(session.id, safe='')}")
            if found is not None:  # None: it ended between the two questions
                seen += _read(_decoded(_DETAIL, found))
        return Snapshot(frozenset(one.id for one in listed), tuple(seen), stats)

    async def _get(self, path: str) -> bytes | None:
        """A document, or None if there is none of that name."""
        try:
            async with self._http.get(self._url + path) as answer:
                if answer.status == 404:
                    return None
                answer.raise_for_status()
                return await answer.read()
        except (ClientError, TimeoutError) as error:
            raise WatchError(f"the admin port did not answer {path}: {error}") from error


def _decoded(decoder: msgspec.json.Decoder[T], document: bytes | None) -> T:
    try:
        return decoder.decode(document or b"")
    except msgspec.DecodeError as error:
        raise WatchError(f"the admin port's answer is not what it should be: {error}") from error


def _read(session: _Detail) -> list[Seen]:
    """The conversations of a session as lanes see them."""
    bars: dict[str, list[Bar]] = {one.id: [] for one in session.conversation_list}
    for recent in reversed(session.recent):
        bar = Bar(
            recent.sequence,
            moment(recent.started_at),
            moment(recent.ended_at),
            recent.outcome,
            turn=recent.turn,
            raced=recent.races > 0,
        )
        bars.setdefault(recent.conversation_id, []).append(bar)
    for active in session.active:
        bar = Bar(active.sequence, moment(active.started_at), turn=active.turn)
        bars.setdefault(active.conversation_id, []).append(bar)
    tallies = {
        one.id: Tally(one.overlaps, one.most_at_once, one.out_of_order, round(one.wait_avoided_s * SECOND))
        for one in session.conversation_list
    }
    started = moment(session.started_at)
    return [
        Seen(session.id, started, conversation, tuple(found), tallies.get(conversation, Tally()))
        for conversation, found in bars.items()
    ]


def moment(text: str) -> int:
    """An RFC 3339 moment as ns since the epoch, to the microsecond."""
    read = datetime.fromisoformat(text)
    return int(read.timestamp()) * SECOND + read.microsecond * 1000
