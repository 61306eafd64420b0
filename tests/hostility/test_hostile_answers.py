"""The corpus of answers, played to the running sidecar: whole, byte by byte, and with an answer behind.

Each row asserts the exact bytes that the client gets, that the next request gets its own answer and over which
connection, and that the request has settled once, with one SERVER span that says how.
"""

from collections import Counter
from dataclasses import replace

import pytest

from sidecar.testing import Garbage, Gate, OtlpSink, RawClient, RunningSidecar, Step, Wait
from tests.hostility.answers import EVIL, ROWS, AnswerRow
from tests.hostility.books import Books
from tests.hostility.rows import SOURCES, request
from tests.hostility.strict import Sent, read_answers_strictly, without_id
from tests.hostility.witness import Turns, Witness, cut

OK = Sent(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")


def test_rows_are_what_they_say() -> None:
    """No name twice, a source for each, and what is expected can be read in one way only."""
    names = [row.name for row in ROWS]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [row.name for row in ROWS if not SOURCES.match(row.source)] == []
    for row in ROWS:
        read = read_answers_strictly(row.got or b"", [row.method])
        assert [one.whole for one in read if row.cut][-1:] == ([False] if row.cut else []), row.name


class Telling:
    """An upstream that says one answer piece by piece, each read by the sidecar before the next, and then ends."""

    def __init__(self, witness: Witness, turns: Turns, pieces: list[bytes], end: Step | None) -> None:
        self._witness, self._turns = witness, turns
        self._pieces = pieces
        steps: list[Step] = [Garbage(piece) for piece in pieces]
        self._gates = [Gate() for _ in (steps if end is not None else steps[1:])]
        script = [
            step for gate, piece in zip(self._gates, steps, strict=False) for step in (piece, Wait(gate))
        ]
        witness.answer(*script, *([steps[-1]] if end is None else [end]), path="/x")

    def tell(self) -> None:
        """Says all of it, or as much as the sidecar waits for."""
        connection = self._witness.head().connection
        told = 0
        for piece, gate in zip(self._pieces, self._gates, strict=False):
            told += len(piece)
            self._witness.wait_for(
                lambda told=told: connection.sent >= told or connection.closed  # type: ignore[misc]
            )
            self._turns.wait()
            gate.open()


def seen(row: AnswerRow, client: RawClient, *methods: str) -> list[Sent]:
    """What a client got, less what the sidecar adds to it."""
    read = read_answers_strictly(client.received, [*methods])
    interim = b"HTTP/1.1 1"
    return [
        replace(one, head=one.head if one.head.startswith(interim) else without_id(one.head)) for one in read
    ]


def play(sidecar: RunningSidecar, row: AnswerRow, telling: Telling) -> list[Sent]:
    """Asks for the answer, then for another; gives what the client saw of both."""
    after = request(start=b"GET /next HTTP/1.1")
    with RawClient(sidecar.port) as client:
        client.send(request(start=row.method.encode() + b" /x HTTP/1.1"))
        telling.tell()
        if row.cut:
            client.read_to_end()
            with RawClient(sidecar.port) as other:
                other.send(after)
                other.read_answer()
                return seen(row, client, row.method) + seen(row, other, "GET")
        client.read_answer(row.method)
        client.send(after)
        client.read_answer()
        return seen(row, client, row.method, "GET")


_TRIES = 3
"""On a busy machine a connection may have waited for longer than one may, since others were cleared away while they waited."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_hostile_answer(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, turns: Turns, row: AnswerRow
) -> None:
    """Whole, byte by byte, and with an answer behind it: the same."""
    ways = [([row.data], False), (cut(row.data), False)]
    if row.end is None:
        ways += [([row.data + EVIL], True)]
    for pieces, behind in ways:
        kept = row.reused and not behind
        for _ in range(_TRIES):
            witness.clear()
            books = Books(sidecar, sink)
            saw = play(sidecar, row, Telling(witness, turns, pieces or [b""], row.end))
            first, second = witness.requests
            if not kept or first.connection is second.connection:
                break
        expected = read_answers_strictly(row.got or b"", [row.method])
        if row.got is None or expected[-1].head.startswith(b"HTTP/1.1 1"):
            assert saw.pop(len(expected)).head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert saw == [*expected, OK]
        assert books.outcomes() == sorted([row.outcome, "completed"])
        spans = books.spans()
        if row.error is None:
            noted = [span.attributes.get("sidecar.anomalies") for span in spans]
            assert (["answer_odd_http"] in noted) == row.odd, noted
        errors = [span.attributes.get("error.type") for span in spans]
        assert Counter(errors) == Counter([row.error, None])
        assert (first.connection is second.connection) == kept
        if not kept:
            assert witness.closed(first).closed is not None
