"""A client's connection by itself: how long it stays, by a clock that only the test moves."""

import asyncio
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from sidecar.core.clock import SECOND
from sidecar.proxy import client_side
from sidecar.proxy.client_side import ClientConnection
from sidecar.proxy.loop import Rounds
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.shared import Admission, Shared

KEEPALIVE, IDLE = 1 * SECOND, 60 * SECOND


class Loop:
    """An event loop's timers; `now` is ns."""

    def __init__(self) -> None:
        self.now = 100 * SECOND
        self._due: list[tuple[int, asyncio.TimerHandle]] = []

    def call_later(self, delay: float, call: Callable[..., None], *given: object) -> asyncio.TimerHandle:
        """Calls it when the time is over."""
        loop = cast(
            "asyncio.AbstractEventLoop", SimpleNamespace(get_debug=bool, _timer_handle_cancelled=print)
        )
        handle = asyncio.TimerHandle(0, call, given, loop)
        self._due.append((self.now + round(delay * SECOND), handle))
        return handle

    def pass_until(self, end: int) -> None:
        """Time passes."""
        while self._due:
            first = min(self._due, key=lambda one: one[0])
            if first[0] > end:
                break
            self._due.remove(first)
            self.now = max(self.now, first[0])
            if not first[1].cancelled():
                first[1]._run()
        self.now = end


class Client(asyncio.Transport):
    """A client that has not taken `left` bytes yet."""

    def __init__(self, left: int) -> None:
        super().__init__({"peername": ("127.0.0.1", 5), "socket": self})
        self.left = left
        self.resets: list[bool] = []
        """What the system was told of the connection's end: whether it is a reset."""
        self.ended = ""

    def get_write_buffer_size(self) -> int:
        """What has not left."""
        return self.left

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is nothing to limit."""

    def fileno(self) -> int:
        """The system knows no such socket, and so nothing that it has not read."""
        raise OSError

    def setsockopt(self, _: int, __: int, linger: bytes) -> None:
        """Its socket's only option here."""
        self.resets.append(bool(struct.unpack("ii", linger)[0]))

    def write_eof(self) -> None:
        """Nothing more is written."""

    def is_closing(self) -> bool:
        """Once it has been closed."""
        return bool(self.ended)

    def close(self) -> None:
        """Once all has left."""
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        """At once."""
        self.ended = "cut off" if self.left else "closed"


class Answered:
    """A connection whose answer has ended, of which the client has not taken so many bytes.

    `endless`: it has no other end than the connection's; `broken`: what its client has sent was no HTTP.
    """

    def __init__(self, left: int, *, endless: bool = False, broken: bool = False) -> None:
        self.loop, self.client = Loop(), Client(left)
        limits = SimpleNamespace(
            head_size=1024, head_fields=8, client_head=SECOND, client_keepalive=KEEPALIVE, idle=IDLE
        )
        shared = SimpleNamespace(
            loop=self.loop,
            clock=lambda: self.loop.now,
            limits=limits,
            connections=set(),
            later=None,
            admission=Admission(1 << 20),
            roomy=lambda: True,
        )
        shared.turn = SimpleNamespace(read=lambda: self.loop.now, waited=0, over=bool)
        shared.rounds = Rounds(cast("asyncio.AbstractEventLoop", self.loop))
        shared.plans = SimpleNamespace(take=lambda *_: None)
        self.began = self.loop.now
        self.connection = connection = ClientConnection(cast("Shared", shared))
        connection.connection_made(self.client)
        inbound = Inbound(self.loop.now)
        inbound.ended = inbound.keep_alive = True
        inbound.broken = broken
        if endless:
            connection.ends_answer()
        if left:
            connection.pause_writing()
        connection.flow_done(inbound, not endless, False, self.loop.now)

    def takes(self, left: int) -> None:
        """The client takes all but so many bytes."""
        self.client.left = left
        if not left:
            self.connection.resume_writing()

    def after(self, seconds: float) -> str:
        """How the connection has ended so long after the answer's end; empty while it stands."""
        self.loop.pass_until(self.began + round(seconds * SECOND))
        return self.client.ended


def test_a_client_that_took_all_is_waited_for() -> None:
    """For its next request, as long as the setting says."""
    one = Answered(0)
    assert one.after(0.9) == ""
    assert one.after(1.1) == "closed"


def test_who_reads_late_gets_the_end_of_its_answer() -> None:
    """However short the time for another request is; that begins when it has it all."""
    one = Answered(50_000)
    assert one.after(50) == ""
    one.takes(20_000)
    assert one.after(100) == ""
    one.takes(0)
    assert one.after(100.9) == ""
    assert one.after(101.1) == "closed"


def test_who_sends_no_more_still_gets_the_rest() -> None:
    """The event loop closes such a connection by itself: it is no reset any more, which would throw the rest away."""
    one = Answered(50_000, endless=True)
    assert one.client.resets == [True]
    one.connection.eof_received()
    assert one.client.resets == [True, False]


def test_who_read_late_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request of whoever took its answer later than it had time for another."""
    begun: list[bytes] = []

    def flow_for(_: object, __: object, inbound: Inbound) -> SimpleNamespace:
        begun.append(inbound.head.target if inbound.head else b"")
        return SimpleNamespace(begin=bool)

    monkeypatch.setattr(client_side, "flow_for", flow_for)
    one = Answered(50_000)
    assert one.after(50) == ""
    one.takes(0)
    assert one.after(51) == ""
    one.connection.data_received(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    assert begun == [b"/next"]


def test_whoever_takes_nothing_may_say_what_it_likes() -> None:
    """It is cut off all the same."""
    one = Answered(50_000, broken=True)
    for second in range(1, 70):
        one.connection.data_received(b"more")
        one.after(second)
    assert one.client.ended == "cut off"


def test_whoever_takes_some_is_not_cut_off() -> None:
    """Nor where the connection closes behind its answer."""
    one = Answered(50_000, broken=True)
    for second in range(1, 200):
        one.takes(50_000 - second)
        assert one.after(second) == ""
    one.takes(0)
    assert one.after(202) == "closed"


@pytest.mark.parametrize("left", [1, 50_000])
def test_who_takes_nothing_is_cut_off(left: int) -> None:
    """After the time that a client has to take something."""
    one = Answered(left)
    assert one.after(60) == ""
    assert one.after(70) == "cut off"
