"""No figure of the benchmark is typed by hand: the documents show what bench/results.json gives."""

import re
from pathlib import Path

import pytest

from bench import results, rounds, rows, table, traffic, unary

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmark.md"


@pytest.mark.parametrize(
    "path,render", [(README, table.summary), (PAGE, table.details)], ids=["readme", "page"]
)
def test_documents_show_the_results(path: Path, render: table.Render) -> None:
    """The block between the markers is what the file of results gives; `make bench` writes both."""
    text = path.read_text(encoding="utf-8")
    assert table.put(text, render(results.load())) == text


def test_results_have_every_row_or_say_why_not() -> None:
    """Each row was measured in every round, or is not installed, or a remark tells what failed."""
    found = results.load()
    assert [*found.titles] == [row.name for row in rows.ROWS]
    for row in rows.ROWS:
        if row.name in found.missing:
            assert any(remark.startswith(row.title) for remark in found.remarks)
        else:
            assert len(found.rounds[row.name]) == found.settings["rounds"]


def test_the_rows_are_explained() -> None:
    """The page names each row, in the order of the table."""
    table_of_rows = PAGE.read_text(encoding="utf-8").partition("| row |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table_of_rows, re.MULTILINE) == [row.name for row in rows.ROWS]


def test_the_amounts_are_those_of_the_plan() -> None:
    """How much is asked, as the page tells it."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    plan, body = rounds.FULL, traffic.request(0).partition(b"\r\n\r\n")
    each = 1000 // plan.stream_every_ms
    assert f"{unary.CONNECTIONS} connections, {plan.unary_seconds} s after {plan.warm_seconds} s" in text
    assert f"{plan.streams} streams, each with {each} events a second" in text
    assert f"in {plan.stream_seconds:.0f} s by the events that came" in text
    assert f"with {plan.many_streams:,} streams open" in text
    assert f"in {traffic.SESSIONS} sessions" in text
    assert f"some {round(len(body[2]), -2)} bytes of JSON and {body[0].count(b': ')} header fields" in text
    assert f"about {len(traffic.answer_body()) / 1000:.1f} kB of JSON" in text
    assert f"every {int(rows.TELEMETRY['OTEL_METRIC_EXPORT_INTERVAL']) // 1000} s instead of every 10" in text
    assert {3: "three", 5: "five"}[plan.rounds] + " rounds" in text
