"""Grafana's provisioned data sources and dashboards: the links between the stores lead where they should.

The structure is the one of Grafana's provisioning documentation (13.1); no Grafana server reads it here.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import MetricKind

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "grafana" / "provisioning"
PORTS = {"prometheus": 9090, "tempo": 3200, "jaeger": 16686, "loki": 3100}

Source = dict[str, Any]


def sources() -> dict[str, Source]:
    """The data sources, by uid."""
    text = (PROVISIONING / "datasources" / "datasources.yaml").read_text(encoding="utf-8")
    loaded = yaml.safe_load(text)
    assert loaded["apiVersion"] == 1
    return {source["uid"]: source for source in loaded["datasources"]}


def leaves(value: Any) -> list[str]:
    """Every text in a structure."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value] if isinstance(value, str) else []


def keys(value: Any, name: str) -> list[Any]:
    """Every value that stands under a key, however deep."""
    inside = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    here = [value[name]] if isinstance(value, dict) and name in value else []
    return [*here, *(found for inner in inside for found in keys(inner, name))]


def prometheus_names() -> set[str]:
    """Every metric as Prometheus has it after its name translation of OTLP."""
    units = {"s": "_seconds", "By": "_bytes"}
    found = set()
    for metric in metrics.ALL_METRICS:
        stem = metric.name.replace(".", "_") + units.get(metric.unit, "")
        if metric.kind is MetricKind.HISTOGRAM:
            found |= {f"{stem}_bucket", f"{stem}_sum", f"{stem}_count"}
        else:
            found.add(f"{stem}_total" if metric.kind is MetricKind.COUNTER else stem)
    return found


def test_the_four_stores() -> None:
    """One of each, named as dashboards and alerts name them, at the service of docker-compose.yml that has it."""
    found = sources()
    assert {*found} == {*PORTS}
    for uid, source in found.items():
        assert source["type"] == uid
        assert source["url"] == f"http://{uid}:{PORTS[uid]}"
        assert source["access"] == "proxy"
        assert source["editable"] is False
    assert [uid for uid, source in found.items() if source.get("isDefault")] == ["prometheus"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert {*PORTS} <= {*services}


@pytest.mark.parametrize("uid", [*PORTS])
def test_a_dollar_is_kept(uid: str) -> None:
    """Grafana takes `$NAME` for a variable of its environment; what is meant for later has two dollars."""
    for text in leaves(sources()[uid]):
        assert "$" not in text.replace("$$", ""), text


@pytest.mark.parametrize("uid", [*PORTS])
def test_links_lead_to_a_store(uid: str) -> None:
    """Every data source that is named is one of the four, and never the one that names it."""
    named = keys(sources()[uid], "datasourceUid")
    assert named
    assert {*named} <= {*PORTS} - {uid}


def test_exemplar_to_trace() -> None:
    """The label that the exemplars carry leads to both trace stores."""
    links = sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert [(link["name"], link["datasourceUid"]) for link in links] == [
        ("trace_id", "tempo"),
        ("trace_id", "jaeger"),
    ]


@pytest.mark.parametrize("uid", ["tempo", "jaeger"])
def test_trace_to_logs(uid: str) -> None:
    """By the stream's label, which is the service's name, and the trace's id, which Loki keeps with each line."""
    logs = sources()[uid]["jsonData"]["tracesToLogsV2"]
    assert logs["datasourceUid"] == "loki"
    assert logs["customQuery"] is True
    assert logs["tags"] == [{"key": "service.name", "value": "service_name"}]
    assert logs["query"] == '{$${__tags}} | trace_id="$${__trace.traceId}"'


@pytest.mark.parametrize("uid", ["tempo", "jaeger"])
def test_trace_to_metrics(uid: str) -> None:
    """The queries ask for metrics that the code defines, of the span's service."""
    metrics = sources()[uid]["jsonData"]["tracesToMetrics"]
    assert metrics["datasourceUid"] == "prometheus"
    assert metrics["tags"] == [{"key": "service.name", "value": "service_name"}]
    for query in (one["query"] for one in metrics["queries"]):
        asked = re.findall(r"\b(\w+)\{\$\$__tags\}", query)
        assert asked
        assert {*asked} <= prometheus_names()
        assert query.count("(") == query.count(")")


def test_logs_to_trace() -> None:
    """The id that each line of a request carries leads to both trace stores."""
    fields = sources()["loki"]["jsonData"]["derivedFields"]
    assert {field["datasourceUid"] for field in fields} == {"tempo", "jaeger"}
    for field in fields:
        assert (field["matcherType"], field["matcherRegex"]) == ("label", "trace_id")
        assert field["url"] == "$${__value.raw}"
    assert len({field["name"] for field in fields}) == len(fields)


def test_the_interval_is_the_exporters() -> None:
    """What rates are made of is how often the sidecar sends its metrics."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    every = int(services["sidecar"]["environment"]["OTEL_METRIC_EXPORT_INTERVAL"])
    assert sources()["prometheus"]["jsonData"]["timeInterval"] == f"{every // 1000}s"


def test_dashboards_are_files() -> None:
    """They are read from one folder, and nothing that is changed in Grafana is kept."""
    text = (PROVISIONING / "dashboards" / "dashboards.yaml").read_text(encoding="utf-8")
    (provider,) = yaml.safe_load(text)["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
