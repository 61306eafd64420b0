"""The provider of the soak: says what each request's `X-Play` field asks for, in the shape of the request's API.

Owns the answers, honest and broken ones, and the short memory of a provider that runs for long. A process of its own
(`python -m tests.soak.provider`), which can be stopped: it prints its port, and ends when its standard input does.
"""

import gzip
import sys
from collections.abc import Callable
from functools import cache

from sidecar.testing import (
    Bytes,
    End,
    Flood,
    Garbage,
    Header,
    HoldReading,
    Informational,
    Pause,
    ReadBody,
    Reset,
    ResumeReading,
    ScriptedUpstream,
    Step,
    answer,
    json_answer,
    sse_head,
)
from sidecar.testing.player import Player, Received
from sidecar.testing.steps import Chunk, LastChunk, Script, Status
from tests.apis.example import Example
from tests.apis.golden.openai_chat import CHAT
from tests.matrix.matrix_apis import EXAMPLES

GZIP = b"Content-Encoding: gzip"
JSON = b"Content-Type: application/json"
SSE = b"Content-Type: text/event-stream"
SECRET = b"SEKRIT"
"""Stands in credentials, in what is asked and in what is answered, and may stand in no signal."""

BOMB_PIECES, BOMB_SIZE = 4, 8 << 20
"""A compressed stream: this many members, each this large once it is decoded."""


def api_of(request: Received) -> Example:
    """The API whose route this is; the first where it is none."""
    for api in EXAMPLES:
        if request.target.decode("latin-1") in (api.path, api.stream.path if api.stream else None):
            return api
    return CHAT


def whole(request: Received) -> Script:
    """A whole answer."""
    return json_answer(api_of(request).answer)


def stream(request: Received, pause: float = 0.02) -> Script:
    """A whole stream, in three pieces."""
    said = api_of(request).stream
    if said is None:
        return whole(request)
    head = sse_head() if said.media.startswith(b"text/") else (*_chunked(said.media),)
    pieces = [piece for piece in (said.first, said.rest, said.terminator) if piece]
    steps: list[Step] = [*head]
    for piece in pieces:
        steps += [Chunk(piece), Pause(pause)]
    return (*steps, LastChunk())


def _chunked(media: bytes) -> tuple[Step, ...]:
    return (Status(), Header(b"Content-Type: " + media), Header(b"Transfer-Encoding: chunked"))


def _cut(request: Received, end: Step) -> Script:
    """A stream that breaks off."""
    said = api_of(request).stream
    return (*sse_head(), Chunk(said.first if said else b"data: {}\n\n"), end)


def _stalls(request: Received) -> Script:
    return stream(request, pause=1.5)


def _error_event(request: Received) -> Script:
    said = api_of(request).stream
    return (*sse_head(), Chunk(said.error if said else b"data: {}\n\n"), LastChunk())


def _raw(data: bytes, *end: Step) -> Callable[[Received], Script]:
    return lambda _request: (Garbage(data), *end)


def _salvage(_request: Received) -> Script:
    body = b'{"id":"c","model":"m","choices":[1' + b",{}" * 100_000 + b"]}"
    return answer(body, headers=(JSON,))


@cache
def _bomb(event: bytes) -> bytes:
    return gzip.compress(event * (BOMB_SIZE // len(event)))


def _bombs(_request: Received) -> Script:
    pieces = [Bytes(_bomb(b"data: x\n\n"))] * BOMB_PIECES
    return (Status(), Header(SSE), Header(GZIP), Header(b"Connection: close"), *pieces, End())


def _interim(_request: Received) -> Script:
    hints = Garbage(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 50)
    return (hints, *answer(b"{}", headers=(JSON,)))


def _hints(_request: Received) -> Script:
    return (Garbage(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000), *answer(b"{}", headers=(JSON,)))


def _interim_odd(_request: Received) -> Script:
    closing = Informational(103, (b"Connection: close", b"Link: </a>"))
    return (closing, Informational(102, (b"Content-Length: 9",)), *answer(b"{}", headers=(JSON,)))


def _salvage_event(_request: Received) -> Script:
    event = b'data: {"id":"c","model":"m","choices":[1' + b",{}" * 100_000 + b"]}\n\n"
    return (*sse_head(), Chunk(event), LastChunk())


def _brackets(_request: Received) -> Script:
    pieces = [Bytes(_bomb(b"[]"))] * BOMB_PIECES
    return (Status(), Header(JSON), Header(GZIP), Header(b"Connection: close"), *pieces, End())


def _without_end(data: bytes, line: bytes) -> Callable[[Received], Script]:
    """Says `data`, and then the line again and again, slowly."""
    return lambda _request: (Garbage(data), *(Garbage(line), Pause(0.2)) * 150)


def _takes_slowly(_request: Received) -> Script:
    return (
        ReadBody(0),
        HoldReading(),
        Pause(1.5),
        ResumeReading(),
        ReadBody(),
        *answer(b"{}", headers=(JSON,)),
    )


def _tiny_chunks(_request: Received) -> Script:
    chunks = Garbage(b"\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    return (Status(), Header(SSE), Header(b"Transfer-Encoding: chunked"), chunks)


PLAYS: dict[str, Callable[[Received], Script]] = {
    "whole": whole,
    "stream": stream,
    "stalls": _stalls,
    "error-event": _error_event,
    "cut": lambda request: _cut(request, End()),
    "reset": lambda request: _cut(request, Reset()),
    "reset-before-head": lambda _request: (Reset(),),
    "close-before-head": lambda _request: (End(),),
    "closes-after": lambda request: (*whole(request), End()),
    "resets-after": lambda request: (*whole(request), Reset()),
    "rate-limited": lambda _request: json_answer({"error": {"code": "rate_limit_exceeded"}}, status=429),
    "unavailable": lambda _request: json_answer({"error": {"message": SECRET.decode()}}, status=503),
    "hangs": lambda _request: (Pause(30),),
    "goes-silent": lambda request: _cut(request, Pause(30)),
    "takes-slowly": _takes_slowly,
    "endless-head": _without_end(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "endless-trailers": _without_end(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-A: b\r\n"
    ),
    "endless-hints": _without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "early": lambda _request: (ReadBody(0), *answer(b"no", status=413)),
    "garbage": _raw(b"\x00\x01\x02 no HTTP\r\n\r\n", End()),
    "line-feeds": _raw(b"HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 2\n\n{}"),
    "folded": _raw(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\n{}"),
    "length-and-chunks": _raw(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "padded-chunks": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\n{}\r\n0\r\n\r\n"),
    "bytes-behind": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n"),
    "interim": _interim,
    "interim-odd": _interim_odd,
    "hints": _hints,
    "tiny-chunks": _tiny_chunks,
    "salvage": _salvage,
    "salvage-event": _salvage_event,
    "bombs": _bombs,
    "brackets": _brackets,
    "web-page": lambda _request: answer(
        b"<html>" + SECRET + b"</html>", headers=(b"Content-Type: text/html",)
    ),
    "empty": lambda _request: answer(b"", headers=(JSON,)),
    "large": lambda _request: (
        Status(),
        Header(b"Content-Type: application/octet-stream"),
        Header(b"Content-Length: %d" % (8 << 20)),
        Flood(8 << 20),
    ),
}
"""What a request may ask for."""

_OF_OTHER_PEERS = {"whole", "stream", "hangs", "takes-slowly", "large"}
BROKEN = sorted(PLAYS.keys() - _OF_OTHER_PEERS)
"""Those that an honest client may meet."""


class Provider(ScriptedUpstream):
    """Answers by `X-Play`; it remembers no request once it is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answer_with(self._play)

    @staticmethod
    def _play(request: Received) -> Script:
        return PLAYS[(request.get("X-Play") or b"whole").decode("latin-1")](request)

    def _event(self, player: Player, error: BaseException | None) -> None:
        super()._event(player, error)
        with self._changed:
            self._requests.clear()
            self._connections.clear()


def main() -> None:
    """Answers until standard input ends."""
    with Provider() as provider:
        print(provider.port, flush=True)  # noqa: T201 - what its parent reads
        sys.stdin.read()


if __name__ == "__main__":
    main()
