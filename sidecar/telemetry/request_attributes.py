"""What a settled request says as attributes: what it has in common with others of its kind, and what is its own.

Owns the one translation from an exchange to attributes; spans and the wide log line are both made of it, so they
cannot disagree. A `Shape` is made on the first request of its kind and found by one look-up afterwards: attributes
encoded once, the spans' names and errors, the line's event and level, the series that count it. What was not told is
absent. No text of a prompt or an answer, and no credential.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from opentelemetry.util.types import AttributeValue

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange, Upstream
from sidecar.core.facts import Outcome
from sidecar.core.headers import Headers
from sidecar.core.identity import Identity
from sidecar.core.shown import (
    ITEMS,
    OTHER_HTTP,
    is_credential,
    known_method,
    readable,
    redact_path,
    redact_query,
    shown,
)
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.factories import Layer, SpanAttributes
from sidecar.telemetry.queues import Work
from sidecar.telemetry.series import RequestSeries, error_type, finish_reason, provider_word

_OPENAI_APIS = {"openai.chat": "chat_completions", "openai.responses": "responses"}
"""`openai.api.type` by the reader's name; other APIs of OpenAI have no value."""

SHAPES_LIMIT, _LONGEST = 4096, 2048
"""Shapes kept at hand, over which they are forgotten all at once; characters of what tells one that is kept: `Host` and
`User-Agent` may be as long as a head."""

_ERRORS = frozenset(
    {
        *(Outcome.UPSTREAM_FAILED, Outcome.ERROR_IN_STREAM, Outcome.TIMED_OUT),
        *(Outcome.SHUTDOWN, Outcome.INTERNAL_ERROR),
    }
)
_WHOLE = frozenset({Outcome.COMPLETED, Outcome.UPSTREAM_REJECTED, Outcome.ERROR_IN_STREAM})
"""The outcomes of calls that ended with the answer's last byte, if it came."""


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
    whole = outcome_of(exchange) in _WHOLE
    return exchange.last_byte if whole and exchange.last_byte else exchange.end


def is_streaming(exchange: Exchange) -> bool:
    """True when the answer streams, or was asked to."""
    return exchange.streams or exchange.request.streaming or exchange.route.streaming


def provider_of(exchange: Exchange) -> str | None:
    """`gen_ai.provider.name`: by the upstream's host, else by the API's shape."""
    upstream = exchange.upstream
    return (upstream.provider if upstream else None) or exchange.route.provider


Reasons = Callable[[Exchange], tuple[str, ...]]


class Shape:
    """See the module. `client` is None if no connection was asked for.

    `alike` is what both sides have in common with other requests, for the line; where both say something, as the SERVER
    side does.
    """

    __slots__ = (
        "alike",
        "at_hand",
        "client",
        "client_failed",
        "client_name",
        "completed",
        "error",
        "event",
        "fresh_until",
        "outcome",
        "phase",
        "places",
        "reason",
        "series",
        "server",
        "server_failed",
        "server_name",
        "streaming",
        "turn",
        "whole",
        "work",
    )

    def __init__(self, exchange: Exchange, reasons: tuple[str, ...]) -> None:
        """Of the first request of its kind."""
        route, verdict, method = exchange.route, exchange.verdict, known_method(exchange.head.method)
        self.outcome = outcome_of(exchange)
        self.completed = self.outcome is Outcome.COMPLETED
        self.event = n.REQUEST_COMPLETED if self.completed else n.REQUEST_FAILED
        self.whole = self.outcome in _WHOLE
        self.turn = route.turn
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
        self.at_hand: RequestSeries | None = None
        """Those of its own operation, as long as its models' places are the same: until `fresh_until`, at `places`."""
        self.fresh_until = self.places = 0
        self.work: Work | None = None
        """What is made of such a request, for the ledger; found when one is put off."""


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
        head, verdict, connect, request = exchange.head, exchange.verdict, exchange.connect, exchange.request
        upstream, response, first = exchange.upstream, exchange.response, head.headers.first
        key = (
            exchange.route.kind,
            upstream and upstream.kind,
            connect and (connect.kind, connect.address),
            verdict and (verdict.outcome, verdict.phase, verdict.error_type),
            (head.method, head.scheme, head.version, first.get(b"host"), first.get(b"user-agent")),
            (response.model, response.system_fingerprint, response.service_tier, *response.finish_reasons),
            (request.model, request.streaming, exchange.status, exchange.upstream_status, exchange.streams),
            (exchange.body_state, not exchange.asked, not exchange.sent, not exchange.first_byte),
        )
        shape = self._known.get(key)
        if shape is None:
            if len(self._known) >= SHAPES_LIMIT:
                del self._known[next(iter(self._known))]
            shape = Shape(exchange, self._reasons(exchange))
            if len(repr(key)) <= _LONGEST:
                self._known[key] = shape
        return shape


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
    if model := exchange.asked_model:
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


_REQUEST_IDS = (
    *(b"x-request-id", b"request-id", b"apim-request-id", b"x-amzn-requestid"),
    *(b"x-goog-request-id", b"x-ms-request-id", b"cf-ray"),
)
_PROCESSING = (b"openai-processing-ms", b"x-envoy-upstream-service-time")
"""Header fields in which a provider tells its own processing time, in milliseconds."""
_TOLD = frozenset({*_REQUEST_IDS, *_PROCESSING})

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
_AGENT_TURN = (n.AGENT_TURN, n.PARENT_TURN, n.ROOT_TURN, n.THREAD_SOURCE)
_LATEST_ONLY = frozenset({n.PREVIOUS_RESPONSE, n.REASONING_LEVEL})


class Who(NamedTuple):
    """Session and conversation, the same for all requests of a conversation: as spans tell them, and as log records do."""

    spans: Layer
    records: Layer


class OwnAttributes(NamedTuple):
    """Attributes of one exchange alone; those it shares with others of its kind are its shape's.

    `who` and `ids` are part of both sides. `client` is empty if no connection was asked for.
    """

    who: Who
    ids: Layer
    server: Layer
    client: Layer
    line: Layer
    """What its line alone tells."""
    alike: Layer
    """What the shape says for the line, less what the sampler says otherwise."""


_WHO_LIMIT = 4096
"""Layers kept of who was talking; over it they are forgotten all at once."""


class RequestAttributes:
    """Portrays one exchange after another, under `shipped`, `latest` or `both` conventions. For the worker's thread."""

    def __init__(self, semconv: str) -> None:
        self._usage = _USAGE[semconv]
        self._semconv = semconv
        self._who: dict[tuple[object, ...], Who] = {}

    def __call__(self, exchange: Exchange, shape: Shape) -> OwnAttributes:
        """The attributes of a settled exchange."""
        who, ids, own = self._who_talks(exchange.identity), _ids(exchange), _server_own(exchange)
        client, alike = _NOTHING, shape.alike
        if shape.client is not None:
            client = Layer(_client_own(exchange, self._usage, self._semconv))
        sampling = exchange_sampling(exchange)
        if sampling:
            said = {*who.spans.values, *ids, *shape.server.values, *own}
            own |= {key: value for key, value in sampling.items() if key not in said}
            alike = Layer({key: value for key, value in alike.values.items() if key not in own})
        return OwnAttributes(who, Layer(ids), Layer(own), client, Layer(_line_own(exchange)), alike)

    def _who_talks(self, identity: Identity | None) -> Who:
        if identity is None:
            return NOBODY
        key = (
            *(identity.session_id, identity.source, identity.conversation_id),
            *(identity.conversation_supplied, identity.session_supplied),
        )
        who = self._who.get(key)
        if who is None:
            if len(self._who) >= _WHO_LIMIT:
                self._who.clear()
            who = self._who[key] = _who(identity)
        return who


_NOTHING = Layer({})
NOBODY = Who(_NOTHING, _NOTHING)


def _who(identity: Identity) -> Who:
    attributes: SpanAttributes = {
        n.SESSION_ID: identity.session_id,
        n.SESSION_SOURCE: identity.source.value,
        n.CONVERSATION: identity.conversation_id,
    }
    records = Layer(attributes)
    if identity.conversation_supplied:
        return Who(Layer({**attributes, n.GEN_AI_CONVERSATION: identity.conversation_id}), records)
    if identity.session_supplied and identity.named:
        return Who(Layer({**attributes, n.GEN_AI_CONVERSATION: identity.session_id}), records)
    return Who(records, records)


def _line_own(exchange: Exchange) -> SpanAttributes:
    attributes: SpanAttributes = {n.DURATION: (exchange.end - exchange.start) / SECOND}
    if exchange.verdict is not None and exchange.verdict.message:
        attributes[n.MESSAGE] = shown(exchange.verdict.message)
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
        if exchange.past is not None and exchange.past.broke_at is not None:
            attributes[n.BROKE_AT] = exchange.past.broke_at.value
        tokens = exchange.response.tokens
        if (given := tokens.get("input")) and (cached := tokens.get("cache_read")) is not None:
            attributes[n.CACHED_SHARE] = cached / given
    if identity is not None:
        if identity.agent is not None:
            attributes[n.AGENT] = identity.agent
        if identity.parent_agent is not None:
            attributes[n.PARENT_AGENT] = identity.parent_agent
        if identity.request_kind is not None:
            attributes[n.REQUEST_KIND] = identity.request_kind
        if identity.agent_kind is not None:
            attributes[n.AGENT_KIND] = identity.agent_kind
        if identity.parent_conversation is not None:
            attributes[n.PARENT_CONVERSATION] = identity.parent_conversation
        if identity.initiator is not None:
            attributes[n.INITIATOR] = identity.initiator
        if (told := identity.agent_turn) is not None:
            of_it = zip(_AGENT_TURN, (told.turn, told.parent, told.root, told.thread_source), strict=True)
            attributes |= {name: value for name, value in of_it if value is not None}


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
    """A value of the body, bounded: texts cut, some of a list."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, list | tuple):
        return tuple(shown(str(item)) for item in value[:ITEMS])
    return shown(str(value))


def _add_upstream_headers(attributes: SpanAttributes, headers: Headers) -> None:
    first = headers.first
    if _TOLD.isdisjoint(first):
        return
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
