"""What settled requests of one kind have in common, found by one look-up: attributes, names, and their series.

Owns what makes two requests alike, and everything that follows from it: the attributes of both sides of a request,
encoded once by whoever exports them, the spans' names and errors, the line's event and level, the series that count
it. It is made on the first request of its kind, and kept; what belongs to one request alone is in `portrait.py`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from sidecar.core.exchange import Exchange
from sidecar.core.headers import Headers
from sidecar.core.outcome import Outcome
from sidecar.core.shown import shown
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.bounded import OTHER_HTTP, error_type, finish_reason, known_method
from sidecar.telemetry.metric_store import Attributes, MetricStore
from sidecar.telemetry.spans import Layer, SpanAttributes

_OPENAI_APIS = {"openai.chat": "chat_completions", "openai.responses": "responses"}
"""`openai.api.type` by the reader's name; other APIs of OpenAI have no value."""

SHAPES_LIMIT = 4096
"""Shapes kept at hand; over it they are forgotten all at once."""

_ERRORS = frozenset(
    {
        *(Outcome.UPSTREAM_FAILED, Outcome.ERROR_IN_STREAM, Outcome.TIMED_OUT),
        *(Outcome.SHUTDOWN, Outcome.INTERNAL_ERROR),
    }
)


def outcome_of(exchange: Exchange) -> Outcome:
    """The settled exchange's outcome; one without a verdict is a bug of ours, and is called so."""
    return exchange.verdict.outcome if exchange.verdict else Outcome.INTERNAL_ERROR


def server_failed(exchange: Exchange) -> bool:
    """True when the SERVER span is an error: everything but completed, left, and answers below 500."""
    verdict = exchange.verdict
    if verdict is not None and verdict.outcome is Outcome.COMPLETED:
        return False
    outcome = outcome_of(exchange)
    if outcome in (Outcome.UPSTREAM_REJECTED, Outcome.REFUSED):
        return (exchange.status or 0) >= 500
    return outcome in _ERRORS


def client_failed(exchange: Exchange) -> bool:
    """True when the CLIENT span is an error: as the SERVER span, and every answer of 400 or more."""
    verdict = exchange.verdict
    if verdict is not None and verdict.outcome is Outcome.COMPLETED:
        return False
    outcome = outcome_of(exchange)
    return outcome in _ERRORS or outcome is Outcome.UPSTREAM_REJECTED


def has_client(exchange: Exchange) -> bool:
    """True when there was an upstream call: a connection was asked for."""
    verdict = exchange.verdict
    return bool(exchange.asked) and (verdict is None or verdict.outcome is not Outcome.REFUSED)


def call_end(exchange: Exchange) -> int:
    """When the upstream call ended, ns: with the answer's last byte if it came to that, else with the exchange."""
    outcome = outcome_of(exchange)
    whole = outcome is Outcome.COMPLETED or outcome in (Outcome.UPSTREAM_REJECTED, Outcome.ERROR_IN_STREAM)
    return exchange.last_byte if whole and exchange.last_byte else exchange.end


def is_streaming(exchange: Exchange) -> bool:
    """True when the answer streams, or was asked to."""
    return exchange.streams or exchange.request.streaming or exchange.route.streaming


def provider_of(exchange: Exchange) -> str | None:
    """`gen_ai.provider.name`: by the upstream's host, else by the API's shape."""
    upstream = exchange.upstream
    return (upstream.provider if upstream else None) or exchange.route.provider


def request_model(exchange: Exchange) -> str | None:
    """The model asked for, by the body or the path."""
    return exchange.request.model or exchange.route.model


_LATEST_TOKENS = {
    "input": metrics.INFERENCE_INPUT_TOKENS,
    "output": metrics.INFERENCE_OUTPUT_TOKENS,
    "cache_read": metrics.INFERENCE_CACHE_READ_TOKENS,
    "cache_write": metrics.INFERENCE_CACHE_WRITE_TOKENS,
    "reasoning": metrics.INFERENCE_REASONING_TOKENS,
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
            (n.PROVIDER, alike.provider),
            (n.REQUEST_MODEL, alike.asked),
            (n.UPSTREAM, alike.upstream),
        )
        shared = (*models, (n.OPERATION, alike.operation), (n.STREAMING, alike.streaming))
        server = (n.SERVER_ADDRESS, alike.host), (n.SERVER_PORT, alike.port)
        call = (*shared, *server, (n.RESPONSE_MODEL, alike.answered))
        error = (n.ERROR_TYPE, alike.error)
        whole, chunks = attribute_set(*call, error), attribute_set(*call)
        modality = attribute_set(*call, (n.TOKEN_MODALITY, "unknown"))
        self.requests = store.counter(
            metrics.REQUESTS,
            attribute_set(*shared, (n.OUTCOME, alike.outcome), (n.PHASE, alike.phase), error),
        )
        self.http = store.histogram(
            metrics.HTTP_DURATION,
            attribute_set(
                (n.METHOD, alike.method),
                (n.SCHEME, alike.scheme),
                (n.STATUS, alike.status),
                (n.ROUTE, alike.template),
                (n.ERROR_TYPE, alike.error if alike.failed else None),
            ),
        )
        self.finish = store.counter(
            metrics.FINISH_REASONS,
            attribute_set(*models, (n.FINISH_REASON, alike.reason), (n.OPERATION, alike.operation)),
        )
        self.gap = store.histogram(metrics.STREAM_GAP, attribute_set(*models))
        self.duration = store.histogram(metrics.OPERATION_DURATION, whole)
        self.first = store.histogram(metrics.OPERATION_FIRST_CHUNK, chunks)
        self.between = store.histogram(metrics.OPERATION_PER_CHUNK, chunks)
        self.input = store.histogram(metrics.TOKEN_USAGE, attribute_set(*call, (n.TOKEN_TYPE, "input")))
        self.output = store.histogram(metrics.TOKEN_USAGE, attribute_set(*call, (n.TOKEN_TYPE, "output")))
        self.details = {
            kind: store.counter(metrics.TOKEN_DETAILS, attribute_set(*call, (n.TOKEN_DETAIL, kind)))
            for kind in _DETAILS
        }
        self.latest_duration = store.histogram(metrics.INFERENCE_DURATION, whole)
        self.latest_first = store.histogram(metrics.INFERENCE_FIRST_CHUNK, chunks)
        self.latest_between = store.histogram(metrics.INFERENCE_PER_CHUNK, chunks)
        self.latest_input = store.histogram(metrics.INFERENCE_CALL_INPUT_TOKENS, whole)
        self.latest_output = store.histogram(metrics.INFERENCE_CALL_OUTPUT_TOKENS, whole)
        self.embeddings_duration = store.histogram(metrics.EMBEDDINGS_DURATION, whole)
        self.embeddings_input = store.histogram(metrics.EMBEDDINGS_CALL_INPUT_TOKENS, chunks)
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
        self.attributes = attributes = attribute_set((n.UPSTREAM, name))
        self.blocked = store.histogram(metrics.BACKPRESSURE, attributes)
        self.bytes = store.counter(metrics.STREAM_BYTES, attributes)
        self.concurrency = store.histogram(metrics.CONCURRENCY, attributes)
        self.distance = store.histogram(metrics.DISTANCE, attributes)
        self.events = store.counter(metrics.STREAM_EVENTS, attributes)
        self.out_of_order = store.counter(metrics.OUT_OF_ORDER, attributes)
        self.overlaps = store.counter(metrics.OVERLAPS, attributes)
        self.retries = store.counter(metrics.RETRIES, attributes)
        self.stalls = store.counter(metrics.STREAM_STALLS, attributes)
        self.think_time = store.histogram(metrics.THINK_TIME, attributes)
        self.turns = store.counter(metrics.TURNS, attributes)


Reasons = Callable[[Exchange], tuple[str, ...]]


class Shape:
    """See the module. `client` is None if no connection was asked for.

    `alike` is what both sides have in common with other requests, for the line; where both say something, as the SERVER
    side does.
    """

    __slots__ = (
        "alike",
        "client",
        "client_failed",
        "client_name",
        "completed",
        "error",
        "outcome",
        "phase",
        "reason",
        "series",
        "server",
        "server_failed",
        "server_name",
        "streaming",
    )

    def __init__(self, exchange: Exchange, reasons: tuple[str, ...]) -> None:
        """Of the first request of its kind."""
        route, verdict, method = exchange.route, exchange.verdict, known_method(exchange.head.method)
        self.outcome = outcome_of(exchange)
        self.completed = self.outcome is Outcome.COMPLETED
        self.phase = None if verdict is None or verdict.phase is None else verdict.phase.value
        self.error = None if verdict is None else error_type(verdict)
        self.server_failed, self.client_failed = server_failed(exchange), client_failed(exchange)
        self.streaming = is_streaming(exchange)
        self.reason = finish_reason(exchange.response.finish_reasons)
        # A method that is not well known is `HTTP` in a name.
        self.server_name = self.client_name = f"{'HTTP' if method == OTHER_HTTP else method} {route.template}"
        self.server = self.alike = Layer(_server_shared(exchange))
        self.client: Layer | None = None
        if has_client(exchange):
            asked = _client_shared(exchange)
            if reasons:
                asked[n.FINISH_REASONS] = tuple(map(shown, reasons))
            self.client = Layer(asked)
            self.alike = _both(self.server, self.client)
            if route.operation is not None:
                # `chat gpt-4o`, by this call alone; without an operation, as the HTTP conventions name a client span.
                model = asked.get(n.REQUEST_MODEL)
                self.client_name = f"{route.operation} {model}" if model else route.operation
        self.series: dict[tuple[str | None, str | None, str | None], RequestSeries] = {}
        """By the models asked for and answered, as they may be told, and by the operation."""


def _both(server: Layer, client: Layer) -> Layer:
    values = {**client.values, **server.values}
    if n.SERVER_PORT not in server.values:
        values.pop(n.SERVER_PORT, None)  # the upstream's goes with the upstream's address
    return Layer(values)


class Shapes:
    """The shapes at hand, under `shipped`, `latest` or `both` conventions."""

    def __init__(self, semconv: str) -> None:
        self._reasons: Reasons = _latest_reasons if semconv == "latest" else _told_reasons
        self._known: dict[tuple[object, ...], Shape] = {}

    def of(self, exchange: Exchange) -> Shape:
        """The shape of a settled exchange: whatever a `Shape` reads of an exchange is in the key."""
        head, route, upstream, connect = exchange.head, exchange.route, exchange.upstream, exchange.connect
        request, response, verdict, headers = (
            exchange.request,
            exchange.response,
            exchange.verdict,
            exchange.head.headers,
        )
        reasons = self._reasons(exchange)
        key = (
            *(route.template, route.api, route.operation, route.provider, route.model, route.streaming),
            upstream and (upstream.name, upstream.host, upstream.port, upstream.provider),
            *(head.method, head.scheme, head.version, headers.get(b"host"), headers.get(b"user-agent")),
            *(response.service_tier, response.system_fingerprint),
            *(request.model, request.streaming, response.model, reasons, tuple(response.finish_reasons)),
            verdict and (verdict.outcome, verdict.phase, verdict.error_type),
            *(exchange.status, exchange.upstream_status, exchange.streams, exchange.body_state),
            *(connect and (connect.kind, connect.address), bool(exchange.asked)),
        )
        shape = self._known.get(key)
        if shape is None:
            if len(self._known) >= SHAPES_LIMIT:
                self._known.clear()
            shape = self._known[key] = Shape(exchange, reasons)
        return shape


def series_of(
    shape: Shape, exchange: Exchange, asked: str | None, answered: str | None, operation: str | None
) -> Alike:
    """What its series are told apart by; the models and the operation as they are told."""
    upstream, head = exchange.upstream, exchange.head
    return Alike(
        None if upstream is None else upstream.name,
        exchange.route.template,
        operation,
        provider_of(exchange),
        asked,
        answered,
        shape.streaming,
        known_method(head.method),
        head.scheme,
        exchange.status,
        shape.outcome.value,
        shape.phase,
        shape.error,
        shape.server_failed,
        shape.reason,
        None if upstream is None else upstream.host,
        None if upstream is None else upstream.port,
    )


def _error_word(exchange: Exchange, failed: bool) -> str | None:
    verdict = exchange.verdict
    return error_type(verdict) if failed and verdict is not None else None


def _server_shared(exchange: Exchange) -> SpanAttributes:
    head, verdict = exchange.head, exchange.verdict
    method = known_method(head.method)
    attributes: SpanAttributes = {
        n.METHOD: method,
        n.SCHEME: head.scheme,
        n.ROUTE: exchange.route.template,
        n.OUTCOME: outcome_of(exchange).value,
        n.STREAMING: is_streaming(exchange),
        n.BODY_STATE: exchange.body_state,
    }
    if version := head.version.removeprefix("HTTP/"):
        attributes[n.PROTOCOL_VERSION] = version
    if method != head.method and head.method:
        attributes[n.METHOD_ORIGINAL] = shown(head.method)
    if exchange.status is not None:
        attributes[n.STATUS] = exchange.status
    if verdict is not None and verdict.phase is not None:
        attributes[n.PHASE] = verdict.phase.value
    if (word := _error_word(exchange, server_failed(exchange))) is not None:
        attributes[n.ERROR_TYPE] = word
    if exchange.upstream is not None:
        attributes[n.UPSTREAM] = exchange.upstream.name
    _add_host(attributes, head.headers)
    if agent := head.headers.readable(b"user-agent"):
        attributes[n.USER_AGENT] = shown(agent)
    return attributes


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9A-Za-z._-]{1,253}))(?::([0-9]{1,5}))?")


def _add_host(attributes: SpanAttributes, headers: Headers) -> None:
    """`server.address` and `server.port` by the Host field, where that is a host: what the app asked for."""
    found = _HOST.fullmatch(headers.text(b"host") or "")
    if found is None:
        return
    address, name, port = found.groups()
    attributes[n.SERVER_ADDRESS] = address or shown(name)
    if port:
        attributes[n.SERVER_PORT] = int(port)


def _client_shared(exchange: Exchange) -> SpanAttributes:
    route, request, response = exchange.route, exchange.request, exchange.response
    attributes: SpanAttributes = {n.METHOD: known_method(exchange.head.method)}
    if route.operation is not None:
        attributes[n.OPERATION] = route.operation
    if (provider := provider_of(exchange)) is not None:
        attributes[n.PROVIDER] = provider
    if exchange.upstream_status is not None:
        attributes[n.STATUS] = exchange.upstream_status
    if model := request_model(exchange):
        attributes[n.REQUEST_MODEL] = shown(model)
    if request.streaming or route.streaming:
        attributes[n.REQUEST_STREAM] = True
    upstream = exchange.upstream
    if upstream is not None:
        attributes[n.UPSTREAM] = upstream.name
        attributes[n.SERVER_ADDRESS] = upstream.host
        attributes[n.SERVER_PORT] = upstream.port
    if exchange.connect is not None:
        attributes[n.CONNECTION] = exchange.connect.kind
        if exchange.connect.address:
            attributes[n.PEER_ADDRESS] = exchange.connect.address
    if response.model:
        attributes[n.RESPONSE_MODEL] = shown(response.model)
    if provider == "openai":
        _add_openai(attributes, exchange)
    if (word := _error_word(exchange, client_failed(exchange))) is not None:
        attributes[n.ERROR_TYPE] = word
    return attributes


def _add_openai(attributes: SpanAttributes, exchange: Exchange) -> None:
    """What the conventions have for OpenAI alone."""
    response = exchange.response
    if (api := _OPENAI_APIS.get(exchange.route.api or "")) is not None:
        attributes[n.OPENAI_API] = api
    if response.service_tier:
        attributes[n.RESPONSE_TIER] = shown(response.service_tier)
    if response.system_fingerprint:
        attributes[n.FINGERPRINT] = shown(response.system_fingerprint)


def _told_reasons(exchange: Exchange) -> tuple[str, ...]:
    """Why generation stopped, as reported."""
    return tuple(exchange.response.finish_reasons)


def _latest_reasons(exchange: Exchange) -> tuple[str, ...]:
    """The same, and `error` where an answer that had begun ended without any."""
    reasons = tuple(exchange.response.finish_reasons)
    if reasons or exchange.upstream_status is None or exchange.upstream_status >= 400:
        return reasons
    generates = metrics.is_inference(exchange.route.operation or "")
    return ("error",) if generates and outcome_of(exchange) is not Outcome.COMPLETED else ()
