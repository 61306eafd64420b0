"""Reads requests out of a client's bytes: feed bytes, pull requests.

Owns request parsing (llhttp, strict), the bounds of a head, and what becomes of bytes that are not HTTP. It
knows no transport and answers nobody: a request that must not go on carries its refusal.
"""

import re
from collections import deque
from collections.abc import Sequence

import httptools

from sidecar.core.exchange import RequestHead
from sidecar.core.headers import Field, Headers
from sidecar.errors import (
    FramingError,
    HeadTooLargeError,
    MalformedError,
    RefusedError,
    SidecarError,
    UpgradeRefusedError,
)
from sidecar.proxy.wire import Lines, Target, body_length, head_memory, other_coding

_SMALL = 1024
"""Bytes of a piece up to which the next one is joined to it: every object that is kept costs memory of its own."""

NO_HEAD = RequestHead("_OTHER", b"", "1.1", Headers([]))
"""What stands for a head that could not be made sense of."""

HOST = re.compile(rb"(\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""`uri-host [":" port]` (RFC 9110, section 7.2), as far as characters tell."""


class Inbound:
    """A request on its way in. `start` and `read_at` are ns since the epoch.

    `keep_alive` says that the client may send another request after this one; `refusal` is set when it must
    not go on, if need be while its body is read; `ended` when its last byte was read; `broken` when no more of
    the connection can be read after it; `unwanted` when its body is thrown away. The body has `length` bytes, or is
    `chunked`, or (neither) is none. A large head takes `head_memory` (bytes). A head that went by a plan (`heads.py`)
    has its `target`, and the lines that go on.
    """

    head: RequestHead | None = None
    chunked = False
    length: int | None = None
    size = 0
    head_memory = 0
    ended = False
    refusal: SidecarError | None = None
    broken = keep_alive = unwanted = expects_continue = False
    target: Target | None = None
    passing: Lines = ()
    trailers: Sequence[Field] = ()

    def __init__(self, start: int, waited: int = 0, read_at: int = 0) -> None:
        self.start = start
        self.waited = waited
        self.read_at = read_at
        self.pieces: list[bytes] = []

    @property
    def has_body(self) -> bool:
        """True when the head announces a body."""
        return self.chunked or bool(self.length)

    @property
    def hesitates(self) -> bool:
        """True while its client waits to be told to go on: if a body will follow, nobody knows (RFC 9110, 10.1.1)."""
        return self.expects_continue and not self.size and not self.ended

    def gather(self, data: bytes) -> None:
        """A piece of the body has come."""
        pieces = self.pieces
        if pieces and len(pieces[-1]) < _SMALL and len(data) < _SMALL:
            pieces[-1] += data
        else:
            pieces.append(data)
        self.size += len(data)

    def take(self) -> list[bytes]:
        """The pieces that have come since the last call."""
        pieces, self.pieces = self.pieces, []
        return pieces


def request_head(
    method: bytes, url: bytes, version: str, fields: list[Field], peer: tuple[str, int] | None
) -> tuple[RequestHead, str | None]:
    """A head as the flow wants it, and what is wrong with it, if anything."""
    headers = Headers(fields)
    problem = None
    target = url
    if not target.startswith(b"/"):
        lower = target[:8].lower()
        if lower.startswith((b"http://", b"https://")):
            rest = target.partition(b"://")[2]
            cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
            if not rest[:cut].rpartition(b"@")[2].partition(b":")[0] or rest[:cut].count(b"[") != rest[
                :cut
            ].count(b"]"):
                problem = "the request target names no host"
            target = rest[cut:]
            if not target.startswith(b"/"):
                target = b"/" + target if target or method != b"OPTIONS" else b"*"
        elif not (method == b"CONNECT" or (target == b"*" and method == b"OPTIONS")):
            problem = "the request target must be a path"
    if version not in ("1.0", "1.1"):
        problem = "the version is neither HTTP/1.0 nor HTTP/1.1"
    elif other_coding(headers):
        problem = "the body has a transfer coding besides chunked"
    elif version == "1.0" and b"transfer-encoding" in headers:
        problem = "HTTP/1.0 has no transfer codings"
    hosts = headers.get_all(b"host")
    if len(hosts) > 1:
        problem = "the head has more than one Host"
    elif not hosts and version == "1.1":
        problem = "the head has no Host"
    elif hosts and not HOST.fullmatch(hosts[0].strip()):
        problem = "the Host names no host"
    address, port = peer or (None, None)
    head = RequestHead(
        method=method.decode("latin-1"),
        target=target,
        version=version,
        headers=headers,
        client_address=address,
        client_port=port,
    )
    return head, problem


READ_AHEAD = 8
"""Requests of one connection that may wait for their turn; what was read beyond them is not parsed yet."""

_ENTRY = 1024
"""Bytes of memory that a request which waits takes beside those it came as."""

_PIECE = 4 * 1024
"""Bytes that are parsed in one go: the dearest of this size, chunks of a byte, take a quarter of a millisecond."""

_SMALLEST = 18
"""Bytes that a request has at least: `GET / HTTP/1.1` and two line ends."""

_HEAD_END = b"\r\n\r\n"


class RequestReader:
    """The requests of one connection, in order. `head_size` in bytes, `head_fields` in fields.

    `ready` are requests whose head is whole, or which are refused; whoever takes one goes on reading its body
    from the same object while more bytes are fed.
    """

    def __init__(self, head_size: int, head_fields: int) -> None:
        self.ready: deque[Inbound] = deque()
        self.deaf = False
        """Nothing more of the connection can be read."""
        self.peer: tuple[str, int] | None = None
        """The address of the connection's other end."""
        self._parser = httptools.HttpRequestParser(self)
        self._max_size = head_size
        self._max_fields = head_fields
        self._at = 0
        self._waited = 0
        self._inbound: Inbound | None = None
        self._in_head = False
        self._url = b""
        self._fields: list[Field] = []
        self._section: list[Field] | None = None
        """Where the next field belongs: to the head, to the trailers, or nowhere."""
        self._parsed = 0
        self._fed = 0
        self._silent = 0
        self._body_skipped = False
        self._reframing = False
        self._oversized: RefusedError | None = None
        self._alone = False
        self._begun = 0
        self.unparsed = b""
        """What has been read, parsed up to a point or not at all."""
        self._from = 0
        """How much of that has been parsed."""
        self._left = 0
        """Bytes that the body of a request which went by a plan still has."""

    def met(self, peer: object) -> None:
        """The connection stands; `peer` is its other end's address."""
        self.peer = (peer[0], peer[1]) if isinstance(peer, tuple) else None

    @property
    def fresh(self) -> bool:
        """True where a request may begin, and nothing waits before it."""
        return self._inbound is None and not (self.deaf or self.ready or self.unparsed)

    def feed(self, data: bytes, at: int, waited: int) -> None:
        """Reads bytes that came at `at` (ns since the epoch) and had waited (ns) for their turn, or the first of them."""
        if self.deaf:
            return
        if self._left and self._inbound is not None:
            data = self._take_body(self._inbound, data)
            if not data:
                return
        self._at, self._waited = at, waited
        self.unparsed = self.unparsed[self._from :] + data if self.unparsed else data
        self._from = 0
        self.read_on()

    def follow(self, inbound: Inbound) -> None:
        """The head of this request went by a plan; what is left of its body comes by `feed`."""
        self._inbound, self._left = inbound, (inbound.length or 0) - inbound.size

    def _take_body(self, inbound: Inbound, data: bytes) -> bytes:
        """Takes the body's bytes; gives what follows them."""
        left = self._left
        piece = data[:left]
        self._left = left - len(piece)
        if not inbound.unwanted:
            inbound.gather(piece)
        if not self._left:
            inbound.ended = True
            self._inbound = None
        return data[left:]

    @property
    def behind(self) -> bool:
        """True while some of what has been read could be parsed: `read_on` does."""
        return bool(self.unparsed) and len(self.ready) < READ_AHEAD

    @property
    def ahead(self) -> int:
        """Bytes of memory that requests take whose turn has not come, with what has not been parsed, and a large head that is begun."""
        heads = (inbound.head for inbound in self.ready if inbound.head is not None)
        values = sum(len(value) for head in heads for _, value in head.headers.fields)
        begun = head_memory(max(self._parsed, self._fed)) if self._in_head else 0
        return len(self.unparsed) + begun + values + sum(_ENTRY + inbound.size for inbound in self.ready)

    def read_on(self) -> None:
        """Parses the next piece of what has been read, if there is room for the requests in it."""
        data, start = self.unparsed, self._from
        room = READ_AHEAD - len(self.ready)
        if room > 0 and data and not self.deaf:
            end = self._cut(data, start, room)
            self._feed(data if end - start == len(data) else memoryview(data)[start:end])
            self._from = end
        if self.deaf or self._from == len(data):
            self.unparsed, self._from = b"", 0

    def _cut(self, data: bytes, start: int, room: int) -> int:
        """Where to stop before more than `room` heads are whole, or when enough has been done."""
        size, inbound = len(data) - start, self._inbound
        if inbound is not None and not inbound.unwanted and size <= (inbound.length or 0) - inbound.size:
            return len(data)  # all of it is the body's
        most = min(len(data), start + _PIECE)
        if size < room * _SMALLEST:
            return most
        end = start
        for _ in range(room):
            end = data.find(_HEAD_END, end, most) + len(_HEAD_END)
            if end < len(_HEAD_END):
                return most
        return end

    def _feed(self, data: bytes | memoryview) -> None:
        continued = self._inbound
        self._alone = False
        self._begun = 0 if continued is None else 1
        self._silent += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as error:
            self._break_off()
            raise error.__context__ or error  # noqa: B904 - a bug of ours, which the parser has wrapped
        except httptools.HttpParserError as error:
            inside = self._inbound is not None and self._inbound.head is not None
            kind = FramingError if inside else MalformedError
            self._refuse_rest(kind(f"the request is not HTTP/1.1: {error}"))
            return
        if self._in_head and (self._alone or self._inbound is continued):
            # A field that has not ended yet is known to the parser alone: count what it was fed.
            self._fed += len(data)
            self._bound(self._fed)
        elif self._inbound is not None and not self._in_head:
            self._bound(self._silent)  # the same of trailers and of chunks' extensions
        if self._oversized is not None:
            self._refuse_rest(self._oversized)

    def _break_off(self) -> None:
        """A bug of ours ends the reading: a request that it has struck in its head is ready, without one."""
        self.deaf = True
        inbound = self.partial
        if inbound is not None:
            inbound.broken = True
            self.ready.append(inbound)
            self._inbound, self._in_head = None, False

    @property
    def partial(self) -> Inbound | None:
        """The request whose head is being read, if one is."""
        return self._inbound if self._in_head else None

    def give_up(self) -> Inbound | None:
        """Reads no more; gives the request whose head was being read, with as much of it as there is."""
        self.deaf = True
        self.unparsed = b""
        inbound = self.partial
        self._inbound = self._section = None
        if inbound is not None:
            inbound.broken = True
            self._in_head = False
            self._take_head(inbound, whole=False)
        return inbound

    def close(self) -> None:
        """The connection is gone: the parser, which knows this reader, is let go, so that neither keeps the other."""
        self.deaf = True
        del self._parser

    def _parse(self, data: bytes | memoryview) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # An upgrade that is not offered does not end HTTP/1.1 (RFC 9110, section 7.8): read on.
                data = data[upgrade.args[0] :]
                if self._body_skipped and self._inbound is not None:
                    self._read_body_of(self._inbound)
            else:
                return

    def _read_body_of(self, inbound: Inbound) -> None:
        """The parser takes what follows an upgrade's head for another protocol: a fresh one reads it as the body."""
        length = inbound.length
        line = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        self._body_skipped = False
        self._reframing = True
        self._section = None
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % line)
        inbound.trailers = self._section = []
        self._reframing = False

    def _bound(self, size: int) -> None:
        if size > self._max_size and self._oversized is None:
            self._section = None
            self._oversized = HeadTooLargeError("SIDECAR_HEAD_LIMIT", self._max_size)

    def _refuse_rest(self, error: RefusedError) -> None:
        """What was being read ends here, refused; it, or a stand-in for it, is the connection's last request."""
        if self.deaf:
            return  # there has been a last one
        inbound = self._inbound
        if inbound is None or inbound.head is None:
            inbound = self.give_up() or self._stand_in()
            self.ready.append(inbound)
        self.deaf = True
        self._inbound = self._section = None
        inbound.broken = True
        inbound.refusal = error

    def _stand_in(self) -> Inbound:
        """What stands for bytes in which no request began."""
        inbound = Inbound(self._at, self._waited)
        self._take_head(inbound, whole=False)
        return inbound

    def _take_head(self, inbound: Inbound, *, whole: bool) -> RequestHead:
        """Gives the request the head as far as it was read, and what is wrong with it."""
        method = self._parser.get_method() if whole else b"_OTHER"
        version = self._parser.get_http_version() if whole else "1.1"
        head, problem = request_head(method, self._url, version, self._fields, self.peer)
        self._url, self._fields = b"", []  # they go with the request
        inbound.head = head
        inbound.read_at = self._at
        inbound.chunked, inbound.length = b"transfer-encoding" in head.headers, body_length(head.headers)
        tokens = head.headers.tokens
        # The parser counts both fields, and takes nothing behind a request that closes.
        closes = b"close" in tokens(b"connection") or b"close" in tokens(b"proxy-connection")
        inbound.keep_alive = version == "1.1" and not closes
        inbound.expects_continue = version == "1.1" and b"100-continue" in tokens(b"expect")
        if problem is not None:
            inbound.refusal = MalformedError(problem)
            inbound.broken = True
        return head

    # httptools' side: called while bytes are fed.

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        if self._reframing:
            return
        self._alone = self._begun == 0
        self._begun += 1
        if self.deaf or self._oversized is not None:
            return
        self._inbound = Inbound(self._at, self._waited)
        self._in_head = True
        self._url = b""
        self._section = self._fields = []
        self._parsed = self._fed = 0

    def on_url(self, url: bytes) -> None:
        """httptools: (a part of) the request target."""
        if self._inbound is None or self._oversized is not None:
            return
        self._url += url
        self._parsed += len(url)
        self._bound(self._parsed)

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a field of the head, or of the trailers once the head is done."""
        section = self._section
        if section is None:
            return
        self._parsed = parsed = self._parsed + len(name) + len(value) + 4
        if parsed > self._max_size or len(section) >= self._max_fields:
            self._bound(parsed)
            self._oversized = self._oversized or HeadTooLargeError("SIDECAR_HEAD_FIELDS", self._max_fields)
            self._section = None
            return
        section.append((name, value))

    def on_headers_complete(self) -> None:
        """httptools: the head is whole."""
        inbound = self._inbound
        if inbound is None or self._oversized is not None or self._reframing:
            return
        head = self._take_head(inbound, whole=True)
        self._in_head = False
        self._silent = 0
        inbound.head_memory = head_memory(self._parsed)
        inbound.trailers = self._section = []
        if self._parser.should_upgrade():
            _refuse_upgrade(inbound, head)
            self._body_skipped = inbound.has_body
        self.deaf = inbound.broken
        self.ready.append(inbound)

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._silent = 0
        inbound = self._inbound
        if inbound is not None and not inbound.unwanted:
            inbound.gather(data)

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        if self._body_skipped or self._oversized is not None:
            return
        inbound, self._inbound, self._section = self._inbound, None, None
        if inbound is not None:
            inbound.ended = True
            # What follows a request that closes the connection is not a request (RFC 9112, section 9.6).
            self.deaf = self.deaf or not inbound.keep_alive


def _refuse_upgrade(inbound: Inbound, head: RequestHead) -> None:
    """WebSockets and tunnels are not offered; any other upgrade is ignored, as RFC 9110 (7.8) allows."""
    wanted = head.headers.text(b"upgrade") or "a tunnel"
    if "websocket" in wanted.lower() or head.method == "CONNECT":
        inbound.refusal = inbound.refusal or UpgradeRefusedError(wanted)
        inbound.broken = True
