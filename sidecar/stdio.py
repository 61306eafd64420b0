"""The process's standard streams: they are there, and nobody waits for them.

Owns file descriptors 0, 1 and 2 of a process of ours. One that is closed would be given to the next socket, and texts
would go into it; one whose reader stands still would hold whoever writes; one that cannot be written would change the
exit code.
"""

import io
import os
import stat
import sys
from contextlib import suppress
from typing import BinaryIO, TextIO, cast

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed() -> None:
    """Opens those that are closed on /dev/null. To be called before anything else is opened."""
    for descriptor, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def never_refuse() -> None:
    """From now on a character that stdout's encoding does not have is printed as a question mark; stderr has a way already."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def never_wait() -> None:
    """From now on a write to stdout or stderr that would have to wait fails instead, in libraries written in C too.

    Pipes and terminals are opened anew for it: to change them where they are would change them for everybody who has
    them. What cannot be opened anew (a socket, another user's pipe) stays as it is.
    """
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
                own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                os.dup2(own, descriptor)
                os.close(own)
    sys.stdout, sys.stderr = _lossy(1), _lossy(2)


def let_go() -> None:
    """Ends what was printed; what cannot be written is forgotten, so that the exit code says what it is to say."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class _Lossy(io.FileIO):
    """A stream for those who print and do not ask whether it can be written."""

    def write(self, data: object, /) -> int:
        with suppress(OSError):
            super().write(data)  # type: ignore[arg-type]
        return len(memoryview(data))  # type: ignore[arg-type]


def _lossy(descriptor: int) -> TextIO:
    raw = cast(BinaryIO, _Lossy(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
