"""A process on a terminal of its own, as a person would start it."""

import os
import pty
import re
import select
import subprocess
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

ALL, ERRORS = "all", "errors"
"""Which of its standard streams are the terminal; the others lead nowhere."""


class OnTerminal:
    """`seen` is what it has written there. It must say something every `limit` seconds while somebody reads."""

    def __init__(
        self, command: Sequence[str], *, streams: str, environ: Mapping[str, str], limit: float
    ) -> None:
        self._limit = limit
        self.master, slave = pty.openpty()
        self.seen = ""
        other = slave if streams == ALL else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)

    def read_until(self, pattern: str) -> re.Match[str]:
        """Waits for a text."""
        self.read_while(lambda: not re.search(pattern, self.seen))
        found = re.search(pattern, self.seen)
        assert found is not None
        return found

    def read_while(self, condition: Callable[[], bool], busy: Callable[[], object] | None = None) -> None:
        """Reads on while it holds, and does something again and again meanwhile."""
        deadline = monotonic() + self._limit
        while condition():
            assert monotonic() < deadline, self.seen[-3000:]
            if busy is not None:
                busy()
            assert self._read(), f"it ended too soon: {self.seen[-3000:]}"

    def end(self) -> int:
        """Reads the rest, and gives the exit code."""
        while self._read():
            pass
        return self.process.wait(self._limit)

    def close(self) -> None:
        """Lets go of the terminal."""
        os.close(self.master)

    def _read(self) -> bool:
        if not select.select([self.master], [], [], self._limit)[0]:
            return False
        try:
            piece = os.read(self.master, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            return False
        self.seen += piece.decode(errors="replace")
        return bool(piece)
