"""The one factory of spans: each is built once, when what it tells has ended.

Owns the resource, the scope and the SDK's limits, which the SDK does not apply to a span made ready: what
goes over a limit is dropped here, the first being kept, and counted where the exporters look for the count.
It also holds the shape of the way out.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from sidecar.telemetry.ledger import Ledger, Signal

SpanAttributes = dict[str, AttributeValue]
"""Attributes as they are gathered: no value is None."""

_Item = TypeVar("_Item")

UNSET = Status(StatusCode.UNSET)


class Pipeline(Protocol):
    """The way out, as those who make signals see it. Every method only queues or counts."""

    @property
    def ledger(self) -> Ledger:
        """What became of every item."""

    def span(self, *spans: ReadableSpan) -> None:
        """Takes spans that have ended."""

    def log(self, record: ReadableLogRecord, /) -> None:
        """Takes a log record."""

    def not_sampled(self, signal: Signal, count: int, /) -> None:
        """Counts items that were not made because the sampler said no."""


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


class LayeredSpan(ReadableSpan):
    """A span as the SDK's exporters read it; its attributes are put together only where somebody asks for them."""

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        layers: Layers,
        *,
        about: tuple[Resource, InstrumentationScope],
        kind: SpanKind,
        status: Status,
        times: tuple[int, int],
        events: Sequence[Event],
        links: Sequence[Link],
    ) -> None:
        # Not the base's own: it would make a resource, and set the attributes.
        self._name = name
        self._context = context
        self._parent = parent
        self.layers = layers
        self._resource, self._instrumentation_scope = about
        self._instrumentation_info = None
        self._kind = kind
        self._status = status
        self._start_time, self._end_time = times
        self._events = events
        self._links = links

    @property
    def _attributes(self) -> Mapping[str, AttributeValue]:  # type: ignore[override]  # the base only reads it
        if len(self.layers) == 1:
            return self.layers[0].values
        return {key: value for layer in self.layers for key, value in layer.values.items()}

    @property
    def dropped_attributes(self) -> int:
        """How many were over the limit: what was cut has one layer."""
        values = self.layers[0].values
        return values.dropped if isinstance(values, BoundedAttributes) else 0


class SpanFactory:
    """Builds spans within the limits."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, limits: SpanLimits) -> None:
        self._about = (resource, scope)
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
        context: SpanContext,
        *,
        start: int,
        end: int,
        attributes: SpanAttributes | Layers,
        parent: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = UNSET,
        events: Sequence[tuple[str, int, SpanAttributes]] = (),
        links: Sequence[tuple[SpanContext, SpanAttributes]] = (),
    ) -> ReadableSpan:
        """A span, ready for export. Times in ns since the epoch; an end before the start becomes the start.

        `events` are (name, time, attributes), `links` (context, attributes).
        """
        return LayeredSpan(
            name,
            context,
            parent,
            self._bounded_layers(attributes),
            about=self._about,
            kind=kind,
            status=status,
            times=(start, max(start, end)),
            events=self._bounded_events(events) if events else (),
            links=self._bounded_links(links) if links else (),
        )

    def _bounded_layers(self, attributes: SpanAttributes | Layers) -> Layers:
        """The attributes within the limits: as they are, where nothing is over them."""
        layers = attributes if isinstance(attributes, tuple) else (Layer(attributes),)
        count, length = self._span_count, self._span_length
        if length is None and (count is None or sum([len(layer.values) for layer in layers]) <= count):
            return layers
        together = {key: value for layer in layers for key, value in layer.values.items()}
        return (Layer(bounded(together, count, length)),)

    def _bounded_events(self, events: Sequence[tuple[str, int, SpanAttributes]]) -> Sequence[Event]:
        limit, length = self._event_count, self._length
        kept = events if self._events is None else events[: self._events]
        made = [Event(name, bounded(attributes, limit, length), at) for name, at, attributes in kept]
        return _dropping(made, len(events) - len(kept))

    def _bounded_links(self, links: Sequence[tuple[SpanContext, SpanAttributes]]) -> Sequence[Link]:
        limit, length = self._link_count, self._length
        kept = links if self._links is None else links[: self._links]
        made = [Link(context, bounded(attributes, limit, length)) for context, attributes in kept]
        return _dropping(made, len(links) - len(kept))


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
