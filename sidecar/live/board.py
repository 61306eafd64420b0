"""What the live page shows, kept and told: the latest ended requests, those in flight, and the browsers that look.

Owns one bounded memory and one clockwork, which turns only while somebody looks: what has changed is encoded once,
and every browser gets the same bytes. A browser that does not read loses frames, never delays anybody, and is told
everything anew once it reads again.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from sidecar.core.exchange import Exchange
from sidecar.live.request import Bar, Detail, Ended, Facts, bar_of, detail_of, ended, key_of

EVERY = 0.2
"""Seconds between two looks at what has changed."""

WATCHERS = 128
"""Browsers that may look at once."""

FRAMES = 32
"""Frames that wait for one browser. One more, and they are dropped: it is told everything anew."""

PORTION = 200
"""Bars of one frame when a browser is told everything."""

CHANGES = 500
"""Bars of one look; further ones are only counted, and a page that wants them asks anew."""

_HEAD_EVERY = 5
"""Looks between two sets of the head's figures."""

_encode = msgspec.json.Encoder(enc_hook=str).encode

Figures = Callable[[], Mapping[str, object]]
"""Gives the figures of the page's head."""


class WatchersError(Exception):
    """As many browsers look as may."""


class Board:
    """The live page's one source.

    `limit` bounds the ended requests that are kept. `in_flight` gives the exchanges under way, `figures` the head's
    figures, `about` what never changes; `now` is the wall's time, microseconds since the epoch.
    """

    def __init__(
        self,
        *,
        limit: int,
        in_flight: Callable[[], Iterable[Exchange]],
        figures: Figures,
        about: Mapping[str, object],
        now: Callable[[], int],
    ) -> None:
        self._in_flight = in_flight
        self._figures = figures
        self._about = {**about, "limit": limit}
        self._now = now
        self._kept: deque[Ended] = deque(maxlen=limit)
        self._fresh: deque[Ended] = deque(maxlen=CHANGES)
        self._missed = 0
        self._ending = threading.Lock()
        """Around what `keep` touches."""
        self._told: dict[str, tuple[int, int, str | None]] = {}
        self._watchers: set[Watcher] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looks = 0

    def keep(self, exchange: Exchange, facts: Facts, alike: Facts) -> None:
        """A request has settled; `facts` and `alike` together are its wide line's fields. From any thread."""
        one = ended(exchange, facts, alike)
        with self._ending:
            self._kept.append(one)
            if self._watchers:
                self._missed += len(self._fresh) == CHANGES
                self._fresh.append(one)

    def detail(self, key: str) -> Detail | None:
        """Everything about an ended request, or None if it is not kept (any more)."""
        return next((detail_of(one) for one in reversed(self._ended()) if key_of(one) == key), None)

    def watch(self) -> "Watcher":
        """A browser begins to look; it must be let go again.

        Raises:
            WatchersError: there are `WATCHERS` already.
        """
        if len(self._watchers) >= WATCHERS:
            raise WatchersError(f"{WATCHERS} browsers look already")
        watcher = Watcher(self)
        self._watchers.add(watcher)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)
        return watcher

    def let_go(self, watcher: "Watcher") -> None:
        """It looks no more; with the last one the clockwork stops."""
        self._watchers.discard(watcher)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            with self._ending:
                self._fresh.clear()
            self._told.clear()

    def close(self) -> None:
        """Ends every browser's look."""
        for watcher in [*self._watchers]:
            watcher.end()

    def everything(self) -> Iterator[bytes]:
        """The frames that tell a page everything from the beginning."""
        yield _frame("hello", {**self._about, "now": self._now(), "figures": self._figures()})
        all_of_them: list[Exchange | Ended] = [*self._ended(), *self._arrived()]
        bars = map(bar_of, all_of_them)
        while portion := [*islice(bars, PORTION)]:
            yield self._bars(portion)

    def _ended(self) -> list[Ended]:
        with self._ending:
            return [*self._kept]

    def _arrived(self) -> list[Exchange]:
        """Those in flight that have a place in a lane."""
        return [exchange for exchange in self._in_flight() if exchange.arrived and not exchange.end]

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)
        with self._ending:
            fresh = [*self._fresh]
            self._fresh.clear()
            missed, self._missed = self._missed, 0
        changed = [*map(bar_of, fresh)]
        told: dict[str, tuple[int, int, str | None]] = {}
        for exchange in self._arrived():
            key = key_of(exchange)
            seen = (exchange.first_byte, exchange.stream.stall_count, exchange.response.model)
            told[key] = seen
            if self._told.get(key) != seen:
                if len(changed) < CHANGES:
                    changed.append(bar_of(exchange))
                else:
                    del told[key]  # its turn comes with the next look
        self._told = told
        self._looks += 1
        if self._looks % _HEAD_EVERY == 0:
            self._offer(_frame("head", {"now": self._now(), "figures": self._figures()}))
        if changed or missed:
            self._offer(self._bars(changed, missed))

    def _bars(self, bars: list[Bar], missed: int = 0) -> bytes:
        return _frame("bars", {"now": self._now(), "bars": bars, "missed": missed})

    def _offer(self, frame: bytes) -> None:
        for watcher in self._watchers:
            watcher.offer(frame)


class Watcher:
    """One browser: the frames that wait for it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._waiting: deque[bytes] = deque()
        self._behind = False
        self._ended = False
        self._more = asyncio.Event()

    def offer(self, frame: bytes) -> None:
        """Puts a frame behind the others, or drops them all where there are too many."""
        if len(self._waiting) >= FRAMES:
            self._waiting.clear()
            self._behind = True
        if not self._behind:
            self._waiting.append(frame)
        self._more.set()

    def end(self) -> None:
        """Lets `frames` come to its end."""
        self._ended = True
        self._more.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """Everything, then what changes, until the end; everything again after frames were dropped."""
        self._behind = True
        while not self._ended:
            if self._behind:
                self._behind = False
                for frame in self._board.everything():
                    yield frame
            while self._waiting:
                yield self._waiting.popleft()
            if not self._behind and not self._ended:
                self._more.clear()
                await self._more.wait()


def _frame(event: str, document: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), _encode(document))
