"""What each `OTEL_*` variable of the specification does here, whatever stands in it: the table of docs/environment.md.

Owns the list of variables and values that are tried, and the words for what came of it. `python -m
tests.telemetry.environment` writes the table anew; a test holds the page to it.
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from sidecar import settings_values as v
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.otel_settings import TABLE, OtelConfig, read

PAGE = Path(__file__).parents[2] / "docs" / "environment.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"

UNHELD = (
    "OTEL_LOG_LEVEL",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT",
    "OTEL_EXPORTER_ZIPKIN_PROTOCOL",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_EXPERIMENTAL_CONFIG_FILE",
    "OTEL_CONFIG_FILE",
    "OTEL_ENTITIES",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
    "OTEL_PYTHON_LOG_CORRELATION",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
)
"""Variables of the specification, of the conventions and of instrumentations that have no effect here."""

ALONG = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": __file__,
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": __file__,
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_TRACES_SAMPLER": "traceidratio",
}
"""What is set beside the variable that is tried."""

_FILES = ((str(Path(v.__file__)),), ("/nowhere/ca.pem",), ("/", "\0"))
VALUES: dict[v.Kind, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    v.TRUE_OR_FALSE: (("true",), ("1", "yes"), ("maybe",)),
    v.COUNT: (("7",), ("0", "1_000"), ("-1", "9" * 40)),
    v.LIMIT: (("7",), ("1.5", "none"), ("-1", "9" * 40)),
    v.MILLISECONDS: (("250",), ("5s", "0"), ("-1", "9" * 40)),
    v.INTERVAL: (("250",), ("5s", "0"), ("-1", "9" * 40)),
    v.TIMEOUT: (("250",), ("10s", "0"), ("-1", "9" * 40)),
    v.SHARE: (("0.25",), ("25%", "2"), ("nan", "-1")),
    v.ENDPOINT: (
        ("http://other:1/x", "http://other/?q=1"),
        ("collector", "ftp://c"),
        ("http://", "http://c:port"),
    ),
    v.HEADER_PAIRS: (("a=b",), ("a=b,c", "a"), ("=", "a=%00")),
    v.PAIRS: (("team=a",), ("team=a,prod",), ("=", "a=%ff")),
    v.FILE: _FILES,
    v.KEY_FILE: _FILES,
    v.TEXT: (("front",), (" front ",), ("x" * 300,)),
}
"""For each kind: valid values, odd ones, absurd ones."""

_EXPORTERS = (("console",), ("otlp,console", "logging", "zipkin"), (",", "console,none"))
OWN_VALUES = {
    "OTEL_PROPAGATORS": (("baggage",), ("tracecontext,b3", "b3"), (",", "none,none")),
    "OTEL_TRACES_EXPORTER": _EXPORTERS,
    "OTEL_LOGS_EXPORTER": _EXPORTERS,
    "OTEL_EXPORTER_OTLP_PROTOCOL": (("grpc",), ("http/json", "GRPC"), ("pigeon",)),
    "OTEL_TRACES_SAMPLER": (("always_off",), ("xray", "jaeger_remote"), ("sometimes",)),
    "OTEL_METRICS_EXPORTER": (("console",), ("otlp,console", "prometheus"), (",", "console,none")),
    "OTEL_METRICS_EXEMPLAR_FILTER": (("always_off",), ("all",), ("?",)),
    "OTEL_EXPORTER_OTLP_COMPRESSION": (("gzip",), ("zstd",), ("?",)),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": (("delta",), ("DELTA",), ("?",)),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        ("base2_exponential_bucket_histogram",),
        ("exponential",),
        ("?",),
    ),
}


def _same(one: OtelConfig, other: OtelConfig) -> bool:
    def shown(config: OtelConfig) -> list[str]:
        attributes = dict(config.resource.attributes)
        attributes.pop("service.instance.id")
        told = [str(attributes), str({s: t.headers for s, t in config.targets.items()})]
        limits = config.span_limits
        told += [str(vars(limits)), config.sampler.get_description()]
        kept = {"resource", "span_limits", "sampler", "ignored", "unheld"}
        return told + [repr(getattr(config, one.name)) for one in fields(config) if one.name not in kept]

    return shown(one) == shown(other)


def outcome(name: str, value: str) -> str:
    """What comes of this value, in a word or two."""
    without = {key: text for key, text in ALONG.items() if key != name}
    base, config = read(without), read({**without, name: value})
    told = [line for line in config.ignored if line not in base.ignored]
    named = [line for line in config.unheld if line not in base.unheld]
    changed = not _same(base, config)
    if told:
        return "partly used, the rest named" if changed else "named, as if not set"
    if named:
        return "named, no effect"
    return "used" if changed else "as if not set"


def cases() -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    """Every variable, with the values to try: valid, empty, odd, absurd."""
    for setting in TABLE:
        common = setting.variable
        for signal in Signal:
            common = common.replace(f"_OTLP_{signal.name}_", "_OTLP_") if common not in OWN_VALUES else common
        valid, odd, absurd = OWN_VALUES.get(common) or VALUES[setting.kind]
        yield setting.variable, (valid, ("", " "), odd, absurd)
    for name in UNHELD:
        yield name, (("1",), ("",), ("x",), ("\0",))


def _cell(name: str, values: tuple[str, ...]) -> str:
    said = []
    for value in values:
        shown = (
            "a file" if value == str(Path(v.__file__)) else value if len(value) < 40 else value[:6] + "..."
        )
        shown = shown.replace("\0", "NUL").replace("|", "\\|")
        said.append(f"{f'`{shown}`: ' if value.strip() else ''}{outcome(name, value)}")
    return "; ".join(dict.fromkeys(said))


def table() -> str:
    """The page's table."""
    rows = ["| variable | valid | empty | odd | absurd |", "| --- | --- | --- | --- | --- |"]
    for name, columns in cases():
        rows.append(f"| `{name}` | " + " | ".join(_cell(name, values) for values in columns) + " |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
