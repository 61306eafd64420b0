"""Calls without a session, as they are overheard in the sidecar's log."""

import json

from sidecar.picture.lanes import Bar, Seen
from sidecar.picture.unnamed import LANE, Unnamed

S = 1_000_000_000
NOON = 1_795_435_200 * S


def started(request_id: str, second: int) -> bytes:
    """The line of a request that joins, in session `s-<id>`."""
    return json.dumps(
        {
            "event": "sidecar.request.generated",
            "timestamp": f"2026-11-23T12:00:{second:02}.000000Z",
            "request_id": request_id,
            "session_id": f"s-{request_id}",
        }
    ).encode()


def ended(
    request_id: str,
    second: int,
    source: str = "generated",
    operation: str | None = "chat",
    relation: str = "first",
) -> bytes:
    """The line of a request that took half a second and completed."""
    return json.dumps(
        {
            "event": "sidecar.request.completed",
            "timestamp": f"2026-11-23T12:00:{second:02}.000000Z",
            "request_id": request_id,
            "session_id": f"s-{request_id}",
            "sidecar.session.source": source,
            "sidecar.outcome": "completed",
            "sidecar.duration": 0.5,
            "sidecar.turn.relation": relation,
            **({} if operation is None else {"gen_ai.operation.name": operation}),
        }
    ).encode()


def lane(*bars: Bar) -> list[Seen]:
    """The one lane."""
    return [Seen(LANE, 0, "main", bars)]


def test_from_start_to_end() -> None:
    """A call without a session is drawn while it runs, and keeps its number when it ends."""
    unnamed = Unnamed()
    unnamed.hear(started("a", 1))
    assert unnamed.seen(unnamed.running(), set()) == lane(Bar(1, NOON + S))
    unnamed.hear(ended("a", 3))
    assert unnamed.seen(unnamed.running(), set()) == lane(Bar(1, NOON + S, NOON + 3 * S, "completed"))


def test_named_sessions_have_lanes_of_their_own() -> None:
    """Neither while they run nor when they end are they in this one."""
    unnamed = Unnamed()
    unnamed.hear(started("a", 1))
    assert unnamed.seen(unnamed.running(), {"s-a"}) == []
    unnamed.hear(ended("a", 3, source="own_header"))
    assert unnamed.seen([], set()) == []


def test_what_began_after_the_admin_port_was_asked() -> None:
    """Is not taken for unnamed: the list of sessions could not have it yet."""
    unnamed = Unnamed()
    before = unnamed.running()
    unnamed.hear(started("a", 1))
    assert unnamed.seen(before, set()) == []


def test_what_was_only_heard_to_end() -> None:
    """A refused request never joins; its duration tells its start. What has no operation is no turn."""
    unnamed = Unnamed()
    unnamed.hear(ended("a", 3, operation=None))
    assert unnamed.seen([], set()) == lane(Bar(1, NOON + 5 * S // 2, NOON + 3 * S, "completed", turn=False))


def test_a_race() -> None:
    """The line of the turn that raced tells it."""
    unnamed = Unnamed()
    unnamed.hear(ended("a", 3, relation="races"))
    assert unnamed.seen([], set()) == lane(Bar(1, NOON + 5 * S // 2, NOON + 3 * S, "completed", raced=True))


def test_other_lines() -> None:
    """Of any kind, and none at all."""
    unnamed = Unnamed()
    for line in (b"", b"Traceback", b"[]", b'{"event": "sidecar.listening"}', b"\xff", ended("a", 99)):
        unnamed.hear(line)
    assert unnamed.seen(unnamed.running(), set()) == []


def test_no_more_is_remembered_than_may_be() -> None:
    """Of what runs, the oldest is forgotten first."""
    unnamed = Unnamed()
    for number in range(1100):
        unnamed.hear(started(str(number), 1))
    running = unnamed.running()
    assert len(running) == 1000
    assert running[0] == ("100", "s-100")
