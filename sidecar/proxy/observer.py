"""Watches an answer's body as it passes: a decoded copy is read for events, facts and its end.

Owns the copy and its bounds. It is fed after the bytes have been written on and can neither change nor
delay nor break them: what it cannot read ends the watching, is counted, and passes all the same.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from sidecar import apis
from sidecar.codings import Identity, UnreadableCodingError, decoder
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly, EventKind
from sidecar.core.headers import Headers
from sidecar.core.sse import Event
from sidecar.proxy.loop import STAY, outermost
from sidecar.proxy.shared import Shared
from sidecar.proxy.wire import JSON

_BOM = b"\xef\xbb\xbf"

_PART, _TINY = 4096, 512
"""Bytes that are read in one go: the costliest of this size take two milliseconds. And those that are read whatever has been
read in the same turn: they take no longer than passing them on does."""

_BEHIND = 4 * 1024 * 1024
"""Bytes of an answer that may wait to be read; above that it is no longer watched."""

_ENTRY = 192
"""Bytes of memory that a piece which waits takes beside its own."""

_COST_LIMIT = 64 * 1024 * 1024
"""What a compressed stream may cost to be read, in decoded bytes, beyond `_COST_RATE` for each byte that came."""

_COST_RATE = 256

_EVENT_COST = 1024
"""What an event costs to be read, in bytes that are passed over."""

_EVENTS = 64
"""Events that are read in one go, as many as a piece of `_PART` usually has: a single block may have ten thousand."""

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

    def feed(self, data: bytes, at: int) -> None:
        """A piece of the body that was read at `at` (ns since the epoch) and has been passed on."""

    def reading(self) -> apis.Steps[None] | None:
        """The body has ended, cleanly framed: what is to be done in steps before `finish`, if it is large."""

    def finish(self, at: int) -> None:
        """The body ended, cleanly framed."""

    def close(self, then: Callable[[], None]) -> None:
        """Nothing more comes, however it ended. Calls `then` once what has come is read, now or in a turn to come."""

    def stop(self) -> None:
        """What has not been read by now is not read any more."""


class Watching(Protocol):
    """The flow, as what watches its answer sees it."""

    def watch(self, observer: Observer | None) -> None:
        """What is shown the answer from now on."""

    def streaming(self, at: int) -> None:
        """The answer is a stream, as is known since `at` (ns since the epoch)."""


def _any_event(_name: bytes, _data: bytes) -> EventKind:
    """An event of a stream that is not read in depth: data, and nothing more is known."""
    return EventKind.EVENT


class StreamObserver:
    """Watches an answer that streams: every event is read as its last byte passes, or in a turn soon after."""

    def __init__(
        self, exchange: Exchange, parser: apis.EventParser, coding: bytes | None, shared: Shared
    ) -> None:
        self._exchange = exchange
        self._shared = shared
        self._parser: apis.EventParser | None = parser
        self._decoder = decoder(coding)
        self._plain = isinstance(self._decoder, Identity)
        reader = apis.stream_reader(exchange.route, exchange.response)
        self._kind = reader.event if reader is not None else _any_event
        self._behind: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._counted = 0
        """Bytes of memory that were taken for the decoder."""
        self._steps: Iterator[None] | None = None
        self._allowance = _COST_LIMIT
        self._ended_at = 0
        self._then: Callable[[], None] | None = None
        self.working = False
        """True while something that has come is not read."""

    @outermost
    def feed(self, data: bytes, at: int) -> None:
        """Reads the events that the piece completes, or as many as there is time for."""
        parser = self._parser
        if parser is None:
            return
        size = len(data)
        short = size <= _TINY or (size <= _PART and self._shared.turn.waited < STAY)
        if not (short and self._plain and self._steps is None):
            self._put_off(data, at)
            return
        events = parser.feed(data)
        if len(events) > _EVENTS:
            self._begin(events, at)
            return
        kind, tell = self._kind, self._exchange.event_read
        for name, value in events:
            tell(kind(name, value), at)

    def reading(self) -> None:
        """Nothing: events are read as they pass, or in turns that the end need not wait for."""

    @outermost
    def finish(self, at: int) -> None:
        """What waits is all there is."""
        self._ended_at = at
        if self._steps is None and self._parser is not None and (events := self._parser.finish()):
            self._begin(events, at)

    def close(self, then: Callable[[], None]) -> None:
        """Says what was too large to be read, once all has been."""
        self._then = then
        if self._steps is None:
            self._part()

    def stop(self) -> None:
        """Gives up what waits."""
        if self._steps is not None:
            self._give_up()

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the watching, and nothing else."""
        self._shared.report(error)
        self._give_up()

    @outermost
    def work(self) -> None:
        """Reads a small part of what waits."""
        if self._steps is None:
            return
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            self.working = False
            self._part()
        except UnreadableCodingError:
            self._give_up()

    def _begin(self, events: list[Event], at: int) -> None:
        """Reads events and what waits: at once as much as there is time for, and the rest in turns to come."""
        self._steps = self._reading(events, at)
        self.working = True
        self._shared.steps.begin(self)

    def _put_off(self, data: bytes, at: int) -> None:
        """Keeps the piece until it is read."""
        if not self._hold(len(data) + _ENTRY):
            self._give_up()
            return
        self._allowance += len(data) * _COST_RATE
        self._behind.append((data, at))
        if self._steps is None:
            self._begin([], at)

    def _reading(self, events: list[Event], at: int) -> Iterator[None]:
        """Reads events, what waits and what the end completes, a small part in each step."""
        yield from self._read(events, at)
        del events
        while self._behind:
            data, at = self._behind.popleft()
            for start in range(0, len(data), _PART):
                for decoded in self._decoder.decode(data[start : start + _PART]):
                    self._count(self._decoder.held)
                    for begin in range(0, len(decoded), _PART):
                        yield from self._read(self._events(decoded[begin : begin + _PART]), at)
                        yield
                yield
            self._release(len(data) + _ENTRY)
        if self._ended_at and self._parser is not None:
            yield from self._read(self._parser.finish(), self._ended_at)

    def _count(self, held: int) -> None:
        more = held - self._counted
        if not self._shared.admission.hold(more):
            raise UnreadableCodingError("there is no memory for its window")
        self._counted = held

    def _events(self, part: bytes) -> list[Event]:
        """The events that a part of what was decoded completes."""
        parser = self._parser
        if parser is None:
            return []
        idle = parser.keep_alives
        events = parser.feed(part)
        if not self._plain:
            blocks = len(events) + parser.keep_alives - idle
            self._allowance -= len(part) + _EVENT_COST * blocks
            if self._allowance < 0:
                raise UnreadableCodingError("it expands without end")
        return events

    def _part(self) -> None:
        """All that came has been read, as far as it could be."""
        then, self._then = self._then, None
        if then is None:
            return
        parser, self._parser = self._parser, None
        self._drop_decoder()
        try:
            if parser is not None:
                parser.finish()
                if parser.oversized:
                    self._exchange.watched = False
                    self._exchange.anomalies.append(Anomaly.EVENT_TOO_LARGE)
        finally:
            then()

    def _give_up(self) -> None:
        parser, self._parser = self._parser, None
        if parser is not None:
            self._exchange.watched = False
            self._exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)
        self._behind.clear()
        self._steps = None
        self.working = False
        self._release(self._size)
        self._drop_decoder()
        try:
            if parser is not None:
                parser.finish()
        finally:
            self._part()

    def _hold(self, size: int) -> bool:
        if self._size + size > _BEHIND or not self._shared.admission.hold(size):
            return False
        self._size += size
        return True

    def _release(self, size: int) -> None:
        self._size -= size
        self._shared.admission.release(size)

    def _drop_decoder(self) -> None:
        self._decoder = Identity()
        self._shared.admission.release(self._counted)
        self._counted = 0

    def _read(self, events: list[Event], at: int) -> Iterator[None]:
        kind, tell = self._kind, self._exchange.event_read
        size = sum(len(data) + _ENTRY for _, data in events) if len(events) > _EVENTS else 0
        if not self._hold(size):
            raise UnreadableCodingError("there is no memory for its events")
        for number, (name, data) in enumerate(events, 1):
            tell(kind(name, data), at)
            if number % _EVENTS == 0:
                yield
        self._release(size)


class BodyObserver:
    """Keeps a copy of a whole answer, within bounds, and reads it at its end; of a larger one, its two ends."""

    def __init__(
        self,
        exchange: Exchange,
        reader: apis.BodyReader,
        coding: bytes | None,
        shared: Shared,
        limit: int,
    ) -> None:
        self._exchange = exchange
        self._report = shared.report
        self._reader = reader
        self._decoder = decoder(coding)
        self._plain = isinstance(self._decoder, Identity)
        self._admission = shared.admission
        self._queue = shared.steps
        self._limit = min(limit, shared.limits.inspect)
        self._held: bytearray | None = bytearray()
        self._tail: bytearray | None = None
        """The latest bytes, once the body is larger than what is held; then `_held` are the first."""
        self._whole: bytes | None = None
        """The body, once it is read in steps."""
        self._counted = 0
        self._behind: deque[bytes] = deque()
        self._size = 0
        """Bytes of memory of what has not been decoded."""
        self._steps: Iterator[None] | None = None
        self.working = False
        """True while something that has come is not decoded."""

    @outermost
    def feed(self, data: bytes, at: int) -> None:
        """Keeps the piece; when it came does not matter."""
        del at
        if self._held is None:
            return
        if self._plain:
            self._keep(data)
            return
        self._size += len(data) + _ENTRY
        self._behind.append(data)
        kept = sys.getsizeof(self._held) if self._tail is None else _ENDS
        if self._size > _BEHIND or not self._count(kept):
            self._give_up()
        elif not self.working:
            self._steps = self._decoding()
            self.working = True
            self._queue.begin(self)

    @outermost
    def work(self) -> None:
        """Decodes a small part of what waits."""
        if self._steps is None:
            return
        try:
            next(self._steps)
        except StopIteration:
            self._steps = None
            self.working = False
        except UnreadableCodingError:
            self._give_up()

    def _decoding(self) -> Iterator[None]:
        """Decodes what waits, a small part in each step."""
        while self._behind:
            data, size = self._behind.popleft(), 0
            for start in range(0, len(data), _PART):
                for decoded in self._decoder.decode(data[start : start + _PART]):
                    size += len(decoded)
                    if size > _EXPANSION and size > 2 * len(data):
                        raise UnreadableCodingError("it expands without end")
                    self._keep(decoded)
                    yield
                yield
            self._size -= len(data) + _ENTRY

    def _keep(self, data: bytes) -> None:
        held, tail = self._held, self._tail
        if held is None:
            return
        if tail is not None:
            tail += data[-_END:]
            if len(tail) > 2 * _END:
                del tail[:-_END]
            if not self._count(_ENDS):
                self._give_up()
            return
        held += data
        if len(held) > self._limit or not self._count(sys.getsizeof(held)):
            self._keep_ends(held)

    def _count(self, size: int) -> bool:
        """Takes memory for what is held, so many bytes, for what waits to be decoded, and for the decoder."""
        more = size + self._size + self._decoder.held - self._counted
        if not self._admission.hold(more):
            return False
        self._counted += more
        return True

    def _keep_ends(self, held: bytearray) -> None:
        """From now on only the body's first and latest bytes are kept."""
        self._release()
        self._not_read()
        if self._limit >= _END and self._count(_ENDS):
            self._held, self._tail = held[:_END], held[-_END:]
        else:
            self._drop()

    def reading(self) -> apis.Steps[None] | None:
        """What is to be done in steps, if the body is large, or waits to be decoded."""
        if self.working:
            return self._rest()
        held = self._held
        if held is None or self._tail is not None or len(held) <= apis.LARGE:
            return None
        self._whole, self._held = bytes(held).removeprefix(_BOM), bytearray()
        if self._count(2 * len(held)):  # what is odd is read in a copy
            return self._reader.prepare(self._whole)
        self._give_up()
        return None

    def _rest(self) -> apis.Steps[None]:
        while self.working:
            self.work()
            yield
        more = self.reading()
        if more is not None:
            yield from more

    @outermost
    def finish(self, at: int) -> None:
        """Reads the body."""
        del at
        while self.working:
            self.work()
        held, body = self._held, self._whole
        if held is None:
            return
        if self._tail is not None:
            body = apis.ends_of(bytes(held), bytes(self._tail))
        elif body is None:
            body = bytes(held).removeprefix(_BOM)
        if body is not None and not self._reader.body(body):
            self._not_read()

    def close(self, then: Callable[[], None]) -> None:
        """Gives the memory back."""
        self._drop()
        then()

    def stop(self) -> None:
        """What has not been decoded is not any more, and a body that is read in steps is not read in one go."""
        if self.working or self._whole is not None:
            self._give_up()

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the watching, and nothing else."""
        self._report(error)
        self._give_up()

    def _give_up(self) -> None:
        self._drop()
        self._not_read()

    def _not_read(self) -> None:
        if Anomaly.ANSWER_NOT_READ not in self._exchange.anomalies:
            self._exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)

    def _release(self) -> None:
        self._admission.release(self._counted)
        self._counted = 0

    def _drop(self) -> None:
        self._release()
        self._held = self._tail = self._whole = self._steps = None
        self._behind.clear()
        self._size = 0
        self.working = False


class _Beginning:
    """Waits for the first bytes of an answer, which say what it is, and gives way to what reads that."""

    def __init__(self, exchange: Exchange, headers: Headers, shared: Shared, flow: Watching) -> None:
        self._exchange = exchange
        self._headers = headers
        self._shared = shared
        self._flow = flow
        self._rejected = exchange.verdict is not None
        self._decoder = decoder(headers.joined(b"content-encoding"))
        self._held = b""
        self._start = b""
        self._looked_at = 0

    @outermost
    def feed(self, data: bytes, at: int) -> None:
        """Looks at the first bytes, and hands them on."""
        self._held += data
        if not self._undecided(data) or len(self._held) > _PART:
            chosen = self._choose(at)
            if chosen is not None:
                chosen.feed(self._held, at)

    def reading(self) -> None:
        """Nothing: next to nothing has come."""

    @outermost
    def finish(self, at: int) -> None:
        """There is nothing more to go by."""
        chosen = self._choose(at)
        if chosen is not None:
            chosen.feed(self._held, at)
            chosen.finish(at)

    def close(self, then: Callable[[], None]) -> None:
        """Nothing has come that could be read."""
        self._flow.watch(None)
        then()

    def stop(self) -> None:
        """Nothing waits."""

    def broke(self, error: Exception) -> None:
        """A bug of ours ends the watching, and nothing else."""
        self._shared.report(error)
        self._flow.watch(None)
        _unreadable(self._exchange)

    def _undecided(self, data: bytes) -> bool:
        try:
            for decoded in self._decoder.decode(data[:_END]):
                self._looked_at += len(decoded)
                self._start = (self._start + decoded).removeprefix(_BOM).lstrip()[:_PART]
                if self._looked_at > _END or not apis.undecided(self._start):
                    return False
        except UnreadableCodingError:
            return False
        return True

    def _choose(self, at: int) -> Observer | None:
        exchange, headers = self._exchange, self._headers
        form = apis.form(exchange.route, headers.text(b"content-type"), self._start, rejected=self._rejected)
        if form is apis.Form.WHOLE:
            exchange.streams = False
        elif not exchange.streams:
            exchange.streams = True
            self._flow.streaming(at)
        chosen = _observer(exchange, form, headers.joined(b"content-encoding"), self._shared)
        self._flow.watch(chosen)
        return chosen


def _unreadable(exchange: Exchange) -> None:
    """Nothing watches this answer; it passes."""
    exchange.watched = False
    exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)


def _observer(exchange: Exchange, form: apis.Form, coding: bytes | None, shared: Shared) -> Observer | None:
    """What watches an answer of this form.

    Raises:
        UnreadableCodingError: the coding is none that is read.
    """
    if form is not apis.Form.WHOLE:
        parser = apis.event_parser(form, shared.limits.inspect, shared.admission.room)
        return StreamObserver(exchange, parser, coding, shared)
    if exchange.verdict is not None:
        return BodyObserver(exchange, apis.RejectionReader(exchange.response), coding, shared, _ERROR_LIMIT)
    reader = apis.body_reader(exchange.route, exchange.response)
    if reader is not None:
        return BodyObserver(exchange, reader, coding, shared, shared.limits.inspect)
    return None


def small_read(exchange: Exchange, headers: Headers, body: bytes, shared: Shared) -> bool:
    """Reads a whole answer at once, if it is a small JSON object as its API sends it; False: it was not read."""
    first, route = headers.first, exchange.route
    media, size, admission = first.get(b"content-type", b""), len(body), shared.admission
    if (media != JSON and media.partition(b";")[0] != JSON) or b"content-encoding" in first:
        return False
    if body[:1] != b"{" or exchange.verdict is not None or route.streaming:
        return False
    if size > apis.LARGE or size > shared.limits.inspect or admission.memory + size > admission.memory_limit:
        return False
    reader = apis.body_reader(route, exchange.response)
    if reader is not None and not reader.body(body):
        exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)
    return True


def observer_for(exchange: Exchange, headers: Headers, shared: Shared, flow: Watching) -> Observer | None:
    """What watches this answer, or None; says on the exchange whether it streams, as far as its head tells."""
    rejected = exchange.verdict is not None
    form = apis.form(exchange.route, headers.text(b"content-type"), rejected=rejected)
    exchange.streams = form is not apis.Form.WHOLE
    try:
        if apis.streams_are_read(exchange.route) and (exchange.streams or not rejected):
            return _Beginning(exchange, headers, shared, flow)
        return _observer(exchange, form, headers.joined(b"content-encoding"), shared)
    except UnreadableCodingError:
        _unreadable(exchange)
        return None
