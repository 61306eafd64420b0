"""What the conventions' registries allow, and what of an export they do not.

Owns the check, and how an exported item is read by it; `conventions/` holds the registries' facts: of the names that are
used and of all `gen_ai.*` and `openai.*` names, with the names that are deprecated or replaced and the namespaces there
are. Each file names its source. Open enumerations (providers, operations, error types, tiers) allow further values.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.testing import LogLine, Point, Span

FOLDER = Path(__file__).parent / "conventions"
SHIPPED, LATEST = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("shipped", "latest"))
REGISTRIES: Mapping[str, list[dict[str, Any]]] = {
    "shipped": [SHIPPED],
    "latest": [LATEST],
    "both": [SHIPPED, LATEST],
}
OPEN = {n.PROVIDER, n.OPERATION, n.ERROR_TYPE, n.SERVICE_TIER}
OTHER_BOUNDS = {
    "gen_ai.client.operation.time_per_output_chunk",
    "gen_ai.client.inference.time_per_output_chunk",
    "http.server.request.duration",
}
"""Histograms whose buckets are not the advised ones, as docs/telemetry.md says; all others have those and more."""
OWN_SPANS = {"connect", "wait", "stream", "conversation", "session"}
REPLAY = "replay "
"""Begins the names of a replay's spans: of its session, its conversations and its requests."""
TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


class Instrument(NamedTuple):
    """What a metric is."""

    name: str
    instrument: str
    unit: str
    bounds: tuple[float, ...]


class Conventions:
    """The registries of one choice. In `both`, what they have both goes by the shipped one."""

    def __init__(self, semconv: str) -> None:
        self._registries = REGISTRIES[semconv]

    def _find(self, kind: str, name: str) -> Any:
        return next((one[kind][name] for one in self._registries if name in one[kind]), None)

    def _missing(self, kind: str, name: str) -> str:
        gone = any(name in one["deprecated"] for one in self._registries)
        return f"{name}: {'deprecated' if gone else f'not in the registry, among {kind}'}"

    def attributes(self, attributes: Mapping[str, Any] | None) -> Iterator[str]:
        """Faults of names and values."""
        for name, value in (attributes or {}).items():
            if name.startswith("sidecar."):
                if name not in n.ALL_ATTRIBUTES:
                    yield f"{name}: not in the table"
            elif (known := self._find("attributes", name)) is None:
                yield self._missing("attributes", name)
            elif not _fits(name, value, known["type"]):
                yield f"{name}: {value!r} is not {known['type']}"

    def _required(self, kind: str, name: str, attributes: Mapping[str, Any]) -> Iterator[str]:
        for one in self._registries:
            for attribute, level in one[kind].get(name, {"attributes": {}})["attributes"].items():
                if level == "required" and attribute not in attributes:
                    yield f"{name}: {attribute} is required"

    def instrument(self, metric: Instrument) -> Iterator[str]:
        """Faults of a metric's kind, unit and buckets."""
        if metric.name.startswith("sidecar."):
            if metric.name not in {one.name for one in metrics.ALL_METRICS}:
                yield f"{metric.name}: not in the table"
            return
        known = self._find("metrics", metric.name)
        if known is None:
            yield self._missing("metrics", metric.name)
            return
        if (metric.instrument, metric.unit) != (known["instrument"], known["unit"]):
            yield f"{metric.name}: {metric.instrument} in {metric.unit}"
        advised = set(known.get("bounds", ()))
        lacking = advised - {round(bound, 6) for bound in metric.bounds}
        if bool(lacking) != (metric.name in OTHER_BOUNDS):
            yield f"{metric.name}: buckets without {sorted(lacking)}"

    def point(self, point: Point) -> Iterator[str]:
        """Faults of a data point."""
        instrument = {"sum": "counter" if point.monotonic else "updowncounter"}.get(point.kind, point.kind)
        yield from self.instrument(Instrument(point.metric, instrument, point.unit, point.bounds))
        yield from self.point_attributes(point.metric, point.attributes)
        yield from self._required("metrics", point.metric, point.attributes)
        yield from self.attributes(point.attributes)
        if n.SERVER_ADDRESS in point.attributes and n.SERVER_PORT not in point.attributes:
            yield f"{point.metric}: {n.SERVER_ADDRESS} without its port"

    def point_attributes(self, metric: str, attributes: Iterable[str]) -> Iterator[str]:
        """Attributes that the convention does not have on that metric."""
        known = self._find("metrics", metric)
        for name in attributes:
            if known is not None and not name.startswith("sidecar.") and name not in known["attributes"]:
                yield f"{metric}: {name} is none of its attributes"

    def span(self, span: Span) -> Iterator[str]:
        """Faults of a span, its events and links."""
        said = span.attributes
        yield from self.attributes(said)
        for event in span.events:
            if event.name not in n.ALL_EVENTS:
                yield f"{event.name}: not in the table of events"
            yield from self.attributes(event.attributes)
        for link in span.links:
            yield from self.attributes(link.attributes)
        if span.kind == "INTERNAL":
            if span.name not in OWN_SPANS and not span.name.startswith(REPLAY):
                yield f"{span.name}: not in the table of spans"
            return
        for kind in _conventions_of(span):
            known = self._find("spans", kind)
            if (span.kind, span.name) != (known["kind"], _named(known["name"], said)):
                yield f"{kind}: {span.kind} {span.name}"
            yield from self._required("spans", kind, said)
        if (n.ERROR_TYPE in said) != (span.status == "ERROR"):
            yield f"{span.name}: status {span.status}, {n.ERROR_TYPE} {said.get(n.ERROR_TYPE)!r}"
        if span.kind == "CLIENT" and n.SERVER_ADDRESS in said and n.SERVER_PORT not in said:
            yield f"{span.name}: {n.SERVER_ADDRESS} without its port"
        if said.get(n.REQUEST_STREAM, True) is not True or said.get(n.FINISH_REASONS) == []:
            yield f"{span.name}: told what is to be absent"

    def log(self, log: LogLine) -> Iterator[str]:
        """Faults of a log record."""
        yield from self.attributes(log.attributes)
        if log.event_name not in n.ALL_EVENTS:
            yield f"{log.event_name}: not in the table of events"
        if log.event_name.startswith("sidecar."):
            return
        if self._find("events", log.event_name) is None:
            yield self._missing("events", log.event_name)
        yield from self._required("events", log.event_name, log.attributes)
        if log.event_name == n.CALL_FAILED:
            if log.severity != "WARNING":
                yield f"{log.event_name}: severity {log.severity}"
            if not {n.EXCEPTION_TYPE, n.EXCEPTION_MESSAGE} & {*log.attributes}:
                yield f"{log.event_name}: neither a type nor a message"


def _fits(name: str, value: Any, known: str | list[str]) -> bool:
    if isinstance(known, list):
        return type(value) is str and (name in OPEN or value in known)
    if known == "string[]":
        return all(type(item) is str for item in value)
    return known in TYPES and type(value) is TYPES[known]


def _conventions_of(span: Span) -> Iterator[str]:
    """The kinds of span that the registries would call it."""
    operation = span.attributes.get(n.OPERATION)
    if span.kind == "SERVER" or operation is None:
        yield f"http.{span.kind.lower()}"
    elif operation == "embeddings":
        yield "gen_ai.embeddings"
    else:
        yield "gen_ai.inference"
        if span.attributes.get(n.PROVIDER) == "openai":
            yield "openai.inference"


def _named(template: str, attributes: Mapping[str, Any]) -> str:
    """The span's name as the convention has it; a method that is not known is `HTTP` there."""
    said = {
        **attributes,
        n.METHOD: {"_OTHER": "HTTP"}.get(attributes.get(n.METHOD, ""), attributes.get(n.METHOD)),
    }
    return re.sub(r"\{([\w.]+)\}", lambda found: str(said.get(found[1], "")), template).strip()
