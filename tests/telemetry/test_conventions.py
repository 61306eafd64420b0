"""What is exported, against the conventions' registries: name, type, unit, instrument and well-known values.

`conventions/` holds facts of the names that are used: `shipped` is semantic-conventions v1.41.1, `latest` its v1.44.0 and,
for `gen_ai.*`, semantic-conventions-genai (client-inference.md at ac48b1f9, client-embeddings.md at 88eccb15 and
token-metrics.yaml at 066d4a7f). Their open enumerations (providers, operations, error types) allow further values.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.facts import RequestFacts, Route
from sidecar.core.outcome import Outcome, Phase
from sidecar.telemetry import attributes as a
from sidecar.telemetry import names
from sidecar.telemetry.metric_store import MetricKind
from tests.telemetry.world import MakeWorld, World, ms

FOLDER = Path(__file__).parent / "conventions"
SHIPPED, LATEST = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("shipped", "latest"))
REGISTRIES = {"shipped": [SHIPPED], "latest": [LATEST], "both": [SHIPPED, LATEST]}
OPEN = {a.PROVIDER, a.OPERATION, a.ERROR_TYPE, "openai.request.service_tier"}
KINDS = {
    MetricKind.COUNTER: "counter",
    MetricKind.UP_DOWN_COUNTER: "updowncounter",
    MetricKind.GAUGE: "gauge",
    MetricKind.HISTOGRAM: "histogram",
}
TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


def wrong(semconv: str, attributes: Mapping[str, Any] | None) -> Iterator[str]:
    """What the registry, or the table of our own names, does not allow. In `both`, the shipped form goes first."""
    for name, value in (attributes or {}).items():
        if name.startswith("sidecar."):
            if name not in a.ALL_ATTRIBUTES:
                yield f"{name}: not in the table"
            continue
        known = [one["attributes"][name] for one in REGISTRIES[semconv] if name in one["attributes"]]
        if not known:
            yield f"{name}: not in the registry"
        elif isinstance(known[0], list):
            if type(value) is not str or not (name in OPEN or value in known[0]):
                yield f"{name}: {value!r} is not a known value"
        elif known[0] == "string[]":
            if not all(type(item) is str for item in value):
                yield f"{name}: {value!r} is not {known[0]}"
        elif type(value) is not TYPES[known[0]]:
            yield f"{name}: {value!r} is not {known[0]}"


def play(world: World) -> None:
    """A stream that completes, an embeddings call, one that broke off, one that was refused."""
    world.stream()
    embeddings = world.begin(
        route=Route("/v1/embeddings", "openai.embeddings", "embeddings", provider="openai")
    )
    world.send(embeddings)
    world.answer(embeddings)
    embeddings.response.tokens["input"] = 5
    embeddings.decide(Outcome.COMPLETED, ms(100))
    world.settle(embeddings, 103)
    broken = world.begin()
    asked = {
        "gen_ai.request.top_k": 40.0,
        "gen_ai.request.previous_response.id": "r",
        "gen_ai.request.reasoning.level": "low",
        "openai.request.service_tier": "flex",
        "gen_ai.request.stop_sequences": ["a"],
    }
    broken.request = RequestFacts("m", attributes=asked)
    world.send(broken)
    world.answer(broken)
    broken.decide(Outcome.UPSTREAM_FAILED, ms(200), error_type="cut_short", phase=Phase.MID_STREAM)
    world.settle(broken, 200)
    world.refuse(503)


@pytest.mark.parametrize("semconv", REGISTRIES)
def test_everything_exported_is_in_the_registry(make_world: MakeWorld, semconv: str) -> None:
    """Spans, their events and links, log records, metrics and their points."""
    world = make_world(semconv=semconv, export_logs=True)
    play(world)
    sets: list[Mapping[str, Any] | None] = []
    for span in world.pipeline.spans:
        sets += [span.attributes, span.resource.attributes]
        sets += [event.attributes for event in span.events]
        sets += [link.attributes for link in span.links]
    sets += [record.log_record.attributes for record in world.pipeline.records]
    for metric in world.store.collect(world.store.scrape):
        data: Any = metric.data
        sets += [point.attributes for point in data.data_points]
    assert len(sets) > 40
    assert sorted({fault for one in sets for fault in wrong(semconv, one)}) == []


@pytest.mark.parametrize("semconv", REGISTRIES)
def test_every_metric_is_as_the_registry_has_it(semconv: str) -> None:
    """Instrument and unit; a name of ours begins with `sidecar.`."""
    known: dict[str, list[str]] = {}
    for registry in reversed(REGISTRIES[semconv]):
        known |= registry["metrics"]
    recorded = {
        metric.name: [KINDS[metric.kind], metric.unit]
        for metric in names.metrics_of(semconv)
        if not metric.name.startswith("sidecar.")
    }
    assert recorded == {name: known.get(name) for name in recorded}


def test_the_check_can_fail() -> None:
    """A name that nobody knows, a wrong type, a value outside a closed list, a name of the other choice."""
    bad = {
        "gen_ai.usage.total_tokens": 1,
        "sidecar.no_such": 1,
        a.SERVER_PORT: "443",
        a.CPU_MODE: "x",
        a.TOP_K: 4.0,
    }
    assert len(list(wrong("latest", bad))) == 5
    assert len(list(wrong("shipped", {a.REASONING_LEVEL: "low", a.CACHE_WRITE_TOKENS: 1}))) == 2
