"""The metric points of settled exchanges and of sessions, exact."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.metrics import export as sdk

from sidecar.core.clock import SECOND
from sidecar.core.exchange import ConnectTiming, Exchange
from sidecar.core.facts import Anomaly, Outcome, Phase, RequestFacts, Route
from sidecar.core.identity import Source
from sidecar.core.sessions import SessionSummary, Totals
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.ledger import Signal
from sidecar.telemetry.measures import observe_process
from sidecar.telemetry.series import RESULTS, Cap, finish_reason, result
from tests.telemetry.world import CHAT, MakeWorld, World, ms, ref

SERVER = ("api.openai.com", 443)
CALL = ("chat", "openai", "gpt-4o", "gpt-4o-2024-08-06", *SERVER, True, "default")
"""operation, provider, request model, response model, server, streaming, upstream: the attributes' order by name."""


def test_a_completed_stream(world: World) -> None:
    """Every point of one streaming turn."""
    world.stream()
    collected = {
        metric.name for metric in world.store.collect(world.store.reader(world.store.scrape.temporality))
    }
    assert collected >= {"sidecar.requests.active", "sidecar.telemetry.items"}
    assert world.points(metrics.OPERATION_DURATION) == {CALL: (1, 0.447)}
    assert world.points(metrics.OPERATION_FIRST_CHUNK) == {CALL: (1, 0.107)}
    assert world.points(metrics.OPERATION_PER_CHUNK) == {CALL: (1, 0.3)}
    tokens = (*CALL[:4], "input", *CALL[4:]), (*CALL[:4], "output", *CALL[4:])
    assert world.points(metrics.TOKEN_USAGE) == {tokens[0]: (1, 10), tokens[1]: (1, 20)}
    details = {"cache_read": 4, "cache_write": 1, "reasoning": 5}
    assert world.points(metrics.TOKEN_DETAILS) == {
        (*CALL[:-1], detail, CALL[-1]): count for detail, count in details.items()
    }
    assert world.points(metrics.HTTP_DURATION) == {
        ("POST", 200, "/v1/chat/completions", "default", "http"): (1, 0.5)
    }
    assert world.points(metrics.REQUESTS) == {
        ("chat", "openai", "gpt-4o", "completed", "end", True, "default"): 1
    }
    assert world.points(metrics.FINISH_REASONS) == {("chat", "openai", "gpt-4o", "stop", "default"): 1}
    assert world.points(metrics.TURNS) == {("default",): 1}
    assert world.points(metrics.CONCURRENCY) == {("default",): (1, 1)}
    assert world.points(metrics.IDENTITY) == {("own_header",): 1}
    assert world.points(metrics.STREAM_GAP) == {("openai", "gpt-4o", "default"): (1, 0.3)}
    assert world.points(metrics.STREAM_EVENTS) == {("default",): 4}
    assert world.points(metrics.STREAM_BYTES) == {("default",): 999}
    assert world.points(metrics.BACKPRESSURE) == {("default",): (1, 0.0)}
    assert world.points(metrics.OVERHEAD) == {
        ("before",): (1, 0.00015),
        ("after",): (1, 0.0),
        ("loop",): (1, 0.0),
    }
    assert (
        world.points(metrics.OVERLAPS)
        == world.points(metrics.OUT_OF_ORDER)
        == world.points(metrics.RETRIES)
        == {}
    )


def test_points_carry_only_declared_attributes(make_world: MakeWorld) -> None:
    """Whatever happens, no point has an attribute that its metric's definition does not name, and none is an id."""
    world = make_world(semconv="both")
    world.stream()
    world.refuse(503)
    for code in (200, 429, 500):
        exchange = world.begin()
        world.arrive(exchange, overlaps=(ref(1),), think_time=5)
        exchange.retry = True
        world.send(exchange)
        world.answer(exchange, code)
        exchange.decide(Outcome.COMPLETED, ms(200))
        world.settle(exchange, 200, distance=3)
    observe_process(world.store)
    world.recorder.record_lag(3_000_000)
    declared = {metric.name: set(metric.attributes) for metric in metrics.ALL_METRICS}
    seen = world.store.collect(world.store.scrape)
    for metric in seen:
        for point in metric.data.data_points:
            assert set(point.attributes or {}) <= declared[metric.name], metric.name
    assert not any("s1" in repr(point.attributes) for metric in seen for point in metric.data.data_points)
    assert {"process.cpu.time", "process.memory.usage", "process.thread.count", "sidecar.event_loop.lag"} <= {
        metric.name for metric in seen
    }


def test_latest_conventions(make_world: MakeWorld) -> None:
    """The renamed set: what generates and embeddings have metrics of their own, and nothing has the shipped ones."""
    world = make_world(semconv="latest")
    world.stream()
    exchange = world.begin(
        route=Route("/v1/embeddings", "openai.embeddings", "embeddings", provider="openai")
    )
    world.send(exchange)
    world.answer(exchange)
    exchange.response.tokens["input"] = 5
    exchange.decide(Outcome.COMPLETED, ms(100))
    world.settle(exchange, 103)
    unknown = (*CALL[:4], "unknown", *CALL[4:])
    assert world.points(metrics.INFERENCE_DURATION) == {CALL: (1, 0.447)}
    assert world.points(metrics.INFERENCE_FIRST_CHUNK) == {CALL: (1, 0.107)}
    assert world.points(metrics.INFERENCE_PER_CHUNK) == {CALL: (1, 0.3)}
    assert world.points(metrics.INFERENCE_INPUT_TOKENS) == {unknown: 10}
    assert world.points(metrics.INFERENCE_OUTPUT_TOKENS) == {unknown: 20}
    assert world.points(metrics.INFERENCE_CACHE_READ_TOKENS) == {unknown: 4}
    assert world.points(metrics.INFERENCE_CACHE_WRITE_TOKENS) == {unknown: 1}
    assert world.points(metrics.INFERENCE_REASONING_TOKENS) == {unknown: 5}
    assert world.points(metrics.INFERENCE_CALL_INPUT_TOKENS) == {CALL: (1, 10)}
    assert world.points(metrics.INFERENCE_CALL_OUTPUT_TOKENS) == {CALL: (1, 20)}
    embeddings = ("embeddings", "openai", *SERVER, False, "default")
    assert world.points(metrics.EMBEDDINGS_DURATION) == {embeddings: (1, 0.1)}
    assert world.points(metrics.EMBEDDINGS_CALL_INPUT_TOKENS) == {embeddings: (1, 5)}
    assert {metric.name for metric in world.store.metrics}.isdisjoint(
        metric.name for metric in metrics.LATEST_FOR
    )


def test_refused_and_rejected(world: World) -> None:
    """A refused request has no call; a rejected one has an error type on both durations, and no finish reason."""
    world.refuse(503)
    exchange = world.begin()
    world.send(exchange)
    world.answer(exchange, 429)
    exchange.last_byte = ms(103)
    world.settle(exchange, 110)
    assert world.points(metrics.REQUESTS) == {
        ("draining", "chat", "openai", "refused", False, "default"): 1,
        ("429", "chat", "openai", "upstream_rejected", "before_headers", False, "default"): 1,
    }
    assert world.points(metrics.OPERATION_DURATION) == {
        ("429", "chat", "openai", *SERVER, False, "default"): (1, 0.1)
    }
    assert world.points(metrics.HTTP_DURATION) == {
        ("draining", "POST", 503, "/v1/chat/completions", "default", "http"): (1, 0.005),
        ("POST", 429, "/v1/chat/completions", "default", "http"): (1, 0.11),
    }
    assert world.points(metrics.RESULTS) == {("refused", "default"): 1, ("rate_limited", "default"): 1}
    assert phases(world) == {"body": 0.003, "connect": 0.006, "wait": 0.09, "stream": 0.003}
    assert world.points(metrics.FINISH_REASONS) == world.points(metrics.TURNS) == {}


def test_in_flight_goes_up_and_down(world: World) -> None:
    """Active, streams and the oldest's age follow what is in flight, and fall to 0 with it."""
    first, second = world.begin(), world.begin()
    world.recorder.streaming(first)
    world.recorder.streaming(first)
    assert world.points(metrics.REQUESTS_ACTIVE) == {("default",): 2}
    assert world.points(metrics.STREAMS_ACTIVE) == {("default",): 1}
    world.send(second)
    ages = {("default",): 1.0}
    assert world.points(metrics.OLDEST_AGE) == ages
    assert world.points(metrics.SILENCE) == {("default",): 0.99}
    world.answer(second, at=100)
    second.last_byte = ms(600)
    assert world.points(metrics.SILENCE) == {("default",): 0.4}
    for exchange in (first, second):
        exchange.decide(Outcome.CLIENT_LEFT, ms(5), phase=Phase.BEFORE_HEADERS)
        world.settle(exchange, 5)
    assert world.points(metrics.REQUESTS_ACTIVE) == world.points(metrics.STREAMS_ACTIVE) == {("default",): 0}
    assert world.points(metrics.OLDEST_AGE) == world.points(metrics.SILENCE) == {("default",): 0.0}
    world.begin().upstream = None
    assert world.points(metrics.OLDEST_AGE) == {("default",): 0.0, (): 1.0}
    assert world.points(metrics.SILENCE) == {("default",): 0.0, (): 0.0}


class Looked(dict[int, Exchange]):
    """Requests in flight that count how often they are looked at."""

    looks = 0

    def values(self) -> Any:
        """All of them."""
        self.looks += 1
        return super().values()


def test_requests_in_flight_are_looked_at_once(world: World) -> None:
    """By a snapshot, for all that is told of them: there may be ten thousand, and everything else waits meanwhile."""
    world.begin()
    measures = world.recorder._measures
    assert measures is not None
    measures.in_flight = looked = Looked(measures.in_flight)
    assert world.points(metrics.OLDEST_AGE) == {("default",): 1.0}
    assert looked.looks == 1


def phases(world: World) -> dict[str, float]:
    """What the time of requests to the default upstream went to, summed."""
    (metric,) = [
        one for one in world.store.collect(world.store.scrape) if one.name == metrics.PHASE_DURATION.name
    ]
    found = {}
    for point in metric.data.data_points:
        assert isinstance(point, sdk.HistogramDataPoint)
        attributes = dict(point.attributes or {})
        assert attributes.pop(n.UPSTREAM) == "default"
        (phase,) = attributes.values()
        found[str(phase)] = round(point.sum, 6)
    return found


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"body": 0.003, "connect": 0.006, "wait": 0.09, "stream": 0.35}),
        ({"connect": ConnectTiming("reused", ms(3), ms(3))}, {"connect": 0.0}),
        ({"connect": ConnectTiming("waited", ms(3), ms(8))}, {"connect": 0.005}),
        ({"request_end": ms(60)}, {"body": 0.053, "wait": 0.04}),
        ({"request_end": ms(200)}, {"body": 0.002, "wait": 0.091}),
        ({"last_byte": 0}, {"stream": 0.4}),
        ({"first_byte": 0, "last_byte": 0}, {"wait": 0.49, "stream": None}),
        (
            {"connect": None, "sent": 0, "request_end": 0, "first_byte": 0, "last_byte": 0},
            {"body": 0.002, "connect": 0.497, "wait": None, "stream": None},
        ),
    ],
    ids=str,
)
def test_what_the_time_went_to(
    world: World, changes: dict[str, object], expected: dict[str, float | None]
) -> None:
    """Each phase that was reached, 0 included: body and upload, connecting, the wait, the answer."""
    exchange = world.begin()
    world.send(exchange)
    exchange.first_byte, exchange.last_byte = ms(100), ms(450)
    for name, value in changes.items():
        setattr(exchange, name, value)
    exchange.decide(Outcome.CLIENT_LEFT, ms(450))
    world.settle(exchange, 500)
    usual = {"body": 0.003, "connect": 0.006, "wait": 0.09, "stream": 0.35}
    assert phases(world) == {phase: took for phase, took in {**usual, **expected}.items() if took is not None}


def test_a_result_is_one_of_a_fixed_list() -> None:
    """Every outcome has a word, and a rejection one by its kind."""
    words = {400: "client_error", 408: "client_error", 429: "rate_limited", 499: "client_error"}
    words |= {500: "server_error", 503: "server_error", 529: "server_error"}
    assert {status: result(Outcome.UPSTREAM_REJECTED, status) for status in words} == words
    others = [outcome for outcome in Outcome if outcome is not Outcome.UPSTREAM_REJECTED]
    assert [result(outcome, 503) for outcome in others] == [outcome.value for outcome in others]
    rejected = {"client_error", "rate_limited", "server_error"}
    assert {*RESULTS} == {outcome.value for outcome in others} | rejected


def test_conversation_figures(world: World) -> None:
    """Overlap, think time and retry at arrival; out of order and its distance at the end, of completed turns only."""
    for outcome in (Outcome.COMPLETED, Outcome.UPSTREAM_FAILED):
        exchange = world.begin()
        exchange.retry = True
        world.arrive(exchange, overlaps=(ref(1), ref(2)), think_time=250_000_000)
        exchange.decide(outcome, ms(50))
        world.settle(exchange, 50, distance=2)
    default = ("default",)
    assert world.points(metrics.CONCURRENCY) == {default: (2, 6)}
    assert world.points(metrics.OVERLAPS) == world.points(metrics.RETRIES) == {default: 2}
    assert world.points(metrics.THINK_TIME) == {default: (2, 0.5)}
    assert world.points(metrics.TURNS) == world.points(metrics.OUT_OF_ORDER) == {default: 1}
    assert world.points(metrics.DISTANCE) == {default: (1, 2)}


def test_made_up_ids_record_no_conversation_figures(world: World) -> None:
    """Only that they were made up."""
    exchange = world.begin()
    world.arrive(exchange, source=Source.GENERATED)
    exchange.decide(Outcome.COMPLETED, ms(50))
    world.settle(exchange, 50)
    assert world.points(metrics.IDENTITY) == {("generated",): 1}
    assert world.points(metrics.CONCURRENCY) == world.points(metrics.TURNS) == {}


@pytest.mark.parametrize(
    "reasons, status, outcome, counted",
    [
        (["stop", "length"], 200, Outcome.COMPLETED, "stop"),
        (["MAX_TOKENS"], 200, Outcome.COMPLETED, "max_tokens"),
        (["made up by a server"], 200, Outcome.COMPLETED, "other"),
        ([], 200, Outcome.COMPLETED, "missing"),
        ([], 200, Outcome.UPSTREAM_FAILED, "missing"),
        ([], 200, Outcome.CLIENT_LEFT, None),
        (["stop"], 200, Outcome.CLIENT_LEFT, "stop"),
        ([], 500, Outcome.UPSTREAM_REJECTED, None),
        ([], None, Outcome.UPSTREAM_FAILED, None),
    ],
)
def test_finish_reasons(
    world: World, reasons: list[str], status: int | None, outcome: Outcome, counted: str | None
) -> None:
    """One per response: known, `other` or `missing`; none where no response could give one."""
    exchange = world.begin()
    exchange.upstream_status = status
    exchange.response.finish_reasons += reasons
    exchange.decide(outcome, ms(50))
    world.settle(exchange, 50)
    expected = {("chat", "openai", counted, "default"): 1} if counted else {}
    assert world.points(metrics.FINISH_REASONS) == expected


def test_finish_reason_words() -> None:
    """`missing` is a word of ours for none."""
    assert (finish_reason([]), finish_reason(["SAFETY"])) == ("missing", "safety")


def _called(world: World, asked: str, outcome: Outcome = Outcome.COMPLETED, answered: str = "") -> None:
    """One call for a model, at the world's time."""
    exchange = world.begin()
    exchange.request = RequestFacts(asked)
    exchange.response.model = answered or None
    exchange.asked = ms(1)
    exchange.decide(outcome, ms(1), error_type=None if outcome is Outcome.COMPLETED else "404")
    exchange.settle(world.now[0])
    world.recorder.settled(exchange)


def _models(world: World) -> Counter[object]:
    """Requests by model, as the metrics tell."""
    models: Counter[object] = Counter()
    for key, count in world.points(metrics.REQUESTS).items():
        assert isinstance(count, int)
        models[key[-4]] += count
    return models


def test_models_are_capped(make_world: MakeWorld) -> None:
    """Beyond the cap `other`, each time counted; those known stay."""
    world = make_world(model_limit=2)
    for model in ("a", "b", "c", "c", "d", "e", "a"):
        _called(world, model)
    by_model = {key[2]: count for key, count in world.points(metrics.REQUESTS).items()}
    assert by_model == {"a": 2, "b": 1, "other": 4}
    assert world.points(metrics.ANOMALIES)["model_cap",] == 4


HOUR = 3600 * SECOND


JUNK = (Outcome.UPSTREAM_REJECTED, Outcome.UPSTREAM_FAILED, Outcome.CLIENT_LEFT, Outcome.TIMED_OUT)


def test_a_day_of_junk_changes_nothing_for_models_that_answer(make_world: MakeWorld) -> None:
    """Some 250 names an hour that never complete a call: real models keep their places, new ones get in at once."""
    world = make_world(export_traces=False)
    real = [f"real-{number}" for number in range(60)]
    begun = world.now[0]
    for hour in range(24):
        for number in range(250):
            world.now[0] = begun + hour * HOUR + number * HOUR // 250
            _called(world, f"junk-{hour}-{number}", JUNK[number % len(JUNK)])
            if not number % 6:
                _called(world, real[number // 6 % len(real)], answered=f"{real[number // 6 % len(real)]}-x")
        _called(world, f"new-{hour}", answered=f"new-{hour}-x")
    for model in real[40:]:
        _called(world, model, answered=f"{model}-x")
    told = _models(world)
    assert {f"new-{hour}" for hour in range(24)} | {*real} <= {*told}
    kept = {name for name in told if str(name).startswith("junk")}
    assert len(kept) <= 50
    answered = {key[-5] for key in world.points(metrics.OPERATION_DURATION)}
    assert {f"new-{hour}-x" for hour in range(24)} | {f"{name}-x" for name in real} <= answered
    assert (
        told["other"]
        == 6_000 - sum(told[name] for name in kept)
        == world.points(metrics.ANOMALIES)[("model_cap",)]
    )


def test_a_place_is_earned_and_given_back() -> None:
    """By a call that completed; given up to one that does, at once if it only failed, else after an hour."""
    reported: list[Anomaly] = []
    cap = Cap(4, reported.append)
    assert [cap(name, 0, completed=False) for name in "abcd"] == ["a", "b", "other", "other"]
    assert [cap(name, 1, completed=True) for name in "efcb"] == ["e", "f", "c", "b"]
    assert (cap("a", 2, completed=False), cap("g", 2, completed=True)) == ("other", "other")
    assert cap("e", HOUR, completed=True) == "e"
    assert cap("g", HOUR + 1, completed=True) == "g"
    assert [cap(name, HOUR + 2, completed=False) for name in "febcg"] == ["other", "e", "b", "c", "g"]
    assert reported == [Anomaly.MODEL_CAP] * 5


def test_a_name_that_only_fails_has_its_place_for_a_day() -> None:
    """It has one as long as it is tried, and another gets it a day after."""
    cap = Cap(2, lambda _: None)
    assert cap("a", 0, completed=False) == "a"
    assert cap("a", HOUR, completed=False) == "a"
    assert cap("b", 25 * HOUR - 1, completed=False) == "other"
    assert (cap("b", 25 * HOUR, completed=False), cap("a", 25 * HOUR, completed=False)) == ("b", "other")


@pytest.mark.parametrize("completed", [True, False])
def test_a_cap_keeps_long_values_short(completed: bool) -> None:
    """A value is cut before it is kept, and is the same value the next time; a cap of 0 keeps none."""
    cap = Cap(1, lambda _: None)
    assert cap("x" * 1000, 0, completed=completed) == cap("x" * 1000, 1, completed=completed) == "x" * 256
    assert Cap(0, lambda _: None)("y", 0, completed=completed) == "other"


def test_anomalies_count_once_each(world: World) -> None:
    """The exchange's and its identity's, and those that belong to none."""
    exchange = world.begin()
    exchange.anomalies += [Anomaly.BODY_INVALID]
    exchange.decide(Outcome.COMPLETED, ms(1))
    world.settle(exchange, 1)
    world.recorder.anomaly(Anomaly.BYTES_AFTER_END)
    world.recorder.listener.anomaly(Anomaly.SESSION_EVICTED)
    once = {"body_invalid", "bytes_after_end", "session_evicted"}
    assert world.points(metrics.ANOMALIES) == {
        (anomaly.value,): int(anomaly.value in once) for anomaly in Anomaly
    }


def test_stalls_are_counted_when_they_happen(world: World) -> None:
    """Before the request has settled."""
    world.recorder.stalled(world.begin(), ms(10_000))
    assert world.points(metrics.STREAM_STALLS) == {("default",): 1}


def test_loop_lag(world: World) -> None:
    """Nanoseconds in, seconds out."""
    world.recorder.record_lag(1_500_000)
    assert world.points(metrics.LOOP_LAG) == {(): (1, 0.0015)}


@dataclass
class Live:
    """Gauges as the session manager has them."""

    sessions_active: int = 1
    conversations_active: int = 2
    conversations_busy: int = 3
    overlapping: int = 4
    most_concurrent: int = 5


def test_sessions(world: World) -> None:
    """Counters and histograms by source; gauges asked at each snapshot."""
    live = Live()
    world.recorder.attach(live)
    listener = world.recorder.listener
    listener.session_started("s1", Source.BODY, ms(0))
    totals = Totals({Outcome.COMPLETED: 3, Outcome.TIMED_OUT: 2}, 5, None, None, 0, 1, 0, 0, 0, 0, 0, 0, ())
    listener.session_ended(SessionSummary("s1", Source.BODY, ms(0), ms(2500), 1, totals))
    listener.waits_unknown(4)
    assert world.points(metrics.SESSIONS) == {("body",): 1}
    assert world.points(metrics.SESSION_DURATION) == {("body",): (1, 2.5)}
    assert world.points(metrics.SESSION_REQUESTS) == {("body",): (1, 5)}
    assert world.points(metrics.WAIT_UNKNOWN) == {(): 4}
    gauges = (
        metrics.SESSIONS_ACTIVE,
        metrics.CONVERSATIONS_ACTIVE,
        metrics.CONVERSATIONS_BUSY,
        metrics.REQUESTS_OVERLAPPING,
        metrics.CONCURRENCY_MAX,
    )
    assert [world.points(gauge) for gauge in gauges] == [{(): n} for n in range(1, 6)]
    live.overlapping = 9
    assert world.points(metrics.REQUESTS_OVERLAPPING) == {(): 9}


def test_waits_are_recorded_when_they_become_known(world: World) -> None:
    """At the turn's own arrival, or by another one's ending."""
    exchange = world.begin()
    world.arrive(exchange, wait=2_000_000_000)
    assert world.points(metrics.WAIT_AVOIDED) == {("default",): (1, 2.0)}
    exchange.decide(Outcome.COMPLETED, ms(4))
    world.settle(exchange, 5, revealed=((29_000_000_000, ref(7), True, "default"), (0, ref(9), True, None)))
    assert world.points(metrics.WAIT_AVOIDED) == {("default",): (2, 31.0), (): (1, 0.0)}


def test_a_wait_that_a_turn_without_a_session_reveals(world: World) -> None:
    """A first turn whose session was made up counts nowhere itself; who waited for it does."""
    exchange = world.begin()
    world.arrive(exchange, source=Source.GENERATED)
    exchange.decide(Outcome.COMPLETED, ms(4))
    world.settle(exchange, 5, revealed=((3_000_000_000, ref(7), True, "default"),))
    assert world.points(metrics.WAIT_AVOIDED) == {("default",): (1, 3.0)}


def test_exemplars_lead_to_the_trace(world: World) -> None:
    """The call's to the CLIENT span, the request's to the SERVER span, a wait's to its turn's."""
    exchange = world.stream(revealed=((5, ref(7), True, "default"),))
    trace = exchange.trace
    collected = {metric.name: metric for metric in world.store.collect(world.store.scrape)}

    def spans(name: str) -> set[tuple[int | None, int | None]]:
        return {
            (exemplar.trace_id, exemplar.span_id)
            for point in collected[name].data.data_points
            if isinstance(point, sdk.HistogramDataPoint)
            for exemplar in point.exemplars
        }

    client = {(trace.trace_id, trace.client_span_id)}
    server = {(trace.trace_id, trace.server_span_id)}
    assert spans("gen_ai.client.operation.duration") == client
    assert spans("gen_ai.client.operation.time_to_first_chunk") == client
    assert spans("gen_ai.client.operation.time_per_output_chunk") == client
    assert spans("http.server.request.duration") == spans("sidecar.stream.gap") == server
    assert spans("sidecar.overhead") == spans("sidecar.conversation.concurrency") == server
    assert spans("sidecar.conversation.wait_avoided") == {(0x1007, 0x2007)}


def test_the_ledger_is_a_metric(make_world: MakeWorld) -> None:
    """Every state of every signal, and what waits."""
    world = make_world()
    world.pipeline.not_made(Signal.TRACES, 3)
    items = world.points(metrics.TELEMETRY_ITEMS)
    assert items["traces", "not_sampled"] == 3
    assert items["logs", "dropped"] == 0
    assert world.points(metrics.TELEMETRY_QUEUE) == {
        (signal,): 0 for signal in ("traces", "metrics", "logs", "lines")
    }


def test_unknown_methods_do_not_become_labels(world: World) -> None:
    """`_OTHER`, however many different ones there are."""
    for number in range(3):
        exchange: Exchange = world.begin(route=CHAT, method=f"BREW{number}")
        exchange.decide(Outcome.COMPLETED, ms(1))
        world.settle(exchange, 1)
    assert world.points(metrics.HTTP_DURATION) == {
        ("_OTHER", "/v1/chat/completions", "default", "http"): (3, 0.003)
    }
    assert n.METHOD in metrics.HTTP_DURATION.attributes
