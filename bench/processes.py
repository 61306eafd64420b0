"""Processes of a run: started on their cores, waited for, watched, and ended whatever happens.

Owns the life of every program that the benchmark starts, and the folder where they write. Nothing that it
started outlives it.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import machine, traffic

START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
"""Seconds for a process to be ready, and to end by itself before it is killed."""

_ROOT = Path(__file__).parents[1]


class StartError(Exception):
    """A process did not become ready; the end of what it wrote is in the text."""


_PR_SET_PDEATHSIG = 1


_ENDS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """A Ctrl-C comes after this: what it raises while Python forks is lost in one of the hooks that are called then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child() -> None:
    """Signals reach it again; a Ctrl-C that comes before anybody is responsible for it ends it all the same (Linux)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Running:
    """One program on loopback. What it writes goes to a file, as a container's output does."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        cores: set[int],
        environ: Mapping[str, str] | None = None,
        *,
        admin: int | None = None,
    ) -> None:
        self.port = port
        self.admin = admin
        self._log = log
        with log.open("wb") as output, machine.on(cores), _held():
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_inherited() | dict(environ or {}),
                start_new_session=True,
                preexec_fn=_in_child,  # noqa: PLW1509 - the benchmark starts programs before any thread
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """Seconds of CPU that it has used, children and threads included."""
        return machine.cpu_seconds(self.pid)

    def memory(self) -> float:
        """Its resident memory in MB."""
        return machine.resident_mb(self.pid)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def ready(self) -> Self:
        """Returns once it accepts connections.

        Raises:
            StartError: it ended, or did not in time.
        """
        return self._until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close())

    def answers(self, *, verbatim: bool = True) -> Self:
        """Returns once a chat request through it is answered with 200; `verbatim`: and the provider's own bytes.

        Raises:
            StartError: it ended, or did not in time.
        """
        return self._until(lambda: _probe(self.port, verbatim=verbatim))

    def _until(self, attempt: Callable[[], None]) -> Self:
        end = time.monotonic() + START_TIMEOUT
        while True:
            try:
                attempt()
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    text = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                    raise StartError(f"{error}\n{text}") from error
                time.sleep(0.02)
            else:
                return self

    def pause(self) -> None:
        """Holds it, children included, so that it takes nothing of its core from the others."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal_all(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, children included."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        self._signal_all(signal.SIGKILL)
        self._process.wait()

    def _signal_all(self, number: int) -> None:
        # What has ended needs no signal.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _inherited() -> dict[str, str]:
    """Nothing of the caller's settings reaches a row; only what a process needs to start."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ}


def _probe(port: int, *, verbatim: bool) -> None:
    """One request, read to its end.

    Raises:
        OSError: no connection, or another answer.
    """
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(traffic.request(0))
        end = traffic.AnswerEnd()
        received = b""
        while not end.feed(data := connection.recv(65536)):
            received += data
            if not data:
                raise ConnectionError(f"broken off after {received[:200]!r}")
        if not end.ok or (verbatim and traffic.answer_body() not in received + data):
            raise ConnectionError(f"not the provider's answer: {(received + data)[:200]!r}")
