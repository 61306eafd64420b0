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
        r"\{ [^{}]+ \} \| select\((?:span\.[\w.]+(?:, )?)+\)",
        query.replace("${session:", "$session:").replace("doublequote}", ""),
    ), query


def test_jaegers_tags_are_defined() -> None:
    """Likewise."""
    for part in explorer.JAEGER:
        if not isinstance(part, Row) and part.tags:
            tags = {pair.partition("=")[0] for pair in part.tags.split(" ")}
            assert tags <= ATTRIBUTES | {"error"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: str(one["uid"]))
def test_panels_say_what_they_mean(board: dict[str, Any]) -> None:
    """Title, description with what it reads, words for no data, a data source that can be chosen, an id of its own."""
    ids = [panel["id"] for panel in board["panels"]]
    assert len({*ids}) == len(ids)
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert re.search(r"(Spans|Logs): ", panel["description"])
        assert panel["fieldConfig"]["defaults"]["noValue"].startswith("no ")
        assert re.fullmatch(r"\$\{(tempo|jaeger|loki)\}", panel["datasource"]["uid"])


@pytest.mark.parametrize(
    "value", ['a"b', "{}", "}", ".*", "a|b", "' || true || '", '" || true || "', "$session", "ä€"]
)
def test_a_hostile_id_stays_a_text(value: str) -> None:
    """Quotes in it are escaped, and nothing else means anything inside of a quoted text."""
    for query in (*QUERIES, explorer._LOGS):
        replaced = query.replace("${session:doublequote}", quoted(value))
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', replaced)
        assert outside == re.sub(r'"(?:[^"\\]|\\.)*"', '""', query.replace("${session:doublequote}", '""'))


def test_an_id_in_a_table_chooses_its_session() -> None:
    """A link to the same dashboard that keeps the time."""
    tables = [panel for panel in BOARDS[0]["panels"] if panel["type"] == "table"]
    (override,) = tables[0]["fieldConfig"]["overrides"]
    assert override["matcher"] == {"id": "byName", "options": "session.id"}
    (link,) = override["properties"][0]["value"]
    assert link["url"] == "/d/sidecar-explorer?var-session=${__value.text:percentencode}&${__url_time_range}"


def test_every_query_is_in_the_file() -> None:
    """What is tested here is what is loaded."""
    text = json.dumps(BOARDS[0])
    assert all(json.dumps(query)[1:-1] in text for query in QUERIES)
