"""The standard `OTEL_*` variables: what they ask for, understood.

Owns the rules which signals leave and whereto; the names stand in `otel_table.py`. Reads only the mapping it is given, never the process's environment; all bad values are told at once.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, sampling
from opentelemetry.sdk.version import __version__ as sdk_version

from sidecar.core.egress import EgressError, EgressProxy, EgressRules
from sidecar.core.shown import mask, shown
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.metric_store import ExemplarFilter, Temporality
from sidecar.telemetry.otel_table import EXPONENTIAL, HISTOGRAM_AGGREGATION, SERVICE_NAME, SETTINGS
from sidecar.version import VERSION

_SAMPLERS: dict[str, Callable[[float], sampling.Sampler]] = {
    "always_on": lambda _: sampling.ALWAYS_ON,
    "always_off": lambda _: sampling.ALWAYS_OFF,
    "traceidratio": sampling.TraceIdRatioBased,
    "parentbased_always_on": lambda _: sampling.DEFAULT_ON,
    "parentbased_always_off": lambda _: sampling.DEFAULT_OFF,
    "parentbased_traceidratio": sampling.ParentBasedTraceIdRatio,
}


DEFAULT_QUEUE = 2048
_RESOURCE_LIMIT = 4096
"""Characters of a resource attribute's value."""
_SECRET = ("_HEADERS", "_CLIENT_KEY")
"""Ends of names whose values are never repeated: the file of a key is easily mistaken for the key."""


@dataclass(frozen=True, slots=True)
class BadValue:
    """One variable that cannot be understood."""

    name: str
    value: str
    allowed: str


class OtelSettingsError(ValueError):
    """All bad values of one start, in `problems`."""

    def __init__(self, problems: tuple[BadValue, ...]) -> None:
        super().__init__("; ".join(f"{bad.name}={bad.value}: {bad.allowed}" for bad in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """Whereto one signal is exported, and how."""

    protocol: str
    endpoint: str
    """The full URL; for grpc also `host:port`."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    timeout: float
    """Seconds, retries included."""
    compression: str
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    insecure: bool
    """grpc: without TLS."""
    proxy: EgressProxy | None
    """The proxy on the way there."""

    @property
    def shown(self) -> str:
        """The endpoint as it may be logged: without a user and a password."""
        return mask(self.endpoint)


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Bounds of one signal's queue. Times in seconds."""

    size: int
    batch: int
    delay: float
    timeout: float


@dataclass(frozen=True, slots=True)
class OtelConfig:
    """What the `OTEL_*` variables ask for, understood."""

    resource: Resource
    sampler: sampling.Sampler
    span_limits: SpanLimits
    propagators: tuple[str, ...]
    """Of `tracecontext` and `baggage`."""
    exporters: Mapping[Signal, str]
    """Per signal `otlp`, `console` or `none`."""
    targets: Mapping[Signal, OtlpTarget]
    """Of the signals that leave by OTLP."""
    queues: Mapping[Signal, QueueSettings]
    """Of traces and logs."""
    metric_interval: float
    """Seconds."""
    metric_timeout: float
    """Seconds."""
    exemplar_filter: ExemplarFilter
    temporality: Temporality
    unheld: tuple[str, ...]
    """Names that are set and do not hold, with the reason where there is one to tell."""

    def exports(self, signal: Signal) -> bool:
        """Whether this signal goes anywhere."""
        return self.exporters[signal] != "none"

    @property
    def off(self) -> bool:
        """Whether no signal is exported at all."""
        return not any(self.exports(signal) for signal in Signal)

    def ways_out(self) -> dict[str, str]:
        """Each endpoint as it may be shown, and the way there."""
        return {target.shown: str(target.proxy or "direct") for target in self.targets.values()}

    def lines(self) -> tuple[str, ...]:
        """What an operator should be told at the start, in sentences; empty if there is nothing to tell."""
        told = []
        if self.off:
            told.append(
                "telemetry export is off: set OTEL_EXPORTER_OTLP_ENDPOINT, or OTEL_TRACES_EXPORTER and its siblings"
            )
        if self.unheld:
            told.append("set, but without effect here: " + ", ".join(self.unheld))
        return tuple(told)


def read(environ: Mapping[str, str]) -> OtelConfig:
    """Understand the `OTEL_*` variables of `environ`; an empty value counts as not set.

    Raises `OtelSettingsError` that lists every bad value.
    """
    values, problems = _values(environ)
    disabled = values.get("OTEL_SDK_DISABLED", False)
    exporters = {signal: "none" if disabled else _exporter(values, signal) for signal in Signal}
    targets = {
        signal: _target(values, signal, environ, problems)
        for signal, exporter in exporters.items()
        if exporter == "otlp"
    }
    if not any(bad.name.endswith("_PROTOCOL") for bad in problems):
        problems += [bad for signal, target in targets.items() for bad in _misfits(values, signal, target)]
    if problems:
        raise OtelSettingsError(tuple(dict.fromkeys(problems)))
    return OtelConfig(
        resource=_resource(values),
        sampler=_SAMPLERS[values.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")](
            values.get("OTEL_TRACES_SAMPLER_ARG", 1.0)
        ),
        span_limits=_span_limits(values),
        propagators=values.get("OTEL_PROPAGATORS", ("tracecontext", "baggage")),
        exporters=exporters,
        targets=targets,
        queues={
            Signal.TRACES: _queue(values, "OTEL_BSP", 5.0),
            Signal.LOGS: _queue(values, "OTEL_BLRP", 1.0),
        },
        metric_interval=values.get("OTEL_METRIC_EXPORT_INTERVAL", 60.0),
        metric_timeout=values.get("OTEL_METRIC_EXPORT_TIMEOUT", 30.0),
        exemplar_filter=ExemplarFilter(
            values.get("OTEL_METRICS_EXEMPLAR_FILTER", ExemplarFilter.TRACE_BASED)
        ),
        temporality=Temporality(
            values.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", Temporality.CUMULATIVE)
        ),
        unheld=_unheld(environ, values),
    )


def _values(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[BadValue]]:
    """Every variable of the table that is set, understood; and those that cannot be."""
    values: dict[str, Any] = {}
    problems = []
    for setting in SETTINGS:
        text = environ.get(setting.name, "").strip()
        if not text:
            continue
        try:
            values[setting.name] = setting.kind.parse(text)
        except (ValueError, LookupError, OSError):
            told = "***" if setting.name.endswith(_SECRET) else mask(text)
            problems.append(BadValue(setting.name, told, setting.kind.allowed))
    for prefix in ("OTEL_BSP", "OTEL_BLRP"):
        size = values.get(f"{prefix}_MAX_QUEUE_SIZE", DEFAULT_QUEUE)
        batch = values.get(f"{prefix}_MAX_EXPORT_BATCH_SIZE", 1)
        if batch > size:
            name = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
            problems.append(BadValue(name, str(batch), f"at most {prefix}_MAX_QUEUE_SIZE, which is {size}"))
    return values, problems


def _otlp_value(values: Mapping[str, Any], signal: Signal, suffix: str, default: Any = None) -> Any:
    common = values.get(f"OTEL_EXPORTER_OTLP_{suffix}", default)
    return values.get(f"OTEL_EXPORTER_OTLP_{signal.name}_{suffix}", common)


def _exporter(values: Mapping[str, Any], signal: Signal) -> str:
    named: str | None = values.get(f"OTEL_{signal.name}_EXPORTER")
    if named is not None:
        return named
    own = f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT" in values
    common = "OTEL_EXPORTER_OTLP_ENDPOINT" in values and signal is not Signal.LOGS
    return "otlp" if own or common else "none"


def _target(
    values: Mapping[str, Any], signal: Signal, environ: Mapping[str, str], problems: list[BadValue]
) -> OtlpTarget:
    protocol = _otlp_value(values, signal, "PROTOCOL", "http/protobuf")
    own = values.get(f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT")
    if protocol == "grpc":
        endpoint = own or values.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    else:
        base = values.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
        endpoint = own or f"{base.removesuffix('/')}/v1/{signal}"
    scheme, _, _ = endpoint.partition("://") if "://" in endpoint else ("", "", "")
    return OtlpTarget(
        protocol=protocol,
        endpoint=endpoint,
        headers=_otlp_value(values, signal, "HEADERS", ()),
        timeout=_otlp_value(values, signal, "TIMEOUT", 10.0),
        compression=_otlp_value(values, signal, "COMPRESSION", "none"),
        certificate=_otlp_value(values, signal, "CERTIFICATE") or environ.get("SSL_CERT_FILE") or None,
        client_key=_otlp_value(values, signal, "CLIENT_KEY"),
        client_certificate=_otlp_value(values, signal, "CLIENT_CERTIFICATE"),
        insecure=scheme == "http" or (not scheme and _otlp_value(values, signal, "INSECURE", False)),
        proxy=_proxy(endpoint, EgressRules(environ), problems),
    )


def _proxy(endpoint: str, rules: EgressRules, problems: list[BadValue]) -> EgressProxy | None:
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        return rules.proxy_for(parts.scheme, parts.hostname or "", port)
    except EgressError as error:
        problems.append(BadValue(error.name, "", error.allowed))
        return None


def _misfits(values: Mapping[str, Any], signal: Signal, target: OtlpTarget) -> list[BadValue]:
    """Values that are good alone, but not with the protocol they meet."""

    def name(suffix: str) -> str:
        own = f"OTEL_EXPORTER_OTLP_{signal.name}_{suffix}"
        return own if own in values else f"OTEL_EXPORTER_OTLP_{suffix}"

    problems = []
    if target.protocol == "grpc" and target.compression == "deflate":
        problems.append(BadValue(name("COMPRESSION"), "deflate", "gzip or none with the protocol grpc"))
    if target.protocol != "grpc" and "://" not in target.endpoint:
        told = mask(target.endpoint.removesuffix(f"/v1/{signal}"))
        problems.append(BadValue(name("ENDPOINT"), told, "an http:// or https:// URL with a host"))
    if target.protocol == "grpc" and "@" in target.endpoint:
        # gRPC knows no user there, would fail on it, and would tell the password in its complaint.
        problems.append(BadValue(name("ENDPOINT"), mask(target.endpoint), "no user with the protocol grpc"))
    if target.client_key and not target.client_certificate:
        problems.append(BadValue(name("CLIENT_KEY"), "***", "together with a CLIENT_CERTIFICATE only"))
    return problems


def _resource(values: Mapping[str, Any]) -> Resource:
    attributes: dict[str, str] = {
        "service.name": SERVICE_NAME,
        "service.version": VERSION,
        "service.instance.id": str(uuid.uuid4()),
        **dict(values.get("OTEL_RESOURCE_ATTRIBUTES", ())),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
    }
    if "OTEL_SERVICE_NAME" in values:
        attributes["service.name"] = values["OTEL_SERVICE_NAME"]
    return Resource({name: shown(value, _RESOURCE_LIMIT) for name, value in attributes.items()})


def _span_limits(values: Mapping[str, Any]) -> SpanLimits:
    """Everything is passed: what is not, the SDK would look up in the process's environment."""
    attributes = values.get("OTEL_ATTRIBUTE_COUNT_LIMIT", 128)
    length = values.get("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", SpanLimits.UNSET)
    return SpanLimits(
        max_attributes=attributes,
        max_events=values.get("OTEL_SPAN_EVENT_COUNT_LIMIT", 128),
        max_links=values.get("OTEL_SPAN_LINK_COUNT_LIMIT", 128),
        max_span_attributes=values.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_event_attributes=values.get("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_link_attributes=values.get("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_attribute_length=length,
        max_span_attribute_length=values.get("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length),
    )


def _queue(values: Mapping[str, Any], prefix: str, delay: float) -> QueueSettings:
    size = values.get(f"{prefix}_MAX_QUEUE_SIZE", DEFAULT_QUEUE)
    return QueueSettings(
        size=size,
        batch=values.get(f"{prefix}_MAX_EXPORT_BATCH_SIZE", min(512, size)),
        delay=values.get(f"{prefix}_SCHEDULE_DELAY", delay),
        timeout=values.get(f"{prefix}_EXPORT_TIMEOUT", 30.0),
    )


def _unheld(environ: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
    known = {setting.name for setting in SETTINGS}
    # What Kubernetes puts into every pod for a Service called `otel-...` is no setting, and nobody's mistake.
    services = [name.removesuffix("_SERVICE_HOST") for name in environ if name.endswith("_SERVICE_HOST")]
    injected = tuple(f"{service}{rest}" for service in services for rest in ("_SERVICE_", "_PORT"))
    unheld = sorted(
        name
        for name in environ
        if name.startswith("OTEL_") and environ[name] and name not in known and not name.startswith(injected)
    )
    if values.get(HISTOGRAM_AGGREGATION) == EXPONENTIAL:
        unheld.append(f"{HISTOGRAM_AGGREGATION}={EXPONENTIAL} (exponential histograms are not offered)")
    if "OTEL_TRACES_SAMPLER_ARG" in values and "ratio" not in values.get("OTEL_TRACES_SAMPLER", ""):
        unheld.append("OTEL_TRACES_SAMPLER_ARG (the sampler takes none)")
    return tuple(unheld)
