"""A clock that stands still until a test moves it.

Owns one number. Fits wherever a `sidecar.core.clock.Clock` is asked for; tests of the session manager,
the metric store and everything else that takes timestamps use it to assert exact milliseconds.
"""

from sidecar.core.clock import MILLISECOND, SECOND


class FixedClock:
    """Gives the same time (ns since the Unix epoch) until `advance` is called; never runs backwards."""

    __slots__ = ("_now",)

    def __init__(self, now: int = 1_800_000_000 * SECOND) -> None:
        self._now = now

    def __call__(self) -> int:
        """The time it stands at."""
        return self._now

    def advance(self, *, s: float = 0, ms: float = 0, us: float = 0, ns: int = 0) -> int:
        """Moves on by the sum of what is given, and gives the new time in ns.

        Raises:
            ValueError: the sum is negative.
        """
        step = round(s * SECOND) + round(ms * MILLISECOND) + round(us * 1_000) + ns
        if step < 0:
            raise ValueError("a clock does not run backwards")
        self._now += step
        return self._now

    def __repr__(self) -> str:
        return f"FixedClock({self._now})"
