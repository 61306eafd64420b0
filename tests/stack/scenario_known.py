"""How often each thing happens in a round of the scenario: the figures that panels and queries are held against.

Owns the table, which follows from the stories of `scenario.py` by counting on one's fingers; it must never be filled
in from what was measured. The outcomes `shutdown` and `internal_error` do not happen: the one ends the sidecar, the
other would be a bug of it.
"""

from sidecar.core.facts import Anomaly, Outcome, Phase
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metrics import Metric
from tests.stack.facts import Fact, Peak

INPUT, OUTPUT = 11, 7
"""Tokens of every answer that reports them."""


def _fact(metric: Metric, per_round: int, *where: tuple[str, str], over: float | None = None) -> Fact:
    return Fact(metric, per_round, where, over)


OUTCOMES = {
    # crowd 4, polite 3, reasons 3, no-turns 2, stalls 1, the retry 1, nameless 2, odd 2, slow-reader 1
    Outcome.COMPLETED: 19,
    Outcome.CLIENT_LEFT: 2,
    Outcome.UPSTREAM_REJECTED: 2,
    Outcome.UPSTREAM_FAILED: 2,
    Outcome.ERROR_IN_STREAM: 1,
    Outcome.TIMED_OUT: 3,
    Outcome.REFUSED: 2,
}

FINISHES = {
    # all completed turns but those of `reasons`: 17 less 3
    "stop": 14,
    "length": 1,
    "tool_calls": 1,
    "content_filter": 1,
    # cut short, an error inside, silent for good
    "missing": 3,
}

ERRORS = (
    "429",
    "500",
    "connection_refused",
    "cut_short",
    "malformed",
    "server_error",
    "timeout.client_body",
    "timeout.first_byte",
    "timeout.idle",
    "upgrade",
)
"""Each once."""

SOURCES = {"own_header": 24, "generated": 2, "no_turn": 2}
"""Neither what is refused nor an upload that breaks off arrives."""

KNOWN: tuple[Fact, ...] = (
    _fact(metrics.REQUESTS, 31),
    *(_fact(metrics.REQUESTS, often, (n.OUTCOME, outcome.value)) for outcome, often in OUTCOMES.items()),
    *(_fact(metrics.REQUESTS, 1, (n.ERROR_TYPE, error)) for error in ERRORS),
    *(
        _fact(metrics.REQUESTS, 1, (n.OUTCOME, Outcome.CLIENT_LEFT.value), (n.PHASE, phase.value))
        for phase in (Phase.BEFORE_HEADERS, Phase.MID_STREAM)
    ),
    _fact(metrics.REQUESTS, 1, (n.UPSTREAM, "dead")),
    # polite 3, stalls, impatient's second, broken's first two, deadline-idle, slow-reader
    _fact(metrics.REQUESTS, 9, (n.STREAMING, "true")),
    _fact(metrics.HTTP_DURATION, 31),
    # all but the list of models, the two refused and the upload that breaks off
    _fact(metrics.OPERATION_DURATION, 27),
    # all that stream, but the one whose only event carries nothing
    _fact(metrics.OPERATION_FIRST_CHUNK, 8),
    *(_fact(metrics.FINISH_REASONS, often, (n.FINISH_REASON, word)) for word, often in FINISHES.items()),
    # completed requests that call a model (18), less the slow reader's, which reports none; embeddings have no output
    _fact(metrics.TOKEN_USAGE, 17, (n.TOKEN_TYPE, "input")),
    _fact(metrics.TOKEN_USAGE, 16, (n.TOKEN_TYPE, "output")),
    Fact(metrics.TOKEN_USAGE, 17 * INPUT, ((n.TOKEN_TYPE, "input"),), summed=True),
    Fact(metrics.TOKEN_USAGE, 16 * OUTPUT, ((n.TOKEN_TYPE, "output"),), summed=True),
    _fact(metrics.RETRIES, 1),
    # sessions: one per story, but two of `odd`, two of the deadlines, none of `nameless` and `refused`
    _fact(metrics.SESSIONS, 13, (n.SESSION_SOURCE, "own_header")),
    # turned-away, broken, deadline-first-byte, deadline-idle
    _fact(metrics.SESSIONS_BAD, 4),
    _fact(metrics.SESSION_DURATION, 13),
    Fact(metrics.SESSION_REQUESTS, 26, summed=True),
    *(_fact(metrics.IDENTITY, often, (n.SESSION_SOURCE, source)) for source, often in SOURCES.items()),
    # what the queue used to know: of turns that somebody named, which are the 26 but for no-turns
    _fact(metrics.CONCURRENCY, 24),
    _fact(metrics.CONCURRENCY, 2, over=1.0),
    _fact(metrics.CONCURRENCY, 1, over=2.0),
    _fact(metrics.OVERLAPS, 2),
    _fact(metrics.OUT_OF_ORDER, 2),
    Fact(metrics.DISTANCE, 2, summed=True),
    _fact(metrics.TURNS, 15),
    _fact(metrics.WAIT_AVOIDED, 24),
    # the crowd's second, third and fourth: its turns are held until a timer of 4 s has fired
    _fact(metrics.WAIT_AVOIDED, 3, over=2.5),
    # polite 2, reasons 2, turned-away 2, broken 2, impatient 1, the crowd's fourth
    _fact(metrics.THINK_TIME, 10),
    # polite 15, stalls 5, impatient 1, broken 1 and 2, deadline-idle 1, slow-reader 66
    _fact(metrics.STREAM_EVENTS, 91),
    _fact(metrics.STREAM_GAP, 9),
    _fact(metrics.STREAM_GAP, 2, over=1.28),
    # the one that goes on, and the one that is given up
    _fact(metrics.STREAM_STALLS, 2),
    _fact(metrics.BACKPRESSURE, 9),
    _fact(metrics.BACKPRESSURE, 1, over=0.64),
    *(
        _fact(metrics.ANOMALIES, 1, (n.ANOMALY, anomaly.value))
        for anomaly in (Anomaly.ID_HASHED, Anomaly.BODY_INVALID)
    ),
)
"""Exactly what a round adds."""

PEAKS = (Peak(metrics.REQUESTS_OVERLAPPING, 2), Peak(metrics.CONCURRENCY_MAX, 3))
"""The crowd: two of three turns would be waiting."""
