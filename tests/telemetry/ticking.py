"""A clock for tests of the accumulators."""


class Ticking:
    """Every reading is a nanosecond later than the one before."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        """The next nanosecond."""
        self.now += 1
        return self.now
