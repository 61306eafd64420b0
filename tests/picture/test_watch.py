"""What the demo reads from the admin port, against the port as the sidecar serves it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from sidecar.admin import create_admin_app, serve
from sidecar.admin.view import (
    ActiveRequest,
    ConversationView,
    RecentRequest,
    Rendering,
    Running,
    SessionDetail,
    SessionView,
    Stats,
)
from sidecar.picture.figures import telemetry_line
from sidecar.picture.lanes import Bar, Seen, Tally
from sidecar.picture.watch import Requests, Sessions, Watch, WatchError, moment
from sidecar.picture.watch import Stats as Read
from sidecar.settings import Address
from tests.live.boards import empty_board

S = 1_000_000_000
NOON = 1_795_435_200 * S
"""2026-11-23T12:00:00Z."""


def stats() -> Stats:
    """The figures of a sidecar that has seen three requests."""
    return {
        "version": "0",
        "state": "ready",
        "uptime_s": 1.0,
        "requests": {"started": 3, "settled": 2, "in_flight": 1, "quiet": 0, "outcomes": {"completed": 2}},
        "sessions": {"total": 1, "active": 1, "completed": 2, "failed": 0, "out_of_order": 0},
        "telemetry": {"traces": {"exported": 7, "dropped": 1, "failed": 2, "not_sampled": 9}},
        "anomalies": {},
    }


def listed(session_id: str) -> SessionView:
    """A session's row."""
    return {
        "id": session_id,
        "source": "own_header",
        "started_at": "2026-11-23T12:00:00.000000Z",
        "idle_s": None,
        "conversations": 2,
        "requests": 3,
        "in_flight": 1,
    }


def conversation(name: str, overlaps: int) -> ConversationView:
    """One of its conversations."""
    return {
        "id": name,
        "supplied": name != "main",
        "started_at": "2026-11-23T12:00:00.000000Z",
        "requests": 2,
        "in_flight": 1,
        "overlaps": overlaps,
        "most_at_once": overlaps + 1,
        "out_of_order": 0,
        "wait_avoided_s": 1.25 * overlaps,
    }


def recent(sequence: int, started: str, ended: str, races: int = 0) -> RecentRequest:
    """A request of `main` that has ended."""
    return {
        "request_id": f"r{sequence}",
        "conversation_id": "main",
        "sequence": sequence,
        "turn": True,
        "outcome": "completed",
        "model": "m",
        "out_of_order": 0,
        "wait_avoided_s": None,
        "races": races,
        "started_at": started,
        "ended_at": ended,
        "duration_s": 0.5,
        "trace_id": "0" * 32,
    }


def active() -> ActiveRequest:
    """A request of the agent that runs."""
    return {
        "request_id": "r9",
        "conversation_id": "agent",
        "sequence": 1,
        "streaming": True,
        "turn": False,
        "started_at": "2026-11-23T12:00:02.500000Z",
        "age_s": 0.5,
        "trace_id": "0" * 32,
    }


@dataclass
class View:
    """A sidecar whose sessions the test writes. `gone` ones are listed but can no longer be had."""

    ids: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)

    def ready(self) -> bool:
        """It always is."""
        return True

    def stats(self) -> Stats:
        """The figures."""
        return stats()

    def sessions(self) -> list[SessionView]:
        """The list."""
        return [listed(session_id) for session_id in self.ids]

    def running(self) -> Running:
        """Nothing."""
        return Running(sessions=[], requests=[])

    def session(self, session_id: str) -> SessionDetail | None:
        """One of them."""
        if session_id in self.gone or session_id not in self.ids:
            return None
        return {
            **listed(session_id),
            "conversation_list": [conversation("main", 1), conversation("agent", 0)],
            "active": [active()],
            "recent": [
                recent(2, "2026-11-23T12:00:01.500000Z", "2026-11-23T12:00:02.000000Z", races=1),
                recent(1, "2026-11-23T12:00:00.250000Z", "2026-11-23T12:00:01.750000Z"),
            ],
        }

    def metrics(self, accept: str) -> Rendering:
        """None."""
        return Rendering(iter(()), lambda: (b"", "text/plain"))

    def shutdown(self) -> None:
        """Not here."""


@pytest.fixture
async def admin() -> AsyncIterator[tuple[View, str]]:
    """An admin port with a token, and what it shows."""
    view = View()
    loopback = Address("127.0.0.1", 0)
    app = create_admin_app(view, empty_board(), listen=loopback, token="secret", prometheus=False)
    port = await serve(app, loopback, setting="SIDECAR_ADMIN_LISTEN")
    yield view, f"http://{port.address}"
    await port.close()


async def test_a_look(admin: tuple[View, str]) -> None:
    """Conversations with ended and running requests, oldest first, and what the sidecar counted."""
    view, url = admin
    view.ids = ["s/1 ?%2F"]
    async with Watch(url, "secret") as watch:
        assert await watch.ready()
        snapshot = await watch.look()
    assert snapshot.stats.requests == Requests(3, 2, 1)
    assert snapshot.seen == (
        Seen(
            "s/1 ?%2F",
            NOON,
            "main",
            (
                Bar(1, NOON + S // 4, NOON + 7 * S // 4, "completed"),
                Bar(2, NOON + 3 * S // 2, NOON + 2 * S, "completed", raced=True),
            ),
            Tally(overlaps=1, most_at_once=2, wait_avoided=5 * S // 4),
        ),
        Seen("s/1 ?%2F", NOON, "agent", (Bar(1, NOON + 5 * S // 2, turn=False),), Tally(most_at_once=1)),
    )


async def test_a_session_that_ends_between_two_questions(admin: tuple[View, str]) -> None:
    """Is not shown, and nothing breaks."""
    view, url = admin
    view.ids, view.gone = ["a", "b"], {"a"}
    async with Watch(url, "secret") as watch:
        assert {seen.session for seen in (await watch.look()).seen} == {"b"}


async def test_no_more_sessions_than_can_be_drawn(admin: tuple[View, str]) -> None:
    """Details are asked for of so many and no more."""
    view, url = admin
    view.ids = [f"s{number}" for number in range(60)]
    async with Watch(url, "secret") as watch:
        assert len({seen.session for seen in (await watch.look()).seen}) == 50


async def test_a_port_that_refuses(admin: tuple[View, str]) -> None:
    """Without its token it serves health only."""
    async with Watch(admin[1], None) as watch:
        assert await watch.ready()
        with pytest.raises(WatchError, match="401"):
            await watch.look()


async def test_a_port_that_is_not_there() -> None:
    """Not ready, and an error that says which question had no answer."""
    async with Watch("http://127.0.0.1:1", None) as watch:
        assert not await watch.ready()
        with pytest.raises(WatchError, match="/stats"):
            await watch.look()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2026-11-23T12:00:00Z", NOON),
        ("2026-11-23T12:00:00.000001Z", NOON + 1000),
        ("2026-11-23T13:00:00.5+01:00", NOON + S // 2),
    ],
)
def test_moments(text: str, expected: int) -> None:
    """RFC 3339, exact to the microsecond."""
    assert moment(text) == expected


OFF = "off; OTEL_EXPORTER_OTLP_ENDPOINT=http://... sends it there"


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, OFF),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318   7 spans exported, 3 lost"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "on   7 spans exported, 3 lost"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": ""}, OFF),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, OFF),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:correct-horse@c:4318/v1?key=battery-staple"},
            "***@c:4318/v1?***   7 spans exported, 3 lost",
        ),
    ],
)
def test_where_telemetry_goes(environ: dict[str, str], expected: str) -> None:
    """Off with what turns it on, or where it goes and what became of it."""
    read = Read(Requests(3, 2, 1), Sessions(1, 1), stats()["telemetry"])
    assert telemetry_line(environ, read) == expected
