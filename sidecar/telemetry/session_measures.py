"""The metrics of sessions, and of the process itself.

Owns what is recorded of a session at its start and its end, of each wait avoided, and what is asked at each snapshot: how
many sessions live, what is in flight, and what the process is (`process.*`, by psutil; nothing of another process ever is).
"""

from collections.abc import Callable
from typing import Protocol

import psutil

from sidecar.core.clock import SECOND
from sidecar.core.identity import MADE_UP, Source
from sidecar.core.sessions import Revealed, SessionListener, SessionSummary
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import Attributes, HistogramSeries, MetricStore, Observations
from sidecar.telemetry.metrics import Metric


class LiveSessions(Protocol):
    """What is asked of the session manager at each snapshot."""

    @property
    def sessions_active(self) -> int:
        """Sessions live now."""

    @property
    def conversations_active(self) -> int:
        """Conversations live now."""

    @property
    def conversations_busy(self) -> int:
        """Conversations with a request in flight."""

    @property
    def overlapping(self) -> int:
        """Turns in flight that a queue would hold: over conversations, the sum of those beyond the first."""

    @property
    def most_concurrent(self) -> int:
        """Turns in flight in the busiest conversation."""

    def hear_waits(self, told: Callable[[Revealed], object]) -> None:
        """Calls `told`, which never raises, with every wait that becomes known."""


class SessionMeasures(SessionListener):
    """Records what happens to sessions."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._waits: dict[str | None, HistogramSeries] = {}
        """By upstream."""

    def observe(self, sessions: LiveSessions) -> None:
        """Lets the store ask `sessions` for its gauges at each snapshot."""
        observe = self._store.observe
        observe(metrics.SESSIONS_ACTIVE, lambda: [(sessions.sessions_active, ())])
        observe(metrics.CONVERSATIONS_ACTIVE, lambda: [(sessions.conversations_active, ())])
        observe(metrics.CONVERSATIONS_BUSY, lambda: [(sessions.conversations_busy, ())])
        observe(metrics.REQUESTS_OVERLAPPING, lambda: [(sessions.overlapping, ())])
        observe(metrics.CONCURRENCY_MAX, lambda: [(sessions.most_concurrent, ())])

    def begin(self) -> None:
        """What is counted by fixed words is told from now on, as 0."""
        for source in Source:
            if source not in MADE_UP:
                self._store.add(metrics.SESSIONS, 0, _source(source))
        self._store.add(metrics.WAIT_UNKNOWN, 0)

    def session_started(self, session_id: str, source: str, at: int) -> None:  # noqa: ARG002
        """One more session, by the rule that named it."""
        self._store.add(metrics.SESSIONS, 1, _source(source))

    def session_ended(self, summary: SessionSummary) -> None:
        """How long it was and how many requests it had."""
        source = _source(summary.source)
        duration = (summary.ended_at - summary.started_at) / SECOND
        self._store.record(metrics.SESSION_DURATION, duration, source, None, summary.ended_at)
        requests = sum(summary.totals.requests.values())
        self._store.record(metrics.SESSION_REQUESTS, requests, source, None, summary.ended_at)

    def wait_avoided(self, revealed: Revealed) -> None:
        """The queue wait that a turn was spared."""
        wait, ref, sampled, upstream = revealed
        series = self._waits.get(upstream)
        if series is None:
            key: Attributes = () if upstream is None else ((n.UPSTREAM, upstream),)
            series = self._waits[upstream] = self._store.histogram(metrics.WAIT_AVOIDED, key)
        span = (int.from_bytes(ref[:16], "big"), int.from_bytes(ref[16:], "big"), sampled)
        self._store.take((), ((series, wait / SECOND, span),), 0)

    def waits_unknown(self, count: int) -> None:
        """Waits that were given up."""
        self._store.add(metrics.WAIT_UNKNOWN, count)


def _source(source: str) -> Attributes:
    return ((n.SESSION_SOURCE, str(source)),)


def observe_process(store: MetricStore, process: psutil.Process | None = None) -> None:
    """Lets the store ask for this process's CPU time, memory, open files (Unix) and threads."""
    own = process or psutil.Process()

    def cpu() -> Observations:
        times = own.cpu_times()
        return ((times.user, ((n.CPU_MODE, "user"),)), (times.system, ((n.CPU_MODE, "system"),)))

    def observe(metric: Metric, read: Callable[[], Observations]) -> None:
        def callback() -> Observations:
            try:
                return read()
            except (OSError, psutil.Error):
                # Reading takes a file descriptor: without one, this is not known, and all else goes out.
                return ()

        store.observe(metric, callback)

    observe(metrics.PROCESS_CPU, cpu)
    observe(metrics.PROCESS_MEMORY, lambda: [(own.memory_info().rss, ())])
    observe(metrics.PROCESS_THREADS, lambda: [(own.num_threads(), ())])
    if psutil.POSIX:
        observe(metrics.PROCESS_FILES, lambda: [(own.num_fds(), ())])
