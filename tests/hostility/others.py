"""What other requests wait while a peer keeps the sidecar busy.

Owns the measuring, and nothing hostile. A wait is told in seconds of the sidecar's own CPU: what it did in one turn of
its event loop, in which nobody else is served. It is measured within the process: by the wall, or from without, a busy
machine tells more than that, and proves nothing.
"""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.testing import RunningSidecar
from tests.pace import least

FAIR = 0.02
"""Seconds of the event loop that no peer may cost the others in one go."""

_BESIDE = 0.005
"""Seconds that a turn takes at most for all that happens beside it."""

MEASURED = (
    "env",
    "MALLOC_MMAP_THRESHOLD_=33554432",
    "MALLOC_TRIM_THRESHOLD_=4294967296",
    sys.executable,
    str(Path(__file__).parent / "with_turns_told.py"),
)
"""The launcher of a sidecar whose turns can be measured.

It keeps the memory it has had, so that runs after the first touch none for the first time: on a busy machine that takes
six times as long as usual.
"""


def _longest(sidecar: RunningSidecar) -> float:
    """The longest turn (s of CPU) since this was asked before."""
    number = len(sidecar.find_logs("turns")) + 1
    sidecar.signal(signal.SIGUSR1)
    told: dict[str, Any] = sidecar.wait_log("turns", number=number)
    return float(told["most"])


def fair(sidecar: RunningSidecar, busy: Callable[[], object], *, most: float = FAIR) -> int:
    """Asserts that no turn takes more than `most` seconds of CPU while `busy` runs; gives how often it has run."""
    runs = 0

    def run() -> float:
        nonlocal runs
        runs += 1
        _longest(sidecar)
        busy()
        return _longest(sidecar)

    took = least(run, most + _BESIDE, runs=5)
    assert took < most + _BESIDE, took
    return runs
