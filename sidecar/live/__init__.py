"""The live page's data: what is in flight, what has ended lately, and who is looking.

Owns the bounded memory of ended requests, the facts of a request as a page reads them, and the frames that go to
each browser. It knows no socket and no HTTP: `admin/` serves it, `app.py` fills it.
"""

from sidecar.live.board import Board, Watcher, WatchersError, Way
from sidecar.live.request import Bar, Detail, Ended, Facts, Link, Step, bar_of, detail_of, ended

__all__ = [
    "Bar",
    "Board",
    "Detail",
    "Ended",
    "Facts",
    "Link",
    "Step",
    "Watcher",
    "WatchersError",
    "Way",
    "bar_of",
    "detail_of",
    "ended",
]
