"""What an operator finds in the real stores after the demo's conversations: by id, by span, by link, by number."""

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grafana import innocence, sessions, streams
from grafana import traffic as traffic_board
from grafana.panels import Panel
from sidecar.testing import RunningSidecar
from tests.stack.app import Counted, as_readme_has_it, play_rounds
from tests.stack.backends import Stack, Tempo, Trace
from tests.stack.conftest import SERVICE
from tests.stack.programs import eventually

pytestmark = pytest.mark.usefixtures("traffic")

ROOT = Path(__file__).parents[2]

Traffic = tuple[Counted, RunningSidecar]


def spans(trace: Trace) -> list[str]:
    """The names of a trace's spans."""
    return sorted(span["operationName"] for span in trace["spans"])


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def requests(stack: Stack, session: str, count: int) -> list[Trace]:
    """The traces of a session's requests, once there are that many."""
    found = stack.jaeger.requests(SERVICE, session__id=session)
    return found if len(found) >= count else []


def test_a_session_is_found_by_its_id(stack: Stack, traffic: Traffic) -> None:
    """Every request the client sent in a session is a trace with that session's id, its life as spans."""
    counted, _ = traffic
    for session, sent in counted.sessions.items():
        found = eventually(partial(requests, stack, session, sent))
        assert len(found) == sent
        for trace in found:
            assert {"wait"} <= {*spans(trace)}
    streamed = stack.jaeger.traces(SERVICE, "stream", **{"session.id": "support-chat-a"})
    assert len(streamed) == counted.sessions["support-chat-a"]
    assert "chat demo-large" in spans(streamed[0])


def test_ended_sessions_are_listed_by_their_span(stack: Stack, traffic: Traffic) -> None:
    """Searching for operation `session` lists every session that has ended, each a trace of its own with its sums."""
    counted, _ = traffic

    def ended() -> list[Trace]:
        found = stack.jaeger.traces(SERVICE, "session")
        return found if len(found) >= len(counted.sessions) else []

    found = {tags(trace["spans"][0])["session.id"]: tags(trace["spans"][0]) for trace in eventually(ended)}
    assert {*found} == {*counted.sessions}
    for session, sent in counted.sessions.items():
        assert found[session]["sidecar.total.requests"] == sent
    assert found["trip-planner-a"]["sidecar.total.overlaps"] == 2
    assert found["trip-planner-a"]["sidecar.total.out_of_order"] == 2
    assert found["trip-planner-a"]["sidecar.total.most_at_once"] == 3


def test_links_lead_to_the_requests_that_overlapped(stack: Stack) -> None:
    """From the first of three turns at once to both others, which are requests of the same session."""
    planned = partial(requests, stack, "trip-planner-b", 4)
    by_sequence = {
        tags(span)["sidecar.request.sequence"]: trace["traceID"]
        for trace in eventually(planned)
        for span in trace["spans"]
        if tags(span).get("span.kind") == "server"
    }
    overlapping = {trace for kind, trace in stack.jaeger.links(by_sequence[1]) if kind == "overlaps"}
    assert overlapping == {by_sequence[2], by_sequence[3]}
    assert ("previous", by_sequence[1]) in stack.jaeger.links(by_sequence[2])


def test_metrics_equal_what_the_clients_counted(stack: Stack, traffic: Traffic) -> None:
    """Requests by outcome, overlaps, inversions: in Prometheus, on the admin port, and as the app's own client saw it."""
    counted, sidecar = traffic
    prometheus, job = stack.prometheus, f'{{job="{SERVICE}"}}'
    expected = {"completed": counted.sent - 4, "upstream_rejected": 2, "client_left": 2}
    assert counted.statuses == {200: counted.sent - 2, 429: 2}

    def outcomes() -> bool:
        found = prometheus.by("sidecar_outcome", f"sum by (sidecar_outcome) (sidecar_requests_total{job})")
        return found == expected

    eventually(outcomes)
    stats = sidecar.stats()["requests"]
    assert stats["outcomes"] == expected
    assert (stats["started"], stats["settled"], stats["in_flight"]) == (counted.sent, counted.sent, 0)
    for expression, value in (
        (f"sum(sidecar_conversation_overlaps_total{job})", 4),
        (f"sum(sidecar_responses_out_of_order_total{job})", 4),
        (f"sum(sidecar_conversation_concurrency_count{job})", counted.sent - 4),  # but for four embeddings
        (
            f'sum(sidecar_conversation_concurrency_bucket{{job="{SERVICE}",le=~"2|2.0"}})',
            counted.sent - 4 - 2,
        ),
        (f"sum(sidecar_sessions_total{job})", len(counted.sessions)),
        (f"sum(sidecar_retries_total{job})", 2),
    ):
        assert prometheus.number(expression) == value, expression


def test_an_exemplar_leads_to_its_trace(stack: Stack) -> None:
    """From a latency histogram in Prometheus to the trace in Jaeger."""
    now = time.time()
    series = f'http_server_request_duration_seconds_bucket{{job="{SERVICE}"}}'
    exemplars = eventually(lambda: stack.prometheus.exemplars(series, now - 600, now + 60))
    for exemplar in exemplars[:5]:
        trace = eventually(partial(stack.jaeger.trace, exemplar["labels"]["trace_id"]))
        assert trace is not None
        assert exemplar["labels"]["span_id"] in {span["spanID"] for span in trace["spans"]}


def test_an_exemplar_leads_to_its_trace_in_tempo(stack: Stack, tempo: Tempo) -> None:
    """The same in the other store."""
    now = time.time()
    series = f'http_server_request_duration_seconds_bucket{{job="{SERVICE}"}}'
    for exemplar in eventually(lambda: stack.prometheus.exemplars(series, now - 600, now + 60))[:5]:
        eventually(partial(tempo.has, exemplar["labels"]["trace_id"]))


def test_loki_has_the_lines(stack: Stack, traffic: Traffic) -> None:
    """One wide line per request, through the Collector."""
    counted, _ = traffic
    eventually(lambda: stack.loki.requests(SERVICE) == counted.sent)


def test_nothing_was_lost(traffic: Traffic) -> None:
    """The ledger: what was created is exported or waits; nothing was dropped, refused or is unknown."""
    _, sidecar = traffic

    def settled() -> bool:
        ledger = sidecar.stats()["telemetry"]
        return all(
            account["created"] - account["queued"] == account["exported"] for account in ledger.values()
        )

    eventually(settled)
    states = sidecar.stats()["telemetry"]
    lost = ("rejected", "dropped", "failed", "unknown")
    assert [account[state] for account in states.values() for state in lost if account.get(state)] == []


def test_tempo_finds_a_session(tempo: Tempo, traffic: Traffic) -> None:
    """By its id and by its `session` span, in TraceQL."""
    counted, _ = traffic
    session, sent = next(iter(counted.sessions.items()))
    query = json.dumps(session)
    eventually(lambda: len(tempo.search(f"{{ span.session.id = {query} && kind = server }}")) == sent)
    assert eventually(lambda: tempo.search(f'{{ name = "session" && span.session.id = {query} }}'))


CHOSEN = {
    "${job:regex}": SERVICE,
    "${instance:regex}": ".*",
    "${sidecar_upstream:regex}": ".*",
    "${gen_ai_request_model:regex}": ".*",
    "$__rate_interval": "1m",
    "$__range": "10m",
}
"""The variables as they stand when a dashboard is opened on this service."""


def panel_queries(service: str = SERVICE) -> list[tuple[str, str, bool]]:
    """Every query of every panel of metrics: title, expression, and whether it may have no answer."""
    found = []
    for board in (sessions, traffic_board, streams, innocence):
        for panel in board.PANELS:
            for query in panel.queries if isinstance(panel, Panel) else ():
                expression = query.expression
                for name, value in (CHOSEN | {"${job:regex}": service}).items():
                    expression = expression.replace(name, value)
                found.append((f"{board.UID}: {panel.title}", expression, bool(query.quiet)))
    return found


@pytest.mark.parametrize("title,expression,quiet", panel_queries())
def test_every_panel_has_an_answer(stack: Stack, title: str, expression: str, quiet: bool) -> None:
    """Prometheus answers it with finite numbers; where a panel says why it may be quiet, it takes the question."""
    found = stack.prometheus.query(expression)
    if not quiet:
        found = eventually(lambda: stack.prometheus.query(expression))
    assert all(math.isfinite(float(one["value"][1])) for one in found), title


def test_a_sidecar_at_its_default_settings(stack: Stack) -> None:
    """It tells zeros at once, exact figures at its own pace, which panels can read, and each session's traces at its end."""
    service, counted = "stack-defaults", Counted()
    job = f'{{job="{service}"}}'

    def told(expression: str) -> float | None:
        return stack.prometheus.number(expression)

    def all_here() -> bool:
        return told(f"sum(sidecar_requests_total{job})") == counted.sent

    with as_readme_has_it(stack, service) as (sidecar, provider):
        eventually(lambda: told(f"sum(sidecar_results_total{job})") == 0)
        play_rounds(sidecar, provider, counted, "c")
        eventually(all_here)
        assert stack.prometheus.by(
            "sidecar_outcome", f"sum by (sidecar_outcome) (sidecar_requests_total{job})"
        ) == {"completed": counted.sent - 2, "upstream_rejected": 1, "client_left": 1}
        for expression, value in (
            (f"sum(sidecar_conversation_overlaps_total{job})", 2),
            (f"sum(sidecar_responses_out_of_order_total{job})", 2),
            (f"sum(sidecar_sessions_total{job})", len(counted.sessions)),
        ):
            assert told(expression) == value, expression
        # The first of anything is an increase, though there are so few samples; it is stretched to the window's edges.
        arrived = told(f"sum(increase(sidecar_results_total{job}[5m]))") or 0
        assert counted.sent <= round(arrived) < 1.5 * counted.sent
        for title, expression, quiet in panel_queries(service):
            assert quiet or eventually(partial(stack.prometheus.query, expression)), title
        eventually(lambda: len(stack.jaeger.requests(service)) == counted.sent)
    for name in ("session", "replay session"):
        eventually(lambda: len(stack.jaeger.traces(service, name)) == len(counted.sessions))  # noqa: B023
    eventually(lambda: told(f"sum(sidecar_session_requests_sum{job})") == counted.sent)
