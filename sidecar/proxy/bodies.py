"""The two bodies of an exchange: the request's on its way up, the answer's on its way down.

Owns the held pieces of a request, their memory, and the framing on both sides; and how long a slow client blocks an
answer. A request's body is held back while it is read for its facts, else it passes as it comes: it is read where it
lies, and never changed. An answer is written to the client first, then observed. Neither decides how the exchange ends.
"""

import sys
from collections.abc import Callable

from sidecar import apis
from sidecar.apis import Steps
from sidecar.codings import PIECE, UnreadableCodingError, decoder
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly, RequestFacts, Route
from sidecar.proxy import wire
from sidecar.proxy.observer import Observer
from sidecar.proxy.request_reader import Inbound
from sidecar.proxy.shared import Shared
from sidecar.proxy.upstream_side import UpstreamConnection
from sidecar.proxy.wire import BODILESS, JSON

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_REPLAYED = 4 * 1024
"""Largest body (bytes) that is kept for a second try: next to nothing, since no memory is taken for it."""

_WAITING = 64 * 1024
"""Bytes of a body that wait for a connection before no more is read."""

_DECODED = 512 * 1024
"""Bytes of a compressed body that are decoded in one go."""

_OBJECTS = 512
"""Objects and lists in a body up to which its history is read in one go: some two microseconds each."""

_UNREAD = {
    "too_large": Anomaly.BODY_TOO_LARGE,
    "not_json": Anomaly.BODY_NOT_JSON,
    "invalid": Anomaly.BODY_INVALID,
    "memory_full": Anomaly.BODY_MEMORY_FULL,
    "encoding": Anomaly.BODY_ENCODING,
}


class Upload:
    """One request's body. `state` is `none`, `held`, `read`, or the reason why it is not read."""

    __slots__ = (
        "_coding",
        "_held",
        "_inbound",
        "_shared",
        "counted",
        "finished",
        "passed",
        "state",
    )

    def __init__(self, inbound: Inbound, shared: Shared) -> None:
        self._inbound = inbound
        self._shared = shared
        self._held: bytes | bytearray = b""
        self.counted = 0
        """Bytes of memory that were taken for what is held."""
        self._coding: bytes | None = None
        self.passed = 0
        """Payload bytes that have gone to the upstream."""
        self.finished = False
        """The body's end has gone to the upstream."""
        self.state = "none"
        head, length = inbound.head, inbound.length
        if head is None or not (length or inbound.chunked):
            return
        first = head.headers.first
        media = first.get(b"content-type", b"")
        if media != JSON and not wire.is_json(media):
            self.state = "not_json"
        elif length is not None and length > shared.limits.inspect:
            self.state = "too_large"
        else:
            self.state = "held"
            if b"content-encoding" in first:
                self._coding = head.headers.joined(b"content-encoding")

    @property
    def waiting(self) -> int:
        """Bytes that have come and have not gone on."""
        return len(self._held) + sum(map(len, self._inbound.pieces))

    def hold(self) -> bool:
        """Takes what has come while the body is held back; False once it has to go on unread."""
        pieces = self._inbound.take()
        held = self._held
        if not held and len(pieces) == 1 and self._inbound.ended:
            held = pieces[0]
        else:
            held = held if isinstance(held, bytearray) else bytearray(held)
            for piece in pieces:
                held += piece
        self._held = held
        if len(held) > self._shared.limits.inspect:
            self.state = "too_large"
        elif not self._hold(sys.getsizeof(held) - self.counted):
            self.state = "memory_full"
        return self.state == "held"

    def _hold(self, size: int) -> bool:
        if not self._shared.admission.hold(size):
            return False
        self.counted += size
        return True

    def whole(self, route: Route, fields: tuple[str, ...]) -> RequestFacts | None:
        """The facts of a body that has come as a whole and takes no more than a moment; None for any other.

        There is memory for it; that is taken by `wait`, which most bodies need not do.
        """
        inbound, shared = self._inbound, self._shared
        if not inbound.ended or self._held or fields or len(inbound.pieces) != 1:
            return None
        (body,) = inbound.pieces
        if self._takes_long(body):
            return None
        admission = shared.admission
        try:
            facts = apis.small_request(route, body, shared.digester)
        except Exception as error:  # noqa: BLE001 - what is only looked at passes
            shared.report(error)
            self.state = "not_read"
            return None
        if facts is None or admission.memory + sys.getsizeof(body) > admission.memory_limit:
            return None
        inbound.pieces = []
        self._held, self.state = body, "read"
        return facts

    def wait(self) -> bool:
        """What has come waits for a connection, and takes memory, whether or not there is room; True when that is enough."""
        held = [self._held, *self._inbound.pieces] if self._held else self._inbound.pieces
        self._take(sum(map(sys.getsizeof, held)) - self.counted)
        return self.waiting > _WAITING or not self._shared.roomy()

    def wait_on(self, passed: bytes | bytearray, hidden: int) -> None:
        """So does what has been passed on, and waits for an upstream that takes no more; `hidden` bytes are kept for it beside."""
        self._take(sys.getsizeof(passed) + hidden)

    def _take(self, size: int) -> None:
        self._shared.admission.memory += size
        self.counted += size

    @property
    def large(self) -> bool:
        """True if reading the held body takes more than a moment."""
        return self._takes_long(self._held)

    def _takes_long(self, body: bytes | bytearray) -> bool:
        if self._coding is not None or len(body) > apis.LARGE:
            return True
        return self._shared.digester is not None and body.count(b"{") + body.count(b"[") > _OBJECTS

    def read(self, route: Route, fields: tuple[str, ...]) -> apis.Steps[RequestFacts]:
        """The facts of the whole held body; what cannot be read gives none, and `state` says why.

        A large one is copied piece by piece while it is read, and counts twice so long.
        """
        coding, large = self._coding, self.large
        try:
            body = self._held if coding is None else (yield from self._decoded(coding))
            if large:
                yield
            copied = len(body) if len(body) > apis.LARGE else 0
            if not self._hold(copied):
                raise _UnheldError("memory_full")
            facts = yield from apis.request_steps(route, body, fields, self._shared.digester)
            self._hold(-copied)
            if large:
                yield  # writing it on takes its time as well
        except UnreadableCodingError:
            self.state = "encoding"
        except _UnheldError as unheld:
            self.state = unheld.state
        except apis.UnreadableBody:
            self.state = "invalid"
        except Exception as error:  # noqa: BLE001 - what is only looked at passes
            self._shared.report(error)
            self.state = "not_read"
        else:
            self.state = "read"
            return facts
        return RequestFacts(model=route.model, streaming=route.streaming)

    def _decoded(self, coding: bytes) -> apis.Steps[bytearray]:
        """The decoded body; its memory counts like that of the body itself."""
        decoded, engine, limit = bytearray(), decoder(coding), self._shared.limits.inspect
        at = before = 0
        for start in range(0, len(self._held), PIECE):
            for piece in engine.decode(bytes(self._held[start : start + PIECE])):
                if len(decoded) + len(piece) > limit:
                    raise _UnheldError("too_large")
                decoded += piece
                now = sys.getsizeof(decoded) + engine.held
                if not self._hold(now - before):
                    raise _UnheldError("memory_full")
                before = now
                if len(decoded) - at > _DECODED:
                    at = len(decoded)
                    yield
        yield
        return decoded

    def pass_on(self) -> bytes | bytearray:
        """What goes to the upstream now: everything that has come, framed as the head said."""
        inbound, held = self._inbound, self._held
        if held:
            self._held = b""
            out = held if not inbound.pieces else b"".join((held, *inbound.take()))
        else:
            out = b"".join(inbound.take())
        self.passed += len(out)
        if inbound.chunked:
            out = wire.chunk(bytes(out))
            if inbound.ended and not self.finished:
                out += wire.last_chunk(inbound.trailers, upward=True)
        self.finished = inbound.ended
        return out

    def again(self, body: bytes | bytearray) -> bytes | bytearray | None:
        """What to keep of this much of the body, if the request could be sent once more without harm or much memory."""
        head = self._inbound.head
        return body if head is not None and head.method in _IDEMPOTENT and len(body) <= _REPLAYED else None

    def close(self, exchange: Exchange) -> None:
        """The request has ended: tells what became of its body, and holds nothing more."""
        if self.counted:
            self.release()
        self._held = b""
        exchange.request_bytes = self.passed
        exchange.body_state = self.state
        if self.state in _UNREAD and exchange.turn is not None:
            exchange.anomalies.append(_UNREAD[self.state])

    def release(self) -> None:
        """Gives the held memory back, once what was passed on has left the process."""
        self._held = b""
        self._shared.admission.memory -= self.counted
        self.counted = 0


class _UnheldError(Exception):
    """The decoded body is not held, for the reason in `state`."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self.state = state


class Answer:
    """What has been passed of an answer. `http11`: the client takes chunks and informational answers."""

    __slots__ = (
        "_exchange",
        "_http11",
        "began",
        "blocked_since",
        "chunked",
        "endless",
        "observer",
        "quiet_since",
        "took_at",
    )

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._http11 = exchange.head.version == "1.1"
        self.chunked = False
        """Its body goes on in chunks."""
        self.endless = False
        """Its body has neither chunks nor a length: its client (of HTTP/1.0) takes the connection's end for its end."""
        self.observer: Observer | None = None
        self.blocked_since = 0
        """Since when the client takes no more (ns since the epoch), 0 when it does."""
        self.took_at = 0
        """When it last took some, if it takes no more (ns since the epoch)."""
        self.began = False
        """The head has been passed on."""
        self.quiet_since = 0
        """When the upstream was last heard of, or allowed to speak (ns since the epoch)."""

    def take(self, side: UpstreamConnection, at: int, *, close: bool) -> tuple[bytes, list[bytes]]:
        """All that has been read of the answer as the client gets it, and the body's pieces in it."""
        exchange, head = self._exchange, side.head
        out = [self._informational(side)] if side.informational else []
        if not exchange.first_byte and (head is not None or not out or side.begun):
            exchange.first_byte = at
        if head is not None and not self.began:
            out.append(self._head(head, at, close=close))
        pieces, side.pieces = side.pieces, []
        if not self.chunked:
            out += pieces
        else:
            out.append(wire.chunk(b"".join(pieces)))
            if side.ended and not side.malformed:
                out.append(wire.last_chunk(side.trailers, upward=False))
        return b"".join(out), pieces

    def _informational(self, side: UpstreamConnection) -> bytes:
        """The informational heads that pass (all but 100, which is answered by us)."""
        heads, side.informational = side.informational, []
        if not self._http11:
            return b""
        return b"".join(
            wire.answer_head(head, request_id=None, chunked=False, close=False)
            for head in heads
            if head.status not in (100, 101)
        )

    def _head(self, head: wire.AnswerHead, at: int, *, close: bool) -> bytes:
        """The head for the client; from now on the body's framing is known."""
        exchange, first = self._exchange, head.headers.first
        chunked = b"transfer-encoding" in first
        if exchange.head.method == "HEAD":
            shown = chunked and self._http11
        elif head.status in BODILESS:
            shown = False
        else:
            framed = not chunked and b"content-length" in first
            self.chunked = shown = self._http11 and not framed
            self.endless = not (self._http11 or framed)
        exchange.upstream_headers = head.headers
        exchange.answer_began(head.status, at)
        self.began = True
        self.quiet_since = at
        turn = exchange.turn
        request_id = None if turn is None else turn.request_id
        return wire.answer_head(head, request_id=request_id, chunked=shown, close=close)

    def watch(self, observer: Observer | None) -> None:
        """The observer that is shown the body."""
        self.observer = observer

    def reading(self) -> Steps[None] | None:
        """What is to be done in steps before `ended`, if the body is large."""
        return None if self.observer is None else self.observer.reading()

    def ended(self, at: int) -> None:
        """The body ended, cleanly framed."""
        if self.observer is not None:
            self.observer.finish(at)

    def close(self, at: int, then: Callable[[], None]) -> None:
        """Nothing more passes; calls `then` once all that did has been looked at."""
        self.ready(at)
        if self.observer is not None:
            self.observer.close(then)
        else:
            then()

    def stop_watching(self) -> None:
        """What has not been looked at by now will not be."""
        if self.observer is not None:
            self.observer.stop()

    def blocked(self, at: int) -> None:
        """The client takes no more."""
        if not self.blocked_since:
            self.blocked_since = self.took_at = at

    def ready(self, at: int) -> None:
        """The client takes more; the silence meanwhile was not the upstream's."""
        if not self.blocked_since:
            return
        stream = self._exchange.stream
        stream.blocked += at - self.blocked_since
        self.blocked_since = 0
        self.quiet_since = at
        if stream.last_event:
            stream.last_event = at
