"""What it costs to read a request for its history, and an answer for what will be recognised of it, in this process.

Owns the bodies and the timing: CPU time of the best of some rounds, with histories off and on. With each turn a client sends
the messages again that are known, and two that are new: what the model said, and what is said now. All of them are new where
a conversation is seen for the first time in its midst. No socket is in it, so it stands beside the rows, which measure
whole requests.
"""

import json
from collections.abc import Callable
from time import process_time

from sidecar import apis
from sidecar.core.digests import Digester
from sidecar.core.echo import Echo
from sidecar.core.facts import ResponseFacts, Route

SIZES = {"2 kB": (5, 2_000), "40 kB": (40, 40_000), "400 kB": (200, 400_000), "4 MB": (2000, 4_000_000)}
"""Messages of a history, and its size in bytes."""

_TURN = 2
"""Messages that are new with a turn."""

_ROUNDS = 5
_BYTES = 8_000_000
"""Bytes that are read in each round."""

_EVENTS = 2000
_ROUTE = Route("", "openai.chat", turn=True)
_CHUNK = b'{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a word"}}]}'


def _body(messages: int, size: int) -> bytes:
    text = "Some words.\n" * (size // messages // 12)
    roles = ["system", *(("user", "assistant")[at % 2] for at in range(messages - 1))]
    said = [{"role": role, "content": f"{at} {text}"} for at, role in enumerate(roles)]
    return json.dumps({"model": "m", "stream": True, "messages": said}).encode()


def _best(work: Callable[[], object], often: int) -> float:
    """CPU seconds of one piece of work."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = process_time()
        for _ in range(often):
            work()
        best = min(best, process_time() - began)
    return best / often


def _request(body: bytes, digester: Digester | None, new: int = 0) -> Callable[[], object]:
    """Reads a request whose last messages, so many, are new."""
    known = {} if digester is None else digester.recent

    def read() -> object:
        for _ in range(min(new, len(known))):
            known.popitem()
        if len(body) <= apis.LARGE:
            return apis.small_request(_ROUTE, body, digester)
        return apis.at_once(apis.request_steps(_ROUTE, body, (), digester))

    return read


def _stream(digester: Digester | None) -> Callable[[], object]:
    def read() -> None:
        facts = ResponseFacts(echo=None if digester is None else Echo(digester))
        reader = apis.stream_reader(_ROUTE, facts)
        if reader is None:
            raise RuntimeError("streams of this route are read")
        for _ in range(_EVENTS):
            reader.event(b"", _CHUNK)
        if facts.echo is not None:
            facts.echo.marks()

    return read


def measured() -> list[list[str]]:
    """The table; the first row is its head."""
    table = [["reading histories", "off, us", "known, us more", "with two new messages", "all of them new"]]
    for name, (messages, size) in SIZES.items():
        body = _body(messages, size)
        often = max(2, _BYTES // len(body))
        off = _best(_request(body, None), often) * 1e6
        digester = Digester(b"a key of the benchmark")
        more = [_best(_request(body, digester, new), often) * 1e6 - off for new in (0, _TURN, messages)]
        table.append([f"a request of {name}", *(f"{us:.1f}" for us in (off, *more))])
    off, on = (_best(_stream(one), 20) * 1e6 / _EVENTS for one in (None, digester))
    table.append(["an event of a stream", f"{off:.2f}", f"{on - off:.2f}", "", ""])
    return table
