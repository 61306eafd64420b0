"""One conversation while it lives: who is in flight, in which order they came, what they did to each other.

Owns the sums, and the definitions of overlap, out of order, think time and wait avoided, for one conversation. What
nobody reported stays None. It keeps no clock and calls no listener.
"""

from itertools import islice, takewhile

from sidecar.core.facts import COMPLETED, Outcome
from sidecar.core.turns import (
    ConversationSummary,
    LiveConversation,
    Ref,
    Revealed,
    SessionLimits,
    Totals,
    Turn,
)

_SMALL = 64


MAX_MODELS = 32
"""Distinct models named by one summary."""

_MODEL_LENGTH = 200


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

    def join(self, turn: Turn, *, told: bool) -> None:
        """A turn arrives behind others. If it is `told` its wait is wanted, and not known yet or given up by the cap.

        One that comes first needs no more than to be put into `turns`: it waits until `free_at`.
        """
        turns = self.turns
        if told and self.unknown < self._cap:
            self.unknown += 1
            turn.wanted = True
        elif told:
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
                revealed.append((wait, head.ref, head.sampled, head.upstream))
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


class Sums:
    """Totals under construction. Times in ns."""

    __slots__ = (
        "input_tokens",
        "model_time",
        "models",
        "models_failed",
        "most_at_once",
        "out_of_order",
        "output_tokens",
        "overlaps",
        "requests",
        "think_time",
        "turns",
        "wait_avoided",
        "waits_known",
        "waits_unknown",
    )

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = {}
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.models: tuple[str, ...] = ()
        """Those that completed a request."""
        self.models_failed: tuple[str, ...] = ()
        """Those of requests that did not; a summary names them where the others leave room."""
        self.turns = self.overlaps = self.most_at_once = self.out_of_order = 0
        self.waits_known = self.wait_avoided = self.waits_unknown = 0
        self.model_time = self.think_time = 0

    def model(self, model: str, *, completed: bool) -> bool:
        """Adds the model of an ended request; False if it found no room."""
        if completed:
            self.models = _with(self.models, (model,))
            return model in self.models
        self.models_failed = _with(self.models_failed, (model,))
        return model in self._all_models()

    def merge(self, other: "Sums") -> None:
        """Adds the sums of a part; `most_at_once` becomes the greater of both."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        if other.input_tokens is not None:
            self.input_tokens = (self.input_tokens or 0) + other.input_tokens
        if other.output_tokens is not None:
            self.output_tokens = (self.output_tokens or 0) + other.output_tokens
        self.models = _with(self.models, other.models)
        self.models_failed = _with(self.models_failed, other.models_failed)
        self.turns += other.turns
        self.overlaps += other.overlaps
        self.most_at_once = max(self.most_at_once, other.most_at_once)
        self.out_of_order += other.out_of_order
        self.waits_known += other.waits_known
        self.wait_avoided += other.wait_avoided
        self.waits_unknown += other.waits_unknown
        self.model_time += other.model_time
        self.think_time += other.think_time

    def freeze(self) -> Totals:
        """The totals as they stand."""
        return Totals(
            requests=dict(self.requests),
            turns=self.turns,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            overlaps=self.overlaps,
            most_at_once=self.most_at_once,
            out_of_order=self.out_of_order,
            waits_known=self.waits_known,
            wait_avoided=self.wait_avoided,
            waits_unknown=self.waits_unknown,
            model_time=self.model_time,
            think_time=self.think_time,
            models=self._all_models(),
        )

    def _all_models(self) -> tuple[str, ...]:
        return _with(self.models, self.models_failed)


def _with(models: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """The models and those not among them yet, as many as are kept."""
    new = tuple(model for model in more if model not in models)
    return (*models, *new)[:MAX_MODELS] if new else models


class Conversation:
    """A thread of a named session. Timestamps are ns since the epoch."""

    __slots__ = (
        "_first",
        "_last",
        "_last_turn_end",
        "_limits",
        "_line",
        "_links_dropped",
        "_others",
        "_slowest",
        "_slowest_took",
        "active",
        "conversation_id",
        "ended",
        "last_ended_at",
        "last_failed",
        "sequence",
        "started_at",
        "sums",
        "supplied",
        "turns",
    )

    def __init__(
        self, conversation_id: str, *, supplied: bool, started_at: int, limits: SessionLimits
    ) -> None:
        self.conversation_id = conversation_id
        self.supplied = supplied
        self.started_at = started_at
        self.last_ended_at: int | None = None
        self.sequence = 0
        """The number of its latest request; whoever lets one in counts it."""
        self.ended = False
        self.active: dict[str, Turn] = {}
        self.turns: dict[int, Turn] = {}
        """Turns in flight by their numbers, in order of arrival."""
        self.last_failed: Ref | None = None
        self.sums = Sums()
        self._limits = limits
        self._line = WaitLine(limits.pending_waits)
        self._last_turn_end: int | None = None
        # The requests that its summary points at.
        self._first: Ref | None = None
        self._last: Ref | None = None
        self._slowest: Ref | None = None
        self._slowest_took = -1
        self._others: list[tuple[str, Ref]] = []
        self._links_dropped = 0

    @property
    def waits_open(self) -> int:
        """Turns whose wait is wanted and not known yet."""
        return self._line.unknown

    @property
    def latest(self) -> Ref | None:
        """Its latest request."""
        return self._last

    def join(self, turn: Turn, *, told: bool) -> None:
        """A request arrives, with its sequence and id already given; what that means is written into it.

        `told`: figures are told of it, if it is a turn.
        """
        turn.previous = previous = self._last
        self._last = turn.ref
        if previous is None:
            self._first = turn.ref
        self.active[turn.request_id] = turn
        if not turn.turn:
            return
        sums, others = self.sums, self.turns
        sums.turns = number = turn.number = sums.turns + 1
        if others:
            self._meet(turn, told=told)
        else:
            line, at, ended = self._line, turn.arrived_at, self._last_turn_end
            line.turns.append(turn)
            if told:
                turn.concurrency = 1
                if ended is not None:
                    turn.think_time = think_time = at - ended if at > ended else 0
                    sums.think_time += think_time
                turn.wait = wait = line.free_at - at if line.free_at > at else 0
                sums.waits_known += 1
                if wait:
                    sums.wait_avoided += wait
                if not sums.most_at_once:
                    sums.most_at_once = 1
        others[number] = turn

    def _meet(self, turn: Turn, *, told: bool) -> None:
        """A turn arrives while others are in flight."""
        sums, others, ref = self.sums, self.turns, turn.ref
        # Only the turns that arrived among the last few still have room for one more link.
        full, link = turn.number - self._limits.links, (ref,)
        for other in reversed(others.values()):
            if other.number < full:
                break
            other.overlapped_by += link
        self._line.join(turn, told=told)
        if not told:
            return
        latest = [other.ref for other in islice(reversed(others.values()), self._limits.links)]
        turn.overlaps = tuple(reversed(latest))
        turn.concurrency = at_once = len(others) + 1
        sums.most_at_once = max(sums.most_at_once, at_once)
        sums.overlaps += 1
        sums.waits_unknown += turn.given_up
        self._note("overlapping", ref)

    def turn_passed(self, turn: Turn, at: int) -> None:
        """A turn's last byte has been handed over, at the latest as it ends: who comes now does not meet it."""
        turns, line, last = self.turns, self._line, self._last_turn_end
        if last is None or at > last:
            self._last_turn_end = at
        if len(line.turns) == 1:  # it was alone: nobody came, and nobody waits for it
            turns.clear()
            line.turns.clear()
            arrived = turn.arrived_at
            took = turn.took = at - arrived if at > arrived else 0
            line.free_at = max(line.free_at, arrived) + took
            return
        sums = self.sums
        del turns[turn.number]
        turn.overlapped_by_rest = sums.turns - turn.number - len(turn.overlapped_by)
        # They stand in order of arrival; how this one ended says whether they have been overtaken.
        turn.overtakes = tuple(takewhile(lambda other: other.number < turn.number, turns.values()))
        turn.revealed = revealed = line.leave(turn, at)
        for wait, *_ in revealed:
            sums.waits_known += 1
            sums.wait_avoided += wait

    def leave(self, turn: Turn, outcome: Outcome, at: int) -> bool:
        """A request ends, as it says itself by now; what that means is written into it. `at` is not before its arrival.

        False if its model found no room in the sums.
        """
        sums, model, completed = self.sums, turn.model, outcome is COMPLETED
        took = at - turn.arrived_at
        if len(self.active) == 1:
            self.active.clear()  # gives its room back, as does `turns`: most conversations that live are idle
        else:
            del self.active[turn.request_id]
        if turn.turn:
            if turn.took is None:
                self.turn_passed(turn, at)
            sums.model_time += took
            if not completed:
                self.last_failed = turn.ref
            elif turn.overtakes or turn.overtaken:
                self._order(turn)
        last, counts = self.last_ended_at, sums.requests
        if last is None or at > last:
            self.last_ended_at = at
        if not completed:
            self._note("failed", turn.ref)
        if took > self._slowest_took:
            self._slowest, self._slowest_took = turn.ref, took
        counts[outcome] = counts.get(outcome, 0) + 1
        if turn.input_tokens is not None:
            sums.input_tokens = (sums.input_tokens or 0) + turn.input_tokens
        if turn.output_tokens is not None:
            sums.output_tokens = (sums.output_tokens or 0) + turn.output_tokens
        if model is None or (completed and model in sums.models):
            return True
        return sums.model(model[:_MODEL_LENGTH], completed=completed)

    def _order(self, turn: Turn) -> None:
        """A completed turn that has overtaken others, or was overtaken."""
        for other in turn.overtakes:
            other.overtaken += 1
        if turn.concurrency and turn.overtaken:
            turn.distance = turn.overtaken
            self.sums.out_of_order += 1

    def _note(self, word: str, ref: Ref) -> None:
        """Keeps a `failed` or `overlapping` request for the summary, or counts it if there is no room left."""
        if len(self._others) < self._limits.links - 3:
            self._others.append((word, ref))
        else:
            self._links_dropped += 1

    def summary(
        self, session_id: str, source: str, ended_at: int, *, session_supplied: bool
    ) -> ConversationSummary:
        """The conversation as it ends; waits that are still open are given up as unknown."""
        self.ended = True
        self.sums.waits_unknown += self._line.unknown
        named = (("first", self._first), ("last", self._last), ("slowest", self._slowest))
        return ConversationSummary(
            session_id=session_id,
            conversation_id=self.conversation_id,
            source=source,
            supplied=self.supplied,
            started_at=self.started_at,
            ended_at=ended_at,
            totals=self.sums.freeze(),
            links=(*((word, ref) for word, ref in named if ref is not None), *self._others),
            links_dropped=self._links_dropped,
            session_supplied=session_supplied,
        )

    def view(self) -> LiveConversation:
        """The conversation as it stands."""
        return LiveConversation(
            conversation_id=self.conversation_id,
            supplied=self.supplied,
            started_at=self.started_at,
            last_ended_at=self.last_ended_at,
            sequence=self.sequence,
            concurrency=len(self.turns),
            waits_open=self._line.unknown,
            totals=self.sums.freeze(),
            active=tuple(turn.request() for turn in self.active.values()),
        )
