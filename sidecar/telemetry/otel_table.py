"""The table of the standard `OTEL_*` variables that hold here: name, meaning, default, what is allowed.

Owns nothing but the rows: the table in docs/settings.md is made from them, and `otel_settings.py` reads by them.
A variable that is not here has no effect, and the start says so.
"""

from dataclasses import dataclass

from sidecar.telemetry import otel_values as v
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.metric_store import ExemplarFilter, Temporality
from sidecar.telemetry.otel_values import Kind

SERVICE_NAME = "sidecar"


@dataclass(frozen=True, slots=True)
class OtelSetting:
    """One row of the table."""

    name: str
    meaning: str
    default: str
    kind: Kind


def _otlp(suffix: str, meaning: str, default: str, kind: Kind) -> tuple[OtelSetting, ...]:
    """A variable for all signals, and the one of each signal that wins over it."""
    common = OtelSetting(f"OTEL_EXPORTER_OTLP_{suffix}", meaning, default, kind)
    own = (
        OtelSetting(
            f"OTEL_EXPORTER_OTLP_{signal.name}_{suffix}", f"the same, for {signal}", f"`{common.name}`", kind
        )
        for signal in Signal
    )
    return (common, *own)


_EXPORTERS = "where {0} go: `otlp`, `console` (standard output), both, or `none`"
_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
HISTOGRAM_AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
EXPONENTIAL = "base2_exponential_bucket_histogram"


def _batch(prefix: str, what: str, delay: str) -> tuple[OtelSetting, ...]:
    return (
        OtelSetting(f"{prefix}_SCHEDULE_DELAY", f"ms between two exports of {what}", delay, v.DURATION),
        OtelSetting(f"{prefix}_EXPORT_TIMEOUT", f"ms that one export of {what} may take", "30000", v.TIMEOUT),
        OtelSetting(f"{prefix}_MAX_QUEUE_SIZE", f"{what} that may wait; more are dropped", "2048", v.COUNT),
        OtelSetting(f"{prefix}_MAX_EXPORT_BATCH_SIZE", f"{what} in one export", "512", v.COUNT),
    )


SETTINGS: tuple[OtelSetting, ...] = (
    OtelSetting("OTEL_SDK_DISABLED", "`true`: nothing is exported", "false", v.SWITCH),
    OtelSetting("OTEL_SERVICE_NAME", "`service.name` of the resource", SERVICE_NAME, v.TEXT),
    OtelSetting("OTEL_RESOURCE_ATTRIBUTES", "more attributes of the resource", "none", v.ATTRIBUTES),
    OtelSetting(
        "OTEL_TRACES_EXPORTER",
        _EXPORTERS.format("spans"),
        "`otlp` if their endpoint is set, else `none`",
        v.EXPORTERS,
    ),
    OtelSetting(
        "OTEL_METRICS_EXPORTER",
        _EXPORTERS.format("metrics"),
        "`otlp` if their endpoint is set, else `none`",
        v.EXPORTERS,
    ),
    OtelSetting(
        "OTEL_LOGS_EXPORTER",
        _EXPORTERS.format("log events"),
        "`otlp` if `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` is set, else `none`",
        v.EXPORTERS,
    ),
    *_otlp(
        "ENDPOINT",
        "the collector: a base URL, to which `/v1/traces` and so on are added; a signal's own is taken as it stands",
        "`http://localhost:4318`, for grpc `http://localhost:4317`",
        v.ENDPOINT,
    ),
    *_otlp("PROTOCOL", "`http/protobuf` or `grpc`", "`http/protobuf`", v.PROTOCOL),
    *_otlp("HEADERS", "headers of every export, such as credentials", "none", v.HEADERS),
    *_otlp("TIMEOUT", "ms that an export may take, with its retries", "10000", v.TIMEOUT),
    *_otlp(
        "COMPRESSION", "`gzip`, `deflate` (HTTP only) or `none`", "none", v.one_of("gzip", "deflate", "none")
    ),
    *_otlp("CERTIFICATE", "file of the certificates to trust", "the system's", v.FILE),
    *_otlp("CLIENT_KEY", "file of the private key, for mutual TLS", "none", v.FILE),
    *_otlp("CLIENT_CERTIFICATE", "file of the client's certificate, for mutual TLS", "none", v.FILE),
    *_otlp("INSECURE", "grpc: no TLS, where the endpoint names no scheme", "false", v.SWITCH),
    OtelSetting(
        "OTEL_TRACES_SAMPLER", "which traces are kept", "parentbased_always_on", v.one_of(*_SAMPLERS)
    ),
    OtelSetting("OTEL_TRACES_SAMPLER_ARG", "the share of the ratio samplers, 0 to 1", "1.0", v.SHARE),
    OtelSetting(
        "OTEL_PROPAGATORS",
        "what is read from and written to requests, or `none`",
        "tracecontext,baggage",
        v.PROPAGATORS,
    ),
    OtelSetting(
        "OTEL_ATTRIBUTE_COUNT_LIMIT", "attributes of a span, event, link or log record", "128", v.LIMIT
    ),
    OtelSetting(
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "characters of an attribute's value", "no limit", v.LIMIT
    ),
    OtelSetting(
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "attributes of a span", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", v.LIMIT
    ),
    OtelSetting(
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "characters of a span attribute's value",
        "`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`",
        v.LIMIT,
    ),
    OtelSetting("OTEL_SPAN_EVENT_COUNT_LIMIT", "events of a span", "128", v.LIMIT),
    OtelSetting("OTEL_SPAN_LINK_COUNT_LIMIT", "links of a span", "128", v.LIMIT),
    OtelSetting(
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "attributes of an event", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", v.LIMIT
    ),
    OtelSetting(
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "attributes of a link", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", v.LIMIT
    ),
    *_batch("OTEL_BSP", "spans", "5000"),
    *_batch("OTEL_BLRP", "log records", "1000"),
    OtelSetting("OTEL_METRIC_EXPORT_INTERVAL", "ms between two exports of the metrics", "60000", v.INTERVAL),
    OtelSetting(
        "OTEL_METRIC_EXPORT_TIMEOUT", "ms that one export of the metrics may take", "30000", v.TIMEOUT
    ),
    OtelSetting(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "which measurements may become exemplars",
        "trace_based",
        v.one_of(*ExemplarFilter),
    ),
    OtelSetting(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "whether counters and histograms leave as totals or as differences",
        "cumulative",
        v.one_of(*Temporality),
    ),
    OtelSetting(
        HISTOGRAM_AGGREGATION,
        "only `explicit_bucket_histogram`: exponential histograms are not offered",
        "explicit_bucket_histogram",
        v.one_of("explicit_bucket_histogram", EXPONENTIAL),
    ),
)
"""Every variable that holds."""
