"""Calls of apps that name no session: the admin port lists no session for them, the sidecar's log tells of each.

Pure: takes log lines, gives one lane for all of them. Like everything that is drawn it comes from the sidecar,
not from what whoever draws knows otherwise. `child.py` hands the lines over, `show.py` asks for the lane.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import replace

import msgspec
from msgspec import Struct, field

from sidecar.core.clock import SECOND
from sidecar.core.identity import MAIN
from sidecar.core.threads import Relation
from sidecar.picture.lanes import MAX_BARS, Bar, Seen
from sidecar.picture.watch import moment

LANE = "(no session named)"

MAX_RUNNING = 1000
"""Requests whose end is awaited; the oldest is forgotten first."""

_MADE_UP = ("generated", "uninspected")


class _Line(Struct, frozen=True):
    event: str
    timestamp: str
    request_id: str
    session_id: str
    source: str | None = field(default=None, name="sidecar.session.source")
    outcome: str | None = field(default=None, name="sidecar.outcome")
    duration: float = field(default=0.0, name="sidecar.duration")
    operation: str | None = field(default=None, name="gen_ai.operation.name")
    relation: str | None = field(default=None, name="sidecar.turn.relation")


_LINE = msgspec.json.Decoder(_Line)


class Unnamed:
    """What has been heard of such calls, in their order."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[str, Bar]] = {}
        self._ended: deque[Bar] = deque(maxlen=MAX_BARS)
        self._count = 0

    def hear(self, line: bytes) -> None:
        """Takes one line of the sidecar's log; most of them mean nothing here."""
        try:
            said = _LINE.decode(line)
            at = moment(said.timestamp)
        except ValueError:  # msgspec's errors are of this kind too
            return
        if said.event == "sidecar.request.generated":
            while len(self._running) >= MAX_RUNNING:
                del self._running[next(iter(self._running))]
            self._running[said.request_id] = (said.session_id, Bar(0, at))
        elif said.outcome is not None:
            _, known = self._running.pop(said.request_id, ("", None))
            if said.source in _MADE_UP:
                bar = known or Bar(0, at - round(said.duration * SECOND))
                turn = said.operation is not None and said.operation != "embeddings"
                raced = said.relation == Relation.RACES
                ended = replace(self._numbered(bar), end=at, outcome=said.outcome, turn=turn, raced=raced)
                self._ended.append(ended)

    def running(self) -> list[tuple[str, str]]:
        """Request and session id of all requests in flight, named or not, that have been heard of by now."""
        return [(request_id, session_id) for request_id, (session_id, _) in self._running.items()]

    def seen(self, before: Collection[tuple[str, str]], named: Collection[str]) -> list[Seen]:
        """The lane, if there is one.

        `before` is what ran (see `running`) before the admin port was asked, and `named` the sessions it
        listed then: what ran in none of these belongs here.
        """
        bars = list(self._ended)
        for request_id, session_id in before:
            found = self._running.get(request_id)
            if found is not None and session_id not in named:
                bar = self._numbered(found[1])
                self._running[request_id] = (session_id, bar)
                bars.append(bar)
        return [Seen(LANE, 0, MAIN, tuple(bars))] if bars else []

    def _numbered(self, bar: Bar) -> Bar:
        """Numbers are given when it is known that a request belongs here, and kept."""
        if bar.sequence:
            return bar
        self._count += 1
        return replace(bar, sequence=self._count)
