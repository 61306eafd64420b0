"""What a settled exchange says about itself, as attributes: who, the SERVER side, the CLIENT side.

Owns the one translation from an exchange to attributes; spans and the wide log line are both made of it, so
they cannot disagree. What was not told is absent. No text of a prompt or an answer, and no credential.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from opentelemetry.util.types import AttributeValue

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange, Upstream
from sidecar.core.headers import Headers
from sidecar.core.outcome import Outcome
from sidecar.core.shown import is_credential, readable, shown
from sidecar.telemetry import attributes as a
from sidecar.telemetry.bounded import (
    error_type,
    known_method,
    provider_word,
    redact_path,
    redact_query,
)
from sidecar.telemetry.names import is_inference
from sidecar.telemetry.settled import (
    client_failed,
    has_client,
    is_streaming,
    outcome_of,
    provider_of,
    request_model,
    server_failed,
)
from sidecar.telemetry.spans import Layer, SpanAttributes

_REQUEST_IDS = (
    *(b"x-request-id", b"request-id", b"apim-request-id", b"x-amzn-requestid"),
    *(b"x-goog-request-id", b"x-ms-request-id", b"cf-ray"),
)
_PROCESSING = (b"openai-processing-ms", b"x-envoy-upstream-service-time")
"""Header fields in which a provider tells its own processing time, in milliseconds."""

_USAGE: dict[str, dict[str, tuple[str, ...]]] = {
    "shipped": {
        "input": (a.INPUT_TOKENS,),
        "output": (a.OUTPUT_TOKENS,),
        "cache_read": (a.CACHE_READ_TOKENS,),
        "cache_write": (a.CACHE_CREATION_TOKENS,),
        "reasoning": (a.REASONING_TOKENS,),
    }
}
_USAGE["latest"] = {**_USAGE["shipped"], "cache_write": (a.CACHE_WRITE_TOKENS,)}
_USAGE["both"] = {**_USAGE["shipped"], "cache_write": (a.CACHE_CREATION_TOKENS, a.CACHE_WRITE_TOKENS)}
_LATEST_ONLY = frozenset({a.PREVIOUS_RESPONSE, a.REASONING_LEVEL})
_OPENAI_APIS = {"openai.chat": "chat_completions", "openai.responses": "responses"}
"""`openai.api.type` by the reader's name; other APIs of OpenAI have no value."""


class Portrait(NamedTuple):
    """Attributes of one exchange: what it has in common with other requests in layers, what it has not by itself.

    `common` is part of both sides. `asked` is None and `client` empty if no connection was asked for. `alike` is what
    both sides' layers say; where both say something, as the SERVER side does, which holds for `client` and `server` too.
    """

    common: SpanAttributes
    shared: Layer
    server: SpanAttributes
    asked: Layer | None
    client: SpanAttributes
    alike: Layer


_LAYERS_LIMIT = 2048
"""Layers kept of requests that are alike; over it they are forgotten all at once."""


class Portrayer:
    """Portrays one exchange after another, under `shipped`, `latest` or `both` conventions.

    What requests that are alike have in common is gathered once, and encoded once by whoever exports it.
    """

    def __init__(self, semconv: str) -> None:
        self._usage = _USAGE[semconv]
        self._semconv = semconv
        self._reasons = _latest_reasons if semconv == "latest" else _told_reasons
        self._alike: dict[tuple[object, ...], Layer] = {}
        self._both: dict[tuple[Layer, Layer], Layer] = {}

    def __call__(self, exchange: Exchange) -> Portrait:
        """The attributes of a settled exchange."""
        common = _common(exchange)
        shared = self._shared(_server_key(exchange), _server_shared, exchange)
        own = _server_own(exchange)
        if sampling := exchange_sampling(exchange):
            said = {*common, *shared.values, *own}
            own |= {key: value for key, value in sampling.items() if key not in said}
        if not has_client(exchange):
            return Portrait(common, shared, own, None, {}, shared)
        asked = self._shared((*_client_key(exchange), self._reasons(exchange)), self._client_shared, exchange)
        asked_own = _client_own(exchange, self._usage, self._semconv)
        alike = self._both.get((shared, asked)) or self._join(shared, asked)
        if sampling:
            alike = Layer({key: value for key, value in alike.values.items() if key not in own})
        return Portrait(common, shared, own, asked, asked_own, alike)

    def _client_shared(self, exchange: Exchange) -> SpanAttributes:
        """Of its key alone."""
        attributes = _client_shared(exchange)
        if reasons := self._reasons(exchange):
            attributes[a.FINISH_REASONS] = tuple(map(shown, reasons))
        return attributes

    def _join(self, server: Layer, client: Layer) -> Layer:
        """Both sides' layers as one."""
        values = {**client.values, **server.values}
        if a.SERVER_PORT not in server.values:
            values.pop(a.SERVER_PORT, None)  # the upstream's goes with the upstream's address
        if len(self._both) >= _LAYERS_LIMIT:
            self._both.clear()
        layer = self._both[server, client] = Layer(values)
        return layer

    def _shared(
        self, key: tuple[object, ...], gather: Callable[[Exchange], SpanAttributes], exchange: Exchange
    ) -> Layer:
        """The layer of all exchanges with this key: whatever `gather` reads is in it."""
        layer = self._alike.get(key)
        if layer is None:
            if len(self._alike) >= _LAYERS_LIMIT:
                self._alike.clear()
            layer = self._alike[key] = Layer(gather(exchange))
        return layer


def _common(exchange: Exchange) -> SpanAttributes:
    attributes: SpanAttributes = {}
    identity = exchange.identity
    if identity is not None:
        attributes[a.SESSION_ID] = identity.session_id
        attributes[a.SESSION_SOURCE] = identity.source.value
        attributes[a.CONVERSATION] = identity.conversation_id
        if identity.conversation_supplied:
            attributes[a.GEN_AI_CONVERSATION] = identity.conversation_id
        elif identity.session_supplied and identity.named:
            attributes[a.GEN_AI_CONVERSATION] = identity.session_id
    turn = exchange.turn
    if turn is not None:
        attributes[a.REQUEST_ID] = turn.request_id
        if turn.sequence:
            attributes[a.SEQUENCE] = turn.sequence
    elif exchange.stray_id is not None:
        attributes[a.REQUEST_ID] = exchange.stray_id
    return attributes


def _error_word(exchange: Exchange, failed: bool) -> str | None:
    verdict = exchange.verdict
    return error_type(verdict) if failed and verdict is not None else None


def _server_key(exchange: Exchange) -> tuple[object, ...]:
    head, verdict, upstream, headers = (
        exchange.head,
        exchange.verdict,
        exchange.upstream,
        exchange.head.headers,
    )
    return (
        head.method,
        head.scheme,
        head.version,
        exchange.route.template,
        verdict and (verdict.outcome, verdict.phase),
        _error_word(exchange, server_failed(exchange)),
        is_streaming(exchange),
        exchange.body_state,
        exchange.status,
        upstream and upstream.name,
        headers.get(b"host"),
        headers.get(b"user-agent"),
    )


def _server_shared(exchange: Exchange) -> SpanAttributes:
    """Of `_server_key` alone."""
    head, verdict = exchange.head, exchange.verdict
    method = known_method(head.method)
    attributes: SpanAttributes = {
        a.METHOD: method,
        a.SCHEME: head.scheme,
        a.ROUTE: exchange.route.template,
        a.OUTCOME: outcome_of(exchange).value,
        a.STREAMING: is_streaming(exchange),
        a.BODY_STATE: exchange.body_state,
    }
    if version := head.version.removeprefix("HTTP/"):
        attributes[a.PROTOCOL_VERSION] = version
    if method != head.method and head.method:
        attributes[a.METHOD_ORIGINAL] = shown(head.method)
    if exchange.status is not None:
        attributes[a.STATUS] = exchange.status
    if verdict is not None and verdict.phase is not None:
        attributes[a.PHASE] = verdict.phase.value
    if (word := _error_word(exchange, server_failed(exchange))) is not None:
        attributes[a.ERROR_TYPE] = word
    if exchange.upstream is not None:
        attributes[a.UPSTREAM] = exchange.upstream.name
    _add_host(attributes, head.headers)
    if agent := head.headers.readable(b"user-agent"):
        attributes[a.USER_AGENT] = shown(agent)
    return attributes


def _server_own(exchange: Exchange) -> SpanAttributes:
    head = exchange.head
    attributes: SpanAttributes = {
        a.PATH: redact_path(
            head.path, exchange.route.template, None if exchange.upstream is None else exchange.upstream.name
        ),
        a.REQUEST_SIZE: exchange.request_bytes,
        a.RESPONSE_SIZE: exchange.stream.bytes,
    }
    if b"?" in head.target and (query := head.query):
        attributes[a.QUERY] = redact_query(query)
    if head.client_address is not None:
        attributes[a.CLIENT_ADDRESS] = head.client_address
        if head.client_port is not None:
            attributes[a.CLIENT_PORT] = head.client_port
    _add_conversation(attributes, exchange)
    _add_rare(attributes, exchange)
    if exchange.asked:
        attributes[a.OVERHEAD_BEFORE] = exchange.overhead_before / SECOND
        attributes[a.OVERHEAD_AFTER] = exchange.overhead_after / SECOND
        attributes[a.OVERHEAD_LOOP] = exchange.overhead_loop / SECOND
    return attributes


def exchange_sampling(exchange: Exchange) -> SpanAttributes:
    """What the sampler wants on the span: `RequestTrace.attributes`, for traces that have them."""
    return getattr(exchange.trace, "attributes", {})


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9A-Za-z._-]{1,253}))(?::([0-9]{1,5}))?")


def _add_host(attributes: SpanAttributes, headers: Headers) -> None:
    """`server.address` and `server.port` by the Host field, where that is a host: what the app asked for."""
    found = _HOST.fullmatch(headers.text(b"host") or "")
    if found is None:
        return
    address, name, port = found.groups()
    attributes[a.SERVER_ADDRESS] = address or shown(name)
    if port:
        attributes[a.SERVER_PORT] = int(port)


def _add_conversation(attributes: SpanAttributes, exchange: Exchange) -> None:
    """Figures of the conversation; those the queue knew only for turns of named sessions."""
    identity, turn = exchange.identity, exchange.turn
    if exchange.arrived:
        attributes[a.BODY_READ_TIME] = (exchange.arrived - exchange.start) / SECOND
    if turn is not None and turn.concurrency:
        attributes[a.OVERLAPS] = turn.overlap_count
        if turn.think_time is not None:
            attributes[a.THINK_TIME] = turn.think_time / SECOND
        if turn.ended_at is not None:
            attributes[a.OVERLAPPED_BY] = turn.overlapped_by_count
            attributes[a.DISTANCE] = turn.distance
            if turn.wait is not None:
                attributes[a.WAIT_AVOIDED] = turn.wait / SECOND
    if (relation := exchange.relation) is not None:
        attributes[a.TURN_RELATION] = relation.value
        if exchange.past is not None and exchange.past.kept is not None:
            attributes[a.TURN_KEPT] = exchange.past.kept
    if identity is not None:
        if identity.agent is not None:
            attributes[a.AGENT] = identity.agent
        if identity.parent_agent is not None:
            attributes[a.PARENT_AGENT] = identity.parent_agent
        if identity.request_kind is not None:
            attributes[a.REQUEST_KIND] = identity.request_kind


def _add_rare(attributes: SpanAttributes, exchange: Exchange) -> None:
    if exchange.retry:
        attributes[a.RETRY] = True
    if exchange.retry_count:
        attributes[a.RETRY_COUNT] = exchange.retry_count
    if exchange.request.ignored:
        attributes[a.IGNORED] = exchange.request.ignored
    if anomalies := anomalies_of(exchange):
        attributes[a.ANOMALIES] = tuple(dict.fromkeys(anomalies))


def anomalies_of(exchange: Exchange) -> list[str]:
    """The exchange's anomalies and its identity's, in the order they were noted; those in both count once."""
    noted = [anomaly.value for anomaly in exchange.anomalies] if exchange.anomalies else []
    if exchange.identity is not None and exchange.identity.anomalies:
        noted += [anomaly.value for anomaly in exchange.identity.anomalies if anomaly.value not in noted]
    return noted


def _client_key(exchange: Exchange) -> tuple[object, ...]:
    route, request, response, connect = exchange.route, exchange.request, exchange.response, exchange.connect
    upstream = exchange.upstream
    return (
        exchange.head.method,
        route.operation,
        route.provider,
        upstream and (upstream.name, upstream.host, upstream.port, upstream.provider),
        exchange.upstream_status,
        request.model,
        route.model,
        request.streaming or route.streaming,
        connect and (connect.kind, connect.address),
        response.model,
        response.service_tier,
        response.system_fingerprint,
        route.api,
        _error_word(exchange, client_failed(exchange)),
    )


def _client_shared(exchange: Exchange) -> SpanAttributes:
    """Of `_client_key` alone."""
    route, request, response = exchange.route, exchange.request, exchange.response
    attributes: SpanAttributes = {a.METHOD: known_method(exchange.head.method)}
    if route.operation is not None:
        attributes[a.OPERATION] = route.operation
    if (provider := provider_of(exchange)) is not None:
        attributes[a.PROVIDER] = provider
    if exchange.upstream_status is not None:
        attributes[a.STATUS] = exchange.upstream_status
    if model := request_model(exchange):
        attributes[a.REQUEST_MODEL] = shown(model)
    if request.streaming or route.streaming:
        attributes[a.REQUEST_STREAM] = True
    upstream = exchange.upstream
    if upstream is not None:
        attributes[a.UPSTREAM] = upstream.name
        attributes[a.SERVER_ADDRESS] = upstream.host
        attributes[a.SERVER_PORT] = upstream.port
    if exchange.connect is not None:
        attributes[a.CONNECTION] = exchange.connect.kind
        if exchange.connect.address:
            attributes[a.PEER_ADDRESS] = exchange.connect.address
    if response.model:
        attributes[a.RESPONSE_MODEL] = shown(response.model)
    if provider == "openai":
        _add_openai(attributes, exchange)
    if (word := _error_word(exchange, client_failed(exchange))) is not None:
        attributes[a.ERROR_TYPE] = word
    return attributes


def _add_openai(attributes: SpanAttributes, exchange: Exchange) -> None:
    """What the conventions have for OpenAI alone."""
    response = exchange.response
    if (api := _OPENAI_APIS.get(exchange.route.api or "")) is not None:
        attributes[a.OPENAI_API] = api
    if response.service_tier:
        attributes[a.RESPONSE_TIER] = shown(response.service_tier)
    if response.system_fingerprint:
        attributes[a.FINGERPRINT] = shown(response.system_fingerprint)


def _told_reasons(exchange: Exchange) -> tuple[str, ...]:
    """Why generation stopped, as reported."""
    return tuple(exchange.response.finish_reasons)


def _latest_reasons(exchange: Exchange) -> tuple[str, ...]:
    """The same, and `error` where an answer that had begun ended without any."""
    reasons = tuple(exchange.response.finish_reasons)
    if reasons or exchange.upstream_status is None or exchange.upstream_status >= 400:
        return reasons
    generates = is_inference(exchange.route.operation or "")
    return ("error",) if generates and outcome_of(exchange) is not Outcome.COMPLETED else ()


def _asked(attributes: SpanAttributes, exchange: Exchange, semconv: str) -> None:
    """What the body asks for. With `both`, a name that both conventions have keeps its shipped type."""
    for name, value in exchange.request.attributes.items():
        if semconv == "shipped" and name in _LATEST_ONLY:
            continue
        if name == a.TOP_K and semconv == "latest" and isinstance(value, float):
            if value.is_integer():
                attributes[name] = int(value)
            continue
        if name != a.SERVICE_TIER or provider_of(exchange) == "openai":
            attributes[name] = _short(value)


def _client_own(exchange: Exchange, usage: dict[str, tuple[str, ...]], semconv: str) -> SpanAttributes:
    request, response = exchange.request, exchange.response
    attributes: SpanAttributes = {}
    if request.messages is not None:
        attributes[a.MESSAGES] = request.messages
    _asked(attributes, exchange, semconv)
    if exchange.resends:
        attributes[a.RESEND_COUNT] = exchange.resends
    if response.id:
        attributes[a.RESPONSE_ID] = shown(response.id)
    for kind, count in response.tokens.items():
        for name in usage.get(kind, ()):
            attributes[name] = count
    if exchange.streams and exchange.stream.first_chunk:
        attributes[a.TIME_TO_FIRST_CHUNK] = (exchange.stream.first_chunk - exchange.asked) / SECOND
    if response.error and (code := provider_word(response.error)) is not None:
        attributes[a.UPSTREAM_ERROR] = code
    if exchange.upstream_headers is not None:
        _add_upstream_headers(attributes, exchange.upstream_headers)
    if exchange.route.operation is None and exchange.upstream is not None:
        attributes[a.URL] = _asked_url(exchange, exchange.upstream)
        attributes[a.URL_TEMPLATE] = exchange.route.template
    return attributes


def _asked_url(exchange: Exchange, upstream: Upstream) -> str:
    """The URL as the upstream was asked for it, with nothing that the SERVER span's path and query do not show."""
    path = exchange.head.path
    if upstream.name != "default":  # the one that is not named in a path
        path = path.removeprefix(f"/{upstream.name}")
    if path.startswith("/"):
        path = readable(upstream.base_path) + path
    shown_path = redact_path(path, exchange.route.template).removeprefix("/")
    query = f"?{redact_query(exchange.head.query)}" if exchange.head.query else ""
    return f"{upstream.scheme}://{upstream.authority}/{shown_path}{query}"


def _short(value: object) -> AttributeValue:
    """A value of the body, bounded: texts cut, at most 32 of a list."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return tuple(shown(str(item)) for item in value[:32])
    return shown(str(value))


def _add_upstream_headers(attributes: SpanAttributes, headers: Headers) -> None:
    first = headers.first
    for name in _REQUEST_IDS:
        if name in first and (text := headers.text(name)):
            if len(text) > 200 or not (text.isascii() and text.isprintable()) or is_credential(text):
                continue
            attributes[a.UPSTREAM_REQUEST_ID] = text
            break
    for name in _PROCESSING:
        if name in first and (text := headers.text(name)):
            if len(text) > 12 or not (text.isascii() and text.replace(".", "", 1).isdigit()):
                continue
            attributes[a.UPSTREAM_PROCESSING] = float(text) / 1000
            break
