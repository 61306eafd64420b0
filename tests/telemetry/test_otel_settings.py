"""Each row of the table of `OTEL_*` variables does what it says, and what cannot be used is named and passed over."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits, sampling

from sidecar.settings import TABLE as OURS
from sidecar.settings import read_table
from sidecar.settings_values import ENDPOINT as ENDPOINT_KIND
from sidecar.settings_values import HEADER_PAIRS
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.otel_settings import TABLE, OtelConfig, QueueSettings, read
from tests.telemetry import environment

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
LOGS = {"OTEL_LOGS_EXPORTER": "otlp"}


def _target(name: str) -> Callable[[OtelConfig], Any]:
    return lambda config: {getattr(target, name) for target in config.targets.values()}


def _queue(signal: Signal, name: str) -> Callable[[OtelConfig], Any]:
    return lambda config: getattr(config.queues[signal], name)


def _limit(name: str) -> Callable[[OtelConfig], Any]:
    return lambda config: getattr(config.span_limits, name)


def _exporter(signal: Signal) -> Callable[[OtelConfig], Any]:
    return lambda config: config.exporters[signal]


def _own(signal: Signal, name: str) -> Callable[[OtelConfig], Any]:
    return lambda config: getattr(config.targets[signal], name)


THIS = __file__
NO_KEY = environment.__file__
"""Nothing in it looks like a private key, as something in this file does."""

ROWS: dict[str, tuple[str, Callable[[OtelConfig], Any], Any]] = {
    "OTEL_SDK_DISABLED": ("true", lambda config: config.off, True),
    "OTEL_SERVICE_NAME": ("front", lambda config: config.resource.attributes["service.name"], "front"),
    "OTEL_RESOURCE_ATTRIBUTES": (
        "team=a%20b,service.name=loser",
        lambda config: config.resource.attributes.get("team"),
        "a b",
    ),
    "OTEL_TRACES_EXPORTER": ("console,otlp", _exporter(Signal.TRACES), ("console", "otlp")),
    "OTEL_METRICS_EXPORTER": ("none", _exporter(Signal.METRICS), ()),
    "OTEL_LOGS_EXPORTER": ("otlp", _exporter(Signal.LOGS), ("otlp",)),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "https://c:1/base/",
        _target("endpoint"),
        {"https://c:1/base/v1/traces", "https://c:1/base/v1/metrics", "https://c:1/base/v1/logs"},
    ),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc", _target("protocol"), {"grpc"}),
    "OTEL_EXPORTER_OTLP_HEADERS": (
        "Authorization=Bearer%20x, b=2",
        _target("headers"),
        {(("authorization", "Bearer x"), ("b", "2"))},
    ),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("2500", _target("timeout"), {2.5}),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("gzip", _target("compression"), {"gzip"}),
    "OTEL_EXPORTER_OTLP_CERTIFICATE": (THIS, _target("certificate"), {THIS}),
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": (THIS, _target("client_key"), {THIS}),
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": (THIS, _target("client_certificate"), {THIS}),
    "OTEL_EXPORTER_OTLP_INSECURE": ("true", _target("insecure"), {True}),
    "OTEL_TRACES_SAMPLER": ("always_off", lambda config: config.sampler, sampling.ALWAYS_OFF),
    "OTEL_TRACES_SAMPLER_ARG": ("0.25", lambda config: getattr(config.sampler, "rate", None), 0.25),
    "OTEL_PROPAGATORS": ("baggage", lambda config: config.propagators, ("baggage",)),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("5", _limit("max_event_attributes"), 5),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("6", _limit("max_span_attribute_length"), 6),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("7", _limit("max_span_attributes"), 7),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("8", _limit("max_span_attribute_length"), 8),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("9", _limit("max_events"), 9),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("0", _limit("max_links"), 0),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": ("11", _limit("max_event_attributes"), 11),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": ("12", _limit("max_link_attributes"), 12),
    "OTEL_BSP_SCHEDULE_DELAY": ("250", _queue(Signal.TRACES, "delay"), 0.25),
    "OTEL_BSP_EXPORT_TIMEOUT": ("1500", _queue(Signal.TRACES, "timeout"), 1.5),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("100", _queue(Signal.TRACES, "size"), 100),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("20", _queue(Signal.TRACES, "batch"), 20),
    "OTEL_BLRP_SCHEDULE_DELAY": ("250", _queue(Signal.LOGS, "delay"), 0.25),
    "OTEL_BLRP_EXPORT_TIMEOUT": ("1500", _queue(Signal.LOGS, "timeout"), 1.5),
    "OTEL_BLRP_MAX_QUEUE_SIZE": ("100", _queue(Signal.LOGS, "size"), 100),
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": ("20", _queue(Signal.LOGS, "batch"), 20),
    "OTEL_METRIC_EXPORT_INTERVAL": ("1000", lambda config: config.metric_interval, 1.0),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("2000", lambda config: config.metric_timeout, 2.0),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("always_off", lambda config: config.exemplar_filter, "always_off"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": (
        "Delta",
        lambda config: config.temporality,
        "delta",
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "base2_exponential_bucket_histogram",
        lambda config: "exponential histograms are not offered" in config.unheld[0],
        True,
    ),
}
"""Per variable: a value, where it shows, and as what. Those of one signal are made from the common ones."""

ALONG: dict[str, dict[str, str]] = {
    "OTEL_TRACES_SAMPLER_ARG": {"OTEL_TRACES_SAMPLER": "traceidratio"},
    "OTEL_EXPORTER_OTLP_INSECURE": {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317",
    },
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": {"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": THIS},
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": {"OTEL_EXPORTER_OTLP_CLIENT_KEY": THIS},
}
"""What else must be set for a variable to show."""


def _row(name: str) -> tuple[str, Callable[[OtelConfig], Any], Any, dict[str, str]]:
    if name in ROWS:
        return (*ROWS[name], ALONG.get(name, {}))
    signal = next(signal for signal in Signal if f"_{signal.name}_" in name)
    common = name.replace(f"_{signal.name}_", "_")
    value, _, wanted = ROWS[common]
    if common.endswith("_ENDPOINT"):
        return "http://own:9/path", _own(signal, "endpoint"), "http://own:9/path", {}
    (one,) = wanted
    return value, _own(signal, common.removeprefix("OTEL_EXPORTER_OTLP_").lower()), one, ALONG.get(common, {})


@pytest.mark.parametrize("name", [setting.variable for setting in TABLE])
def test_every_row_of_the_table_holds(name: str) -> None:
    """A variable that is in the table changes what it says it changes, and nothing without it does."""
    value, shown, wanted, along = _row(name)
    without = {**ENDPOINT, **LOGS, **along}
    without.pop(name, None)
    assert shown(read({**ENDPOINT, **LOGS, **along, name: value})) == wanted
    if name not in {"OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"}:
        assert shown(read({**without, name: ""})) != wanted


def test_rows_say_meaning_default_and_what_is_allowed() -> None:
    """The documents' table can be made from the rows; each name stands once."""
    names = [setting.variable for setting in TABLE]
    assert len(names) == len(set(names))
    assert all(setting.meaning and setting.kind.allowed for setting in TABLE)
    assert all(bool(setting.default) != bool(setting.unset) for setting in TABLE)


def test_defaults_are_written_as_values_are() -> None:
    """A default is a text that an operator could give, with the same result; what has none says in words what holds."""
    written = {setting.variable: setting.default for setting in TABLE if setting.default}
    given, silent = read_table(TABLE, {}, written), read_table(TABLE, {}, {})
    assert not given.problems
    assert given.given == {*written}
    assert not silent.given
    assert given.values == silent.values


def test_nothing_of_the_table_can_stop_a_start() -> None:
    """These variables are shared by everything in a namespace."""
    assert all(setting.lenient for setting in TABLE)
    assert not any(setting.lenient for setting in OURS)


def test_nothing_set_means_off() -> None:
    """Without an endpoint and without a word which exporter, nothing leaves, and one line says so."""
    config = read({})
    assert config.off
    assert config.targets == {}
    (line,) = config.lines()
    assert "export is off" in line
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line


@pytest.mark.parametrize(
    "environ, on",
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, {"traces", "metrics"}),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_LOGS_EXPORTER": "otlp"},
            {"traces", "metrics", "logs"},
        ),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c:4318"}, {"logs"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, {"traces"}),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {"traces"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, {"metrics"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, set()),
    ],
)
def test_which_signals_leave(environ: dict[str, str], on: set[str]) -> None:
    """An endpoint alone turns on traces and metrics; logs want a word or an endpoint of their own."""
    config = read(environ)
    assert {signal.value for signal in Signal if config.exports(signal)} == on
    assert config.off is not bool(on)


@pytest.mark.parametrize(
    "environ, endpoint, insecure",
    [
        ({}, "http://localhost:4318/v1/traces", True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://localhost:4317", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c"}, "https://c/v1/traces", False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "c:4317", False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "HTTP://C"}, "http://C/v1/traces", True),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "Http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http://c",
            True,
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "HTTPS://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "https://c",
            False,
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/x"},
            "https://t/x",
            False,
        ),
    ],
)
def test_where_traces_go(environ: dict[str, str], endpoint: str, insecure: bool) -> None:
    """The path is added to a common base only; a signal's own endpoint stands as it is."""
    target = read({"OTEL_TRACES_EXPORTER": "otlp", **environ}).targets[Signal.TRACES]
    assert (target.endpoint, target.insecure) == (endpoint, insecure)


@pytest.mark.parametrize(
    "endpoint, shown",
    [
        ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
        ("https://user:secret@otlp.example/v1/traces", "***@otlp.example/v1/traces"),
    ],
)
def test_an_endpoint_is_shown_without_credentials(endpoint: str, shown: str) -> None:
    """What a log line may say of it."""
    config = read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint})
    assert config.targets[Signal.TRACES].shown == shown


@pytest.mark.parametrize(
    "environ, proxy",
    [
        ({"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "example.org, .internal"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "nal"}, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "c.internal:4318"}, None),
    ],
)
def test_proxies_on_the_way_to_the_collector(environ: dict[str, str], proxy: str | None) -> None:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold, and come from the mapping."""
    config = read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c.internal:4318", **environ})
    found = config.targets[Signal.TRACES].proxy
    assert (found.url if found else None) == proxy


def test_defaults_are_those_of_the_specification() -> None:
    """Queue, limits, sampler, propagators without a word; but metrics leave every 10 s, not once a minute."""
    config = read({})
    assert config.queues == {
        Signal.TRACES: QueueSettings(2048, 512, 5.0, 30.0),
        Signal.LOGS: QueueSettings(2048, 512, 1.0, 30.0),
    }
    limits = config.span_limits
    assert (limits.max_span_attributes, limits.max_events, limits.max_links) == (128, 128, 128)
    assert limits.max_attribute_length is None
    assert config.sampler is sampling.DEFAULT_ON
    assert config.propagators == ("tracecontext", "baggage")
    assert (config.metric_interval, config.metric_timeout) == (10.0, 30.0)


def test_the_resource_names_the_service_and_the_instance() -> None:
    """`service.instance.id` is new with every start; the operator's word wins over ours, but not over the SDK's."""
    one, two = read({}).resource.attributes, read({}).resource.attributes
    assert one["service.name"] == "sidecar"
    assert one["service.instance.id"] != two["service.instance.id"]
    assert (one["telemetry.sdk.language"], one["telemetry.sdk.name"]) == ("python", "opentelemetry")
    given = read(
        {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-7,telemetry.sdk.name=x,service.name=y"}
    )
    assert given.resource.attributes["service.instance.id"] == "pod-7"
    assert given.resource.attributes["telemetry.sdk.name"] == "opentelemetry"
    assert given.resource.attributes["service.name"] == "y"


def test_the_process_environment_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set in the process but not in the mapping has no effect, not even through the SDK's classes."""
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b")
    config = read({"OTEL_TRACES_SAMPLER": "traceidratio"})
    assert config.span_limits.max_events == 128
    assert config.span_limits.max_attribute_length is None
    assert config.sampler.rate == 1.0  # type: ignore[attr-defined]
    assert "a" not in config.resource.attributes
    assert isinstance(config.span_limits, SpanLimits)


def test_what_cannot_be_used_is_named_and_passed_over() -> None:
    """One sentence each, with name, value and what is allowed; no credential is repeated, and the rest holds."""
    config = read(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "collector",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ftp://x",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=b,secret",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "10s",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": "-----BEGIN PRIVATE KEY----- secret",
            "OTEL_TRACES_EXPORTER": "zipkin,otlp",
            "OTEL_TRACES_SAMPLER_ARG": "2",
            "OTEL_PROPAGATORS": "tracecontext,b3",
            "OTEL_SDK_DISABLED": "yes",
            "OTEL_BSP_MAX_QUEUE_SIZE": "0",
            "OTEL_BLRP_MAX_QUEUE_SIZE": "10",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "11",
            "OTEL_RESOURCE_ATTRIBUTES": "a",
        }
    )
    assert set(config.ignored) == {
        "OTEL_EXPORTER_OTLP_ENDPOINT=collector is ignored: an http:// or https:// URL with a host",
        f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=ftp://x is ignored: {ENDPOINT_KIND.allowed}",
        f"OTEL_EXPORTER_OTLP_HEADERS=*** is ignored: {HEADER_PAIRS.allowed}",
        "OTEL_EXPORTER_OTLP_TIMEOUT=10s is ignored: a whole number of milliseconds; 0: no limit",
        "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere/ca.pem is ignored: the path of a file that can be read",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY=*** is ignored: the path of a file that can be read",
        "OTEL_TRACES_EXPORTER=zipkin is ignored: a list of otlp, console, none",
        "OTEL_TRACES_SAMPLER_ARG=2 is ignored: a number from 0 to 1",
        "OTEL_PROPAGATORS=b3 is ignored: a list of tracecontext, baggage, none",
        "OTEL_SDK_DISABLED=yes is ignored: true or false",
        "OTEL_BSP_MAX_QUEUE_SIZE=0 is ignored: a whole number of 1 or more",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=11 is ignored: at most OTEL_BLRP_MAX_QUEUE_SIZE, which is 10",
        "OTEL_RESOURCE_ATTRIBUTES=a is ignored: key=value pairs, separated by commas, percent-encoded",
    }
    assert config.lines()[-len(config.ignored) :] == config.ignored
    assert config.exporters[Signal.TRACES] == ("otlp",)
    assert config.targets[Signal.TRACES].endpoint == "http://localhost:4318/v1/traces"
    assert config.targets[Signal.TRACES].headers == (("a", "b"),)
    assert config.propagators == ("tracecontext",)
    assert config.queues[Signal.LOGS].batch == 10
    assert not config.exports(Signal.METRICS)


@pytest.mark.parametrize(
    "environ, name",
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:/run/otlp"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///run/otlp"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "unix:///run/otlp"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/a b"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/\u00e9"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/?key=hunter2 3"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate",
            },
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CLIENT_KEY": THIS},
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": NO_KEY},
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@c:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:hunter2@c:1"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c/?key=hunter2"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_values_that_do_not_fit_together_are_named(environ: dict[str, str], name: str) -> None:
    """Once each, under the name that is set, and no password with it; they count as not set."""
    config = read(environ)
    (said,) = config.ignored
    assert said.startswith(f"{name}=")
    assert "hunter2" not in said
    if name.endswith("_ENDPOINT"):
        assert config.off
    else:
        assert config.targets == read({key: text for key, text in environ.items() if key != name}).targets


@pytest.mark.parametrize(
    "pair",
    [
        *(
            "content-type=text/plain",
            "Content-Encoding=gzip",
            "content-length=3",
            "transfer-encoding=chunked",
        ),
        *(":path=/", ":authority=c", "a(b=c", "a%0Ab=c", "%C3%A9=c", "a=%0d%0ab: c", "a=%C3%A9"),
    ],
)
def test_what_is_no_header_field_of_an_export_is_named(pair: str) -> None:
    """What tells of the body is the exporter's to say, and a name is what a name may be; the others hold."""
    config = read({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": f"x-a=1,{pair},x-b=2"})
    assert config.ignored == (f"OTEL_EXPORTER_OTLP_HEADERS=*** is ignored: {HEADER_PAIRS.allowed}",)
    assert config.targets[Signal.TRACES].headers == (("x-a", "1"), ("x-b", "2"))


@pytest.mark.parametrize(
    "endpoint, full",
    [
        ("http://c/?key=a", "http://c/v1/traces?key=a"),
        ("https://c/base/?key=a", "https://c/base/v1/traces?key=a"),
    ],
)
def test_a_query_goes_along(endpoint: str, full: str) -> None:
    """Behind the signal's path; a signal's own endpoint stays as it is, and no line shows the query."""
    common = read({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}).targets[Signal.TRACES]
    assert common.endpoint == full
    assert common.shown == full.replace("key=a", "***")
    assert read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}).targets[Signal.TRACES].endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["unix:/run/otlp.sock", "unix:///run/otlp.sock"])
def test_a_unix_socket_is_spoken_to_without_tls(endpoint: str) -> None:
    """With gRPC, which knows such targets."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    target = read(environ).targets[Signal.TRACES]
    assert (target.endpoint, target.insecure, target.proxy) == (endpoint, True, None)


def test_the_page_says_what_each_value_does() -> None:
    """docs/environment.md is made from the code: `python -m tests.telemetry.environment` writes it."""
    text = environment.PAGE.read_text(encoding="utf-8")
    assert text == environment.page(text)


def test_what_is_set_and_does_not_hold_is_named() -> None:
    """In one line, with a reason where there is one."""
    config = read(
        {
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "5",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
            "OTEL_EMPTY": "",
            **ENDPOINT,
        }
    )
    assert config.unheld == (
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_TRACES_SAMPLER_ARG (the sampler takes none)",
    )
    (line,) = config.lines()
    assert line.startswith("set, but without effect here: OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT")


def test_a_service_of_kubernetes_is_no_setting() -> None:
    """What every pod gets for a Service called `otel-collector` is passed over; the like without a Service is not."""
    injected = {
        "OTEL_COLLECTOR_SERVICE_HOST": "10.0.0.1",
        "OTEL_COLLECTOR_SERVICE_PORT_OTLP_GRPC": "4317",
        "OTEL_COLLECTOR_PORT": "tcp://10.0.0.1:4317",
        "OTEL_COLLECTOR_PORT_4317_TCP_ADDR": "10.0.0.1",
    }
    assert read(injected).unheld == ()
    assert read({**injected, "OTEL_EXPORTER_PROMETHEUS_PORT": "9464"}).unheld == (
        "OTEL_EXPORTER_PROMETHEUS_PORT",
    )


def test_credentials_are_not_in_a_repr() -> None:
    """A target may be printed; its headers are not."""
    config = read({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hush"})
    assert "hush" not in repr(config)
