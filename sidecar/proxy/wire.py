"""The short list: everything that changes on the wire, and nothing else does.

Heads are written anew with names, order and case as received, less the fields that belong to one hop
(RFC 9110, section 7.6.1, and those named in `Connection`), `Expect: 100-continue`, our own headers and the
caller's trace context; `Host` becomes the upstream's authority; a request id is added to the answer.
Which upstream a request goes to is decided here too: the first segment of the path where it is an upstream's name, else
the default. Only the name is taken off the path and the upstream's own path put in front; nothing is decoded, merged or
normalised. It knows no socket.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from sidecar import apis
from sidecar.core.exchange import RequestHead, Upstream
from sidecar.core.facts import Route, record
from sidecar.core.headers import Field, Headers
from sidecar.core.sse import UNCOUNTED
from sidecar.errors import UnknownUpstreamError

_REMEMBERED, _SHORT = 1024, 512
"""How many request lines are remembered, and the bytes of the longest target among them."""


@record
class Target:
    """What follows from a request's method and target.

    `path` is the target less the upstream's name, `asked` the target as the upstream is asked for it; `line` the request
    line towards the upstream, its authority `host`. These are empty where no upstream is for it.
    """

    upstream: Upstream | None
    path: bytes
    route: Route
    asked: bytes = b""
    line: bytes = b""
    host: bytes = b""


class Routes:
    """The default upstream and the named ones. At least one is needed."""

    def __init__(self, default: Upstream | None, named: Mapping[str, Upstream]) -> None:
        self._default = default
        self._named = {name.encode("latin-1"): upstream for name, upstream in named.items()}
        self._known: dict[tuple[str, bytes], Target] = {}

    @property
    def names(self) -> list[str]:
        """The known names."""
        return [name.decode("latin-1") for name in self._named]

    def unknown(self, target: bytes) -> UnknownUpstreamError:
        """What is said to a request that no upstream is for."""
        return UnknownUpstreamError(
            target.partition(b"?")[0].removeprefix(b"/").partition(b"/")[0].decode("latin-1"), self.names
        )

    def target(self, method: str, target: bytes) -> Target:
        """What follows from a request's method and target, found once for those that are alike."""
        known = self._known.get((method, target))
        if known is None:
            known = self._find(method, target)
            if len(target) <= _SHORT:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[method, target] = known
        return known

    def _find(self, method: str, target: bytes) -> Target:
        upstream, path = self._upstream(target)
        route = apis.match(method, path.partition(b"?")[0].decode("latin-1"))
        if upstream is None:
            return Target(None, path, route)
        asked = upstream.base_path + path if path.startswith(b"/") else path
        line = b"%b %b HTTP/1.1" % (method.encode("latin-1"), asked)
        return Target(upstream, path, route, asked, line, upstream.authority.encode("latin-1"))

    def _upstream(self, target: bytes) -> tuple[Upstream | None, bytes]:
        """The upstream for a request target, and the target less the upstream's name."""
        if self._named and target.startswith(b"/"):
            end = min((at for at in (target.find(b"/", 1), target.find(b"?")) if at > 0), default=len(target))
            upstream = self._named.get(target[1:end])
            if upstream is not None:
                rest = target[end:]
                return upstream, rest if rest.startswith(b"/") else b"/" + rest
        return self._default, target


Lines = tuple[bytes, ...]
"""Lines of a head as they were received, the first line among them, without their ends."""

OWN_PREFIX = b"x-sidecar-"
REQUEST_ID = b"X-Sidecar-Request-Id"

_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"te", b"upgrade", b"transfer-encoding"))
_TRACE = frozenset((b"traceparent", b"tracestate", b"baggage"))
_NEVER_TRAILS = _HOP | {b"host", b"content-length"}
_NEVER_NAMED = frozenset((b"host", b"content-length", b"transfer-encoding"))
BODILESS = frozenset((204, 304))
"""Statuses of answers that have no body."""

JSON = b"application/json"


def body_length(headers: Headers) -> int | None:
    """The bytes that a request's head announces, if it does and there are no chunks; the parser has refused contradictions."""
    length = headers.get(b"content-length")
    if length is None or b"transfer-encoding" in headers:
        return None
    length = length.strip()  # the parser leaves a tab behind the digits
    return int(length) if length.isdigit() else None


def head_memory(size: int) -> int:
    """Bytes of memory that a head of this size takes where that is much, with all that is made of its fields."""
    return 2 * size if size > UNCOUNTED else 0


def is_json(content_type: bytes) -> bool:
    """True for the type of a body that is JSON."""
    return content_type.partition(b";")[0].strip().lower().endswith((b"/json", b"+json"))


def other_coding(headers: Headers) -> bool:
    """True when the body has transfer codings other than one `chunked`: they would be lost with this hop's framing."""
    return headers.tokens(b"transfer-encoding") not in ([], [b"chunked"])


def bodiless(method: str, status: int) -> bool:
    """True for answers that have no body whatever their head says."""
    return method == "HEAD" or status in BODILESS


class _Way:
    """One direction. `dropped` are the names of fields that stay behind.

    Names that are known to pass are remembered as they are spelled, so that most fields cost one look.
    """

    __slots__ = ("_known", "dropped")

    def __init__(self, dropped: frozenset[bytes]) -> None:
        self.dropped = dropped
        self._known: set[bytes] = set()

    def known(self, headers: Headers) -> tuple[set[bytes], frozenset[bytes]]:
        """Names that pass, and the names (lower case) of this message's fields that stay behind."""
        if b"connection" in headers:
            named = frozenset(headers.tokens(b"connection")) - _NEVER_NAMED - self.dropped
            if named:
                return set(), self.dropped | named
        return self._known, self.dropped

    def remember(self, name: bytes) -> None:
        """A field of this name has passed because of its name alone."""
        if len(self._known) < _KNOWN_NAMES and len(name) <= _KNOWN_LENGTH:
            self._known.add(name)


_KNOWN_NAMES, _KNOWN_LENGTH = 1024, 64
"""Names remembered in each direction, and the bytes of one: whoever makes names up fills no memory."""

_UPWARD, _DOWNWARD = _Way(_HOP | _TRACE), _Way(_HOP)


def passes_up(name: bytes) -> bool:
    """True for the name (lower case) of a request's field that goes on, if none of its head is unusual."""
    return name not in _UPWARD.dropped and not name.startswith(OWN_PREFIX)


def passes_down(name: bytes) -> bool:
    """The same of an answer's field; chunks stay chunks."""
    dropped = name in _DOWNWARD.dropped and name != b"transfer-encoding"
    return not dropped and not name.startswith(OWN_PREFIX)


def request_head(head: RequestHead, target: Target, outbound: tuple[Field, ...], passing: Lines) -> bytes:
    """The head that goes to the upstream. `passing`: its lines that pass, where they have been found by a plan."""
    lines = [*passing] if passing else _passing(head.headers, target)
    for field in outbound:
        lines.append(b"%b: %b" % field)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _passing(headers: Headers, target: Target) -> list[bytes]:
    """The request line and the fields that pass, each written anew."""
    known, dropped = _UPWARD.known(headers)
    lines = [target.line]
    if b"host" not in headers:
        lines.append(b"Host: " + target.host)
    for field in headers.fields:
        name, value = field
        if name in known:
            lines.append(b"%b: %b" % field)
            continue
        lower = name.lower()
        if lower == b"host":
            lines.append(b"%b: %b" % (name, target.host))
        elif lower == b"transfer-encoding":
            lines.append(b"%b: chunked" % name)
        elif lower == b"expect":
            if lower not in dropped and value.strip().lower() != b"100-continue":
                lines.append(b"%b: %b" % field)
        elif lower not in dropped and not lower.startswith(OWN_PREFIX):
            lines.append(b"%b: %b" % field)
            _UPWARD.remember(name)
    return lines


@record
class AnswerHead:
    """An answer's head as it was received. `lines` pass, where they have been found by a plan (`heads.py`)."""

    status: int
    reason: bytes
    version: str
    headers: Headers
    lines: Lines = ()


def answer_head(head: AnswerHead, *, request_id: str | None, chunked: bool, close: bool) -> bytes:
    """The head that goes to the client: framed with chunks if `chunked`, else as its own length says."""
    headers = head.headers
    if head.lines and chunked == (b"transfer-encoding" in headers.first):
        lines = [*head.lines]
    else:
        lines = _passing_down(head, chunked=chunked)
    if request_id is not None:
        lines.append(b"%b: %b" % (REQUEST_ID, request_id.encode("latin-1", "replace")))
    if close:
        lines.append(b"Connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _passing_down(head: AnswerHead, *, chunked: bool) -> list[bytes]:
    """The first line and the fields that pass, each written anew."""
    headers = head.headers
    known, dropped = _DOWNWARD.known(headers)
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    written = False
    for field in headers.fields:
        name = field[0]
        if name in known:
            lines.append(b"%b: %b" % field)
            continue
        lower = name.lower()
        if lower == b"transfer-encoding" and chunked:
            if not written:
                lines.append(b"%b: chunked" % name)
                written = True
        elif lower not in dropped and not lower.startswith(OWN_PREFIX):
            lines.append(b"%b: %b" % field)
            _DOWNWARD.remember(name)
    if chunked and not written:
        lines.append(b"Transfer-Encoding: chunked")
    return lines


def chunk(payload: bytes) -> bytes:
    """The payload as one chunk; nothing at all is no chunk, because that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: Sequence[Field], *, upward: bool) -> bytes:
    """The end of a chunked body, with its trailer fields as received, less those that no head passes on.

    `upward`: it goes to the upstream, which is told of no trace but ours.
    """
    if not trailers:
        return b"0\r\n\r\n"
    dropped = _NEVER_TRAILS | _TRACE if upward else _NEVER_TRAILS
    passed = (
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if (lower := name.lower()) not in dropped and not lower.startswith(OWN_PREFIX)
    )
    return b"0\r\n%b\r\n" % b"".join(passed)


def own_answer(
    status: int,
    fields: tuple[Field, ...],
    body: bytes,
    *,
    length: int,
    request_id: str | None,
    close: bool,
) -> bytes:
    """A whole answer that the sidecar gives itself: JSON of `length` bytes, of which HEAD shows none."""
    lines = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        b"Content-Type: application/json",
        b"Content-Length: %d" % length,
    ]
    lines.extend(b"%b: %b" % field for field in fields)
    if request_id is not None:
        lines.append(b"%b: %b" % (REQUEST_ID, request_id.encode("latin-1", "replace")))
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
