"""Random schedules of one connection, and the model of what must become of them.

Owns what is drawn from a seed: requests and answers of every kind, where both are cut, and the order in which their
pieces go. It plays nothing: `test_schedules.py` does, and compares.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import cast

from sidecar.testing import Received
from sidecar.testing import steps as s

Action = tuple[str, int, int]
"""`send` that many bytes; `open` a gate of a turn; `read` up to that many bytes; `wait` until the sidecar has read what
came; `leave` in one of the ways of `LEAVING`."""

LEAVING = ("reset", "close", "half-close")
EVENTS = b"".join(
    map(
        s.sse_event,
        (s.chat_chunk("Hi"), s.chat_chunk("!" * 900), s.chat_chunk(finish_reason="stop"), "[DONE]"),
    )
)


@dataclass(slots=True)
class Turn:
    """One request and its answer: the exact bytes of both, and what each side must be shown of them."""

    name: str
    path: str
    last: bool
    """Its client wants the connection closed behind it."""
    method: str = ""
    data: bytes = b""
    body: bytes = b""
    old: bool = False
    """It is HTTP/1.0."""
    hesitates: bool = False
    """It asks whether to go on."""
    refused: int = 0
    """The status with which the sidecar itself says no; that ends the connection."""
    status: int = 200
    said: bytes = b""
    """The payload of the answer."""
    outcomes: frozenset[str] = frozenset()
    """How it may end, if nobody leaves."""
    interim: int = 0
    ends_itself: bool = False
    """It is a stream with an end of its own."""
    early: bool = False
    """The answer does not wait for the request's body."""
    cut: bool = False
    """The answer breaks off."""
    endless: bool = False
    """Its client is told of the answer's end by the connection's alone."""
    dropped: bool = False
    """On a connection that had another one before, it is first dropped."""
    steps: list[s.Step] = field(default_factory=list)
    gates: list[s.Gate] = field(default_factory=list)
    at: int = -1
    """The gate that its upstream waits at."""

    def script(self, request: Received) -> s.Script:
        """What its upstream does."""
        if self.dropped and request.connection.requests > 1:
            return (s.ReadBody(0), s.End())
        return cast("s.Script", self)

    def __iter__(self) -> Iterator[s.Step]:
        """The upstream's script; it may be played again."""
        for step in self.steps:
            if isinstance(step, s.Wait):
                self.at = self.gates.index(step.gate)
            yield step
            self.at = -1

    def __repr__(self) -> str:
        """What a failure shows of it."""
        marks = [
            word
            for word in ("last", "old", "hesitates", "refused", "early", "cut", "endless", "dropped")
            if getattr(self, word)
        ]
        steps = " ".join(_told(step) for step in self.steps)
        return f"{self.name} {marks} {shown(self.data)}\n    -> {steps}"


def shown(data: bytes) -> str:
    """Bytes as a failure shows them: what is long and all the same is told by its size."""
    text = repr(re.sub(rb"(.)\1{20,}", lambda run: b"%b{%d}" % (run[1], len(run[0])), data))
    return text if len(text) < 700 else f"{text[:400]}...{text[-200:]}"


def _told(step: s.Step) -> str:
    if isinstance(step, s.Garbage):
        return shown(step.data)
    return "|" if isinstance(step, s.Wait) else type(step).__name__


@dataclass(slots=True)
class Schedule:
    """What one seed says."""

    turns: list[Turn]
    actions: list[Action]
    small_buffer: bool

    @property
    def leaves(self) -> bool:
        """Its client leaves before the end."""
        return any(action[0] == "leave" for action in self.actions)

    def __repr__(self) -> str:
        """What a failure shows of it."""
        moves = " ".join(f"{word}:{first},{second}" for word, first, second in self.actions)
        return "\n".join([*map(repr, self.turns), moves])


def drawn(seed: int) -> Schedule:
    """The schedule of a seed. The last request of a connection asks for its end."""
    random = Random(seed)
    count = random.randint(1, 5)
    turns = []
    for number in range(1, count + 1):
        path = random.choice(("/files", "/v1/models", "/v1/chat/completions"))
        turn = Turn(f"s{seed}-{number}", path, last=number == count or random.random() < 0.03)
        turns.append(turn)
        _request(random, turn)
        if turn.refused:
            turn.outcomes = frozenset(("refused",) if turn.refused == 426 else ("refused", "client_left"))
        else:
            _answer(random, turn)
    return Schedule(turns, _actions(random, turns), small_buffer=random.random() < 0.2)


def _request(random: Random, turn: Turn) -> None:
    """Draws the request of a turn."""
    turn.method = random.choice(("GET", "HEAD", "PUT", "POST", "POST", "POST"))
    turn.old = turn.last and random.random() < 0.2
    lines = [f"X-Sidecar-Session-Id: {turn.name}"]
    body = b""
    if turn.method in ("POST", "PUT"):
        size = random.choice((0, 1, 2, 30, 300, 5000, 70_000, 70_000, 400_000, 3_000_000))
        turn.body = b'{"a":"%b"}' % (b"x" * size) if random.random() < 0.6 else random.randbytes(size)
        lines.append("Content-Type: " + random.choice(("application/json", "application/octet-stream")))
        if random.random() < 0.15:
            lines.append("Content-Encoding: gzip")
            turn.body = gzip.compress(turn.body, mtime=0)
        if turn.old or random.random() < 0.6:
            lines.append(f"Content-Length: {len(turn.body)}")
            body = turn.body
        else:
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _cut(random, turn.body, 3))
            body += b"0\r\n" + random.choice((b"", b"X-Trailer: 1\r\n")) + b"\r\n"
            if random.random() < 0.05:
                turn.refused, body = 400, body[:-2].replace(b"0\r\n", b"no size\r\n")
        if not turn.old and random.random() < 0.2:
            turn.hesitates = True
            lines.append("Expect: 100-continue")
    elif random.random() < 0.04:
        turn.refused = 426
        lines += ["Upgrade: websocket", "Connection: Upgrade"]
    if not (turn.refused or turn.last) and random.random() < 0.1:
        lines += ["Upgrade: h2c", "Connection: Upgrade"]
    if turn.last and not turn.refused:
        lines.append("Connection: close")
    if turn.method != "GET" or turn.refused or random.random() > 0.03:
        lines.insert(random.randint(0, 1), "Host: sidecar.test")
    elif not turn.old:
        turn.refused = 400
    version = "1.0" if turn.old else "1.1"
    head = "\r\n".join([f"{turn.method} {turn.path}?{turn.name} HTTP/{version}", *lines])
    turn.data = random.choice((b"", b"", b"", b"\r\n")) + head.encode() + b"\r\n\r\n" + body


def _answer(random: Random, turn: Turn) -> None:
    """Draws the answer of a turn."""
    lines = ["HTTP/1.1 200 OK", f"X-Turn: {turn.name}"]
    kind = random.choice(("length", "chunked", "json", "events", "gzip", "close", "bodiless", "refused"))
    said = random.choice((b"", b"ok", b"y" * 3000, b"z" * 200_000, b"w" * 2_000_000))
    if kind == "bodiless":
        turn.status, said = random.choice((204, 304)), b""
    elif kind == "refused":
        turn.status = random.choice((400, 429, 500))
    elif kind in ("events", "gzip"):
        lines.append("Content-Type: text/event-stream")
        said = EVENTS
    elif kind == "json":
        lines.append("Content-Type: application/json")
        said = json.dumps(s.chat_completion("x" * len(said))).encode()
    if kind == "gzip":
        lines.append("Content-Encoding: gzip")
        said = gzip.compress(EVENTS, mtime=0)
    lines[0] = f"HTTP/1.1 {turn.status} Whatever"
    body = said
    if kind in ("length", "json", "refused"):
        lines.append(f"Content-Length: {len(said)}")
    elif kind in ("chunked", "events", "gzip"):
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _cut(random, said, 4))
        body += random.choice((b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"))
    elif kind == "close" and (turn.method == "HEAD" or random.random() < 0.5):
        lines.append("Connection: close")
    turn.endless = turn.old and turn.method != "HEAD" and kind in ("chunked", "events", "gzip", "close")
    if turn.method == "HEAD":
        body = said = b""
    interim = random.choice((0, 0, 0, 1, 2))
    turn.said, turn.interim, turn.ends_itself = said, 0 if turn.old else interim, kind in ("events", "gzip")
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * interim
    if random.random() < 0.1:
        hints += b"HTTP/1.1 100 Continue\r\n\r\n"
    head = hints + "\r\n".join(lines).encode()
    _script(random, turn, head + b"\r\n\r\n" + body, len(head) + 4, to_the_end=kind == "close")


def _script(random: Random, turn: Turn, data: bytes, head: int, *, to_the_end: bool) -> None:
    """Cuts the answer into pieces, each behind a gate."""
    ending: list[s.Step] = [s.End()] if to_the_end else []
    if random.random() < 0.15 and not (to_the_end and len(data) == head):
        turn.cut = True
        if not to_the_end or random.random() < 0.5:
            most = head - 1 if to_the_end or len(data) == head else len(data) - 1
            data = data[: random.choice((0, random.randint(0, most), most))]
            ending = [random.choice((s.End(), s.Reset()))]
        else:
            ending = [s.Reset()]
    usual = "completed" if turn.status < 400 else "upstream_rejected"
    decided = turn.ends_itself or turn.status >= 400  # perhaps before the answer breaks off
    turn.outcomes = frozenset(("upstream_failed", usual) if decided else ("upstream_failed",))
    if not turn.cut:
        turn.outcomes = frozenset((usual,))
    again = turn.method != "POST" and len(turn.data) < 60_000 and not turn.cut
    turn.dropped = again and random.random() < 0.2
    turn.early = not ending and random.random() < 0.4
    steps: list[s.Step] = [s.ReadBody(0)]
    pieces = _cut(random, data, 4, [head])
    if not ending and len(data) < 5000 and random.random() < 0.05:
        pieces[-1] += b"behind the end"
    turn.gates = [s.Gate() for _ in range(len(pieces) + 1)]
    if random.random() < 0.1:
        steps += [s.HoldReading(), s.Wait(turn.gates[0]), s.ResumeReading()]
    else:
        steps.append(s.Wait(turn.gates[0]))
    if not turn.early:
        steps.append(s.ReadBody())
    for gate, piece in zip(turn.gates[1:], pieces, strict=True):
        steps += [s.Wait(gate), s.Garbage(piece)]
    turn.steps = steps + ending


def _cut(random: Random, data: bytes, most: int, likely: list[int] | None = None) -> list[bytes]:
    """The data in up to so many pieces, or some more: cut anywhere, and perhaps at or beside the likely places."""
    places = {random.randint(0, len(data)) for _ in range(random.randint(0, most))}
    for place in likely or ():
        if random.random() < 0.7:
            places.add(place + random.choice((0, 0, 0, 0, -1, 1, -3, 2)))
    marks = [0, *sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(marks) if end > start]


def _actions(random: Random, turns: list[Turn]) -> list[Action]:
    """The client's sends, the gates and the reads, in an order that favours one of them or none."""
    likely, stream = [], b""
    for turn in turns:
        likely += [len(stream), len(stream) + turn.data.find(b"\r\n\r\n") + 4]
        stream += turn.data
    sends: list[Action] = [
        ("send", len(piece), 0) for piece in _cut(random, stream, random.choice((0, 2, 6)), likely)
    ]
    gates: list[list[Action]] = [
        [("open", number, gate) for gate in range(len(turn.gates))]
        for number, turn in enumerate(turns)
        if turn.gates
    ]
    eager, reads = random.choice((0.2, 0.5, 0.8)), random.choice((0.0, 0.2, 0.6))
    waits = random.choice((1.0, 1.0, 0.5))
    actions: list[Action] = []
    while sends or gates:
        if random.random() < reads:
            actions.append(("read", random.choice((1, 100, 65_536, 1 << 22)), 0))
        if sends and (not gates or random.random() < eager):
            actions.append(sends.pop(0))
        else:
            chosen = 0 if random.random() < 0.8 else random.randrange(len(gates))
            actions.append(gates[chosen].pop(0))
            if not gates[chosen]:
                del gates[chosen]
        if random.random() < waits:
            actions.append(("wait", 0, 0))
    if random.random() < 0.25:
        # An end behind bytes that are not taken can't be seen; a reset can.
        ways = len(LEAVING) if len(stream) < 60_000 else 1
        actions[random.randint(1, len(actions)) :] = [("leave", random.randrange(ways), 0)]
    return actions
