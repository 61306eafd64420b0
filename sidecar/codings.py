"""Reads compressed bodies from a copy; what passes on the wire stays compressed.

Owns the codings `gzip`, `deflate`, `br` and `zstd` and nothing else. Output comes in bounded pieces, so a
small body that expands without end costs no memory.
"""

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ZSTD_WINDOW = 23
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
"""RFC 9659: a window in HTTP is 8 MiB at most; without this a head of ten bytes would reserve 128 MiB."""

PIECE = 64 * 1024
"""Largest piece (bytes) that a decoder yields at once."""

_GZIP = zlib.MAX_WBITS | 16

_MEMBERS = 1024
"""Parts that are coded on their own, in `PIECE` bytes: each costs some microseconds, whatever is in it."""

_TABLES = 64 * 1024
"""Memory (bytes) of a decoder besides its window; gzip's window of 32 KiB is in it."""


class UnreadableCodingError(Exception):
    """The body is not what its `Content-Encoding` says, or the coding is none we read."""


class Decoder(Protocol):
    """Takes a body's encoded pieces, gives its decoded ones."""

    @property
    def held(self) -> int:
        """Bytes of memory that it takes by now; its window takes memory as it is filled."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yields what `data` adds, in pieces of bounded size.

        Raises:
            UnreadableCodingError: the data is not what the coding says.
        """


def _counted(parts: int) -> int:
    """One part more.

    Raises:
        UnreadableCodingError: nobody codes anything in so small parts.
    """
    if parts == _MEMBERS:
        raise UnreadableCodingError("it consists of countless parts")
    return parts + 1


class Identity:
    """A body that is not encoded."""

    held = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The same."""
        yield data


class _Zlib:
    """`gzip` (one member after another) and `deflate` (with or without the zlib wrapper).

    What stands behind the end, or behind a whole member and is none, is passed over, as most clients do: some servers fill up
    with zeros.
    """

    held = _TABLES

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._engine = zlib.decompressobj(wbits)
        self._fresh = True
        self._first = b""
        self._behind = False
        """A member has ended, and nothing has come of another one."""
        self._over = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._over:
            return
        data, self._first = self._first + data, b""
        if self._fresh and len(data) < 2:
            # Two bytes tell whether there is a wrapper.
            self._first = data
            return
        for start in range(0, len(data), PIECE):
            yield from self._decode(data[start : start + PIECE])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        members = 0
        more = False
        while (data or (more and not self._engine.eof)) and not self._over:
            if self._engine.eof:
                if self._wbits != _GZIP:
                    self._over = True
                    return
                members = _counted(members)
                self._engine = zlib.decompressobj(self._wbits)
                self._behind = True
            try:
                piece = self._engine.decompress(data, PIECE)
            except zlib.error as error:
                data = self._instead(data, error)
                continue
            self._fresh = False
            data = self._engine.unconsumed_tail or self._engine.unused_data
            more = len(piece) == PIECE  # the engine may keep the last of it, and all of the data
            if piece:
                self._behind = False
                yield piece

    def _instead(self, data: bytes, error: zlib.error) -> bytes:
        """What is left to be decoded where this was refused: the same without a wrapper, or nothing behind a whole member.

        Raises:
            UnreadableCodingError: it is not what the coding says.
        """
        if self._behind:
            self._over = True
            return b""
        if not self._fresh or self._wbits != zlib.MAX_WBITS:
            raise UnreadableCodingError(str(error)) from error
        self._wbits = -zlib.MAX_WBITS
        self._engine = zlib.decompressobj(self._wbits)
        self._fresh = False
        return data


class _Brotli:
    """`br`."""

    def __init__(self) -> None:
        self._engine = brotli.Decompressor()
        self._window = 0
        self._given = 0
        self._more = b""

    @property
    def held(self) -> int:
        # It decodes as much as its window takes, and gives it bit by bit.
        return _TABLES + (self._window if self._more else min(self._given, self._window))

    def decode(self, data: bytes) -> Iterator[bytes]:
        self._window = self._window or _brotli_window(data)
        try:
            # It may hold output back though it would take more data: only an empty piece says that there is none.
            piece = self._engine.process(data, output_buffer_limit=PIECE)
            while piece:
                self._given += len(piece)
                self._more = self._engine.process(b"", output_buffer_limit=PIECE)
                yield piece
                piece = self._more
        except brotli.error as error:
            raise UnreadableCodingError(str(error)) from error


class _Zstd:
    """`zstd`, one frame after another."""

    def __init__(self) -> None:
        self._engine = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        self._window = 0
        self._given = 0

    @property
    def held(self) -> int:
        return _TABLES + min(self._given, self._window)

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), PIECE):
            yield from self._decode(data[start : start + PIECE])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        frames = 0
        self._window = self._window or _zstd_window(data)
        while True:
            if self._engine.eof:
                data = self._engine.unused_data or data
                if not data:
                    return
                frames = _counted(frames)
                self._engine = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
                self._window = max(self._window, _zstd_window(data))
            try:
                piece = self._engine.decompress(data, max_length=PIECE)
            except zstd.ZstdError as error:
                raise UnreadableCodingError(str(error)) from error
            data = b""
            if piece:
                self._given += len(piece)
                yield piece
            if self._engine.eof:
                if not self._engine.unused_data:
                    return
            elif self._engine.needs_input:
                return


def _brotli_window(data: bytes) -> int:
    """The window (bytes) of a stream that begins so (RFC 7932, section 9.1)."""
    first = data[0] if data else 0
    if not first & 1:
        return 1 << 16
    more, less = first >> 1 & 7, first >> 4 & 7
    return 1 << (17 + more if more else 8 + less if less else 17)


def _zstd_window(data: bytes) -> int:
    """The window (bytes) of a frame that begins so (RFC 8878, section 3.1.1.1), or the largest if that is not told."""
    most = 1 << _ZSTD_WINDOW
    if len(data) < 6 or not data.startswith(b"\x28\xb5\x2f\xfd") or data[4] & 0x20:
        return most  # in one segment, the window is as large as what is in it
    base = 1 << (10 + (data[5] >> 3))
    return min(most, base + base // 8 * (data[5] & 7))


_NO_CODINGS = frozenset((b"", b"identity", b"none", b"utf-8", b"utf8"))
"""What stands in the field where nothing is coded: Next.js, and what is built on it, keep streams from being compressed by
`none`, others take it for the place of the charset. Clients pass over what is no coding."""


def decoder(coding: bytes | None) -> Decoder:
    """The decoder for a `Content-Encoding` value.

    Raises:
        UnreadableCodingError: the coding (or a list of several) is none that is read.
    """
    if coding is None:
        return Identity()
    codings = [name for part in coding.split(b",") if (name := part.strip().lower()) not in _NO_CODINGS]
    match b", ".join(codings):
        case b"":
            return Identity()
        case b"gzip" | b"x-gzip":
            return _Zlib(_GZIP)
        case b"deflate":
            return _Zlib(zlib.MAX_WBITS)
        case b"br":
            return _Brotli()
        case b"zstd":
            return _Zstd()
        case other:
            raise UnreadableCodingError(f"content coding {other[:40]!r} is not read")
