"""Rows: the ways in which upstreams write answers and behave, odd ones and usual ones. It runs nothing."""

import gzip
import zlib
from dataclasses import dataclass

import brotli
from backports import zstd

from sidecar.testing import End, Reset

OK = b"HTTP/1.1 200 OK"
CHUNKED = b"Transfer-Encoding: chunked"
THREE = b"Content-Length: 3"


@dataclass(frozen=True, slots=True)
class Form:
    """An answer's bytes, and how the upstream's connection ends then (None: it stays).

    `but` names the line of docs/wire.md that says why a client gets less than it would without the sidecar.
    """

    name: str
    data: bytes
    end: End | Reset | None = None
    method: str = "GET"
    but: str = ""
    body: bytes = b""
    slow: bool = False


def m(*lines: bytes, start: bytes = OK, body: bytes = b"abc") -> bytes:
    """A message: its first line, the lines given, and what stands for its body."""
    return b"".join(line + b"\r\n" for line in (start, *lines)) + b"\r\n" + body


def ch(body: bytes, *lines: bytes, start: bytes = OK) -> bytes:
    """A message in chunks, which `body` brings along."""
    return m(*lines, CHUNKED, start=start, body=body)


def packed(coding: bytes, body: bytes) -> bytes:
    """A message with a content coding."""
    return m(b"Content-Encoding: " + coding, b"Content-Length: %d" % len(body), body=body)


def flushed(coding: bytes) -> bytes:
    """A packed stream of two events, each flushed into a chunk of its own."""
    packer = {
        b"gzip": lambda: zlib.compressobj(wbits=31),
        b"br": brotli.Compressor,
        b"zstd": zstd.ZstdCompressor,
    }[coding]()
    process = packer.process if coding == b"br" else packer.compress
    flush = {
        b"gzip": lambda: packer.flush(zlib.Z_SYNC_FLUSH),
        b"br": packer.flush,
        b"zstd": lambda: packer.flush(zstd.ZstdCompressor.FLUSH_BLOCK),
    }[coding]
    parts = [process(event) + flush() for event in (b"data: a\n\n", b"data: b\n\n")]
    parts.append(packer.finish() if coding == b"br" else packer.flush())
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"
    return ch(body, b"Content-Type: text/event-stream", b"Content-Encoding: " + coding)


ABC = b"3\r\nabc\r\n0\r\n\r\n"
WHOLE = m(THREE)
ZIPPED = gzip.compress(b"abc")
ZIPPED_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED)

FORMS: list[Form] = [
    Form("a length", WHOLE),
    Form("LF", b"HTTP/1.1 200 OK\nX-A: 1\nContent-Length: 3\n\nabc"),
    Form("LF chunked", b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n"),
    Form("LF head, CRLF chunks", b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n" + ABC),
    Form("LF in chunks only", ch(b"3\nabc\n0\n\n")),
    Form("LF behind size only", ch(b"3\nabc\r\n0\r\n\r\n")),
    Form("LF behind data only", ch(b"3\r\nabc\n0\r\n\r\n")),
    Form("LF last line", ch(b"3\r\nabc\r\n0\r\n\n")),
    Form("LF mixed", b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2\r\nContent-Length: 3\r\n\r\nabc"),
    Form("LF status only", b"HTTP/1.1 200 OK\nX-A: 1\r\nContent-Length: 3\r\n\r\nabc"),
    Form("LF empty line", b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\nabc"),
    Form("LF until the end", b"HTTP/1.1 200 OK\nX-A: 1\n\nabc", End()),
    Form("CR", b"HTTP/1.1 200 OK\rContent-Length: 3\r\rabc", End(), but="a CR that ends no line"),
    Form("CR in value", m(b"X-A: 1\r2", THREE), but="a CR that ends no line"),
    Form("CR that hides", m(b"X-A: 1\rSet-Cookie: evil=1", THREE), but="a CR that ends no line"),
    Form("CRCRLF", b"HTTP/1.1 200 OK\r\r\nContent-Length: 3\r\r\n\r\r\nabc", but="a CR that ends no line"),
    Form("CRCRLF fields", m(b"X-A: 1\r", THREE), but="a CR that ends no line"),
    Form("fold space", m(b"X-A: 1\r\n 2", THREE)),
    Form("fold tab", m(b"X-A: 1\r\n\t2", THREE)),
    Form("fold empty", m(b"X-A: 1\r\n ", THREE)),
    Form("fold first empty", m(b"X-A:\r\n 1", THREE)),
    Form("fold last", m(THREE, b"X-A: 1\r\n 2")),
    Form("fold twice", m(b"X-A: 1\r\n 2\r\n   3", THREE)),
    Form("fold length", m(b"Content-Length:\r\n 3")),
    Form("fold chunked", m(b"Transfer-Encoding:\r\n chunked", body=ABC)),
    Form("fold LF", b"HTTP/1.1 200 OK\nX-A: 1\n 2\nContent-Length: 3\n\nabc"),
    Form("space first name", m(b" X-A: 1", THREE), but="a line with a blank in front, after the status line"),
    Form("chunk space behind", ch(b"3 \r\nabc\r\n0 \r\n\r\n")),
    Form("chunk spaces behind", ch(b"3   \r\nabc\r\n0   \r\n\r\n")),
    Form("chunk tab behind", ch(b"3\t\r\nabc\r\n0\r\n\r\n")),
    Form("chunk space front", ch(b" 3\r\nabc\r\n0\r\n\r\n"), but="a chunk's size that is not a number"),
    Form("chunk tab front", ch(b"\t3\r\nabc\r\n0\r\n\r\n"), but="a chunk's size that is not a number"),
    Form("chunk ext", ch(b"3;a=b\r\nabc\r\n0;c\r\n\r\n")),
    Form("chunk ext quoted", ch(b'3;a="b;c"\r\nabc\r\n0\r\n\r\n')),
    Form("chunk ext BWS", ch(b"3 ; a = b\r\nabc\r\n0\r\n\r\n")),
    Form("chunk ext BWS before", ch(b"3 ;a=b\r\nabc\r\n0\r\n\r\n")),
    Form("chunk ext BWS after", ch(b"3; a=b\r\nabc\r\n0\r\n\r\n")),
    Form("chunk ext tab", ch(b"3\t;\ta=b\r\nabc\r\n0\r\n\r\n")),
    Form("chunk ext empty", ch(b"3;\r\nabc\r\n0\r\n\r\n")),
    Form("chunk ext LF", ch(b"3;a\nabc\r\n0\r\n\r\n")),
    Form("chunk capital hex", ch(b"A\r\n0123456789\r\n0\r\n\r\n")),
    Form("chunk zeros", ch(b"000000003\r\nabc\r\n000\r\n\r\n")),
    Form("chunk many zeros", ch(b"0" * 40 + b"3\r\nabc\r\n000\r\n\r\n")),
    Form("chunk plus", ch(b"+3\r\nabc\r\n0\r\n\r\n"), but="a chunk's size that is not a number"),
    Form("chunk 0x", ch(b"0x3\r\nabc\r\n0\r\n\r\n"), but="a chunk's size that is not a number"),
    Form("chunk minus", ch(b"-3\r\nabc\r\n0\r\n\r\n"), End()),
    Form("chunk underscore", ch(b"0_3\r\nabc\r\n0\r\n\r\n"), but="a chunk's size that is not a number"),
    Form("chunk no size", ch(b"\r\nabc\r\n0\r\n\r\n"), End()),
    Form("chunk junk size", ch(b"xyz\r\nabc\r\n0\r\n\r\n"), End()),
    Form(
        "chunk junk behind", ch(b"3 z\r\nabc\r\n0\r\n\r\n"), End(), but="a chunk's size that is not a number"
    ),
    Form("chunk over 64 bits", ch(b"10000000000000003\r\nabc\r\n0\r\n\r\n"), End()),
    Form("chunk data too long", ch(b"3\r\nabcd\r\n0\r\n\r\n"), End()),
    Form("chunk data XX", ch(b"3\r\nabcXX0\r\n\r\n"), End(), but="a body without its proper end"),
    Form("chunk data no CRLF", ch(b"3\r\nabc0\r\n\r\n"), End()),
    Form("chunk extra CRLF", ch(b"3\r\nabc\r\n\r\n0\r\n\r\n"), End()),
    Form("chunk CR only", ch(b"3\rabc\r0\r\r"), End()),
    Form("no final CRLF, end", ch(b"3\r\nabc\r\n0\r\n"), End(), but="a body without its proper end"),
    Form("no final CRLF, stays", ch(b"3\r\nabc\r\n0\r\n")),
    Form("0 only, end", ch(b"3\r\nabc\r\n0"), End(), but="a body without its proper end"),
    Form("no last chunk, end", ch(b"3\r\nabc\r\n"), End()),
    Form("half a chunk, end", ch(b"9\r\nabc"), End()),
    Form("trailers", ch(b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n")),
    Form("trailers LF", ch(b"3\r\nabc\r\n0\r\nX-T: 1\n\n")),
    Form("trailers folded", ch(b"3\r\nabc\r\n0\r\nX-T: 1\r\n 2\r\n\r\n")),
    Form("trailers space colon", ch(b"3\r\nabc\r\n0\r\nX-T : 1\r\n\r\n")),
    Form("trailers no colon", ch(b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n"), but="a line that is not a field"),
    Form("trailers length", ch(b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n")),
    Form("length, chunked", m(THREE, CHUNKED, body=ABC)),
    Form("length wrong, chunked", m(b"Content-Length: 99", CHUNKED, body=ABC)),
    Form("chunked, length", m(CHUNKED, b"Content-Length: 13", body=ABC)),
    Form(
        "chunked, odd length",
        m(CHUNKED, b"Content-Length: abc", body=ABC),
        but="a length that is not a number",
    ),
    Form("chunked, two lengths", m(CHUNKED, THREE, b"Content-Length: 4", body=ABC)),
    Form("length, chunked, close", m(THREE, CHUNKED, b"Connection: close", body=ABC), End()),
    Form("length, TE identity", m(THREE, b"Transfer-Encoding: identity")),
    Form("TE identity, length", m(b"Transfer-Encoding: identity", THREE)),
    Form("TE identity, end", m(b"Transfer-Encoding: identity"), End()),
    Form("TE empty, length", m(b"Transfer-Encoding:", THREE)),
    Form(
        "TE empty, chunks",
        m(b"Transfer-Encoding:", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form("TE chunked upper", m(b"TRANSFER-ENCODING: CHUNKED", body=ABC)),
    Form("TE chunked twice", m(CHUNKED, CHUNKED, body=ABC)),
    Form("TE chunked, chunked", m(b"Transfer-Encoding: chunked, chunked", body=ABC)),
    Form("TE identity, chunked", m(b"Transfer-Encoding: identity, chunked", body=ABC)),
    Form(
        "TE chunked, identity",
        m(b"Transfer-Encoding: chunked, identity", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form("TE identity and chunked", m(b"Transfer-Encoding: identity", CHUNKED, body=ABC)),
    Form(
        "TE gzip",
        m(b"Transfer-Encoding: gzip", body=ZIPPED),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE gzip, chunked",
        m(b"Transfer-Encoding: gzip, chunked", body=ZIPPED_CHUNKS),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE chunked, gzip",
        m(b"Transfer-Encoding: chunked, gzip", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE xchunked",
        m(b"Transfer-Encoding: xchunked", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE ;q",
        m(b"Transfer-Encoding: chunked;q=1", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE quoted",
        m(b'Transfer-Encoding: "chunked"', body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form(
        "TE \\v chunked",
        m(b"Transfer-Encoding: \x0bchunked", body=ABC),
        End(),
        but="a transfer coding other than chunked",
    ),
    Form("TE tab chunked", m(b"Transfer-Encoding:\tchunked\t", body=ABC)),
    Form("TE space colon", m(b"Transfer-Encoding : chunked", body=ABC)),
    Form("TE ,chunked", m(b"Transfer-Encoding: ,chunked", body=ABC)),
    Form(
        "TE unknown, length", m(b"Transfer-Encoding: foo", THREE), but="a transfer coding other than chunked"
    ),
    Form("1.0 chunked", ch(ABC, start=b"HTTP/1.0 200 OK"), End()),
    Form("1.0 chunked and length", m(THREE, CHUNKED, start=b"HTTP/1.0 200 OK", body=ABC), End()),
    Form("two equal lengths", m(THREE, THREE)),
    Form("length list", m(b"Content-Length: 3, 3")),
    Form("length list no blank", m(b"Content-Length: 3,3")),
    Form("two equal, other zeros", m(THREE, b"Content-Length: 03")),
    Form("two lengths", m(THREE, b"Content-Length: 4"), End(), but="two different lengths"),
    Form("length list differ", m(b"Content-Length: 3, 4"), End(), but="two different lengths"),
    *(Form(f"length {v!r}", m(b"Content-Length: " + v), End()) for v in (b"+3", b"0003", b"3\t", b" 3")),
    *(
        Form(f"length {v!r}", m(b"Content-Length: " + v), End(), but="a length that is not a number")
        for v in (
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
            b"abc",
            b"3,",
            b",3",
            b"3;",
            b'"3"',
        )
    ),
    Form("length space colon", m(b"Content-Length : 3")),
    Form("no reason", m(THREE, start=b"HTTP/1.1 200 ")),
    Form("no reason no space", m(THREE, start=b"HTTP/1.1 200")),
    Form("odd reason", m(THREE, start=b"HTTP/1.1 200 It's {fine} \xe4\xf6")),
    Form("utf8 reason", m(THREE, start="HTTP/1.1 200 日本".encode())),
    Form("tab reason", m(THREE, start=b"HTTP/1.1 200 O\tK")),
    Form("reason blanks", m(THREE, start=b"HTTP/1.1 200  OK ")),
    Form("two blanks before status", m(THREE, start=b"HTTP/1.1  200 OK")),
    Form("tab before status", m(THREE, start=b"HTTP/1.1\t200 OK"), but="another first line"),
    Form("blank before version", m(THREE, start=b" HTTP/1.1 200 OK"), but="another first line"),
    Form("NUL in reason", m(THREE, start=b"HTTP/1.1 200 O\0K")),
    Form("ESC in reason", m(THREE, start=b"HTTP/1.1 200 \x1b[0m")),
    Form("DEL in reason", m(THREE, start=b"HTTP/1.1 200 OK\x7f")),
    Form("CR in reason", m(THREE, start=b"HTTP/1.1 200 O\rK"), but="a CR that ends no line"),
    Form("status 3 digits glued", m(THREE, start=b"HTTP/1.1 200OK"), but="another first line"),
    *(
        Form(f"start {s!r}", m(THREE, start=s), End())
        for s in (
            b"HTTP/1.2 200 OK",
            b"HTTP/2.0 200 OK",
            b"HTTP/0.9 200 OK",
            b"HTTP/1.1 600 OK",
            b"HTTP/1.1 999 OK",
            b"HTTP/1.1 299 OK",
        )
    ),
    *(
        Form(f"start {s!r}", m(THREE, start=s), End(), but="another first line")
        for s in (
            b"HTTP/2 200 OK",
            b"HTTP/11 200 OK",
            b"HTTP/1 200 OK",
            b"HTTP/1.10 200 OK",
            b"http/1.1 200 OK",
            b"Http/1.1 200 OK",
            b"ICY 200 OK",
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 Odd",
            b"HTTP/1.1 000 Odd",
            b"HTTP/1.1 abc OK",
            b"HTTP/1.1 +200 OK",
            b"HTTP/1.1 2 00 OK",
            b"HTTP/1.1 OK",
            b"HTTP/1.1",
            b"GET / HTTP/1.1",
            b"SSH-2.0-OpenSSH_9.6",
            b"<html>",
            b"RTSP/1.0 200 OK",
        )
    ),
    Form("HTTP/0.9", b"abc", End()),
    Form("CRLF in front", b"\r\n" + WHOLE),
    Form("CRLFs in front", b"\r\n\r\n" + WHOLE),
    Form("LF in front", b"\n" + WHOLE),
    Form("junk in front", b"junk\r\n" + WHOLE),
    Form("space colon", m(b"X-A : 1", THREE)),
    Form("tab colon", m(b"X-A\t: 1", THREE)),
    Form("no colon", m(b"nonsense", THREE)),
    Form("no colon last", m(THREE, b"nonsense"), but="a line that is not a field"),
    Form("no name", m(b": 1", THREE)),
    Form("no value", m(b"X-A:", THREE)),
    Form("space in name", m(b"X A: 1", THREE), but="a line that is not a field"),
    Form("NUL in name", m(b"X\0A: 1", THREE)),
    Form("bytes in name", m(b"X-\xe4: 1", THREE), but="a line that is not a field"),
    Form("parens in name", m(b"X(A): 1", THREE)),
    Form("odd name", m(b"X@A[1]: 1", THREE)),
    Form("slash name", m(b"X/A: 1", THREE)),
    Form("quote name", m(b'"X-A": 1', THREE)),
    Form("token chars name", m(b"!#$%&'*+-.^_`|~1: 1", THREE)),
    Form("latin value", m(b"X-A: \xe4", THREE)),
    Form("utf8 value", m("X-A: 日本".encode(), THREE)),
    Form("NUL in value", m(b"X-A: 1\x002", THREE), but="a line that is not a field"),
    Form("control in value", m(b"X-A: 1\x012", THREE)),
    Form("ESC in value", m(b"X-A: \x1b[0m", THREE)),
    Form("DEL in value", m(b"X-A: 1\x7f", THREE)),
    Form("tab in value", m(b"X-A: 1\t2", THREE)),
    Form("VT in value", m(b"X-A: 1\x0b2", THREE)),
    Form("long value", m(b"X-A: " + b"y" * 12000, THREE)),
    Form("100 fields", m(*(b"X-%d: 1" % n for n in range(98)), THREE), but="99 fields, to http.client"),
    Form("until end", m(), End()),
    Form("until end close", m(b"Connection: close"), End()),
    Form("1.0 until end", m(start=b"HTTP/1.0 200 OK"), End()),
    Form("empty until end", m(body=b""), End()),
    Form("until reset", m(), Reset(), but="a body without its proper end"),
    Form("length short end", m(b"Content-Length: 9"), End()),
    Form("length then reset", WHOLE, Reset()),
    Form("chunks then reset", ch(ABC), Reset()),
    Form("length then end", WHOLE, End()),
    Form("bytes after", WHOLE + b"evil"),
    Form("answer after", WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    Form("bytes after chunks", ch(ABC) + b"evil"),
    Form("CRLF after", WHOLE + b"\r\n"),
    Form("bytes after close", m(b"Connection: close", THREE) + b"evil"),
    *(
        Form(f"{c}{extra}", m(*lines, start=b"HTTP/1.1 %d X" % c, body=body) + WHOLE)
        for c in (100, 102, 103, 104, 199)
        for extra, lines, body in (
            ("", (), b""),
            (" field", (b"Link: </a>",), b""),
            (" close", (b"Connection: close",), b""),
            (" length 0", (b"Content-Length: 0",), b""),
            (" length 3", (THREE,), b""),
            (" chunked", (CHUNKED,), b""),
        )
    ),
    *(
        Form(
            f"{c} {how}",
            m(line, start=b"HTTP/1.1 %d X" % c, body=body) + WHOLE,
            but="a body where there is none",
        )
        for c in (103, 104, 199)
        for how, line, body in (("with a body", THREE, b"abc"), ("with chunks", CHUNKED, b"0\r\n\r\n"))
    ),
    Form("103 LF", b"HTTP/1.1 103 X\nLink: a\n\n" + WHOLE),
    Form("103 x 3", m(start=b"HTTP/1.1 103 X", body=b"") * 3 + WHOLE),
    Form("100 x 50", m(start=b"HTTP/1.1 100 X", body=b"") * 50 + WHOLE),
    Form("100 x 200", m(start=b"HTTP/1.1 100 X", body=b"") * 200 + WHOLE),
    Form("1.0 100", m(start=b"HTTP/1.0 100 X", body=b"") + WHOLE),
    Form("101", m(start=b"HTTP/1.1 101 X", body=b"") + WHOLE, but="101 without having been asked"),
    Form(
        "101 upgrade",
        m(b"Upgrade: websocket", b"Connection: upgrade", start=b"HTTP/1.1 101 X", body=b""),
        but="101 without having been asked",
    ),
    Form("204", m(start=b"HTTP/1.1 204 X", body=b"")),
    Form("204 length", m(THREE, start=b"HTTP/1.1 204 X", body=b"")),
    Form("204 body", m(THREE, start=b"HTTP/1.1 204 X")),
    Form("204 chunked", ch(b"", start=b"HTTP/1.1 204 X")),
    Form("204 chunks", ch(ABC, start=b"HTTP/1.1 204 X"), but="a body where there is none"),
    Form("204 chunked end", ch(b"0\r\n\r\n", start=b"HTTP/1.1 204 X")),
    Form("204 close body", m(b"Connection: close", start=b"HTTP/1.1 204 X"), End()),
    Form("204 LF length, TE", m(THREE, CHUNKED, start=b"HTTP/1.1 204 X", body=b"")),
    Form("205 length", m(b"Content-Length: 0", start=b"HTTP/1.1 205 X", body=b"")),
    Form("304", m(start=b"HTTP/1.1 304 X", body=b"")),
    Form("304 length", m(THREE, start=b"HTTP/1.1 304 X", body=b"")),
    Form("304 body", m(THREE, start=b"HTTP/1.1 304 X")),
    Form("304 chunked", ch(b"", start=b"HTTP/1.1 304 X")),
    Form("HEAD length", m(THREE, body=b""), method="HEAD"),
    Form("HEAD chunked", ch(b""), method="HEAD"),
    Form("HEAD nothing", m(body=b""), method="HEAD"),
    Form("HEAD body", WHOLE, method="HEAD"),
    Form("HEAD both", m(THREE, CHUNKED, body=b""), method="HEAD"),
    Form("HEAD two lengths", m(THREE, THREE, body=b""), method="HEAD"),
    Form("HEAD LF", b"HTTP/1.1 200 OK\nContent-Length: 3\n\n", method="HEAD"),
    Form("HEAD gzip, chunked", m(b"Transfer-Encoding: gzip, chunked", body=b""), method="HEAD"),
    Form("HEAD odd length", m(b"Content-Length: +3", body=b""), End(), method="HEAD"),
    Form("keep-alive before close", m(b"Connection: keep-alive, close", THREE), End()),
    Form("Connection upgrade h2c", m(b"Upgrade: h2c", b"Connection: Upgrade", THREE)),
    Form("Upgrade no Connection", m(b"Upgrade: h2,h2c", THREE)),
    Form("Connection Upgrade, close", m(b"Upgrade: h2", b"Connection: Upgrade, close", THREE), End()),
    Form("Connection upgrade h2c chunked", ch(ABC, b"Upgrade: h2c", b"Connection: Upgrade")),
    Form("Proxy-Connection close", m(b"Proxy-Connection: close", THREE)),
    Form("gzip", packed(b"gzip", ZIPPED)),
    Form("deflate", packed(b"deflate", zlib.compress(b"abc"))),
    Form("br", packed(b"br", brotli.compress(b"abc"))),
    Form("zstd", packed(b"zstd", zstd.compress(b"abc"))),
    Form("gzip in chunks", ch(ZIPPED_CHUNKS, b"Content-Encoding: gzip")),
    Form(
        "gzip, LF",
        packed(b"gzip", b"").replace(b"\r", b"").replace(b"Length: 0", b"Length: %d" % len(ZIPPED)) + ZIPPED,
    ),
    Form("a redirect", m(b"Location: /x0", b"Content-Length: 0", start=b"HTTP/1.1 307 Temporary", body=b"")),
    *(Form(f"{coding.decode()}, flushed", flushed(coding)) for coding in (b"gzip", b"br", b"zstd")),
    Form("gzip, flushed, a byte at a time", flushed(b"gzip"), slow=True),
    *(
        Form(
            f"a redirect by {status} of a {method}",
            m(b"Location: /x0", b"Content-Length: 0", start=b"HTTP/1.1 %d X" % status, body=b""),
            method=method,
            body=b"" if method == "HEAD" else b"x",
        )
        for status in (301, 302, 303, 307, 308)
        for method in ("POST", "HEAD")
    ),
    Form("a redirect, LF", b"HTTP/1.1 307 Temporary\nLocation: /x0\nContent-Length: 0\n\n"),
    Form("cookies", m(b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2", THREE)),
    Form("a 4xx", m(THREE, start=b"HTTP/1.1 404 Not Found")),
    Form("a 5xx", m(THREE, start=b"HTTP/1.1 500 Oh")),
    Form("many large fields", m(*(b"X-%d: " % n + b"y" * 3000 for n in range(10)), THREE)),
    Form("a byte at a time", m(THREE), slow=True),
    Form("chunks, a byte at a time", ch(b"3 \r\nabc\r\n0\r\nX-T: 1\r\n\r\n"), slow=True),
    Form("LF, a byte at a time", WHOLE.replace(b"\r", b""), slow=True),
    Form("a post", WHOLE, method="POST", body=b"x" * 100),
    Form("a large post", WHOLE, method="POST", body=b"x" * 100_000),
    *(
        Form(
            f"{status} and a close before the body",
            m(THREE, b"Connection: close", start=b"HTTP/1.1 %d X" % status),
            method="POST",
            body=b"x" * 1000,
        )
        for status in (401, 413, 503)
    ),
    Form("a post, LF in chunks", ch(ABC.replace(b"\r", b"")), method="POST", body=b"x"),
]
"""All of them. The first is where redirects lead."""
