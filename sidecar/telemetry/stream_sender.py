"""The last step out of what is written to a stream of the process: stderr, and stdout for the console exporters.

Owns the writing to a stream that may stand still, be full, or have nobody at its other end: what it cannot take is
said to the ledger, and a text broken off is never continued by another. It blocks, so it is for a worker's thread.
"""

import errno
import os
import select
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sidecar.telemetry.ledger import Delivery, State

STDOUT, STDERR = 1, 2

_LOOK = 100
"""Milliseconds between two looks whether a stream that stands still is still to be waited for."""


@dataclass(slots=True)
class Stream:
    """A file descriptor, for all senders that write to it: one at a time."""

    descriptor: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    torn: bool = False
    """The last thing that it took was a part of a text."""


class StreamSender:
    """Writes texts to a stream, whole and in order; while it takes nothing, waits until closed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._closed = threading.Event()

    def send(self, batch: Sequence[bytes], count: int, /) -> Delivery:
        """Write `count` texts, each with its line end. Those that cannot be written are `failed`, `dropped` once closed."""
        with self._stream.lock:
            return self._send(batch, count)

    def close(self) -> None:
        """Wait no more for a stream that stands still. From any thread."""
        self._closed.set()

    def _send(self, batch: Sequence[bytes], count: int) -> Delivery:
        lead = b"\n" if self._stream.torn else b""
        data = memoryview(lead + b"".join(batch))
        written, lost, reason = 0, State.FAILED, ""
        while written < len(data):
            try:
                written += os.write(self._stream.descriptor, data[written:])
            except BlockingIOError:
                if self._closed.is_set():
                    lost, reason = State.DROPPED, "the stream stands still"
                    break
                self._wait()
            except OSError as error:
                reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
                break
        whole = self._whole(batch, written - len(lead))
        return Delivery({State.EXPORTED: whole, lost: count - whole}, reason)

    def _wait(self) -> None:
        """Returns when the stream may take something, and now and then."""
        poll = select.poll()
        poll.register(self._stream.descriptor, select.POLLOUT)
        poll.poll(_LOOK)

    def _whole(self, batch: Sequence[bytes], written: int) -> int:
        """How many texts are written whole, when so many bytes are; -1: the end of a torn one is not."""
        whole = 0
        for text in batch:
            if written < len(text):
                break
            written -= len(text)
            whole += 1
        if written >= 0:
            self._stream.torn = written > 0
        return whole
