"""The proxy variables: every form of their grammar, as upstreams and as the collector are reached by it."""

import pytest

from sidecar.settings_values import read_upstream
from sidecar.telemetry import otel_settings
from sidecar.telemetry.ledger import Signal
from sidecar.ways_out import EgressRules

P, Q = "http://p.test:3128", "http://q.test"


def by_upstream(url: str, environ: dict[str, str]) -> str | None:
    """The proxy's URL for an upstream."""
    upstream = read_upstream(url)
    found = EgressRules(environ).proxy_for(upstream.scheme, upstream.host, upstream.port)
    return found.url if found else None


def by_collector(url: str, environ: dict[str, str]) -> str | None:
    """The proxy's URL for a collector."""
    found = otel_settings.read({"OTEL_EXPORTER_OTLP_ENDPOINT": url} | environ).targets[Signal.TRACES].proxy
    return found.url if found else None


USERS = pytest.mark.parametrize("user", [by_upstream, by_collector])

CHOSEN = [
    ("http://a.test", {"HTTP_PROXY": P}, P),
    ("https://a.test", {"HTTP_PROXY": P}, None),
    ("https://a.test", {"HTTPS_PROXY": P, "HTTP_PROXY": Q}, P),
    ("http://a.test", {"HTTPS_PROXY": P, "HTTP_PROXY": Q}, Q),
    ("http://a.test", {"HTTP_PROXY": P, "http_proxy": Q}, Q),
    ("http://a.test", {"HTTP_PROXY": P, "http_proxy": ""}, None),
    ("http://a.test", {"ALL_PROXY": P}, P),
    ("https://a.test", {"all_proxy": Q, "ALL_PROXY": P}, Q),
    ("https://a.test", {"https_proxy": Q, "ALL_PROXY": P}, Q),
    ("https://a.test", {"HTTPS_PROXY": "", "ALL_PROXY": P}, P),
    ("http://a.test", {"HTTP_PROXY": "p.test:3128"}, P),
    ("http://a.test", {"HTTP_PROXY": "http://u:p%40@p.test"}, "http://u:p%40@p.test"),
    ("http://a.test", {"HTTP_PROXY": P, "NO_PROXY": "a.test", "no_proxy": ""}, P),
    ("http://a.test", {"HTTP_PROXY": P, "NO_PROXY": "x", "no_proxy": "a.test"}, None),
    ("http://a.test", {"HTTP_PROXY": P, "HTTPS_PROXY": "socks5://s.test"}, P),
    ("http://a.test", {"ALL_PROXY": "socks5://s.test", "NO_PROXY": "a.test"}, None),
]


@USERS
@pytest.mark.parametrize("url, environ, proxy", CHOSEN)
def test_which_variable(user: object, url: str, environ: dict[str, str], proxy: str | None) -> None:
    """By the scheme; lower case before upper case; ALL_PROXY last."""
    assert callable(user)
    assert user(url, environ) == proxy


DIRECT = [
    ("*", "http://a.test"),
    ("x, *", "http://a.test"),
    ("a.test", "http://a.test"),
    ("A.Test.", "http://a.test"),
    ("a.test", "http://A.TEST"),
    (".a.test", "http://a.test"),
    (".a.test", "http://b.a.test"),
    ("a.test", "http://c.b.a.test"),
    ("*.a.test", "http://b.a.test"),
    ("*.a.test", "http://a.test"),
    ("x.test a.test", "http://a.test"),
    ("x.test,\ta.test\n", "http://a.test"),
    ("x.test , a.test", "http://a.test"),
    ("a.test:80", "http://a.test"),
    ("a.test:8080", "http://b.a.test:8080"),
    (".a.test:443", "https://b.a.test"),
    ("bücher.test", "http://xn--bcher-kva.test"),
    ("xn--bcher-kva.test", "http://www.xn--bcher-kva.test"),
    ("localhost", "http://localhost:8080"),
    ("10.1.2.3", "http://10.1.2.3"),
    ("10.1.2.3:81", "http://10.1.2.3:81"),
    ("10.0.0.0/8", "http://10.200.1.1"),
    ("10.9.9.9/8", "http://10.200.1.1"),
    ("192.168.1.0/255.255.255.0", "http://192.168.1.7"),
    ("0.0.0.0/0", "http://8.8.8.8"),
    ("10.0.0.0/8", "http://[::ffff:10.1.1.1]"),
    ("::1", "http://[::1]"),
    ("[::1]", "http://[::1]:9"),
    ("[::1]:9", "http://[::1]:9"),
    ("0:0:0:0:0:0:0:1", "http://[::1]"),
    ("fd00::/8", "http://[fd12:3456::1]"),
    ("[fd00::]/8", "http://[fd12:3456::1]"),
    ("::/0", "http://[2001:db8::1]"),
]
THROUGH = [
    ("", "http://a.test"),
    (" , ", "http://a.test"),
    ("test.", "http://a.tests"),
    ("a.test", "http://ba.test"),
    ("b.a.test", "http://a.test"),
    ("a.test:81", "http://a.test"),
    ("a.test:80", "https://a.test"),
    ("10.0.0.0/8", "http://11.0.0.1"),
    ("10.0.0.0/8", "http://10.test"),
    ("10.1.2.3", "http://10.1.2.30"),
    ("10.1.2.3:81", "http://10.1.2.3"),
    ("[::1]:9", "http://[::1]"),
    ("::1", "http://[::2]"),
    ("fd00::/8", "http://[fe80::1]"),
    ("0.0.0.0/0", "http://[2001:db8::1]"),
    ("127.0.0.1", "http://localhost"),
    ("10.*", "http://10.1.1.1"),
    ("10.0.0.0/40", "http://10.1.1.1"),
    ("http://a.test", "http://a.test"),
    ("a.test:x", "http://a.test"),
]


@USERS
@pytest.mark.parametrize("bypass, url", DIRECT)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_past_the_proxy(user: object, name: str, bypass: str, url: str) -> None:
    """What an entry names is reached directly."""
    assert callable(user)
    assert user(url, {"ALL_PROXY": P, name: bypass}) is None


@USERS
@pytest.mark.parametrize("bypass, url", THROUGH)
def test_through_the_proxy(user: object, bypass: str, url: str) -> None:
    """What no entry names is not."""
    assert callable(user)
    assert user(url, {"ALL_PROXY": P, "NO_PROXY": bypass}) == P


def test_what_means_nothing_is_told() -> None:
    """Entries that are none, so that somebody can mend them."""
    rules = EgressRules({"NO_PROXY": "a.test 10.* http://b.test,10.0.0.0/40 [::1 .*.c c:x *"})
    assert rules.unread == ("10.*", "http://b.test", "10.0.0.0/40", "[::1", ".*.c", "c:x")


@pytest.mark.parametrize(
    "name, value, shown, said",
    [
        ("HTTP_PROXY", "socks5://u:secret@s.test:1080", "***@s.test:1080", "SOCKS is not offered"),
        ("https_proxy", "socks5h://s.test", "socks5h://s.test", "SOCKS is not offered"),
        ("ALL_PROXY", "socks://s.test", "socks://s.test", "SOCKS is not offered"),
        (
            "HTTPS_PROXY",
            "https://u:secret@p.test:3",
            "***@p.test:3",
            "TLS to the proxy itself is not offered",
        ),
        ("http_proxy", "http://p.test:port", "http://p.test:port", "this is not a URL"),
        ("HTTP_PROXY", "http://", "http://", "is not offered"),
    ],
)
def test_a_proxy_that_cannot_be_used(name: str, value: str, shown: str, said: str) -> None:
    """It is named once, its password masked, and counts as not set: the variable is not the sidecar's."""
    rules = EgressRules({name: value})
    (told,) = rules.ignored
    assert told.startswith(f"{name}={shown} is ignored: http://")
    assert said in told
    for scheme in ("http", "https"):
        assert rules.proxy_for(scheme, "a.test", 80) is None
