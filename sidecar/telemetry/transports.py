"""One attempt to hand encoded bytes to an OTLP receiver, over HTTP, within one deadline for all of it.

Owns connections, their renewal, and the words for what came of an attempt, those of gRPC (`grpc_transport.py`) too. It
tries nothing twice but a kept connection that had closed meanwhile: `exporters.py` decides that. Nothing of the
process's environment gets in.
"""

import base64
import gzip
import http.client
import json
import re
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from sidecar.core.clock import STANDSTILL, suspended
from sidecar.core.shown import shown
from sidecar.settings import Address
from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.otel_settings import OtlpTarget
from sidecar.version import VERSION
from sidecar.ways_out import EgressProxy, Trust

_ANSWER_LIMIT = 64 * 1024
"""Bytes of a receiver's answer that are read."""
_WORDS = 200
"""Characters of a receiver's own words that are told."""
AGENT = f"session-sidecar/{VERSION}"


@dataclass(frozen=True, slots=True)
class Service:
    """One signal's words in the OTLP protocol."""

    method: str
    response: type[Message]
    rejected: str
    """The field of `partial_success` with the number of rejected items."""


_COLLECTOR = "/opentelemetry.proto.collector"
SERVICES = {
    Signal.TRACES: Service(
        f"{_COLLECTOR}.trace.v1.TraceService/Export", ExportTraceServiceResponse, "rejected_spans"
    ),
    Signal.METRICS: Service(
        f"{_COLLECTOR}.metrics.v1.MetricsService/Export", ExportMetricsServiceResponse, "rejected_data_points"
    ),
    Signal.LOGS: Service(
        f"{_COLLECTOR}.logs.v1.LogsService/Export", ExportLogsServiceResponse, "rejected_log_records"
    ),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try came to. Not `exported`: `reason` says why not.

    `again`: seconds after which it may be tried again, 0 where the receiver names none, None: never.
    `rejected` items of it were not taken, as the receiver's `message` says; `too_large`: it was refused for its size.
    """

    state: State
    reason: str = ""
    again: float | None = None
    rejected: int = 0
    message: str = ""
    too_large: bool = False


def printable(text: str) -> str:
    """A receiver's words as one line that may be shown, cut to 200 characters."""
    return shown(" ".join(text[:1000].split()), _WORDS)


def taken(service: Service, answer: Message) -> Attempt:
    """The receiver has answered: it took all, or says how many items it did not."""
    partial: Any = answer.partial_success
    return Attempt(
        State.EXPORTED,
        rejected=max(getattr(partial, service.rejected), 0),
        message=printable(partial.error_message),
    )


class Ground:
    """What a kept connection stands on: the certificates of its target, and a machine that was awake to hear its end."""

    def __init__(self, target: OtlpTarget) -> None:
        paths = (target.certificate, target.client_certificate, target.client_key)
        self._paths = [path for path in paths if path]
        self._seen: list[tuple[int, int]] | None = None
        self._suspended = suspended()

    def moved(self) -> bool:
        """True the first time, and whenever a file has changed or the machine was suspended since the last call."""
        seen = []
        for path in self._paths:
            with suppress(OSError):
                known = Path(path).stat()
                seen.append((known.st_mtime_ns, known.st_ino))
        slept = suspended()
        moved = seen != self._seen or slept - self._suspended >= STANDSTILL
        self._seen, self._suspended = seen, slept
        return moved


class _GivenUpError(Exception):
    """The deadline has passed, or the transport was closed."""


class _BrokenOffError(Exception):
    """An answer began and did not end: what it answers may have been taken, and is not sent again."""


class _Names:
    """Resolves one host in a thread of its own: no resolver is waited for longer than the deadline."""

    def __init__(self, host: str, port: int) -> None:
        self._asked = (host, port)
        self._thread: threading.Thread | None = None
        self._found: list[Any] | OSError | UnicodeError = []

    def resolve(self, patience: float) -> list[Any]:
        """The addresses. One look-up at a time: one that hangs is waited for again by the next attempt.

        Raises:
            OSError, UnicodeError: there are none, or none in time.
            RuntimeError: no thread is to be had.
        """
        thread = self._thread
        if thread is None:
            thread = threading.Thread(target=self._ask, name="telemetry-name", daemon=True)
            thread.start()
            self._thread = thread
        thread.join(max(patience, 0))
        if thread.is_alive():
            raise TimeoutError("the name did not resolve in time")
        self._thread = None
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def _ask(self) -> None:
        try:
            self._found = socket.getaddrinfo(*self._asked, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._found = error


class _Lines:
    """What an answer is read from, which remembers its latest line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.latest = b""

    def readline(self, limit: int = -1) -> bytes:
        """The next line."""
        self.latest = self._file.readline(limit)
        return self.latest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Answer(http.client.HTTPResponse):
    """An answer that knows whether the end of its chunks has come: http.client takes the connection's end for that."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._lines = _Lines(self.fp)
        self.fp = cast("Any", self._lines)

    @property
    def chunks_ended(self) -> bool:
        """It has come in chunks, and the empty line behind the last one has been read."""
        return bool(self.chunked) and self.isclosed() and self._lines.latest in (b"\r\n", b"\n")


class HttpTransport:
    """OTLP over HTTP/1.1, one kept connection. `attempt` belongs to one thread, `close` to any."""

    def __init__(self, signal: Signal, target: OtlpTarget, trust: Trust) -> None:
        self._service = SERVICES[signal]
        self._target = target
        self._trust = trust
        self._ground = Ground(target)
        url = urlsplit(target.endpoint)
        self._tls = url.scheme == "https"
        self._host, self._port = url.hostname or "", url.port or (443 if self._tls else 80)
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        via = self._proxy = target.proxy
        self._names = _Names(*((via.host, via.port) if via else (self._host, self._port)))
        self._headers = self._fixed_headers(url.netloc.rpartition("@"))
        if via is not None and not self._tls:
            self._path = f"http://{url.netloc.rpartition('@')[2]}{self._path}"
            self._headers |= _proxy_headers(via)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._busy = threading.Lock()
        self._given_up = False
        self._closed = False

    def _fixed_headers(self, netloc: tuple[str, str, str]) -> dict[str, str]:
        user, _, host = netloc
        # In lower case, as those of the settings are, which stand in place of these.
        fixed = {"host": host, "content-type": "application/x-protobuf", "user-agent": AGENT}
        if user:
            pair = unquote(user if ":" in user else f"{user}:")
            fixed["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        if self._target.compression != "none":
            fixed["content-encoding"] = self._target.compression
        return fixed | dict(self._target.headers)

    def attempt(self, body: bytes, deadline: float) -> Attempt:
        """Posts `body`; returns by `deadline` (of `time.monotonic`) whatever the other side does."""
        packed = _PACKERS[self._target.compression](body)
        self._given_up = self._closed
        alarm = threading.Timer(max(deadline - time.monotonic(), 0), self._give_up)
        alarm.daemon = True
        try:
            alarm.start()
        except RuntimeError as error:  # no thread is to be had
            return Attempt(State.FAILED, _not_connected(error), again=0)
        with self._busy:
            try:
                return self._attempt(packed, deadline)
            finally:
                alarm.cancel()
                if self._closed:
                    self._drop()

    def close(self) -> None:
        """Ends the attempt under way, and all that follow."""
        self._closed = True
        self._give_up()
        if self._busy.acquire(blocking=False):
            self._drop()
            self._busy.release()

    def _give_up(self) -> None:
        self._given_up = True
        held = self._socket
        if held is not None:
            with suppress(OSError):
                # Past SSLSocket's own method, which another thread may be inside of.
                socket.socket.shutdown(held, socket.SHUT_RDWR)

    def _attempt(self, body: bytes, deadline: float) -> Attempt:
        kept = self._usable()
        try:
            if not kept:
                self._connect(deadline)
        except (OSError, UnicodeError, RuntimeError, _GivenUpError, http.client.HTTPException) as error:
            self._drop()
            return Attempt(State.FAILED, _not_connected(error), again=0)
        try:
            return self._post(body)
        except (OSError, http.client.HTTPException, _BrokenOffError) as error:
            self._drop()
            if kept and not self._given_up and isinstance(error, ConnectionError):
                # It had been closed meanwhile; or it was not, and what it got may have been taken.
                anew = self._attempt(body, deadline)
                return replace(anew, state=State.UNKNOWN) if anew.state is State.FAILED else anew
            return self._lost(error)

    def _usable(self) -> bool:
        """Whether the kept connection still stands; nothing may be waiting on it."""
        if self._connection is None or self._socket is None:
            return False
        waiting = select.poll()  # `select` knows no descriptor above 1,023
        waiting.register(self._socket, select.POLLIN)
        if self._ground.moved() or waiting.poll(0):
            self._drop()
            return False
        return True

    def _connect(self, deadline: float) -> None:
        self._ground.moved()
        held = self._socket = self._reach(self._names.resolve(deadline - time.monotonic()), deadline)
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.response_class = _Answer
        connection.sock = held
        if self._tls and self._proxy is not None:
            _tunnel(held, str(Address(self._host, self._port)), _proxy_headers(self._proxy))
        if self._tls:
            secure = self._context().wrap_socket(
                held, server_hostname=self._host, do_handshake_on_connect=False
            )
            connection.sock = self._socket = secure
            self._check()
            secure.do_handshake()
        self._check()
        self._connection = connection

    def _reach(self, addresses: list[Any], deadline: float) -> socket.socket:
        """A connection to one of them; each has its share of the time, as one that is silent would take it all."""
        error: OSError = ConnectionError("the name has no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            self._check()
            held = socket.socket(family, kind, protocol)
            held.settimeout(max((deadline - time.monotonic()) / (len(addresses) - tried), 0.001))
            try:
                held.connect(address)
                held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as refused:
                held.close()
                error = refused
            else:
                held.settimeout(None)  # from here on the alarm ends it
                return held
        raise error

    def _check(self) -> None:
        if self._given_up:
            raise _GivenUpError

    def _context(self) -> ssl.SSLContext:
        context = self._trust.context(self._target.certificate)
        if self._target.client_certificate:
            files = self._target.client_certificate, self._target.client_key
            context.load_cert_chain(*files, password=_no_password)
        return context

    def _post(self, body: bytes) -> Attempt:
        connection = self._connection
        if connection is None:
            raise ConnectionError
        with suppress(ConnectionError):  # a receiver that wants no more of it may have said so
            connection.request("POST", self._path, body, self._headers)
        answer = connection.getresponse()
        taken = 200 <= answer.status < 300
        measured = answer.length is not None
        said = b""
        try:
            said = answer.read(_ANSWER_LIMIT)
        except (OSError, http.client.HTTPException, ValueError) as error:  # a chunk may be of no size
            if taken:
                raise _BrokenOffError from error
        if answer.will_close or not answer.isclosed():
            self._drop()
        if not measured and isinstance(answer, _Answer):
            measured = answer.chunks_ended  # what is neither may have been ended by the alarm
        if taken and ((self._given_up and not measured) or (answer.length and len(said) < _ANSWER_LIMIT)):
            raise _BrokenOffError
        if answer.getheader("Content-Encoding", "").lower() == "gzip":
            with suppress(OSError, EOFError, zlib.error):
                said = zlib.decompressobj(31).decompress(said, _ANSWER_LIMIT)
        return self._judged(answer, said)

    def _judged(self, answer: http.client.HTTPResponse, said: bytes) -> Attempt:
        status = f"HTTP {answer.status} {printable(answer.reason)}".rstrip()
        kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
        if 200 <= answer.status < 300:
            message = read_answer(self._service.response, kind, said)
            if message is not None:
                return taken(self._service, message)
            words = printable(said.decode("utf-8", "replace"))
            return Attempt(
                State.UNCONFIRMED, f"{status}, but not from an OTLP receiver ({kind or 'no type'}): {words}"
            )
        words = _words(kind, said)
        return Attempt(
            State.FAILED,
            f"{status}: {words}" if words else status,
            again=_retry_after(answer) if answer.status in _BUSY else None,
            too_large=answer.status == http.client.REQUEST_ENTITY_TOO_LARGE,
        )

    def _lost(self, error: Exception) -> Attempt:
        if self._given_up:
            return Attempt(State.UNKNOWN, "no answer in time")
        if isinstance(error, ssl.SSLError):  # it refuses our certificate only after the handshake
            return Attempt(State.FAILED, _not_connected(error))
        if isinstance(error, http.client.HTTPException) and not isinstance(error, ConnectionError):
            return Attempt(State.UNKNOWN, "what answered does not speak HTTP")
        if isinstance(error, _BrokenOffError):
            return Attempt(State.UNKNOWN, "the answer broke off")
        return Attempt(State.UNKNOWN, "connection lost before the answer")

    def _drop(self) -> None:
        connection, held, self._connection, self._socket = self._connection, self._socket, None, None
        for one in (connection, held):
            if one is not None:
                with suppress(OSError):
                    one.close()


_BUSY = frozenset({429, 502, 503, 504})
"""The statuses after which OTLP lets a client try again."""

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")

_PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": lambda body: gzip.compress(body, 5, mtime=0),
    "deflate": zlib.compress,
}


_PARTIAL = frozenset({"partialSuccess", "partial_success"})
"""The one member of an OTLP answer in JSON. One that has others only is somebody else's, such as `{"status": "ok"}`."""


def read_answer(kind: type[Message], media: str, said: bytes) -> Message | None:
    """The receiver's message; an empty body is an empty one. None: this is not an OTLP answer."""
    message = kind()
    if not said.strip():
        return message
    try:
        if media.endswith("json"):
            told = json.loads(said)
            if not isinstance(told, dict) or (told and _PARTIAL.isdisjoint(told)):
                return None
            return json_format.ParseDict(told, message, ignore_unknown_fields=True)
        if media in {"application/x-protobuf", "application/protobuf", "application/octet-stream", ""}:
            message.ParseFromString(said)
            return message
    except (DecodeError, json_format.ParseError, ValueError, RecursionError):
        pass
    return None


def _words(media: str, said: bytes) -> str:
    """What a receiver says of its refusal: a `google.rpc.Status` in either form, or text."""
    if "protobuf" in media:
        with suppress(DecodeError):
            return printable(Status.FromString(said).message)
    if media.endswith("json"):
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            message = json.loads(said)["message"]
            if isinstance(message, str):
                return printable(message)
        # Not a Status: the text itself says most.
    return printable(said.decode("utf-8", "replace"))


def _retry_after(answer: http.client.HTTPResponse) -> float:
    """Seconds; a date counts from the answer's own. What is neither asks for no wait of its own."""
    text = answer.getheader("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _moment(text)
    if until is None:
        return 0.0
    return max(until - (_moment(answer.getheader("Date", "")) or time.time()), 0.0)


def _moment(date: str) -> float | None:
    """An HTTP date as seconds since the epoch."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _no_password() -> bytes:
    """Asked for a key's. OpenSSL would ask the terminal, and keep the process's signals until it answers."""
    raise ConnectionError("the client's key has a password")


def _not_connected(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {printable(error.reason or str(error))}"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "cannot connect: the name does not resolve"
    if isinstance(error, _GivenUpError | TimeoutError):
        return "cannot connect: not in time"
    return f"cannot connect: {printable(getattr(error, 'strerror', None) or str(error))}"


def _proxy_headers(proxy: EgressProxy) -> dict[str, str]:
    return {"Proxy-Authorization": proxy.authorization.decode()} if proxy.authorization else {}


def _tunnel(held: socket.socket, authority: str, headers: Mapping[str, str]) -> None:
    """Asks the proxy for a way through.

    Raises:
        OSError: it gives none.
    """
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    held.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n".encode())
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        piece = held.recv(1)  # not a byte more: what follows is the receiver's
        said += piece
        if not piece or len(said) > _ANSWER_LIMIT:
            raise ConnectionError("the proxy broke off its answer to CONNECT")
    line = said.split(b"\r\n", 1)[0].decode("latin-1")
    if not line.partition(" ")[2].startswith("2"):
        raise ConnectionError(
            f"the proxy answered CONNECT with {line.partition(' ')[2] or 'what is not HTTP'}"
        )
