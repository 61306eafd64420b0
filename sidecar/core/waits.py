"""The deleted queue, replayed: how long one-at-a-time FIFO would have made each turn of a conversation wait.

Owns one conversation's line of turns. A turn's wait is known once every earlier turn has ended, and not
before; nothing is estimated. Records over the cap are given up and counted, yet the replay of later turns
stays exact: what ended turns do to the line is folded into one.
"""

from sidecar.core.turns import RequestRef

_SMALL = 64


class Place:
    """A turn's place in the line.

    `ref` is the turn, None when nobody wants its wait (it was given up, or nobody had named its session).
    `wait` (ns) is None until known; `duration` (ns) is None while the turn is in flight.
    """

    __slots__ = ("arrived", "duration", "ref", "wait")

    def __init__(self, ref: RequestRef | None, arrived: int) -> None:
        self.ref = ref
        self.arrived = arrived
        self.duration: int | None = None
        self.wait: int | None = None


class WaitLine:
    """First come, first served, one at a time: `q(i) = max(a(i), q(i-1) + s(i-1))`, wait = `q(i) - a(i)`.

    The line begins with the oldest turn in flight, whose wait is known, and is empty when none is.
    At most `cap` unknown waits are kept.
    """

    __slots__ = ("_cap", "_fold_at", "_free_at", "_places", "unknown")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._places: list[Place] = []
        self._free_at = 0
        self._fold_at = max(_SMALL, 2 * cap)
        self.unknown = 0
        """Waits that are still wanted and not known."""

    def join(self, ref: RequestRef | None, at: int) -> Place:
        """A turn arrives at `at` (ns). Its wait is known at once if no earlier one is in flight.

        The returned place has lost its `ref` if the cap gave its wait up.
        """
        place = Place(ref, at)
        if not self._places:
            self._reveal(place)
        elif ref is not None:
            if self.unknown < self._cap:
                self.unknown += 1
            else:
                place.ref = None
        self._places.append(place)
        if len(self._places) > self._fold_at:
            self._fold()
        return place

    def leave(self, place: Place, at: int) -> list[Place]:
        """A turn ends at `at` (ns); gives the places whose waits are known from now on, in order of arrival."""
        place.duration = max(0, at - place.arrived)
        known: list[Place] = []
        passed = 0
        for head in self._places:
            if head.ref is not None and head.wait is None:
                self._reveal(head)
                self.unknown -= 1
                known.append(head)
            if head.duration is None:
                break
            self._free_at = max(self._free_at, head.arrived) + head.duration
            passed += 1
        del self._places[:passed]
        return known

    def _reveal(self, place: Place) -> None:
        if place.ref is not None:
            place.wait = max(0, self._free_at - place.arrived)

    def _fold(self) -> None:
        """Joins neighbours that have ended and owe no record.

        An earlier turn is still in flight, so the queue would be free only after both had come: what is
        left of them is the time they take.
        """
        kept: list[Place] = []
        for place in self._places:
            last = kept[-1] if kept else None
            if (
                last is None
                or last.ref is not None
                or last.duration is None
                or place.ref is not None
                or place.duration is None
            ):
                kept.append(place)
            else:
                last.duration += place.duration
        self._places = kept
        self._fold_at = max(_SMALL, 2 * self._cap, 2 * len(kept))
