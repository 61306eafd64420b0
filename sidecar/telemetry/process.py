"""The process's own figures, by psutil, under the names of the conventions.

Owns `process.*`. Nothing is read until a snapshot asks, and nothing of another process is ever read.
"""

from collections.abc import Callable

import psutil

from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import Metric, MetricStore, Observations


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
