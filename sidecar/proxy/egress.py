"""Which upstreams are reached through a proxy, as the environment says.

Owns `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` (either case), read from the mapping it is given. It opens no
connection; `dial.py` does. Nothing else of the environment changes where a request goes.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sidecar.core.exchange import Upstream


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """An HTTP proxy on the way out, used by CONNECT. `authorization` is its credentials' header value."""

    host: str
    port: int
    authorization: bytes | None = None

    def __repr__(self) -> str:
        """Without the credentials."""
        return f"EgressProxy({self.host}:{self.port})"


class EgressError(ValueError):
    """A proxy that cannot be used. `name` is the variable, `allowed` what it may hold."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.allowed = "http://[user:password@]host[:port]; TLS to the proxy itself is not offered"
        super().__init__(f"{name}: {self.allowed}")


def _egress_proxy(name: str, value: str) -> EgressProxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port or 80
    except ValueError:
        raise EgressError(name) from None
    if parts.scheme != "http" or not parts.hostname:
        raise EgressError(name)
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return EgressProxy(parts.hostname, port, authorization)


class EgressRules:
    """Which upstreams are reached through a proxy: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` (either case).

    Raises:
        EgressError: a proxy's URL is not one that can be used.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._proxies: dict[str, EgressProxy] = {}
        for scheme in ("http", "https"):
            for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
                if environ.get(name):
                    self._proxies[scheme] = _egress_proxy(name, environ[name])
                    break
        bypass = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        self._bypass = [entry.strip().lower().lstrip(".") for entry in bypass.split(",") if entry.strip()]

    def proxy_for(self, upstream: Upstream) -> EgressProxy | None:
        """The proxy on the way to `upstream`, or None for a direct connection."""
        proxy = self._proxies.get(upstream.scheme)
        if proxy is None:
            return None
        host = upstream.host.lower()
        for entry in self._bypass:
            name, _, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
            if port and port != str(upstream.port):
                continue
            if name in ("*", host) or host.endswith("." + name):
                return None
        return proxy
