"""The sidecar of all comparisons: it exports everything, and seldom, since nobody here reads what it exports."""

from collections.abc import Iterator

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream

SELDOM = {
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
    "OTEL_BSP_SCHEDULE_DELAY": "1000",
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",
}
"""In ms. Every upstream's address has series of its own: to export hundreds of them many times costs more than the calls."""


@pytest.fixture(scope="module")
def sidecar(
    module_sink: OtlpSink, module_upstream: ScriptedUpstream, sidecar_settings: dict[str, str]
) -> Iterator[RunningSidecar]:
    """The module's sidecar, in front of its upstream."""
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings=sidecar_settings, environ=SELDOM
    ) as running:
        yield running
