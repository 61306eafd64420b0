"""One attempt to hand encoded bytes to an OTLP receiver over gRPC, within one deadline for all of it.

Owns the channel, its renewal, and the reading of gRPC's own words. Loading it costs memory and a good part of a start,
so only what exports by gRPC does.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.otel_settings import OtlpTarget
from sidecar.telemetry.transports import AGENT, SERVICES, Attempt, Ground, printable, read_answer, taken
from sidecar.ways_out import Trust


class GrpcTransport:
    """OTLP over gRPC, one channel at a time. `attempt` belongs to one thread, `close` to any."""

    def __init__(self, signal: Signal, target: OtlpTarget, trust: Trust) -> None:
        self._service = SERVICES[signal]
        self._target = target
        self._trust = trust
        self._ground = Ground(target)
        self._address = target.endpoint
        if "://" in target.endpoint and not target.endpoint.startswith("unix:"):
            self._address = urlsplit(target.endpoint).netloc
        self._options: list[tuple[str, Any]] = [
            ("grpc.enable_http_proxy", int(target.proxy is not None)),
            ("grpc.primary_user_agent", AGENT),
            # Else a new channel gets the connection of the one before it, or of another signal, back.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if target.proxy is not None:
            self._options.append(("grpc.http_proxy", target.proxy.url))
        gzipped = target.compression == "gzip"
        self._compression = grpc.Compression.Gzip if gzipped else grpc.Compression.NoCompression
        self._channel: grpc.Channel | None = None
        self._closed = False

    def attempt(self, body: bytes, deadline: float) -> Attempt:
        """Calls the service with `body`; returns by `deadline` (of `time.monotonic`)."""
        try:
            call = self._open().unary_unary(self._service.method)
            said = call(
                body,
                metadata=self._target.headers,
                timeout=max(deadline - time.monotonic(), 0.001),
                compression=self._compression,
            )
        except grpc.RpcError as error:
            return self._failed(error)
        except (OSError, ValueError) as error:
            self._drop()
            return Attempt(State.FAILED, f"cannot connect: {printable(str(error))}")
        message = read_answer(self._service.response, "application/x-protobuf", said)
        if message is None:
            return Attempt(State.UNCONFIRMED, "gRPC OK, but the answer is not that of an OTLP receiver")
        return taken(self._service, message)

    def close(self) -> None:
        """Ends the attempt under way, and all that follow."""
        self._closed = True
        self._drop()

    def _open(self) -> grpc.Channel:
        if self._closed:
            raise ValueError("the export was given up")
        if self._channel is not None and self._ground.moved():
            self._drop()
        if self._channel is None:
            self._ground.moved()
            if self._target.insecure:
                self._channel = grpc.insecure_channel(self._address, self._options)
            else:
                self._channel = grpc.secure_channel(self._address, self._credentials(), self._options)
        return self._channel

    def _credentials(self) -> grpc.ChannelCredentials:
        """What TLS needs, read anew.

        Raises:
            OSError, ValueError: a file cannot be read, or is empty.
        """
        key = chain = None
        if self._target.client_certificate:
            chain = Path(self._target.client_certificate).read_bytes()
            key = Path(self._target.client_key).read_bytes() if self._target.client_key else chain
            if not key or not chain:  # for one without the other gRPC's core ends the process
                raise ValueError("the client's certificate or its key is empty")
        return grpc.ssl_channel_credentials(self._trust.pem(self._target.certificate), key, chain)

    def _failed(self, error: Any) -> Attempt:
        code, said = error.code(), error.details() or ""
        details = printable(_innermost(said))
        # Only a collector sends metadata.
        own = "" if error.trailing_metadata() else said.removeprefix(_WRAPPED)
        if code in _UNANSWERED:
            self._drop()  # perhaps nobody is behind it any more
            return Attempt(State.UNKNOWN, "no answer in time")
        if code is grpc.StatusCode.UNAVAILABLE:
            if own.startswith(_NO_WAY):
                self._drop()  # else it waits before it connects again, longer each time
                return self._no_way(details)
            if own.startswith(_LOST):
                return Attempt(State.UNKNOWN, "connection lost before the answer")
        elif own.startswith(_RESET):  # with UNAVAILABLE it was refused unseen
            return Attempt(State.UNKNOWN, f"reset before the answer: {details}")
        large = code in _TOO_LARGE and any(words in details for words in ("larger than max", "too large"))
        wait = _retry_info(error)
        retryable = code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait is not None)
        return Attempt(
            State.FAILED,
            f"gRPC {code.name}: {details}",
            again=(wait or 0) if retryable and not large else None,
            too_large=large,
        )

    def _no_way(self, details: str) -> Attempt:
        if not self._target.insecure and "Socket closed" in details:
            # With TLS 1.3 a receiver refuses a client's certificate only after the handshake.
            details = "the connection was closed after the handshake: is the client's certificate known?"
        elif not any(words in details for words in _TLS):
            return Attempt(State.FAILED, f"cannot connect: {details}", again=0)
        return Attempt(State.FAILED, f"TLS failed: {details}", again=0)

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


_UNANSWERED = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""Codes that gRPC itself gives where no answer came."""
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes after which OTLP lets a client try again (RESOURCE_EXHAUSTED where the receiver says when)."""
_TOO_LARGE = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT})
_NO_WAY = (
    "failed to connect to all addresses",
    "errors resolving ",
    "DNS resolution failed",
    "name resolution failure",
)
_TLS = ("SSL", "TLS", "ertificate", "andshake")
_TLS_MARK = "andshake failed"
_RESET = ("RST_STREAM", "Received RST_STREAM")
_WRAPPED = "Stream removed ("
_LOST = (
    "Socket closed",
    "recvmsg:",
    "sendmsg:",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
)
"""How gRPC's sentences begin of a connection that was never made, of a stream that was reset, and of a connection that broke
during a call. A collector's may hold such words too: it tells of those behind it."""


def _innermost(details: str) -> str:
    """What gRPC's core says, without what it wraps around OpenSSL's reason."""
    before, mark, cause = details.rpartition("OPENSSL_internal:")
    return f"handshake: {cause}" if mark and _TLS_MARK in before else details


def _retry_info(error: Any) -> float | None:
    """Seconds after which the receiver wants to be asked again, if it says so."""
    for key, value in error.trailing_metadata() or ():
        with suppress(DecodeError):
            if key == "google.rpc.retryinfo-bin":
                return _seconds(RetryInfo.FromString(value))
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return _seconds(info)
    return None


def _seconds(info: RetryInfo) -> float:
    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
