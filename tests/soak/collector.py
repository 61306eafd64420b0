"""The collector of the soak, which is at times not well: traces and metrics come over HTTP, log records over gRPC.

A process of its own (`python -m tests.soak.collector`), which can be stopped: it prints its two ports. Each line of its
standard input names the fault that begins (`well` ends it), or says `sum`; then it prints what it has taken (JSON), and
ends. It keeps sums and ids, not what came.
"""

import json
import sys
from collections import Counter

from sidecar.testing import OtlpSink, SinkAnswer
from tests.soak.provider import SECRET

TIMEOUT = 1.0
"""Seconds that the sidecar waits for an answer."""

WELL, DOWN = "well", "down"
_HTML = {"Content-Type": "text/html; charset=utf-8"}

FAULTS: dict[str, SinkAnswer] = {
    "unavailable": SinkAnswer(status=503, code="UNAVAILABLE"),
    "slow": SinkAnswer(delay=TIMEOUT / 2),
    "refuses": SinkAnswer(status=400, code="INVALID_ARGUMENT", message="no such tenant"),
    "rejects": SinkAnswer(rejected=1, message="too old"),
    "warns": SinkAnswer(message="attributes were cut"),
    "web page": SinkAnswer(garbage=b"<html>Sign in</html>", headers=_HTML),
    "too large": SinkAnswer(
        status=413, code="RESOURCE_EXHAUSTED", message="grpc: received message larger than max (9 vs. 4)"
    ),
    "busy": SinkAnswer(status=429, code="RESOURCE_EXHAUSTED", headers={"Retry-After": "1"}),
    "late": SinkAnswer(delay=2 * TIMEOUT),
    "hangs": SinkAnswer(delay=7 * TIMEOUT),
    "drips": SinkAnswer(drip=0.1),
    "hangs up": SinkAnswer(status=503, code="UNAVAILABLE", hang_up=True),
    DOWN: SinkAnswer(),
}
"""What each export is answered. `hangs`: longer than anybody waits, yet the sink's threads come back."""


class Summing(OtlpSink):
    """A sink that keeps little of what it takes."""

    def __init__(self, protocol: str) -> None:
        super().__init__(protocol)
        self.taken: Counter[str] = Counter()
        self.twice = 0
        self.secrets: list[str] = []
        self.requests: dict[str, float] = {}
        """The metric `sidecar.requests`, by its attributes."""
        self._ids: set[str] = set()

    def fold(self) -> None:
        """Adds what has come to the sums, and lets go of it."""
        with self._changed:
            spans, points, logs, calls = self.spans, self.points, self.logs, self.calls
            for items in (self._spans, self._metrics, self._logs, self._calls):
                items.clear()
        for call in calls:
            self.taken[call.signal] += call.items - call.answer.rejected if call.answer.takes else 0
        for span in spans:
            key = span.trace_id + span.span_id
            self.twice += key in self._ids
            self._ids.add(key)
        for point in points:
            if point.metric == "sidecar.requests":
                self.requests[repr(sorted(point.attributes.items()))] = point.value or 0
        secret = SECRET.decode()
        self.secrets += [text for one in (*spans, *points, *logs) if secret in (text := repr(one))][:10]


def main() -> None:
    """Takes until it is asked for the sum."""
    with Summing("http/protobuf") as http, Summing("grpc") as grpc:
        print(http.port, grpc.port, flush=True)  # noqa: T201 - what its parent reads
        was = WELL
        for line in sys.stdin:
            now = line.strip()
            for sink in (http, grpc):
                if was == DOWN != now:
                    sink.start()
                if now == DOWN != was:
                    sink.stop()
                for signal in ("traces", "metrics", "logs"):
                    sink.answer_always(signal, FAULTS.get(now, SinkAnswer()))
                sink.fold()
            if now == "sum":
                break
            was = now
    for sink in (http, grpc):
        sink.fold()
    summed = {
        "taken": http.taken + grpc.taken,
        "twice": http.twice,
        "secrets": http.secrets + grpc.secrets,
        "requests": sum(http.requests.values()),
        "errors": [repr(error) for error in (*http.errors, *grpc.errors)],
    }
    json.dump(summed, sys.stdout)


if __name__ == "__main__":
    main()
