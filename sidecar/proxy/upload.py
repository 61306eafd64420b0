"""A request's body on its way up: held back while it is read for its facts, else passed on as it comes.

Owns the held pieces, their memory, and the body's framing towards the upstream. What is read here is a
copy; what goes on is what came.
"""

from sidecar import apis
from sidecar.core.anomaly import Anomaly
from sidecar.core.exchange import Exchange
from sidecar.core.facts import RequestFacts, Route
from sidecar.proxy import wire
from sidecar.proxy.admission import Admission
from sidecar.proxy.decode import UnreadableCodingError, decoder
from sidecar.proxy.inbound import Inbound

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_REPLAYED = 64 * 1024
"""Largest body (bytes) that is kept for a second try."""

_UNREAD = {
    "too_large": Anomaly.BODY_TOO_LARGE,
    "not_json": Anomaly.BODY_NOT_JSON,
    "invalid": Anomaly.BODY_INVALID,
    "memory_full": Anomaly.BODY_MEMORY_FULL,
    "encoding": Anomaly.BODY_ENCODING,
}


class Upload:
    """One request's body. `state` is `none`, `held`, `read`, or the reason why it is not read."""

    __slots__ = ("_admission", "_held", "_held_size", "_inbound", "_limit", "finished", "passed", "state")

    def __init__(self, inbound: Inbound, admission: Admission, inspect_limit: int) -> None:
        self._inbound = inbound
        self._admission = admission
        self._limit = inspect_limit
        self._held: list[bytes] = []
        self._held_size = 0
        self.passed = 0
        """Payload bytes that have gone to the upstream."""
        self.finished = False
        """The body's end has gone to the upstream."""
        self.state = self._plan()

    def _plan(self) -> str:
        """Whether the head promises a body that can be read."""
        framing = self._inbound.framing
        if not self._inbound.has_body or self._inbound.head is None:
            return "none"
        media = (self._inbound.head.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
        if not (media.endswith((b"/json", b"+json"))):
            return "not_json"
        if framing.length is not None and framing.length > self._limit:
            return "too_large"
        return "held"

    @property
    def waiting(self) -> int:
        """Bytes that have come and have not gone on."""
        return self._held_size + sum(map(len, self._inbound.pieces))

    def hold(self) -> bool:
        """Takes what has come while the body is held back; False once it has to go on unread."""
        for piece in self._inbound.take():
            self._held.append(piece)
            if self.state == "held":
                if self._held_size + len(piece) > self._limit:
                    self.state = "too_large"
                elif not self._admission.hold(len(piece)):
                    self.state = "memory_full"
                else:
                    self._held_size += len(piece)
        return self.state == "held"

    def read(self, route: Route, fields: tuple[str, ...]) -> RequestFacts:
        """The facts of the whole held body; what cannot be read gives none, and `state` says why."""
        head = self._inbound.head
        coding = head.headers.get(b"content-encoding") if head is not None else None
        body = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        try:
            if coding is not None:
                body = self._decoded(body, coding)
            facts = apis.read_request(route, body, fields)
        except UnreadableCodingError:
            self.state = "encoding"
        except _TooLargeError:
            self.state = "too_large"
        except apis.UnreadableBody:
            self.state = "invalid"
        else:
            self.state = "read"
            return facts
        return RequestFacts(model=route.model, streaming=route.streaming)

    def _decoded(self, body: bytes, coding: bytes) -> bytes:
        decoded: list[bytes] = []
        size = 0
        for piece in decoder(coding).decode(body):
            size += len(piece)
            if size > self._limit:
                raise _TooLargeError
            decoded.append(piece)
        return b"".join(decoded)

    def pass_on(self) -> bytes:
        """What goes to the upstream now: everything that has come, framed as the head said."""
        pieces = self._inbound.take()
        if self._held:
            pieces, self._held = self._held + pieces, []
        self.passed += sum(map(len, pieces))
        out = []
        if self._inbound.framing.chunked:
            if pieces:
                out.append(wire.chunk(b"".join(pieces)))
            if self._inbound.ended and not self.finished:
                out.append(wire.last_chunk(self._inbound.trailers, upward=True))
        else:
            out = pieces
        self.finished = self._inbound.ended
        return b"".join(out)

    def again(self, body: bytes) -> bool:
        """True when the whole request could be sent once more with this `body`, without harm or much memory."""
        head = self._inbound.head
        return self.finished and len(body) <= _REPLAYED and head is not None and head.method in _IDEMPOTENT

    def close(self, exchange: Exchange) -> None:
        """The request has ended: tells what became of its body, and holds nothing more."""
        self.release()
        exchange.request_bytes = self.passed
        exchange.body_state = self.state
        if self.state in _UNREAD and exchange.arrival is not None:
            exchange.anomalies.append(_UNREAD[self.state])

    def release(self) -> None:
        """Gives the held memory back, once what was passed on has left the process."""
        self._held = []
        self._admission.release(self._held_size)
        self._held_size = 0


class _TooLargeError(Exception):
    """The decoded body is larger than what is read."""
