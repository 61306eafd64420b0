"""Log lines: their form, their ids, their limit, and the same events as OTLP records."""

import io
import json
import logging
import re
import threading
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.sessions import SessionRequest, SessionSummary, Totals
from sidecar.telemetry.factories import Layer, ReadableRecords
from sidecar.telemetry.logs import BURST, LINES_PER_SECOND, LibraryHandler, Lines, Log, level_of
from sidecar.telemetry.queues import Worker
from tests.telemetry.world import MakeWorld, World, ms, ref


def test_the_wide_line_whole(world: World) -> None:
    """One line when it settles: ids, then everything its SERVER and CLIENT spans say."""
    exchange = world.stream()
    generated, wide = world.lines()
    ids = {
        "trace_id": f"{exchange.trace.trace_id:032x}",
        "span_id": f"{exchange.trace.server_span_id:016x}",
        "session_id": "s1",
        "conversation_id": "main",
        "request_id": "s1:main:1",
    }
    assert generated == {
        "event": "sidecar.request.generated",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.002000Z",
        **ids,
        "sidecar.request.sequence": 1,
        "sidecar.request.overlaps": 0,
    }
    server, client, *_ = (dict(span.attributes or {}) for span in world.pipeline.spans)
    told = json.loads(json.dumps({**client, **server}))
    for name in ("session.id", "sidecar.conversation.id", "gen_ai.conversation.id", "sidecar.request.id"):
        del told[name]
    assert wide == {
        "event": "sidecar.request.completed",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.500000Z",
        **ids,
        **told,
        "sidecar.duration": 0.5,
    }


def test_the_wide_line_tells_no_port_of_another_host(world: World) -> None:
    """Address and port are both what the app asked for: the upstream's port alone would be nobody's."""
    exchange = world.begin([(b"Host", b"sidecar.test")])
    world.arrive(exchange)
    world.send(exchange)
    world.answer(exchange)
    exchange.answer_ended(ms(120))
    world.settle(exchange, 150)
    wide = world.lines()[-1]
    assert wide["server.address"] == "sidecar.test"
    assert "server.port" not in wide


@pytest.mark.parametrize(
    "outcome, level",
    [
        (Outcome.COMPLETED, "info"),
        (Outcome.CLIENT_LEFT, "info"),
        (Outcome.REFUSED, "warning"),
        (Outcome.UPSTREAM_REJECTED, "warning"),
        (Outcome.UPSTREAM_FAILED, "error"),
        (Outcome.ERROR_IN_STREAM, "error"),
        (Outcome.TIMED_OUT, "error"),
        (Outcome.SHUTDOWN, "error"),
        (Outcome.INTERNAL_ERROR, "error"),
    ],
)
def test_level_by_outcome(outcome: Outcome, level: str) -> None:
    """What others did is no error of ours."""
    assert level_of(outcome) == level


def test_a_failed_request_says_why(world: World) -> None:
    """Its event, its level and the sidecar's words for it."""
    world.refuse(503)
    (line,) = world.lines()
    assert (line["event"], line["level"]) == ("sidecar.request.failed", "warning")
    assert line["sidecar.message"] == "the sidecar is stopping"
    assert (line["session_id"], line["request_id"]) == ("made-up", None)


def test_session_lines(world: World) -> None:
    """Start and end, a turn out of order, a stall."""
    listener = world.recorder.listener
    listener.session_started("s1", "body", ms(1))
    listener.response_out_of_order(SessionRequest("s1:c:2", "s1", "c", 2, True, True, ms(1), ref(2)), 3)
    world.recorder.stalled(world.begin(), ms(10_000))
    totals = Totals({Outcome.COMPLETED: 1}, 1, 5, 6, 0, 1, 0, 0, 0, 0, 0, 0, ())
    listener.session_ended(SessionSummary("s1", "body", ms(1), ms(2001), 1, totals))
    start, order, stalled, end = world.lines()
    assert start == {
        "event": "session.start",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.001000Z",
        "session.id": "s1",
        "sidecar.session.source": "body",
    }
    assert order["event"] == "sidecar.request.out_of_order"
    assert order["sidecar.request.out_of_order.distance"] == 3
    assert (order["trace_id"], order["span_id"]) == (f"{0x1002:032x}", f"{0x2002:016x}")
    assert (stalled["event"], stalled["level"], stalled["sidecar.stall.duration"]) == (
        "sidecar.request.stalled",
        "warning",
        10.0,
    )
    assert (end["event"], end["sidecar.duration"], end["sidecar.total.requests"]) == ("session.end", 2.0, 1)
    assert end["sidecar.total.tokens.output"] == 6


FEW = ReadableRecords(Resource({}), InstrumentationScope("sidecar"), SpanLimits(max_attributes=2))
"""Makes records of two attributes at most."""


def make_log(stream: io.BytesIO, **options: object) -> Log:
    """A log to a buffer, on a clock that stands at T0."""
    return Log(
        Lines("json", stream.writelines),
        clock=lambda: ms(0),
        **{  # type: ignore[arg-type]
            "worker": Worker(lambda _: None),
            "lost": lambda: None,
            "records": None,
            "export": lambda _: None,
            **options,
        },
    )


def test_repeating_lines_are_limited_and_counted() -> None:
    """A burst passes, then so many per second; the next line that passes says how many were left out."""
    stream = io.BytesIO()
    log = make_log(stream)
    for _ in range(BURST + 7):
        log.event("e", "info", ms(0), {})
    log.event("other", "info", ms(0), {})
    log.event("e", "info", ms(1000), {})
    for _ in range(LINES_PER_SECOND + 4):
        log.event("e", "info", ms(1000), {})
    log.flush()
    log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [(line["event"], line["sidecar.suppressed"]) for line in lines if "sidecar.suppressed" in line]
    assert told == [("e", 7), ("e", 5)]
    assert len(lines) == BURST + 1 + LINES_PER_SECOND + 1


def test_wide_lines_are_never_left_out(world: World) -> None:
    """One per settled request, however many."""
    for _ in range(BURST * 2):
        world.refuse(503)
    assert len(world.lines()) == BURST * 2


def test_the_same_events_by_otlp(make_world: MakeWorld) -> None:
    """As log records: event name, severity, trace context, attributes with the names of the spans."""
    world = make_world(export_logs=True)
    exchange = world.stream()
    generated, wide = (record.log_record for record in world.pipeline.records)
    assert (generated.event_name, generated.severity_text, generated.timestamp) == (
        "sidecar.request.generated",
        "INFO",
        ms(2),
    )
    assert (wide.event_name, wide.body, wide.timestamp) == ("sidecar.request.completed",) * 2 + (ms(500),)
    assert (wide.trace_id, wide.span_id) == (exchange.trace.trace_id, exchange.trace.server_span_id)
    assert wide.trace_flags is not None
    assert wide.trace_flags.sampled
    said = dict(wide.attributes or {})
    assert (said["session.id"], said["sidecar.request.id"]) == ("s1", "s1:main:1")
    assert (said["sidecar.outcome"], said["gen_ai.usage.input_tokens"]) == ("completed", 10)
    world.recorder.listener.session_started("s2", "body", ms(1))
    start = world.pipeline.records[-1]
    assert start.log_record.trace_id == 0
    assert start.resource.attributes["service.name"] == "test"


def test_records_keep_the_limits() -> None:
    """Attributes over the limit are dropped and counted where the exporters look; short names get a namespace."""
    records: list[ReadableLogRecord] = []
    log = make_log(io.BytesIO(), records=FEW, export=records.append)
    log.event("e", "info", ms(0), {"a": 1, "b.c": 2, "c": 3})
    (record,) = records
    kept = {"sidecar.a": 1, "b.c": 2}
    assert (dict(record.log_record.attributes or {}), record.dropped_attributes) == (kept, 1)


class Unsayable:
    """What no line can be made of."""

    def __str__(self) -> str:
        raise ValueError("no word")


@pytest.mark.parametrize("why", ["no room", "not made"])
def test_a_line_that_is_lost_is_counted_with_its_record(why: str) -> None:
    """There would have been none of a library's line."""
    worker = Worker(lambda _: None, size=0)
    if why == "no room":
        worker.start()
    lost: list[int] = []

    def count(records: int = 1) -> None:
        lost.append(records)

    log = make_log(io.BytesIO(), worker=worker, lost=count)
    fields: dict[str, Any] = {"one": Unsayable()}
    with suppress(ValueError):
        log.event("e", "info", ms(0), fields)
    with suppress(ValueError):
        log.library("warning", fields)
    worker.finish(int)
    assert lost == [1, 0]


def test_library_warnings_join_the_log_but_are_not_exported() -> None:
    """A library's complaint is a line; an exporter's own would else feed itself. What it quotes is not passed on."""
    stream = io.BytesIO()
    records: list[ReadableLogRecord] = []
    handler = LibraryHandler(make_log(stream, records=FEW, export=records.append))
    logger = logging.Logger("some.library")  # noqa: LOG001 - it must not outlive the test
    logger.addHandler(handler)
    logger.info("not this")
    logger.warning("header: %s", "Bearer secret")
    try:
        raise ValueError("Bearer secret")
    except ValueError:
        logger.exception("failed on Bearer secret")
    logger.error("no traceback", exc_info=(OSError, OSError("Bearer secret"), None))
    logger.error("%d", "does not fit")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert b"secret" not in stream.getvalue()
    said = [(line["level"], line["logger"], line.get("exception")) for line in lines]
    assert said == [
        ("warning", "some.library", None),
        ("error", "some.library", "ValueError"),
        ("error", "some.library", "OSError"),
        ("error", "some.library", None),
    ]
    assert all(line["event"] == "sidecar.library" for line in lines)
    assert all(re.fullmatch(r"test_logs\.py:\d+", line["where"]) for line in lines)
    assert records == []


def test_warnings_and_what_dies_unseen_join_too() -> None:
    """Python would write them to stderr past the log. Category or class, and where; not what they say."""
    stream = io.BytesIO()
    handler = LibraryHandler(make_log(stream))
    handler.warned("Bearer secret", DeprecationWarning, "/lib/some/module.py", 7)
    try:
        raise ValueError("Bearer secret")
    except ValueError as error:
        kind, value, trace = type(error), error, error.__traceback__
    handler.raised(threading.ExceptHookArgs((kind, value, trace, None)))
    handler.raised(threading.ExceptHookArgs((kind, value, None, None)))
    assert b"secret" not in stream.getvalue()
    warned, raised, bare = (json.loads(line) for line in stream.getvalue().splitlines())
    said = ("level", "logger", "exception", "where")
    assert [warned[name] for name in said] == ["warning", "py.warnings", "DeprecationWarning", "module.py:7"]
    assert [raised[name] for name in said[:3]] == ["error", "python", "ValueError"]
    assert re.fullmatch(r"test_logs\.py:\d+", raised["where"])
    assert "where" not in bare


CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("around", ["", " "], ids=["bare", "spaced"])
def test_no_line_has_a_raw_control_character(form: str, around: str) -> None:
    """A terminal that shows it would obey; a reader of lines would find one more. JSON still says the same."""
    stream = io.BytesIO()
    lines = Lines(form, stream.writelines)
    texts = [f"a{around}{chr(code)}b\xa0\xe9" for code in CONTROLS]
    alike = Layer({f"k{code}": text for code, text in zip(CONTROLS, texts, strict=True)})
    lines.put(
        (
            lines.whole({"event": "e", "told": texts[5], "many": texts}, None),
            lines.whole({"event": "e"}, alike),
        )
    )
    lines.logger.warning("e", **{f"k{code}": text for code, text in zip(CONTROLS, texts, strict=True)})
    written = stream.getvalue().decode()
    assert written.count("\n") == 3
    assert [character for character in written.replace("\n", "") if ord(character) in CONTROLS] == []
    if form == "json":
        first, *others = [json.loads(line) for line in written.splitlines()]
        assert first["many"] == texts
        assert [[line[f"k{code}"] for code in CONTROLS] for line in others] == [texts, texts]


def test_console_lines_are_for_people(make_world: MakeWorld) -> None:
    """Plain text with the event's name and its fields."""
    stream = io.BytesIO()
    Lines("console", stream.writelines).logger.warning("it.happened", how="so")
    Lines("json", stream.writelines).logger.info("plain", word=Anomaly.MODEL_CAP)
    console, plain = stream.getvalue().decode().splitlines()
    assert "it.happened" in console
    assert "how=so" in console
    said = json.loads(plain)
    assert said.pop("timestamp").endswith("Z")
    assert said == {"event": "plain", "level": "info", "word": "model_cap"}
