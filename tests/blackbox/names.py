"""A name server of the tests' own, and a launcher whose process asks it and no other.

Owns a UDP socket on an address of loopback nobody else has, and a `resolv.conf` that is bound over the system's
in a mount namespace of the process's own. That takes root, or user namespaces; without either the tests fail.
"""

import os
import random
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

HANG, GONE, BROKEN = "hang", "gone", "broken"
"""What may be said of a name in place of its addresses: nothing at all, NXDOMAIN, SERVFAIL."""

HANG_6, BROKEN_6 = "hang-6", "broken-6"
"""The same of its IPv6 addresses alone, behind the others."""


class NameServer:
    """Answers by `names`, which have addresses of both families, with blanks between; one that is not there is `GONE`.

    `asked` are the names of A queries, in order; `late` are the names that are answered later, by so many seconds.
    """

    def __init__(self, folder: Path, names: dict[str, str]) -> None:
        self.names = names
        self.late: dict[str, float] = {}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        dice = random.SystemRandom()
        self._address = f"127.{dice.randrange(1, 255)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
        self._socket.bind((self._address, 53))
        self._resolv = folder / "resolv.conf"
        self.patience = 3
        self._timers: list[threading.Timer] = []
        self._thread = threading.Thread(target=self._serve, name="name-server", daemon=True)

    @property
    def launcher(self) -> tuple[str, ...]:
        """For `RunningSidecar`: its process asks this server, and gives a name up after `patience` seconds."""
        self._resolv.write_text(
            f"nameserver {self._address}\noptions timeout:{self.patience} attempts:1\n", encoding="ascii"
        )
        namespace = ("--mount",) if os.geteuid() == 0 else ("--mount", "--map-root-user")
        bind = f'mount --bind {self._resolv} /etc/resolv.conf && exec "$@"'
        return ("unshare", *namespace, "sh", "-c", bind, "sh")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(1024)
            if not query:
                return
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, address_wanted = ".".join(labels), query[at + 1 : at + 3] == b"\0\1"
            if address_wanted:
                self.asked.append(name)
            said = self.names.get(name, GONE).split()
            if not address_wanted and said[-1] in (HANG_6, BROKEN_6):
                said = [said[-1].removesuffix("-6")]
            if said == [HANG]:
                continue
            reply = _reply(query[: at + 5], said, socket.AF_INET if address_wanted else socket.AF_INET6)
            if name in self.late:
                timer = threading.Timer(self.late[name], self._socket.sendto, (reply, client))
                timer.start()
                self._timers.append(timer)
            else:
                self._socket.sendto(reply, client)


def _reply(query: bytes, said: list[str], family: socket.AddressFamily) -> bytes:
    """The answer to a query: the addresses of one family."""
    code = {GONE: 3, BROKEN: 2}.get(said[0], 0)
    own = "." if family == socket.AF_INET else ":"
    addresses = [socket.inet_pton(family, word) for word in said if own in word]
    head = query[:2] + bytes((0x81, 0x80 | code)) + b"\0\1" + bytes((0, len(addresses))) + b"\0\0\0\0"
    records = (b"\xc0\x0c" + query[-4:] + b"\0\0\0\0\0" + bytes((len(one),)) + one for one in addresses)
    return head + query[12:] + b"".join(records)
