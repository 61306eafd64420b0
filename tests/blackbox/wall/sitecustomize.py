"""Clocks that a test sets: Python imports this file first in a process whose PYTHONPATH leads here.

Owns two numbers in a file (ns, signed, 8 bytes each): how far the wall was set, and how long the machine was suspended.
The first is added to what `time` says of the wall, the second to that and to the clock that goes on in suspend; the
monotonic clock is left as it is. Setting the machine's own clock would hurt everything that runs beside the test.
"""

import mmap
import os
import sys
import time
from pathlib import Path

_real, _real_clock = time.time_ns, time.clock_gettime_ns
with Path(os.environ["TEST_WALL"]).open("rb") as _file:
    _offset = memoryview(mmap.mmap(_file.fileno(), 16, access=mmap.ACCESS_READ)).cast("q")


def _time() -> float:
    # gRPC makes a deadline of it for its own core, which asks the kernel and would see no step.
    asker = sys._getframe(1).f_globals.get("__name__", "")
    return (_real() if asker == "grpc._channel" else time.time_ns()) / 1e9


def _clock(which: int) -> int:
    return _real_clock(which) + (_offset[1] if which == time.CLOCK_BOOTTIME else 0)


time.time_ns = lambda: _real() + _offset[0] + _offset[1]
time.clock_gettime_ns = _clock
time.time = _time
