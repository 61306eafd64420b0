"""Exchanges as the relay would freeze them, and a recorder whose way out is a list; for the tests beside this.

Owns no expectations. Times are ms after the fixed clock's start, so that tests can say whole spans.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.trace import ReadableSpan

from sidecar.core.clock import MILLISECOND
from sidecar.core.exchange import ConnectTiming, Exchange, RequestHead, Upstream
from sidecar.core.facts import EventKind, Outcome, RequestFacts, Route
from sidecar.core.headers import Field, Headers
from sidecar.core.identity import Identity, Source
from sidecar.core.sessions import Ref, Turn
from sidecar.telemetry.factories import Record, Span
from sidecar.telemetry.ledger import Ledger, Signal, State
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.queues import Worker
from sidecar.telemetry.recorder import Recorder

T0 = 1_700_000_000_000_000_000
CHAT = Route("/v1/chat/completions", "openai.chat", "chat", turn=True, provider="openai")
UPSTREAM = Upstream("default", "https", "api.openai.com", 443, provider="openai")


def ms(after: float) -> int:
    """A time, `after` ms from the start of the test's world."""
    return T0 + round(after * MILLISECOND)


def ref(number: int) -> Ref:
    """A request to link to, with ids that show its number."""
    return (0x1000 + number).to_bytes(16, "big") + (0x2000 + number).to_bytes(8, "big")


@dataclass(frozen=True)
class Wishes:
    """The settings a recorder reads."""

    semconv: str = "shipped"
    quiet_paths: tuple[str, ...] = ()
    replay_limit: int = 0
    incoming_trace: str = "parent"
    forward_trace: bool = True
    forward_baggage: str | tuple[str, ...] = "none"
    model_limit: int = 100
    log_format: str = "json"


@dataclass
class ListPipeline:
    """A way out that keeps everything."""

    ledger: Ledger = field(default_factory=Ledger)
    spans: list[ReadableSpan] = field(default_factory=list)
    records: list[ReadableLogRecord] = field(default_factory=list)
    unsampled: int = 0
    roomy: bool = True

    def span(self, *spans: Span) -> None:
        """Keeps them."""
        self.spans.extend(span for span in spans if isinstance(span, ReadableSpan))

    def log(self, *records: Record) -> None:
        """Keeps them."""
        self.records.extend(record for record in records if isinstance(record, ReadableLogRecord))

    def wait_for(self, worker: Worker, /) -> None:
        """Nothing waits here."""

    def not_made(self, signal: Signal, count: int, state: State = State.NOT_SAMPLED, /) -> None:
        """Counts it."""
        self.unsampled += count
        self.ledger.account(signal).not_made(count, state)


Point = tuple[object, ...]


@dataclass
class World:
    """A recorder with everything it writes to."""

    recorder: Recorder
    pipeline: ListPipeline
    store: MetricStore
    stderr: io.BytesIO
    now: list[int]

    def begin(self, fields: list[Field] | None = None, route: Route = CHAT, **changes: object) -> Exchange:
        """An exchange whose head has been read at T0."""
        given = {"method": "POST", "target": b"/v1/chat/completions", "version": "1.1", **changes}
        head = RequestHead(headers=Headers(fields or [(b"Host", b"127.0.0.1:7070")]), **given)  # type: ignore[arg-type]
        exchange = Exchange(T0, head, self.recorder.begin(head, route, T0), route, upstream=UPSTREAM)
        self.recorder.started(exchange)
        return exchange

    def arrive(
        self,
        exchange: Exchange,
        *,
        source: Source = Source.OWN_HEADER,
        overlaps: tuple[Ref, ...] = (),
        previous: Ref | None = None,
        think_time: int | None = None,
        wait: int | None = None,
        sequence: int = 1,
    ) -> None:
        """It joins conversation `main` of session `s1` at 2 ms."""
        exchange.head_at, exchange.arrived = ms(1), ms(2)
        exchange.identity = Identity("s1", source)
        turn = exchange.route.turn and exchange.identity.named
        exchange.turn = Turn(
            "s1:main:1",
            exchange.identity,
            sequence,
            exchange.arrived,
            ref(0),
            sampled=True,
            streaming=False,
            turn=exchange.route.turn,
            generated=not exchange.identity.named,
            previous=previous,
            overlaps=overlaps,
            concurrency=len(overlaps) + 1 if turn else 0,
            think_time=think_time,
            wait=wait,
        )
        self.recorder.arrived(exchange)

    def send(self, exchange: Exchange) -> None:
        """A connection is made from 3 to 9 ms, and the request is sent."""
        exchange.needed, exchange.asked = ms(2), ms(3)
        exchange.connect = ConnectTiming(
            "new", ms(3), ms(9), dns_end=ms(4), tcp_end=ms(6), tls_end=ms(9), address="192.0.2.7"
        )
        exchange.sent, exchange.request_end = ms(9), ms(10)
        exchange.request_bytes = 321
        exchange.body_state = "read"
        exchange.overhead_before = 150_000

    def answer(self, exchange: Exchange, status: int = 200, at: float = 100) -> None:
        """The answer's head comes."""
        exchange.first_byte = exchange.headers_at = ms(at)
        exchange.answer_began(status, ms(at))

    def settle(self, exchange: Exchange, at: float, **meant: object) -> None:
        """It ends; what that means to its turn is `meant`."""
        if exchange.turn is not None:
            exchange.turn.ended_at = ms(at)
            for name, value in meant.items():
                setattr(exchange.turn, name, value)
        exchange.settle(ms(at))
        self.recorder.settled(exchange)

    def stream(self, **meant: object) -> Exchange:
        """A streaming chat turn that completes at 500 ms, as `settle`: two chunks, 300 ms apart; its bytes end at 450 ms."""
        exchange = self.begin()
        exchange.request = RequestFacts("gpt-4o", streaming=True, messages=3)
        self.arrive(exchange)
        self.send(exchange)
        self.answer(exchange)
        exchange.streams = True
        self.recorder.streaming(exchange)
        exchange.response.model, exchange.response.id = "gpt-4o-2024-08-06", "chatcmpl-1"
        exchange.stream.bytes = 999
        for kind, at in ((EventKind.CHUNK, 110), (EventKind.CHUNK, 410), (EventKind.EVENT, 440)):
            exchange.event_read(kind, ms(at))
        exchange.response.finish_reasons.append("stop")
        exchange.response.tokens |= {
            "input": 10,
            "output": 20,
            "cache_read": 4,
            "cache_write": 1,
            "reasoning": 5,
        }
        exchange.event_read(EventKind.END, ms(450))
        exchange.last_byte = ms(450)
        self.settle(exchange, 500, **meant)
        return exchange

    def refuse(self, status: int) -> Exchange:
        """The sidecar says no at 5 ms."""
        exchange = self.begin()
        exchange.identity = Identity("made-up", Source.GENERATED)
        exchange.status = status
        exchange.decide(Outcome.REFUSED, ms(4), error_type="draining", message="the sidecar is stopping")
        self.settle(exchange, 5)
        return exchange

    def points_of(self, name: str) -> dict[Point, object]:
        """As `points`, by the metric's name."""
        (metric,) = [metric for metric in self.store.metrics if metric.name == name]
        return self.points(metric)

    def points(self, metric: Metric) -> dict[Point, object]:
        """A metric's points by their attributes' values: numbers, or (count, sum) of histograms."""
        found: dict[Point, object] = {}
        for collected in self.store.collect(self.store.scrape):
            if collected.name != metric.name:
                continue
            for point in collected.data.data_points:
                key = tuple(value for _, value in sorted((point.attributes or {}).items()))
                found[key] = (
                    point.value if isinstance(point, sdk.NumberDataPoint) else (point.count, point.sum)
                )
        return found

    def lines(self) -> list[dict[str, object]]:
        """What was written to stderr."""
        return [json.loads(line) for line in self.stderr.getvalue().splitlines()]


MakeWorld = Callable[..., World]
