"""Each back end killed and started again while traffic runs: calls go on, nothing is silently lost, all of it recovers."""

from functools import partial

import pytest

from grafana import innocence
from grafana.panels import Panel
from sidecar.testing import (
    RunningSidecar,
    ScriptedUpstream,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
)
from tests.stack.app import Counted, unending
from tests.stack.backends import Stack
from tests.stack.programs import eventually

# The app's loop runs in a thread of its own. A stream that its client library leaves behind may be collected in ours,
# while the loop is closing it: that is no event of these tests.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object Response:pytest.PytestUnraisableExceptionWarning"
)

LOST = ("rejected", "dropped", "failed", "unknown")

(LOST_IN_RANGE,) = [
    panel.queries[0].expression
    for panel in innocence.PANELS
    if isinstance(panel, Panel) and panel.title == "Lost in the range, by signal and reason"
]
"""The innocence dashboard's own question."""


def some_more(counted: Counted, more: int = 30) -> None:
    """Waits until the app has sent so many further requests."""
    until = counted.sent + more
    eventually(lambda: counted.sent >= until)


def untouched(counted: Counted) -> None:
    """No call of the app was touched: every request got its answer, and each is settled."""
    assert {*counted.statuses} == {200, 429}
    assert sum(counted.statuses.values()) == counted.sent
    requests = counted.stats["requests"]
    assert (requests["started"], requests["settled"]) == (counted.sent, counted.sent)
    assert {*requests["outcomes"]} == {"completed", "client_left", "upstream_rejected"}


def balanced(sidecar: RunningSidecar) -> bool:
    """Every item that was created has a state or waits."""
    return all(
        account["created"] == account["queued"] + sum(account.get(state, 0) for state in (*LOST, "exported"))
        for account in sidecar.stats()["telemetry"].values()
    )


def exported(sidecar: RunningSidecar) -> int:
    """Spans that the Collector took so far."""
    count: int = sidecar.stats()["telemetry"]["traces"]["exported"]
    return count


def found(stack: Stack, service: str, count: int) -> bool:
    """So many requests of the service are in Jaeger."""
    return len(stack.jaeger.requests(service)) >= count


def test_jaeger_dies(stack: Stack) -> None:
    """What was made meanwhile waits in the Collector's queue on disk, and arrives."""
    service = "jaeger-dies"
    with unending(stack, service) as (counted, sidecar):
        some_more(counted, 5)
        stack.jaeger.backend.kill()
        before = counted.sent
        some_more(counted)
        during = counted.sent
        stack.jaeger.backend.start()
        some_more(counted)
        eventually(partial(found, stack, service, during - before), timeout=60)
        assert balanced(sidecar)
        traces = sidecar.stats()["telemetry"]["traces"]
        assert [traces.get(state, 0) for state in LOST] == [0, 0, 0, 0]
    untouched(counted)


def test_prometheus_dies(stack: Stack) -> None:
    """Its counters are right again afterwards: they are cumulative, and the latest arrive."""
    service = "prometheus-dies"
    with unending(stack, service) as (counted, sidecar):
        some_more(counted, 5)
        stack.prometheus.backend.kill()
        some_more(counted)
        stack.prometheus.backend.start()
        some_more(counted)
        assert balanced(sidecar)
        told = f'sum(sidecar_requests_total{{job="{service}"}})'
        sent = counted.sent
        eventually(lambda: (stack.prometheus.number(told) or 0) >= sent, timeout=60)
    untouched(counted)


def test_the_log_store_dies(stack: Stack) -> None:
    """Loki is killed: the lines wait in the Collector's queue, and all arrive when it is back."""
    service = "log-store-dies"
    with unending(stack, service) as (counted, sidecar):
        eventually(lambda: stack.loki.requests(service))
        stack.loki.backend.kill()
        some_more(counted)
        so_far = counted.sent
        stack.loki.backend.start()
        some_more(counted)
        eventually(lambda: stack.loki.requests(service) >= so_far, timeout=60)
        assert balanced(sidecar)
        logs = sidecar.stats()["telemetry"]["logs"]
        assert [logs.get(state, 0) for state in LOST] == [0, 0, 0, 0]
    untouched(counted)
    eventually(lambda: stack.loki.requests(service) == counted.sent, timeout=60)


def test_the_collector_dies(stack: Stack) -> None:
    """The sidecar keeps what it can, counts what it cannot, says both, and exports again by itself."""
    service = "collector-dies"
    with unending(stack, service) as (counted, sidecar):
        some_more(counted, 5)
        stack.collector.kill()
        some_more(counted)
        assert balanced(sidecar)
        stack.collector.start()
        before = exported(sidecar)
        eventually(lambda: exported(sidecar) > before, timeout=60)
        some_more(counted)
        assert balanced(sidecar)
    untouched(counted)
    lines = sidecar.find_logs("sidecar.telemetry.failing")
    assert len(lines) <= 3  # once a signal, however many exports failed


def test_the_queue_survives_the_collector(stack: Stack) -> None:
    """Jaeger is away and the Collector is killed: what it had taken is on disk, and reaches Jaeger in the end."""
    service = "queue-survives"
    stack.jaeger.backend.kill()
    with unending(stack, service) as (counted, sidecar):
        some_more(counted)
        taken = counted.sent - 20
        eventually(lambda: exported(sidecar) >= 3 * taken)
        stack.collector.kill()
        stack.collector.start()
    stack.jaeger.backend.start()
    eventually(partial(found, stack, service, taken), timeout=60)
    untouched(counted)


def test_what_is_lost_is_seen_and_the_alert_comes_and_goes(stack: Stack) -> None:
    """The Collector is away for longer than an export is tried: its loss stands on the dashboard, with its reason."""
    service = "loses-telemetry"
    lost = LOST_IN_RANGE.replace("${job:regex}", service).replace("${instance:regex}", ".*")
    lost = lost.replace("$__range", "5m")
    hasty = {**stack.environ(service), "OTEL_EXPORTER_OTLP_TIMEOUT": "500"}
    with ScriptedUpstream() as upstream, RunningSidecar(upstream=upstream.url, environ=hasty) as sidecar:

        def ask() -> None:
            upstream.answer_always(json_answer(chat_completion()))
            assert exchange(sidecar.port, chat_request()).status == 200

        ask()
        eventually(lambda: stack.prometheus.query(f'sidecar_telemetry_items_total{{job="{service}"}}'))
        assert stack.prometheus.alerts("SidecarTelemetryLoss", job=service) == []
        stack.collector.kill()
        ask()
        sidecar.wait_until(lambda: sidecar.stats()["telemetry"]["traces"].get("failed", 0) > 0, timeout=20)
        failed = sidecar.stats()["telemetry"]["traces"]["failed"]
        stack.collector.start()
        ask()

        def shown() -> bool:
            found = {
                (one["metric"]["sidecar_telemetry_signal"], one["metric"]["sidecar_telemetry_state"]): float(
                    one["value"][1]
                )
                for one in stack.prometheus.query(lost)
            }
            return bool(round(found.get(("traces", "failed"), 0)) == failed)

        eventually(shown, timeout=60)
        labels = {"job": service, "sidecar_telemetry_signal": "traces"}
        eventually(lambda: "firing" in stack.prometheus.alerts("SidecarTelemetryLoss", **labels), timeout=60)
        eventually(lambda: not stack.prometheus.alerts("SidecarTelemetryLoss", **labels), timeout=60)
