"""Log lines: JSON or console, by structlog; the same events as OTLP log records; and the lines' own way out.

Owns the form of a line, the level of an outcome, and the limit on lines that repeat because of traffic: each
event's name has a bucket of tokens, and the next line that passes says how many were left out. The one wide
line of a request is never left out. A request that runs for long is told once in each time that is long, the oldest first,
so many and no more. No text of a prompt or an answer. The event loop only queues lines: it must never write, because the
stream may stand still.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import PurePath
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, TextIO, cast

import msgspec
import structlog
from opentelemetry._logs import SeverityNumber
from opentelemetry.trace import TraceFlags
from opentelemetry.util.types import AttributeValue

from sidecar.core.clock import SECOND, STEADY, Clock, Wall
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Outcome, record
from sidecar.core.shown import shown
from sidecar.telemetry import names as n
from sidecar.telemetry.exporters import Stream, StreamSender
from sidecar.telemetry.factories import Layer, Layers, Record, RecordFactory, SpanAttributes, SpanIds
from sidecar.telemetry.ledger import LINES, Account, Delivery, State
from sidecar.telemetry.otel_settings import QueueSettings
from sidecar.telemetry.queues import LINE, RECORDED_LINE, Calls, ExportQueue, Worker
from sidecar.telemetry.trace import FLAGS

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

Logger = structlog.typing.FilteringBoundLogger
Fields = Mapping[str, AttributeValue]

DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"

_LONG_RUNNING = 20
"""Lines of requests that run for long, in each time that is long."""
LINES_PER_SECOND = 20
"""Lines of one event's name that may pass each second, in the long run."""
BURST = 100
"""Lines of one event's name that may pass at once."""
_APART = SECOND // LINES_PER_SECOND
_KEPT = (BURST - 1) * _APART

_LEVELS = {Outcome.COMPLETED: INFO, Outcome.CLIENT_LEFT: INFO, Outcome.REFUSED: WARNING}
_LEVELS[Outcome.UPSTREAM_REJECTED] = WARNING
_SEVERITY = {
    DEBUG: SeverityNumber.DEBUG,
    INFO: SeverityNumber.INFO,
    WARNING: SeverityNumber.WARN,
    ERROR: SeverityNumber.ERROR,
}
_RAW = re.compile(rb"\x7f|\xc2[\x80-\x9f]")
"""Control characters that JSON may have as they are, in UTF-8: DEL and C1."""


def level_of(outcome: Outcome) -> str:
    """The level of a settled request's line: what others did is not an error of ours, but may be a warning."""
    return _LEVELS.get(outcome, ERROR)


class Lines:
    """The form of lines: `json`, or for the `console`. `put` takes them whole, with their line ends.

    `logger` is structlog's, for whoever says a line now and then; `whole` takes one that is complete already, past
    structlog's chain, whose steps cost three times as much as encoding it. No control character is in either form.
    """

    def __init__(
        self, log_format: str, put: Callable[[Sequence[bytes]], object], *, colours: bool = False
    ) -> None:
        self.put = put
        if log_format == "console":
            console = structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)
            self._render: Callable[[dict[str, object]], bytes] = lambda line: str(
                console(None, "", {key: _for_people(value) for key, value in line.items()})
            ).encode()
            self.whole = self._on_console
        else:
            encode = msgspec.json.Encoder(enc_hook=str).encode
            self._render = lambda line: _escaped(encode(line))
            self.whole = self._as_json
        says = dict.fromkeys(("debug", "info", "warning", "error", "critical"), self._say)
        self.logger = cast(
            Logger,
            structlog.wrap_logger(
                SimpleNamespace(**says),
                processors=[_add_level_and_time, lambda _logger, _method, line: self._render(dict(line))],
                wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
                context_class=dict,
            ),
        )

    def _say(self, line: bytes) -> None:
        self.put((line + b"\n",))

    def _on_console(self, line: dict[str, object], alike: Layer | None = None) -> bytes:
        return self._render(line if alike is None else {**line, **alike.values}) + b"\n"

    def _as_json(self, line: dict[str, object], alike: Layer | None = None) -> bytes:
        """What stands in `alike` is rendered once for all lines that have it."""
        if alike is None:
            return self._render(line) + b"\n"
        if alike.rendered is None:
            alike.rendered = self._render(dict(alike.values))[1:] + b"\n"
        return b"%b,%b" % (self._render(line)[:-1], alike.rendered)


def _escaped(line: bytes) -> bytes:
    """JSON without raw control characters; it says the same."""
    if b"\x7f" in line or b"\xc2" in line:
        return _RAW.sub(lambda found: b"\\u%04x" % found[0][-1], line)
    return line


class _Quoted:
    """A text that is shown in quotes, with escapes."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _for_people(value: object) -> object:
    return _Quoted(value) if isinstance(value, str) and not value.isprintable() else value


@record
class RequestContext:
    """What every line of a request carries: its ids, and those of its SERVER span."""

    trace_id: int
    span_id: int
    sampled: bool
    session_id: str | None
    conversation_id: str | None
    request_id: str | None

    @property
    def trace_flags(self) -> TraceFlags:
        """As a record has them."""
        return FLAGS[self.sampled]


def recorded(fields: Fields, request: RequestContext | None) -> Layer:
    """A line's fields as a record has them: a request's ids are attributes of the spans' names.

    Fields of the sidecar's own life have short names on stderr, and a namespace here.
    """
    if request is None:
        return Layer({key if "." in key else f"sidecar.{key}": value for key, value in fields.items()})
    ids = (
        (n.SESSION_ID, request.session_id),
        (n.CONVERSATION, request.conversation_id),
        (n.REQUEST_ID, request.request_id),
    )
    return Layer({**fields, **{key: value for key, value in ids if value is not None}})


class _Bucket:
    """The places of one event's name."""

    __slots__ = ("free", "suppressed")

    def __init__(self) -> None:
        self.free = 0
        """When the next line may pass (ns); places that nobody takes are kept, a `BURST` of them at most."""
        self.suppressed = 0


class Log:
    """Has events written to both ends, by the worker: the lines, and `export` if there is one."""

    def __init__(
        self,
        lines: Lines,
        *,
        clock: Clock,
        wall: Wall = STEADY,
        worker: Worker,
        lost: Callable[..., object],
        records: RecordFactory | None,
        export: Callable[..., object],
    ) -> None:
        """`records` makes each event a log record, which `export` takes; None when logs are not exported.

        `lost`: a line found no room, or could not be made; it is given the number of its records, if that is not one.
        """
        self._worker = worker
        self._lost = lost
        self._lines = lines
        self._clock = clock
        self._wall = wall
        self._stamp = _Stamp()
        self._records = records
        self._export = export
        self._buckets: dict[str, _Bucket] = {}

    def event(
        self,
        name: str,
        level: str,
        at: int,
        fields: Fields,
        request: RequestContext | None = None,
    ) -> None:
        """One event at `at` (ns since the epoch), unless there are too many of its name: then it is counted."""
        if self.may_pass(name, at):
            self.always(name, level, at, fields, request)

    def may_pass(self, name: str, at: int) -> bool:
        """True when a line of this name may be said at `at`, and is to be said then; else it has been counted."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket()
        free = bucket.free
        if at < free:
            bucket.suppressed += 1
            return False
        bucket.free = max(free, at - _KEPT) + _APART
        return True

    def left_out(self, name: str, count: int) -> None:
        """Lines of this name that others kept within a bound of their own: the next one tells them."""
        self._buckets.setdefault(name, _Bucket()).suppressed += count

    def always(
        self,
        name: str,
        level: str,
        at: int,
        fields: Fields,
        request: RequestContext | None = None,
    ) -> None:
        """One event that may pass, or that is never left out; it tells how many were left out before it."""
        fields = self._with_left_out(name, fields)
        if not self._worker.put(RECORDED_LINE, self._say, name, level, at, fields, request):
            self._lost()

    def _say(self, name: str, level: str, at: int, fields: Fields, request: RequestContext | None) -> None:
        try:
            line = self.line(name, level, at, fields, request)
            records = self.record(name, level, at, (recorded(fields, request),), request)
        except Exception:
            self._lost()
            raise
        self.give([line], records)

    def give(self, lines: Sequence[bytes], records: Sequence[Record]) -> None:
        """Hands over what was made."""
        if lines:
            self._lines.put(lines)
        if records:
            self._export(*records)

    def _with_left_out(self, name: str, fields: Fields) -> Fields:
        """The fields, and how many lines of this name were left out since the last one."""
        bucket = self._buckets.get(name)
        if bucket is None or not bucket.suppressed:
            return fields
        suppressed, bucket.suppressed = bucket.suppressed, 0
        return {**fields, n.SUPPRESSED: suppressed}

    def record(
        self, name: str, level: str, at: int, attributes: Layers, span: SpanIds | None
    ) -> list[Record]:
        """An event as a log record, if logs are exported; for the worker."""
        if self._records is None:
            return []
        correction = self._wall.correction
        return [
            self._records.build(
                name,
                _SEVERITY[level],
                level.upper(),
                times=(at + correction, self._clock() + correction),
                attributes=attributes,
                span=span,
            )
        ]

    def library(self, level: str, fields: Fields) -> None:
        """A line of a library below. It is not exported: an exporter's complaint would feed itself."""
        at = self._clock()
        if self.may_pass(n.LIBRARY, at):
            fields = self._with_left_out(n.LIBRARY, fields)
            if not self._worker.put(LINE, self._say_only, n.LIBRARY, level, at, fields):
                self._lost(0)

    def flush(self) -> None:
        """Says what was left out and has not been told by a later line; for the end of the process."""
        for name, bucket in self._buckets.items():
            if bucket.suppressed:
                fields = {n.SUPPRESSED: bucket.suppressed}
                bucket.suppressed = 0
                self._worker.put_anyway(LINE, self._say_only, name, WARNING, self._clock(), fields)

    def _say_only(self, name: str, level: str, at: int, fields: Fields) -> None:
        try:
            line = self.line(name, level, at, fields, None)
        except Exception:
            self._lost(0)
            raise
        self.give([line], [])

    def line(
        self,
        name: str,
        level: str,
        at: int,
        fields: Fields,
        request: RequestContext | None,
        alike: Layer | None = None,
    ) -> bytes:
        """An event as a line; for the worker. `alike`: more fields, not empty, which many lines have in common."""
        ids: dict[str, object] = {}
        if request is not None:
            ids = {
                "trace_id": f"{request.trace_id:032x}",
                "span_id": f"{request.span_id:016x}",
                "session_id": request.session_id,
                "conversation_id": request.conversation_id,
                "request_id": request.request_id,
            }
        stamp = self._stamp(at + self._wall.correction)
        return self._lines.whole({"timestamp": stamp, "event": name, "level": level, **ids, **fields}, alike)


class LibraryHandler(logging.Handler):
    """Carries what libraries complain of into the same log, limited alike: by logging, by warnings, by dying unseen.

    No library's text is passed on, nor an exception's: they quote what the library was given, a token or a head among it.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line: whose it is, where it was said, and the kind of the exception."""
        level = ERROR if record.levelno >= logging.ERROR else WARNING
        fields: SpanAttributes = {"logger": record.name, "where": f"{record.module}.py:{record.lineno}"}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields["exception"] = type(error).__qualname__
            fields["where"] = _where(error.__traceback__) or fields["where"]
        self._log.library(level, fields)

    def warned(
        self,
        message: Warning | str,  # noqa: ARG002 - the shape of `warnings.showwarning`
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        """In place of `warnings.showwarning`."""
        where = f"{PurePath(filename).name}:{lineno}"
        fields = {"logger": "py.warnings", "where": where, "exception": category.__qualname__}
        self._log.library(WARNING, fields)

    def raised(self, raised: "UnraisableHookArgs | threading.ExceptHookArgs") -> None:
        """In place of `sys.unraisablehook` and `threading.excepthook`."""
        fields: SpanAttributes = {"logger": "python", "exception": raised.exc_type.__qualname__}
        where = _where(raised.exc_traceback)
        if where is not None:
            fields["where"] = where
        self._log.library(ERROR, fields)


def _where(frame: TracebackType | None) -> str | None:
    """The innermost line that raised."""
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return None
    return f"{PurePath(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"


def _add_level_and_time(
    _logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event["level"] = method
    event["timestamp"] = _Stamp()(time.time_ns())
    return event


class _Stamp:
    """RFC 3339 with microseconds, UTC; the second's text is kept for the next line of the same second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, at: int) -> str:
        second, rest = divmod(at, SECOND)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{rest // 1000:06d}Z"


_DELAY = 0.1
"""Seconds that a line may wait for others, so that they are written together."""
_BATCH = 256
"""Lines written together at most."""
_GRACE = 0.5
"""Seconds at the end, of those there are, for what is under way."""
_REPEAT = 60 * SECOND


class LineQueue:
    """Lines in their form, and their way out. `lines` may be written to from any thread, before the start, too."""

    def __init__(self, log_format: str, *, stream: Stream, account: Account, size: int, clock: Clock) -> None:
        """`size`: how many lines may wait."""
        self.lines = Lines(log_format, self._put, colours=os.isatty(stream.descriptor))
        self._account = account
        self._clock = clock
        self._told = 0
        self._told_at = clock()
        self._batch = min(_BATCH, size)
        queue = QueueSettings(size=size, batch=self._batch, delay=_DELAY, timeout=0)
        self._queue = ExportQueue(LINES, account, StreamSender(stream), queue, self._tell)

    def start(self) -> None:
        """Begin to write."""
        self._queue.start()

    async def flush(self, timeout: float) -> None:
        """Write what waits, within `timeout` seconds."""
        await Calls([self._queue.flush]).done(timeout)

    async def shutdown(self, timeout: float) -> None:
        """Write what waits, and end, within `timeout` seconds; what is not written then is counted, and forgotten."""
        deadline = asyncio.get_running_loop().time() + timeout
        grace = min(_GRACE, timeout / 4)
        # Flushed before it is closed: the last line may be that lines were lost.
        await self.flush(timeout - grace)
        closing = Calls([self._queue.close])
        self._queue.stop()
        await closing.done(deadline - asyncio.get_running_loop().time())
        self._queue.abandon()

    def _put(self, lines: Sequence[bytes]) -> None:
        self._queue.offer(lines)

    def _tell(self, delivery: Delivery) -> None:
        """Says how many lines were lost, once there is no crowd left to write; else once a minute."""
        states = self._account.states
        lost = states[State.DROPPED] + states[State.FAILED] - self._told
        if not lost or not delivery.complete:
            return
        now = self._clock()
        if self._account.queued >= self._batch and now - self._told_at < _REPEAT:
            return
        self._told += lost
        self._told_at = now
        self.lines.logger.warning(n.EXPORT_RECOVERED, signal=LINES, lost=lost)


class LongRunning:
    """Tells which requests have been running for long; it keeps nothing of them. `context` gives what every line of a request carries."""

    def __init__(self, log: Log, clock: Clock, context: Callable[[Exchange], RequestContext]) -> None:
        self._log = log
        self._clock = clock
        self._context = context
        self._looked = self._since = clock()
        self._left = _LONG_RUNNING

    def look(self, exchanges: Iterable[Exchange], after: int) -> None:
        """Tells those that have been running for `after` ns, or for that long again since the last call."""
        now, looked = self._clock(), self._looked
        self._looked = now
        if now - self._since >= after:
            self._since, self._left = now, _LONG_RUNNING
        due = [
            one
            for one in exchanges
            if not one.end and (now - one.start) // after > max(0, looked - one.start) // after
        ]
        due.sort(key=attrgetter("start"))
        told, more = due[: self._left], due[self._left :]
        self._left -= len(told)
        for exchange in told:
            fields = _fields_in_flight(exchange, now)
            self._log.always(n.REQUEST_LONG_RUNNING, WARNING, now, fields, self._context(exchange))
        if more:
            self._log.left_out(n.REQUEST_LONG_RUNNING, len(more))


def _fields_in_flight(exchange: Exchange, now: int) -> SpanAttributes:
    """What is told of a request that is still running at `now` (ns)."""
    fields: SpanAttributes = {n.AGE: (now - exchange.start) / SECOND, n.REQUEST_PHASE: exchange.doing}
    if exchange.heard:
        fields[n.SILENCE] = (now - exchange.heard) / SECOND
    if exchange.upstream is not None:
        fields[n.UPSTREAM] = exchange.upstream.name
    if model := exchange.asked_model:
        fields[n.REQUEST_MODEL] = shown(model)
    if exchange.turn is not None:
        fields[n.SEQUENCE] = exchange.turn.sequence
    return fields
