"""A collector for tests: takes real OTLP exports, decodes them, and answers as it is told.

Owns a server on a port of its own and threads to serve it, so sync and async tests use it alike. It takes
`http/protobuf` (plain or gzip) or `grpc`, as the constructor says.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc  # type: ignore[import-untyped]

from sidecar.testing.otlp import LogLine, MetricExport, Point, Span, Value, read_logs, read_spans
from sidecar.testing.sink_servers import SIGNALS, GrpcServices, HttpServer, SinkAnswer
from sidecar.testing.tls import Certificate

TIMEOUT = 60.0
"""Seconds that a test waits for an export before it fails."""


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

    def __init__(
        self, protocol: str = "http/protobuf", *, tls: Certificate | None = None, clients: Path | None = None
    ) -> None:
        """`tls`: it is reached as `https://localhost`; `clients`: by those whose certificate this file trusts."""
        if protocol not in ("http/protobuf", "grpc"):
            raise ValueError(f"{protocol!r} is neither http/protobuf nor grpc")
        self.protocol = protocol
        self._tls = tls
        self._clients = clients
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self._metrics: list[tuple[int, MetricExport]] = []
        """And when each came (ns since the epoch)."""
        self._logs: list[LogLine] = []
        self._calls: list[Call] = []
        self._answers: dict[str, deque[SinkAnswer]] = {signal: deque() for signal in SIGNALS}
        self._always: dict[str, SinkAnswer] = {}
        self._stopping = threading.Event()
        self._http: HttpServer | None = None
        self._grpc: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self.errors: list[Exception] = []
        """Exports that could not be decoded."""
        self.port = 0

    # --- life

    def start(self) -> Self:
        """Opens the port: the same one again, if it has been open before."""
        self._stopping.clear()
        if self.protocol == "grpc":
            self._pool = ThreadPoolExecutor(8, thread_name_prefix="otlp-sink")
            self._grpc = grpc.server(self._pool, handlers=(GrpcServices(self),))
            self.port = self._add_port(self._grpc)
            self._grpc.start()
            return self
        context = self._tls.server_context(self._clients) if self._tls else None
        self._http = HttpServer(("127.0.0.1", self.port), self, context)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="otlp-sink", daemon=True
        )
        self._thread.start()
        return self

    def _add_port(self, server: grpc.Server) -> int:
        where = f"127.0.0.1:{self.port}"
        if self._tls is None:
            return int(server.add_insecure_port(where))
        pair = (self._tls.key.read_bytes(), self._tls.certificate.read_bytes())
        clients = self._clients.read_bytes() if self._clients else None
        credentials = grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)
        return int(server.add_secure_port(where, credentials))

    def stop(self) -> None:
        """Closes the port and every connection; exports that hang are let go. It may be started again."""
        self._stopping.set()
        if self._grpc is not None:
            self._grpc.stop(0).wait()
        if self._pool is not None:
            self._pool.shutdown()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.end_connections()
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
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    def environ(self) -> dict[str, str]:
        """The `OTEL_*` variables that make a process export everything here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BLRP_SCHEDULE_DELAY": "20",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
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
            return self._points_since(0)

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
            for items in (self._spans, self._metrics, self._logs, self._calls):
                items.clear()
            self._always.clear()
            for answers in self._answers.values():
                answers.clear()

    def take_points(self) -> list[Point]:
        """Every data point taken so far; forgets everything, as `clear` does."""
        with self._changed:
            points = self._points_since(0)
            self.clear()
            return points

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

        def found() -> list[Point]:
            return [point for point in self._points_since(after) if point.time >= after]

        self.wait_for(found, timeout)
        with self._changed:
            points = found()
        first = min(point.time for point in points)
        return [point for point in points if point.time == first]

    def _points_since(self, at: int) -> list[Point]:
        """The points of exports that came at `at` or later."""
        return [point for came, export in self._metrics if came >= at for point in export.points]

    # --- what the servers tell

    def export(self, signal: str, body: bytes, headers: Mapping[str, str], size: int) -> SinkAnswer:
        """Takes one export's protobuf message and says how to answer it.

        Raises:
            Exception: it could not be decoded (kept in `errors` as well).
        """
        try:
            spans = read_spans(body) if signal == "traces" else []
            metrics = MetricExport(body) if signal == "metrics" else None
            logs = read_logs(body) if signal == "logs" else []
        except Exception as error:
            self.errors.append(error)
            raise
        with self._changed:
            answers = self._answers[signal]
            answer = answers.popleft() if answers else self._always.get(signal, SinkAnswer())
            items = len(spans) + len(logs) + (metrics.size if metrics else 0)
            came = time.time_ns()
            self._calls.append(Call(signal, dict(headers), size, items, came, answer))
            if answer.takes:
                self._spans += spans
                if metrics is not None:
                    self._metrics.append((came, metrics))
                self._logs += logs
            self._changed.notify_all()
        if answer.hang or answer.delay:
            self._stopping.wait(None if answer.hang else answer.delay)
        return answer
