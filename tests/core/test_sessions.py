"""The session manager on exact milliseconds: order, overlap, waits, think time, and what it hands out."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from itertools import count

import pytest

from sidecar import SessionManager
from sidecar.core.clock import MILLISECOND
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.identity import ChainEntry, Identity, Source
from sidecar.core.sessions import (
    ConversationSummary,
    KnownWait,
    Ref,
    Result,
    SessionLimits,
    SessionListener,
    SessionRequest,
    SessionSummary,
    Turn,
)

START = 1_700_000_000_000
"""Unix milliseconds at which every transcript begins."""


def ref(number: int) -> Ref:
    """The context of a request's span, by its number."""
    return bytes(22) + number.to_bytes(2, "big")


def number(ref: Ref | None) -> int:
    """The number of a reference."""
    assert ref is not None
    return int.from_bytes(ref, "big")


def numbers(refs: Sequence[Ref]) -> list[int]:
    """The numbers of some references."""
    return [number(ref) for ref in refs]


class _Transcript(SessionListener):
    """Writes down what listeners are told, one short line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.sessions: list[SessionSummary] = []
        self.conversations: list[ConversationSummary] = []
        self.waits: list[KnownWait] = []
        self.unknown = 0

    def session_started(self, session_id: str, source: str, at: int) -> None:
        self.lines.append(f"session {session_id} by {source} at {at // MILLISECOND - START}")

    def session_ended(self, summary: SessionSummary) -> None:
        self.sessions.append(summary)
        self.lines.append(f"session {summary.session_id} ended")

    def conversation_started(self, session_id: str, conversation_id: str, at: int) -> None:
        self.lines.append(f"conversation {session_id}/{conversation_id} at {at // MILLISECOND - START}")

    def conversation_ended(self, summary: ConversationSummary) -> None:
        self.conversations.append(summary)
        self.lines.append(f"conversation {summary.session_id}/{summary.conversation_id} ended")

    def request_generated(self, request: SessionRequest) -> None:
        self.lines.append(f"{request.session_id}#{request.sequence} generated")

    def request_completed(self, request: SessionRequest, result: Result) -> None:
        self.lines.append(f"{request.session_id}#{request.sequence} completed")

    def request_failed(self, request: SessionRequest, result: Result) -> None:
        self.lines.append(f"{request.session_id}#{request.sequence} failed: {result.outcome}")

    def response_out_of_order(self, request: SessionRequest, distance: int) -> None:
        self.lines.append(f"{request.session_id}#{request.sequence} out of order by {distance}")

    def wait_known(self, wait: KnownWait) -> None:
        self.waits.append(wait)
        self.lines.append(f"#{number(wait.request)} waited not {wait.wait // MILLISECOND}")

    def waits_unknown(self, count: int) -> None:
        self.unknown += count
        self.lines.append(f"{count} waits unknown")

    def anomaly(self, anomaly: Anomaly) -> None:
        self.lines.append(f"anomaly {anomaly}")


class Driver:
    """A session manager driven by milliseconds since `START`."""

    def __init__(self, limits: SessionLimits | None = None) -> None:
        dice = count()
        self.manager = SessionManager(random=lambda: next(dice), limits=limits or SessionLimits())
        self.told = _Transcript()
        self.manager.add_listener(self.told)
        self._spans = count(1)

    def arrive(
        self,
        at: int,
        session: str = "s",
        conversation: str = "main",
        *,
        source: Source = Source.OWN_HEADER,
        turn: bool = True,
        continues: ChainEntry | None = None,
    ) -> Turn:
        """A request arrives; its span id is the number of arrivals so far."""
        return self.manager.arrive(
            Identity(session, source, conversation, conversation_supplied=conversation != "main"),
            at=(START + at) * MILLISECOND,
            streaming=False,
            turn=turn,
            ref=ref(next(self._spans)),
            continues=continues,
        )

    def end(
        self,
        turn: Turn,
        at: int,
        outcome: Outcome = Outcome.COMPLETED,
        response_id: str | None = None,
        *,
        model: str | None = None,
        tokens: tuple[int | None, int | None] = (None, None),
    ) -> Turn:
        """It ends; `tokens` are input and output."""
        assert self.manager.settle(
            turn,
            outcome,
            at=(START + at) * MILLISECOND,
            model=model,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            response_id=response_id,
        )
        return turn


def waits(turn: Turn) -> dict[int, int]:
    """Number to milliseconds, of the waits that became known by an ending."""
    return {number(ref): wait // MILLISECOND for wait, ref, *_ in turn.revealed}


def test_three_turns_that_end_three_one_two() -> None:
    """The hardest case of all: sequence, overlaps, distances and waits are exact to the millisecond."""
    driver = Driver()
    one, two, three = driver.arrive(0), driver.arrive(100), driver.arrive(200)
    assert [one.sequence, two.sequence, three.sequence] == [1, 2, 3]
    assert [numbers(each.overlaps) for each in (one, two, three)] == [[], [1], [1, 2]]
    assert [each.concurrency for each in (one, two, three)] == [1, 2, 3]
    assert (one.previous, number(two.previous), number(three.previous)) == (None, 1, 2)
    assert (driver.manager.overlapping, driver.manager.most_concurrent) == (2, 3)

    third = driver.end(three, 500)
    first = driver.end(one, 900)
    second = driver.end(two, 1200)

    assert [third.distance, first.distance, second.distance] == [0, 1, 1]
    assert [numbers(each.overlapped_by) for each in (third, first, second)] == [[], [2, 3], [3]]
    assert [third.wait, first.wait, second.wait] == [None, 0, 800 * MILLISECOND]
    assert [waits(third), waits(first), waits(second)] == [{}, {2: 800}, {3: 1800}]
    assert driver.told.lines == [
        "session s by own_header at 0",
        "conversation s/main at 0",
        "s#1 generated",
        "#1 waited not 0",
        "s#2 generated",
        "s#3 generated",
        "s#3 completed",
        "s#1 completed",
        "s#1 out of order by 1",
        "#2 waited not 800",
        "s#2 completed",
        "s#2 out of order by 1",
        "#3 waited not 1800",
    ]
    stats = driver.manager.get_session_stats()
    assert (stats.turns, stats.overlaps, stats.out_of_order_responses) == (3, 2, 2)
    assert (stats.waits_known, stats.wait_avoided, stats.waits_unknown) == (3, 2600 * MILLISECOND, 0)
    assert (driver.manager.overlapping, driver.manager.most_concurrent) == (0, 0)


def test_the_queue_would_still_be_busy() -> None:
    """A turn that overlaps nobody still has a wait: the queue would not have served the earlier ones yet."""
    driver = Driver()
    pair = driver.arrive(0), driver.arrive(0)
    for turn in pair:
        driver.end(turn, 1000)
    late = driver.arrive(1500)
    assert late.overlaps == ()
    assert driver.told.lines[-1] == "#3 waited not 500"
    assert driver.end(late, 1600).wait == 500 * MILLISECOND


def test_every_wait_is_reported_once() -> None:
    """Listeners, and arrivals and endings, each tell every turn's wait exactly once."""
    driver = Driver()
    one, two = driver.arrive(0), driver.arrive(10)
    assert (one.wait, two.wait) == (0, None)
    assert [waits(driver.end(one, 50)), waits(driver.end(two, 60))] == [{2: 40}, {}]
    told = [(known.wait, known.request, known.sampled) for known in driver.told.waits]
    assert told == [(0, ref(1), True), (40 * MILLISECOND, ref(2), True)]


def test_failed_turns_neither_are_nor_make_others_out_of_order() -> None:
    """Only completed turns count for order; the queue would have served the failed ones all the same."""
    driver = Driver()
    one, two, three = driver.arrive(0), driver.arrive(1), driver.arrive(2)
    assert driver.end(three, 10, Outcome.CLIENT_LEFT).distance == 0
    assert driver.end(two, 20).distance == 0
    late = driver.end(one, 30, Outcome.TIMED_OUT)
    assert late.distance == 0
    assert waits(late) == {2: 29, 3: 47}


def test_distance_counts_every_overtaker() -> None:
    """Distance is how many later turns have completed."""
    driver = Driver()
    turns = [driver.arrive(at) for at in range(5)]
    assert [driver.end(turn, 10).distance for turn in reversed(turns)] == [0, 1, 2, 3, 4]


def test_think_time_only_when_nothing_is_in_flight() -> None:
    """It runs from the last ending of a turn to the next arrival, and not while a turn is in flight."""
    driver = Driver()
    one = driver.arrive(0)
    assert one.think_time is None
    two = driver.arrive(10)
    driver.end(two, 20)
    assert driver.arrive(25, turn=False).think_time is None
    three = driver.arrive(30)
    assert three.think_time is None
    driver.end(three, 40)
    driver.end(one, 50)
    assert driver.arrive(75).think_time == 25 * MILLISECOND


def test_requests_that_are_no_turn_have_a_number_and_no_figures() -> None:
    """Token counting beside a turn overlaps nobody and waits for nobody."""
    driver = Driver()
    turn, counting = driver.arrive(0), driver.arrive(1, turn=False)
    assert (counting.sequence, counting.overlaps, counting.concurrency) == (2, (), 0)
    assert number(counting.previous) == 1
    settled = driver.end(counting, 5)
    assert (settled.wait, settled.revealed, settled.distance) == (None, (), 0)
    assert driver.end(turn, 10).distance == 0
    assert driver.arrive(20).sequence == 3


def test_conversations_of_a_session_do_not_touch_each_other() -> None:
    """A sub-agent beside its parent is no overlap, and has numbers of its own."""
    driver = Driver()
    parent, child = driver.arrive(0), driver.arrive(1, conversation="agent-1")
    assert (child.sequence, child.overlaps, child.previous) == (1, (), None)
    assert (driver.manager.sessions_active, driver.manager.conversations_active) == (1, 2)
    assert (driver.manager.conversations_busy, driver.manager.overlapping) == (2, 0)
    driver.end(child, 5)
    assert driver.end(parent, 6).distance == 0
    assert driver.manager.conversations_busy == 0


@pytest.mark.parametrize("source", [Source.GENERATED, Source.UNINSPECTED])
def test_made_up_sessions_are_visible_but_not_counted(source: Source) -> None:
    """A made-up id gets number 1, no session and no figures, but its request can be seen."""
    driver = Driver()
    arrival = driver.arrive(0, session="made-up", source=source)
    assert (arrival.sequence, arrival.tracked, arrival.concurrency) == (1, True, 0)
    assert [each.request_id for each in driver.manager.get_active_requests("made-up")] == [arrival.request_id]
    assert driver.manager.is_request_active(arrival.request_id)
    settled = driver.end(arrival, 10)
    assert (settled.distance, settled.overlapped_by, settled.wait, settled.revealed) == (0, (), None, ())
    assert driver.manager.get_active_requests("made-up") == []
    stats = driver.manager.get_session_stats()
    assert (stats.total_sessions, stats.completed_requests, stats.waits_known) == (0, 1, 0)
    assert driver.told.lines == ["made-up#1 generated", "made-up#1 completed"]


def test_continuing_a_made_up_session_makes_it_one() -> None:
    """The first request counts as number 1, the newcomer is 2, and the session began with the first."""
    driver = Driver()
    first = driver.arrive(0, session="g", source=Source.GENERATED)
    driver.end(first, 100, response_id="resp_1", tokens=(None, 3))
    entry = driver.manager.chain("resp_1")
    assert entry is not None
    assert (entry.session_id, entry.conversation_id, entry.generated) == ("g", "main", True)
    second = driver.arrive(150, session="g", source=Source.RESPONSE_CHAIN, continues=entry)
    assert second.sequence == 2
    assert second.previous == entry.ref
    assert second.think_time == 50 * MILLISECOND
    assert second.concurrency == 1
    again = driver.manager.chain("resp_1")
    assert again is not None
    assert not again.generated
    sibling = driver.arrive(160, session="g", source=Source.RESPONSE_CHAIN, continues=again)
    assert (sibling.sequence, numbers(sibling.overlaps)) == (3, [2])
    driver.end(second, 200)
    driver.end(sibling, 210)
    driver.manager.shutdown((START + 300) * MILLISECOND)
    summary = driver.told.sessions[0]
    assert (summary.source, summary.started_at) == ("response_chain", START * MILLISECOND)
    assert (summary.totals.requests, summary.totals.output_tokens) == ({Outcome.COMPLETED: 3}, 3)
    assert driver.told.conversations[0].links[0] == ("first", entry.ref)
    assert driver.told.lines[:4] == [
        "g#1 generated",
        "g#1 completed",
        "session g by response_chain at 150",
        "conversation g/main at 0",
    ]


def test_continuing_a_made_up_request_in_flight_overlaps_it() -> None:
    """A response id told early lets the newcomer see the first in flight; the first records no figures."""
    driver = Driver()
    first = driver.arrive(0, session="g", source=Source.GENERATED)
    driver.manager.learn_response(first, "resp_1")
    gone = driver.arrive(0, session="gone", source=Source.GENERATED)
    driver.manager.learn_response(driver.end(gone, 1), "resp_2")
    entry = driver.manager.chain("resp_1")
    assert driver.manager.chain("resp_2") is None
    second = driver.arrive(50, session="g", source=Source.RESPONSE_CHAIN, continues=entry)
    assert (second.sequence, numbers(second.overlaps), second.concurrency) == (2, [1], 2)
    assert driver.end(second, 60).wait is None
    settled = driver.end(first, 100)
    assert (settled.distance, settled.wait, settled.given_up) == (0, None, False)
    assert waits(settled) == {3: 50}
    assert numbers(settled.overlapped_by) == [3]
    stats = driver.manager.get_session_stats()
    assert (stats.turns, stats.overlaps, stats.waits_known, stats.waits_unknown) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    "ways", [(Source.RESPONSE_CHAIN, Source.HISTORY), (Source.HISTORY, Source.RESPONSE_CHAIN)]
)
def test_a_made_up_request_is_taken_in_once(ways: tuple[Source, Source]) -> None:
    """Its session may end and begin anew, and it may be found another way than before: it stays where it counted."""
    driver, long = Driver(), 1_000_000_000
    first = driver.arrive(0, session="g", source=Source.GENERATED)
    driver.manager.remember_unnamed(first)
    driver.end(first, 100, response_id="resp_1", tokens=(None, 3))
    entry = driver.manager.chain("resp_1")
    for at, way in enumerate(ways):
        continues = entry if way is Source.RESPONSE_CHAIN else None
        turn = driver.arrive(150 + at * long, session="g", source=way, continues=continues)
        assert turn.sequence == 2 - at
        driver.end(turn, 200 + at * long)
        driver.manager.expire((START + (at + 1) * long - 1) * MILLISECOND)
    assert [sum(ended.totals.requests.values()) for ended in driver.told.sessions] == [2, 1]


def test_a_made_up_id_that_somebody_names_is_a_session_like_any_other() -> None:
    """Whoever names it in a header started it at 1; a continuation joins and gives no number out twice."""
    driver = Driver()
    driver.end(driver.arrive(0, session="g", source=Source.GENERATED), 10, response_id="resp_1")
    assert driver.arrive(20, session="g").sequence == 1
    entry = driver.manager.chain("resp_1")
    joined = driver.arrive(30, session="g", source=Source.RESPONSE_CHAIN, continues=entry)
    assert joined.sequence == 2


def test_a_made_up_request_that_was_no_turn_is_no_turn_later() -> None:
    """It has its number in the conversation it began, and no part in think time."""
    driver = Driver()
    first = driver.arrive(0, session="g", source=Source.GENERATED, turn=False)
    driver.end(first, 10, response_id="resp_1")
    entry = driver.manager.chain("resp_1")
    second = driver.arrive(20, session="g", source=Source.RESPONSE_CHAIN, continues=entry)
    assert (second.sequence, second.think_time) == (2, None)


def test_a_made_up_request_goes_to_its_own_conversation() -> None:
    """A newcomer that names another conversation starts it at 1; the first stays where it was."""
    driver = Driver()
    first = driver.arrive(0, session="g", source=Source.GENERATED)
    driver.end(first, 10, response_id="resp_1")
    entry = driver.manager.chain("resp_1")
    other = driver.arrive(
        20, session="g", conversation="other", source=Source.RESPONSE_CHAIN, continues=entry
    )
    assert other.sequence == 1
    view = driver.manager.live_session("g")
    assert view is not None
    assert [(each.conversation_id, each.sequence) for each in view.conversations] == [
        ("main", 1),
        ("other", 1),
    ]
    assert (view.session.requests, view.session.completed, view.session.active) == (2, 1, 1)


def test_a_named_chain_is_just_a_name() -> None:
    """Continuing an answer of a named session joins that session and invents nothing."""
    driver = Driver()
    driver.end(driver.arrive(0, conversation="c"), 10, response_id="resp_1")
    entry = driver.manager.chain("resp_1")
    assert entry is not None
    assert (entry.generated, entry.conversation_id, entry.conversation_supplied) == (False, "c", True)
    assert driver.arrive(20, conversation="c", source=Source.RESPONSE_CHAIN, continues=entry).sequence == 2
    assert driver.manager.chain("resp_unknown") is None
    assert driver.manager.chain("\x00") is None


def test_retries_by_key_and_by_guess() -> None:
    """An Idempotency-Key seen before names its last attempt; without one, the last failed turn is the guess."""
    driver = Driver()
    first, second, third = (ref(number) for number in (101, 102, 103))
    assert driver.manager.seen_before("key", first, session_id="s") is None
    assert driver.manager.seen_before("key", second, session_id="s") == first
    assert driver.manager.seen_before("key", third, session_id="other") is None
    assert driver.manager.seen_before("key", third, session_id="s") == second

    assert driver.manager.last_failed("s", "main") is None
    driver.end(driver.arrive(0), 10)
    assert driver.manager.last_failed("s", "main") is None
    driver.end(driver.arrive(20, turn=False), 25, Outcome.UPSTREAM_REJECTED)
    assert driver.manager.last_failed("s", "main") is None
    driver.end(driver.arrive(30), 40, Outcome.UPSTREAM_REJECTED)
    assert driver.manager.last_failed("s", "main") == ref(3)
    assert driver.manager.last_failed("s", "elsewhere") is None


def test_ending_twice_is_counted_and_never_raises() -> None:
    """A turn that has ended already and an unknown id are one anomaly each, and change nothing."""
    driver = Driver()
    turn = driver.arrive(0)
    driver.end(turn, 1)
    assert not driver.manager.settle(turn, Outcome.TIMED_OUT, at=0)
    assert (turn.outcome, turn.ended_at) == (Outcome.COMPLETED, (START + 1) * MILLISECOND)
    driver.manager.complete_request("never")
    assert driver.manager.get_session_stats().anomalies == {Anomaly.UNKNOWN_ID_ENDED: 2}
    assert driver.told.lines[-1] == "anomaly unknown_id_ended"


def test_an_end_before_its_arrival_is_its_arrival() -> None:
    """Whatever the caller's timestamps say, no duration is negative."""
    driver = Driver()
    one, two = driver.arrive(100), driver.arrive(101)
    assert waits(driver.end(one, 50)) == {2: 0}
    assert driver.end(two, 200).wait == 0


def test_summaries_add_up() -> None:
    """Conversation and session summaries hold the sums of what happened, and point at what matters."""
    driver = Driver()
    one, two = driver.arrive(0), driver.arrive(100)
    driver.end(one, 400, model="model-a", tokens=(10, 5))
    driver.end(two, 300, Outcome.TIMED_OUT, model="model-b", tokens=(1, None))
    child = driver.arrive(500, conversation="child")
    driver.end(child, 600, model="model-a")
    again = driver.arrive(700)
    driver.end(again, 710, model="model-a", tokens=(None, 2))
    driver.manager.shutdown((START + 1000) * MILLISECOND)

    other, main = driver.told.conversations
    assert (main.conversation_id, main.supplied, main.source) == ("main", False, "own_header")
    assert (main.started_at, main.ended_at) == (START * MILLISECOND, (START + 710) * MILLISECOND)
    assert main.totals.requests == {Outcome.COMPLETED: 2, Outcome.TIMED_OUT: 1}
    assert (main.totals.turns, main.totals.overlaps, main.totals.most_at_once) == (3, 1, 2)
    assert (main.totals.input_tokens, main.totals.output_tokens) == (11, 7)
    assert (main.totals.waits_known, main.totals.wait_avoided) == (3, 300 * MILLISECOND)
    assert (main.totals.model_time, main.totals.think_time) == (610 * MILLISECOND, 300 * MILLISECOND)
    assert main.totals.models == ("model-a", "model-b")
    assert [(word, number(ref)) for word, ref in main.links] == [
        ("first", 1),
        ("last", 4),
        ("slowest", 1),
        ("overlapping", 2),
        ("failed", 2),
    ]
    assert (other.conversation_id, other.supplied) == ("child", True)
    assert (other.totals.input_tokens, other.totals.output_tokens) == (None, None)
    session = driver.told.sessions[0]
    assert (session.conversations, session.totals.turns, session.totals.most_at_once) == (2, 4, 2)
    assert session.totals.requests == {Outcome.COMPLETED: 3, Outcome.TIMED_OUT: 1}
    assert session.ended_at == (START + 710) * MILLISECOND
    assert driver.told.lines[-3:] == [
        "conversation s/child ended",
        "conversation s/main ended",
        "session s ended",
    ]


def test_live_views() -> None:
    """The admin port sees sessions, conversations, what is in flight and what has ended lately."""
    driver = Driver(SessionLimits(recent=2))
    for at in range(3):
        driver.end(driver.arrive(10 * at), 10 * at + 5)
    running = driver.arrive(100, conversation="c")
    driver.arrive(110, session="t")
    assert [each.session_id for each in driver.manager.live_sessions()] == ["t", "s"]
    assert [each.session_id for each in driver.manager.live_sessions(1)] == ["t"]
    view = driver.manager.live_session("s")
    assert view is not None
    assert (view.session.requests, view.session.completed, view.session.active) == (4, 3, 1)
    assert [each.request.sequence for each in view.recent] == [2, 3]
    assert view.recent[-1].outcome is Outcome.COMPLETED
    assert view.recent[-1].wait == 0
    main, other = view.conversations
    assert (main.sequence, main.concurrency, main.active) == (3, 0, ())
    assert (other.concurrency, [each.request_id for each in other.active]) == (1, [running.request_id])
    assert other.active[0].arrived_at == (START + 100) * MILLISECOND
    assert driver.manager.live_session("nobody") is None


def test_the_interface_that_replaced_the_queue() -> None:
    """The six methods, with a clock of one's own."""
    now = [START * MILLISECOND]
    manager = SessionManager(clock=lambda: now[0], random=lambda: 0xC0FFEE)
    told = _Transcript()
    manager.add_listener(told)
    one = manager.generate_request_id("visit-1", "thread-1", True)
    assert one == f"visit-1:thread-1:1:{START}:00c0ffee"
    now[0] += 5 * MILLISECOND
    two = manager.generate_request_id("visit-1", None, False)
    assert two == f"visit-1:main:1:{START + 5}:00c0ffee"
    assert [each.request_id for each in manager.get_active_requests("visit-1")] == [one, two]
    assert [each.request_id for each in manager.get_active_requests("visit-1", "thread-1")] == [one]
    assert manager.get_active_requests("visit-2") == []
    manager.complete_request(one, "stop")
    manager.fail_request(two, ValueError("secret text"))
    assert not manager.is_request_active(one)
    stats = manager.get_session_stats()
    assert (stats.total_sessions, stats.active_requests) == (1, 0)
    assert (stats.completed_requests, stats.failed_requests) == (1, 1)
    assert stats.out_of_order_responses == 0
    manager.remove_listener(told)
    before = list(told.lines)
    manager.generate_request_id("visit-1", None, False)
    assert told.lines == before


def test_errors_are_told_without_content() -> None:
    """Of an exception listeners learn the type; a word is passed as it is."""
    seen: list[str | None] = []

    class Errors(SessionListener):
        def request_failed(self, request: SessionRequest, result: Result) -> None:
            seen.append(result.error)

    manager = SessionManager()
    manager.add_listener(Errors())
    for error in (ValueError("secret"), "rate_limited", None):
        manager.fail_request(manager.generate_request_id("s", None, False), error)
    assert seen == ["ValueError", "rate_limited", None]


def test_the_wrapping_methods_log_what_they_do_not_know(caplog: pytest.LogCaptureFixture) -> None:
    """Ending an unknown id is a logged warning and a counter, never an exception."""
    manager = SessionManager()
    with caplog.at_level(logging.WARNING, logger="sidecar.sessions"):
        manager.complete_request("never\r\nbegun")
        manager.fail_request("never", "why")
    assert [record.getMessage() for record in caplog.records] == [
        "request ended twice or never begun: 'never\\r\\nbegun'",
        "request ended twice or never begun: 'never'",
    ]
    assert manager.get_session_stats().anomalies == {Anomaly.UNKNOWN_ID_ENDED: 2}


def test_invalid_ids_of_app_code_are_counted_and_never_raise() -> None:
    """A control character makes the session up; a long id becomes a digest and is found by the long one."""
    manager = SessionManager()
    assert "\r" not in manager.generate_request_id("a\r\nb", "c\x00", False)
    long = "x" * 300
    request_id = manager.generate_request_id(long, None, False)
    assert request_id.startswith("sha256-")
    assert [each.request_id for each in manager.get_active_requests(long)] == [request_id]
    stats = manager.get_session_stats()
    assert stats.anomalies == {Anomaly.ID_INVALID: 2, Anomaly.ID_HASHED: 1}
    assert stats.total_sessions == 1


def test_ids_in_flight_never_repeat() -> None:
    """Even dice that always show the same number give every request in flight its own id."""
    manager = SessionManager(random=lambda: 1, request_id_format="{random}")
    ids = {manager.generate_request_id("s", None, False) for _ in range(20)}
    assert len(ids) == 20


def test_it_needs_nothing_but_the_standard_library() -> None:
    """`from sidecar import SessionManager` loads no third-party package."""
    script = (
        "import sys\nbefore = set(sys.modules)\nfrom sidecar import SessionManager\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'sidecar'}))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
