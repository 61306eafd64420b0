"""Random interleavings against a slow reference: order, overlap and the queue replayed turn by turn."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import SessionManager
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.identity import Identity, Source
from sidecar.core.sessions import KnownWait, Ref, SessionLimits, SessionListener
from sidecar.core.sessions import Turn as Told

LINKS = 4


class _Waits(SessionListener):
    """Keeps the waits listeners are told, and counts the unknown ones."""

    def __init__(self) -> None:
        self.known: list[KnownWait] = []
        self.unknown = 0

    def wait_known(self, wait: KnownWait) -> None:
        self.known.append(wait)

    def waits_unknown(self, count: int) -> None:
        self.unknown += count


@dataclass
class Turn:
    """One request of the reference: what was done with it and what the manager said."""

    arrived: int
    is_turn: bool
    told: Told
    passed: int | None = None
    """Its last byte was handed over then; as it ended, if nothing was left to read."""
    order_of_pass: int = -1
    ended: int | None = None
    order_of_end: int = -1
    outcome: Outcome | None = None


@dataclass
class Run:
    """One conversation driven at random, remembered in full."""

    manager: SessionManager
    told: _Waits
    now: int = 1_000_000_000
    turns: list[Turn] = field(default_factory=list)
    overlapping: list[list[int]] = field(default_factory=list)
    steps: int = 0

    def arrive(self, *, is_turn: bool) -> None:
        """A request arrives now."""
        self.overlapping.append(
            [number for number, each in enumerate(self.turns) if each.passed is None and each.is_turn]
            if is_turn
            else []
        )
        told = self.manager.arrive(
            Identity("s", Source.BODY),
            at=self.now,
            streaming=False,
            turn=is_turn,
            ref=(len(self.turns) + 1).to_bytes(24, "big"),
        )
        self.turns.append(Turn(self.now, is_turn, told))

    def end(self, choice: int, outcome: Outcome | None) -> None:
        """One of those in flight ends now, or has passed by now if it has no outcome yet."""
        flying = [each for each in self.turns if each.ended is None]
        if not flying:
            return
        self.go_on(flying[choice % len(flying)], outcome)

    def go_on(self, turn: Turn, outcome: Outcome | None) -> None:
        """The same of one turn."""
        self.steps += 1
        if turn.passed is None:
            turn.passed, turn.order_of_pass = self.now, self.steps
        if outcome is None:
            self.manager.passed(turn.told, self.now)
            return
        turn.ended, turn.outcome = self.now, outcome
        turn.order_of_end = self.steps
        assert self.manager.settle(turn.told, outcome, at=self.now)


def of(ref: Ref) -> int:
    """The number of the request that a reference names."""
    return int.from_bytes(ref, "big")


def reference_waits(turns: list[Turn]) -> dict[int, int]:
    """The queue, replayed turn by turn; stops being known after the first turn in flight."""
    known: dict[int, int] = {}
    free_at = 0
    for each in turns:
        if not each.is_turn:
            continue
        begin = max(each.arrived, free_at)
        known[each.told.sequence] = begin - each.arrived
        if each.passed is None:
            break
        free_at = begin + each.passed - each.arrived
    return known


def reference_distance(turns: list[Turn], turn: Turn) -> int:
    """How many later turns had passed and completed before this one did."""
    if not turn.is_turn or turn.outcome is not Outcome.COMPLETED:
        return 0
    return sum(
        each.is_turn
        and each.told.sequence > turn.told.sequence
        and each.outcome is Outcome.COMPLETED
        and each.order_of_pass < turn.order_of_pass
        and each.order_of_end < turn.order_of_end
        for each in turns
    )


def reference_think_time(turns: list[Turn], number: int) -> int | None:
    """From the last time a turn had passed to the arrival of this one, if none was in flight then."""
    turn = turns[number]
    before = [each for each in turns[:number] if each.is_turn]
    if not turn.is_turn or not before or turn.told.concurrency > 1:
        return None
    return turn.arrived - max(each.passed for each in before if each.passed is not None)


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 50),
        st.one_of(
            st.sampled_from(["turn", "turn", "turn", "other"]),
            st.tuples(
                st.integers(0, 30),
                st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.TIMED_OUT, None]),
            ),
        ),
    ),
    max_size=60,
)


def drive(actions: list[tuple[int, str | tuple[int, Outcome | None]]], limits: SessionLimits) -> Run:
    """Plays the actions, holding the invariants at every step; what has passed has ended then."""
    told = _Waits()
    run = Run(SessionManager(limits=limits), told)
    run.manager.add_listener(told)
    for pause, action in actions:
        run.now += pause
        if isinstance(action, str):
            run.arrive(is_turn=action == "turn")
        else:
            run.end(*action)
        stats = run.manager.get_session_stats()
        in_flight = [each for each in run.turns if each.ended is None]
        turns_in_flight = sum(each.is_turn and each.passed is None for each in in_flight)
        assert (
            stats.total_requests == stats.completed_requests + stats.failed_requests + stats.active_requests
        )
        assert stats.active_requests == len(in_flight) == len(run.manager.get_active_requests("s"))
        assert run.manager.overlapping == max(0, turns_in_flight - 1)
        assert run.manager.most_concurrent == turns_in_flight
        assert run.manager.conversations_busy == bool(in_flight)
    for turn in run.turns:
        if turn.passed is not None and turn.ended is None:
            run.go_on(turn, Outcome.COMPLETED)  # what it has revealed is told as it ends
    return run


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_figures_equal_the_slow_reference(
    actions: list[tuple[int, str | tuple[int, Outcome | None]]],
) -> None:
    """_Waits, overlaps, distances and who overlapped whom, on any interleaving."""
    run = drive(actions, SessionLimits(links=LINKS))
    known = reference_waits(run.turns)
    assert {of(wait.request): wait.wait for wait in run.told.known} == known
    assert len(run.told.known) == len(known)
    for number, turn in enumerate(run.turns):
        overlapped = run.overlapping[number]
        assert turn.told.concurrency == (len(overlapped) + 1 if turn.is_turn else 0)
        assert [of(ref) - 1 for ref in turn.told.overlaps] == overlapped[-LINKS:]
        assert turn.told.think_time == reference_think_time(run.turns, number)
        if turn.ended is None:
            continue
        assert turn.told.distance == reference_distance(run.turns, turn)
        overlapped_by = [later for later, others in enumerate(run.overlapping) if number in others]
        assert [of(ref) - 1 for ref in turn.told.overlapped_by] == overlapped_by[:LINKS]
        assert turn.told.overlapped_by_rest == max(0, len(overlapped_by) - LINKS)
        assert turn.told.wait in (None, known.get(turn.told.sequence))
    revealed = {of(ref): wait for turn in run.turns for wait, ref, *_ in turn.told.revealed}
    at_arrival = {sequence: wait for sequence, wait in known.items() if not run.overlapping[sequence - 1]}
    assert sum(len(turn.told.revealed) for turn in run.turns) == len(revealed)
    assert not revealed.keys() & at_arrival.keys()
    assert revealed | at_arrival == known


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(0, 3))
def test_the_cap_gives_waits_up_and_keeps_the_others_exact(
    actions: list[tuple[int, str | tuple[int, Outcome | None]]], cap: int
) -> None:
    """What the cap leaves is exact, and known + unknown are all turns once everything has ended."""
    run = drive(actions, SessionLimits(pending_waits=cap))
    while any(each.ended is None for each in run.turns):
        run.now += 7
        run.end(1, Outcome.COMPLETED)
    told = {of(wait.request): wait.wait for wait in run.told.known}
    assert told.items() <= reference_waits(run.turns).items()
    turns = sum(each.is_turn for each in run.turns)
    assert len(told) + run.told.unknown == turns
    stats = run.manager.get_session_stats()
    assert (stats.waits_known, stats.waits_unknown) == (len(told), run.told.unknown)
    assert stats.anomalies.get(Anomaly.PENDING_WAITS_CAP, 0) == run.told.unknown
    dropped = sum(each.told.given_up for each in run.turns)
    assert dropped == run.told.unknown


@settings(max_examples=100, deadline=None)
@given(ACTIONS)
def test_shutdown_leaves_nothing_open(actions: list[tuple[int, str | tuple[int, Outcome | None]]]) -> None:
    """After a shutdown every turn's wait is known or counted as unknown, and late endings still count."""
    run = drive(actions, SessionLimits())
    turns = sum(each.is_turn for each in run.turns)
    run.manager.shutdown(run.now)
    assert len(run.told.known) + run.told.unknown == turns
    assert run.manager.sessions_active == run.manager.conversations_active == 0
    assert run.manager.overlapping == run.manager.most_concurrent == run.manager.conversations_busy == 0
    while any(each.ended is None for each in run.turns):
        run.end(0, Outcome.SHUTDOWN)
    stats = run.manager.get_session_stats()
    assert stats.active_requests == 0
    assert stats.total_requests == len(run.turns)
    assert len(run.told.known) + run.told.unknown == turns
