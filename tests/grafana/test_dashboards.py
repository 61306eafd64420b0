"""Dashboards and alert rules: they are what the code gives, name only what is defined, and say what they mean."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.names import label, series
from grafana.write import files
from sidecar.telemetry import names
from sidecar.telemetry.metric_store import Metric, MetricKind

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"

METRICS = [one for one in vars(names).values() if isinstance(one, Metric)]
LABELS = {label(attribute) for metric in METRICS for attribute in metric.attributes}
OF_PROMETHEUS = {"job", "instance", "le", "severity"}


def defined() -> set[str]:
    """Every series' name that the code's metrics have in Prometheus."""
    found = set()
    for metric in METRICS:
        name = series(metric)
        parts = ("_bucket", "_sum", "_count") if metric.kind is MetricKind.HISTOGRAM else ("",)
        found |= {name + part for part in parts}
    return found


def dashboards() -> list[dict[str, Any]]:
    """The dashboards as they stand in their files."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in files()]


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    loaded = yaml.safe_load((ROOT / "grafana/alerts/sidecar.rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Every PromQL expression of dashboards and rules."""
    shown = [target["expr"] for one in dashboards() for panel in one["panels"] for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in rules())]


def test_the_files_are_what_the_code_gives() -> None:
    """`make dashboards` has nothing to do."""
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make dashboards`"


@pytest.mark.parametrize("expression", expressions())
def test_names_are_defined(expression: str) -> None:
    """Each metric and each label of an expression is one that the code defines."""
    used = {*re.findall(r"\b((?:sidecar|gen_ai|http|process)_\w+)(?=\{|\[)", expression)}
    assert used
    assert used <= defined()
    named = {*re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression)}
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        named |= {one.strip() for one in grouped.split(",")}
    assert named <= LABELS | OF_PROMETHEUS


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_panels_say_what_they_mean(board: dict[str, Any]) -> None:
    """Title, unit, description with the metric's name, words for no data, an id of its own, a templated source."""
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert defaults["unit"]
        assert defaults["noValue"]
        assert "Metric" in panel["description"]
        told = re.findall(r"\b(?:sidecar|gen_ai|http)\.[\w.]*\w", panel["description"])
        assert told
        assert {*told} <= {metric.name for metric in METRICS}
        assert panel["datasource"]["uid"] == "${datasource}"
        assert not [
            t["expr"] for t in panel["targets"] if re.search(r"rate\([^]]*\[(?!\$__rate_interval)", t["expr"])
        ]


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_nothing_overlaps(board: dict[str, Any]) -> None:
    """No two panels share a place, and none is wider than the page."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_every_rule_has_a_page_and_tests() -> None:
    """A runbook each and none to spare; tests in which it fires and in which it stays silent."""
    tests = yaml.safe_load((ROOT / "tests/alerts/sidecar.test.yaml").read_text(encoding="utf-8"))["tests"]
    asked = [one for test in tests for one in test["alert_rule_test"]]
    pages = {f"docs/runbooks/{path.name}" for path in RUNBOOKS.glob("*.md")}
    assert {rule["annotations"]["runbook"] for rule in rules()} == pages
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        expected = [bool(one["exp_alerts"]) for one in asked if one["alertname"] == rule["alert"]]
        assert {*expected} == {True, False}, rule["alert"]
        page = (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")
        assert page.startswith(f"# {rule['alert']}\n")
