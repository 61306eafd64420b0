"""An answer on its way down: head, body pieces and end, written to the client first, then observed.

Owns the framing towards the client, the observer, and how long a slow client blocks. One per exchange.
It never decides how the exchange ends beyond telling it what was read.
"""

from collections.abc import Callable

from sidecar.apis import Steps
from sidecar.core.exchange import Exchange
from sidecar.proxy import wire
from sidecar.proxy.observer import Observer
from sidecar.proxy.upstream_side import UpstreamConnection


class Answer:
    """What has been passed of an answer. `http11`: the client takes chunks and informational answers."""

    __slots__ = ("_exchange", "_http11", "began", "blocked_since", "chunked", "observer", "quiet_since")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._http11 = exchange.head.version == "1.1"
        self.chunked = False
        """Its body goes on in chunks."""
        self.observer: Observer | None = None
        self.blocked_since = 0
        """Since when the client takes no more (ns since the epoch), 0 when it does."""
        self.began = False
        """The head has been passed on."""
        self.quiet_since = 0
        """When the upstream was last heard of, or allowed to speak (ns since the epoch)."""

    def take(self, side: UpstreamConnection, at: int, *, close: bool) -> tuple[bytes, list[bytes]]:
        """All that has been read of the answer as the client gets it, and the body's pieces in it."""
        exchange, head = self._exchange, side.head
        out = [self._informational(side)] if side.informational else []
        if not exchange.first_byte and (head is not None or not out):
            exchange.first_byte = at
        if head is not None and not self.began:
            out.append(self._head(head, at, close=close))
        pieces, side.pieces = side.pieces, []
        if pieces:
            out.append(pieces[0] if not self.chunked and len(pieces) == 1 else self.body(pieces))
        if side.ended and not side.malformed and self.chunked:
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
            shown = chunked
        elif head.status in wire.BODILESS:
            shown = False
        else:
            self.chunked = shown = self._http11 and (chunked or b"content-length" not in first)
        exchange.upstream_headers = head.headers
        exchange.answer_began(head.status, at)
        self.began = True
        self.quiet_since = at
        request_id = exchange.turn.request_id if exchange.turn is not None else None
        return wire.answer_head(head, request_id=request_id, chunked=shown, close=close)

    def watch(self, observer: Observer | None) -> None:
        """The observer that is shown the body."""
        self.observer = observer

    def body(self, pieces: list[bytes]) -> bytes:
        """The pieces as the client gets them."""
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return wire.chunk(payload) if self.chunked else payload

    def observe(self, pieces: list[bytes], at: int) -> None:
        """Counts the pieces and shows them to the observer; they have been written already."""
        exchange = self._exchange
        exchange.last_byte = self.quiet_since = at
        for piece in pieces:
            exchange.stream.bytes += len(piece)
        if self.observer is not None:
            self.observer.feed(pieces, at)

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
            self.blocked_since = at

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
