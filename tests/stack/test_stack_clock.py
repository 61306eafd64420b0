"""The sidecar's clock is hours off and is set right: what begins then is taken and found, and nothing is refused for ever.

Prometheus refuses what is far ahead of its own clock, or far behind: while the sidecar's is wrong that is as it should be.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.testing import RunningSidecar, ScriptedUpstream, chat_request, exchange
from tests.blackbox.test_wall_clock import HOUR, Set, own_wall
from tests.stack.backends import Prometheus, Stack
from tests.stack.programs import eventually
from tests.test_docs_examples import example

ROUND = 3
"""Requests at each position of the clock."""
OFFSETS = {
    "3 h ahead at its start": (3, 0),
    "3 h behind at its start": (-3, 0),
    "3 h ahead for a while": (0, 3, 0),
    "3 h behind for a while": (0, -3, 0),
}
"""Hours that the clock is off, one after another."""
sequence = pytest.mark.parametrize("hours", OFFSETS.values(), ids=list(OFFSETS))


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Back ends that no other test depends on: what they are sent here has odd times."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@contextmanager
def timed(path: Path, hours: int, settings: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Set]:
    """A sidecar whose clock is so many hours off when it starts."""
    shim = own_wall(path, hours * HOUR)
    with (
        ScriptedUpstream() as upstream,
        RunningSidecar(upstream=upstream.url, settings=settings, environ={**environ, **shim}) as sidecar,
    ):
        yield Set(sidecar, path, hours * HOUR)


def ask(one: Set, offset: int, session: str) -> None:
    """Sets the clock so many hours off, and makes some requests."""
    one.step(offset * HOUR - one.offset)
    for _ in range(ROUND):
        lines = (f"X-Sidecar-Session-Id: {session}".encode(),)
        assert exchange(one.sidecar.port, chat_request(headers=lines)).status == 200


def ended(one: Set, *states: str) -> int:
    """Data points whose export has ended: in one of these states, or in any."""
    account = one.sidecar.stats()["telemetry"]["metrics"]
    return sum(account[state] for state in states or (*LOST, "exported"))


def exports(one: Set, often: int = 2) -> None:
    """Waits for so many exports of metrics, whatever becomes of them."""
    for _ in range(often):
        before = ended(one)
        one.sidecar.wait_until(lambda: ended(one) > before, timeout=20)  # noqa: B023 - it is asked here and now


LOST = ("rejected", "failed", "unknown", "unconfirmed", "dropped")
WAYS = ("Prometheus", "Collector by HTTP", "Collector by gRPC")


@pytest.mark.parametrize("way", WAYS)
@sequence
def test_what_is_pushed_is_taken_again(
    own_stack: Stack, tmp_path: Path, hours: tuple[int, ...], way: str
) -> None:
    """Counters go on where they were, traces have the right time, and no further item is lost."""
    service = f"clock-{WAYS.index(way)}-{[*OFFSETS.values()].index(hours)}"
    environ = own_stack.environ(service)
    if way == "Prometheus":
        environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"{own_stack.prometheus.otlp}/v1/metrics"
    elif way == "Collector by gRPC":
        environ |= {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": own_stack.otlp_grpc,
        }
    with timed(tmp_path / "wall", hours[0], {}, environ) as one:
        for turn, offset in enumerate(hours):
            ask(one, offset, f"{service}-{turn}")
            exports(one)
        if way == "Prometheus" and max(hours) > 0:
            assert ended(one, "failed") > 0  # it refuses what is from the future
        counted = f'sum(sidecar_requests_total{{job="{service}"}})'
        eventually(lambda: own_stack.prometheus.number(counted) == ROUND * len(hours))
        last = {"session.id": f"{service}-{len(hours) - 1}", "sidecar.request.sequence": str(ROUND)}
        (trace,) = eventually(lambda: own_stack.jaeger.requests(service, **last))
        assert all(one.now(span["startTime"] * 1000) for span in trace["spans"])
        before = ended(one, *LOST)
        exports(one, 3)
        assert ended(one, *LOST) == before


@sequence
def test_what_is_pulled_is_taken_all_along(tmp_path: Path, hours: tuple[int, ...]) -> None:
    """Samples have Prometheus' own time, so the sidecar's clock is of no matter to them; exemplars do not hold them up."""
    prometheus = Prometheus(tmp_path)
    with timed(tmp_path / "wall", hours[0], {"PROMETHEUS": "on"}, {}) as one:
        recipe = example("by prometheus").replace("127.0.0.1:7071", f"127.0.0.1:{one.sidecar.admin_port}")
        prometheus.configure(recipe.replace("15s", "1s"))
        prometheus.backend.start()
        try:
            counted = 'sum(sidecar_requests_total{job="my-app-sidecar"})'
            for turn, offset in enumerate(hours, start=1):
                ask(one, offset, "pulled")
                eventually(lambda: prometheus.number(counted) == ROUND * turn)  # noqa: B023 - asked here and now
            assert prometheus.number('up{job="my-app-sidecar"}') == 1
        finally:
            prometheus.backend.kill()
