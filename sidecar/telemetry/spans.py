"""Which spans there are, from when to when, and their links: of settled requests, of ended conversations and sessions.

A request's are SERVER, CLIENT, connect, wait and stream, all made of its frozen exchange, which is never changed; of
one that is not sampled, `span_count` says how many were not made. A conversation's and a session's are traces of their
own, for a session may last a day; they are always taken, whatever became of their requests, unless the sampler is
`always_off`, and their times are the wall's as it is at their end.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from sidecar.core.clock import SECOND, STEADY, Wall
from sidecar.core.exchange import ConnectTiming, Exchange, referred
from sidecar.core.facts import Outcome
from sidecar.core.sessions import ConversationSummary, Ref, SessionListener, SessionSummary, Totals
from sidecar.core.shown import shown
from sidecar.telemetry import names as n
from sidecar.telemetry.factories import (
    UNSET,
    Layer,
    Layers,
    Linked,
    Span,
    SpanAttributes,
    SpanFactory,
    WayOut,
)
from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.queues import LINE, Worker
from sidecar.telemetry.request_attributes import OwnAttributes, Shape, call_end, client_failed, has_client
from sidecar.telemetry.trace import FLAGS, NO_STATE, RequestTrace, Tracer

MOST_REPLAYED = 100
"""Requests of one session that have a span in its replay."""
MOST_TO_MAKE = 1000
"""Sessions that have ended whose replay may wait for room."""
MAX_LINKS = 32
"""Links kept on a SERVER span; further ones are counted in `sidecar.links.dropped`."""

_ERROR = Status(StatusCode.ERROR)


def is_off(sampler: Sampler) -> bool:
    """Whether a sampler takes no span at all, of sessions neither."""
    return sampler.get_description() == ALWAYS_OFF.get_description()


class RequestSpans:
    """Makes the spans of one exchange after another."""

    def __init__(self, factory: SpanFactory, span_id: Callable[[], int]) -> None:
        """`span_id` gives fresh ids."""
        self._build = factory.build
        self._span_id = span_id

    def build(self, exchange: Exchange, trace: RequestTrace, shape: Shape, own: OwnAttributes) -> list[Span]:
        """The exchange's spans, the SERVER span first. `trace` is the exchange's own."""
        common = (own.who.spans, own.ids)
        attributes: Layers = (*common, shape.server, own.server)
        links, about = _links(exchange, trace)
        if about:
            attributes = (*attributes, Layer(about))
        moved = exchange.correction
        span = self._build(
            shape.server_name,
            trace,
            trace.server_span_id,
            times=(exchange.start + moved, exchange.end + moved),
            attributes=attributes,
            parent=trace.parent,
            kind=SpanKind.SERVER,
            status=_status(exchange) if shape.server_failed else UNSET,
            links=links,
        )
        if shape.client is None:
            return [span]
        client = self._build(
            shape.client_name,
            trace,
            trace.client_span_id,
            times=(exchange.asked + moved, call_end(exchange) + moved),
            attributes=(*common, shape.client, own.client),
            parent=trace.server_span_id,
            kind=SpanKind.CLIENT,
            status=_status(exchange) if shape.client_failed else UNSET,
        )
        return [span, client, *self._children(exchange, trace, common)]

    def _children(self, exchange: Exchange, trace: RequestTrace, common: Layers) -> list[Span]:
        """The CLIENT span's."""
        moved = exchange.correction
        return [
            self._build(
                name,
                trace,
                self._span_id(),
                times=(start + moved, end + moved),
                attributes=(*common, Layer(attributes)) if attributes else common,
                parent=trace.client_span_id,
                status=status,
                events=events and [(event, at + moved, about) for event, at, about in events],
            )
            for name, start, end, status, attributes, events in _steps(exchange)
        ]


Step = tuple[str, int, int, Status, SpanAttributes, list[tuple[str, int, SpanAttributes]]]


def span_count(exchange: Exchange) -> int:
    """How many spans `RequestSpans.build` makes of the exchange."""
    return 2 + len(_steps(exchange)) if has_client(exchange) else 1


def _steps(exchange: Exchange) -> list[Step]:
    """The children of the CLIENT span that apply: (name, start, end, status, attributes, events)."""
    steps: list[Step] = []
    connect = _connect(exchange)
    if connect is not None:
        status = _status(exchange) if not exchange.sent and client_failed(exchange) else UNSET
        steps.append(("connect", connect.start, connect.end, status, _connect_attributes(connect), []))
    if exchange.sent:
        # An answer may begin before the request's body has ended: then the wait began with the head.
        start = max(exchange.sent, exchange.request_end)
        end = exchange.first_byte or call_end(exchange)
        steps.append(("wait", start if start <= end else exchange.sent, end, UNSET, {}, []))
    if exchange.streams and exchange.first_byte:
        end = exchange.last_byte or exchange.end
        stalls: list[tuple[str, int, SpanAttributes]] = [
            (n.REQUEST_STALLED, since + length, {n.STALL_DURATION: length / SECOND})
            for since, length in exchange.stream.stalls
        ]
        steps.append(("stream", exchange.first_byte, end, UNSET, _stream_attributes(exchange), stalls))
    return steps


def _connect(exchange: Exchange) -> ConnectTiming | None:
    """How a connection was made or waited for; an attempt that never ended lasted until the call did."""
    connect = exchange.connect
    if connect is None:
        return ConnectTiming("new", exchange.asked, call_end(exchange))
    return None if connect.kind == "reused" else connect


def _connect_attributes(connect: ConnectTiming) -> SpanAttributes:
    attributes: SpanAttributes = {n.CONNECTION: connect.kind}
    begun = connect.start
    for name, end in (
        (n.CONNECT_DNS, connect.dns_end),
        (n.CONNECT_TCP, connect.tcp_end),
        (n.CONNECT_TLS, connect.tls_end),
    ):
        if end is not None:
            attributes[name] = (end - begun) / SECOND
            begun = end
    if connect.dns_kept:
        attributes[n.CONNECT_DNS_KEPT] = True
    if connect.address is not None:
        attributes[n.PEER_ADDRESS] = connect.address
    return attributes


def _stream_attributes(exchange: Exchange) -> SpanAttributes:
    stream = exchange.stream
    attributes: SpanAttributes = {
        n.STREAM_BYTES: stream.bytes,
        n.STREAM_EVENTS: stream.events,
        n.STREAM_CHUNKS: stream.chunks,
        n.STREAM_GAP: stream.gap / SECOND,
        n.STREAM_STALLS: stream.stall_count,
        n.STREAM_BLOCKED: stream.blocked / SECOND,
    }
    if exchange.response.unreadable:
        attributes[n.STREAM_UNREADABLE] = exchange.response.unreadable
    return attributes


def _status(exchange: Exchange) -> Status:
    """Of a span that is an error."""
    message = exchange.verdict.message if exchange.verdict else None
    return Status(StatusCode.ERROR, shown(message)) if message else _ERROR


def link_count(exchange: Exchange) -> int:
    """How many links there are for the SERVER span, kept or not."""
    turn, trace = exchange.turn, exchange.trace
    count = (exchange.retry_of is not None) + (exchange.continues is not None)
    if isinstance(trace, RequestTrace):
        count += trace.caller is not None
    if turn is not None:
        count += (turn.previous is not None) + turn.overlap_count + turn.overlapped_by_count
    return count + len(exchange.races) + (exchange.spawned_by is not None) + len(exchange.spawned)


def _links(exchange: Exchange, trace: RequestTrace) -> tuple[list[Linked], SpanAttributes]:
    """The links that are kept; and as attributes those that stay within the trace, and how many are left out.

    A viewer takes a link within a trace for the parent where that is missing, and draws calls that ran at once one
    inside the other.
    """
    links: list[Linked] = [] if trace.caller is None else [(trace.caller, "caller")]
    within: list[str] = []
    own = trace.trace_id.to_bytes(16, "big")
    for kind, ref in islice(referred(exchange), MAX_LINKS - len(links)):
        if ref.startswith(own):
            within.append(f"{kind}:{ref[16:].hex()}")
        else:
            links.append((ref, kind))
    about: SpanAttributes = {}
    if within:
        about[n.LINKS_WITHIN] = within
    if len(links) + len(within) == MAX_LINKS and (count := link_count(exchange)) > MAX_LINKS:
        about[n.LINKS_DROPPED] = count - MAX_LINKS
    return links, about


_OUTCOMES = {
    Outcome.COMPLETED: n.TOTAL_COMPLETED,
    Outcome.CLIENT_LEFT: n.TOTAL_CLIENT_LEFT,
    Outcome.UPSTREAM_REJECTED: n.TOTAL_REJECTED,
    Outcome.UPSTREAM_FAILED: n.TOTAL_FAILED,
    Outcome.ERROR_IN_STREAM: n.TOTAL_ERROR_IN_STREAM,
    Outcome.TIMED_OUT: n.TOTAL_TIMED_OUT,
    Outcome.REFUSED: n.TOTAL_REFUSED,
    Outcome.SHUTDOWN: n.TOTAL_SHUTDOWN,
    Outcome.INTERNAL_ERROR: n.TOTAL_INTERNAL_ERROR,
}


class SessionSpans(SessionListener):
    """Makes the spans of ended conversations and sessions, and hands them to the way out."""

    def __init__(
        self, factory: SpanFactory, tracer: Tracer, pipeline: WayOut, sampler: Sampler, wall: Wall = STEADY
    ) -> None:
        self._factory = factory
        self._tracer = tracer
        self._pipeline = pipeline
        self._wall = wall
        self._off = is_off(sampler)
        self._ended: dict[str, tuple[list[SpanContext], int]] = {}
        """By session: the spans of its ended conversations, at most `MAX_LINKS`, and how many more there were."""

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """Makes its span, and keeps the span's context for its session's links."""
        if self._off:
            self._pipeline.not_made(Signal.TRACES, 1)
            return
        trace = _OwnTrace(self._tracer)
        attributes: SpanAttributes = {
            n.SESSION_ID: summary.session_id,
            n.SESSION_SOURCE: str(summary.source),
            n.CONVERSATION: summary.conversation_id,
            **totals_attributes(summary.totals),
        }
        if summary.supplied or summary.session_supplied:
            attributes[n.GEN_AI_CONVERSATION] = (
                summary.conversation_id if summary.supplied else summary.session_id
            )
        kept = summary.links[:MAX_LINKS]
        dropped = summary.links_dropped + len(summary.links) - len(kept)
        if dropped:
            attributes[n.LINKS_DROPPED] = dropped
        self._pipeline.span(
            self._factory.build(
                "conversation",
                trace,
                trace.span_id,
                times=(
                    summary.started_at + self._wall.correction,
                    summary.ended_at + self._wall.correction,
                ),
                attributes=(Layer(attributes),),
                links=[(ref, kind) for kind, ref in kept],
            )
        )
        contexts, more = self._ended.setdefault(summary.session_id, ([], 0))
        if len(contexts) < MAX_LINKS:
            contexts.append(SpanContext(trace.trace_id, trace.span_id, False, trace.flags))
        else:
            self._ended[summary.session_id] = (contexts, more + 1)

    def session_ended(self, summary: SessionSummary) -> None:
        """Makes its span, with a link to each of its conversations' spans."""
        if self._off:
            self._pipeline.not_made(Signal.TRACES, 1)
            return
        contexts, more = self._ended.pop(summary.session_id, ([], 0))
        attributes: SpanAttributes = {
            n.SESSION_ID: summary.session_id,
            n.SESSION_SOURCE: str(summary.source),
            n.TOTAL_CONVERSATIONS: summary.conversations,
            **totals_attributes(summary.totals),
        }
        if more:
            attributes[n.LINKS_DROPPED] = more
        trace = _OwnTrace(self._tracer)
        self._pipeline.span(
            self._factory.build(
                "session",
                trace,
                trace.span_id,
                times=(
                    summary.started_at + self._wall.correction,
                    summary.ended_at + self._wall.correction,
                ),
                attributes=(Layer(attributes),),
                links=[(context, "conversation") for context in contexts],
            )
        )


class _OwnTrace:
    """A trace of one span."""

    __slots__ = ("span_id", "trace_id")

    flags = FLAGS[3]
    state = NO_STATE

    def __init__(self, tracer: Tracer) -> None:
        self.trace_id = tracer.trace_id()
        self.span_id = tracer.span_id()


def totals_attributes(totals: Totals) -> SpanAttributes:
    """The sums as attributes: times in seconds; outcomes that did not occur and unreported tokens are absent.

    What the conventions say of one call is never among them: whoever adds it up would count it again.
    """
    attributes: SpanAttributes = {
        n.TOTAL_REQUESTS: sum(totals.requests.values()),
        **{_OUTCOMES[outcome]: count for outcome, count in totals.requests.items() if count},
        n.TOTAL_TURNS: totals.turns,
        n.TOTAL_OVERLAPS: totals.overlaps,
        n.TOTAL_MOST_AT_ONCE: totals.most_at_once,
        n.TOTAL_OUT_OF_ORDER: totals.out_of_order,
        n.TOTAL_WAITS_KNOWN: totals.waits_known,
        n.TOTAL_WAIT_AVOIDED: totals.wait_avoided / SECOND,
        n.TOTAL_WAITS_UNKNOWN: totals.waits_unknown,
        n.TOTAL_MODEL_TIME: totals.model_time / SECOND,
        n.TOTAL_THINK_TIME: totals.think_time / SECOND,
    }
    if totals.input_tokens is not None:
        attributes[n.TOTAL_INPUT_TOKENS] = totals.input_tokens
    if totals.output_tokens is not None:
        attributes[n.TOTAL_OUTPUT_TOKENS] = totals.output_tokens
    if totals.models:
        attributes[n.MODELS] = totals.models
    return attributes


@dataclass(slots=True)
class _Kept:
    """A request that has ended. Times in ns, by the wall."""

    conversation: str
    request_id: str
    sequence: int
    name: str
    start: int
    end: int
    outcome: str
    failed: bool
    overlaps: int
    distance: int
    wait: int | None


class Replays(SessionListener):
    """The replay of a session that has ended: one small trace, so that any store of traces draws its lanes by itself.

    The session, its conversations, and a span for each of the first `MOST_REPLAYED` requests with its final figures and a link to its real
    span. All of it is done in the worker, behind the requests' own spans; the event loop only says that a session has ended.
    A replay can wait: none takes the place of another span that is on its way out. `limit` bounds the requests remembered of all
    sessions together.
    """

    def __init__(
        self, factory: SpanFactory, tracer: Tracer, worker: Worker, pipeline: WayOut, wall: Wall, limit: int
    ) -> None:
        self._factory = factory
        self._tracer = tracer
        self._worker = worker
        self._pipeline = pipeline
        self._wall = wall
        self._limit = limit
        self._size = 0
        self._kept: dict[str, dict[Ref, _Kept]] = {}
        """By session, by the reference of the request."""
        self._first: OrderedDict[str, tuple[Ref, _Kept]] = OrderedDict()
        """By a made-up session's id its one request, until another one continues it."""
        self._to_make: deque[tuple[SessionSummary, dict[Ref, _Kept]]] = deque()
        """Sessions that have ended, whose replay waits for room; with their requests, as one may come back under the same id."""

    def session_ended(self, summary: SessionSummary) -> None:
        """Has its replay made, behind what its requests still have waiting and before what one under the same id will have."""
        self._worker.put_anyway(LINE, self._note, summary)

    def _note(self, summary: SessionSummary) -> None:
        self._to_make.append((summary, self._kept.pop(summary.session_id, {})))

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._to_make)

    def make(self, *, most: int = MOST_TO_MAKE) -> None:
        """Makes those that there is room for. In the worker; after its end, in the loop.

        `most` may wait on; the older ones are given up, their spans `dropped`.
        """
        while self._to_make and (self._pipeline.roomy or len(self._to_make) > most):
            self._end(*self._to_make.popleft())

    def keep(self, exchange: Exchange, shape: Shape) -> None:
        """Remembers a settled request, and what its ending said of the waits of others. In the worker."""
        turn = exchange.turn
        if turn is None or not turn.tracked or (turn.generated and not turn.turn):
            return
        one = _Kept(
            turn.conversation_id,
            turn.request_id,
            turn.sequence,
            f"replay {shape.server_name if shape.client is None else shape.client_name}",
            exchange.start + exchange.correction,
            exchange.end + exchange.correction,
            shape.outcome.value,
            shape.server_failed,
            turn.overlap_count,
            turn.distance,
            turn.wait,
        )
        if turn.generated:
            if self._has_room():
                self._first[turn.session_id] = turn.ref, one
                self._size += 1
            return
        session = self._kept.setdefault(turn.session_id, {})
        first = self._first.pop(turn.session_id, None)
        if first is not None:
            session[first[0]] = first[1]
        for wait, ref, *_ in turn.revealed:
            if ref in session:
                session[ref].wait = wait
        if len(session) < MOST_REPLAYED and self._has_room():
            session[turn.ref] = one
            self._size += 1

    def _has_room(self) -> bool:
        """Whether one more can be kept; the oldest of a session that nobody has continued makes room."""
        if self._size >= self._limit and self._first:
            self._first.popitem(last=False)
            self._size -= 1
        return self._size < self._limit

    def _end(self, summary: SessionSummary, session: dict[Ref, _Kept]) -> None:
        self._size -= len(session)
        if self._pipeline.roomy:
            self._pipeline.span(*self._spans(summary, session))
        else:
            conversations = {one.conversation for one in session.values()}
            self._pipeline.not_made(Signal.TRACES, 1 + len(conversations) + len(session), State.DROPPED)

    def _spans(self, summary: SessionSummary, session: dict[Ref, _Kept]) -> list[Span]:
        build, trace = self._factory.build, _OwnTrace(self._tracer)
        who: SpanAttributes = {n.SESSION_ID: summary.session_id, n.SESSION_SOURCE: str(summary.source)}
        omitted = sum(summary.totals.requests.values()) - len(session)
        told = {**who, n.REPLAY_OMITTED: omitted} if omitted > 0 else who
        correction = self._wall.correction
        times = (summary.started_at + correction, summary.ended_at + correction)
        if session:
            times = _span_of(list(session.values()))
        spans = [build("replay session", trace, trace.span_id, times=times, attributes=(Layer(told),))]
        conversations: dict[str, list[tuple[Ref, _Kept]]] = {}
        for ref, one in session.items():
            conversations.setdefault(one.conversation, []).append((ref, one))
        for conversation, requests in conversations.items():
            lane, thread = Layer({**who, n.CONVERSATION: conversation}), self._tracer.span_id()
            times = _span_of([one for _, one in requests])
            spans.append(
                build(
                    "replay conversation",
                    trace,
                    thread,
                    times=times,
                    attributes=(lane,),
                    parent=trace.span_id,
                )
            )
            spans += [
                build(
                    one.name,
                    trace,
                    self._tracer.span_id(),
                    times=(one.start, one.end),
                    attributes=(lane, Layer(_attributes(one))),
                    parent=thread,
                    status=_ERROR if one.failed else UNSET,
                    links=[(ref, "request")],
                )
                for ref, one in requests
            ]
        return spans


def _span_of(requests: list[_Kept]) -> tuple[int, int]:
    """From the first beginning to the last ending."""
    return min(one.start for one in requests), max(one.end for one in requests)


def _attributes(one: _Kept) -> SpanAttributes:
    attributes: SpanAttributes = {
        n.REQUEST_ID: one.request_id,
        n.SEQUENCE: one.sequence,
        n.OUTCOME: one.outcome,
        n.OVERLAPS: one.overlaps,
        n.DISTANCE: one.distance,
    }
    if one.wait is not None:
        attributes[n.WAIT_AVOIDED] = one.wait / SECOND
    return attributes
