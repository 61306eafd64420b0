"""The sidecar with a sampler inside: `python -m bench.profiled run`, as `python -m sidecar run`.

Owns the sampler: a signal that comes with CPU time looks at what the event loop's thread runs, weighted by the CPU
time which that thread has used since the last look; other threads are taken from their own clocks. SIGUSR1 begins,
SIGUSR2 ends and writes to the file that BENCH_PROFILE names. It changes nothing in the sidecar.
"""

import ast
import dis
import gc
import json
import linecache
import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

import sidecar
from sidecar.cli import main

EVERY = 0.001
"""Seconds of CPU time between two looks; the kernel's own tick may make it longer."""
LOOP = "event loop and sockets"
_PACKAGE = str(Path(sidecar.__file__).parent) + os.sep
_ENTRANCE = {"app.py:run", "cli.py:main", "cli.py:_run"}
_SOCKET = {"write", "writelines", "abort", "close", "pause_reading", "resume_reading"}
"""Methods of a transport: the time of a call is the loop's, whoever calls."""

Where = tuple[CodeType, int]


class Sampler:
    """Looks, and counts seconds of CPU by place."""

    def __init__(self) -> None:
        self._seconds: Counter[tuple[Where, Where]] = Counter()
        self._looks = 0
        self._last = 0.0
        self._collecting = 0.0
        self._garbage = 0.0
        self._began: dict[str, float] = {}

    def begin(self, *_: object) -> None:
        """SIGUSR1."""
        self._seconds.clear()
        self._looks, self._garbage = 0, 0.0
        gc.callbacks.append(self._watch_garbage)
        self._began = _clocks()
        self._last = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    def look(self, _number: int, frame: FrameType | None) -> None:
        """SIGPROF."""
        now = time.thread_time()
        self._looks += 1
        if frame is not None:
            self._seconds[_place(frame)] += now - self._last  # type: ignore[assignment] # seconds, not a number of things
        self._last = time.thread_time()

    def end(self, *_: object) -> None:
        """SIGUSR2."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.callbacks.remove(self._watch_garbage)
        used = {name: seconds - self._began.get(name, 0.0) for name, seconds in _clocks().items()}
        path = Path(os.environ["BENCH_PROFILE"])
        made = path.with_suffix(".new")
        made.write_text(json.dumps(self._told(used)), encoding="utf-8")
        made.rename(path)

    def _told(self, used: dict[str, float]) -> dict[str, object]:
        main_thread = used.pop("MainThread")
        process = used.pop("process")
        seen = sum(self._seconds.values())
        by_room: Counter[str] = Counter()
        by_function: Counter[str] = Counter()
        for (inner, outer), seconds in self._seconds.items():
            share = seconds / seen * main_thread
            by_room[_room(outer)] += share  # type: ignore[assignment] # seconds
            by_function[_function(inner)] += share  # type: ignore[assignment] # seconds
        return {
            "looks": self._looks,
            "process": process,
            "garbage": self._garbage,
            "rooms": dict(by_room),
            "threads": {
                "worker threads": sum(used.values()),
                "rest": process - main_thread - sum(used.values()),
            },
            "functions": dict(by_function.most_common(40)),
        }

    def _watch_garbage(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._garbage += time.thread_time() - self._collecting


def _clocks() -> dict[str, float]:
    """Seconds of CPU of the process and of each of its Python threads."""
    clocks = {"process": time.process_time()}
    for thread in threading.enumerate():
        if thread.ident is not None:
            clocks[thread.name] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return clocks


def _place(frame: FrameType) -> tuple[Where, Where]:
    """The innermost place, and the innermost one in the sidecar.

    A signal is seen at the next safe point. Where that is a function's first instruction, the time before it
    was its caller's.
    """
    here: FrameType | None = frame
    if frame.f_lasti <= _first(frame.f_code) and frame.f_back is not None:
        here = frame.f_back
    inner = here
    while here is not None and not here.f_code.co_filename.startswith(_PACKAGE):
        here = here.f_back
    outer = here or inner or frame
    inner = inner or frame
    return (inner.f_code, inner.f_lasti), (outer.f_code, outer.f_lasti)


@cache
def _first(code: CodeType) -> int:
    """Where a function's own work begins."""
    return next((one.offset for one in dis.get_instructions(code) if one.opname == "RESUME"), -1)


def _room(where: Where) -> str:
    """The room that a place belongs to."""
    code, _ = where
    if not code.co_filename.startswith(_PACKAGE):
        return LOOP
    path = code.co_filename.removeprefix(_PACKAGE)
    if f"{path}:{code.co_name}" in _ENTRANCE or _called(where) in _SOCKET:
        return LOOP
    return path.partition(os.sep)[0].removesuffix(".py")


def _called(where: Where) -> str | None:
    """The name of the method that a place calls, if it does."""
    code, at = where
    first, last, begin, end = [*code.co_positions()][at // 2]
    if first is None or first != last or begin is None or end is None:
        return None
    text = linecache.getline(code.co_filename, first).encode()[begin:end].decode()
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def _function(where: Where) -> str:
    code, _ = where
    path = Path(code.co_filename)
    short = path.relative_to(_PACKAGE) if path.is_relative_to(_PACKAGE) else Path(path.parent.name, path.name)
    return f"{short}:{code.co_qualname}"


if __name__ == "__main__":
    sampler = Sampler()
    signal.signal(signal.SIGPROF, sampler.look)
    signal.signal(signal.SIGUSR1, sampler.begin)
    signal.signal(signal.SIGUSR2, sampler.end)
    sys.exit(main())
