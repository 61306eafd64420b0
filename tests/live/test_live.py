"""The live page's stream over real sockets: the same facts as the spans, within bounds, to whoever may see them."""

import re
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange, RequestHead
from sidecar.core.facts import Outcome, RequestFacts, Route
from sidecar.core.headers import Headers
from sidecar.live import bar_of, ended
from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    sse,
    sse_event,
    sse_head,
)
from tests.live.boards import Ids, Looking

STREAM = [chat_chunk("Hi"), chat_chunk(finish_reason="stop")]
TOLERANCE = 1
"""Microseconds between a bar and its span: one is rounded down."""


def named(session: str, conversation: str = "main") -> tuple[bytes, ...]:
    """The header fields that name a session."""
    return (
        f"X-Sidecar-Session-Id: {session}".encode(),
        f"X-Sidecar-Conversation-Id: {conversation}".encode(),
    )


@pytest.mark.parametrize(
    "session,script,stream,outcome",
    [
        ("whole", json_answer(chat_completion("Hi")), False, "completed"),
        ("streamed", sse(STREAM), True, "completed"),
        ("rejected", json_answer({"error": {}}, status=429), False, "upstream_rejected"),
        ("cut", sse(STREAM[:1], done=False), True, "upstream_failed"),
        (
            "error",
            sse([chat_chunk("Hi"), {"error": {"message": "x", "code": "bad"}}]),
            True,
            "error_in_stream",
        ),
    ],
)
def test_a_bar_is_what_the_spans_are(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    session: str,
    script: Any,
    stream: bool,
    outcome: str,
) -> None:
    """Ids, times, outcome and parts of an ended request, against what was exported of it."""
    upstream.answer(*script)
    exchange(sidecar.port, chat_request(headers=named(session), stream=stream))
    with Looking(sidecar.admin_port) as looking:
        bar = looking.one(session=session, outcome=outcome)
    server = sink.span(kind="SERVER", attributes={"session.id": session})
    assert bar["id"] == server.span_id
    assert (bar["conversation"], bar["sequence"], bar["named"]) == ("main", 1, True)
    assert bar["request"] == server.attributes["sidecar.request.id"]
    assert bar["model"] == "gpt-4o"
    assert abs(bar["end"] - server.end // 1000) <= TOLERANCE
    read = cast(float, server.attributes["sidecar.request.body.read_time"])
    assert abs(bar["start"] - (server.start // 1000 + read * 1e6)) <= 2 * TOLERANCE
    status, detail = sidecar.admin("GET", f"/live/requests/{bar['id']}")
    assert (status, detail["bar"], detail["trace_id"]) == (200, bar, server.trace_id)
    parts = {"connect", "wait", "stream"}
    spans = [one for one in sink.spans if one.trace_id == server.trace_id and one.name in parts]
    assert spans
    told = {step["name"]: (step["start"], step["end"]) for step in detail["steps"]}
    assert told.keys() == {span.name for span in spans}
    for span in spans:
        assert told[span.name] == (span.start // 1000, span.end // 1000)
    facts = detail["facts"]
    assert facts["sidecar.outcome"] == outcome
    line = sidecar.wait_log(
        f"sidecar.request.{'completed' if outcome == 'completed' else 'failed'}", session_id=session
    )
    told_there = {
        "timestamp",
        "event",
        "level",
        "trace_id",
        "span_id",
        "session_id",
        "conversation_id",
        "request_id",
    }
    assert facts == {key: value for key, value in line.items() if key not in told_there}


def test_a_bar_grows(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """In flight, then with its first byte, then ended; the turn that overtakes another is told with the other's end."""
    begun, over = Gate(), Gate()
    last = (Chunk(sse_event(STREAM[1])), Chunk(sse_event("[DONE]")), LastChunk())
    upstream.answer(Wait(begun), *sse_head(), Chunk(sse_event(STREAM[0])), Wait(over), *last)
    with Looking(sidecar.admin_port) as looking, RawClient(sidecar.port) as client:
        client.send(chat_request(headers=named("grows"), stream=True))
        bar = looking.one(session="grows")
        assert (bar["first"], bar["end"], bar["outcome"]) == (None, None, None)
        begun.open()
        looking.until(lambda: looking.one(session="grows")["first"])
        upstream.answer(*sse(STREAM))
        exchange(sidecar.port, chat_request(headers=named("grows"), stream=True))
        assert looking.one(session="grows", sequence=2, outcome="completed")["concurrency"] == 2
        over.open()
        ended = looking.one(session="grows", sequence=1, outcome="completed")
        assert ended["id"] == bar["id"]
        assert ended["distance"] == 1
        assert ended["start"] <= ended["first"] <= ended["end"]


def test_a_probe_has_no_bar(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Nothing of it is kept, so it is not told while it runs either: it would stay there, and be missed."""
    gate = Gate()
    upstream.answer(*sse_head(), Wait(gate), LastChunk())
    with Looking(sidecar.admin_port) as looking, RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/health"))
        client.read_until(b"\r\n\r\n")
        upstream.answer(*json_answer(chat_completion("Hi")))
        exchange(sidecar.port, chat_request(headers=named("beside-a-probe")))
        looking.one(session="beside-a-probe", outcome="completed")
        assert not [bar for bar in looking.bars.values() if bar["outcome"] is None]
        gate.open()


@pytest.mark.parametrize(
    "count,field", [(1, b"Upgrade: websocket\r\nConnection: Upgrade"), (2, b"X-Big: " + b"x" * 70_000)]
)
def test_what_is_refused_has_a_bar(sidecar: RunningSidecar, count: int, field: bytes) -> None:
    """With the session that was made up for it."""
    exchange(sidecar.port, request_bytes("GET", "/x", headers=(field,)))
    with Looking(sidecar.admin_port) as looking:
        looking.until(lambda: len(looking.ended("refused")) == count)
    told = looking.ended("refused")[-1]
    assert (told["named"], told["sequence"], told["first"]) == (False, 0, None)


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"'`;${7*7}</script>",
    "%1b[31mred",
    "a" * 200,
    "\\u202ereversed",
]


@pytest.mark.parametrize("session", HOSTILE)
def test_hostile_ids_pass_as_text(sidecar: RunningSidecar, upstream: ScriptedUpstream, session: str) -> None:
    """Whole and as they are, within one event."""
    upstream.answer(*json_answer(chat_completion("Hi")))
    exchange(sidecar.port, chat_request(headers=named(session)))
    with Looking(sidecar.admin_port) as looking:
        assert looking.one(session=session, outcome="completed")["conversation"] == "main"


def test_only_the_latest_are_kept(
    start_sidecar: Callable[..., RunningSidecar], upstream: ScriptedUpstream
) -> None:
    """As many as the setting says; an older one cannot be opened any more."""
    sidecar = start_sidecar(settings={"LIVE_REQUESTS": "2"})
    with Looking(sidecar.admin_port) as looking:
        for number in range(4):
            upstream.answer(*json_answer(chat_completion("Hi")))
            exchange(sidecar.port, chat_request(headers=named(f"kept-{number}")))
        first = looking.one(session="kept-0", outcome="completed")["id"]
        looking.one(session="kept-3", outcome="completed")
    assert sidecar.admin("GET", f"/live/requests/{first}")[0] == 404
    with Looking(sidecar.admin_port) as looking:
        looking.one(session="kept-3")
        assert [bar["session"] for bar in looking.bars.values()] == ["kept-2", "kept-3"]


def test_only_the_latest_hour_is_kept(
    start_sidecar: Callable[..., RunningSidecar], upstream: ScriptedUpstream
) -> None:
    """However few there are; the stream says for how long and how many."""
    sidecar = start_sidecar(settings={"LIVE_AGE": "3s"})
    gate = Gate()
    with Looking(sidecar.admin_port) as looking:
        upstream.answer(*json_answer(chat_completion("Hi")))
        exchange(sidecar.port, chat_request(headers=named("old")))
        old = looking.one(session="old", outcome="completed")["id"]
        upstream.answer(Wait(gate), *json_answer(chat_completion("Hi")))
        running = RawClient(sidecar.port)
        running.send(chat_request(headers=named("running")))
        looking.one(session="running")
        assert (looking.about["age_s"], looking.about["limit"]) == (3.0, 1000)
    sidecar.wait_until(lambda: sidecar.admin("GET", f"/live/requests/{old}")[0] == 404)
    with Looking(sidecar.admin_port) as looking:
        looking.one(session="running", outcome=None)
        assert [bar["session"] for bar in looking.bars.values()] == ["running"]
    gate.open()
    running.read_answer()
    running.close()


def test_who_may_look(start_sidecar: Callable[..., RunningSidecar]) -> None:
    """The page needs no token, what it tells does; other hosts' and other sites' pages get nothing."""
    sidecar = start_sidecar(settings={"ADMIN_TOKEN": "correct-horse"})
    for path in ("/", "/live/page.js", "/live/page.css", "/live/icon.svg"):
        assert sidecar.admin("GET", path)[0] == 200
        assert sidecar.admin("GET", path, headers={"Host": "evil.example"})[0] == 403
        assert sidecar.admin("GET", path, headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    for path in ("/live/events", "/live/requests/0", "/live/none", "/live/../settings.py"):
        assert sidecar.admin("GET", path)[0] == 401
    with Looking(sidecar.admin_port, {"Authorization": "Bearer wrong"}) as looking:
        assert looking.status == 401
    with Looking(sidecar.admin_port, {"Authorization": "Bearer correct-horse"}) as looking:
        assert looking.status == 200
        assert looking.fields["content-type"] == "text/event-stream"
        assert looking.fields["cache-control"] == "no-store"
        looking.until(lambda: looking.hellos)
    given = {"Authorization": "Bearer correct-horse"}
    for path in ("/live/none", "/live/..%2f__init__.py", "/live/requests/0"):
        assert sidecar.admin("GET", path, headers=given)[0] == 404


def test_a_stream_has_no_head_alone(sidecar: RunningSidecar) -> None:
    """HEAD would be answered with a stream all the same, and hold a browser's place."""
    with RawClient(sidecar.admin_port) as client:
        client.send(b"HEAD /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = client.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in head


def test_nothing_of_the_page_is_elsewhere(sidecar: RunningSidecar) -> None:
    """No file names another host, and the browser is told to load nothing from there, nor what stands in the page."""
    _, page = sidecar.admin("GET", "/")
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(file.startswith("/live/") for file in files)
    assert " style=" not in page
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=", page)
    for file in files:
        _, text = sidecar.admin("GET", file)
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
    with socket.create_connection(("127.0.0.1", sidecar.admin_port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].decode().lower()
    policy = re.search(r"content-security-policy: (.*)\r", head)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy[1]


def test_a_crowd_that_looks_leaves_room_for_probes(
    sidecar: RunningSidecar, upstream: ScriptedUpstream
) -> None:
    """Some read and some never do: probes and requests go on, and all who read are told."""
    lookers = [Looking(sidecar.admin_port) for _ in range(40)]
    try:
        for number in range(30):
            upstream.answer(*json_answer(chat_completion("Hi")))
            assert exchange(sidecar.port, chat_request(headers=named(f"crowd-{number}"))).status == 200
            assert sidecar.admin("GET", "/readiness")[0] == 200
        for looking in lookers[:5]:
            looking.one(session="crowd-29", outcome="completed")
    finally:
        for looking in lookers:
            looking.__exit__(None, None, None)


def test_no_browser_holds_up_the_end(
    start_sidecar: Callable[..., RunningSidecar], upstream: ScriptedUpstream
) -> None:
    """The stream ends with the port, and the process at once after."""
    sidecar = start_sidecar(settings={"SHUTDOWN_TIMEOUT": "4s"})
    with Looking(sidecar.admin_port) as looking:
        looking.until(lambda: looking.hellos)
        sidecar.admin("POST", "/shutdown")
        while looking.read():
            pass
        assert sidecar.wait() == 0


def test_what_a_body_says_is_not_kept() -> None:
    """For an hour, beside a thousand others: of all that is read of a body a bar has the model."""
    head = RequestHead("POST", b"/", "HTTP/1.1", Headers([]))
    one = Exchange(start=SECOND, head=head, trace=Ids(1), route=Route("/"))
    one.request = RequestFacts("gpt-4o", hints={"session_id": "s" * 5000}, attributes={"stop": ["x" * 5000]})
    one.decide(Outcome.COMPLETED, one.start)
    one.settle(2 * SECOND)
    kept = ended(one, {}, {})
    assert bar_of(kept)["model"] == "gpt-4o"
    assert not any(isinstance(value, RequestFacts | RequestHead) for value in kept)
