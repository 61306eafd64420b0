"""`sidecar view`: the live page on recorded requests, without a sidecar.

Owns a port of its own on loopback, until Ctrl-C.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from sidecar.admin import create_page_app, serve
from sidecar.live import Board
from sidecar.record.reader import read_records
from sidecar.record.replay import replay
from sidecar.settings_values import Address
from sidecar.version import VERSION

_NO_ERRORS = ("completed", "client_left", "shutdown")


def board_of(path: Path, passed_over: Callable[[int], object] = lambda _: None) -> Board:
    """The requests of a file, or of a folder of them; `passed_over` as in `read_records`.

    Raises:
        RecordError: nothing can be read there.
    """
    records = read_records(path, passed_over)
    bars = [record["bar"] for record in records]
    figures = {
        "state": "ready",
        "in_flight": 0,
        "wait_avoided_s": replay(
            records, limit=1
        ).wait_sum,  # some turns ended before their own wait was known
        "errors": sum(bar["outcome"] not in _NO_ERRORS for bar in bars),
        "settled": len(bars),
    }
    board = Board(
        limit=max(1, len(records)),
        since=lambda: 0,
        in_flight=list,
        figures=lambda: figures,
        about={"version": VERSION, "data": None, "links": {}, "age_s": None, "live": False},
        now=lambda: max((bar["end"] for bar in bars), default=0),
    )
    for record in records:
        board.show(record)
    return board


def view(
    path: Path, listen: Address, say: Callable[[str], object], passed_over: Callable[[int], object]
) -> None:
    """Serves until it is told to stop; `say` is given the address of the page, `passed_over` is as in `read_records`.

    Raises:
        RecordError: nothing can be read there.
        CannotListenError: the address cannot be had.
    """
    board = board_of(path, passed_over)

    async def serving() -> None:
        port = await serve(create_page_app(board, listen=listen), listen, setting="--listen")
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        say(f"http://{port.address.reachable}/")
        await stopping.wait()
        await port.close()

    asyncio.run(serving())
