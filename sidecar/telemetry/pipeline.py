"""The way out of all signals, in one object: queues, workers, ledger.

Owns their life: started on the event loop, flushed and shut down within a given time whatever the collector does.
It must never block the loop, and costs next to nothing for a signal that is off.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord

from sidecar.core.clock import Clock
from sidecar.telemetry.encode import EncodedSpans, SpanFrame
from sidecar.telemetry.exporters import make_sender
from sidecar.telemetry.ledger import Delivery, Ledger, Signal, State
from sidecar.telemetry.metric_export import MetricExport
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.otel_settings import OtelConfig, QueueSettings
from sidecar.telemetry.outlet import Calls, Outlet, Teller
from sidecar.telemetry.spans import ReadableSpans, Span, SpanFactory, are_limited
from sidecar.telemetry.stream_sender import STDOUT, Stream
from sidecar.telemetry.worker import Work
from sidecar.trust import Trust

_FIRST_SHARE = 0.5
"""Of the time of a shutdown, what spans and logs may take before the last metrics, which count them, are taken."""
_GRACE = 0.2
"""Seconds at the end of a shutdown for what is under way: without another try it may settle at once."""


class Pipeline:
    """See the module. What is handed over for a signal that is off was never created, as the ledger sees it."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        traces: Sequence[Outlet[Span]],
        logs: Sequence[Outlet[ReadableLogRecord]],
        metrics: Sequence[MetricExport],
    ) -> None:
        self.ledger = ledger
        self._traces = traces
        self._logs = logs
        self._metrics = metrics
        self._started = False

    def span(self, *spans: Span) -> None:
        """Queue spans that have ended."""
        for outlet in self._traces:
            outlet.offer(spans)

    def log(self, record: ReadableLogRecord, /) -> None:
        """Queue a log record."""
        for outlet in self._logs:
            outlet.offer((record,))

    def not_made(self, signal: Signal, count: int, state: State = State.NOT_SAMPLED, /) -> None:
        """Count what was not made: because the sampler said no, or for want of time (`dropped`)."""
        ways: dict[Signal, Sequence[Outlet[Any]]] = {Signal.TRACES: self._traces, Signal.LOGS: self._logs}
        for outlet in ways.get(signal, ()):
            outlet.not_made(count, state)

    def wait_for(self, waiting: Callable[[], Work]) -> None:
        """Let the ledger count what is still to be made as created, and queued; a line is created when it is."""
        for spans in self._traces:
            spans.wait_for(lambda: waiting().spans)
        for records in self._logs:
            records.wait_for(lambda: waiting().records)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to export."""
        self._started = True
        for outlet in self._outlets():
            outlet.start()
        for export in self._metrics:
            export.start(loop)

    async def flush(self, timeout: float) -> bool:
        """Export everything there is now; False if that took longer than `timeout` seconds."""
        if not self._started:
            return self._idle()
        await self._snapshot()
        return await Calls([outlet.flush for outlet in self._outlets()]).done(timeout)

    async def shutdown(self, timeout: float) -> bool:
        """Flush and end within `timeout` seconds; False if something had to be abandoned.

        Then the ledger says `unknown` of what was under way and `dropped` of what waited. Afterwards, and
        on a second call, nothing is accepted any more. Never raises, never hangs.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        outlets: list[Outlet[Any]] = [*self._traces, *self._logs]
        started, self._started = self._started, False
        if started:
            # Flushed first, and closed only with the metrics: a last log line may still tell of the flush.
            await Calls([outlet.flush for outlet in outlets]).done(timeout * _FIRST_SHARE)
            await self._snapshot()
            for export in self._metrics:
                export.stop()
            closing = Calls([outlet.close for outlet in self._outlets()])
            grace = min(_GRACE, timeout / 10)
            if await closing.done(deadline - grace - loop.time()):
                return True
            for outlet in self._outlets():
                outlet.stop()
            await closing.done(deadline - loop.time())
        complete = not started and self._idle()
        for outlet in self._outlets():
            outlet.abandon()
        return complete

    async def _snapshot(self) -> None:
        """Hand over the present metrics, as a callback of its own: what fails in it is the loop's to tell."""
        for export in self._metrics:
            asyncio.get_running_loop().call_soon(export.snapshot)
        await asyncio.sleep(0)

    def _idle(self) -> bool:
        return all(outlet.idle for outlet in self._outlets())

    def _outlets(self) -> list[Outlet[Any]]:
        return [*self._traces, *self._logs, *(export.outlet for export in self._metrics)]


def spans_are_encoded(config: OtelConfig) -> bool:
    """Whether spans are made as their bytes: nobody wants more of them, and no limit could cut one."""
    return config.exporters[Signal.TRACES] == ("otlp",) and not are_limited(config.span_limits)


def span_factory(config: OtelConfig) -> SpanFactory | None:
    """What makes the spans for such a pipeline; None where nobody reads them."""
    if not config.exports(Signal.TRACES):
        return None
    if spans_are_encoded(config):
        return EncodedSpans()
    return ReadableSpans(config.resource, config.scope, config.span_limits)


Tell = Callable[[Delivery], object]


def build_pipeline(
    config: OtelConfig,
    *,
    trust: Trust,
    ledger: Ledger,
    store: MetricStore | None,
    clock: Clock,
    logger: Any,
) -> Pipeline:
    """The pipeline that the settings ask for; not started. Without a `store` it has no metrics. `logger` is structlog's."""
    stdout = Stream(STDOUT)
    frame = SpanFrame(config.resource, config.scope) if spans_are_encoded(config) else None

    def outlets(signal: Signal, queue: QueueSettings) -> list[Outlet[Any]]:
        return [outlet(signal, exporter, queue) for exporter in config.exporters[signal]]

    def outlet(signal: Signal, exporter: str, queue: QueueSettings, tell: Tell | None = None) -> Outlet[Any]:
        target = config.targets[signal] if exporter == "otlp" else None
        page = signal.value if target else f"console_{signal}"
        teller = Teller(page, logger, clock, target.shown if target else None)
        sender = make_sender(signal, target, trust, queue.timeout, stdout, frame)

        def told(delivery: Delivery) -> None:
            teller.tell(delivery)
            if tell is not None:
                tell(delivery)

        return Outlet(page, ledger.account(page), sender, queue, told)

    # One snapshot at a time; its time comes by the interval, not by the worker's delay.
    one_snapshot = QueueSettings(size=1, batch=1, delay=config.metric_interval, timeout=config.metric_timeout)
    metrics = [
        MetricExport(
            store,
            partial(outlet, Signal.METRICS, exporter, one_snapshot),
            resource=config.resource,
            scope=config.scope,
            temporality=config.temporality,
            interval=config.metric_interval,
        )
        for exporter in config.exporters[Signal.METRICS]
        if store is not None
    ]
    return Pipeline(
        ledger,
        traces=outlets(Signal.TRACES, config.queues[Signal.TRACES]),
        logs=outlets(Signal.LOGS, config.queues[Signal.LOGS]),
        metrics=metrics,
    )
