"""The session manager: light tracking of sessions in place of the queue that was deleted.

Owns request ids, sequences and what requests of a conversation mean to each other; it holds no request up.
Everything runs at the same time, and everything it keeps is bounded. The relay calls `arrive` and `settle`
with timestamps; other code may call the six wrapping methods. The event loop's thread only.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from sidecar.core.clock import MILLISECOND, STEADY, Clock, SystemWall, Wall
from sidecar.core.conversation import Conversation
from sidecar.core.facts import COMPLETED, Anomaly, Outcome
from sidecar.core.identity import MADE_UP, ChainEntry, Identity, Source, tidy, told
from sidecar.core.registry import NEVER, Answers, BoundedMap, Registry, Session
from sidecar.core.turns import (
    DEFAULT_FORMAT,
    ConversationSummary,
    KnownWait,
    Listeners,
    LiveConversation,
    LiveSession,
    RecentRequest,
    Ref,
    RequestIdFormat,
    Result,
    Revealed,
    SessionLimits,
    SessionListener,
    SessionRequest,
    SessionStats,
    SessionSummary,
    SessionView,
    Totals,
    Turn,
)

__all__ = [
    "ConversationSummary",
    "KnownWait",
    "LiveConversation",
    "LiveSession",
    "RecentRequest",
    "Ref",
    "Result",
    "Revealed",
    "SessionLimits",
    "SessionListener",
    "SessionManager",
    "SessionRequest",
    "SessionStats",
    "SessionSummary",
    "SessionView",
    "Totals",
    "Turn",
]

_log = logging.getLogger("sidecar.sessions")

_NO_LIMITS = SessionLimits()
_ERROR_LENGTH = 200


_CONTINUED = frozenset((Source.RESPONSE_CHAIN, Source.HISTORY))
"""Where a made-up session id may come from once more."""

_AGENT_TURNS = 4096
"""Turns of agents that are known by the ids that their clients gave them."""

_NOBODY = Ref(24)
"""The context of a request that has no span."""


class SessionManager:
    """Tracks requests by session and conversation.

    `clock` gives ns since the epoch and is asked by the wrapping methods only; `wall` says how far the wall
    clock is ahead of it, for the time in request ids (without a `clock`, both are the system's); `random` gives 32 random
    bits; `request_id_format` is described in `turns.py`.

    Raises:
        RequestIdFormatError: the format cannot be used.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        wall: Wall = STEADY,
        random: Callable[[], int] | None = None,
        request_id_format: str = DEFAULT_FORMAT,
        limits: SessionLimits = _NO_LIMITS,
    ) -> None:
        if clock is None:
            wall = system = SystemWall()
            clock = system.clock
        self._clock = clock
        self._wall = wall
        dice = Random()  # noqa: S311 - tells ids apart; nothing is ever allowed by one
        self._random = random or partial(dice.getrandbits, 32)
        self._compose = RequestIdFormat(request_id_format).compose
        self._limits = limits
        self._listeners = Listeners()
        self._registry = Registry(limits, self._listeners)
        self._active: dict[str, tuple[Turn, Session | None, Conversation | None]] = {}
        """The requests in flight, each with what it counts in."""
        self._completed = self._failed = self._untracked = 0
        self._turns = self._overlaps = self._out_of_order = 0
        self._waits_revealed = self._wait_avoided = 0
        """Waits that became known later; that of a turn which met no other is known at once."""
        anomaly = self._listeners.anomaly
        self._answers = Answers(limits.response_chain, lambda: anomaly(Anomaly.RESPONSE_CHAIN_EVICTED))
        self._unnamed = Answers(limits.unnamed, lambda: None)  # the histories tell that they forget it too
        self._agent_turns: BoundedMap[tuple[str, str, str], Ref] = BoundedMap(_AGENT_TURNS, lambda: None)
        """The latest request of each turn of an agent, by its session, its conversation and the id that its client gave it."""
        self._retry_keys: BoundedMap[str, Ref] = BoundedMap(
            limits.retry_keys, lambda: anomaly(Anomaly.RETRY_KEY_EVICTED)
        )

    # The interface that replaced the queue.

    def generate_request_id(self, session_id: str, conversation_id: str | None, is_streaming: bool) -> str:
        """A turn begins now: gives its request id. Without a conversation id it is in `main`.

        An id that is no valid id (see `identity.py`) is ignored and counted, and the session made up.
        """
        identity = told(session_id, conversation_id, generate=self._make_up)
        for anomaly in identity.anomalies:
            self._listeners.anomaly(anomaly)
        self._wall.look()
        turn = self.arrive(identity, at=self._clock(), ref=_NOBODY, streaming=is_streaming, turn=True)
        return turn.request_id

    def complete_request(self, request_id: str, finish_reason: str | None = None) -> None:
        """The request has its whole answer. An unknown or already ended id is logged and counted."""
        self._end_now(request_id, Outcome.COMPLETED, finish_reason=finish_reason)

    def fail_request(self, request_id: str, error: BaseException | str | None) -> None:
        """The request ended in any other way. Of an exception only the type is kept: no content.

        An unknown or already ended id is logged and counted.
        """
        word = error if isinstance(error, str) or error is None else type(error).__name__
        self._end_now(request_id, Outcome.UPSTREAM_FAILED, error=word)

    def get_session_stats(self) -> SessionStats:
        """Everything counted since the start, and what is live now."""
        registry = self._registry
        return SessionStats(
            total_sessions=registry.started,
            active_sessions=len(registry.sessions),
            total_requests=self._arrived,
            active_requests=len(self._active),
            completed_requests=self._completed,
            failed_requests=self._failed,
            untracked_requests=self._untracked,
            active_conversations=registry.conversations,
            busy_conversations=self.conversations_busy,
            turns=self._turns,
            overlaps=self._overlaps,
            overlapping_requests=self.overlapping,
            most_concurrent=self.most_concurrent,
            out_of_order_responses=self._out_of_order,
            waits_known=self._turns - self._overlaps + self._waits_revealed,
            wait_avoided=self._wait_avoided,
            waits_unknown=registry.waits_unknown,
            anomalies=dict(self._listeners.anomalies),
        )

    def get_active_requests(
        self, session_id: str, conversation_id: str | None = None
    ) -> list[SessionRequest]:
        """The requests of a session in flight, in order of arrival; of one conversation if it is given."""
        session = tidy(session_id) or ""
        wanted = None if conversation_id is None else tidy(conversation_id)
        return [
            turn.request()
            for turn, _, _ in self._active.values()
            if turn.session_id == session and (conversation_id is None or turn.conversation_id == wanted)
        ]

    def is_request_active(self, request_id: str) -> bool:
        """True from the request's arrival to its end."""
        return request_id in self._active

    # Underneath: the same with timestamps, for the relay.

    def arrive(
        self,
        identity: Identity,
        *,
        at: int,
        ref: Ref,
        streaming: bool,
        turn: bool,
        sampled: bool = True,
        continues: ChainEntry | None = None,
        upstream: str | None = None,
    ) -> Turn:
        """A request joins its conversation at `at` (ns). `ref` is the context of its SERVER span, and what links name.

        `continues` is what its `previous_response_id` led to. The identity's anomalies are the caller's
        to count. Never raises, whatever the caps say: over them a request passes untracked, as number 0.
        """
        registry, named = self._registry, identity.source not in MADE_UP
        session, conversation, sequence = None, None, 1
        if named:
            sequence = 0
            session = registry.sessions.get(identity.session_id)
            if session is None or at - registry.stood_still >= session.expires:
                session = self._session_for(identity, at, continues)
            if session is not None:
                known = session.conversations.get(identity.conversation_id)
                conversation = known or registry.conversation_for(session, identity, at)
                if not session.in_flight:
                    registry.idle.pop(session.session_id, None)
                    session.expires = NEVER
                session.in_flight += 1
            if conversation is not None:
                conversation.sequence = sequence = conversation.sequence + 1
        request_id = self.new_request_id(identity, sequence, at)
        arrived = Turn(request_id, identity, sequence, at, ref, sampled, streaming, turn, not named, upstream)
        self._active[request_id] = (arrived, session, conversation)
        if conversation is not None:
            conversation.join(arrived, told=turn)
            if (agents := identity.agent_turn) is not None and agents.turn is not None:
                self._agent_turns.put((identity.session_id, conversation.conversation_id, agents.turn), ref)
        elif named:
            self._untracked += 1
        if arrived.concurrency:
            self._turns += 1
            if arrived.concurrency > 1:
                self._overlaps += 1
            elif arrived.wait:
                self._wait_avoided += arrived.wait
        listeners = self._listeners
        if arrived.given_up or listeners.arrivals or listeners.waits:
            self._tell_arrival(arrived)
        return arrived

    def new_request_id(self, identity: Identity, sequence: int, at: int) -> str:
        """A request's own id; `sequence` is 0 for one that joins no conversation. Nothing is tracked by it."""
        request_id = self._compose(
            {
                "session": identity.session_id,
                "conversation": identity.conversation_id,
                "counter": sequence,
                "timestamp": (at + self._wall.correction) // MILLISECOND,
                "random": f"{self._random() & 0xFFFFFFFF:08x}",
            }
        )
        # A short format may repeat itself; an id in flight never does.
        return request_id if request_id not in self._active else f"{request_id}-{self._arrived:x}"

    def settle(
        self,
        turn: Turn,
        outcome: Outcome,
        *,
        at: int,
        model: str | None = None,
        finish_reason: str | None = None,
        error: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        response_id: str | None = None,
        races: int = 0,
    ) -> bool:
        """A request ends at `at` (ns); `response_id` is its answer's, for `previous_response_id`. `races`: how many raced it.

        What that means is written into the turn. False for one that has ended already, which is counted as an anomaly.
        """
        if turn.ended_at is not None:
            self._listeners.anomaly(Anomaly.UNKNOWN_ID_ENDED)
            return False
        registry, limits = self._registry, self._limits
        _, session, conversation = self._active.pop(turn.request_id)
        at = max(at, turn.arrived_at)
        turn.ended_at, turn.outcome, turn.model = at, outcome, model
        turn.input_tokens, turn.output_tokens = input_tokens, output_tokens
        if session is not None:
            if conversation is not None and not conversation.ended:
                if not conversation.leave(turn, outcome, at):
                    self._listeners.anomaly(Anomaly.MODEL_CAP)
                known = session.conversations
                if len(known) > 1 and not conversation.active:
                    key = conversation.conversation_id
                    known[key] = known.pop(key)
            if not session.ended:
                session.leave(turn, outcome, at, races=races, recent=limits.recent)
                if not session.in_flight:
                    session.expires = (
                        (session.last_ended_at or at) + limits.session_idle - registry.stood_still
                    )
                    registry.idle[session.session_id] = session
        if response_id is not None:
            self._answers.learn(response_id, turn)
        if turn.answers:
            turn.usage_told = bool(input_tokens or output_tokens)
            self._answers.condense(turn)
            self._unnamed.condense(turn)
        if outcome is COMPLETED:
            self._completed += 1
        else:
            self._failed += 1
        if turn.distance or turn.revealed or self._listeners.endings:
            self._tell_ending(turn, outcome, finish_reason, error)
        turn.overtakes = ()
        return True

    def passed(self, turn: Turn, at: int) -> None:
        """A request's last byte was handed over at `at` (ns), and it will end once what has passed is read.

        A turn that arrives from now on does not overlap it.
        """
        if not turn.turn or turn.took is not None or turn.ended_at is not None:
            return
        _, _, conversation = self._active[turn.request_id]
        if conversation is None:
            turn.took = max(0, at - turn.arrived_at)  # a later turn may make it the first of a conversation
        elif not conversation.ended:
            conversation.turn_passed(turn, max(at, turn.arrived_at))

    # What one answer or attempt says about the next request.

    def learn_streaming(self, turn: Turn) -> None:
        """A request that had arrived at its head asks for a stream, as its body says."""
        if turn.ended_at is None:
            turn.streaming = True

    def learn_response(self, turn: Turn, response_id: str) -> None:
        """An answer told its id while it streams; a request that has ended is ignored."""
        if turn.ended_at is None:
            self._answers.learn(response_id, turn)

    def remember_unnamed(self, turn: Turn) -> None:
        """A later request may be found to continue this one, whose session id was made up: then both belong to that id."""
        self._unnamed.learn(turn.session_id, turn)

    def chain(self, previous_response_id: str) -> ChainEntry | None:
        """Whose answer that is, if it is still remembered."""
        turn = self._answers.find(previous_response_id)
        if turn is None:
            return None
        return ChainEntry(
            response_id=previous_response_id,
            session_id=turn.session_id,
            conversation_id=turn.conversation_id,
            conversation_supplied=turn.identity.conversation_supplied,
            generated=turn.generated,
            ref=turn.ref,
            session_supplied=turn.identity.session_supplied,
        )

    def claim_usage(self, response_id: str) -> bool:
        """Whether the usage of that answer is still to be counted; once, if its turn ended without telling it."""
        turn = self._answers.find(response_id)
        if turn is None or turn.outcome is None or turn.usage_told:
            return False
        turn.usage_told = True
        self._answers.amend(response_id, turn)
        return True

    def seen_before(self, key: str, ref: Ref, *, session_id: str = "") -> Ref | None:
        """The latest request that came with this `Idempotency-Key`, which this one retries; remembers this one.

        `session_id` keeps the keys of different sessions apart; leave it out where the id was made up.
        """
        scoped = f"{session_id}\n{tidy(key) or ''}"
        before = self._retry_keys.get(scoped)
        self._retry_keys.put(scoped, ref)
        return before

    def latest(self, session_id: str, conversation_id: str, agent_turn: str | None = None) -> Ref | None:
        """The latest request of that turn of a conversation's agent, if any is known, else of a conversation that lives."""
        session = self._registry.sessions.get(session_id)
        conversation = None if session is None else session.conversations.get(conversation_id)
        latest = None if conversation is None else conversation.latest
        told = agent_turn and self._agent_turns.get((session_id, conversation_id, agent_turn))
        return told or latest

    def last_failed(self, session_id: str, conversation_id: str) -> Ref | None:
        """The last turn of a conversation that failed: the best guess at what a retry without a key retries."""
        session = self._registry.sessions.get(session_id)
        conversation = None if session is None else session.conversations.get(conversation_id)
        return None if conversation is None else conversation.last_failed

    # Lives.

    def add_listener(self, listener: SessionListener) -> None:
        """Tells `listener` what happens from now on."""
        self._listeners.add(listener)

    def remove_listener(self, listener: SessionListener) -> None:
        """Tells `listener` no more."""
        self._listeners.remove(listener)

    @property
    def next_expiry(self) -> int | None:
        """When (ns) the next session will have been idle for long enough; None if none is idle."""
        return self._registry.next_expiry

    def expire(self, now: int, *, most: int | None = None) -> int:
        """Ends the sessions that have been idle for long enough; says how many.

        At most `most` sessions and conversations end at once; `next_expiry` says if there are more.
        """
        return self._registry.expire(now, most)

    def stood_still(self, by: int, at: int) -> None:
        """Until `at` (ns) no request could have come for `by` ns: that counts for no session as quiet."""
        self._registry.put_off(by, at)

    def shutdown(self, at: int, *, most: int | None = None) -> None:
        """Ends every session, also busy ones; waits that are open are counted as unknown.

        At most `most` sessions and conversations end at once; `sessions_active` says if there are more.
        """
        self._registry.end_all(at, most)

    # Views: gauges that cost nothing to ask, and what the admin port shows.

    @property
    def sessions_active(self) -> int:
        """Live sessions that somebody named."""
        return len(self._registry.sessions)

    @property
    def conversations_active(self) -> int:
        """Their live conversations."""
        return self._registry.conversations

    @property
    def conversations_busy(self) -> int:
        """Conversations with a request in flight."""
        return len(self._busy)

    @property
    def overlapping(self) -> int:
        """Turns in flight that the queue would be holding: over conversations, max(0, turns in flight - 1)."""
        return sum(max(0, len(conversation.turns) - 1) for conversation in self._busy)

    @property
    def most_concurrent(self) -> int:
        """Turns in flight in the busiest conversation now."""
        return max((len(conversation.turns) for conversation in self._busy), default=0)

    def live_sessions(self, most: int = 1000) -> list[LiveSession]:
        """Live sessions, the latest started first, `most` of them."""
        sessions = self._registry.sessions
        latest = (sessions[session_id] for session_id in reversed(sessions))
        return [session.view() for session, _ in zip(latest, range(most), strict=False)]

    def live_sessions_of(self, session_ids: Iterable[str]) -> list[LiveSession]:
        """Those of them that are alive, in the same order."""
        found = map(self._registry.sessions.get, session_ids)
        return [session.view() for session in found if session is not None]

    def live_session(self, session_id: str) -> SessionView | None:
        """One live session in depth, or None."""
        session = self._registry.sessions.get(session_id)
        return None if session is None else session.view_in_depth()

    # Inside.

    @property
    def _arrived(self) -> int:
        """Requests since the start."""
        return len(self._active) + self._completed + self._failed

    @property
    def _busy(self) -> set[Conversation]:
        """Live conversations with a request in flight."""
        held = (conversation for _, _, conversation in self._active.values())
        return {conversation for conversation in held if conversation is not None and not conversation.ended}

    def _session_for(self, identity: Identity, at: int, continues: ChainEntry | None) -> Session | None:
        """Where an arrival of a named session counts. The first continuation of a made-up session makes it a session."""
        first, answers, key = None, self._unnamed, identity.session_id
        if continues is not None and identity.source is Source.RESPONSE_CHAIN:
            answers, key = self._answers, continues.response_id
        if identity.source in _CONTINUED:
            first = answers.find(key)
            if first is not None and not (
                first.session_id == identity.session_id and self._is_made_up(first)
            ):
                first = None
        session = self._registry.session_for(identity, at, first)
        if session is not None and first is not None and not session.requests:
            conversation = self._registry.adopt(session, first)
            if conversation is not None and first.ended_at is None:
                self._active[first.request_id] = (first, session, conversation)
            answers.amend(key, first)
            self._unnamed.amend(first.session_id, first)
        return session

    def _is_made_up(self, first: Turn) -> bool:
        """True for a request that counts in no session yet, by whatever it was found."""
        known = self._unnamed.find(first.session_id)
        return first.generated and (known is None or known.generated)

    def _make_up(self) -> str:
        return f"{self._random():08x}{self._random():08x}"

    def _tell_arrival(self, turn: Turn) -> None:
        listeners = self._listeners
        if listeners.arrivals:
            listeners.tell(SessionListener.request_generated, turn.request())
        if turn.given_up:
            listeners.anomaly(Anomaly.PENDING_WAITS_CAP)
            self._registry.waits_given_up(1)
        if listeners.waits and turn.wait is not None:
            listeners.tell(SessionListener.wait_known, KnownWait(turn.ref, turn.wait, turn.sampled))

    def _tell_ending(
        self, turn: Turn, outcome: Outcome, finish_reason: str | None, error: str | None
    ) -> None:
        listeners = self._listeners
        if listeners.endings:
            request = turn.request()
            took = (turn.ended_at or 0) - turn.arrived_at
            result = Result(
                outcome, took, turn.model, finish_reason, error, turn.input_tokens, turn.output_tokens
            )
            if outcome is COMPLETED:
                listeners.tell(SessionListener.request_completed, request, result)
            else:
                listeners.tell(SessionListener.request_failed, request, result)
        if turn.distance:
            self._out_of_order += 1
            listeners.tell(SessionListener.response_out_of_order, turn.request(), turn.distance)
        for wait, ref, sampled, _ in turn.revealed:
            self._waits_revealed += 1
            self._wait_avoided += wait
            if listeners.waits:
                listeners.tell(SessionListener.wait_known, KnownWait(ref, wait, sampled))

    def _end_now(
        self, request_id: str, outcome: Outcome, *, finish_reason: str | None = None, error: str | None = None
    ) -> None:
        at = self._clock()
        active = self._active.get(request_id)
        if active is None:
            self._listeners.anomaly(Anomaly.UNKNOWN_ID_ENDED)
            _log.warning("request ended twice or never begun: %.200r", request_id)
        else:
            self.settle(
                active[0], outcome, at=at, finish_reason=finish_reason, error=error and error[:_ERROR_LENGTH]
            )
