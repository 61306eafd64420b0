"""The SSE parser: every quirk, cut in every way, gives the same events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.sse import Event, SseParser


def parse(*pieces: bytes, limit: int = 1 << 20) -> tuple[list[Event], int, int]:
    """Feeds the pieces to a new parser; gives its events, keep-alives and oversized events."""
    parser = SseParser(limit)
    events = [event for piece in pieces for event in parser.feed(piece)]
    events += parser.finish()
    return events, parser.keep_alives, parser.oversized


def cuts(data: bytes) -> list[list[bytes]]:
    """The data whole, byte by byte, and at every split in two."""
    one_by_one = [data[i : i + 1] for i in range(len(data))]
    return [[data], one_by_one, *([data[:i], data[i:]] for i in range(len(data) + 1))]


CASES: dict[str, tuple[bytes, list[Event], int]] = {
    "plain": (b"data: one\n\ndata: two\n\n", [(b"", b"one"), (b"", b"two")], 0),
    "named": (b"event: ping\ndata: {}\n\n", [(b"ping", b"{}")], 0),
    "name after data": (b"data: {}\nevent: ping\n\n", [(b"ping", b"{}")], 0),
    "last name wins": (b"event: a\nevent: b\ndata: 1\n\n", [(b"b", b"1")], 0),
    "crlf": (b"event: x\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", [(b"x", b"1"), (b"", b"2")], 0),
    "lone cr": (b"event: x\rdata: 1\r\rdata: 2\r\r", [(b"x", b"1"), (b"", b"2")], 0),
    "mixed line ends": (
        b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\r\n",
        [(b"", b"1"), (b"", b"2"), (b"", b"3")],
        0,
    ),
    "no space after the colon": (b"event:x\ndata:{}\n\ndata:1\n\n", [(b"x", b"{}"), (b"", b"1")], 0),
    "only one space is taken off": (b"data:  1\n\n", [(b"", b" 1")], 0),
    "multi-line data": (b"data: {\ndata:  1\ndata: }\n\n", [(b"", b"{\n 1\n}")], 0),
    "named multi-line data": (b"event: x\ndata: 1\ndata: 2\n\n", [(b"x", b"1\n2")], 0),
    "empty data": (b"data:\n\ndata\n\ndata: \n\nevent: x\ndata: \n\ndata: 1\n\n", [(b"", b"1")], 4),
    "an error's empty data": (b"event: error\ndata:\n\nevent: error\ndata: \n\n", [(b"error", b"")] * 2, 0),
    "empty data beside an error": (b"data: \nerror: x\n\n", [(b"error", b"x")], 0),
    "two lines of empty data": (b"data:\ndata:\n\n", [(b"", b"\n")], 0),
    "field names without a colon": (b"event: a\nevent\ndata: 1\n\n", [(b"", b"1")], 0),
    "comment only": (b": keep-alive\n\ndata: 1\n\n:\n\n", [(b"", b"1")], 2),
    "comment inside": (b": hello\ndata: 1\n: again\n\n", [(b"", b"1")], 0),
    "no data, no event": (b"event: ping\n\nid: 7\n\nretry: 10\n\ndata: 1\n\n", [(b"", b"1")], 3),
    "other fields": (b"id: 7\nretry: 10\nfoo: bar\ndata: 1\n\n", [(b"", b"1")], 0),
    "longer names are other fields": (b"database: 1\ndata: 2\n\n", [(b"", b"2")], 0),
    "byte order mark": (b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n", [(b"", b"1"), (b"", b"2")], 0),
    "a later byte order mark": (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [(b"", b"1")], 1),
    "many blank lines": (b"\n\n\ndata: 1\n\n\n\ndata: 2\n\n\n\n\n", [(b"", b"1"), (b"", b"2")], 0),
    "no blank line at the end": (b"data: 1\n\ndata: 2", [(b"", b"1"), (b"", b"2")], 0),
    "one line end at the end": (b"data: 1\n\nevent: x\ndata: 2\n", [(b"", b"1"), (b"x", b"2")], 0),
    "one carriage return at the end": (b"data: 1\r", [(b"", b"1")], 0),
    "an error as a field": (
        b'error: {"code":500}\n\ndata: [DONE]\n\n',
        [(b"error", b'{"code":500}'), (b"", b"[DONE]")],
        0,
    ),
    "an error beside data": (
        b"error:x\ndata: 1\nerror: y\n\n",
        [(b"", b"1"), (b"error", b"x"), (b"error", b"y")],
        0,
    ),
    "longer names are no errors": (b"errors: 1\n\nerror\n\n", [], 2),
    "an object without a field's name": (
        b'data: 1\n\n{"error":\n {}}\n\n',
        [(b"", b"1"), (b"", b'{"error":\n {}}')],
        0,
    ),
    "a named object": (b'event: error\n{"a":1}', [(b"error", b'{"a":1}')], 0),
    "an object behind data": (b'data: 1\n{"a":1}\n\n', [(b"", b"1"), (b"", b'{"a":1}')], 0),
    "an object before data": (
        b'event: e\n{"a":1}\nid: 7\ndata: 2\n\n',
        [(b"e", b'{"a":1}'), (b"e", b"2")],
        0,
    ),
    "an object in several lines": (
        b'data: 1\n\n{\n  "error": {\n    "code": 500\n  }\n}\n\ndata: 2\n\n',
        [(b"", b"1"), (b"", b'{\n  "error": {\n    "code": 500\n  }\n}'), (b"", b"2")],
        0,
    ),
    "an array in several lines": (b'\n[\r\n {"a":1}\r\n]\r\n\r\n', [(b"", b'[\n {"a":1}\n]')], 0),
    "an object in several lines behind other words": (b'foo\n { "a":\n 1}', [(b"", b' { "a":\n 1}')], 0),
    "what only begins like one": (b"{x}\n\n[warn]\n\n[DONE]\n\n", [], 3),
    "any bytes": (b"data: \xff\x00\xfe\n\n", [(b"", b"\xff\x00\xfe")], 0),
    "nothing": (b"", [], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_quirks_at_every_split(name: str) -> None:
    """Each quirk is read the same whole, byte by byte and at every split in two."""
    stream, events, keep_alives = CASES[name]
    for pieces in cuts(stream):
        assert parse(*pieces) == (events, keep_alives, 0), pieces


def test_events_come_as_soon_as_they_are_closed() -> None:
    """No event waits for bytes that follow its blank line, carriage returns included."""
    parser = SseParser()
    assert parser.feed(b"data: 1\n") == []
    assert parser.feed(b"\n") == [(b"", b"1")]
    assert parser.feed(b"data: 2\r\r") == [(b"", b"2")]
    assert parser.feed(b"\ndata: 3\r\n\r") == [(b"", b"3")]
    assert parser.feed(b"\n") == []
    assert parser.finish() == []


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_a_too_large_event_is_told_without_its_data_and_counted(end: bytes) -> None:
    """Of an event over the limit its name is known, if it comes first; its neighbours are read."""
    large = b"data: " + b"x" * 10
    for pieces in cuts(b"data: 1" + end + large + end + b"data: 2" + end):
        assert parse(*pieces, limit=15) == ([(b"", b"1"), (b"", b""), (b"", b"2")], 0, 1), pieces
    for pieces in cuts(b"event: e" + end[: len(end) // 2] + large + end + b"data: 2" + end):
        assert parse(*pieces, limit=18) == ([(b"e", b""), (b"", b"2")], 0, 1), pieces
    for pieces in cuts(large + end):
        assert parse(*pieces, limit=16) == ([(b"", b"x" * 10)], 0, 0), pieces


def test_a_too_large_event_that_never_ends_keeps_nothing() -> None:
    """What exceeds the limit is counted once, and neither kept nor flushed at the end."""
    for pieces in cuts(b"\xef\xbb\xbfdata: " + b"x" * 40 + b"\n"):
        assert parse(*pieces, limit=20) == ([], 0, 1), pieces
    parser = SseParser(1000)
    for _ in range(100):
        assert parser.feed(b"x" * 1000) == []
    assert parser.oversized == 1
    assert parser.feed(b"\n\ndata: 1\n\n") == [(b"", b"1")]
    assert parser.keep_alives == 1


LINES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"data",
        b"event: e",
        b":",
        b"id: 1",
        b"error: x",
        b"",
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"data: " + b"x" * 30,
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r", b""])), max_size=12).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@given(stream=STREAMS, places=st.lists(st.integers(0, 120)))
def test_random_streams_at_random_splits(stream: bytes, places: list[int]) -> None:
    """However a stream of odd lines is cut, it is read as it is read whole."""
    ends = [0, *sorted(places), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(ends)]
    assert parse(*pieces, limit=25) == parse(stream, limit=25)


@given(stream=st.binary(max_size=200))
def test_any_bytes_are_read(stream: bytes) -> None:
    """Nothing that is fed makes it raise; byte by byte gives the same as whole."""
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == parse(stream)
