"""A bug of ours, wherever it strikes, ends one request at most: it is told once, and every request has one outcome."""

import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.testing import (
    OtlpSink,
    RunningSidecar,
    Script,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    sse,
)
from tests.hostility.witness import Witness

LAUNCHER = Path(__file__).parent / "with_a_bug.py"

NOTHING, OURS, OVER = "", "internal_error", "completed"
"""The outcome of a request that meets a bug: none, as nothing of it was heard; the bug; or what it had been before."""

UNMET = None
"""Such a request does not meet it."""

MADE = [
    ("proxy.request_reader:RequestReader.met", NOTHING, NOTHING),
    ("proxy.loop:LoopTurn.read", OURS, OURS),
    ("proxy.heads:RequestPlans.take", OURS, OURS),
    ("proxy.client_side:ClientConnection._start_next", OURS, OURS),
    ("proxy.client_side:Flow", OURS, OURS),
    ("proxy.flow:Flow.__init__", OURS, OURS),
    ("proxy.arrival:Joining.join", OURS, OURS),
    ("proxy.flow:Upload", OURS, OURS),
    ("proxy.flow:Answer", OURS, OURS),
    ("proxy.flow:Deadlines", UNMET, OURS),
]
JOINED = [
    ("proxy.flow:Flow.begin", OURS, OURS),
    ("core.identity:HeadIdentities.of", OURS, OURS),
    ("proxy.flow:Upload.whole", OURS, OURS),
    ("proxy.arrival:resolve", OURS, OURS),
    ("core.sessions:SessionManager.arrive", OURS, OURS),
    ("core.sessions:Turn", OURS, OURS),
]
SENT = [
    ("proxy.connect:Pool.take", OURS, OURS),
    ("proxy.flow:Upload.wait", OURS, OURS),
    ("proxy.shared:UpstreamConnection", OURS, OURS),
    ("proxy.connect:Dialer.dial", OURS, OURS),
    ("proxy.upstream_side:UpstreamConnection.connection_made", OURS, OURS),
    ("proxy.wire:request_head", OURS, OURS),
    ("proxy.flow:Upload.pass_on", OURS, OURS),
    ("proxy.upstream_side:UpstreamConnection.begin", OURS, OURS),
    ("proxy.upstream_side:UpstreamConnection.write", OURS, OURS),
]
ANSWERED = [
    ("proxy.upstream_side:UpstreamConnection.data_received", OURS, OURS),
    ("proxy.answer_reader:AnswerReader.feed", OURS, OURS),
    ("proxy.flow:Flow.answer_read", OURS, OURS),
    ("proxy.flow:Flow._observe", OURS, OURS),
    ("proxy.bodies:Answer.take", OURS, OURS),
    ("proxy.wire:answer_head", OURS, OURS),
    ("proxy.client_side:ClientConnection.write", OURS, OURS),
    ("proxy.flow:observer_for", UNMET, OURS),
    ("proxy.flow:Deadlines.next", UNMET, OURS),
]
WATCHED = [
    ("apis:small_request", OVER, OVER),
    ("core.histories:Histories.recognise", OVER, OVER),
    ("core.histories:Histories.remember", OVER, OVER),
    ("core.histories:Histories.answered", OVER, OVER),
    ("proxy.observer:_observer", UNMET, OVER),
    ("apis:body_reader", OVER, UNMET),
    ("core.sse:SseParser.feed", UNMET, OVER),
    ("core.exchange:Exchange.event_read", UNMET, OVER),
]
"""What only watches ends itself."""

PARTED = [
    ("proxy.bodies:Answer.ended", UNMET, OVER),
    ("proxy.flow:Flow._part_with_upstream", OURS, OVER),
    ("proxy.connect:Pool.put", OURS, OVER),
    ("proxy.flow:Upload.close", OURS, OVER),
    ("proxy.client_side:ClientConnection.flow_done", OURS, OVER),
    ("proxy.client_side:ClientConnection._next", OURS, OVER),
    ("proxy.bodies:Answer.close", UNMET, OVER),
    ("core.exchange:Exchange.answer_ended", OURS, OVER),
    ("proxy.arrival:Joining._leave", OVER, OVER),
    ("core.sessions:SessionManager.settle", OVER, OVER),
]
READ_IN_PIECES = [
    ("proxy.request_reader:RequestReader.feed", OURS),
    ("proxy.request_reader:RequestReader.read_on", OURS),
    ("proxy.request_reader:request_head", OURS),
    ("proxy.client_side:ClientConnection._advance", OURS),
    ("apis:match", OURS),
    ("core.identity:from_head", OURS),
    ("proxy.arrival:resolve", OURS),
    ("proxy.flow:Upload.hold", OURS),
    ("proxy.shared:Admission.hold", OURS),
    ("proxy.flow:Upload.read", OURS),
    ("apis:request_steps", OVER),
    ("proxy.arrival:Joining._mark_retry", OURS),
    ("proxy.flow:observer_for", OURS),
    ("proxy.observer:_observer", OVER),
    ("proxy.observer:BodyObserver._keep", OVER),
    ("proxy.bodies:Answer.ended", OURS),
    ("proxy.bodies:Answer.close", OURS),
]
"""What a request meets whose head goes by no plan, and whose answer is not small and plain."""

ROWS = [*MADE, *JOINED, *SENT, *ANSWERED, *WATCHED, *PARTED]
TELEMETRY = [
    ("telemetry.trace:Tracer.begin", OVER, OVER),
    ("telemetry.measures:Measures.arrived", OVER, OVER),
    ("telemetry.measures:Measures.streaming", UNMET, OVER),
    ("telemetry.measures:Measures.settled", OVER, OVER),
    ("telemetry.metric_store:Rows.take", OVER, OVER),
    ("telemetry.recorder:Recorder._generated", OVER, OVER),
    ("telemetry.recorder:Recorder._put_off", OVER, OVER),
    ("telemetry.request_attributes:Shapes.of", OVER, OVER),
    ("telemetry.recorder:Recorder._make_spans", OVER, OVER),
    ("telemetry.recorder:Recorder._wide_line", OVER, OVER),
    ("telemetry.request_attributes:RequestAttributes.__call__", OVER, OVER),
    ("telemetry.pipeline:Pipeline.span", OVER, OVER),
]
"""Nothing that goes wrong there reaches a request."""

WHOLE = (chat_request(), json_answer(chat_completion()))
IN_PIECES = (
    request_bytes(
        "POST",
        "/v1/chat/completions?NEVER",
        body=b"{}",
        headers=(
            b"Content-Type: application/json",
            b"Content-Encoding: identity",
            b"Connection: close",
            b"Idempotency-Key: k",
        ),
    ),
    json_answer(chat_completion(), headers=(b"Content-Encoding: identity",)),
)
STREAMED = (chat_request(stream=True), sse([chat_chunk("Hi"), chat_chunk(finish_reason="stop")]))


def met(rows: Sequence[tuple[str, str | None, str | None]]) -> list[object]:
    """Each row's function, the request and its answer, and the outcome."""
    return [
        pytest.param(where, *form, outcome, id=f"{where.rpartition(':')[2]}-{kind}")
        for where, *outcomes in rows
        for kind, form, outcome in zip(("whole", "streamed"), (WHOLE, STREAMED), outcomes, strict=True)
        if outcome is not UNMET
    ]


class Bugs:
    """Puts bugs into a running sidecar."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rw")
        self._told = 0

    def put(self, calls: int, where: str) -> str:
        """The next calls of this function raise; gives the error's name."""
        self._told += 1
        name = f"Bug{self._told}"
        self._say(f"{calls} {where} {name}")
        return name

    def mend(self) -> None:
        """They raise no more."""
        self._say("")

    def _say(self, line: str) -> None:
        self._lines.write(f"{line}\n")
        self._lines.flush()
        assert self._lines.readline() == "done\n"


Broken = tuple[RunningSidecar, Bugs]


@pytest.fixture(scope="module")
def broken(module_upstream: Witness, module_sink: OtlpSink) -> Iterator[Broken]:
    """A sidecar with one slot, which any request might keep, and a way to put bugs into it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        launcher = (sys.executable, str(LAUNCHER), str(listener.getsockname()[1]))
        settings = {"MAX_REQUESTS": "1"}
        with RunningSidecar(
            upstream=module_upstream.url, sink=module_sink, launcher=launcher, settings=settings
        ) as sidecar:
            connection, _ = listener.accept()
            with connection:
                yield sidecar, Bugs(connection)


def check_end(sidecar: RunningSidecar, sent: bytes, outcome: str) -> None:
    """Sends a request that meets a bug: it has this outcome, and nothing else begins or ends."""

    def counts() -> tuple[Counter[str], int, int]:
        requests = sidecar.stats()["requests"]
        return Counter(requests["outcomes"]), requests["started"], requests["in_flight"]

    outcomes, started, _ = counts()
    with suppress(EOFError, ConnectionError):
        exchange(sidecar.port, sent)
    wanted = Counter([outcome] if outcome else [])
    with suppress(AssertionError):
        sidecar.wait_until(lambda: counts() == (outcomes + wanted, started + wanted.total(), 0))
    after = counts()
    assert (after[0] - outcomes, after[1] - started, after[2]) == (wanted, wanted.total(), 0)


def in_pieces() -> list[object]:
    """The same of `READ_IN_PIECES`."""
    return [
        pytest.param(where, *IN_PIECES, outcome, id=f"{where.rpartition(':')[2]}-pieces")
        for where, outcome in READ_IN_PIECES
    ]


@pytest.mark.parametrize("calls", [1, 1000], ids=["once", "always"])
@pytest.mark.parametrize("where,sent,answered,outcome", [*met(ROWS), *in_pieces()])
def test_a_bug(
    broken: Broken, witness: Witness, where: str, sent: bytes, answered: Script, outcome: str, calls: int
) -> None:
    """A request that meets a bug; and, on a connection of its own, one after the bug was mended."""
    sidecar, bugs = broken
    witness.answer_always(answered)
    name = bugs.put(calls, f"sidecar.{where}")
    sent = sent.replace(b"NEVER", name.encode())  # nothing is remembered of it
    check_end(sidecar, sent, outcome)
    sidecar.wait_log("sidecar.bug", error=name)
    bugs.mend()
    assert exchange(sidecar.port, sent).status == 200
    assert len(sidecar.find_logs("sidecar.bug", error=name)) == 1


@pytest.mark.parametrize("sent,answered", [WHOLE, STREAMED], ids=["whole", "streamed"])
def test_no_record_can_be_made(broken: Broken, witness: Witness, sent: bytes, answered: Script) -> None:
    """What holds an outcome is itself broken: the bug is told, and no request is, as there is nothing to tell it by."""
    sidecar, bugs = broken
    witness.answer_always(answered)
    name = bugs.put(1000, "sidecar.core.exchange:Exchange.__init__")
    check_end(sidecar, sent, NOTHING)
    sidecar.wait_log("sidecar.bug", error=name)
    bugs.mend()
    assert exchange(sidecar.port, sent).status == 200
    assert len(sidecar.find_logs("sidecar.bug", error=name)) == 1


@pytest.mark.parametrize("where,sent,answered,outcome", met(TELEMETRY))
def test_a_bug_in_telemetry(
    broken: Broken, witness: Witness, where: str, sent: bytes, answered: Script, outcome: str
) -> None:
    """A request whose telemetry meets a bug, and the next one."""
    sidecar, bugs = broken
    witness.answer_always(answered)
    name = bugs.put(1, f"sidecar.{where}")
    check_end(sidecar, sent, outcome)
    sidecar.wait_until(lambda: name in sidecar.stderr)
    bugs.mend()
    assert exchange(sidecar.port, sent).status == 200
    told = [line for line in sidecar.find_logs("sidecar.telemetry.failed") if name in str(line)]
    assert len(told) == 1
