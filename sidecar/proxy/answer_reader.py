"""Reads answers out of an upstream's bytes: feed bytes, pull what they meant.

Owns what counts as an answer and how it is framed. It reads what the public clients read (RFC 9112 lets a user
agent be lenient where a server must not), makes of it a head that can be read in one way only, and notes that
the answer was `odd`. It knows no transport, and it never takes bytes behind an answer for another one.
"""

import re

from sidecar.core.headers import Field, Headers
from sidecar.core.sse import UNCOUNTED
from sidecar.proxy.heads import FORBIDDEN, STRICT_HEAD, TEXT, AnswerPlans
from sidecar.proxy.wire import JSON, AnswerHead, bodiless, head_memory

_HEAD_END = re.compile(rb"\n\r?\n")
_TEXT_BEGINS = re.compile(rb"[^\r\n]")
_FIELD = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")
_BARE_CR = re.compile(rb"\r(?!\n|\Z)")
_ODD_STATUS = re.compile(rb"HTTP/([0-9]\.[0-9]) +([1-9][0-9]{2})(?: (.*))?", re.DOTALL)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ODD_NAME = re.compile(rb"[\x21-\x7e]*")
_ODD_LENGTH = re.compile(rb"\+?[0-9]{1,18}")

_SIZE = re.compile(rb"(0*+[0-9A-Fa-f]{1,16}|0++)(?:;[^\r\n]*+)?\r\n")
_ODD_SIZE = re.compile(rb"(0*+[0-9A-Fa-f]{1,16}|0++)[ \t]*(?:;[^\r\n]*+)?\r?\n")
"""A chunk's size, with its extension: as RFC 9112 writes it, and as clients read it."""

_CONTROLS = bytes.maketrans(FORBIDDEN, b" " * len(FORBIDDEN))

_SMALL = 64 * 1024
"""Bytes of a body that may come as a whole in one read."""

_WORK = 1000
"""What is read in one go, in lines of heads and of chunks: about a millisecond. `unread` keeps the rest."""

_HEAD_WORK = 10
"""What a head costs beside its fields, in such lines."""

_TOO_LARGE = "the answer's head or trailers are larger than HEAD_LIMIT or HEAD_FIELDS"


class _MalformedError(Exception):
    """The answer can't be read; the text says why."""


class AnswerReader:
    """One answer after another of one connection; `plans` has the bounds of a head.

    `reset` before each. Whoever reads takes `informational`, `head`, `pieces`, `trailers`; `ended` is set with the
    last byte, `malformed` says why nothing more can be read, `stray` that bytes came behind the end, `odd` that
    the answer was not written as RFC 9112 has it. While `unread` holds bytes, `feed(b"")` reads on in them. A read that is
    `one_chunk` need not be fed.
    """

    def __init__(self, plans: AnswerPlans) -> None:
        self._plans = plans
        self._max_size, self._max_fields = plans.max_size, plans.max_fields
        self._touched = True
        """More has been read than a head by a plan, and with it the body by its length: they leave most of this as it is."""
        self.reset("GET")

    def reset(self, method: str) -> None:
        """Forgets the last answer; the next is one to a request of this method."""
        self.head: AnswerHead | None = None
        self.pieces: list[bytes] = []
        self.ended = self.stray = False
        self._method = method
        self._stays = True
        self._left: int | None = None
        """Bytes that the body, or the chunk, still has; None: until the connection ends."""
        if self._touched:
            self._touched = False
            self._forget()

    def _forget(self) -> None:
        """Forgets what only answers leave behind that are read line by line."""
        self.informational: list[AnswerHead] = []
        self.trailers: list[Field] = []
        self.malformed: str | None = None
        self.odd = False
        self.head_size = 0
        """Bytes of its head, if that is large."""
        self.unread = b""
        """What came and was too much work for one go."""
        self._work = 0
        self._kept = b""
        """What was read of a head, a chunk's first line, its end or the trailers, and is not whole yet."""
        self._searched = 0
        """How much of that has been searched for its end."""
        self._chunked = False
        self.between_chunks = False
        """Whole chunks have been read, and nothing else was kept or odd."""
        self._chunk_end = False
        """A chunk's data is whole and its line end is awaited."""
        self._in_trailers = False

    @property
    def stays(self) -> bool:
        """True when the answer has ended and its connection may carry another: the one place that says so."""
        return self.ended and self._stays and not (self.odd or self.stray or self.malformed)

    @property
    def begun(self) -> bool:
        """True while a part of a head has come, and not all of it."""
        return self.head is None and bool(self._kept)

    @property
    def kept_memory(self) -> int:
        """Bytes of memory that its head takes, where it is large, with what is not whole yet."""
        return head_memory(self.head_size + len(self._kept))

    @property
    def ends_with_connection(self) -> bool:
        """True while a body is read that has no other end than the connection's."""
        return self.head is not None and not self.ended and not self._chunked and self._left is None

    @property
    def small_json(self) -> bool:
        """True for a head that announces a JSON body which may come as a whole, in the next read."""
        head = self.head
        plain = (
            head is not None
            and head.lines
            and head.headers.first.get(b"content-type", b"")[: len(JSON)] == JSON
        )
        return bool(plain) and not self._chunked and 0 < (self._left or 0) <= _SMALL

    def one_chunk(self, data: bytes) -> bytes | None:
        """What is in the one whole chunk that these bytes are, as most reads of a stream are; None for any others.

        To be asked only `between_chunks`. It is written as `wire.chunk` would write it: what its first line must be is
        known by its length.
        """
        size = len(data)
        around = 6 if size < 262 else 7 if size < 4103 else 8
        line = b"%x\r\n" % (size - around)
        if data[: around - 2] != line or size < 7 or data[-2:] != b"\r\n":
            return None
        return data[around - 2 : -2]

    def feed(self, data: bytes) -> None:
        """Reads bytes, or as many of them as are done in one go."""
        if not self._touched and self.head is None and self._method != "HEAD":
            planned = self._plans.take(data)
            if planned is not None:
                self._begin_by_plan(*planned, data)
                return
        self._touched = True
        if self.malformed is not None:
            return
        self._work = _WORK
        if self.unread:
            data, self.unread = self.unread + data, b""
        try:
            if self._kept:
                data, self._kept = self._kept + data, b""
            if self.head is None:
                data = self._read_heads(data)
            if data:
                self._read_body(data)
            if len(self._kept) > self._max_size:
                raise _MalformedError(_TOO_LARGE)
        except _MalformedError as error:
            self.malformed = str(error)

    # Heads.

    def _read_heads(self, data: bytes) -> bytes:
        """Reads heads up to the final one; gives what follows it."""
        at, size = 0, len(data)
        searched, self._searched = self._searched, 0
        while self.head is None and at < size:
            if self._work <= 0:
                self.unread = data[at:]
                return b""
            start = at
            if data[at] in b"\r\n":
                text = _TEXT_BEGINS.search(data, at)
                start = text.start() if text else size
                self.odd = True
            begin, searched = max(start, searched), 0
            end = _HEAD_END.search(data, begin)
            if end is None:
                _check_beginning(data, start, begin)
                self._keep(data[at:])
                return b""
            at = end.end()
            if at - start > self._max_size:
                raise _MalformedError(_TOO_LARGE)
            self._take_head(data, start, at)
        return data[at:]

    def _keep(self, data: bytes) -> None:
        """Keeps what has no end yet; when more comes, the end is searched where it can be."""
        self._kept = data
        self._searched = max(0, len(data) - 2)

    def _take_head(self, data: bytes, start: int, end: int) -> None:
        if data.count(b"\n", start, end) > self._max_fields + 2:
            raise _MalformedError(_TOO_LARGE)
        strict = STRICT_HEAD.match(data, start)
        if strict is not None:
            head = _strict_head(strict)
        else:
            self.odd = True
            head = _odd_head(data[start:end])
        self._work -= _HEAD_WORK + len(head.headers)
        if end - start > UNCOUNTED:
            self.head_size = end - start
        if head.status == 101:
            raise _MalformedError("the answer switched protocols unasked")
        if head.status < 200:
            self._take_informational(head)
        else:
            self._begin_body(head)

    def _take_informational(self, head: AnswerHead) -> None:
        """It has no body, and the final answer follows, whatever its head says (RFC 9110, section 15.2)."""
        headers = head.headers
        self._stays = self._stays and b"close" not in headers.tokens(b"connection")
        if b"content-length" in headers or b"transfer-encoding" in headers:
            self.odd = True
            headers = _without(headers, *_FRAMING)
            head = AnswerHead(head.status, head.reason, head.version, headers)
        self.informational.append(head)

    def _begin_body(self, head: AnswerHead) -> None:
        headers = head.headers
        empty = bodiless(self._method, head.status)
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if coding is None:
            plain = length is None or (
                length.isdigit() and len(length) <= 18 and _single(headers, b"content-length")
            )
        else:
            plain = length is None and coding.lower() == b"chunked" and _single(headers, b"transfer-encoding")
        if not plain:
            self.odd = True
            headers = _framed_in_one_way(headers, empty=empty)
            head = AnswerHead(head.status, head.reason, head.version, headers)
            length = headers.get(b"content-length")
        self.head = head
        self._chunked = b"transfer-encoding" in headers
        self._left = 0 if self._chunked else None if length is None else int(length)
        tokens = headers.tokens(b"connection")
        if head.version == "1.0":
            # HTTP/1.0 has no chunks: whoever sends them may mean another end (RFC 9112, section 6.1).
            self._stays = self._stays and b"keep-alive" in tokens and not self._chunked
        if b"close" in tokens:
            self._stays = False
        if empty:
            self.ended = True
            if head.status == 204 and (self._chunked or self._left):
                self._stays = False  # something may come behind it
        elif self._left is None:
            self._stays = False
        elif not self._chunked and not self._left:
            self.ended = True

    def _begin_by_plan(self, head: AnswerHead, begin: int, length: int | None, data: bytes) -> None:
        """What `_read_heads` and `_begin_body` come to for a head in which nothing is unusual."""
        self.head = head
        if begin > UNCOUNTED:
            self._touched, self.head_size = True, begin
        connection = head.headers.first.get(b"connection")
        if connection is not None and connection.lower() == b"close":
            self._stays = False
        if length is None:
            self._touched = self._chunked = True
            self._left = 0
            if begin < len(data):
                self.feed(data[begin:])
            return
        self._left = left = length - (len(data) - begin)
        body = data[begin : begin + length]
        if body:
            self.pieces.append(body)
        if left <= 0:
            self.ended = True
            self.stray = left < 0

    # Bodies.

    def _read_body(self, data: bytes) -> None:
        if self.ended:
            self.stray = True
        elif self._chunked:
            self._read_chunks(data)
        elif self._left is None:
            self.pieces.append(data)
        else:
            self._left = left = self._left - len(data)
            if left > 0:
                self.pieces.append(data)
                return
            self.ended = True
            self.stray = left < 0
            self.pieces.append(data[:left] if left < 0 else data)

    def _read_chunks(self, data: bytes) -> None:
        """Reads as many chunks as there are; what they hold becomes one piece."""
        self.between_chunks = False
        at, size, parts = 0, len(data), []
        left, chunk_end = self._left or 0, self._chunk_end
        try:
            while at < size and not self._in_trailers and self._work > 0:
                if left:
                    parts.append(data[at : at + left])
                    left, at = max(0, left - (size - at)), at + left
                    chunk_end = not left
                elif not chunk_end:
                    taken = len(parts)
                    at = _whole_chunks(data, at, parts, _ODD_SIZE if self.odd else _SIZE, self._work)
                    self._work -= len(parts) - taken + 1
                    line = _SIZE.match(data, at) or self._odd_size(data, at)
                    if line is None:
                        break
                    at, left = line.end(), int(line[1], 16)
                    self._in_trailers = not left
                elif data[at : at + 2] == b"\r\n":
                    at, chunk_end = at + 2, False
                elif data[at : at + 1] == b"\n":
                    at, chunk_end, self.odd = at + 1, False, True
                elif data[at:] == b"\r":
                    break
                else:
                    raise _MalformedError("the answer has a chunk with more data than its size")
        finally:
            self._left, self._chunk_end = left, chunk_end
            if parts:
                self.pieces.append(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._in_trailers:
            self._read_trailers(data[at:])
        elif at == size:
            self.between_chunks = not (left or chunk_end or self.odd)
        elif self._work > 0:
            self._kept = data[at:]
        else:
            self.unread = data[at:]

    def _odd_size(self, data: bytes, at: int) -> re.Match[bytes] | None:
        """The first line of a chunk that is not written as it should be; None while it is not whole."""
        line = _ODD_SIZE.match(data, at)
        if line is not None:
            self.odd = True
            return line
        if data.find(b"\n", at) < 0 and _SIZE_BEGUN.fullmatch(data, at):
            return None
        raise _MalformedError("the answer has a chunk without a proper size")

    def _read_trailers(self, data: bytes) -> None:
        searched, self._searched = self._searched, 0
        if data[:2] == b"\r\n":
            end = 2
        elif data[:1] == b"\n":
            end, self.odd = 1, True
        elif (found := _HEAD_END.search(data, searched)) is not None:
            end = found.end()
            block = data[:end]
            if end > self._max_size or block.count(b"\n") > self._max_fields + 1:
                raise _MalformedError(_TOO_LARGE)
            self.trailers = _odd_fields(_lines(block))
            self.odd = self.odd or _TRAILERS.fullmatch(block) is None
        else:
            if _BARE_CR.search(data, searched):
                raise _MalformedError(_CR)
            self._keep(data)
            return
        self.ended = True
        self.stray = len(data) > end


_SIZE_BEGUN = re.compile(rb"(?:(?:0*+[0-9A-Fa-f]{1,16}|0++)[ \t]*(?:;[^\r\n]*+)?\r?)?")
_TRAILERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:" + TEXT + rb"\r\n)*+\r\n")
_FRAMING = (b"transfer-encoding", b"content-length")
_CR = "the answer has a CR that ends no line"


def _whole_chunks(data: bytes, at: int, parts: list[bytes], first_line: re.Pattern[bytes], most: int) -> int:
    """Takes the whole chunks that begin there, up to a number of them; gives where they end."""
    odd, most = first_line is _ODD_SIZE, most + len(parts)
    while len(parts) < most and (line := first_line.match(data, at)) is not None:
        begin = line.end()
        end = begin + int(line[1], 16)
        if end == begin:
            break
        if data[end : end + 2] == b"\r\n":
            at = end + 2
        elif odd and data[end : end + 1] == b"\n":
            at = end + 1
        else:
            break
        parts.append(data[begin:end])
    return at


def _strict_head(match: re.Match[bytes]) -> AnswerHead:
    """A head that is written as it should be."""
    minor, status, reason, block = match.groups()
    fields = _FIELD.findall(block)
    if b" \r\n" in block or b"\t\r\n" in block:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return AnswerHead(int(status), reason or b"", "1.1" if minor == b"1" else "1.0", Headers(fields))


def _single(headers: Headers, name: bytes) -> bool:
    return len(headers.get_all(name)) == 1


def _without(headers: Headers, *names: bytes) -> Headers:
    return Headers([field for field in headers.fields if field[0].lower() not in names])


def _framed_in_one_way(headers: Headers, *, empty: bool) -> Headers:
    """The fields with one framing, and nothing beside it that could be read as another.

    Chunks win over a length (RFC 9112, section 6.3), equal lengths are one, and `identity` is no coding.
    `empty`: no body follows, so an unknown coding does no harm, and is left out.
    """
    codings = [coding for coding in headers.tokens(b"transfer-encoding") if coding != b"identity"]
    if codings and set(codings) != {b"chunked"}:
        if not empty:
            raise _MalformedError("the answer has a transfer coding that is not known here")
        codings = []
    if codings and headers.tokens(b"transfer-encoding")[-1] != b"chunked":
        raise _MalformedError("the answer has a transfer coding after its chunks")
    lengths = [
        part.strip(b" \t") for value in headers.get_all(b"content-length") for part in value.split(b",")
    ]
    if not all(_ODD_LENGTH.fullmatch(length) for length in lengths):
        raise _MalformedError("the answer has a length that is not a number")
    numbers = {int(length) for length in lengths}
    if len(numbers) > 1 and not codings:
        raise _MalformedError("the answer has two different lengths")
    fields: list[Field] = []
    written = False
    for field in headers.fields:
        lower = field[0].lower()
        if lower not in _FRAMING:
            fields.append(field)
        elif not written and lower == (b"transfer-encoding" if codings else b"content-length"):
            fields.append((field[0], b"chunked" if codings else b"%d" % numbers.pop()))
            written = True
    return Headers(fields)


def _check_beginning(data: bytes, start: int, new: int) -> None:
    """What can't become a head is refused before it is whole: nobody need wait for the rest. From `new` on it is new."""
    if not b"HTTP/".startswith(data[start : start + 5]):
        raise _MalformedError("the answer is not HTTP")
    if _BARE_CR.search(data, new):
        raise _MalformedError(_CR)
    end = data.find(b"\n", start)
    if end >= 0:
        _odd_status(data[start:end].removesuffix(b"\r"))


def _odd_status(line: bytes) -> tuple[int, bytes, str]:
    """Status, reason and version. Minor versions yet unknown are read as the highest known (RFC 9110, section 2.5)."""
    match = _ODD_STATUS.fullmatch(line)
    if match is None:
        raise _MalformedError("the answer's first line is not HTTP's")
    version, status, reason = match.groups()
    return int(status), (reason or b"").translate(_CONTROLS), "1.0" if version in (b"0.9", b"1.0") else "1.1"


def _lines(block: bytes) -> list[bytes]:
    """The lines of a head or of trailers: LF ends a line, with or without CR (RFC 9112, section 2.2)."""
    if _BARE_CR.search(block):
        raise _MalformedError(_CR)
    return block.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")


def _odd_head(block: bytes) -> AnswerHead:
    """A head that is not written as it should be, as clients read it."""
    first, *lines = _lines(block)
    status, reason, version = _odd_status(first)
    return AnswerHead(status, reason, version, Headers(_odd_fields(lines)))


def _odd_fields(lines: list[bytes]) -> list[Field]:
    """The fields of lines that are not all written as they should be.

    A folded line goes on after a blank, blanks before a colon are taken away, as RFC 9112 (5.1, 5.2) asks of a
    proxy; a folded line that continues nothing is passed over (2.2), and so is a field whose name could be no name.
    Control characters in values become blanks.
    """
    fields: list[Field] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if fields:
                name, value = fields[-1]
                fields[-1] = (name, (value + b" " + line.strip(b" \t")).strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if not colon or not _ODD_NAME.fullmatch(name) or b"\0" in line:
            raise _MalformedError("the answer has a line in its head or trailers that is not a field")
        if name.lower() in _FRAMING and value.translate(None, FORBIDDEN) != value:
            raise _MalformedError("the answer has a control character in its framing")
        fields.append((name, value.translate(_CONTROLS).strip(b" \t")))
    return [field for field in fields if _NAME.fullmatch(field[0])]
