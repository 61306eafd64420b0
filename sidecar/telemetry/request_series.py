"""The series that a request is counted on, found once for all requests that are alike.

Owns which attributes each metric of a request carries. No id is ever among them, and what others choose
(models, error words, finish reasons) has been bounded before.
"""

from typing import NamedTuple

from sidecar.telemetry import attributes as a
from sidecar.telemetry import names
from sidecar.telemetry.metric_store import Attributes, MetricStore

_LATEST_TOKENS = {
    "input": names.INFERENCE_INPUT_TOKENS,
    "output": names.INFERENCE_OUTPUT_TOKENS,
    "cache_read": names.INFERENCE_CACHE_READ_TOKENS,
    "cache_write": names.INFERENCE_CACHE_WRITE_TOKENS,
    "reasoning": names.INFERENCE_REASONING_TOKENS,
}

_DETAILS = ("cache_read", "cache_write", "reasoning")


def attribute_set(*pairs: tuple[str, str | bool | int | None]) -> Attributes:
    """The pairs whose value is known, sorted by name: the key of one series."""
    return tuple(sorted((name, value) for name, value in pairs if value is not None))


class Alike(NamedTuple):
    """What requests have in common that are counted on the same series."""

    upstream: str | None
    template: str
    operation: str | None
    provider: str | None
    asked: str | None
    answered: str | None
    streaming: bool
    method: str
    scheme: str
    status: int | None
    outcome: str
    phase: str | None
    error: str | None
    failed: bool
    reason: str
    host: str | None
    port: int | None


class RequestSeries:
    """The series of requests that are alike; those never recorded on cost nothing but their handles."""

    __slots__ = (
        "between",
        "details",
        "duration",
        "embeddings_duration",
        "embeddings_input",
        "finish",
        "first",
        "gap",
        "http",
        "input",
        "latest_between",
        "latest_duration",
        "latest_first",
        "latest_input",
        "latest_output",
        "latest_tokens",
        "output",
        "requests",
    )

    def __init__(self, store: MetricStore, alike: Alike) -> None:
        models = (
            (a.PROVIDER, alike.provider),
            (a.REQUEST_MODEL, alike.asked),
            (a.UPSTREAM, alike.upstream),
        )
        shared = (*models, (a.OPERATION, alike.operation), (a.STREAMING, alike.streaming))
        server = (a.SERVER_ADDRESS, alike.host), (a.SERVER_PORT, alike.port)
        call = (*shared, *server, (a.RESPONSE_MODEL, alike.answered))
        error = (a.ERROR_TYPE, alike.error)
        whole, chunks = attribute_set(*call, error), attribute_set(*call)
        modality = attribute_set(*call, (a.TOKEN_MODALITY, "unknown"))
        self.requests = store.counter(
            names.REQUESTS,
            attribute_set(*shared, (a.OUTCOME, alike.outcome), (a.PHASE, alike.phase), error),
        )
        self.http = store.histogram(
            names.HTTP_DURATION,
            attribute_set(
                (a.METHOD, alike.method),
                (a.SCHEME, alike.scheme),
                (a.STATUS, alike.status),
                (a.ROUTE, alike.template),
                (a.ERROR_TYPE, alike.error if alike.failed else None),
            ),
        )
        self.finish = store.counter(
            names.FINISH_REASONS,
            attribute_set(*models, (a.FINISH_REASON, alike.reason), (a.OPERATION, alike.operation)),
        )
        self.gap = store.histogram(names.STREAM_GAP, attribute_set(*models))
        self.duration = store.histogram(names.OPERATION_DURATION, whole)
        self.first = store.histogram(names.OPERATION_FIRST_CHUNK, chunks)
        self.between = store.histogram(names.OPERATION_PER_CHUNK, chunks)
        self.input = store.histogram(names.TOKEN_USAGE, attribute_set(*call, (a.TOKEN_TYPE, "input")))
        self.output = store.histogram(names.TOKEN_USAGE, attribute_set(*call, (a.TOKEN_TYPE, "output")))
        self.details = {
            kind: store.counter(names.TOKEN_DETAILS, attribute_set(*call, (a.TOKEN_DETAIL, kind)))
            for kind in _DETAILS
        }
        self.latest_duration = store.histogram(names.INFERENCE_DURATION, whole)
        self.latest_first = store.histogram(names.INFERENCE_FIRST_CHUNK, chunks)
        self.latest_between = store.histogram(names.INFERENCE_PER_CHUNK, chunks)
        self.latest_input = store.histogram(names.INFERENCE_CALL_INPUT_TOKENS, whole)
        self.latest_output = store.histogram(names.INFERENCE_CALL_OUTPUT_TOKENS, whole)
        self.embeddings_duration = store.histogram(names.EMBEDDINGS_DURATION, whole)
        self.embeddings_input = store.histogram(names.EMBEDDINGS_CALL_INPUT_TOKENS, chunks)
        self.latest_tokens = {
            kind: store.counter(metric, modality) for kind, metric in _LATEST_TOKENS.items()
        }


class UpstreamSeries:
    """The series of requests to one upstream."""

    __slots__ = (
        "attributes",
        "blocked",
        "bytes",
        "concurrency",
        "distance",
        "events",
        "out_of_order",
        "overlaps",
        "retries",
        "stalls",
        "think_time",
        "turns",
    )

    def __init__(self, store: MetricStore, name: str | None) -> None:
        self.attributes = attributes = attribute_set((a.UPSTREAM, name))
        self.blocked = store.histogram(names.BACKPRESSURE, attributes)
        self.bytes = store.counter(names.STREAM_BYTES, attributes)
        self.concurrency = store.histogram(names.CONCURRENCY, attributes)
        self.distance = store.histogram(names.DISTANCE, attributes)
        self.events = store.counter(names.STREAM_EVENTS, attributes)
        self.out_of_order = store.counter(names.OUT_OF_ORDER, attributes)
        self.overlaps = store.counter(names.OVERLAPS, attributes)
        self.retries = store.counter(names.RETRIES, attributes)
        self.stalls = store.counter(names.STREAM_STALLS, attributes)
        self.think_time = store.histogram(names.THINK_TIME, attributes)
        self.turns = store.counter(names.TURNS, attributes)
