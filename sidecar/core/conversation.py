"""One conversation while it lives: who is in flight, in which order they came, what they did to each other.

Owns the sums, and the definitions of overlap, out of order, think time and (through `waits.py`) wait avoided, for one
conversation. It keeps no clock and calls no listener.
"""

from itertools import islice, takewhile

from sidecar.core.outcome import Outcome
from sidecar.core.record import record
from sidecar.core.turns import (
    ConversationSummary,
    KnownWait,
    LiveConversation,
    RequestRef,
    Result,
    SessionLimits,
    SessionRequest,
    Totals,
)
from sidecar.core.waits import Place, WaitLine

MAX_MODELS = 32
"""Distinct models named by one summary."""

_MODEL_LENGTH = 200


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

    def ended(self, result: Result, *, turn: bool) -> bool:
        """Adds one ended request; False if its model found no room."""
        self.requests[result.outcome] = self.requests.get(result.outcome, 0) + 1
        self.input_tokens = _plus(self.input_tokens, result.input_tokens)
        self.output_tokens = _plus(self.output_tokens, result.output_tokens)
        if turn:
            self.model_time += result.duration
        if result.model is None:
            return True
        named = (result.model[:_MODEL_LENGTH],)
        if result.outcome is Outcome.COMPLETED:
            self.models = _with(self.models, named)
            return named[0] in self.models
        self.models_failed = _with(self.models_failed, named)
        return named[0] in self._all_models()

    def wait(self, wait: int) -> None:
        """Adds one known wait."""
        self.waits_known += 1
        self.wait_avoided += wait

    def merge(self, other: "Sums") -> None:
        """Adds the sums of a part; `most_at_once` becomes the greater of both."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        self.input_tokens = _plus(self.input_tokens, other.input_tokens)
        self.output_tokens = _plus(self.output_tokens, other.output_tokens)
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


def _plus(total: int | None, more: int | None) -> int | None:
    if more is None:
        return total
    return more if total is None else total + more


class Highlights:
    """The requests a conversation's summary points at: first, last, slowest, failed and overlapping ones."""

    __slots__ = ("_cap", "_first", "_last", "_others", "_slowest", "_slowest_took", "dropped")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._first: RequestRef | None = None
        self._last: RequestRef | None = None
        self._slowest: RequestRef | None = None
        self._slowest_took = -1
        self._others: list[tuple[str, RequestRef]] = []
        self.dropped = 0

    def arrived(self, ref: RequestRef) -> None:
        """A request arrived."""
        if self._first is None:
            self._first = ref
        self._last = ref

    def took(self, ref: RequestRef, duration: int) -> None:
        """A request took so many ns from arrival to end."""
        if duration > self._slowest_took:
            self._slowest, self._slowest_took = ref, duration

    def note(self, word: str, ref: RequestRef) -> None:
        """Keeps a `failed` or `overlapping` request, or counts it if there is no room left."""
        if len(self._others) < self._cap - 3:
            self._others.append((word, ref))
        else:
            self.dropped += 1

    def links(self) -> tuple[tuple[str, RequestRef], ...]:
        """All of them, in the order first, last, slowest, then the others as they happened."""
        named = (("first", self._first), ("last", self._last), ("slowest", self._slowest))
        return (*((word, ref) for word, ref in named if ref is not None), *self._others)


class Tracked:
    """A request in flight; after its end `remembered.py` keeps what a response id has to lead to.

    `figures` is False for requests that record no conversation figures: those that are no turn, and one
    that joined its conversation only when a later request continued it.
    """

    __slots__ = (
        "answers",
        "conversation_supplied",
        "distance",
        "ended_at",
        "figures",
        "generated",
        "known_at_arrival",
        "number",
        "overlapped_by",
        "overtakes",
        "passed",
        "place",
        "request",
        "result",
        "session_supplied",
        "usage_told",
    )

    def __init__(
        self,
        request: SessionRequest,
        *,
        generated: bool,
        session_supplied: bool,
        conversation_supplied: bool,
    ) -> None:
        self.request = request
        self.generated = generated
        self.session_supplied = session_supplied
        self.conversation_supplied = conversation_supplied
        self.answers: tuple[bytes, ...] = ()
        self.figures = request.turn and not self.generated
        self.number = 0
        self.distance = 0
        self.overlapped_by: list[RequestRef] = []
        self.place: Place | None = None
        self.known_at_arrival: KnownWait | None = None
        self.ended_at: int | None = None
        self.passed: Passed | None = None
        self.overtakes: list[Tracked] = []
        self.result: Result | None = None
        self.usage_told = False

    def ended(self, result: Result, at: int) -> int:
        """Notes its end, which is not before its arrival; gives the end (ns)."""
        self.result = result
        self.usage_told = bool(result.input_tokens or result.output_tokens)
        arrived = self.request.arrived_at
        self.ended_at = ended_at = max(arrived, at)
        return ended_at


@record
class Joined:
    """What an arrival means to its conversation; see `Arrival`. `given_up`: its wait will not be known."""

    previous: RequestRef | None
    overlaps: tuple[RequestRef, ...] = ()
    concurrency: int = 0
    think_time: int | None = None
    given_up: bool = False


@record
class Passed:
    """A turn is over for its conversation; `rest` arrived meanwhile and are not named, `waits` became known by it."""

    rest: int = 0
    waits: tuple[KnownWait, ...] = ()


@record
class Left:
    """What an ending means to its conversation; see `Settlement`. `waits` became known by it."""

    distance: int
    overlapped_by_rest: int
    waits: tuple[KnownWait, ...]
    model_dropped: bool


class Conversation:
    """A thread of a named session. Timestamps are ns since the epoch."""

    __slots__ = (
        "_arrived",
        "_highlights",
        "_last_turn_end",
        "_limits",
        "_line",
        "_previous",
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
        self.ended = False
        self.active: dict[str, Tracked] = {}
        self.turns: dict[str, Tracked] = {}
        self.last_failed: RequestRef | None = None
        self.sums = Sums()
        self._limits = limits
        self._line = WaitLine(limits.pending_waits)
        self._highlights = Highlights(limits.links)
        self._previous: RequestRef | None = None
        self._arrived = 0
        self._last_turn_end: int | None = None

    @property
    def waits_open(self) -> int:
        """Turns whose wait is wanted and not known yet."""
        return self._line.unknown

    def next_sequence(self) -> int:
        """Gives out the running number of the next arrival."""
        self.sequence += 1
        return self.sequence

    def join(self, tracked: Tracked) -> Joined:
        """A request arrives, with its sequence and id already given."""
        request = tracked.request
        previous, self._previous = self._previous, request.ref
        self.active[request.request_id] = tracked
        self._highlights.arrived(request.ref)
        if not request.turn:
            return Joined(previous)
        at = request.arrived_at
        others = len(self.turns)
        overlaps: tuple[RequestRef, ...] = ()
        think_time = None
        self._arrived += 1
        tracked.number = self._arrived
        if others:
            latest = islice(reversed(self.turns.values()), self._limits.links)
            overlaps = tuple(other.request.ref for other in latest)
            self._tell_overlapped(request.ref)
        elif self._last_turn_end is not None:
            think_time = max(0, at - self._last_turn_end)
        self.turns[request.request_id] = tracked
        tracked.place = self._line.join(request.ref if tracked.figures else None, at)
        self._count_arrival(tracked, others, think_time)
        given_up = tracked.figures and tracked.place.ref is None
        if not tracked.figures:
            return Joined(previous)
        return Joined(previous, overlaps[::-1], others + 1, think_time, given_up)

    def _tell_overlapped(self, newcomer: RequestRef) -> None:
        """Only the turns that arrived among the last few still have room for one more link."""
        full = self._arrived - self._limits.links
        for other in reversed(self.turns.values()):
            if other.number < full:
                break
            other.overlapped_by.append(newcomer)

    def _count_arrival(self, tracked: Tracked, others: int, think_time: int | None) -> None:
        sums = self.sums
        sums.turns += 1
        if not tracked.figures:
            return
        if others >= sums.most_at_once:
            sums.most_at_once = others + 1
        sums.think_time += think_time or 0
        if others:
            sums.overlaps += 1
            self._highlights.note("overlapping", tracked.request.ref)
        place = tracked.place
        if place is not None and place.wait is not None:
            sums.wait(place.wait)
        elif place is not None and place.ref is None:
            sums.waits_unknown += 1

    def leave(self, tracked: Tracked, result: Result, at: int) -> Left:
        """A request ends. `at` is not before its arrival."""
        request = tracked.request
        del self.active[request.request_id]
        passed = self.turn_passed(tracked, at)
        if result.outcome is Outcome.COMPLETED:
            for other in tracked.overtakes:
                other.distance += 1
        room = self._account(request, result, at)
        in_order = not tracked.figures or result.outcome is not Outcome.COMPLETED
        distance = 0 if in_order else tracked.distance
        if distance:
            self.sums.out_of_order += 1
        return Left(distance, passed.rest, passed.waits, model_dropped=not room)

    def turn_passed(self, tracked: Tracked, at: int) -> Passed:
        """A turn's last byte has been handed over, at the latest as it ends: who comes now does not meet it."""
        passed = tracked.passed
        if passed is not None:
            return passed
        if tracked.place is None:
            passed = Passed()
        else:
            del self.turns[tracked.request.request_id]
            rest = self._arrived - tracked.number - len(tracked.overlapped_by)
            # They stand in order of arrival; how this one ended says whether they have been overtaken.
            tracked.overtakes = list(
                takewhile(lambda other: other.number < tracked.number, self.turns.values())
            )
            self._last_turn_end = max(self._last_turn_end or 0, at)
            passed = Passed(rest, self._pass_line(tracked.place, at))
        tracked.passed = passed
        return passed

    def adopt(self, tracked: Tracked, result: Result, ended_at: int) -> None:
        """Takes in the ended request that the first newcomer continues, as the conversation's first."""
        request = tracked.request
        self._previous = request.ref
        self._highlights.arrived(request.ref)
        if request.turn:
            self._arrived += 1
            self.sums.turns += 1
        self._account(request, result, ended_at)

    def _account(self, request: SessionRequest, result: Result, at: int) -> bool:
        if self.last_ended_at is None or at > self.last_ended_at:
            self.last_ended_at = at
        if request.turn and (self._last_turn_end is None or at > self._last_turn_end):
            self._last_turn_end = at
        if result.outcome is not Outcome.COMPLETED:
            self._highlights.note("failed", request.ref)
            if request.turn:
                self.last_failed = request.ref
        self._highlights.took(request.ref, at - request.arrived_at)
        return self.sums.ended(result, turn=request.turn)

    def _pass_line(self, leaving: Place, at: int) -> tuple[KnownWait, ...]:
        places = self._line.leave(leaving, at)
        if not places:
            return ()
        known = tuple(
            KnownWait(place.ref, place.wait)
            for place in places
            if place.ref is not None and place.wait is not None
        )
        for wait in known:
            self.sums.wait(wait.wait)
        return known

    def summary(
        self, session_id: str, source: str, ended_at: int, *, session_supplied: bool
    ) -> ConversationSummary:
        """The conversation as it ends; waits that are still open are given up as unknown."""
        self.ended = True
        self.sums.waits_unknown += self._line.unknown
        return ConversationSummary(
            session_id=session_id,
            conversation_id=self.conversation_id,
            source=source,
            supplied=self.supplied,
            started_at=self.started_at,
            ended_at=ended_at,
            totals=self.sums.freeze(),
            links=self._highlights.links(),
            links_dropped=self._highlights.dropped,
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
            active=tuple(tracked.request for tracked in self.active.values()),
        )
