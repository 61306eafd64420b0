"""Whether each upstream is reached as the relay would reach it: name, proxy, TCP, TLS, and an answer to no credential.

Owns the one request that is sent: a GET of the upstream's own path, without a key. Whatever the upstream answers shows
that it is there.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from sidecar.check.finding import Finding, State
from sidecar.core.clock import MILLISECOND
from sidecar.core.exchange import ConnectTiming, Upstream
from sidecar.core.shown import readable, shown
from sidecar.errors import ExhaustedError
from sidecar.proxy.connect import Dialer, DialError
from sidecar.settings import Settings
from sidecar.ways_out import EgressRules, Trust

_HEAD = 64 * 1024
"""Bytes of an answer that are looked at."""

_FIXES = {
    "dns": "check the name in the upstream's URL, and that this machine resolves names",
    "connection_refused": "check host and port; is the upstream running?",
    "connection_reset": "something between here and the upstream closes connections: a firewall, or a proxy",
    "unreachable": "check the network; a proxy may be needed (HTTPS_PROXY)",
    "proxy": "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY; the proxy has to allow CONNECT to this host and port",
    "tls": "add the upstream's authority to what is trusted (SSL_CERT_FILE), or use the host its certificate names",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was found of one upstream. `ahead`: how far (s) this clock is before the one its answer told."""

    finding: Finding
    ahead: float | None = None


async def check_upstreams(settings: Settings) -> list[Asked]:
    """All of them, at the same time."""
    rules = EgressRules(settings.environ)
    tls = Trust(settings.environ).context()
    tls.set_alpn_protocols(["http/1.1"])
    loop = asyncio.get_running_loop()
    dialer = Dialer(loop, time.monotonic_ns, rules, tls, timeout=settings.connect_timeout)
    return list(
        await asyncio.gather(*(_asked(one, dialer, rules, settings) for one in settings.all_upstreams))
    )


class _Reading(asyncio.Protocol):
    """Sends the request and gathers the answer's head."""

    def __init__(self, request: bytes, done: Callable[[], None]) -> None:
        self._request = request
        self._done = done
        self.head = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends it."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Until the head is whole."""
        self.head += data
        if b"\r\n\r\n" in self.head or len(self.head) > _HEAD:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Whatever came is all."""
        self._done()


async def _asked(upstream: Upstream, dialer: Dialer, rules: EgressRules, settings: Settings) -> Asked:
    what = f"upstream {upstream.name}"
    where = f"{upstream.scheme}://{upstream.authority}"
    proxy = rules.proxy_for(upstream.scheme, upstream.host, upstream.port)
    way = f"{where} by {proxy or 'a direct connection'}"
    ended = asyncio.Event()
    path = upstream.base_path.decode() or "/"
    lines = (f"GET {path} HTTP/1.1", f"Host: {upstream.authority}", "User-Agent: sidecar-check")
    request = "\r\n".join((*lines, "Accept: */*", "Connection: close", "", "")).encode()
    reading = _Reading(request, ended.set)
    try:
        async with asyncio.timeout(settings.connect_timeout):
            timing = await dialer.dial(upstream, reading)
        async with asyncio.timeout(settings.connect_timeout):
            await ended.wait()
    except DialError as error:
        return Asked(Finding(State.FAIL, what, f"{way}: {error}", _FIXES.get(error.word, "")))
    except ExhaustedError as error:
        return Asked(
            Finding(
                State.FAIL,
                what,
                f"{way}: {error}",
                "this machine has no file descriptor, port, memory or thread left for it",
            )
        )
    except TimeoutError:
        took = f"within SIDECAR_CONNECT_TIMEOUT ({settings.connect_timeout:g} s)"
        missing = "no answer" if reading.transport is not None else "no connection"
        return Asked(Finding(State.FAIL, what, f"{way}: {missing} {took}", _FIXES["unreachable"]))
    finally:
        if reading.transport is not None:
            reading.transport.abort()
    return _answered(what, way, reading.head, timing, upstream)


def _answered(what: str, way: str, head: bytes, timing: ConnectTiming, upstream: Upstream) -> Asked:
    version, _, status = readable(head.partition(b"\r\n")[0]).partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdigit():
        said = shown(readable(head[:60])) or "nothing"
        fix = "this is not HTTP/1.1: check the scheme and the port of the upstream's URL"
        return Asked(Finding(State.FAIL, what, f"{way}: it answers {said!r}", fix))
    took = f"connected in {(timing.end - timing.start) / MILLISECOND:.0f} ms"
    told = f"{way}: {took}, answers {status[:3]} to a request without a key"
    if status[0] == "5":
        finding = Finding(State.WARN, what, told, "the upstream, or a gateway in front of it, is failing")
    elif upstream.base_path.endswith((b"/v1", b"/v1beta")):
        base = upstream.base_path.decode()
        fix = f"leave {base} out of the URL, unless clients leave it out of their paths"
        finding = Finding(State.WARN, what, f"{told}; its path {base} is put before the request's", fix)
    else:
        finding = Finding(State.OK, what, told)
    return Asked(finding, _ahead(head))


def _ahead(head: bytes) -> float | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"date":
            try:
                return time.time() - parsedate_to_datetime(readable(value).strip()).timestamp()
            except (ValueError, OverflowError):
                return None
    return None
