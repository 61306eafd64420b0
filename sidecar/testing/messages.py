"""HTTP/1.1 messages as they stood on the wire, read without an opinion.

Owns an incremental reader that keeps every byte it takes: it splits, it never checks and never repairs.
The scripted upstream reads requests with it, the raw client answers.
"""

from dataclasses import dataclass, field
from enum import Enum, auto


@dataclass(slots=True)
class Message:
    """One message. `head` are its exact bytes including the empty line, `taken` those after it so far.

    `payload` is the body without chunk framing, `chunks` its pieces as the other side framed them.
    `fields` keeps names, order and case; values are stripped of the spaces around them.
    """

    head: bytes = b""
    start_line: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    taken: bytearray = field(default_factory=bytearray)
    payload: bytearray = field(default_factory=bytearray)
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        """The payload so far, without chunk framing."""
        return bytes(self.payload)

    @property
    def raw_body(self) -> bytes:
        """The exact bytes after the head so far."""
        return bytes(self.taken)

    def get(self, name: str) -> bytes | None:
        """The first value of the field called `name` (any case), or None."""
        values = self.get_all(name)
        return values[0] if values else None

    def get_all(self, name: str) -> list[bytes]:
        """Every value of the field called `name` (any case), in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    @property
    def status(self) -> int:
        """An answer's status code."""
        return int(self.start_line.split(b" ", 2)[1])

    @property
    def method(self) -> str:
        """A request's method."""
        return self.start_line.split(b" ", 1)[0].decode("latin-1")

    @property
    def target(self) -> bytes:
        """A request's target, exactly as it was sent."""
        return self.start_line.split(b" ", 2)[1]

    @property
    def path(self) -> str:
        """A request's path without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")


class _Part(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


class MessageReader:
    """Takes bytes as they come and fills one `Message`; what follows the message stays in `rest`.

    `answer_to` is the method of the request that an answer belongs to; None reads a request.
    """

    def __init__(self, answer_to: str | None = None) -> None:
        self.message = Message()
        self.rest = bytearray()
        self._answer_to = answer_to
        self._part = _Part.HEAD
        self._left = 0

    @property
    def head_read(self) -> bool:
        """True once the head is whole."""
        return self._part is not _Part.HEAD

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the connection."""
        self.rest += data
        while self._step():
            pass

    def end(self) -> None:
        """The connection has ended: this completes a message that is delimited by it."""
        if self._part is _Part.UNTIL_CLOSE:
            self._done()

    def _take(self, size: int) -> bytes:
        taken = bytes(self.rest[:size])
        del self.rest[:size]
        return taken

    def _take_body(self, size: int) -> bytes:
        taken = self._take(size)
        self.message.taken += taken
        return taken

    def _step(self) -> bool:
        """Reads one part; False when more bytes are needed or nothing is left to do."""
        part = self._part
        if part is _Part.DONE or not self.rest:
            return False
        if part is _Part.HEAD:
            return self._read_head()
        if part is _Part.CHUNK_SIZE:
            return self._read_chunk_size()
        if part is _Part.CHUNK_DATA:
            return self._read_chunk_data()
        if part is _Part.TRAILERS:
            return self._read_trailer()
        return self._read_payload()

    def _read_head(self) -> bool:
        at = self.rest.find(b"\r\n\r\n")
        if at < 0:
            return False
        message = self.message
        message.head = self._take(at + 4)
        message.start_line, *lines = message.head[:-4].split(b"\r\n")
        message.fields = [_split(line) for line in lines]
        self._choose_framing()
        return True

    def _choose_framing(self) -> None:
        message = self.message
        answer = self._answer_to is not None
        if answer and (self._answer_to == "HEAD" or message.status < 200 or message.status in (204, 304)):
            self._done()
            return
        coding = message.get("transfer-encoding")
        length = message.get("content-length")
        if coding is not None and b"chunked" in coding.lower():
            self._part = _Part.CHUNK_SIZE
        elif length is not None and length.isdigit():
            self._left = int(length)
            self._part = _Part.LENGTH
            if not self._left:
                self._done()
        elif answer:
            self._part = _Part.UNTIL_CLOSE
        else:
            self._done()

    def _read_payload(self) -> bool:
        size = self._left if self._part is _Part.LENGTH else len(self.rest)
        taken = self._take_body(size)
        self.message.payload += taken
        if self._part is _Part.LENGTH:
            self._left -= len(taken)
            if not self._left:
                self._done()
        return True

    def _read_chunk_size(self) -> bool:
        at = self.rest.find(b"\r\n")
        if at < 0:
            return False
        line = self._take_body(at + 2)
        self._left = int(line.partition(b";")[0].strip(), 16)
        self._part = _Part.CHUNK_DATA if self._left else _Part.TRAILERS
        return True

    def _read_chunk_data(self) -> bool:
        if len(self.rest) < self._left + 2:
            return False
        data = self._take_body(self._left + 2)[:-2]
        self.message.payload += data
        self.message.chunks.append(data)
        self._part = _Part.CHUNK_SIZE
        return True

    def _read_trailer(self) -> bool:
        at = self.rest.find(b"\r\n")
        if at < 0:
            return False
        line = self._take_body(at + 2)[:-2]
        if line:
            self.message.trailers.append(_split(line))
        else:
            self._done()
        return True

    def _done(self) -> None:
        self._part = _Part.DONE
        self.message.complete = True


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")
