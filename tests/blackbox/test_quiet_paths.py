"""Probes are counted and otherwise left out of telemetry: what is one, what is not, and those that fail."""

from collections.abc import Mapping
from typing import Any

import pytest

from sidecar.testing import (
    Gate,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    answer,
    chat_request,
    exchange,
    request_bytes,
)

QUIET = (
    *(
        "GET /health",
        "HEAD /health",
        "GET /healthz",
        "GET /livez",
        "GET /readyz",
        "GET /ping",
        "GET /ping?deep=1",
    ),
    *("HEAD /", "HEAD /?x", "HEAD /api/hello", "GET /other/health", "GET /liveness", "GET /readiness"),
)
TOLD = (
    *(
        "POST /health",
        "PUT /ping",
        "OPTIONS /health",
        "GET /",
        "GET /api/hello",
        "GET /health/",
        "GET /healthy",
    ),
    *("GET /v1/health", "GET /HEALTH", "GET //health", "GET /health%20", "HEAD /v1/models"),
)


@pytest.fixture(scope="module")
def sidecar_settings(module_upstream: ScriptedUpstream) -> dict[str, str]:
    """A named upstream beside the default one, and few requests at a time."""
    return {"UPSTREAMS": f"other={module_upstream.url},dead=http://127.0.0.1:1", "MAX_REQUESTS": "1"}


def counted(sidecar: RunningSidecar) -> tuple[int, int]:
    """How many have settled, and how many of them quietly; law: started = settled + in flight."""
    requests = sidecar.stats()["requests"]
    assert requests["started"] == requests["settled"] + requests["in_flight"]
    assert requests["settled"] == sum(requests["outcomes"].values())
    return requests["settled"], requests["quiet"]


def figures(sidecar: RunningSidecar, sink: OtlpSink, measure: Any, *lines: str) -> dict[str, float]:
    """What these requests changed in the metrics, once they and a turn behind them have been told."""
    before = counted(sidecar)[0]
    with measure() as measured:
        for line in lines:
            exchange(sidecar.port, request_bytes(*line.split(" ")))
        exchange(sidecar.port, chat_request(headers=(f"X-Sidecar-Session-Id: {len(sink.spans)}".encode(),)))
        sidecar.wait_until(lambda: counted(sidecar)[0] == before + len(lines) + 1)
    return {name: value for (name, _), value in measured.figures().items()}


def asked(attributes: Mapping[str, object]) -> str:
    """The method and the path of a span, a line or a record."""
    return f"{attributes['http.request.method']!s} {attributes['url.path']!s}"


def told(sidecar: RunningSidecar, sink: OtlpSink) -> set[str]:
    """The requests that have spans, which are those that have a line and a log record, and no others."""
    spans = {asked(one.attributes) for one in sink.find_spans(kind="SERVER")}
    for several in (sidecar.logs, [line.attributes for line in sink.logs]):
        assert spans == {asked(one) for one in several if "url.path" in one}
    return spans


def test_probes(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, measure: Any) -> None:
    """They pass and are counted, and change nothing else that is told."""
    upstream.answer_always(answer(status=404))
    usual = figures(sidecar, sink, measure)
    settled, quiet = counted(sidecar)
    with_probes = figures(sidecar, sink, measure, *QUIET)
    assert with_probes == usual
    assert counted(sidecar) == (settled + len(QUIET) + 1, quiet + len(QUIET))
    assert len(upstream.requests) == len(QUIET) + 2
    sink.wait_for(lambda: len(sink.find_spans(kind="SERVER")) == 2)
    assert told(sidecar, sink) == {"POST /v1/chat/completions"}
    assert not [line for line in sidecar.find_logs("sidecar.request.generated") if line["session_id"] is None]


@pytest.mark.parametrize("line", TOLD)
def test_what_is_not_a_probe(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, line: str
) -> None:
    """Another method or another path, however near, is told as ever."""
    quiet = counted(sidecar)[1]
    exchange(
        sidecar.port,
        request_bytes(
            *line.split(" "), headers=(b"X-Sidecar-Session-Id: " + line.replace(" ", "").encode(),)
        ),
    )
    sink.span(kind="SERVER", attributes={"session.id": line.replace(" ", "")})
    assert counted(sidecar)[1] == quiet


@pytest.mark.parametrize(
    "path, status, outcome",
    [
        ("/health", 500, "upstream_rejected"),
        ("/health", 503, "upstream_rejected"),
        ("/dead/health", 502, "upstream_failed"),
    ],
)
def test_a_probe_that_fails_is_told(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, path: str, status: int, outcome: str
) -> None:
    """A probe is there to find that."""
    quiet = counted(sidecar)[1]
    upstream.answer(answer(status=status))
    session = f"failed-{path}-{status}"
    said = exchange(
        sidecar.port, request_bytes("GET", path, headers=(f"X-Sidecar-Session-Id: {session}".encode(),))
    )
    assert said.status == status
    span = sink.span(kind="SERVER", attributes={"session.id": session})
    assert span.attributes["sidecar.outcome"] == outcome
    assert counted(sidecar)[1] == quiet


def test_a_probe_under_way_is_in_flight(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """It is one of those in flight, and one whose client leaves is settled as any other."""
    settled, quiet = counted(sidecar)
    gate = Gate()
    upstream.answer((Wait(gate), *answer()))
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/health"))
        upstream.request()
        assert sidecar.stats()["requests"]["in_flight"] == 1
        assert exchange(sidecar.port, request_bytes("GET", "/health")).status == 503
    sidecar.wait_until(lambda: counted(sidecar) == (settled + 2, quiet + 1))
    gate.open()
    refused = sink.span(kind="SERVER", attributes={"sidecar.outcome": "refused"})
    assert refused.attributes["url.path"] == "/health"


@pytest.mark.parametrize(
    "setting, lines",
    [
        ("none", {"GET /health": False, "HEAD /": False}),
        ("/up", {"GET /up": True, "GET /health": False}),
        ("/internal/*", {"GET /internal/x/y": True, "GET /internal": False}),
        ("HEAD /v1/models", {"HEAD /v1/models": True, "GET /v1/models": False}),
        ("GET /a, HEAD /b*", {"HEAD /bc": True, "HEAD /a": False}),
    ],
)
def test_the_setting(start_sidecar: Any, setting: str, lines: Mapping[str, bool]) -> None:
    """Paths of the operator's own take the place of the usual ones."""
    sidecar = start_sidecar(settings={"QUIET_PATHS": setting})
    for line, is_quiet in lines.items():
        settled, quiet = counted(sidecar)
        exchange(sidecar.port, request_bytes(*line.split(" ")))
        sidecar.wait_until(lambda: counted(sidecar)[0] > settled)  # noqa: B023 - called at once
        assert counted(sidecar) == (settled + 1, quiet + is_quiet), line
