"""What the code defines, as Prometheus has it, and the dashboards as they stand in their files."""

import json
from pathlib import Path
from typing import Any

from grafana.names import label, series
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric, MetricKind

ROOT = Path(__file__).parents[2]
METRICS = [one for one in vars(metrics).values() if isinstance(one, Metric)]
LABELS = {label(attribute) for metric in METRICS for attribute in metric.attributes}


def defined() -> set[str]:
    """Every series' name that the code's metrics have in Prometheus."""
    return {
        series(metric, part)
        for metric in METRICS
        for part in (("_bucket", "_sum", "_count") if metric.kind is MetricKind.HISTOGRAM else ("",))
    }


def board(name: str) -> dict[str, Any]:
    """The dashboard in the file of this name."""
    text = (ROOT / f"grafana/dashboards/{name}.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def panels(of: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels of a dashboard with its rows, those of collapsed rows as well."""
    return [one for panel in of["panels"] for one in (panel, *panel.get("panels", ()))]
