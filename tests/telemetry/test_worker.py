"""The thread that makes what the event loop has put off: in order, bounded, and never in the loop's way."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from sidecar.telemetry import queues
from sidecar.telemetry.ledger import Account, Delivery, Ledger, Signal, State
from sidecar.telemetry.otel_settings import QueueSettings
from sidecar.telemetry.pipeline import Pipeline
from sidecar.telemetry.queues import PIECE, ExportQueue, Together, Work, Worker

SOON = 60
NOTHING = Work()


def done(worker: Worker) -> None:
    """Waits until everything has been made and the thread is ending."""
    ended = threading.Event()
    worker.finish(ended.set)
    assert ended.wait(SOON)


def test_before_the_start_and_after_the_end_it_is_made_at_once() -> None:
    """So the first and the last lines have their places."""
    made: list[int] = []
    worker = Worker(made.append)  # type: ignore[arg-type]  # nothing is raised
    assert worker.put(NOTHING, made.append, 1)
    assert made == [1]
    worker.start()
    done(worker)
    assert worker.put(NOTHING, made.append, 2)
    assert made == [1, 2]
    done(worker)


def test_in_order_and_in_another_thread() -> None:
    """As many as come, in several pieces."""
    made: list[tuple[int, int]] = []
    worker = Worker(lambda _: None)
    worker.start()
    for number in range(3 * PIECE):
        assert worker.put(NOTHING, lambda one: made.append((one, threading.get_ident())), number)
    done(worker)
    assert [number for number, _ in made] == [*range(3 * PIECE)]
    assert {thread for _, thread in made} != {threading.get_ident()}


def test_what_has_no_room_is_refused() -> None:
    """And what has been taken is made all the same."""
    made: list[int] = []
    go = threading.Event()
    began = threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(SOON)

    worker = Worker(lambda _: None, size=3)
    worker.start()
    assert worker.put(NOTHING, wait)
    assert began.wait(SOON)
    assert [worker.put(NOTHING, made.append, number) for number in range(5)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    go.set()
    done(worker)
    assert made == [0, 1]


def test_what_waits_is_known_until_it_is_made() -> None:
    """For the ledger: the call under way is among it."""
    go, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(SOON)

    worker = Worker(lambda _: None)
    assert worker.waiting() == Work()
    worker.start()
    worker.put(Work(3, 1), wait)
    worker.put(Work(5), int)
    assert began.wait(SOON)
    assert worker.waiting() == Work(8, 1)
    go.set()
    done(worker)
    assert worker.waiting() == Work()


def test_a_call_that_raises_stops_no_other() -> None:
    """It is told, and the next one is made."""
    caught: list[Exception] = []
    made: list[int] = []
    worker = Worker(caught.append)
    worker.start()
    error = ValueError("queue on fire")

    def fail() -> None:
        raise error

    worker.put(NOTHING, fail)
    worker.put(NOTHING, made.append, 1)
    done(worker)
    assert (caught, made) == ([error], [1])


def test_calls_that_are_made_together() -> None:
    """Those that wait behind one another, in their order, and no more than a piece; one by one where nothing is put off."""
    made: list[object] = []
    together = Together(lambda given: partial(made.append, given))
    go, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(SOON)

    worker = Worker(lambda _: None)
    worker.put(NOTHING, together, 0, "a")
    worker.start()
    worker.put(NOTHING, wait)
    assert began.wait(SOON)
    for number in range(3):
        worker.put(NOTHING, together, number, "b")
    worker.put(NOTHING, made.append, "between")
    for number in range(PIECE):
        worker.put(NOTHING, together, number, "c")
    go.set()
    done(worker)
    first, several, between, *rest = made
    assert (first, several, between) == ([(0, "a")], [(0, "b"), (1, "b"), (2, "b")], "between")
    lengths = [len(piece) for piece in rest if isinstance(piece, list)]
    assert sum(lengths) == PIECE
    assert 0 < max(lengths) <= PIECE
    assert [one for piece in rest if isinstance(piece, list) for one in piece] == [
        (number, "c") for number in range(PIECE)
    ]


def test_what_comes_while_it_ends_is_made_behind_what_waits() -> None:
    """By the same thread."""
    made: list[tuple[int, int]] = []
    go, began, ended = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(SOON)

    def make(number: int) -> None:
        made.append((number, threading.get_ident()))

    worker = Worker(lambda _: None)
    worker.start()
    worker.put(NOTHING, wait)
    assert began.wait(SOON)
    worker.put(NOTHING, make, 1)
    worker.finish(ended.set)
    worker.put(NOTHING, make, 2)
    assert made == []
    go.set()
    assert ended.wait(SOON)
    assert [number for number, _ in made] == [1, 2]
    assert threading.get_ident() not in {thread for _, thread in made}


def test_a_thread_that_ends_at_once_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although nothing waits, and it looks while it is being told to end."""
    monkeypatch.setattr(queues, "_LOOK", 0.01)
    worker, ended = Worker(lambda _: None), threading.Event()

    class Slow(list[Callable[[], object]]):
        """The thread has time to end."""

        def append(self, one: Callable[[], object]) -> None:
            worker._thread.join(0.5)
            super().append(one)

    worker._done = Slow()
    worker.start()
    worker.finish(ended.set)
    worker._thread.join(SOON)
    assert ended.is_set()


def test_what_is_put_off_while_the_thread_ends_is_made() -> None:
    """By whoever put it off."""
    worker, ended, made = Worker(lambda _: None), threading.Event(), list[int]()
    asking = threading.get_ident()

    class Slow(deque[Any]):
        """The thread ends between the look whether it is there, and this."""

        def __len__(self) -> int:
            if threading.get_ident() == asking and not ended.is_set():
                worker.finish(ended.set)
                assert ended.wait(SOON)
            return super().__len__()

    worker._waiting = Slow()
    worker.start()
    assert worker.put(NOTHING, made.append, 1)
    assert made == [1]


class _Nowhere:
    """A way out that is never gone."""

    def send(self, batch: Sequence[object], count: int, /) -> Delivery:
        raise AssertionError((batch, count))

    def close(self) -> None:
        pass


class _Everywhere(_Nowhere):
    """A way out that takes everything."""

    def send(self, batch: Sequence[object], count: int, /) -> Delivery:
        return Delivery.of(State.EXPORTED, len(batch))


class _Slow:
    """A lock; once it is released `then` is called."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._then = then

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._then()


def test_a_queue_that_ends_at_once_tells_it() -> None:
    """Its thread looks while it is being closed: what waits has left, and whoever closes it is told, later too."""
    account, told = Account(), list[int]()
    queue = ExportQueue[int](
        "traces",
        account,
        _Everywhere(),
        QueueSettings(size=10, batch=10, delay=0.01, timeout=SOON),
        lambda _: None,
    )
    queue.offer([1, 2, 3])
    closing = threading.get_ident()

    def wait() -> None:
        if threading.get_ident() == closing:
            queue._thread.join(SOON)

    account.lock = _Slow(wait)  # type: ignore[assignment]
    queue.start()
    queue.close(lambda: told.append(1))
    assert told == [1]
    assert account.states[State.EXPORTED] == 3
    queue.close(lambda: told.append(2))
    assert told == [1, 2]


@pytest.mark.parametrize("together", [True, False])
def test_what_is_handed_over_is_counted_once(together: bool) -> None:
    """Whoever asks meanwhile is told the same as before and after."""
    account, seen = Account(), list[dict[str, int]]()
    queue = ExportQueue[int](
        "traces",
        account,
        _Nowhere(),
        QueueSettings(size=10, batch=10, delay=SOON, timeout=SOON),
        lambda _: None,
    )
    worker = Worker(lambda error: pytest.fail(repr(error)))
    queue.wait_for(lambda: worker.waiting().spans, worker.lock)
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        seen.append(account.snapshot())

    another = threading.Thread(target=ask)

    def hand_over(count: int) -> None:
        queue.offer(range(count))
        another.start()
        assert asked.wait(SOON)
        another.join(0.1)  # it waits for the end of this

    def make(given: Sequence[tuple[int]]) -> Callable[[], object]:
        seen.append(account.snapshot())
        return partial(hand_over, sum(count for (count,) in given))

    worker.start()
    worker.put(Work(3), Together(make) if together else hand_over, 3)
    done(worker)
    another.join(SOON)
    seen.append(account.snapshot())
    assert [(one["created"], one["queued"]) for one in seen] == [(3, 3)] * (3 if together else 2)


async def test_what_is_given_up_at_the_end_is_dropped() -> None:
    """It is handed over no more, whatever its thread goes on with; what comes then is made at once."""
    go, began, handed_over = threading.Event(), threading.Event(), list[str]()
    ledger = Ledger()
    page = ledger.account(Signal.TRACES)
    settings = QueueSettings(size=10, batch=10, delay=SOON, timeout=SOON)
    queue = ExportQueue[Any]("traces", page, _Nowhere(), settings, lambda _: None)
    pipeline = Pipeline(ledger, traces=[queue], logs=[], metrics=[])
    worker = Worker(lambda error: pytest.fail(repr(error)))
    pipeline.wait_for(worker)

    def make(_given: Sequence[Any]) -> Callable[[], object]:
        began.set()
        assert go.wait(SOON)
        return partial(handed_over.append, "late")

    worker.start()
    worker.put(Work(spans=3), Together(make))
    assert began.wait(SOON)
    worker.put(Work(spans=4), handed_over.append, "behind it")
    assert page.snapshot()["queued"] == 7
    await pipeline.shutdown(SOON)
    assert worker.put(NOTHING, handed_over.append, "at once")
    go.set()
    done(worker)
    worker._thread.join(SOON)
    assert handed_over == ["at once"]
    assert {state: count for state, count in page.snapshot().items() if count} == {"created": 7, "dropped": 7}
