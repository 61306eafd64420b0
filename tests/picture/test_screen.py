"""What reaches the terminal: control sequences on a real one, none anywhere else."""

import io
import os
import pty
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import pytest

from sidecar.picture.drawing import Picture
from sidecar.picture.lanes import Bar, Lane
from sidecar.picture.screen import Screen

S = 1_000_000_000
PICTURE = Picture(
    title="round 1",
    state="calls are running",
    start=0,
    end=10 * S,
    now=5 * S,
    lanes=(Lane("chat", "main", (Bar(1, 0, 2 * S, "completed"),)),),
)


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, int]]:
    """A terminal's two ends: what is written to, and what a person sees."""
    seen, written = pty.openpty()
    with os.fdopen(written, "w") as stream:
        yield stream, seen
    os.close(seen)


def read(seen: int) -> str:
    """What has been written so far."""
    return os.read(seen, 65536).decode()


def test_a_terminal_is_redrawn_and_given_back(terminal: tuple[TextIO, int]) -> None:
    """On a screen of its own, from its top, in colours; the last picture stays on the usual one."""
    stream, seen = terminal
    screen = Screen(stream, {"TERM": "xterm"})
    assert screen.live
    screen.redraw(PICTURE)
    first = read(seen)
    assert first.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert "\x1b[32m" in first
    screen.redraw(replace(PICTURE, title="round 2"))
    assert read(seen).startswith("\x1b[H")
    screen.print(PICTURE)
    last = read(seen)
    assert last.startswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[H" not in last
    screen.leave()


@pytest.mark.parametrize("environ", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_a_terminal_that_wants_none(terminal: tuple[TextIO, int], environ: dict[str, str]) -> None:
    """No colours and no cursor movement; pictures are printed one below the other."""
    stream, seen = terminal
    screen = Screen(stream, environ)
    screen.redraw(PICTURE)
    screen.print(PICTURE)
    text = read(seen)
    assert "\x1b" not in text
    assert text.startswith(" round 1")


@pytest.mark.parametrize("columns, width", [({}, 80), ({"COLUMNS": "120"}, 120), ({"COLUMNS": "x"}, 80)])
def test_a_pipe(columns: dict[str, str], width: int) -> None:
    """80 columns, or as many as `COLUMNS` says."""
    stream = io.StringIO()
    screen = Screen(stream, {"TERM": "xterm", **columns})
    screen.redraw(PICTURE)
    assert stream.getvalue() == ""
    screen.print(PICTURE)
    screen.say("a line")
    lines = stream.getvalue().splitlines()
    assert len(lines[0]) == width - 1
    assert lines[-1] == "a line"
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", stream.getvalue())


def test_an_encoding_that_knows_few_characters() -> None:
    """Shows question marks in place of the others, and fails at none."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    Screen(stream, {}).print(PICTURE)
    assert re.search(rb"^ chat +1\?+$", written.getvalue(), re.MULTILINE)
