"""The text of `/metrics`, from the same accumulators as the export.

Owns the translation of names and units into Prometheus' own, by the rules of OpenTelemetry's Prometheus
compatibility: what a collector would make of the OTLP export has the same names here, so one dashboard fits both.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import CollectorRegistry, Exemplar, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sidecar.admin.view import Rendering


class Scraped(Protocol):
    """The metric store, as a scrape sees it."""

    @property
    def scrape(self) -> Any:
        """What the scrapes have seen so far."""

    def collecting(self, reader: Any, /) -> tuple[list[sdk.Metric], Iterator[None]]:
        """Every metric that has points, as they are for this reader now, once these steps have been made."""


_UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "min": "minutes",
    "h": "hours",
    "d": "days",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "%": "percent",
}
_UNFIT = re.compile(r"[^a-zA-Z0-9:]+")
_UNFIT_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_HUMAN = re.compile(r"\{[^}]*\}")


_BAD_VERSION = re.compile(r"(?<=version=)(?![0-9]{1,4}(?:\.[0-9]{1,4}){0,3} *(?:[;,]|$))[^;,]*")
"""A version in `Accept` that is none: the encoder's choice would fail on it, or repeat it."""


def prometheus_text(store: Scraped, resource: Resource, accept: str) -> Rendering:
    """A scrape of this moment: OpenMetrics with exemplars where `accept` takes it, else plain text.

    With many series that takes long.
    """
    metrics, steps = store.collecting(store.scrape)
    registry = CollectorRegistry()
    registry.register(_Scrape(metrics, resource))
    encoder, content_type = choose_encoder(_BAD_VERSION.sub("", accept.replace('"', "")))
    return Rendering(steps, lambda: (encoder(registry), content_type))


def family_name(name: str, unit: str, *, monotonic: bool = False, gauge: bool = False) -> str:
    """An OpenTelemetry metric's name as Prometheus has it, without the `_total` that its counters end in."""
    words = [word for word in _UNFIT.sub("_", name).split("_") if word]
    suffix = _unit_words(unit, gauge=gauge)
    words += [word for word in suffix if word not in words]
    if monotonic:
        words = [word for word in words if word != "total"]
    text = "_".join(words)
    return f"_{text}" if text[:1].isdigit() else text


def label_name(name: str) -> str:
    """An attribute's name as Prometheus has it, which keeps those that begin with two underscores for itself."""
    label = _UNFIT_LABEL.sub("_", name)
    return f"key_{label}" if label[:1].isdigit() or label.startswith("__") else label


def _unit_words(unit: str, *, gauge: bool) -> list[str]:
    plain = _HUMAN.sub("", unit)
    if plain == "1":
        return ["ratio"] if gauge else []
    of, _, per = plain.partition("/")
    words = [_UNITS.get(of, _UNFIT.sub("_", of))] if of else []
    return [*words, "per", _UNITS.get(per, _UNFIT.sub("_", per)).removesuffix("s")] if per else words


class _Scrape(Collector):
    """One scrape, as `prometheus_client` asks for it."""

    def __init__(self, metrics: list[sdk.Metric], resource: Resource) -> None:
        self._metrics = metrics
        self._resource = resource

    def collect(self) -> Iterator[Metric]:
        """Every metric with points, and `target_info` with the resource."""
        target = InfoMetricFamily("target", "Target metadata")
        target.add_metric([], _labels(self._resource.attributes))
        yield target
        yield from map(_family, self._metrics)


def _family(metric: sdk.Metric) -> Metric:
    data, unit = metric.data, metric.unit or ""
    monotonic = isinstance(data, sdk.Sum) and data.is_monotonic
    gauge = isinstance(data, sdk.Gauge)
    kind = "histogram" if isinstance(data, sdk.Histogram) else "counter" if monotonic else "gauge"
    name = family_name(metric.name, unit, monotonic=monotonic, gauge=gauge)
    family = Metric(name, metric.description or "", kind)
    for point in data.data_points:
        labels = _labels(point.attributes or {})
        if isinstance(point, sdk.HistogramDataPoint):
            _add_histogram(family, point, labels)
        elif isinstance(point, sdk.NumberDataPoint):
            family.add_sample(f"{name}_total" if monotonic else name, labels, point.value)
    return family


def _add_histogram(family: Metric, point: sdk.HistogramDataPoint, labels: dict[str, str]) -> None:
    bounds = [*point.explicit_bounds, float("inf")]
    exemplars = {_bucket(bounds, exemplar.value): exemplar for exemplar in point.exemplars}
    running = 0
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        running += count
        family.add_sample(
            f"{family.name}_bucket",
            {**labels, "le": floatToGoString(bound)},  # type: ignore[no-untyped-call]
            running,
            exemplar=_exemplar(exemplars.get(bound)),
        )
    family.add_sample(f"{family.name}_count", labels, point.count)
    family.add_sample(f"{family.name}_sum", labels, point.sum)


def _bucket(bounds: list[float], value: float) -> float:
    return next(bound for bound in bounds if value <= bound)


def _exemplar(held: SdkExemplar | None) -> Exemplar | None:
    if held is None:
        return None
    labels = {}
    if held.trace_id is not None and held.span_id is not None:
        labels = {"trace_id": f"{held.trace_id:032x}", "span_id": f"{held.span_id:016x}"}
    return Exemplar(labels, held.value, held.time_unix_nano / 1e9)


def _labels(attributes: Mapping[str, object]) -> dict[str, str]:
    """What becomes one label is told together, by the order of the attributes' names."""
    labels = {label_name(key): _text(value) for key, value in attributes.items()}
    if len(labels) < len(attributes):
        together: dict[str, list[str]] = {}
        for key in sorted(attributes):
            together.setdefault(label_name(key), []).append(_text(attributes[key]))
        labels = {label: ";".join(values) for label, values in together.items()}
    return labels


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
