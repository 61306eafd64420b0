"""What the matrix runs through: a sidecar with patient timers, two with short ones, or any proxy that is named.

Owns these fixtures. `MATRIX_TARGET` (the port of a proxy on this machine) and `MATRIX_UPSTREAM` (the port to which
it forwards, on which the provider will listen) point the same cells at another proxy; then bytes alone are checked.
"""

import os
import time
from collections.abc import Iterator

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream, changes
from tests.blackbox.conftest import VOLATILE
from tests.matrix.expected import Series

TIMER = 0.5
"""Seconds of every timer of the impatient sidecars."""

SOON = {"OTEL_METRIC_EXPORT_INTERVAL": "25", "OTEL_BSP_SCHEDULE_DELAY": "5"}
"""Telemetry comes as fast as it can, since each cell waits for its own."""


class Watched:
    """A running sidecar whose metrics are asked after every cell what has been added since the last."""

    def __init__(self, sidecar: RunningSidecar, sink: OtlpSink) -> None:
        self.port = sidecar.port
        self.sink = sink
        self._before = sink.snapshot(after=time.time_ns())

    def added(self) -> dict[Series, float]:
        """What every series has gained since the last call, and forgets what was exported until now."""
        after = self.sink.snapshot(after=time.time_ns())
        before, self._before = self._before, after
        self.sink.clear()
        return {
            (change.metric, tuple(sorted(change.attributes.items()))): change.value or change.count
            for change in changes(before, after)
            if not change.metric.startswith(VOLATILE)
        }


@pytest.fixture(scope="module")
def patient(module_upstream: ScriptedUpstream) -> Iterator[Watched]:
    """A sidecar that waits."""
    with OtlpSink() as sink, RunningSidecar(upstream=module_upstream.url, sink=sink, environ=SOON) as sidecar:
        yield Watched(sidecar, sink)


@pytest.fixture(scope="module")
def idle(module_upstream: ScriptedUpstream) -> Iterator[Watched]:
    """A sidecar that waits for an answer to begin, and not for one to go on."""
    settings = {"IDLE_TIMEOUT": f"{TIMER}s"}
    with (
        OtlpSink() as sink,
        RunningSidecar(upstream=module_upstream.url, sink=sink, settings=settings, environ=SOON) as sidecar,
    ):
        yield Watched(sidecar, sink)


@pytest.fixture(scope="module")
def impatient(module_upstream: ScriptedUpstream, blackhole: int) -> Iterator[Watched]:
    """A sidecar with short timers up to an answer's begin, and a second upstream that lets nobody in."""
    settings = {f"{name}_TIMEOUT": f"{TIMER}s" for name in ("CLIENT_BODY", "CONNECT", "FIRST_BYTE")}
    settings["UPSTREAMS"] = f"blackhole=http://127.0.0.1:{blackhole}"
    with (
        OtlpSink() as sink,
        RunningSidecar(upstream=module_upstream.url, sink=sink, settings=settings, environ=SOON) as sidecar,
    ):
        yield Watched(sidecar, sink)


def named_target() -> int | None:
    """The other proxy's port on this machine, if one is named."""
    named = os.environ.get("MATRIX_TARGET")
    return int(named) if named else None


@pytest.fixture(scope="module")
def named_upstream() -> Iterator[ScriptedUpstream]:
    """The provider behind the other proxy, on the port that the proxy forwards to."""
    with ScriptedUpstream(port=int(os.environ["MATRIX_UPSTREAM"])) as upstream:
        yield upstream
