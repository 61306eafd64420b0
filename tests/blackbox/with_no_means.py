"""Runs the command line on a machine that runs out: `with_no_means.py FILE PORT PYTHON -m sidecar ...`.

Owns the shortage, which the words in the file name at that moment: an error's name (`ENOBUFS`) for every connection
to the port, `IPv6` for every such address, `threads` or `lookups` for names. An empty file is a machine that has everything.
"""

import errno
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from sidecar.cli import main
from sidecar.proxy import connect

_word = Path(sys.argv[1]).read_text
_port = int(sys.argv[2])


class _Lookups:
    """How many names may be looked up at once."""

    def __sub__(self, reserved: int) -> int:
        return 0 if _word() == "lookups" else 64 - reserved


class _Socket(socket.socket):
    """A socket that may not be connected."""

    def connect(self, address: Any) -> None:
        number = 0
        for word in _word().split():
            if word == "IPv6" and self.family == socket.AF_INET6:
                number = errno.EADDRNOTAVAIL
            elif word.startswith("E") and self.type == socket.SOCK_STREAM and address[1] == _port:
                number = getattr(errno, word)
        if number:
            raise OSError(number, os.strerror(number))
        super().connect(address)


class _Thread(threading.Thread):
    """A thread that may not be started."""

    def start(self) -> None:
        if self.name.startswith("dns-") and _word() == "threads":
            raise RuntimeError("can't start new thread")
        super().start()


if __name__ == "__main__":
    connect.LOOKUPS = _Lookups()  # type: ignore[assignment]
    socket.socket = _Socket  # type: ignore[misc]
    threading.Thread = _Thread  # type: ignore[misc]
    sys.argv = ["sidecar", *sys.argv[6:]]
    sys.exit(main())
