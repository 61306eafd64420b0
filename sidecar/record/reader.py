"""Reads recorded requests again.

Owns the form of a line: all that the live page shows, which one member less would break. A line that is cut, as the last one of a process that was killed is,
is passed over and counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sidecar.live import Link, Step
from sidecar.record.writer import recorded_files


class RecordError(ValueError):
    """There is no such file, or nothing in it was recorded by a sidecar."""


class _Bar(msgspec.Struct):
    """As in `sidecar.live.request`, of a request that has ended."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    session: str | None
    conversation: str | None
    named: bool
    sequence: int
    request: str | None
    model: str | None
    upstream: str | None
    operation: str | None
    turn: bool
    start: int
    first: int | None
    end: int
    outcome: str
    stalls: list[tuple[int, float]]
    concurrency: int
    distance: int
    races: int
    wait: float | None
    overhead: float | None
    tokens: int | None


class _Line(msgspec.Struct):
    bar: _Bar
    trace_id: str
    sampled: bool
    steps: list[Step]
    gap: float | None
    links: list[Link]
    facts: dict[str, Any]


_CHECK = msgspec.json.Decoder(_Line)


def read_records(path: Path, passed_over: Callable[[int], object] = lambda _: None) -> list[dict[str, Any]]:
    """Every recorded request of a file, or of all files of a folder, by their starts. A request is there once.

    `passed_over` is told how many lines could not be read, if any.

    Raises:
        RecordError: nothing can be read there.
    """
    found: dict[str, dict[str, Any]] = {}
    wrong = 0
    for line in _lines(path):
        try:
            _CHECK.decode(line)
            record: dict[str, Any] = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            wrong += 1
            continue
        found[record["bar"]["id"]] = record
    if not found and wrong:
        raise RecordError(f"{path}: no line of it was recorded by a sidecar")
    if wrong:
        passed_over(wrong)
    return sorted(found.values(), key=lambda one: (one["bar"]["start"], one["bar"]["id"]))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        files = sorted(file for file, _ in recorded_files(path)) if path.is_dir() else [path]
        if not files:
            raise RecordError(f"{path}: there is no file of SIDECAR_RECORD in it")
        for file in files:
            with file.open("rb") as opened:
                yield from (line for line in opened if line.strip())
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from None
