"""The text of `/metrics`: names as a collector would make them, exemplars where they may be, readable by a parser."""

from collections import deque

import pytest
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from prometheus_client.samples import Sample

from sidecar.admin.prometheus import family_name, label_name, prometheus_text
from sidecar.telemetry import metrics
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import Metric, MetricKind
from tests.telemetry.ticking import Ticking

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
RESOURCE = Resource({"service.name": "sidecar", "service.instance.id": "i-1"})
DURATION = Metric(
    "gen_ai.client.operation.duration", MetricKind.HISTOGRAM, "s", "How long", ("a.b",), (0.1, 1.0)
)
BYTES = Metric("sidecar.stream.bytes", MetricKind.COUNTER, "By", "Relayed", ())
ACTIVE = Metric(
    "sidecar.requests.active", MetricKind.UP_DOWN_COUNTER, "{request}", "In flight", ("sidecar.upstream",)
)
AGE = Metric("sidecar.requests.oldest.age", MetricKind.GAUGE, "s", "The oldest", ())


@pytest.fixture
def store() -> MetricStore:
    """One metric of each kind, with values."""
    store = MetricStore([DURATION, BYTES, ACTIVE, AGE], clock=Ticking())
    store.record(DURATION, 0.05, (("a.b", True),), (0xABC, 0xD, True), at=5_000_000_000)
    store.record(DURATION, 5.0, (("a.b", True),))
    store.add(BYTES, 7)
    store.add(ACTIVE, 2, (("sidecar.upstream", 'a"b\\c'),))
    store.observe(AGE, lambda: [(1.5, ())])
    return store


def scraped(store: MetricStore, resource: Resource, accept: str) -> tuple[bytes, str]:
    """The text and its content type, made at once."""
    steps, text = prometheus_text(store, resource, accept)
    deque(steps, maxlen=0)
    return text()


def samples(text: bytes, *, openmetrics: bool) -> dict[tuple[str, tuple[tuple[str, str], ...]], Sample]:
    """Every sample, by name and labels."""
    parse = parse_openmetrics if openmetrics else parse_plain
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample
        for family in parse(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    "name, unit, kind, wanted",
    [
        ("http.server.request.duration", "s", "histogram", "http_server_request_duration_seconds"),
        ("sidecar.requests", "{request}", "counter", "sidecar_requests"),
        ("sidecar.stream.bytes", "By", "counter", "sidecar_stream_bytes"),
        ("process.cpu.time", "s", "counter", "process_cpu_time_seconds"),
        ("process.memory.usage", "By", "gauge", "process_memory_usage_bytes"),
        ("items.total", "1", "counter", "items"),
        ("cpu.utilization", "1", "gauge", "cpu_utilization_ratio"),
        ("rate", "By/s", "gauge", "rate_bytes_per_second"),
        ("odd..na-me", "", "gauge", "odd_na_me"),
        ("2xx", "", "gauge", "_2xx"),
    ],
)
def test_names_are_translated_by_the_rules(name: str, unit: str, kind: str, wanted: str) -> None:
    """Dots become underscores, units are spelled out once, annotations in braces are left out."""
    assert family_name(name, unit, monotonic=kind == "counter", gauge=kind == "gauge") == wanted


def test_labels_are_translated_by_the_rules() -> None:
    """Likewise, and a digit cannot be first."""
    assert label_name("gen_ai.request.model") == "gen_ai_request_model"
    assert label_name("1st") == "key_1st"


@pytest.mark.parametrize("openmetrics", [True, False])
def test_every_kind_is_there(store: MetricStore, openmetrics: bool) -> None:
    """Readable by a parser, in both forms."""
    text, content_type = scraped(store, RESOURCE, OPENMETRICS if openmetrics else "text/plain")
    assert content_type.startswith(
        "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain; version="
    )
    found = samples(text, openmetrics=openmetrics)
    duration = "gen_ai_client_operation_duration_seconds"
    assert found[f"{duration}_bucket", (("a_b", "true"), ("le", "0.1"))].value == 1
    assert found[f"{duration}_bucket", (("a_b", "true"), ("le", "+Inf"))].value == 2
    assert found[f"{duration}_count", (("a_b", "true"),)].value == 2
    assert found[f"{duration}_sum", (("a_b", "true"),)].value == 5.05
    assert found["sidecar_stream_bytes_total", ()].value == 7
    assert found["sidecar_requests_active", (("sidecar_upstream", 'a"b\\c'),)].value == 2
    assert found["sidecar_requests_oldest_age_seconds", ()].value == 1.5
    target = (("service_instance_id", "i-1"), ("service_name", "sidecar"))
    assert found["target_info", target].value == 1


@pytest.mark.parametrize("openmetrics", [True, False])
def test_any_resource_leaves_the_page_readable(store: MetricStore, openmetrics: bool) -> None:
    """Names that become one are told together, in their order, and none becomes Prometheus' own."""
    named = {
        "a_b": "2",
        "a.b": "1",
        "a/b": "3",
        "__name__": "n",
        "..x": "x",
        "q": '"\\\n',
        "le": "l",
        "\u00e9": "e",
        "\u74b0\u5883": "p",
    }
    text, _ = scraped(store, Resource(named), OPENMETRICS if openmetrics else "text/plain")
    (labels,) = (
        dict(key) for name, key in samples(text, openmetrics=openmetrics) if name.startswith("target_info")
    )
    wanted = {
        "a_b": "1;3;2",
        "key___name__": "n",
        "key___x": "x",
        "q": '"\\\n',
        "le": "l",
        "_": "e",
        "key___": "p",
    }
    assert labels == wanted


def test_exemplars_point_to_traces_and_are_new_with_each_scrape(store: MetricStore) -> None:
    """An exemplar shows once; the numbers stay."""
    bucket = ("gen_ai_client_operation_duration_seconds_bucket", (("a_b", "true"), ("le", "0.1")))
    first = samples(scraped(store, RESOURCE, OPENMETRICS)[0], openmetrics=True)[bucket]
    assert first.exemplar is not None
    assert first.exemplar.labels == {"trace_id": f"{0xABC:032x}", "span_id": f"{0xD:016x}"}
    assert (first.exemplar.value, float(first.exemplar.timestamp or 0)) == (0.05, 5.0)
    second = samples(scraped(store, RESOURCE, OPENMETRICS)[0], openmetrics=True)[bucket]
    assert second.exemplar is None
    assert second.value == 1


def test_an_exemplar_without_a_trace_has_no_labels() -> None:
    """With the filter `always_on` there may be no span."""
    store = MetricStore([DURATION], clock=Ticking(), exemplar_filter="always_on")
    store.record(DURATION, 0.5)
    text, _ = scraped(store, RESOURCE, OPENMETRICS)
    assert b'le="1.0"} 1.0 # {} 0.5' in text


def test_no_two_metrics_share_a_name() -> None:
    """Every metric that is defined has a family of its own."""
    families = [
        family_name(
            metric.name,
            metric.unit,
            monotonic=metric.kind is MetricKind.COUNTER,
            gauge=metric.kind is MetricKind.GAUGE,
        )
        + ("_total" if metric.kind is MetricKind.COUNTER else "")
        for metric in metrics.ALL_METRICS
    ]
    assert len(families) == len(set(families))
