"""The spans of settled exchanges, compared whole: attributes, parents, times, status, links, limits."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from sidecar.core.exchange import ConnectTiming, Exchange
from sidecar.core.facts import Anomaly, Outcome, Phase, RequestFacts, Route
from sidecar.core.headers import Headers
from sidecar.core.identity import Identity, Source
from sidecar.telemetry.spans import span_count
from tests.telemetry.world import CHAT, T0, MakeWorld, World, ms, ref

COMMON = {
    "session.id": "s1",
    "sidecar.session.source": "own_header",
    "sidecar.conversation.id": "main",
    "gen_ai.conversation.id": "s1",
    "sidecar.request.id": "s1:main:1",
    "sidecar.request.sequence": 1,
}


def whole(span: ReadableSpan) -> dict[str, Any]:
    """Everything a span says; times in ms after the start, ids left to the tests of parents."""
    assert span.start_time is not None
    assert span.end_time is not None
    return {
        "name": span.name,
        "kind": span.kind,
        "times": ((span.start_time - T0) / 1e6, (span.end_time - T0) / 1e6),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [(e.name, (e.timestamp - T0) / 1e6, dict(e.attributes or {})) for e in span.events],
        "links": [(link.context.span_id, dict(link.attributes or {})) for link in span.links],
    }


def attributes(world: World, name: str) -> dict[str, Any]:
    """The attributes of the one span called so."""
    (span,) = [span for span in world.pipeline.spans if span.name == name]
    return dict(span.attributes or {})


def status(world: World, kind: SpanKind) -> tuple[StatusCode, object]:
    """Status and `error.type` of the one span of that kind."""
    (span,) = [span for span in world.pipeline.spans if span.kind is kind]
    return span.status.status_code, (span.attributes or {}).get("error.type")


def test_a_completed_stream_whole(world: World) -> None:
    """Five spans, each whole."""
    world.stream()
    plain = {"events": [], "links": [], "status": (StatusCode.UNSET, None)}
    internal = {**plain, "kind": SpanKind.INTERNAL}
    assert [whole(span) for span in world.pipeline.spans] == [
        {
            **plain,
            "name": "POST /v1/chat/completions",
            "kind": SpanKind.SERVER,
            "times": (0, 500),
            "attributes": COMMON
            | {
                "http.request.method": "POST",
                "url.scheme": "http",
                "url.path": "/v1/chat/completions",
                "http.route": "/v1/chat/completions",
                "http.response.status_code": 200,
                "network.protocol.version": "1.1",
                "server.address": "127.0.0.1",
                "server.port": 7070,
                "http.request.body.size": 321,
                "http.response.body.size": 999,
                "sidecar.outcome": "completed",
                "sidecar.outcome.phase": "end",
                "sidecar.streaming": True,
                "sidecar.upstream": "default",
                "sidecar.request.body.state": "read",
                "sidecar.request.body.read_time": 0.002,
                "sidecar.request.overlaps": 0,
                "sidecar.request.overlapped_by": 0,
                "sidecar.request.out_of_order.distance": 0,
                "sidecar.overhead.before": 0.00015,
                "sidecar.overhead.after": 0.0,
                "sidecar.overhead.loop": 0.0,
            },
        },
        {
            **plain,
            "name": "chat gpt-4o",
            "kind": SpanKind.CLIENT,
            "times": (3, 450),
            "attributes": COMMON
            | {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "openai.api.type": "chat_completions",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.request.stream": True,
                "gen_ai.response.id": "chatcmpl-1",
                "gen_ai.response.model": "gpt-4o-2024-08-06",
                "gen_ai.response.finish_reasons": ("stop",),
                "gen_ai.response.time_to_first_chunk": 0.107,
                "gen_ai.usage.input_tokens": 10,
                "gen_ai.usage.output_tokens": 20,
                "gen_ai.usage.cache_read.input_tokens": 4,
                "gen_ai.usage.cache_creation.input_tokens": 1,
                "gen_ai.usage.reasoning.output_tokens": 5,
                "http.request.method": "POST",
                "http.response.status_code": 200,
                "server.address": "api.openai.com",
                "server.port": 443,
                "network.peer.address": "192.0.2.7",
                "sidecar.upstream": "default",
                "sidecar.connection": "new",
                "sidecar.request.messages": 3,
            },
        },
        {
            **internal,
            "name": "connect",
            "times": (3, 9),
            "attributes": COMMON
            | {
                "sidecar.connection": "new",
                "sidecar.connect.dns": 0.001,
                "sidecar.connect.tcp": 0.002,
                "sidecar.connect.tls": 0.003,
                "network.peer.address": "192.0.2.7",
            },
        },
        {**internal, "name": "wait", "times": (10, 100), "attributes": COMMON},
        {
            **internal,
            "name": "stream",
            "times": (100, 450),
            "attributes": COMMON
            | {
                "sidecar.stream.bytes": 999,
                "sidecar.stream.events": 4,
                "sidecar.stream.chunks": 2,
                "sidecar.stream.gap": 0.3,
                "sidecar.stream.stalls": 0,
                "sidecar.stream.blocked": 0.0,
            },
        },
    ]


def test_parents_scope_and_resource(world: World) -> None:
    """One trace: CLIENT under SERVER under the caller's span, the rest under CLIENT, each with an id of its own."""
    exchange = world.begin([(b"traceparent", b"00-%032x-%016x-01" % (0xABC, 0xDEF)), (b"tracestate", b"k=v")])
    world.send(exchange)
    world.answer(exchange, 500)
    exchange.last_byte = ms(110)
    world.settle(exchange, 120)
    server, client, *children = world.pipeline.spans
    contexts = [span.get_span_context() for span in world.pipeline.spans]
    assert {context.trace_id for context in contexts if context} == {0xABC}
    assert len({context.span_id for context in contexts if context}) == 4
    assert server.parent is not None
    assert (server.parent.span_id, server.parent.is_remote) == (0xDEF, True)
    assert [span.parent for span in (client, *children)] == [contexts[0], contexts[1], contexts[1]]
    assert contexts[0] is not None
    assert dict(contexts[0].trace_state) == {"k": "v"}
    assert contexts[1] is not None
    assert contexts[1].span_id == exchange.trace.client_span_id
    assert server.resource.attributes["service.name"] == "test"
    assert server.instrumentation_scope is not None
    assert server.instrumentation_scope.name == "sidecar"


def _rejected(code: int) -> Callable[[World, Exchange], None]:
    def end(world: World, exchange: Exchange) -> None:
        world.answer(exchange, code)

    return end


def _decided(
    outcome: Outcome, word: str | None = None, phase: Phase | None = None
) -> Callable[[World, Exchange], None]:
    def end(_: World, exchange: Exchange) -> None:
        exchange.decide(outcome, ms(50), error_type=word, phase=phase)

    return end


U, E = StatusCode.UNSET, StatusCode.ERROR


@pytest.mark.parametrize(
    "end, server, client",
    [
        (_decided(Outcome.COMPLETED), (U, None), (U, None)),
        (_decided(Outcome.CLIENT_LEFT), (U, None), (U, None)),
        (_rejected(404), (U, None), (E, "404")),
        (_rejected(429), (U, None), (E, "429")),
        (_rejected(503), (E, "503"), (E, "503")),
        (_decided(Outcome.UPSTREAM_FAILED, "cut_short"), (E, "cut_short"), (E, "cut_short")),
        (
            _decided(Outcome.ERROR_IN_STREAM, "overloaded_error"),
            (E, "overloaded_error"),
            (E, "overloaded_error"),
        ),
        (_decided(Outcome.ERROR_IN_STREAM, "You said: my secret"), (E, "_OTHER"), (E, "_OTHER")),
        (_decided(Outcome.TIMED_OUT, "timeout.idle"), (E, "timeout.idle"), (E, "timeout.idle")),
        (_decided(Outcome.SHUTDOWN), (E, "shutdown"), (E, "shutdown")),
        (_decided(Outcome.INTERNAL_ERROR, "KeyError"), (E, "KeyError"), (E, "KeyError")),
    ],
)
def test_status_by_outcome(
    world: World,
    end: Callable[[World, Exchange], None],
    server: tuple[StatusCode, object],
    client: tuple[StatusCode, object],
) -> None:
    """The table of outcomes, both spans."""
    exchange = world.begin()
    world.arrive(exchange)
    world.send(exchange)
    end(world, exchange)
    world.settle(exchange, 200)
    assert status(world, SpanKind.SERVER) == server
    assert status(world, SpanKind.CLIENT) == client


@pytest.mark.parametrize("code, expected", [(400, (U, None)), (503, (E, "draining"))])
def test_refused_has_no_client(world: World, code: int, expected: tuple[StatusCode, object]) -> None:
    """One span, an error from 500 on, with the made-up id said to be one, and no sequence."""
    world.refuse(code)
    (span,) = world.pipeline.spans
    assert status(world, SpanKind.SERVER) == expected
    said = dict(span.attributes or {})
    assert (said["session.id"], said["sidecar.session.source"]) == ("made-up", "generated")
    assert "gen_ai.conversation.id" not in said
    assert "sidecar.request.sequence" not in said
    assert "sidecar.overhead.before" not in said
    assert span.status.description == ("the sidecar is stopping" if code == 503 else None)


def test_no_connection_asked_no_client(world: World) -> None:
    """A caller that leaves while its body is read leaves one span."""
    exchange = world.begin()
    exchange.client_left(ms(3))
    world.settle(exchange, 3)
    assert [span.name for span in world.pipeline.spans] == ["POST /v1/chat/completions"]


def test_a_connection_that_never_stood(world: World) -> None:
    """`connect` lasts as long as the attempt, is an error, and nothing follows it."""
    exchange = world.begin()
    exchange.asked = ms(3)
    exchange.upstream_failed(ms(13), "refused", "connection refused")
    world.settle(exchange, 14)
    assert [
        (whole(s)["name"], whole(s)["times"], s.status.description) for s in world.pipeline.spans[1:]
    ] == [
        ("chat", (3, 14), "connection refused"),
        ("connect", (3, 14), "connection refused"),
    ]


def test_a_client_that_left_while_connecting(world: World) -> None:
    """The attempt is shown too, and is no error."""
    exchange = world.begin()
    exchange.asked = ms(3)
    exchange.client_left(ms(13))
    world.settle(exchange, 13)
    connect = whole(world.pipeline.spans[2])
    assert (connect["name"], connect["times"], connect["status"]) == ("connect", (3, 13), (U, None))


@pytest.mark.parametrize("kind, names", [("reused", ["chat"]), ("waited", ["chat", "connect"])])
def test_connect_only_when_it_took_something(world: World, kind: str, names: list[str]) -> None:
    """A pooled connection that was there has no span; one that was waited for has."""
    exchange = world.begin()
    exchange.asked = ms(3)
    exchange.connect = ConnectTiming(kind, ms(3), ms(4))
    exchange.decide(Outcome.COMPLETED, ms(5))
    world.settle(exchange, 5)
    assert [span.name for span in world.pipeline.spans[1:]] == names
    assert attributes(world, "chat")["sidecar.connection"] == kind


def test_an_answer_before_the_request_ended(world: World) -> None:
    """The wait then began with the head, so that it does not end before it starts."""
    exchange = world.begin()
    world.send(exchange)
    world.answer(exchange, 413, at=9.5)
    world.settle(exchange, 20)
    (wait,) = [span for span in world.pipeline.spans if span.name == "wait"]
    assert whole(wait)["times"] == (9, 9.5)


def test_links_say_why_and_are_capped(world: World) -> None:
    """previous, retry_of, continues, then overlaps of both directions; 32 kept, the rest counted."""
    exchange = world.begin()
    exchange.retry_of, exchange.continues = ref(2), ref(3)
    exchange.retry, exchange.retry_count = True, 2
    world.arrive(exchange, previous=ref(1), overlaps=tuple(ref(n) for n in range(10, 30)), think_time=None)
    exchange.decide(Outcome.COMPLETED, ms(5))
    world.settle(exchange, 5, overlapped_by=[ref(n) for n in range(50, 70)], distance=2, wait=1_500_000_000)
    (span,) = world.pipeline.spans
    kinds = [
        (link.context.trace_id - 0x1000, dict(link.attributes or {})["sidecar.link"]) for link in span.links
    ]
    assert kinds == [
        (1, "previous"),
        (2, "retry_of"),
        (3, "continues"),
        *((n, "overlaps") for n in range(10, 30)),
        *((n, "overlaps") for n in range(50, 59)),
    ]
    said = dict(span.attributes or {})
    assert said["sidecar.links.dropped"] == 11
    assert said["sidecar.request.overlaps"] == said["sidecar.request.overlapped_by"] == 20
    assert (said["sidecar.request.out_of_order.distance"], said["sidecar.request.wait_avoided"]) == (2, 1.5)
    assert (said["sidecar.request.retry"], said["sidecar.request.retry_count"]) == (True, 2)
    assert world.points_of("sidecar.anomalies")["links_cap",] == 1


def test_what_stays_within_the_trace_is_no_link(world: World) -> None:
    """A viewer would draw it as a child of what it ran beside: it is told as text, in every kind, and counts as a link."""
    exchange = world.begin([(b"traceparent", b"00-%032x-%016x-01" % (0x1005, 0xDEF))])
    assert exchange.trace.trace_id == 0x1005
    exchange.retry_of, exchange.continues, exchange.spawned_by = ref(5), ref(2), ref(5)
    others = (0x1005).to_bytes(16, "big") + (0xABC).to_bytes(8, "big"), ref(4)
    world.arrive(exchange, previous=ref(5), overlaps=others)
    exchange.decide(Outcome.COMPLETED, ms(5))
    world.settle(exchange, 5, overlapped_by=[ref(5), *(ref(n) for n in range(10, 40))])
    (span,) = world.pipeline.spans
    said = dict(span.attributes or {})
    assert said["sidecar.links.same_trace"] == [
        *("previous:0000000000002005", "retry_of:0000000000002005", "spawned_by:0000000000002005"),
        *("overlaps:0000000000000abc", "overlaps:0000000000002005"),
    ]
    assert len(span.links) == 32 - 5
    assert {link.context.trace_id for link in span.links[:2]} == {0x1002, 0x1004}
    assert said["sidecar.links.dropped"] == 5


def test_a_linked_caller(make_world: MakeWorld) -> None:
    """With `SIDECAR_INCOMING_TRACE=link` the caller's span is the first link of a root."""
    world = make_world(incoming_trace="link")
    exchange = world.begin([(b"traceparent", b"00-%032x-%016x-01" % (0xABC, 0xDEF))])
    exchange.decide(Outcome.COMPLETED, ms(5))
    world.settle(exchange, 5)
    (span,) = world.pipeline.spans
    assert span.parent is None
    assert whole(span)["links"] == [(0xDEF, {"sidecar.link": "caller"})]


def test_unsampled_is_counted(make_world: MakeWorld) -> None:
    """No span is built; exactly those that would have been are counted."""
    sampled, unsampled = make_world(), make_world(sampler=ALWAYS_OFF)
    sampled.stream()
    exchange = unsampled.stream()
    assert unsampled.pipeline.spans == []
    assert unsampled.pipeline.unsampled == span_count(exchange) == len(sampled.pipeline.spans) == 5
    unsampled.refuse(503)
    assert unsampled.pipeline.unsampled == 6


def test_stalls_are_events(world: World) -> None:
    """Each at the time it was noted."""
    exchange = world.begin()
    world.send(exchange)
    world.answer(exchange)
    exchange.streams = True
    exchange.stream.stalled(ms(100), 10_000_000_000)
    exchange.decide(Outcome.CLIENT_LEFT, ms(12_000), phase=Phase.MID_STREAM)
    world.settle(exchange, 12_000)
    assert whole(world.pipeline.spans[-1])["events"] == [
        ("sidecar.request.stalled", 10_100, {"sidecar.stall.duration": 10.0})
    ]
    assert whole(world.pipeline.spans[-1])["times"] == (100, 12_000)


def test_who_is_talking(world: World) -> None:
    """Agent and kind when told; a supplied conversation is the GenAI conversation; untracked has no sequence."""
    exchange = world.begin()
    world.arrive(exchange, sequence=0)
    exchange.identity = Identity(
        "s1", Source.KNOWN_HEADER, "c1", True, "reviewer", "main-agent", "title", (Anomaly.ID_HASHED,)
    )
    exchange.anomalies += [Anomaly.BODY_NOT_JSON, Anomaly.ID_HASHED]
    exchange.request = RequestFacts(ignored=("model", "stream"))
    exchange.decide(Outcome.COMPLETED, ms(5))
    world.settle(exchange, 5)
    said = attributes(world, "POST /v1/chat/completions")
    assert said["gen_ai.conversation.id"] == said["sidecar.conversation.id"] == "c1"
    assert (said["sidecar.agent"], said["sidecar.agent.parent"]) == ("reviewer", "main-agent")
    assert said["sidecar.request.kind"] == "title"
    assert said["sidecar.anomalies"] == ("body_not_json", "id_hashed")
    assert said["sidecar.request.ignored"] == ("model", "stream")
    assert "sidecar.request.sequence" not in said


def test_http_facts(world: World) -> None:
    """Client, agent, an unknown method, a redacted query; a route without operation names its CLIENT span by HTTP."""
    exchange = world.begin(
        [(b"Host", b"sidecar.local"), (b"User-Agent", b"curl/8" + b"x" * 1000)],
        Route("/{provider path}"),
        method="BREW",
        target=b"/v9/pot?key=AIza-secret&alt=sse&flag",
        version="HTTP/1.0",
        client_address="192.0.2.1",
        client_port=5555,
    )
    world.send(exchange)
    exchange.resends = 1
    world.answer(exchange, 200)
    exchange.upstream_headers = Headers(
        [
            (b"X-Request-Id", b"req_1"),
            (b"openai-processing-ms", b"250"),
            (b"x-envoy-upstream-service-time", b"1"),
        ]
    )
    exchange.response.error = "overloaded"
    exchange.decide(Outcome.COMPLETED, ms(150))
    world.settle(exchange, 150)
    server, client = whole(world.pipeline.spans[0]), whole(world.pipeline.spans[1])
    assert server["name"] == client["name"] == "HTTP /{provider path}"
    said = server["attributes"]
    assert (said["http.request.method"], said["http.request.method_original"]) == ("_OTHER", "BREW")
    assert (said["url.path"], said["url.query"]) == ("/v9/pot", "key=REDACTED&alt=sse&REDACTED")
    assert (said["client.address"], said["client.port"]) == ("192.0.2.1", 5555)
    assert (said["server.address"], "server.port" in said) == ("sidecar.local", False)
    assert len(said["user_agent.original"]) == 256
    assert said["network.protocol.version"] == "1.0"
    told = client["attributes"]
    assert (told["sidecar.upstream.request_id"], told["sidecar.upstream.processing_time"]) == ("req_1", 0.25)
    assert (told["http.request.resend_count"], told["sidecar.upstream.error"]) == (1, "overloaded")
    assert "gen_ai.operation.name" not in told


def test_what_was_never_parsed_is_absent(world: World) -> None:
    """A head that is not HTTP has no method, version, query, host or agent: nothing is invented for it."""
    exchange = world.begin([(b"x", b"y")], Route("/{provider path}"), method="", target=b"", version="")
    exchange.status = 400
    exchange.decide(Outcome.REFUSED, ms(1), error_type="malformed", phase=Phase.HEAD)
    world.settle(exchange, 1)
    assert attributes(world, "HTTP /{provider path}") == {
        "http.request.method": "_OTHER",
        "url.scheme": "http",
        "url.path": "",
        "http.route": "/{provider path}",
        "http.response.status_code": 400,
        "http.request.body.size": 0,
        "http.response.body.size": 0,
        "sidecar.outcome": "refused",
        "sidecar.outcome.phase": "head",
        "sidecar.streaming": False,
        "sidecar.upstream": "default",
        "sidecar.request.body.state": "none",
    }


def test_request_attributes_pass_and_a_span_is_named_by_its_own_call(make_world: MakeWorld) -> None:
    """What a body asks for stands on the CLIENT span; the cap on models is the metrics' alone."""
    world = make_world(model_limit=1, semconv="both")
    for model in ("m1", "m2"):
        exchange = world.begin()
        exchange.request = RequestFacts(
            model,
            attributes={
                "gen_ai.request.temperature": 0.5,
                "gen_ai.output.type": "x" * 999,
                "gen_ai.request.stop_sequences": ["y" * 999] * 99,
            },
        )
        exchange.asked = ms(1)
        exchange.response.tokens["cache_write"] = 7
        exchange.decide(Outcome.COMPLETED, ms(2))
        world.settle(exchange, 2)
    said = attributes(world, "chat m2")
    assert said["gen_ai.request.model"] == "m2"
    assert said["gen_ai.request.temperature"] == 0.5
    assert len(said["gen_ai.output.type"]) == 256
    assert said["gen_ai.request.stop_sequences"] == ("y" * 256,) * 32
    assert (
        said["gen_ai.usage.cache_creation.input_tokens"] == said["gen_ai.usage.cache_write.input_tokens"] == 7
    )
    assert attributes(world, "chat m1")["gen_ai.request.model"] == "m1"


@pytest.mark.parametrize(
    "semconv,asked,reasons",
    [
        ("shipped", {"gen_ai.request.top_k": 40.0}, None),
        (
            "latest",
            {
                "gen_ai.request.top_k": 40,
                "gen_ai.request.previous_response.id": "r",
                "gen_ai.request.reasoning.level": "low",
            },
            ("error",),
        ),
        (
            "both",
            {
                "gen_ai.request.top_k": 40.0,
                "gen_ai.request.previous_response.id": "r",
                "gen_ai.request.reasoning.level": "low",
            },
            None,
        ),
    ],
)
def test_each_choice_of_conventions(
    make_world: MakeWorld, semconv: str, asked: dict[str, object], reasons: tuple[str, ...] | None
) -> None:
    """What only one of them has, and what both have in different forms, on a call that broke off."""
    world = make_world(semconv=semconv)
    exchange = world.begin()
    given = {"gen_ai.request.previous_response.id": "r", "gen_ai.request.reasoning.level": "low"}
    exchange.request = RequestFacts("m", attributes={"gen_ai.request.top_k": 40.0, **given})
    world.send(exchange)
    world.answer(exchange)
    exchange.decide(Outcome.UPSTREAM_FAILED, ms(200), error_type="cut_short", phase=Phase.MID_STREAM)
    world.settle(exchange, 200)
    said = attributes(world, "chat m")
    names = {"gen_ai.request.top_k", *given}
    found = {name: (value, type(value)) for name, value in said.items() if name in names}
    assert found == {name: (value, type(value)) for name, value in asked.items()}
    assert said.get("gen_ai.response.finish_reasons") == reasons


def test_limits_are_kept_and_counted(make_world: MakeWorld) -> None:
    """Counts and lengths of everything; what is dropped stands where the exporters look."""
    limits = SpanLimits(
        max_span_attributes=4,
        max_events=1,
        max_links=2,
        max_event_attributes=0,
        max_link_attributes=0,
        max_span_attribute_length=2,
    )
    world = make_world(limits=limits)
    exchange = world.begin()
    exchange.request = RequestFacts(ignored=("model", "stream"))
    world.arrive(exchange, previous=ref(1), overlaps=(ref(2), ref(3)))
    world.send(exchange)
    world.answer(exchange)
    exchange.streams = True
    exchange.stream.stalled(ms(100), 1)
    exchange.stream.stalled(ms(200), 1)
    exchange.decide(Outcome.COMPLETED, ms(300))
    world.settle(exchange, 300)
    server, stream = world.pipeline.spans[0], world.pipeline.spans[-1]
    assert dict(server.attributes or {}) == {
        "session.id": "s1",
        "sidecar.session.source": "ow",
        "sidecar.conversation.id": "ma",
        "gen_ai.conversation.id": "s1",
    }
    assert server.dropped_attributes == 24
    assert ([link.context.span_id for link in server.links], server.dropped_links) == ([0x2001, 0x2002], 1)
    assert server.links[0].dropped_attributes == 1
    assert (len(stream.events), stream.dropped_events, stream.events[0].dropped_attributes) == (1, 1, 1)


def test_nothing_secret_is_told(world: World) -> None:
    """Credentials of headers, query and target are in no attribute of any span."""
    exchange = world.begin(
        [(b"Authorization", b"Bearer sk-SECRET"), (b"x-api-key", b"SECRET"), (b"Cookie", b"SECRET")],
        CHAT,
        target=b"http://user:SECRET@host/v1/x?key=SECRET&SECRET&a=SECRET&" + b"SECRET" * 10 + b"=1",
    )
    world.send(exchange)
    world.answer(exchange, 401)
    world.settle(exchange, 150)
    assert "SECRET" not in repr([whole(span) for span in world.pipeline.spans])
    assert "SECRET" not in world.stderr.getvalue().decode()
