"""Tail sampling, switched on by its one variable: what must be kept is kept, what is ordinary goes."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from sidecar.testing import RawClient, RunningSidecar, ScriptedUpstream, chat_request
from tests.stack.backends import Stack
from tests.stack.programs import eventually
from tests.stack.scenario import Scenario, rejected, whole

SERVICE = "stack-sampled"

SESSIONS = 13
"""Of a round; each has one conversation."""

KEPT = {
    ("completed", "crowd-1"): 3,
    ("error_in_stream", "broken-1"): 1,
    ("timed_out", "deadline-body-1"): 1,
    ("timed_out", "deadline-first-byte-1"): 1,
    ("timed_out", "deadline-idle-1"): 1,
    ("upstream_failed", "broken-1"): 2,
    ("upstream_rejected", "turned-away-1"): 2,
}
"""Of a round: the turns that met one another, and all that have a span with an error (a call answered 429 is one)."""


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own whose Collector samples, and keeps nothing of the rest."""
    running = Stack(tmp_path_factory.mktemp("sampled"), TRACES_PROCESSOR="tail_sampling", TRACES_PERCENT="0")
    try:
        running.start()
        yield running
    finally:
        running.stop()


def kept(stack: Stack) -> Counter[tuple[str, str]]:
    """The requests in Jaeger, by outcome and session."""
    found: Counter[tuple[str, str]] = Counter()
    for trace in stack.jaeger.requests(SERVICE):
        for span in trace["spans"]:
            tags = {tag["key"]: tag["value"] for tag in span["tags"]}
            if tags.get("span.kind") == "server":
                found[tags["sidecar.outcome"], tags["session.id"]] += 1
    return found


def _all(stack: Stack, name: str) -> bool:
    return len(stack.jaeger.traces(SERVICE, name)) == SESSIONS


def _replayed(stack: Stack) -> bool:
    """Each replay is there, whole: what is ordinary in it too."""
    replays = stack.jaeger.traces(SERVICE, "replay session")
    lanes = Counter(span["operationName"] for trace in replays for span in trace["spans"])
    return len(replays) == lanes["replay conversation"] == SESSIONS


def test_sampling_keeps_what_matters(sampled: Stack) -> None:
    """Errors, overlapping turns, every session and conversation span, every replay; nothing else."""
    with Scenario(sampled.environ(SERVICE)) as scenario:
        scenario.play()
        scenario.wait_sessions_ended()
        # A session's span is made after those of its requests: once they are all here, the rest is decided.
        for name in ("session", "conversation"):
            eventually(partial(_all, sampled, name), timeout=60)
        eventually(partial(_replayed, sampled), timeout=60)
        eventually(lambda: kept(sampled) == KEPT)


def test_a_trace_that_an_app_began_is_kept(sampled: Stack) -> None:
    """Its first call is an ordinary one, decided on alone; the next fails when that is long decided, and is there too."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    def statuses() -> set[str]:
        spans = (sampled.jaeger.trace(trace) or {"spans": []})["spans"]
        tags = [tag for span in spans for tag in span["tags"]]
        return {str(tag["value"]) for tag in tags if tag["key"] == "sidecar.outcome"}

    upstream = ScriptedUpstream()
    environ = sampled.environ("stack-app-traced")
    with upstream, RunningSidecar(upstream=upstream.url, environ=environ) as sidecar:
        for script, status, outcome in (
            (whole(), 200, "completed"),
            (rejected(503), 503, "upstream_rejected"),
        ):
            upstream.answer(*script)
            client = RawClient(sidecar.port)
            client.send(chat_request(headers=(f"traceparent: 00-{trace}-00f067aa0ba902b7-01".encode(),)))
            assert client.read_answer("POST").status == status
            client.close()
            eventually(lambda: outcome in statuses(), timeout=60)  # noqa: B023
