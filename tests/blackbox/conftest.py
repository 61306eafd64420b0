"""What the black-box tests share: what one request changed in all metrics."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest

from sidecar.testing import Change, OtlpSink, changes

VOLATILE = ("process.", "sidecar.event_loop.", "sidecar.telemetry.", "sidecar.overhead")
"""Metrics that change by themselves; what they say is tested where they are made."""


@dataclass
class Measured:
    """The changes of all metrics between two moments, once the block has ended."""

    changes: list[Change] = field(default_factory=list)

    def figures(self) -> dict[tuple[str, tuple[tuple[str, object], ...]], float]:
        """How much each counter grew, and how many values each histogram got, by metric and attributes."""
        return {
            (change.metric, tuple(sorted(change.attributes.items()))): change.value or change.count
            for change in self.changes
        }

    def one(self, metric: str) -> Change:
        """The one series of `metric` that changed."""
        (found,) = (change for change in self.changes if change.metric == metric)
        return found


Measure = Callable[[], AbstractContextManager[Measured]]


@pytest.fixture
def measure(sink: OtlpSink) -> Measure:
    """Tells what a `with` block changed in all metrics; the block must wait until its requests have settled."""

    @contextmanager
    def measuring() -> Iterator[Measured]:
        before = sink.snapshot(after=time.time_ns())
        measured = Measured()
        yield measured
        after = sink.snapshot(after=time.time_ns())
        measured.changes = [
            change for change in changes(before, after) if not change.metric.startswith(VOLATILE)
        ]

    return measuring
