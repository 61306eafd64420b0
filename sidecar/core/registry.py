"""Which sessions and conversations live, within the caps; and what is remembered of requests that have ended.

Owns the order of idleness, the limits and the gauges over live conversations. It never evicts what has a request in
flight; it gives None instead, and the request passes untracked. Of requests that have ended, answers' ids and idempotency
keys are remembered, in few bytes: a hundred thousand of them may be kept for as long as the process runs, so a request's
objects are not; of its result stays what the sums of a conversation take.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import Generic, TypeVar

from sidecar.core.conversation import Conversation, Sums
from sidecar.core.facts import COMPLETED, Anomaly, Outcome
from sidecar.core.identity import MAIN, Identity, Source, tidy
from sidecar.core.turns import (
    Listeners,
    LiveSession,
    RecentRequest,
    Ref,
    SessionLimits,
    SessionListener,
    SessionRequest,
    SessionSummary,
    SessionView,
    Turn,
)

NEVER = 1 << 63
"""When a session ends that has a request in flight (ns)."""

Recent = tuple[str, str, int, bool, bool, int, Ref, bool, Outcome, int, int, int | None, str | None, int]
"""An ended request as a session keeps it for its view: a `SessionRequest` but for the session, then the rest."""


class Session:
    """A named session while it lives. `in_flight` counts its requests, untracked conversations' included."""

    __slots__ = (
        "completed",
        "conversations",
        "conversations_started",
        "ended",
        "expires",
        "failed",
        "in_flight",
        "last_ended_at",
        "out_of_order",
        "recent",
        "session_id",
        "source",
        "started_at",
        "sums",
        "supplied",
    )

    def __init__(self, session_id: str, source: str, started_at: int, *, supplied: bool = True) -> None:
        self.session_id = session_id
        self.supplied = supplied
        self.source = source
        self.started_at = started_at
        self.last_ended_at: int | None = None
        self.expires = NEVER
        """When it ends unless a request arrives, not counting the `stood_still` of the registry."""
        self.ended = False
        self.in_flight = self.completed = self.failed = self.out_of_order = 0
        self.conversations: dict[str, Conversation] = {}
        """The longest idle first."""
        self.conversations_started = 0
        self.recent: list[Recent] = []
        self.sums: Sums | None = None
        """Of the conversations that have ended, if any has."""

    @property
    def requests(self) -> int:
        """All that have arrived."""
        return self.in_flight + self.completed + self.failed

    def leave(self, turn: Turn, outcome: Outcome, at: int, *, races: int, recent: int) -> None:
        """A request of it ends at `at` (ns), raced by so many; for the view, `recent` of those that ended are kept."""
        if outcome is COMPLETED:
            self.completed += 1
            if turn.distance:
                self.out_of_order += 1
        else:
            self.failed += 1
        last, ended = self.last_ended_at, self.recent
        if last is None or at > last:
            self.last_ended_at = at
        one = (
            turn.request_id,
            turn.identity.conversation_id,
            turn.sequence,
            turn.streaming,
            turn.turn,
            turn.arrived_at,
            turn.ref,
            turn.sampled,
            outcome,
            at,
            turn.distance,
            turn.wait,
            turn.model,
            races,
        )
        ended.append(one)
        if len(ended) > recent:
            del ended[0]
        self.in_flight -= 1

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
        recent = tuple(
            RecentRequest(SessionRequest(one[0], self.session_id, *one[1:8]), *one[8:]) for one in self.recent
        )
        return SessionView(self.view(), conversations, recent)


class Registry:
    """The live sessions and conversations. Timestamps are ns since the epoch.

    A session is quiet only while a request of it could have come: `stood_still` is all time (ns) in which none could,
    and a session's end is as much later as that has grown since its last request ended.
    """

    __slots__ = (
        "_limits",
        "_listeners",
        "conversations",
        "idle",
        "sessions",
        "started",
        "stood_still",
        "waits_unknown",
    )

    def __init__(self, limits: SessionLimits, listeners: Listeners) -> None:
        self._limits = limits
        self._listeners = listeners
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.idle: OrderedDict[str, Session] = OrderedDict()
        """Those without a request in flight, the longest idle first."""
        self.conversations = 0
        self.started = 0
        self.stood_still = 0
        self.waits_unknown = 0

    @property
    def next_expiry(self) -> int | None:
        """When the longest idle session ends; None if every session is busy."""
        first = next(iter(self.idle.values()), None)
        return None if first is None else first.expires + self.stood_still

    def session_for(self, identity: Identity, at: int, first: Turn | None) -> Session | None:
        """The session of an arrival, started if need be; None if every place is taken by a busy one.

        `first` is the request of a made-up session that this arrival continues: the session began with it.
        """
        session = self.sessions.get(identity.session_id)
        if session is not None:
            if at - self.stood_still < session.expires:
                return session
            self._end(session, at)
        if len(self.sessions) >= self._limits.sessions and not self._make_room(at):
            self._listeners.anomaly(Anomaly.SESSION_UNTRACKED)
            return None
        started_at = at if first is None else first.arrived_at
        session = Session(
            identity.session_id, identity.source.value, started_at, supplied=identity.session_supplied
        )
        self.sessions[session.session_id] = session
        self.started += 1
        source = session.source
        self._listeners.tell(SessionListener.session_started, identity.session_id, source, at)
        return session

    def _make_room(self, at: int) -> bool:
        longest_idle = next(iter(self.idle.values()), None)
        if longest_idle is None:
            return False
        if at - self.stood_still < longest_idle.expires:
            self._listeners.anomaly(Anomaly.SESSION_EVICTED)
        self._end(longest_idle, at)
        return True

    def conversation_for(self, session: Session, named: Identity, at: int) -> Conversation | None:
        """A conversation that begins with an arrival at `at`; None if every place is taken by a busy one."""
        if len(session.conversations) >= self._limits.conversations_per_session:
            idle = next((each for each in session.conversations.values() if not each.active), None)
            if idle is None:
                self._listeners.anomaly(Anomaly.CONVERSATION_UNTRACKED)
                return None
            self._listeners.anomaly(Anomaly.CONVERSATION_EVICTED)
            self._end_conversation(session, idle, at)
        conversation = Conversation(
            named.conversation_id, supplied=named.conversation_supplied, started_at=at, limits=self._limits
        )
        session.conversations[named.conversation_id] = conversation
        session.conversations_started += 1
        self.conversations += 1
        session_id, started = session.session_id, SessionListener.conversation_started
        self._listeners.tell(started, session_id, named.conversation_id, at)
        return conversation

    def adopt(self, session: Session, first: Turn) -> Conversation | None:
        """Takes in the request that began a made-up session, as the first of its conversation, which is given if there is room.

        One that has ended brings its result along; one in flight joins and will leave like any other. Whom it meets
        ends with its last byte, as for any other turn.
        """
        conversation = self.conversation_for(session, first.identity, first.arrived_at)
        if conversation is None:
            return None
        first.generated = False
        conversation.sequence += 1
        conversation.join(first, told=False)
        if first.took is not None:
            conversation.turn_passed(first, first.arrived_at + first.took)
        if first.outcome is None or first.ended_at is None:
            session.in_flight += 1
            return conversation
        conversation.leave(first, first.outcome, first.ended_at)
        session.last_ended_at = first.ended_at
        session.completed += first.outcome is COMPLETED
        session.failed += first.outcome is not COMPLETED
        return conversation

    def put_off(self, by: int, at: int) -> None:
        """The process stood still for `by` ns until `at`: all that are idle end as much later, from now on at the most."""
        self.stood_still += by
        latest = at + self._limits.session_idle - self.stood_still
        for session in reversed(self.idle.values()):
            if session.expires <= latest:
                break
            session.expires = latest  # its last request ended before anybody knew of the standstill

    def expire(self, now: int, most: int | None = None) -> int:
        """Ends the sessions that have been idle for long enough by `now`, and says how many.

        At most `most` sessions and conversations end at once.
        """
        before, ended = len(self.sessions), 0
        while (until := self.next_expiry) is not None and until <= now and (most is None or ended < most):
            ended += self._end_some(next(iter(self.idle.values())), now, most)
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
        self.idle.pop(session.session_id, None)
        last = at if session.in_flight or session.last_ended_at is None else session.last_ended_at
        summary = SessionSummary(
            session_id=session.session_id,
            source=session.source,
            started_at=session.started_at,
            ended_at=max(last, session.started_at),
            conversations=session.conversations_started,
            totals=(session.sums or Sums()).freeze(),
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
        session.sums = session.sums or Sums()
        session.sums.merge(conversation.sums)
        del session.conversations[conversation.conversation_id]
        self.conversations -= 1
        self.waits_given_up(open_waits)
        if summary.links_dropped:
            self._listeners.anomaly(Anomaly.LINKS_CAP)
        self._listeners.tell(SessionListener.conversation_ended, summary)

    def waits_given_up(self, count: int) -> None:
        """Counts waits that will never be known, and tells it."""
        if count:
            self.waits_unknown += count
            self._listeners.tell(SessionListener.waits_unknown, count)


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_FIXED = Struct("<24sIBBqqqii")
"""Reference, number, flags, outcome; arrival, end and time until it had passed (ns, -1: until its end); tokens in and
out, -1 for none."""

_MOST = 2**31 - 1
_OUTCOMES = tuple(Outcome)
_END = "\n"
"""Stands between the texts; no id holds it."""


class BoundedMap(Generic[Key, Value]):
    """At most `cap` entries; `evicted` is called once for each that had to go. A cap of 0 keeps nothing."""

    __slots__ = ("_cap", "_entries", "_evicted")

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._cap = cap
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._evicted = evicted

    def get(self, key: Key) -> Value | None:
        """What was last put under `key`, if it is still remembered."""
        return self._entries.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remembers `value` under `key`, as the newest entry."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._cap:
            self._entries.popitem(last=False)
            self._evicted()

    def amend(self, key: Key, value: Value) -> None:
        """Changes what is remembered under `key`, if anything still is, which makes it no newer."""
        if key in self._entries:
            self._entries[key] = value


class Answers:
    """Whose answer a response id is: requests in flight as they are, those that have ended as bytes.

    At most `cap`; `evicted` is called for each that had to go.
    """

    __slots__ = ("_known",)

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._known: BoundedMap[bytes, Turn | bytes] = BoundedMap(cap, evicted)

    def learn(self, response_id: str, turn: Turn) -> None:
        """A request in flight, or one that ends now, has this answer."""
        key = _key(response_id)
        if key is not None:
            self._known.put(key, turn)
            if key not in turn.answers:
                turn.answers = (*turn.answers, key)

    def condense(self, turn: Turn) -> None:
        """The request has ended."""
        for key in turn.answers:
            if self._known.get(key) is turn:
                self._known.amend(key, packed(turn))

    def find(self, response_id: str) -> Turn | None:
        """Whose answer that is, if it is still remembered; of a request that has ended a copy."""
        key = _key(response_id)
        known = None if key is None else self._known.get(key)
        return unpacked(known) if isinstance(known, bytes) else known

    def amend(self, response_id: str, turn: Turn) -> None:
        """What is known of the request, whose answer that is, has changed."""
        key = _key(response_id)
        if key is not None:
            self._known.amend(key, turn if turn.ended_at is None else packed(turn))


def _key(response_id: str) -> bytes | None:
    """A key of a few bytes, whatever the length of the id; of 100,000 ids, two are alike once in some billion times."""
    known = tidy(response_id)
    return None if known is None else blake2b(known.encode(), digest_size=8).digest()


def packed(turn: Turn) -> bytes:
    """An ended request as bytes.

    Raises:
        ValueError: it has not ended.
    """
    identity = turn.identity
    if turn.outcome is None or turn.ended_at is None:
        raise ValueError("only what has ended is condensed")
    flags = (
        turn.sampled,
        turn.streaming,
        turn.turn,
        turn.generated,
        identity.session_supplied,
        identity.conversation_supplied,
        turn.usage_told,
    )
    fixed = _FIXED.pack(
        turn.ref,
        turn.sequence,
        sum(flag << at for at, flag in enumerate(flags)),
        _OUTCOMES.index(turn.outcome),
        turn.arrived_at,
        turn.ended_at,
        -1 if turn.took is None else turn.took,
        -1 if turn.input_tokens is None else min(turn.input_tokens, _MOST),
        -1 if turn.output_tokens is None else min(turn.output_tokens, _MOST),
    )
    conversation = "" if identity.conversation_id == MAIN else identity.conversation_id
    return fixed + _END.join((identity.session_id, conversation, turn.model or "")).encode(errors="replace")


def unpacked(data: bytes) -> Turn:
    """The ended request again; its own id is not remembered, nor where its session's came from."""
    ref, sequence, bits, outcome, arrived_at, ended_at, took, given, made = _FIXED.unpack_from(data)
    session_id, conversation, model = data[_FIXED.size :].decode().split(_END, 2)
    sampled, streaming, turn, generated, session_supplied, conversation_supplied, usage_told = (
        bool(bits >> at & 1) for at in range(7)
    )
    identity = Identity(
        session_id,
        Source.GENERATED if generated else Source.RESPONSE_CHAIN,
        conversation or MAIN,
        conversation_supplied,
        session_supplied=session_supplied,
    )
    return Turn(
        "",
        identity,
        sequence,
        arrived_at,
        ref,
        sampled,
        streaming,
        turn,
        generated,
        ended_at=ended_at,
        outcome=_OUTCOMES[outcome],
        model=model or None,
        input_tokens=None if given < 0 else given,
        output_tokens=None if made < 0 else made,
        usage_told=usage_told,
        took=None if took < 0 else took,
    )
