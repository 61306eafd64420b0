"""The real sidecar, as a child process: `python -m sidecar run`, composed, started, watched, drained.

Owns the child's environment and its life. It never reaches into the sidecar: what it knows of it, it reads
from the admin port.
"""

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar import settings
from sidecar.demo.unnamed import Unnamed
from sidecar.demo.watch import Watch
from sidecar.settings import Address

SESSION_IDLE = "4s"
"""How soon a quiet session ends here, so that `session` spans can be seen; `SIDECAR_SESSION_IDLE` wins."""

SHUTDOWN_TIMEOUT = "6s"
"""How long Ctrl-C may take if the collector does not answer; `SIDECAR_SHUTDOWN_TIMEOUT` wins."""

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0
"""Seconds for the sidecar to be ready, and to drain; the latter is above its own `SHUTDOWN_TIMEOUT`."""

MAX_LINE = 1024 * 1024
"""Bytes of one line of its output; what comes above is dropped."""

_LOOPBACK = "127.0.0.1,localhost,::1"
_LISTENING = b'"sidecar.listening"'


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


def compose(environ: Mapping[str, str], *, listen: str | None, upstream: str) -> Composed:
    """The settings of a sidecar for the demo. `listen` (a flag) and variables win over the demo's choice.

    Where nobody chose a port and the usual one is taken, any free one will do. `OTEL_*` stays as it is.

    Raises:
        SettingsError: `listen` or a variable is no valid setting.
    """
    child = {name: value for name, value in environ.items() if name != "SIDECAR_UPSTREAMS"}
    child["SIDECAR_UPSTREAM"] = upstream
    child["SIDECAR_LOG_FORMAT"] = "json"
    child.setdefault("SIDECAR_SESSION_IDLE", SESSION_IDLE)
    child.setdefault("SIDECAR_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT)
    for name in ("NO_PROXY", "no_proxy"):
        child[name] = ",".join(filter(None, (child.get(name), _LOOPBACK)))
    if listen is not None:
        child["SIDECAR_LISTEN"] = listen
    chosen = settings.load({}, child)
    remark = None
    if "SIDECAR_LISTEN" not in child or chosen.listen.port == 0:
        address = _free(chosen.listen)
        if chosen.listen.port not in (0, address.port):
            remark = f"{chosen.listen} is taken; listening on {address}"
        child["SIDECAR_LISTEN"] = str(address)
    if "SIDECAR_ADMIN_LISTEN" not in child or chosen.admin_listen.port == 0:
        child["SIDECAR_ADMIN_LISTEN"] = str(_free(chosen.admin_listen))
    final = settings.load({}, child)
    return Composed(child, final.listen.reachable, final.admin_listen.reachable, final.admin_token, remark)


class Child:
    """A running sidecar."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.unnamed = Unnamed()
        self._listening = False
        self._lines: deque[str] = deque(maxlen=50)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, composed: Composed, watch: Watch) -> "Child":
        """Starts the sidecar and returns once it serves. It says so itself: what answers at the admin port until
        then may be somebody else's sidecar, which was quicker to take the port.

        It gets a process group of its own, so that Ctrl-C reaches the demo only, which then drains it.

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

    def hurry(self) -> None:
        """A second signal: it exits at once."""
        if self._process.returncode is None:
            self._process.terminate()

    async def stop(self) -> None:
        """Drains it: running answers finish, sessions end, telemetry leaves. Kills it if that takes too long."""
        self.hurry()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
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
                self._lines.append(line.decode(errors="replace"))
        self._lines.extend(rest.decode(errors="replace").splitlines())


def _free(address: Address) -> Address:
    """The address if nobody listens there, else the same host with any free port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    for port in (address.port, 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, port))
            except OSError:
                continue
            return Address(address.host, probe.getsockname()[1])
    return address
