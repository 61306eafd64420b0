"""What the corpus is played with: an upstream that writes every byte down, and a way to send truly piece by piece.

Owns no expectation. `Witness` answers every request in the same way; `Turns` waits until the sidecar has read what
was sent, so that two pieces never reach its parser as one.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from sidecar.testing import RawClient, RunningSidecar, Script, ScriptedUpstream, Step, answer
from sidecar.testing.player import Player, Received

_PROBE = b"GET /liveness HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class _Recorder(Player):
    """A connection that keeps what came over it."""

    def __init__(
        self, choose: Callable[[Received], Script], event: Callable[[Player, BaseException | None], None]
    ) -> None:
        super().__init__(choose, event)
        self.taken = bytearray()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self.taken += data
        super().data_received(data)


def _plain(request: Received) -> tuple[Step, ...]:
    """`ok`, and to HEAD its length alone."""
    steps = answer(b"ok")
    return steps[:-1] if request.method == "HEAD" else steps


class Witness(ScriptedUpstream):
    """A provider that says `ok` to everything, and remembers the exact bytes of every connection."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self._recorders: list[_Recorder] = []

    def _player(self) -> Player:
        player = _Recorder(self._choose, self._event)
        self._recorders.append(player)
        return player

    def clear(self) -> None:
        """Forgets scripts and records, and closes what is open, so that no row meets another's connection."""
        self.drop_connections()
        super().clear()
        self._recorders.clear()
        self.answer_with(_plain)

    def taken(self) -> list[bytes]:
        """The bytes of every connection since `clear`, without those over which nothing came."""
        return [bytes(player.taken) for player in list(self._recorders) if player.taken]

    def broken_off(self) -> bool:
        """True if every connection that carries an unfinished request has been closed by the sidecar."""
        return all(
            request.complete or request.connection.closed in {"eof", "reset"} for request in self.requests
        )


class Turns:
    """Lets the sidecar's event loop come round: what was sent before has been read after.

    It asks the admin port, which the same loop serves.
    """

    def __init__(self, port: int, *, timeout: float = 60) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def wait(self) -> None:
        """Returns when the loop has been through its connections once."""
        self._socket.sendall(_PROBE)
        said = b""
        while b"\r\n\r\n" not in said:
            said += self._socket.recv(65536)
        head, _, body = said.partition(b"\r\n\r\n")
        missing = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) - len(body)
        while missing > 0:
            missing -= len(self._socket.recv(missing))

    def send(self, client: RawClient, pieces: Iterable[bytes]) -> None:
        """Sends piece after piece, each read before the next is sent; stops when the other side has closed."""
        with suppress(OSError):
            for piece in pieces:
                client.send(piece)
                self.wait()

    def close(self) -> None:
        """Ends its connection."""
        self._socket.close()


@contextmanager
def turns_of(sidecar: RunningSidecar) -> Iterator[Turns]:
    """Turns of one sidecar."""
    turns = Turns(sidecar.admin_port)
    try:
        yield turns
    finally:
        turns.close()


def cut(data: bytes, most: int = 400) -> list[bytes]:
    """The data byte by byte; larger data in `most` pieces."""
    size = max(1, -(-len(data) // most))
    return [data[at : at + size] for at in range(0, len(data), size)]
