"""The sink takes what the official exporters send, over HTTP and gRPC, and answers as told."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link as SdkLink
from opentelemetry.trace import SpanKind, Status, StatusCode

from sidecar.testing import OtlpSink, SinkAnswer, changes, expect_span, points


@pytest.fixture(params=["http/protobuf", "grpc"])
def collector(request: pytest.FixtureRequest) -> Iterator[OtlpSink]:
    """A sink for each protocol."""
    with OtlpSink(request.param) as sink:
        yield sink
        assert sink.errors == []


def _exporter(sink: OtlpSink, *, compress: bool = False) -> SpanExporter:
    if sink.protocol == "grpc":
        return GrpcSpanExporter(sink.endpoint, insecure=True, timeout=2)
    compression = Compression.Gzip if compress else Compression.NoCompression
    return OTLPSpanExporter(f"{sink.endpoint}/v1/traces", compression=compression, timeout=2)


def _spans() -> tuple[ReadableSpan, ReadableSpan]:
    provider = TracerProvider(resource=Resource({"service.name": "t"}), shutdown_on_exit=False)
    tracer = provider.get_tracer("scope")
    parent = tracer.start_span("POST /x", kind=SpanKind.SERVER, attributes={"a": 1, "b": [True, "c"]})
    context = parent.get_span_context()
    link = SdkLink(context, {"sidecar.link": "previous"})
    other = tracer.start_span("call", kind=SpanKind.CLIENT, links=[link])
    other.add_event("stalled", {"n": 2.5})
    other.set_status(Status(StatusCode.ERROR, "no"))
    other.end()
    parent.end()
    assert isinstance(parent, ReadableSpan)
    assert isinstance(other, ReadableSpan)
    return parent, other


def test_whole_spans_are_decoded(collector: OtlpSink) -> None:
    """Every part of a span that the official exporter sends is there, as plain values."""
    parent, other = _spans()
    exporter = _exporter(collector)
    assert exporter.export([parent, other]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    server = collector.span(kind="SERVER")
    client = collector.span(name="call", attributes={})
    expect_span(server, name="POST /x", kind="SERVER", attributes={"b": [True, "c"]}, ignoring=("a",))
    expect_span(
        client,
        name="call",
        kind="CLIENT",
        attributes={},
        status="ERROR",
        events=["stalled"],
        links=["previous"],
    )
    assert server.resource == {"service.name": "t"}
    assert server.scope == "scope"
    assert client.status_message == "no"
    assert client.links[0].span_id == server.span_id
    assert client.links[0].trace_id == server.trace_id
    assert client.events[0].attributes == {"n": 2.5}
    assert server.start <= client.start <= client.end <= server.end
    assert server.duration == server.end - server.start
    assert collector.accepted("traces") == 2


def test_gzip_is_read() -> None:
    """A compressed export is decoded, and its size on the wire kept."""
    with OtlpSink() as sink:
        exporter = _exporter(sink, compress=True)
        exporter.export(_spans())
        exporter.shutdown()
        (call,) = sink.calls
        assert call.headers["content-encoding"] == "gzip"
        assert (call.signal, call.items) == ("traces", 2)


def test_partial_success_is_not_accepted(collector: OtlpSink) -> None:
    """Rejected items are received, and not counted as accepted."""
    collector.answer("traces", SinkAnswer(rejected=1, message="too old"))
    exporter = _exporter(collector)
    exporter.export(_spans())
    exporter.shutdown()
    assert (len(collector.spans), collector.accepted("traces")) == (2, 1)


def test_a_refused_export_is_not_taken(collector: OtlpSink) -> None:
    """The call is recorded, its items are not."""
    collector.answer("traces", SinkAnswer(status=400, code="INVALID_ARGUMENT"))
    exporter = _exporter(collector)
    assert exporter.export(_spans()) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert (collector.spans, collector.accepted("traces"), len(collector.calls)) == ([], 0, 1)


def test_a_hanging_collector_answers_nothing() -> None:
    """The client runs into its own time-out; stopping the sink lets the export go."""
    with OtlpSink() as sink:
        sink.answer_always("traces", SinkAnswer(hang=True))
        with pytest.raises(TimeoutError):
            _post(f"{sink.endpoint}/v1/traces", timeout=0.2)
        assert sink.spans == []


def test_a_stopped_sink_is_gone_until_it_is_started_again() -> None:
    """A connection that was kept serves nothing more, a new one is refused; then the same port takes exports again."""
    with OtlpSink() as sink:
        connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=5)
        with closing(connection):
            connection.request("POST", "/v1/traces", body=b"")
            assert connection.getresponse().read() == b""
            sink.stop()
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                _again(connection)
        with pytest.raises(urllib.error.URLError):
            _post(f"{sink.endpoint}/v1/traces")
        sink.start()
        assert _post(f"{sink.endpoint}/v1/traces") == b""
        assert len(sink.calls) == 2


def _again(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/traces", body=b"")
    connection.getresponse()


def test_garbage_and_unknown_paths() -> None:
    """An answer that is no protobuf, and a path that is no signal."""
    with OtlpSink() as sink:
        sink.answer("logs", SinkAnswer(garbage=b"\xff\xff", headers={"X-Why": "test"}))
        assert _post(f"{sink.endpoint}/v1/logs") == b"\xff\xff"
        with pytest.raises(urllib.error.HTTPError) as refused:
            _post(f"{sink.endpoint}/v1/profiles")
        refused.value.close()
        assert refused.value.code == 404


def _post(url: str, timeout: float = 5) -> bytes:
    request = urllib.request.Request(url, data=b"", method="POST")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        body: bytes = response.read()
        return body


def test_metric_points_and_their_changes() -> None:
    """Points are decoded, found by attributes, and compared between two exports."""
    with OtlpSink() as sink:
        exporter = OTLPMetricExporter(f"{sink.endpoint}/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
        provider = MeterProvider([reader], shutdown_on_exit=False)
        meter = provider.get_meter("m")
        counter = meter.create_counter("c", unit="{x}", description="d")
        histogram = meter.create_histogram("h", unit="s", explicit_bucket_boundaries_advisory=[1.0, 2.0])
        counter.add(2, {"kind.of": "a"})
        histogram.record(0.5)
        reader.force_flush()
        before = sink.snapshot(after=0)
        counter.add(3, {"kind.of": "a"})
        counter.add(1, {"kind.of": "b"})
        histogram.record(1.5)
        reader.force_flush()
        after = sink.snapshot(after=before[0].time + 1)
        provider.shutdown()
        (point,) = points(sink, "c", kind__of="b")
        assert (point.value, point.kind, point.unit, point.monotonic) == (1, "sum", "{x}", True)
        assert (point.temporality, point.description) == ("cumulative", "d")
        grown = {(one.metric, str(one.attributes)): one for one in changes(before, after)}
        assert grown["c", "{'kind.of': 'a'}"].value == 3
        assert grown["c", "{'kind.of': 'b'}"].value == 1
        assert grown["h", "{}"].buckets == (0, 1, 0)
        assert (grown["h", "{}"].count, grown["h", "{}"].sum) == (1, 1.5)
        assert points(before, "c")[0].value == 2


def test_a_span_that_differs_is_told_attribute_by_attribute() -> None:
    """What is missing, what is not expected, and what is another value."""
    with OtlpSink() as sink:
        exporter = _exporter(sink)
        exporter.export(_spans())
        exporter.shutdown()
        span = sink.span(kind="SERVER")
    with pytest.raises(AssertionError) as failed:
        expect_span(span, name="POST /x", kind="SERVER", attributes={"a": 2, "c": 1}, status="ERROR")
    assert str(failed.value).split("\n")[1:] == [
        "  status: 'UNSET', expected 'ERROR'",
        "  a: 1, expected 2",
        "  b: [True, 'c'], not expected",
        "  c: missing, expected 1",
    ]


def test_waiting_for_what_does_not_come() -> None:
    """A wait that runs out fails, and two spans where one is asked for fail as well."""
    with OtlpSink() as sink:
        with pytest.raises(AssertionError, match=r"not within 0\.01 s"):
            sink.span(name="never", timeout=0.01)
        exporter = _exporter(sink)
        exporter.export(_spans())
        exporter.shutdown()
        with pytest.raises(AssertionError, match="2 such spans"):
            sink.span()
        sink.clear()
        assert (sink.spans, sink.points, sink.logs, sink.calls) == ([], [], [], [])
    with pytest.raises(ValueError, match="neither"):
        OtlpSink("http/json")
