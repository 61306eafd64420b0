"""A sidecar as a child process: `python -m sidecar run`, started, watched, drained.

Owns the child's environment and its life. It never reaches into the sidecar: what it knows of it, it reads
from the admin port.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.core.shown import shown
from sidecar.picture.unnamed import Unnamed
from sidecar.picture.watch import Watch
from sidecar.settings import Address

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
"""Seconds for the sidecar to be ready, and to drain; the latter is above its own `SHUTDOWN_TIMEOUT`."""

MAX_LINE = 1024 * 1024
"""Bytes of one line of its output; what comes above is dropped."""

_LISTENING = b'"sidecar.listening"'
_STOPPED = b'"sidecar.stopped"'


class ChildError(Exception):
    """The sidecar did not start, or ended by itself; `lines` are the last it said."""

    def __init__(self, message: str, lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Composed:
    """The environment of the child, where it can be reached, and what to say about its port."""

    environ: Mapping[str, str]
    listen: Address
    admin: Address
    token: str | None
    remark: str | None


class Child:
    """A running sidecar."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.unnamed = Unnamed()
        self._listening = False
        self._lines: deque[str] = deque(maxlen=50)
        self._trouble: str | None = None
        self._stopped = b""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, composed: Composed, watch: Watch) -> "Child":
        """Starts the sidecar and returns once it serves. It says so itself: what answers at the admin port until
        then may be somebody else's sidecar, which was quicker to take the port.

        It gets a process group of its own, so that Ctrl-C reaches its parent only, which then drains it.

        Raises:
            ChildError: it ended instead, or was not ready in time.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sidecar",
            "run",
            env=composed.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
        )
        child = cls(process)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not (child._listening and await watch.ready()):
                    await child.alive()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await child.stop()
            message = f"the sidecar was not ready within {START_TIMEOUT:g} s"
            raise ChildError(message, child.lines) from None
        except asyncio.CancelledError:
            await child.stop()
            raise
        return child

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines it wrote."""
        return tuple(self._lines)

    async def alive(self) -> None:
        """Nothing, while it runs.

        Raises:
            ChildError: it has ended.
        """
        if self._process.returncode is not None:
            await self._reading
            raise ChildError(f"the sidecar ended with exit code {self._process.returncode}", self.lines)

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.returncode

    @property
    def trouble(self) -> str | None:
        """The last warning or error that it logged, requests left out."""
        return self._trouble

    @property
    def stopped(self) -> bytes:
        """The line with which it said what it had seen; empty until then."""
        return self._stopped

    def hurry(self) -> None:
        """A second signal: it exits at once."""
        if self._process.returncode is None:
            self._process.terminate()

    async def stop(self, seconds: float = STOP_TIMEOUT) -> None:
        """Drains it: running answers finish, sessions end, telemetry leaves. Kills it if that takes too long."""
        self.hurry()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        """Keeps its output flowing, listens to it, and keeps the last of it in mind."""
        output = self._process.stdout
        rest = b""
        while output is not None and (piece := await output.read(65536)):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[:MAX_LINE]
            for line in lines:
                self.unnamed.hear(line)
                self._listening = self._listening or _LISTENING in line
                self._stopped = line if _STOPPED in line else self._stopped
                self._lines.append(line.decode(errors="replace"))
                self._trouble = _trouble(line) or self._trouble
        self._lines.extend(rest.decode(errors="replace").splitlines())


def _trouble(line: bytes) -> str | None:
    """A line of the log as a person reads it, if it is a warning or an error that is no request's."""
    if b'"level":"warning"' not in line and b'"level":"error"' not in line:
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or str(said.get("event", "")).startswith(("sidecar.request.", "gen_ai.")):
        return None
    if str(said.get("message", "")).startswith("telemetry export is off"):
        return None  # the figures say so
    about = next((str(said[name]) for name in ("message", "sidecar.message", "reason") if name in said), "")
    return shown(f"{said.get('event', '')}: {about}".rstrip(": "), 160)
