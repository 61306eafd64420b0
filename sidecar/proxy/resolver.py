"""Finds the addresses of names, so that a name that hangs holds up nobody but those who ask for it.

Owns the threads that ask the system (the event loop's own pool has four, for everybody) and what is known of each
name. An address is never looked up. Names come from the settings only, which bounds what is kept here.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType

FRESH = 1.0
"""Seconds that an answer, or a failure, is taken without asking again."""

KEPT = 300.0
"""Seconds that a known answer may stand in for one that is slow or fails (the idea of RFC 8767)."""

PATIENCE = 0.5
"""Seconds that a look-up may take before a known answer is used in its place."""

LOOKUPS = 64
"""Look-ups under way at once, one thread each."""

RESERVE = 16
"""Of these, the ones that only a name may have that has answered before."""

_GONE = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@dataclass(slots=True)
class _Name:
    """What is known of one name. Moments are the event loop's (seconds)."""

    addresses: tuple[AddrInfoType, ...] = ()
    answered_at: float = 0.0
    error: OSError | UnicodeError | None = None
    """How the last look-up failed."""
    failed_at: float = 0.0
    asked_at: float = 0.0
    asking: asyncio.Future[None] | None = None
    """The look-up under way."""


class Resolver:
    """Looks names up, each at most once at a time. `patience` (seconds) is `PATIENCE` unless less time is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float = PATIENCE) -> None:
        self._loop = loop
        self._patience = min(patience, PATIENCE)
        self._names: dict[str, _Name] = {}
        self._under_way = 0

    async def find(self, host: str, port: int) -> tuple[Sequence[AddrInfoType], bool]:
        """The addresses of `host`, and True if they are older ones, used because asking is slow or fails.

        Raises:
            OSError: the name could not be resolved (`socket.gaierror`), or this machine has no means to ask.
            UnicodeError: it is not a name.
        """
        with suppress(socket.gaierror):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST), False
        name = self._names.setdefault(host, _Name())
        now = self._loop.time()
        kept = False
        if not (name.addresses and now - name.answered_at < FRESH):
            kept = await self._ask(host, name, now)
        return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in name.addresses], kept

    async def _ask(self, host: str, name: _Name, now: float) -> bool:
        """Waits for an answer, which `name` has then; True if what it has is from before."""
        known = bool(name.addresses) and now - name.answered_at < KEPT
        if name.error is None or now - name.failed_at >= FRESH:
            asking = name.asking or self._begin(host, name)
            left = max(0.0, name.asked_at + self._patience - now) if known else None
            # A caller that is cancelled leaves the look-up to the others who wait for it.
            await asyncio.wait({asking}, timeout=left)
            if asking.done() and name.error is None:
                return False
        if not known or not name.addresses:
            error = name.error or socket.gaierror(socket.EAI_AGAIN, "no answer")
            raise type(error)(*error.args)
        return True

    def _begin(self, host: str, name: _Name) -> asyncio.Future[None]:
        asking = name.asking = self._loop.create_future()
        name.asked_at = self._loop.time()
        self._under_way += 1
        if self._under_way > LOOKUPS - (0 if name.answered_at else RESERVE):
            self._found(name, (), OSError(errno.EAGAIN, "too many other names are being looked up"))
            return asking
        # A daemon: one that hangs must not hold up the process's end.
        thread = threading.Thread(target=self._look_up, args=(host, name), name=f"dns-{host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._found(name, (), OSError(errno.EAGAIN, str(error)))
        return asking

    def _look_up(self, host: str, name: _Name) -> None:
        """Runs in a thread of its own."""
        addresses: tuple[AddrInfoType, ...] = ()
        failed: OSError | UnicodeError | None = None
        try:
            addresses = tuple(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed = error.with_traceback(None)
        with suppress(RuntimeError):  # The event loop has ended meanwhile.
            self._loop.call_soon_threadsafe(self._found, name, addresses, failed)

    def _found(
        self, name: _Name, addresses: tuple[AddrInfoType, ...], error: OSError | UnicodeError | None
    ) -> None:
        self._under_way -= 1
        asking, name.asking, name.error = name.asking, None, error
        if error is None:
            name.addresses, name.answered_at = addresses, self._loop.time()
        else:
            name.failed_at = self._loop.time()
            if isinstance(error, socket.gaierror) and error.errno in _GONE:
                name.addresses = ()
        if asking is not None and not asking.done():
            asking.set_result(None)
