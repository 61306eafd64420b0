"""Runs the command line on a machine that is slow to read: `with_slow_reads.py SECONDS PYTHON -m sidecar ...`.

Owns the slowness: every read of a client's bytes takes so much longer. Everything else is as it is.
"""

import sys
import threading

from sidecar.cli import main
from sidecar.proxy.request_reader import RequestReader


def slow_down(seconds: float) -> None:
    """Makes every read of a request take that much longer."""
    feed = RequestReader.feed

    def slow(reader: RequestReader, data: bytes, at: int, waited: int) -> None:
        threading.Event().wait(seconds)
        feed(reader, data, at, waited)

    RequestReader.feed = slow  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    slow_down(float(sys.argv[1]))
    sys.argv = ["sidecar", *sys.argv[5:]]
    sys.exit(main())
