"""One request as it is read from a client: its head, and its body's pieces until somebody takes them.

Owns the checks of a head that the parser leaves to us. A request may wait here behind an earlier one of the
same connection.
"""

import re
from dataclasses import dataclass, field

from sidecar.core.exchange import RequestHead
from sidecar.core.headers import Field, Headers
from sidecar.errors import SidecarError
from sidecar.proxy.routes import Target
from sidecar.proxy.wire import Lines, other_coding

_SMALL = 1024
"""Bytes of a piece up to which the next one is joined to it: every object that is kept costs memory of its own."""

NO_HEAD = RequestHead("_OTHER", b"", "1.1", Headers([]))
"""What stands for a head that could not be made sense of."""

HOST = re.compile(rb"(\[[0-9A-Za-z:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""`uri-host [":" port]` (RFC 9110, section 7.2), as far as characters tell."""


@dataclass(slots=True)
class Inbound:
    """A request on its way in. `start` and `read_at` are ns since the epoch.

    `keep_alive` says that the client may send another request after this one; `refusal` is set when it must
    not go on, if need be while its body is read; `ended` when its last byte was read; `broken` when no more of
    the connection can be read after it; `unwanted` when its body is thrown away. The body has `length` bytes, or is
    `chunked`, or (neither) is none. A head that went by a plan (`heads.py`) has its `target`, and the lines that go on.
    """

    start: int
    read_at: int = 0
    waited: int = 0
    head: RequestHead | None = None
    chunked: bool = False
    length: int | None = None
    pieces: list[bytes] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    refusal: SidecarError | None = None
    broken: bool = False
    keep_alive: bool = False
    unwanted: bool = False
    expects_continue: bool = False
    target: Target | None = None
    passing: Lines = ()

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
            target = target if target.startswith(b"/") else b"/" + target
        elif not (target == b"*" and method == b"OPTIONS"):
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
