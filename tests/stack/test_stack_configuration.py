"""The configuration files themselves, asked of the programs they are for."""

import subprocess
from pathlib import Path

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
    eventually(lambda: "Everything is ready" in stack.collector.log.read_text())
    start, *_ = stack.collector.log.read_text().partition("Everything is ready")
    assert [line for line in start.splitlines() if "deprecat" in line or "\terror\t" in line] == []


def test_prometheus_takes_its_file() -> None:
    """`promtool check config`, and the rules where there are any."""
    assert "SUCCESS" in say(binary("promtool"), "check", "config", "deploy/prometheus/prometheus.yaml")


def test_the_alert_rules() -> None:
    """Prometheus takes them, and each fires, stays silent and resolves when its tests say so."""
    assert "SUCCESS" in say(binary("promtool"), "check", "rules", "grafana/alerts/sidecar.rules.yaml")
    assert "SUCCESS" in say(binary("promtool"), "test", "rules", "tests/alerts/sidecar.test.yaml")
