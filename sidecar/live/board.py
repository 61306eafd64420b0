"""What the live page shows, kept and told: the latest ended requests, those in flight, and the browsers that look.

Owns one bounded memory and one clockwork, which turns only while somebody looks: what has changed is encoded once,
and every browser gets the same bytes. A browser that does not read loses frames, never delays anybody, and is told
everything anew once it reads again.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import msgspec

from sidecar.core.exchange import Exchange
from sidecar.live.request import Ended, bar_of, detail_of, key_of

EVERY = 0.2
"""Seconds between two looks at what has changed."""

CROWD = 40
"""Browsers from which on looks become rarer, so that a crowd costs no more than these."""

WATCHERS = 128
"""Browsers that may look at once."""

FRAMES = 32
"""Frames that wait for one browser. One more, and they are dropped: it is told everything anew."""

UNREAD = 64 * 1024
"""Bytes that may lie in a browser's connection before frames wait: with all of `WATCHERS` 8 MiB, and one more frame each."""

PATIENCE = 30.0
"""Seconds that a browser may take nothing before its connection is closed."""

PORTION = 50
"""Bars of one frame when a browser is told everything."""

CHANGES = 100
"""Bars of one look; further ones are only counted, and a page that wants them asks anew."""

IN_ONE_GO = 500
"""Requests in flight that are looked at in one turn of the event loop: a millisecond or two; those beyond have turns of their own."""

SLICE = 16
"""Browsers that get their frames in one turn, likewise."""

_HEAD_EVERY = 5
"""Looks between two sets of the head's figures."""

_LATE = 25
"""Looks after which an ended request is kept, or will not be."""

_encode = msgspec.json.Encoder(enc_hook=str).encode

Figures = Callable[[], Mapping[str, object]]
"""Gives the figures of the page's head."""


class WatchersError(Exception):
    """As many browsers look as may."""


class Way(Protocol):
    """A browser's connection, as asyncio's transports are. It holds nobody up."""

    def write(self, data: bytes) -> None:
        """Takes a frame."""

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left yet."""

    def is_closing(self) -> bool:
        """True once the browser has gone."""

    def abort(self) -> None:
        """Closes it at once."""


class _Kept:
    """An ended request, and its bar once somebody has asked for it."""

    __slots__ = ("_bar", "_one", "end", "key")

    def __init__(self, one: Ended) -> None:
        self._one = one
        self.key = one.trace.server_span_id
        self.end = one.end
        self._bar: bytes | None = None

    @property
    def bar(self) -> bytes:
        """As JSON."""
        if self._bar is None:
            self._bar = _encode(bar_of(self._one))
        return self._bar

    def detail(self) -> Mapping[str, object]:
        """A `Detail`."""
        return detail_of(self._one)


class _Shown:
    """A request that was recorded: the same, from its document."""

    __slots__ = ("_document", "end", "key")

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.key = int(document["bar"]["id"], 16)
        self.end = document["bar"]["end"] * 1000

    @property
    def bar(self) -> bytes:
        """As JSON."""
        return _encode(self._document["bar"])

    def detail(self) -> Mapping[str, object]:
        """As it was recorded."""
        return self._document


class Board:
    """The live page's one source.

    `limit` bounds the ended requests that are kept; those that ended before what `since` gives (ns by the steady clock)
    are forgotten when another one ends or somebody looks. `in_flight` gives the exchanges under way, `figures` the
    head's figures, `about` what never changes; `now` is the wall's time, microseconds since the epoch.
    """

    def __init__(
        self,
        *,
        limit: int,
        since: Callable[[], int],
        in_flight: Callable[[], Iterable[Exchange]],
        figures: Figures,
        about: Mapping[str, object],
        now: Callable[[], int],
    ) -> None:
        self._since = since
        self._in_flight = in_flight
        self._figures = figures
        self._about = {**about, "limit": limit}
        self._now = now
        self._limit = limit
        self._kept: dict[int, _Kept | _Shown] = {}
        """By their numbers, which have no gaps: any of them is found at once, however many there are."""
        self._number = 0
        """How many have ever been kept."""
        self._fresh: deque[_Kept] = deque(maxlen=CHANGES)
        self._fell: list[int] = []
        """Those since the last look for which `_fresh` had no room."""
        self._ending = threading.Lock()
        """Around what `keep` touches."""
        self._told: dict[str, tuple[int, int, str | None, int]] = {}
        self._leaving: dict[str, int] = {}
        """Told as in flight, in flight no more, and not kept yet: the look that missed it."""
        self._watchers: set[Watcher] = set()
        self._timer: asyncio.Handle | None = None
        """The next look, or the next turn of the one under way."""
        self._looks = 0

    def keep(self, ended: Ended) -> None:
        """A request has settled. From any thread."""
        one = _Kept(ended)
        with self._ending:
            self._add(one)
            if self._watchers:
                if len(self._fresh) == CHANGES:
                    self._fell.append(self._fresh[0].key)
                self._fresh.append(one)

    def show(self, detail: Mapping[str, Any]) -> None:
        """A recorded request: a `Detail`, as it was written."""
        self._add(_Shown(detail))

    def detail(self, key: str) -> Mapping[str, object] | None:
        """Everything about an ended request (`Detail`), or None if it is not kept (any more)."""
        try:
            number = int(key, 16)
        except ValueError:
            return None
        return next((kept.detail() for kept in reversed(self._ended()) if kept.key == number), None)

    @property
    def full(self) -> bool:
        """As many browsers look as may."""
        return len(self._watchers) >= WATCHERS

    def watch(self, way: Way) -> "Watcher":
        """A browser begins to look, and is told everything; it must be let go again.

        Raises:
            WatchersError: there are `WATCHERS` already.
        """
        if self.full:
            raise WatchersError(f"{WATCHERS} browsers are looking already")
        watcher = Watcher(self, way)
        self._watchers.add(watcher)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)
        watcher.push()
        return watcher

    def let_go(self, watcher: "Watcher") -> None:
        """It looks no more; with the last one the clockwork stops."""
        self._watchers.discard(watcher)
        if not self._watchers and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            with self._ending:
                self._fresh.clear()
                self._fell.clear()
            self._told.clear()
            self._leaving.clear()

    def close(self) -> None:
        """Ends every browser's look."""
        for watcher in self._watchers:
            watcher.gone.set()

    def everything(self) -> Iterator[bytes]:
        """The frames that tell a page everything from the beginning.

        Each is made when it is asked for: what is forgotten meanwhile is not kept for whoever asks late.
        """
        yield _frame("hello", _encode({**self._about, "now": self._now(), "figures": self._figures()}))
        at, until = 0, self._number
        while at < until:
            frame, at = self._ended_from(at, until)
            if frame:
                yield frame
        bars = map(_bar_running, filter(_has_a_place, self._in_flight()))
        while portion := [*islice(bars, PORTION)]:
            yield self._bars(portion)

    def _ended_from(self, at: int, until: int) -> tuple[bytes, int]:
        """The first portion of those that were kept as number `at` or later and before `until`; and where the next one begins."""
        with self._ending:
            self._forget()
            at = max(at, self._number - len(self._kept))
            end = max(at, min(at + PORTION, until))
            kept = [self._kept[number] for number in range(at, end)]
        return self._bars([one.bar for one in kept]) if kept else b"", end

    def _ended(self) -> list[_Kept | _Shown]:
        with self._ending:
            self._forget()
            return [*self._kept.values()]

    def _add(self, one: _Kept | _Shown) -> None:
        self._kept[self._number] = one
        self._number += 1
        self._forget()

    def _forget(self) -> None:
        since, kept = self._since(), self._kept
        while kept and (len(kept) > self._limit or kept[self._number - len(kept)].end < since):
            del kept[self._number - len(kept)]

    def _look(self) -> None:
        self._go_on(self._looking())

    def _go_on(self, look: Iterator[None]) -> None:
        """Makes the next step of a look; requests have their turn before the one after it."""
        loop = asyncio.get_running_loop()
        # The next look first: a step that fails must not be the end of all looks.
        timer = self._timer = loop.call_later(EVERY * max(1.0, len(self._watchers) / CROWD), self._look)
        if next(look, False) is None:  # there is more of it
            timer.cancel()
            self._timer = loop.call_soon(self._go_on, look)

    def _looking(self) -> Iterator[None]:
        """Finds what has changed, and tells the browsers, in steps."""
        with self._ending:
            fresh = [*self._fresh]
            self._fresh.clear()
            fell, self._fell = self._fell, []
        changed = [kept.bar for kept in fresh]
        told: dict[str, tuple[int, int, str | None, int]] = {}
        for number, exchange in enumerate(self._in_flight(), 1):
            if not number % IN_ONE_GO:
                yield
            if not _has_a_place(exchange):
                continue
            key, answer = key_of(exchange), exchange.response
            model, races = answer.model or exchange.asked_model, len(exchange.races)
            seen = (exchange.first_byte, exchange.stream.stall_count, model, races)
            known = self._told.get(key)
            if known != seen and len(changed) < CHANGES:  # further ones come with the next look
                known = seen
                changed.append(_bar_running(exchange))
            if known is not None:
                told[key] = known
        missed = len(fell) + self._lost(told, (*(kept.key for kept in fresh), *fell))
        self._told = told
        self._looks += 1
        frames = []
        if self._looks % _HEAD_EVERY == 0:
            frames.append(_frame("head", _encode({"now": self._now(), "figures": self._figures()})))
        if changed or missed:
            frames.append(self._bars(changed, missed))
        if frames:
            frames = [b"".join(frames)]
        for number, watcher in enumerate([*self._watchers]):
            if number and not number % SLICE:
                yield
            watcher.offer(frames, asyncio.get_running_loop().time())

    def _lost(self, told: Collection[str], kept: Iterable[int]) -> int:
        """How many have ended of which nothing was kept: telemetry had to drop them, and pages must forget them.

        `told` are those in flight that pages know, `kept` those that were kept since the last look.
        """
        for key in self._told.keys() - told:
            self._leaving[key] = self._looks
        for number in kept:
            self._leaving.pop(f"{number:016x}", None)
        late = [key for key, since in self._leaving.items() if self._looks - since > _LATE]
        for key in late:
            del self._leaving[key]
        return len(late)

    def _bars(self, bars: list[bytes], missed: int = 0) -> bytes:
        document = b'{"now":%d,"missed":%d,"bars":[%b]}' % (self._now(), missed, b",".join(bars))
        return _frame("bars", document)


class Watcher:
    """One browser: the frames that wait for it. `gone` is set once it has gone, or is to go."""

    def __init__(self, board: Board, way: Way) -> None:
        self._board = board
        self._way = way
        self._waiting: deque[bytes] = deque()
        self._rest: Iterator[bytes] = iter(())
        self._behind = True
        self._more = False
        """The next portion of everything has its turn soon."""
        self._full_since: float | None = None
        self.gone = asyncio.Event()

    def offer(self, frames: list[bytes], at: float) -> None:
        """Puts frames behind the others, or drops them all where there are too many. `at` is the loop's time, s."""
        if self._way.is_closing():
            self.gone.set()
            return
        if len(self._waiting) + len(frames) > FRAMES:
            self._behind = True
            self._waiting.clear()
            self._rest = iter(())
        if not self._behind:
            self._waiting.extend(frames)
        if self._way.get_write_buffer_size() < UNREAD:
            self._full_since = None
            self.push()
        elif self._full_since is None:
            self._full_since = at
        elif at - self._full_since > PATIENCE:
            # It may have read while this process stood still: the loop looks at its connection before it is judged.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._judge)

    def _judge(self) -> None:
        if self._way.get_write_buffer_size() >= UNREAD:
            self._way.abort()

    def push(self) -> None:
        """Writes what waits, as far as the browser keeps up; of everything, one portion in each turn of the loop."""
        while self._way.get_write_buffer_size() < UNREAD and not self._way.is_closing():
            if self._behind:
                self._behind = False
                self._rest = self._board.everything()
            if (portion := next(self._rest, None)) is not None:
                self._way.write(portion)
                if not self._more:
                    self._more = True
                    asyncio.get_running_loop().call_soon(self._next_portion)
                return
            if not self._waiting:
                return
            self._way.write(self._waiting.popleft())

    def _next_portion(self) -> None:
        self._more = False
        self.push()


def _has_a_place(exchange: Exchange) -> bool:
    """Whether it is in flight and has a place in a lane."""
    return exchange.arrived > 0 and not exchange.end


def _bar_running(exchange: Exchange) -> bytes:
    return _encode(bar_of(exchange))


def _frame(event: str, document: bytes) -> bytes:
    """One server-sent event, as a chunk of a chunked body."""
    text = b"event: %b\ndata: %b\n\n" % (event.encode(), document)
    return b"%x\r\n%b\r\n" % (len(text), text)
