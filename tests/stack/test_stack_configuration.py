"""The configuration files themselves, asked of the programs they are for."""

import subprocess
from pathlib import Path

import pytest

from sidecar.testing import RunningSidecar
from tests.stack.app import demo
from tests.stack.backends import Stack
from tests.stack.build import binary
from tests.stack.programs import eventually

ROOT = Path(__file__).parents[2]


def say(*words: str | Path) -> str:
    """What a program says; it must end well."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_collector_takes_its_file() -> None:
    """`validate` says nothing."""
    assert say(binary("otelcol"), "validate", "--config", "otel-collector.yaml") == ""


def test_the_collector_warns_of_nothing(stack: Stack) -> None:
    """No deprecated name, no change of a default announced: at its start it has nothing to complain of."""
    lines = stack.collector.log.read_text().splitlines()
    started = next(number for number, line in enumerate(lines) if "Everything is ready" in line)
    assert [line for line in lines[:started] if "deprecat" in line or "\terror\t" in line] == []


def test_prometheus_takes_its_file() -> None:
    """`promtool check config`, and the rules where there are any."""
    assert "SUCCESS" in say(binary("promtool"), "check", "config", "deploy/prometheus/prometheus.yaml")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A second stack whose Collector samples, and keeps nothing of the rest."""
    running = Stack(tmp_path_factory.mktemp("sampled"), TRACES_PROCESSOR="tail_sampling", TRACES_PERCENT="0")
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_sampling_keeps_what_matters(sampled: Stack) -> None:
    """One variable switches it on: overlapping turns, sessions and conversations stay, what is ordinary goes."""
    service = "sampled"
    with demo(sampled, service, "s") as (counted, sidecar):
        sessions = len(counted.sessions)
        eventually(lambda: len(sampled.jaeger.traces(service, "session")) == sessions, timeout=60)
        eventually(lambda: len(sampled.jaeger.traces(service, "conversation")) == sessions + 1, timeout=60)
        kept = sampled.jaeger.requests(service)
        assert _overlapping(sidecar) == 5
        assert len(kept) == 5 + 1  # and the call that was answered 429
        calls = (
            f'sum(traces_span_metrics_calls_total{{service_name="{service}",span_kind="SPAN_KIND_SERVER"}})'
        )
        eventually(lambda: sampled.prometheus.number(calls) == counted.sent, timeout=60)


def _overlapping(sidecar: RunningSidecar) -> int:
    """Requests that met another turn, as their own wide lines say."""
    lines = [*sidecar.find_logs("sidecar.request.completed"), *sidecar.find_logs("sidecar.request.failed")]
    met = ("sidecar.request.overlaps", "sidecar.request.overlapped_by")
    return len([line for line in lines if any(line.get(name) for name in met)])
