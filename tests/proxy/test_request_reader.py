"""The reader of requests by itself: what it makes of bytes, however they are cut, and what stays nobody's."""

import pytest

from sidecar.errors import HeadTooLargeError
from sidecar.proxy.request_reader import Inbound, RequestReader

LAST = (
    b"GET /last HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\n",
    b"GET /last HTTP/1.1\r\n\r\n",
    b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
)
"""Requests behind which nothing is read: they close the connection, or are refused."""

BEHIND = (
    b"POST /behind HTTP/1.1\r\nHost: evil\r\nContent-Length: 5\r\nX-Sidecar-Session-Id: evil\r\n\r\nhello",
    b"POST /behind HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000,
)


def read(pieces: list[bytes]) -> list[Inbound]:
    """The requests in these pieces, with no peer."""
    reader = RequestReader(65536, 256)
    for piece in pieces:
        reader.feed(piece, 1, 0)
        while reader.behind:
            reader.read_on()
    return list(reader.ready)


def described(requests: list[Inbound]) -> list[object]:
    """What matters of each request."""
    return [
        (
            one.head and (one.head.method, one.head.target, one.head.version, one.head.headers.fields),
            (b"".join(one.pieces), one.trailers, one.chunked, one.length),
            (one.ended, one.broken, one.keep_alive, str(one.refusal)),
        )
        for one in requests
    ]


@pytest.mark.parametrize("behind", BEHIND, ids=range(len(BEHIND)))
@pytest.mark.parametrize("last", LAST, ids=range(len(LAST)))
def test_what_stands_behind_the_last_request_is_nobodys(last: bytes, behind: bytes) -> None:
    """It adds no field to that request, is no request, and refuses none, in one read or in two."""
    alone = described(read([last]))
    assert len(alone) == 1
    assert described(read([last + behind])) == alone
    assert described(read([last, behind])) == alone


HOSTS = (
    (b"", True),
    (b"h:8080", True),
    (b"my_host.local:", True),
    (b"[::1]:80", True),
    (b"h, evil", False),
    (b"u@h", False),
    (b"h/evil", False),
    (b"h:evil", False),
    (b"[::1", False),
    (b"h\xe9", False),
)


@pytest.mark.parametrize("host,fine", HOSTS, ids=[repr(host) for host, _ in HOSTS])
def test_a_host_that_can_be_none_is_refused(host: bytes, fine: bool) -> None:
    """RFC 9112, section 3.2."""
    (request,) = read([b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host])
    assert (request.refusal is None) == fine


@pytest.mark.parametrize("stays", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_has_no_chunks(stays: bytes) -> None:
    """RFC 9112, section 6.1: framing that cannot be trusted."""
    head = b"POST / HTTP/1.0\r\nHost: h\r\n%bTransfer-Encoding: chunked\r\n\r\n" % stays
    (request,) = read([head + b"0\r\n\r\n"])
    assert str(request.refusal) == "HTTP/1.0 has no transfer codings"


@pytest.mark.parametrize("behind", [b"", BEHIND[0]])
def test_a_large_head_is_refused_in_one_read_too(behind: bytes) -> None:
    """It keeps what it told before it grew too large; what stands behind it is not read."""
    head = b"GET /large HTTP/1.1\r\nHost: h\r\nX-Session-Id: mine\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"
    (request,) = read([head + behind])
    assert isinstance(request.refusal, HeadTooLargeError)
    assert request.head is not None
    assert request.head.target == b"/large"
    assert request.head.headers.fields == [(b"Host", b"h"), (b"X-Session-Id", b"mine")]
