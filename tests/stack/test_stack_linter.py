"""Grafana's own dashboard linter on the dashboards, where its binary is at hand.

Its rules about Prometheus are held by checks of our own as well (`tests/grafana`), which run everywhere.
"""

import subprocess
from pathlib import Path

import pytest

from tests.stack.build import at_hand

DASHBOARDS = [
    path
    for path in sorted((Path(__file__).parents[2] / "grafana/dashboards").glob("*.json"))
    if not path.stem.startswith(("explorer", "value"))
]
"""Those that ask Prometheus for what instances tell: the linter knows no other data source, and wants both labels."""


@pytest.mark.skipif(
    at_hand("dashboard-linter") is None,
    reason="dashboard-linter: not run. There is no binary: put it on PATH, or name it in STACK_DASHBOARD_LINTER",
)
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: str(path.stem))
def test_the_linter(path: Path) -> None:
    """It finds no error."""
    command = (str(at_hand("dashboard-linter")), "lint", str(path))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
