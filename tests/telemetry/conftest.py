"""Recorders for the tests beside this; what they are made of is `world.py`."""

import io
from collections.abc import Iterator
from random import Random

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.telemetry.factories import ReadableRecords, ReadableSpans
from sidecar.telemetry.logs import Lines
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import metrics_of
from sidecar.telemetry.recorder import Recorder
from sidecar.testing import OtlpSink
from tests.telemetry.way_out import PROTOCOLS
from tests.telemetry.world import ListPipeline, MakeWorld, Wishes, World, ms


@pytest.fixture
def make_world() -> MakeWorld:
    """Makes a recorder; keyword `wishes` are settings, the others go to the recorder itself."""

    def make(
        *,
        sampler: Sampler = DEFAULT_ON,
        limits: SpanLimits | None = None,
        strict: bool = True,
        export_traces: bool = True,
        export_logs: bool = False,
        metrics: bool = True,
        pipeline: ListPipeline | None = None,
        **wishes: object,
    ) -> World:
        now = [ms(1000)]
        settings = Wishes(**wishes)  # type: ignore[arg-type]
        store = MetricStore(metrics_of(settings.semconv), clock=lambda: now[0])
        pipeline = pipeline or ListPipeline()
        stderr = io.BytesIO()
        resource = Resource({"service.name": "test"})
        scope = InstrumentationScope("sidecar")
        recorder = Recorder(
            settings=settings,
            pipeline=pipeline,
            store=store if metrics else None,
            clock=lambda: now[0],
            sampler=sampler,
            lines=Lines(settings.log_format, stderr.writelines),
            spans=ReadableSpans(resource, scope, limits or SpanLimits()) if export_traces else None,
            records=ReadableRecords(resource, scope, limits or SpanLimits()) if export_logs else None,
            random=Random(7),
            strict=strict,
        )
        return World(recorder, pipeline, store, stderr, now)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A recorder with the settings' defaults."""
    return make_world()


@pytest.fixture(params=PROTOCOLS)
def sink(request: pytest.FixtureRequest) -> Iterator[OtlpSink]:
    """A collector of each protocol."""
    with OtlpSink(request.param) as one:
        yield one
