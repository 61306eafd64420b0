"""Alert rules: each has its page, its panel and its tests, names only what the code defines, and Grafana gets the same."""

import re
import subprocess
from typing import Any

import pytest
import yaml

from grafana.alerting import SECONDS, provisioned
from tests.alerts.incidents import INCIDENTS
from tests.grafana.charts import LABELS, ROOT, board, defined, panels
from tests.stack.build import at_hand

RULES = ROOT / "grafana/alerts/sidecar.rules.yaml"
TESTS = ROOT / "tests/alerts/sidecar.test.yaml"
OF_PROMETHEUS = {"job", "instance", "le"}


def groups() -> list[dict[str, Any]]:
    """The rules' groups."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return found


def rules() -> list[dict[str, Any]]:
    """All rules."""
    return [rule for group in groups() for rule in group["rules"]]


def each_rule() -> pytest.MarkDecorator:
    """A test for each."""
    return pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))


@each_rule()
def test_names_are_defined(rule: dict[str, Any]) -> None:
    """Each metric and each label is one that the code defines."""
    expression = rule["expr"]
    used = {*re.findall(r"\b((?:sidecar|gen_ai)_\w+?)(?=\{|\[|\)| [/>])", expression)} - LABELS
    assert used
    assert used <= defined()
    grouped = {one.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for one in by.split(",")}
    matched = {*re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression)}
    assert grouped | matched <= LABELS | OF_PROMETHEUS


@each_rule()
def test_a_rule_leads_to_its_page_and_its_panel(rule: dict[str, Any]) -> None:
    """A severity, a summary that names the service, a runbook that names the rule, a panel that exists."""
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "{{ $labels.job }}" in notes["summary"]
    page = (ROOT / notes["runbook"]).read_text(encoding="utf-8")
    assert rule["alert"] in page.partition("\n")[0].split()
    assert all(f"**{part}:**" in page for part in ("Means", "Look at", "Do"))
    chosen = "&var-job={{ $labels.job }}"
    if "by (job, sidecar_upstream" in rule["expr"]:
        chosen += "&var-sidecar_upstream={{ $labels.sidecar_upstream }}"
    assert re.sub(r".*viewPanel=\d+", "", notes["dashboard"]) == chosen
    assert _panels(notes["dashboard"]) <= _panels(page)


def test_no_page_is_to_spare() -> None:
    """Each page belongs to a rule."""
    pages = {f"docs/runbooks/{path.name}" for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert {rule["annotations"]["runbook"] for rule in rules()} == pages


def _panels(text: str) -> set[tuple[str, int]]:
    """The panels that a text links to, after checking that they exist."""
    found = {(name, int(number)) for name, number in re.findall(r"/d/sidecar-(\w+)\?viewPanel=(\d+)", text)}
    for name, number in found:
        assert number in {panel["id"] for panel in panels(board(name))}, (name, number)
    return found


def test_runbooks_call_panels_by_their_titles() -> None:
    """A link's text is its panel's title, or how that begins."""
    for path in (ROOT / "docs/runbooks").glob("*.md"):
        text = path.read_text(encoding="utf-8").replace("\n", " ")
        _panels(text)
        for said, name, number in re.findall(r"\[([^]]+)\]\(/d/sidecar-(\w+)\?viewPanel=(\d+)\)", text):
            (panel,) = [one for one in panels(board(name)) if one["id"] == int(number)]
            assert panel["title"].startswith(said), (path.name, said)


@each_rule()
def test_a_rule_is_seen_to_fire_and_to_be_silent(rule: dict[str, Any]) -> None:
    """In an incident, which is looked at minute by minute; or its unit tests expect both, and silence again."""
    if any(rule["alert"] in incident.fires for incident in INCIDENTS):
        return
    asked = [
        one
        for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
        for one in test["alert_rule_test"]
        if one["alertname"] == rule["alert"]
    ]
    story = [bool(one["exp_alerts"]) for one in asked]
    assert False in story[: story.index(True)]
    assert False in story[story.index(True) :]


@pytest.mark.skipif(
    at_hand("promtool") is None, reason="promtool is not at hand: `make stack-test` builds it"
)
def test_promtool_agrees() -> None:
    """The rules load, and every unit test holds."""
    promtool = str(at_hand("promtool"))
    daily = RULES.with_name("sidecar-daily.rules.yaml")
    for arguments in (
        ("check", "rules", "--lint=all", str(RULES), str(daily)),
        ("test", "rules", str(TESTS), str(TESTS.with_name("daily.test.yaml"))),
    ):
        done = subprocess.run((promtool, *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# Grafana's form


@each_rule()
def test_grafana_gets_the_same_rule(rule: dict[str, Any]) -> None:
    """Expression, time, labels and notes; it fires for every series that the expression gives, as Prometheus does."""
    every = [one for group in provisioned(groups())["groups"] for one in group["rules"]]
    (found,) = [one for one in every if one["title"] == rule["alert"]]
    asked, fires = found["data"]
    assert (asked["datasourceUid"], asked["model"]["expr"]) == ("prometheus", rule["expr"])
    assert asked["model"]["instant"] is True
    assert (fires["datasourceUid"], fires["model"]["type"]) == ("__expr__", "math")
    assert fires["model"]["expression"] == "is_number($A)"
    assert found["condition"] == fires["refId"]
    assert (found["for"], found["labels"]) == (rule.get("for", "0s"), rule["labels"])
    assert (found["noDataState"], found["execErrState"]) == ("OK", "Error")
    notes = found["annotations"]
    assert notes["runbook"] == rule["annotations"]["runbook"]
    assert (
        f"/d/{notes['__dashboardUid__']}?viewPanel={notes['__panelId__']}" in rule["annotations"]["dashboard"]
    )
    assert len(found["uid"]) <= 40
    windows = re.findall(r"\[(\d+)([smhd])\]", rule["expr"])
    assert all(asked["relativeTimeRange"]["from"] >= int(number) * SECONDS[unit] for number, unit in windows)


def test_grafana_ids_are_distinct() -> None:
    """A rule is known by its id."""
    ids = [one["uid"] for group in provisioned(groups())["groups"] for one in group["rules"]]
    assert len({*ids}) == len(ids) == len(rules())
