"""The event loop's turns: nobody makes others wait, and a bug ends one request only.

Owns the outermost handler (the one place under `proxy/` with a broad `except`; it wraps what the event loop calls
directly), how long a read waited behind others of its turn, the queues of work that is done a little per turn, and the
rounds of what is looked at again and again.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

from sidecar.core.clock import MILLISECOND, Clock, cpu_time


class Breakable(Protocol):
    """Something that can say what ends when a bug strikes."""

    def broke(self, error: Exception) -> None:
        """Ends what was under way as `internal_error`."""


Given = TypeVarTuple("Given")
T = TypeVar("T", bound=Breakable)
Made = TypeVar("Made")


def outermost(method: Callable[[T, Unpack[Given]], None]) -> Callable[[T, Unpack[Given]], None]:
    """Hands whatever the method raises to its owner's `broke`. Its arguments have places, no names."""

    @functools.wraps(method)
    def guarded(self: T, /, *given: *Given) -> None:
        try:
            method(self, *given)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            self.broke(error)

    return guarded


def guarded(
    report: Callable[[Exception], None], call: Callable[[Unpack[Given]], object], *given: *Given
) -> None:
    """Makes the call; what it raises is told."""
    try:
        call(*given)
    except Exception as error:  # noqa: BLE001 - the outermost handler
        report(error)


def each_guarded(report: Callable[[Exception], None], *calls: Callable[[], object]) -> None:
    """Makes all of the calls, whatever one of them raises; that is told."""
    for call in calls:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the outermost handler
            report(error)


def made(
    report: Callable[[Exception], None], make: Callable[[Unpack[Given]], Made], *given: *Given
) -> Made | None:
    """What `make` gives; None if it raises, and that is told."""
    try:
        return make(*given)
    except Exception as error:  # noqa: BLE001 - the outermost handler
        report(error)
        return None


STAY = 2 * MILLISECOND
"""How long (ns) the reads of one turn may take before their connection lets others have their turn; and, of CPU, what is read
of answers in the turn in which it comes."""

_SHARE = 5 * MILLISECOND
"""How long (ns, of CPU in a queue of steps) work may go on in one turn; one step may take longer."""

_PAUSE = 100_000
"""Nanoseconds since a read after which the next one begins a turn: within a turn, reads follow at once."""


_ROUND = 0.05
"""Seconds between two rounds of looks."""

_LOOKS = 200
"""Looks of one round: a millisecond."""


class LoopTurn:
    """Marks the turns of one event loop.

    The loop's time is in milliseconds. Turns that follow one another without a pause within one of them count as one, so
    a wait may then be told longer than it was, by less than a millisecond.
    """

    __slots__ = ("_began", "_busy_until", "_clock", "_loop", "time", "waited")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self.time = 0.0
        """The loop's own time at the latest read; it does not change within a turn."""
        self._began = 0
        self._busy_until = 0
        self.waited = 0
        """How long (ns) the latest read had waited."""

    def read(self) -> int:
        """The present (ns since the epoch), and in `waited` how long the caller had waited for its turn."""
        now, time = self._clock(), self._loop.time()
        if time != self.time or now - self._busy_until > _PAUSE:
            self.time = time
            self._began = now
        self._busy_until = now
        self.waited = now - self._began
        return now

    def over(self) -> bool:
        """Whether the reads of this turn have taken so long that what is dear waits for turns to come."""
        self._busy_until = now = self._clock()
        return now - self._began > STAY

    def done(self, transport: asyncio.Transport, since: int, go_on: Callable[[], None]) -> None:
        """A connection's reads of some size, since `since` in this turn, have taken so long. If that is much, it pauses.

        The transport would read on in the same turn for as long as there is something, and nobody else would be
        served meanwhile. `go_on` is called when it may.
        """
        self._busy_until = now = self._clock()
        if now - since > STAY and not transport.is_closing():
            transport.pause_reading()
            self._loop.call_soon(go_on)


class Stepwise(Protocol):
    """Work that is done in steps."""

    working: bool
    """False once nothing is left to do."""

    def work(self) -> None:
        """Does the next step. Never raises."""


class StepQueue:
    """Work in steps, a little in each turn and one's after another's, however much of it comes at once.

    How little is told by CPU time: where the machine gives this process a part of its time only, bytes come as they do
    elsewhere, and what waits to be read must not grow beyond its bound.
    """

    __slots__ = ("_due", "_left", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Stepwise] = deque()
        self._due = False
        self._left: int | None = None
        """What is left (ns of CPU) of this turn's time for what begins at once; None while nothing has begun in it."""

    @property
    def busy(self) -> bool:
        """Something waits for turns to come."""
        return bool(self._waiting)

    def begin(self, work: Stepwise) -> None:
        """Does as much of it at once as there is time for in this turn, for all that begin in it, and the rest later."""
        left = self._left
        if left is None:
            left = STAY
            self._loop.call_soon(self._fresh)
        now = cpu_time()
        until = now + left
        while work.working and now < until:
            work.work()
            now = cpu_time()
        self._left = until - now
        if work.working:
            self.add(work)

    def _fresh(self) -> None:
        self._left = None

    def add(self, work: Stepwise) -> None:
        """Begins with it in a later turn."""
        self._waiting.append(work)
        self._go_on()

    def _turn(self) -> None:
        self._due = False
        end = cpu_time() + _SHARE
        while self._waiting:
            first = self._waiting[0]
            if first.working:
                first.work()
            if not first.working:
                self._waiting.popleft()
            if cpu_time() > end:
                self._waiting.rotate(-1)
                break
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._due:
            self._due = True
            self._loop.call_soon(self._turn)


class Rounds:
    """Looks at what nobody tells of, such as whether a client has left that is not read from: every 50 ms, while it is little.

    Each round makes `_LOOKS` looks at most, those first that wait longest: with thousands it is longer until the next one.
    """

    __slots__ = ("_due", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Callable[[], None], None] = {}
        self._due = False

    def add(self, look: Callable[[], None]) -> None:
        """Makes this look soon, once; one that waits already does not wait twice. It never raises."""
        self._waiting[look] = None
        if not self._due:
            self._due = True
            self._loop.call_later(_ROUND, self._round)

    def _round(self) -> None:
        some = [*islice(self._waiting, _LOOKS)]
        for look in some:
            del self._waiting[look]
        self._due = bool(self._waiting)
        if self._due:
            self._loop.call_later(_ROUND, self._round)
        for look in some:
            look()


class Later:
    """Calls that are made soon, as many per turn as there is time for. `report` is told what they raise."""

    __slots__ = ("_calls", "_clock", "_done", "_loop", "_report")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        report: Callable[[Exception], None],
        done: Callable[[], None],
    ) -> None:
        """`done` is called whenever nothing waits any more."""
        self._loop = loop
        self._clock = clock
        self._report = report
        self._done = done
        self._calls: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._calls)

    def add(self, call: Callable[[], None]) -> None:
        """One more."""
        if not self._calls:
            self._loop.call_soon(self._some)
        self._calls.append(call)

    def _some(self) -> None:
        until = self._clock() + _SHARE
        while self._calls:
            guarded(self._report, self._calls[0])
            self._calls.popleft()
            if self._calls and self._clock() > until:
                self._loop.call_soon(self._some)
                return
        self._done()

    async def finish(self) -> None:
        """Makes all the calls that wait now."""
        calls, self._calls = self._calls, deque()
        await self.each(partial(guarded, self._report, call) for call in calls)

    async def each(self, calls: Iterable[Callable[[], None]]) -> None:
        """Makes all of them, other work in between."""
        until = self._clock() + _SHARE
        for call in calls:
            call()
            if self._clock() > until:
                await asyncio.sleep(0)
                until = self._clock() + _SHARE
