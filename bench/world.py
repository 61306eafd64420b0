"""What stands around every proxy in a run: the provider and three kinds of collector.

Owns these servers from the run's start to its end, all on the load's cores. It starts no proxy and measures
nothing.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from bench import machine, nginx
from bench.processes import Running
from bench.rows import World
from sidecar.testing import free_port

_COLLECTOR = """\
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  debug:
    verbosity: basic
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
    metrics: {{receivers: [otlp], exporters: [debug]}}
    logs: {{receivers: [otlp], exporters: [debug]}}
"""


@contextlib.contextmanager
def made(folder: Path) -> Iterator[tuple[World, str]]:
    """The servers, and a sentence on what the live collector is."""
    proxy, rest = machine.cores()
    with contextlib.ExitStack() as stack:
        streams = _own_provider(folder, rest, stack)
        unary = streams
        if machine.program("nginx"):
            port = free_port()
            unary = _nginx(nginx.upstream(folder / "upstream", port), port, rest, stack)
        live, said = _live(folder, rest, stack, streams)
        world = World(
            folder=folder,
            unary=unary,
            streams=streams,
            live=live,
            dead=stack.enter_context(_dead()),
            hanging=stack.enter_context(_hanging()),
            cores=proxy,
        )
        yield world, said


def _own_provider(folder: Path, cores: set[int], stack: contextlib.ExitStack) -> str:
    port = free_port()
    command = [sys.executable, "-m", "bench.upstream", str(port)]
    stack.enter_context(Running(command, port, folder / "upstream.log", cores)).ready()
    return f"127.0.0.1:{port}"


def _nginx(conf: Path, port: int, cores: set[int], stack: contextlib.ExitStack) -> str:
    command = [machine.program("nginx") or "nginx", "-c", str(conf), "-p", str(conf.parent)]
    stack.enter_context(Running(command, port, conf.with_name("log"), cores)).ready()
    return f"127.0.0.1:{port}"


def _live(folder: Path, cores: set[int], stack: contextlib.ExitStack, provider: str) -> tuple[str, str]:
    port = free_port()
    binary = machine.program("otelcol")
    if binary is not None:
        conf = folder / "otelcol.yaml"
        conf.write_text(_COLLECTOR.format(port=port), encoding="utf-8")
        command = [binary, f"--config={conf}"]
        stack.enter_context(
            Running(command, port, folder / "otelcol.log", cores, {"GOMAXPROCS": "1"})
        ).ready()
        return f"127.0.0.1:{port}", "an OpenTelemetry Collector (otlp receiver, debug exporter)"
    if machine.program("nginx"):
        address = _nginx(nginx.collector(folder / "collector", port), port, cores, stack)
        return address, "a stand-in: nginx that answers every export with 200 (no Collector was found)"
    return provider, "a stand-in: the provider's own small server (neither a Collector nor nginx was found)"


@contextlib.contextmanager
def _dead() -> Iterator[str]:
    """A port that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{one.getsockname()[1]}"


@contextlib.contextmanager
def _hanging() -> Iterator[str]:
    """A port that accepts, and never reads nor answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        thread = threading.Thread(target=accept, name="hanging-collector", daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for one in held:
        one.close()
