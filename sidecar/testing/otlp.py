"""What an OTLP export says, as plain values that compare.

Owns the decoding of the collector protocol's protobuf messages into frozen dataclasses: ids as hex text,
kinds and statuses as words, attributes as dicts. It knows nothing of transports; `sink.py` does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

Value = str | bool | int | float | bytes | list["Value"] | dict[str, "Value"] | None
"""An attribute's value as Python has it."""

Attributes = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Event:
    """A span's event; `time` in ns since the epoch."""

    name: str
    time: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Link:
    """A span's link."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One exported span. Ids are hex (`parent` empty for a root), times ns since the epoch.

    `kind` is `SERVER`, `CLIENT`, `INTERNAL`, ...; `status` is `UNSET`, `OK` or `ERROR`.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    start: int
    end: int
    attributes: Attributes
    events: tuple[Event, ...] = ()
    links: tuple[Link, ...] = ()
    status: str = "UNSET"
    status_message: str = ""
    trace_state: str = ""
    flags: int = 0
    dropped: tuple[int, int, int] = (0, 0, 0)
    """Dropped attributes, events and links."""
    resource: Attributes = field(default_factory=dict)
    scope: str = ""
    schema_urls: tuple[str, str] = ("", "")
    """The resource's and the scope's."""

    @property
    def duration(self) -> int:
        """End minus start, ns."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A measured value that names its trace."""

    value: float
    time: int
    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Point:
    """One data point of one export. `kind` is `sum`, `gauge` or `histogram`; times in ns since the epoch.

    `value` for sums and gauges; for histograms `count`, `sum`, `min`, `max`, `bounds` and `buckets` (one more
    than bounds). `temporality` is `cumulative`, `delta` or empty (gauges).
    """

    metric: str
    unit: str
    kind: str
    attributes: Attributes
    start: int
    time: int
    value: float | None = None
    count: int = 0
    sum: float = 0.0
    min: float | None = None
    max: float | None = None
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    temporality: str = ""
    monotonic: bool = False
    exemplars: tuple[Exemplar, ...] = ()
    description: str = ""
    resource: Attributes = field(default_factory=dict)
    schema_urls: tuple[str, str] = ("", "")
    """The resource's and the scope's."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One exported log record; times in ns since the epoch."""

    event_name: str
    body: Value
    severity: str
    attributes: Attributes
    trace_id: str
    span_id: str
    time: int
    resource: Attributes
    schema_urls: tuple[str, str] = ("", "")
    """The resource's and the scope's."""


def read_value(value: AnyValue) -> Value:
    """An attribute's value as Python has it; an unset one is None."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [read_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return read_attributes(value.kvlist_value.values)
    plain: str | bool | int | float | bytes = getattr(value, kind)
    return plain


def read_attributes(pairs: Iterable[KeyValue]) -> Attributes:
    """Attributes as a dict.

    Raises:
        ValueError: one key stands there twice.
    """
    attributes: Attributes = {}
    for pair in pairs:
        if pair.key in attributes:
            raise ValueError(f"attribute {pair.key} twice")
        attributes[pair.key] = read_value(pair.value)
    return attributes


def read_spans(body: bytes) -> list[Span]:
    """The spans of an `ExportTraceServiceRequest`."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        replace(_span(span, resource, scope.scope.name), schema_urls=(group.schema_url, scope.schema_url))
        for group in request.resource_spans
        for resource in [read_attributes(group.resource.attributes)]
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _span(span: trace_pb2.Span, resource: Attributes, scope: str) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=read_attributes(span.attributes),
        events=tuple(
            Event(event.name, event.time_unix_nano, read_attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), read_attributes(link.attributes))
            for link in span.links
        ),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        trace_state=span.trace_state,
        flags=span.flags,
        dropped=(span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        resource=resource,
        scope=scope,
    )


class MetricExport:
    """One `ExportMetricsServiceRequest`; its points are read when they are asked for: few of many exports are looked at.

    Raises:
        DecodeError: it is none.
        ValueError: it has a kind of metric that is not read here.
    """

    def __init__(self, body: bytes) -> None:
        self._request = ExportMetricsServiceRequest.FromString(body)
        self.size = sum(
            len(_data(metric).data_points)
            for group in self._request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
        )
        """How many points it has."""

    @cached_property
    def points(self) -> list[Point]:
        """They."""
        return [
            replace(point, resource=resource, schema_urls=(group.schema_url, scope.schema_url))
            for group in self._request.resource_metrics
            for resource in [read_attributes(group.resource.attributes)]
            for scope in group.scope_metrics
            for metric in scope.metrics
            for point in _points(metric)
        ]


def _data(metric: metrics_pb2.Metric) -> Any:
    kind = metric.WhichOneof("data")
    if kind not in ("sum", "gauge", "histogram"):
        raise ValueError(f"{metric.name}: {kind} is not read")
    return getattr(metric, kind)


def _points(metric: metrics_pb2.Metric) -> Iterator[Point]:
    kind, data = str(metric.WhichOneof("data")), _data(metric)
    temporality = "" if kind == "gauge" else _temporality(data.aggregation_temporality)
    for point in data.data_points:
        common: dict[str, Any] = {
            "metric": metric.name,
            "unit": metric.unit,
            "kind": kind,
            "attributes": read_attributes(point.attributes),
            "start": point.start_time_unix_nano,
            "time": point.time_unix_nano,
            "temporality": temporality,
            "exemplars": tuple(_exemplar(exemplar) for exemplar in point.exemplars),
            "description": metric.description,
        }
        if kind == "histogram":
            yield Point(
                **common,
                count=point.count,
                sum=point.sum,
                min=point.min if point.HasField("min") else None,
                max=point.max if point.HasField("max") else None,
                bounds=tuple(point.explicit_bounds),
                buckets=tuple(point.bucket_counts),
            )
        else:
            number = getattr(point, point.WhichOneof("value"))
            yield Point(**common, value=number, monotonic=kind == "sum" and data.is_monotonic)


def _temporality(number: Any) -> str:
    name: str = metrics_pb2.AggregationTemporality.Name(number)
    return name.removeprefix("AGGREGATION_TEMPORALITY_").lower()


def _exemplar(exemplar: metrics_pb2.Exemplar) -> Exemplar:
    value = exemplar.as_int if exemplar.WhichOneof("value") == "as_int" else exemplar.as_double
    return Exemplar(value, exemplar.time_unix_nano, exemplar.trace_id.hex(), exemplar.span_id.hex())


def read_logs(body: bytes) -> list[LogLine]:
    """The records of an `ExportLogsServiceRequest`."""
    request = ExportLogsServiceRequest.FromString(body)
    return [
        replace(_log(record, resource), schema_urls=(group.schema_url, scope.schema_url))
        for group in request.resource_logs
        for resource in [read_attributes(group.resource.attributes)]
        for scope in group.scope_logs
        for record in scope.log_records
    ]


def _log(record: logs_pb2.LogRecord, resource: Attributes) -> LogLine:
    return LogLine(
        event_name=record.event_name,
        body=read_value(record.body),
        severity=record.severity_text,
        attributes=read_attributes(record.attributes),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        time=record.time_unix_nano,
        resource=resource,
    )
