"""The deleted queue, replayed: how long one-at-a-time FIFO would have made each turn of a conversation wait.

Owns one conversation's line of turns. A turn's wait is known once every earlier turn has ended, and not
before; nothing is estimated. Records over the cap are given up and counted, yet the replay of later turns
stays exact: what ended turns do to the line is folded into one.
"""

from sidecar.core.turns import Revealed, Turn

_SMALL = 64


class WaitLine:
    """First come, first served, one at a time: `q(i) = max(a(i), q(i-1) + s(i-1))`, wait = `q(i) - a(i)`.

    The line begins with the oldest turn in flight, whose wait is known, and is empty when none is.
    At most `cap` unknown waits are kept.
    """

    __slots__ = ("_cap", "_fold_at", "free_at", "turns", "unknown")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._fold_at = max(_SMALL, 2 * cap)
        self.turns: list[Turn] = []
        self.free_at = 0
        """When the queue is done with those that have left the line: whoever finds it empty waits until then."""
        self.unknown = 0
        """Waits that are still wanted and not known."""

    def join(self, turn: Turn) -> None:
        """A turn arrives behind others; its wait is not known yet, or given up by the cap.

        One that comes first needs no more than to be put into `turns`: it waits until `free_at`.
        """
        turns = self.turns
        if turn.figures:
            if self.unknown < self._cap:
                self.unknown += 1
                turn.wanted = True
            else:
                turn.given_up = True
        turns.append(turn)
        if len(turns) > self._fold_at:
            self._fold()

    def leave(self, turn: Turn, at: int) -> tuple[Revealed, ...]:
        """A turn ends at `at` (ns); gives the waits that are known from now on, in order of arrival."""
        turn.took = max(0, at - turn.arrived_at)
        revealed: list[Revealed] = []
        passed = 0
        for head in self.turns:
            arrived = head.arrived_at
            if head.wanted:
                head.wanted = False
                self.unknown -= 1
                wait = max(0, self.free_at - arrived)
                revealed.append((wait, head.ref, head.sampled))
                if head.ended_at is None:
                    head.wait = wait
            if head.took is None:
                break
            self.free_at = max(self.free_at, arrived) + head.took
            passed += 1
        del self.turns[:passed]
        return tuple(revealed)

    def _fold(self) -> None:
        """Joins neighbours that have ended and owe no record.

        An earlier turn is still in flight, so the queue would be free only after both had come: what is
        left of them is the time they take.
        """
        kept: list[Turn] = []
        for turn in self.turns:
            last = kept[-1] if kept else None
            if last is None or last.wanted or last.took is None or turn.wanted or turn.took is None:
                kept.append(turn)
            else:
                last.took += turn.took
        self.turns = kept
        self._fold_at = max(_SMALL, 2 * self._cap, 2 * len(kept))
