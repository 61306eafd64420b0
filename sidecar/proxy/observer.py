"""Watches an answer's body as it passes: a decoded copy is read for events, facts and its end.

Owns the copy and its bounds. It is fed after the bytes have been written on and can neither change nor
delay nor break them: what it cannot read ends the watching, is counted, and passes all the same.
"""

import sys
from collections.abc import Callable
from typing import Protocol

from sidecar import apis
from sidecar.core.anomaly import Anomaly
from sidecar.core.exchange import Exchange
from sidecar.core.facts import EventKind
from sidecar.core.headers import Headers
from sidecar.core.sse import Event
from sidecar.proxy.decode import UnreadableCodingError, decoder
from sidecar.proxy.guard import outermost
from sidecar.proxy.shared import Shared

_EXPANSION_LIMIT = 8 * 1024 * 1024
"""Decoded bytes of one read above which a compressed stream is no longer watched: reading more takes too long."""

_EVENT_LIMIT = 32 * 1024
"""The same in events."""

_EXPANSION = 4 * 1024 * 1024
"""Decoded bytes of one read above which a compressed body is no longer kept, if they are more than its bytes."""

_END = 64 * 1024
"""Bytes that are kept of either end of an answer which is too large to be held."""

_ENDS = 4 * _END
"""The memory they take."""

_ERROR_LIMIT = 64 * 1024
"""Bytes of a rejection's body that are read for the provider's error word."""


class Observer(Protocol):
    """What the answer shows its body to."""

    def feed(self, pieces: list[bytes], at: int) -> None:
        """Pieces that were read at `at` (ns since the epoch) and have been passed on."""

    def reading(self) -> apis.Steps[None] | None:
        """The body has ended, cleanly framed: what is to be done in steps before `finish`, if it is large."""

    def finish(self, at: int) -> None:
        """The body ended, cleanly framed."""

    def close(self) -> None:
        """Nothing more comes, however it ended."""


def _any_event(_name: bytes, _data: bytes) -> EventKind:
    """An event of a stream that is not read in depth: data, and nothing more is known."""
    return EventKind.EVENT


class StreamObserver:
    """Watches an answer that streams: every event is read as its last byte passes."""

    def __init__(
        self,
        exchange: Exchange,
        parser: apis.EventParser,
        coding: bytes | None,
        report: Callable[[Exception], None],
    ) -> None:
        self._exchange = exchange
        self._report = report
        self._parser: apis.EventParser | None = parser
        self._decoder = decoder(coding) if coding is not None else None
        reader = apis.stream_reader(exchange.route, exchange.response)
        self._kind = reader.event if reader is not None else _any_event

    @outermost
    def feed(self, pieces: list[bytes], at: int) -> None:
        """Reads the events that the pieces complete."""
        parser = self._parser
        if parser is None:
            return
        if self._decoder is None:
            kind, tell = self._kind, self._exchange.event_read
            for piece in pieces:
                for name, data in parser.feed(piece):
                    tell(kind(name, data), at)
            return
        size = count = 0
        try:
            for piece in pieces:
                for decoded in self._decoder.decode(piece):
                    events = parser.feed(decoded)
                    self._read(events, at)
                    size += len(decoded)
                    count += len(events)
                    if size > _EXPANSION_LIMIT or count > _EVENT_LIMIT:
                        raise UnreadableCodingError("it expands without end")
        except UnreadableCodingError:
            self._give_up()

    def reading(self) -> None:
        """Nothing: events are read as they pass."""

    @outermost
    def finish(self, at: int) -> None:
        """Reads what the end completes."""
        if self._parser is not None:
            self._read(self._parser.finish(), at)

    def close(self) -> None:
        """Says what was too large to be read."""
        if self._parser is not None and self._parser.oversized:
            self._exchange.anomalies.append(Anomaly.EVENT_TOO_LARGE)

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the watching, and nothing else."""
        self._report(error)
        self._give_up()

    def _give_up(self) -> None:
        self._parser = None
        self._exchange.watched = False
        self._exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)

    def _read(self, events: list[Event], at: int) -> None:
        kind, tell = self._kind, self._exchange.event_read
        for name, data in events:
            tell(kind(name, data), at)


class _ErrorReader:
    """Reads the provider's own word out of a rejection's body."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def prepare(self, data: bytes) -> apis.Steps[None]:  # noqa: ARG002 - it is all in `body`
        """Nothing: no such body is large."""
        yield from ()

    def body(self, data: bytes) -> None:
        """Takes the body; one that tells no known word tells nothing."""
        self._exchange.response.error = apis.error_code(self._exchange.route, data)


class _WholeBody(Protocol):
    """What reads a whole body; `apis.BodyReader` is one."""

    def prepare(self, data: bytes) -> apis.Steps[None]:
        """Reads a large body in steps, so that taking it costs little. Never raises."""

    def body(self, data: bytes) -> None:
        """Takes the body. Never raises."""


class BodyObserver:
    """Keeps a copy of a whole answer, within bounds, and reads it at its end; of a larger one, its two ends."""

    def __init__(
        self,
        exchange: Exchange,
        reader: _WholeBody,
        coding: bytes | None,
        shared: Shared,
        limit: int,
    ) -> None:
        self._exchange = exchange
        self._report = shared.report
        self._reader = reader
        self._decoder = decoder(coding)
        self._admission = shared.admission
        self._limit = min(limit, shared.limits.inspect)
        self._held: bytearray | None = bytearray()
        self._tail: bytearray | None = None
        """The latest bytes, once the body is larger than what is held; then `_held` are the first."""
        self._counted = 0

    @outermost
    def feed(self, pieces: list[bytes], at: int) -> None:
        """Keeps the pieces; when they came does not matter."""
        del at
        size = 0
        try:
            for piece in pieces:
                if self._held is None:
                    return
                for decoded in self._decoder.decode(piece):
                    size += len(decoded)
                    if size > _EXPANSION and size > 2 * len(piece):
                        raise UnreadableCodingError("it expands without end")
                    self._keep(decoded)
        except UnreadableCodingError:
            self._give_up()

    def _keep(self, data: bytes) -> None:
        held, tail = self._held, self._tail
        if held is None:
            return
        if tail is not None:
            tail += data[-_END:]
            if len(tail) > 2 * _END:
                del tail[:-_END]
            return
        if len(held) + len(data) <= self._limit:
            held += data
            more = sys.getsizeof(held) - self._counted
            if self._admission.hold(more):
                self._counted += more
                return
        else:
            held += data
        self._keep_ends(held)

    def _keep_ends(self, held: bytearray) -> None:
        """From now on only the body's first and latest bytes are kept."""
        self._give_up()
        if self._limit >= _END and self._admission.hold(_ENDS):
            self._counted = _ENDS
            self._held, self._tail = held[:_END], held[-_END:]

    def reading(self) -> apis.Steps[None] | None:
        """What is to be done in steps, if the body is large."""
        if self._held is None or self._tail is not None or len(self._held) <= apis.LARGE:
            return None
        return self._reader.prepare(bytes(self._held))

    @outermost
    def finish(self, at: int) -> None:
        """Reads the body."""
        del at
        if self._held is None:
            return
        body: bytes | None = bytes(self._held)
        if self._tail is not None:
            body = apis.ends_of(bytes(self._held), bytes(self._tail))
        if body is not None:
            self._reader.body(body)

    def close(self) -> None:
        """Gives the memory back."""
        self._admission.release(self._counted)
        self._held = self._tail = None
        self._counted = 0

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the watching, and nothing else."""
        self._report(error)
        self._give_up()

    def _give_up(self) -> None:
        self.close()
        if Anomaly.ANSWER_NOT_READ not in self._exchange.anomalies:
            self._exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)


def observer_for(exchange: Exchange, headers: Headers, shared: Shared) -> Observer | None:
    """What watches this answer, or None; says on the exchange whether it streams."""
    coding = headers.get(b"content-encoding")
    rejected = exchange.verdict is not None
    parser = apis.event_parser(exchange.route, headers.text(b"content-type"), rejected=rejected)
    try:
        if parser is not None:
            exchange.streams = True
            return StreamObserver(exchange, parser, coding, shared.report)
        if rejected:
            return BodyObserver(exchange, _ErrorReader(exchange), coding, shared, _ERROR_LIMIT)
        reader = apis.body_reader(exchange.route, exchange.response)
        if reader is not None:
            return BodyObserver(exchange, reader, coding, shared, shared.limits.inspect)
    except UnreadableCodingError:
        exchange.watched = False
        exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)
    return None
