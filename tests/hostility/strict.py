"""A second opinion on what the sidecar sends, up and down: a reader that takes one spelling only.

It owns the question "how many messages are these bytes, for certain?". Whatever a lenient server could read in
two ways (two lengths, a length beside chunks, another line end, a size that is no plain hexadecimal number) it
refuses to read at all. It shares no code with the sidecar or its parser; the tests of this folder call it.
"""

import re
from dataclasses import dataclass

_REQUEST = re.compile(rb"[A-Z-]+ [\x21-\x7e]+ HTTP/1\.1")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"([1-9a-f][0-9a-f]*)\r\n")
_TRACE = re.compile(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\r\n")
_REQUEST_ID = re.compile(rb"X-Sidecar-Request-Id: [\x21-\x7e]+\r\n")


class AmbiguousError(AssertionError):
    """The bytes could be read in another way, or in none."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as it was sent on, its payload without chunks. `whole` is False while its end is missing."""

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
        head, data = _head(data)
        if not head:
            found.append(Sent(data, whole=False))
            break
        start, fields = _lines(head)
        if not _REQUEST.fullmatch(start):
            raise AmbiguousError(f"request line {start!r}")
        if len(_values(fields, b"host")) != 1:
            raise AmbiguousError(f"not one Host in {head!r}")
        length = _length(fields)
        sent, data = _body(head, data, 0 if length is None else length)
        found.append(sent)
    return found


def read_answers_strictly(data: bytes, methods: list[str]) -> list[Sent]:
    """All answers in `data`, to its last byte, informational ones too; `methods` are those of the requests.

    One that has no framing of its own must say `Connection: close`, and is whole at the end of `data`.

    Raises:
        AmbiguousError: as above; also an answer that no request is left for.
    """
    found: list[Sent] = []
    waiting = list(methods)
    while data:
        head, data = _head(data)
        if not head:
            found.append(Sent(data, whole=False))
            break
        start, fields = _lines(head)
        status = _STATUS.fullmatch(start)
        if status is None or not waiting:
            raise AmbiguousError(f"{start!r}, to {len(waiting)} requests")
        if int(status[1]) < 200:
            found.append(Sent(head))
            continue
        length = _length(fields)
        if waiting.pop(0) == "HEAD" or int(status[1]) in {204, 304}:
            length = 0
        if length is None and b"close" not in _values(fields, b"connection"):
            raise AmbiguousError(f"no end in {head!r}")
        sent, data = _body(head, data, len(data) if length is None else length)
        found.append(sent)
    return found


def without_ours(head: bytes, authority: bytes) -> bytes:
    """A request's head less the one `traceparent` that the sidecar adds, and with `upstream` for its address."""
    return _less(_TRACE, head).replace(b": " + authority + b"\r\n", b": upstream\r\n")


def without_id(head: bytes) -> bytes:
    """An answer's head less the one request id that the sidecar adds."""
    return _less(_REQUEST_ID, head)


def _less(added: re.Pattern[bytes], head: bytes) -> bytes:
    less, count = added.subn(b"", head)
    if count != 1:
        raise AmbiguousError(f"{count} lines of ours in {head!r}")
    return less


def _head(data: bytes) -> tuple[bytes, bytes]:
    """The head and what follows; no head if it is not whole."""
    at = data.find(b"\r\n\r\n")
    return (b"", data) if at < 0 else (data[: at + 4], data[at + 4 :])


def _lines(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The start line, and the fields with their names in small letters."""
    start, *lines = head[:-4].split(b"\r\n")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise AmbiguousError(f"field line {line!r}")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    return start, fields


def _values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for field, value in fields if field == name]


def _length(fields: list[tuple[bytes, bytes]]) -> int | None:
    """How long the body is by the head: -1 for chunks, None where it does not say."""
    lengths, codings = _values(fields, b"content-length"), _values(fields, b"transfer-encoding")
    if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
        raise AmbiguousError(f"framed in two ways, or in an odd one: {fields!r}")
    if codings:
        return -1
    if lengths and not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise AmbiguousError(f"length {lengths[0]!r}")
    return int(lengths[0]) if lengths else None


def _body(head: bytes, data: bytes, length: int) -> tuple[Sent, bytes]:
    """The message with its body of `length` bytes (-1: of chunks), and what stands behind it."""
    if length < 0:
        sent, data = _chunks(head, data)
    else:
        sent, data = Sent(head, data[:length], whole=len(data) >= length), data[length:]
    if not sent.whole and data:
        raise AmbiguousError(f"behind an unfinished message stands {data!r}")
    return sent, data


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
