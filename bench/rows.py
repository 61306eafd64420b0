"""The rows: every proxy that is compared, and how it is started.

Owns the table of rows and their commands; each gets a fresh process per round. It measures nothing.
"""

import contextlib
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import machine, nginx, traffic
from bench.processes import Running
from sidecar.testing import free_port


@dataclass(frozen=True, slots=True)
class World:
    """What all rows share: upstreams and collectors, as `host:port`, and where to write."""

    folder: Path
    unary: str
    streams: str
    live: str
    dead: str
    hanging: str
    cores: set[int]


Start = Callable[[World, Path], Running]


@dataclass(frozen=True, slots=True)
class Row:
    """One proxy: its short name, what it says in the table, and how it starts."""

    name: str
    title: str
    start: Start
    needs: str | None = None
    """The program without which it cannot be measured."""
    stream_path: str = traffic.STREAM_PATH
    verbatim: bool = True
    """Whether the provider's answer comes through byte for byte."""
    sessions: int = 0
    """How many sessions are there already when the load comes."""

    @property
    def missing(self) -> bool:
        """Whether it cannot be measured here."""
        return self.needs is not None and machine.program(self.needs) is None


def _nginx(world: World, folder: Path) -> Running:
    port = free_port()
    conf = nginx.proxy(folder, port, world.unary, world.streams)
    command = [machine.program("nginx") or "nginx", "-c", str(conf), "-p", str(folder)]
    return Running(command, port, folder / "log", world.cores)


def _aiohttp(loop: str) -> Start:
    def start(world: World, folder: Path) -> Running:
        port = free_port()
        upstreams = (f"http://{world.unary}", f"http://{world.streams}")
        command = [sys.executable, "-m", "bench.passthrough", str(port), *upstreams, loop]
        return Running(command, port, folder / "log", world.cores)

    return start


def _floor(world: World, folder: Path) -> Running:
    port = free_port()
    command = [sys.executable, "-m", "bench.floor", str(port), world.unary, world.streams]
    return Running(command, port, folder / "log", world.cores)


_LITELLM = """\
model_list:
  - model_name: {unary_model}
    litellm_params: {{model: openai/{unary_model}, api_base: "http://{unary}/v1", api_key: none}}
  - model_name: {stream_model}
    litellm_params: {{model: openai/{stream_model}, api_base: "http://{streams}/v1", api_key: none}}
"""


def _litellm(world: World, folder: Path) -> Running:
    port = free_port()
    conf = folder / "litellm.yaml"
    models = {"unary_model": traffic.UNARY_MODEL, "stream_model": traffic.STREAM_MODEL}
    conf.write_text(_LITELLM.format(unary=world.unary, streams=world.streams, **models), encoding="utf-8")
    options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    command = [machine.program("litellm") or "litellm", "--config", str(conf), *options]
    # It would fetch a table of prices otherwise, and it does not start without a key.
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": traffic.KEY}
    return Running(command, port, folder / "log", world.cores, environ)


TELEMETRY = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    "OTEL_SERVICE_NAME": "bench",
}
"""All traces and metrics. The metrics leave more often than they do by default, so that every round pays for them."""


UNREAD = {"OTEL_TRACES_SAMPLER": "always_off", "OTEL_METRICS_EXPORTER": "none"}
"""Nobody reads: no trace is sampled and no metric leaves, though a collector is there."""


def sidecar_environ(world: World, port: int, admin: int, telemetry: Mapping[str, str]) -> dict[str, str]:
    """The environment of a sidecar between the world's upstreams."""
    return {
        "SIDECAR_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "SIDECAR_UPSTREAM": f"http://{world.unary}",
        "SIDECAR_UPSTREAMS": f"streams=http://{world.streams}",
        "SIDECAR_SHUTDOWN_TIMEOUT": "1s",
        **telemetry,
    }


def _sidecar(collector: Callable[[World], str] | None, **more: str) -> Start:
    """A sidecar that exports to the collector, with `more` variables."""

    def start(world: World, folder: Path) -> Running:
        telemetry: dict[str, str] = {}
        if collector is not None:
            telemetry = TELEMETRY | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector(world)}"}
        return _sidecar_process(world, folder, "sidecar", telemetry | more)

    return start


def profiled(world: World, folder: Path, file: Path) -> Running:
    """The sidecar with full telemetry and a sampler, which writes to `file`."""
    telemetry = TELEMETRY | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{world.live}"}
    return _sidecar_process(world, folder, "bench.profiled", telemetry | {"BENCH_PROFILE": str(file)})


def _sidecar_process(world: World, folder: Path, module: str, environ: Mapping[str, str]) -> Running:
    port, admin = free_port(), free_port()
    return Running(
        [sys.executable, "-m", module, "run"],
        port,
        folder / "log",
        world.cores,
        sidecar_environ(world, port, admin, environ),
        admin=admin,
    )


CROWD = 100_000
"""Live sessions of the row that has many."""

_AT_ONCE = 16


def populate(port: int, sessions: int) -> None:
    """Has so many sessions ask once each, some at a time.

    Raises:
        ValueError: one of them had no answer with 200.
    """
    with contextlib.ExitStack() as stack:
        clients = [
            (stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)), traffic.AnswerEnd())
            for _ in range(_AT_ONCE)
        ]
        for first in range(0, sessions, _AT_ONCE):
            asked = clients[: sessions - first]
            for number, (connection, _) in enumerate(asked):
                connection.sendall(traffic.request(traffic.SESSIONS + first + number))
            for connection, end in asked:
                while not end.feed(connection.recv(65536)):
                    pass
    if not all(end.ok for _, end in clients):
        raise ValueError(f"not all of {sessions} sessions were answered with 200")


ROWS = (
    Row("nginx", "nginx `proxy_pass`", _nginx, "nginx"),
    Row("floor", "a relay that only passes bytes on", _floor),
    Row("aiohttp", "aiohttp pass-through", _aiohttp("asyncio")),
    Row("aiohttp-uvloop", "aiohttp pass-through on uvloop", _aiohttp("uvloop")),
    Row("off", "sidecar, telemetry off", _sidecar(None)),
    Row("unread", "sidecar, telemetry that nobody reads", _sidecar(lambda world: world.live, **UNREAD)),
    Row("full", "sidecar, full telemetry", _sidecar(lambda world: world.live)),
    Row(
        "logs",
        "sidecar, full telemetry and logs by OTLP",
        _sidecar(lambda world: world.live, OTEL_LOGS_EXPORTER="otlp"),
    ),
    Row(
        "crowded",
        f"sidecar, full telemetry and {CROWD:,} live sessions",
        _sidecar(lambda world: world.live, SIDECAR_SESSION_LIMIT=str(2 * CROWD)),
        sessions=CROWD,
    ),
    Row("dead", "sidecar, collector dead", _sidecar(lambda world: world.dead)),
    Row("hanging", "sidecar, collector hanging", _sidecar(lambda world: world.hanging)),
    Row("litellm", "LiteLLM proxy", _litellm, "litellm", traffic.UNARY_PATH, verbatim=False),
)
