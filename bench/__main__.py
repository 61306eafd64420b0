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

from bench import machine, profile, results, rounds, rows, table, unary, world
from bench.processes import StartError

README = Path(__file__).parents[1] / "README.md"
_FILES = 16384


def main(argv: Sequence[str] | None = None) -> int:
    """One run; gives the exit code: 0, or 1 where a row could not be measured."""
    options = _options(argv)
    plan = rounds.QUICK if options.quick else rounds.FULL
    columns = tuple(options.columns.split(",")) if options.columns else plan.columns
    plan = dataclasses.replace(plan, columns=columns, rounds=options.rounds or plan.rounds)
    chosen = options.rows.split(",") if options.rows else [row.name for row in rows.ROWS]
    unknown = {*chosen} - {row.name for row in rows.ROWS} | {*columns} - {*rounds.COLUMNS}
    if unknown:
        raise SystemExit(f"no such row or column: {', '.join(sorted(unknown))}")
    picked = [row for row in rows.ROWS if row.name in chosen]

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))
    os.sched_setaffinity(0, machine.cores()[1])
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    try:
        if options.profile:
            return _profile(plan, folder)
        found = run(plan, picked, folder)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(found)
    if options.save:
        results.save(found)
        README.write_text(table.put(README.read_text(encoding="utf-8"), table.block(found)), encoding="utf-8")
        print("\nwritten to bench/results.json and README.md")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description="The sidecar beside other proxies, on one core."
    )
    parser.add_argument("--quick", action="store_true", help="three short rounds of unary and streams")
    parser.add_argument("--rows", help=f"some of {','.join(row.name for row in rows.ROWS)}")
    parser.add_argument("--columns", help=f"some of {','.join(rounds.COLUMNS)}")
    parser.add_argument("--rounds", type=int, help="how many")
    parser.add_argument("--profile", action="store_true", help="only where the time goes, by room")
    parser.add_argument("--save", action="store_true", help="write bench/results.json and the README's table")
    return parser.parse_args(argv)


def run(plan: rounds.Plan, picked: Sequence[rows.Row], folder: Path) -> results.Results:
    """All rounds."""
    not_measured = rounds.machine_is_ready(picked, plan.columns)
    for line in not_measured:
        print(line, file=sys.stderr)
    picked = [row for row in picked if not row.missing]
    if machine.program("wrk") is None:
        plan = dataclasses.replace(plan, columns=tuple({*plan.columns} - {"unary", "latency"}))
    with world.made(folder) as (around, collector):
        found = results.Results(
            date=dt.datetime.now(dt.UTC).date().isoformat(),
            machine=machine.describe(),
            settings=dataclasses.asdict(plan),
            collector=collector,
            titles={"direct": "no proxy"} | {row.name: row.title for row in picked},
            not_measured=not_measured,
        )
        requests = unary.write_requests(folder)
        rate = 0.0
        if "latency" in plan.columns:
            base = next(row for row in rows.ROWS if row.name == rows.BASE)
            rate = rounds.calibrate(around, base, requests, folder / "calibration")
        bench = rounds.Bench(around, plan, requests, rate)
        for number in range(plan.rounds):
            found.rounds.setdefault("direct", []).append(rounds.direct(bench))
            for row in picked:
                figures = _one(bench, row, folder / f"{row.name}-{number}", found)
                found.rounds.setdefault(row.name, []).append(figures)
                told = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                print(f"round {number + 1}/{plan.rounds}  {row.name:15}{told}", file=sys.stderr, flush=True)
    return found


def _profile(plan: rounds.Plan, folder: Path) -> int:
    with world.made(folder) as (around, _):
        bench = rounds.Bench(around, plan, unary.write_requests(folder), 0.0)
        for found in profile.measure(bench, folder / "profile"):
            print(table.terminal(table.profile(found)), end="\n\n")
            print(table.terminal(table.functions(found)), end="\n\n")
            print(f"from {found.looks} looks\n")
    return 0


def _one(bench: rounds.Bench, row: rows.Row, folder: Path, found: results.Results) -> rounds.Figures:
    try:
        return rounds.round_of(bench, row, folder)
    except (StartError, ValueError, OSError) as error:
        line = f"{row.title}: a round was lost: {error}"
        print(line, file=sys.stderr)
        found.not_measured.append(line.splitlines()[0])
        return {}


def _tell(found: results.Results) -> None:
    print("\n" + table.terminal(table.figures(found)))
    print("\n" + table.terminal(table.verdicts(found)))
    print("\n" + table.place(found))
    print(f"live collector: {found.collector}")
    for line in found.not_measured:
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
