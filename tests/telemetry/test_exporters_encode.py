"""The direct encoder gives what the official one gives, field by field."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sidecar.telemetry.encode import _CACHE_LIMIT, SpanEncoder

ENCODER = SpanEncoder()
"""One for all examples, so that what it remembers of earlier ones is tested too."""
RESOURCES = (Resource({"service.name": "a", "n": 1}), Resource({}, "https://schema/1"))
SCOPES = (InstrumentationScope("s", "1", "https://schema/2", {"k": "v"}), InstrumentationScope("t"), None)

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
attributes = st.one_of(st.none(), st.dictionaries(st.text(max_size=8), values, max_size=6))
times = st.integers(0, 2**63)
contexts = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.just(TraceFlags(1)),
    trace_state=st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "x y")])]),
)
events = st.builds(Event, name=st.text(max_size=5), attributes=attributes, timestamp=times)
links = st.builds(Link, context=contexts, attributes=attributes)
statuses = st.one_of(
    st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.OK)]),
    st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=5)),
)
spans = st.builds(
    ReadableSpan,
    name=st.text(max_size=20),
    context=contexts,
    parent=st.one_of(st.none(), contexts),
    resource=st.sampled_from(RESOURCES),
    attributes=attributes,
    events=st.lists(events, max_size=2),
    links=st.lists(links, max_size=2),
    kind=st.sampled_from(SpanKind),
    status=statuses,
    start_time=times,
    end_time=times,
    instrumentation_scope=st.sampled_from(SCOPES),
)


def read(encoded: bytes) -> ExportTraceServiceRequest:
    """The message in these bytes."""
    message = ExportTraceServiceRequest()
    message.ParseFromString(encoded)
    return message


def one(given: Mapping[str, Any]) -> ReadableSpan:
    """A span with these attributes."""
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan("s", context, resource=RESOURCES[0], attributes=given, start_time=1, end_time=2)


@given(st.lists(spans, max_size=4))
def test_any_spans_encode_as_officially(batch: list[ReadableSpan]) -> None:
    """Ids, times, values of every kind, events, links, status, flags, grouping."""
    assert read(ENCODER.encode(batch)) == encode_spans(batch)


def test_what_was_dropped_is_told() -> None:
    """Of attributes, events and links, also within events and links."""
    few = BoundedAttributes(1, {"a": 1, "b": 2, "c": 3})
    context = SpanContext(1, 2, is_remote=True)
    listed: BoundedList[Any] = BoundedList(1)
    listed.extend([Event("e", few, 5), Event("f", few, 6)])
    linked: BoundedList[Any] = BoundedList(1)
    linked.extend([Link(context, few), Link(context, few), Link(context, few)])
    span = ReadableSpan(
        "s",
        context,
        resource=RESOURCES[0],
        attributes=few,
        events=listed,
        links=linked,
        start_time=1,
        end_time=2,
    )
    message = read(SpanEncoder().encode([span]))
    assert message == encode_spans([span])
    encoded = message.resource_spans[0].scope_spans[0].spans[0]
    assert encoded.dropped_attributes_count == 2
    assert (encoded.dropped_events_count, encoded.dropped_links_count) == (1, 2)


def test_equal_values_of_other_kinds_stay_apart() -> None:
    """1, True, 1.0, and 0.0 and -0.0 are equal in Python and different on the wire, remembered or not."""
    encoder = SpanEncoder()
    for value in (True, 1, 1.0, 0.0, -0.0, (1,), (True,), (1.0,), False, 0):
        span = one({"k": value})
        encoded = encoder.encode([span])
        assert encoded == encoder.encode([span])
        assert read(encoded).SerializeToString(deterministic=True) == encode_spans([span]).SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("bad", [2**63, object(), "\ud800", ["\ud800"], {"k": 2**64}])
def test_an_attribute_that_cannot_be_encoded_is_left_out(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And costs neither its span nor the others; as officially."""
    caplog.set_level(logging.CRITICAL + 1)
    span = one({"bad": bad, "good": 1})
    message = read(SpanEncoder().encode([span]))
    assert message == encode_spans([span])
    assert [pair.key for pair in message.resource_spans[0].scope_spans[0].spans[0].attributes] == ["good"]


def test_a_name_that_is_no_text_does_not_cost_the_batch() -> None:
    """The official encoder loses the batch; here the name loses a character."""
    context = SpanContext(1, 2, is_remote=False)
    span = ReadableSpan("a\ud800b", context, resource=RESOURCES[0], start_time=1, end_time=2)
    assert read(SpanEncoder().encode([span])).resource_spans[0].scope_spans[0].spans[0].name == "a?b"


def test_memory_is_bounded() -> None:
    """Keys that never repeat are not all remembered, and values are not at all."""
    encoder = SpanEncoder()
    for number in range(0, 3 * _CACHE_LIMIT, 100):
        encoder.encode([one({f"key-{number + more}": "x" * 1000}) for more in range(100)])
    assert len(encoder._names) <= _CACHE_LIMIT
    assert max(len(pair) for pair in encoder._names.values()) < 300


def test_the_loop_gets_its_turn_between_pieces() -> None:
    """A batch of 512 spans is encoded in 32 pieces, and is one list of spans all the same."""
    turns: list[int] = []
    encoder = SpanEncoder(rest=lambda: turns.append(1))
    batch = [one({"n": number}) for number in range(512)]
    assert read(encoder.encode(batch)) == encode_spans(batch)
    assert len(turns) == 32
