"""Every metric of the sidecar, each once: name, kind, unit, buckets, attributes and a sentence.

Owns definitions only; `measures.py` records them, `metric_store.py` keeps them. Attributes
come from bounded sets and are never ids. `ALL_METRICS` is what documents, dashboards and alert rules are held
against; `metrics_of` gives those that a choice of conventions records.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.telemetry import names as n


class MetricKind(StrEnum):
    """What a metric's numbers are, in the words of the conventions."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class ExemplarFilter(StrEnum):
    """The values of OTEL_METRICS_EXEMPLAR_FILTER."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    TRACE_BASED = "trace_based"


class Temporality(StrEnum):
    """The values of OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    LOW_MEMORY = "lowmemory"

    def is_delta(self, kind: MetricKind, *, observed: bool) -> bool:
        """Whether a metric of this kind is exported as differences."""
        if self is Temporality.CUMULATIVE or kind in {MetricKind.UP_DOWN_COUNTER, MetricKind.GAUGE}:
            return False
        return self is Temporality.DELTA or not observed


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric's identity. Compared by identity: the store is asked about it on every record."""

    name: str
    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...]
    """Every attribute key it may carry."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in `unit`."""
    integer: bool = False
    """Whether its values are whole numbers and exported as such."""


DURATION_BOUNDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.45, 0.64, 0.9, 1.28, 1.8, 2.56, 3.6, 5.12, 7.2),
    *(10.24, 14.5, 20.48, 29.0, 40.96, 81.92, 163.84, 327.68, 655.36),
)
"""Seconds, 0.01 to 655: a model call may take minutes. They double, and from 0.3 to 40, where first words and whole
answers are, in two steps each: a quantile is told by interpolation within one of them."""
ZERO_DURATION_BOUNDS = (0.0, *DURATION_BOUNDS)
"""The same for what is mostly nothing at all: without the 0, half of the first bucket would be told of it."""
CHUNK_SECOND_BOUNDS = tuple(0.001 * 2**k for k in range(14))
"""Seconds, 0.001 to 8.2: the same bounds as `core.exchange.CHUNK_BOUNDS`."""
TOKEN_BOUNDS = tuple(float(4**k) for k in range(14))
"""Tokens, 1 to 67108864, as the conventions say."""
COUNT_BOUNDS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 32.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
CONCURRENCY_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0)
WAIT_BOUNDS = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds; most waits are 0, and 30 and 60 were the deleted queue's time-outs."""
SESSION_BOUNDS = (
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0),
    *(1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0),
)
"""Seconds, 1 s to 24 h."""
THINK_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds, 0.1 s to 1 h."""
OVERHEAD_BOUNDS = tuple(0.00005 * 2**k for k in range(19))
"""Seconds, 50 us to 13 s: what is usual, and what is told of a process that stood still."""

SHARE_BOUNDS = tuple(tenth / 10 for tenth in range(11))
"""Shares: nothing, a tenth, and so on up to all of it."""

SCHEMA_URLS = {
    "shipped": "https://opentelemetry.io/schemas/1.41.0",
    "latest": "https://opentelemetry.io/schemas/1.44.0",
    "both": "https://opentelemetry.io/schemas/1.41.0",
}
"""The schema that resource and scope name, by the conventions chosen: of core's release 1.41.1 and of its newest.

The semantic-conventions-genai repository has published no schema. With `latest`, the one named is that of all other
names; with `both`, it is that of the shipped ones, for what it does not know it does not change.
"""

_CALL = (
    *(n.PROVIDER, n.OPERATION, n.REQUEST_MODEL, n.RESPONSE_MODEL, n.STREAMING, n.UPSTREAM),
    *(n.SERVER_ADDRESS, n.SERVER_PORT),
)
_INFERENCE = frozenset({"chat", "text_completion", "generate_content"})


def _counter(name: str, unit: str, says: str, *attributes: str) -> Metric:
    return Metric(name, MetricKind.COUNTER, unit, says, tuple(sorted(attributes)), integer=True)


def _level(name: str, unit: str, says: str, *attributes: str) -> Metric:
    return Metric(name, MetricKind.UP_DOWN_COUNTER, unit, says, tuple(sorted(attributes)), integer=True)


def _gauge(name: str, unit: str, says: str, *attributes: str) -> Metric:
    return Metric(name, MetricKind.GAUGE, unit, says, tuple(sorted(attributes)), integer=unit != "s")


def _histogram(name: str, unit: str, bounds: tuple[float, ...], says: str, *attributes: str) -> Metric:
    return Metric(
        name,
        MetricKind.HISTOGRAM,
        unit,
        says,
        tuple(sorted(attributes)),
        bounds,
        integer=unit not in ("s", "1"),
    )


OPERATION_DURATION = _histogram(
    "gen_ai.client.operation.duration",
    "s",
    DURATION_BOUNDS,
    "How long the upstream call took, from asking for a connection to the answer's end.",
    *_CALL,
    n.ERROR_TYPE,
)
OPERATION_FIRST_CHUNK = _histogram(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    DURATION_BOUNDS,
    "Streams: from asking to the first output.",
    *_CALL,
)
OPERATION_PER_CHUNK = _histogram(
    "gen_ai.client.operation.time_per_output_chunk",
    "s",
    CHUNK_SECOND_BOUNDS,
    "Streams: between one output and the next, for each after the first.",
    *_CALL,
)
TOKEN_USAGE = _histogram(
    "gen_ai.client.token.usage",
    "{token}",
    TOKEN_BOUNDS,
    "Tokens of a call, as the provider reported them.",
    *_CALL,
    n.TOKEN_TYPE,
)
TOKEN_DETAILS = _counter(
    "sidecar.tokens.details",
    "{token}",
    "Of the tokens of calls: from and to the provider's cache, and reasoning (shipped conventions have no name).",
    *_CALL,
    n.TOKEN_DETAIL,
)

INFERENCE_DURATION = _histogram(
    "gen_ai.client.inference.duration",
    "s",
    DURATION_BOUNDS,
    "How long the upstream call of a generating operation took (latest conventions).",
    *_CALL,
    n.ERROR_TYPE,
)
INFERENCE_FIRST_CHUNK = _histogram(
    "gen_ai.client.inference.time_to_first_chunk",
    "s",
    DURATION_BOUNDS,
    "Streams: from asking to the first output (latest conventions).",
    *_CALL,
)
INFERENCE_PER_CHUNK = _histogram(
    "gen_ai.client.inference.time_per_output_chunk",
    "s",
    CHUNK_SECOND_BOUNDS,
    "Streams: between one output and the next (latest conventions).",
    *_CALL,
)
INFERENCE_INPUT_TOKENS = _counter(
    "gen_ai.client.inference.usage.input_tokens",
    "{token}",
    "Input tokens as reported (latest conventions).",
    *_CALL,
    n.TOKEN_MODALITY,
)
INFERENCE_OUTPUT_TOKENS = _counter(
    "gen_ai.client.inference.usage.output_tokens",
    "{token}",
    "Output tokens as reported (latest conventions).",
    *_CALL,
    n.TOKEN_MODALITY,
)
INFERENCE_CACHE_READ_TOKENS = _counter(
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    "{token}",
    "Input tokens served from the provider's cache (latest conventions).",
    *_CALL,
    n.TOKEN_MODALITY,
)
INFERENCE_CACHE_WRITE_TOKENS = _counter(
    "gen_ai.client.inference.usage.cache_write.input_tokens",
    "{token}",
    "Input tokens written to the provider's cache (latest conventions).",
    *_CALL,
    n.TOKEN_MODALITY,
)
INFERENCE_REASONING_TOKENS = _counter(
    "gen_ai.client.inference.usage.reasoning.output_tokens",
    "{token}",
    "Output tokens spent on reasoning (latest conventions).",
    *_CALL,
    n.TOKEN_MODALITY,
)

INFERENCE_CALL_INPUT_TOKENS = _histogram(
    "gen_ai.client.inference.operation.input_tokens",
    "{token}",
    TOKEN_BOUNDS,
    "Input tokens of a generating call, as reported (latest conventions).",
    *_CALL,
    n.ERROR_TYPE,
)
INFERENCE_CALL_OUTPUT_TOKENS = _histogram(
    "gen_ai.client.inference.operation.output_tokens",
    "{token}",
    TOKEN_BOUNDS,
    "Output tokens of a generating call, as reported (latest conventions).",
    *_CALL,
    n.ERROR_TYPE,
)
EMBEDDINGS_DURATION = _histogram(
    "gen_ai.client.embeddings.duration",
    "s",
    DURATION_BOUNDS,
    "How long the upstream call of an embeddings operation took (latest conventions).",
    *_CALL,
    n.ERROR_TYPE,
)
EMBEDDINGS_CALL_INPUT_TOKENS = _histogram(
    "gen_ai.client.embeddings.operation.input_tokens",
    "{token}",
    TOKEN_BOUNDS,
    "Input tokens of an embeddings call, as reported (latest conventions).",
    *_CALL,
)

HTTP_DURATION = _histogram(
    "http.server.request.duration",
    "s",
    DURATION_BOUNDS,
    "The whole request as the app sees it.",
    n.UPSTREAM,
    n.METHOD,
    n.SCHEME,
    n.STATUS,
    n.ROUTE,
    n.ERROR_TYPE,
)
REQUESTS = _counter(
    "sidecar.requests",
    "{request}",
    "Requests settled, by outcome.",
    *(n.OUTCOME, n.PHASE, n.UPSTREAM, n.OPERATION, n.PROVIDER, n.REQUEST_MODEL, n.STREAMING, n.ERROR_TYPE),
)
RESULTS = _counter(
    "sidecar.results",
    "{request}",
    "Requests settled, by what became of them: every word of every upstream from the start.",
    *(n.RESULT, n.UPSTREAM),
)
PHASE_DURATION = _histogram(
    "sidecar.request.phase.duration",
    "s",
    ZERO_DURATION_BOUNDS,
    "What the time of a request that asked its upstream went to: its body, connecting, waiting, the answer.",
    *(n.REQUEST_PHASE, n.UPSTREAM),
)
REQUESTS_ACTIVE = _level("sidecar.requests.active", "{request}", "Requests in flight.", n.UPSTREAM)
STREAMS_ACTIVE = _level("sidecar.streams.active", "{stream}", "Answers that stream, in flight.", n.UPSTREAM)
REQUESTS_OVERLAPPING = _gauge(
    "sidecar.requests.overlapping", "{request}", "Turns in flight that the old queue would be holding."
)
OLDEST_AGE = _gauge(
    "sidecar.requests.oldest.age", "s", "The age of the oldest request in flight; 0: none is.", n.UPSTREAM
)
SILENCE = _gauge(
    "sidecar.requests.silence",
    "s",
    "Of the requests in flight, the longest time without a byte from the upstream; 0: none has asked.",
    n.UPSTREAM,
)
RATELIMIT_REMAINING = _gauge(
    "sidecar.ratelimit.remaining",
    "{unit}",
    "What is left before the provider answers 429, as its latest answer said, for two minutes.",
    *(n.UPSTREAM, n.REQUEST_MODEL, n.RATELIMIT_KIND),
)
RATELIMIT_LIMIT = _gauge(
    "sidecar.ratelimit.limit",
    "{unit}",
    "What that is out of, likewise.",
    *(n.UPSTREAM, n.REQUEST_MODEL, n.RATELIMIT_KIND),
)
RETRY_AFTER = _gauge(
    "sidecar.ratelimit.retry_after",
    "s",
    "How long the provider still asks to be left alone; absent once that has passed.",
    *(n.UPSTREAM, n.REQUEST_MODEL),
)
RETRIES = _counter("sidecar.retries", "{request}", "Arrivals marked as a retry.", n.UPSTREAM)
FINISH_REASONS = _counter(
    "sidecar.finish_reasons",
    "{response}",
    "Responses of turns, by the reason their generation stopped.",
    *(n.FINISH_REASON, n.UPSTREAM, n.OPERATION, n.PROVIDER, n.REQUEST_MODEL),
)

SESSIONS = _counter("sidecar.sessions", "{session}", "Sessions started, by source.", n.SESSION_SOURCE)
SESSIONS_BAD = _counter(
    "sidecar.sessions.with_bad_answers",
    "{session}",
    "Sessions that met a bad answer, at their first: failed, timed out, an error in the stream, 5xx, 429.",
)
SESSIONS_ACTIVE = _gauge("sidecar.sessions.active", "{session}", "Sessions live now.")
SESSION_DURATION = _histogram(
    "sidecar.session.duration",
    "s",
    SESSION_BOUNDS,
    "From a session's first arrival to its last ending.",
    n.SESSION_SOURCE,
)
SESSION_REQUESTS = _histogram(
    "sidecar.session.requests",
    "{request}",
    COUNT_BOUNDS,
    "Requests of a session that ended.",
    n.SESSION_SOURCE,
)
CONVERSATIONS_ACTIVE = _gauge("sidecar.conversations.active", "{conversation}", "Conversations live now.")
CONVERSATIONS_BUSY = _gauge(
    "sidecar.conversations.busy", "{conversation}", "Conversations with a request in flight."
)
CONCURRENCY = _histogram(
    "sidecar.conversation.concurrency",
    "{turn}",
    CONCURRENCY_BOUNDS,
    "Turns of the conversation in flight at each arrival of one, itself included; named sessions only.",
    n.UPSTREAM,
)
CONCURRENCY_MAX = _gauge("sidecar.conversation.concurrency.max", "{turn}", "The busiest conversation now.")
TURNS = _counter("sidecar.turns", "{turn}", "Completed turns of named sessions.", n.UPSTREAM)
TURNS_RELATED = _counter(
    "sidecar.turns.related",
    "{turn}",
    "Turns, by what they are to their past; of sessions that nobody named as well.",
    n.TURN_RELATION,
)
ORPHANED = _counter(
    "sidecar.answers.orphaned",
    "{response}",
    "Answers that no later turn of their conversation has, although it went on.",
)
PROMPT_BREAKS = _counter(
    "sidecar.prompt.breaks",
    "{turn}",
    "Turns whose prompt does not begin with that of the turn before, by where it differs.",
    n.BROKE_AT,
)
READ_ANEW = _counter(
    "sidecar.prompt.read_anew",
    "{token}",
    "Reported input tokens that did not come from the provider's cache (`none`), or that a break took out of it.",
    n.BROKE_AT,
)
CACHED_SHARE = _histogram(
    "sidecar.prompt.cached",
    "1",
    SHARE_BOUNDS,
    "Share of a turn's reported input tokens that came from the provider's cache.",
    *(n.PROVIDER, n.REQUEST_MODEL, n.UPSTREAM),
)
OVERLAPS = _counter(
    "sidecar.conversation.overlaps", "{turn}", "Turns that arrived while another was in flight.", n.UPSTREAM
)
WAIT_AVOIDED = _histogram(
    "sidecar.conversation.wait_avoided",
    "s",
    WAIT_BOUNDS,
    "The queue wait that did not happen, one record per turn, 0 included.",
    n.UPSTREAM,
)
WAIT_UNKNOWN = _counter(
    "sidecar.conversation.wait_unknown", "{turn}", "Waits that a cap or a shutdown left open."
)
THINK_TIME = _histogram(
    "sidecar.conversation.think_time",
    "s",
    THINK_BOUNDS,
    "From a conversation's last ending to the next arrival, no turn being in flight.",
    n.UPSTREAM,
)
OUT_OF_ORDER = _counter(
    "sidecar.responses.out_of_order",
    "{response}",
    "Completed turns that later ones had overtaken.",
    n.UPSTREAM,
)
DISTANCE = _histogram(
    "sidecar.responses.out_of_order.distance",
    "{turn}",
    COUNT_BOUNDS,
    "How many later turns had overtaken a turn out of order.",
    n.UPSTREAM,
)

STREAM_GAP = _histogram(
    "sidecar.stream.gap",
    "s",
    ZERO_DURATION_BOUNDS,
    "The longest silence of each stream.",
    *(n.UPSTREAM, n.PROVIDER, n.REQUEST_MODEL),
)
STREAM_STALLS = _counter(
    "sidecar.stream.stalls", "{stall}", "Silences over SIDECAR_STALL_AFTER, when they happen.", n.UPSTREAM
)
STREAM_EVENTS = _counter("sidecar.stream.events", "{event}", "Events of streams relayed.", n.UPSTREAM)
STREAM_BYTES = _counter("sidecar.stream.bytes", "By", "Bytes of streams relayed.", n.UPSTREAM)
BACKPRESSURE = _histogram(
    "sidecar.stream.backpressure",
    "s",
    ZERO_DURATION_BOUNDS,
    "How long a slow client blocked a stream.",
    n.UPSTREAM,
)
OVERHEAD = _histogram(
    "sidecar.overhead",
    "s",
    OVERHEAD_BOUNDS,
    "What the sidecar itself added to a request, by part.",
    n.OVERHEAD_PART,
)
LOOP_LAG = _histogram(
    "sidecar.event_loop.lag", "s", OVERHEAD_BOUNDS, "How late the event loop runs, sampled."
)
NO_TURN = "no_turn"
"""Stands in `sidecar.identity` for requests that generate nothing, whatever names them."""

IDENTITY = _counter(
    "sidecar.identity",
    "{request}",
    "Arrivals of turns by the rule that named their session; all other requests as `no_turn`.",
    n.SESSION_SOURCE,
)
ANOMALIES = _counter("sidecar.anomalies", "{event}", "Things that should not happen.", n.ANOMALY)
TELEMETRY_ITEMS = _counter(
    "sidecar.telemetry.items",
    "{item}",
    "What became of spans, metrics, logs and lines: the loss ledger.",
    *(n.TELEMETRY_SIGNAL, n.TELEMETRY_STATE),
)
TELEMETRY_QUEUE = _gauge(
    "sidecar.telemetry.queue", "{item}", "Items waiting to be exported.", n.TELEMETRY_SIGNAL
)

PROCESS_CPU = Metric(
    "process.cpu.time", MetricKind.COUNTER, "s", "CPU time of the sidecar's process.", (n.CPU_MODE,)
)
PROCESS_MEMORY = _level("process.memory.usage", "By", "Resident memory of the sidecar's process.")
PROCESS_FILES = _level(
    "process.unix.file_descriptor.count",
    "{file_descriptor}",
    "Open files and sockets of the sidecar's process.",
)
PROCESS_THREADS = _level("process.thread.count", "{thread}", "Threads of the sidecar's process.")

ALL_METRICS: tuple[Metric, ...] = tuple(value for value in vars().values() if isinstance(value, Metric))
"""Every metric, whatever the conventions chosen, in the order of this file."""

LATEST_FOR: dict[Metric, tuple[Metric, ...]] = {
    OPERATION_DURATION: (INFERENCE_DURATION, EMBEDDINGS_DURATION),
    OPERATION_FIRST_CHUNK: (INFERENCE_FIRST_CHUNK,),
    OPERATION_PER_CHUNK: (INFERENCE_PER_CHUNK,),
    TOKEN_USAGE: (
        INFERENCE_INPUT_TOKENS,
        INFERENCE_OUTPUT_TOKENS,
        INFERENCE_CALL_INPUT_TOKENS,
        INFERENCE_CALL_OUTPUT_TOKENS,
        EMBEDDINGS_CALL_INPUT_TOKENS,
    ),
    TOKEN_DETAILS: (
        INFERENCE_CACHE_READ_TOKENS,
        INFERENCE_CACHE_WRITE_TOKENS,
        INFERENCE_REASONING_TOKENS,
    ),
}
"""The metrics of calls under `shipped`, each with what the semantic-conventions-genai repository has in its place."""


def is_inference(operation: str) -> bool:
    """True for operations that generate; the latest conventions have metrics of their own for the others (embeddings)."""
    return operation in _INFERENCE


def metrics_of(semconv: str) -> tuple[Metric, ...]:
    """The metrics that are recorded under `shipped`, `latest` or `both`, for the store."""
    latest = {metric for metrics in LATEST_FOR.values() for metric in metrics}
    absent = {"shipped": latest, "latest": {*LATEST_FOR}}.get(semconv, set())
    return tuple(metric for metric in ALL_METRICS if metric not in absent)
