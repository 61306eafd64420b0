"""How a setting's value is written: one reader and one sentence ("what is allowed") per kind.

Owns the grammar of addresses, durations, sizes, lists and upstream URLs. It never reads the environment and
knows no setting by name. Every reader takes the text and raises ValueError for what it does not accept.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from sidecar.apis import provider_of_host
from sidecar.core.exchange import Upstream
from sidecar.core.shown import mask
from sidecar.core.turns import DEFAULT_FORMAT, RequestIdFormat


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port to listen on. Port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """As it is written in a setting and in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when only this machine (or pod) can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def meets(self, other: "Address") -> bool:
        """Whether both cannot be listened on: the same port of the same host, of which a wildcard is all."""
        same = self.port == other.port != 0
        return same and any(_meet(one, two) for one in _hosts(self.host) for two in _hosts(other.host))

    @property
    def reachable(self) -> "Address":
        """Where this machine reaches a port that listens here: a wildcard is reached on loopback."""
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return Address(wildcard.get(self.host, self.host), self.port)


_Host = str | IPv4Address | IPv6Address


def _hosts(host: str) -> tuple[_Host, ...]:
    if host.lower() == "localhost":
        return ip_address("127.0.0.1"), ip_address("::1")
    try:
        return (ip_address(host),)
    except ValueError:
        return (host.lower(),)


def _meet(one: _Host, two: _Host) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return one == two
    return one == two or (one.version == two.version and (one.is_unspecified or two.is_unspecified))


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to write values: the reader and the sentence that says what is allowed."""

    read: Callable[[str], object]
    allowed: str


_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}
_SIZES = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SWITCH = {
    "on": True,
    "true": True,
    "yes": True,
    "1": True,
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_PATH = re.compile(r"[^\s.,]+(\.[^\s.,]+)*")
_HOST = re.compile(r"[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?")
_UPSTREAM_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def read_address(text: str) -> Address:
    """`host:port`; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("no port")
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ip_address(host[1:-1])), int(port))
    if not _HOST.fullmatch(host):
        raise ValueError("no host")
    return Address(host, int(port))


def read_duration(text: str) -> float:
    """Seconds, from `30`, `30s`, `500ms`, `10m`, `1h`."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([a-z]*)", text)
    seconds = float(match[1]) * _DURATIONS.get(match[2], 0.0) if match else 0.0
    if not 0.001 <= seconds <= 30 * 86400:
        raise ValueError("no duration in range")
    return seconds


def _size_between(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,13}) ?([A-Za-z]*)", text)
        size = int(match[1]) * _SIZES.get(match[2].lower(), -1) if match else -1
        if not least <= size <= most:
            raise ValueError("no size in range")
        return size

    return read


def _read_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ValueError("no number in range")
    return int(text)


def _read_switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError("neither on nor off")
    return _SWITCH[text.lower()]


def _read_token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{8,}", text):
        raise ValueError("no token")
    return text


_CREDENTIALS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"),
        *("x-goog-api-key", "x-amz-security-token", "ocp-apim-subscription-key"),
    }
)
"""Header fields that no id is taken from: an id stands on every span and line."""


def _read_id_headers(text: str) -> tuple[str, ...]:
    names = _list_of(_HEADER_NAME, lower=True)(text)
    if not _CREDENTIALS.isdisjoint(names):
        raise ValueError("a credential")
    return names


def _list_of(pattern: re.Pattern[str], *, lower: bool) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not all(pattern.fullmatch(name) for name in names):
            raise ValueError("a bad name")
        return tuple(dict.fromkeys(name.lower() if lower else name for name in names))

    return read


def _read_baggage(text: str) -> str | frozenset[str]:
    if text.lower() in {"none", "all"}:
        return text.lower()
    return frozenset(_list_of(_HEADER_NAME, lower=False)(text))


_QUIET = re.compile(r"(?:(GET|HEAD) +)?(/[!#-+\--~]*)")


def _read_quiet_paths(text: str) -> tuple[str, ...]:
    """Each as `GET /path` or `HEAD /path`; where no method is named it is both. A `*` at the end stays."""
    if text.lower() == "none":
        return ()
    quiet: list[str] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        found = _QUIET.fullmatch(entry)
        if found is None or "*" in found[2][:-1] or "?" in found[2]:
            raise ValueError("not a path")
        quiet += [f"{method} {found[2]}" for method in ([found[1]] if found[1] else ["GET", "HEAD"])]
    return tuple(dict.fromkeys(quiet))


def one_of(*words: str) -> Kind:
    """A choice between words; case does not matter."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("none of the words")
        return text.lower()

    return Kind(read, f"one of {', '.join(words)}")


class MistypedError(ValueError):
    """A value whose meaning can be guessed; the text says what to type."""


_QUOTES = "\"'`\u201c\u201d\u2018\u2019"


def _mistyped(text: str, prefix: str = "") -> MistypedError | None:
    """What was meant by a URL that is none, if it is one of the usual slips: quotes, a name, no scheme."""
    plain = text.strip(_QUOTES + " ")
    name, equals, url = plain.partition("=")
    if equals and not prefix and "://" in url and _UPSTREAM_NAME.fullmatch(name):
        plain, why = url, f"names belong to SIDECAR_UPSTREAMS ({name}={mask(url)})"
    elif "://" not in plain:
        host = plain.partition("/")[0].rpartition("@")[2].partition(":")[0].strip("[]")
        near = Address(host, 0).loopback or "." not in host
        plain, why = f"{'http' if near else 'https'}://{plain}", "the scheme is missing"
    elif plain != text:
        why = "the quotes are part of the value"
    else:
        return None
    try:
        read_upstream(plain)
    except ValueError:
        return None
    return MistypedError(f"type {prefix}{mask(plain)} ({why})")


def read_upstream(text: str, name: str = "default") -> Upstream:
    """An upstream's URL. Its path is kept byte for byte; a lone `/` is no path."""
    parts = urlsplit(text)
    plain = re.fullmatch(r"[!-~]+", text) and not set(text) & set('?#\\"<>')
    if not plain or "://" not in text or parts.scheme.lower() not in {"http", "https"}:
        raise _mistyped(text, "" if name == "default" else f"{name}=") or ValueError("not a plain URL")
    scheme = parts.scheme.lower()
    host, port = parts.hostname or "", parts.port
    if scheme not in {"http", "https"} or "@" in parts.netloc or port == 0 or parts.netloc.endswith(":"):
        raise ValueError("not an upstream")
    if parts.netloc.startswith("["):
        host = str(ip_address(host))
    elif not _HOST.fullmatch(host):
        raise ValueError("no host")
    path = "" if parts.path == "/" else parts.path
    port = port or (443 if scheme == "https" else 80)
    return Upstream(name, scheme, host, port, path.encode("ascii"), provider_of_host(host))


def read_upstreams(text: str) -> dict[str, Upstream]:
    """`name=url,name=url`; a name is given once, and `default` is taken."""
    upstreams: dict[str, Upstream] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url = entry.strip(_QUOTES).partition("=")
        if not equals and "." in name:
            raise MistypedError(
                f"type name={entry}, with a name of your own, which is then the first part of the path"
            )
        if not _UPSTREAM_NAME.fullmatch(name) or name == "default" or name in upstreams:
            raise ValueError("a bad name")
        upstreams[name] = read_upstream(url, name)
    return upstreams


_TRACE = "{trace_id}"


def _read_links(text: str) -> dict[str, str]:
    """`name=url,name=url`; each URL has the trace's id somewhere."""
    links: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, url = entry.partition("=")
        parts = urlsplit(url)
        plain = re.fullmatch(r"[!-~]+", url) and "@" not in parts.netloc
        if not plain or parts.scheme not in {"http", "https"} or not parts.hostname or _TRACE not in url:
            raise ValueError("not a link")
        if not _UPSTREAM_NAME.fullmatch(name) or name in links:
            raise ValueError("a bad name")
        links[name] = url
    return links


def read_request_id(text: str) -> str:
    """A request id's format, as `core/identity.py` allows it."""
    return RequestIdFormat(text).template


ADDRESS = Kind(read_address, "host:port, such as 127.0.0.1:7070 or [::1]:7070 (port 0: any free one)")
DURATION = Kind(read_duration, "a duration from 1ms to 30 days, such as 30, 30s, 500ms, 10m or 1h")
HEAD_SIZE = Kind(_size_between(1024, 16 * 1024**2), "a size from 1KiB to 16MiB, such as 64KiB or 65536")
SIZE = Kind(_size_between(0, 1024**4), "a size up to 1024GiB, such as 8MiB, 64KiB or 1048576")
NUMBER = Kind(_read_number, "a whole number from 1 to 999999999")
SWITCH = Kind(_read_switch, "on or off")
HEADERS = Kind(
    _read_id_headers, "names of header fields, separated by commas; none that carries a credential"
)
FIELDS = Kind(_list_of(_FIELD_PATH, lower=False), "dotted paths into a JSON body, separated by commas")
URL = Kind(
    read_upstream, "http:// or https:// and a host, a port and a path where needed; no user, query, fragment"
)
URLS = Kind(
    read_upstreams,
    "name=url, separated by commas; each name once, of letters, digits, '.', '_', '-', not 'default'",
)
FOLDER = Kind(str, "a folder, which is made if it is not there")
RECORD_SIZE = Kind(_size_between(1 << 20, 1024**4), "a size from 1MiB to 1024GiB, such as 256MiB or 1GiB")
LINKS = Kind(
    _read_links,
    "name=url, separated by commas (a comma in a URL is %2C); each URL http:// or https:// with {trace_id} in it",
)
TOKEN = Kind(_read_token, "8 or more printable ASCII characters without spaces")
BAGGAGE = Kind(_read_baggage, "none, all, or names of baggage members, separated by commas")
QUIET_PATHS = Kind(
    _read_quiet_paths,
    "paths, separated by commas, or none; a '*' at the end stands for anything, GET or HEAD in front for that one",
)
REQUEST_ID = Kind(read_request_id, f"text without blanks and any of {DEFAULT_FORMAT}, {{random}} among them")
