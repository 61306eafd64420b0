"""The terminal: redraws a picture in place, or prints one after another where there is no terminal.

Owns every control sequence. Without a TTY, with `NO_COLOR` or on a dumb terminal there are none: no colours,
no cursor movement. It decides nothing about what is drawn.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TextIO

from sidecar.picture.drawing import Line, Picture, draw, paint, plain

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_REST_OF_LINE = "\x1b[K"
_REST_OF_SCREEN = "\x1b[J"


class ScreenError(Exception):
    """The stream takes no more pictures: its disk is full, its terminal is gone."""


class Screen:
    """Where pictures go. `live` says that it can be redrawn."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._columns = environ.get("COLUMNS", "")
        self._entered = False
        dumb = environ.get("TERM", "dumb") == "dumb" or bool(environ.get("NO_COLOR"))
        self.live = stream.isatty() and not dumb

    def redraw(self, picture: Picture) -> None:
        """Shows the picture in place of the one before; does nothing where that is not possible."""
        self.show(partial(draw, picture))

    def show(self, lines_of: Callable[[int, int], list[Line]]) -> None:
        """Shows what `lines_of` gives for a width and a height, in place of what was there before."""
        if not self.live:
            return
        lines = [paint(line) + _REST_OF_LINE for line in lines_of(*self.size())]
        enter = "" if self._entered else _ENTER
        self._entered = True
        self._write(enter + _HOME + "\r\n".join(lines) + _REST_OF_SCREEN)

    def print(self, picture: Picture) -> None:
        """Leaves the picture behind, whole, below what was printed before."""
        self.leave()
        finish = paint if self.live else plain
        width, _ = self.size()
        self._write("".join(f"{finish(line)}\n" for line in draw(picture, width)))

    def say(self, text: str) -> None:
        """Prints a line of text."""
        self.leave()
        self._write(f"{text}\n")

    def leave(self) -> None:
        """Gives the terminal back as it was."""
        if self._entered:
            self._entered = False
            self._write(_LEAVE)

    def size(self) -> tuple[int, int]:
        """Columns and rows: the terminal's own, or 80 by 24; `COLUMNS` wins where there is no terminal."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, rows = (int(self._columns) if self._columns.isdecimal() else 0), 0
        return columns or 80, rows or 24

    def _write(self, text: str) -> None:
        """What the stream's encoding does not know becomes a question mark."""
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except BrokenPipeError:  # whoever read has seen enough, which is no error
            raise
        except OSError as error:
            raise ScreenError(f"the picture cannot be written: {error.strerror}") from error
