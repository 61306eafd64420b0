"""Rows: what upstreams do with connections and with time, whatever their answers look like. It runs nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.testing import (
    Bytes,
    Chunk,
    Echo,
    End,
    EndSide,
    Garbage,
    Header,
    HoldReading,
    Informational,
    LastChunk,
    Pause,
    ReadBody,
    Received,
    Reset,
    ResumeReading,
    Script,
    Status,
    Step,
    answer,
)
from tests.differential.four_clients import Ask

RACED = (
    "closes a kept connection just as a request is sent on it that has a body over 4 KiB, or any method but "
    "GET, HEAD, OPTIONS, TRACE, PUT and DELETE"
)
NOT_EXPECTED = "answers `Expect: 100-continue` with 417"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the upstream says to each request, and the calls that one client makes in turn.

    `waits`: after so many calls the next waits until all connections have ended, and so on (0: none waits). `anew`:
    each call is made by a client that has no connection yet. `but` is as in `Form`. `nobodys` is the status of an answer
    that the upstream gives to no request: a client that takes it for that of its next one has none that works.
    """

    name: str
    says: Callable[[Received], Script]
    asks: tuple[Ask, ...] = (Ask(),)
    waits: int = 0
    anew: bool = False
    but: str = ""
    nobodys: int | None = None


def to_all(*steps: Step) -> Callable[[Received], Script]:
    """The same to every request."""
    return lambda _: steps


def whole(request: Received) -> Script:
    """A plain answer."""
    return answer(b"" if request.method == "HEAD" else b"abc")


def then(*steps: Step, at: int = 1) -> Callable[[Received], Script]:
    """An answer, and these steps behind the one with this number on its connection."""
    return lambda request: (*whole(request), *(steps if request.connection.requests == at else ()))


def to_used(*steps: Step) -> Callable[[Received], Script]:
    """So to all but the first request of a connection, which is answered."""
    return lambda request: steps if request.connection.requests > 1 else whole(request)


def with_fields(*lines: bytes, end: Step | None = None) -> Callable[[Received], Script]:
    """An answer with these fields, and an end."""
    return to_all(*answer(b"abc", headers=lines), *(() if end is None else (end,)))


SMALL, OVER, LARGE = b"x" * 1000, b"x" * 100_000, b"0123456789" * 100_000

ENDS: tuple[tuple[str, Step], ...] = (("ended", End()), ("reset", Reset()))
METHODS = (Ask("GET"), Ask("HEAD"), Ask("DELETE"), Ask("PUT", SMALL), Ask("PUT", OVER), Ask("POST", SMALL))

KEPT = [
    *(
        Behaviour(f"{ask.method} of {len(ask.body)}, {how} before", then(end), (ask,) * 3, waits=1)
        for ask in METHODS
        for how, end in ENDS
    ),
    *(
        Behaviour(
            f"{ask.method} of {len(ask.body)}, {how} as it came{' anew' if anew else ''}",
            to_used(ReadBody(0), end),
            (ask,) * 2,
            anew=anew,
            but=RACED if ask.method == "POST" or len(ask.body) > 65536 else "",
        )
        for ask in METHODS
        for how, end in ENDS
        for anew in (False, True)
    ),
    *(
        Behaviour(f"after a part of an answer, {how}", to_used(Garbage(b"HTTP/1.1 2"), end), (Ask(),) * 2)
        for how, end in ENDS
    ),
    *(
        Behaviour(f"{how} after two of {ask.method}", then(end, at=2), (ask,) * 5, waits=2)
        for how, end in ENDS
        for ask in (Ask(), Ask("POST", SMALL))
    ),
    Behaviour("its side ended", then(EndSide()), (Ask(),) * 3),
    *(
        Behaviour(
            f"{', '.join(map(bytes.decode, lines))}, {how} {ask.method}",
            with_fields(*lines, end=end),
            (ask,) * 3,
            waits,
        )
        for lines in (
            (b"Connection: close",),
            (b"Keep-Alive: timeout=0",),
            (b"Keep-Alive: timeout=1",),
            (b"Connection: Keep-Alive", b"Keep-Alive: timeout=5, max=1"),
        )
        for how, end, waits in (("stays", None, 0), ("ends", End(), 1), ("resets", Reset(), 1))
        for ask in (Ask(), Ask("POST", SMALL))
    ),
    *(
        Behaviour(
            f"timeout=1 that is kept to, {ask.method}",
            to_all(*answer(b"abc", headers=(b"Keep-Alive: timeout=1",)), Pause(1), End()),
            (ask,) * 2,
            waits=1,
        )
        for ask in (Ask(), Ask("POST", SMALL))
    ),
    Behaviour(
        "408 to nobody",
        then(
            Pause(0.1),
            Garbage(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            End(),
        ),
        (Ask("POST", SMALL),) * 2,
        waits=1,
        nobodys=408,
    ),
    Behaviour("a line end behind", then(Pause(0.1), Garbage(b"\r\n"), End()), (Ask(),) * 2, waits=1),
    Behaviour(
        "HTTP/1.0 that stays",
        to_all(Status(version=b"HTTP/1.0"), Header(b"Connection: keep-alive"), Header(b"Content-Length: 0")),
        (Ask("POST", SMALL),) * 3,
    ),
]

TOO_LARGE = answer(b"abc", status=413, reason=b"Too Large", headers=(b"Connection: close",))
UPLOADS = (
    ("", Ask("POST", LARGE)),
    (" in chunks", Ask("POST", LARGE, chunked=True)),
    (" that expects", Ask("POST", LARGE, expects=True)),
)

EARLY = [
    *(
        Behaviour(f"{when}, {what}{way}", to_all(ReadBody(part), *early, *after), (ask,) * times)
        for when, part, early in (("200 at once", 0, answer(b"abc")), ("413 after a part", 100_000, TOO_LARGE))
        for what, after, times in (
            ("then reads", (ReadBody(),), 1),
            ("reads on late", (HoldReading(), Pause(0.5), ResumeReading(), ReadBody()), 1),
            ("ends its side, reads", (EndSide(), ReadBody()), 1),
            ("ends", (End(),), 1),
            ("resets", (Reset(),), 1 if part == 0 else 8),
            ("resets late", (Pause(0.2), Reset()), 1),
        )
        for way, ask in UPLOADS
    ),
    *(
        Behaviour(
            f"an answer that goes on as the upload does{way}",
            to_all(
                ReadBody(0), Status(), Header(b"Transfer-Encoding: chunked"), Chunk(b"a"),
                ReadBody(500_000), Chunk(b"b" * 100_000), ReadBody(), Chunk(b"c"), LastChunk(),
            ),
            (ask,),
        )
        for way, ask in UPLOADS
    ),
    Behaviour(
        "an early answer until its end",
        to_all(ReadBody(0), Status(), Bytes(b"abc"), EndSide(), ReadBody()),
        (Ask("POST", LARGE),),
    ),
    Behaviour(
        "early answers, one after another",
        to_all(ReadBody(0), *answer(b"abc"), ReadBody()),
        (Ask("POST", LARGE), Ask(), Ask("POST", OVER, chunked=True), Ask("POST", SMALL)),
    ),
]  # fmt: skip

HINTS = Informational(103, (b"Link: </a>",))
CONTINUE = Informational(100, reason=b"Continue")


def expectations(request: Received) -> Script:
    """417 to whoever expects something, else the answer."""
    if request.get("expect") is None:
        return whole(request)
    return (ReadBody(0), *answer(b"no", status=417, reason=b"Expectation Failed"))


EXPECT = [
    *(
        Behaviour(
            f"{name}, {len(body)}{' in chunks' if chunked else ''}",
            says,
            (Ask("POST", body, chunked, expects=True),),
            but=but,
        )
        for body, chunked in ((SMALL, False), (OVER, True))
        for name, says, but in (
            ("100 at once", to_all(ReadBody(0), CONTINUE, ReadBody(), Echo()), ""),
            ("100 late", to_all(ReadBody(0), Pause(0.3), CONTINUE, ReadBody(), Echo()), ""),
            ("100 later than curl waits", to_all(ReadBody(0), Pause(1.2), CONTINUE, ReadBody(), Echo()), ""),
            ("100 twice", to_all(ReadBody(0), CONTINUE, CONTINUE, ReadBody(), Echo()), ""),
            ("100 behind the body", to_all(ReadBody(), CONTINUE, Echo()), ""),
            ("no 100", to_all(ReadBody(), Echo()), ""),
            ("401 at once", to_all(ReadBody(0), *answer(b"no", status=401)), ""),
            (
                "401 and a close",
                to_all(ReadBody(0), *answer(b"no", status=401, headers=(b"Connection: close",)), End()),
                "",
            ),
            ("200 at once", to_all(ReadBody(0), *answer(b"abc")), ""),
            ("417 at once", expectations, NOT_EXPECTED),
        )
    ),
    Behaviour(
        "100 after 103",
        to_all(ReadBody(0), HINTS, CONTINUE, ReadBody(), Echo()),
        (Ask("POST", SMALL, expects=True),),
    ),
    Behaviour(
        "expectations one after another",
        to_all(ReadBody(0), CONTINUE, ReadBody(), Echo()),
        (Ask("POST", OVER, expects=True), Ask("POST", SMALL), Ask("POST", SMALL, chunked=True, expects=True)),
    ),
    Behaviour("an expectation of no body", to_all(*answer(b"abc")), (Ask("POST", expects=True),)),
]

TIME = [
    Behaviour("late", to_all(Pause(1), *answer(b"abc"))),
    Behaviour("a late interim head", to_all(Pause(0.3), HINTS, Pause(0.3), *answer(b"abc"))),
    Behaviour("interim heads all along", to_all(*(HINTS, Pause(0.1)) * 5, *answer(b"abc"))),
    Behaviour(
        "102 until it is done",
        to_all(*(Informational(102, reason=b"Processing"), Pause(0.1)) * 5, *answer(b"abc")),
    ),
    Behaviour(
        "an interim head before the body is read",
        to_all(ReadBody(0), HINTS, ReadBody(), Echo()),
        (Ask("POST", OVER),),
    ),
    Behaviour("an interim head, then an end", to_all(HINTS, End())),
    Behaviour(
        "an interim head in pieces",
        to_all(
            *(
                s
                for b in (b"HTTP/1.1 103 H\r\nLi", b"nk: </a>\r\n", b"\r\n")
                for s in (Garbage(b), Pause(0.1))
            ),
            *answer(b"abc"),
        ),
    ),
    Behaviour(
        "a head in pieces",
        to_all(
            Garbage(b"HTTP/1.1 200 O"),
            Pause(0.2),
            Garbage(b"K\r\nContent-Len"),
            Pause(0.2),
            Garbage(b"gth: 3\r\n\r"),
            Pause(0.2),
            Garbage(b"\nabc"),
        ),
    ),
    Behaviour(
        "a slow body",
        to_all(
            Status(),
            Header(b"Content-Length: 5"),
            *(s for c in b"abcde" for s in (Pause(0.2), Bytes(bytes((c,))))),
        ),
    ),
    Behaviour(
        "slow chunks",
        to_all(
            Status(),
            Header(b"Transfer-Encoding: chunked"),
            *(s for c in b"abcde" for s in (Pause(0.2), Chunk(bytes((c,))))),
            Pause(0.2),
            LastChunk(),
        ),
    ),
    Behaviour(
        "a chunk in pieces",
        to_all(
            Garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000"),
            Pause(0.1),
            Garbage(b"3;a="),
            Pause(0.1),
            Garbage(b"b\r"),
            Pause(0.1),
            Garbage(b"\nab"),
            Pause(0.1),
            Garbage(b"c\r\n0\r\nX-T: 1"),
            Pause(0.1),
            Garbage(b"\r\n\r\n"),
        ),
    ),
    Behaviour(
        "a slow body until its end",
        to_all(Status(), *(s for c in b"abc" for s in (Pause(0.2), Bytes(bytes((c,))))), End()),
    ),
    Behaviour("a body until its side's end", to_all(Status(), Bytes(b"abc"), EndSide(), Pause(0.5))),
    Behaviour(
        "a length, its side ended in the middle",
        to_all(Status(), Header(b"Content-Length: 6"), Bytes(b"abc"), EndSide(), Pause(0.5)),
    ),
    Behaviour("a large body", to_all(*answer(LARGE))),
    Behaviour("a body, then a reset", to_all(*answer(OVER), Pause(0.2), Reset())),
    Behaviour("no answer, ended", to_all(End())),
    Behaviour("no answer, reset", to_all(Reset())),
    Behaviour("no answer, its side ended", to_all(EndSide(), Pause(0.3))),
]

UP = [
    *(
        Behaviour(
            f"{ask.method} of {len(ask.body)} echoed{' in chunks' if chunked else ''}",
            to_all(Echo()),
            (Ask(ask.method, ask.body, chunked),) * 2,
        )
        for ask in (
            Ask("POST", b"x"),
            Ask("POST", SMALL),
            Ask("POST", OVER),
            Ask("POST", LARGE),
            Ask("PUT", OVER),
            Ask("PATCH", OVER),
            Ask("DELETE", SMALL),
            Ask("GET", SMALL),
        )
        for chunked in (False, True)
    ),
    *(
        Behaviour(
            f"read late{way}",
            to_all(HoldReading(), ReadBody(0), Pause(0.5), ResumeReading(), ReadBody(), Echo()),
            (ask,),
        )
        for way, ask in UPLOADS
    ),
]

BEHAVIOURS = [*KEPT, *EARLY, *EXPECT, *TIME, *UP]
"""All of them."""
