"""The process's own figures, by psutil, under the names of the conventions.

Owns `process.*`. Nothing is read until a snapshot asks, and nothing of another process is ever read.
"""

from collections.abc import Callable

import psutil

from sidecar.telemetry import attributes as a
from sidecar.telemetry import names
from sidecar.telemetry.metric_store import Metric, MetricStore, Observations


def observe_process(store: MetricStore, process: psutil.Process | None = None) -> None:
    """Lets the store ask for this process's CPU time, memory, open files (Unix) and threads."""
    own = process or psutil.Process()

    def cpu() -> Observations:
        times = own.cpu_times()
        return ((times.user, ((a.CPU_MODE, "user"),)), (times.system, ((a.CPU_MODE, "system"),)))

    def observe(metric: Metric, read: Callable[[], Observations]) -> None:
        def callback() -> Observations:
            try:
                return read()
            except (OSError, psutil.Error):
                # Reading takes a file descriptor: without one, this is not known, and all else goes out.
                return ()

        store.observe(metric, callback)

    observe(names.PROCESS_CPU, cpu)
    observe(names.PROCESS_MEMORY, lambda: [(own.memory_info().rss, ())])
    observe(names.PROCESS_THREADS, lambda: [(own.num_threads(), ())])
    if psutil.POSIX:
        observe(names.PROCESS_FILES, lambda: [(own.num_fds(), ())])
