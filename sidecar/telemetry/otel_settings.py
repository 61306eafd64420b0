"""The standard `OTEL_*` variables that hold here, as a table, and what they ask for, understood.

Owns the rows, and the rules which signals leave and whereto. Reads only the mapping it is given, never the process's
environment. Nothing in it can stop a start: what cannot be used is named, and passed over. A variable that is not in the
table has no effect, and the start says so.
"""

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, sampling
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from sidecar import settings_values as kinds
from sidecar.core.shown import mask, shown
from sidecar.settings import Kind, Setting, Values, read_table, unknown_names
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.metric_store import Temporality
from sidecar.telemetry.metrics import ExemplarFilter
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


_RESOURCE_LIMIT = 4096
"""Characters of a resource attribute's value."""
_EXPORTERS = kinds.any_of("otlp", "console", logging="console")
_HISTOGRAM_AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
_EXPONENTIAL = "base2_exponential_bucket_histogram"


def _row(name: str, default: str, kind: Kind, meaning: str, unset: str = "") -> Setting:
    """A row. These variables are shared by everything in a namespace, so no value of them may stop a start."""
    return Setting(name, default, kind, meaning, unset, lenient=True)


def _otlp(suffix: str, default: str, kind: Kind, meaning: str, unset: str = "") -> tuple[Setting, ...]:
    """A variable for all signals, and the one of each signal that wins over it."""
    common = _row(f"OTEL_EXPORTER_OTLP_{suffix}", default, kind, meaning, unset)
    own = (
        _row(
            f"OTEL_EXPORTER_OTLP_{signal.name}_{suffix}",
            "",
            kind,
            f"the same, for {signal}",
            f"`{common.variable}`",
        )
        for signal in Signal
    )
    return (common, *own)


def _exporter(signal: Signal, what: str, condition: str) -> Setting:
    return _row(
        f"OTEL_{signal.name}_EXPORTER",
        "",
        _EXPORTERS,
        f"where {what} go: `otlp`, `console` (standard output), both, or `none`",
        f"`otlp` if {condition} is set, else `none`",
    )


def _batch(prefix: str, what: str, delay: str) -> tuple[Setting, ...]:
    size = f"{prefix}_MAX_QUEUE_SIZE"
    return (
        _row(f"{prefix}_SCHEDULE_DELAY", delay, kinds.MILLISECONDS, f"ms between two exports of {what}"),
        _row(f"{prefix}_EXPORT_TIMEOUT", "30000", kinds.TIMEOUT, f"ms that one export of {what} may take"),
        _row(size, "2048", kinds.COUNT, f"{what} that may wait; more are dropped"),
        _row(
            f"{prefix}_MAX_EXPORT_BATCH_SIZE",
            "",
            kinds.COUNT,
            f"{what} in one export",
            f"512, at most `{size}`",
        ),
    )


TABLE: tuple[Setting, ...] = (
    _row("OTEL_SDK_DISABLED", "false", kinds.TRUE_OR_FALSE, "`true`: nothing is exported"),
    _row("OTEL_SERVICE_NAME", "sidecar", kinds.TEXT, "`service.name` of the resource"),
    _row("OTEL_RESOURCE_ATTRIBUTES", "", kinds.PAIRS, "more attributes of the resource", "none"),
    _exporter(Signal.TRACES, "spans", "their endpoint"),
    _exporter(Signal.METRICS, "metrics", "their endpoint"),
    _exporter(Signal.LOGS, "log events", "`OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`"),
    *_otlp(
        "ENDPOINT",
        "",
        kinds.ENDPOINT,
        "the collector: a base URL, to which `/v1/traces` and so on are added; a signal's own is taken as it stands",
        "`http://localhost:4318`, for grpc `http://localhost:4317`",
    ),
    *_otlp("PROTOCOL", "http/protobuf", kinds.one_of("http/protobuf", "grpc"), "`http/protobuf` or `grpc`"),
    *_otlp("HEADERS", "", kinds.HEADER_PAIRS, "headers of every export, such as credentials", "none"),
    *_otlp("TIMEOUT", "10000", kinds.TIMEOUT, "ms that an export may take, with its retries"),
    *_otlp(
        "COMPRESSION",
        "none",
        kinds.one_of("gzip", "deflate", "none"),
        "`gzip`, `deflate` (HTTP only) or `none`",
    ),
    *_otlp("CERTIFICATE", "", kinds.FILE, "file of the certificates to trust", "the system's"),
    *_otlp(
        "CLIENT_KEY",
        "",
        kinds.KEY_FILE,
        "file of the private key, for mutual TLS",
        "the file of the certificate",
    ),
    *_otlp("CLIENT_CERTIFICATE", "", kinds.FILE, "file of the client's certificate, for mutual TLS", "none"),
    *_otlp("INSECURE", "false", kinds.TRUE_OR_FALSE, "grpc: no TLS, where the endpoint names no scheme"),
    _row("OTEL_TRACES_SAMPLER", "parentbased_always_on", kinds.one_of(*_SAMPLERS), "which traces are kept"),
    _row("OTEL_TRACES_SAMPLER_ARG", "1.0", kinds.SHARE, "the share of the ratio samplers, 0 to 1"),
    _row(
        "OTEL_PROPAGATORS",
        "tracecontext,baggage",
        kinds.any_of("tracecontext", "baggage"),
        "what is read from and written to requests, or `none`",
    ),
    _row("OTEL_ATTRIBUTE_COUNT_LIMIT", "128", kinds.LIMIT, "attributes of a span, event, link or log record"),
    _row(
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "", kinds.LIMIT, "characters of an attribute's value", "no limit"
    ),
    _row(
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "",
        kinds.LIMIT,
        "attributes of a span",
        "`OTEL_ATTRIBUTE_COUNT_LIMIT`",
    ),
    _row(
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "",
        kinds.LIMIT,
        "characters of a span attribute's value",
        "`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`",
    ),
    _row("OTEL_SPAN_EVENT_COUNT_LIMIT", "128", kinds.LIMIT, "events of a span"),
    _row("OTEL_SPAN_LINK_COUNT_LIMIT", "128", kinds.LIMIT, "links of a span"),
    _row(
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        "",
        kinds.LIMIT,
        "attributes of an event",
        "`OTEL_ATTRIBUTE_COUNT_LIMIT`",
    ),
    _row(
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "",
        kinds.LIMIT,
        "attributes of a link",
        "`OTEL_ATTRIBUTE_COUNT_LIMIT`",
    ),
    *_batch("OTEL_BSP", "spans", "5000"),
    *_batch("OTEL_BLRP", "log records", "1000"),
    _row(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "10000",
        kinds.INTERVAL,
        "ms between two exports of the metrics, the first of which is at the start",
    ),
    _row("OTEL_METRIC_EXPORT_TIMEOUT", "30000", kinds.TIMEOUT, "ms that one export of the metrics may take"),
    _row(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "trace_based",
        kinds.one_of(*ExemplarFilter),
        "which measurements may become exemplars",
    ),
    _row(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "cumulative",
        kinds.one_of(*Temporality),
        "whether counters and histograms leave as totals or as differences",
    ),
    _row(
        _HISTOGRAM_AGGREGATION,
        "explicit_bucket_histogram",
        kinds.one_of("explicit_bucket_histogram", _EXPONENTIAL),
        "only `explicit_bucket_histogram`: exponential histograms are not offered",
    ),
)
"""Every variable that holds."""
_ROWS = {setting.variable: setting for setting in TABLE}


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
    """None: it is in the file of the certificate."""
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
    values = read_table(TABLE, {}, environ)
    ignored = [str(one) for one in values.problems]
    disabled = values["OTEL_SDK_DISABLED"]
    otlp = {signal: _Otlp(values, signal, ignored) for signal in Signal}
    exporters = {signal: () if disabled else one.exporters() for signal, one in otlp.items()}
    targets = {signal: otlp[signal].target(environ) for signal in Signal if "otlp" in exporters[signal]}
    return OtelConfig(
        resource=_resource(values, schema_url),
        scope=InstrumentationScope("sidecar", VERSION, schema_url),
        sampler=_SAMPLERS[values["OTEL_TRACES_SAMPLER"]](values["OTEL_TRACES_SAMPLER_ARG"]),
        span_limits=_span_limits(values),
        propagators=values["OTEL_PROPAGATORS"],
        exporters=exporters,
        targets=targets,
        queues={
            Signal.TRACES: _queue(values, "OTEL_BSP", ignored),
            Signal.LOGS: _queue(values, "OTEL_BLRP", ignored),
        },
        metric_interval=values["OTEL_METRIC_EXPORT_INTERVAL"],
        metric_timeout=values["OTEL_METRIC_EXPORT_TIMEOUT"],
        exemplar_filter=ExemplarFilter(values["OTEL_METRICS_EXEMPLAR_FILTER"]),
        temporality=Temporality(values["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"]),
        unheld=_unheld(environ, values),
        ignored=tuple(dict.fromkeys(ignored)),
    )


def _sentence(name: str, value: object, reason: str) -> str:
    return str(_ROWS[name].problem(name, value, reason))


@dataclass(frozen=True, slots=True)
class _Otlp:
    """One signal's `OTEL_EXPORTER_OTLP_*` values: its own, else the common ones, less those that do not fit together."""

    values: Values
    signal: Signal
    ignored: list[str]

    def own(self, suffix: str) -> str:
        """The name of the signal's own variable."""
        return f"OTEL_EXPORTER_OTLP_{self.signal.name}_{suffix}"

    def get(self, suffix: str, *, unfit: Callable[[Any], str] = lambda _: "") -> Any:
        """A value; `unfit` says why one that is good alone cannot be used here, and it counts as not set then."""
        common = f"OTEL_EXPORTER_OTLP_{suffix}"
        for name in (self.own(suffix), common):
            if name in self.values.given:
                if not (reason := unfit(self.values[name])):
                    return self.values[name]
                self.ignored.append(_sentence(name, self.values[name], reason))
        return _ROWS[common].kind.unset if common in self.values.given else self.values[common]

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
            http = endpoint.startswith(("http://", "https://"))
            return "" if http else "an http:// or https:// URL with a host"

        endpoint: str | None = self.get("ENDPOINT", unfit=unfit)
        if endpoint is None or self.grpc or endpoint == self.values[self.own("ENDPOINT")]:
            return endpoint
        base, question, query = endpoint.partition("?")
        return f"{base.removesuffix('/')}/v1/{self.signal}{question}{query}"

    def exporters(self) -> tuple[str, ...]:
        """Where the signal goes: as it is named, else to the endpoint that is set."""
        name = f"OTEL_{self.signal.name}_EXPORTER"
        if name in self.values.given:
            named: tuple[str, ...] = self.values[name]
            return named
        endpoint = self.endpoint()
        own = endpoint == self.values[self.own("ENDPOINT")]
        return ("otlp",) if endpoint is not None and (own or self.signal is not Signal.LOGS) else ()

    def target(self, environ: Mapping[str, str]) -> OtlpTarget:
        """Whereto, and how."""
        default = "http://localhost:4317" if self.grpc else f"http://localhost:4318/v1/{self.signal}"
        endpoint = self.endpoint() or default
        plain = endpoint.startswith(("http://", "unix:"))
        key_given = self.get("CLIENT_KEY") is not None

        def unfit(path: str) -> str:
            return (
                ""
                if key_given or _holds_key(path)
                else "together with a CLIENT_KEY, or a file with its key in it"
            )

        certificate = self.get("CLIENT_CERTIFICATE", unfit=unfit)
        return OtlpTarget(
            protocol="grpc" if self.grpc else "http/protobuf",
            endpoint=endpoint,
            headers=self.get("HEADERS"),
            timeout=self.get("TIMEOUT"),
            compression=self.get("COMPRESSION", unfit=self._unfit_compression) or "none",
            certificate=self.get("CERTIFICATE"),
            client_key=self.get(
                "CLIENT_KEY", unfit=lambda _: "" if certificate else "together with a CLIENT_CERTIFICATE only"
            ),
            client_certificate=certificate,
            insecure=plain or ("://" not in endpoint and self.get("INSECURE")),
            proxy=_proxy(endpoint, EgressRules(environ)),
        )

    def _unfit_compression(self, word: str) -> str:
        return "gzip or none with the protocol grpc" if self.grpc and word == "deflate" else ""


def _holds_key(path: str) -> bool:
    with suppress(OSError):
        return b"PRIVATE KEY-----" in Path(path).read_bytes()
    return False


def _proxy(endpoint: str, rules: EgressRules) -> EgressProxy | None:
    if endpoint.startswith("unix:"):
        return None
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return rules.proxy_for(parts.scheme, parts.hostname or "", port)


def _resource(values: Values, schema_url: str) -> Resource:
    attributes: dict[str, str] = {
        "service.name": values["OTEL_SERVICE_NAME"],
        "service.version": VERSION,
        "service.instance.id": str(uuid.uuid4()),
        **dict(values["OTEL_RESOURCE_ATTRIBUTES"]),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
    }
    if "OTEL_SERVICE_NAME" in values.given:
        attributes["service.name"] = values["OTEL_SERVICE_NAME"]
    return Resource({name: shown(value, _RESOURCE_LIMIT) for name, value in attributes.items()}, schema_url)


def _span_limits(values: Values) -> SpanLimits:
    """Everything is passed: what is not, the SDK would look up in the process's environment."""

    def limit(name: str, otherwise: int | None) -> Any:
        return values[name] if name in values.given else otherwise

    attributes = values["OTEL_ATTRIBUTE_COUNT_LIMIT"]
    length = limit("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", SpanLimits.UNSET)
    return SpanLimits(
        max_attributes=attributes,
        max_events=values["OTEL_SPAN_EVENT_COUNT_LIMIT"],
        max_links=values["OTEL_SPAN_LINK_COUNT_LIMIT"],
        max_span_attributes=limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_event_attributes=limit("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_link_attributes=limit("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_attribute_length=length,
        max_span_attribute_length=limit("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length),
    )


def _queue(values: Values, prefix: str, ignored: list[str]) -> QueueSettings:
    size = values[f"{prefix}_MAX_QUEUE_SIZE"]
    name = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
    batch = values[name] if name in values.given else min(512, size)
    if batch > size:
        ignored.append(_sentence(name, batch, f"at most {prefix}_MAX_QUEUE_SIZE, which is {size}"))
        batch = size
    return QueueSettings(
        size=size,
        batch=batch,
        delay=values[f"{prefix}_SCHEDULE_DELAY"],
        timeout=values[f"{prefix}_EXPORT_TIMEOUT"],
    )


def _unheld(environ: Mapping[str, str], values: Values) -> tuple[str, ...]:
    unheld = [name for name in unknown_names(TABLE, "OTEL_", environ) if environ[name]]
    if values[_HISTOGRAM_AGGREGATION] == _EXPONENTIAL:
        unheld.append(f"{_HISTOGRAM_AGGREGATION}={_EXPONENTIAL} (exponential histograms are not offered)")
    if "OTEL_TRACES_SAMPLER_ARG" in values.given and "ratio" not in values["OTEL_TRACES_SAMPLER"]:
        unheld.append("OTEL_TRACES_SAMPLER_ARG (the sampler takes none)")
    return tuple(unheld)
