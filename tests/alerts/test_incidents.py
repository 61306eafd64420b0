"""Incidents, minute by minute: the alert that should fire does, when it should, and nothing else ever does."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.incidents import AFTER, INCIDENTS, LASTS, Incident
from tests.alerts.test_rules import RULES, WITH_PROMTOOL, promtool_says, rules
from tests.grafana.charts import ROOT, board, panels

pytestmark = WITH_PROMTOOL

EVERY = pytest.mark.parametrize("incident", INCIDENTS, ids=[one.title for one in INCIDENTS])
BEFORE = 3
"""Minutes of health that are looked at as well."""


def promtool(folder: Path, incident: Incident, asked: list[dict[str, Any]]) -> str:
    """What promtool says of these expressions; nothing where all are as expected."""
    series = [{"series": name, "values": values} for name, values in incident.series.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": asked}
    return promtool_says(folder, {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})


@EVERY
def test_what_should_fire_does_and_nothing_else(tmp_path: Path, incident: Incident) -> None:
    """At each minute, from before it to long after."""
    asked = [
        {
            "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{incident.past + minute}m",
            "exp_samples": [
                {"labels": f'{{alertname="{name}"}}', "value": 1}
                for name, (begin, end) in sorted(incident.fires.items())
                if begin <= minute <= end
            ],
        }
        for minute in range(-BEFORE, LASTS + AFTER)
    ]
    assert promtool(tmp_path, incident, asked) == ""


@EVERY
def test_the_panel_shows_it(tmp_path: Path, incident: Incident) -> None:
    """Its own query, as it stands when the dashboard is opened, has the figure of the incident."""
    name, number, value = incident.seen
    expression, minute = first_query(name, number), 5 if number else 1
    for variable in re.findall(r"\$\{\w+:regex\}", expression):
        expression = expression.replace(variable, ".*")
    expression = expression.replace("$__rate_interval", "4m").replace("$__range", "15m")
    asked = {
        "expr": f"round(max({expression}) or vector(0), 0.0001)",
        "eval_time": f"{incident.past + minute}m",
        "exp_samples": [{"labels": "{}", "value": value}],
    }
    assert promtool(tmp_path, incident, [asked]) == ""


def first_query(name: str, number: int) -> str:
    """Of a panel; of number 0 that of the mark."""
    if number == 0:
        (mark,) = [one for one in board(name)["annotations"]["list"] if one["name"] == "Restarts"]
        return str(mark["expr"])
    (panel,) = [one for one in panels(board(name)) if one["id"] == number]
    return str(panel["targets"][0]["expr"])


def test_each_rule_has_its_incident() -> None:
    """Those that have none are tested one by one."""
    named = {name for incident in INCIDENTS for name in incident.fires}
    assert {rule["alert"] for rule in rules()} - named == {
        "SidecarStallSurge",
        "SidecarClientsLeaving",
        "SidecarCacheBreakSurge",
        "SidecarRestarting",
    }


def test_the_table_is_that_of_the_document() -> None:
    """docs/alerts.md says of each incident which panel shows it first, and what fires when."""
    text = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
    lines = [
        line for line in text.partition("## Incidents")[2].partition("\n## ")[0].splitlines() if "|" in line
    ]
    assert lines[2:] == [row(incident) for incident in INCIDENTS]


def row(incident: Incident) -> str:
    """Its line of the table."""
    name, number, _ = incident.seen
    where = str(board(name)["title"]).removeprefix("Sidecar: ")
    titles = {one["id"]: one["title"] for one in panels(board(name))}
    seen = f"{titles[number]} ({where})" if number else "a purple mark on every panel"
    fires = ", ".join(f"{name} {begin}" for name, (begin, _) in incident.fires.items())
    return f"| {incident.title} | {seen} | {fires or 'nothing'} |"
