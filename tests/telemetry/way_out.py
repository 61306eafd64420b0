"""Pipelines for tests, with spans and log records to put into them, and what the operator would read."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from opentelemetry._logs import SeverityNumber
from opentelemetry.trace import TraceFlags, TraceState

from sidecar.core.clock import Clock, system_clock
from sidecar.telemetry.factories import EncodedRecords, EncodedSpans, Layer, Record, Span
from sidecar.telemetry.ledger import CREATED, Ledger
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.telemetry.otel_settings import OtelConfig, read
from sidecar.telemetry.pipeline import Pipeline, build_pipeline, record_factory, span_factory
from sidecar.testing import OtlpSink
from sidecar.ways_out import Trust

PROTOCOLS = ("http/protobuf", "grpc")
COUNTER = Metric("requests", MetricKind.COUNTER, "{request}", "settled", ("k",), integer=True)
FAST = {
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_BLRP_SCHEDULE_DELAY": "20",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
}
SLOW = {
    "OTEL_BSP_SCHEDULE_DELAY": "60000",
    "OTEL_BLRP_SCHEDULE_DELAY": "60000",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
}


def exporting(sink: OtlpSink, **more: str) -> dict[str, str]:
    """Settings that export everything to `sink`, by flushes only; no answer that is given comes too late."""
    return {**sink.environ(), **SLOW, "OTEL_EXPORTER_OTLP_TIMEOUT": "20000", **more}


@dataclass(frozen=True)
class Ids:
    """A trace of its own."""

    trace_id: int
    flags: TraceFlags = field(default_factory=lambda: TraceFlags(TraceFlags.SAMPLED))
    state: TraceState = field(default_factory=TraceState)


@dataclass
class WayOut:
    """One pipeline and all around it."""

    config: OtelConfig
    pipeline: Pipeline
    store: MetricStore
    lines: list[Any] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        """The names of the lines an operator would read, in their order."""
        return [line["event"] for line in self.lines]

    def span(self, number: int = 1) -> Span:
        """A small span, made as these settings have it."""
        factory = span_factory(self.config) or EncodedSpans()
        return factory.build(f"span {number}", Ids(number), number, times=(number, number + 5), attributes=())

    def record(self, number: int = 1) -> Record:
        """A small log record, likewise."""
        factory = record_factory(self.config) or EncodedRecords()
        return factory.build(
            "hello", SeverityNumber.INFO, "INFO", times=(number, number), attributes=(Layer({"n": number}),)
        )

    def states(self, signal: str = "traces") -> dict[str, int]:
        """What the ledger says of a signal, without zeros, after checking that it adds up."""
        adds_up(self.pipeline.ledger)
        return {state: count for state, count in self.pipeline.ledger.snapshot()[signal].items() if count}


def way_out(environ: Mapping[str, str], *, clock: Clock | None = None) -> WayOut:
    """A pipeline with these settings; not started."""
    clock = clock or system_clock()
    config = read(environ)
    store = MetricStore([COUNTER], clock=clock)
    capture = structlog.testing.LogCapture()
    logger = structlog.wrap_logger(None, processors=[capture])
    pipeline = build_pipeline(
        config, trust=Trust(environ), ledger=Ledger(), store=store, clock=clock, logger=logger
    )
    return WayOut(config, pipeline, store, capture.entries)


def started(environ: Mapping[str, str], *, clock: Clock | None = None) -> WayOut:
    """The same, started on the running loop."""
    made = way_out(environ, clock=clock)
    made.pipeline.start(asyncio.get_running_loop())
    return made


def adds_up(ledger: Ledger) -> None:
    """The law of the ledger: whatever was created is in exactly one state."""
    for signal, counts in ledger.snapshot().items():
        others = {name: count for name, count in counts.items() if name != CREATED}
        assert counts[CREATED] == sum(others.values()), (signal, counts)
        assert min(others.values()) >= 0, (signal, counts)


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Give the loop to others until `condition` holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - threads change what is waited for
            await asyncio.sleep(0.002)
