"""The metrics' periodic export: a snapshot on the event loop, encoding and sending in the worker.

Owns the interval. While an export is under way no snapshot is taken: the accumulators go on, and nothing is lost.
Must be started and stopped on the event loop. The ledger's unit of `metrics` is the data point.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.telemetry.ledger import Delivery
from sidecar.telemetry.metric_store import MetricStore, Temporality
from sidecar.telemetry.outlet import Outlet


class MetricExport:
    """See the module. Times in seconds."""

    def __init__(
        self,
        store: MetricStore,
        make: Callable[[Callable[[Delivery], object]], Outlet[MetricsData]],
        *,
        resource: Resource,
        scope: InstrumentationScope,
        temporality: Temporality,
        interval: float,
    ) -> None:
        """`make` gives the way out; what it is given is to be called, in any thread, with what became of each batch."""
        self._store = store
        self._reader = store.reader(temporality)
        self.outlet = make(self._delivered)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way = False
        self._resource = resource
        self._scope = scope
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the first snapshot an interval from now, and one per interval after that."""
        self._loop = loop
        self._timer = loop.call_later(self._interval, self._tick, loop, loop.time() + self._interval)

    def stop(self) -> None:
        """Take no more snapshots."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def snapshot(self) -> None:
        """Hand the present numbers to the worker, unless it still has older ones."""
        if self._under_way:
            return
        metrics = self._store.collect(self._reader)
        points = sum(len(metric.data.data_points) for metric in metrics)
        if points:
            schema = self._resource.schema_url
            scope = ScopeMetrics(self._scope, metrics, schema)
            self._under_way = True
            self.outlet.offer((MetricsData([ResourceMetrics(self._resource, [scope], schema)]),), points)

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

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # The next one first: a callback that fails must not be the end of all snapshots.
        after = max(due + self._interval, loop.time())
        self._timer = loop.call_at(after, self._tick, loop, after)
        self.snapshot()
