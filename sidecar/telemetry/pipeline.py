"""The way out of all signals, in one object: queues, workers, ledger, and the metrics' snapshots.

Owns their life: started on the event loop, flushed and shut down within a given time whatever the collector does.
It must never block the loop, and costs next to nothing for a signal that is off. While an export of metrics is under
way no snapshot is taken: the accumulators go on, and nothing is lost. One that somebody waits for is taken as soon as that
export has settled.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.core.clock import MILLISECOND, Clock, cpu_time
from sidecar.telemetry.exporters import STDOUT, Stream, make_sender
from sidecar.telemetry.factories import (
    EncodedRecords,
    EncodedSpans,
    Frame,
    ReadableRecords,
    ReadableSpans,
    Record,
    RecordFactory,
    Span,
    SpanFactory,
)
from sidecar.telemetry.ledger import Delivery, Ledger, Signal, State
from sidecar.telemetry.metric_store import MetricStore, Temporality
from sidecar.telemetry.otel_settings import OtelConfig, QueueSettings
from sidecar.telemetry.queues import Calls, ExportQueue, FailureLog, Work, Worker
from sidecar.ways_out import Trust


class MetricExport:
    """See the module. Times in seconds."""

    def __init__(
        self,
        store: MetricStore,
        make: Callable[[Callable[[Delivery], object]], ExportQueue[MetricsData]],
        *,
        resource: Resource,
        scope: InstrumentationScope,
        temporality: Temporality,
        interval: float,
    ) -> None:
        """`make` gives the way out; what it is given is to be called, in any thread, with what became of each batch."""
        self._store = store
        self._reader = store.reader(temporality)
        self.queue = make(self._delivered)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = False
        self._then: list[Callable[[], object]] = []
        """What is to be called once the present numbers are handed over."""
        self._collected: list[Metric] = []
        self._steps: Iterator[None] | None = None
        """What is left to do of a snapshot."""
        self._resource = resource
        self._scope = scope
        self._interval = interval
        self._timer: asyncio.Handle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the first snapshot at once, and one per interval after that.

        What is told as 0 at the start is what the first of anything is more than.
        """
        self._loop = loop
        self._timer = loop.call_soon(self._tick, loop, loop.time())

    def stop(self) -> None:
        """Take no more snapshots; one that is being made is handed over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None:  # of its own on the loop, which is told what fails in it
            self._loop.call_soon(self._make, None)

    def flush(self, done: Callable[[], object]) -> None:
        """Export the present numbers; `done` is called in the worker's thread when nothing is left."""
        self._hand_over(partial(self.queue.flush, done))

    def close(self, done: Callable[[], object]) -> None:
        """Export the present numbers, the last ones, and end; `done` is called like that of `flush`."""
        self._hand_over(partial(self.queue.close, done))

    def give_up(self) -> None:
        """Of an export that was abandoned: what was to leave behind it is `dropped`."""
        self._under_way = False
        self._go_on()

    def _hand_over(self, then: Callable[[], object]) -> None:
        """Of its own on the loop, which is told what fails in it; behind an export that is under way."""
        self._then.append(then)
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take the snapshot that something waits for, if anything still does."""
        if self._then and not self._under_way and self._steps is None:
            self._snapshot()

    def _snapshot(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Hand the present numbers to the worker, on a loop in steps, and go on with what waits for that."""
        then, self._then = self._then, []
        try:
            self._collected, self._steps = self._store.collecting(self._reader)
            self._make(loop)
        finally:
            for call in then:
                call()

    def _make(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Makes the snapshot that is begun, in this turn of the loop as far as its share goes, or all of it without a loop."""
        if self._steps is None:
            return
        until = cpu_time() + _SHARE
        try:
            for _ in self._steps:
                if loop is not None and cpu_time() > until:
                    loop.call_soon(self._make, loop)
                    return
        except BaseException:
            self._steps = None
            if loop is not None:
                loop.call_soon(self._go_on)
            raise
        self._steps = None
        self._offer(self._collected)
        if loop is not None:
            self._go_on()

    def _offer(self, metrics: list[Metric]) -> None:
        points = sum(len(metric.data.data_points) for metric in metrics)
        self._under_way = points > 0
        if points:
            schema = self._resource.schema_url
            scope = ScopeMetrics(self._scope, metrics, schema)
            self.queue.offer((MetricsData([ResourceMetrics(self._resource, [scope], schema)]),), points)

    def _delivered(self, delivery: Delivery) -> None:
        """In the worker: what came back is the loop's to take."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is gone
                self._loop.call_soon_threadsafe(self._settled, delivery)

    def _settled(self, delivery: Delivery) -> None:
        """The next snapshot may be taken; differences that did not arrive are in it."""
        self._under_way = False
        for data in delivery.returned:
            for resource in data.resource_metrics:
                for scope in resource.scope_metrics:
                    self._store.give_back(self._reader, scope.metrics)
        self._go_on()

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # The next one first: a callback that fails must not be the end of all snapshots.
        after = max(due + self._interval, loop.time())
        self._timer = loop.call_at(after, self._tick, loop, after)
        self._go_on()
        if not self._under_way and self._steps is None:
            self._snapshot(loop)


_SHARE = 2 * MILLISECOND
"""How long (ns of CPU) a snapshot is made in one turn of the event loop."""
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
        traces: Sequence[ExportQueue[Span]],
        logs: Sequence[ExportQueue[Record]],
        metrics: Sequence[MetricExport],
    ) -> None:
        self.ledger = ledger
        self._traces = traces
        self._logs = logs
        self._metrics = metrics
        self._started = False
        self._worker: Worker | None = None

    def span(self, *spans: Span) -> None:
        """Queue spans that have ended."""
        for queue in self._traces:
            queue.offer(spans)

    @property
    def roomy(self) -> bool:
        """There is room for spans that can wait."""
        return all(queue.roomy for queue in self._traces)

    def log(self, *records: Record) -> None:
        """Queue log records."""
        for queue in self._logs:
            queue.offer(records)

    def not_made(self, signal: Signal, count: int, state: State = State.NOT_SAMPLED, /) -> None:
        """Count what was not made: because the sampler said no, or for want of time (`dropped`)."""
        ways: dict[Signal, Sequence[ExportQueue[Any]]] = {
            Signal.TRACES: self._traces,
            Signal.LOGS: self._logs,
        }
        for queue in ways.get(signal, ()):
            queue.not_made(count, state)

    def wait_for(self, worker: Worker) -> None:
        """Let the ledger count what is still to be made as created, and queued; a line is created when it is."""
        self._worker = worker
        for spans in self._traces:
            spans.wait_for(lambda: worker.waiting().spans, worker.lock)
        for records in self._logs:
            records.wait_for(lambda: worker.waiting().records, worker.lock)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to export."""
        self._started = True
        for queue in self._queues():
            queue.start()
        for export in self._metrics:
            export.start(loop)

    async def flush(self, timeout: float) -> bool:
        """Export everything there is now; False if that took longer than `timeout` seconds."""
        if not self._started:
            return self._idle()
        return await Calls([way.flush for way in self._ways()]).done(timeout)

    async def shutdown(self, timeout: float) -> bool:
        """Flush and end within `timeout` seconds; False if something had to be abandoned.

        Then the ledger says `unknown` of what was under way and `dropped` of what waited, to be made too. Afterwards, and
        on a second call, nothing is accepted any more. Never raises, never hangs.
        """
        complete = await self._end(timeout)
        if self._worker is not None:
            self._worker.give_up(self._never_made)
        return complete

    def _never_made(self, left: Work) -> None:
        self.not_made(Signal.TRACES, left.spans, State.DROPPED)
        self.not_made(Signal.LOGS, left.records, State.DROPPED)

    async def _end(self, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        started, self._started = self._started, False
        if started:
            for export in self._metrics:
                export.stop()
            # Flushed first, and closed only with the metrics: a last log line may still tell of the flush. An export of
            # metrics that is under way, too: the last snapshot leaves behind it.
            await Calls([queue.flush for queue in self._queues()]).done(timeout * _FIRST_SHARE)
            closing = Calls([way.close for way in self._ways()])
            grace = min(_GRACE, timeout / 10)
            if await closing.done(deadline - grace - loop.time()):
                return True
            for queue in self._queues():
                queue.stop()
            await closing.done(deadline - loop.time())
        complete = not started and self._idle()
        for queue in self._queues():
            queue.abandon()
        for export in self._metrics:
            loop.call_soon(export.give_up)
        await asyncio.sleep(0)
        return complete

    def _idle(self) -> bool:
        return all(queue.idle for queue in self._queues())

    def _queues(self) -> list[ExportQueue[Any]]:
        return [*self._traces, *self._logs, *(export.queue for export in self._metrics)]

    def _ways(self) -> list[ExportQueue[Any] | MetricExport]:
        """The queues, and before that of metrics their snapshots."""
        return [*self._traces, *self._logs, *self._metrics]


_LIMITED = ("max_span_attributes", "max_events", "max_links", "max_event_attributes", "max_link_attributes")
_ENOUGH = 128
"""What no span or record of ours has more of: attributes, events, links. It is the SDK's own limit unless it is told another."""


def spans_are_limited(limits: SpanLimits) -> bool:
    """Whether a limit could cut a span of ours."""
    counts = [getattr(limits, name) for name in _LIMITED]
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    return any(length is not None for length in lengths) or any(
        count is not None and count < _ENOUGH for count in counts
    )


def records_are_limited(limits: SpanLimits) -> bool:
    """Whether a limit could cut a log record of ours."""
    count: int | None = limits.max_attributes
    return limits.max_attribute_length is not None or (count is not None and count < _ENOUGH)


def are_encoded(signal: Signal, config: OtelConfig) -> bool:
    """Whether spans or log records are made as their bytes: nobody wants more of them, and no limit could cut one."""
    limited = {Signal.TRACES: spans_are_limited, Signal.LOGS: records_are_limited}.get(signal)
    return limited is not None and config.exporters[signal] == ("otlp",) and not limited(config.span_limits)


def span_factory(config: OtelConfig) -> SpanFactory | None:
    """What makes the spans for such a pipeline; None where nobody reads them."""
    if not config.exports(Signal.TRACES):
        return None
    if are_encoded(Signal.TRACES, config):
        return EncodedSpans()
    return ReadableSpans(config.resource, config.scope, config.span_limits)


def record_factory(config: OtelConfig) -> RecordFactory | None:
    """What makes the log records; None where nobody reads them."""
    if not config.exports(Signal.LOGS):
        return None
    if are_encoded(Signal.LOGS, config):
        return EncodedRecords()
    return ReadableRecords(config.resource, config.scope, config.span_limits)


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

    def queues(signal: Signal, bounds: QueueSettings) -> list[ExportQueue[Any]]:
        return [queue(signal, exporter, bounds) for exporter in config.exporters[signal]]

    def queue(
        signal: Signal, exporter: str, bounds: QueueSettings, tell: Tell | None = None
    ) -> ExportQueue[Any]:
        target = config.targets[signal] if exporter == "otlp" else None
        page = signal.value if target else f"console_{signal}"
        account = ledger.account(page)
        failures = FailureLog(page, logger, clock, target.shown if target else None)
        around = Frame(config.resource, config.scope) if are_encoded(signal, config) else None
        sender = make_sender(signal, target, trust, bounds.timeout, stdout, around)

        def told(delivery: Delivery) -> None:
            failures.tell(delivery, account.states[State.DROPPED])
            if tell is not None:
                tell(delivery)

        return ExportQueue(page, account, sender, bounds, told)

    # One snapshot at a time; its time comes by the interval, not by the worker's delay.
    one_snapshot = QueueSettings(size=1, batch=1, delay=config.metric_interval, timeout=config.metric_timeout)
    metrics = [
        MetricExport(
            store,
            partial(queue, Signal.METRICS, exporter, one_snapshot),
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
        traces=queues(Signal.TRACES, config.queues[Signal.TRACES]),
        logs=queues(Signal.LOGS, config.queues[Signal.LOGS]),
        metrics=metrics,
    )
