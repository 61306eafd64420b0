"""Writing to a stream: whole lines, in order, and none that continues another."""

import fcntl
import json
import os
import resource
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.telemetry.exporters import Stream, StreamSender
from sidecar.telemetry.ledger import Delivery, Ledger, State
from sidecar.telemetry.logs import LineQueue
from tests.telemetry.way_out import until

LINE = b"x" * 99 + b"\n"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full once a file has so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size, whole", [(0, 0), (50, 0), (100, 1), (101, 1), (199, 1), (200, 2), (250, 2)])
def test_a_torn_line_is_ended_before_the_next(tmp_path: Path, size: int, whole: int) -> None:
    """However much of three lines the disk took, what is written later stands on lines of its own."""
    path = tmp_path / "lines"
    with path.open("wb", buffering=0) as file:
        sender = StreamSender(Stream(file.fileno()))
        with files_of_at_most(size):
            assert sender.send([LINE] * 3, 3) == Delivery(
                {State.EXPORTED: whole, State.FAILED: 3 - whole}, "EFBIG"
            )
            assert sender.send([LINE], 1) == Delivery({State.EXPORTED: 0, State.FAILED: 1}, "EFBIG")
        assert sender.send([b"next\n"], 1) == Delivery({State.EXPORTED: 1, State.FAILED: 0})
    lines = path.read_bytes().splitlines(keepends=True)
    rest = [b"x" * (size % 100) + b"\n"] if size % 100 else []
    assert lines == [LINE] * whole + rest + [b"next\n"]


def test_a_pipe_takes_a_batch_piece_by_piece() -> None:
    """A batch over the pipe's size is written whole as the reader takes it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    taken: list[bytes] = []

    def read() -> None:
        while piece := os.read(reader, 10_000):
            taken.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    batch = [b"%06d" % number + LINE for number in range(5000)]
    assert StreamSender(Stream(writer)).send(batch, 5000) == Delivery({State.EXPORTED: 5000, State.FAILED: 0})
    os.close(writer)
    thread.join()
    os.close(reader)
    assert b"".join(taken) == b"".join(batch)


def test_a_closed_sender_waits_no_more() -> None:
    """What a pipe that stands still has taken whole is exported, the rest is dropped."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sender = StreamSender(Stream(writer))
    sender.close()
    delivery = sender.send([LINE] * 5000, 5000)
    os.close(writer)
    taken = b""
    while piece := os.read(reader, 65536):
        taken += piece
    os.close(reader)
    assert delivery.counts == {State.EXPORTED: len(taken) // 100, State.DROPPED: 5000 - len(taken) // 100}


async def test_a_loss_is_told_once() -> None:
    """As soon as there is room, with how many there were."""
    reader, writer = os.pipe()
    now = [0]
    ledger = Ledger()
    lines_out = LineQueue(
        "json", stream=Stream(writer), account=ledger.account("lines"), size=4, clock=lambda: now[0]
    )
    for number in range(10):
        lines_out.lines.put((lines_out.lines.whole({"event": "e", "number": number}),))
    assert ledger.snapshot()["lines"]["dropped"] == 6
    lines_out.start()
    await until(lambda: ledger.snapshot()["lines"]["exported"] == 5)
    await lines_out.shutdown(30)
    os.close(writer)
    with os.fdopen(reader) as read:
        lines = [json.loads(line) for line in read]
    assert [line.get("number") for line in lines] == [0, 1, 2, 3, None]
    assert (lines[-1]["event"], lines[-1]["signal"], lines[-1]["lost"]) == (
        "sidecar.telemetry.recovered",
        "lines",
        6,
    )
    assert ledger.snapshot()["lines"] == {
        **dict.fromkeys(("queued", "failed", "unconfirmed", "unknown", "rejected", "not_sampled"), 0),
        "created": 11,
        "exported": 5,
        "dropped": 6,
    }


def waiting_in(pipe: int) -> int:
    """Bytes that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_an_end_on_a_stream_that_stands_still_is_in_time_and_adds_up() -> None:
    """A write that blocks is abandoned: nobody knows what of it arrives."""
    reader, writer = os.pipe()
    ledger = Ledger()
    lines_out = LineQueue(
        "json", stream=Stream(writer), account=ledger.account("lines"), size=3000, clock=lambda: 0
    )
    lines_out.start()
    for _ in range(2000):
        lines_out.lines.put((lines_out.lines.whole({"event": "e", "text": "x" * 100}),))
    await until(lambda: waiting_in(reader) > 60_000)  # the pipe is full
    await lines_out.shutdown(0.3)
    lines = ledger.snapshot()["lines"]
    assert lines["created"] == 2000 == lines["exported"] + lines["dropped"] + lines["unknown"]
    assert lines["unknown"] > 0
    os.close(reader)
    os.close(writer)
