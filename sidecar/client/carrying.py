"""How the ids of a block reach threads that are started inside it.

Owns the context variable, and two wrappers: around `Thread.start` and `ThreadPoolExecutor.submit`, because a thread
begins with an empty context. Outside a block they do nothing, and nothing but the variable is carried. The
reasons are in `docs/decisions/ids-in-threads.md`.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, partial, wraps
from threading import Thread
from typing import Any, TypeVar

from opentelemetry import context as otel
from opentelemetry import trace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named:
    """What a block says. `trace_context` is that of the place where a thread was started."""

    session_id: str
    conversation_id: str | None = None
    trace_context: otel.Context | None = None


current: ContextVar[Named | None] = ContextVar("sidecar_session", default=None)
"""The innermost block around this place, if there is one."""


@cache
def carry_into_threads() -> None:
    """Puts the wrappers in place, once; a race of two first blocks may put them twice, which does no harm."""
    Thread.start = _starting(Thread.start)  # type: ignore[assignment, method-assign]
    ThreadPoolExecutor.submit = _submitting(ThreadPoolExecutor.submit)  # type: ignore[method-assign]


def _starting(start: Callable[[Thread], None]) -> Callable[[Thread], None]:
    @wraps(start)
    def starting(self: Thread) -> None:
        named = _leaving()
        if named is not None and "run" not in vars(self):
            run = self.run

            def run_named() -> None:
                del self.run  # the instance's own, which would keep the thread in memory
                current.set(named)
                run()

            self.run = run_named  # type: ignore[method-assign]
        start(self)

    return starting


def _submitting(submit: Callable[..., Future[T]]) -> Callable[..., Future[T]]:
    @wraps(submit)
    def submitting(self: ThreadPoolExecutor, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        named = _leaving()
        if named is None:
            return submit(self, fn, *args, **kwargs)
        # A worker thread that is started for this outlives the block: it must not take the ids for its own.
        token = current.set(None)
        try:
            return submit(self, partial(_run, named, fn), *args, **kwargs)
        finally:
            current.reset(token)

    return submitting


def _leaving() -> Named | None:
    """What goes along from here into another thread."""
    named = current.get()
    if named is None or not trace.get_current_span().get_span_context().is_valid:
        return named
    return replace(named, trace_context=otel.get_current())


def _run(named: Named, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    token = current.set(named)
    try:
        return fn(*args, **kwargs)
    finally:
        current.reset(token)
