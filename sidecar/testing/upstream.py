"""An HTTP server that says exactly what a script tells it, and writes down exactly what it was told.

Owns a thread with an event loop of its own, so that sync and async tests use it alike. It stands on raw
asyncio transports: a web framework could neither send garbage and resets nor show odd-case headers.
What one connection does is `player.py`.
"""

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sidecar.testing.player import Connection, Player, Received
from sidecar.testing.steps import Echo, Script, Step

TIMEOUT = 60.0
"""Seconds that a test waits for something to happen before it fails."""

_IDLE = 0.08
"""Seconds from which on a connection that is dropped may seem to have waited too long."""

Behaviour = Callable[[Received], Script]
"""Gives the script for a request whose head is known."""


@dataclass(slots=True)
class _Scripts:
    """The scripts of one path (or of any path): some to be used once, then one for ever."""

    once: deque[Behaviour] = field(default_factory=deque)
    always: Behaviour | None = None

    def take(self) -> Behaviour | None:
        return self.once.popleft() if self.once else self.always


class ScriptedUpstream:
    """A provider that plays scripts. Use it as a context manager, sync or async.

    Scripts given by `answer` are used once each, in order, those for the request's exact path first;
    `answer_always` stays. A request without a script gets its own body back (`Echo`).
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """`port` 0: the system chooses one."""
        self._host = host
        self._tls = tls
        self._scripts: dict[str | None, _Scripts] = {}
        self._changed = threading.Condition()
        self._requests: list[Received] = []
        self._connections: list[Connection] = []
        self._players: set[Player] = set()
        self._opened = 0
        self._dropped: list[float] = []
        """How long (s) those that were dropped last had been idle."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)
        self._server: asyncio.Server | None = None
        self.errors: list[BaseException] = []
        """What went wrong inside scripts; an empty list unless a script is wrong."""
        self.port = port

    # --- life

    def start(self) -> Self:
        """Opens the port."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(TIMEOUT)
        return self

    def stop(self) -> None:
        """Ends every connection and closes the port."""
        if not self._loop.is_running():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        self._server = await self._loop.create_server(self._player, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        players = list(self._players)
        for player in players:
            player.drop()
        await asyncio.gather(*(player.gone() for player in players))

    def refuse(self) -> None:
        """Closes the port: from now on connections are refused, until `accept`. Open ones stay."""
        server = self._server
        if server is not None:
            self._call(server.close)
            self._server = None

    def accept(self) -> None:
        """Opens the same port again."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(TIMEOUT)

    def drop_connections(self) -> None:
        """Closes every open connection from this side, idle ones as well, and waits until it is done.

        None has been idle about as long as one that was dropped before: two alike would be an origin's time-out, which
        the sidecar learns.
        """
        players = list(self._players)
        while self._seems_impatient(players):
            with self._changed:
                self._changed.wait(0.01)
        for player in players:
            self._call(player.drop)
        self.wait_for(lambda: all(player.over for player in players))

    def _seems_impatient(self, players: list[Player]) -> bool:
        now = time.monotonic()
        idle = [now - since for player in players if (since := player.idle_since) is not None]
        long = [one for one in idle if one > _IDLE]
        if any(abs(one - before) < max(one, before) / 4 for one in long for before in self._dropped):
            return True
        self._dropped = idle
        return False

    def _call(self, function: Callable[[], object]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(TIMEOUT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what it says

    def answer(self, *script: Step | Script, path: str | None = None) -> None:
        """The next request (to exactly this path, if one is given) gets this script."""
        steps = _flatten(script)
        self._for(path).once.append(lambda _request: steps)

    def answer_always(self, *script: Step | Script, path: str | None = None) -> None:
        """Every request (to exactly this path, if one is given) without another script gets this one."""
        steps = _flatten(script)
        self._for(path).always = lambda _request: steps

    def answer_with(self, behaviour: Behaviour, *, path: str | None = None) -> None:
        """Every request without another script gets the one that `behaviour` gives for it.

        It is called on the upstream's own thread when the request's head has come.
        """
        self._for(path).always = behaviour

    def clear(self) -> None:
        """Forgets all scripts and records; connections stay open."""
        with self._changed:
            self._scripts.clear()
            self._requests.clear()
            self._connections = [record for record in self._connections if record.closed is None]
            self.errors.clear()

    def _for(self, path: str | None) -> _Scripts:
        with self._changed:
            return self._scripts.setdefault(path, _Scripts())

    # --- what it heard

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    @property
    def authority(self) -> str:
        """Its host and port, as a `Host` header names them."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """Every request whose head has come, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> list[Connection]:
        """Every connection, in the order in which they were opened."""
        with self._changed:
            return list(self._connections)

    def wait_for(self, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Returns once `condition` holds; it is asked again whenever something has happened here.

        Raises:
            AssertionError: it did not hold within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                seen = [bytes(request.message.start_line) for request in self._requests]
                raise AssertionError(
                    f"not within {timeout} s; requests: {seen}; connections: {self._connections}"
                )

    def request(self, index: int = 0, *, timeout: float = TIMEOUT, path: str | None = None) -> Received:
        """The request with this index (of those to this path), waited for until it is whole."""

        def matching() -> list[Received]:
            return [item for item in self._requests if path is None or item.path == path]

        self.wait_for(lambda: len(matching()) > index and matching()[index].complete, timeout)
        with self._changed:
            return matching()[index]

    def head(self, index: int = 0, *, timeout: float = TIMEOUT) -> Received:
        """The request with this index, waited for until its head has come."""
        self.wait_for(lambda: len(self._requests) > index, timeout)
        with self._changed:
            return self._requests[index]

    def closed(self, request: Received, *, timeout: float = TIMEOUT) -> Connection:
        """The connection of `request`, waited for until it is closed."""
        self.wait_for(lambda: request.connection.closed is not None, timeout)
        return request.connection

    # --- what the players tell (on the loop's thread)

    def _player(self) -> Player:
        return Player(self._choose, self._event)

    def _choose(self, request: Received) -> Script:
        with self._changed:
            own, other = self._scripts.get(request.path), self._scripts.get(None)
            behaviour = (own and own.take()) or (other and other.take())
            self._requests.append(request)
            self._changed.notify_all()
        return behaviour(request) if behaviour else (Echo(),)

    def _event(self, player: Player, error: BaseException | None) -> None:
        with self._changed:
            if error is not None:
                self.errors.append(error)
            if player.over:
                self._players.discard(player)
            elif player not in self._players:
                self._players.add(player)
                self._opened += 1
                player.connection.number = self._opened
                self._connections.append(player.connection)
            self._changed.notify_all()


def _flatten(script: tuple[Step | Script, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for part in script:
        if isinstance(part, tuple | list):
            steps.extend(part)
        else:
            steps.append(part)  # type: ignore[arg-type]
    return tuple(steps)
