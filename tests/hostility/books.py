"""The sidecar's books: what it counted and told between two moments, and whether that adds up.

Owns the one check that every hostile test ends with; it sends nothing.
"""

from collections import Counter

from sidecar.testing import OtlpSink, RunningSidecar, Span

SPANS_SOON = {
    "OTEL_BSP_SCHEDULE_DELAY": "5",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
}
"""The environment of a sidecar that exports spans alone, and soon: a process that looks each millisecond is never idle."""


class Books:
    """What the sidecar has counted, and the SERVER spans it has told, since this was made.

    It forgets what the sink has had before, so the requests before it must all have been told.
    """

    def __init__(self, sidecar: RunningSidecar, sink: OtlpSink) -> None:
        self._sidecar, self._sink = sidecar, sink
        self._before = self._settled()
        sink.clear()

    def _settled(self) -> Counter[str]:
        requests = self._sidecar.stats()["requests"]
        if requests["in_flight"]:
            self._sidecar.wait_until(lambda: self._sidecar.stats()["requests"]["in_flight"] == 0)
            requests = self._sidecar.stats()["requests"]
        assert requests["started"] == requests["settled"] == sum(requests["outcomes"].values())
        return Counter(requests["outcomes"])

    def outcomes(self) -> list[str]:
        """The outcomes of all requests since, sorted; the SERVER spans say the same, one each."""
        counted = sorted((self._settled() - self._before).elements())
        self._sink.wait_for(lambda: len(self.spans()) >= len(counted))
        assert sorted(str(span.attributes["sidecar.outcome"]) for span in self.spans()) == counted
        return counted

    def spans(self) -> list[Span]:
        """The SERVER spans since."""
        return self._sink.find_spans(kind="SERVER")
