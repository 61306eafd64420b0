"""The session explorer: what its panels ask of traces names what the code defines, and a hostile id breaks nothing."""

import json
import re
from typing import Any

import pytest

from grafana import explorer
from grafana.panels import Row
from sidecar.telemetry import names

BOARDS = (explorer.explorer(), explorer.explorer_jaeger())
ATTRIBUTES = {value for value in vars(names).values() if isinstance(value, str)}
QUERIES = [part.traceql for part in explorer.TEMPO if not isinstance(part, Row)]


def quoted(value: str) -> str:
    """`${name:doublequote}` as Grafana replaces it."""
    return '"' + value.replace('"', '\\"') + '"'


@pytest.mark.parametrize("query", QUERIES)
def test_attributes_are_defined(query: str) -> None:
    """Each attribute is one that the code puts on spans; brackets are closed."""
    named = {*re.findall(r"span\.([\w.]+)", query)}
    assert named
    assert named <= ATTRIBUTES
    assert re.fullmatch(
        r"\{ [^{}]+ \} \| select\((?:span\.[\w.]+(?:, )?)+\) with \(most_recent=true\)",
        re.sub(r"\$\{(\w+):doublequote\}", r"\1", query),
    ), query


def test_both_open_the_replay_of_a_session() -> None:
    """By its root's name and the session's id, first of all that is said of the session."""
    (spans,) = [part for part in explorer.TEMPO if part.title == "Its replay"]
    assert isinstance(spans, explorer.Spans)
    assert f'name = "replay session" && span.session.id = {explorer.SESSION} }}' in spans.query
    (search,) = [part for part in explorer.JAEGER if part.title == "Its replay"]
    assert (search.operation, search.tags) == ("replay session", (f"session.id={explorer.SESSION}",))
    for board in BOARDS:
        titles = [panel["title"] for panel in board["panels"] if panel["type"] != "text"]
        assert titles[titles.index("The session: $session") + 1] == "Its replay"


def test_jaegers_tags_are_defined() -> None:
    """Likewise."""
    for part in explorer.JAEGER:
        for tags in part.tags:
            assert {pair.partition("=")[0] for pair in tags.split(" ")} <= ATTRIBUTES


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: str(one["uid"]))
def test_panels_say_what_they_mean(board: dict[str, Any]) -> None:
    """Title, description with what it reads, words for no data, a data source that can be chosen, an id of its own."""
    ids = [panel["id"] for panel in board["panels"]]
    assert len({*ids}) == len(ids)
    for panel in board["panels"]:
        if panel["type"] in ("row", "text"):
            continue
        assert panel["title"]
        assert re.search(r"(Spans|Logs): ", panel["description"])
        # In a table these words would stand in every cell that has nothing: there they stand beside it.
        says = panel["fieldConfig"]["defaults"].get("noValue", "")
        assert says.startswith("no ") if panel["type"] == "logs" else not says
        assert re.fullmatch(r"\$\{(tempo|jaeger|loki)\}", panel["datasource"]["uid"])


@pytest.mark.parametrize(
    "value", ['a"b', "{}", "}", ".*", "a|b", "' || true || '", '" || true || "', "$session", "ä€"]
)
def test_a_hostile_id_stays_a_text(value: str) -> None:
    """Quotes in it are escaped, and nothing else means anything inside of a quoted text."""
    for query in (*QUERIES, explorer._LOGS, explorer._LINES_OVER_TIME, explorer._ENDED, explorer._RUNNING):
        replaced = re.sub(r"\$\{\w+:doublequote\}", lambda _: quoted(value), query)
        plain = re.sub(r"\$\{\w+:doublequote\}", '""', query)
        assert re.sub(r'"(?:[^"\\]|\\.)*"', '""', replaced) == re.sub(r'"(?:[^"\\]|\\.)*"', '""', plain)


def test_an_id_in_a_table_chooses_its_session() -> None:
    """A link to the same dashboard."""
    tables = [panel for panel in BOARDS[0]["panels"] if panel["type"] == "table"]
    chosen = [one for one in tables[0]["fieldConfig"]["overrides"] if one["matcher"]["options"] == "Session"]
    (link,) = chosen[0]["properties"][0]["value"]
    assert link["url"].startswith("/d/sidecar-explorer?var-session=${__value.text:percentencode}&")


def test_columns_are_in_the_order_of_reading() -> None:
    """Each attribute under a title of its own, numbers as numbers; what says nothing is hidden; all spans of a trace."""
    for panel in explorer.TEMPO:
        if isinstance(panel, Row) or panel.kind != "table":
            continue
        (made,) = [one for one in BOARDS[0]["panels"] if one["id"] == panel.number]
        assert made["targets"][0]["spss"] >= 100
        convert, organise, sort = (one["options"] for one in made["transformations"])
        order = sorted(organise["indexByName"], key=organise["indexByName"].__getitem__)
        assert order == ["Start time", *panel.columns, "Duration", "Span ID"]
        titles = [explorer.TITLES[name][0] for name in panel.columns]
        assert len({*titles}) == len(titles)
        assert organise["renameByName"] == dict(zip(panel.columns, titles, strict=True))
        assert {one["targetField"] for one in convert["conversions"]} == {
            name for name in panel.columns if explorer.TITLES[name][1]
        }
        (by,) = sort["sort"]
        assert by["field"] in ("#", "Start time")


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: str(one["uid"]))
def test_marks_have_an_axis_and_nothing_needs_metrics(board: dict[str, Any]) -> None:
    """A panel against time shows them; whoever has no Prometheus misses nothing else."""
    assert [one["id"] for one in board["panels"] if one["type"] == "timeseries"]
    assert "prometheus" not in json.dumps(board["panels"])
    assert "${datasource" not in json.dumps([one.get("targets") for one in board["panels"]])


def test_only_our_own_are_asked_for() -> None:
    """Spans and lines of the sidecar: others carry a session's id as well."""
    assert all('instrumentation:name = "sidecar"' in query for query in QUERIES)
    lines = [
        target["expr"]
        for board in BOARDS
        for panel in board["panels"]
        if panel.get("datasource", {}).get("type") == "loki"
        for target in panel["targets"]
    ]
    ours = '{service_name=~${service:doublequote}} | scope_name = "sidecar" |'
    assert [line for line in lines if not line.removeprefix("sum (count_over_time(").startswith(ours)] == []


def test_every_query_is_in_the_file() -> None:
    """What is tested here is what is loaded."""
    text = json.dumps(BOARDS[0])
    assert all(json.dumps(query)[1:-1] in text for query in QUERIES)
