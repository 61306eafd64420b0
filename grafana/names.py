"""The names that Prometheus gives to the sidecar's metrics and attributes, by its own rules for OTLP.

Owns the one translation, from `sidecar/telemetry/metrics.py`: a metric that is renamed there breaks the dashboards'
code, not a dashboard.
"""

from sidecar.telemetry.metrics import Metric, MetricKind

_UNITS = {"s": "seconds", "By": "bytes"}


def label(attribute: str) -> str:
    """An attribute as a label."""
    return attribute.replace(".", "_")


def series(metric: Metric, part: str = "") -> str:
    """A metric's name in Prometheus; `part` is `_bucket`, `_sum` or `_count` of a histogram."""
    name = metric.name.replace(".", "_")
    unit = _UNITS.get(metric.unit)
    if unit is not None and not name.endswith(unit):
        name = f"{name}_{unit}"
    return f"{name}_total" if metric.kind is MetricKind.COUNTER else name + part
