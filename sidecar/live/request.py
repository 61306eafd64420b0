"""One request as the live page knows it: a bar while it is drawn, everything once somebody opens it.

Owns the two documents and what is kept to make them. Both are made when somebody asks; a request that nobody looks
at costs one `Ended`. Times within are ns by the steady clock, in the documents microseconds since the epoch;
durations in the documents are seconds. `docs/admin.md` has every field.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple, TypedDict

from sidecar.core.clock import SECOND
from sidecar.core.exchange import ConnectTiming, Exchange, Stream, Trace, Upstream, Verdict, referred
from sidecar.core.facts import Outcome, ResponseFacts, Route
from sidecar.core.identity import Identity
from sidecar.core.sessions import Ref
from sidecar.core.shown import shown
from sidecar.core.turns import Turn

_MICRO = 1000
_WHOLE = frozenset({Outcome.COMPLETED, Outcome.UPSTREAM_REJECTED, Outcome.ERROR_IN_STREAM})

Facts = Mapping[str, object]
"""The fields of a wide line, by their names there."""


class Bar(TypedDict):
    """What a page needs to draw a request. `end` and `outcome` are null while it is in flight."""

    id: str
    """16 hex digits: the id of its SERVER span."""
    session: str | None
    """Null where a mistake of the sidecar came before its session was known."""
    conversation: str | None
    named: bool
    """False where the session's id was made up."""
    sequence: int
    request: str | None
    model: str | None
    upstream: str | None
    operation: str | None
    turn: bool
    start: int
    """Its arrival; of a request that never arrived, its first byte."""
    first: int | None
    """The answer's first byte."""
    end: int | None
    outcome: str | None
    stalls: list[tuple[int, float]]
    """When each silence began, and how long it had lasted when it was noted."""
    concurrency: int
    """Turns of its conversation in flight at its arrival, itself included."""
    distance: int
    """How many later turns had completed before it."""
    races: int
    """Turns that it raced, or that raced it."""
    wait: float | None
    """What a queue would have made it wait."""
    overhead: float | None
    """What the sidecar itself added."""
    tokens: int | None
    """Output tokens."""


class Step(TypedDict):
    """One part of a request's time: `connect`, `wait` or `stream`, as its spans have them."""

    name: str
    start: int
    end: int


class Link(TypedDict):
    """Another request that this one refers to. `id` is as in `Bar`."""

    kind: str
    trace_id: str
    id: str


class Detail(TypedDict):
    """Everything about a request that has ended."""

    bar: Bar
    trace_id: str
    sampled: bool
    steps: list[Step]
    gap: float | None
    """The longest silence of its stream."""
    links: list[Link]
    facts: dict[str, object]
    """The wide line's fields."""


class Ended(NamedTuple):
    """What is kept of a settled exchange, under the same names: all but its headers and what its body says.

    And its wide line's fields.
    """

    facts: Facts
    alike: Facts
    overhead: int
    trace: Trace
    route: Route
    upstream: Upstream | None
    identity: Identity | None
    turn: Turn | None
    request_id: str | None
    asked_model: str | None
    response: ResponseFacts
    stream: Stream
    verdict: Verdict | None
    retry_of: Ref | None
    continues: Ref | None
    races: tuple[Ref, ...]
    spawned_by: Ref | None
    spawned: tuple[Ref, ...]
    connect: ConnectTiming | None
    start: int
    arrived: int
    asked: int
    sent: int
    request_end: int
    first_byte: int
    last_byte: int
    end: int
    streams: bool
    correction: int


_as_they_are = attrgetter(*Ended._fields[3:])


def ended(exchange: Exchange, facts: Facts, alike: Facts) -> Ended:
    """Keeps a settled exchange. `facts` and `alike` together are the fields of its wide line."""
    overhead = exchange.overhead_before + exchange.overhead_after + exchange.overhead_loop
    return Ended(facts, alike, overhead, *_as_they_are(exchange))


def bar_of(one: Exchange | Ended) -> Bar:
    """The bar of a request, in flight or ended."""
    identity, turn, moved = one.identity, one.turn, one.correction
    model = one.response.model or one.asked_model
    wait, own = None, None
    if isinstance(one, Ended):
        wait = turn.wait if turn is not None else None
        own = one.overhead if one.asked else None
    return {
        "id": key_of(one),
        "session": identity.session_id if identity is not None else None,
        "conversation": identity.conversation_id if identity is not None else None,
        "named": identity is not None and identity.named,
        "sequence": turn.sequence if turn is not None else 0,
        "request": one.request_id,
        "model": shown(model) if model else None,
        "upstream": one.upstream.name if one.upstream is not None else None,
        "operation": one.route.operation,
        "turn": one.route.turn,
        "start": ((one.arrived or one.start) + moved) // _MICRO,
        "first": (one.first_byte + moved) // _MICRO if one.first_byte else None,
        "end": (one.end + moved) // _MICRO if one.end else None,
        "outcome": _outcome(one).value if one.end else None,
        "stalls": [((since + moved) // _MICRO, length / SECOND) for since, length in one.stream.stalls],
        "concurrency": turn.concurrency if turn is not None else 0,
        "distance": turn.distance if turn is not None else 0,
        "races": len(one.races),
        "wait": wait / SECOND if wait is not None else None,
        "overhead": own / SECOND if own is not None else None,
        "tokens": one.response.tokens.get("output"),
    }


def key_of(one: Exchange | Ended) -> str:
    """What tells it from all others: the id of its SERVER span, 16 hex digits."""
    return f"{one.trace.server_span_id:016x}"


def detail_of(one: Ended) -> Detail:
    """Everything about a request that has ended."""
    return {
        "bar": bar_of(one),
        "trace_id": f"{one.trace.trace_id:032x}",
        "sampled": one.trace.sampled,
        "steps": _steps(one),
        "gap": one.stream.gap / SECOND if one.streams else None,
        "links": [
            {"kind": kind, "trace_id": ref[:16].hex(), "id": ref[16:].hex()} for kind, ref in referred(one)
        ],
        "facts": {**one.alike, **one.facts},
    }


def _outcome(one: Exchange | Ended) -> Outcome:
    return one.verdict.outcome if one.verdict is not None else Outcome.INTERNAL_ERROR


def _steps(one: Ended) -> list[Step]:
    """The children of the CLIENT span, from when to when."""
    outcome = _outcome(one)
    if not one.asked or outcome is Outcome.REFUSED:
        return []
    call_end = one.last_byte if outcome in _WHOLE and one.last_byte else one.end
    steps: list[tuple[str, int, int]] = []
    if one.connect is None:
        steps.append(("connect", one.asked, call_end))
    elif one.connect.kind != "reused":
        steps.append(("connect", one.connect.start, one.connect.end))
    if one.sent:
        start, end = max(one.sent, one.request_end), one.first_byte or call_end
        steps.append(("wait", start if start <= end else one.sent, end))
    if one.streams and one.first_byte:
        steps.append(("stream", one.first_byte, one.last_byte or one.end))
    return [
        {
            "name": name,
            "start": (start + one.correction) // _MICRO,
            "end": (end + one.correction) // _MICRO,
        }
        for name, start, end in steps
    ]
