"""What the matrix runs through: sidecars with patient timers, two with short ones, or any proxy that is named.

Owns these fixtures. `MATRIX_TARGET` (the port of a proxy on this machine) and `MATRIX_UPSTREAM` (the port to which
it forwards, on which the provider will listen) point the same cells at another proxy; then bytes alone are checked.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream
from tests.blackbox.conftest import VOLATILE
from tests.matrix.cells import Cell
from tests.matrix.expected import Series

TIMER = 0.5
"""Seconds of every timer of the impatient sidecars."""

OFTEN = {
    "OTEL_METRIC_EXPORT_INTERVAL": "50",
    "OTEL_BSP_SCHEDULE_DELAY": "5",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
}
"""Telemetry comes soon, since each cell waits for its own; and an export holds what has been added, not every series again."""


class Watched:
    """A running sidecar whose metrics are asked after every cell what has been added since the last."""

    def __init__(self, sidecar: RunningSidecar, sink: OtlpSink) -> None:
        self.port = sidecar.port
        self.sink = sink
        self._levels: dict[Series, float] = {}
        """What has no differences: requests that are being served, and the like."""
        self.added()

    def added(self) -> dict[Series, float]:
        """What every series has gained since the last call, and forgets what was exported until now."""
        self.sink.snapshot(after=time.time_ns())
        gained: dict[Series, float] = defaultdict(float)
        for point in self.sink.take_points():
            if point.kind == "gauge" or point.metric.startswith(VOLATILE):
                continue
            series = (point.metric, tuple(sorted(point.attributes.items())))
            value = point.count if point.kind == "histogram" else point.value or 0
            if point.temporality == "delta":
                gained[series] += value
            else:
                gained[series] += value - self._levels.get(series, 0)
                self._levels[series] = value
        return {series: value for series, value in gained.items() if value}


class Sidecars:
    """One sidecar at a time, in front of `upstream`: that of the cells which are played now."""

    def __init__(self, upstream: ScriptedUpstream, blackhole: int) -> None:
        self._upstream = upstream
        self._blackhole = f"blackhole=http://127.0.0.1:{blackhole}"
        self._running = ExitStack()
        self._group: str | None = None
        self._watched: Watched | None = None

    def watched(self, cell: Cell) -> Watched:
        """The sidecar for this cell; where that is another one, the one before has ended."""
        if self._watched is None or self._group != cell.group:
            self.stop()
            sink = self._running.enter_context(OtlpSink())
            running = RunningSidecar(
                upstream=self._upstream.url, sink=sink, settings=self._settings(cell), environ=OFTEN
            )
            self._watched = Watched(self._running.enter_context(running), sink)
            self._group = cell.group
        return self._watched

    def _settings(self, cell: Cell) -> dict[str, str]:
        """It waits; or it waits for an answer to begin and not for one to go on; or it has short timers up to the begin.

        The last has a second upstream, which lets nobody in.
        """
        if not cell.ending.timer:
            return {}
        if cell.ending.timer == "IDLE":
            return {"IDLE_TIMEOUT": f"{TIMER}s"}
        early = {f"{name}_TIMEOUT": f"{TIMER}s" for name in ("CLIENT_BODY", "CONNECT", "FIRST_BYTE")}
        return {**early, "UPSTREAMS": self._blackhole}

    def stop(self) -> None:
        """Ends the one that runs."""
        self._running.close()


@pytest.fixture(scope="module")
def sidecars(module_upstream: ScriptedUpstream, blackhole: int) -> Iterator[Sidecars]:
    """What cells are played through."""
    made = Sidecars(module_upstream, blackhole)
    yield made
    made.stop()


def named_target() -> int | None:
    """The other proxy's port on this machine, if one is named."""
    named = os.environ.get("MATRIX_TARGET")
    return int(named) if named else None


@pytest.fixture(scope="module")
def named_upstream() -> Iterator[ScriptedUpstream]:
    """The provider behind the other proxy, on the port that the proxy forwards to."""
    with ScriptedUpstream(port=int(os.environ["MATRIX_UPSTREAM"])) as upstream:
        yield upstream
