"""Both factories of spans give the same, and both of log records: bytes as the official encoder makes them of the objects."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sidecar.telemetry.factories import (
    _CACHE_LIMIT,
    _KNOWN_LIMIT,
    EncodedRecords,
    EncodedSpans,
    Frame,
    Layer,
    ReadableRecords,
    ReadableSpans,
    _span_name,
)
from sidecar.telemetry.pipeline import records_are_limited, spans_are_limited

ENCODED = EncodedSpans()
"""One for all examples, so that what it remembers of earlier ones is tested too."""
RESOURCES = (Resource({"service.name": "a", "n": 1}), Resource({}, "https://schema/1"))
SCOPES = (InstrumentationScope("s", "1", "https://schema/2", {"k": "v"}), InstrumentationScope("t"))
UNLIMITED = SpanLimits()

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 127, 128, 16384]),
    st.floats(allow_nan=False),
    st.text(max_size=300),
    st.sampled_from(["chat", "gpt-4o", ""]),
    st.binary(max_size=5),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.tuples(scalars),
    st.dictionaries(st.text(), scalars, max_size=2),
)
attributes = st.dictionaries(st.text(max_size=8), values, max_size=6)
times = st.integers(0, 2**63)
states = st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "x y")])])
span_ids = st.integers(1, 2**64 - 1)
contexts = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=span_ids,
    is_remote=st.booleans(),
    trace_flags=st.just(TraceFlags(1)),
    trace_state=states,
)
statuses = st.one_of(
    st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.OK)]),
    st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=5)),
)


@dataclass(frozen=True)
class Ids:
    """What a trace's spans have in common."""

    trace_id: int
    flags: TraceFlags
    state: TraceState


spans = st.fixed_dictionaries(
    {
        "name": st.text(max_size=20),
        "trace": st.builds(Ids, st.integers(1, 2**128 - 1), st.just(TraceFlags(1)), states),
        "span_id": span_ids,
        "times": st.tuples(times, times),
        "parent": st.one_of(st.none(), span_ids, contexts),
        "kind": st.sampled_from(SpanKind),
        "status": statuses,
        "events": st.lists(st.tuples(st.text(max_size=5), times, attributes), max_size=2),
        "links": st.lists(st.tuples(contexts, st.sampled_from(["previous", "caller"])), max_size=2),
    }
)


RECORDS = EncodedRecords()
RECORD: dict[str, Any] = {"name": "e", "severity": SeverityNumber.INFO, "text": "INFO", "times": (1, 2)}
records = st.fixed_dictionaries(
    {
        "name": st.text(max_size=200),
        "severity": st.sampled_from(SeverityNumber),
        "text": st.sampled_from(["INFO", "WARNING", ""]),
        "times": st.tuples(times, times),
        "span": st.one_of(
            st.none(),
            st.builds(
                SpanContext,
                st.integers(1, 2**128 - 1),
                span_ids,
                st.just(False),
                st.sampled_from([TraceFlags(number) for number in range(4)]),
            ),
        ),
    }
)


def records_in(encoded: bytes) -> ExportLogsServiceRequest:
    """The message in these bytes."""
    message = ExportLogsServiceRequest()
    message.ParseFromString(encoded)
    return message


def read(encoded: bytes) -> ExportTraceServiceRequest:
    """The message in these bytes."""
    message = ExportTraceServiceRequest()
    message.ParseFromString(encoded)
    return message


def readable(given: Mapping[str, Any], *layers: Mapping[str, Any]) -> ReadableSpan:
    """The SDK's object."""
    factory = ReadableSpans(RESOURCES[0], SCOPES[0], UNLIMITED)
    return factory.build(**given, attributes=tuple(Layer(layer) for layer in layers))


def encoded(given: Mapping[str, Any], *layers: Mapping[str, Any], by: EncodedSpans = ENCODED) -> bytes:
    """Its bytes, as a message."""
    span = by.build(**given, attributes=tuple(Layer(layer) for layer in layers))
    return Frame(RESOURCES[0], SCOPES[0]).around((span,))


def one() -> dict[str, Any]:
    """A span."""
    return {"name": "s", "trace": Ids(1, TraceFlags(1), TraceState()), "span_id": 2, "times": (1, 2)}


@given(spans, attributes, attributes)
def test_any_span_is_encoded_as_officially(
    given: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any]
) -> None:
    """Ids, times, values of every kind, layers, events, links, status, flags."""
    other = {key: value for key, value in second.items() if key not in first}
    assert read(encoded(given, first, other)) == encode_spans([readable(given, first, other)])


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("scope", SCOPES)
def test_resource_and_scope_stand_around_a_batch(resource: Resource, scope: InstrumentationScope) -> None:
    """With their attributes and schemas, as officially; several messages behind one another are one."""
    frame, factory = Frame(resource, scope), ReadableSpans(resource, scope, UNLIMITED)
    batch = [factory.build(**one(), attributes=(Layer({"n": number}),)) for number in range(3)]
    bodies = [ENCODED.build(**one(), attributes=(Layer({"n": number}),)) for number in range(3)]
    assert read(frame.around(bodies)) == encode_spans(batch)
    assert len(read(frame.around(bodies[:1]) + frame.around(bodies[1:])).resource_spans) == 2


def test_a_layer_is_encoded_once() -> None:
    """Whoever shares it finds its bytes there."""
    layer = Layer({"a": 1})
    first = ENCODED.build(**one(), attributes=(layer,))
    layer.values = {"b": 2}
    assert ENCODED.build(**one(), attributes=(layer,)) == first


def test_equal_values_of_other_kinds_stay_apart() -> None:
    """1, True, 1.0, and 0.0 and -0.0 are equal in Python and different on the wire, remembered or not."""
    by = EncodedSpans()
    for value in (True, 1, 1.0, 0.0, -0.0, (1,), (True,), (1.0,), False, 0):
        given = {"k": value}
        assert encoded(one(), given, by=by) == encoded(one(), given, by=by)
        official = encode_spans([readable(one(), given)])
        assert read(encoded(one(), given, by=by)).SerializeToString(
            deterministic=True
        ) == official.SerializeToString(deterministic=True)


@pytest.mark.parametrize("bad", [2**63, object(), "\ud800", ["\ud800"], {"k": 2**64}])
def test_an_attribute_that_cannot_be_encoded_is_left_out(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And costs neither its span nor the others; as officially."""
    caplog.set_level(logging.CRITICAL + 1)
    message = read(encoded(one(), {"bad": bad, "good": 1}))
    assert message == encode_spans([readable(one(), {"bad": bad, "good": 1})])
    assert [pair.key for pair in message.resource_spans[0].scope_spans[0].spans[0].attributes] == ["good"]


def test_a_name_that_is_no_text_does_not_cost_the_batch() -> None:
    """The official encoder loses the batch; here the name loses a character."""
    message = read(encoded({**one(), "name": "a\ud800b"}))
    assert message.resource_spans[0].scope_spans[0].spans[0].name == "a?b"


def test_memory_is_bounded() -> None:
    """Keys, names and values that never repeat are not all remembered, and long values are not at all."""
    by = EncodedSpans()
    for number in range(3 * _CACHE_LIMIT):
        encoded({**one(), "name": f"name-{number}"}, {f"key-{number}": "x" * 1000, "n": number}, by=by)
    assert _span_name.cache_info().currsize <= _CACHE_LIMIT
    pairs = by._pairs
    assert max(len(pairs._ways), len(pairs._keys)) <= _CACHE_LIMIT
    known = [way.__self__ for way in pairs._keys.values()]  # type: ignore[attr-defined]
    assert sum(map(len, known)) <= _KNOWN_LIMIT


@pytest.mark.parametrize(
    "limits, limited",
    [
        ({}, False),
        ({"max_attributes": 64}, True),
        ({"max_span_attributes": 127}, True),
        ({"max_events": 1}, True),
        ({"max_links": 31}, True),
        ({"max_event_attributes": 1}, True),
        ({"max_link_attributes": 0}, True),
        ({"max_attribute_length": 1000}, True),
        ({"max_span_attribute_length": 1000}, True),
        ({"max_span_attributes": 1000, "max_links": SpanLimits.UNSET}, False),
    ],
)
def test_limits_that_could_cut_a_span(limits: dict[str, int], *, limited: bool) -> None:
    """Then spans go the long way."""
    assert spans_are_limited(SpanLimits(**limits)) == limited


@pytest.mark.parametrize(
    "limits, limited",
    [
        ({}, False),
        ({"max_attributes": 127}, True),
        ({"max_attributes": 1000}, False),
        ({"max_attributes": SpanLimits.UNSET}, False),
        ({"max_attribute_length": 1000}, True),
        ({"max_span_attributes": 2, "max_span_attribute_length": 5, "max_events": 1}, False),
    ],
)
def test_limits_that_could_cut_a_record(limits: dict[str, int], *, limited: bool) -> None:
    """Those of all attributes; those of spans alone are not its own."""
    assert records_are_limited(SpanLimits(**limits)) == limited


@given(records, attributes, attributes)
def test_any_record_is_encoded_as_officially(
    given: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any]
) -> None:
    """Event, severity, times, values of every kind, layers, its request's span."""
    layers = (Layer(first), Layer({key: value for key, value in second.items() if key not in first}))
    official = ReadableRecords(RESOURCES[0], SCOPES[0], UNLIMITED).build(**given, attributes=layers)
    body = RECORDS.build(**given, attributes=layers)
    assert records_in(Frame(RESOURCES[0], SCOPES[0]).around((body,))) == encode_logs([official])


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("scope", SCOPES)
def test_resource_and_scope_stand_around_records(resource: Resource, scope: InstrumentationScope) -> None:
    """The same frame does for both."""
    frame, factory = Frame(resource, scope), ReadableRecords(resource, scope, UNLIMITED)
    layers = [(Layer({"n": number}),) for number in range(3)]
    batch = [factory.build(**RECORD, attributes=one) for one in layers]
    assert records_in(frame.around(RECORDS.build(**RECORD, attributes=one) for one in layers)) == encode_logs(
        batch
    )


def test_a_layer_is_encoded_for_records_once_and_apart_from_spans() -> None:
    """The same attributes have another tag there."""
    layer = Layer({"a": 1})
    first = RECORDS.build(**RECORD, attributes=(layer,))
    span = ENCODED.build(**one(), attributes=(layer,))
    assert layer.recorded != layer.encoded
    layer.values = {"b": 2}
    assert RECORDS.build(**RECORD, attributes=(layer,)) == first
    assert ENCODED.build(**one(), attributes=(layer,)) == span
