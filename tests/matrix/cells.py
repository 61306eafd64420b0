"""The matrix's other sides: how an answer ends, how it is coded, and which combinations make sense.

Owns the table of endings, the codings, and the rules that leave a cell out, each with its reason. A cell knows
the bytes that the provider sends; it sends none itself (`play.py`) and expects no telemetry (`expected.py`).
"""

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tests.apis.example import Example, Stream
from tests.apis.golden.gemini import GEMINI_ARRAY
from tests.matrix.matrix_apis import EXAMPLES, VARIANTS
from tests.matrix.matrix_shapes import IMAGES, MODELS, NO_ANSWERS, STREAMED_ERRORS, USAGES, WHOLE_ERRORS


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ends, and what the sidecar must call it.

    The provider says `says` of its answer: nothing, `some` of it, all of its `events` (all but the framing's end),
    the `whole`, an `error` in its place or inside it. Then it `closes`, or `waits` for ever; else the answer is
    whole. The client `leaves` once that has come. `timer` names the time-out that ends it instead; `upload` says
    that the client stops in the middle of its own body.
    """

    name: str
    outcome: str
    phase: str
    says: str
    status: int = 200
    closes: bool = False
    waits: bool = False
    leaves: bool = False
    timer: str = ""
    upload: bool = False
    error: str = ""
    """`error.type` where nothing else gives it."""
    anomaly: str = ""

    @property
    def begins(self) -> bool:
        """The provider's answer begins."""
        return self.says != ""


WHOLE = Ending("whole", "completed", "end", "whole")
CUT = Ending("cut short", "upstream_failed", "mid_stream", "some", closes=True)
ERROR = Ending("error inside", "error_in_stream", "mid_stream", "error")
PLAIN_ERROR = Ending("error inside", "error_in_stream", "end", "error")
REJECTED = Ending("rejected 429", "upstream_rejected", "before_headers", "error", status=429)
BROKEN = Ending("rejected 503", "upstream_rejected", "before_headers", "error", status=503)
LEFT_EARLY = Ending("left before headers", "client_left", "before_headers", "", waits=True, leaves=True)
LEFT_MID = Ending("left mid-stream", "client_left", "mid_stream", "some", waits=True, leaves=True)
LEFT_LATE = Ending("left after the last event", "completed", "end", "events", waits=True, leaves=True)
LEFT_LATE_UNTOLD = Ending(
    "left after the last event", "client_left", "mid_stream", "events", waits=True, leaves=True
)
CLIENT_BODY = Ending("client body timer", "timed_out", "head", "", timer="CLIENT_BODY", upload=True)
CONNECT = Ending("connect timer", "timed_out", "connect", "", timer="CONNECT")
FIRST_BYTE = Ending("first byte timer", "timed_out", "before_headers", "", waits=True, timer="FIRST_BYTE")
EMPTY = Ending("no answer", "upstream_failed", "mid_stream", "nothing", error="no_answer")
EMPTY_UNTOLD = Ending("no answer", "upstream_failed", "mid_stream", "nothing", error="cut_short")
NO_ANSWER = Ending("whole", "completed", "end", "whole", anomaly="answer_not_read")
IDLE = Ending("idle timer", "timed_out", "mid_stream", "some", waits=True, timer="IDLE")

_EVERY = (WHOLE, CUT, REJECTED, BROKEN, LEFT_EARLY, LEFT_MID, CLIENT_BODY, CONNECT, FIRST_BYTE, IDLE)


def endings(api: Example, *, streamed: bool) -> tuple[Ending, ...]:
    """The endings that make sense.

    A whole answer has told its length, so nothing comes after its last byte: leaving then is no ending of its own.
    A stream without a terminator (Gemini's) is over with its framing only: who leaves before that has left it.
    The time-out for the head is not here: before the head, no API is known.
    """
    if not streamed:
        return (*_EVERY, PLAIN_ERROR)
    told = api.stream is not None and api.stream.terminator
    return (*_EVERY, ERROR, LEFT_LATE, EMPTY) if told else (*_EVERY, ERROR, LEFT_LATE_UNTOLD, EMPTY_UNTOLD)


class _Brotli:
    """Brotli, in the form of the others."""

    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=4)

    def piece(self, data: bytes) -> bytes:
        """The bytes that let a reader have all of `data` at once."""
        return bytes(self._compressor.process(data) + self._compressor.flush())

    def end(self) -> bytes:
        """What closes the coding."""
        return bytes(self._compressor.finish())


class _Gzip:
    """Gzip."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(wbits=31)

    def piece(self, data: bytes) -> bytes:
        """As above."""
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """As above."""
        return self._compressor.flush()


class _Zstd:
    """Zstandard."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor()

    def piece(self, data: bytes) -> bytes:
        """As above."""
        return self._compressor.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        """As above."""
        return self._compressor.flush()


class _Identity:
    """No coding."""

    def piece(self, data: bytes) -> bytes:
        """As above."""
        return data

    def end(self) -> bytes:
        """As above."""
        return b""


CODINGS: Mapping[str, Callable[[], _Identity | _Gzip | _Brotli | _Zstd]] = {
    "identity": _Identity,
    "gzip": _Gzip,
    "br": _Brotli,
    "zstd": _Zstd,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One API, streamed or not, with one ending, in one coding."""

    api: Example
    streamed: bool
    ending: Ending
    coding: str

    @property
    def id(self) -> str:
        """Its name; also the session's."""
        mode = "streamed" if self.streamed else "plain"
        return f"{self.api.name}, {mode}, {self.ending.name}, {self.coding}".replace(" ", "-").replace(
            ",", ""
        )

    @property
    def group(self) -> str:
        """The timer that ends its request, if one does: what the sidecar that it is played through has short."""
        timer = self.ending.timer
        return "EARLY" if timer and timer != "IDLE" else timer

    @property
    def stream(self) -> Stream:
        """The API's stream."""
        if self.api.stream is None:
            raise ValueError(f"{self.api.name} does not stream")
        return self.api.stream

    @property
    def path(self) -> str:
        """Where it is sent."""
        return self.stream.path if self.streamed else self.api.path

    @property
    def route(self) -> str:
        """What the sidecar must call that."""
        return self.stream.route if self.streamed else self.api.route

    @property
    def body(self) -> bytes:
        """The request's body."""
        return json.dumps({**self.api.request, **(self.stream.request if self.streamed else {})}).encode()

    @property
    def streams(self) -> bool:
        """The answer that comes is a stream."""
        return self.streamed and self.ending.begins and self.ending.status == 200

    @property
    def media(self) -> bytes:
        """The answer's content type."""
        return self.stream.media if self.streams else self.api.media

    @property
    def events(self) -> int:
        """Events of a stream that come."""
        first, rest, terminator = self.stream.events
        match self.ending.says:
            case "some":
                return first
            case "error":
                return first + 1
            case "nothing":
                return self.stream.empty
            case _:
                return first + rest + terminator

    @property
    def anomaly(self) -> str:
        """What is noted of it besides."""
        odd = self.stream.odd if self.streams and self.ending.says == "error" else ""
        return self.ending.anomaly or odd

    @property
    def outputs(self) -> int:
        """Events of a stream that carry output."""
        return {"whole": 2, "events": 2, "nothing": 0}.get(self.ending.says, 1)

    def pieces(self) -> tuple[bytes, ...]:
        """What the provider sends of its answer, coded, piece by piece: less than it promised where it is cut."""
        coder = CODINGS[self.coding]()
        if not self.streams:
            whole = coder.piece(self._whole) + coder.end()
            return (whole[: len(whole) // 2],) if self.ending.says == "some" else (whole,)
        stream = self.stream
        parts = {
            "some": (stream.first,),
            "error": (stream.first, stream.error),
            "nothing": (stream.nothing,),
            "events": (stream.first, stream.rest, stream.terminator),
            "whole": (stream.first, stream.rest, stream.terminator),
        }[self.ending.says]
        coded = [coder.piece(part) for part in parts if part]
        if self.ending.says != "some" and (tail := coder.end()):
            coded.append(tail)
        return tuple(coded)

    @property
    def promised(self) -> int:
        """The length that the head of an answer that does not stream tells."""
        coder = CODINGS[self.coding]()
        return len(coder.piece(self._whole) + coder.end())

    @property
    def _whole(self) -> bytes:
        """An answer that does not stream, uncoded."""
        value = self.api.failure if self.ending.says == "error" else self.api.answer
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    def told(self) -> Mapping[str, Any]:
        """What the answer tells, by the attributes' names, as far as it came."""
        if not self.ending.begins or self.ending.status != 200:
            return {}
        if self.streams:
            stream = self.stream
            broken = stream.early if stream.broken is None else stream.broken
            says = {"some": stream.early, "error": broken, "nothing": {}}
            return says.get(self.ending.says, stream.late)
        return {"some": {}, "error": self.api.failed}.get(self.ending.says, self.api.facts)


def _cells() -> Iterator[Cell]:
    for api in EXAMPLES:
        for streamed in (False, True):
            # Gemini's two streams have one plain answer.
            if (streamed and api.stream is None) or (not streamed and api is GEMINI_ARRAY):
                continue
            for ending in endings(api, streamed=streamed):
                # Without an answer there is nothing to code.
                for coding in CODINGS if ending.begins else ("identity",):
                    yield Cell(api, streamed, ending, coding)
    for api in VARIANTS:
        for ending in (WHOLE, CUT, ERROR, LEFT_MID):
            for coding in CODINGS:
                yield Cell(api, streamed=True, ending=ending, coding=coding)
    for api, streamed, ending in _shapes():
        for coding in CODINGS:
            yield Cell(api, streamed, ending, coding)


def _shapes() -> Iterator[tuple[Example, bool, Ending]]:
    """Odd shapes, each with the endings that it is about."""
    for api in STREAMED_ERRORS:
        yield api, True, ERROR
    for api in WHOLE_ERRORS:
        yield api, False, PLAIN_ERROR
    for api in NO_ANSWERS:
        yield api, False, NO_ANSWER
    for api in (*USAGES, *MODELS, *IMAGES):
        if api.stream is not None:
            yield api, True, WHOLE
        if api not in IMAGES:
            yield api, False, WHOLE


CELLS = tuple(sorted(_cells(), key=lambda cell: cell.group))
"""Those that are played through one sidecar stand together."""
ANY_PROXY = tuple(cell for cell in CELLS if not cell.ending.timer and cell.media)
"""The cells that make sense for another proxy: its time-outs are its own, and so is what it does with empty fields."""
