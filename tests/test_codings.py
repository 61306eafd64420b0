"""Every coding, cut in every way: the decoded bytes are the ones that were coded, or it is said that they cannot be had."""

import gzip
import random
import sys
import zlib
from collections.abc import Callable

import brotli
import pytest

from sidecar.codings import PIECE, UnreadableCodingError, decoder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def _in_two(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: compress(data[: len(data) // 2]) + compress(data[len(data) // 2 :])


CODED: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "gzip, two members": (b"x-gzip", _in_two(gzip.compress)),
    "deflate": (b"deflate", zlib.compress),
    "deflate without a wrapper": (b"Deflate", _raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b" zstd ", zstd.compress),
    "zstd, two frames": (b"zstd", _in_two(zstd.compress)),
}
TEXTS = {
    "nothing": b"",
    "little": b"data: {}\n\n",
    "much of the same": b'data: {"a":"' + b"A" * (2 << 20) + b'"}\n\n',
    "just over a piece": b"A" * (PIECE + 5),
    "noise": random.Random(1).randbytes(200_000),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", CODED)
def test_decoded(name: str, text: str) -> None:
    """Whole, in reads of some size and byte by byte, in pieces of bounded size."""
    coding, compress = CODED[name]
    coded = compress(TEXTS[text])
    for size in (len(coded), 4096, 1):
        reader = decoder(coding)
        starts = range(0, len(coded), size)
        pieces = [piece for at in starts for piece in reader.decode(coded[at : at + size])]
        assert b"".join(pieces) == TEXTS[text], size
        assert max(map(len, pieces), default=0) <= 2 * PIECE


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0" * 600, b"\r\n", b"more\r\n", b"\x1f\x8b", b"\x1f\x8b\x08more", _raw_deflate(b"junk")],
)
@pytest.mark.parametrize("name", ["gzip", "gzip, two members", "deflate", "deflate without a wrapper"])
def test_what_stands_behind(name: str, tail: bytes) -> None:
    """It is no further member: clients pass it over, and what was coded has been read."""
    coding, compress = CODED[name]
    coded = compress(TEXTS["little"]) + tail
    for size in (len(coded), 4096, 1):
        reader = decoder(coding)
        pieces = [
            piece for at in range(0, len(coded), size) for piece in reader.decode(coded[at : at + size])
        ]
        assert b"".join(pieces) == TEXTS["little"], size


def test_a_later_member_that_is_broken() -> None:
    """What has been read of it is no answer."""
    reader = decoder(b"gzip")
    broken = bytearray(gzip.compress(TEXTS["noise"]))
    broken[-5] ^= 1
    with pytest.raises(UnreadableCodingError):
        list(reader.decode(gzip.compress(TEXTS["little"]) + broken))


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd"])
def test_what_is_not_coded_so(coding: bytes) -> None:
    """It is said, whatever stands there instead."""
    with pytest.raises(UnreadableCodingError):
        list(decoder(coding).decode(b"data: this is plain\n\n" * 10))


@pytest.mark.parametrize(
    "part, coding", [(gzip.compress(b"", mtime=0), b"gzip"), (zstd.compress(b""), b"zstd")]
)
def test_parts_without_number(part: bytes, coding: bytes) -> None:
    """A read of nothing but empty members or frames ends the reading."""
    with pytest.raises(UnreadableCodingError):
        list(decoder(coding).decode(part * (256 * 1024 // len(part))))


@pytest.mark.parametrize("coding", [b"", b",", b"identity", b"None", b"none, none", b"UTF-8", b" utf8 "])
def test_what_is_no_coding(coding: bytes) -> None:
    """Clients pass over it, also beside a coding (vercel/ai#17007 sends `none`)."""
    text = TEXTS["little"]
    assert b"".join(decoder(coding).decode(text)) == text
    for both in (coding + b", gzip", b"gzip ," + coding):
        assert b"".join(decoder(both).decode(gzip.compress(text))) == text


def test_codings_that_are_not_read() -> None:
    """Unknown ones, and several at once."""
    for coding in (b"compress", b"gzip, br", b"aws-chunked", b"gzip, gzip", b"nonesuch"):
        with pytest.raises(UnreadableCodingError):
            decoder(coding)
