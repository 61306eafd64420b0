"""A collector for tests: takes real OTLP exports, decodes them, and answers as it is told.

Owns a server on a port of its own and threads to serve it, so sync and async tests use it alike. It takes
`http/protobuf` (plain or gzip) or `grpc`, as the constructor says.
"""

import gzip
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from sidecar.testing.otlp import LogLine, Point, Span, Value, read_logs, read_points, read_spans

TIMEOUT = 5.0
"""Seconds that a test waits for an export before it fails."""

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
    `hang` never answers, until the sink is stopped.
    """

    status: int = 200
    code: str = "OK"
    rejected: int = 0
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    garbage: bytes | None = None
    hang: bool = False

    @property
    def takes(self) -> bool:
        """True if the export's items count as received."""
        return self.status == 200 and self.code == "OK" and not self.hang


@dataclass(frozen=True, slots=True)
class Call:
    """One export as it came: signal, header fields (lower case), size of the body on the wire, items, when (ns)."""

    signal: str
    headers: dict[str, str]
    size: int
    items: int
    at: int
    answer: SinkAnswer


class OtlpSink:
    """Collects what is exported to it. Use it as a context manager.

    `spans`, `points` and `logs` hold what was taken, in the order of arrival.
    """

    def __init__(self, protocol: str = "http/protobuf") -> None:
        if protocol not in ("http/protobuf", "grpc"):
            raise ValueError(f"{protocol!r} is neither http/protobuf nor grpc")
        self.protocol = protocol
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self._points: list[Point] = []
        self._logs: list[LogLine] = []
        self._calls: list[Call] = []
        self._answers: dict[str, deque[SinkAnswer]] = {signal: deque() for signal in SIGNALS}
        self._always: dict[str, SinkAnswer] = {}
        self._stopping = threading.Event()
        self._http: ThreadingHTTPServer | None = None
        self._grpc: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self.errors: list[Exception] = []
        """Exports that could not be decoded."""
        self.port = 0

    # --- life

    def start(self) -> Self:
        """Opens the port."""
        if self.protocol == "grpc":
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="otlp-sink")
            self._grpc = grpc.server(self._pool, handlers=(_GrpcServices(self),))
            self.port = self._grpc.add_insecure_port(f"127.0.0.1:{self.port}")
            self._grpc.start()
            return self
        self._http = _HttpServer(("127.0.0.1", self.port), self)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="otlp-sink", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Closes the port; exports that hang are let go."""
        self._stopping.set()
        if self._grpc is not None:
            self._grpc.stop(0).wait()
        if self._pool is not None:
            self._pool.shutdown()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        if self._thread is not None:
            self._thread.join(TIMEOUT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The value of `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def environ(self) -> dict[str, str]:
        """The `OTEL_*` variables that make a process export everything here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BLRP_SCHEDULE_DELAY": "20",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }

    # --- what it answers

    def answer(self, signal: str, *answers: SinkAnswer) -> None:
        """The next exports of `signal` (`traces`, `metrics`, `logs`) get these answers, one each."""
        with self._changed:
            self._answers[signal].extend(answers)

    def answer_always(self, signal: str, answer: SinkAnswer) -> None:
        """Every export of `signal` without an answer of its own gets this one."""
        with self._changed:
            self._always[signal] = answer

    # --- what it got

    @property
    def spans(self) -> list[Span]:
        """Every span taken so far."""
        with self._changed:
            return list(self._spans)

    @property
    def points(self) -> list[Point]:
        """Every data point taken so far, of all exports."""
        with self._changed:
            return list(self._points)

    @property
    def logs(self) -> list[LogLine]:
        """Every log record taken so far."""
        with self._changed:
            return list(self._logs)

    @property
    def calls(self) -> list[Call]:
        """Every export so far, taken or not."""
        with self._changed:
            return list(self._calls)

    def accepted(self, signal: str) -> int:
        """How many items of `signal` were taken, without those a `partial_success` rejected."""
        return sum(
            call.items - call.answer.rejected
            for call in self.calls
            if call.signal == signal and call.answer.takes
        )

    def clear(self) -> None:
        """Forgets everything taken so far, and all answers."""
        with self._changed:
            for items in (self._spans, self._points, self._logs, self._calls):
                items.clear()
            self._always.clear()
            for answers in self._answers.values():
                answers.clear()

    def wait_for(self, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Returns once `condition` holds; it is asked again after every export.

        Raises:
            AssertionError: it did not hold within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                names = [f"{span.kind} {span.name}" for span in self._spans]
                raise AssertionError(f"not within {timeout} s; spans: {names}; errors: {self.errors}")

    def find_spans(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        trace_id: str | None = None,
        attributes: Mapping[str, Value] | None = None,
    ) -> list[Span]:
        """The spans taken so far for which everything given holds; `attributes` are some of the span's."""
        wanted = attributes or {}
        return [
            span
            for span in self.spans
            if (name is None or span.name == name)
            and (kind is None or span.kind == kind)
            and (trace_id is None or span.trace_id == trace_id)
            and all(span.attributes.get(key) == value for key, value in wanted.items())
        ]

    def span(
        self,
        *,
        name: str | None = None,
        kind: str | None = None,
        trace_id: str | None = None,
        attributes: Mapping[str, Value] | None = None,
        timeout: float = TIMEOUT,
    ) -> Span:
        """The one span for which everything given holds, waited for.

        Raises:
            AssertionError: none came within `timeout` seconds, or several did.
        """

        def found() -> list[Span]:
            return self.find_spans(name=name, kind=kind, trace_id=trace_id, attributes=attributes)

        self.wait_for(found, timeout)
        spans = found()
        if len(spans) != 1:
            raise AssertionError(f"{len(spans)} such spans: {spans}")
        return spans[0]

    def snapshot(self, *, after: int, timeout: float = TIMEOUT) -> list[Point]:
        """The points of the first metric export that was collected at `after` (ns since the epoch) or later."""

        def times() -> list[int]:
            return [point.time for point in self._points if point.time >= after]

        self.wait_for(times, timeout)
        with self._changed:
            first = min(times())
            return [point for point in self._points if point.time == first]

    # --- what the servers tell

    def export(self, signal: str, body: bytes, headers: Mapping[str, str], size: int) -> SinkAnswer:
        """Takes one export's protobuf message and says how to answer it.

        Raises:
            Exception: it could not be decoded (kept in `errors` as well).
        """
        try:
            spans = read_spans(body) if signal == "traces" else []
            points = read_points(body) if signal == "metrics" else []
            logs = read_logs(body) if signal == "logs" else []
        except Exception as error:
            self.errors.append(error)
            raise
        with self._changed:
            answers = self._answers[signal]
            answer = answers.popleft() if answers else self._always.get(signal, SinkAnswer())
            items = len(spans) + len(points) + len(logs)
            self._calls.append(Call(signal, dict(headers), size, items, time.time_ns(), answer))
            if answer.takes:
                self._spans += spans
                self._points += points
                self._logs += logs
            self._changed.notify_all()
        if answer.hang:
            self._stopping.wait()
        return answer


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


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], sink: OtlpSink) -> None:
        self.sink = sink
        super().__init__(address, _HttpHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An exporter that hangs up is no event of the test."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        signal = self.path.rpartition("/")[2]
        if signal not in SIGNALS:
            self._say(SinkAnswer(status=404), b"")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.sink.export(signal, body, headers, len(raw))
        self._say(answer, answer.garbage if answer.garbage is not None else _reply(signal, answer))

    def _say(self, answer: SinkAnswer, body: bytes) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/x-protobuf")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing: the test's output is the test's."""


class _GrpcServices(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The three export services, without generated servicers: bytes in, bytes out."""

    def __init__(self, sink: OtlpSink) -> None:
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
            if answer.code != "OK":
                context.abort(getattr(grpc.StatusCode, answer.code), answer.message)
            return _reply(signal, answer)

        return export
