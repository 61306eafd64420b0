"""Rows: answers of hostile and of broken upstreams.

Owns the shape of such a row and the rows themselves; it runs nothing. Where the ideas come from, `rows.py` says.
"""

from dataclasses import dataclass

from sidecar.testing import End, Reset

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
"""An answer that belongs to nobody."""

CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """Bytes of an upstream, and `end`, how it ends its connection then (None: not at all).

    `got` is what the client gets of it, with one chunk at most and without our request id; None: a whole 502 of
    ours. It is `cut` when the client's connection closes before its end. `reused`: the upstream's connection may
    carry the next request. `error` is telemetry's word where it did not complete.
    """

    name: str
    source: str
    data: bytes
    got: bytes | None = None
    method: str = "GET"
    end: End | Reset | None = None
    cut: bool = False
    reused: bool = False
    error: str | None = "malformed"
    odd: bool = False
    """It was not written as it should be, and says so."""

    @property
    def outcome(self) -> str:
        """What becomes of the request."""
        return "completed" if self.error is None else "upstream_failed"


def message(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    """An answer: its status line, the lines given, and whatever stands for its body."""
    return b"".join(line + b"\r\n" for line in (start, *lines)) + b"\r\n" + body


def broken(name: str, source: str, data: bytes) -> AnswerRow:
    """A 502 in its place; the connection is closed."""
    return AnswerRow(name, source, data)


def passes(
    name: str, source: str, data: bytes, got: bytes, *, method: str = "GET", reused: bool = True
) -> AnswerRow:
    """The client gets `got`, whole."""
    return AnswerRow(name, source, data, got, method=method, reused=reused, error=None)


def odd(name: str, source: str, data: bytes, got: bytes, *, method: str = "GET") -> AnswerRow:
    """The client gets `got`, whole and well written; the connection is not used again."""
    return AnswerRow(name, source, data, got, method=method, reused=False, error=None, odd=True)


_BAD_START = (
    ("another protocol", "llhttp", b"RTSP/1.0 200 OK"),
    ("version 11", "HTTP Garden", b"HTTP/11 200 OK"),
    ("a version in small letters", "RFC 9112, 2.3", b"http/1.1 200 OK"),
    ("ICY", "h11", b"ICY 200 OK"),
    ("a status of two digits", "RFC 9112, 4", b"HTTP/1.1 20 OK"),
    ("a status of four digits", "RFC 9112, 4", b"HTTP/1.1 2000 OK"),
    ("a status below 100", "RFC 9110, 15", b"HTTP/1.1 099 Odd"),
    ("a status in letters", "RFC 9112, 4", b"HTTP/1.1 abc OK"),
    ("a status with a sign", "HTTP Garden", b"HTTP/1.1 +200 OK"),
    ("a status with a space", "HTTP Garden", b"HTTP/1.1 2 00 OK"),
    ("no status", "RFC 9112, 4", b"HTTP/1.1 OK"),
    ("a space in front", "h11", b" HTTP/1.1 200 OK"),
    ("a tab before the status", "Http11Probe", b"HTTP/1.1\t200 OK"),
    ("CR in the reason", "HTTP Garden", b"HTTP/1.1 200 O\rK"),
    ("a request", "llhttp", b"GET / HTTP/1.1"),
    ("another server's banner", "h11", b"SSH-2.0-OpenSSH_9.6"),
    ("a page without a head", "RFC 9112, 2.3", b"<html>"),
)

_BAD_FIELDS = (
    ("no colon", "CVE-2022-35256", b"nonsense"),
    ("NUL in a name", "HTTP Garden", b"X\0A: 1"),
    ("a space in a name", "HTTP Garden", b"X A: 1"),
    ("a byte above ASCII in a name", "HTTP Garden", b"\xefoo: 1"),
    ("NUL in a value", "HTTP Garden", b"X-A: 1\x002"),
    ("CR in a value", "CVE-2023-30589", b"X-A: 1\r2"),
    ("CR that hides a field", "Linhart 2005", b"X-A: 1\rSet-Cookie: evil"),
    *(
        (f"length {value.decode('latin-1')!r}", "RFC 9110, 8.6", b"Content-Length: " + value)
        for value in (
            b"",
            b"-1",
            b"0x3",
            b"1_0",
            b"3Z",
            b"3 3",
            b"3.0",
            b"\x0b3",
            b"3\0",
            b"18446744073709551619",
        )
    ),
    ("two lengths", "RFC 9112, 6.3", b"Content-Length: 3\r\nContent-Length: 4"),
    *(
        (f"coding {value.decode('latin-1')!r}", "RFC 9112, 6.1", b"Transfer-Encoding: " + value)
        for value in (
            b"gzip",
            b"gzip, chunked",
            b"chunked, gzip",
            b"xchunked",
            b"\x0bchunked",
            b"chunked;q=1",
            b'"chunked"',
        )
    ),
    ("a long value", "wire.md", b"X-A: " + b"y" * 20_000),
    ("many fields", "wire.md", b"\r\n".join(b"X-%d: 1" % number for number in range(1000))),
)

_BAD_CHUNKS = (
    ("a plus", "HTTP Garden", b"+3\r\nabc\r\n0\r\n\r\n", b""),
    ("0x", "HTTP Garden", b"0x3\r\nabc\r\n0\r\n\r\n", b""),
    ("a space in front", "Http11Probe", b" 3\r\nabc\r\n0\r\n\r\n", b""),
    ("no size", "HTTP Garden", b"\r\nabc\r\n0\r\n\r\n", b""),
    ("over 64 bits", "RFC 9112, 7.1", b"10000000000000003\r\nabc\r\n0\r\n\r\n", b""),
    ("LF in an extension", "TERM.EXT 2025", b"3;a\nx\r\nabc\r\n0\r\n\r\n", b"x\r\n"),
    ("CR in an extension", "TERM.EXT 2025", b"3;a\rx\r\nabc\r\n0\r\n\r\n", b""),
    ("two bytes behind the data", "TERM.EXT 2025", b"3\r\nabcXX0\r\n\r\n", b"abc"),
    ("more data than the size", "TERM.EXT 2025", b"3\r\nabcd\r\n0\r\n\r\n", b"abc"),
    ("words", "HTTP Garden", b"INVALID!!!\r\n" + EVIL, b""),
)
"""Name, source, body, and the payload that has gone on by then."""

_BODY = b"3\r\nabc\r\n0\r\n%b\r\n"

_GOOD_CHUNKS = (
    ("zeros in front", "RFC 9112, 7.1", b"0003\r\nabc\r\n0\r\n\r\n", b""),
    ("many zeros", "RFC 9112, 7.1", b"0" * 40 + b"3\r\nabc\r\n" + b"0" * 40 + b"\r\n\r\n", b""),
    ("a length in the trailers", "RFC 9110, 6.5", b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n", b""),
    ("extensions", "RFC 9112, 7.1", b'3;a;b="c"\r\nabc\r\n0;d\r\n\r\n', b""),
    ("one chunk per byte", "RFC 9112, 7.1", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", b""),
    ("trailers", "RFC 9112, 7.1", b"3\r\nabc\r\n0\r\nX-T: 1\r\nx-t: 2\r\n\r\n", b"X-T: 1\r\nx-t: 2\r\n"),
    (
        "a trailer like an answer",
        "HTTP Garden",
        b"3\r\nabc\r\n0\r\nX:HTTP/1.1 200 OK\r\n\r\n",
        b"X: HTTP/1.1 200 OK\r\n",
    ),
    (
        "fields of one hop in the trailers",
        "RFC 9110, 6.5",
        b"3\r\nabc\r\n0\r\nKeep-Alive: timeout=9\r\nTE: x\r\nHost: x\r\n\r\n",
        b"",
    ),
    ("our own in the trailers", "wire.md", b"3\r\nabc\r\n0\r\nX-Sidecar-Request-Id: fake\r\n\r\n", b""),
)

_LENGTH = b"Content-Length: 3"
_WHOLE = message(_LENGTH, body=b"abc")
_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
_LONG_HINTS = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n"
_TO_END = message(CHUNKED, body=_BODY % b"")

_ODD_WHOLE = (
    ("version 1.2", "RFC 9110, 2.5", message(_LENGTH, start=b"HTTP/1.2 200 OK", body=b"abc")),
    ("version 2.0", "RFC 9112, 2.3", message(_LENGTH, start=b"HTTP/2.0 200 OK", body=b"abc")),
    ("version 0.9", "RFC 9112, 2.3", message(_LENGTH, start=b"HTTP/0.9 200 OK", body=b"abc")),
    ("two blanks before the status", "RFC 9112, 4", message(_LENGTH, start=b"HTTP/1.1  200 OK", body=b"abc")),
    ("an empty line in front", "RFC 9112, 2.2", b"\r\n" + _WHOLE),
    ("LF for line ends", "RFC 9112, 2.2", b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc"),
    ("LF behind the status line", "RFC 9112, 2.2", b"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nabc"),
    ("LF for the empty line", "RFC 9112, 2.2", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\nabc"),
    ("a space before the first name", "RFC 9112, 2.2", message(b" X-A: 1", _LENGTH, body=b"abc")),
    ("no name", "HTTP Garden", message(b": 1", _LENGTH, body=b"abc")),
    ("a folded length", "CVE-2024-27982", message(b"Content-Length:\r\n 3", body=b"abc")),
    ("a length with a space before its colon", "RFC 9112, 5.1", message(b"Content-Length : 3", body=b"abc")),
    ("a length with a plus", "RFC 9110, 8.6", message(b"Content-Length: +3", body=b"abc")),
    ("two equal lengths", "RFC 9112, 6.3", message(_LENGTH, _LENGTH, body=b"abc")),
    ("a list of equal lengths", "RFC 9110, 8.6", message(b"Content-Length: 3,\t3", body=b"abc")),
    (
        "two lengths that are equal as numbers",
        "RFC 9110, 8.6",
        message(b"Content-Length: 03, 3", body=b"abc"),
    ),
    ("identity and a length", "RFC 9112, 7", message(b"Transfer-Encoding: identity", _LENGTH, body=b"abc")),
    ("no coding and a length", "RFC 9112, 6.1", message(b"Transfer-Encoding:", _LENGTH, body=b"abc")),
)
"""Name, source, data; the client gets an answer of three bytes with a length."""

_THREE = b"3\r\nabc\r\n0\r\n\r\n"

_ODD_CHUNKED = (
    ("a length, then chunks", "RFC 9112, 6.3", message(_LENGTH, CHUNKED, body=_THREE)),
    ("chunks, then a length", "RFC 9112, 6.3", message(CHUNKED, b"Content-Length: 99", body=_THREE)),
    ("chunks and two lengths", "RFC 9112, 6.3", message(CHUNKED, _LENGTH, b"Content-Length: 4", body=_THREE)),
    ("chunks twice", "HTTP Garden", message(CHUNKED, CHUNKED, body=_THREE)),
    ("chunked, chunked", "HTTP Garden", message(b"Transfer-Encoding: chunked, chunked", body=_THREE)),
    ("identity, chunked", "RFC 9112, 6.1", message(b"Transfer-Encoding: identity, chunked", body=_THREE)),
    ("a comma before chunks", "RFC 9110, 5.6", message(b"Transfer-Encoding: ,chunked", body=_THREE)),
    ("folded chunks", "RFC 9112, 5.2", message(b"Transfer-Encoding:\r\n\tchunked", body=_THREE)),
    (
        "chunks with a space before the colon",
        "RFC 9112, 5.1",
        message(b"Transfer-Encoding : chunked", body=_THREE),
    ),
    ("LF everywhere", "RFC 9112, 2.2", (message(CHUNKED, body=_THREE)).replace(b"\r", b"")),
    *(
        (f"chunk: {name}", source, message(CHUNKED, body=body))
        for name, source, body in (
            ("a space behind", "Http11Probe", b"3 \r\nabc\r\n0 \r\n\r\n"),
            ("a tab behind", "Http11Probe", b"3\t\r\nabc\r\n0\r\n\r\n"),
            ("blanks around an extension", "RFC 9112, 7.1.1", b"3 ;\ta = b\r\nabc\r\n0\r\n\r\n"),
            ("LF behind the size", "TERM.EXT 2025", b"3\nabc\r\n0\r\n\r\n"),
            ("LF behind an extension", "TERM.EXT 2025", b"3;a\nabc\r\n0\r\n\r\n"),
            ("LF behind the data", "TERM.EXT 2025", b"3\r\nabc\n0\r\n\r\n"),
            ("LF for the last line", "RFC 9112, 2.2", b"3\r\nabc\r\n0\r\n\n"),
        )
    ),
)
"""Name, source, data; the client gets an answer of three bytes in chunks."""

_ODD_FIELDS = (
    ("a space before the colon", "RFC 9112, 5.1", b"X-A : 1", b"X-A: 1"),
    ("a folded value", "RFC 9112, 5.2", b"X-A: 1\r\n\t 2\r\n 3", b"X-A: 1 2 3"),
    ("a folded value without a beginning", "RFC 9112, 5.2", b"X-A:\r\n 1", b"X-A: 1"),
    ("control characters in a value", "RFC 9110, 5.5", b"X-A: 1\x01\x0b\x1b\x7f2", b"X-A: 1    2"),
    ("LF in a value", "RFC 9112, 2.2", b"X-A: 1\nX-B: 2", b"X-A: 1\r\nX-B: 2"),
    ("an odd name", "RFC 9110, 5.1", b'X/(A)@[1]": 1\r\nX-B: 2', b"X-B: 2"),
)
"""Name, source, line, what becomes of it."""

_ODD_TRAILERS = (
    ("a space before the colon", "RFC 9112, 5.1", b"X-T : 1\r\n", b"X-T: 1\r\n"),
    ("a folded trailer", "RFC 9112, 5.2", b"X-T: 1\r\n 2\r\n", b"X-T: 1 2\r\n"),
    ("LF in a trailer", "CVE-2022-35256", b"X-T: 1\nX: 2\r\n", b"X-T: 1\r\nX: 2\r\n"),
)

_SHORT = (
    (
        "a length that is not kept",
        "RFC 9112, 8",
        message(b"Content-Length: 9", body=b"abc"),
        message(b"Content-Length: 9", body=b"abc"),
    ),
    (
        "chunks without an end",
        "RFC 9112, 8",
        message(CHUNKED, body=b"3\r\nabc\r\n"),
        message(CHUNKED, body=b"3\r\nabc\r\n"),
    ),
    (
        "half a chunk",
        "RFC 9112, 8",
        message(CHUNKED, body=b"9\r\nabc"),
        message(CHUNKED, body=b"3\r\nabc\r\n"),
    ),
    (
        "half a trailer",
        "RFC 9112, 8",
        message(CHUNKED, body=b"3\r\nabc\r\n0\r\nX-T"),
        message(CHUNKED, body=b"3\r\nabc\r\n"),
    ),
    (
        "no last line",
        "RFC 9112, 8",
        message(CHUNKED, body=b"3\r\nabc\r\n0\r\n"),
        message(CHUNKED, body=b"3\r\nabc\r\n"),
    ),
)

ROWS: tuple[AnswerRow, ...] = (
    *(broken(name, source, message(_LENGTH, start=start, body=b"abc")) for name, source, start in _BAD_START),
    broken("CR for line ends", "Http11Probe", b"HTTP/1.1 200 OK\rContent-Length: 3\r\rabc"),
    *(
        broken(name, source, message(line, body=b"3\r\nabc\r\n0\r\n\r\n"))
        for name, source, line in _BAD_FIELDS
    ),
    *(
        AnswerRow(
            f"chunk: {name}",
            source,
            message(CHUNKED, body=body),
            message(CHUNKED, body=b"3\r\n%b\r\n" % part if part else b""),
            cut=True,
        )
        for name, source, body, part in _BAD_CHUNKS
    ),
    *(
        passes(f"chunk: {name}", source, message(CHUNKED, body=body), message(CHUNKED, body=_BODY % trailers))
        for name, source, body, trailers in _GOOD_CHUNKS
    ),
    *(
        AnswerRow(f"{name}, {how}", source, data, got, end=end, cut=True, error="cut_short")
        for name, source, data, got in _SHORT
        for how, end in (("ended", End()), ("reset", Reset()))
    ),
    *(
        AnswerRow(f"{name}, {how}", "RFC 9112, 8", data, end=end, error=error)
        for name, data, error in (
            ("nothing", b"", "connection_reset"),
            ("half a head", b"HTTP/1.1 200 OK\r\nX-A: ", "cut_short"),
        )
        for how, end in (("ended", End()), ("reset", Reset()))
    ),
    # --- what passes
    passes("a length", "RFC 9112, 6.3", _WHOLE, _WHOLE),
    passes(
        "a length of zeros", "RFC 9110, 8.6", message(b"Content-Length: 000"), message(b"Content-Length: 000")
    ),
    passes(
        "a length with a tab",
        "Http11Probe",
        message(b"Content-Length: 3\t", body=b"abc"),
        _WHOLE,
    ),
    passes(
        "chunks in capitals",
        "RFC 9112, 7",
        message(b"TRANSFER-ENCODING: CHUNKED", body=_BODY % b""),
        message(b"TRANSFER-ENCODING: chunked", body=_BODY % b""),
    ),
    passes(
        "no reason",
        "RFC 9112, 4",
        message(_LENGTH, start=b"HTTP/1.1 200 ", body=b"abc"),
        message(_LENGTH, start=b"HTTP/1.1 200 ", body=b"abc"),
    ),
    passes(
        "no reason and no space",
        "RFC 9112, 4",
        message(_LENGTH, start=b"HTTP/1.1 200", body=b"abc"),
        message(_LENGTH, start=b"HTTP/1.1 200 ", body=b"abc"),
    ),
    passes(
        "a status nobody knows",
        "RFC 9110, 15",
        message(_LENGTH, start=b"HTTP/1.1 299 X", body=b"abc"),
        message(_LENGTH, start=b"HTTP/1.1 299 X", body=b"abc"),
    ),
    passes(
        "fields of one hop",
        "hop-by-hop",
        message(
            b"Connection: x-hop, content-length",
            b"X-Hop: 1",
            b"Keep-Alive: timeout=9",
            b"Upgrade: h2c",
            _LENGTH,
            body=b"abc",
        ),
        _WHOLE,
    ),
    passes("our own field", "wire.md", message(b"X-Sidecar-Request-Id: fake", _LENGTH, body=b"abc"), _WHOLE),
    passes(
        "a close", "RFC 9112, 9.6", message(b"Connection: close", _LENGTH, body=b"abc"), _WHOLE, reused=False
    ),
    passes(
        "a close and a stay",
        "T-Reqs 2021",
        message(b"Connection: keep-alive, close", _LENGTH, body=b"abc"),
        _WHOLE,
        reused=False,
    ),
    passes(
        "HTTP/1.0 with a length",
        "RFC 9112, 9.3",
        message(_LENGTH, start=b"HTTP/1.0 200 OK", body=b"abc"),
        _WHOLE,
        reused=False,
    ),
    passes(
        "HTTP/1.0 that stays",
        "RFC 9112, 9.3",
        message(b"Connection: keep-alive", _LENGTH, start=b"HTTP/1.0 200 OK", body=b"abc"),
        _WHOLE,
    ),
    passes(
        "HTTP/1.0 with chunks",
        "RFC 9112, 6.1",
        message(b"Connection: keep-alive", CHUNKED, start=b"HTTP/1.0 200 OK", body=_BODY % b""),
        _TO_END,
        reused=False,
    ),
    # --- what passes, written anew
    *(odd(name, source, data, _WHOLE) for name, source, data in _ODD_WHOLE),
    *(odd(name, source, data, _TO_END) for name, source, data in _ODD_CHUNKED),
    *(
        odd(name, source, message(line, _LENGTH, body=b"abc"), message(got, _LENGTH, body=b"abc"))
        for name, source, line, got in _ODD_FIELDS
    ),
    *(
        odd(
            f"trailers: {name}",
            source,
            message(CHUNKED, body=b"3\r\nabc\r\n0\r\n" + line + b"\r\n"),
            message(CHUNKED, body=_BODY % got),
        )
        for name, source, line, got in _ODD_TRAILERS
    ),
    odd(
        "control characters in the reason",
        "RFC 9112, 4",
        message(_LENGTH, start=b"HTTP/1.1 200 \0O\x1b\x7fK", body=b"abc"),
        message(_LENGTH, start=b"HTTP/1.1 200  O  K", body=b"abc"),
    ),
    *(
        odd(
            f"{status} with {line.decode()}",
            "RFC 9110, 15.2",
            message(line, start=b"HTTP/1.1 %d X" % status) + _WHOLE,
            (b"" if status == 100 else message(start=b"HTTP/1.1 %d X" % status)) + _WHOLE,
        )
        for status in (100, 102, 103, 199)
        for line in (_LENGTH, CHUNKED)
    ),
    odd(
        "HEAD with two framings", "RFC 9112, 6.3", message(_LENGTH, CHUNKED), message(CHUNKED), method="HEAD"
    ),
    odd("HEAD with two lengths", "RFC 9112, 6.3", message(_LENGTH, _LENGTH), message(_LENGTH), method="HEAD"),
    odd(
        "HEAD with a coding",
        "RFC 9112, 6.3",
        message(b"Transfer-Encoding: gzip, chunked"),
        message(),
        method="HEAD",
    ),
    *(
        passes(
            f"{status} with a close",
            "RFC 9110, 15.2",
            message(b"Connection: close", start=b"HTTP/1.1 %d X" % status) + _WHOLE,
            (b"" if status == 100 else message(start=b"HTTP/1.1 %d X" % status)) + _WHOLE,
            reused=False,
        )
        for status in (100, 102, 103, 199)
    ),
    passes(
        "an upgrade that is offered",
        "RFC 9110, 7.8",
        message(b"Upgrade: h2,h2c", b"Connection: Upgrade", _LENGTH, body=b"abc"),
        _WHOLE,
    ),
    # --- answers without a body
    passes(
        "204",
        "RFC 9112, 6.3",
        message(start=b"HTTP/1.1 204 No Content"),
        message(start=b"HTTP/1.1 204 No Content"),
    ),
    passes(
        "204 with a length",
        "RFC 9112, 6.3",
        message(_LENGTH, start=b"HTTP/1.1 204 None"),
        message(_LENGTH, start=b"HTTP/1.1 204 None"),
        reused=False,
    ),
    passes(
        "304 with a length",
        "RFC 9112, 6.3",
        message(_LENGTH, start=b"HTTP/1.1 304 Same"),
        message(_LENGTH, start=b"HTTP/1.1 304 Same"),
    ),
    passes("HEAD with a length", "RFC 9112, 6.3", message(_LENGTH), message(_LENGTH), method="HEAD"),
    passes("HEAD with chunks", "RFC 9112, 6.3", message(CHUNKED), message(CHUNKED), method="HEAD"),
    passes("HEAD without a length", "RFC 9112, 6.3", message(), message(), method="HEAD"),
    # --- interim answers
    passes("hints", "RFC 9110, 15.2", _HINTS + _WHOLE, _HINTS + _WHOLE),
    passes("hints twice", "RFC 9110, 15.2", _HINTS * 2 + _WHOLE, _HINTS * 2 + _WHOLE),
    passes("100 unasked", "RFC 9110, 15.2", message(start=b"HTTP/1.1 100 Continue") + _WHOLE, _WHOLE),
    passes(
        "an interim answer nobody knows",
        "RFC 9110, 15.2",
        message(start=b"HTTP/1.1 199 X") + _WHOLE,
        message(start=b"HTTP/1.1 199 X") + _WHOLE,
    ),
    broken(
        "switched protocols",
        "websocket smuggling",
        message(b"Upgrade: websocket", b"Connection: upgrade", start=b"HTTP/1.1 101 Switching Protocols"),
    ),
    broken(
        "switched protocols without a word", "websocket smuggling", message(start=b"HTTP/1.1 101 X") + _WHOLE
    ),
    AnswerRow(
        "hints with a body", "RFC 9112, 6.3", _LONG_HINTS + b"abc" + EVIL, b"HTTP/1.1 103 Early Hints\r\n\r\n"
    ),
    # --- bodies that end with their connection
    AnswerRow("until the end", "RFC 9112, 6.3", message(body=b"abc"), _TO_END, end=End(), error=None),
    AnswerRow(
        "until the end of HTTP/1.0",
        "RFC 9112, 6.3",
        message(start=b"HTTP/1.0 200 OK", body=b"abc"),
        _TO_END,
        end=End(),
        error=None,
    ),
    AnswerRow(
        "until a reset",
        "RFC 9112, 8",
        message(body=b"abc"),
        message(CHUNKED, body=b"3\r\nabc\r\n"),
        end=Reset(),
        cut=True,
        error="cut_short",
    ),
)
"""All of them."""
