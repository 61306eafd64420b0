"""A wall clock that a test sets: Python imports this file first in a process whose PYTHONPATH leads here.

Owns one number in a file (ns, signed, 8 bytes), added to what `time` says of the wall; the other clocks are left as
they are. Setting the machine's own clock would hurt everything that runs beside the test.
"""

import mmap
import os
import sys
import time
from pathlib import Path

_real = time.time_ns
with Path(os.environ["TEST_WALL"]).open("rb") as _file:
    _offset = memoryview(mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)).cast("q")


def _time() -> float:
    # gRPC makes a deadline of it for its own core, which asks the kernel and would see no step.
    asker = sys._getframe(1).f_globals.get("__name__", "")
    return (_real() if asker == "grpc._channel" else time.time_ns()) / 1e9


time.time_ns = lambda: _real() + _offset[0]
time.time = _time
