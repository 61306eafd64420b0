"""A client that sends exactly the bytes it is given, and shows exactly the bytes that come back.

Owns one blocking socket; it parses no more than it must to know where an answer ends.
For tests of what a decent HTTP client would never send, or would hide.
"""

import fcntl
import json
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from sidecar.testing.messages import Message, MessageReader

TIMEOUT = 60.0
"""Seconds that a read waits before it fails with `TimeoutError`."""


class RawClient:
    """One connection. Use it as a context manager; every read fails with `TimeoutError` after `timeout` s."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        timeout: float = TIMEOUT,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.settimeout(timeout)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self._socket.connect((host, port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._rest = b""
        self._received: list[bytes] = []

    @property
    def received(self) -> bytes:
        """Every byte received so far."""
        return b"".join(self._received)

    def send(self, data: bytes) -> None:
        """Sends exactly these bytes."""
        self._socket.sendall(data)

    def send_what_fits(self, data: bytes, *, patience: float = 0.2) -> int:
        """Sends until the other side has taken nothing for `patience` seconds; gives how much went out."""
        usual = self._socket.gettimeout()
        self._socket.settimeout(patience)
        sent = 0
        try:
            while sent < len(data):
                sent += self._socket.send(data[sent : sent + 65536])
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(usual)
        return sent

    def unread(self) -> int:
        """Bytes that have arrived and that nobody has taken from the system yet."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        self._received.append(data)
        return data

    def read_until(self, marker: bytes) -> bytes:
        """The bytes up to and including `marker`.

        Raises:
            EOFError: the connection ended before.
        """
        read, searched = bytearray(self._rest), 0
        try:
            while (at := read.find(marker, searched)) < 0:
                searched = max(len(read) - len(marker), 0)
                data = self._receive()
                if not data:
                    raise EOFError(f"closed before {marker!r}; got {bytes(read)!r}")
                read += data
        finally:
            self._rest = bytes(read)
        at += len(marker)
        taken, self._rest = self._rest[:at], self._rest[at:]
        return taken

    def read_answer(self, method: str = "GET", *, interim: bool = False) -> Message:
        """The next whole answer; interim ones (1xx) are skipped unless asked for.

        Raises:
            EOFError: the connection ended before the answer did.
        """
        while True:
            reader = MessageReader(method)
            reader.feed(self._rest)
            self._rest = b""
            while not reader.message.complete:
                data = self._receive()
                if not data:
                    reader.end()
                    if not reader.message.complete:
                        raise EOFError(f"closed in the middle of an answer: {reader.message}")
                reader.feed(data)
            self._rest = bytes(reader.rest)
            if interim or reader.message.status >= 200:
                return reader.message

    def read_some(self) -> bytes:
        """Whatever has come, at least one byte; empty if the connection has ended."""
        taken, self._rest = self._rest, b""
        return taken or self._socket.recv(1 << 20)

    def read_to_end(self) -> bytes:
        """Everything until the other side closes.

        Raises:
            ConnectionResetError: it did so with a reset.
        """
        pieces = [self._rest]
        self._rest = b""
        while data := self._receive():
            pieces.append(data)
        return b"".join(pieces)

    def is_closed(self) -> bool:
        """Waits until the other side has closed, by FIN or RST; False if it sends something instead.

        Raises:
            TimeoutError: it keeps the connection open, and says nothing.
        """
        if self._rest:
            return False
        try:
            self._rest = self._receive()
        except ConnectionResetError:
            return True
        return not self._rest

    def half_close(self) -> None:
        """Ends this side (FIN), and goes on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> int:
        """Ends the connection with a reset (RST); gives the time just before, in ns since the epoch."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self.close()

    def close(self) -> int:
        """Closes the connection; gives the time just before, in ns since the epoch."""
        at = time.time_ns()
        self._socket.close()
        return at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def exchange(port: int, data: bytes, *, host: str = "127.0.0.1", timeout: float = TIMEOUT) -> Message:
    """Sends one whole request over a connection of its own, and gives the answer."""
    with RawClient(port, host=host, timeout=timeout) as client:
        client.send(data)
        method = data.partition(b" ")[0].decode("latin-1")
        return client.read_answer(method)


def request_bytes(
    method: str,
    target: str,
    *,
    headers: Sequence[bytes] = (),
    body: bytes | None = None,
    host: str = "sidecar.test",
) -> bytes:
    """A request as bytes: `Host`, the given header lines, and a `Content-Length` if there is a body."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + host.encode(), *headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chat_request(*, path: str = "/v1/chat/completions", headers: Sequence[bytes] = (), **body: Any) -> bytes:
    """An OpenAI chat completion request as bytes; `body` adds to its JSON or replaces what stands there."""
    value = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], **body}
    lines = (b"Content-Type: application/json", *headers)
    return request_bytes("POST", path, headers=lines, body=json.dumps(value).encode())
