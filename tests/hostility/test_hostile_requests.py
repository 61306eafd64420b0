"""The corpus of requests, played against the running sidecar: whole, byte by byte, and with a request behind.

Each row asserts what the client is told, the exact requests that the upstream got, that nothing behind them was
taken for another, and that every request that began has settled once and has one SERVER span that says so.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest

from sidecar.testing import OtlpSink, RawClient, RunningSidecar
from tests.hostility import requests_bodies, requests_fields, requests_lines
from tests.hostility.books import Books
from tests.hostility.rows import INNER, SOURCES, Row, request, sent
from tests.hostility.strict import Sent, read_strictly, without_ours
from tests.hostility.witness import Turns, Witness, cut

ROWS = (*requests_lines.ROWS, *requests_fields.ROWS, *requests_bodies.ROWS)
AFTER = b"GET /after HTTP/1.1"


def got(witness: Witness) -> list[Sent]:
    """Every request that reached the upstream, read strictly."""
    witness.wait_for(witness.broken_off)
    authority = witness.authority.encode()
    return [
        Sent(without_ours(one.head, authority), one.payload, one.trailers, one.whole)
        for data in witness.taken()
        for one in read_strictly(data)
    ]


def test_rows_are_what_they_say() -> None:
    """No name twice, a source for each, and what is expected can be read in one way only."""
    names = [row.name for row in ROWS]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [row.name for row in ROWS if not SOURCES.match(row.source)] == []
    for row in ROWS:
        assert all(len(read_strictly(one)) == 1 and read_strictly(one)[0].whole for one in row.passed), (
            row.name
        )


def play(sidecar: RunningSidecar, turns: Turns, row: Row, pieces: Sequence[bytes], *, behind: bool) -> None:
    """Sends the row, and checks what the client gets; `behind` says that `INNER` follows."""
    method = row.data.lstrip().partition(b" ")[0].decode("latin-1")
    said = row.said if row.closes or not behind else (*row.said, 200)
    with RawClient(sidecar.port) as client:
        if len(pieces) == 1:
            with suppress(OSError):
                client.send(pieces[0])
        else:
            turns.send(client, pieces)
        methods = ["GET" if behind and number >= len(row.said) else method for number in range(len(said))]
        assert [client.read_answer(each).status for each in methods] == list(said)
        if row.closes:
            assert client.is_closed()
        elif row.waits:
            turns.wait()
        else:
            client.send(request(start=AFTER))
            assert client.read_answer().status == 200


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_hostile_request(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink, turns: Turns, row: Row
) -> None:
    """Whole, byte by byte, and with bytes behind it: the same."""
    ways: list[tuple[list[bytes], bool]] = [([row.data], False), (cut(row.data), False)]
    if not row.waits:
        ways += [([row.data + INNER], True)]
    for pieces, behind in ways:
        witness.clear()
        books = Books(sidecar, sink)
        play(sidecar, turns, row, pieces, behind=behind)
        outcomes = books.outcomes()
        expected = [read_strictly(one)[0] for one in row.passed]
        if not row.closes and not row.waits:
            expected += [read_strictly(sent(start=b"GET /smuggled HTTP/1.1"))[0]] if behind else []
            expected += [read_strictly(sent(start=AFTER))[0]]
        reached = got(witness)
        begun = [one for one in reached if not one.whole]
        assert [one for one in reached if one.whole] == expected
        assert len(begun) <= (row.part is not None)
        assert all((row.part or b"").startswith(one.payload) for one in begun)
        ended = ["completed"] * (len(expected) - len(row.passed)) + row.outcomes
        if row.part is not None and len(pieces) > 1 and not row.waits:
            ended[ended.index("refused")] = (
                "client_left"  # it had gone on when its body turned out to be broken
            )
        assert outcomes == sorted(ended)
