"""HTTP connections whose time-out holds for all of a request, not for each read of it.

Owns the sockets' patience: connecting, the TLS handshake, sending, and every read of the answer get what is left of
one deadline. It speaks no HTTP of its own. A collector may say a byte a second.
"""

import io
import socket
from collections.abc import Callable
from http.client import HTTPResponse as PlainResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

Left = Callable[[], float]
"""Seconds until the deadline, 0 after it."""


class TimedAdapter(HTTPAdapter):
    """Requests' adapter; its connections ask `left` before each step."""

    def __init__(self, left: Left) -> None:
        self._pools = {"http": _plain_pool(left), "https": _secure_pool(left)}
        super().__init__()

    def init_poolmanager(self, *given: Any, **options: Any) -> None:
        """Requests: the pools of direct connections."""
        super().init_poolmanager(*given, **options)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **options: Any) -> ProxyManager:
        """Requests: the pools of connections by a proxy."""
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


class _TimedReads(io.RawIOBase):
    """A socket's bytes, as long as there is time; what has come already is read once after that too."""

    def __init__(self, sock: socket.socket, left: Left) -> None:
        self._file = sock.makefile("rb", buffering=0)  # keeps the socket open as long as the answer is read
        self._sock = sock
        self._left = left
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._left()
        if self._over:
            raise TimeoutError("timed out")
        self._over = not left
        self._sock.settimeout(left)
        try:
            return self._sock.recv_into(buffer)
        except BlockingIOError:
            raise TimeoutError("timed out") from None
        except OSError as error:
            if not left:  # TLS has a word of its own for nothing to read
                raise TimeoutError("timed out") from error
            raise

    def close(self) -> None:
        self._file.close()
        super().close()


def _response(left: Left) -> type[PlainResponse]:
    class Response(PlainResponse):
        def __init__(self, sock: socket.socket, *given: Any, **options: Any) -> None:
            super().__init__(sock, *given, **options)
            self.fp.close()
            self.fp = io.BufferedReader(_TimedReads(sock, left))

    return Response


def _timed(kind: Any, left: Left) -> Any:
    """A connection of this kind that keeps the deadline."""

    class Connection(kind):  # type: ignore[misc]
        response_class = _response(left)

        def _new_conn(self) -> socket.socket:
            self.timeout = left()
            if not self.timeout:
                raise ConnectTimeoutError(self, "no time left to connect")
            sock: socket.socket = super()._new_conn()
            sock.settimeout(left() or _LEAST)
            return sock

        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(left() or _LEAST)
            super().send(data)

    return Connection


_LEAST = 0.001
"""Seconds: a socket with a time-out of 0 would not wait at all, and say so with another error."""


def _plain_pool(left: Left) -> type[HTTPConnectionPool]:
    class Pool(HTTPConnectionPool):
        ConnectionCls = _timed(HTTPConnection, left)

    return Pool


def _secure_pool(left: Left) -> type[HTTPSConnectionPool]:
    class Pool(HTTPSConnectionPool):
        ConnectionCls = _timed(HTTPSConnection, left)

    return Pool
