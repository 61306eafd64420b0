"""Rows: header fields, and what they say about a body's length.

Owns no code that runs; `rows.py` says what a row is and where its ideas come from.
"""

from tests.hostility.rows import CHUNKED, INNER, Row, passes, refused, request, sent

_GET = b"GET /x HTTP/1.1"
_LENGTH = b"Content-Length: 3"
_CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"

_BAD_FIELDS = (
    ("a space before the colon", "CVE-2021-22959", b"X-A : 1"),
    ("a tab before the colon", "RFC 9112, 5.1", b"X-A\t: 1"),
    ("a length with a space before its colon", "HTTP Garden", b"Content-Length : 3"),
    ("chunks with a space before their colon", "Kettle 2019", b"Transfer-Encoding : chunked"),
    ("chunks with CR before their colon", "Kettle 2019", b"Transfer-Encoding\r: chunked"),
    ("no colon", "CVE-2022-35256", b"nonsense"),
    ("a length without a colon", "HTTP Garden", b"Content-Length 3"),
    ("no name", "HTTP Garden", b": 1"),
    ("nothing but a colon", "HTTP Garden", b":"),
    ("NUL in a name", "HTTP Garden", b"X\0A: 1"),
    ("a space in a name", "Kettle 2019", b"Content Length: 3"),
    ("NEL behind a name", "HTTP Garden", b"Content-Length\x85: 3"),
    ("a byte above ASCII in a name", "HTTP Garden", b"\xefoo: 1"),
    ("DEL in a name", "HTTP Garden", b"X\x7fA: 1"),
    *((f"{mark} in a name", "RFC 9110, 5.6", b"X%bA: 1" % mark.encode()) for mark in '"(),/;<=>?@[\\]{}'),
    ("a name over two lines", "HTTP Garden", b"Transfer-\r\nEncoding: chunked"),
    ("NUL in a value", "CVE-2023-49081", b"X-A: 1\x002"),
    ("NUL behind a value", "HTTP Garden", b"X-A: 1\0"),
    ("CR in a value", "CVE-2023-30589", b"X-A: 1\r2"),
    ("CR that hides chunks", "CVE-2023-30589", b"X-A: \rTransfer-Encoding: chunked"),
    ("CR behind a value", "CVE-2022-35256", b"X-A: 1\r"),
    ("LF in a value", "HTTP Garden", b"X-A: 1\n2"),
    ("LF that hides a length", "CVE-2022-32214", b"X-A: 1\nContent-Length: 3"),
    ("a control character in a value", "RFC 9110, 5.5", b"X-A: 1\x012"),
    ("DEL in a value", "RFC 9110, 5.5", b"X-A: 1\x7f2"),
    ("a vertical tab in a value", "RFC 9110, 5.5", b"X-A: 1\x0b2"),
    ("a form feed in a value", "RFC 9110, 5.5", b"X-A: 1\x0c2"),
    ("ESC in a value", "RFC 9110, 5.5", b"X-A: \x1b[0m"),
    ("a folded value", "RFC 9112, 5.2", b"X-A: 1\r\n 2"),
    ("a value folded with a tab", "RFC 9112, 5.2", b"X-A: 1\r\n\t2"),
    ("folded chunks", "CVE-2022-32213", b"Transfer-Encoding:\r\n chunked"),
    ("a folded length", "CVE-2024-27982", b"Content-Length:\r\n 3"),
    ("CR before a name", "HTTP Garden", b"\rX-A: 1"),
    ("a space before a later name", "CVE-2024-27982", b"X-A: 1\r\n Content-Length: 3"),
    ("a long value", "Http11Probe", b"X-A: " + b"y" * 20_000),
    ("a long name", "Http11Probe", b"X" * 20_000 + b": 1"),
    ("many fields", "Http11Probe", b"\r\n".join(b"X-%d: 1" % number for number in range(1000))),
)

_BAD_HEADS = (
    ("a space before the first name", "RFC 9112, 2.2", b"GET /x HTTP/1.1\r\n Host: h\r\n\r\n"),
    ("a length behind a tab", "HTTP Garden", b"GET /x HTTP/1.1\r\n\tContent-Length: 1\r\nHost: h\r\n\r\nX"),
    ("a line of a space", "Http11Probe", b"GET /x HTTP/1.1\r\n \r\nHost: h\r\n\r\n"),
    ("a head that ends with LF", "RFC 9112, 2.2", b"GET /x HTTP/1.1\r\nHost: h\r\n\n"),
    ("a head that ends with CR and a byte", "HTTP Garden", b"GET /x HTTP/1.1\r\nHost: h\r\n\rZ" + INNER),
    ("a head whose last line ends with LF", "RFC 9112, 2.2", b"GET /x HTTP/1.1\r\nHost: h\n\r\n"),
)

_BAD_LENGTHS = (
    *(
        (value.decode("latin-1"), "HTTP Garden", value)
        for value in (b"+3", b"-1", b"-0", b"0x3", b"1_0", b"3Z")
    ),
    *(
        (value.decode(), "RFC 9110, 8.6", value)
        for value in (b"3 3", b"3,3", b"3, 4", b"3;a", b'"3"', b"3.0", b"3e0")
    ),
    ("empty", "HTTP Garden", b""),
    ("a vertical tab in front", "Http11Probe", b"\x0b3"),
    ("a vertical tab behind", "Http11Probe", b"3\x0b"),
    ("a form feed behind", "Http11Probe", b"3\x0c"),
    ("NUL behind", "HTTP Garden", b"3\0"),
    ("a hard space in front", "HTTP Garden", b"\xa03"),
    ("a digit that is none", "HTTP Garden", b"\xb2"),
    ("over 64 bits", "RFC 9110, 8.6", b"18446744073709551619"),
    ("very long", "RFC 9110, 8.6", b"9" * 400),
)

_GOOD_LENGTHS = (
    ("zeros in front", "RFC 9110, 8.6", b"003"),
    ("spaces around", "RFC 9112, 5", b"  3  "),
    ("tabs around", "Http11Probe", b"\t3\t"),
)

_BAD_CODINGS = (
    ("none", "HTTP Garden", b""),
    ("identity", "RFC 9112, 6.1", b"identity"),
    ("identity, chunked", "Linhart 2005", b"identity, chunked"),
    ("chunked, identity", "CVE-2022-32215", b"chunked, identity"),
    ("gzip", "RFC 9112, 6.1", b"gzip"),
    ("gzip, chunked", "RFC 9112, 6.1", b"gzip, chunked"),
    ("chunked, gzip", "RFC 9112, 6.1", b"chunked, gzip"),
    ("chunked, chunked", "RFC 9112, 6.1", b"chunked, chunked"),
    ("a comma behind", "HTTP Garden", b"chunked,"),
    ("xchunked", "Kettle 2019", b"xchunked"),
    ("chunkedx", "Kettle 2019", b"chunkedx"),
    ("chunk", "Kettle 2019", b"chunk"),
    ("cow", "Klein 2020", b"cow"),
    ("chunked twice without a comma", "Klein 2020", b"chunked chunked"),
    ("parameters", "Http11Probe", b"chunked;q=1"),
    ("quotes", "Kettle 2019", b'"chunked"'),
    ("apostrophes", "Kettle 2019", b"'chunked'"),
    ("brackets", "Kettle 2019", b"[chunked]"),
    ("a vertical tab in front", "Kettle 2019", b"\x0bchunked"),
    ("a form feed behind", "Http11Probe", b"chunked\x0c"),
    ("NUL behind", "Http11Probe", b"chunked\0"),
    ("a hard space in front", "HTTP Garden", b"\xa0chunked"),
    ("a hard space on both sides", "HTTP Garden", b"\xa0chunked\xa0"),
    ("bytes above ASCII around", "HTTP Garden", b"\xffchunked\xff"),
    ("a letter like u", "Kettle 2019", b"ch\xc5\xabnked"),
    ("trailers", "T-Reqs 2021", b"trailers, chunked"),
)

_GOOD_CODINGS = (
    ("capitals", "RFC 9112, 7", b"ChUnKeD"),
    ("spaces around", "RFC 9112, 5", b"  chunked  "),
    ("a tab in front", "Kettle 2019", b"\tchunked"),
    ("a comma in front", "RFC 9110, 5.6", b",chunked"),
    ("commas in front", "RFC 9110, 5.6", b" , , chunked"),
)

_TWO_FRAMINGS = (
    ("a length, then chunks", "Linhart 2005", (_LENGTH, CHUNKED)),
    ("chunks, then a length", "Linhart 2005", (CHUNKED, _LENGTH)),
    ("length 0, then chunks", "Kettle 2022", (b"Content-Length: 0", CHUNKED)),
    ("chunks, then length 0", "Kettle 2022", (CHUNKED, b"Content-Length: 0")),
    ("a length and chunks in capitals", "Http11Probe", (_LENGTH, b"TRANSFER-ENCODING: CHUNKED")),
    ("a length and identity", "RFC 9112, 6.3", (_LENGTH, b"Transfer-Encoding: identity")),
    ("a length and no coding", "HTTP Garden", (_LENGTH, b"Transfer-Encoding:")),
    ("a length and a coding nobody knows", "HTTP Garden", (_LENGTH, b"Transfer-Encoding: xchunked")),
    ("a length and a comma before chunks", "HTTP Garden", (_LENGTH, b"Transfer-Encoding: ,chunked")),
    ("chunks twice", "HTTP Garden", (CHUNKED, CHUNKED)),
    ("chunks and identity", "Kettle 2019", (CHUNKED, b"Transfer-Encoding: identity")),
    ("identity and chunks", "Kettle 2019", (b"Transfer-Encoding: identity", CHUNKED)),
    ("no coding and chunks", "CVE-2022-32215", (b"Transfer-Encoding:", CHUNKED)),
    ("chunks and no coding", "CVE-2022-32215", (CHUNKED, b"Transfer-Encoding:")),
    ("two lengths", "RFC 9112, 6.3", (_LENGTH, b"Content-Length: 4")),
    ("two lengths, the first 0", "HTTP Garden", (b"Content-Length: 0", _LENGTH)),
    ("two equal lengths", "RFC 9112, 6.3", (_LENGTH, _LENGTH)),
    ("a length and an empty one", "HTTP Garden", (_LENGTH, b"Content-Length:")),
    ("an empty length and one", "HTTP Garden", (b"Content-Length:", _LENGTH)),
    ("a length and one with a sign", "HTTP Garden", (_LENGTH, b"Content-Length: +3")),
    ("two lengths with a field between", "Klein 2020", (_LENGTH, b"X-A: 1", b"content-length: 3")),
)

_PASSING_FIELDS = (
    ("an empty value", "RFC 9110, 5.5", b"X-A:", b"X-A: "),
    ("a value of spaces", "RFC 9110, 5.5", b"X-A:    ", b"X-A: "),
    ("bytes above ASCII in a value", "RFC 9110, 5.5", b"X-A: \xe9", b"X-A: \xe9"),
    ("a tab in a value", "RFC 9110, 5.5", b"X-A: 1\t2", b"X-A: 1\t2"),
    ("odd letters in a name", "RFC 9110, 5.6", b"!#$%&'*+-.^_`|~09: 1", b"!#$%&'*+-.^_`|~09: 1"),
    ("a length with an underscore", "Http11Probe", b"Content_Length: 3", b"Content_Length: 3"),
    (
        "chunks with an underscore",
        "Http11Probe",
        b"Transfer_Encoding: chunked",
        b"Transfer_Encoding: chunked",
    ),
    (
        "an URL that should replace the path",
        "Kettle 2019",
        b"X-Original-URL: /evil",
        b"X-Original-URL: /evil",
    ),
    ("a method that should replace it", "Kettle 2019", b"X-HTTP-Method: POST", b"X-HTTP-Method: POST"),
)

_HOP_FIELDS = (
    ("Connection that names the length", "hop-by-hop", b"Connection: content-length", b"Content-Length: 3"),
    ("Connection that names Host", "hop-by-hop", b"Connection: keep-alive, host", b"Content-Length: 3"),
    (
        "Connection that names chunks",
        "hop-by-hop",
        b"Connection: transfer-encoding",
        b"Transfer-Encoding: chunked",
    ),
)

_BODY = {b"Content-Length: 3": b"abc", b"Transfer-Encoding: chunked": _CHUNKS}

ROWS: tuple[Row, ...] = (
    *(
        refused(
            name,
            source,
            request(line, start=_GET),
            status=431 if len(line) > 10_000 or name == "many fields" else 400,
        )
        for name, source, line in _BAD_FIELDS
    ),
    *(refused(name, source, data) for name, source, data in _BAD_HEADS),
    *(
        refused(f"length: {name}", source, request(b"Content-Length: " + value, body=b"abc"))
        for name, source, value in _BAD_LENGTHS
    ),
    *(
        passes(
            f"length: {name}",
            source,
            request(b"Content-Length: " + value, body=b"abc"),
            sent(b"Content-Length: " + value.lstrip(), body=b"abc"),
        )
        for name, source, value in _GOOD_LENGTHS
    ),
    *(
        refused(f"coding: {name}", source, request(b"Transfer-Encoding: " + value, body=_CHUNKS))
        for name, source, value in _BAD_CODINGS
    ),
    *(
        passes(
            f"coding: {name}",
            source,
            request(b"Transfer-Encoding: " + value, body=_CHUNKS),
            sent(CHUNKED, body=_CHUNKS),
        )
        for name, source, value in _GOOD_CODINGS
    ),
    *(
        refused(f"framed twice: {name}", source, request(*lines, body=_CHUNKS))
        for name, source, lines in _TWO_FRAMINGS
    ),
    *(
        passes(name, source, request(line, start=_GET), sent(on, start=_GET))
        for name, source, line, on in _PASSING_FIELDS
    ),
    *(
        passes(name, source, request(line, framed, body=_BODY[framed]), sent(framed, body=_BODY[framed]))
        for name, source, line, framed in _HOP_FIELDS
    ),
    passes(
        "fields that belong to one hop",
        "hop-by-hop",
        request(
            b"Connection: x-hop",
            b"X-Hop: 1",
            b"Keep-Alive: 1",
            b"TE: trailers",
            b"Proxy-Connection: x",
            start=_GET,
        ),
        sent(start=_GET),
    ),
    passes(
        "chunks without a space",
        "RFC 9112, 5",
        request(b"Transfer-Encoding:chunked", body=_CHUNKS),
        sent(CHUNKED, body=_CHUNKS),
    ),
    Row(
        "a length of 63 bits and a body that never ends",
        "RFC 9110, 8.6",
        request(b"Content-Length: 9223372036854775808", body=b"abc"),
        said=(),
        part=b"abc",
        closes=False,
        waits=True,
    ),
)
"""All of them."""
