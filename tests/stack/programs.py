"""One back end as a process: started, asked until it is ready, killed, started again, ended.

Owns the process and its log. It knows no program by name and reads nothing of what one keeps. Used by `backends.py`.
"""

import json
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

READY = 30.0
"""Seconds a back end may take to answer."""

ENOUGH = 30.0
"""Seconds that what was sent may take to be found."""

_Found = TypeVar("_Found")


def eventually(look: Callable[[], _Found], timeout: float = ENOUGH) -> _Found:
    """What `look` gives, once that is something.

    Raises:
        AssertionError: it gave nothing in time; its last answer is told.
    """
    until, pause = monotonic() + timeout, threading.Event()
    while not (found := look()):
        assert monotonic() < until, f"not within {timeout} s: {look} gives {found!r}"
        pause.wait(0.2)
    return found


def get(url: str, **query: str) -> Any:
    """The JSON at a URL; None where nobody answers, or not with 200."""
    asked = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            text = answer.read()
    except OSError:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text.decode()


class Backend:
    """A program with its arguments. `ready` is a URL that answers 200 once it is, within `patience` seconds; `folder`
    holds its log.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        ready: str,
        environ: Mapping[str, str] | None = None,
        patience: float = READY,
    ) -> None:
        self._words = list(words)
        self._environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **(environ or {})}
        self._ready = ready
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{Path(words[0]).name}.log"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._words, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(self._answers, self._patience)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended by itself:\n{self.tail()}"
        return get(self._ready) is not None

    def tail(self) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
