"""`sidecar top`: what its rows say, what its keys do, and that it fits a terminal of 80 by 24."""

import asyncio
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from sidecar import cli
from sidecar.picture.drawing import plain
from sidecar.testing import (
    Garbage,
    ReadBody,
    RunningSidecar,
    ScriptedUpstream,
    answer,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
)
from sidecar.top.main import keys
from sidecar.top.sessions import HELP, Sessions
from sidecar.top.stream import follow

S = 1_000_000_000
NOW = 1_795_971_016 * S
LIMIT = 60.0


def bar(number: int, session: str = "a", **more: Any) -> dict[str, Any]:
    """A bar of the stream: ended a second ago, unless it says otherwise."""
    return {
        "id": f"{number:016x}",
        "session": session,
        "conversation": "main",
        "named": True,
        "sequence": number,
        "turn": True,
        "start": NOW // 1000 - 2_000_000,
        "end": NOW // 1000 - 1_000_000,
        "outcome": "completed",
        "concurrency": 1,
        "distance": 0,
        "races": 0,
        "wait": 0.0,
        "tokens": 5,
        **more,
    }


RUNNING: dict[str, Any] = {"end": None, "outcome": None, "tokens": None, "wait": None}


def told(*bars: dict[str, Any]) -> Sessions:
    """A screen that has been told these."""
    sessions = Sessions()
    figures = {"in_flight": 1, "errors": 2}
    sessions.take("hello", {"limit": 1000, "age_s": 3600.0, "now": NOW // 1000, "figures": figures}, NOW)
    sessions.take("bars", {"now": NOW // 1000, "bars": bars}, NOW)
    return sessions


MANY = (
    bar(1, "quiet"),
    bar(2, "busy", **RUNNING),
    bar(3, "race", concurrency=2),
    bar(4, "race", concurrency=3, distance=1, wait=4.5),
    bar(5, "broken", outcome="timed_out"),
    bar(6, "wordy", tokens=900, start=NOW // 1000 - 1_500_000),
)


@pytest.mark.parametrize(
    "key,first",
    [("i", "busy"), ("o", "race"), ("e", "broken"), ("t", "wordy"), ("r", "race"), ("l", "wordy")],
)
def test_sorting(key: str, first: str) -> None:
    """Each key puts its session on top."""
    sessions = told(*MANY)
    assert sessions.key(key)
    assert sessions.rows()[0].session == first


def test_a_row() -> None:
    """What is counted of a session."""
    (row,) = (row for row in told(*MANY).rows() if row.session == "race")
    assert (row.in_flight, row.requests, row.overlaps, row.errors, row.tokens) == (0, 2, 2, 0, 10)
    assert row.last == NOW - 2 * S


def test_the_title_fits() -> None:
    """80 columns have every figure of a busy day, and what is typed."""
    sessions = told(*MANY)
    sessions.state = "live"
    figures = {"in_flight": 9999, "errors": 12345, "telemetry_lost": 123456, "wait_avoided_s": 98765.4}
    sessions.take("head", {"now": NOW // 1000, "figures": figures}, NOW)
    assert press(sessions, "/race")
    title = " ".join(plain(line) for line in sessions.lines(80, 24, NOW)[:2])
    assert "9999 in flight   12345 errors   123456 telemetry lost" in title
    assert "/ race_" in title
    assert title.endswith("s wait avoided")


def press(sessions: Sessions, text: str) -> bool:
    """Several keys; whether it goes on."""
    going = True
    for key in keys(text):
        going = sessions.key(key) and going
    return going


def test_filter_choose_open_and_back() -> None:
    """By keys alone; the lanes of a session have its overlaps and the queue's row."""
    sessions = told(*MANY)
    assert press(sessions, "/xx\x7f\x7frac\r")
    assert [row.session for row in sessions.rows()] == ["race"]
    assert press(sessions, "/\rr\x1b[B\x1b[Bkk\r")
    assert sessions.opened == "race"
    lanes = [plain(line) for line in sessions.lines(80, 24, NOW)]
    assert any("3 at once" in line for line in lanes)
    assert any("would queue 1.0 s" in line for line in lanes)
    assert press(sessions, "\x1b")
    assert "session " in plain(sessions.lines(80, 24, NOW)[2])
    assert not press(sessions, "q")
    assert not press(told(), "\x03")


def test_what_ends_is_updated_and_what_is_old_goes() -> None:
    """A bar is there once; more than the sidecar keeps are not kept; a new hello begins anew."""
    sessions = told(bar(1, **RUNNING))
    sessions.take("bars", {"now": 0, "bars": [bar(1)]}, NOW)
    sessions.take("bars", {"now": 0, "bars": [bar(1, **RUNNING)]}, NOW)
    assert [(row.in_flight, row.requests) for row in sessions.rows()] == [(0, 1)]
    sessions.take("bars", {"now": 0, "bars": [bar(number) for number in range(2, 1500)]}, NOW)
    assert sessions.rows()[0].requests == 1000
    sessions.take("bars", {"now": 0, "bars": [bar(2000, **RUNNING)]}, NOW)
    sessions.take("head", {"now": NOW // 1000 + 3_599_000_001}, NOW)  # all of them ended an hour ago
    assert [(row.in_flight, row.requests) for row in sessions.rows()] == [(1, 1)]
    sessions.take("hello", {"limit": 5, "age_s": None, "now": 0}, NOW)
    assert sessions.rows() == []


def test_the_first_that_ended_go_first() -> None:
    """A long stream came before all others and ends last: it stays. Those in flight take nobody's place."""
    sessions = told(bar(1, "long", **RUNNING), *(bar(number, "running", **RUNNING) for number in range(2, 9)))
    sessions.take("bars", {"now": 0, "bars": [bar(number) for number in range(10, 1010)]}, NOW)
    assert {row.session: row.requests for row in sessions.rows()} == {"long": 1, "running": 7, "a": 1000}
    sessions.take("bars", {"now": 0, "bars": [bar(1, "long")]}, NOW)
    assert {row.session: row.requests for row in sessions.rows()} == {"long": 1, "running": 7, "a": 999}


def test_nobody_would_have_queued_what_names_no_session() -> None:
    """Nor a turn that joined its conversation when a later one continued it, behind which the others would have waited."""
    loose = [bar(number, named=False, concurrency=0) for number in range(1, 11)]
    sessions = told(*loose, bar(11, "joined", concurrency=0), bar(12, "joined", concurrency=2))
    for session, avoided in (("(no session named)", "0.0 s"), ("joined", "1.0 s")):
        sessions.opened = session
        said = [plain(line) for line in sessions.lines(80, 60, NOW)]
        assert any(f" {avoided} wait avoided" in line for line in said), said


HOSTILE = ["\x1b[2J\x1b[31m", "\u202egnp.exe", "<b>", "会話" * 30, "a" * 200, "[red]x[/red]", ""]


@pytest.mark.parametrize("session", HOSTILE)
@pytest.mark.parametrize("size", [(80, 24), (20, 5), (200, 60), (80, 1)])
def test_every_screen_fits(session: str, size: tuple[int, int]) -> None:
    """Whatever an id holds: no line is too wide, no screen too high, nothing steers the terminal."""
    sessions = told(*(bar(number, f"{session}{number}", conversation=session) for number in range(1, 60)))
    for pressed in ("", "\x1b[B" * 30, "/" + session, "\r", "\r"):
        press(
            sessions,
            "".join(
                character
                for character in pressed
                if character.isprintable() or len(pressed) == 1 or pressed.startswith("\x1b[B")
            ),
        )
        lines = [plain(line) for line in sessions.lines(*size, NOW)]
        assert len(lines) <= size[1]
        assert all(len(line) <= size[0] and line.isprintable() for line in lines)
        assert not any("会" in line or "\u202e" in line for line in lines)


def test_an_empty_screen() -> None:
    """Says so, and which keys there are."""
    lines = [plain(line) for line in told().lines(80, 24, NOW)]
    assert "   no session yet" in lines
    assert lines[-1] == f" {HELP}"


@pytest.fixture
def served(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> str:
    """The address of a sidecar that had a call."""
    upstream.answer(*json_answer(chat_completion("Hi")))
    exchange(sidecar.port, chat_request(headers=[b"X-Sidecar-Session-Id: shown-on-top"]))
    return f"http://127.0.0.1:{sidecar.admin_port}"


def test_once(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table, as text, and the end."""
    assert cli.main(["top", served, "--once"], {}) == 0
    said = capsys.readouterr().out
    assert re.search(r"^>?shown-on-top +0 +1 +0 +0 +7 ", said, re.MULTILINE)


def test_a_table_that_cannot_be_written(served: str) -> None:
    """Is told, and no traceback."""
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sidecar", "top", served, "--once"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"sidecar: No space left on device\n")


def test_no_sidecar(
    sidecar: RunningSidecar, start_sidecar: Callable[..., RunningSidecar], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody there, somebody else, and a token that is missing; with the token it is well."""
    assert cli.main(["top", "http://127.0.0.1:1", "--once"], {}) == 1
    assert "no sidecar at http://127.0.0.1:1" in capsys.readouterr().err
    assert cli.main(["top", sidecar.url, "--once"], {}) == 1
    guarded = start_sidecar(settings={"ADMIN_TOKEN": "correct-horse"})
    where = f"--admin-listen=127.0.0.1:{guarded.admin_port}"
    assert cli.main(["top", where, "--once"], {}) == 1
    assert "SIDECAR_ADMIN_TOKEN" in capsys.readouterr().err
    assert cli.main(["top", where, "--once"], {"SIDECAR_ADMIN_TOKEN": "correct-horse"}) == 0


@pytest.mark.parametrize(
    "url,told",
    [
        ("127.0.0.1:7071", "127.0.0.1:7071: an http:// URL is needed"),
        ("nowhere", "nowhere: an http:// URL is needed"),
        ("http://[::1", "http://[::1: an http:// URL is needed"),
        ("http://me:correct-horse@127.0.0.1:1", "no sidecar at ***@127.0.0.1:1: ClientConnectorError"),
    ],
)
def test_an_address_that_is_none(url: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Told, with what is needed, and without a password."""
    assert cli.main(["top", url, "--once"], {}) == 1
    assert capsys.readouterr().err == f"sidecar: {told}\n"


def test_a_token_and_a_user(capsys: pytest.CaptureFixture[str]) -> None:
    """One field has no place for both."""
    environ = {"SIDECAR_ADMIN_TOKEN": "battery-staple"}
    assert cli.main(["top", "http://me:correct-horse@127.0.0.1:1", "--once"], environ) == 1
    told = capsys.readouterr().err
    assert "no place for a user" in told
    assert "correct-horse" not in told


STREAMS = [
    b'event: hello\ndata: {"now": 1}\n\n',
    b'event: hello\ndata: {"now": "1", "limit": 1, "age_s": null, "figures": {}}\n\n',
    b'event: bars\ndata: {"now": 1, "bars": [1]}\n\n',
    b'event: bars\ndata: {"now": 1, "bars": [{"id": "0"}]}\n\n',
    b"event: head\ndata: []\n\n",
    b"event: head\n\n",
    b'event: head\ndata: {"x":' + b"[" * 100_000 + b"\n\n",
]


@pytest.mark.parametrize("stream", STREAMS, ids=range(len(STREAMS)))
def test_the_stream_of_another_version(
    stream: bytes, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or of somebody else: told in a line."""
    upstream.answer(
        *answer(b":\n\nevent: news\ndata: 1\n\n" + stream, headers=[b"Content-Type: text/event-stream"])
    )
    assert cli.main(["top", upstream.url, "--once"], {}) == 1
    assert capsys.readouterr().err == f"sidecar: {upstream.url} does not send this version's stream\n"


async def test_what_was_missed_is_asked_for(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that ended unseen is in flight no more: the stream is followed anew, from its beginning."""
    monkeypatch.setattr(sys.modules["sidecar.top.stream"], "RESYNC", 0.0)
    monkeypatch.setattr(sys.modules["sidecar.top.stream"], "_AGAIN", 0.0)

    def frames(*told: tuple[str, dict[str, Any]]) -> bytes:
        return b"".join(b"event: %b\ndata: %b\n\n" % (e.encode(), json.dumps(d).encode()) for e, d in told)

    hello = ("hello", {"limit": 1000, "age_s": None, "now": NOW // 1000, "figures": {"in_flight": 1}})
    running = ("bars", {"now": NOW // 1000, "missed": 0, "bars": [bar(1, **RUNNING)]})
    missed = ("bars", {"now": NOW // 1000, "missed": 1, "bars": []})
    kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    upstream.answer(ReadBody(), Garbage(kind + frames(hello, running, missed)))
    upstream.answer(ReadBody(), Garbage(kind + frames(hello)))
    sessions, beginnings = Sessions(), []

    def told(event: str, document: dict[str, Any]) -> None:
        sessions.take(event, document, NOW)
        if event == "hello":
            beginnings.append(sessions.rows())
        if len(beginnings) == 2:
            following.cancel()

    following = asyncio.ensure_future(follow(upstream.url, None, told, lambda _: None))
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(LIMIT):
            await following
    assert beginnings == [[], []]


def test_nobody_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that takes the connection and says nothing."""
    monkeypatch.setattr(sys.modules["sidecar.top.main"], "PATIENCE", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert cli.main(["top", url, "--once"], {}) == 1
    assert capsys.readouterr().err == f"sidecar: {url} did not answer within 0.01 s\n"


def test_on_a_terminal(served: str) -> None:
    """Drawn, opened, and ended by a key; the terminal is given back as it was."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "top", served],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    seen = ""
    deadline = monotonic() + LIMIT

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert monotonic() < deadline, seen[-2000:]
            if select.select([master], [], [], LIMIT)[0]:
                seen += os.read(master, 65536).decode(errors="replace")

    try:
        read_until("shown-on-top")
        os.write(master, b"/shown\r\r")
        read_until("the last 60 s of this session")
        os.write(master, b"q")
        read_until("\x1b[?1049l")
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
