"""Which sessions and conversations live: starting, idling, evicting and ending them, within the caps.

Owns the order of idleness, the limits and the gauges over live conversations. It never evicts what has a
request in flight; it gives None instead, and the request passes untracked.
"""

from collections import OrderedDict
from itertools import islice

from sidecar.core.conversation import Conversation, Joined, Left, Sums, Tracked
from sidecar.core.identity import Identity
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.turns import (
    Listeners,
    LiveSession,
    RecentRequest,
    Result,
    SessionLimits,
    SessionListener,
    SessionSummary,
    SessionView,
)


class Gauges:
    """What is live now, over all conversations; each figure is kept, not computed."""

    __slots__ = ("_with_turns", "busy", "conversations", "most_concurrent", "overlapping")

    def __init__(self) -> None:
        self.conversations = self.busy = self.overlapping = self.most_concurrent = 0
        self._with_turns: dict[int, int] = {}

    def turns_changed(self, before: int, after: int) -> None:
        """One conversation had `before` turns in flight and has `after`."""
        if before == after:
            return
        self.overlapping += (after - 1 if after else 0) - (before - 1 if before else 0)
        counts = self._with_turns
        if after:
            counts[after] = counts.get(after, 0) + 1
            self.most_concurrent = max(self.most_concurrent, after)
        if before:
            counts[before] -= 1
            if not counts[before]:
                del counts[before]
        while self.most_concurrent and self.most_concurrent not in counts:
            self.most_concurrent -= 1


class Session:
    """A named session while it lives. `in_flight` counts its requests, untracked conversations' included."""

    __slots__ = (
        "completed",
        "conversations",
        "conversations_started",
        "ended",
        "failed",
        "in_flight",
        "last_ended_at",
        "out_of_order",
        "recent",
        "requests",
        "session_id",
        "source",
        "started_at",
        "stood_still",
        "sums",
        "supplied",
    )

    def __init__(self, session_id: str, source: str, started_at: int, *, supplied: bool = True) -> None:
        self.session_id = session_id
        self.supplied = supplied
        self.source = source
        self.started_at = started_at
        self.last_ended_at: int | None = None
        self.stood_still = 0
        """What the registry's `stood_still` was then."""
        self.ended = False
        self.in_flight = 0
        self.requests = self.completed = self.failed = self.out_of_order = 0
        self.conversations: OrderedDict[str, Conversation] = OrderedDict()
        self.conversations_started = 0
        self.recent: list[RecentRequest] = []
        self.sums = Sums()

    def quiet_until(self, idle: int) -> int | None:
        """When it ends unless a request arrives; None while one is in flight. `idle`: see `Registry`."""
        if self.in_flight or self.last_ended_at is None:
            return None
        return self.last_ended_at + idle - self.stood_still

    def view(self) -> LiveSession:
        """The session as it stands."""
        return LiveSession(
            session_id=self.session_id,
            source=self.source,
            started_at=self.started_at,
            last_ended_at=self.last_ended_at,
            conversations=len(self.conversations),
            active=self.in_flight,
            requests=self.requests,
            completed=self.completed,
            failed=self.failed,
            out_of_order=self.out_of_order,
        )

    def view_in_depth(self) -> SessionView:
        """The session with its conversations and recent requests."""
        conversations = tuple(conversation.view() for conversation in self.conversations.values())
        return SessionView(self.view(), conversations, tuple(self.recent))


class Registry:
    """The live sessions. Timestamps are ns since the epoch.

    A session is quiet only while a request of it could have come: `stood_still` is all time (ns) in which none could,
    and a session's end is as much later as that has grown since its last request ended.
    """

    __slots__ = (
        "_idle",
        "_limits",
        "_listeners",
        "gauges",
        "sessions",
        "started",
        "stood_still",
        "waits_unknown",
    )

    def __init__(self, limits: SessionLimits, listeners: Listeners) -> None:
        self._limits = limits
        self._listeners = listeners
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self.sessions: dict[str, Session] = {}
        self.started = 0
        self.stood_still = 0
        self.waits_unknown = 0
        self.gauges = Gauges()

    @property
    def _patience(self) -> int:
        return self._limits.session_idle + self.stood_still

    @property
    def next_expiry(self) -> int | None:
        """When the longest idle session ends; None if every session is busy."""
        first = next(iter(self._idle.values()), None)
        return None if first is None else first.quiet_until(self._patience)

    def session_for(self, identity: Identity, at: int, first: Tracked | None) -> Session | None:
        """The session of an arrival, started if need be; None if every place is taken by a busy one.

        `first` is the request of a made-up session that this arrival continues: the session began with it.
        """
        session = self.sessions.get(identity.session_id)
        if session is not None:
            until = None if session.in_flight else session.quiet_until(self._patience)
            if until is None or at < until:
                return session
            self._end(session, at)
        if len(self.sessions) >= self._limits.sessions and not self._make_room(at):
            self._listeners.anomaly(Anomaly.SESSION_UNTRACKED)
            return None
        started_at = at if first is None else first.request.arrived_at
        session = Session(
            identity.session_id, identity.source.value, started_at, supplied=identity.session_supplied
        )
        self.sessions[session.session_id] = session
        self.started += 1
        source = session.source
        self._listeners.tell(SessionListener.session_started, identity.session_id, source, at)
        return session

    def _make_room(self, at: int) -> bool:
        longest_idle = next(iter(self._idle.values()), None)
        if longest_idle is None:
            return False
        until = longest_idle.quiet_until(self._patience)
        if until is None or at < until:
            self._listeners.anomaly(Anomaly.SESSION_EVICTED)
        self._end(longest_idle, at)
        return True

    def conversation_for(
        self, session: Session, conversation_id: str, *, supplied: bool, at: int
    ) -> Conversation | None:
        """The conversation of an arrival, started if need be; None if every place is taken by a busy one."""
        conversation = session.conversations.get(conversation_id)
        if conversation is not None:
            return conversation
        if len(session.conversations) >= self._limits.conversations_per_session:
            idle = next((each for each in session.conversations.values() if not each.active), None)
            if idle is None:
                self._listeners.anomaly(Anomaly.CONVERSATION_UNTRACKED)
                return None
            self._listeners.anomaly(Anomaly.CONVERSATION_EVICTED)
            self._end_conversation(session, idle, at)
        conversation = Conversation(conversation_id, supplied=supplied, started_at=at, limits=self._limits)
        session.conversations[conversation_id] = conversation
        session.conversations_started += 1
        self.gauges.conversations += 1
        session_id = session.session_id
        self._listeners.tell(SessionListener.conversation_started, session_id, conversation_id, at)
        return conversation

    def adopt(self, session: Session, first: Tracked) -> Conversation | None:
        """Takes in the request that began a made-up session, as the first of its conversation.

        One that has ended brings its result along; one in flight joins and will leave like any other.
        """
        request = first.request
        conversation = self.conversation_for(
            session,
            request.conversation_id,
            supplied=first.conversation_supplied,
            at=request.arrived_at,
        )
        if conversation is None:
            return None
        first.generated = False
        conversation.next_sequence()
        if first.result is None or first.ended_at is None:
            self.enter(session, conversation, first)
            return conversation
        conversation.adopt(first, first.result, first.ended_at)
        session.requests += 1
        self._ended(session, first.result.outcome, first.ended_at)
        return conversation

    def enter(self, session: Session, conversation: Conversation | None, tracked: Tracked) -> Joined | None:
        """A request joins its session, and its conversation if that is tracked."""
        self._idle.pop(session.session_id, None)
        session.in_flight += 1
        session.requests += 1
        if conversation is None:
            return None
        turns = len(conversation.turns)
        if not conversation.active:
            self.gauges.busy += 1
        joined = conversation.join(tracked)
        self.gauges.turns_changed(turns, len(conversation.turns))
        return joined

    def turn_passed(self, conversation: Conversation, tracked: Tracked, at: int) -> None:
        """A request that had entered has been handed over as a whole, and what is known of it will come."""
        if not conversation.ended:
            turns = len(conversation.turns)
            conversation.turn_passed(tracked, at)
            self.gauges.turns_changed(turns, len(conversation.turns))

    def leave(
        self, session: Session, conversation: Conversation | None, tracked: Tracked, result: Result
    ) -> Left | None:
        """A request that had entered ends at `tracked.ended_at`."""
        at = tracked.request.arrived_at if tracked.ended_at is None else tracked.ended_at
        left = None
        if conversation is not None and not conversation.ended:
            turns = len(conversation.turns)
            left = conversation.leave(tracked, result, at)
            self.gauges.turns_changed(turns, len(conversation.turns))
            if left.model_dropped:
                self._listeners.anomaly(Anomaly.MODEL_CAP)
            if not conversation.active:
                self.gauges.busy -= 1
                session.conversations.move_to_end(conversation.conversation_id)
        if session.ended:
            return left
        if left is not None and left.distance:
            session.out_of_order += 1
        self._ended(session, result.outcome, at)
        session.in_flight -= 1
        if not session.in_flight:
            self._idle[session.session_id] = session
        return left

    def _ended(self, session: Session, outcome: Outcome, at: int) -> None:
        if outcome is Outcome.COMPLETED:
            session.completed += 1
        else:
            session.failed += 1
        if session.last_ended_at is None or at > session.last_ended_at:
            session.last_ended_at, session.stood_still = at, self.stood_still

    def expire(self, now: int, most: int | None = None) -> int:
        """Ends the sessions that have been idle for long enough by `now`, and says how many.

        At most `most` sessions and conversations end at once.
        """
        before, ended = len(self.sessions), 0
        while (until := self.next_expiry) is not None and until <= now and (most is None or ended < most):
            ended += self._end_some(next(iter(self._idle.values())), now, most)
        return before - len(self.sessions)

    def end_all(self, at: int, most: int | None = None) -> None:
        """Ends every session, those with a request in flight at `at`; `most` sessions and conversations at once."""
        ended = 0
        while self.sessions and (most is None or ended < most):
            ended += self._end_some(next(iter(self.sessions.values())), at, most)

    def _end_some(self, session: Session, at: int, most: int | None) -> int:
        """Ends a session, or as a beginning `most` of its conversations, if it has more; says how many ended."""
        some = list(islice(session.conversations.values(), most))
        if len(some) < len(session.conversations):
            for conversation in some:
                self._end_conversation(session, conversation, at)
            return len(some)
        self._end(session, at)
        return len(some) + 1

    def _end(self, session: Session, at: int) -> None:
        for conversation in list(session.conversations.values()):
            self._end_conversation(session, conversation, at)
        session.ended = True
        del self.sessions[session.session_id]
        self._idle.pop(session.session_id, None)
        last = at if session.in_flight or session.last_ended_at is None else session.last_ended_at
        summary = SessionSummary(
            session_id=session.session_id,
            source=session.source,
            started_at=session.started_at,
            ended_at=max(last, session.started_at),
            conversations=session.conversations_started,
            totals=session.sums.freeze(),
        )
        self._listeners.tell(SessionListener.session_ended, summary)

    def _end_conversation(self, session: Session, conversation: Conversation, at: int) -> None:
        open_waits = conversation.waits_open
        busy = bool(conversation.active) or conversation.last_ended_at is None
        last = conversation.last_ended_at
        summary = conversation.summary(
            session.session_id,
            session.source,
            at if busy or last is None else last,
            session_supplied=session.supplied,
        )
        session.sums.merge(conversation.sums)
        del session.conversations[conversation.conversation_id]
        self.gauges.conversations -= 1
        if conversation.active:
            self.gauges.busy -= 1
        self.gauges.turns_changed(len(conversation.turns), 0)
        self.waits_given_up(open_waits)
        if summary.links_dropped:
            self._listeners.anomaly(Anomaly.LINKS_CAP)
        self._listeners.tell(SessionListener.conversation_ended, summary)

    def waits_given_up(self, count: int) -> None:
        """Counts waits that will never be known, and tells it."""
        if count:
            self.waits_unknown += count
            self._listeners.tell(SessionListener.waits_unknown, count)
