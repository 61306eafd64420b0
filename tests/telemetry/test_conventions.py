"""What a running sidecar exports, against the conventions' registries: every name, type, unit, bucket and requirement.

One scenario for each choice of conventions: every API that is read, whole and streamed, with every ending; the check
itself is `registry.py`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.facts import Outcome, Route
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metrics import Metric, MetricKind
from sidecar.testing import (
    Gate,
    LogLine,
    OtlpSink,
    Point,
    RawClient,
    Reset,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Wait,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
)
from tests.apis.golden.openai_chat import CHAT
from tests.matrix.cells import CELLS
from tests.matrix.matrix_apis import EXAMPLES
from tests.matrix.play import play
from tests.telemetry.registry import (
    LATEST,
    OWN_SPANS,
    REGISTRIES,
    REPLAY,
    SHIPPED,
    Conventions,
    Instrument,
)
from tests.telemetry.world import UPSTREAM, World, ms

TIMERS = ("CLIENT_BODY", "CONNECT", "FIRST_BYTE", "IDLE")
PLAYED = tuple(
    cell
    for cell in CELLS
    if cell.api in EXAMPLES and cell.coding == "identity" and (not cell.ending.timer or cell.api is CHAT)
)
"""Every API with every ending; the time-outs of one API, for they take their time."""
OUTCOMES = {
    *("completed", "client_left", "upstream_rejected", "upstream_failed", "error_in_stream"),
    *("timed_out", "refused", "shutdown"),
}
"""All but `internal_error`, which nothing from outside brings about."""
ASKED: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.2,
    "seed": 7,
    "n": 2,
    "stop": ["a", "b"],
    "max_completion_tokens": 9,
    "service_tier": "flex",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
}
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 9},
}
SERVED = {"openai.response.service_tier": "flex", "openai.response.system_fingerprint": "fp_1"}
KINDS = {
    MetricKind.COUNTER: "counter",
    MetricKind.UP_DOWN_COUNTER: "updowncounter",
    MetricKind.GAUGE: "gauge",
    MetricKind.HISTOGRAM: "histogram",
}


def _play(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Every cell, and what is in none: all that a request can ask, answers that are fetched, routes that are not read."""
    for cell in PLAYED:
        prefix = "/blackhole" if cell.ending.timer == "CONNECT" else ""
        play(cell, sidecar.port, upstream, cell.id, path_prefix=prefix, own_timers=True)
    upstream.clear()
    upstream.answer(json_answer({**chat_completion("Hi"), "usage": USAGE}))
    exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: asked",), **ASKED))
    asked = {"model": "e", "input": "Hi", "dimensions": 3, "encoding_format": "float"}
    upstream.answer(json_answer({"data": [{"embedding": [1]}], "model": "e", "usage": {"prompt_tokens": 5}}))
    exchange(sidecar.port, request_bytes("POST", "/v1/embeddings", headers=JSON, body=_body(asked)))
    chained = {"model": "m", "input": "Hi", "previous_response_id": "r", "reasoning": {"effort": "high"}}
    upstream.answer(json_answer({"id": "resp_9", "model": "m", "status": "queued", "output": []}))
    exchange(sidecar.port, request_bytes("POST", "/v1/responses", headers=JSON, body=_body(chained)))
    fetched = {"id": "resp_9", "model": "m", "status": "completed", "output": [], "usage": USAGE}
    upstream.answer(json_answer(fetched))
    exchange(sidecar.port, request_bytes("GET", "/v1/responses/resp_9?stream=false&key=x"))
    for method, path in (
        ("GET", "/v1/models"),
        ("PROPFIND", "/pot"),
        ("HEAD", "/"),
        ("GET", "/blackhole/v1/models"),
    ):
        upstream.answer(json_answer({}))
        exchange(sidecar.port, request_bytes(method, path, headers=(b"User-Agent: test/1",)))
    upstream.clear()
    upstream.answer(json_answer({}))
    exchange(sidecar.port, request_bytes("GET", "/v1/models"))
    upstream.answer(Reset())
    upstream.answer(json_answer({}))
    exchange(sidecar.port, request_bytes("GET", "/v1/models"))
    exchange(sidecar.port, b"POST /v1/messages HTTP/1.1\r\nContent-Length: x\r\n\r\n")
    upstream.clear()
    # At the end there may be no time for it.
    sink.wait_for(lambda: any(span.name == "replay chat gpt-4o" for span in sink.spans))
    upstream.answer((Wait(Gate()),))
    with RawClient(sidecar.port) as client:
        client.send(chat_request(stream=True))
        upstream.request()
        sidecar.stop()


JSON = (b"Content-Type: application/json",)


def _body(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module", params=REGISTRIES)
def exported(
    request: pytest.FixtureRequest, module_upstream: ScriptedUpstream, blackhole: int
) -> Iterator[tuple[str, OtlpSink]]:
    """The choice of conventions, and all that a sidecar exported under it, from its start to its end."""
    settings = {f"{name}_TIMEOUT": "3s" for name in TIMERS}
    settings |= {"UPSTREAMS": f"blackhole=http://127.0.0.1:{blackhole}", "SEMCONV": request.param}
    settings |= {"STALL_AFTER": "200ms", "SESSION_IDLE": "3s", "SHUTDOWN_TIMEOUT": "5s"}
    seldom = {"OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    with OtlpSink() as sink:
        with RunningSidecar(
            upstream=module_upstream.url, sink=sink, settings=settings, environ=seldom
        ) as sidecar:
            _play(sidecar, module_upstream, sink)
        yield request.param, sink


def test_everything_exported_is_as_the_registry_has_it(exported: tuple[str, OtlpSink]) -> None:
    """Spans with their events and links, points, log records, the resource of each."""
    semconv, sink = exported
    check = Conventions(semconv)
    faults = {fault for span in sink.spans for fault in check.span(span)}
    faults |= {fault for point in sink.points for fault in check.point(point)}
    faults |= {fault for log in sink.logs for fault in check.log(log)}
    resources = [one.resource for one in (sink.spans[0], sink.points[0], sink.logs[0])]
    faults |= {fault for resource in resources for fault in check.attributes(resource)}
    assert not faults, "\n".join(sorted(faults))


def test_the_scenario_is_whole(exported: tuple[str, OtlpSink]) -> None:
    """Every outcome, every kind of span, every attribute of the conventions that is exported at all, every such metric."""
    semconv, sink = exported
    assert {span.attributes.get(n.OUTCOME) for span in sink.spans if span.kind == "SERVER"} == OUTCOMES
    internal = {span.name for span in sink.spans if span.kind == "INTERNAL"}
    called = {span.name for span in sink.spans if span.kind in ("SERVER", "CLIENT")}
    assert {*OWN_SPANS, "replay session", "replay conversation", "replay chat gpt-4o"} <= internal
    assert {name.removeprefix(REPLAY) for name in internal} <= OWN_SPANS | called
    items: list[Span | Point | LogLine] = [*sink.spans, *sink.points, *sink.logs]
    seen = {name for one in items for name in one.attributes}
    absent = {name for name in n.ALL_ATTRIBUTES if not name.startswith("sidecar.")} - seen
    assert absent == UNSEEN[semconv]
    defined = {
        metric.name for metric in metrics.metrics_of(semconv) if not metric.name.startswith("sidecar.")
    }
    assert defined <= {point.metric for point in sink.points}


UNSEEN = {
    "shipped": {n.CACHE_WRITE_TOKENS, n.TOKEN_MODALITY, n.PREVIOUS_RESPONSE, n.REASONING_LEVEL},
    "latest": {n.CACHE_CREATION_TOKENS, n.TOKEN_TYPE},
    "both": set[str](),
}
"""By the choice: the names that are the other's."""


def test_failed_calls_are_told_as_events(exported: tuple[str, OtlpSink]) -> None:
    """One for each CLIENT span of an operation that is an error, in its context; none besides."""
    _, sink = exported
    failed = {
        (span.trace_id, span.span_id): (span.end, span.attributes[n.ERROR_TYPE], span.status_message or None)
        for span in sink.spans
        if span.kind == "CLIENT" and span.status == "ERROR" and n.OPERATION in span.attributes
    }
    told = [log for log in sink.logs if log.event_name == n.CALL_FAILED]
    assert len(told) == len(failed) > 40
    assert {
        (log.trace_id, log.span_id): (
            log.time,
            log.attributes[n.EXCEPTION_TYPE],
            log.attributes.get(n.EXCEPTION_MESSAGE),
        )
        for log in told
    } == failed


@pytest.mark.parametrize("semconv", REGISTRIES)
def test_every_metric_is_as_the_registry_has_it(semconv: str) -> None:
    """Those that are defined, recorded or not: instrument, unit, whole numbers or not, attributes, buckets."""
    check = Conventions(semconv)
    faults: list[str] = []
    for metric in metrics.metrics_of(semconv):
        faults += check.instrument(_instrument(metric))
        faults += check.point_attributes(metric.name, metric.attributes)
        for registry in REGISTRIES[semconv]:
            if known := registry["metrics"].get(metric.name):
                assert metric.integer == (known["value"] == "int"), metric.name
    assert faults == []


def _instrument(metric: Metric) -> Instrument:
    return Instrument(metric.name, KINDS[metric.kind], metric.unit, metric.bounds)


def test_every_name_is_ours_or_a_registry_s() -> None:
    """Ours have a namespace that no registry has; all others stand in one, none in neither."""
    for registry in (SHIPPED, LATEST):
        assert "sidecar" not in registry["roots"]
        listed = {*registry["attributes"], *registry["metrics"], *registry["events"]}
        assert not listed & {*registry["deprecated"]}
    for kind, used in (
        ("attributes", n.ALL_ATTRIBUTES),
        ("events", n.ALL_EVENTS),
        ("metrics", [metric.name for metric in metrics.ALL_METRICS]),
    ):
        known = {*SHIPPED[kind], *LATEST[kind]}
        assert [name for name in used if not name.startswith("sidecar.") and name not in known] == []


def test_what_is_not_stable_is_said() -> None:
    """The page names the namespaces of the conventions whose names that we use may still change."""
    used = {*n.ALL_ATTRIBUTES, *n.ALL_EVENTS, *(metric.name for metric in metrics.ALL_METRICS)}
    unstable = {
        name
        for registry in (SHIPPED, LATEST)
        for kind in ("attributes", "metrics", "events")
        for name, known in registry[kind].items()
        if name in used and known["stability"] != "stable"
    }
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    said = {*page.split("may still change:")[1].split("\n-")[0].split("`")[1::2]}
    assert said == {
        name if name.startswith(("http.", "url.")) else f"{name.split('.')[0]}.*" for name in unstable
    }


@pytest.mark.parametrize(
    "provider,api,told",
    [
        ("openai", "openai.chat", {"openai.api.type": "chat_completions", **SERVED}),
        ("openai", "openai.responses", {"openai.api.type": "responses", **SERVED}),
        ("openai", "openai.completions", SERVED),
        ("azure.ai.openai", "openai.chat", {}),
        ("groq", "openai.chat", {}),
        ("anthropic", "anthropic.messages", {}),
    ],
)
def test_openai_s_own_names_are_openai_s_alone(
    world: World, provider: str, api: str, told: dict[str, str]
) -> None:
    """Others that speak like it have their own provider's name, and none of its attributes."""
    call = world.begin(route=Route("/x", api, "chat", turn=True, provider="openai"))
    call.upstream = replace(UPSTREAM, provider=provider)
    call.response.service_tier, call.response.system_fingerprint = "flex", "fp_1"
    world.send(call)
    world.answer(call)
    call.decide(Outcome.COMPLETED, ms(100))
    world.settle(call, 103)
    said = world.pipeline.spans[1].attributes or {}
    assert {name: value for name, value in said.items() if name.startswith("openai.")} == told


@pytest.mark.parametrize(
    "target,upstream,url",
    [
        (b"/v1/models", {}, "https://api.openai.com/v1/models"),
        (b"/v1/models?limit=2&key=secret", {}, "https://api.openai.com/v1/models?limit=2&key=REDACTED"),
        (b"/models", {"base_path": b"/v1"}, "https://api.openai.com/v1/models"),
        (b"/two/v1/models", {"name": "two", "port": 8443}, "https://api.openai.com:8443/v1/models"),
        (b"/default/v1", {}, "https://api.openai.com/default/v1"),
        (b"/v1", {"host": "::1", "port": 80, "scheme": "http"}, "http://[::1]/v1"),
        (b"/v1", {"port": 80}, "https://api.openai.com:80/v1"),
        (b"/v1/sk-0123456789abcdef0123456789abcdef", {}, "https://api.openai.com/v1/REDACTED"),
        (b"/v1", {"base_path": b"/sk-0123456789abcdef0123456789"}, "https://api.openai.com/REDACTED/v1"),
        (b"http://user:secret@h/v1", {}, "https://api.openai.com/v1"),
        (b"", {}, "https://api.openai.com/"),
    ],
)
def test_a_call_of_no_model_has_its_url(
    world: World, target: bytes, upstream: dict[str, Any], url: str
) -> None:
    """As the upstream was asked for it, redacted like the SERVER span's path and query."""
    call = world.begin(route=Route("/{provider path}"), method="GET", target=target)
    call.upstream = replace(UPSTREAM, **upstream)
    world.send(call)
    world.answer(call)
    call.decide(Outcome.COMPLETED, ms(100))
    world.settle(call, 103)
    said = world.pipeline.spans[1].attributes or {}
    assert (said["url.full"], said["url.template"]) == (url, "/{provider path}")


SPAN = Span(
    "chat m",
    "CLIENT",
    "1",
    "2",
    "",
    1,
    2,
    {
        n.OPERATION: "chat",
        n.PROVIDER: "openai",
        n.REQUEST_MODEL: "m",
        n.SERVER_ADDRESS: "h",
        n.SERVER_PORT: 1,
    },
)
POINT = Point(
    "gen_ai.client.operation.duration",
    "s",
    "histogram",
    {n.OPERATION: "chat", n.PROVIDER: "openai"},
    1,
    2,
    bounds=metrics.DURATION_BOUNDS,
)
LOG = LogLine("session.start", "session.start", "INFO", {n.SESSION_ID: "s"}, "", "", 1, {})


def _saying(one: Any, semconv: str = "shipped", **more: Any) -> list[str]:
    """The faults of an item with other attributes: names have `__` for dots, None takes one away."""
    changed = one.attributes | {name.replace("__", "."): value for name, value in more.items()}
    return _faults(
        replace(one, attributes={key: value for key, value in changed.items() if value is not None}), semconv
    )


def _faults(one: Any, semconv: str = "shipped") -> list[str]:
    check = Conventions(semconv)
    how: dict[type, Callable[[Any], Iterator[str]]] = {
        Span: check.span,
        Point: check.point,
        LogLine: check.log,
    }
    return list(how[type(one)](one))


@pytest.mark.parametrize(
    "planted,told",
    [
        (_saying(SPAN), []),
        (_saying(SPAN, server__port="443"), ["server.port: '443' is not int"]),
        (_saying(SPAN, gen_ai__request__seed=True), ["gen_ai.request.seed: True is not int"]),
        (_saying(SPAN, gen_ai__request__top_k=4), ["gen_ai.request.top_k: 4 is not double"]),
        (_saying(SPAN, "latest", gen_ai__request__top_k=4.0), ["gen_ai.request.top_k: 4.0 is not int"]),
        (
            _saying(SPAN, gen_ai__request__stop_sequences=[1]),
            ["gen_ai.request.stop_sequences: [1] is not string[]"],
        ),
        (
            _saying(SPAN, gen_ai__output__type="x"),
            ["gen_ai.output.type: 'x' is not ['image', 'json', 'speech', 'text']"],
        ),
        (_saying(SPAN, gen_ai__input__messages="[]"), ["gen_ai.input.messages: '[]' is not any"]),
        (
            _saying(SPAN, gen_ai__usage__total_tokens=1),
            ["gen_ai.usage.total_tokens: not in the registry, among attributes"],
        ),
        (_saying(SPAN, gen_ai__system="openai"), ["gen_ai.system: deprecated"]),
        (_saying(SPAN, http__status_code=200), ["http.status_code: deprecated"]),
        (
            _saying(SPAN, "latest", gen_ai__usage__cache_creation__input_tokens=1),
            ["gen_ai.usage.cache_creation.input_tokens: deprecated"],
        ),
        (_saying(SPAN, "both", gen_ai__usage__cache_creation__input_tokens=1), []),
        (
            _saying(SPAN, gen_ai__request__reasoning__level="low"),
            ["gen_ai.request.reasoning.level: not in the registry, among attributes"],
        ),
        (_saying(SPAN, sidecar__no_such=1), ["sidecar.no_such: not in the table"]),
        (_saying(SPAN, gen_ai__provider__name=None), ["gen_ai.inference: gen_ai.provider.name is required"]),
        (
            _saying(replace(SPAN, name="chat"), gen_ai__request__model=None),
            ["openai.inference: gen_ai.request.model is required"],
        ),
        (_saying(SPAN, server__port=None), ["chat m: server.address without its port"]),
        (_saying(SPAN, gen_ai__request__stream=False), ["chat m: told what is to be absent"]),
        (_saying(SPAN, error__type="x"), ["chat m: status UNSET, error.type 'x'"]),
        (_faults(replace(SPAN, status="ERROR")), ["chat m: status ERROR, error.type None"]),
        (_faults(replace(SPAN, name="m")), ["gen_ai.inference: CLIENT m", "openai.inference: CLIENT m"]),
        (_faults(replace(SPAN, kind="INTERNAL")), ["chat m: not in the table of spans"]),
        (_faults(POINT), []),
        (_faults(replace(POINT, unit="ms")), ["gen_ai.client.operation.duration: histogram in ms"]),
        (
            _faults(replace(POINT, kind="sum", monotonic=True)),
            ["gen_ai.client.operation.duration: counter in s"],
        ),
        (_faults(POINT, "latest"), ["gen_ai.client.operation.duration: deprecated"]),
        (
            _faults(replace(POINT, bounds=metrics.DURATION_BOUNDS[:15])),
            ["gen_ai.client.operation.duration: buckets without [10.24, 20.48, 40.96, 81.92]"],
        ),
        (
            _saying(POINT, gen_ai__operation__name=None),
            ["gen_ai.client.operation.duration: gen_ai.operation.name is required"],
        ),
        (
            _saying(POINT, session__id="s"),
            ["gen_ai.client.operation.duration: session.id is none of its attributes"],
        ),
        (_faults(replace(POINT, metric="sidecar.no_such")), ["sidecar.no_such: not in the table"]),
        (_faults(LOG), []),
        (_saying(LOG, session__id=None), ["session.start: session.id is required"]),
        (
            _faults(replace(LOG, event_name="gen_ai.choice")),
            ["gen_ai.choice: not in the table of events", "gen_ai.choice: deprecated"],
        ),
        (
            _faults(replace(LOG, event_name=n.CALL_FAILED)),
            [f"{n.CALL_FAILED}: severity INFO", f"{n.CALL_FAILED}: neither a type nor a message"],
        ),
    ],
    ids=str,
)
def test_the_check_can_fail(planted: list[str], told: list[str]) -> None:
    """One thing wrong, and that one is told."""
    assert planted == told
