"""Ways out: through which proxy calls go, and which certificates are trusted; for the upstreams and for the collector.

Owns the grammar of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, and `SSL_CERT_FILE` and `SSL_CERT_DIR` with
the system's own places behind them, read from the mapping it is given. Where clients differ about proxies it follows what
two of curl, requests and Go do; docs/decisions/ways-out.md has the table. A path of certificates that is not there is
passed over and named: OpenSSL would silently trust nobody.
"""

import base64
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sidecar.core.shown import mask

_ADDRESS = IPv4Address | IPv6Address
_NETWORK = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """An HTTP proxy on the way out. `variable` named it, `url` is what was given, credentials and all."""

    variable: str
    url: str = field(repr=False)
    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)
    """The value of `Proxy-Authorization`."""

    def __str__(self) -> str:
        """As it may be told: without the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.variable} ({'***@' if self.authorization else ''}{host}:{self.port})"


class EgressRules:
    """The ways out. `unread` are entries of `NO_PROXY` that mean nothing here.

    `ignored` has a sentence for each proxy that cannot be used; it counts as not set.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._proxies: dict[str, EgressProxy] = {}
        self.ignored: tuple[str, ...] = ()
        for scheme in ("http", "https"):
            name, value = _chosen(environ, scheme)
            try:
                if value:
                    self._proxies[scheme] = _proxy(name, value)
            except ValueError as error:
                told = f"{name}={mask(value)} is ignored: http://[user:password@]host[:port]; {error}"
                self.ignored = tuple(dict.fromkeys((*self.ignored, told)))
        entries = [one for one in re.split(r"[,\s]+", _either(environ, "no_proxy")[1]) if one]
        read = {entry: _Bypass.read(entry) for entry in entries}
        self._bypass = [bypass for bypass in read.values() if bypass is not None]
        self.unread = tuple(entry for entry, bypass in read.items() if bypass is None)

    def proxy_for(self, scheme: str, host: str, port: int) -> EgressProxy | None:
        """The proxy on the way there, or None for a direct connection."""
        proxy = self._proxies.get(scheme)
        if proxy is None:
            return None
        address, plain = _address(host), _name(host)
        if any(bypass.holds(plain, address, port) for bypass in self._bypass):
            return None
        return proxy


def _either(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable in lower case if it is there at all, else in upper case; and its value."""
    name = name if name in environ else name.upper()
    return name, environ.get(name, "").strip()


def _chosen(environ: Mapping[str, str], scheme: str) -> tuple[str, str]:
    own = _either(environ, f"{scheme}_proxy")
    return own if own[1] else _either(environ, "all_proxy")


def _proxy(name: str, value: str) -> EgressProxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port or 80
    except ValueError:
        raise ValueError("this is not a URL") from None
    if parts.scheme.startswith("socks"):
        raise ValueError("SOCKS is not offered")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("TLS to the proxy itself is not offered")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return EgressProxy(name, parts.geturl(), parts.hostname, port, authorization)


@dataclass(frozen=True, slots=True)
class _Bypass:
    """One entry of `NO_PROXY`: a name with what is below it, or a range of addresses; an empty name is everything."""

    name: str = ""
    network: _NETWORK | None = None
    port: int | None = None

    @classmethod
    def read(cls, text: str) -> "_Bypass | None":
        if text == "*":
            return cls()
        try:
            if "/" in text:
                return cls(network=ip_network(text.replace("[", "").replace("]", ""), strict=False))
            host, port = _split(text)
            address = _address(host)
        except ValueError:
            return None
        if address is not None:
            return cls(network=ip_network(address), port=port)
        name = _name(host.removeprefix("*").removeprefix("."))
        return cls(name, port=port) if name and not set(name) & set("*:[]/") else None

    def holds(self, name: str, address: _ADDRESS | None, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return not self.name or name == self.name or name.endswith("." + self.name)


def _split(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[::1]:port`, or an IPv6 address as it is."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None
    parts = urlsplit(f"//{text}")
    if parts.netloc != text or "@" in text or text.endswith(":"):
        raise ValueError(text)
    return parts.hostname or "", parts.port


def _address(host: str) -> _ADDRESS | None:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _name(host: str) -> str:
    """A name as it is compared: its letters as DNS has them, small, without the root's dot."""
    plain = host.removesuffix(".").lower()
    try:
        return plain if plain.isascii() else plain.encode("idna").decode()
    except UnicodeError:
        return plain


_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the bundle, for a Python whose OpenSSL was built to look elsewhere."""


class Trust:
    """The trust of one process. `ignored` has a sentence for each variable whose path is not there."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        paths = ssl.get_default_verify_paths()
        self.ignored: tuple[str, ...] = ()
        own = (paths.openssl_cafile, *_PLACES)
        system = next((path for path in own if os.path.isfile(path)), None)  # noqa: PTH113 - as OpenSSL has it
        self._file = self._given(environ, "SSL_CERT_FILE") or system
        self._folder = self._given(environ, "SSL_CERT_DIR") or paths.openssl_capath

    def _given(self, environ: Mapping[str, str], name: str) -> str | None:
        path = environ.get(name, "")
        if path and not os.path.exists(path):  # noqa: PTH110 - OpenSSL takes it as text, too
            self.ignored += (
                f"{name}={mask(path)} is ignored: there is no such path, and the system's trust holds",
            )
            return None
        return path or None

    def context(self, only: str | None = None) -> ssl.SSLContext:
        """For a client that checks the host. `only`: a file of certificates that are trusted in place of all others.

        Raises:
            OSError, ssl.SSLError: the file cannot be read, or holds no certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if only is not None:
            context.load_verify_locations(cafile=only)
        else:
            context.load_verify_locations(cafile=self._file, capath=self._folder)
        return context

    def pem(self, only: str | None = None) -> bytes | None:
        """The same certificates as PEM; None where there are none.

        Raises:
            OSError: the file cannot be read.
        """
        if only is not None:
            return Path(only).read_bytes()
        found = [] if self._file is None else [Path(self._file).read_bytes()]
        for path in sorted(Path(self._folder).glob("*.[0-9]*")):
            with suppress(OSError):
                found.append(path.read_bytes())
        return b"\n".join(dict.fromkeys(found)) or None
