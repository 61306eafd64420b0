"""The last step out: batches as messages of bounded size, sent until they are taken, refused or out of time.

Owns how a batch is divided, when it is tried again, and what became of it. One attempt is a transport's business.
Blocks up to the time-out, in its signal's worker thread.

A stream of the process (stderr, and stdout for the console exporters) may stand still, be full, or have nobody at its
other end: what it cannot take is said to the ledger, and a text broken off is never continued by another.
"""

import errno
import io
import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, Metric, MetricsData
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from sidecar.core.shown import shown
from sidecar.telemetry.factories import Frame
from sidecar.telemetry.ledger import Delivery, Signal, State
from sidecar.telemetry.otel_settings import OtlpTarget
from sidecar.telemetry.queues import Sender, rest
from sidecar.telemetry.transports import Attempt, HttpTransport
from sidecar.ways_out import Trust

MESSAGE_BYTES = 2 << 20
"""Up to which pieces are put into one message: half of what a gRPC receiver takes unless it is told otherwise."""
MESSAGE_ITEMS = 8192
"""Likewise, in items."""
_PIECE = 64
"""Items that are encoded at a time; several such pieces are one message."""
_FIRST_WAIT, _MOST_WAIT = 1.0, 30.0
"""Seconds before the second try, doubled for each further one."""
_MOST_SILENCE = 60.0
"""Seconds, at most, for which a receiver that asks for it is sent nothing more: meanwhile the queue fills."""
_LAST_SHARE = 0.25
"""Of the time-out, what must be left for another try: a shorter one would end without an answer."""

_Item = TypeVar("_Item")


class Transport(Protocol):
    """Hands bytes over, once."""

    def attempt(self, body: bytes, deadline: float) -> Attempt:
        """Return by `deadline` (of `time.monotonic`)."""

    def close(self) -> None:
        """End the attempt under way, and all that follow. From any thread."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[_Item]):
    """Some items of a batch, how many the ledger counts them as, and their bytes."""

    items: Sequence[_Item]
    count: int
    body: bytes


class Encoding(Protocol):
    """How one signal's batches become bytes. The bytes of several pieces, one after the other, are one message."""

    def pieces(self, batch: Sequence[Any]) -> Iterator[Piece[Any]]:
        """A batch, in pieces of a few items."""

    def halves(self, piece: Piece[Any]) -> list[Piece[Any]]:
        """A piece in two; alone where it cannot be divided."""


class ItemEncoding:
    """Spans and log records: each counts as one."""

    def __init__(self, encode: Callable[[Sequence[Any]], bytes]) -> None:
        self._encode = encode

    def _piece(self, items: Sequence[Any]) -> Piece[Any]:
        return Piece(items, len(items), self._encode(items))

    def pieces(self, batch: Sequence[Any]) -> Iterator[Piece[Any]]:
        """See `Encoding`."""
        for start in range(0, len(batch), _PIECE):
            yield self._piece(batch[start : start + _PIECE])
            rest()

    def halves(self, piece: Piece[Any]) -> list[Piece[Any]]:
        """See `Encoding`."""
        middle = len(piece.items) // 2
        parts = (piece.items[:middle], piece.items[middle:])
        return [self._piece(part) for part in parts if part]


class MetricEncoding:
    """Snapshots of metrics: a data point counts as one."""

    def pieces(self, batch: Sequence[Any]) -> Iterator[Piece[Any]]:
        """See `Encoding`."""
        for data in batch:
            (resource,) = data.resource_metrics
            (scope,) = resource.scope_metrics
            for metrics in _in_pieces(scope.metrics):
                yield self._piece(data, metrics)
                rest()

    @staticmethod
    def _piece(data: MetricsData, metrics: list[Metric]) -> Piece[Any]:
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        part = replace(
            data, resource_metrics=[replace(resource, scope_metrics=[replace(scope, metrics=metrics)])]
        )
        body = bytes(encode_metrics(part).SerializeToString())
        return Piece((part,), sum(len(metric.data.data_points) for metric in metrics), body)

    def halves(self, piece: Piece[Any]) -> list[Piece[Any]]:
        """See `Encoding`."""
        (data,) = piece.items
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        if len(metrics) == 1:
            metrics = _divided(metrics[0], max(piece.count // 2, 1))
        middle = len(metrics) // 2
        return [self._piece(data, part) for part in (metrics[:middle], metrics[middle:]) if part]


def _divided(metric: Metric, points: int) -> list[Metric]:
    """The same metric several times, each with that many of its points."""
    data: Any = metric.data
    return [
        replace(metric, data=replace(data, data_points=data.data_points[start : start + points]))
        for start in range(0, len(data.data_points), points)
    ]


def _in_pieces(metrics: Sequence[Metric]) -> Iterator[list[Metric]]:
    """The metrics in groups of `_PIECE` points at most."""
    group: list[Metric] = []
    size = 0
    for metric in metrics:
        for part in _divided(metric, _PIECE):
            points = len(part.data.data_points)
            if group and size + points > _PIECE:
                yield group
                group, size = [], 0
            group.append(part)
            size += points
    if group:
        yield group


class OtlpSender:
    """Sends every message of a batch, one after the other, within one time-out for all of them."""

    def __init__(self, transport: Transport, encoding: Encoding, timeout: float) -> None:
        """`timeout` in seconds."""
        self._transport = transport
        self._encoding = encoding
        self._timeout = timeout
        self._closed = threading.Event()

    def send(self, batch: Sequence[Any], count: int, /) -> Delivery:
        """Encode and export; blocks up to the time-out."""
        deadline = time.monotonic() + self._timeout
        total, reason = Delivery({}), "not encoded"
        try:
            for message in _messages(self._encoding.pieces(batch)):
                total = self._and(total, message, deadline, may_divide=True)
        except Exception as error:  # noqa: BLE001 - what cannot be encoded says nothing of the messages before it
            reason = f"{type(error).__name__}: {shown(str(error))}"
        lost = count - sum(total.counts.values())
        return total if not lost else total.with_more(Delivery.of(State.FAILED, lost, reason))

    def close(self) -> None:
        """End the waiting between retries, and the attempt under way."""
        self._closed.set()
        self._transport.close()

    def _and(
        self, total: Delivery, pieces: list[Piece[Any]], deadline: float, *, may_divide: bool
    ) -> Delivery:
        """What was sent before, and this message; which is not sent to a receiver that wants nothing more for now."""
        if total.silence:
            return total.with_more(_not_taken(State.FAILED, pieces, total.reason))
        return total.with_more(self._message(pieces, deadline, may_divide=may_divide))

    def _message(self, pieces: list[Piece[Any]], deadline: float, *, may_divide: bool) -> Delivery:
        count = sum(piece.count for piece in pieces)
        attempt, unclear = self._tried(b"".join(piece.body for piece in pieces), deadline)
        if attempt.too_large and may_divide and count > 1:
            middle = len(pieces) // 2
            halves = [pieces[:middle], pieces[middle:]]
            if not middle:
                halves = [[half] for half in self._encoding.halves(pieces[0])]
            total = Delivery({})
            for half in halves:
                total = self._and(total, half, deadline, may_divide=False)
            return total
        if attempt.state is State.EXPORTED:
            rejected = min(attempt.rejected, count)
            said = attempt.message or ("no reason given" if rejected else "")
            reason = f"rejected by the collector: {said}" if rejected else ""
            counts = {State.EXPORTED: count - rejected, State.REJECTED: rejected}
            return Delivery(counts, reason, warning="" if rejected else said)
        state = State.UNKNOWN if unclear else attempt.state
        return _not_taken(state, pieces, attempt.reason, min(attempt.again or 0.0, _MOST_SILENCE))

    def _tried(self, body: bytes, deadline: float) -> tuple[Attempt, bool]:
        """The last attempt, and whether an earlier one may have arrived."""
        wait, unclear = _FIRST_WAIT, False
        while True:
            attempt = self._transport.attempt(body, deadline)
            unclear = unclear or attempt.state is State.UNKNOWN
            if attempt.state is State.EXPORTED or attempt.again is None:
                return attempt, unclear
            pause = max(attempt.again, wait * random.uniform(0.8, 1.2))  # noqa: S311 - sidecars must not march in step
            left = deadline - time.monotonic() - pause
            if left < self._timeout * _LAST_SHARE or self._closed.wait(pause):
                return attempt, unclear
            wait = min(wait * 2, _MOST_WAIT)


def _not_taken(state: State, pieces: list[Piece[Any]], reason: str, silence: float = 0.0) -> Delivery:
    """A message that was not; what certainly did not arrive is returned."""
    returned = tuple(item for piece in pieces for item in piece.items) if state is State.FAILED else ()
    count = sum(piece.count for piece in pieces)
    return Delivery({state: count}, reason, returned=returned, silence=silence)


def _messages(pieces: Iterator[Piece[Any]]) -> Iterator[list[Piece[Any]]]:
    """Pieces put together as far as a message may grow."""
    message: list[Piece[Any]] = []
    size = count = 0
    for piece in pieces:
        if message and (size + len(piece.body) > MESSAGE_BYTES or count + piece.count > MESSAGE_ITEMS):
            yield message
            message, size, count = [], 0, 0
        message.append(piece)
        size += len(piece.body)
        count += piece.count
    if message:
        yield message


STDOUT, STDERR = 1, 2

_LOOK = 100
"""Milliseconds between two looks whether a stream that stands still is still to be waited for."""


@dataclass(slots=True)
class Stream:
    """A file descriptor, for all senders that write to it: one at a time."""

    descriptor: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    torn: bool = False
    """The last thing that it took was a part of a text."""


class StreamSender:
    """Writes texts to a stream, whole and in order; while it takes nothing, waits until closed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._closed = threading.Event()

    def send(self, batch: Sequence[bytes], count: int, /) -> Delivery:
        """Write `count` texts, each with its line end. Those that cannot be written are `failed`, `dropped` once closed."""
        with self._stream.lock:
            return self._send(batch, count)

    def close(self) -> None:
        """Wait no more for a stream that stands still. From any thread."""
        self._closed.set()

    def _send(self, batch: Sequence[bytes], count: int) -> Delivery:
        lead = b"\n" if self._stream.torn else b""
        data = memoryview(lead + b"".join(batch))
        written, lost, reason = 0, State.FAILED, ""
        while written < len(data):
            try:
                written += os.write(self._stream.descriptor, data[written:])
            except BlockingIOError:
                if self._closed.is_set():
                    lost, reason = State.DROPPED, "the stream stands still"
                    break
                self._wait()
            except OSError as error:
                reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
                break
        whole = self._whole(batch, written - len(lead))
        return Delivery({State.EXPORTED: whole, lost: count - whole}, reason)

    def _wait(self) -> None:
        """Returns when the stream may take something, and now and then."""
        poll = select.poll()
        poll.register(self._stream.descriptor, select.POLLOUT)
        poll.poll(_LOOK)

    def _whole(self, batch: Sequence[bytes], written: int) -> int:
        """How many texts are written whole, when so many bytes are; -1: the end of a torn one is not."""
        whole = 0
        for text in batch:
            if written < len(text):
                break
            written -= len(text)
            whole += 1
        if written >= 0:
            self._stream.torn = written > 0
        return whole


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
        """Write it out; what is not written is given back."""
        self._text.seek(0)
        self._text.truncate()
        for data in batch if self._signal is Signal.METRICS else (batch,):
            self._exporter.export(data)
        written = self._stream.send((self._text.getvalue().encode(),), 1)
        counts = {state: count * of_one for state, of_one in written.counts.items()}
        returned = tuple(batch) if counts.get(State.FAILED) else ()
        return Delivery(counts, written.reason, returned=returned)

    def close(self) -> None:
        """Wait no more for whoever reads it."""
        self._stream.close()


def _encode_logs(batch: Sequence[Any]) -> bytes:
    return bytes(encode_logs(batch).SerializeToString())


def _encode_spans(batch: Sequence[Any]) -> bytes:
    return bytes(encode_spans(batch).SerializeToString())


def make_sender(
    signal: Signal,
    target: OtlpTarget | None,
    trust: Trust,
    timeout: float,
    stdout: Stream,
    frame: Frame | None = None,
) -> Sender[Any]:
    """The way to a collector, or to standard output where there is no target; `timeout` in seconds, like its own.

    `frame`: spans or log records come as their bytes, and this stands around them; without it they are the SDK's.
    """
    if target is None:
        return ConsoleSender(signal, stdout)
    # Some lines of the encoders' own would come with every item; the pipeline tells failures once, and counts them.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL + 1)
    encodings: dict[Signal, Encoding] = {
        Signal.TRACES: ItemEncoding(_encode_spans if frame is None else frame.around),
        Signal.LOGS: ItemEncoding(_encode_logs if frame is None else frame.around),
        Signal.METRICS: MetricEncoding(),
    }
    transport: Transport
    if target.protocol == "grpc":
        from sidecar.telemetry.grpc_transport import GrpcTransport  # noqa: PLC0415 - what does not need it is spared it

        transport = GrpcTransport(signal, target, trust)
    else:
        transport = HttpTransport(signal, target, trust)
    return OtlpSender(transport, encodings[signal], min(timeout, target.timeout))
