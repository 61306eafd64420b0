"""How a setting's value is written: one reader and one sentence ("what is allowed") per kind.

Owns the grammar of addresses, durations, sizes, lists and upstream URLs, and that of OpenTelemetry's variables as its
specification has it. It never reads the environment and knows no setting by name. A reader takes the text, raises
ValueError (of a file, OSError) for what it does not accept, and never says the value: it may be a credential.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from sidecar.core.exchange import Upstream
from sidecar.core.shown import mask
from sidecar.core.turns import DEFAULT_FORMAT, RequestIdFormat
from sidecar.providers import provider_of_host


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
    """A way to write values: the reader and the sentence that says what is allowed.

    `unset` is the value of what is not set. `members`: the text is a list, separated by commas; each member is read
    alone, and one that reads as None stands for nothing. `secret`: the text is never repeated.
    """

    read: Callable[[str], object]
    allowed: str
    unset: object = None
    members: bool = False
    secret: bool = False

    def parts(self, text: str) -> list[str]:
        """What is read by itself: the whole text, or each member of the list; nothing of an empty text."""
        parts = text.split(",") if self.members else [text]
        return [part.strip() for part in parts if part.strip()]

    def value(self, read: Sequence[object]) -> object:
        """The value, of what its parts were read as."""
        if self.members:
            return tuple(dict.fromkeys(one for one in read if one is not None))
        return read[0] if read else self.unset


_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}
_SIZES = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_ON = dict.fromkeys(("on", "true", "yes", "1"), True)
_OFF = dict.fromkeys(("off", "false", "no", "0"), False)
_Word = TypeVar("_Word")
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
        raise ValueError("not a duration in range")
    return seconds


def _size_between(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,13}) ?([A-Za-z]*)", text)
        size = int(match[1]) * _SIZES.get(match[2].lower(), -1) if match else -1
        if not least <= size <= most:
            raise ValueError("not a size in range")
        return size

    return read


def _number_between(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError("not a number in range")
        return int(text)

    return read


def _word_of(words: Mapping[str, _Word]) -> Callable[[str], _Word]:
    def read(text: str) -> _Word:
        if text.lower() not in words:
            raise ValueError("not one of the words")
        return words[text.lower()]

    return read


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


def one_of(*words: str, **others: str) -> Kind:
    """A choice between words; case does not matter. `others` are words that mean one of these."""
    known = {word: word for word in words} | others
    return Kind(_word_of(known), f"one of {', '.join(words)}")


def any_of(*words: str, **others: str) -> Kind:
    """A list of such words; `none` stands for none of them."""
    known: dict[str, str | None] = {word: word for word in words} | others | {"none": None}
    return Kind(_word_of(known), f"a list of {', '.join(words)}, none", unset=(), members=True)


class MistypedError(ValueError):
    """A value of which can be said what is wrong; the text says what to type."""


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
    except MistypedError as error:
        return error
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
    host, port = parts.hostname or "", _port(parts)
    if "@" in parts.netloc:
        raise ValueError("not an upstream")
    if parts.netloc.startswith("["):
        host = str(ip_address(host))
    elif not _HOST.fullmatch(host):
        raise ValueError("no host")
    path = "" if parts.path == "/" else parts.path
    port = port or (443 if scheme == "https" else 80)
    return Upstream(name, scheme, host, port, path.encode("ascii"), provider_of_host(host))


def _port(parts: SplitResult) -> int | None:
    """The port that a URL names, if it names one; there must be one that can be connected to."""
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise MistypedError("the port must be a number from 1 to 65535")
    return port


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


_LONGEST = (1 << 31) - 1
"""Milliseconds that stand for no limit, and the largest whole number of an OpenTelemetry variable that is taken."""


def _milliseconds(least: int, *, none: bool = False) -> Callable[[str], float]:
    """Seconds, 1 ms or more; `none`: a 0 means no limit."""
    number = _number_between(least, _LONGEST)

    def read(text: str) -> float:
        return (number(text) or (_LONGEST if none else 1)) / 1000

    return read


def _read_share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("not a share")
    return value


def _read_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    key = unquote(key.strip(), errors="strict")
    if not equals or not key:
        raise ValueError("not key=value")
    return key, unquote(value.strip(), errors="strict")


def _read_pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(_read_pair(member) for member in text.split(",") if member.strip())


_OF_THE_BODY = frozenset({"content-type", "content-encoding", "content-length", "transfer-encoding"})


def _read_header(text: str) -> tuple[str, str]:
    key, value = _read_pair(text)
    name = key.lower()
    if not _HEADER_NAME.fullmatch(name) or name in _OF_THE_BODY:
        raise ValueError("not a header field of ours")
    if not (value.isascii() and value.isprintable()):
        raise ValueError("not a header field's value")
    return name, value


def _read_endpoint(text: str) -> str:
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").lstrip("/"):
            raise ValueError("no path")
        return text
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in {"http", "https", ""} or not parts.hostname or parts.fragment:
        raise ValueError("not a URL")
    if not re.fullmatch(r"[!-~]*", parts.path + parts.query):
        raise ValueError("not a path that can be asked for")
    _port(parts)
    return parts.scheme + text[len(parts.scheme) :]


def _read_file(text: str) -> str:
    with Path(text).open("rb"):
        return text


ADDRESS = Kind(read_address, "host:port, such as 127.0.0.1:7070 or [::1]:7070 (port 0: any free one)")
DURATION = Kind(read_duration, "a duration from 1ms to 30 days, such as 30, 30s, 500ms, 10m or 1h")
HEAD_SIZE = Kind(_size_between(1024, 16 * 1024**2), "a size from 1KiB to 16MiB, such as 64KiB or 65536")
SIZE = Kind(_size_between(0, 1024**4), "a size up to 1024GiB, such as 8MiB, 64KiB or 1048576")
NUMBER = Kind(_number_between(1, 999_999_999), "a whole number from 1 to 999999999")
SWITCH = Kind(_word_of(_ON | _OFF), "on or off")
HEADERS = Kind(
    _read_id_headers, "names of header fields, separated by commas; none that carries a credential", unset=()
)
FIELDS = Kind(
    _list_of(_FIELD_PATH, lower=False), "dotted paths into a JSON body, separated by commas", unset=()
)
URL = Kind(
    read_upstream, "http:// or https:// and a host, a port and a path where needed; no user, query, fragment"
)
URLS = Kind(
    read_upstreams,
    "name=url, separated by commas; each name once, of letters, digits, '.', '_', '-', not 'default'",
    unset={},
)
FOLDER = Kind(str, "a folder, which is made if it is not there")
RECORD_SIZE = Kind(_size_between(1 << 20, 1024**4), "a size from 1MiB to 1024GiB, such as 256MiB or 1GiB")
LINKS = Kind(
    _read_links,
    "name=url, separated by commas (a comma in a URL is %2C); each URL http:// or https:// with {trace_id} in it",
    unset={},
)
TOKEN = Kind(_read_token, "8 or more printable ASCII characters without spaces", secret=True)
BAGGAGE = Kind(_read_baggage, "none, all, or names of baggage members, separated by commas")
QUIET_PATHS = Kind(
    _read_quiet_paths,
    "paths, separated by commas, or none; a '*' at the end stands for anything, GET or HEAD in front for that one",
)
REQUEST_ID = Kind(read_request_id, f"text without blanks and any of {DEFAULT_FORMAT}, {{random}} among them")

TRUE_OR_FALSE = Kind(_word_of({"true": True, "false": False}), "true or false")
COUNT = Kind(_number_between(1, _LONGEST), "a whole number of 1 or more")
LIMIT = Kind(_number_between(0, _LONGEST), "a whole number of 0 or more")
MILLISECONDS = Kind(_milliseconds(0), "a whole number of milliseconds")
INTERVAL = Kind(_milliseconds(1), "a whole number of milliseconds, 1 or more")
TIMEOUT = Kind(_milliseconds(0, none=True), "a whole number of milliseconds; 0: no limit")
SHARE = Kind(_read_share, "a number from 0 to 1")
ENDPOINT = Kind(
    _read_endpoint, "an http:// or https:// URL with a host; for grpc also host:port or unix:path"
)
HEADER_PAIRS = Kind(
    _read_header,
    "key=value pairs, separated by commas, percent-encoded; none that tells of the body",
    unset=(),
    members=True,
    secret=True,
)
PAIRS = Kind(_read_pairs, "key=value pairs, separated by commas, percent-encoded", unset=())
FILE = Kind(_read_file, "the path of a file that can be read")
KEY_FILE = replace(FILE, secret=True)
"""The file of a key is easily mistaken for the key."""
TEXT = Kind(str, "any text")
