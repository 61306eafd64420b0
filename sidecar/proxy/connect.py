"""Connections to upstreams: the name looked up, the connection made, and kept for the next request.

Owns name resolution in threads of its own, the attempts on several addresses, proxies and TLS, and which idle
connection the next request gets.
"""

import asyncio
import errno
import re
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from sidecar.core.clock import SECOND, Clock
from sidecar.core.exchange import ConnectTiming, Upstream
from sidecar.core.shown import readable, shown
from sidecar.errors import ExhaustedError, UpstreamWord
from sidecar.listener import descriptors
from sidecar.proxy.upstream_side import TlsUpstreamConnection, UpstreamConnection
from sidecar.ways_out import EgressProxy, EgressRules

FRESH = 1.0
"""Seconds that an answer, or a failure, is taken without asking again."""

KEPT = 300.0
"""Seconds that a known answer may stand in for one that is slow or fails (the idea of RFC 8767)."""

PATIENCE = 0.5
"""Seconds that a look-up may take before a known answer is used in its place."""

LOOKUPS = 64
"""Look-ups under way at once, one thread each."""

RESERVE = 16
"""Of these, the ones that only a name may have that has answered before."""

_GONE = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@dataclass(slots=True)
class _Name:
    """What is known of one name. Moments are the event loop's (seconds)."""

    addresses: tuple[AddrInfoType, ...] = ()
    answered_at: float = 0.0
    error: OSError | UnicodeError | None = None
    """How the last look-up failed."""
    failed_at: float = 0.0
    asked_at: float = 0.0
    asking: bool = False
    """A look-up is under way."""
    waiting: dict[asyncio.Future[None], None] = field(default_factory=dict)
    """Who waits for it: each by itself, as they are many, and may all give up at once."""


class Resolver:
    """Looks names up, each at most once at a time. `patience` (seconds) is `PATIENCE` unless less time is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float = PATIENCE) -> None:
        self._loop = loop
        self._patience = min(patience, PATIENCE)
        self._names: dict[str, _Name] = {}
        self._under_way = 0

    async def find(self, host: str, port: int) -> tuple[Sequence[AddrInfoType], bool]:
        """The addresses of `host`, and True if they are older ones, used because asking is slow or fails.

        Raises:
            OSError: the name could not be resolved (`socket.gaierror`), or this machine has no means to ask.
            UnicodeError: it is not a name.
        """
        with suppress(socket.gaierror):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST), False
        name = self._names.setdefault(host, _Name())
        now = self._loop.time()
        kept = False
        if not (name.addresses and now - name.answered_at < FRESH):
            kept = await self._ask(host, name, now)
        return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in name.addresses], kept

    async def _ask(self, host: str, name: _Name, now: float) -> bool:
        """Waits for an answer, which `name` has then; True if what it has is from before."""
        known = bool(name.addresses) and now - name.answered_at < KEPT
        if name.error is None or now - name.failed_at >= FRESH:
            answered = self._loop.create_future()
            name.waiting[answered] = None
            if not name.asking:
                self._begin(host, name)
            left = max(0.0, name.asked_at + self._patience - now) if known else None
            try:
                await asyncio.wait({answered}, timeout=left)
            finally:
                name.waiting.pop(answered, None)
            if answered.done() and name.error is None:
                return False
        if not known or not name.addresses:
            error = name.error or socket.gaierror(socket.EAI_AGAIN, "no answer")
            raise type(error)(*error.args)
        return True

    def _begin(self, host: str, name: _Name) -> None:
        name.asking = True
        name.asked_at = self._loop.time()
        self._under_way += 1
        if self._under_way > LOOKUPS - (0 if name.answered_at else RESERVE):
            self._found(name, (), OSError(errno.EAGAIN, "too many other names are being looked up"))
            return
        # A daemon: one that hangs must not hold up the process's end.
        thread = threading.Thread(target=self._look_up, args=(host, name), name=f"dns-{host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._found(name, (), OSError(errno.EAGAIN, str(error)))

    def _look_up(self, host: str, name: _Name) -> None:
        """Runs in a thread of its own."""
        addresses: tuple[AddrInfoType, ...] = ()
        failed: OSError | UnicodeError | None = None
        try:
            addresses = tuple(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed = error.with_traceback(None)
        with suppress(RuntimeError):  # The event loop has ended meanwhile.
            self._loop.call_soon_threadsafe(self._found, name, addresses, failed)

    def _found(
        self, name: _Name, addresses: tuple[AddrInfoType, ...], error: OSError | UnicodeError | None
    ) -> None:
        self._under_way -= 1
        name.asking, name.error = False, error
        if error is None:
            name.addresses, name.answered_at = addresses, self._loop.time()
        else:
            name.failed_at = self._loop.time()
            if isinstance(error, socket.gaierror) and error.errno in _GONE:
                name.addresses = ()
        for answered in name.waiting:
            if not answered.done():
                answered.set_result(None)


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
        except OSError as error:
            # The library's frame holds the error whose traceback holds the frame: without it there is no circle.
            error.__traceback__ = None
            if isinstance(error, ConnectionRefusedError):
                raise DialError("connection_refused", f"{host}:{port} refused the connection") from error
            numbers = _numbers(error, len(infos))
            what = f"no connection to {host}:{port}: {error}"
            if _OURS.intersection(numbers) or _no_port_left(numbers, infos):
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
        status = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(status) < 2 or not status[1].startswith(b"2"):
            said = shown(readable(b" ".join(status[1:])), 80)
            raise DialError("proxy", f"{where} answered CONNECT with {said or 'what is not HTTP'}")
        if not answer.endswith(b"\r\n\r\n"):
            raise DialError("proxy", f"{where} sent more than its answer to CONNECT")

    async def _attach(
        self, sock: socket.socket, upstream: Upstream, protocol: asyncio.Protocol
    ) -> int | None:
        secure = upstream.scheme == "https"
        try:
            if not secure:
                await self._loop.create_connection(lambda: protocol, sock=sock)
                return None
            below, _ = await self._loop.create_connection(asyncio.Protocol, sock=sock)
            if isinstance(protocol, TlsUpstreamConnection):
                protocol.below = below
            transport = await self._loop.start_tls(below, protocol, self._tls, server_hostname=upstream.host)
            if transport is None:
                raise ConnectionResetError("it was closed at once")
            protocol.connection_made(transport)
        except ssl.SSLCertVerificationError as error:
            raise DialError(
                "tls", f"the certificate of {upstream.host} is not trusted: {error.verify_message}"
            ) from error
        except (ssl.SSLError, OSError) as error:
            word: UpstreamWord = "tls" if secure else "unreachable"
            raise DialError(word, f"no connection to {upstream.host}: {error}") from error
        return self._clock()


_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
"""What the system says when it is this process or machine that has nothing left, whatever the upstream is."""


def _numbers(error: OSError, tried: int) -> list[int]:
    """What the system said of each address: those that failed in different ways are told in the text only."""
    if error.errno is not None:
        return [error.errno] * tried
    return [int(number) for number in _ERRNO.findall(str(error))]


def _no_port_left(numbers: list[int], infos: Sequence[AddrInfoType]) -> bool:
    """Whether a TCP port was missing: the system says the same where this machine has no address of that family."""
    missing = numbers.count(errno.EADDRNOTAVAIL)
    return missing > 0 and missing > sum(map(_out_of_reach, infos))


def _out_of_reach(info: AddrInfoType) -> bool:
    """Whether this machine has no address to reach that one from."""
    try:
        with socket.socket(info[0], socket.SOCK_DGRAM) as probe:
            probe.connect(info[4])
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False


_SWEEP = 1.0

_IN_ONE_GO = 64
"""Idle connections that are closed in one turn of the event loop: a millisecond or two."""

_LOOKS = 16
"""Idle connections with something to be read that are passed over for one request: an origin that ends closes all at once."""

_MARGIN = SECOND
_SHORTEST = SECOND // 10
"""What was closed sooner had not waited too long."""

_RENEWAL = 60 * SECOND
"""After each such time what was learnt counts twice as long: an origin that was restarted is not an impatient one."""


def _earlier(seen: int) -> int:
    """A bit less than what was seen (ns), because a request needs time to arrive."""
    return seen - min(_MARGIN, seen // 4)


class Patience:
    """How long connections to one origin may wait (ns): `limit`, or less if it was seen to close them earlier.

    Two in a row that had waited about as long, and were closed at different times, make a time-out. Others are an
    origin that ends: it closes all it has at once, and those of one burst have waited alike.
    """

    __slots__ = ("_at", "_last", "_last_at", "_learnt", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = self._learnt = limit
        self._at = self._last = self._last_at = 0

    def at(self, now: int) -> int:
        """How long one may wait from now on."""
        if self._learnt >= self._limit:
            return self._limit
        return min(self._limit, self._learnt << min((now - self._at) // _RENEWAL, 64))

    def closed(self, waited: int, now: int) -> None:
        """The origin closed one that had waited so long."""
        last, near = self._last, self._last // 8
        alike = waited >= _SHORTEST and abs(waited - last) <= near
        if alike and now - self._last_at <= near:
            return
        self._last, self._last_at = waited, now
        if alike and (learnt := _earlier(min(waited, last))) < self.at(now):
            self._learnt, self._at = learnt, now

    def held(self, waited: int, now: int) -> None:
        """One that had waited so long was still open."""
        if (learnt := _earlier(waited)) > self.at(now):
            self._learnt, self._at = min(learnt, self._limit), now


class Pool:
    """Idle upstream connections. `idle_limit` is how long (ns) one may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, idle_limit: int) -> None:
        self._loop = loop
        self._clock = clock
        self._idle_limit = idle_limit
        self._patience: dict[str, Patience] = {}
        self._idle: defaultdict[str, dict[UpstreamConnection, None]] = defaultdict(dict)
        """By origin, the youngest last."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, upstream: Upstream, now: int) -> UpstreamConnection | None:
        """The youngest idle connection to `upstream` that is still good at `now` (ns since the epoch), or None."""
        idle = self._idle.get(upstream.name)
        if not idle:
            return None
        aside: list[UpstreamConnection] = []
        found = None
        while found is None and idle and len(aside) < _LOOKS:
            connection, _ = idle.popitem()
            if now >= connection.idle_until or not connection.usable:
                connection.close()
            elif not connection.poll(0):
                connection.idle_for = now - connection.idle_since
                found = connection
            else:
                # Something waits to be read: bytes, or an end, will end it; a record of TLS alone changes nothing.
                aside.append(connection)
        for connection in aside:
            idle[connection] = None
        return found

    def put(self, connection: UpstreamConnection, now: int) -> None:
        """Takes a connection back that has finished its answer at `now` (ns since the epoch) and may carry another request."""
        if self._closed:
            connection.close()
            return
        hint, origin = connection.keep_alive_hint, connection.upstream.name
        patience = self._patience.get(origin)
        limit = self._idle_limit if patience is None else patience.at(now)
        if hint is not None:
            limit = min(limit, _earlier(hint * SECOND))
        connection.idle_since, connection.idle_until = now, now + limit
        self._idle[origin][connection] = None
        connection.head = None  # it may be large, and the next answer has its own
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def forget(self, connection: UpstreamConnection) -> None:
        """Takes out a connection that has closed, and learns from it how long its origin waits."""
        idle = self._idle.get(connection.upstream.name)
        if idle and connection in idle:
            del idle[connection]
            now = self._clock()
            self._patience_of(connection).closed(now - connection.idle_since, now)
        elif connection.raced and connection.used:
            self._patience_of(connection).closed(connection.idle_for, self._clock())

    def _patience_of(self, connection: UpstreamConnection) -> Patience:
        known = self._patience.get(connection.upstream.name)
        if known is None:
            known = self._patience[connection.upstream.name] = Patience(self._idle_limit)
        return known

    def close(self) -> None:
        """Closes every idle connection, now and from now on."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self.renew()

    def renew(self) -> None:
        """Closes every idle connection: nobody listened for too long to say which still stand. Nothing is learnt."""
        waiting, self._idle = self._idle, defaultdict(dict)
        self._close_some([connection for idle in waiting.values() for connection in idle])

    def _close_some(self, connections: list[UpstreamConnection]) -> None:
        """Closes them, a few in each turn."""
        for connection in connections[-_IN_ONE_GO:]:
            connection.close()
        del connections[-_IN_ONE_GO:]
        if connections:
            self._loop.call_soon(self._close_some, connections)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock()
        overdue = (one for idle in self._idle.values() for one in idle if now >= one.idle_until)
        some = [*islice(overdue, _IN_ONE_GO)]
        for connection in some:
            del self._idle[connection.upstream.name][connection]
            if connection.usable and not connection.poll(0):
                self._patience_of(connection).held(now - connection.idle_since, now)
            connection.close()
        if any(self._idle.values()):
            again = 0 if len(some) == _IN_ONE_GO else _SWEEP
            self._sweeper = self._loop.call_later(again, self._sweep)
