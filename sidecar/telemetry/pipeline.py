"""The way out of all signals, in one object: queues, workers, ledger.

Owns their life: started on the event loop, flushed and shut down within a given time whatever the collector does.
It must never block the loop, and costs next to nothing for a signal that is off.
"""

import asyncio
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from sidecar.core.clock import Clock
from sidecar.telemetry.exporters import make_sender
from sidecar.telemetry.ledger import Ledger, Signal
from sidecar.telemetry.metric_export import MetricExport
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.otel_settings import OtelConfig, QueueSettings
from sidecar.telemetry.outlet import Calls, Outlet, Teller
from sidecar.telemetry.stream_sender import STDOUT, Stream

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
        traces: Outlet[ReadableSpan] | None,
        logs: Outlet[ReadableLogRecord] | None,
        metrics: Outlet[MetricsData] | None,
        metric_export: MetricExport | None,
    ) -> None:
        self.ledger = ledger
        self._traces = traces
        self._logs = logs
        self._metrics = metrics
        self._metric_export = metric_export
        self._on = {Signal.TRACES: traces is not None, Signal.LOGS: logs is not None, Signal.METRICS: False}
        self._started = False

    def span(self, *spans: ReadableSpan) -> None:
        """Queue spans that have ended."""
        if self._traces is not None:
            self._traces.offer(spans)

    def log(self, record: ReadableLogRecord, /) -> None:
        """Queue a log record."""
        if self._logs is not None:
            self._logs.offer((record,))

    def not_sampled(self, signal: Signal, count: int, /) -> None:
        """Count what was not made because the sampler said no."""
        if self._on[signal]:
            self.ledger.account(signal).not_sampled(count)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to export."""
        self._started = True
        for outlet in self._outlets():
            outlet.start()
        if self._metric_export is not None:
            self._metric_export.start(loop)

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
        outlets = [outlet for outlet in (self._traces, self._logs) if outlet is not None]
        started, self._started = self._started, False
        if started:
            # Flushed first, and closed only with the metrics: a last log line may still tell of the flush.
            await Calls([outlet.flush for outlet in outlets]).done(timeout * _FIRST_SHARE)
            await self._snapshot()
            if self._metric_export is not None:
                self._metric_export.stop()
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
        if self._metric_export is not None:
            asyncio.get_running_loop().call_soon(self._metric_export.snapshot)
            await asyncio.sleep(0)

    def _idle(self) -> bool:
        return all(outlet.idle for outlet in self._outlets())

    def _outlets(self) -> list[Outlet[Any]]:
        return [outlet for outlet in (self._traces, self._logs, self._metrics) if outlet is not None]


def build_pipeline(
    config: OtelConfig, *, ledger: Ledger, store: MetricStore, clock: Clock, logger: Any
) -> Pipeline:
    """The pipeline that the settings ask for; not started. `logger` is a structlog logger."""
    stdout = Stream(STDOUT)

    def outlet(signal: Signal, queue: QueueSettings) -> Outlet[Any] | None:
        if not config.exports(signal):
            return None
        target = config.targets.get(signal)
        sender = make_sender(signal, config.exporters[signal], target, queue.timeout, stdout)
        teller = Teller(signal, logger, clock, None if target is None else target.shown)
        return Outlet(signal, ledger.account(signal), sender, queue, teller.tell)

    # One snapshot at a time; its time comes by the interval, not by the worker's delay.
    one_snapshot = QueueSettings(size=1, batch=1, delay=config.metric_interval, timeout=config.metric_timeout)
    metrics = outlet(Signal.METRICS, one_snapshot)
    return Pipeline(
        ledger,
        traces=outlet(Signal.TRACES, config.queues[Signal.TRACES]),
        logs=outlet(Signal.LOGS, config.queues[Signal.LOGS]),
        metrics=metrics,
        metric_export=None
        if metrics is None
        else MetricExport(
            store,
            metrics,
            resource=config.resource,
            temporality=config.temporality,
            interval=config.metric_interval,
        ),
    )
