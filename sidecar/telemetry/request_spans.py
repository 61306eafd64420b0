"""The spans of a settled exchange: SERVER, CLIENT, connect, wait, stream, with links and status.

Owns which spans there are, from when to when, and their links; their attributes are the portrait's. It reads
a frozen exchange and never changes it. Of a request that is not sampled, `span_count` says how many were
not made.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from sidecar.core.clock import SECOND
from sidecar.core.exchange import ConnectTiming, Exchange
from sidecar.core.sessions import Ref
from sidecar.core.shown import shown
from sidecar.telemetry import names as n
from sidecar.telemetry.portrait import Portrait
from sidecar.telemetry.shape import Shape, call_end, client_failed, has_client
from sidecar.telemetry.spans import UNSET, Layer, Layers, Span, SpanAttributes, SpanFactory
from sidecar.telemetry.trace import FLAGS, RequestTrace, ref_ids

MAX_LINKS = 32
"""Links kept on a SERVER span; further ones are counted in `sidecar.links.dropped`."""

_ERROR = Status(StatusCode.ERROR)

Link = tuple[SpanContext, str]


class RequestSpans:
    """Makes the spans of one exchange after another."""

    def __init__(self, factory: SpanFactory, span_id: Callable[[], int]) -> None:
        """`span_id` gives fresh ids."""
        self._build = factory.build
        self._span_id = span_id

    def build(self, exchange: Exchange, trace: RequestTrace, shape: Shape, portrait: Portrait) -> list[Span]:
        """The exchange's spans, the SERVER span first. `trace` is the exchange's own."""
        common = (portrait.who, portrait.ids)
        attributes: Layers = (*common, shape.server, Layer(portrait.server))
        count = link_count(exchange)
        if count > MAX_LINKS:
            attributes = (*attributes, Layer({n.LINKS_DROPPED: count - MAX_LINKS}))
        span = self._build(
            shape.server_name,
            trace,
            trace.server_span_id,
            times=(exchange.start + exchange.correction, exchange.end + exchange.correction),
            attributes=attributes,
            parent=trace.parent,
            kind=SpanKind.SERVER,
            status=_status(exchange, shape.server_failed),
            links=_links(exchange, trace) if count else (),
        )
        if shape.client is None:
            return [span]
        asked = (*common, shape.client, Layer(portrait.client))
        return [span, *self._call(exchange, trace, shape, common, asked)]

    def _call(
        self, exchange: Exchange, trace: RequestTrace, shape: Shape, common: Layers, asked: Layers
    ) -> list[Span]:
        """The CLIENT span and its children."""
        client, moved = trace.client_span_id, exchange.correction
        span = self._build(
            shape.client_name,
            trace,
            client,
            times=(exchange.asked + moved, call_end(exchange) + moved),
            attributes=asked,
            parent=trace.server_span_id,
            kind=SpanKind.CLIENT,
            status=_status(exchange, shape.client_failed),
        )
        return [
            span,
            *(
                self._build(
                    name,
                    trace,
                    self._span_id(),
                    times=(start + moved, end + moved),
                    attributes=(*common, Layer(attributes)) if attributes else common,
                    parent=client,
                    status=status,
                    events=[(event, at + moved, about) for event, at, about in events],
                )
                for name, start, end, status, attributes, events in _steps(exchange)
            ),
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
        status = _status(exchange, not exchange.sent and client_failed(exchange))
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


def _status(exchange: Exchange, failed: bool) -> Status:
    if not failed:
        return UNSET
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
    if exchange.past is not None:
        count += len(exchange.past.races)
    return count


def _links(exchange: Exchange, trace: RequestTrace) -> list[Link]:
    links = [(trace.caller, "caller")] if trace.caller is not None else []
    links += [(ref_context(ref), kind) for kind, ref in islice(_linked(exchange), MAX_LINKS)]
    return links[:MAX_LINKS]


def _linked(exchange: Exchange) -> Iterator[tuple[str, Ref]]:
    turn = exchange.turn
    if turn is not None and turn.previous is not None:
        yield "previous", turn.previous
    if exchange.retry_of is not None:
        yield "retry_of", exchange.retry_of
    if exchange.continues is not None:
        yield "continues", exchange.continues
    if exchange.past is not None:
        for ref in exchange.past.races:
            yield "races", ref
    if turn is not None:
        for ref in (*turn.overlaps, *turn.overlapped_by):
            yield "overlaps", ref


def ref_context(ref: Ref) -> SpanContext:
    """The context of a request's SERVER span, to link to; whether it was sampled is not exported with a link."""
    return SpanContext(*ref_ids(ref), False, FLAGS[3])
