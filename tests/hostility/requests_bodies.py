"""Rows: chunks, trailers, what stands behind a request, expectations and upgrades.

Every broken chunk is there twice: in a JSON body, which is held back until it is whole, and in one that streams.
Owns no code that runs; `rows.py` says what a row is and where its ideas come from.
"""

from tests.hostility.rows import CHUNKED, INNER, Row, passes, refused, request, sent

_JSON = b"Content-Type: application/json"
_GET = b"GET /x HTTP/1.1"
_END = b"\r\n0\r\n\r\n"

_BAD_CHUNKS = (
    ("a plus", "HTTP Garden", b"+3\r\nabc" + _END, b""),
    ("a minus", "HTTP Garden", b"-3\r\nabc" + _END, b""),
    ("0x", "HTTP Garden", b"0x3\r\nabc" + _END, b""),
    ("an underscore", "HTTP Garden", b"0_3\r\nabc" + _END, b""),
    ("a space in front", "Http11Probe", b" 3\r\nabc" + _END, b""),
    ("a tab in front", "Http11Probe", b"\t3\r\nabc" + _END, b""),
    ("a space behind", "CVE-2020-7658", b"3 \r\nabc" + _END, b""),
    ("a tab behind", "Http11Probe", b"3\t\r\nabc" + _END, b""),
    ("a hard space behind", "HTTP Garden", b"3\xa0\r\nabc" + _END, b""),
    ("a letter that is no digit", "HTTP Garden", b"3x\r\nabc" + _END, b""),
    ("a comma", "Http11Probe", b"3,\r\nabc" + _END, b""),
    ("a point", "Http11Probe", b"3.0\r\nabc" + _END, b""),
    ("an extension and no size", "HTTP Garden", b";a\r\nabc" + _END, b""),
    ("no size", "HTTP Garden", b"\r\nabc" + _END, b""),
    ("an empty line in front", "HTTP Garden", b"\r\n3\r\nabc" + _END, b""),
    ("over 64 bits", "RFC 9112, 7.1", b"10000000000000003\r\nabc" + _END, b""),
    ("seventeen f", "CVE-2013-2028", b"fffffffffffffffff\r\nabc" + _END, b""),
    ("a semicolon and nothing", "Http11Probe", b"3;\r\nabc" + _END, b""),
    ("a space before the semicolon", "CVE-2021-22960", b"3 ;a\r\nabc" + _END, b""),
    ("a space behind the semicolon", "RFC 9112, 7.1", b"3; a\r\nabc" + _END, b""),
    ("a space for a semicolon", "HTTP Garden", b"3 a\r\nabc" + _END, b""),
    ("a bracket in an extension", "Http11Probe", b"3;[\r\nabc" + _END, b""),
    ("NUL in an extension", "Http11Probe", b"3;a\0\r\nabc" + _END, b""),
    ("DEL in an extension", "Http11Probe", b"3;\x7f\r\nabc" + _END, b""),
    ("a byte above ASCII in an extension", "Http11Probe", b"3;\x80\r\nabc" + _END, b""),
    ("LF in an extension", "TERM.EXT 2025", b"3;\nx\r\nabc" + _END, b""),
    ("LF behind an extension's name", "TERM.EXT 2025", b"3;a\nx\r\nabc" + _END, b""),
    ("CR in an extension", "TERM.EXT 2025", b"3;a\rx\r\nabc" + _END, b""),
    ("CR twice in an extension", "HTTP Garden", b"3;a\r\rxabc" + _END, b""),
    ("CR before the semicolon", "HTTP Garden", b"3\r\r;a\r\nabc" + _END, b""),
    ("line ends in quotes", "TERM.EXT 2025", b'3;a="\r\n"\r\nabc' + _END, b""),
    ("LF behind the size", "TERM.EXT 2025", b"3\nabc" + _END, b""),
    ("CR and a byte behind the size", "HTTP Garden", b"3\rXabc" + _END, b""),
    ("CR twice behind the size", "HTTP Garden", b"3\r\r\nabc" + _END, b""),
    ("LF behind the data", "TERM.EXT 2025", b"3\r\nabc\n0\r\n\r\n", b"abc"),
    ("CR and a byte behind the data", "TERM.EXT 2025", b"3\r\nabc\rX0\r\n\r\n", b"abc"),
    ("two bytes behind the data", "TERM.EXT 2025", b"3\r\nabcXX0\r\n\r\n", b"abc"),
    ("nothing behind the data", "Http11Probe", b"3\r\nabc0\r\n\r\n", b"abc"),
    ("more data than the size", "TERM.EXT 2025", b"3\r\nabcd" + _END, b"abc"),
    ("less data than the size", "TERM.EXT 2025", b"3\r\nab" + _END, b"ab\r"),
    ("an empty line behind the data", "HTTP Garden", b"3\r\nabc\r\n\r\n0\r\n\r\n", b"abc"),
    ("LF behind the last size", "HTTP Garden", b"3\r\nabc\r\n0\n\r\n", b"abc"),
    ("LF for the last line", "RFC 9112, 2.2", b"3\r\nabc\r\n0\r\n\n", b"abc"),
    ("LF twice for the end", "RFC 9112, 2.2", b"3\r\nabc\r\n0\n\n", b"abc"),
    ("a last size with a minus", "HTTP Garden", b"3\r\nabc\r\n-0\r\n\r\n", b"abc"),
    ("a last size with 0x", "HTTP Garden", b"3\r\nabc\r\n0x0\r\n\r\n", b"abc"),
    ("CR twice behind the last size", "TERM.EXT 2025", b"3\r\nabc\r\n0\r\r\n\r\n", b"abc"),
    ("CR and a byte for the last line", "HTTP Garden", b"3\r\nabc\r\n0\r\n\rX", b"abc"),
    ("words", "HTTP Garden", b"INVALID!!!\r\n" + INNER, b""),
    ("a length in the trailers", "Http11Probe", b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n", b"abc"),
    ("a coding in the trailers", "Http11Probe", b"3\r\nabc\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n", b"abc"),
    ("LF in the trailers", "CVE-2022-35256", b"3\r\nabc\r\n0\r\nX-T: 1\nX: 2\r\n\r\n", b"abc"),
    ("a folded trailer", "RFC 9112, 5.2", b"3\r\nabc\r\n0\r\nX-T: 1\r\n 2\r\n\r\n", b"abc"),
    ("a trailer without a colon", "HTTP Garden", b"3\r\nabc\r\n0\r\nGET /evil HTTP/1.1\r\n\r\n", b"abc"),
    ("a trailer without a name", "HTTP Garden", b"3\r\nabc\r\n0\r\n: 1\r\n\r\n", b"abc"),
    ("a trailer with a space before its colon", "RFC 9112, 5.1", b"3\r\nabc\r\n0\r\nX : 1\r\n\r\n", b"abc"),
    ("NUL in a trailer", "CVE-2023-49081", b"3\r\nabc\r\n0\r\nX-T: \0\r\n\r\n", b"abc"),
)
"""Name, source, body, and as much of its payload as may have gone on when it streams."""

_GOOD_CHUNKS = (
    ("zeros in front", "RFC 9112, 7.1", b"00003\r\nabc" + _END, b""),
    ("many zeros in front", "RFC 9112, 7.1", b"0" * 40 + b"3\r\nabc" + _END, b""),
    ("an extension", "RFC 9112, 7.1", b"3;a\r\nabc" + _END, b""),
    ("an extension with a value", "RFC 9112, 7.1", b"3;a=b\r\nabc" + _END, b""),
    ("an extension in quotes", "RFC 9112, 7.1", b'3;a="b \\" c"\r\nabc' + _END, b""),
    ("several extensions", "RFC 9112, 7.1", b'3;a;b=c;d="e"\r\nabc' + _END, b""),
    ("an extension behind the last size", "RFC 9112, 7.1", b"3\r\nabc\r\n0;a\r\n\r\n", b""),
    ("several zeros at the end", "RFC 9112, 7.1", b"3\r\nabc\r\n000\r\n\r\n", b""),
    ("one chunk per byte", "RFC 9112, 7.1", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", b""),
    ("trailers", "RFC 9112, 7.1", b"3\r\nabc\r\n0\r\nX-T: 1\r\nx-t: 2\r\n\r\n", b"X-T: 1\r\nx-t: 2\r\n"),
    (
        "a trailer like a request",
        "HTTP Garden",
        b"3\r\nabc\r\n0\r\nX:GET / HTTP/1.1\r\n\r\n",
        b"X: GET / HTTP/1.1\r\n",
    ),
    ("Host in the trailers", "Http11Probe", b"3\r\nabc\r\n0\r\nHost: evil\r\n\r\n", b""),
    (
        "an upgrade in the trailers",
        "RFC 9110, 6.5",
        b"3\r\nabc\r\n0\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTE: x\r\n\r\n",
        b"",
    ),
    (
        "our own in the trailers",
        "wire.md",
        b"3\r\nabc\r\n0\r\nX-Sidecar-Session-Id: s\r\ntraceparent: x\r\n\r\n",
        b"",
    ),
)
"""Name, source, body, and the trailers that go on."""

_BODY = b"3\r\nabc\r\n0\r\n%b\r\n"

_BODIES_OF_METHODS = (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"TRACE")
"""Kettle 2022 (a length that one side does not expect) and h11: each may carry a body, which is a body to both."""

_UPGRADES = (
    (
        "h2c",
        "h2c smuggling",
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"),
    ),
    ("h2c without settings", "h2c smuggling", (b"Connection: Upgrade", b"Upgrade: h2c")),
    ("TLS", "RFC 9110, 7.8", (b"Connection: upgrade", b"Upgrade: TLS/1.0")),
    ("nothing that Connection names", "RFC 9110, 7.8", (b"Upgrade: h2c",)),
)

ROWS: tuple[Row, ...] = (
    *(
        refused(f"chunk, held: {name}", source, request(_JSON, CHUNKED, body=body))
        for name, source, body, _ in _BAD_CHUNKS
    ),
    *(
        Row(f"chunk: {name}", source, request(CHUNKED, body=body), part=part)
        for name, source, body, part in _BAD_CHUNKS
    ),
    *(
        passes(f"chunk: {name}", source, request(CHUNKED, body=body), sent(CHUNKED, body=_BODY % trailers))
        for name, source, body, trailers in _GOOD_CHUNKS
    ),
    *(
        passes(
            f"a body of {method.decode()}",
            "Kettle 2022",
            request(b"Content-Length: %d" % len(INNER), start=method + b" /x HTTP/1.1", body=INNER),
            sent(b"Content-Length: %d" % len(INNER), start=method + b" /x HTTP/1.1", body=INNER),
        )
        for method in _BODIES_OF_METHODS
    ),
    *(
        passes(
            f"chunks of {method.decode()}",
            "Kettle 2022",
            request(CHUNKED, start=method + b" /x HTTP/1.1", body=_BODY % b""),
            sent(CHUNKED, start=method + b" /x HTTP/1.1", body=_BODY % b""),
        )
        for method in _BODIES_OF_METHODS
    ),
    *(
        passes(
            f"an upgrade to {name}",
            source,
            request(*lines, b"Content-Length: %d" % len(INNER), body=INNER),
            sent(b"Content-Length: %d" % len(INNER), body=INNER),
        )
        for name, source, lines in _UPGRADES
    ),
    refused(
        "an upgrade to a WebSocket of an unknown version",
        "websocket smuggling",
        request(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 1337", start=_GET),
        status=426,
    ),
    Row(
        "no length, and a body",
        "Kettle 2025",
        request(body=b"GARBAGE\r\n\r\n"),
        said=(200, 400),
        passed=(sent(),),
    ),
    passes(
        "length 0, and a request in place of a body",
        "Kettle 2022",
        request(b"Content-Length: 0", body=INNER),
        sent(b"Content-Length: 0"),
        sent(start=b"GET /smuggled HTTP/1.1"),
    ),
    passes(
        "three requests at once",
        "RFC 9112, 9.3",
        request(b"Content-Length: 3", body=b"abc") + request(CHUNKED, body=_BODY % b"") + request(start=_GET),
        sent(b"Content-Length: 3", body=b"abc"),
        sent(CHUNKED, body=_BODY % b""),
        sent(start=_GET),
    ),
    passes(
        "a request behind one that closes",
        "RFC 9112, 9.6",
        request(b"Connection: close", start=_GET) + INNER,
        sent(start=_GET),
        closes=True,
    ),
    passes(
        "nonsense behind one that closes",
        "HTTP Garden",
        request(b"Connection: close", start=_GET) + b"Invalid\r\n\r\n",
        sent(start=_GET),
        closes=True,
    ),
    passes(
        "one that closes and would stay",
        "T-Reqs 2021",
        request(b"Connection: keep-alive, close", start=_GET) + INNER,
        sent(start=_GET),
        closes=True,
    ),
    Row(
        "nonsense behind a request",
        "HTTP Garden",
        request(start=_GET) + b"X\r\n\r\n",
        said=(200, 400),
        passed=(sent(start=_GET),),
    ),
    Row(
        "an expectation, and its body at once",
        "Kettle 2025",
        request(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc"),
        said=(200,),
        passed=(sent(b"Content-Length: 3", body=b"abc"),),
        closes=False,
    ),
    Row(
        "an expectation of HTTP/1.0",
        "RFC 9110, 10.1",
        request(b"Expect: 100-continue", b"Content-Length: 3", start=b"POST /x HTTP/1.0", body=b"abc"),
        said=(200,),
        passed=(sent(b"Content-Length: 3", body=b"abc"),),
    ),
    passes(
        "an expectation nobody knows",
        "Kettle 2025",
        request(b"Expect: y 100-continue", b"Content-Length: 3", body=b"abc"),
        sent(b"Expect: y 100-continue", b"Content-Length: 3", body=b"abc"),
    ),
    passes(
        "an expectation without a body",
        "Kettle 2025",
        request(b"Expect: 100-continue", start=_GET),
        sent(start=_GET),
    ),
    Row(
        "a body shorter than its length",
        "RFC 9112, 6.3",
        request(b"Content-Length: 9", body=b"abc"),
        said=(),
        part=b"abc",
        closes=False,
        waits=True,
    ),
    Row(
        "a held body shorter than its length",
        "RFC 9112, 6.3",
        request(_JSON, b"Content-Length: 9", body=b"{}"),
        said=(),
        closes=False,
        waits=True,
    ),
    Row(
        "chunks without an end",
        "RFC 9112, 7.1",
        request(CHUNKED, body=b"3\r\nabc\r\n"),
        said=(),
        part=b"abc",
        closes=False,
        waits=True,
    ),
    Row("half a head", "Slowloris", b"GET /x HTTP/1.1\r\nHost: h\r\nX-A", said=(), closes=False, waits=True),
)
"""All of them."""
