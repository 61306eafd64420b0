"""The demo's traffic alone, through a sidecar that somebody else runs, as containers have it."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar import cli
from sidecar.testing import OtlpSink, RunningSidecar, free_port

COMMAND = [sys.executable, "-m", "sidecar", "demo"]
LIMIT = 240.0


@contextmanager
def demo(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_through_another_sidecar() -> None:
    """One round: every call came through, under ids of this run; one line tells the round."""
    port = free_port()
    with (
        OtlpSink() as sink,
        RunningSidecar(
            sink=sink,
            settings={"UPSTREAMS": f"demo=http://127.0.0.1:{port}"},
            environ={"OTEL_METRIC_EXPORT_INTERVAL": "60000"},  # spans are looked at
        ) as sidecar,
    ):
        url = f"{sidecar.url}/demo/v1"
        done = subprocess.run(
            [*COMMAND, "--once", "--through", url, "--provider", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["settled"] == 28)
        stats = sidecar.stats()
    run = done.stdout.split()[4].removesuffix("-1")
    assert done.stdout == f"round 1: 8 sessions {run}-1 through {url}\n"
    assert stats["requests"]["outcomes"]["completed"] == 25
    assert stats["sessions"]["out_of_order"] == 3
    sessions = {str(span.attributes["session.id"]) for span in sink.spans if span.kind == "SERVER"}
    assert len(sessions) == 8
    assert sum(session.endswith(f"-{run}-1") for session in sessions) == 7


def test_until_told_to_end() -> None:
    """Without `--once` it goes on until SIGTERM, and ends with 0; meanwhile the provider serves."""
    port = free_port()
    gone = f"http://127.0.0.1:{free_port()}/v1"
    with demo("--through", gone, "--provider", f"127.0.0.1:{port}") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert cli.main(["health", f"http://127.0.0.1:{port}/v1/models"], {}) == 0
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=LIMIT)
    assert line.startswith("round 1: 8 sessions ")
    assert "broken off: support-chat, notebook, trip-planner, coding-agent, impatient, rush-hour" in line
    assert (process.returncode, rest) == (0, "")


def test_a_provider_port_that_is_taken() -> None:
    """One line, which names the argument, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with demo("--provider", address) as process:
            said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert said == f"cannot listen on {address} (--provider): the port is in use\n"


def test_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    """An address or a URL that is none is a bad setting; a port for a sidecar that there is not is bad usage."""
    assert cli.main(["demo", "--provider", "nowhere"], {}) == 2
    assert "--provider=nowhere: host:port" in capfd.readouterr().err
    assert cli.main(["demo", "--through", "nowhere"], {}) == 2
    assert "--through=nowhere: http:// or https:// and a host" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--through", "http://127.0.0.1:9/v1", "--listen", "127.0.0.1:0"], {})
    assert ended.value.code == 2
    assert "with --through there is none" in capfd.readouterr().err
