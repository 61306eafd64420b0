"""The `conversation` and `session` spans, made when a conversation or a session has ended.

Owns their attributes and links, and that their times are the wall's as it is at their end; each is a trace of its own, for a session may last a day. They are always
taken, whatever became of their requests, unless the sampler is `always_off`.
"""

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanContext, TraceState

from sidecar.core.clock import SECOND, STEADY, Wall
from sidecar.core.outcome import Outcome
from sidecar.core.sessions import ConversationSummary, SessionListener, SessionSummary, Totals
from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.request_spans import MAX_LINKS, ref_context
from sidecar.telemetry.spans import Layer, Pipeline, SpanAttributes, SpanFactory
from sidecar.telemetry.trace import FLAGS, Tracer

_OUTCOMES = {
    Outcome.COMPLETED: n.TOTAL_COMPLETED,
    Outcome.CLIENT_LEFT: n.TOTAL_CLIENT_LEFT,
    Outcome.UPSTREAM_REJECTED: n.TOTAL_REJECTED,
    Outcome.UPSTREAM_FAILED: n.TOTAL_FAILED,
    Outcome.ERROR_IN_STREAM: n.TOTAL_ERROR_IN_STREAM,
    Outcome.TIMED_OUT: n.TOTAL_TIMED_OUT,
    Outcome.REFUSED: n.TOTAL_REFUSED,
    Outcome.SHUTDOWN: n.TOTAL_SHUTDOWN,
    Outcome.INTERNAL_ERROR: n.TOTAL_INTERNAL_ERROR,
}


class SessionSpans(SessionListener):
    """Makes the spans of ended conversations and sessions, and hands them to the way out."""

    def __init__(
        self, factory: SpanFactory, tracer: Tracer, pipeline: Pipeline, sampler: Sampler, wall: Wall = STEADY
    ) -> None:
        self._factory = factory
        self._tracer = tracer
        self._pipeline = pipeline
        self._wall = wall
        self._off = sampler.get_description() == ALWAYS_OFF.get_description()
        self._ended: dict[str, tuple[list[SpanContext], int]] = {}
        """By session: the spans of its ended conversations, at most `MAX_LINKS`, and how many more there were."""

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """Makes its span, and keeps the span's context for its session's links."""
        if self._off:
            self._pipeline.not_made(Signal.TRACES, 1)
            return
        trace = _OwnTrace(self._tracer)
        attributes: SpanAttributes = {
            n.SESSION_ID: summary.session_id,
            n.SESSION_SOURCE: str(summary.source),
            n.CONVERSATION: summary.conversation_id,
            **totals_attributes(summary.totals),
        }
        if summary.supplied or summary.session_supplied:
            attributes[n.GEN_AI_CONVERSATION] = (
                summary.conversation_id if summary.supplied else summary.session_id
            )
        kept = summary.links[:MAX_LINKS]
        dropped = summary.links_dropped + len(summary.links) - len(kept)
        if dropped:
            attributes[n.LINKS_DROPPED] = dropped
        self._pipeline.span(
            self._factory.build(
                "conversation",
                trace,
                trace.span_id,
                times=(
                    summary.started_at + self._wall.correction,
                    summary.ended_at + self._wall.correction,
                ),
                attributes=(Layer(attributes),),
                links=[(ref_context(ref), kind) for kind, ref in kept],
            )
        )
        contexts, more = self._ended.setdefault(summary.session_id, ([], 0))
        if len(contexts) < MAX_LINKS:
            contexts.append(SpanContext(trace.trace_id, trace.span_id, False, trace.flags))
        else:
            self._ended[summary.session_id] = (contexts, more + 1)

    def session_ended(self, summary: SessionSummary) -> None:
        """Makes its span, with a link to each of its conversations' spans."""
        if self._off:
            self._pipeline.not_made(Signal.TRACES, 1)
            return
        contexts, more = self._ended.pop(summary.session_id, ([], 0))
        attributes: SpanAttributes = {
            n.SESSION_ID: summary.session_id,
            n.SESSION_SOURCE: str(summary.source),
            n.TOTAL_CONVERSATIONS: summary.conversations,
            **totals_attributes(summary.totals),
        }
        if more:
            attributes[n.LINKS_DROPPED] = more
        trace = _OwnTrace(self._tracer)
        self._pipeline.span(
            self._factory.build(
                "session",
                trace,
                trace.span_id,
                times=(
                    summary.started_at + self._wall.correction,
                    summary.ended_at + self._wall.correction,
                ),
                attributes=(Layer(attributes),),
                links=[(context, "conversation") for context in contexts],
            )
        )


class _OwnTrace:
    """A trace of one span."""

    __slots__ = ("span_id", "trace_id")

    flags = FLAGS[3]
    state = TraceState()

    def __init__(self, tracer: Tracer) -> None:
        self.trace_id = tracer.trace_id()
        self.span_id = tracer.span_id()


def totals_attributes(totals: Totals) -> SpanAttributes:
    """The sums as attributes: times in seconds; outcomes that did not occur and unreported tokens are absent.

    What the conventions say of one call is never among them: whoever adds it up would count it again.
    """
    attributes: SpanAttributes = {
        n.TOTAL_REQUESTS: sum(totals.requests.values()),
        **{_OUTCOMES[outcome]: count for outcome, count in totals.requests.items() if count},
        n.TOTAL_TURNS: totals.turns,
        n.TOTAL_OVERLAPS: totals.overlaps,
        n.TOTAL_MOST_AT_ONCE: totals.most_at_once,
        n.TOTAL_OUT_OF_ORDER: totals.out_of_order,
        n.TOTAL_WAITS_KNOWN: totals.waits_known,
        n.TOTAL_WAIT_AVOIDED: totals.wait_avoided / SECOND,
        n.TOTAL_WAITS_UNKNOWN: totals.waits_unknown,
        n.TOTAL_MODEL_TIME: totals.model_time / SECOND,
        n.TOTAL_THINK_TIME: totals.think_time / SECOND,
    }
    if totals.input_tokens is not None:
        attributes[n.TOTAL_INPUT_TOKENS] = totals.input_tokens
    if totals.output_tokens is not None:
        attributes[n.TOTAL_OUTPUT_TOKENS] = totals.output_tokens
    if totals.models:
        attributes[n.MODELS] = totals.models
    return attributes
