"""What a span is made of, and the long way to one: the SDK's own object.

Owns the shape of the two factories (the other one, `encode.py`, gives a span's bytes), that of the way out, and the
SDK's limits, which the SDK does not apply to a span made ready: what goes over a limit is dropped here, the first
being kept, and counted where the exporters look for the count.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Ledger, Signal, State
from sidecar.telemetry.worker import Work

SpanAttributes = dict[str, AttributeValue]
"""Attributes as they are gathered: no value is None."""

_Item = TypeVar("_Item")

Span = bytes | ReadableSpan
"""A span that has ended: its bytes as `ScopeSpans` holds them, or the SDK's object."""

UNSET = Status(StatusCode.UNSET)


class Pipeline(Protocol):
    """The way out, as those who make signals see it. Every method only queues or counts."""

    @property
    def ledger(self) -> Ledger:
        """What became of every item."""

    def span(self, *spans: Span) -> None:
        """Takes spans that have ended."""

    def log(self, record: ReadableLogRecord, /) -> None:
        """Takes a log record."""

    def wait_for(self, waiting: Callable[[], Work], /) -> None:
        """Lets the ledger count what is still to be made."""

    def not_made(self, signal: Signal, count: int, state: State = ..., /) -> None:
        """Counts items that were not made: because the sampler said no, or for want of time (`dropped`)."""


class Layer:
    """Attributes that several spans or lines have in common. Nobody changes them once they are made."""

    __slots__ = ("encoded", "rendered", "values")

    def __init__(self, values: Mapping[str, AttributeValue]) -> None:
        self.values = values
        self.encoded: bytes | None = None
        """What the encoder of spans made of them."""
        self.rendered: bytes | None = None
        """What the log made of them."""


Layers = tuple[Layer, ...]
"""A span's attributes; no key stands in two of them."""


class TraceIds(Protocol):
    """What the spans of one request have in common."""

    @property
    def trace_id(self) -> int:
        """128-bit trace id."""

    @property
    def flags(self) -> TraceFlags:
        """The trace flags."""

    @property
    def state(self) -> TraceState:
        """The trace state."""


class SpanFactory(Protocol):
    """Makes spans ready for export."""

    def build(
        self,
        name: str,
        trace: TraceIds,
        span_id: int,
        *,
        times: tuple[int, int],
        attributes: Layers,
        parent: int | SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = UNSET,
        events: Sequence[tuple[str, int, SpanAttributes]] = (),
        links: Sequence[tuple[SpanContext, str]] = (),
    ) -> Span:
        """A span. `times` are its start and end, ns since the epoch; an end before the start becomes the start.

        `parent` is a span of the same trace, or the caller's. `events` are (name, time, attributes), `links` (context,
        the kind of link).
        """


class ReadableSpans:
    """Builds the SDK's spans, within the limits."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, limits: SpanLimits) -> None:
        self._resource = resource
        self._scope = scope
        self._span_count = limits.max_span_attributes
        self._span_length = limits.max_span_attribute_length
        self._events = limits.max_events
        self._links = limits.max_links
        self._event_count = limits.max_event_attributes
        self._link_count = limits.max_link_attributes
        self._length = limits.max_attribute_length

    def build(
        self,
        name: str,
        trace: TraceIds,
        span_id: int,
        *,
        times: tuple[int, int],
        attributes: Layers,
        parent: int | SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = UNSET,
        events: Sequence[tuple[str, int, SpanAttributes]] = (),
        links: Sequence[tuple[SpanContext, str]] = (),
    ) -> ReadableSpan:
        """See `SpanFactory`."""
        if isinstance(parent, int):
            parent = SpanContext(trace.trace_id, parent, False, trace.flags, trace.state)
        together = {key: value for layer in attributes for key, value in layer.values.items()}
        return ReadableSpan(
            name,
            SpanContext(trace.trace_id, span_id, False, trace.flags, trace.state),
            parent,
            self._resource,
            bounded(together, self._span_count, self._span_length),
            self._bounded_events(events),
            self._bounded_links(links),
            kind,
            status=status,
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=self._scope,
        )

    def _bounded_events(self, events: Sequence[tuple[str, int, SpanAttributes]]) -> Sequence[Event]:
        limit, length = self._event_count, self._length
        kept = events if self._events is None else events[: self._events]
        made = [Event(name, bounded(attributes, limit, length), at) for name, at, attributes in kept]
        return _dropping(made, len(events) - len(kept))

    def _bounded_links(self, links: Sequence[tuple[SpanContext, str]]) -> Sequence[Link]:
        limit, length = self._link_count, self._length
        kept = links if self._links is None else links[: self._links]
        made = [Link(context, bounded({n.LINK: kind}, limit, length)) for context, kind in kept]
        return _dropping(made, len(links) - len(kept))


_LIMITED = ("max_span_attributes", "max_events", "max_links", "max_event_attributes", "max_link_attributes")
_ENOUGH = 128
"""What no span of ours has more of: attributes, events, links. It is the SDK's own limit unless it is told another."""


def are_limited(limits: SpanLimits) -> bool:
    """Whether a limit could cut a span of ours."""
    counts = [getattr(limits, name) for name in _LIMITED]
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    return any(length is not None for length in lengths) or any(
        count is not None and count < _ENOUGH for count in counts
    )


def bounded(
    attributes: SpanAttributes, count: int | None, length: int | None
) -> Mapping[str, AttributeValue]:
    """The attributes within the limits: at most `count` of them, texts of at most `length` characters."""
    if length is not None:
        attributes = {key: _cut(value, length) for key, value in attributes.items()}
    if count is None or len(attributes) <= count:
        return attributes
    kept = BoundedAttributes(None, dict(list(attributes.items())[:count]))
    kept.dropped = len(attributes) - count
    return kept


def _cut(value: AttributeValue, length: int) -> AttributeValue:
    if isinstance(value, str):
        return value[:length]
    if isinstance(value, list | tuple):
        return [item[:length] if isinstance(item, str) else item for item in value]
    return value


def _dropping(items: list[_Item], dropped: int) -> Sequence[_Item]:
    """The items, in the SDK's list that tells how many were dropped when some were."""
    if not dropped:
        return items
    listed: BoundedList[_Item] = BoundedList(None)
    listed.extend(items)
    listed.dropped = dropped
    return listed
