"""What a settled exchange says about itself alone, as attributes: who, the SERVER side, the CLIENT side.

Owns, with `shape.py`, the one translation from an exchange to attributes; spans and the wide log line are both made of
it, so they cannot disagree. What was not told is absent. No text of a prompt or an answer, and no credential.
"""

from typing import NamedTuple

from opentelemetry.util.types import AttributeValue

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange, Upstream
from sidecar.core.headers import Headers
from sidecar.core.identity import Identity
from sidecar.core.shown import is_credential, readable, shown
from sidecar.telemetry import names as n
from sidecar.telemetry.bounded import (
    provider_word,
    redact_path,
    redact_query,
)
from sidecar.telemetry.shape import (
    Shape,
    provider_of,
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
        "input": (n.INPUT_TOKENS,),
        "output": (n.OUTPUT_TOKENS,),
        "cache_read": (n.CACHE_READ_TOKENS,),
        "cache_write": (n.CACHE_CREATION_TOKENS,),
        "reasoning": (n.REASONING_TOKENS,),
    }
}
_USAGE["latest"] = {**_USAGE["shipped"], "cache_write": (n.CACHE_WRITE_TOKENS,)}
_USAGE["both"] = {**_USAGE["shipped"], "cache_write": (n.CACHE_CREATION_TOKENS, n.CACHE_WRITE_TOKENS)}
_LATEST_ONLY = frozenset({n.PREVIOUS_RESPONSE, n.REASONING_LEVEL})


class Portrait(NamedTuple):
    """Attributes of one exchange alone; those it shares with others of its kind are its shape's.

    `who` and `ids` are part of both sides. `client` is empty if no connection was asked for.
    """

    who: Layer
    ids: Layer
    server: SpanAttributes
    client: SpanAttributes
    alike: Layer
    """What the shape says for the line, less what the sampler says otherwise."""


_WHO_LIMIT = 4096
"""Layers kept of who was talking; over it they are forgotten all at once."""


class Portrayer:
    """Portrays one exchange after another, under `shipped`, `latest` or `both` conventions. For the worker's thread."""

    def __init__(self, semconv: str) -> None:
        self._usage = _USAGE[semconv]
        self._semconv = semconv
        self._who: dict[tuple[object, ...], Layer] = {}

    def __call__(self, exchange: Exchange, shape: Shape) -> Portrait:
        """The attributes of a settled exchange."""
        who, ids, own, alike = (
            self._who_talks(exchange.identity),
            _ids(exchange),
            _server_own(exchange),
            shape.alike,
        )
        sampling = exchange_sampling(exchange)
        if sampling:
            said = {*who.values, *ids, *shape.server.values, *own}
            own |= {key: value for key, value in sampling.items() if key not in said}
        if shape.client is None:
            return Portrait(who, Layer(ids), own, {}, alike)
        if sampling:
            alike = Layer({key: value for key, value in alike.values.items() if key not in own})
        return Portrait(who, Layer(ids), own, _client_own(exchange, self._usage, self._semconv), alike)

    def _who_talks(self, identity: Identity | None) -> Layer:
        """Session and conversation: the same for all requests of a conversation."""
        if identity is None:
            return _NOBODY
        key = (
            *(identity.session_id, identity.source, identity.conversation_id),
            *(identity.conversation_supplied, identity.session_supplied),
        )
        layer = self._who.get(key)
        if layer is None:
            if len(self._who) >= _WHO_LIMIT:
                self._who.clear()
            layer = self._who[key] = Layer(_who(identity))
        return layer


_NOBODY = Layer({})


def _who(identity: Identity) -> SpanAttributes:
    attributes: SpanAttributes = {
        n.SESSION_ID: identity.session_id,
        n.SESSION_SOURCE: identity.source.value,
        n.CONVERSATION: identity.conversation_id,
    }
    if identity.conversation_supplied:
        attributes[n.GEN_AI_CONVERSATION] = identity.conversation_id
    elif identity.session_supplied and identity.named:
        attributes[n.GEN_AI_CONVERSATION] = identity.session_id
    return attributes


def _ids(exchange: Exchange) -> SpanAttributes:
    attributes: SpanAttributes = {}
    turn = exchange.turn
    if turn is not None:
        attributes[n.REQUEST_ID] = turn.request_id
        if turn.sequence:
            attributes[n.SEQUENCE] = turn.sequence
    elif exchange.stray_id is not None:
        attributes[n.REQUEST_ID] = exchange.stray_id
    return attributes


def _server_own(exchange: Exchange) -> SpanAttributes:
    head = exchange.head
    attributes: SpanAttributes = {
        n.PATH: redact_path(
            head.path, exchange.route.template, None if exchange.upstream is None else exchange.upstream.name
        ),
        n.REQUEST_SIZE: exchange.request_bytes,
        n.RESPONSE_SIZE: exchange.stream.bytes,
    }
    if b"?" in head.target and (query := head.query):
        attributes[n.QUERY] = redact_query(query)
    if head.client_address is not None:
        attributes[n.CLIENT_ADDRESS] = head.client_address
        if head.client_port is not None:
            attributes[n.CLIENT_PORT] = head.client_port
    _add_conversation(attributes, exchange)
    _add_rare(attributes, exchange)
    if exchange.asked:
        attributes[n.OVERHEAD_BEFORE] = exchange.overhead_before / SECOND
        attributes[n.OVERHEAD_AFTER] = exchange.overhead_after / SECOND
        attributes[n.OVERHEAD_LOOP] = exchange.overhead_loop / SECOND
    return attributes


def exchange_sampling(exchange: Exchange) -> SpanAttributes:
    """What the sampler wants on the span: `RequestTrace.attributes`, for traces that have them."""
    return getattr(exchange.trace, "attributes", {})


def _add_conversation(attributes: SpanAttributes, exchange: Exchange) -> None:
    """Figures of the conversation; those the queue knew only for turns of named sessions."""
    identity, turn = exchange.identity, exchange.turn
    if exchange.arrived:
        attributes[n.BODY_READ_TIME] = (exchange.arrived - exchange.start) / SECOND
    if turn is not None and turn.concurrency:
        attributes[n.OVERLAPS] = turn.overlap_count
        if turn.think_time is not None:
            attributes[n.THINK_TIME] = turn.think_time / SECOND
        if turn.ended_at is not None:
            attributes[n.OVERLAPPED_BY] = turn.overlapped_by_count
            attributes[n.DISTANCE] = turn.distance
            if turn.wait is not None:
                attributes[n.WAIT_AVOIDED] = turn.wait / SECOND
    if (relation := exchange.relation) is not None:
        attributes[n.TURN_RELATION] = relation.value
        if exchange.past is not None and exchange.past.kept is not None:
            attributes[n.TURN_KEPT] = exchange.past.kept
    if identity is not None:
        if identity.agent is not None:
            attributes[n.AGENT] = identity.agent
        if identity.parent_agent is not None:
            attributes[n.PARENT_AGENT] = identity.parent_agent
        if identity.request_kind is not None:
            attributes[n.REQUEST_KIND] = identity.request_kind


def _add_rare(attributes: SpanAttributes, exchange: Exchange) -> None:
    if exchange.retry:
        attributes[n.RETRY] = True
    if exchange.retry_count:
        attributes[n.RETRY_COUNT] = exchange.retry_count
    if exchange.request.ignored:
        attributes[n.IGNORED] = exchange.request.ignored
    if anomalies := anomalies_of(exchange):
        attributes[n.ANOMALIES] = tuple(dict.fromkeys(anomalies))


def anomalies_of(exchange: Exchange) -> list[str]:
    """The exchange's anomalies and its identity's, in the order they were noted; those in both count once."""
    noted = [anomaly.value for anomaly in exchange.anomalies] if exchange.anomalies else []
    if exchange.identity is not None and exchange.identity.anomalies:
        noted += [anomaly.value for anomaly in exchange.identity.anomalies if anomaly.value not in noted]
    return noted


def _asked(attributes: SpanAttributes, exchange: Exchange, semconv: str) -> None:
    """What the body asks for. With `both`, a name that both conventions have keeps its shipped type."""
    for name, value in exchange.request.attributes.items():
        if semconv == "shipped" and name in _LATEST_ONLY:
            continue
        if name == n.TOP_K and semconv == "latest" and isinstance(value, float):
            if value.is_integer():
                attributes[name] = int(value)
            continue
        if name != n.SERVICE_TIER or provider_of(exchange) == "openai":
            attributes[name] = _short(value)


def _client_own(exchange: Exchange, usage: dict[str, tuple[str, ...]], semconv: str) -> SpanAttributes:
    request, response = exchange.request, exchange.response
    attributes: SpanAttributes = {}
    if request.messages is not None:
        attributes[n.MESSAGES] = request.messages
    _asked(attributes, exchange, semconv)
    if exchange.resends:
        attributes[n.RESEND_COUNT] = exchange.resends
    if response.id:
        attributes[n.RESPONSE_ID] = shown(response.id)
    for kind, count in response.tokens.items():
        for name in usage.get(kind, ()):
            attributes[name] = count
    if exchange.streams and exchange.stream.first_chunk:
        attributes[n.TIME_TO_FIRST_CHUNK] = (exchange.stream.first_chunk - exchange.asked) / SECOND
    if response.error and (code := provider_word(response.error)) is not None:
        attributes[n.UPSTREAM_ERROR] = code
    if exchange.upstream_headers is not None:
        _add_upstream_headers(attributes, exchange.upstream_headers)
    if exchange.route.operation is None and exchange.upstream is not None:
        attributes[n.URL] = _asked_url(exchange, exchange.upstream)
        attributes[n.URL_TEMPLATE] = exchange.route.template
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
            attributes[n.UPSTREAM_REQUEST_ID] = text
            break
    for name in _PROCESSING:
        if name in first and (text := headers.text(name)):
            if len(text) > 12 or not (text.isascii() and text.replace(".", "", 1).isdigit()):
                continue
            attributes[n.UPSTREAM_PROCESSING] = float(text) / 1000
            break
