"""The results as tables: in the terminal, and between the markers of the documents.

Owns words and forms; every figure comes from the results, none is typed here. It measures nothing.
"""

import re
from collections.abc import Callable, Collection, Sequence

from bench.results import DIRECT, MEASURED, Profile, Results, bars

BEGIN, END = "<!-- written by make bench -->", "<!-- until here -->"

Cell = Callable[[Results, str], str]
Render = Callable[[Results], str]


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
        added = results.difference(row, figure, DIRECT)
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


IN_SHORT = ("nginx", "floor", "aiohttp", "off", "full")
"""The rows that the README shows."""


def figures(results: Results, rows: Collection[str] | None = None) -> list[list[str]]:
    """The main table, of all rows or of some; the first row is its head."""
    wanted = [one for one in COLUMNS if one[0] in results.settings["columns"]]
    table = [["", *(title for _, title, _ in wanted)]]
    for row, title in results.titles.items():
        if rows is not None and row not in rows:
            continue
        cells = [cell(results, row) for _, _, cell in wanted]
        if row in results.missing:
            cells = ["not installed", *("-" for _ in cells[1:])]
        table.append([title, *cells])
    return table


SPREADS: tuple[tuple[str, str, str, float], ...] = (
    ("requests/s", "requests_per_s", "{:.0f}", 1),
    ("share of its core", "cpu_share", "{:.2f}", 1),
    ("CPU per request, us", "cpu_us_per_request", "{:.0f}", 1),
    ("CPU per stream event, us", "cpu_us_per_event", "{:.1f}", 1),
    ("p50, ms", "p50_us", "{:.2f}", 1000),
    ("p99, ms", "p99_us", "{:.2f}", 1000),
)


def spreads(results: Results) -> list[list[str]]:
    """The smallest and the largest figure of all rounds, for every row that was measured."""
    table = [["smallest to largest", *(title for title, _, _, _ in SPREADS)]]
    for row in results.rounds:
        cells = []
        for _, figure, form, per in SPREADS:
            values = [value / per for value in results.values(row, figure)]
            cells.append(f"{form.format(min(values))} to {form.format(max(values))}" if values else "-")
        table.append([results.titles.get(row, "no proxy"), *cells])
    return table


def ledger(results: Results) -> list[list[str]]:
    """What became of the spans of the last round, for every row that had any."""
    states = ("created", "exported", "queued", "dropped", "failed", "unknown", "not_sampled")
    table = [["spans of the last round", *(state.replace("_", " ") for state in states)]]
    for row, rounds in results.rounds.items():
        last = rounds[-1] if rounds else {}
        if last.get("traces_created"):
            table.append(
                [results.titles[row], *(f"{last.get(f'traces_{state}', 0):.0f}" for state in states)]
            )
    return table


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
    """The machine, the day and the collector, in sentences."""
    of, plan = results.machine, results.settings
    virtual = " (virtual)" if of["virtual"] == "yes" else ""
    return (
        f"Measured on {results.date}: {of['cpu']}{virtual}, {of['cores']} cores, {of['memory']}, {of['system']}, "
        f"Python {of['python']}, aiohttp {of['aiohttp']}, uvloop {of['uvloop']}, nginx {of['nginx']}; "
        f"medians of {plan['rounds']} rounds. The live collector was {results.collector}."
    )


MOST_OF_A_CORE, MOST_EVENTS, LATE_MS = 0.9, 0.98, 1.0


def doubts(results: Results) -> list[str]:
    """What stood in the way of good figures, in sentences."""
    told = []
    shares = {row: results.median(row, "cpu_share") for row in results.titles}
    if poor := [
        f"{results.titles[row]} {share:.2f}" for row, share in shares.items() if _below(share, MOST_OF_A_CORE)
    ]:
        told.append(
            "At full load these had less than their core, because others ran there or the load's core was the limit, so "
            f"their requests/s are too low: {', '.join(poor)}."
        )
    wanted = results.settings["streams"] * 1000 / results.settings["stream_every_ms"]
    events = {row: results.median(row, "events_per_s") for row in results.titles}
    if slow := [
        f"{results.titles[row]} {rate:.0f}"
        for row, rate in events.items()
        if _below(rate, MOST_EVENTS * wanted)
    ]:
        told.append(f"Of {wanted:.0f} events/s these passed fewer: {', '.join(slow)}.")
    late = results.median(DIRECT, "late_p99_us")
    if late is not None and late / 1000 > LATE_MS:
        told.append(
            f"The load's core was busy: one request in a hundred left {late / 1000:.1f} ms late or more, without a proxy "
            "too. p99 says little on this machine."
        )
    return told


def most_streams(results: Results) -> list[str]:
    """How many streams there were at once, and what that took, in a sentence; none where it was not measured."""
    count = results.median(MEASURED, "most_streams")
    memory = results.median(MEASURED, "most_streams_mb")
    if count is None or memory is None:
        return []
    return [f"Most streams at once through one sidecar: {count:,.0f}, with {memory:.0f} MB resident."]


def _below(value: float | None, least: float) -> bool:
    return value is not None and value < least


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _block(parts: Sequence[str]) -> str:
    return "\n\n".join([BEGIN, *(part for part in parts if part), END])


def summary(results: Results) -> str:
    """What the README has between the markers, these included."""
    missed = [bar for bar in bars(results) if bar.held is False]
    told = ["Goals of our own that it missed:", _list([f"{bar.says} ({bar.found})" for bar in missed])]
    measured = f"Measured on {results.date}."
    return _block([markdown(figures(results, IN_SHORT)), measured, *(told if missed else ())])


def details(results: Results) -> str:
    """What docs/benchmark.md has between the markers, these included."""
    remarks = _list([*most_streams(results), *results.remarks, *doubts(results)])
    profiles = [markdown(profile(one)) for one in results.profiles]
    main = [markdown(figures(results)), markdown(verdicts(results)), place(results), remarks]
    return _block([*main, markdown(spreads(results)), markdown(ledger(results)), *profiles])


def put(document: str, made: str) -> str:
    """The document with a new block.

    Raises:
        ValueError: it has not exactly one pair of markers.
    """
    found = re.findall(f"{re.escape(BEGIN)}.*?{re.escape(END)}", document, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks between markers, where one is needed")
    return document.replace(found[0], made)
