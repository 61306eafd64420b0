"""The last step out: encoded batches through the official OTLP exporters, and what became of each.

Owns the watching of every attempt, since the exporters tell only success or not: what the collector answered,
and whether a request without an answer can have arrived. Everything is passed to them: nothing of the process's
environment gets in. An export blocks its thread, up to the time-out.
"""

import io
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar

import grpc  # type: ignore[import-untyped]
import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from sidecar.core.shown import shown
from sidecar.telemetry.encode import PIECE, SpanEncoder, rest
from sidecar.telemetry.ledger import Delivery, Signal, State
from sidecar.telemetry.otel_settings import OtlpTarget
from sidecar.telemetry.stream_sender import Stream, StreamSender
from sidecar.telemetry.timed_http import TimedAdapter

_ANSWER_LIMIT = 64 * 1024
"""Bytes of a collector's answer that are read."""
_OFFICIAL_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})
_Item_contra = TypeVar("_Item_contra", contravariant=True)


class Sender(Protocol[_Item_contra]):
    """One signal's way out. Its methods are called by that signal's worker thread."""

    def send(self, batch: Sequence[_Item_contra], count: int, /) -> Delivery:
        """Export a batch of `count` items, and say what became of them."""

    def close(self) -> None:
        """Give up waiting between retries, and let go of connections. From any thread."""


@dataclass(frozen=True, slots=True)
class _Service:
    """One signal's words in the OTLP protocol."""

    method: str
    response: type[Message]
    rejected: str
    """The field of `partial_success` with the number of rejected items."""
    http: type[OTLPSpanExporter | OTLPMetricExporter | OTLPLogExporter]


_COLLECTOR = "/opentelemetry.proto.collector"
_SERVICES = {
    Signal.TRACES: _Service(
        f"{_COLLECTOR}.trace.v1.TraceService/Export",
        ExportTraceServiceResponse,
        "rejected_spans",
        OTLPSpanExporter,
    ),
    Signal.METRICS: _Service(
        f"{_COLLECTOR}.metrics.v1.MetricsService/Export",
        ExportMetricsServiceResponse,
        "rejected_data_points",
        OTLPMetricExporter,
    ),
    Signal.LOGS: _Service(
        f"{_COLLECTOR}.logs.v1.LogsService/Export",
        ExportLogsServiceResponse,
        "rejected_log_records",
        OTLPLogExporter,
    ),
}


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one try came to."""

    taken: bool
    sent: bool
    """Whether, taken or not, it may have arrived without an answer that says so."""
    reason: str
    answer: Message | None = None


class _Watch:
    """The attempts of one batch, and how long they may take together; both protocols classify by it.

    The time is the monotonic clock's. The exporters reckon theirs by the wall clock, which may be set at any moment.
    """

    def __init__(self, service: _Service, timeout: float) -> None:
        self.service = service
        self.attempts: list[_Attempt] = []
        self._timeout = timeout
        self._deadline = 0.0

    def begin(self) -> None:
        """A batch's time begins to run."""
        self._deadline = monotonic() + self._timeout

    def left(self) -> float:
        """Seconds left for the batch, 0 if its time is over."""
        return max(0.0, self._deadline - monotonic())

    def delivery(self, count: int, otherwise: str) -> Delivery:
        """What became of the batch: the last attempt decides, unless an earlier one may have arrived unanswered."""
        attempts, self.attempts = self.attempts, []
        last = attempts[-1] if attempts else _Attempt(taken=False, sent=False, reason=otherwise)
        if not last.taken:
            unclear = any(attempt.sent for attempt in attempts)
            return Delivery.of(State.UNKNOWN if unclear else State.FAILED, count, last.reason)
        partial: Any = getattr(last.answer, "partial_success", None)
        rejected = min(max(getattr(partial, self.service.rejected, 0), 0), count)
        reason = (
            f"rejected by the collector: {partial.error_message or 'no reason given'}" if rejected else ""
        )
        return Delivery({State.EXPORTED: count - rejected, State.REJECTED: rejected}, reason)


class _TimeIsOverError(Exception):
    """The batch's time was over before another try: no error that the exporter would answer with one more."""


class _WatchedSession(requests.Session):
    """The HTTP exporter's session. It sees each attempt, and takes nothing from the process's environment."""

    def __init__(self, target: OtlpTarget, watch: _Watch) -> None:
        super().__init__()
        self.trust_env = False
        adapter = TimedAdapter(watch.left)
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        self._own_headers = dict(target.headers)
        self._watch = watch

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: dict[str, str], **options: Any
    ) -> requests.Response:
        """One attempt, noted with its answer."""
        official = {name: value for name, value in headers.items() if name.lower() in _OFFICIAL_HEADERS}
        options["timeout"] = self._watch.left()
        if not options["timeout"]:
            raise _TimeIsOverError
        try:
            response = super().request(
                method, url, headers=official | self._own_headers, stream=True, **options
            )
            answer = _read_answer(response, self._watch.service.response)
        except requests.RequestException as error:
            sent = not _never_sent(error)
            self._watch.attempts.append(_Attempt(taken=False, sent=sent, reason=_spoken(error, sent=sent)))
            raise
        taken = 200 <= response.status_code < 300
        reason = "" if taken else f"HTTP {response.status_code} {response.reason}"
        self._watch.attempts.append(_Attempt(taken=taken, sent=False, reason=reason, answer=answer))
        return response


def _read_answer(response: requests.Response, kind: type[Message]) -> Message | None:
    """The collector's message; None for what is none: its status says enough.

    Raises:
        requests.ReadTimeout: it did not end in time.
    """
    try:
        body = response.raw.read(_ANSWER_LIMIT, decode_content=True)
        if "application/json" in response.headers.get("content-type", ""):
            return json_format.Parse(body, kind(), ignore_unknown_fields=True)
        message = kind()
        message.ParseFromString(body)
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except (HTTPError, OSError, DecodeError, json_format.ParseError, UnicodeDecodeError):
        return None
    else:
        return message
    finally:
        response.close()


def _never_sent(error: requests.RequestException) -> bool:
    """Whether the collector cannot have got the request."""
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ProxyError):
        return True
    if not isinstance(
        error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError
    ):
        return True  # a URL, header or certificate that cannot be used at all
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | ConnectTimeoutError | SSLError)


def _spoken(error: requests.RequestException, *, sent: bool) -> str:
    if isinstance(error, requests.ReadTimeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed"
    return "connection lost before the answer" if sent else "cannot connect"


class HttpSender:
    """OTLP over HTTP, by the official exporter's client: its retries, compression and time-out."""

    def __init__(
        self, signal: Signal, target: OtlpTarget, encode: Callable[[Sequence[Any]], bytes], timeout: float
    ) -> None:
        self._encode = encode
        self._watch = _Watch(_SERVICES[signal], timeout)
        session = _WatchedSession(target, self._watch)
        self._exporter = _SERVICES[signal].http(
            endpoint=target.endpoint,
            timeout=timeout,
            compression=Compression(target.compression),
            session=session,
        )
        # After the exporter, which fills these from the process's environment.
        session.verify = target.certificate or _system_trust() or True
        key, certificate = target.client_key, target.client_certificate
        session.cert = (certificate, key) if certificate and key else certificate
        session.proxies = dict.fromkeys(("http", "https"), target.proxy.url) if target.proxy else {}

    def send(self, batch: Sequence[Any], count: int, /) -> Delivery:
        """Encode and export; blocks up to the time-out."""
        data = self._encode(batch)
        self._watch.begin()
        # The client below `export()`, which would encode by itself.
        result = self._exporter._client.export(data)  # noqa: SLF001
        return self._watch.delivery(count, str(result.error or "the export was given up"))

    def close(self) -> None:
        """End the waiting between retries."""
        self._exporter.shutdown()


class _NoTimeLeftError(grpc.RpcError):  # type: ignore[misc]
    """The batch's time was over before another try; its code is one that is not tried again."""

    def code(self) -> grpc.StatusCode:
        """What the exporter asks first."""
        return grpc.StatusCode.FAILED_PRECONDITION

    def details(self) -> str:
        """What it would log."""
        return "no time left"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """No word on when to try again."""
        return ()


class _Stub:
    """What the gRPC exporter calls: takes encoded bytes, and notes each attempt with its answer."""

    def __init__(self, watch: _Watch, channel: grpc.Channel) -> None:
        self._watch = watch
        self._call = channel.unary_unary(watch.service.method, response_deserializer=self._read)

    def Export(self, *, request: bytes, metadata: Any, timeout: float) -> Message:  # noqa: N802 - the stubs' name
        """One attempt."""
        del timeout  # by the wall clock
        left = self._watch.left()
        if not left:
            raise _NoTimeLeftError
        try:
            answer = self._call(request, metadata=metadata, timeout=left)
        except grpc.RpcError as error:
            self._watch.attempts.append(_grpc_failure(error.code(), error.details() or ""))
            raise
        self._watch.attempts.append(_Attempt(taken=True, sent=False, reason="", answer=answer))
        return answer

    def _read(self, body: bytes) -> Message:
        """The collector's message; an empty one for what is none, since its status says enough."""
        message = self._watch.service.response()
        try:
            message.ParseFromString(body)
        except DecodeError:
            message.Clear()
        return message


_UNANSWERED = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""Codes that gRPC itself gives where no answer came."""
_LOST = ("Socket closed", "Connection reset", "Broken pipe", "GOAWAY")
"""How gRPC words a connection that broke while a call was under way; the code is a collector's too."""


def _grpc_failure(code: grpc.StatusCode, details: str) -> _Attempt:
    if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details:
        return _Attempt(taken=False, sent=False, reason="cannot connect")
    if code is grpc.StatusCode.UNAVAILABLE and any(words in details for words in _LOST):
        return _Attempt(taken=False, sent=True, reason="connection lost before the answer")
    if code in _UNANSWERED:
        return _Attempt(taken=False, sent=True, reason="no answer in time")
    return _Attempt(taken=False, sent=False, reason=f"gRPC {code.name}: {shown(details, 200)}")


class _GrpcExporter(OTLPExporterMixin):  # type: ignore[type-arg]
    """The official gRPC exporter, for batches that are encoded already."""

    def __init__(self, target: OtlpTarget, watch: _Watch, timeout: float) -> None:
        options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", int(target.proxy is not None))]
        if target.proxy is not None:
            options.append(("grpc.http_proxy", target.proxy.url))
        gzip = target.compression == "gzip"
        super().__init__(
            stub=partial(_Stub, watch),
            result=SpanExportResult,
            endpoint=target.endpoint,
            insecure=target.insecure,
            credentials=None if target.insecure else _credentials(target),
            headers=target.headers,
            timeout=timeout,
            compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
            channel_options=tuple(options),  # type: ignore[arg-type]
        )
        # Where there are none, it has looked in the process's environment.
        self._headers = target.headers

    def export(self, request: bytes) -> None:
        """Send one encoded batch; the watch knows what became of it."""
        self._export(request)

    def _translate_data(self, data: bytes) -> bytes:
        return data

    def _count_data(self, data: bytes) -> int:  # noqa: ARG002 - for the exporter's own metrics, which are off
        return 0

    @property
    def _exporting(self) -> str:
        return "telemetry"


class GrpcSender:
    """OTLP over gRPC, by the official exporter: its retries, reconnection and time-out."""

    def __init__(
        self, signal: Signal, target: OtlpTarget, encode: Callable[[Sequence[Any]], bytes], timeout: float
    ) -> None:
        self._encode = encode
        self._watch = _Watch(_SERVICES[signal], timeout)
        self._exporter = _GrpcExporter(target, self._watch, timeout)

    def send(self, batch: Sequence[Any], count: int, /) -> Delivery:
        """Encode and export; blocks up to the time-out."""
        data = self._encode(batch)
        self._watch.begin()
        self._exporter.export(data)
        return self._watch.delivery(count, "the export was given up")

    def close(self) -> None:
        """End the waiting between retries, and the call under way."""
        self._exporter.shutdown()


def _credentials(target: OtlpTarget) -> grpc.ChannelCredentials:
    def content(path: str | None) -> bytes | None:
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(
        root_certificates=content(target.certificate or _system_trust()),
        private_key=content(target.client_key),
        certificate_chain=content(target.client_certificate),
    )


def _system_trust() -> str | None:
    return ssl.get_default_verify_paths().cafile


class ConsoleSender:
    """The SDK's console exporters: JSON on standard output. A batch is written whole, or is lost."""

    def __init__(self, signal: Signal, stdout: Stream) -> None:
        exporters: dict[Signal, Any] = {
            Signal.TRACES: ConsoleSpanExporter,
            Signal.METRICS: ConsoleMetricExporter,
            Signal.LOGS: ConsoleLogRecordExporter,
        }
        self._text = io.StringIO()
        self._exporter = exporters[signal](out=self._text)
        self._signal = signal
        self._stream = StreamSender(stdout)

    def send(self, batch: Sequence[Any], count: int, /) -> Delivery:
        """Write it out."""
        for data in batch if self._signal is Signal.METRICS else (batch,):
            self._exporter.export(data)
        written = self._stream.send((self._text.getvalue().encode(),), 1)
        self._text.seek(0)
        self._text.truncate()
        return Delivery({state: count * of_one for state, of_one in written.counts.items()}, written.reason)

    def close(self) -> None:
        """Wait no more for whoever reads it."""
        self._stream.close()


def _encode_logs(batch: Sequence[Any]) -> bytes:
    # In pieces, which may be joined: in protobuf, repeated fields of messages one after the other are one list.
    pieces = []
    for start in range(0, len(batch), PIECE):
        pieces.append(bytes(encode_logs(batch[start : start + PIECE]).SerializeToString()))
        rest()
    return b"".join(pieces)


def _encode_metrics(batch: Sequence[Any]) -> bytes:
    (data,) = batch
    return bytes(encode_metrics(data).SerializeToString())


def make_sender(
    signal: Signal, exporter: str, target: OtlpTarget | None, timeout: float, stdout: Stream
) -> Sender[Any]:
    """The way out that the settings ask for; `timeout` in seconds bounds an export, like the target's own.

    `stdout` is for console exporters.
    """
    if exporter == "console" or target is None:
        return ConsoleSender(signal, stdout)
    # Their own lines would come with every retry; the pipeline tells failures once, and counts them.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)
    encode = {
        Signal.TRACES: SpanEncoder().encode,
        Signal.LOGS: _encode_logs,
        Signal.METRICS: _encode_metrics,
    }[signal]
    make = GrpcSender if target.protocol == "grpc" else HttpSender
    return make(signal, target, encode, min(timeout, target.timeout))
