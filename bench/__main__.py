"""The command line of the benchmark: `make bench`, or `python -m bench` with options.

Owns the options, the order of a run and what is said meanwhile. The measuring is in `rounds`, what it means in
`results`. It ends everything that it started, on Ctrl-C too.
"""

import argparse
import dataclasses
import datetime as dt
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import histories, machine, profile, results, rounds, rows, table, unary, world
from bench.processes import StartError

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
MOST_FILES = 2 * rounds.FULL.most_streams + 1000


def main(argv: Sequence[str] | None = None) -> int:
    """One run; gives the exit code: 0, 1 if nothing could be measured, 130 after Ctrl-C."""
    options = _options(argv)
    if options.histories:
        print(table.terminal(histories.measured()))
        return 0
    plan = rounds.QUICK if options.quick else rounds.FULL
    columns = tuple(options.columns.split(",")) if options.columns else plan.columns
    plan = dataclasses.replace(plan, columns=columns, rounds=options.rounds or plan.rounds)
    chosen = options.rows.split(",") if options.rows else [row.name for row in rows.ROWS]
    unknown = {*chosen} - {row.name for row in rows.ROWS} | {*columns} - {*rounds.COLUMNS}
    if unknown:
        raise SystemExit(f"no such row or column: {', '.join(sorted(unknown))}")
    picked = [row for row in rows.ROWS if row.name in chosen]

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    os.sched_setaffinity(0, machine.cores()[1])
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    whole = not (options.quick or options.rows or options.columns or options.rounds)
    try:
        if options.profile:
            return _profile(plan, folder)
        found = run(plan, picked, folder, profiled=whole)
    except (StartError, ValueError) as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(found)
    print("\n" + table.terminal(histories.measured()))
    if whole:
        save(found)
    else:
        print("\nnothing was written: a run of some rows, columns or rounds is for the screen")
    return 0


def save(found: results.Results) -> None:
    """Writes the file of results, and the blocks of the documents of what stands in it: figures are rounded there."""
    results.save(found)
    kept = results.load()
    for path, block in ((README, table.summary(kept)), (PAGE, table.details(kept))):
        path.write_text(table.put(path.read_text(encoding="utf-8"), block), encoding="utf-8")
    print("\nwritten to bench/results.json, README.md and docs/benchmark.md")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description="The sidecar beside other proxies, on one core."
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds of unary and streams")
    parser.add_argument("--rows", help=f"some of {','.join(row.name for row in rows.ROWS)}")
    parser.add_argument("--columns", help=f"some of {','.join(rounds.COLUMNS)}")
    parser.add_argument("--rounds", type=int, help="how many")
    parser.add_argument("--histories", action="store_true", help="only what reading histories costs")
    parser.add_argument("--profile", action="store_true", help="only where the time goes, by room")
    return parser.parse_args(argv)


def run(plan: rounds.Plan, picked: Sequence[rows.Row], folder: Path, *, profiled: bool) -> results.Results:
    """All rounds, and with `profiled` a look at where the time goes."""
    remarks = rounds.not_measurable(picked, plan.columns)
    _say(*remarks)
    plan = rounds.measurable(plan)
    with world.made(folder) as (around, collector):
        found = results.Results(
            date=dt.datetime.now(dt.UTC).date().isoformat(),
            machine=machine.describe(),
            settings=dataclasses.asdict(plan),
            collector=collector,
            titles={row.name: row.title for row in picked},
            missing=[row.name for row in picked if row.missing],
            remarks=remarks,
        )
        requests = unary.write_requests(folder)
        rate = rounds.half_load(around, requests, folder / "half") if "latency" in plan.columns else 0.0
        bench = rounds.Bench(around, plan, requests, rate)
        for number in range(plan.rounds):
            _round(bench, number, [row for row in picked if not row.missing], folder, found)
        if profiled and "unary" in plan.columns:
            found.profiles = profile.measure(bench, folder / "profile")
    return found


def _round(
    bench: rounds.Bench, number: int, picked: Sequence[rows.Row], folder: Path, found: results.Results
) -> None:
    direct: rounds.Figures = {}
    try:
        direct = rounds.direct(bench)
    except (ValueError, OSError) as error:
        found.remarks.append(f"no proxy, round {number + 1}: {error}")
    found.rounds.setdefault(results.DIRECT, []).append(direct)
    for guest in rounds.one_round(bench, number, picked, folder):
        found.rounds.setdefault(guest.row.name, []).append(guest.figures)
        found.remarks += [failure.splitlines()[0] for failure in guest.failures]
        told = "  ".join(
            f"{name} {value:.4g}" for name, value in guest.figures.items() if name in rounds.TOLD
        )
        _say(f"round {number + 1}/{bench.plan.rounds}  {guest.row.name:15}{told}", *guest.failures)


def _profile(plan: rounds.Plan, folder: Path) -> int:
    with world.made(folder) as (around, _):
        bench = rounds.Bench(around, plan, unary.write_requests(folder), 0.0)
        for found in profile.measure(bench, folder / "profile"):
            print(table.terminal(table.profile(found)), end="\n\n")
            print(table.terminal(table.functions(found)), end="\n\n")
            print(f"from {found.looks} looks\n")
    return 0


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _tell(found: results.Results) -> None:
    for rows_of in (table.figures(found), table.verdicts(found)):
        print("\n" + table.terminal(rows_of))
    for one in found.profiles:
        print("\n" + table.terminal(table.profile(one)))
    print(f"\n{table.place(found)}\nlive collector: {found.collector}")
    for line in (*table.most_streams(found), *found.remarks, *table.doubts(found)):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
