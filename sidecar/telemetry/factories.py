"""What spans and log records are made of, and the two ways to each: its bytes, or the SDK's own object.

`EncodedSpans` and `EncodedRecords` write a part of `ExportTraceServiceRequest` and of `ExportLogsServiceRequest`
(opentelemetry-proto 1.x, whose field numbers are fixed for good) directly: a fraction of the official encoder's time, since
the worker shares the interpreter. What they give must equal the official encoder's output field by field; the tests hold that.
`ReadableSpans` and `ReadableRecords` are the long way, for the console and for the SDK's limits, which the SDK does not apply
to what is made ready: what goes over a limit is dropped here, the first being kept, and counted where the exporters look
for the count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
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

from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Ledger, Signal, State
from sidecar.telemetry.queues import Work

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

    def log(self, record: Record, /) -> None:
        """Takes a log record."""

    def wait_for(self, waiting: Callable[[], Work], /) -> None:
        """Lets the ledger count what is still to be made."""

    def not_made(self, signal: Signal, count: int, state: State = ..., /) -> None:
        """Counts items that were not made: because the sampler said no, or for want of time (`dropped`)."""


class Layer:
    """Attributes that several spans or lines have in common. Nobody changes them once they are made."""

    __slots__ = ("encoded", "recorded", "rendered", "values")

    def __init__(self, values: Mapping[str, AttributeValue]) -> None:
        self.values = values
        self.encoded: bytes | None = None
        """What the encoder of spans made of them."""
        self.recorded: bytes | None = None
        """What the encoder of log records did."""
        self.rendered: bytes | None = None
        """What the log made of them."""


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
        span: SpanContext | None = None,
    ) -> Record:
        """A record of the event `name`, which is its body as well. `text` is the severity in the source's own words.

        `times` are when it happened and when that was noted, ns since the epoch; `span` is where it happened.
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
        return ReadableSpan(
            name,
            SpanContext(trace.trace_id, span_id, False, trace.flags, trace.state),
            parent,
            self._resource,
            _bounded(_together(attributes), self._span_count, self._span_length),
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
        made = [Event(name, _bounded(attributes, limit, length), at) for name, at, attributes in kept]
        return _dropping(made, len(events) - len(kept))

    def _bounded_links(self, links: Sequence[tuple[SpanContext, str]]) -> Sequence[Link]:
        limit, length = self._link_count, self._length
        kept = links if self._links is None else links[: self._links]
        made = [Link(context, _bounded({n.LINK: kind}, limit, length)) for context, kind in kept]
        return _dropping(made, len(links) - len(kept))


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
        span: SpanContext | None = None,
    ) -> ReadableLogRecord:
        """See `RecordFactory`."""
        at, observed = times
        record = LogRecord(
            timestamp=at,
            observed_timestamp=observed,
            context=_NOWHERE if span is None else set_span_in_context(NonRecordingSpan(span), _NOWHERE),
            severity_text=text,
            severity_number=severity,
            body=name,
            attributes=_bounded(_together(attributes), self._count, self._length),
            event_name=name,
        )
        return ReadableLogRecord(record, self._resource, self._scope)


_LIMITED = ("max_span_attributes", "max_events", "max_links", "max_event_attributes", "max_link_attributes")
_ENOUGH = 128
"""What no span or record of ours has more of: attributes, events, links. It is the SDK's own limit unless it is told another."""


def spans_are_limited(limits: SpanLimits) -> bool:
    """Whether a limit could cut a span of ours."""
    counts = [getattr(limits, name) for name in _LIMITED]
    lengths = (limits.max_attribute_length, limits.max_span_attribute_length)
    return any(length is not None for length in lengths) or any(
        count is not None and count < _ENOUGH for count in counts
    )


def records_are_limited(limits: SpanLimits) -> bool:
    """Whether a limit could cut a log record of ours."""
    count: int | None = limits.max_attributes
    return limits.max_attribute_length is not None or (count is not None and count < _ENOUGH)


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
"""Encoded keys kept, over which they are forgotten all at once; and names, of which the oldest go then."""
_SHORT = 60
"""Bytes of a key's head, and of a text, up to which lengths and sums of lengths are one byte each."""
_ONE_BYTE, _TWO_BYTES = 0x80, 0x4000

# Tags: the field's number times 8, plus how it is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
_TIMES = Struct("<BQBQ")
_TIME = Struct("<BQ")
_DOUBLE = Struct("<Bd")
_EIGHT = Struct("<d").pack
_FLAGS = Struct("<I")
_LOCAL, _REMOTE = _FLAGS.pack(0x100), _FLAGS.pack(0x300)
_SPAN_FLAGS, _LINK_FLAGS = b"\x85\x01", b"\x35"
_BYTE = [bytes((number,)) for number in range(256)]
_KINDS = {kind: bytes((0x30, kind.value + 1)) for kind in SpanKind}

AnyValue = object


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _BYTE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(tag: bytes, text: str) -> bytes:
    """A string field; what is not UTF-8 is replaced."""
    if not text:
        return b""
    body = text.encode("utf-8", "replace")
    return tag + _varint(len(body)) + body


def _message(tag: bytes, body: bytes) -> bytes:
    return tag + _varint(len(body)) + body


def _value(value: AnyValue) -> bytes:
    """An `AnyValue`. Raises `ValueError` or `TypeError` for what cannot be one."""
    match value:
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case str():
            body = value.encode()
            return b"\x0a" + _varint(len(body)) + body
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
            pairs = (_message(b"\x0a", _pair(str(key), item)) for key, item in value.items())
            return _message(b"\x32", b"".join(pairs))
        case Sequence():
            return _message(b"\x2a", b"".join(_message(b"\x0a", _value(item)) for item in value))
        case _:
            raise TypeError(value)


def _pair(key: str, value: AnyValue) -> bytes:
    """A `KeyValue`. Raises `ValueError` (a text that is no UTF-8 too) or `TypeError`."""
    name = key.encode()
    return (
        _message(b"\x0a", name) + _message(b"\x12", _value(value))
        if name
        else _message(b"\x12", _value(value))
    )


def _status(status: Status) -> bytes:
    if status is UNSET:
        return b"\x7a\x00"
    body = _text(b"\x12", status.description or "") + b"\x18%c" % status.status_code.value
    return _message(b"\x7a", body)


class _Key:
    """What stands before a short value of one key, by the value's kind: tag and length, the key, the value's length and tag."""

    __slots__ = ("_name", "_tag", "double", "one_byte", "texts", "two_bytes")

    def __init__(self, tag: bytes, name: bytes) -> None:
        """`name` is the key as it stands in a pair, with the value's tag behind it."""
        self._tag, self._name = tag, name
        self.double = self._before(9, b"\x21")
        self.one_byte, self.two_bytes = self._before(2, b"\x18"), self._before(3, b"\x18")
        self.texts: list[bytes | None] = [None] * _SHORT
        """By the text's length; each is made when it is needed first."""

    def text(self, size: int) -> bytes:
        """Before an ASCII text of `size` characters, fewer than `_SHORT`."""
        before = self.texts[size] = self._before(size + 2, b"\x0a%c" % size)
        return before

    def _before(self, size: int, kind: bytes) -> bytes:
        return b"%b%c%b%c%b" % (self._tag, len(self._name) + 1 + size, self._name, size, kind)


class _Pairs:
    """Encodes attributes as pairs with one tag; remembers the keys. For the worker's thread."""

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        self._keys: dict[str, _Key | None] = {}
        """None of a key that is long, or no text."""

    def __call__(self, attributes: Mapping[str, Any]) -> bytes:
        """One that cannot be encoded is left out, as the official encoder does."""
        encoded: list[bytes] = []
        keys = self._keys
        for name, value in attributes.items():
            key = keys.get(name) or self._key(name)
            kind = type(value)
            if key is None:
                pass
            elif kind is str:
                if (size := len(value)) < _SHORT and value.isascii():
                    encoded.append((key.texts[size] or key.text(size)) + value.encode())
                    continue
            elif kind is float:
                encoded.append(key.double + _EIGHT(value))
                continue
            elif kind is int:
                if 0 <= value < _ONE_BYTE:
                    encoded.append(key.one_byte + _BYTE[value])
                    continue
                if 0 <= value < _TWO_BYTES:
                    encoded.append(key.two_bytes + _varint(value))
                    continue
            if pair := _left_out_if_bad(name, value):
                encoded.append(self._tag + pair)
        return b"".join(encoded)

    def _key(self, name: str) -> _Key | None:
        if name in self._keys:
            return None
        if len(self._keys) >= _CACHE_LIMIT:
            self._keys.clear()
        try:
            head = (_message(b"\x0a", name.encode()) if name else b"") + b"\x12"
        except UnicodeEncodeError:
            return None
        key = self._keys[name] = _Key(self._tag, head) if len(head) < _SHORT else None
        return key


@lru_cache(_CACHE_LIMIT)
def _span_name(name: str) -> bytes:
    return _text(b"\x2a", name)


@lru_cache(_CACHE_LIMIT)
def _event_name(name: str) -> bytes:
    """A record's name, which is its body as well."""
    return _message(b"\x2a", _value(name)) + _text(b"\x62", name)


class EncodedSpans:
    """Builds spans as their bytes. For the worker's thread."""

    def __init__(self) -> None:
        self._attributes, self._of_event, self._of_link = _Pairs(b"\x4a"), _Pairs(b"\x1a"), _Pairs(b"\x22")

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
    ) -> bytes:
        """See `SpanFactory`: a `Span`, with its tag and length, as a part of `ScopeSpans`."""
        ids = trace.trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big")
        parts = [b"\x0a\x10%b\x12\x08%b" % ids]
        if trace.state:
            parts.append(_text(b"\x1a", ",".join(f"{key}={value}" for key, value in trace.state.items())))
        flags = _LOCAL
        if parent is not None:
            if not isinstance(parent, int):
                flags = _REMOTE if parent.is_remote else _LOCAL
                parent = parent.span_id
            parts.append(b"\x22\x08" + parent.to_bytes(8, "big"))
        parts += (
            _span_name(name),
            _KINDS[kind],
            _TIMES.pack(0x39, times[0], 0x41, max(times)),
            *[layer.encoded or self._layer(layer) for layer in attributes],
        )
        if events:
            parts += [_message(b"\x5a", self._event(*event)) for event in events]
        if links:
            parts += [_message(b"\x6a", self._link(*link)) for link in links]
        parts += (_status(status), _SPAN_FLAGS, flags)
        return _message(b"\x12", b"".join(parts))

    def _layer(self, layer: Layer) -> bytes:
        """A layer's pairs; other spans that share it find them there."""
        layer.encoded = encoded = self._attributes(layer.values)
        return encoded

    def _event(self, name: str, at: int, attributes: SpanAttributes) -> bytes:
        return b"".join((_TIME.pack(0x09, at), _text(b"\x12", name), self._of_event(attributes)))

    def _link(self, context: SpanContext, kind: str) -> bytes:
        parts = [
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            self._of_link({n.LINK: kind}),
            _LINK_FLAGS,
            _REMOTE if context.is_remote else _LOCAL,
        ]
        return b"".join(parts)


class EncodedRecords:
    """Builds log records as their bytes. For the worker's thread."""

    def __init__(self) -> None:
        self._attributes = _Pairs(b"\x32")

    def build(
        self,
        name: str,
        severity: SeverityNumber,
        text: str,
        *,
        times: tuple[int, int],
        attributes: Layers,
        span: SpanContext | None = None,
    ) -> bytes:
        """See `RecordFactory`: a `LogRecord`, with its tag and length, as a part of `ScopeLogs`."""
        parts = [
            _TIMES.pack(0x09, times[0], 0x59, times[1]),
            b"\x10%c" % severity.value,
            _text(b"\x1a", text),
            _event_name(name),
            *[layer.recorded or self._layer(layer) for layer in attributes],
        ]
        if span is not None:
            ids = span.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big")
            parts += (b"\x45", _FLAGS.pack(span.trace_flags), b"\x4a\x10%b\x52\x08%b" % ids)
        return _message(b"\x12", b"".join(parts))

    def _layer(self, layer: Layer) -> bytes:
        """A layer's pairs; other records that share it find them there."""
        layer.recorded = recorded = self._attributes(layer.values)
        return recorded


def _left_out_if_bad(key: str, value: AnyValue) -> bytes:
    """The pair with its length before it, or nothing."""
    try:
        body = _pair(key, value)
    except (ValueError, TypeError):
        return b""
    return _varint(len(body)) + body


class Frame:
    """What stands around spans, or log records, in a message: their resource and their scope, encoded once."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = _message(b"\x0a", _Pairs(b"\x0a")(resource.attributes))
        about = _text(b"\x0a", scope.name) + _text(b"\x12", scope.version or "")
        self._scope = _message(b"\x0a", about + _Pairs(b"\x1a")(scope.attributes or {}))
        self._resource_schema = _text(b"\x1a", resource.schema_url)
        self._scope_schema = _text(b"\x1a", scope.schema_url or "")

    def around(self, items: Iterable[bytes]) -> bytes:
        """An `ExportTraceServiceRequest`, or an `ExportLogsServiceRequest`: they have the same fields."""
        of_scope = _message(b"\x12", b"".join((self._scope, *items, self._scope_schema)))
        return _message(b"\x0a", self._resource + of_scope + self._resource_schema)
