"""The servers behind the collector for tests, one for each protocol, and what they may be told to answer.

Owns the wire: paths and method names, gzip, and the protobuf answers. What was exported is the sink's business
(`sink.py`), which makes these.
"""

import gzip
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import grpc  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

SIGNALS = ("traces", "metrics", "logs")

_SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}


@dataclass(frozen=True, slots=True)
class SinkAnswer:
    """What the collector says to one export.

    `status` for HTTP and `code` (a gRPC status name) for gRPC; an export is taken only if it is 200 / `OK`.
    `rejected` and `message` make a `partial_success`; `garbage` replaces the answer's body (HTTP);
    `Retry-After` in `headers` is a `RetryInfo` for gRPC;
    `delay` (seconds) comes before the answer; `hang` never answers, until the sink is stopped. Over HTTP, `drip` is
    the seconds between one byte of the answer and the next, and `hang_up` closes the connection in place of an answer.
    """

    status: int = 200
    code: str = "OK"
    rejected: int = 0
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    garbage: bytes | None = None
    delay: float = 0.0
    hang: bool = False
    drip: float = 0.0
    hang_up: bool = False

    @property
    def takes(self) -> bool:
        """True if the export's items count as received."""
        return self.status == 200 and self.code == "OK" and not self.hang


class Taker(Protocol):
    """The sink, as its servers see it."""

    def export(self, signal: str, body: bytes, headers: Mapping[str, str], size: int) -> SinkAnswer:
        """Takes one export, and says how to answer it."""


def _reply(signal: str, answer: SinkAnswer) -> bytes:
    """The protobuf answer of one export."""
    partial = bool(answer.rejected or answer.message)
    if signal == "traces":
        traces = ExportTraceServiceResponse()
        if partial:
            traces.partial_success.rejected_spans = answer.rejected
            traces.partial_success.error_message = answer.message
        return bytes(traces.SerializeToString())
    if signal == "metrics":
        metrics = ExportMetricsServiceResponse()
        if partial:
            metrics.partial_success.rejected_data_points = answer.rejected
            metrics.partial_success.error_message = answer.message
        return bytes(metrics.SerializeToString())
    logs = ExportLogsServiceResponse()
    if partial:
        logs.partial_success.rejected_log_records = answer.rejected
        logs.partial_success.error_message = answer.message
    return bytes(logs.SerializeToString())


class HttpServer(ThreadingHTTPServer):
    """OTLP over HTTP, a thread for each connection."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], sink: Taker, tls: ssl.SSLContext | None = None) -> None:
        self.sink = sink
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(address, _HttpHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a handshake that fails or hangs is that client's alone."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes a connection, which is kept for many exports."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """It has ended."""
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Ends those that are kept; their threads see it and close them."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An exporter that hangs up is not an event of the test."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        signal = self.path.rpartition("/")[2]
        if signal not in SIGNALS:
            self._say(SinkAnswer(status=404), b"")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.sink.export(signal, body, headers, len(raw))
        if answer.hang or answer.hang_up:
            self.close_connection = True  # that of `hang`: the sink has stopped, there is nobody to answer
            return
        body = (
            _reply(signal, answer)
            if answer.takes
            else bytes(Status(message=answer.message).SerializeToString())
        )
        self._say(answer, answer.garbage if answer.garbage is not None else body)

    def _say(self, answer: SinkAnswer, body: bytes) -> None:
        if answer.drip:
            peer, self.wfile = self.wfile, io.BytesIO()
            self._say(replace(answer, drip=0.0), body)
            said, self.wfile = self.wfile.getvalue(), peer
            for at in range(len(said)):
                self.wfile.write(said[at : at + 1])
                time.sleep(answer.drip)
            return
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/x-protobuf", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing: the test's output is the test's."""


class GrpcServices(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The three export services, without generated servicers: bytes in, bytes out."""

    def __init__(self, sink: Taker) -> None:
        self._sink = sink

    def service(self, details: Any) -> Any:
        """The handler of a method, or None if it is not one of the three."""
        for signal, service in _SERVICES.items():
            if details.method == f"/{service}/Export":
                return grpc.unary_unary_rpc_method_handler(self._export(signal))
        return None

    def _export(self, signal: str) -> Callable[[bytes, Any], bytes]:
        def export(body: bytes, context: Any) -> bytes:
            pairs: Iterable[tuple[str, str | bytes]] = context.invocation_metadata()
            headers = {name: str(value) for name, value in pairs}
            answer = self._sink.export(signal, body, headers, len(body))
            if answer.hang:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the sink has stopped")
            if answer.code != "OK":
                wait = answer.headers.get("Retry-After")
                if wait is not None:
                    info = RetryInfo()
                    info.retry_delay.FromTimedelta(timedelta(seconds=float(wait)))
                    context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
                context.abort(getattr(grpc.StatusCode, answer.code), answer.message)
            return _reply(signal, answer)

        return export
