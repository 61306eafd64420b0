"""Notices that a peer has left while its bytes are not being read.

A transport that is paused tells nothing of an end or a reset that waits behind unread bytes. The kernel
knows: this asks it for the connection's TCP state, a few times a second, only while reading is paused.
Where the kernel offers no such question (outside Linux), the next read or write tells.
"""

import asyncio
import socket
from collections.abc import Callable

_EVERY = 0.05
_LEFT = frozenset((7, 8))
"""TCP_CLOSE (reset) and TCP_CLOSE_WAIT (the peer has ended its side), as `linux/tcp_states.h` numbers them."""


class HangupWatch:
    """Calls `left()` once the peer has ended or reset a paused connection."""

    __slots__ = ("_handle", "_left", "_loop", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, left: Callable[[], None]) -> None:
        self._loop = loop
        self._left = left
        self._transport: asyncio.Transport | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        """Reading has been paused."""
        self._transport = transport
        if self._handle is None and hasattr(socket, "TCP_INFO"):
            self._handle = self._loop.call_later(_EVERY, self._look)

    def stop(self) -> None:
        """Reading goes on, or the connection has ended."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        state: int = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state in _LEFT:
            self._left()
        else:
            self._handle = self._loop.call_later(_EVERY, self._look)
