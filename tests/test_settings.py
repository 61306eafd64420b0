"""The settings: what is read, what wins, and that everything wrong is said at once, without secrets."""

import dataclasses
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.exchange import Upstream
from sidecar.settings import TABLE, Address, Problem, Settings, SettingsError, load

UPSTREAM = {"SIDECAR_UPSTREAM": "http://127.0.0.1:9"}


def problems(environ: Mapping[str, str], flags: Mapping[str, str] | None = None) -> list[Problem]:
    """What `load` complains about."""
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environ)
    return list(caught.value.problems)


def read(name: str, text: str) -> object:
    """One setting's value, everything else as usual."""
    return getattr(load({}, UPSTREAM | {f"SIDECAR_{name}": text}), name.lower())


def test_defaults() -> None:
    """With an upstream only, everything is as the table says."""
    settings = load({}, UPSTREAM)
    assert settings.listen == Address("127.0.0.1", 7070)
    assert settings.admin_listen == Address("127.0.0.1", 7071)
    assert settings.health_listen is None
    assert settings.admin_token is None
    assert settings.upstreams == {}
    assert (settings.client_head_timeout, settings.client_body_timeout, settings.client_keepalive) == (
        30,
        60,
        75,
    )
    assert (settings.pool_idle, settings.connect_timeout, settings.first_byte_timeout) == (30, 10, 600)
    assert (settings.idle_timeout, settings.stall_after, settings.shutdown_timeout) == (300, 10, 25)
    assert (settings.head_limit, settings.inspect_limit, settings.inspect_memory) == (
        65536,
        8 << 20,
        256 << 20,
    )
    assert (settings.head_fields, settings.max_requests, settings.session_idle) == (256, 10000, 1800)
    assert (settings.session_limit, settings.conversations_per_session) == (100_000, 1000)
    assert (settings.response_chain_limit, settings.model_limit) == (100_000, 100)
    assert (settings.history, settings.history_limit) == ("join", 20_000)
    assert settings.session_headers == settings.session_fields == ()
    assert settings.conversation_headers == settings.conversation_fields == ()
    assert (settings.incoming_trace, settings.forward_trace, settings.forward_baggage) == (
        "parent",
        True,
        "none",
    )
    assert (settings.semconv, settings.log_format, settings.prometheus) == ("shipped", "json", False)


def test_table_and_settings_agree() -> None:
    """Every row of the table is an attribute, and every attribute a row (the passed-on environment excepted)."""
    attributes = {field.name for field in dataclasses.fields(Settings)} - {"environ"}
    assert {setting.attribute for setting in TABLE} == attributes
    assert len(TABLE) == len(attributes)
    assert all(setting.meaning and setting.kind.allowed for setting in TABLE)


def test_flags_win() -> None:
    """A flag wins over its variable; an empty flag goes back to the default."""
    environ = UPSTREAM | {"SIDECAR_LISTEN": "127.0.0.1:1", "SIDECAR_HEALTH_LISTEN": "127.0.0.1:2"}
    settings = load({"listen": "127.0.0.1:3", "health_listen": ""}, environ)
    assert settings.listen == Address("127.0.0.1", 3)
    assert settings.health_listen is None


def test_empty_variable_is_not_set() -> None:
    """Compose files set variables to nothing; that means the default."""
    assert load({}, UPSTREAM | {"SIDECAR_IDLE_TIMEOUT": " "}).idle_timeout == 300


@pytest.mark.parametrize(
    "text,seconds",
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("10m", 600), ("10min", 600), ("1h", 3600), ("1.5 s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are seconds, or say their unit."""
    assert read("IDLE_TIMEOUT", text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text,size", [("1048576", 1 << 20), ("8MiB", 8 << 20), ("64 KiB", 1 << 16), ("0", 0), ("1gib", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are bytes, or say their binary unit."""
    assert read("INSPECT_LIMIT", text) == size


@pytest.mark.parametrize(
    "text,host,port",
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:80", "::1", 80), ("localhost:65535", "localhost", 65535)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """Addresses are a host and a port, and print as they were written."""
    address = read("LISTEN", text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "host,loopback",
    [("127.3.2.1", True), ("::1", True), ("LocalHost", True), ("10.0.0.1", False), ("a", False)],
)
def test_loopback(host: str, *, loopback: bool) -> None:
    """An address knows whether only this machine can reach it."""
    assert Address(host, 1).loopback is loopback


def test_lists() -> None:
    """Header names come lower-cased and once; paths keep their case."""
    assert read("SESSION_HEADERS", "X-Visit, x-visit ,X-Run,") == ("x-visit", "x-run")
    assert read("SESSION_FIELDS", "user.Id,metadata.run") == ("user.Id", "metadata.run")
    assert read("FORWARD_BAGGAGE", "tenant,user.Id") == frozenset({"tenant", "user.Id"})
    assert read("FORWARD_BAGGAGE", "ALL") == "all"


@pytest.mark.parametrize(
    "text,on", [("on", True), ("TRUE", True), ("1", True), ("off", False), ("no", False), ("0", False)]
)
def test_switches(text: str, *, on: bool) -> None:
    """Switches take the usual words."""
    assert read("PROMETHEUS", text) is on


@pytest.mark.parametrize(
    "url,upstream",
    [
        ("https://API.example.com", Upstream("default", "https", "api.example.com", 443)),
        ("https://api.openai.com/v1", Upstream("default", "https", "api.openai.com", 443, b"/v1", "openai")),
        ("http://localhost:8000/", Upstream("default", "http", "localhost", 8000)),
        ("HTTP://[::1]:8000/v1", Upstream("default", "http", "::1", 8000, b"/v1")),
        ("https://h/a//b/%7E/%41/", Upstream("default", "https", "h", 443, b"/a//b/%7E/%41/")),
    ],
)
def test_upstream_urls(url: str, upstream: Upstream) -> None:
    """Ports follow the scheme; a path is kept byte for byte, a lone slash is none."""
    assert read("UPSTREAM", url) == upstream


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "ftp://h",
        "http://",
        "http://h:0",
        "http://h:99999",
        "http://h:",
        "http://h?x=1",
        "http://h?",
        "http://h#f",
        "http://u:p@h",
        "http://h/a b",
        "http://h/\x7f",
        "http://hö",
        "http://[::1",
        "http://[v1.x]/",
        "http://h\n/",
        "http://-h-",
    ],
)
def test_upstream_urls_refused(url: str) -> None:
    """What is not a plain http or https URL is a bad value."""
    assert [problem.name for problem in problems({}, {"upstream": url})] == ["--upstream"]


@pytest.mark.parametrize("port", ["0", "65536", "-1", "", "80a"])
@pytest.mark.parametrize("url", ["http://localhost:{}", "https://u:hush@h:{}/v1", "localhost:{}"])
def test_ports_that_are_none(url: str, port: str) -> None:
    """Nobody can listen there: it is said of the port, and of no secret beside it."""
    bad = url.format(port)
    for name, value in (("UPSTREAM", bad), ("UPSTREAMS", f"a={bad}")):
        (problem,) = problems({f"SIDECAR_{name}": value})
        assert "a number from 1 to 65535" in str(problem)
        assert "hush" not in str(problem)


def test_upstreams() -> None:
    """Names are given once; each has a URL."""
    settings = load({}, {"SIDECAR_UPSTREAMS": "a=http://h:1/x, b.c=https://i,"})
    assert settings.upstreams == {
        "a": Upstream("a", "http", "h", 1, b"/x"),
        "b.c": Upstream("b.c", "https", "i", 443),
    }
    assert settings.upstream is None
    for text in (
        "a",
        "a=",
        "=http://h",
        "default=http://h",
        "a=http://h,a=http://i",
        "a b=http://h",
        "a=ftp://h",
    ):
        assert [problem.name for problem in problems({"SIDECAR_UPSTREAMS": text})] == ["SIDECAR_UPSTREAMS"]


@pytest.mark.parametrize(
    "name,text",
    [
        ("LISTEN", "7070"),
        ("LISTEN", ":7070"),
        ("LISTEN", "h:65536"),
        ("LISTEN", "[h]:1"),
        ("LISTEN", "::1:80"),
        ("IDLE_TIMEOUT", "0"),
        ("IDLE_TIMEOUT", "-1"),
        ("IDLE_TIMEOUT", "inf"),
        ("IDLE_TIMEOUT", "5 days"),
        ("IDLE_TIMEOUT", "800h"),
        ("INSPECT_LIMIT", "8MB"),
        ("INSPECT_LIMIT", "-1"),
        ("HEAD_LIMIT", "1"),
        ("MAX_REQUESTS", "0"),
        ("MAX_REQUESTS", "1e3"),
        ("SESSION_HEADERS", "a b"),
        ("SESSION_HEADERS", "X-Visit, Authorization"),
        ("CONVERSATION_HEADERS", "x-api-key"),
        ("SESSION_FIELDS", "a..b"),
        ("FORWARD_TRACE", "maybe"),
        ("FORWARD_BAGGAGE", "a b"),
        ("SEMCONV", "old"),
        ("REQUEST_ID_FORMAT", "{sessionId}"),
        ("REQUEST_ID_FORMAT", "{counter}{user}"),
        ("REQUEST_ID_FORMAT", "{counter"),
        ("REQUEST_ID_FORMAT", "{counter} {random}"),
        ("REQUEST_ID_FORMAT", "{random!r}"),
    ],
)
def test_bad_values(name: str, text: str) -> None:
    """A bad value is one problem, with its name, itself, and what is allowed."""
    [problem] = problems(UPSTREAM | {f"SIDECAR_{name}": text})
    allowed = next(setting.kind.allowed for setting in TABLE if setting.variable == f"SIDECAR_{name}")
    assert problem == Problem(f"SIDECAR_{name}", text, allowed)
    assert str(problem) == f"SIDECAR_{name}={text}: {allowed}"


def test_everything_wrong_is_said_at_once() -> None:
    """Bad values, unknown names and impossible combinations come together, flags under their own names."""
    environ = {
        "SIDECAR_LISTN": "1",
        "SIDECAR_IDLE_TIMEOUT": "soon",
        "SIDECAR_ADMIN_LISTEN": "0.0.0.0:7070",
        "SIDECAR_HEALTH_LISTEN": "0.0.0.0:7070",
    }
    found = problems(environ, {"semconv": "x"})
    assert [problem.name for problem in found] == [
        "SIDECAR_LISTN",
        "SIDECAR_IDLE_TIMEOUT",
        "--semconv",
        "SIDECAR_UPSTREAM",
        "SIDECAR_ADMIN_TOKEN",
        "SIDECAR_ADMIN_LISTEN",
        "SIDECAR_HEALTH_LISTEN",
    ]
    assert "did you mean SIDECAR_LISTEN?" in found[0].allowed
    assert str(found[3]) == "SIDECAR_UPSTREAM: a URL is needed here or in SIDECAR_UPSTREAMS"


def test_a_bad_value_does_not_bring_a_second_problem() -> None:
    """An upstream that is wrong is not missing as well, nor is a token."""
    [only] = problems({"SIDECAR_UPSTREAM": "nonsense"})
    assert only.name == "SIDECAR_UPSTREAM"
    [only] = problems(UPSTREAM | {"SIDECAR_ADMIN_LISTEN": "0.0.0.0:1", "SIDECAR_ADMIN_TOKEN": "short"})
    assert only.name == "SIDECAR_ADMIN_TOKEN"


def test_unknown_names() -> None:
    """A name nobody knows is an error; what Kubernetes injects for a Service called `sidecar` is not."""
    [only] = problems(UPSTREAM | {"SIDECAR_ZZZZZZZZ": "secret"})
    assert (only.name, only.value) == ("SIDECAR_ZZZZZZZZ", "***")
    assert "sidecar settings" in only.allowed
    load(
        {},
        UPSTREAM
        | {"SIDECAR_SERVICE_HOST": "10.0.0.1", "SIDECAR_PORT": "tcp://x", "SIDECAR_PORT_80_TCP": "y"},
    )


def test_secrets_are_not_repeated() -> None:
    """Neither an error nor a repr shows a token or the credentials in a URL."""
    found = problems(
        {
            "SIDECAR_UPSTREAM": "https://user:hunter2/@h/?key=hunter2",
            "SIDECAR_UPSTREAMS": "a=http://u:hunter2@h",
            "SIDECAR_ADMIN_TOKEN": "hunter2",
        }
    )
    assert len(found) == 3
    assert "hunter2" not in str(found)
    settings = load(
        {}, UPSTREAM | {"SIDECAR_ADMIN_TOKEN": "hunter2-and-more", "OTEL_EXPORTER_OTLP_HEADERS": "k=hunter2"}
    )
    assert settings.admin_token == "hunter2-and-more"
    assert "hunter2" not in repr(settings)


def test_long_values_are_cut() -> None:
    """A megabyte in a variable does not fill the terminal."""
    [only] = problems(UPSTREAM | {"SIDECAR_SEMCONV": "x" * 1_000_000})
    assert len(only.value) < 300


def test_only_the_named_environment_is_passed_on() -> None:
    """Other rooms see `OTEL_*`, proxies and trust, and nothing else."""
    seen = {
        "OTEL_SERVICE_NAME": "a",
        "HTTPS_PROXY": "b",
        "no_proxy": "c",
        "ALL_PROXY": "e",
        "SSL_CERT_FILE": "d",
    }
    hidden = {"OPENAI_API_KEY": "k", "HOME": "h", "XHTTPS_PROXY": "x"}
    assert load({}, UPSTREAM | seen | hidden).environ == seen


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({}, UPSTREAM).max_requests = 1  # type: ignore[misc] # that is the point


@given(
    st.dictionaries(
        st.sampled_from([setting.attribute for setting in TABLE]), st.text(max_size=30), max_size=6
    )
)
def test_any_text_is_read_or_named(flags: dict[str, str]) -> None:
    """Whatever is given: settings, or problems that each name what was given; never another exception."""
    named: set[str] = set()
    try:
        load(flags, {})
    except SettingsError as error:
        named = {problem.name for problem in error.problems}
    assert named <= {name for setting in TABLE for name in (setting.flag, setting.variable)}


def test_defaults_are_written_as_values_are() -> None:
    """The table's defaults are texts a user could give, so that docs/settings.md can show them."""
    for setting in TABLE:
        if setting.default:
            setting.kind.read(setting.default)
        assert re.fullmatch(r"SIDECAR_[A-Z_]+", setting.variable)


@pytest.mark.parametrize(
    "service", ["sidecar", "sidecar-injector", "sidecar-listen", "sidecar-service", "sidecar-port-1"]
)
def test_a_service_of_kubernetes_is_not_a_setting(service: str) -> None:
    """What every pod gets for a Service is passed over, whatever it is called; the like without a Service is not."""
    name = service.upper().replace("-", "_")
    links = {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": "443",
        f"{name}_SERVICE_PORT_HTTPS": "443",
        f"{name}_PORT": "tcp://10.0.0.1:443",
        f"{name}_PORT_443_TCP": "tcp://10.0.0.1:443",
        f"{name}_PORT_443_TCP_PROTO": "tcp",
        f"{name}_PORT_443_TCP_PORT": "443",
        f"{name}_PORT_443_TCP_ADDR": "10.0.0.1",
        f"{name}_PORT_53_UDP_ADDR": "10.0.0.1",
    }
    upstream = {"SIDECAR_UPSTREAM": "http://127.0.0.1:1"}
    assert load({}, {**upstream, **links}) == load({}, upstream)
    del links[f"{name}_SERVICE_HOST"]
    with pytest.raises(SettingsError) as caught:
        load({}, {**upstream, **links})
    assert {problem.name for problem in caught.value.problems} == set(links)


@pytest.mark.parametrize(
    "text",
    [
        "http://h/{trace_id}",
        "a=http://h/",
        "a=javascript:alert({trace_id})",
        "a=ftp://h/{trace_id}",
        "a=http:///{trace_id}",
        "a=http://u:p@h/{trace_id}",
        "a=http://h/{trace_id} x",
        "a=http://h/{trace_id},a=http://i/{trace_id}",
        "a=http://[h/{trace_id}",
        "<b>=http://h/{trace_id}",
    ],
)
def test_links_that_are_none(text: str) -> None:
    """A link opens a page of http or https, and has the trace's id in it."""
    (problem,) = problems(UPSTREAM | {"SIDECAR_TRACE_LINKS": text})
    assert problem.name == "SIDECAR_TRACE_LINKS"
    assert "{trace_id}" in problem.allowed


def test_links() -> None:
    """By their names."""
    assert read("TRACE_LINKS", "") == {}
    text = "Jaeger=http://h/trace/{trace_id}, Grafana=https://g/explore?left=%7B{trace_id}%7D"
    assert read("TRACE_LINKS", text) == {
        "Jaeger": "http://h/trace/{trace_id}",
        "Grafana": "https://g/explore?left=%7B{trace_id}%7D",
    }
