"""One kind of timestamp for the whole house.

Every timestamp is an integer: nanoseconds since the Unix epoch, taken from the monotonic clock and
anchored to the wall clock once, at start. It never jumps, and it needs no conversion to be exported.
The core receives timestamps and never asks for them; the walls of the process read the clock.
"""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives the present as nanoseconds since the Unix epoch; never runs backwards."""

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def system_clock() -> Clock:
    """A monotonic clock, anchored to the wall clock at the moment of this call."""
    anchor = time.time_ns() - time.monotonic_ns()
    monotonic = time.monotonic_ns

    def now() -> int:
        return monotonic() + anchor

    return now
