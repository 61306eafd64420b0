"""How long connections may wait, learnt from what their origin closed, and that it is forgotten again; and those that wait."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Upstream
from sidecar.proxy.connect import Patience, Pool, Resolver


def test_patience_is_learnt_from_two_that_are_alike() -> None:
    """One closed connection is no time-out; two that waited as long are, and a margin is kept."""
    patience = Patience(30 * SECOND)
    patience.closed(5 * SECOND, SECOND)
    assert patience.at(SECOND) == 30 * SECOND
    patience.closed(5 * SECOND, 2 * SECOND)
    assert patience.at(2 * SECOND) == 4 * SECOND


def test_patience_is_learnt_from_many_that_follow_closely() -> None:
    """One every 10 ms, as a busy origin closes them: none is far enough from the one before, but some are from the first."""
    patience = Patience(30 * SECOND)
    for number in range(100):
        patience.closed(5 * SECOND, number * SECOND // 100)
    assert patience.at(SECOND) == 4 * SECOND


def test_a_restart_teaches_nothing() -> None:
    """Connections of any age that end, or such as had hardly waited."""
    patience = Patience(30 * SECOND)
    for waited in (SECOND, 3 * SECOND, SECOND // 50, SECOND // 50, 9 * SECOND):
        patience.closed(waited, 0)
    assert patience.at(0) == 30 * SECOND


def test_a_restart_after_a_burst_teaches_nothing() -> None:
    """Connections that began to wait together have waited alike when all are closed at once."""
    patience = Patience(30 * SECOND)
    for number in range(50):
        patience.closed(3 * SECOND + number, 9 * SECOND + number)
    assert patience.at(9 * SECOND) == 30 * SECOND


def test_what_was_learnt_heals() -> None:
    """It doubles by the minute up to the limit, and one that was still open counts at once."""
    patience = Patience(30 * SECOND)
    for at in (-SECOND, 0):
        patience.closed(SECOND * 3 // 10, at)
    assert patience.at(0) == SECOND * 225 // 1000
    assert patience.at(60 * SECOND) == SECOND * 450 // 1000
    assert patience.at(3600 * SECOND) == 30 * SECOND
    patience.held(8 * SECOND, 0)
    assert patience.at(0) == 7 * SECOND


class Kept:
    """An idle connection, as far as the pool looks at it."""

    keep_alive_hint = None
    usable = True
    idle_since = idle_until = idle_for = 0

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.waiting = self.closed = False
        self.raced = self.used = False
        self.looks = 0

    def poll(self, _: int) -> bool:
        """Whether something waits to be read."""
        self.looks += 1
        return self.waiting

    def close(self) -> None:
        """Ends."""
        self.closed = True


async def test_a_connection_on_which_something_waits_stays_in_the_pool() -> None:
    """It may be a record of TLS alone, which ends nothing: another one is taken meanwhile, and it goes when its time is over."""
    now = [SECOND]
    upstream = Upstream("default", "https", "sidecar.test", 443)
    pool: Any = Pool(asyncio.get_running_loop(), lambda: now[0], 30 * SECOND)
    older, younger = Kept(upstream), Kept(upstream)
    for one in (older, younger):
        pool.put(one, now[0])
    younger.waiting = True
    assert pool.take(upstream, now[0]) is older
    assert pool.take(upstream, now[0]) is None
    younger.waiting = False
    assert pool.take(upstream, now[0]) is younger
    pool.put(younger, now[0])
    now[0] += 31 * SECOND
    assert pool.take(upstream, now[0]) is None
    assert younger.closed
    pool.close()


async def test_many_idle_connections_cost_little_each() -> None:
    """However many an origin closes at once, nothing is compared with all others; and they are closed a few in each turn."""
    compared = 0

    class Compared(Kept):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = Kept.__hash__

    upstream = Upstream("default", "https", "sidecar.test", 443)
    pool: Any = Pool(asyncio.get_running_loop(), lambda: SECOND, 30 * SECOND)
    kept = [Compared(upstream) for _ in range(2000)]
    for one in kept:
        pool.put(one, SECOND)
        one.waiting = True
    assert pool.take(upstream, SECOND) is None
    assert sum(one.looks for one in kept) == 16
    for one in kept[:1000]:
        pool.forget(one)
    assert compared < 20
    pool.close()
    assert 0 < sum(one.closed for one in kept) <= 64
    for _ in range(20):
        await asyncio.sleep(0)
    assert [one.closed for one in kept] == [False] * 1000 + [True] * 1000


async def test_connections_that_have_waited_too_long_are_closed_in_turns() -> None:
    """All of those that a burst has left; the others stay."""
    now, soon, later = [SECOND], deque[Callable[[], None]](), list[float]()

    def call_later(delay: float, call: Callable[[], None]) -> object:
        later.append(delay)
        soon.append(call)
        return soon

    loop: Any = SimpleNamespace(call_later=call_later)
    upstream = Upstream("default", "https", "sidecar.test", 443)
    pool: Any = Pool(loop, lambda: now[0], 30 * SECOND)
    kept = [Kept(upstream) for _ in range(150)]
    for one in kept[:140]:
        pool.put(one, now[0])
    now[0] += 29 * SECOND
    for one in kept[140:]:
        pool.put(one, now[0])
    now[0] += 2 * SECOND
    closed = []
    for _ in range(3):
        soon.popleft()()
        closed.append(sum(one.closed for one in kept))
    assert closed == [64, 128, 140]
    assert later == [1, 0, 0, 1]
    assert pool.take(upstream, now[0]) is kept[-1]


class Counted(asyncio.futures._PyFuture):  # type: ignore[name-defined,misc]
    """A future that counts whom it looks through for one that waits no more."""

    steps = 0

    def remove_done_callback(self, call: Any, /) -> int:
        """Looks through all of them."""
        Counted.steps += len(self._callbacks)
        return int(super().remove_done_callback(call))


async def test_many_that_wait_for_a_name_may_give_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is looked for among the others; who stays has the answer that they all waited for."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Counted, "steps", 0)
    monkeypatch.setattr(loop, "create_future", lambda: Counted(loop=loop), raising=False)
    monkeypatch.setattr(Resolver, "_look_up", lambda *_: None)
    resolver = Resolver(loop)
    waiting = [asyncio.ensure_future(resolver.find("a.test", 443)) for _ in range(200)]
    await asyncio.sleep(0)
    for one in waiting[1:]:
        one.cancel()
    await asyncio.wait(waiting[1:])
    assert all(one.cancelled() for one in waiting[1:])
    # Whoever waits looks through itself, and the test through each that it waits for.
    assert Counted.steps <= 3 * len(waiting)
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    resolver._found(resolver._names["a.test"], (address,), None)
    found, kept = await waiting[0]
    assert (found[0][4], kept) == (("127.0.0.1", 443), False)
