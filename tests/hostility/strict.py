"""A second opinion on what the sidecar sends to an upstream: a reader that takes one spelling only.

It owns the question "how many requests are these bytes, for certain?". Whatever a lenient server could read in
two ways (two lengths, a length beside chunks, another line end, a size that is no plain hexadecimal number) it
refuses to read at all. It shares no code with the sidecar or its parser; the tests of this folder call it.
"""

import re
from dataclasses import dataclass

_START = re.compile(rb"([A-Z-]+) ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"([1-9a-f][0-9a-f]*)\r\n")
_ADDED = re.compile(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\r\n")


class AmbiguousError(AssertionError):
    """The bytes could be read in another way, or in none."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it was sent on, its payload without chunks. `whole` is False while its end is missing."""

    head: bytes
    payload: bytes = b""
    trailers: bytes = b""
    whole: bool = True


def read_strictly(data: bytes) -> list[Sent]:
    """All requests in `data`, to its last byte; only the last of them may be unfinished.

    Raises:
        AmbiguousError: something in it is not as a careful sender writes it.
    """
    found: list[Sent] = []
    while data:
        at = data.find(b"\r\n\r\n")
        if at < 0:
            found.append(Sent(data, whole=False))
            break
        head, data = data[: at + 4], data[at + 4 :]
        length = _length(head)
        if length is None:
            sent, data = _chunks(head, data)
        else:
            sent, data = Sent(head, data[:length], whole=len(data) >= length), data[length:]
        found.append(sent)
        if not sent.whole and data:
            raise AmbiguousError(f"behind an unfinished request stands {data!r}")
    return found


def without_ours(head: bytes, authority: bytes) -> bytes:
    """A head less the one `traceparent` that the sidecar adds, and with `upstream` for the upstream's address."""
    less, count = _ADDED.subn(b"", head)
    if count != 1:
        raise AmbiguousError(f"{count} traceparent lines in {head!r}")
    return less.replace(b": " + authority + b"\r\n", b": upstream\r\n")


def _length(head: bytes) -> int | None:
    """How long the body is by the head; None for chunks."""
    start, *lines = head[:-4].split(b"\r\n")
    if not _START.fullmatch(start):
        raise AmbiguousError(f"request line {start!r}")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise AmbiguousError(f"field line {line!r}")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    lengths, codings, hosts = (
        [value for name, value in fields if name == wanted]
        for wanted in (b"content-length", b"transfer-encoding", b"host")
    )
    if len(hosts) != 1 or len(lengths) + len(codings) > 1:
        raise AmbiguousError(f"framed in no way or in two: {head!r}")
    if codings:
        if codings != [b"chunked"]:
            raise AmbiguousError(f"codings {codings!r}")
        return None
    if lengths and not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise AmbiguousError(f"length {lengths[0]!r}")
    return int(lengths[0]) if lengths else 0


def _chunks(head: bytes, data: bytes) -> tuple[Sent, bytes]:
    """A chunked body without extensions, and what stands behind it."""
    payload = b""
    while True:
        if data.startswith(b"0\r\n"):
            return _trailers(head, payload, data[3:])
        size = _SIZE.match(data)
        if size is None:
            if not re.fullmatch(rb"[0-9a-f]*\r?", data):
                raise AmbiguousError(f"chunk {data!r}")
            return Sent(head, payload, whole=False), b""
        rest = data[size.end() :]
        length = int(size[1], 16)
        if len(rest) < length + 2:
            return Sent(head, payload + rest[:length], whole=False), b""
        if rest[length : length + 2] != b"\r\n":
            raise AmbiguousError(f"behind a chunk stands {rest[length : length + 2]!r}")
        payload += rest[:length]
        data = rest[length + 2 :]


def _trailers(head: bytes, payload: bytes, data: bytes) -> tuple[Sent, bytes]:
    trailers = b""
    while True:
        line, found, rest = data.partition(b"\r\n")
        if not found:
            return Sent(head, payload, trailers, whole=False), b""
        if not line:
            return Sent(head, payload, trailers), rest
        if not _FIELD.fullmatch(line):
            raise AmbiguousError(f"trailer line {line!r}")
        trailers += line + b"\r\n"
        data = rest
