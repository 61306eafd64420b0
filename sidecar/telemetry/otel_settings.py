"""The standard `OTEL_*` variables: what they ask for, understood.

Owns the rules which signals leave and whereto; the names are in `otel_table.py`. Reads only the mapping it is given,
never the process's environment. Nothing in it can stop a start: what cannot be used is named, and passed over.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, sampling
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from sidecar.core.shown import mask, shown
from sidecar.settings import service_links
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.metric_store import ExemplarFilter, Temporality
from sidecar.telemetry.otel_table import EXPONENTIAL, HISTOGRAM_AGGREGATION, SERVICE_NAME, SETTINGS
from sidecar.version import VERSION
from sidecar.ways_out import EgressProxy, EgressRules

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
    """Trusted in place of what the system trusts."""
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
    scope: InstrumentationScope
    sampler: sampling.Sampler
    span_limits: SpanLimits
    propagators: tuple[str, ...]
    """Of `tracecontext` and `baggage`."""
    exporters: Mapping[Signal, tuple[str, ...]]
    """Per signal `otlp` and `console`, one of them or both; empty where it goes nowhere."""
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
    """Names that are set and have no effect, with the reason where there is one to tell."""
    ignored: tuple[str, ...]
    """A sentence for each value that cannot be used, and is passed over."""

    def exports(self, signal: Signal) -> bool:
        """Whether this signal goes anywhere."""
        return bool(self.exporters[signal])

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
        return (*told, *self.ignored)


def read(environ: Mapping[str, str], schema_url: str = "") -> OtelConfig:
    """Understand the `OTEL_*` variables of `environ`; an empty value counts as not set.

    They are shared by everything in a namespace, so nothing in them can be an error: what cannot be used counts as not
    set, as OpenTelemetry's specification asks, and `ignored` says so. `schema_url` is the resource's.
    """
    ignored: list[str] = []
    values = _values(environ, ignored)
    disabled = values.get("OTEL_SDK_DISABLED", False)
    otlp = {signal: _Otlp(values, signal, ignored) for signal in Signal}
    exporters = {signal: () if disabled else one.exporters() for signal, one in otlp.items()}
    targets = {signal: otlp[signal].target(environ) for signal in Signal if "otlp" in exporters[signal]}
    return OtelConfig(
        resource=_resource(values, schema_url),
        scope=InstrumentationScope("sidecar", VERSION, schema_url),
        sampler=_SAMPLERS[values.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")](
            values.get("OTEL_TRACES_SAMPLER_ARG", 1.0)
        ),
        span_limits=_span_limits(values),
        propagators=values.get("OTEL_PROPAGATORS", ("tracecontext", "baggage")),
        exporters=exporters,
        targets=targets,
        queues={
            Signal.TRACES: _queue(values, "OTEL_BSP", 5.0, ignored),
            Signal.LOGS: _queue(values, "OTEL_BLRP", 1.0, ignored),
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
        ignored=tuple(dict.fromkeys(ignored)),
    )


def _values(environ: Mapping[str, str], ignored: list[str]) -> dict[str, Any]:
    """Every variable of the table that is set and can be used; `ignored` gets a sentence for each other."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environ.get(setting.name, "").strip()
        members = [one.strip() for one in text.split(",")] if setting.kind.members else [text]
        good = []
        for member in filter(None, members):
            try:
                good.append(setting.kind.parse(member))
            except (ValueError, LookupError, OSError):
                told = "***" if setting.name.endswith(_SECRET) else mask(member)
                ignored.append(_sentence(setting.name, told, setting.kind.allowed))
        if good:
            values[setting.name] = tuple(dict.fromkeys(good)) if setting.kind.members else good[0]
    for name, value in values.items():
        if isinstance(value, tuple) and "none" in value:
            values[name] = tuple(one for one in value if one != "none")
    return values


def _sentence(name: str, told: str, allowed: str) -> str:
    return f"{name}={told} is ignored: {allowed}"


@dataclass(frozen=True, slots=True)
class _Otlp:
    """One signal's `OTEL_EXPORTER_OTLP_*` values: its own, else the common ones, less those that do not fit together."""

    values: Mapping[str, Any]
    signal: Signal
    ignored: list[str]

    def own(self, suffix: str) -> str:
        """The name of the signal's own variable."""
        return f"OTEL_EXPORTER_OTLP_{self.signal.name}_{suffix}"

    def get(self, suffix: str, default: Any = None, *, unfit: Callable[[Any], str] = lambda _: "") -> Any:
        """A value; `unfit` says why one that is good alone cannot be used here, and it counts as not set then."""
        for name in (self.own(suffix), f"OTEL_EXPORTER_OTLP_{suffix}"):
            if name in self.values:
                if not (reason := unfit(self.values[name])):
                    return self.values[name]
                told = "***" if name.endswith(_SECRET) else mask(str(self.values[name]))
                self.ignored.append(_sentence(name, told, reason))
        return default

    @property
    def grpc(self) -> bool:
        """Whether the protocol is grpc."""
        return bool(self.get("PROTOCOL") == "grpc")

    def endpoint(self) -> str | None:
        """The full URL, or for grpc the target; None where none is set."""

        def unfit(endpoint: str) -> str:
            if (
                self.grpc
            ):  # it knows no user there, would fail on it, and would tell the password in its complaint
                return "no user with the protocol grpc" if "@" in endpoint else ""
            return "" if "://" in endpoint else "an http:// or https:// URL with a host"

        endpoint: str | None = self.get("ENDPOINT", unfit=unfit)
        if endpoint is None or self.grpc or endpoint == self.values.get(self.own("ENDPOINT")):
            return endpoint
        base, question, query = endpoint.partition("?")
        return f"{base.removesuffix('/')}/v1/{self.signal}{question}{query}"

    def exporters(self) -> tuple[str, ...]:
        """Where the signal goes: as it is named, else to the endpoint that is set."""
        named: tuple[str, ...] | None = self.values.get(f"OTEL_{self.signal.name}_EXPORTER")
        if named is not None:
            return named
        endpoint = self.endpoint()
        own = endpoint == self.values.get(self.own("ENDPOINT"))
        return ("otlp",) if endpoint is not None and (own or self.signal is not Signal.LOGS) else ()

    def target(self, environ: Mapping[str, str]) -> OtlpTarget:
        """Whereto, and how."""
        default = "http://localhost:4317" if self.grpc else f"http://localhost:4318/v1/{self.signal}"
        endpoint = self.endpoint() or default
        plain = endpoint.startswith(("http://", "unix:"))
        certificate = self.get("CLIENT_CERTIFICATE")
        return OtlpTarget(
            protocol="grpc" if self.grpc else "http/protobuf",
            endpoint=endpoint,
            headers=self.get("HEADERS", ()),
            timeout=self.get("TIMEOUT", 10.0),
            compression=self.get("COMPRESSION", "none", unfit=self._unfit_compression),
            certificate=self.get("CERTIFICATE"),
            client_key=self.get(
                "CLIENT_KEY", unfit=lambda _: "" if certificate else "together with a CLIENT_CERTIFICATE only"
            ),
            client_certificate=certificate,
            insecure=plain or ("://" not in endpoint and self.get("INSECURE", default=False)),
            proxy=_proxy(endpoint, EgressRules(environ)),
        )

    def _unfit_compression(self, word: str) -> str:
        return "gzip or none with the protocol grpc" if self.grpc and word == "deflate" else ""


def _proxy(endpoint: str, rules: EgressRules) -> EgressProxy | None:
    if endpoint.startswith("unix:"):
        return None
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return rules.proxy_for(parts.scheme, parts.hostname or "", port)


def _resource(values: Mapping[str, Any], schema_url: str) -> Resource:
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
    return Resource({name: shown(value, _RESOURCE_LIMIT) for name, value in attributes.items()}, schema_url)


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


def _queue(values: Mapping[str, Any], prefix: str, delay: float, ignored: list[str]) -> QueueSettings:
    size = values.get(f"{prefix}_MAX_QUEUE_SIZE", DEFAULT_QUEUE)
    name = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
    batch = values.get(name, min(512, size))
    if batch > size:
        ignored.append(_sentence(name, str(batch), f"at most {prefix}_MAX_QUEUE_SIZE, which is {size}"))
        batch = size
    return QueueSettings(
        size=size,
        batch=batch,
        delay=values.get(f"{prefix}_SCHEDULE_DELAY", delay),
        timeout=values.get(f"{prefix}_EXPORT_TIMEOUT", 30.0),
    )


def _unheld(environ: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
    known = {setting.name for setting in SETTINGS}
    others = {name for name in environ if name.startswith("OTEL_") and environ[name]} - known
    unheld = sorted(others - service_links(environ, "OTEL_"))
    if values.get(HISTOGRAM_AGGREGATION) == EXPONENTIAL:
        unheld.append(f"{HISTOGRAM_AGGREGATION}={EXPONENTIAL} (exponential histograms are not offered)")
    if "OTEL_TRACES_SAMPLER_ARG" in values and "ratio" not in values.get("OTEL_TRACES_SAMPLER", ""):
        unheld.append("OTEL_TRACES_SAMPLER_ARG (the sampler takes none)")
    return tuple(unheld)
