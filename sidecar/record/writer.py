"""Writes a line for each ended request, in files of bounded size and number.

Owns a thread, so that no request and no telemetry waits for a disk. What does not fit its queue, and what cannot be
written, is counted and gone.
"""

import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from sidecar.live import Ended, detail_of

NAMES = "requests-*.jsonl"

QUEUE = 1000
"""Requests that may wait to be written."""

_FILES = 8
"""Into how many files the limit is divided."""

_MOST = 64
"""Files of a folder, at most: a sidecar that is started again and again leaves a small one each time."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class RecordWriter:
    """The files of one folder, `limit` bytes at most together.

    `dropped` is told of each request that is not written, and `report` what it failed by where that is not the disk.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        dropped: Callable[[], object],
        report: Callable[[Exception], object],
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._dropped = dropped
        self._report = report
        self._waiting: queue.Queue[Ended | None] = queue.Queue(QUEUE)
        self._file: BinaryIO | None = None
        self._size = 0
        self._number = 0
        self._thread = threading.Thread(target=self._work, name="sidecar-record", daemon=True)

    def start(self) -> None:
        """Begins to write; the first request begins a file.

        Raises:
            OSError: nothing can be written there.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._thread.start()

    def put(self, one: Ended) -> None:
        """Lets a request be written soon. From any thread; never waits."""
        try:
            self._waiting.put_nowait(one)
        except queue.Full:
            self._dropped()

    def close(self, seconds: float) -> None:
        """Writes what waits, for that long at most."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + seconds
        with suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
            self._thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (one := self._waiting.get()) is not None:
            try:
                self._write(_encode(detail_of(one)) + b"\n")
            except OSError:
                self._dropped()
            except Exception as error:  # noqa: BLE001 - the outermost handler of this thread
                self._dropped()
                self._report(error)
        with suppress(OSError):
            self._close()

    def _write(self, line: bytes) -> None:
        if self._file is None or self._size + len(line) > self._limit // _FILES:
            self._open()
        if self._file is not None:
            written = self._file.write(line)
            self._size += written
            if written < len(line):  # the disk is full: the next line must not continue this one
                self._close()
                self._dropped()

    def _open(self) -> None:
        """A new file, and room for it."""
        self._close()
        self._make_room()
        self._number += 1
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"requests-{stamp}-{os.getpid()}-{self._number:06d}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size = 0

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _make_room(self) -> None:
        files = sorted(recorded_files(self._folder), key=lambda found: (found[1].st_mtime, found[0].name))
        total = sum(status.st_size for _, status in files)
        for left, (path, status) in zip(range(len(files), 0, -1), files, strict=True):
            if total + self._limit // _FILES <= self._limit and left < _MOST:
                return
            total -= status.st_size
            path.unlink(missing_ok=True)


def recorded_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of requests in a folder: no links and no folders of such a name, and none that is gone meanwhile."""
    for path in folder.glob(NAMES):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path, status
