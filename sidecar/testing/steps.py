"""The vocabulary of a scripted answer: small timed steps, played one after another.

Owns shapes and shorthands only; `upstream.py` plays them. Nothing here is checked against HTTP: a script
may say whatever a broken server says.
"""

import json
import threading
from asyncio import AbstractEventLoop, Event, get_running_loop
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class Gate:
    """Something a script waits for and a test opens; safe between threads and event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiting: list[tuple[AbstractEventLoop, Event]] = []

    @property
    def is_open(self) -> bool:
        """True from the first `open` on."""
        return self._open

    def open(self) -> None:
        """Lets everybody through who waits here, now and later."""
        with self._lock:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Returns once the gate is open."""
        event = Event()
        with self._lock:
            if self._open:
                return
            self._waiting.append((get_running_loop(), event))
        await event.wait()


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Waits for the request's body: all of it (None), or at least that many bytes of its payload.

    A script without this step waits for the whole body before its first step; `ReadBody(0)` in front makes
    it begin at the request's head.
    """

    at_least: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The status line. With the `Header` steps after it, it is sent when another kind of step comes."""

    code: int = 200
    reason: bytes = b"OK"
    version: bytes = b"HTTP/1.1"


@dataclass(frozen=True, slots=True)
class Header:
    """One header line exactly as it stands on the wire, without its line end: `Header(b"X-oDD:  1")`."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Informational:
    """A whole interim answer (1xx), its header lines exactly as given."""

    code: int
    lines: tuple[bytes, ...] = ()
    reason: bytes = b"Early Hints"


@dataclass(frozen=True, slots=True)
class Bytes:
    """Exact bytes of the body, written as they are (after the head, if one is waiting to be sent)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a chunked body, framed; `extension` follows the size, with its semicolon."""

    data: bytes
    extension: bytes = b""


@dataclass(frozen=True, slots=True)
class LastChunk:
    """The end of a chunked body, with its trailer lines."""

    trailers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Garbage:
    """Exact bytes that end nothing: a head that is being said stays open."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Echo:
    """A whole answer: 200 with the request's own body and content type."""


@dataclass(frozen=True, slots=True)
class Flood:
    """`total` bytes of `x`, written as fast as the other side takes them (the record counts them in `sent`)."""

    total: int
    piece: int = 65536


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing, for that many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing, until a test opens the gate."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class HoldReading:
    """Stops taking bytes from the connection, as a busy server does, until `ResumeReading`."""


@dataclass(frozen=True, slots=True)
class ResumeReading:
    """Takes bytes from the connection again."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Ends the connection with a TCP reset (RST). Nothing follows."""


@dataclass(frozen=True, slots=True)
class EndSide:
    """Ends this side alone (FIN): what the other side sends is still read."""


@dataclass(frozen=True, slots=True)
class End:
    """Ends the connection cleanly (FIN). Nothing follows."""


Step = (
    ReadBody
    | Status
    | Header
    | Informational
    | Bytes
    | Chunk
    | LastChunk
    | Garbage
    | Echo
    | Flood
    | Pause
    | Wait
    | HoldReading
    | ResumeReading
    | EndSide
    | Reset
    | End
)
Script = Sequence[Step]


def answer(
    body: bytes = b"", *, status: int = 200, reason: bytes = b"OK", headers: Iterable[bytes] = ()
) -> tuple[Step, ...]:
    """A whole answer with a `Content-Length`, in front of it the given header lines."""
    lines = tuple(Header(line) for line in headers)
    return (
        Status(status, reason),
        *lines,
        Header(b"Content-Length: %d" % len(body)),
        Bytes(body),
    )


def json_answer(
    value: object, *, status: int = 200, reason: bytes = b"OK", headers: Iterable[bytes] = ()
) -> tuple[Step, ...]:
    """A whole JSON answer; `value` is anything `json.dumps` takes."""
    lines = (b"Content-Type: application/json", *headers)
    return answer(json.dumps(value).encode(), status=status, reason=reason, headers=lines)


def sse_event(data: object, *, event: str | None = None) -> bytes:
    """The bytes of one event. `data` is sent as it is if it is `str`, else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {text}\n\n".encode()


def sse_head(headers: Iterable[bytes] = ()) -> tuple[Step, ...]:
    """The head of a chunked event stream."""
    lines = (b"Content-Type: text/event-stream", *headers, b"Transfer-Encoding: chunked")
    return (Status(), *(Header(line) for line in lines))


def sse(
    events: Iterable[object],
    *,
    done: bool = True,
    headers: Iterable[bytes] = (),
    between: Step | None = None,
) -> tuple[Step, ...]:
    """A whole event stream, one chunk per event.

    An event is a mapping or `str` (its data), a pair (event name, data), or `bytes` (sent as they are).
    `done` adds OpenAI's `[DONE]`; `between` stands between any two events.
    """
    chunks = [Chunk(_event_bytes(event)) for event in events]
    if done:
        chunks.append(Chunk(b"data: [DONE]\n\n"))
    steps: list[Step] = []
    for chunk in chunks:
        if steps and between is not None:
            steps.append(between)
        steps.append(chunk)
    return (*sse_head(headers), *steps, LastChunk())


def _event_bytes(event: object) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, tuple):
        name, data = event
        return sse_event(data, event=name)
    return sse_event(event)


def chat_chunk(
    content: str | None = None,
    *,
    finish_reason: str | None = None,
    model: str = "gpt-4o",
    usage: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """One chunk of an OpenAI chat completion stream; with `usage`, the last one that carries no choice."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [choice] if usage is None else [],
    }
    if usage is not None:
        chunk["usage"] = dict(usage)
    return chunk


def chat_completion(
    content: str = "Hello",
    *,
    model: str = "gpt-4o",
    finish_reason: str = "stop",
    usage: tuple[int, int] | None = (5, 7),
) -> dict[str, object]:
    """A whole OpenAI chat completion; `usage` is (prompt tokens, completion tokens)."""
    message = {"role": "assistant", "content": content}
    value: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    if usage is not None:
        read, written = usage
        value["usage"] = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
    return value
