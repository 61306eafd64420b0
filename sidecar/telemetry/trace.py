"""Chooses a request's ids at its start: the caller's trace context in, the upstream's out.

Owns the W3C fields (`traceparent`, `tracestate`, `baggage`), the random ids and the question to the sampler.
A field that is not well formed is as if it were absent; it is never an error. `traceparent` is read by our
own expression, which a test holds to the official propagator's reading (1.5 us against 5 measured); baggage
is passed as it was written, which the official one, decoding and encoding it, is not.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random, SystemRandom

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from sidecar.core.exchange import RequestHead
from sidecar.core.facts import Route
from sidecar.core.headers import Field, Headers
from sidecar.core.sessions import Ref
from sidecar.core.shown import is_credential, known_method, redact_path
from sidecar.telemetry import names as n

Attributes = Mapping[str, object]

_TRACEPARENT = re.compile(rb"[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_TRACESTATE = re.compile(
    r"[ \t,]*+(?:[a-z0-9_\-*/@]{1,256}+=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}+[ \t]*+(?:,[ \t,]*+|\Z))*+"
)
"""Members of its alphabet, each read in one way only: what is none costs no more than what is one."""
_TRACESTATE_LIMIT = 8192
_ZERO_TRACE = b"0" * 32
_ZERO_SPAN = b"0" * 16
_64_BITS = (1 << 64) - 1

FLAGS = tuple(TraceFlags(value) for value in range(4))
"""Trace flags by value: 1 sampled, 2 random trace id."""
_RANDOM = int(TraceFlags.RANDOM_TRACE_ID)
_NEW = FLAGS[_RANDOM | TraceFlags.SAMPLED]
"""Those of a trace that begins here, and is taken."""
NO_STATE = TraceState()
"""What most traces have; told by its identity."""
_NO_ATTRIBUTES: Attributes = {}
_TAKE_ALL: tuple[Sampler, ...] = (ALWAYS_ON, DEFAULT_ON)


@dataclass(frozen=True, slots=True)
class Propagation:
    """What passes between the caller's trace, ours and the upstream's.

    `incoming` is `parent`, `link` or `ignore`. `baggage` is None (nothing is forwarded), or the names of the
    members that are; an empty set means all of them. `tracecontext` False: the caller's context is not read
    and none is written (`OTEL_PROPAGATORS` without it).
    """

    incoming: str = "parent"
    forward_trace: bool = True
    baggage: frozenset[str] | None = None
    tracecontext: bool = True

    @classmethod
    def of(
        cls,
        *,
        incoming_trace: str,
        forward_trace: bool,
        forward_baggage: str | Collection[str],
        propagators: Collection[str],
    ) -> "Propagation":
        """From the settings' words; `forward_baggage` is `none`, `all`, or the names that are allowed."""
        words = (forward_baggage,) if isinstance(forward_baggage, str) else forward_baggage
        names = frozenset(name for word in words for part in word.split(",") if (name := part.strip()))
        baggage: frozenset[str] | None = names - {"none"}
        if "baggage" not in propagators or not baggage:
            baggage = None
        elif "all" in baggage:
            baggage = frozenset()
        return cls(incoming_trace, forward_trace, baggage, "tracecontext" in propagators)


@dataclass(slots=True)
class RequestTrace:
    """The ids of one request's spans (`core.exchange.Trace`), with what the sampler said.

    `parent` is the caller's span if it is ours too; `caller` the caller's span that is only linked to.
    """

    trace_id: int
    server_span_id: int
    client_span_id: int
    sampled: bool
    flags: TraceFlags = FLAGS[0]
    state: TraceState = field(default_factory=TraceState)
    parent: SpanContext | None = None
    caller: SpanContext | None = None
    attributes: Attributes = field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    forward: bool = False

    def outbound(self) -> tuple[Field, ...]:
        """The trace and baggage fields that go to the upstream: exactly these, in place of the caller's.

        `traceparent` names the CLIENT span. With `SIDECAR_FORWARD_TRACE` off there is none at all: the caller's
        own is then dropped too, for the upstream is not to learn of the trace.
        """
        if not self.forward:
            return self.fields
        parent = b"00-%032x-%016x-%02x" % (self.trace_id, self.client_span_id, self.flags)
        if self.state is not NO_STATE and self.state:
            state = self.state.to_header().encode("latin-1")
            return ((b"traceparent", parent), (b"tracestate", state), *self.fields)
        return ((b"traceparent", parent), *self.fields)


class Tracer:
    """Begins traces. One per recorder; the sampler is the SDK's own object."""

    def __init__(self, sampler: Sampler, propagation: Propagation, random: Random | None = None) -> None:
        self._sampler = sampler
        # What these answer to a request without a parent, or with a sampled one, is known: it is taken, as it is.
        self._takes_all = sampler.get_description() in {known.get_description() for known in _TAKE_ALL}
        self._reads = propagation.tracecontext and propagation.incoming != "ignore"
        self._joins = propagation.incoming == "parent"
        self._forwards = propagation.tracecontext and propagation.forward_trace
        self._baggage_allowed = propagation.baggage
        # Ids need to be distinct, not secret; the system's randomness is seven times slower.
        source = random or Random(SystemRandom().getrandbits(256))  # noqa: S311
        self._bits = source.getrandbits

    def span_id(self) -> int:
        """A random 64-bit id, never 0."""
        return self._bits(64) or 1

    def trace_id(self) -> int:
        """A random 128-bit id, never 0."""
        return self._bits(128) or 1

    def begin(self, head: RequestHead, route: Route) -> RequestTrace:
        """Ids, parent and verdict for a request whose head has been read."""
        headers, allowed = head.headers, self._baggage_allowed
        remote = read_context(headers) if b"traceparent" in headers.first and self._reads else None
        fields = () if allowed is None else _baggage(headers, allowed)
        drawn = self._bits(256)
        trace_id, server, client = drawn >> 128 or 1, drawn >> 64 & _64_BITS or 1, drawn & _64_BITS or 1
        parent = caller = None
        flags, sampled, state, attributes = _NEW, True, NO_STATE, _NO_ATTRIBUTES
        if remote is not None or not self._takes_all:
            known = _NEW
            if remote is not None and self._joins:
                parent, trace_id, known, state = (
                    remote,
                    remote.trace_id,
                    remote.trace_flags,
                    remote.trace_state,
                )
            else:
                caller = remote
            if not self._takes_all or not known.sampled:
                result = self._ask(head, route, trace_id, parent)
                sampled = result.decision is Decision.RECORD_AND_SAMPLE
                state, attributes = result.trace_state or NO_STATE, result.attributes
            flags = FLAGS[known & _RANDOM | sampled]
        return RequestTrace(
            trace_id,
            server,
            client,
            sampled,
            flags,
            state,
            parent,
            caller,
            attributes,
            fields,
            self._forwards,
        )

    def _ask(
        self, head: RequestHead, route: Route, trace_id: int, parent: SpanContext | None
    ) -> SamplingResult:
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        method = known_method(head.method)
        return self._sampler.should_sample(
            context,
            trace_id,
            f"{method} {route.template}",
            SpanKind.SERVER,
            {
                n.METHOD: method,
                n.PATH: redact_path(head.path, route.template),
                n.SCHEME: head.scheme,
                n.ROUTE: route.template,
            },
            (),
        )

    def bare(self) -> RequestTrace:
        """A trace that is not sampled and tells nobody: for when beginning one has failed."""
        return RequestTrace(self.trace_id(), self.span_id(), self.span_id(), sampled=False)


def _baggage(headers: Headers, allowed: frozenset[str]) -> tuple[Field, ...]:
    """The caller's members that go on; none are named: all of them."""
    values = headers.get_all(b"baggage")
    if not allowed:
        return tuple((b"baggage", value) for value in values)
    members = (member for value in values for member in value.split(b","))
    kept = b",".join(member for member in members if _member_name(member) in allowed)
    return ((b"baggage", kept.strip()),) if kept else ()


def _member_name(member: bytes) -> str:
    return member.partition(b"=")[0].strip().decode("latin-1")


def read_context(headers: Headers) -> SpanContext | None:
    """The caller's span by `traceparent` and `tracestate`, or None when there is none that is well formed.

    See W3C Trace Context: several `traceparent` fields count as none; an unknown version is read as version 00.
    """
    values = headers.get_all(b"traceparent")
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0])
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or trace_id == _ZERO_TRACE or span_id == _ZERO_SPAN:
        return None
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=FLAGS[int(flags, 16) & 3],
        trace_state=_read_state(headers.get_all(b"tracestate")),
    )


def _read_state(values: list[bytes]) -> TraceState:
    """The caller's `tracestate`: all of it, or nothing when any member is malformed or a limit is passed.

    What is not even of its alphabet is not shown to the official parser, which logs what it refuses. It stands on
    every span, so one that holds a credential is none.
    """
    if not values:
        return NO_STATE
    text = b",".join(values).decode("latin-1")
    if len(text) > _TRACESTATE_LIMIT or not _TRACESTATE.fullmatch(text) or is_credential(text):
        return NO_STATE
    return TraceState.from_header([text])


def ref_ids(ref: Ref) -> tuple[int, int]:
    """The trace id and span id of a reference."""
    return int.from_bytes(ref[:16], "big"), int.from_bytes(ref[16:], "big")
