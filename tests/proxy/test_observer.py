"""Watching an answer can fail in any way without touching what passes."""

import asyncio
import gzip
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from sidecar import apis
from sidecar.core.clock import MILLISECOND
from sidecar.core.exchange import Exchange, RequestHead
from sidecar.core.facts import Anomaly, Outcome, Route
from sidecar.core.headers import Field, Headers
from sidecar.core.sse import Event
from sidecar.proxy.loop import StepQueue
from sidecar.proxy.observer import BodyObserver, StreamObserver
from sidecar.proxy.shared import Admission, Shared

MIB = 1 << 20
CHAT = Route("/v1/chat/completions", api="openai.chat", operation="chat", turn=True)


class Ids:
    """A trace that nobody exports."""

    trace_id = server_span_id = client_span_id = 1
    sampled = False

    def outbound(self) -> tuple[Field, ...]:
        """Nothing goes up."""
        return ()


class Stumbling:
    """A parser with a bug."""

    keep_alives = oversized = 0

    def feed(self, data: bytes) -> list[Event]:
        """Falls over whatever it is fed."""
        raise LookupError(data)

    def finish(self) -> list[Event]:
        """There would be nothing more."""
        return []


def streamed() -> Exchange:
    """A call whose answer streams."""
    head = RequestHead("POST", b"/v1/chat/completions", "1.1", Headers([]))
    exchange = Exchange(start=1, head=head, trace=Ids(), route=CHAT)
    exchange.streams = True
    return exchange


class Counting(Stumbling):
    """A parser that notes how often it is fed, in any answer."""

    def __init__(self, fed: list[int]) -> None:
        self._fed = fed

    def feed(self, data: bytes) -> list[Event]:
        """Once more."""
        self._fed.append(len(data))
        return []


class Turns:
    """An event loop of which the test makes the turns, and a clock of CPU time: each look at it takes 0.1 ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory: int = 64 * MIB) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self.call_soon = self._soon.append
        self._now = 0
        monkeypatch.setattr("sidecar.proxy.loop.cpu_time", self._look)
        self.admission = Admission(memory)
        self.reported: list[Exception] = []
        self.shared = cast(
            "Shared",
            SimpleNamespace(
                report=self.reported.append,
                admission=self.admission,
                steps=StepQueue(cast("asyncio.AbstractEventLoop", self)),
                limits=SimpleNamespace(inspect=8 * MIB),
                turn=SimpleNamespace(waited=0),
            ),
        )

    def _look(self) -> int:
        self._now += MILLISECOND // 10
        return self._now

    def turn(self) -> bool:
        """The next one; False when there is nothing left to do."""
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        return bool(self._soon)


def test_answers_that_come_in_one_turn_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: 2 ms are theirs together, and what is left is read in later turns, 5 ms of each."""
    turns, fed = Turns(monkeypatch), list[int]()
    answers = [StreamObserver(streamed(), Counting(fed), None, turns.shared) for _ in range(50)]
    for answer in answers:
        answer.feed(b"x" * 64 * 1024, 2)
    assert 0 < len(fed) <= 20
    before = len(fed)
    while turns.turn():
        assert len(fed) - before <= 50
        before = len(fed)
    assert sum(fed) == 50 * 64 * 1024
    assert not any(answer.working for answer in answers)
    answers[0].feed(b"x" * 64 * 1024, 3)
    assert len(fed) > before


def test_small_pieces_of_many_answers_share_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the reads of a turn have taken long; tiny ones cost no more than passing them on."""
    turns, fed = Turns(monkeypatch), list[int]()
    answers = [StreamObserver(streamed(), Counting(fed), None, turns.shared) for _ in range(50)]
    for answer in answers:
        answer.feed(b"x" * 4096, 2)
    assert len(fed) == 50
    turns.shared.turn.waited = 3 * MILLISECOND
    for answer in answers:
        answer.feed(b"x" * 4096, 2)
    assert len(fed) <= 70
    while turns.turn():
        pass
    assert len(fed) == 100
    for answer in answers:
        answer.feed(b"x" * 400, 2)
    assert len(fed) == 150


@pytest.mark.parametrize("end", [b"\n", b""], ids=["blank line", "end of the stream"])
@pytest.mark.parametrize("waited", [0, 3 * MILLISECOND], ids=["at once", "put off"])
def test_the_events_of_one_block_are_read_in_turns(
    monkeypatch: pytest.MonkeyPatch, waited: int, end: bytes
) -> None:
    """A block may have thousands, each of which is an error or odd: they count as memory while they wait, and none is lost."""
    turns, exchange = Turns(monkeypatch), streamed()
    turns.shared.turn.waited = waited
    parser = apis.event_parser(apis.Form.EVENTS, 8 * MIB, turns.admission.room)
    observer = StreamObserver(exchange, parser, None, turns.shared)
    told = exchange.stream
    block = b"data: x\n" + b'data: {"choices":[1]}\n' * 6000 + end
    for start in range(0, len(block), 4096):
        observer.feed(block[start : start + 4096], 2)
    observer.finish(3)
    ended: list[int] = []
    observer.close(lambda: ended.append(told.events))
    before, held = told.events, [turns.admission.memory]
    while turns.turn():
        assert told.events - before <= 64 * 51
        before = told.events
        held.append(turns.admission.memory)
    assert max(held) > 6000 * 192
    assert ended == [told.events] == [6001]
    assert (turns.admission.memory, turns.reported, exchange.anomalies) == (0, [], [])


def test_events_for_which_there_is_no_memory_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer passes, and that it is not read is told."""
    turns, exchange = Turns(monkeypatch, MIB), streamed()
    parser = apis.event_parser(apis.Form.EVENTS, 8 * MIB, turns.admission.room)
    observer = StreamObserver(exchange, parser, None, turns.shared)
    observer.feed(b"error: x\n" * 6000 + b"\n", 2)
    while turns.turn():
        pass
    assert exchange.anomalies == [Anomaly.ANSWER_NOT_READ]
    assert turns.admission.memory == 0


def test_a_compressed_body_is_decoded_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one read has may be 4 MiB: nobody waits for all of it, and it is read all the same; memory is given back."""
    turns, exchange = Turns(monkeypatch), streamed()
    reader = apis.body_reader(CHAT, exchange.response)
    assert reader is not None
    observer = BodyObserver(exchange, reader, b"gzip", turns.shared, 8 * MIB)
    observer.feed(
        gzip.compress(
            b'{"id":"a","model":"m-2","choices":[{"finish_reason":"stop"}],"x":"%b"}' % (b"a" * 3 * MIB)
        ),
        2,
    )
    assert observer.working
    assert 0 < turns.admission.memory < 2 * MIB
    steps = observer.reading()
    assert steps is not None
    assert sum(1 for _ in steps) > 10
    assert not turns.turn()
    observer.finish(3)
    observer.close(lambda: None)
    assert (exchange.response.id, exchange.response.model) == ("a", "m-2")
    assert (turns.admission.memory, turns.reported, exchange.anomalies) == (0, [], [])


@pytest.mark.parametrize("memory, read", [(7 * MIB, True), (5 * MIB, False)])
def test_a_body_counts_twice_while_it_is_read_in_steps(
    monkeypatch: pytest.MonkeyPatch, memory: int, read: bool
) -> None:
    """What is odd in it is read in a copy: without memory for one it is not read."""
    turns, exchange = Turns(monkeypatch, memory), streamed()
    reader = apis.body_reader(CHAT, exchange.response)
    assert reader is not None
    observer = BodyObserver(exchange, reader, None, turns.shared, 8 * MIB)
    body = b'{"id":"a","choices":[{"finish_reason":"stop"}],"x":"%b"}' % (b"a" * 3 * MIB)
    observer.feed(body, 2)
    steps = observer.reading()
    assert (steps is not None) is read
    assert turns.admission.memory == (2 * len(body) if read else 0)
    for _ in steps or ():
        pass
    observer.finish(3)
    observer.close(lambda: None)
    assert exchange.response.id == ("a" if read else None)
    assert (turns.admission.memory, exchange.anomalies) == (0, [] if read else [Anomaly.ANSWER_NOT_READ])


def test_a_body_of_which_the_reading_stops_is_not_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large it is and however dear, its end costs nothing; it says so, and memory is given back."""
    turns, exchange = Turns(monkeypatch), streamed()
    reader = apis.body_reader(CHAT, exchange.response)
    assert reader is not None
    monkeypatch.setattr(reader, "body", lambda _: pytest.fail("it was read in one go"))
    observer = BodyObserver(exchange, reader, None, turns.shared, 8 * MIB)
    observer.feed(b'{"id":"a","choices":[{"finish_reason":"stop"}],"x":"%b"}' % (b"a" * 3 * MIB), 2)
    steps = observer.reading()
    assert steps is not None
    next(steps)
    observer.stop()
    assert turns.admission.memory == 0
    observer.finish(3)
    observer.close(lambda: None)
    assert (turns.admission.memory, exchange.anomalies) == (0, [Anomaly.ANSWER_NOT_READ])


@pytest.mark.parametrize("kind", ["stream", "body"])
def test_tiny_pieces_that_wait_count_as_the_memory_they_take(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each takes some 200 bytes beside its own: where there is no room for these, the answer passes unread."""
    turns, exchange = Turns(monkeypatch, 6 * MIB), streamed()
    reader = apis.body_reader(CHAT, exchange.response)
    assert reader is not None
    first = gzip.compress(b'{"x":"%b"}' % (b"a" * 3 * MIB))
    observer: StreamObserver | BodyObserver
    if kind == "stream":
        observer = StreamObserver(exchange, Counting([]), None, turns.shared)
        first = b"x" * MIB
    else:
        observer = BodyObserver(exchange, reader, b"gzip", turns.shared, 8 * MIB)
    observer.feed(first, 2)
    before = turns.admission.memory
    for _ in range(1000):
        observer.feed(b"x", 3)
    assert turns.admission.memory - before > 160_000
    for _ in range(30_000):
        observer.feed(b"x", 3)
    assert exchange.anomalies == [Anomaly.ANSWER_NOT_READ]
    assert turns.admission.memory == 0


def test_a_bug_in_reading_an_answer_ends_the_reading_alone() -> None:
    """It is reported and counted once, and a clean framed end is still a completed request."""
    exchange = streamed()
    reported: list[Exception] = []
    shared = SimpleNamespace(report=reported.append, admission=Admission(1 << 20), clock=time.time_ns)
    observer = StreamObserver(exchange, Stumbling(), None, cast("Shared", shared))
    observer.feed(b"data: {}\n\n", 2)
    observer.feed(b"data: {}\n\n", 3)
    observer.finish(4)
    observer.close(lambda: exchange.answer_ended(4))
    assert [type(error) for error in reported] == [LookupError]
    assert exchange.anomalies == [Anomaly.ANSWER_NOT_READ]
    assert exchange.verdict is not None
    assert exchange.verdict.outcome is Outcome.COMPLETED
