"""Watching an answer can fail in any way without touching what passes."""

import time
from types import SimpleNamespace
from typing import cast

from sidecar.core.exchange import Exchange, RequestHead
from sidecar.core.facts import Anomaly, Outcome, Route
from sidecar.core.headers import Field, Headers
from sidecar.core.sse import Event
from sidecar.proxy.observer import StreamObserver
from sidecar.proxy.shared import Admission, Shared


class Ids:
    """A trace that nobody exports."""

    trace_id = server_span_id = client_span_id = 1
    sampled = False

    def outbound(self) -> tuple[Field, ...]:
        """Nothing goes up."""
        return ()


class Stumbling:
    """A parser with a bug."""

    keep_alives = oversized = 0

    def feed(self, data: bytes) -> list[Event]:
        """Falls over whatever it is fed."""
        raise LookupError(data)

    def finish(self) -> list[Event]:
        """There would be nothing more."""
        return []


def test_a_bug_in_reading_an_answer_ends_the_reading_alone() -> None:
    """It is reported and counted once, and a clean framed end is still a completed request."""
    route = Route("/v1/chat/completions", api="openai.chat", operation="chat", turn=True)
    exchange = Exchange(
        start=1,
        head=RequestHead("POST", b"/v1/chat/completions", "1.1", Headers([])),
        trace=Ids(),
        route=route,
    )
    exchange.streams = True
    reported: list[Exception] = []
    shared = SimpleNamespace(report=reported.append, admission=Admission(1 << 20), clock=time.time_ns)
    observer = StreamObserver(exchange, Stumbling(), None, cast("Shared", shared))
    observer.feed(b"data: {}\n\n", 2)
    observer.feed(b"data: {}\n\n", 3)
    observer.finish(4)
    observer.close(lambda: exchange.answer_ended(4))
    assert [type(error) for error in reported] == [LookupError]
    assert exchange.anomalies == [Anomaly.ANSWER_NOT_READ]
    assert exchange.verdict is not None
    assert exchange.verdict.outcome is Outcome.COMPLETED
