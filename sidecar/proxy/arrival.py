"""Where a request joins its conversation, and where it leaves it.

Owns the order: identity, then arrival, then telemetry; at the end the session manager is told before the
recorder. It moves no bytes and decides no outcome. One per flow.
"""

from collections.abc import Callable, Mapping
from functools import partial

from sidecar.core.digests import History
from sidecar.core.echo import Echo
from sidecar.core.exchange import Exchange
from sidecar.core.histories import Place
from sidecar.core.identity import CHAIN_FIELD, HeadIdentity, Identity, from_head, placed, resolve
from sidecar.core.outcome import Anomaly, Outcome
from sidecar.core.sessions import ChainEntry, Ref, Turn
from sidecar.core.shown import shown
from sidecar.proxy.guard import guarded
from sidecar.proxy.shared import Shared

_CHAINED = "openai.responses"
"""The API whose answers are named by later requests; of others only those that are kept."""


class Joining:
    """One request's way into its conversation and out of it."""

    __slots__ = ("_exchange", "_head", "_shared", "_told")

    def __init__(self, shared: Shared, exchange: Exchange) -> None:
        self._shared = shared
        self._exchange = exchange
        self._head: HeadIdentity | None = None
        self._told = not self._leads_on

    @property
    def _leads_on(self) -> bool:
        """Another request may name its answer by its id."""
        exchange, route = self._exchange, self._exchange.route
        return route.turn and (route.api == _CHAINED or exchange.request.stored)

    @property
    def _hints(self) -> Mapping[str, str]:
        """What the body names; an answer that is asked for by its path belongs to who had it made."""
        exchange = self._exchange
        hints, fetched = exchange.request.hints, exchange.route.fetches
        return hints if fetched is None else {**hints, CHAIN_FIELD: fetched}

    def try_at_head(self, at: int) -> None:
        """Joins at once if the head names both session and conversation; else it waits for the body."""
        self._head = from_head(self._exchange.head.headers, self._shared.identity_rules)
        if self._head.complete:
            self.join(at, inspected=True)

    def join(self, at: int, *, inspected: bool) -> None:
        """Joins with what head and body tell; `inspected` is False when a body was there and was not read."""
        exchange, shared = self._exchange, self._shared
        if exchange.turn is not None:
            self._learn_from_body(exchange.turn)
            return
        place = None
        identity = self._resolve(inspected=inspected)
        if (history := exchange.request.history) is not None:
            identity, place = self._recognise(history, identity)
        exchange.identity = identity
        exchange.arrived = at
        chain = self._continued()
        trace = exchange.trace
        ref = trace.trace_id.to_bytes(16, "big") + trace.server_span_id.to_bytes(8, "big")
        exchange.turn = shared.sessions.arrive(
            identity,
            at=at,
            ref=ref,
            streaming=exchange.request.streaming or exchange.route.streaming,
            turn=exchange.route.turn,
            sampled=trace.sampled,
            continues=chain,
        )
        if history is not None and place is not None:
            self._remember(history, place, exchange.turn)
        exchange.recognised = exchange.route.turn and shared.digester is not None
        parent = identity.parent_conversation
        if parent is not None and exchange.spawned_by is None and exchange.turn.sequence == 1:
            exchange.spawned_by = shared.sessions.latest(identity.session_id, parent)
        self._mark_retry(identity, ref)
        shared.telemetry.arrived(exchange)

    def _recognise(self, history: History, identity: Identity) -> tuple[Identity, Place]:
        """Who it is by its history, if nothing else tells, and what it is to its past."""
        exchange, shared = self._exchange, self._shared
        place = shared.histories.recognise(history, identity)
        if place.ambiguous:
            exchange.anomalies.append(Anomaly.HISTORY_AMBIGUOUS)
        if place.spawned_by is not None:
            exchange.spawned_by = place.spawned_by.ref
        return placed(identity, place) if shared.joins_histories else identity, place

    def _remember(self, history: History, place: Place, turn: Turn) -> None:
        """Its answer is watched for what may come back."""
        exchange, shared, identity = self._exchange, self._shared, turn.identity
        exchange.response.echo = echo = Echo(history.digester)
        exchange.past = shared.histories.remember(place, history, turn.ref, echo, identity)
        shared.sessions.remember_unnamed(turn)
        history.forget()

    def answered(self) -> None:
        """The answer may have told its id: what continues it can come before it has ended here."""
        exchange = self._exchange
        if self._told or exchange.response.id is None or exchange.turn is None:
            return
        self._told = True
        self._shared.sessions.learn_response(exchange.turn, exchange.response.id)

    def passed(self, at: int) -> None:
        """All of the answer has been handed over; what it told is still being read."""
        if self._exchange.turn is not None:
            self._shared.sessions.passed(self._exchange.turn, at)

    def identify(self) -> None:
        """It has ids at its end at the latest: if it has not joined, those its headers tell, else generated ones."""
        exchange = self._exchange
        if exchange.identity is None:
            exchange.identity = self._resolve(inspected=True)
        if exchange.request_id is None:
            exchange.stray_id = self._shared.sessions.new_request_id(exchange.identity, 0, exchange.start)

    def settle(self, at: int, report: Callable[[Exception], None]) -> None:
        """Freezes the exchange, takes it out of its conversation and tells telemetry, whatever one of these raises."""
        exchange = self._exchange
        guarded(
            report,
            self.identify,
            self._count_once,
            partial(exchange.settle, at),
            self._leave,
            partial(self._shared.telemetry.settled, exchange),
        )

    def _count_once(self) -> None:
        """The usage of an answer that is asked for again is not told again, unless it never was."""
        fetched, tokens = self._exchange.route.fetches, self._exchange.response.tokens
        if fetched is not None and not (any(tokens.values()) and self._shared.sessions.claim_usage(fetched)):
            tokens.clear()

    def _leave(self) -> None:
        exchange = self._exchange
        turn, verdict = exchange.turn, exchange.verdict
        if turn is None or verdict is None:
            return
        response = exchange.response
        if exchange.past is not None:
            self._shared.histories.answered(exchange.past, whole=verdict.outcome is Outcome.COMPLETED)
        model = response.model or exchange.request.model or exchange.route.model
        self._shared.sessions.settle(
            turn,
            verdict.outcome,
            at=exchange.end,
            model=None if model is None else shown(model),
            finish_reason=response.finish_reasons[0] if response.finish_reasons else None,
            error=verdict.error_type,
            input_tokens=response.tokens.get("input"),
            output_tokens=response.tokens.get("output"),
            response_id=response.id if self._leads_on else None,
        )

    def _resolve(self, *, inspected: bool) -> Identity:
        shared, exchange = self._shared, self._exchange
        return resolve(
            exchange.head.headers,
            shared.identity_rules,
            self._hints,
            chain=shared.sessions.chain,
            generate=shared.generated_id,
            inspected=inspected,
            head=self._head,
        )

    def _continued(self) -> ChainEntry | None:
        """Whose answer the body continues, if it says so and that is remembered; the link follows from it."""
        previous = self._hints.get(CHAIN_FIELD)
        chain = self._shared.sessions.chain(previous) if previous else None
        self._exchange.continues = chain.ref if chain is not None else None
        return chain

    def _learn_from_body(self, turn: Turn) -> None:
        """What the body of a request that arrived at its head still has to say."""
        self._continued()
        if (history := self._exchange.request.history) is not None:
            _, place = self._recognise(history, turn.identity)
            self._remember(history, place, turn)
        if self._exchange.request.streaming:
            self._shared.sessions.learn_streaming(turn)

    def _mark_retry(self, identity: Identity, ref: Ref) -> None:
        """A retry is what its headers say it is; which request it retries is known by key, else guessed."""
        exchange, sessions = self._exchange, self._shared.sessions
        headers = exchange.head.headers
        count = headers.text(b"x-stainless-retry-count") or ""
        if count.isascii() and count.isdigit():
            exchange.retry_count = min(int(count[:9]), 1_000_000)
        exchange.retry = exchange.retry_count > 0
        key = headers.text(b"idempotency-key")
        if key:
            scope = identity.session_id if identity.named else ""
            exchange.retry_of = sessions.seen_before(key, ref, session_id=scope)
            exchange.retry = exchange.retry or exchange.retry_of is not None
        if exchange.retry and exchange.retry_of is None and identity.named:
            exchange.retry_of = sessions.last_failed(identity.session_id, identity.conversation_id)
