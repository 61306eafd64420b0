"""Every row of the corpora of requests and answers, cut at every place: the readers make the same of it.

This asks the readers alone, without a socket, because a socket may join what was sent apart.
"""

import pytest

from sidecar.proxy.answer_reader import AnswerReader
from sidecar.proxy.heads import AnswerPlans
from sidecar.proxy.request_reader import Inbound, RequestReader
from tests.hostility import answers, requests_bodies, requests_fields, requests_lines
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
    return (
        head,
        b"".join(one.pieces),
        one.trailers,
        one.chunked,
        one.length,
        (one.ended, one.broken, one.keep_alive),
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_request_cut_anywhere(row: Row) -> None:
    """In two at every place, and byte by byte."""
    whole = read(row.data)
    assert read(*(row.data[at : at + 1] for at in range(len(row.data)))) == whole
    for at in range(1, len(row.data)):
        assert read(row.data[:at], row.data[at:]) == whole, at


def read_answer(method: str, *pieces: bytes) -> tuple[object, ...]:
    """What the reader makes of the pieces; of a malformed answer what came before, and that it is one."""
    reader = AnswerReader(AnswerPlans(16 * 1024, 64))
    reader.reset(method)
    for piece in pieces:
        chunk = reader.one_chunk(piece) if reader.between_chunks else None
        if chunk is not None:
            reader.pieces.append(chunk)
        else:
            reader.feed(piece)
    head = reader.head
    told = head and (head.status, head.reason, head.version, head.headers.fields)
    interim = [(one.status, one.headers.fields) for one in reader.informational]
    state = (reader.ended, reader.malformed is not None, reader.stays, reader.ends_with_connection)
    odd = reader.odd or reader.malformed is not None
    return told, interim, b"".join(reader.pieces), reader.trailers, state, odd


@pytest.mark.parametrize(
    "row", [row for row in answers.ROWS if len(row.data) < 1000], ids=lambda row: row.name
)
def test_an_answer_cut_anywhere(row: answers.AnswerRow) -> None:
    """In two at every place, and byte by byte."""
    whole = read_answer(row.method, row.data)
    assert read_answer(row.method, *(row.data[at : at + 1] for at in range(len(row.data)))) == whole
    for at in range(1, len(row.data)):
        assert read_answer(row.method, row.data[:at], row.data[at:]) == whole, at


@pytest.mark.parametrize(
    "form", [b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"0%x\r\n%b\r\n", b"%x\n%b\n", b"%x;a\r\n%b\r\n"]
)
def test_a_chunk_a_read(form: bytes) -> None:
    """Chunks of every size up to 5000, and some larger ones, each in one read: the data that stands in them."""
    sizes = [*range(1, 5000), 65_535, 65_536, 70_000, 262_144]
    texts = [b"%x\r\n" % size + b"\n" * size for size in sizes]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    reads = [form % (len(text), text) for text in texts]
    read = read_answer("GET", head, *reads, b"0\r\n\r\n")
    assert (read[2], read[4]) == (b"".join(texts), (True, False, form != b"%x\n%b\n", False))


@pytest.mark.parametrize("size", [1, 15, 16, 255, 256, 4095, 4096, 65_535])
@pytest.mark.parametrize("off", [-1, 1])
def test_almost_a_chunk_a_read(size: int, off: int) -> None:
    """A read that would be a whole chunk if its first line said another size."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    almost = b"%x\r\n%b\r\n" % (size + off, b"y" * size)
    expected = read_answer("GET", head + almost)
    assert read_answer("GET", head, almost) == expected
    assert expected[4] == (False, off < 0 < size + off, False, False)
