"""Alert rules: each has its page, its panel and its tests, names only what the code defines, and Grafana gets the same."""

import re
import subprocess
from pathlib import Path
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


WITH_PROMTOOL = pytest.mark.skipif(
    at_hand("promtool") is None, reason="promtool is not at hand: `make stack-test` builds it"
)


def promtool_says(folder: Path, document: dict[str, Any]) -> str:
    """What it has to say against the tests of this document; nothing where all of them hold."""
    written = folder / "tests.yaml"
    written.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = (str(at_hand("promtool")), "test", "rules", str(written))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


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
    used = {*re.findall(r"\b((?:sidecar|gen_ai|process)_\w+?)(?=\{|\[|\)| [/>])", expression)} - LABELS
    assert used
    assert used <= defined()
    grouped = {one.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for one in by.split(",")}
    matched = {*re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression)}
    assert grouped | matched <= LABELS | OF_PROMETHEUS


RUNBOOKS = "{{ $externalLabels.sidecar_runbooks }}"
"""Where the pages are, set once for all rules; nothing where it is not set."""


def page_of(rule: dict[str, Any]) -> str:
    """The path of a rule's runbook in this repository."""
    link = rule["annotations"]["runbook"]
    assert link.startswith(RUNBOOKS)
    return str(link.removeprefix(RUNBOOKS))


@each_rule()
def test_a_rule_leads_to_its_page_and_its_panel(rule: dict[str, Any]) -> None:
    """A severity, a summary that names the service, a runbook that names the rule, a panel that exists."""
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "{{ $labels.job }}" in notes["summary"]
    page = (ROOT / page_of(rule)).read_text(encoding="utf-8")
    assert rule["alert"] in page.partition("\n")[0].split()
    assert all(f"**{part}:**" in page for part in ("Means", "Look at", "Do"))
    chosen = "&var-job={{ $labels.job }}"
    if "by (job, sidecar_upstream" in rule["expr"]:
        chosen += "&var-sidecar_upstream={{ $labels.sidecar_upstream }}"
    assert re.sub(r".*viewPanel=\d+", "", notes["dashboard"]) == chosen
    assert notes["dashboard"].startswith("{{ $externalLabels.sidecar_grafana }}/d/")
    assert _panels(notes["dashboard"]) <= _panels(page)


def test_no_page_is_to_spare() -> None:
    """Each page belongs to a rule."""
    pages = {f"docs/runbooks/{path.name}" for path in (ROOT / "docs/runbooks").glob("*.md")}
    assert {page_of(rule) for rule in rules()} == pages


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


@WITH_PROMTOOL
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


FIRST, ANSWER, PIECE = (
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "gen_ai_client_operation_duration_seconds",
    "gen_ai_client_operation_time_per_output_chunk_seconds",
)


def _latency(
    name: str, usual: str, slow: str, *, also: str = "", **labels: str
) -> dict[str, tuple[int, int]]:
    told = "".join(f', {label}="{value}"' for label, value in labels.items())
    series = {
        f'{name}_bucket{{le="{usual}"{told}}}': (100, 0),
        f'{name}_bucket{{le="{slow}"{told}}}': (100, 100),
        f'{name}_bucket{{le="+Inf"{told}}}': (100, 100),
        f"{name}_count{{{told.removeprefix(', ')}}}": (100, 100),
    }
    return series | ({also: (100, 100)} if also else {})


COMPARED: dict[str, dict[str, tuple[int, int]]] = {
    "SidecarClientErrors": {
        'sidecar_results_total{sidecar_result="completed"}': (90, 10),
        'sidecar_results_total{sidecar_result="client_error"}': (10, 90),
    },
    "SidecarFirstByteLatency": _latency(FIRST, "0.64", "7.2"),
    "SidecarSlowAnswers": _latency(ANSWER, "3.6", "81.92", sidecar_streaming="false"),
    "SidecarSlowStreams": _latency(
        PIECE, "0.064", "1.024", also="sidecar_stream_backpressure_seconds_count{}"
    ),
    "SidecarOverlapSurge": {
        "sidecar_conversation_concurrency_count{}": (100, 100),
        "sidecar_conversation_overlaps_total{}": (10, 90),
    },
    "SidecarOutOfOrderSurge": {
        "sidecar_turns_total{}": (100, 100),
        "sidecar_responses_out_of_order_total{}": (10, 90),
    },
    "SidecarRaceSurge": {
        'sidecar_turns_related_total{sidecar_turn_relation="continues"}': (90, 10),
        'sidecar_turns_related_total{sidecar_turn_relation="races"}': (10, 90),
    },
}
"""By each rule that compares with the past: series, how much they grow in a minute when all is usual, and when it is not."""

PASTS: dict[str, tuple[int | None, int | None]] = {
    "usual yesterday": (None, 0),
    "usual yesterday, bad a week ago": (1, 0),
    "bad yesterday, usual a week ago": (0, 1),
    "usual a week ago, idle yesterday": (0, None),
    "bad a week ago, idle yesterday": (1, None),
    "new": (None, None),
}
"""What each was a week and a day before (0: usual, 1: bad, None: idle) the day on which all of them are bad."""

WORSE = {"usual yesterday", "usual yesterday, bad a week ago", "usual a week ago, idle yesterday"}


def _weeks(growth: tuple[int, int], past: tuple[int | None, int | None]) -> str:
    """A counter, minute by minute: five hours, the same hours six days later, and those of the day after."""
    total, parts = 0, []
    for state, minutes in ((past[0], 300), (None, 8340), (past[1], 300), (None, 1140), (1, 300)):
        grows = 0 if state is None else growth[state]
        parts.append(f"{total}+{grows}x{minutes - 1}")
        total += grows * minutes
    return " ".join(parts)


def test_every_rule_that_compares_looks_back_a_week() -> None:
    """Those that ask what a day before was ask what a week before was, where the day had nothing."""
    comparing = {rule["alert"] for rule in rules() if "offset 1d" in rule["expr"]}
    assert comparing == {*COMPARED} == {rule["alert"] for rule in rules() if "offset 1w" in rule["expr"]}


@WITH_PROMTOOL
def test_after_an_idle_day_the_week_before_is_what_is_usual(tmp_path: Path) -> None:
    """All is compared with the day before, and where that was idle with the same hour a week before."""
    series = [
        {
            "series": one.replace("{", f'{{job="{job}", sidecar_upstream="default", ', 1),
            "values": _weeks(growth, past),
        }
        for told in COMPARED.values()
        for one, growth in told.items()
        for job, past in PASTS.items()
    ]
    asked = [
        {
            "expr": f'group by (job) (ALERTS{{alertstate="firing", alertname="{name}"}})',
            "eval_time": f"{7 * 24 + 4}h",
            "exp_samples": [
                {"labels": f'{{job="{job}"}}', "value": 1}
                # Of client errors none are usual until a day has shown it.
                for job in sorted(WORSE | ({"new"} if name == "SidecarClientErrors" else set()))
            ],
        }
        for name in COMPARED
    ]
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1h",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}],
    }
    assert promtool_says(tmp_path, document) == ""


SHOWN: dict[int, list[tuple[float, ...]]] = {
    501: [(0.99,)],
    502: [(0.0,)],
    503: [(3600,)],
    504: [(288,)],
    505: [(36 / 288,)],
    510: [(3600,), ()],
    511: [(288,), (), (36,)],
    512: [(144000,)],
    513: [(0.4,)],
}
"""By panel of the page for those who pay: of each query its values, 40 hours into the days of `daily.test.yaml`."""


@WITH_PROMTOOL
def test_those_who_pay_see_the_days_as_they_were(tmp_path: Path) -> None:
    """Each panel's own queries, to four places."""
    days = yaml.safe_load(TESTS.with_name("daily.test.yaml").read_text(encoding="utf-8"))
    test, _ = days["tests"]
    days["tests"] = [test]
    test["promql_expr_test"] = [
        {
            "expr": f"round(sum({target['expr'].replace('${job:regex}', '.*')}), 0.0001)",
            "eval_time": "40h",
            "exp_samples": [{"labels": "{}", "value": round(value, 4)} for value in values],
        }
        for panel in panels(board("value"))
        for target, values in zip(panel["targets"], SHOWN[panel["id"]], strict=True)
    ]
    days["rule_files"] = [str(RULES.with_name("sidecar-daily.rules.yaml"))]
    assert promtool_says(tmp_path, days) == ""


@WITH_PROMTOOL
def test_a_service_of_one_bad_day_weighs_one_day(tmp_path: Path) -> None:
    """Of a month in which one service answered 1000 a day, and another one 1000 on its only day, all of them bad."""
    (panel,) = [one for one in panels(board("value")) if one["id"] == 501]
    expression = panel["targets"][0]["expr"].replace("${job:regex}", ".*")
    days = {("answers", "old"): "1000x59", ("bad", "old"): "0x59"}
    days |= {(what, "new"): "_x58 1000x1" for what in ("answers", "bad")}
    test = {
        "interval": "12h",
        "input_series": [
            {"series": f'sidecar:{what}:increase1d{{job="{job}"}}', "values": values}
            for (what, job), values in days.items()
        ],
        "promql_expr_test": [
            {
                "expr": f"round({expression}, 0.0001)",
                "eval_time": "708h",
                "exp_samples": [{"labels": "{}", "value": round(1 - 2 / 62, 4)}],
            }
        ],
    }
    assert promtool_says(tmp_path, {"tests": [test]}) == ""


@WITH_PROMTOOL
@pytest.mark.parametrize("name", ["value", "traffic", "explorer", "explorer-jaeger"])
def test_a_restart_and_an_alert_are_marked(tmp_path: Path, name: str) -> None:
    """Once each, in a service with a namespace: what began, and what fired for five minutes, and not what was there before."""
    marks = {one["name"]: one for one in board(name)["annotations"]["list"]}
    minutes = int(marks["Restarts"]["step"].removesuffix("s")) // 60
    chosen = r"\$\{\w+:(?:regex|raw)\}"
    told = 'job="production/app"'
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'sidecar_requests_active{{{told}, instance="1"}}', "values": "0x200"},
            {"series": f'sidecar_requests_active{{{told}, instance="2"}}', "values": "_x95 0x100"},
            {
                "series": f'ALERTS{{alertname="SidecarGone", alertstate="firing", {told}}}',
                "values": "_x95 1x4 stale",
            },
        ],
        "promql_expr_test": [
            {
                "expr": f"count({re.sub(chosen, '.*' if name in ('value', 'traffic') else 'app', mark['expr'])})",
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if seen else [],
            }
            for mark in marks.values()
            for minute, seen in ((90, False), (95 if minutes == 1 else 100, True), (100 + 4 * minutes, False))
        ],
    }
    assert promtool_says(tmp_path, {"tests": [test]}) == ""


FIGURES: dict[str, tuple[str, int, dict[str, int], float]] = {
    "four of ten input tokens come from the cache": (
        "traffic",
        135,
        {
            'gen_ai_client_token_usage_sum{gen_ai_token_type="input"}': 1000,
            'sidecar_tokens_details_total{sidecar_token_detail="cache_read"}': 400,
        },
        0.4,
    ),
    "likewise under the latest conventions": (
        "traffic",
        135,
        {
            "gen_ai_client_inference_usage_input_tokens_total": 1000,
            "gen_ai_client_inference_usage_cache_read_input_tokens_total": 400,
        },
        0.4,
    ),
    "of ten answers of a model two are bad and five the client's mistakes, and one was refused": (
        "traffic",
        151,
        {
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="completed"}': 2,
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="upstream_rejected", error_type="503"}': 1,
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="upstream_rejected", error_type="429"}': 1,
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="upstream_rejected", error_type="404"}': 3,
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="upstream_rejected", error_type="422"}': 2,
            'sidecar_requests_total{gen_ai_request_model="m", sidecar_outcome="refused", error_type="overload"}': 1,
        },
        0.2,
    ),
    "clients leave one stream of ten, and whole answers as well": (
        "streams",
        203,
        {
            "sidecar_stream_backpressure_seconds_count": 10,
            'sidecar_requests_total{sidecar_outcome="client_left", sidecar_outcome_phase="mid_stream", '
            'sidecar_streaming="true"}': 1,
            'sidecar_requests_total{sidecar_outcome="client_left", sidecar_outcome_phase="mid_stream", '
            'sidecar_streaming="false"}': 8,
        },
        0.1,
    ),
}
"""By what happens: a panel by its dashboard and number, series that grow so much each minute, and what it has to say."""


@WITH_PROMTOOL
@pytest.mark.parametrize("name, number, told, value", FIGURES.values(), ids=FIGURES)
def test_a_panel_says_what_is(
    tmp_path: Path, name: str, number: int, told: dict[str, int], value: float
) -> None:
    """Its first query, by a rate over four minutes, or what grew in these."""
    (panel,) = [one for one in panels(board(name)) if one["id"] == number]
    expression = re.sub(r"\$\{\w+:regex\}", ".*", panel["targets"][0]["expr"])
    expression = re.sub(r"\$__(rate_interval|range)", "4m", expression)
    test = {
        "interval": "1m",
        "input_series": [{"series": one, "values": f"0+{growth}x10"} for one, growth in told.items()],
        "promql_expr_test": [
            {
                "expr": f"round(sum({expression}), 0.0001)",
                "eval_time": "8m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
        ],
    }
    assert promtool_says(tmp_path, {"tests": [test]}) == ""


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
    assert notes["runbook"] == page_of(rule)
    assert notes["dashboard"].startswith("/d/")
    assert "externalLabels" not in str(notes)
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
