"""What spans and log records are made of, and the two ways to each: its bytes, or the SDK's own object.

`EncodedSpans` and `EncodedRecords` write a part of `ExportTraceServiceRequest` and of `ExportLogsServiceRequest`
(opentelemetry-proto 1.x, whose field numbers are fixed for good) directly: a fraction of the official encoder's time, since
the worker shares the interpreter. What they give must equal the official encoder's output field by field; the tests hold that.
`ReadableSpans` and `ReadableRecords` are the long way, for the console and for the SDK's limits, which the SDK does not apply
to what is made ready: what goes over a limit is dropped here, the first being kept, and counted where the exporters look
for the count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import call
from struct import Struct
from typing import Any, Protocol, TypeVar

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from sidecar.core.turns import Ref
from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Ledger, Signal, State
from sidecar.telemetry.queues import Worker
from sidecar.telemetry.trace import FLAGS, NO_STATE, ref_ids

SpanAttributes = dict[str, AttributeValue]
"""Attributes as they are gathered: no value is None."""

_Item = TypeVar("_Item")

Span = bytes | ReadableSpan
"""A span that has ended: its bytes as `ScopeSpans` holds them, or the SDK's object."""

Record = bytes | ReadableLogRecord
"""A log record: its bytes as `ScopeLogs` holds them, or the SDK's object."""

UNSET = Status(StatusCode.UNSET)


class WayOut(Protocol):
    """The way out, as those who make signals see it. Every method only queues or counts."""

    @property
    def ledger(self) -> Ledger:
        """What became of every item."""

    def span(self, *spans: Span) -> None:
        """Takes spans that have ended."""

    @property
    def roomy(self) -> bool:
        """Less than half of the spans that may wait do."""

    def log(self, *records: Record) -> None:
        """Takes log records."""

    def wait_for(self, worker: Worker, /) -> None:
        """Lets the ledger count what a worker is still to make."""

    def not_made(self, signal: Signal, count: int, state: State = ..., /) -> None:
        """Counts items that were not made: because the sampler said no, or for want of time (`dropped`)."""


class Layer:
    """Attributes that several spans or lines have in common. Nobody changes them once they are made."""

    pairs: list[bytes] | None = None
    """What an encoder made of each."""
    encoded: bytes | None = None
    """All of them as a span has them."""
    recorded: bytes | None = None
    """As a log record has them."""
    rendered: bytes | None = None
    """What the log made of them."""

    def __init__(self, values: Mapping[str, AttributeValue]) -> None:
        self.values = values


Layers = tuple[Layer, ...]
"""The attributes of a span or a log record; no key stands in two of them."""


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


class SpanIds(Protocol):
    """Where a log record's event happened."""

    @property
    def trace_id(self) -> int:
        """128-bit trace id."""

    @property
    def span_id(self) -> int:
        """64-bit id."""

    @property
    def trace_flags(self) -> TraceFlags:
        """The flags of its trace."""


Linked = tuple[SpanContext | Ref, str]
"""What a span is linked to, and the kind of link."""


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
        links: Sequence[Linked] = (),
    ) -> Span:
        """A span. `times` are its start and end, ns since the epoch; an end before the start becomes the start.

        `parent` is a span of the same trace, or the caller's. `events` are (name, time, attributes).
        """


class RecordFactory(Protocol):
    """Makes log records ready for export."""

    def build(
        self,
        name: str,
        severity: SeverityNumber,
        text: str,
        *,
        times: tuple[int, int],
        attributes: Layers,
        span: SpanIds | None = None,
    ) -> Record:
        """A record of the event `name`, which is its body as well. `text` is the severity in the source's own words.

        `times` are when it happened and when that was noted, ns since the epoch; `span` is where it happened.
        """


class ReadableSpans:
    """Builds the SDK's spans, within the limits."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, limits: SpanLimits) -> None:
        self._resource = resource
        self._scope = scope
        self._limits = limits

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
        links: Sequence[Linked] = (),
    ) -> ReadableSpan:
        """See `SpanFactory`."""
        limits = self._limits
        if isinstance(parent, int):
            parent = SpanContext(trace.trace_id, parent, False, trace.flags, trace.state)
        return ReadableSpan(
            name,
            SpanContext(trace.trace_id, span_id, False, trace.flags, trace.state),
            parent,
            self._resource,
            _bounded(_together(attributes), limits.max_span_attributes, limits.max_span_attribute_length),
            self._bounded_events(events),
            self._bounded_links(links),
            kind,
            status=status,
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=self._scope,
        )

    def _bounded_events(self, events: Sequence[tuple[str, int, SpanAttributes]]) -> Sequence[Event]:
        limit, length = self._limits.max_event_attributes, self._limits.max_attribute_length
        kept = events[: self._limits.max_events]
        made = [Event(name, _bounded(attributes, limit, length), at) for name, at, attributes in kept]
        return _dropping(made, len(events) - len(kept))

    def _bounded_links(self, links: Sequence[Linked]) -> Sequence[Link]:
        limit, length = self._limits.max_link_attributes, self._limits.max_attribute_length
        kept = links[: self._limits.max_links]
        made = [Link(_context(linked), _bounded({n.LINK: kind}, limit, length)) for linked, kind in kept]
        return _dropping(made, len(links) - len(kept))


def _context(linked: SpanContext | Ref) -> SpanContext:
    """Whether a request was sampled is not exported with a link to it."""
    return SpanContext(*ref_ids(linked), False, FLAGS[3]) if isinstance(linked, bytes) else linked


_NOWHERE = Context()


class ReadableRecords:
    """Builds the SDK's log records, within the limits of all attributes."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, limits: SpanLimits) -> None:
        self._resource = resource
        self._scope = scope
        self._count = limits.max_attributes
        self._length = limits.max_attribute_length

    def build(
        self,
        name: str,
        severity: SeverityNumber,
        text: str,
        *,
        times: tuple[int, int],
        attributes: Layers,
        span: SpanIds | None = None,
    ) -> ReadableLogRecord:
        """See `RecordFactory`."""
        at, observed = times
        where = _NOWHERE
        if span is not None:
            context = SpanContext(span.trace_id, span.span_id, False, span.trace_flags)
            where = set_span_in_context(NonRecordingSpan(context), _NOWHERE)
        record = LogRecord(
            timestamp=at,
            observed_timestamp=observed,
            context=where,
            severity_text=text,
            severity_number=severity,
            body=name,
            attributes=_bounded(_together(attributes), self._count, self._length),
            event_name=name,
        )
        return ReadableLogRecord(record, self._resource, self._scope)


def _together(attributes: Layers) -> SpanAttributes:
    return {key: value for layer in attributes for key, value in layer.values.items()}


def _bounded(
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


_CACHE_LIMIT = 4096
"""Encoded names kept, of which the oldest go; and ways to encode attributes, over which they are forgotten all at once."""
_KNOWN_LIMIT, _KNOWN_LENGTH = 256, 100
"""Encoded pairs kept of a key, over which they are forgotten all at once, and the length (bytes) up to which they are."""

# Tags: the field's number times 8, plus how it is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
_TIMES = Struct("<BQBQ")
_TIME = Struct("<BQ")
_DOUBLE = Struct("<Bd")
_FLAGS = Struct("<I")
_LOCAL, _REMOTE = _FLAGS.pack(0x100), _FLAGS.pack(0x300)
_SPAN_FLAGS = b"\x85\x01"


def _long_varint(number: int) -> bytes:
    return bytes((number & 0x7F | 0x80,)) + _long_varint(number >> 7) if number > 0x7F else bytes((number,))


_VARINTS = [_long_varint(number) for number in range(4096)]


def _varint(number: int) -> bytes:
    return _VARINTS[number] if number < 4096 else _long_varint(number)


def _text(tag: bytes, text: str) -> bytes:
    """A string field; what is not UTF-8 is replaced."""
    if not text:
        return b""
    body = text.encode("utf-8", "replace")
    return tag + _varint(len(body)) + body


def _message(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _fields(tag: bytes, messages: Sequence[bytes]) -> bytes:
    """Messages with their lengths as the fields of another one."""
    return tag + tag.join(messages) if messages else b""


def _value(value: object) -> bytes:
    """An `AnyValue`. Raises `ValueError` or `TypeError` for what cannot be one."""
    match value:
        case str():
            return _message(b"\x0a", value.encode())
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError(value)
            return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            return _DOUBLE.pack(0x21, value)
        case bytes():
            return _message(b"\x3a", value)
        case None:
            return b""
        case Mapping():
            pairs = [_pair(str(key).encode(), item) for key, item in value.items()]
            return _message(b"\x32", _fields(b"\x0a", pairs))
        case Sequence():
            return _message(b"\x2a", b"".join([_message(b"\x0a", _value(item)) for item in value]))
        case _:
            raise TypeError(value)


def _pair(key: bytes, value: object) -> bytes:
    """A `KeyValue`, with its length before it. Raises `ValueError` (a text that is no UTF-8 too) or `TypeError`."""
    body = _message(b"\x12", _value(value))
    if key:
        body = _message(b"\x0a", key) + body
    return _varint(len(body)) + body


def _left_out_if_bad(key: bytes, value: object) -> bytes:
    """The pair, or nothing."""
    try:
        return _pair(key, value)
    except (ValueError, TypeError):
        return b""


def _status(status: Status) -> bytes:
    body = _text(b"\x12", status.description or "") + b"\x18%c" % status.status_code.value
    return _message(b"\x7a", body)


class _Known(dict[Any, bytes]):
    """The pairs of one key by their values, all of one type: made when they are asked for, and kept if they are short."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __missing__(self, value: object) -> bytes:
        pair = _left_out_if_bad(self._key, value)
        if len(pair) <= _KNOWN_LENGTH:
            if len(self) >= _KNOWN_LIMIT:
                self.clear()
            self[value] = pair
        return pair


class _Pairs:
    """Encodes attributes as pairs, each with its length before it. For the worker's thread.

    Attributes with the same keys and the same types of values go the same ways, which are remembered.
    """

    def __init__(self) -> None:
        self._ways: dict[tuple[object, ...], list[Callable[[Any], bytes]]] = {}
        self._keys: dict[tuple[str, type], Callable[[Any], bytes]] = {}

    def __call__(self, attributes: Mapping[str, Any]) -> list[bytes]:
        """One that cannot be encoded is left out, as the official encoder does."""
        values = attributes.values()
        ways = self._ways.get((*attributes, *map(type, values))) or self._find(attributes)
        pairs = list(map(call, ways, values))
        return pairs if all(pairs) else [pair for pair in pairs if pair]

    def fields(self, tag: bytes, layer: Layer) -> bytes:
        """A layer's as fields of a message; the pairs are made once."""
        pairs = layer.pairs
        if pairs is None:
            pairs = layer.pairs = self(layer.values)
        return tag + tag.join(pairs) if pairs else b""

    def _find(self, attributes: Mapping[str, Any]) -> list[Callable[[Any], bytes]]:
        kinds = [*map(type, attributes.values())]
        if max(len(self._ways), len(self._keys)) >= _CACHE_LIMIT:
            self._ways.clear()
            self._keys.clear()
        ways: list[Callable[[Any], bytes]] = []
        for one in zip(attributes, kinds, strict=True):
            if one not in self._keys:
                self._keys[one] = _way(*one)
            ways.append(self._keys[one])
        self._ways[*attributes, *kinds] = ways
        return ways


def _way(name: str, kind: type) -> Callable[[Any], bytes]:
    try:
        key = name.encode()
    except UnicodeEncodeError:
        return lambda _: b""
    if kind is float:
        before = _pair(key, 0.0)[:-8]
        return partial(Struct(f"<{len(before)}sd").pack, before)
    return _Known(key).__getitem__ if kind in (str, int, bool) else partial(_left_out_if_bad, key)


@lru_cache(_CACHE_LIMIT)
def _span_name(name: str, kind: SpanKind) -> bytes:
    return _text(b"\x2a", name) + bytes((0x30, kind.value + 1))


@lru_cache(_CACHE_LIMIT)
def _event_name(name: str, severity: SeverityNumber, text: str) -> bytes:
    """A record's name, which is its body as well, and how severe it is."""
    severe = b"\x10%c" % severity.value + _text(b"\x1a", text)
    return severe + _message(b"\x2a", _value(name)) + _text(b"\x62", name)


@lru_cache(_CACHE_LIMIT)
def _of_link(kind: str) -> bytes:
    """What stands between a link's ids and its flags."""
    return _fields(b"\x22", [_pair(n.LINK.encode(), kind)]) + b"\x35"


class EncodedSpans:
    """Builds spans as their bytes. For the worker's thread."""

    def __init__(self) -> None:
        self._pairs = _Pairs()

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
        links: Sequence[Linked] = (),
    ) -> bytes:
        """See `SpanFactory`: a `Span`, with its tag and length, as a part of `ScopeSpans`."""
        ids = trace.trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big")
        parts = [b"\x0a\x10%b\x12\x08%b" % ids]
        if trace.state is not NO_STATE and trace.state:
            parts.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in trace.state.items())))
        flags = _LOCAL
        if parent is not None:
            if not isinstance(parent, int):
                flags = _REMOTE if parent.is_remote else _LOCAL
                parent = parent.span_id
            parts.append(b"\x22\x08" + parent.to_bytes(8, "big"))
        parts += (
            _span_name(name, kind),
            _TIMES.pack(0x39, times[0], 0x41, max(times)),
            *[layer.encoded or self._layer(layer) for layer in attributes],
        )
        if events:
            parts += [_message(b"\x5a", self._event(*event)) for event in events]
        if links:
            parts += [self._link(*link) for link in links]
        parts += (b"\x7a\x00" if status is UNSET else _status(status), _SPAN_FLAGS, flags)
        return _message(b"\x12", b"".join(parts))

    def _layer(self, layer: Layer) -> bytes:
        layer.encoded = encoded = self._pairs.fields(b"\x4a", layer)
        return encoded

    def _event(self, name: str, at: int, attributes: SpanAttributes) -> bytes:
        about = _fields(b"\x1a", self._pairs(attributes))
        return b"".join((_TIME.pack(0x09, at), _text(b"\x12", name), about))

    @staticmethod
    def _link(linked: SpanContext | Ref, kind: str) -> bytes:
        flags = _LOCAL
        if not isinstance(linked, bytes):
            flags = _REMOTE if linked.is_remote else _LOCAL
            linked = linked.trace_id.to_bytes(16, "big") + linked.span_id.to_bytes(8, "big")
        return _message(
            b"\x6a", b"\x0a\x10%b\x12\x08%b%b%b" % (linked[:16], linked[16:], _of_link(kind), flags)
        )


class EncodedRecords:
    """Builds log records as their bytes. For the worker's thread."""

    def __init__(self) -> None:
        self._pairs = _Pairs()

    def build(
        self,
        name: str,
        severity: SeverityNumber,
        text: str,
        *,
        times: tuple[int, int],
        attributes: Layers,
        span: SpanIds | None = None,
    ) -> bytes:
        """See `RecordFactory`: a `LogRecord`, with its tag and length, as a part of `ScopeLogs`."""
        parts = [
            _TIMES.pack(0x09, times[0], 0x59, times[1]),
            _event_name(name, severity, text),
            *[layer.recorded or self._layer(layer) for layer in attributes],
        ]
        if span is not None:
            ids = span.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big")
            parts += (b"\x45", _FLAGS.pack(span.trace_flags), b"\x4a\x10%b\x52\x08%b" % ids)
        return _message(b"\x12", b"".join(parts))

    def _layer(self, layer: Layer) -> bytes:
        layer.recorded = recorded = self._pairs.fields(b"\x32", layer)
        return recorded


class Frame:
    """What stands around spans, or log records, in a message: their resource and their scope, encoded once."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        pairs = _Pairs()
        self._resource = _message(b"\x0a", _fields(b"\x0a", pairs(resource.attributes)))
        about = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version or "")
        self._scope = _message(b"\x0a", about + _fields(b"\x1a", pairs(scope.attributes or {})))
        self._resource_schema = _text(b"\x1a", resource.schema_url)
        self._scope_schema = _text(b"\x1a", scope.schema_url or "")

    def around(self, items: Iterable[bytes]) -> bytes:
        """An `ExportTraceServiceRequest`, or an `ExportLogsServiceRequest`: they have the same fields."""
        of_scope = _message(b"\x12", b"".join((self._scope, *items, self._scope_schema)))
        return _message(b"\x0a", self._resource + of_scope + self._resource_schema)
