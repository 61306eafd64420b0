"""What happens inside a conversation when calls run at the same time, shown by real traffic.

The order of things is forced by the upstream's script; figures are computed again from the spans' own times.
"""

import asyncio
import json
import random
import signal
import struct
import threading
from collections.abc import Iterator
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest

from sidecar.testing import (
    Bytes,
    Chunk,
    End,
    Garbage,
    Gate,
    Header,
    LogLine,
    OtlpSink,
    Pause,
    RawClient,
    Received,
    Reset,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    Span,
    Status,
    Wait,
    answer,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    sse,
    sse_head,
)


@pytest.fixture(scope="module")
def other_sink() -> Iterator[OtlpSink]:
    """A collector of its own, so that each has the metrics of one process."""
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def forgetful(module_upstream: ScriptedUpstream, other_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar whose sessions end soon, so that their spans can be seen.

    No pause within a session may be as long, on a busy machine either; the other tests have one whose sessions last.
    """
    settings = {"SESSION_IDLE": "4s"}
    with RunningSidecar(upstream=module_upstream.url, sink=other_sink, settings=settings) as running:
        yield running


def turn(session: str, conversation: str | None = None, **body: Any) -> bytes:
    """A chat turn of a named session."""
    lines = [b"X-Sidecar-Session-Id: " + session.encode()]
    if conversation is not None:
        lines.append(b"X-Sidecar-Conversation-Id: " + conversation.encode())
    return chat_request(headers=lines, **body)


class Turns:
    """Turns of one conversation that begin one after another and end in whatever order a test likes."""

    def __init__(self, sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
        self._sidecar = sidecar
        self._upstream = upstream
        self._gates: list[Gate] = []
        self._clients: list[RawClient] = []

    def begin(self, request: bytes) -> None:
        """Sends a turn, and returns when it has reached the upstream (so it has arrived)."""
        gate = Gate()
        self._gates.append(gate)
        self._upstream.answer(Wait(gate), json_answer(chat_completion()))
        client = RawClient(self._sidecar.port)
        self._clients.append(client)
        client.send(request)
        self._upstream.request(len(self._gates) - 1)

    def end(self, number: int) -> None:
        """Lets the turn with this number (from 1) end, and returns when its answer is there."""
        self._gates[number - 1].open()
        assert self._clients[number - 1].read_answer("POST").status == 200

    def close(self) -> None:
        """Closes all connections."""
        for client in self._clients:
            client.close()


def server_spans(sink: OtlpSink, session: str, count: int) -> list[Span]:
    """The session's SERVER spans by sequence."""
    wanted = {"session.id": session}
    sink.wait_for(lambda: len(sink.find_spans(kind="SERVER", attributes=wanted)) >= count)
    spans = sink.find_spans(kind="SERVER", attributes=wanted)
    assert len(spans) == count
    return sorted(spans, key=lambda span: int(str(span.attributes["sidecar.request.sequence"])))


def linked(span: Span, kind: str) -> set[str]:
    """The span ids that a span's links of one kind name."""
    return {link.span_id for link in span.links if link.attributes["sidecar.link"] == kind}


def arrival(span: Span) -> int:
    """When a turn arrived, ns."""
    waited = span.attributes["sidecar.request.body.read_time"]
    assert isinstance(waited, float)
    return span.start + round(waited * 1e9)


def queue_waits(spans: list[Span]) -> list[int]:
    """What a one-at-a-time queue would have made the turns wait, by the definition, ns."""
    free = 0
    waits = []
    for span in spans:
        begin = max(arrival(span), free)
        free = begin + span.end - arrival(span)
        waits.append(begin - arrival(span))
    return waits


def test_three_turns_that_end_3_1_2(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """Sequence, overlaps, links, distances and waits avoided are exactly these, on spans and metrics."""
    turns = Turns(sidecar, upstream)
    with measure() as measured:
        for _ in range(3):
            turns.begin(turn("three"))
        for number in (3, 1, 2):
            turns.end(number)
        first, second, third = spans = server_spans(sink, "three", 3)
    turns.close()

    assert [span.attributes["sidecar.request.overlaps"] for span in spans] == [0, 1, 2]
    assert [span.attributes["sidecar.request.overlapped_by"] for span in spans] == [2, 1, 0]
    assert [span.attributes["sidecar.request.out_of_order.distance"] for span in spans] == [1, 1, 0]
    ids = [span.span_id for span in spans]
    assert linked(first, "overlaps") == {ids[1], ids[2]}
    assert linked(second, "overlaps") == {ids[0], ids[2]}
    assert linked(third, "overlaps") == {ids[0], ids[1]}
    assert [linked(span, "previous") for span in spans] == [set(), {ids[0]}, {ids[1]}]

    waits = queue_waits(spans)
    assert waits[0] == 0
    assert min(waits[1:]) > 0
    known = [span.attributes.get("sidecar.request.wait_avoided") for span in spans]
    assert known[0] == 0
    assert known[1] == pytest.approx(waits[1] / 1e9, abs=1e-6)
    assert known[2] is None, "it overtook the others: known only after it had settled"
    metric = measured.one("sidecar.conversation.wait_avoided")
    assert metric.count == 3
    assert metric.sum == pytest.approx(sum(waits) / 1e9, abs=1e-6)

    figures = {change.metric: change.value or change.count for change in measured.changes}
    assert figures["sidecar.turns"] == 3
    assert figures["sidecar.conversation.overlaps"] == 2
    assert figures["sidecar.responses.out_of_order"] == 2
    assert figures["sidecar.responses.out_of_order.distance"] == 2
    concurrency = measured.one("sidecar.conversation.concurrency")
    assert (concurrency.count, concurrency.sum) == (3, 6)
    assert "sidecar.conversation.think_time" not in figures


def test_a_conversation_and_its_session_are_told_when_they_end(
    forgetful: RunningSidecar, upstream: ScriptedUpstream, other_sink: OtlpSink
) -> None:
    """Sums and links of both, in traces of their own, some time after the last ending."""
    sink, turns = other_sink, Turns(forgetful, upstream)
    turns.begin(turn("told", "a"))
    turns.begin(turn("told", "a"))
    turns.begin(turn("told", "b"))
    for number in (2, 1, 3):
        turns.end(number)
    turns.close()
    exchange(forgetful.port, request_bytes("GET", "/v1/models", headers=(b"X-Sidecar-Session-Id: told",)))
    whole = sink.span(name="session", attributes={"session.id": "told"})
    of_a = sink.span(name="conversation", attributes={"session.id": "told", "sidecar.conversation.id": "a"})
    of_b = sink.span(name="conversation", attributes={"session.id": "told", "sidecar.conversation.id": "b"})
    main = sink.span(
        name="conversation", attributes={"session.id": "told", "sidecar.conversation.id": "main"}
    )
    requests = sink.find_spans(
        kind="SERVER", attributes={"session.id": "told", "sidecar.conversation.id": "a"}
    )
    assert len({whole.trace_id, of_a.trace_id, of_b.trace_id, *(span.trace_id for span in requests)}) == 5
    assert (whole.parent, of_a.parent) == ("", "")
    assert {link.span_id for link in whole.links} == {of_a.span_id, of_b.span_id, main.span_id}
    assert {link.span_id for link in of_a.links} == {span.span_id for span in requests}
    assert of_a.start == min(arrival(span) for span in requests)
    assert of_a.end == max(span.end for span in requests)
    totals = {
        "sidecar.total.requests": 2,
        "sidecar.total.requests.completed": 2,
        "sidecar.total.turns": 2,
        "sidecar.total.overlaps": 1,
        "sidecar.total.most_at_once": 2,
        "sidecar.total.out_of_order": 1,
        "sidecar.total.waits_known": 2,
        "sidecar.total.waits_unknown": 0,
        "sidecar.total.tokens.input": 10,
        "sidecar.total.tokens.output": 14,
        "sidecar.models": ["gpt-4o"],
    }
    assert {name: of_a.attributes.get(name) for name in totals} == totals
    # What the conventions say of one call is nowhere else, so a store that adds it up gets every token once.
    others = [
        span
        for span in sink.find_spans()
        if span.attributes.get("session.id") == "told" and span.kind != "CLIENT"
    ]
    assert not [
        name
        for span in others
        for name in span.attributes
        if name.startswith(("gen_ai.usage.", "gen_ai.response."))
    ]
    waits = queue_waits(sorted(requests, key=lambda span: span.start))
    assert of_a.attributes["sidecar.total.wait_avoided"] == pytest.approx(sum(waits) / 1e9, abs=1e-6)
    assert main.attributes["sidecar.total.turns"] == 0
    assert whole.attributes["sidecar.total.requests"] == 4
    assert whole.attributes["sidecar.total.conversations"] == 3
    assert whole.attributes["sidecar.total.overlaps"] == 1
    sink.wait_for(lambda: any(_tells_the_end(line) for line in sink.logs))


def _tells_the_end(line: LogLine) -> bool:
    return line.event_name == "session.end" and line.attributes.get("session.id") == "told"


def test_a_session_that_comes_back_starts_again(
    forgetful: RunningSidecar, upstream: ScriptedUpstream, other_sink: OtlpSink
) -> None:
    """After its end the same id is a new session, with sequence 1."""
    exchange(forgetful.port, turn("again"))
    other_sink.span(name="session", attributes={"session.id": "again"})
    exchange(forgetful.port, turn("again"))
    wanted: dict[str, Any] = {"session.id": "again", "sidecar.request.sequence": 1}
    other_sink.wait_for(lambda: len(other_sink.find_spans(kind="SERVER", attributes=wanted)) == 2)


def test_conversations_do_not_overlap_each_other(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any
) -> None:
    """Turns of two conversations, of a nameless session, and what is no turn: no figure of the queue."""
    turns = Turns(sidecar, upstream)
    with measure() as measured:
        turns.begin(turn("apart", "a"))
        turns.begin(turn("apart", "b"))
        turns.begin(chat_request())
        turns.begin(chat_request())
        for path in ("/v1/embeddings", "/v1/responses/compact"):
            turns.begin(request_bytes("POST", path, headers=(b"X-Sidecar-Session-Id: apart",), body=b"{}"))
        for number in (6, 5, 4, 3, 2, 1):
            turns.end(number)
        wanted = {"session.id": "apart"}
        sink.wait_for(lambda: len(sink.find_spans(kind="SERVER", attributes=wanted)) == 4)
    turns.close()
    for span in sink.find_spans(kind="SERVER", attributes=wanted):
        assert linked(span, "overlaps") == set()
    figures = {change.metric: change.value or change.count for change in measured.changes}
    assert figures["sidecar.conversation.concurrency"] == 2
    assert figures["sidecar.turns"] == 2
    assert "sidecar.conversation.overlaps" not in figures
    assert "sidecar.responses.out_of_order" not in figures


def test_failed_turns_are_never_out_of_order(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Neither are they themselves, nor do they make others so; their time counts for the queue."""
    turns = Turns(sidecar, upstream)
    turns.begin(turn("failing"))
    upstream.answer(json_answer({}, status=500, reason=b"No"))
    exchange(sidecar.port, turn("failing"))
    turns.end(1)
    turns.close()
    first, second = server_spans(sink, "failing", 2)
    assert first.attributes["sidecar.request.out_of_order.distance"] == 0
    assert second.attributes["sidecar.request.out_of_order.distance"] == 0
    assert second.attributes["sidecar.request.overlaps"] == 1


SLOWLY_READ = {
    "events": (b"text/event-stream", b"data: {}\n\n" * 150_000, b"data: [DONE]\n\n"),
    "objects": (b"application/json", b'{"id":"c","model":"m","choices":[1' + b",{}" * 900_000, b"]}"),
}


@pytest.mark.parametrize("name", SLOWLY_READ)
def test_a_turn_that_follows_an_answer_still_being_read(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, name: str
) -> None:
    """A turn is over for its conversation when its last byte was handed over, whatever of it is still to be read."""
    media, body, last = SLOWLY_READ[name]
    fields = (b"Content-Type: " + media, b"Content-Length: %d" % (len(body) + len(last)))
    upstream.answer(Status(), *map(Header, fields), Bytes(body), Bytes(last))
    session = f"slowly-{name}"
    assert exchange(sidecar.port, turn(session, stream=name == "events")).body == body + last
    upstream.answer(json_answer(chat_completion()))
    exchange(sidecar.port, turn(session))
    first, second = server_spans(sink, session, 2)
    assert first.attributes["sidecar.outcome"] == second.attributes["sidecar.outcome"] == "completed"
    assert second.attributes["sidecar.request.overlaps"] == 0
    assert first.attributes["sidecar.request.overlapped_by"] == 0
    assert first.attributes["sidecar.request.out_of_order.distance"] == 0
    assert second.attributes["sidecar.request.wait_avoided"] == 0
    assert linked(first, "overlaps") == linked(second, "overlaps") == set()


def test_a_turn_that_makes_a_session_of_an_answer_still_being_read(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """So it is too where nobody names a session and the answer's id, which came at its beginning, leads to it."""
    created = b'data: {"type":"response.created","response":{"id":"resp_slowly","status":"in_progress"}}\n\n'
    completed = (
        b'data: {"type":"response.completed","response":{"id":"resp_slowly","status":"completed"}}\n\n'
    )
    body = created + b"data: {}\n\n" * 150_000 + completed
    fields = (b"Content-Type: text/event-stream", b"Content-Length: %d" % len(body))
    upstream.answer(Status(), *map(Header, fields), Bytes(body))
    as_json = (b"Content-Type: application/json",)
    asked = b'{"model":"m","input":"Hi","stream":true}'
    assert (
        exchange(sidecar.port, request_bytes("POST", "/v1/responses", headers=as_json, body=asked)).body
        == body
    )
    upstream.answer(json_answer({"id": "resp_next", "status": "completed"}))
    asked = b'{"model":"m","input":"Go on","previous_response_id":"resp_slowly"}'
    said = exchange(sidecar.port, request_bytes("POST", "/v1/responses", headers=as_json, body=asked))
    request_id = (said.get("x-sidecar-request-id") or b"").decode()
    second = sink.span(kind="SERVER", attributes={"sidecar.request.id": request_id})
    first, again = server_spans(sink, str(second.attributes["session.id"]), 2)
    assert again == second
    assert second.attributes["sidecar.session.source"] == "response_chain"
    assert second.attributes["sidecar.request.overlaps"] == 0
    assert second.attributes["sidecar.request.wait_avoided"] == 0
    assert "sidecar.request.think_time" in second.attributes
    assert linked(first, "overlaps") == linked(second, "overlaps") == set()


def test_think_time(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """From the last ending to the next arrival, when nothing was in flight."""
    exchange(sidecar.port, turn("thinking"))
    exchange(sidecar.port, turn("thinking"))
    first, second = server_spans(sink, "thinking", 2)
    think = second.attributes["sidecar.request.think_time"]
    assert think == pytest.approx((arrival(second) - first.end) / 1e9, abs=1e-6)
    assert "sidecar.request.think_time" not in first.attributes


def test_live_sessions_on_the_admin_port(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """What runs now: sessions, conversations, active requests with ages; then what has ended."""
    turns = Turns(sidecar, upstream)
    turns.begin(turn("live", "a"))
    turns.begin(turn("live", "a", stream=True))
    _, listing = sidecar.admin("GET", "/sessions")
    (row,) = [row for row in listing["sessions"] if row["id"] == "live"]
    assert (row["source"], row["in_flight"], row["requests"], row["idle_s"]) == ("own_header", 2, 2, None)
    _, detail = sidecar.admin("GET", "/sessions/live")
    (conversation,) = detail["conversation_list"]
    assert (conversation["id"], conversation["in_flight"], conversation["most_at_once"]) == ("a", 2, 2)
    assert [request["sequence"] for request in detail["active"]] == [1, 2]
    assert [request["streaming"] for request in detail["active"]] == [False, True], "told by the bodies"
    assert all(request["age_s"] > 0 for request in detail["active"])
    turns.end(1)
    turns.end(2)
    turns.close()
    sidecar.wait_until(lambda: len(sidecar.admin("GET", "/sessions/live")[1]["recent"]) == 2)
    recent = sidecar.admin("GET", "/sessions/live")[1]["recent"]
    assert [(one["sequence"], one["outcome"], one["out_of_order"]) for one in recent] == [
        (2, "completed", 0),
        (1, "completed", 0),
    ]
    assert sidecar.admin("GET", "/sessions/nobody")[0] == 404


# --- the random run

REQUESTS = 1000
AT_ONCE = 64


def _behave(request: Received) -> Script:
    """What the upstream does with a request: chosen by the number in its query."""
    kind = random.Random(request.target).randrange(12)
    content = [chat_chunk("a"), chat_chunk("b", finish_reason="stop")]
    scripts: dict[int, Script] = {
        0: sse(content, between=Pause(0.005)),
        1: sse(content, done=False),
        2: sse(content[:1], done=False),
        3: (Reset(),),
        4: (Garbage(b"nonsense\r\n\r\n"), End()),
        5: (Status(), Header(b"Content-Length: 9"), Bytes(b"abc"), End()),
        6: json_answer({"error": {"code": "x"}}, status=500, reason=b"No"),
        7: json_answer({"error": {"code": "x"}}, status=429, reason=b"No"),
        8: (*sse_head(), Chunk(b'data: {"error": {"code": "server_error"}}\n\n'), Pause(0.01), Reset()),
        9: (Pause(0.03), *answer(b"slow")),
    }
    return scripts.get(kind, json_answer(chat_completion()))


async def _one(port: int, number: int, dice: random.Random) -> None:
    """One client: some leave early, politely or not, some send nonsense, most stay to the end."""
    path = f"/v1/chat/completions?n={number}"
    session = f"run-{dice.randrange(20)}".encode()
    lines = (
        (b"X-Sidecar-Session-Id: " + session, b"Connection: close")
        if dice.random() < 0.8
        else (b"Connection: close",)
    )
    data = chat_request(path=path, headers=lines)
    manner = dice.random()
    if manner < 0.05:
        data = b"nonsense\r\n\r\n"
    elif manner < 0.1:
        data = data[: -dice.randrange(1, 60)]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return
    try:
        writer.write(data)
        patience = dice.random() * 0.02 if 0.05 < manner < 0.3 else 20
        await asyncio.wait_for(reader.read(-1), patience)
    except TimeoutError:
        if manner < 0.2 and not writer.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
        writer.transport.abort()
    except OSError:
        return
    finally:
        writer.close()


class Watch:
    """Asks for `/stats` again and again, and keeps what does not add up."""

    def __init__(self, sidecar: RunningSidecar) -> None:
        self._sidecar = sidecar
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.wrong: list[Any] = []
        self.polls = 0
        self.most_in_flight = 0
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                requests = self._sidecar.stats()["requests"]
            except OSError:
                return
            self.polls += 1
            self.most_in_flight = max(self.most_in_flight, requests["in_flight"])
            adds_up = requests["started"] == requests["settled"] + requests["in_flight"]
            if not adds_up or sum(requests["outcomes"].values()) != requests["settled"]:
                self.wrong.append(requests)

    def end(self) -> None:
        """Stops asking."""
        self._ended.set()
        self._thread.join()


async def _run(sidecar: RunningSidecar) -> None:
    """A thousand clients, at most so many at once; near the end, with requests in flight, SIGTERM."""
    dice = random.Random(42)
    slots = asyncio.Semaphore(AT_ONCE)

    async def limited(number: int) -> None:
        async with slots:
            if number == REQUESTS - AT_ONCE:
                sidecar.signal(signal.SIGTERM)
            await _one(sidecar.port, number, dice)

    await asyncio.gather(*(limited(number) for number in range(REQUESTS)))


def test_a_thousand_requests_and_nothing_is_lost(upstream: ScriptedUpstream) -> None:
    """Started = settled + in flight at every look; the ledger adds up; exported is what the sink received."""
    upstream.answer_with(_behave)
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "65536", "OTEL_BLRP_MAX_QUEUE_SIZE": "65536"}
    settings = {"SHUTDOWN_TIMEOUT": "10s"}
    with (
        OtlpSink() as sink,
        RunningSidecar(upstream=upstream.url, sink=sink, settings=settings, environ=environ) as sidecar,
    ):
        watch = Watch(sidecar)
        asyncio.run(_run(sidecar))
        assert sidecar.wait() == 0
        watch.end()
        ledger = json.loads(sidecar.find_logs("sidecar.stopped")[0]["telemetry"])
        bugs = sidecar.find_logs("sidecar.bug")

    assert bugs == []
    assert watch.wrong == []
    assert watch.polls > 10
    assert watch.most_in_flight > 1
    for name in ("traces", "metrics", "logs"):
        states = ledger[name]
        assert states["created"] == sum(count for state, count in states.items() if state != "created"), name
        assert states["queued"] == 0
        assert states["exported"] == sink.accepted(name), name
    assert ledger["traces"]["exported"] == ledger["traces"]["created"]

    servers = [span for span in sink.spans if span.kind == "SERVER"]
    assert len(servers) > REQUESTS * 0.9
    assert len({span.span_id for span in sink.spans}) == len(sink.spans)
    settled = {
        point.attributes["sidecar.outcome"]: 0.0
        for point in sink.points
        if point.metric == "sidecar.requests"
    }
    last = max(point.time for point in sink.points)
    for point in sink.points:
        if point.metric == "sidecar.requests" and point.time == last:
            settled[point.attributes["sidecar.outcome"]] += point.value or 0
    counted: dict[Any, float] = {}
    for span in servers:
        outcome = span.attributes["sidecar.outcome"]
        counted[outcome] = counted.get(outcome, 0) + 1
    assert settled == counted
    assert {
        "completed",
        "client_left",
        "upstream_rejected",
        "upstream_failed",
        "error_in_stream",
        "refused",
    } <= set(map(str, counted))
    active = [
        point.value
        for point in sink.points
        if point.metric == "sidecar.requests.active" and point.time == last
    ]
    assert set(active) <= {0}
