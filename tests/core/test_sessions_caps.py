"""Bounded everything: idling, eviction, untracked newcomers, forgotten answers, and listeners that fail."""

import gc
import tracemalloc
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest

from sidecar import SessionManager
from sidecar.core.clock import MILLISECOND, SECOND
from sidecar.core.conversation import MAX_MODELS
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.identity import Identity, Source
from sidecar.core.sessions import (
    ConversationSummary,
    Result,
    SessionLimits,
    SessionListener,
    SessionRequest,
    SessionSummary,
    Turn,
)

REF = bytes(24)


class _Ends(SessionListener):
    """Keeps what ended."""

    def __init__(self) -> None:
        self.sessions: list[SessionSummary] = []
        self.conversations: list[ConversationSummary] = []

    def session_ended(self, summary: SessionSummary) -> None:
        self.sessions.append(summary)

    def conversation_ended(self, summary: ConversationSummary) -> None:
        self.conversations.append(summary)

    @property
    def names(self) -> list[str]:
        """The ids of the ended sessions, in order."""
        return [summary.session_id for summary in self.sessions]


def manager_with(limits: SessionLimits) -> tuple[SessionManager, _Ends]:
    """A manager and what it ends."""
    manager, ends = SessionManager(limits=limits), _Ends()
    manager.add_listener(ends)
    return manager, ends


def arrive(
    manager: SessionManager, at: int, session: str, conversation: str = "main", source: Source = Source.BODY
) -> Turn:
    """A turn arrives at so many ns."""
    identity = Identity(session, source, conversation)
    return manager.arrive(identity, at=at, streaming=False, turn=True, ref=at.to_bytes(24, "big"))


def call(manager: SessionManager, at: int, session: str, conversation: str = "main") -> Turn:
    """A turn arrives and completes at once."""
    arrival = arrive(manager, at, session, conversation)
    manager.settle(arrival, Outcome.COMPLETED, at=at)
    return arrival


def test_sessions_end_when_idle_in_order_of_their_last_ending() -> None:
    """The one that ended longest ago goes first, to the nanosecond, and busy ones stay."""
    manager, ends = manager_with(SessionLimits(session_idle=30 * SECOND))
    slow = arrive(manager, 0, "slow")
    call(manager, 1, "a")
    call(manager, 2, "b")
    call(manager, 3, "a")
    busy = arrive(manager, 4, "busy")
    manager.settle(slow, Outcome.COMPLETED, at=5)
    expiry = manager.next_expiry
    assert expiry == 2 + 30 * SECOND
    assert manager.expire(2 + 30 * SECOND - 1) == 0
    assert manager.expire(2 + 30 * SECOND) == 1
    assert ends.names == ["b"]
    assert manager.expire(60 * SECOND, most=1) == 1
    assert manager.expire(60 * SECOND) == 1
    assert ends.names == ["b", "a", "slow"]
    assert manager.next_expiry is None
    assert manager.is_request_active(busy.request_id)
    assert (manager.sessions_active, manager.conversations_active) == (1, 1)
    assert (ends.sessions[1].started_at, ends.sessions[1].ended_at) == (1, 3)


def test_no_session_is_quiet_while_no_request_could_have_come() -> None:
    """It ends as much later as that took since its last request: none, once, or twice."""
    manager, ends = manager_with(SessionLimits(session_idle=30 * SECOND))
    call(manager, 0, "a")
    call(manager, SECOND, "goes-on")
    manager.stood_still(60 * SECOND, 62 * SECOND)
    assert manager.expire(70 * SECOND) == 0
    assert call(manager, 70 * SECOND, "goes-on").sequence == 2
    call(manager, 71 * SECOND, "b")
    manager.stood_still(5 * SECOND, 77 * SECOND)
    call(manager, 80 * SECOND, "c")
    due = [("a", 95), ("goes-on", 105), ("b", 106), ("c", 110)]
    for number, (name, at) in enumerate(due):
        assert manager.next_expiry == at * SECOND
        assert manager.expire(at * SECOND - 1) == 0
        assert manager.expire(at * SECOND) == 1
        assert ends.names[number:] == [name]
    assert ends.sessions[0].ended_at == 0


def test_what_ended_before_the_standstill_was_known_is_no_longer_quiet_for_it() -> None:
    """A session whose last request ended between the standstill and the look at the clock: it had been heard."""
    manager, ends = manager_with(SessionLimits(session_idle=30 * SECOND))
    call(manager, 0, "before")
    call(manager, 3600 * SECOND, "after")
    manager.stood_still(3600 * SECOND, 3601 * SECOND)
    for name, at in (("before", 3630), ("after", 3631)):
        assert manager.expire(at * SECOND - 1) == 0
        assert manager.expire(at * SECOND) == 1
        assert ends.names[-1:] == [name]


def test_a_returning_id_is_a_new_session_even_if_no_timer_ran() -> None:
    """Idle for exactly long enough: the old one ends first, and the count starts again at 1."""
    manager, ends = manager_with(SessionLimits(session_idle=SECOND))
    call(manager, 0, "s")
    assert call(manager, SECOND - 1, "s").sequence == 2
    assert ends.names == []
    assert call(manager, 2 * SECOND - 1, "s").sequence == 1
    assert ends.names == ["s"]
    assert ends.sessions[0].ended_at == SECOND - 1
    assert manager.get_session_stats().total_sessions == 2


def test_the_longest_idle_session_makes_room() -> None:
    """Over the limit it is ended and counted; one that was due anyway is no eviction."""
    manager, ends = manager_with(SessionLimits(sessions=2, session_idle=SECOND))
    call(manager, 0, "a")
    call(manager, 1, "b")
    call(manager, 2, "a")
    call(manager, 3, "c")
    assert ends.names == ["b"]
    assert manager.get_session_stats().anomalies == {Anomaly.SESSION_EVICTED: 1}
    call(manager, 2 * SECOND, "d")
    assert ends.names == ["b", "a"]
    assert manager.get_session_stats().anomalies == {Anomaly.SESSION_EVICTED: 1}


def test_if_all_sessions_are_busy_the_newcomer_passes_untracked() -> None:
    """It is number 0, counts nowhere but in the totals, and can be seen while it is in flight."""
    manager, ends = manager_with(SessionLimits(sessions=1))
    busy = arrive(manager, 0, "busy")
    newcomer = arrive(manager, 1, "newcomer")
    assert (newcomer.sequence, newcomer.tracked, newcomer.concurrency) == (0, False, 0)
    assert ":0:" in newcomer.request_id
    assert [each.session_id for each in manager.get_active_requests("newcomer")] == ["newcomer"]
    assert manager.settle(newcomer, Outcome.COMPLETED, at=2)
    assert (newcomer.wait, newcomer.revealed, newcomer.given_up) == (None, (), False)
    stats = manager.get_session_stats()
    assert (stats.total_sessions, stats.untracked_requests, stats.completed_requests) == (1, 1, 1)
    assert stats.anomalies == {Anomaly.SESSION_UNTRACKED: 1}
    assert manager.is_request_active(busy.request_id)
    assert ends.names == []


def test_an_untracked_continuation_leaves_the_first_as_it_was() -> None:
    """Without room for the session, the made-up first is still to be continued later."""
    manager, _ = manager_with(SessionLimits(sessions=1))
    first = arrive(manager, 0, "g", source=Source.GENERATED)
    manager.settle(first, Outcome.COMPLETED, at=1, response_id="resp")
    busy = arrive(manager, 2, "busy")
    chain = Identity("g", Source.RESPONSE_CHAIN)
    for at, sequence in ((3, 0), (5, 2)):
        entry = manager.chain("resp")
        assert entry is not None
        assert entry.generated
        arrival = manager.arrive(chain, at=at, streaming=False, turn=True, ref=REF, continues=entry)
        assert arrival.sequence == sequence
        if manager.is_request_active(busy.request_id):
            manager.settle(busy, Outcome.COMPLETED, at=4)


def test_no_room_for_any_conversation_leaves_everything_untracked() -> None:
    """A cap of 0 is a strange wish, and harmless: also for a made-up first that is continued."""
    manager, ends = manager_with(SessionLimits(conversations_per_session=0))
    first = arrive(manager, 0, "g", source=Source.GENERATED)
    manager.settle(first, Outcome.COMPLETED, at=1, response_id="resp")
    arrival = manager.arrive(
        Identity("g", Source.RESPONSE_CHAIN),
        at=2,
        streaming=False,
        turn=True,
        ref=REF,
        continues=manager.chain("resp"),
    )
    assert (arrival.sequence, arrival.tracked) == (0, False)
    manager.settle(arrival, Outcome.COMPLETED, at=3)
    manager.shutdown(4)
    assert ends.names == ["g"]


def test_the_longest_idle_conversation_makes_room() -> None:
    """It ends earlier than its session, whose sums keep it; back again it starts at 1."""
    manager, ends = manager_with(SessionLimits(conversations_per_session=2))
    call(manager, 0, "s", "a")
    call(manager, 1, "s", "b")
    call(manager, 2, "s", "a")
    call(manager, 3, "s", "c")
    assert [each.conversation_id for each in ends.conversations] == ["b"]
    assert call(manager, 4, "s", "b").sequence == 1
    manager.shutdown(10)
    assert [each.conversation_id for each in ends.conversations] == ["b", "a", "c", "b"]
    assert (ends.sessions[0].conversations, ends.sessions[0].totals.turns) == (4, 5)
    assert manager.get_session_stats().anomalies == {Anomaly.CONVERSATION_EVICTED: 2}


def test_if_all_conversations_are_busy_the_newcomer_passes_untracked() -> None:
    """It keeps its session alive all the same."""
    manager, ends = manager_with(SessionLimits(conversations_per_session=1, session_idle=SECOND))
    busy = arrive(manager, 0, "s", "a")
    newcomer = arrive(manager, 1, "s", "b")
    assert (newcomer.sequence, newcomer.tracked) == (0, False)
    manager.settle(busy, Outcome.COMPLETED, at=2)
    assert (manager.next_expiry, manager.conversations_busy) == (None, 0)
    manager.settle(newcomer, Outcome.COMPLETED, at=3)
    assert manager.next_expiry == 3 + SECOND
    assert manager.get_session_stats().anomalies == {Anomaly.CONVERSATION_UNTRACKED: 1}
    assert manager.expire(3 + SECOND) == 1
    assert ends.sessions[0].ended_at == 3


def test_shutdown_ends_busy_sessions_and_late_endings_still_settle() -> None:
    """Open waits are unknown; a request that ends after it is settled without figures."""
    manager, ends = manager_with(SessionLimits())
    one, two = arrive(manager, 0, "s"), arrive(manager, 1, "s")
    manager.shutdown(100)
    assert (ends.sessions[0].ended_at, ends.conversations[0].ended_at) == (100, 100)
    assert ends.conversations[0].totals.waits_unknown == 1
    assert manager.get_session_stats().waits_unknown == 1
    for late in (one, two):
        assert manager.settle(late, Outcome.SHUTDOWN, at=200)
        assert late.distance == 0
    stats = manager.get_session_stats()
    assert (stats.active_requests, stats.failed_requests, stats.active_sessions) == (0, 2, 0)
    assert manager.next_expiry is None


def test_links_are_capped_and_the_rest_counted() -> None:
    """Both sides of an overlap name at most so many others; summaries too."""
    manager, ends = manager_with(SessionLimits(links=4))
    turns = [arrive(manager, at, "s") for at in range(8)]
    assert list(turns[-1].overlaps) == [turn.ref for turn in turns[3:7]]
    assert (turns[-1].concurrency, turns[-1].overlap_count) == (8, 7)
    assert manager.settle(turns[0], Outcome.COMPLETED, at=10)
    assert list(turns[0].overlapped_by) == [turn.ref for turn in turns[1:5]]
    assert (turns[0].overlapped_by_rest, turns[0].overlapped_by_count) == (3, 7)
    assert Anomaly.LINKS_CAP not in manager.get_session_stats().anomalies
    manager.shutdown(20)
    assert manager.get_session_stats().anomalies[Anomaly.LINKS_CAP] == 1
    summary = ends.conversations[0]
    assert [word for word, _ in summary.links] == ["first", "last", "slowest", "overlapping"]
    assert summary.links_dropped == 6


def test_answers_and_keys_are_forgotten_oldest_first() -> None:
    """Both memories are bounded, and what had to go is counted."""
    manager, _ = manager_with(SessionLimits(response_chain=2, retry_keys=2))
    for number in range(3):
        arrival = arrive(manager, number, "s")
        manager.settle(arrival, Outcome.COMPLETED, at=number, response_id=f"resp_{number}")
        manager.seen_before(f"key-{number}", REF)
    assert manager.chain("resp_0") is None
    assert manager.chain("resp_1") is not None
    assert manager.seen_before("key-2", REF) is not None
    assert manager.seen_before("key-0", REF) is None
    anomalies = manager.get_session_stats().anomalies
    assert (anomalies[Anomaly.RESPONSE_CHAIN_EVICTED], anomalies[Anomaly.RETRY_KEY_EVICTED]) == (1, 2)


def test_models_of_a_summary_are_capped() -> None:
    """A caller that names a new model each time fills no memory."""
    manager, ends = manager_with(SessionLimits())
    for number in range(MAX_MODELS + 2):
        arrival = arrive(manager, number, "s")
        manager.settle(arrival, Outcome.COMPLETED, model=f"m{number}" * 100, at=number)
    manager.shutdown(1000)
    models = ends.sessions[0].totals.models
    assert len(models) == MAX_MODELS
    assert max(len(model) for model in models) == 200
    assert manager.get_session_stats().anomalies == {Anomaly.MODEL_CAP: 2}


def test_models_that_completed_a_request_come_first() -> None:
    """Names that only failed are told where there is room, and take none from the others, before or after them."""
    manager, ends = manager_with(SessionLimits())
    failed = [f"junk{number}" for number in range(MAX_MODELS + 2)]
    calls = [*((model, Outcome.UPSTREAM_REJECTED) for model in failed)]
    calls += [(model, Outcome.COMPLETED) for model in ("real", "junk1", "real")]
    for number, (model, outcome) in enumerate(calls):
        arrival = arrive(manager, number, "s")
        manager.settle(arrival, outcome, model=model, at=number)
    manager.shutdown(1000)
    told = ("real", "junk1", "junk0", *failed[2 : MAX_MODELS - 1])
    assert ends.sessions[0].totals.models == ends.conversations[0].totals.models == told
    assert manager.get_session_stats().anomalies[Anomaly.MODEL_CAP] == 2


def test_a_listener_that_raises_is_counted_and_disturbs_nobody() -> None:
    """The request goes on, the other listeners are told, and so is the failure."""
    told: list[str] = []

    class Broken(SessionListener):
        def request_generated(self, request: SessionRequest) -> None:
            raise RuntimeError("broken")

        def anomaly(self, anomaly: Anomaly) -> None:
            raise RuntimeError("broken too")

    class Well(SessionListener):
        def request_generated(self, request: SessionRequest) -> None:
            told.append(request.request_id)

        def anomaly(self, anomaly: Anomaly) -> None:
            told.append(anomaly.value)

    manager = SessionManager()
    well = Well()
    for listener in (Broken(), well, well):
        manager.add_listener(listener)
    request_id = manager.generate_request_id("s", None, False)
    assert told == ["listener_failed", request_id]
    manager.complete_request(request_id)
    assert manager.get_session_stats().anomalies == {Anomaly.LISTENER_FAILED: 1}


@pytest.mark.parametrize("source,early", [(Source.GENERATED, False), (Source.OWN_HEADER, True)])
def test_an_answer_is_remembered_in_few_bytes(source: Source, early: bool) -> None:
    """300 bytes for each of 40,000 answers, key and map included, with ids and a model as long as they are."""
    many, dice = 40_000, Random(1)
    manager = SessionManager(limits=SessionLimits(sessions=1, response_chain=many))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for at in range(many + 1000):
        identity = Identity(str(UUID(int=dice.getrandbits(128))), source)
        arrival = manager.arrive(
            identity,
            at=at,
            streaming=early,
            turn=True,
            ref=dice.randbytes(24),
        )
        response_id = f"resp_{dice.getrandbits(192):048x}"
        if early:
            manager.learn_response(arrival, response_id)
        manager.settle(
            arrival,
            Outcome.COMPLETED,
            at=at + 1,
            model="gpt-4o-2024-08-06",
            input_tokens=9,
            output_tokens=9,
            response_id=response_id,
        )
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / many <= 300
    assert manager.chain(response_id) is not None
    assert manager.get_session_stats().anomalies[Anomaly.RESPONSE_CHAIN_EVICTED] == 1000


IDENTITIES = [
    Identity("s", Source.GENERATED, session_supplied=False),
    Identity("s" * 200, Source.BODY, "c" * 200, conversation_supplied=True),
]
RESULTS = [
    Result(Outcome.COMPLETED, 7, "gpt-4o", input_tokens=1, output_tokens=2**80),
    Result(Outcome.TIMED_OUT, 7, "ein Modell\nof lines \udc80", input_tokens=0),
    Result(Outcome.CLIENT_LEFT, 7),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.outcome)
@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.source)
@pytest.mark.parametrize("yes", [True, False])
def test_what_is_remembered_of_an_answer(identity: Identity, result: Result, yes: bool) -> None:
    """All that a continuation is told, whatever it was; the answer's own request has ended."""
    manager = SessionManager()
    ref = b"\xff" * 24 if yes else bytes(24)
    arrival = manager.arrive(identity, at=5, streaming=yes, turn=yes, ref=ref, sampled=yes)
    manager.learn_response(arrival, "resp")
    running = manager.chain(" resp ")
    manager.settle(
        arrival,
        result.outcome,
        at=12,
        model=result.model,
        input_tokens=result.input_tokens,
        output_tokens=result.output_tokens,
    )
    ended = manager.chain("resp")
    assert running is not None
    assert ended is not None
    assert replace(running, response_id="resp") == ended
    assert ended.ref == ref
    assert manager.claim_usage("resp") is not bool(result.input_tokens or result.output_tokens)
    assert not manager.claim_usage("resp")


@pytest.mark.parametrize("sessions", [1, 100])
def test_many_sessions_stay_within_the_cap(sessions: int) -> None:
    """A flood of new ids holds no more than the cap, and every one is accounted for."""
    manager, ends = manager_with(SessionLimits(sessions=sessions))
    for number in range(1000):
        call(manager, number * MILLISECOND, f"s{number}")
        assert manager.sessions_active <= sessions
    manager.shutdown(1000 * MILLISECOND)
    assert len(ends.sessions) == 1000
    assert ends.names == [f"s{number}" for number in range(1000)]
