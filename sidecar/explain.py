"""`sidecar explain`: what a request would be, before it is sent: upstream, route, API, session and conversation.

Owns how that is told. Every answer comes from the code that serves requests; nothing is decided here a second time.
"""

from collections.abc import Iterator, Mapping

from sidecar import apis
from sidecar.codings import UnreadableCodingError, decoder
from sidecar.core.facts import NO_FACTS, Anomaly, RequestFacts, Route
from sidecar.core.headers import Headers
from sidecar.core.identity import Identity, IdentityRules, Source, resolve
from sidecar.core.shown import readable, shown
from sidecar.proxy.wire import Routes, is_json
from sidecar.request_text import GivenRequest
from sidecar.settings import Settings

Line = tuple[str, str]
"""What is told, and its name."""

_TOO_LARGE = "not read: larger than SIDECAR_INSPECT_LIMIT"
_MADE_UP = "(made up for each request)"
_WRONG = {
    Anomaly.ID_INVALID: "not an id, which is 1 to 200 printable ASCII characters",
    Anomaly.ID_HASHED: "is replaced by its hash: too long, or it looks like a credential",
}


def explain(request: GivenRequest, settings: Settings) -> list[Line]:
    """What the sidecar would make of the request, line by line."""
    target = Routes(settings.upstream, settings.upstreams).target(request.method, request.target)
    upstream, route = target.upstream, target.route
    if upstream is None:
        names = ", ".join(settings.upstreams)
        return [("upstream", f"none: the answer is 404, as the path begins with none of {names}")]
    fields = (*settings.session_fields, *settings.conversation_fields)
    facts, state = _facts(request, route, fields, settings.inspect_limit)
    url = f"{upstream.scheme}://{upstream.authority}{readable(target.asked)}"
    lines = [
        ("upstream", upstream.name),
        ("goes to", f"{shown(request.method, 100)} {shown(url, 1000)}"),
        ("route", route.template),
        ("API", route.api or "none that is read in depth: it passes, with HTTP telemetry"),
        ("operation", f"{route.operation or 'none'}{', generates' if route.turn else ''}"),
        ("body", state),
        ("model", shown(facts.model or route.model or "not told")),
        ("streams", "yes" if facts.streaming or route.streaming else "as the answer says"),
    ]
    if facts.ignored:
        lines.append(("ignored", f"fields of another type than the API's: {', '.join(facts.ignored)}"))
    return [*lines, *_who(request.headers, facts.hints, settings, inspected=state in {"read", "none"})]


def _facts(
    request: GivenRequest, route: Route, fields: tuple[str, ...], limit: int
) -> tuple[RequestFacts, str]:
    if not request.body:
        return NO_FACTS, "none"
    if not is_json(request.headers.get(b"content-type") or b""):
        return NO_FACTS, "not read: its Content-Type is not JSON"
    if len(request.body) > limit:
        return NO_FACTS, _TOO_LARGE
    try:
        body = _decoded(request.body, request.headers.joined(b"content-encoding"), limit)
        if body is None:
            return NO_FACTS, f"{_TOO_LARGE} once it is decoded"
        return apis.read_request(route, body, fields), "read"
    except UnreadableCodingError as error:
        return NO_FACTS, f"not read by its Content-Encoding: {error}"
    except apis.UnreadableBody:
        return NO_FACTS, "not read: it is not valid JSON"


def _decoded(body: bytes, coding: bytes | None, limit: int) -> bytes | None:
    """A body without its content coding; None if it is larger than so many bytes.

    Raises:
        UnreadableCodingError: it is not what the coding says, or the coding is none that is read.
    """
    decoded = bytearray()
    for piece in decoder(coding).decode(body):
        decoded += piece
        if len(decoded) > limit:
            return None
    return bytes(decoded)


def _who(
    headers: Headers, hints: Mapping[str, str], settings: Settings, *, inspected: bool
) -> Iterator[Line]:
    rules = IdentityRules(
        session_headers=settings.session_headers,
        session_fields=settings.session_fields,
        conversation_headers=settings.conversation_headers,
        conversation_fields=settings.conversation_fields,
    )
    found = _resolved(headers, hints, rules, inspected=inspected)
    named = found.named or found.source is Source.RESPONSE_CHAIN
    yield "session", f"{found.session_id if named else _MADE_UP}   by {found.source.value}"
    told = found.conversation_supplied
    yield "conversation", f"{found.conversation_id}   {'named' if told else 'nobody named one'}"
    if hints.get("previous_response_id"):
        yield "continues", "the request whose answer had that id, if it is remembered; nothing is, here"
    for where, alone in _each(headers, hints, rules):
        if alone.named and alone.session_id != found.session_id:
            yield (
                "passed over",
                f"{where} ({alone.source.value}): {alone.session_id}; an earlier rule has one",
            )
        for anomaly in alone.anomalies:
            yield "passed over" if anomaly is Anomaly.ID_INVALID else "note", f"{where}: {_WRONG[anomaly]}"


def _each(headers: Headers, hints: Mapping[str, str], rules: IdentityRules) -> Iterator[tuple[str, Identity]]:
    """What each header field and each field of the body would give alone."""
    for name, value in headers:
        yield readable(name), _resolved(Headers([(name, value)]), {}, rules, inspected=True)
    for path, text in hints.items():
        yield f"body field {path}", _resolved(Headers([]), {path: text}, rules, inspected=True)


def _resolved(
    headers: Headers, hints: Mapping[str, str], rules: IdentityRules, *, inspected: bool
) -> Identity:
    return resolve(
        headers, rules, hints, chain=lambda _: None, generate=lambda: _MADE_UP, inspected=inspected
    )
