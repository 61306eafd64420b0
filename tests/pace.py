"""How fast this machine is just now, so that a bound in seconds of CPU means the same on each.

Owns the measure: one pass of the JSON decoder over 8 MiB of numbers, which takes as long as a step of the longest kind.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import msgspec

_QUIET = 0.014
"""Seconds of CPU that the pass takes on the machine for which bounds are stated."""


@cache
def _numbers() -> bytes:
    return b"[1" + b",1" * ((8 << 20) // 2) + b"]"


def slowness() -> float:
    """How many times longer than on a quiet machine things take on this one; 1 at least."""
    begin = time.thread_time()
    msgspec.json.decode(_numbers(), type=msgspec.Raw)
    return max(1.0, (time.thread_time() - begin) / _QUIET)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Asserts that this thread takes less CPU time in it, as a quiet machine would take it."""
    slow, begun = slowness(), time.thread_time()
    yield
    took = time.thread_time() - begun
    assert took < seconds * max(slow, slowness()), took
