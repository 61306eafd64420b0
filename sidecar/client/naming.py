"""Which session and conversation the calls of this place in the app belong to, as header fields.

Owns the `with session(...)` block and what it adds to a call, the app's current trace included. It changes nothing
of the app's own OpenTelemetry, and knows no HTTP client: `through_sidecar.py` and hooks of clients ask it.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.client.carrying import Named, carry_into_threads, current
from sidecar.core.identity import tidy

SESSION_HEADER = "X-Sidecar-Session-Id"
CONVERSATION_HEADER = "X-Sidecar-Conversation-Id"

_PROPAGATOR = TraceContextTextMapPropagator()


class Request(Protocol):
    """As much of an httpx request as a hook needs."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """The header fields that will be sent."""


@contextmanager
def session(session_id: str, *, conversation: str | None = None) -> Iterator[None]:
    """Every call made inside the block belongs to this session, and to this conversation of it.

    That holds for what is started inside, too, also if it ends later: tasks, threads, and what is submitted to an
    executor. Blocks may be nested: the innermost one counts, as a whole. Without `conversation` the sidecar's
    own rules find it (`main`, unless the call says more).

    Raises:
        ValueError: an id is not made of 1 or more printable ASCII characters. (Long ones are shortened by the
            sidecar.)
    """
    for what, value in (("session", session_id), ("conversation", conversation)):
        if value is not None and tidy(value) is None:
            raise ValueError(f"{what} id: {value!r} is not made of printable ASCII characters")
    carry_into_threads()
    token = current.set(Named(session_id, conversation))
    try:
        yield
    finally:
        current.reset(token)


def session_headers() -> dict[str, str]:
    """The header fields of a call made here: the ids of the block, and W3C trace context if a span is active.

    For clients that take header fields per call. Empty where there is neither.
    """
    headers: dict[str, str] = {}
    named = current.get()
    if named is not None:
        headers[SESSION_HEADER] = named.session_id
        if named.conversation_id is not None:
            headers[CONVERSATION_HEADER] = named.conversation_id
    own_trace = trace.get_current_span().get_span_context().is_valid
    context = named.trace_context if named is not None and not own_trace else None
    _PROPAGATOR.inject(headers, context=context)
    return headers


def add_session_headers(request: Request) -> None:
    """A request hook of an httpx client: adds `session_headers()`; fields that are there already stay.

    `httpx.Client(event_hooks={"request": [add_session_headers]})`
    """
    for name, value in session_headers().items():
        request.headers.setdefault(name, value)


async def add_session_headers_async(request: Request) -> None:
    """The same for `httpx.AsyncClient`, which awaits its hooks."""
    add_session_headers(request)
