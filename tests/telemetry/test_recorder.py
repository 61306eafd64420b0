"""The recorder as a whole: the port it fills, the numbers of law 2, and the guard."""

import inspect
import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from sidecar.core.exchange import Telemetry
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.sessions import SessionSummary, Totals
from sidecar.telemetry import metrics
from sidecar.telemetry.factories import Span
from sidecar.telemetry.metric_store import Observations
from sidecar.telemetry.queues import Work
from sidecar.telemetry.trace import RequestTrace
from tests.telemetry.world import ListPipeline, MakeWorld, World, ms, ref


def test_it_fills_the_port(world: World) -> None:
    """It has every method of `Telemetry`, with the parameters that the relay gives."""
    wanted = {
        name: one for name, one in vars(Telemetry).items() if inspect.isfunction(one) and name[0] != "_"
    }
    assert len(wanted) >= 7
    for name, one in wanted.items():
        given = inspect.signature(getattr(world.recorder, name)).parameters
        assert [*given] == [*inspect.signature(one).parameters][1:], name


def test_started_is_settled_plus_in_flight(world: World) -> None:
    """At every moment, refused requests included."""
    recorder = world.recorder

    def numbers() -> tuple[int, int, int]:
        return recorder.requests_started, recorder.requests_settled, recorder.requests_in_flight

    assert numbers() == (0, 0, 0)
    first = world.begin()
    assert numbers() == (1, 0, 1)
    world.refuse(503)
    assert numbers() == (2, 1, 1)
    first.decide(Outcome.COMPLETED, ms(1))
    world.settle(first, 1)
    assert numbers() == (2, 2, 0)


def test_spans_that_go_nowhere_are_not_built(make_world: MakeWorld) -> None:
    """With traces off: none made, none counted as not sampled, and everything else as ever."""
    world = make_world(export_traces=False)
    world.stream()
    totals = Totals({}, 0, None, None, 0, 0, 0, 0, 0, 0, 0, 0, ())
    world.recorder.listener.session_ended(SessionSummary("s1", "body", ms(0), ms(9), 1, totals))
    assert (world.pipeline.spans, world.pipeline.unsampled) == ([], 0)
    assert len(world.points(metrics.REQUESTS)) == len(world.points(metrics.SESSION_DURATION)) == 1
    assert [line["event"] for line in world.lines()][1:] == ["sidecar.request.completed", "session.end"]


class BrokenPipeline(ListPipeline):
    """A way out that has a bug."""

    def span(self, *spans: Span) -> None:
        """Fails."""
        raise ValueError("queue on fire")


def test_a_mistake_stays_inside(make_world: MakeWorld) -> None:
    """Caught, counted, logged; the rest of the settling goes on."""
    world = make_world(strict=False, pipeline=BrokenPipeline())
    world.stream()
    failed, wide = world.lines()[1:]
    assert (failed["event"], failed["level"]) == ("sidecar.telemetry.failed", "error")
    assert failed["sidecar.message"] == "spans: ValueError: queue on fire"
    assert wide["event"] == "sidecar.request.completed"
    assert world.recorder.failures == 1
    assert world.recorder.requests_in_flight == 0
    assert len(world.points(metrics.REQUESTS)) == 1


def fails(*_: object) -> object:
    """What has a bug."""
    raise ValueError("broken")


@pytest.mark.parametrize(
    "broken, spans, lines, records",
    [("_attributes_of", 5, 1, 1), ("_make_spans", 5, 0, 0), ("_wide_line", 0, 1, 0), ("_record", 0, 0, 1)],
)
def test_what_is_not_made_by_a_mistake_is_dropped(
    make_world: MakeWorld, broken: str, spans: int, lines: int, records: int
) -> None:
    """What was to be made of a request, but for what was."""
    world = make_world(strict=False, export_logs=True)
    setattr(world.recorder, broken, fails)
    world.stream()
    ledger = world.pipeline.ledger.snapshot()
    assert [ledger[page]["dropped"] for page in ("traces", "lines", "logs")] == [spans, lines, records]
    assert len(world.pipeline.spans) == 5 - spans
    assert sum(line["event"] == "sidecar.request.completed" for line in world.lines()) == 1 - lines


@pytest.mark.parametrize("broken", ["_shapes", "_put_off"])
@pytest.mark.parametrize("sampler, state", [(ALWAYS_ON, "dropped"), (ALWAYS_OFF, "not_sampled")])
def test_a_mistake_at_its_end_leaves_nothing_in_flight(
    make_world: MakeWorld, sampler: Sampler, state: str, broken: str
) -> None:
    """And its spans, its line and its record are counted."""
    world = make_world(strict=False, export_logs=True, sampler=sampler)
    setattr(world.recorder, broken, SimpleNamespace(of=fails))
    world.stream()
    active = {("default",): 0}
    assert world.points(metrics.REQUESTS_ACTIVE) == world.points(metrics.STREAMS_ACTIVE) == active
    ledger = world.pipeline.ledger.snapshot()
    assert [ledger["traces"][state], ledger["lines"]["dropped"], ledger["logs"]["dropped"]] == [5, 1, 1]


def test_a_mistake_in_what_is_kept_costs_no_line(make_world: MakeWorld) -> None:
    """It is told, and so is the request."""
    world = make_world(strict=False)
    world.recorder.keep = fails
    world.stream()
    assert [line["event"] for line in world.lines()][1:] == [
        "sidecar.telemetry.failed",
        "sidecar.request.completed",
    ]


def test_strict_raises_on(make_world: MakeWorld) -> None:
    """So that tests see the mistake."""
    world = make_world(pipeline=BrokenPipeline())
    with pytest.raises(ValueError, match="queue on fire"):
        world.stream()


def test_a_broken_stderr_is_survived(make_world: MakeWorld) -> None:
    """A log that cannot be written costs its lines, and the count remains."""
    world = make_world(strict=False)
    world.stderr.close()
    world.stream()
    assert len(world.pipeline.spans) == 5
    assert world.recorder.failures == 2
    world.stderr = io.BytesIO()


def test_a_trace_is_always_given(make_world: MakeWorld) -> None:
    """If beginning one fails, an unsampled one that tells nobody."""
    world = make_world(strict=False)
    trace = world.recorder.begin(None, None, 0)  # type: ignore[arg-type]
    assert isinstance(trace, RequestTrace)
    assert (trace.sampled, trace.outbound()) == (False, ())
    assert trace.trace_id
    assert world.recorder.failures == 1


def test_one_part_s_mistake_stops_no_other(make_world: MakeWorld) -> None:
    """The listener's parts are told one by one, each under the guard."""
    world = make_world(strict=False)
    world.recorder.listener.session_ended(None)  # type: ignore[arg-type]
    assert world.recorder.failures == 3
    world.recorder.listener.session_started("s1", "body", ms(0))
    assert world.points(metrics.SESSIONS) == {("body",): 1}


def test_a_foreign_trace_is_not_sampled_here(world: World) -> None:
    """An exchange whose trace another made has its spans counted as not made."""
    exchange = world.begin()

    class Foreign:
        """Ids from elsewhere."""

        trace_id, server_span_id, client_span_id, sampled = 1, 2, 3, True

        def outbound(self) -> tuple[tuple[bytes, bytes], ...]:
            """Nothing."""
            return ()

    exchange.trace = Foreign()
    exchange.decide(Outcome.COMPLETED, ms(1))
    world.settle(exchange, 1)
    assert (world.pipeline.spans, world.pipeline.unsampled) == ([], 1)


def test_close_tells_what_was_left_out(world: World) -> None:
    """The last lines that were limited are not lost silently."""
    for number in range(150):
        world.recorder.listener.session_started(f"s{number}", "body", ms(0))
    world.recorder.close()
    assert world.lines()[-1]["sidecar.suppressed"] == 50


def test_links_over_the_cap_are_an_anomaly_even_unsampled(world: World) -> None:
    """The count does not depend on the sampler."""
    exchange = world.begin([(b"traceparent", b"00-%032x-%016x-00" % (1, 2))])
    world.arrive(exchange, overlaps=tuple(ref(number) for number in range(33)))
    exchange.decide(Outcome.COMPLETED, ms(3))
    world.settle(exchange, 3)
    assert world.pipeline.spans == []
    assert world.points(metrics.ANOMALIES)[Anomaly.LINKS_CAP.value,] == 1


def test_everything_passes_the_official_encoders(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans and records of a stream, a session and an error are what the OTLP encoders expect, without a word."""
    world = make_world(export_logs=True)
    world.stream()
    world.refuse(503)
    totals = Totals({Outcome.COMPLETED: 1}, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, ("m",))
    world.recorder.listener.session_ended(SessionSummary("s1", "body", ms(0), ms(9), 1, totals))
    (traces,) = encode_spans(world.pipeline.spans).resource_spans
    (logs,) = encode_logs(world.pipeline.records).resource_logs
    assert [span.name for span in traces.scope_spans[0].spans] == [span.name for span in world.pipeline.spans]
    assert len(logs.scope_logs[0].log_records) == len(world.pipeline.records) == 4
    assert caplog.text == ""


@pytest.mark.parametrize("room", [True, False], ids=["room", "none"])
@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "not"])
@pytest.mark.parametrize("failed, records", [(True, 2), (False, 1)], ids=["failed", "completed"])
def test_what_waits_is_what_will_be_made(
    failed: bool, records: int, sampled: bool, room: bool, make_world: MakeWorld
) -> None:
    """Of a model call that failed two log records; where there is no room for it that many are lost, and it is not kept."""
    world = make_world(sampler=ALWAYS_ON if sampled else ALWAYS_OFF, export_logs=True)
    recorder, lost = world.recorder, list[None]()
    recorder.not_kept = lambda: lost.append(None)
    works: list[Work] = []

    def put(work: Work, call: Callable[..., object], *given: object) -> bool:
        works.append(work)
        if room:
            call(*given)
        return room

    exchange = world.begin()
    world.arrive(exchange)
    world.send(exchange)
    world.answer(exchange, 500 if failed else 200)
    exchange.decide(Outcome.UPSTREAM_REJECTED if failed else Outcome.COMPLETED, ms(100))
    before = len(world.pipeline.records)
    recorder._worker.put = put  # type: ignore[method-assign]
    world.settle(exchange, 200)
    (work,) = works
    assert work.records == records
    assert bool(work.spans) is sampled
    made = len(world.pipeline.records) - before
    assert (made, len(lost)) == ((records, 0) if room else (0, 1))
    dropped = world.pipeline.ledger.snapshot()["logs"]["dropped"]
    assert dropped == (0 if room else records)


def test_a_number_that_cannot_be_had_stops_no_other(make_world: MakeWorld) -> None:
    """A gauge whose callback raises, at once or on its way, is left out: the other metrics are told, each time."""
    world = make_world(strict=False)

    def fails() -> Observations:
        yield 1, ()
        raise ValueError("no file")

    world.store.observe(metrics.PROCESS_CPU, fails)
    world.stream()
    for failures in (1, 2):
        told = {metric.name for metric in world.store.collect(world.store.scrape)}
        assert metrics.REQUESTS.name in told
        assert world.recorder.failures == failures
