"""The session manager: light tracking of sessions in place of the queue that was deleted.

Owns request ids, sequences and what requests of a conversation mean to each other; it holds no request up.
Everything runs at the same time, and everything it keeps is bounded. The relay calls `arrive` and `settle`
with timestamps; other code may call the six wrapping methods. The event loop's thread only.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from sidecar.core.bounded_map import BoundedMap
from sidecar.core.clock import MILLISECOND, STEADY, Clock, SystemWall, Wall
from sidecar.core.conversation import Conversation, Tracked
from sidecar.core.identity import DEFAULT_FORMAT, Identity, RequestIdFormat, Source, tidy, told
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.registry import Registry, Session
from sidecar.core.remembered import Answers
from sidecar.core.tally import Tally, recent
from sidecar.core.turns import (
    Arrival,
    ChainEntry,
    ConversationSummary,
    KnownWait,
    Listeners,
    LiveConversation,
    LiveSession,
    RecentRequest,
    RequestRef,
    Result,
    SessionLimits,
    SessionListener,
    SessionRequest,
    SessionStats,
    SessionSummary,
    SessionView,
    Settlement,
    Totals,
)

__all__ = [
    "Arrival",
    "ChainEntry",
    "ConversationSummary",
    "KnownWait",
    "LiveConversation",
    "LiveSession",
    "RecentRequest",
    "RequestRef",
    "Result",
    "SessionLimits",
    "SessionListener",
    "SessionManager",
    "SessionRequest",
    "SessionStats",
    "SessionSummary",
    "SessionView",
    "Settlement",
    "Totals",
]

_log = logging.getLogger("sidecar.sessions")

_NO_LIMITS = SessionLimits()
_ERROR_LENGTH = 200


@dataclass(slots=True)
class _Flight:
    """A request in flight and where it counts; both None for a request of a made-up or untracked session."""

    tracked: Tracked
    session: Session | None = None
    conversation: Conversation | None = None


class SessionManager:
    """Tracks requests by session and conversation.

    `clock` gives ns since the epoch and is asked by the wrapping methods only; `wall` says how far the wall
    clock is ahead of it, for the time in request ids (without a `clock`, both are the system's); `random` gives 32 random
    bits; `request_id_format` is described in `request_id.py`.

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
        self._random = random or (lambda: dice.getrandbits(32))
        self._format = RequestIdFormat(request_id_format)
        self._limits = limits
        self._listeners = Listeners()
        self._registry = Registry(limits, self._listeners)
        self._tally = Tally(self._listeners, self._registry)
        self._active: dict[str, _Flight] = {}
        self._by_session: dict[str, dict[str, Tracked]] = {}
        anomaly = self._listeners.anomaly
        self._answers = Answers(limits.response_chain, lambda: anomaly(Anomaly.RESPONSE_CHAIN_EVICTED))
        self._retry_keys: BoundedMap[str, RequestRef] = BoundedMap(
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
        arrival = self.arrive(
            identity, at=self._clock(), streaming=is_streaming, turn=True, trace_id=0, span_id=0
        )
        return arrival.request_id

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
        return self._tally.stats(len(self._active))

    def get_active_requests(
        self, session_id: str, conversation_id: str | None = None
    ) -> list[SessionRequest]:
        """The requests of a session in flight, in order of arrival; of one conversation if it is given."""
        active = self._by_session.get(tidy(session_id) or "", {}).values()
        wanted = None if conversation_id is None else tidy(conversation_id)
        return [
            tracked.request
            for tracked in active
            if conversation_id is None or tracked.request.conversation_id == wanted
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
        streaming: bool,
        turn: bool,
        trace_id: int,
        span_id: int,
        sampled: bool = True,
        continues: ChainEntry | None = None,
    ) -> Arrival:
        """A request joins its conversation at `at` (ns). The ids are those of its SERVER span.

        `continues` is what its `previous_response_id` led to. The identity's anomalies are the caller's
        to count. Never raises, whatever the caps say: over them a request passes untracked, as number 0.
        """
        named = identity.named
        session, conversation = self._place(identity, at, continues) if named else (None, None)
        sequence = int(not named) if conversation is None else conversation.next_sequence()
        request_id = self.new_request_id(identity, sequence, at)
        request = SessionRequest(
            request_id,
            identity.session_id if session is None else session.session_id,
            identity.conversation_id,
            sequence,
            streaming,
            turn,
            arrived_at=at,
            ref=RequestRef(request_id, sequence, trace_id, span_id, sampled),
        )
        tracked = Tracked(
            request,
            generated=not named,
            session_supplied=identity.session_supplied,
            conversation_supplied=identity.conversation_supplied,
        )
        self._active[request_id] = _Flight(tracked, session, conversation)
        of_session = self._by_session.get(request.session_id)
        if of_session is None:
            of_session = self._by_session[request.session_id] = {}
        of_session[request_id] = tracked
        joined = None
        if session is not None:
            joined = self._registry.enter(session, conversation, tracked)
        return self._tally.arrival(tracked, joined)

    def new_request_id(self, identity: Identity, sequence: int, at: int) -> str:
        """A request's own id; `sequence` is 0 for one that joins no conversation. Nothing is tracked by it."""
        request_id = self._format.compose(
            session=identity.session_id,
            conversation=identity.conversation_id,
            counter=sequence,
            timestamp=(at + self._wall.correction) // MILLISECOND,
            random=self._random(),
        )
        # A short format may repeat itself; an id in flight never does.
        return request_id if request_id not in self._active else f"{request_id}-{self._tally.arrived:x}"

    def settle(
        self, request_id: str, result: Result, *, at: int, response_id: str | None = None
    ) -> Settlement | None:
        """A request ends at `at` (ns); `response_id` is its answer's, for `previous_response_id`.

        None for an unknown or already ended id, which is counted as an anomaly.
        """
        flight = self._active.pop(request_id, None)
        if flight is None:
            self._listeners.anomaly(Anomaly.UNKNOWN_ID_ENDED)
            return None
        tracked, session = flight.tracked, flight.session
        request = tracked.request
        of_session = self._by_session[request.session_id]
        del of_session[request_id]
        if not of_session:
            del self._by_session[request.session_id]
        end = tracked.ended(result, at)
        left = None
        if session is not None:
            left = self._registry.leave(session, flight.conversation, tracked, result)
        if response_id is not None:
            self._answers.learn(response_id, tracked)
        self._answers.condense(tracked)
        settlement = self._tally.ending(tracked, result, left)
        if session is not None:
            session.recent.append(recent(request, result, settlement, end))
            if len(session.recent) > self._limits.recent:
                del session.recent[0]
        return settlement

    def passed(self, request_id: str, at: int) -> None:
        """A request's last byte was handed over at `at` (ns), and it will end once what has passed is read.

        A turn that arrives from now on does not overlap it.
        """
        flight = self._active.get(request_id)
        if flight is not None and flight.conversation is not None:
            self._registry.turn_passed(
                flight.conversation, flight.tracked, max(at, flight.tracked.request.arrived_at)
            )

    # What one answer or attempt says about the next request.

    def learn_streaming(self, request_id: str) -> None:
        """A request that had arrived at its head asks for a stream, as its body says."""
        flight = self._active.get(request_id)
        if flight is not None:
            flight.tracked.request = replace(flight.tracked.request, streaming=True)

    def learn_response(self, request_id: str, response_id: str) -> None:
        """An answer told its id while it streams; unknown or ended requests are ignored."""
        flight = self._active.get(request_id)
        if flight is not None:
            self._answers.learn(response_id, flight.tracked)

    def chain(self, previous_response_id: str) -> ChainEntry | None:
        """Whose answer that is, if it is still remembered."""
        tracked = self._answers.find(previous_response_id)
        if tracked is None:
            return None
        return ChainEntry(
            response_id=previous_response_id,
            session_id=tracked.request.session_id,
            conversation_id=tracked.request.conversation_id,
            conversation_supplied=tracked.conversation_supplied,
            generated=tracked.generated,
            ref=tracked.request.ref,
            session_supplied=tracked.session_supplied,
        )

    def claim_usage(self, response_id: str) -> bool:
        """Whether the usage of that answer is still to be counted; once, if its turn ended without telling it."""
        tracked = self._answers.find(response_id)
        if tracked is None or tracked.result is None or tracked.usage_told:
            return False
        tracked.usage_told = True
        self._answers.amend(response_id, tracked)
        return True

    def seen_before(self, key: str, ref: RequestRef, *, session_id: str = "") -> RequestRef | None:
        """The latest request that came with this `Idempotency-Key`, which this one retries; remembers this one.

        `session_id` keeps the keys of different sessions apart; leave it out where the id was made up.
        """
        scoped = f"{session_id}\n{tidy(key) or ''}"
        before = self._retry_keys.get(scoped)
        self._retry_keys.put(scoped, ref)
        return before

    def last_failed(self, session_id: str, conversation_id: str) -> RequestRef | None:
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

    def stood_still(self, by: int) -> None:
        """Until now no request could have come for `by` ns: that counts for no session as quiet."""
        self._registry.stood_still += by

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
        return self._registry.gauges.conversations

    @property
    def conversations_busy(self) -> int:
        """Conversations with a request in flight."""
        return self._registry.gauges.busy

    @property
    def overlapping(self) -> int:
        """Turns in flight that the queue would be holding: over conversations, max(0, turns in flight - 1)."""
        return self._registry.gauges.overlapping

    @property
    def most_concurrent(self) -> int:
        """Turns in flight in the busiest conversation now."""
        return self._registry.gauges.most_concurrent

    def live_sessions(self, most: int = 1000) -> list[LiveSession]:
        """Live sessions, the latest started first, `most` of them."""
        sessions = self._registry.sessions
        latest = (sessions[session_id] for session_id in reversed(sessions))
        return [session.view() for session, _ in zip(latest, range(most), strict=False)]

    def live_session(self, session_id: str) -> SessionView | None:
        """One live session in depth, or None."""
        session = self._registry.sessions.get(session_id)
        return None if session is None else session.view_in_depth()

    # Inside.

    def _place(
        self, identity: Identity, at: int, continues: ChainEntry | None
    ) -> tuple[Session | None, Conversation | None]:
        """Where an arrival of a named session counts. The first continuation of a made-up session makes it a session."""
        first = None
        if continues is not None and identity.source is Source.RESPONSE_CHAIN:
            first = self._answers.find(continues.response_id)
            if first is not None and (not first.generated or first.request.session_id != identity.session_id):
                first = None
        session = self._registry.session_for(identity, at, first)
        if session is None:
            return None, None
        if first is not None and not session.requests:
            self._adopt(session, first)
            if continues is not None:
                self._answers.amend(continues.response_id, first)
        conversation = self._registry.conversation_for(
            session, identity.conversation_id, supplied=identity.conversation_supplied, at=at
        )
        return session, conversation

    def _adopt(self, session: Session, first: Tracked) -> None:
        conversation = self._registry.adopt(session, first)
        flight = self._active.get(first.request.request_id)
        if flight is not None and conversation is not None:
            flight.session, flight.conversation = session, conversation

    def _make_up(self) -> str:
        return f"{self._random():08x}{self._random():08x}"

    def _end_now(
        self, request_id: str, outcome: Outcome, *, finish_reason: str | None = None, error: str | None = None
    ) -> None:
        at = self._clock()
        flight = self._active.get(request_id)
        took = 0 if flight is None else max(0, at - flight.tracked.request.arrived_at)
        result = Result(outcome, took, finish_reason=finish_reason, error=error and error[:_ERROR_LENGTH])
        if self.settle(request_id, result, at=at) is None:
            _log.warning("request ended twice or never begun: %.200r", request_id)
