"""Where a request joins its conversation, and where it leaves it.

Owns the order: identity, then arrival, then telemetry; at the end the session manager is told before the
recorder. It moves no bytes and decides no outcome.
"""

import uuid
from collections.abc import Callable, Mapping
from functools import partial

from sidecar.core.digests import History
from sidecar.core.echo import Echo, Prompt, Room
from sidecar.core.exchange import Exchange, Telemetry
from sidecar.core.facts import COMPLETED, Anomaly
from sidecar.core.histories import Histories
from sidecar.core.identity import (
    CHAIN_FIELD,
    ChainEntry,
    HeadIdentities,
    HeadIdentity,
    Identity,
    IdentityRules,
    resolve,
)
from sidecar.core.sessions import Ref, SessionManager, Turn
from sidecar.core.shown import shown_name
from sidecar.core.threads import RACES, Past, Place, placed

_RETRY_COUNT, _RETRY_KEY = b"x-stainless-retry-count", b"idempotency-key"

_CHAINED = "openai.responses"
"""The API whose answers are named by later requests; of others only those that are kept."""


class Joining:
    """Every request's way into its conversation and out of it. One per relay; it keeps nothing of a request.

    Histories are only looked at: a bug there is reported, and the request goes on as one without a history.
    """

    __slots__ = ("_heads", "_histories", "_joins", "_report", "_room", "_rules", "_sessions", "_telemetry")

    def __init__(
        self,
        sessions: SessionManager,
        rules: IdentityRules,
        telemetry: Telemetry,
        histories: Histories | None,
        report: Callable[[Exception], None],
        room: Room,
        *,
        joins: bool,
    ) -> None:
        """`histories`: what is remembered of them, if anything, and `room` is for what waits of an answer; `joins`: a turn may
        belong to a session by its own.
        """
        self._sessions = sessions
        self._rules = rules
        self._heads = HeadIdentities(rules)
        self._histories = histories
        self._joins = joins
        self._report = report
        self._room = room
        self._telemetry = telemetry

    def stood_still(self, by: int) -> None:
        """The process did not run for `by` ns: whoever was waited for could not come."""
        if self._histories is not None:
            self._histories.stood_still(by)

    def try_at_head(self, exchange: Exchange, at: int) -> HeadIdentity:
        """Joins at once if the head names both session and conversation; else it waits for the body."""
        head, _ = self._heads.of(exchange.head.headers)
        if head.complete:
            self.join(exchange, at, head, inspected=True)
        return head

    def join(self, exchange: Exchange, at: int, head: HeadIdentity | None = None, *, inspected: bool) -> None:
        """Joins with what head and body tell; `inspected` is False when a body was there and was not read."""
        request, route, trace, given = exchange.request, exchange.route, exchange.trace, exchange.head.headers
        hints: Mapping[str, str] = request.hints
        if route.fetches is not None:
            hints = _hints(exchange)
        chain = self._continued(exchange, hints) if hints else None
        if exchange.turn is not None:
            self._learn_from_body(exchange, exchange.turn)
            return
        identity = None
        if head is None:
            head, identity = self._heads.of(given)
        if hints or identity is None:
            identity = self._resolve(exchange, head, inspected=inspected)
        histories, history, place = self._histories, request.history, None
        if histories is not None:
            exchange.recognised = route.turn
            if history is not None:
                identity, place = self._recognise(exchange, histories, history, identity, at)
        exchange.identity = identity
        exchange.arrived = at
        ref = (trace.trace_id << 64 | trace.server_span_id).to_bytes(24, "big")
        exchange.turn = turn = self._sessions.arrive(
            identity,
            at=at,
            ref=ref,
            streaming=request.streaming or route.streaming,
            turn=route.turn,
            sampled=trace.sampled,
            continues=chain,
            upstream=None if exchange.upstream is None else exchange.upstream.name,
        )
        if histories is not None and history is not None and place is not None:
            self._remember(exchange, turn, histories, history, place)
        parent = identity.parent_conversation
        if parent is not None and exchange.spawned_by is None and turn.sequence == 1:
            told = identity.agent_turn
            within = None if told is None else told.parent
            exchange.spawned_by = self._sessions.latest(identity.session_id, parent, within)
        # Many clients say with every request that it is no retry.
        if given.first.get(_RETRY_COUNT, b"0") != b"0" or _RETRY_KEY in given.first:
            self._mark_retry(exchange, identity, ref)
        self._telemetry.arrived(exchange)

    def _recognise(
        self, exchange: Exchange, histories: Histories, history: History, identity: Identity, at: int
    ) -> tuple[Identity, Place | None]:
        """Who it is by its history, if nothing else tells, and what it is to its past."""
        try:
            place = histories.recognise(history, identity, at)
        except Exception as error:  # noqa: BLE001 - see the class
            self._report(error)
            return identity, None
        if place.ambiguous:
            exchange.anomalies.append(Anomaly.HISTORY_AMBIGUOUS)
        if place.spawned_by is not None:
            exchange.spawned_by = place.spawned_by.ref
        told = identity.conversation_supplied and not place.joins and place.spawned_by is None
        return identity if told or not self._joins else placed(identity, place), place

    def _remember(
        self, exchange: Exchange, turn: Turn, histories: Histories, history: History, place: Place
    ) -> None:
        """Its answer is watched for what may come back."""
        try:
            prompt = history.begun if isinstance(history, Prompt) else None
            echo = Echo(history.digester, prompt, history.prefill, self._room)
            exchange.past = histories.remember(place, history, turn.ref, echo, turn.identity)
            exchange.response.echo = echo
        except Exception as error:  # noqa: BLE001 - see the class
            self._report(error)
        if turn.generated and self._joins:
            self._sessions.remember_unnamed(turn)
        history.forget()

    def answered(self, exchange: Exchange) -> None:
        """The answer has told its id: what continues it can come before it has ended here."""
        if exchange.response.id is not None and exchange.turn is not None and _leads_on(exchange):
            self._sessions.learn_response(exchange.turn, exchange.response.id)

    def passed(self, exchange: Exchange, at: int) -> None:
        """All of the answer has been handed over; what it told is still being read."""
        if exchange.turn is not None:
            self._sessions.passed(exchange.turn, at)

    def identify(self, exchange: Exchange) -> None:
        """It has ids at its end at the latest: if it has not joined, those its headers tell, else generated ones."""
        if exchange.identity is None:
            head, _ = self._heads.of(exchange.head.headers)
            exchange.identity = self._resolve(exchange, head, inspected=True)
        if exchange.request_id is None:
            exchange.stray_id = self._sessions.new_request_id(exchange.identity, 0, exchange.start)

    def leaving(self, exchange: Exchange, freeze: Callable[[], object]) -> list[Callable[[], object]]:
        """The steps of its end, each to be made whatever another one raises: it is frozen, leaves, and is told."""
        steps: list[Callable[[], object]] = [
            freeze,
            partial(self._leave, exchange),
            partial(self._telemetry.settled, exchange),
        ]
        if exchange.route.fetches is not None:
            steps.insert(0, partial(self._count_once, exchange))
        if exchange.turn is None:
            steps.insert(0, partial(self.identify, exchange))
        return steps

    def _count_once(self, exchange: Exchange) -> None:
        """The usage of an answer that is asked for again is not told again, unless it never was."""
        fetched, tokens = exchange.route.fetches, exchange.response.tokens
        if fetched is not None and not (any(tokens.values()) and self._sessions.claim_usage(fetched)):
            tokens.clear()

    def _leave(self, exchange: Exchange) -> None:
        turn, verdict = exchange.turn, exchange.verdict
        if turn is None or verdict is None:
            return
        response, past, races = exchange.response, exchange.past, 0
        tell, reasons = response.tokens.get, response.finish_reasons
        input_tokens = tell("input")
        if past is not None and self._histories is not None:
            if past.broke_at is not None or tell("cache_read") is not None:
                _read_anew(exchange, past)
            echo = response.echo
            response.echo = None  # it holds what was said, and the exchange outlives the request
            whole = verdict.outcome is COMPLETED
            try:
                self._histories.answered(past, whole=whole, input_tokens=input_tokens, at=exchange.end)
            except Exception as error:  # noqa: BLE001 - see the class
                self._report(error)
            if echo is not None and echo.held:
                echo.close()
            if past.rivals or past.relation is RACES:
                exchange.raced = past.races  # what comes later does not change what is told
                races = len(exchange.raced)
        model = response.model or exchange.request.model or exchange.route.model
        self._sessions.settle(
            turn,
            verdict.outcome,
            at=exchange.end,
            model=None if model is None else shown_name(model),
            finish_reason=reasons[0] if reasons else None,
            error=verdict.error_type,
            input_tokens=input_tokens,
            output_tokens=tell("output"),
            response_id=response.id if response.id is not None and _leads_on(exchange) else None,
            races=races,
        )

    def _resolve(self, exchange: Exchange, head: HeadIdentity | None, *, inspected: bool) -> Identity:
        return resolve(
            exchange.head.headers,
            self._rules,
            _hints(exchange),
            chain=self._sessions.chain,
            generate=_generated_id,
            inspected=inspected,
            head=head,
        )

    def _continued(self, exchange: Exchange, hints: Mapping[str, str]) -> ChainEntry | None:
        """Whose answer the body continues, if it says so and that is remembered; the link follows from it."""
        previous = hints.get(CHAIN_FIELD)
        chain = self._sessions.chain(previous) if previous else None
        exchange.continues = chain.ref if chain is not None else None
        return chain

    def _learn_from_body(self, exchange: Exchange, turn: Turn) -> None:
        """What the body of a request that arrived at its head still has to say."""
        history, histories = exchange.request.history, self._histories
        if history is not None and histories is not None:
            _, place = self._recognise(exchange, histories, history, turn.identity, turn.arrived_at)
            if place is not None:
                self._remember(exchange, turn, histories, history, place)
        if exchange.request.streaming:
            self._sessions.learn_streaming(turn)

    def _mark_retry(self, exchange: Exchange, identity: Identity, ref: Ref) -> None:
        """A retry is what its headers say it is; which request it retries is known by key, else guessed."""
        sessions = self._sessions
        headers = exchange.head.headers
        count = headers.text(_RETRY_COUNT) or ""
        if count.isascii() and count.isdigit():
            exchange.retry_count = min(int(count[:9]), 1_000_000)
        exchange.retry = exchange.retry_count > 0
        key = headers.text(_RETRY_KEY)
        if key:
            scope = identity.session_id if identity.named else ""
            exchange.retry_of = sessions.seen_before(key, ref, session_id=scope)
            exchange.retry = exchange.retry or exchange.retry_of is not None
        if exchange.retry and exchange.retry_of is None and identity.named:
            exchange.retry_of = sessions.last_failed(identity.session_id, identity.conversation_id)


def _read_anew(exchange: Exchange, past: Past) -> None:
    """What the provider read anew, as it reported its input: of this prompt, or of the one before where it broke."""
    tokens, before = exchange.response.tokens, past.before
    given, cached = tokens.get("input"), tokens.get("cache_read")
    if past.broke_at is not None:
        exchange.read_anew = None if before is None else before.input_tokens
    elif before is not None and given is not None and cached is not None:
        exchange.read_anew = given - cached


def _generated_id() -> str:
    """A session id for a request that names none."""
    return str(uuid.uuid4())


def _leads_on(exchange: Exchange) -> bool:
    """Another request may name its answer by its id."""
    route = exchange.route
    return route.turn and (route.api == _CHAINED or exchange.request.stored)


def _hints(exchange: Exchange) -> Mapping[str, str]:
    """What the body names; an answer that is asked for by its path belongs to who had it made."""
    hints, fetched = exchange.request.hints, exchange.route.fetches
    return hints if fetched is None else {**hints, CHAIN_FIELD: fetched}
