"""Opens connections to upstreams: addresses of both families, egress proxies, TLS.

Owns every word for what can go wrong before a connection stands (`DialError.word`, short and fixed), and the
distinction between what the upstream did and what this machine had no means for (`ExhaustedError`).
It sends nothing of a request. What it reads of the environment is handed in.
"""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Sequence
from typing import TypeVar

import aiohappyeyeballs

from sidecar.core.clock import Clock
from sidecar.core.egress import EgressProxy, EgressRules
from sidecar.core.exchange import ConnectTiming, Upstream
from sidecar.core.shown import readable, shown
from sidecar.errors import ExhaustedError, UpstreamWord
from sidecar.listener import descriptors
from sidecar.proxy.resolver import Resolver

_PROXY_HEAD_LIMIT = 16 * 1024
_HAPPY_EYEBALLS_DELAY = 0.25
_SPARE = 16
"""One of so many file descriptors is left for whatever is not the relay."""

_ERRNO = re.compile(r"\[Errno (\d+)\]")

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class DialError(Exception):
    """No connection could be made. `word` is the telemetry word; the message says what happened."""

    def __init__(self, word: UpstreamWord, message: str) -> None:
        super().__init__(message)
        self.word = word


class Dialer:
    """Makes connections; one per relay. `timeout` (seconds) is what its callers allow one to take."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rules: EgressRules,
        tls: ssl.SSLContext,
        *,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._rules = rules
        self._tls = tls
        self._descriptors = descriptors(_SPARE)
        # Half of the time is left for the connection itself.
        self._resolver = Resolver(loop, timeout / 2)

    async def dial(self, upstream: Upstream, protocol: ProtocolT) -> ConnectTiming:
        """Connects `protocol` to `upstream` and says how long each step took.

        Raises:
            DialError: `dns`, `connection_refused`, `connection_reset`, `unreachable`, `proxy` or `tls`.
            ExhaustedError: this machine, or this process's limits, did not allow it.
        """
        start = self._clock()
        proxy = self._rules.proxy_for(upstream.scheme, upstream.host, upstream.port)
        host, port = (proxy.host, proxy.port) if proxy else (upstream.host, upstream.port)
        infos, kept = await self._resolve(host, port)
        dns_end = self._clock()
        sock = await self._connect(infos, host, port)
        try:
            if proxy is not None:
                await self._tunnel(sock, proxy, upstream)
            tcp_end = self._clock()
            address = sock.getpeername()[0]
            tls_end = await self._attach(sock, upstream, protocol)
        except OSError as error:
            sock.close()
            raise DialError("connection_reset", f"{host}:{port} closed the connection: {error}") from error
        except BaseException:
            sock.close()
            raise
        return ConnectTiming(
            kind="new",
            start=start,
            dns_end=dns_end,
            tcp_end=tcp_end,
            tls_end=tls_end,
            end=self._clock(),
            address=address,
            dns_kept=kept,
        )

    async def _resolve(self, host: str, port: int) -> tuple[Sequence[aiohappyeyeballs.AddrInfoType], bool]:
        try:
            return await self._resolver.find(host, port)
        except (OSError, UnicodeError) as error:
            what = f"the name {host} could not be resolved: {error}"
            if isinstance(error, socket.gaierror):
                ours = error.errno == socket.EAI_MEMORY
            else:
                ours = isinstance(error, OSError) and error.errno in _OURS
            raise (ExhaustedError(what) if ours else DialError("dns", what)) from error

    async def _connect(
        self, infos: Sequence[aiohappyeyeballs.AddrInfoType], host: str, port: int
    ) -> socket.socket:
        try:
            return await aiohappyeyeballs.start_connection(
                infos,
                happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY,
                interleave=1,
                loop=self._loop,
                socket_factory=self._socket,
            )
        except ConnectionRefusedError as error:
            raise DialError("connection_refused", f"{host}:{port} refused the connection") from error
        except OSError as error:
            # Several addresses that failed in different ways are told in the text only.
            numbers = {error.errno, *map(int, _ERRNO.findall(str(error)))}
            what = f"no connection to {host}:{port}: {error}"
            if numbers & _OURS or (errno.EADDRNOTAVAIL in numbers and any(map(_reachable, infos))):
                raise ExhaustedError(what) from error
            word: UpstreamWord = "connection_refused" if errno.ECONNREFUSED in numbers else "unreachable"
            raise DialError(word, what) from error

    def _socket(self, info: aiohappyeyeballs.AddrInfoType) -> socket.socket:
        made = socket.socket(*info[:3])
        if made.fileno() >= self._descriptors:
            made.close()
            raise OSError(
                errno.EMFILE, "Too many open files: the last ones are for names, health and the collector"
            )
        return made

    async def _tunnel(self, sock: socket.socket, proxy: EgressProxy, upstream: Upstream) -> None:
        host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
        target = f"{host}:{upstream.port}".encode("latin-1")
        lines = [b"CONNECT %b HTTP/1.1" % target, b"Host: " + target]
        if proxy.authorization:
            lines.append(b"Proxy-Authorization: " + proxy.authorization)
        where = f"the proxy {proxy.host}:{proxy.port}"
        try:
            await self._loop.sock_sendall(sock, b"\r\n".join(lines) + b"\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer:
                piece = await self._loop.sock_recv(sock, 4096)
                answer += piece
                if not piece or len(answer) > _PROXY_HEAD_LIMIT:
                    raise DialError("proxy", f"{where} broke off its answer to CONNECT")
        except OSError as error:
            raise DialError("proxy", f"{where} broke the connection: {error}") from error
        if not answer.endswith(b"\r\n\r\n"):
            raise DialError("proxy", f"{where} sent more than its answer to CONNECT")
        status = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or not status[1].startswith(b"2"):
            said = shown(readable(b" ".join(status[1:])), 80)
            raise DialError("proxy", f"{where} answered CONNECT with {said or 'what is not HTTP'}")

    async def _attach(
        self, sock: socket.socket, upstream: Upstream, protocol: asyncio.Protocol
    ) -> int | None:
        secure = upstream.scheme == "https"
        try:
            await self._loop.create_connection(
                lambda: protocol,
                sock=sock,
                ssl=self._tls if secure else None,
                server_hostname=upstream.host if secure else None,
            )
        except ssl.SSLCertVerificationError as error:
            raise DialError(
                "tls", f"the certificate of {upstream.host} is not trusted: {error.verify_message}"
            ) from error
        except (ssl.SSLError, OSError) as error:
            word: UpstreamWord = "tls" if secure else "unreachable"
            raise DialError(word, f"no connection to {upstream.host}: {error}") from error
        return self._clock() if secure else None


_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
"""What the system says when it is this process or machine that has nothing left, whatever the upstream is."""


def _reachable(info: aiohappyeyeballs.AddrInfoType) -> bool:
    """Whether this machine has an address to reach that one from; then it was a TCP port that was missing."""
    try:
        with socket.socket(info[0], socket.SOCK_DGRAM) as probe:
            probe.connect(info[4])
    except OSError:
        return False
    return True
