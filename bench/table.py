"""The results as tables: in the terminal, and between the markers of the README.

Owns words and forms; every figure comes from the results, none is typed here. It measures nothing. Called by the
command line and by the test that holds the README against bench/results.json.
"""

import re
from collections.abc import Callable, Sequence

from bench.profile import Profile
from bench.results import Results, bars

BEGIN, END = "<!-- make bench writes this -->", "<!-- until here -->"

Cell = Callable[[Results, str], str]


def _number(value: float | None, form: str = "{:.0f}") -> str:
    return "-" if value is None else form.format(value)


def _with_ratio(figure: str, form: str) -> Cell:
    def cell(results: Results, row: str) -> str:
        ratio = results.ratio(row, figure)
        told = _number(results.median(row, figure), form)
        return told if ratio is None else f"{told} ({ratio:.2f})"

    return cell


def _plain(figure: str, form: str) -> Cell:
    return lambda results, row: _number(results.median(row, figure), form)


def _added(figure: str) -> Cell:
    def cell(results: Results, row: str) -> str:
        added = results.difference(row, figure, "direct")
        return "-" if added is None else f"{added / 1000:.2f}"

    return cell


COLUMNS: tuple[tuple[str, str, Cell], ...] = (
    ("unary", "requests/s", _with_ratio("requests_per_s", "{:.0f}")),
    ("unary", "CPU per request, us", _with_ratio("cpu_us_per_request", "{:.0f}")),
    ("streams", "CPU per stream event, us", _with_ratio("cpu_us_per_event", "{:.1f}")),
    ("latency", "added p50, ms", _added("p50_us")),
    ("latency", "added p99, ms", _added("p99_us")),
    ("memory", "idle, MB", _plain("idle_mb", "{:.0f}")),
    ("memory", "under load, MB", _plain("load_mb", "{:.0f}")),
    ("memory", "1,000 streams, MB", _plain("streams_mb", "{:.0f}")),
)


def figures(results: Results) -> list[list[str]]:
    """The main table; the first row is its head."""
    wanted = [one for one in COLUMNS if one[0] in results.settings["columns"]]
    rows = [row for row in results.titles if row != "direct"]
    return [
        ["", *(title for _, title, _ in wanted)],
        *([results.titles[row], *(cell(results, row) for _, _, cell in wanted)] for row in rows),
    ]


def profile(found: Profile) -> list[list[str]]:
    """Where the time of one request or event goes."""
    return [
        ["room", f"CPU per {found.unit}, us", "share"],
        *(
            [name, f"{value:.1f}", f"{value / found.total:.0%}"]
            for name, value in found.rooms.items()
            if value >= found.total / 200
        ),
        ["all", f"{found.total:.1f}", "100%"],
        ["of it garbage collection", f"{found.garbage:.1f}", f"{found.garbage / found.total:.0%}"],
    ]


def functions(found: Profile) -> list[list[str]]:
    """The functions with the most time of their own."""
    return [
        ["function", "us", "share"],
        *(
            [name, f"{value:.1f}", f"{value / found.total:.1%}"]
            for name, value in found.functions.items()
            if value >= found.total / 200
        ),
    ]


def verdicts(results: Results) -> list[list[str]]:
    """The bars, and whether they are held."""
    return [["bar", "found", ""], *([bar.says, bar.found, bar.verdict] for bar in bars(results))]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join('---' for _ in rows[0])} |", *lines[1:]])


def terminal(rows: Sequence[Sequence[str]]) -> str:
    """A table for a screen."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def place(results: Results) -> str:
    """The machine and the day, in a sentence."""
    of = results.machine
    return (
        f"Measured on {results.date}: {of['cpu']}, {of['cores']} cores, {of['memory']}, "
        f"{of['system']}, Python {of['python']}, nginx {of['nginx']}; {results.settings['rounds']} rounds."
    )


def block(results: Results) -> str:
    """What stands in the README between the markers, these included."""
    parts = [BEGIN, markdown(figures(results)), markdown(verdicts(results)), place(results), END]
    return "\n\n".join(parts)


def put(document: str, made: str) -> str:
    """The document with a new block.

    Raises:
        ValueError: it has not exactly one pair of markers.
    """
    found = re.findall(f"{re.escape(BEGIN)}.*?{re.escape(END)}", document, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks between markers, where one is needed")
    return document.replace(found[0], made)
