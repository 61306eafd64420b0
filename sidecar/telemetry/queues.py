"""What waits: calls that the event loop has put off, and one signal's items on their way out.

Owns both bounds. The event loop only appends (about a microsecond, never blocking). A `Worker` is the one thread that
makes spans, lines and log records, in order and in batches; before `start` and once it has ended a call is made at once, so
that the first and the last lines have their places too. An `ExportQueue` has a thread of its own, which takes batches,
exports them and settles them in the ledger; one that hangs is abandoned, not joined: its batch is `unknown`, and what it
may do later counts no more.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, repeat
from operator import itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sidecar.core.clock import SECOND, Clock
from sidecar.core.shown import shown
from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Account, Delivery, State
from sidecar.telemetry.otel_settings import QueueSettings

SIZE = 8192
"""Calls that may wait. A thread that is this far behind gets no processor any more."""

PIECE = 16
"""Calls made at a stretch. A thread that computes on holds the interpreter for 5 ms at a time."""

_TOGETHER = 0.02
"""Seconds for which others may join the first call that waits: what is done in batches finds its caches warm."""

_LAST_WAIT = 0.2
"""Seconds at the end for what is being handed over."""

_LOOK = 1.0
"""Seconds after which it looks by itself: two threads that come at the same moment may each take the other for the first."""


def rest() -> None:
    """Let the event loop have the interpreter (measured: its p99 while spans are encoded 1 ms, without this 9 ms)."""
    time.sleep(0.0002)


class Work(NamedTuple):
    """What a call that waits will make, for the ledger."""

    spans: int = 0
    records: int = 0


LINE, RECORDED_LINE = Work(), Work(records=1)

_Made = TypeVar("_Made")
_Entry = tuple[Work, Callable[..., object], tuple[Any, ...]]


class Together:
    """A call that is made for several at once: what is done in steps finds its code and what it needs at hand in each.

    `make` is given what each of them was put off with, and gives what hands over all that it has made.
    """

    def __init__(self, make: Callable[[Sequence[Any]], Callable[[], object]]) -> None:
        self.make = make

    def __call__(self, *given: Any) -> None:
        """Make it for one, and hand it over."""
        self.make([given])()


class Worker:
    """See the module. `size` bounds what waits; `caught` is told what a call raised, in the thread."""

    def __init__(self, caught: Callable[[Exception], object], size: int = SIZE) -> None:
        self._caught = caught
        self._size = size
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._done: list[Callable[[], object]] = []
        self._at_once = True
        """No thread is there to make what is put off."""
        self._finishing = self._ended = False
        self.lock = threading.RLock()
        """Held while what was made is handed over, which no longer waits then."""
        self.between: Callable[[], object] = int
        """Called in the thread whenever nothing waits any more, and once a second."""
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)

    def start(self) -> None:
        """Put off what comes from now on."""
        self._at_once = False
        self._thread.start()

    def put(self, work: Work, call: Callable[..., object], *given: Any) -> bool:
        """Have the call made; False if there is no room for it. From any thread. What it raises at once is raised on."""
        if self._at_once:
            with self.lock:
                call(*given)
            return True
        waiting = self._waiting
        if len(waiting) >= self._size:
            return False
        waiting.append((work, call, given))
        if len(waiting) == 1:
            self._wake.set()
        if self._ended:
            self._make_late()
        return True

    def put_anyway(self, work: Work, call: Callable[..., object], *given: Any) -> None:
        """Likewise, of what has a bound of its own: there is always room for it."""
        if self._at_once:
            with self.lock:
                call(*given)
            return
        self._waiting.append((work, call, given))
        self._wake.set()
        if self._ended:
            self._make_late()

    def _make_late(self) -> None:
        """Make what was put off while the thread came to its end."""
        with self.lock:
            self._make_all()

    def waiting(self) -> Work:
        """What all that waits, or is being made, will make."""
        works = [work for work, _, _ in list(self._waiting)]
        return Work(*map(sum, zip(*works, strict=True))) if works else Work()

    def finish(self, done: Callable[[], object]) -> None:
        """Make the calls that wait, and end; then `done` is called, in the thread. Once it has ended, at once."""
        self._done.append(done)
        self._finishing = True
        self._wake.set()
        if self._at_once:
            self._tell_done()

    def give_up(self, told: Callable[[Work], object]) -> None:
        """Make nothing any more that still waits: `told` is called with what that would have been. What comes now is made at once."""
        if not self.lock.acquire(timeout=_LAST_WAIT):
            return
        try:
            told(self.waiting())
            self._waiting.clear()
            self._at_once = self._ended = self._finishing = True
        finally:
            self.lock.release()

    def _tell_done(self) -> None:
        while self._done:
            with suppress(IndexError, RuntimeError):  # another thread tells it; the loop that waited is gone
                self._done.pop()()

    def _work(self) -> None:
        while not self._finishing:
            if self._wake.wait(_LOOK) and not self._finishing:
                time.sleep(_TOGETHER)
            self._wake.clear()
            self._make_all()
            self.between()
        self._make_all()
        with self.lock:
            # What is made at once from now on waits for the lock, and so for what was put off until now.
            self._at_once = self._ended = True
            self._make_all()
        self._tell_done()

    def _make_all(self) -> None:
        waiting = self._waiting
        while waiting:
            for call, entries in groupby(list(islice(waiting, PIECE)), itemgetter(1)):
                several = list(entries)
                if isinstance(call, Together):
                    self._hand_over(several, self._call(call.make, [given for _, _, given in several]) or int)
                else:
                    for one in several:
                        self._hand_over([one], partial(call, *one[2]))
            rest()

    def _hand_over(self, entries: Sequence[_Entry], call: Callable[[], object]) -> None:
        """Make a call for the first of those that wait: until then they wait, and from then on what was made does."""
        with self.lock:
            if not self._waiting or self._waiting[0] is not entries[0]:
                return  # they have been given up
            self._call(call)
            for _ in entries:
                self._waiting.popleft()

    def _call(self, call: Callable[..., _Made], *given: Any) -> _Made | None:
        try:
            return call(*given)
        except Exception as error:  # noqa: BLE001 - the outermost handler of this thread
            self._caught(error)
            return None


_REPEAT = 60 * SECOND
_HINT = (
    "requests are not affected; if no collector is there, set OTEL_EXPORTER_OTLP_ENDPOINT, "
    "and OTEL_EXPORTER_OTLP_PROTOCOL to what it speaks (http/protobuf: usually port 4318, grpc: 4317)"
)
_WARNINGS = 16
"""Different texts of a collector that are told within an hour, each once."""
_ANEW = 3600 * SECOND
"""After this time a text is told again."""
_Item = TypeVar("_Item")
_Item_contra = TypeVar("_Item_contra", contravariant=True)


class FailureLog:
    """Says that exports fail, how many did, and that they work again, each at most once a minute; and what was dropped.

    What fails within a minute of the last line is told by the next one: at the latest with the first export that works
    after that minute. Called by one worker only; `logger` is a structlog logger. The first line names the `endpoint` (none
    for exports that go nowhere else) and what to change.
    """

    def __init__(self, page: str, logger: Any, clock: Clock, endpoint: str | None = None) -> None:
        self._logger = logger.bind(signal=str(page))
        self._where = {} if endpoint is None else {"endpoint": endpoint, "hint": _HINT}
        self._clock = clock
        self._failing = False
        """This has been told, and no recovery since."""
        self._warned: set[str] = set()
        self._warned_since = 0
        self._told = -_REPEAT
        self._lost = 0
        self._dropped = 0
        self._dropped_told = 0

    def tell(self, delivery: Delivery, dropped: int = 0) -> None:
        """Take note of one batch, and of how many items have found no room until now."""
        self._note(dropped)
        if delivery.warning:
            self._warn(delivery.warning)
        if delivery.complete:
            if self._lost:
                self._recovered()
            return
        self._lost += sum(count for state, count in delivery.counts.items() if state is not State.EXPORTED)
        now = self._clock()
        if now - self._told < _REPEAT:
            return
        if self._failing:
            self._logger.warning(n.EXPORT_STILL_FAILING, reason=delivery.reason, lost=self._lost)
        else:
            self._logger.warning(n.EXPORT_FAILING, reason=delivery.reason, lost=self._lost, **self._where)
        self._failing, self._told = True, now

    def _recovered(self) -> None:
        if not self._failing:
            now = self._clock()
            if now - self._told < _REPEAT:
                return
            self._told = now
        self._logger.info(n.EXPORT_RECOVERED, lost=self._lost)
        self._failing, self._lost = False, 0

    def _note(self, dropped: int) -> None:
        now = self._clock()
        if dropped == self._dropped or (self._dropped and now - self._dropped_told < _REPEAT):
            return
        self._logger.warning(n.EXPORT_DROPPED, lost=dropped - self._dropped)
        self._dropped, self._dropped_told = dropped, now

    def _warn(self, text: str) -> None:
        now = self._clock()
        if now - self._warned_since >= _ANEW:
            self._warned.clear()
        if not self._warned:
            self._warned_since = now
        if text not in self._warned and len(self._warned) < _WARNINGS:
            self._warned.add(text)
            self._logger.warning(n.EXPORT_WARNING, reason=text)


class Sender(Protocol[_Item_contra]):
    """One way out of one signal. Its methods are called by its worker thread."""

    def send(self, batch: Sequence[_Item_contra], count: int, /) -> Delivery:
        """Export a batch of `count` items, and say what became of them."""

    def close(self) -> None:
        """Give up waiting between retries, and let go of connections. From any thread."""


@dataclass(frozen=True, slots=True)
class Shipment(Generic[_Item]):
    """What is sent at once, and how many items that is."""

    batch: Sequence[_Item]
    count: int


class ExportQueue(Generic[_Item]):
    """See the module. `offer` is for the event loop, the rest for the pipeline; the thread is its own."""

    def __init__(
        self,
        page: str,
        account: Account,
        sender: Sender[_Item],
        queue: QueueSettings,
        tell: Callable[[Delivery], object],
    ) -> None:
        """`tell` is called by the worker with what became of each batch."""
        self._account = account
        self._sender = sender
        self._size = queue.size
        self._batch = queue.batch
        self._delay = queue.delay
        self._tell = tell
        self._waiting: deque[tuple[_Item, int]] = deque()
        self._under_way = 0
        self._not_before = 0.0
        self._wake = threading.Event()
        self._empty: list[Callable[[], object]] = []
        self._closing = False
        self._ended = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name=f"telemetry-{page}", daemon=True)

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def offer(self, items: Sequence[_Item], count: int = 1) -> None:
        """Queue items (each counts as `count` in the ledger); those that do not fit are dropped."""
        account, waiting = self._account, self._waiting
        with account.lock:
            before, offered = len(waiting), len(items)
            account.created += offered * count
            room = 0 if self._closing else self._size - before
            if offered > room:
                items = items[:room]
                account.states[State.DROPPED] += (offered - room) * count
                offered = room
            account.queued += offered * count
            waiting.extend(zip(items, repeat(count)))
        if before < self._batch <= before + offered:
            self._wake.set()

    def wait_for(self, pending: Callable[[], int], handing_over: AbstractContextManager[object]) -> None:
        """Count what is still to be made as created, and queued; the lock is held while it becomes what was made."""
        self._account.pending, self._account.handing_over = pending, handing_over

    def not_made(self, count: int, state: State) -> None:
        """Count what was not made."""
        self._account.not_made(count, state)

    @property
    def roomy(self) -> bool:
        """Less than half of what may wait does."""
        return 2 * len(self._waiting) < self._size

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way."""
        return not self._account.queued

    def flush(self, done: Callable[[], object]) -> None:
        """Export all that waits now; `done` is called in the worker's thread when nothing is left, at once if it has ended."""
        self._when_empty(done)

    def close(self, done: Callable[[], object]) -> None:
        """Take nothing more, export what waits, and end; `done` is called like that of `flush`."""
        self._when_empty(done, closing=True)

    def _when_empty(self, done: Callable[[], object], *, closing: bool = False) -> None:
        with self._account.lock:
            # Both in one: the worker ends with the first look that finds it closing.
            self._closing |= closing
            ended = self._ended
            if not ended:
                self._empty.append(done)
        if ended:
            done()
        self._wake.set()

    def stop(self) -> None:
        """Send nothing more and try nothing again: what waits is `dropped`, what is under way may still settle."""
        account = self._account
        with account.lock:
            self._closing = True
            account.states[State.DROPPED] += account.queued - self._under_way
            account.queued = self._under_way
            self._waiting.clear()
        self._wake.set()
        self._sender.close()

    def abandon(self) -> None:
        """Wait for nothing any more: what is under way is `unknown`, whatever becomes of it."""
        self.stop()
        account = self._account
        with account.lock:
            self._abandoned = True
            account.states[State.UNKNOWN] += self._under_way
            account.queued = self._under_way = 0

    def _work(self) -> None:
        while not self._abandoned:
            silence = self._not_before - time.monotonic()
            woken = self._wake.wait(silence if silence > 0 else self._delay)
            self._wake.clear()
            with self._account.lock:
                waiters, self._empty = self._empty, []
                closing = self._closing
            # Woken by a full batch: what makes no full batch waits for its time, unless someone flushes.
            least = self._batch if woken and not waiters else 1
            # A receiver that asked to be left alone is, unless someone flushes.
            while (waiters or time.monotonic() >= self._not_before) and (shipment := self._take(least)):
                delivery = self._export(shipment)
                self._not_before = time.monotonic() + delivery.silence
                self._settle(delivery)
            if closing:
                self._sender.close()
                with self._account.lock:
                    self._ended = True
                    waiters += self._empty
            for done in waiters:
                with suppress(RuntimeError):  # the loop that waited is gone
                    done()
            if closing:
                return

    def _take(self, least: int) -> Shipment[_Item] | None:
        with self._account.lock:
            if len(self._waiting) < least or not self._waiting:
                return None
            taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._under_way = sum(count for _, count in taken)
            return Shipment([item for item, _ in taken], self._under_way)

    def _export(self, shipment: Shipment[_Item]) -> Delivery:
        try:
            return self._sender.send(shipment.batch, shipment.count)
        except Exception as error:  # noqa: BLE001 - the outermost handler of this thread: a lost batch must not end it
            return Delivery.of(State.FAILED, shipment.count, f"{type(error).__name__}: {shown(str(error))}")

    def _settle(self, delivery: Delivery) -> None:
        with self._account.lock:
            if self._abandoned:
                return
            for state, count in delivery.counts.items():
                self._account.states[state] += count
            self._account.queued -= self._under_way
            self._under_way = 0
        self._tell(delivery)


class Calls:
    """Calls that come back in other threads, waited for on the loop."""

    def __init__(self, calls: list[Callable[[Callable[[], object]], None]]) -> None:
        loop = asyncio.get_running_loop()
        self._events = [asyncio.Event() for _ in calls]
        for call, event in zip(calls, self._events, strict=True):
            call(partial(loop.call_soon_threadsafe, event.set))

    async def done(self, timeout: float) -> bool:
        """True once all came back, False after `timeout` seconds; may be asked again."""
        try:
            async with asyncio.timeout(max(timeout, 0)):
                for event in self._events:
                    await event.wait()
        except TimeoutError:
            return False
        return True
