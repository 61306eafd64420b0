"""Dashboards: they are what the code gives, name only what is defined, chart all of it, and say what they mean."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.names import series
from grafana.queries import RESULTS
from grafana.write import files
from tests.grafana import charts
from tests.grafana.charts import LABELS, METRICS, ROOT, defined

OF_PROMETHEUS = {"job", "instance", "le", "severity", "k8s_pod_name"}


@cache
def paths() -> tuple[Path, ...]:
    """Where the files are: to know that, all of them are made."""
    return tuple(files())


def dashboards(*, of_metrics: bool = True) -> list[dict[str, Any]]:
    """The dashboards as they stand in their files; those on traces (`test_explorer.py`) and on recorded
    sums only where they are wanted.
    """
    every = [json.loads(path.read_text(encoding="utf-8")) for path in paths() if path.suffix == ".json"]
    others = ("sidecar-explorer", "sidecar-value")
    return [one for one in every if not (of_metrics and one["uid"].startswith(others))]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that ask for something, in collapsed rows as well."""
    return [panel for panel in charts.panels(board) if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every PromQL expression of the dashboards."""
    return [target["expr"] for one in dashboards() for panel in panels(one) for target in panel["targets"]]


def test_the_files_are_what_the_code_gives() -> None:
    """`make dashboards` has nothing to do."""
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make dashboards`"


def used_in(expression: str) -> set[str]:
    """The series' names in an expression."""
    return {*re.findall(r"\b((?:sidecar|gen_ai|http|process)_\w+)(?=\{|\[)", expression)}


def test_every_metric_is_charted() -> None:
    """Whatever else the code counts stands on some panel."""
    charted = {name for expression in expressions() for name in used_in(expression)}
    forgotten = {
        metric.name
        for metric in METRICS
        if not {series(metric, part) for part in ("", "_bucket", "_sum", "_count")} & charted
    }
    assert forgotten == set()


@pytest.mark.parametrize("expression", expressions())
def test_names_are_defined(expression: str) -> None:
    """Each metric and each label of an expression is one that the code defines."""
    used = used_in(expression)
    assert used
    assert used <= defined()
    named = {*re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*[\"`]", expression)}
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        named |= {one.strip() for one in grouped.split(",")}
    assert named <= LABELS | OF_PROMETHEUS


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_panels_say_what_they_mean(board: dict[str, Any]) -> None:
    """Title, unit, description with the metric's name, words for no data, an id of its own, a templated source."""
    ids = [
        panel["id"] for panel in (*panels(board), *(one for one in board["panels"] if one["type"] == "row"))
    ]
    assert len({*ids}) == len(ids)
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert defaults["unit"]
        # In a table these words would stand in every cell that has nothing.
        assert bool(defaults.get("noValue")) == (panel["type"] != "table")
        assert "Metric" in panel["description"]
        told = re.findall(r"\b(?:sidecar|gen_ai|http|process)\.[\w.]*\w", panel["description"])
        assert told
        assert {*told} <= {metric.name for metric in METRICS}
        assert panel["datasource"]["uid"] == "${datasource}"
        assert not [
            t["expr"] for t in panel["targets"] if re.search(r"rate\([^]]*\[(?!\$__rate_interval)", t["expr"])
        ]


@pytest.mark.parametrize(
    "board",
    [one for one in dashboards(of_metrics=False) if "explorer" not in one["uid"]],
    ids=lambda one: str(one["uid"]),
)
def test_figures_are_told_whole(board: dict[str, Any]) -> None:
    """What is counted is no thousands: bars of different lengths would say the same."""
    kinds = {
        panel["fieldConfig"]["defaults"]["unit"]
        for panel in panels(board)
        if panel["type"] in ("stat", "bargauge")
    }
    assert "short" not in kinds


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda one: str(one["uid"]))
def test_nothing_overlaps(board: dict[str, Any]) -> None:
    """No two panels share a place, and none is wider than the page."""
    taken: set[tuple[int, int]] = set()
    for panel in [*board["panels"], *(one for one in panels(board) if one not in board["panels"])]:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda board: str(board["uid"]))
def test_panels_leave_no_gap(board: dict[str, Any]) -> None:
    """What stands side by side takes the whole width."""
    widths: Counter[tuple[int, int]] = Counter()
    for panel in panels(board):
        place = panel["gridPos"]
        widths[place["y"], place["h"]] += place["w"]
    assert {place: width for place, width in widths.items() if width != 24} == {}


def test_what_was_deleted_is_found_again() -> None:
    """What the queue's monitoring had: the document says which panel has it now, by its title."""
    text = (ROOT / "docs/dashboards.md").read_text(encoding="utf-8")
    section = text.partition("## What the queue's monitoring showed")[2].partition("\n## ")[0]
    titles = {panel["title"] for board in dashboards(of_metrics=False) for panel in panels(board)}
    titles |= {"Session explorer"}
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 11
    for _, question, answered, *_ in rows:
        named = {one.strip() for one in answered.split(";")}
        assert named <= titles, question


START = (901, 902, 903, 904, 905, 906, 907, 908, 910)


@pytest.mark.parametrize("uid", ["sidecar-sessions", "sidecar-traffic", "sidecar-streams"])
def test_a_way_in_begins_with_what_turns_red(uid: str) -> None:
    """The same row and table, each figure over the range (an instant one has no course), its steps told with a reason."""
    (board,) = [one for one in dashboards() if one["uid"] == uid]
    first = board["panels"][: len(START)]
    assert tuple(panel["id"] for panel in first) == START
    for panel in first[:-1]:
        assert panel["gridPos"]["y"] == 0
        assert not panel["targets"][0]["instant"]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert (len(steps) > 1) == ("Orange from" in panel["description"])
        assert (len(steps) > 1) == (panel["options"]["colorMode"] == "background")
        # A tile without a figure is grey: no traffic is not well.
        assert [one["color"] for one in steps[:2]] == (["#4b5058", "green"] if len(steps) > 1 else ["blue"])
    (link,) = [
        one["value"][0]
        for one in first[-1]["fieldConfig"]["overrides"][0]["properties"]
        if one["id"] == "links"
    ]
    assert link["url"].startswith(f"/d/{uid}?var-sidecar_upstream=${{__value.text:percentencode}}&")


OF_WHAT_IS_WRONG = re.compile(
    r"sidecar_(stream_stalls|retries|ratelimit_retry_after|anomalies|conversation_wait_unknown)_"
    r'|error_type!=""|sidecar_telemetry_state=~"rejected'
    r'|sidecar_(outcome=~"upstream_failed|result=~"rate_limited|result!="completed|outcome="upstream_rejected)'
)
"""What a query asks for that is zero where nothing is wrong."""

IN_SIGHT = {
    "Answers other than completed",
    "Bad answers by upstream",
    "Bad answers and client errors by model",
}
"""Those of them that are not hidden; docs/dashboards.md says why."""


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_what_is_flat_on_a_healthy_day_is_out_of_sight(board: dict[str, Any]) -> None:
    """In one collapsed row at the end, with nothing beside; but for what every way in begins with and what the document names."""
    *_, last = board["panels"]
    rows = [one for one in board["panels"] if one.get("collapsed")]
    assert [one["title"] for one in rows] == ["Nothing wrong here"]
    assert rows == [last]
    wrong = {
        panel["title"]
        for panel in panels(board)
        if all(OF_WHAT_IS_WRONG.search(target["expr"]) for target in panel["targets"])
        and panel["id"] not in START
    }
    hidden = {panel["title"] for panel in last["panels"]}
    assert wrong - IN_SIGHT == hidden - {"Would have timed out in the queue"}
    text = " ".join((ROOT / "docs/dashboards.md").read_text(encoding="utf-8").split())
    assert all(f"*{title}*" in text for title in IN_SIGHT)


COMPARING_BOTH = {110, 115, 120, 132, 165, 166}
"""Panels whose lines are an upstream's and something else's at once."""


def test_a_colour_means_the_same_everywhere() -> None:
    """A percentile's, an answer's, an upstream's; a legend that has it from something else would give another one."""
    meant: dict[str, str] = {}
    for board in dashboards(of_metrics=False):
        if "explorer" in board["uid"]:
            continue
        for panel in panels(board):
            if panel["type"] != "timeseries":
                continue
            assert panel["fieldConfig"]["defaults"]["color"]["mode"] == "palette-classic-by-name"
            colours = {
                one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
                for one in panel["fieldConfig"]["overrides"]
            }
            for pattern, colour in colours.items():
                assert meant.setdefault(pattern, colour) == colour, (pattern, panel["title"])
            for legend in (target["legendFormat"] for target in panel["targets"]):
                words = re.findall(r"\b(?:p50|median|p95|p99|average)\b", legend)
                assert all(legend.startswith(word) and f"/^{word}( |$)/" in colours for word in words), legend
                if "{{sidecar_upstream}}" in legend and panel["id"] not in COMPARING_BOTH:
                    assert legend in ("{{sidecar_upstream}}", "{{sidecar_result}} {{sidecar_upstream}}")
    found = {word: meant[f"/^{word}( |$)/"] for word in ("p50", "median", "p95", "p99")}
    assert found == {"p50": "blue", "median": "blue", "p95": "orange", "p99": "red"}


def test_outcomes_are_shown_by_upstream() -> None:
    """Each in the colour of its kind, whichever upstream's it is."""
    (panel,) = [one for one in charts.panels(charts.board("traffic")) if one["id"] == 111]
    (asked,) = panel["targets"]
    assert asked["legendFormat"] == "{{sidecar_result}} {{sidecar_upstream}}"
    assert "by (sidecar_result, sidecar_upstream)" in asked["expr"]
    patterns = [one["matcher"]["options"].strip("/") for one in panel["fieldConfig"]["overrides"]]
    for word in RESULTS:
        assert [one for one in patterns if re.search(one, f"{word} beta")] == [f"^{word}( |$)"]
        assert [one for one in patterns if re.search(one, f"{word} ")] == [f"^{word}( |$)"]


def test_no_panel_twice() -> None:
    """No expression stands on two panels, but for what each way in begins with."""
    asked: dict[str, str] = {}
    for board in dashboards():
        for panel in panels(board):
            if panel["id"] not in START:
                for target in panel["targets"]:
                    place = f"{board['uid']}: {panel['title']}"
                    other = asked.setdefault(target["expr"], place)
                    assert other == place, target["expr"]


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_the_linter_has_nothing_to_say(board: dict[str, Any]) -> None:
    """The rules of Grafana's dashboard linter that are about Prometheus: sources, jobs, instances, rates, units."""
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
        assert variables[name]["datasource"]["uid"] == "${datasource}"
    assert {one["refresh"] for one in variables.values() if one["type"] == "query"} == {2}
    for panel in panels(board):
        for target in panel["targets"]:
            expression = target["expr"]
            assert target["datasource"]["uid"] == "${datasource}"
            selectors = re.findall(r"(?<!\$)\{((?:[^{}$]|\$\{[^}]*\})*)\}", expression)
            assert selectors
            assert all("job=~`${job:regex}`" in one for one in selectors), expression
            assert all("instance=~`${instance:regex}`" in one for one in selectors), expression
            counters = re.findall(r"(\w+_total)\{(?:[^{}$]|\$\{[^}]*\})*\}(\[)?", expression)
            assert all(ranged for _, ranged in counters), expression


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda one: str(one["uid"]))
def test_variables_are_defined(board: dict[str, Any]) -> None:
    """Whatever a query names is there to choose, in the same dashboard, and what is there is named somewhere."""
    offered = {one["name"] for one in board["templating"]["list"]}
    text = json.dumps([board["panels"], board["templating"], board["annotations"]])
    used = {*re.findall(r"\$\{(?!__)(\w+)[:}]", text)}
    assert used == offered


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda one: str(one["uid"]))
def test_links_keep_time_and_variables(board: dict[str, Any]) -> None:
    """From each dashboard to all others."""
    (link,) = board["links"]
    assert (link["tags"], link["keepTime"], link["includeVars"]) == (["sidecar"], True, True)
    assert board["tags"] == ["sidecar"]


@pytest.mark.parametrize("board", dashboards(), ids=lambda one: str(one["uid"]))
def test_a_panel_says_what_it_cannot_be_narrowed_by(board: dict[str, Any]) -> None:
    """Where a choice changes nothing, or only a part, since the metric does not know what is chosen."""
    chosen = [one for one in board["templating"]["list"] if one["type"] == "query"]
    for panel in panels(board):
        for variable in chosen:
            heeds = [f"${{{variable['name']}:" in target["expr"] for target in panel["targets"]]
            kind = variable["label"].lower()
            expected = "" if all(heeds) else "Of every" if not any(heeds) else "In part of every"
            told = re.findall(
                rf"((?:Of|In part of) every) {kind}, whichever is chosen\.", panel["description"]
            )
            assert told == ([expected] if expected else []), panel["title"]


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda one: str(one["uid"]))
def test_a_click_in_a_table_keeps_what_is_chosen(board: dict[str, Any]) -> None:
    """All other variables, and the time: it changes what was clicked on and nothing else."""
    clicks = [
        found["value"][0]["url"]
        for panel in panels(board)
        for override in panel.get("fieldConfig", {}).get("overrides", ())
        for found in override["properties"]
        if found["id"] == "links"
    ]
    for url in clicks:
        (chosen,) = re.findall(r"var-(\w+)=", url)
        kept = [chosen, *re.findall(r"\$\{(\w+):queryparam\}", url)]
        assert sorted(kept) == sorted(one["name"] for one in board["templating"]["list"])
        assert url.endswith("&${__url_time_range}")


MOST_POINTS = 11_000
"""More than so many points of a series Prometheus refuses to give."""


@pytest.mark.parametrize("board", dashboards(of_metrics=False), ids=lambda one: str(one["uid"]))
def test_restarts_and_alerts_are_marked(board: dict[str, Any]) -> None:
    """On every dashboard, from the Prometheus that is chosen there, of the services that are; for the whole of its usual range."""
    marks = {one["name"]: one for one in board["annotations"]["list"]}
    assert {name: one["iconColor"] for name, one in marks.items()} == {"Restarts": "purple", "Alerts": "red"}
    (source,) = [one for one in board["templating"]["list"] if one["name"] == "datasource"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    ranges = {"now-1h": 3600, "now-30d": 30 * 86400}
    for mark in marks.values():
        assert mark["enable"]
        assert mark["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        selectors = re.findall(r"(?<!\$)\{((?:[^{}$]|\$\{[^}]*\})*)\}", mark["expr"])
        assert selectors
        assert all(re.search(r"job=~`[^`]*\$\{(job|service):\w+\}", one) for one in selectors)
        assert ranges[board["time"]["from"]] / int(mark["step"].removesuffix("s")) < MOST_POINTS


HOSTILE = ('a"b', "a'b", "{}", "a}b", ".*", "a\\", "$job", "(", "[", "a|b", "\n", "ä€")


def escaped(value: str) -> str:
    """`${name:regex}` as Grafana replaces it: what means something in a regular expression gets a backslash."""
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_breaks_no_query(value: str) -> None:
    """Whatever a variable holds stays inside its matcher: a raw string, which a backtick alone could end."""
    for expression in expressions():
        replaced = re.sub(r"\$\{\w+:regex\}", lambda _: escaped(value), expression)
        assert _outside_strings(replaced) == _outside_strings(expression)


def _outside_strings(expression: str) -> str:
    return re.sub(r'`[^`]*`|"(?:[^"\\]|\\.)*"', "", expression)


def test_the_page_for_those_who_pay_reads_what_is_recorded() -> None:
    """Each of its series is one that a rule records, each rule is read, and rules name what the code defines."""
    (board,) = [one for one in dashboards(of_metrics=False) if one["uid"] == "sidecar-value"]
    text = (ROOT / "grafana/alerts/sidecar-daily.rules.yaml").read_text(encoding="utf-8")
    (group,) = yaml.safe_load(text)["groups"]
    recorded = {rule["record"] for rule in group["rules"]}
    asked = " ".join(target["expr"] for panel in panels(board) for target in panel["targets"])
    assert {*re.findall(r"sidecar:\w+:\w+", asked)} == recorded
    for rule in group["rules"]:
        assert used_in(rule["expr"])
        assert used_in(rule["expr"]) <= defined()
