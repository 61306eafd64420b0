"""The production server, started as `sidecar run` starts it: a process of its own, real ports, real signals.

Owns the process and what it writes on stderr. It reaches into nothing: tests of the relay know it only by
its ports and signals.
"""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from sidecar.testing.sink import OtlpSink

START_TIMEOUT = 120.0
"""Seconds for a process to become ready."""

TIMEOUT = 60.0
"""Seconds that a test waits for something to happen before it fails."""

_SOON, _AT_MOST, _SHARE = 0.01, 0.1, 0.1
"""Seconds between two looks at a condition, first and at most, and their share of the wait so far: a look mostly costs a request."""

_LAST_WORDS = 5.0
"""Seconds that a process which has ended is listened to: who else holds its stderr may never end."""

_INHERITED = (
    "PATH",
    "HOME",
    "PYTHONPATH",
    "SYSTEMROOT",
    "TMPDIR",
    "COVERAGE_PROCESS_START",
    "COVERAGE_PROCESS_CONFIG",
)


_PORTS = range(15_000, 32_000)
"""Below those that systems give away by themselves (Linux from 32,768 on, others from 49,152)."""


def free_port() -> int:
    """A port of loopback that nobody listens on, for a program that has to be told one, or for nobody.

    Nobody gets it by chance meanwhile, as happens with one that the system has just chosen.

    Raises:
        OSError: a hundred ports are taken.
    """
    tries = 100
    while True:
        port = secrets.choice(_PORTS)
        tries -= 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if not tries:
                    raise
            else:
                return port


class RunningSidecar:
    """A running sidecar. Use it as a context manager.

    `settings` are the names of the settings without `SIDECAR_` (`{"IDLE_TIMEOUT": "1s"}`), `environ` is what
    else stands in its environment; nothing but what a process needs to start is inherited. With a `sink`
    everything is exported to it. Ports are chosen by the system unless a setting names them. `launcher` is a
    command that ends by executing its arguments (`("prlimit", "--nofile=256")`): the process is started by it.
    `stderr` is a descriptor that it writes to in place of a pipe to here; nothing is known then of what it says:
    `launch` it, with ports that you know.
    """

    def __init__(
        self,
        *,
        upstream: str | None = None,
        sink: OtlpSink | None = None,
        settings: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        arguments: Sequence[str] = ("run",),
        launcher: Sequence[str] = (),
        stderr: int = subprocess.PIPE,
    ) -> None:
        self._environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        named = {"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"}
        if upstream is not None:
            named["UPSTREAM"] = upstream
        named |= dict(settings or {})
        self._environ |= {f"SIDECAR_{name}": value for name, value in named.items()}
        self._environ |= sink.environ() if sink else {}
        self._environ |= dict(environ or {})
        self._command = (*launcher, sys.executable, "-m", "sidecar", *arguments)
        self._stderr = stderr
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._logs: list[dict[str, Any]] = []
        self.port = 0
        self.admin_port = 0

    # --- life

    def start(self) -> Self:
        """Starts the process and waits until it is ready.

        Raises:
            AssertionError: it ended, or was not ready in time; what it wrote is told.
        """
        self.launch()
        started = self.wait_log("sidecar.listening", timeout=START_TIMEOUT)
        self.port = _port(started["data"])
        self.admin_port = _port(started["admin"])
        self.wait_until(lambda: self.admin("GET", "/readiness")[0] == 200, timeout=START_TIMEOUT)
        return self

    def launch(self) -> Self:
        """Starts the process without waiting for anything."""
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            self._command,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, name="sidecar-stderr", daemon=True)
        self._reader.start()
        return self

    def stop(self, *, timeout: float = TIMEOUT) -> int:
        """Asks it to stop (SIGTERM), unless it has ended, and gives its exit code.

        Raises:
            AssertionError: it did not end in time (it is killed then).
        """
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait(timeout=timeout)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._child().send_signal(number)

    def wait(self, *, timeout: float = TIMEOUT) -> int:
        """Waits until it has ended, and gives its exit code.

        Raises:
            AssertionError: it did not end in time (it is killed then).
        """
        process = self._child()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self._tail()}") from None
        self._clean_up()
        return code

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._clean_up()

    def _clean_up(self) -> None:
        if self._reader is not None:
            self._reader.join(_LAST_WORDS)

    def _child(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise AssertionError("not started")
        return self._process

    @property
    def running(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child().pid

    def _ended(self) -> str:
        """That it has ended, for a failure's text."""
        return f"it ended with {self._child().poll()}" if self._process else "it was not started"

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.stop()
        self._clean_up()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    # --- ports

    @property
    def url(self) -> str:
        """Where apps reach it, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def admin(self, method: str, path: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """One request to the admin port: the status, and the body (decoded if it is JSON, else text).

        Raises:
            OSError: the port does not answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=TIMEOUT)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
            return answer.status, json.loads(text) if is_json else text
        finally:
            connection.close()

    def stats(self) -> Any:
        """What `GET /stats` says."""
        status, body = self.admin("GET", "/stats")
        if status != 200:
            raise AssertionError(f"/stats: {status} {body}")
        return body

    def wait_until(self, condition: Callable[[], object], *, timeout: float = TIMEOUT) -> None:
        """Returns once `condition` holds, asking again and again; a refused connection counts as no.

        Raises:
            AssertionError: it did not hold in time, or the process ended.
        """
        begun = time.monotonic()
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            if not self.running:
                raise AssertionError(f"{self._ended()}; stderr:\n{self._tail()}")
            waited = time.monotonic() - begun
            if waited > timeout:
                raise AssertionError(f"not within {timeout} s; stderr:\n{self._tail()}")
            time.sleep(min(max(waited * _SHARE, _SOON), _AT_MOST))

    # --- stderr

    def _read(self) -> None:
        stream = self._child().stderr
        if stream is None:
            return
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    record = _json_object(line)
                    if record is not None:
                        self._logs.append(record)
                    self._changed.notify_all()

    @property
    def stderr(self) -> str:
        """Everything it has written on stderr."""
        with self._changed:
            return "\n".join(self._lines)

    def _tail(self) -> str:
        """The end of what it has written, for a failure's text."""
        with self._changed:
            return "\n".join(line[:400] for line in self._lines[-12:])

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log lines that are JSON objects, in order."""
        with self._changed:
            return list(self._logs)

    def find_logs(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The log lines of an event whose fields have these values."""
        return [
            line
            for line in self.logs
            if line.get("event") == event and all(line.get(key) == value for key, value in fields.items())
        ]

    def wait_log(self, event: str, *, timeout: float = TIMEOUT, **fields: object) -> dict[str, Any]:
        """The first log line of an event whose fields have these values, waited for.

        Raises:
            AssertionError: none came in time, or the process ended before.
        """
        end = time.monotonic() + timeout
        ending = False
        with self._changed:
            while not (found := self.find_logs(event, **fields)):
                now = time.monotonic()
                if not self.running:
                    if not ending:
                        ending, end = True, min(end, now + _LAST_WORDS)
                    if not (self._reader and self._reader.is_alive()) or now > end:
                        raise AssertionError(
                            f"{self._ended()} and no {event} before; stderr:\n{self._tail()}"
                        )
                elif now > end:
                    raise AssertionError(f"no {event} within {timeout} s; stderr:\n{self._tail()}")
                self._changed.wait(0.05)
        return found[0]


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
