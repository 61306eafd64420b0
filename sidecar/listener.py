"""Takes clients' connections on a port, while there are file descriptors for them.

Owns the listening sockets. Short of descriptors nothing is taken: clients wait in the kernel's queue, instead of being
reset, until others have gone. The event loop's own server would take and reset them.
"""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

_BACKLOG = 1024

_RETRY = 0.1
"""Seconds until it is looked again whether there are descriptors."""

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""The machine does not have that address, or no address of its family."""


_SHARED = 1 << 14
"""File descriptors of which a share is left for others: more than that share of these is not needed, however many there are."""


def descriptors(spare: int) -> int:
    """The file descriptors that may be used so that one of `spare` (none for 0) is left for others."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 31
    return limit - min(limit, _SHARED) // spare if spare else limit


def _listening(family: int, kind: int, number: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, kind, number)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_BACKLOG)
    except OSError:
        one.close()
        raise
    return one


class Listener:
    """The sockets of one address. `made` gives a connection's protocol, `short` is told when a pause begins.

    It takes nothing above `descriptors(spare)`, and `at_a_time` connections in one go, so that the event loop
    goes on turning.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        made: Callable[[], asyncio.Protocol],
        short: Callable[[], None],
        *,
        spare: int = 0,
        at_a_time: int = 64,
    ) -> None:
        self._loop = loop
        self._made = made
        self._short = short
        self._at_a_time = at_a_time
        self._sockets: list[socket.socket] = []
        self._taking: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._most = descriptors(spare)

    def open(self, host: str, port: int) -> tuple[str, int]:
        """Listens on every address that the host has on this machine; gives the first one that was bound, and its port.

        `localhost` often has an IPv6 address where the machine has no IPv6: what is not there is passed over.

        Raises:
            OSError: one of them cannot be had, or none is there.
        """
        absent: OSError | None = None
        for family, kind, number, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            try:
                self._sockets.append(_listening(family, kind, number, address))
            except OSError as error:
                if error.errno not in _ABSENT:
                    self.close()
                    raise
                absent = error
        if absent is not None and not self._sockets:
            raise absent
        self._watch()
        bound = self._sockets[0].getsockname()
        return bound[0], bound[1]

    async def finish(self) -> None:
        """Takes what waits in the kernel's queue, no more than it can hold, and then nothing more: nobody in it is reset."""
        if self._pause is not None:
            self._pause.cancel()
        for one in self._sockets:
            for _ in range(_BACKLOG // self._at_a_time + 1):
                if not self._ready(one):
                    break
                await asyncio.sleep(0)
        self.close()
        if self._taking:
            await asyncio.wait(self._taking)

    def close(self) -> None:
        """Takes nothing more."""
        if self._pause is not None:
            self._pause.cancel()
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()
        self._sockets.clear()

    def _watch(self) -> None:
        for one in self._sockets:
            self._loop.add_reader(one, self._ready, one)

    def _ready(self, listening: socket.socket) -> bool:
        """Takes connections; False when none is left that may be taken."""
        for _ in range(self._at_a_time):
            try:
                taken, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _SHORT:
                    self._wait()
                    return False
                continue  # It was gone before it was taken, or its network was: accept(2).
            task = self._loop.create_task(self._take(taken))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
            if taken.fileno() >= self._most:
                self._wait()
                return False
        return True

    async def _take(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._made, taken)
        except OSError:
            taken.close()

    def _wait(self) -> None:
        for one in self._sockets:
            self._loop.remove_reader(one)
        self._pause = self._loop.call_later(_RETRY, self._again)
        self._short()

    def _again(self) -> None:
        """Goes on if the next descriptor is one that may be used; the system gives the lowest that is free."""
        try:
            next_one = os.dup(self._sockets[0].fileno())
        except OSError:
            next_one = self._most
        else:
            os.close(next_one)
        if next_one < self._most:
            self._watch()
        else:
            self._pause = self._loop.call_later(_RETRY, self._again)
