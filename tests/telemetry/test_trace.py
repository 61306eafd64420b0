"""Trace context in and out: parents, links, sampling, baggage; and the official propagator's reading as the measure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import TraceState, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.core.exchange import RequestHead
from sidecar.core.facts import Route
from sidecar.core.headers import Headers
from sidecar.telemetry.trace import Propagation, RequestTrace, Tracer, read_context
from tests.pace import within

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
ROUTE = Route("/v1/models")


def head(**fields: bytes) -> RequestHead:
    """A head with these fields."""
    return RequestHead("GET", b"/v1/models", "1.1", Headers([(k.encode(), v) for k, v in fields.items()]))


def begin(
    sampler: Sampler = DEFAULT_ON, propagation: Propagation | None = None, **fields: bytes
) -> RequestTrace:
    """A trace begun for a head with these fields."""
    return Tracer(sampler, propagation or Propagation()).begin(head(**fields), ROUTE)


def test_a_root_has_random_ids() -> None:
    """Three ids of their own, sampled, and a traceparent that names the CLIENT span."""
    one, other = begin(), begin()
    assert len({one.trace_id, other.trace_id, one.server_span_id, one.client_span_id}) == 4
    assert (one.parent, one.caller, one.sampled, int(one.flags)) == (None, None, True, 3)
    assert one.outbound() == ((b"traceparent", b"00-%032x-%016x-03" % (one.trace_id, one.client_span_id)),)


def test_the_caller_s_span_is_the_parent() -> None:
    """Same trace; its tracestate goes on; the random flag is the caller's."""
    trace = begin(traceparent=PARENT, tracestate=b"a=1, b=2")
    assert trace.parent is not None
    assert (trace.trace_id, trace.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert trace.parent.is_remote
    assert trace.outbound() == (
        (b"traceparent", f"00-{TRACE}-{trace.client_span_id:016x}-01".encode()),
        (b"tracestate", b"a=1,b=2"),
    )


def test_the_caller_s_span_is_linked() -> None:
    """`link`: a trace of its own, the caller's kept for a link, its tracestate not passed on."""
    trace = begin(propagation=Propagation("link"), traceparent=PARENT, tracestate=b"a=1")
    assert trace.parent is None
    assert trace.caller is not None
    assert trace.caller.trace_id == int(TRACE, 16) != trace.trace_id
    assert [name for name, _ in trace.outbound()] == [b"traceparent"]


def test_the_caller_s_span_is_ignored() -> None:
    """`ignore`: as if it were not there; so too without `tracecontext` among the propagators."""
    for propagation in (Propagation("ignore"), Propagation(tracecontext=False)):
        trace = begin(propagation=propagation, traceparent=PARENT)
        assert (trace.parent, trace.caller) == (None, None)
        assert trace.trace_id != int(TRACE, 16)


@pytest.mark.parametrize(
    "propagation", [Propagation(forward_trace=False), Propagation(tracecontext=False)], ids=["off", "none"]
)
def test_nothing_is_forwarded(propagation: Propagation) -> None:
    """No trace field goes on: neither ours nor the caller's."""
    assert begin(propagation=propagation, traceparent=PARENT).outbound() == ()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        f"00-{TRACE}-0000000000000000-01".encode(),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01-more".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}".encode(),
        b"\xff" * 60,
    ],
)
def test_malformed_is_no_parent(value: bytes) -> None:
    """What is not well formed is as if absent."""
    assert begin(traceparent=value).parent is None


def test_two_traceparents_are_none() -> None:
    """Which one is meant cannot be known."""
    headers = Headers([(b"traceparent", PARENT), (b"Traceparent", PARENT)])
    assert read_context(headers) is None


def test_a_future_version_is_read() -> None:
    """An unknown version is read as the first, whatever follows."""
    context = read_context(Headers([(b"traceparent", f"01-{TRACE}-{SPAN}-01-new".encode())]))
    assert context is not None
    assert context.span_id == int(SPAN, 16)


@pytest.mark.parametrize(
    "state",
    [b"a", b"A=1", b"a=1,a=2", b"a=" + b"x" * 300, b"=", b"a=1;" * 3000, b"a=\x01", b"a=1 b=2", b"a= ,b"],
)
def test_a_malformed_tracestate_is_dropped_alone(state: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The parent stays, the state is empty, and nothing the caller wrote is logged."""
    context = read_context(Headers([(b"traceparent", PARENT), (b"tracestate", state)]))
    assert context is not None
    assert dict(context.trace_state) == {}
    assert caplog.text == ""


@pytest.mark.parametrize(
    "state",
    [b"a" + b"=aaaaaaaa" * 8 + b"==", b"a=1" + b" ," * 4000, b",".join([b"a=" + b"-eyJ" * 63] * 31)],
    ids=["equals signs", "blanks", "beginnings of tokens"],
)
def test_no_tracestate_takes_long(state: bytes) -> None:
    """It is read on the event loop, and whoever sends a request chooses it."""
    headers = Headers([(b"traceparent", PARENT), (b"tracestate", state)])
    with within(0.005):
        assert read_context(headers) is not None


_hex = st.text("0123456789abcdefg", min_size=1, max_size=34)


@given(
    st.one_of(
        st.text("0123456789abcdef- ", max_size=60),
        st.builds("-".join, st.tuples(st.sampled_from(["00", "01", "ff", "0"]), _hex, _hex, _hex)),
        st.builds(
            f"{{}}-{TRACE}-{{}}-{{:02x}}{{}}".format,
            st.sampled_from(["00", "01", "ff"]),
            st.sampled_from([SPAN, "0" * 16]),
            st.integers(0, 255),
            st.sampled_from(["", "-x", " ", "x"]),
        ),
    )
)
def test_reading_agrees_with_the_official_propagator(value: str) -> None:
    """One field, any text: the same ids and flags, or none of them."""
    official = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": value}, Context())
    ).get_span_context()
    ours = read_context(Headers([(b"traceparent", value.encode())]))
    if not official.is_valid:
        assert ours is None
    else:
        assert ours is not None
        assert (ours.trace_id, ours.span_id, int(ours.trace_flags)) == (
            official.trace_id,
            official.span_id,
            int(official.trace_flags) & 3,
        )


@pytest.mark.parametrize(
    "sampler, parent, sampled",
    [
        (ALWAYS_ON, None, True),
        (ALWAYS_OFF, None, False),
        (DEFAULT_ON, f"00-{TRACE}-{SPAN}-00", False),
        (DEFAULT_ON, f"00-{TRACE}-{SPAN}-01", True),
        (ParentBased(ALWAYS_OFF), None, False),
        (ParentBased(ALWAYS_OFF), f"00-{TRACE}-{SPAN}-01", True),
        (TraceIdRatioBased(0.0), f"00-{TRACE}-{SPAN}-01", False),
    ],
    ids=["on", "off", "parent-no", "parent-yes", "root-no", "root-no-parent-yes", "ratio"],
)
def test_the_sampler_is_asked(sampler: Sampler, parent: str | None, sampled: bool) -> None:
    """Its verdict is the traceparent's flag too; the ids are told whatever it says."""
    trace = begin(sampler, traceparent=parent.encode()) if parent else begin(sampler)
    assert trace.sampled is sampled
    (_, told), *_ = trace.outbound()
    assert told.endswith(b"%02x" % trace.flags)
    assert trace.flags.sampled is sampled


class Opinionated(Sampler):
    """A sampler with attributes and a trace state of its own."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    def should_sample(self, *given: Any, **named: Any) -> SamplingResult:
        """Says yes, and notes what it was asked about."""
        _, _, name, _, attributes, *_ = given
        self.asked = {"name": name, **attributes}
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sampler.rule": "r1"}, TraceState([("k", "v")]))

    def get_description(self) -> str:
        """Its name."""
        return "Opinionated"


def test_what_the_sampler_adds_is_kept() -> None:
    """Attributes for the span, its trace state onwards; it knows method, path and route."""
    sampler = Opinionated()
    trace = begin(sampler)
    assert dict(trace.attributes) == {"sampler.rule": "r1"}
    assert (b"tracestate", b"k=v") in trace.outbound()
    assert sampler.asked == {
        "name": "GET /v1/models",
        "http.request.method": "GET",
        "url.path": "/v1/models",
        "url.scheme": "http",
        "http.route": "/v1/models",
    }


@pytest.mark.parametrize(
    "forward, propagators, passed",
    [
        ("none", ("tracecontext", "baggage"), ()),
        ("all", ("tracecontext", "baggage"), ((b"baggage", b"a=1%20x;p=2, b=2 ,c"),)),
        ("b", ("tracecontext", "baggage"), ((b"baggage", b"b=2"),)),
        (("a", "c"), ("tracecontext", "baggage"), ((b"baggage", b"a=1%20x;p=2,c"),)),
        ("a,b", ("tracecontext", "baggage"), ((b"baggage", b"a=1%20x;p=2, b=2"),)),
        ("x", ("tracecontext", "baggage"), ()),
        ("all", ("tracecontext",), ()),
    ],
)
def test_baggage_goes_on_as_it_was_written(
    forward: str | tuple[str, ...], propagators: tuple[str, ...], passed: tuple[tuple[bytes, bytes], ...]
) -> None:
    """Nothing, everything, or the members that are allowed, byte for byte."""
    propagation = Propagation.of(
        incoming_trace="parent", forward_trace=False, forward_baggage=forward, propagators=propagators
    )
    assert begin(propagation=propagation, baggage=b"a=1%20x;p=2, b=2 ,c").outbound() == passed
