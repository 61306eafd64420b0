"""The machine: its cores and who runs where, what a process has used of them, and what it all is called.

Owns pinning, the CPU clock and the memory of processes, and the description that stands beside every figure.
It must never measure anything by itself.
"""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

LIBRARIES = ("aiohttp", "uvloop", "httptools", "msgspec", "opentelemetry-sdk", "session-sidecar")


@cache
def cores() -> tuple[set[int], set[int]]:
    """The core of the proxy, and those of everything else; the same one twice where there is only one.

    Told once, since a run pins itself to the second ones.
    """
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, set(usable[1:]) or {usable[0]}


@contextmanager
def on(chosen: set[int]) -> Iterator[None]:
    """What is started inside runs on these cores, for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            for child in task.read_text().split():
                found += family(int(child))
    return found


def _together(pid: int, read: Callable[[int], float]) -> float:
    """What is read of a process, and of those that came of it and have not ended meanwhile."""
    total = read(pid)
    for one in family(pid)[1:]:
        with suppress(OSError):
            total += read(one)
    return total


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, and of its children, to the nanosecond."""
    # The kernel's clock of another process, as clock_getcpuclockid(3) makes its number.
    return _together(pid, lambda one: time.clock_gettime((~one << 3) | 2))


def resident_mb(pid: int) -> float:
    """Resident memory (MB of 1,000,000 bytes) of a process and its children; shared pages count in each."""

    def kilobytes(one: int) -> float:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
        return int(found[1]) if found else 0

    return _together(pid, kilobytes) * 1024 / 1e6


def program(name: str) -> str | None:
    """A program's path: in the cache of the stack's test, on PATH, or where system programs are."""
    places = [os.environ.get("STACK_CACHE", ".cache/stack"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(places))


def describe() -> dict[str, str]:
    """What the machine and the programs on it are."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    said = {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": str(len(set.union(*cores()))),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "virtual": "yes" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "not told",
        "python": platform.python_version(),
    }
    said |= {name: metadata.version(name) for name in LIBRARIES}
    for name, flag in (("nginx", "-v"), ("wrk", "-v"), ("otelcol", "--version"), ("litellm", "--version")):
        said[name] = _version(name, flag)
    return said


def _version(name: str, flag: str) -> str:
    path = program(name)
    if path is None:
        return "missing"
    done = subprocess.run((path, flag), capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
