"""Every row of the corpus of requests, cut at every place: the reader makes the same of it.

This asks the reader alone, without a socket, because a socket may join what was sent apart.
"""

import pytest

from sidecar.proxy.inbound import Inbound
from sidecar.proxy.request_reader import RequestReader
from tests.hostility import requests_bodies, requests_fields, requests_lines
from tests.hostility.rows import Row

ROWS = [
    row
    for row in (*requests_lines.ROWS, *requests_fields.ROWS, *requests_bodies.ROWS)
    if len(row.data) < 1000
]


def read(*pieces: bytes) -> list[object]:
    """What the reader makes of the pieces; of a refused request only that it is one, and why it may not go on."""
    reader = RequestReader(16 * 1024, 64)
    for piece in pieces:
        reader.feed(piece, 1, 0)
    return [*map(_described, reader.ready), reader.partial is not None, reader.deaf]


def _described(one: Inbound) -> object:
    if one.refusal is not None:
        return type(one.refusal), one.broken
    assert one.head is not None
    head = (one.head.method, one.head.target, one.head.version, one.head.headers.fields)
    return head, b"".join(one.pieces), one.trailers, one.framing, (one.ended, one.broken, one.keep_alive)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_request_cut_anywhere(row: Row) -> None:
    """In two at every place, and byte by byte."""
    whole = read(row.data)
    assert read(*(row.data[at : at + 1] for at in range(len(row.data)))) == whole
    for at in range(1, len(row.data)):
        assert read(row.data[:at], row.data[at:]) == whole, at
