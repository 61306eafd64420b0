"""Incidents as their metrics tell them, minute by minute: which alert fires when, and which panel shows it first.

Owns the table `INCIDENTS` and the figures behind it; `test_incidents.py` asks promtool. Each incident comes after a
healthy time (a day where an alert compares with the day before), lasts for `LASTS` minutes, and is over. Traffic is ten
requests a second unless it says otherwise, a fifth of them to `beta`. docs/alerts.md has the table for readers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

WELL, DAY, LASTS, AFTER = 90, 1500, 60, 40
"""Minutes of health before (a day and an hour where the past matters), of the incident, and of health after."""

Segments = tuple[tuple[float, int], ...]
"""What a series does for how many minutes: a counter's growth per minute, or a gauge's value."""

WORDS = (
    *("completed", "client_left", "client_error", "rate_limited", "server_error", "upstream_failed"),
    *("error_in_stream", "timed_out", "refused", "shutdown", "internal_error"),
)
DEFAULT, BETA = 480, 120
"""Requests per minute to each upstream."""
USUAL = {"job": "app", "instance": "1", "sidecar_upstream": "default"}
"""Labels of what an incident happens to, unless it says otherwise."""


def number(value: float) -> str:
    """A number as promtool reads it."""
    return f"{value:.10g}"


def counter(segments: Segments) -> str:
    """A counter that grows so; a negative growth is silence."""
    total, parts = 0.0, []
    for growth, minutes in segments:
        if growth < 0:
            parts.append(f"_x{minutes}")
            continue
        parts.append(f"{number(total)}+{number(growth)}x{minutes - 1}")
        total += growth * minutes
    return " ".join(parts)


def gauge(segments: Segments) -> str:
    """A gauge that has these values; a negative one is silence."""
    return " ".join(
        f"_x{minutes}" if value < 0 else f"{number(value)}x{minutes - 1}" for value, minutes in segments
    )


def where_told(segments: Segments, value: float) -> Segments:
    """This value for as long as the segments tell one, and silence where they are silent."""
    return tuple((value if told >= 0 else -1, minutes) for told, minutes in segments)


@dataclass(frozen=True, slots=True)
class Incident:
    """`series` by name with labels; `fires`: alert to the minutes after the beginning from and until which it fires."""

    title: str
    series: Mapping[str, str]
    fires: Mapping[str, tuple[int, int]]
    past: int = WELL
    seen: tuple[str, int, float] = ("", 0, 0)
    """The panel that shows it first, by dashboard and number, and the highest value of its first query five minutes into it
    (0: nothing). Number 0 is the mark of a process that begins, a minute into it."""


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


@dataclass(slots=True)
class Story:
    """The series of one incident. `incident` gives a line with another value for the time of the trouble."""

    past: int = WELL
    lasts: int = LASTS
    series: dict[str, str] = field(default_factory=dict)

    def incident(self, well: float, trouble: float) -> Segments:
        """Well, trouble, well again."""
        return ((well, self.past), (trouble, self.lasts), (well, AFTER + LASTS - self.lasts))

    def counter(self, name: str, segments: Segments, **labels: str) -> None:
        """Adds a counter."""
        self.series[f"{name}{{{_labels(**labels)}}}"] = counter(segments)

    def gauge(self, name: str, segments: Segments, **labels: str) -> None:
        """Adds a gauge."""
        self.series[f"{name}{{{_labels(**labels)}}}"] = gauge(segments)

    def upstream(
        self,
        upstream: str,
        results: Mapping[str, Segments],
        *,
        job: str = "app",
        instance: str = "1",
        active: Segments = (),
        silence: Segments = (),
    ) -> None:
        """An upstream's results, zeros for those that do not happen, and what is in flight while they are told."""
        where = {"job": job, "instance": instance, "sidecar_upstream": upstream}
        told = next(iter(results.values()))
        active = active or where_told(told, 2)
        silence = silence or where_told(told, 1)
        for word in WORDS:
            segments = results.get(word, where_told(told, 0))
            self.counter("sidecar_results_total", segments, **where, sidecar_result=word)
        self.gauge("sidecar_requests_active", active, **where)
        self.gauge("sidecar_requests_silence_seconds", silence, **where)
        self.gauge("sidecar_requests_oldest_age_seconds", silence, **where)
        self.gauge("process_thread_count", where_told(told, 9), job=job, instance=instance)

    def healthy(self, upstream: str = "beta", per_minute: float = BETA, *, job: str = "app") -> None:
        """An upstream that is well all the time."""
        self.upstream(upstream, {"completed": self.incident(per_minute, per_minute)}, job=job)

    def histogram(self, name: str, buckets: Mapping[str, Segments], **labels: str) -> None:
        """Buckets with how much each grows, cumulative as they are told; `+Inf` is the count as well."""
        where = {**USUAL, **labels}
        for bound, segments in buckets.items():
            self.counter(f"{name}_bucket", segments, **where, le=bound)
        self.counter(f"{name}_count", buckets["+Inf"], **where)


def broken(**results: float) -> Story:
    """The default upstream answers otherwise for the time of the incident: per minute by word."""
    story = Story()
    worse = {word: story.incident(0, often) for word, often in results.items()}
    well = story.incident(DEFAULT, DEFAULT - sum(results.values()))
    story.upstream("default", {"completed": well, **worse})
    story.healthy()
    return story


def by_turns() -> Story:
    """The provider is overloaded: of its answers a little more than half are 429 for three minutes, then 503 for three."""
    story = Story()
    more, less = DEFAULT * 0.55, DEFAULT * 0.45
    story.upstream(
        "default",
        {
            "completed": story.incident(DEFAULT, 0),
            "rate_limited": ((0, story.past), *((more, 3), (less, 3)) * (LASTS // 6), (0, AFTER)),
            "server_error": ((0, story.past), *((less, 3), (more, 3)) * (LASTS // 6), (0, AFTER)),
        },
    )
    story.healthy()
    return story


def seldom_asked(often: int) -> Story:
    """A service of one request every so many minutes, of whose answers every second one is bad."""
    story = Story()
    half = LASTS // 2 // often
    good, bad, none = (1.0, 1), (0.0, 1), (0.0, often - 1)
    rest = (none,) if often > 1 else ()
    story.upstream(
        "default",
        {
            "completed": ((1 / often, story.past), *(good, *rest, bad, *rest) * half, (1 / often, AFTER)),
            "server_error": ((0, story.past), *(bad, *rest, good, *rest) * half, (0, AFTER)),
        },
    )
    return story


def seldom_heard() -> Story:
    """One agent asks once a minute, hears nothing, leaves after 50 s, and is between two tries when it is looked at."""
    story = Story()
    story.upstream(
        "default",
        {
            "completed": story.incident(1, 0),
            "client_left": ((0, story.past + 1), (1, LASTS - 1), (0, AFTER)),
        },
        active=((0, story.past), *((1, 1), (0, 1)) * (LASTS // 2), (0, AFTER)),
        silence=((0, story.past), *((48, 1), (0, 1)) * (LASTS // 2), (0, AFTER)),
    )
    return story


def hanging(*, leave: bool) -> Story:
    """Forty agents ask and hear nothing: they wait for ten minutes and are timed out, or leave after one."""
    story = Story()
    past, lasts = story.past, story.lasts
    active: Segments = ((2, past), (40, lasts), (2, AFTER))
    silence: tuple[tuple[float, int], ...]
    ending: dict[str, Segments]
    if leave:
        silence = ((1, past), (55, lasts), (1, AFTER))
        ending = {"client_left": ((0, past + 1), (40, lasts - 1), (0, AFTER))}
    else:
        grows = tuple((60.0 * minute, 1) for minute in range(10))
        silence = ((1, past), *grows, (590, lasts - 10), (1, AFTER))
        ending = {"timed_out": ((0, past + 10), (4, lasts - 10), (0, AFTER))}
    ending["completed"] = story.incident(DEFAULT, 0)
    story.upstream("default", ending, active=active, silence=silence)
    story.healthy()
    return story


def slow(
    name: str, usual: str, then: str, bounds: Iterable[str], *, per_minute: float, **labels: str
) -> Story:
    """A latency whose records move from below one bound to below another for the time of the incident."""
    story = Story(past=DAY)
    story.healthy("default", DEFAULT)
    limits = [*bounds]
    buckets = {
        bound: story.incident(
            per_minute if limits.index(bound) >= limits.index(usual) else 0,
            per_minute if limits.index(bound) >= limits.index(then) else 0,
        )
        for bound in limits
    }
    story.histogram(name, buckets, **labels)
    return story


BOUNDS = ("0.45", "0.64", "2.56", "3.6", "7.2", "10.24", "14.5", "40.96", "81.92", "+Inf")
FIRST_CHUNK = "gen_ai_client_operation_time_to_first_chunk_seconds"
DURATION = "gen_ai_client_operation_duration_seconds"
BETWEEN = "gen_ai_client_operation_time_per_output_chunk_seconds"
GAPS = ("0.064", "0.512", "1.024", "2.048", "4.096", "8.192", "+Inf")


def dripping(then: str) -> Story:
    """Of six streams a minute each piece comes so long after the one before, instead of within 0.064 s."""
    story = slow(BETWEEN, "0.064", then, GAPS, per_minute=60)
    story.counter("sidecar_stream_backpressure_seconds_count", story.incident(6, 6), **USUAL)
    return story


def killed() -> Story:
    """The only sidecar is killed and stays dead until somebody starts another."""
    story = Story()
    story.upstream("default", {"completed": ((DEFAULT, story.past), (-1, LASTS))})
    late: Segments = ((-1, story.past + LASTS), (DEFAULT, AFTER))
    story.upstream("default", {"completed": late}, instance="2")
    return story


def restarted() -> Story:
    """One of two is killed with three requests in flight, and another starts in its place at once."""
    story = Story()
    story.healthy("default", DEFAULT)
    end = LASTS + AFTER
    story.upstream(
        "default",
        instance="2",
        results={"completed": ((DEFAULT, story.past), (-1, end))},
        active=((3, story.past), (-1, end)),
    )
    story.upstream(
        "default",
        instance="3",
        results={"completed": ((-1, story.past), (DEFAULT, end))},
        active=((-1, story.past), (3, end)),
    )
    return story


def deployed(*, scraped: bool) -> Story:
    """Twenty processes end in order and twenty others begin. One that is scraped has no chance to tell that nothing is left."""
    story = Story()
    story.healthy("default", DEFAULT)
    end = LASTS + AFTER
    last = () if scraped else ((0.0, 1),)
    old: Segments = ((DEFAULT, story.past), (-1, end))
    new: Segments = ((-1, story.past), (DEFAULT, end))
    drained: Segments = ((3, story.past - len(last)), *last, (-1, end))
    for number in range(20):
        for name, told, busy in ((f"old {number}", old, drained), (f"new {number}", new, where_told(new, 3))):
            story.upstream("default", {"completed": told}, instance=name, active=busy)
            if scraped:
                story.gauge("up", where_told(told, 1), job="app", instance=name)
    return story


def full() -> Story:
    """Of the requests nine in ten find no room in the sidecar."""
    story = broken(refused=0.9 * DEFAULT)
    story.counter(
        "sidecar_requests_total",
        story.incident(0, 0.9 * DEFAULT),
        job="app",
        instance="1",
        error_type="overload",
        sidecar_outcome="refused",
    )
    return story


def collector_dead() -> Story:
    """Nothing of two services arrives; when it does again, both tell that some spans did not."""
    story = Story()
    for job in ("app", "other"):
        story.upstream("default", {"completed": story.incident(DEFAULT, -1)}, job=job)
        story.counter(
            "sidecar_telemetry_items_total",
            ((0, story.past), (-1, LASTS - 1), (500, 1), (0, AFTER)),
            job=job,
            instance="1",
            sidecar_telemetry_signal="traces",
            sidecar_telemetry_state="failed",
        )
    return story


def blocked() -> Story:
    """The event loop runs half a second late for five minutes."""
    story = Story(lasts=5)
    story.healthy("default", DEFAULT)
    story.histogram(
        "sidecar_event_loop_lag_seconds",
        {
            "0.0016": story.incident(60, 0),
            "0.4096": story.incident(60, 0),
            "0.8192": story.incident(60, 60),
            "+Inf": story.incident(60, 60),
        },
    )
    return story


def conversations(before: float, during: float) -> Story:
    """Twenty turns a minute; of them so many are overtaken, overlap and race, before and for the time of the incident."""
    story = Story(past=DAY)
    story.healthy("default", DEFAULT)
    every = story.incident(20, 20)
    some = story.incident(before, during)
    story.counter("sidecar_turns_total", every, **USUAL)
    story.counter("sidecar_conversation_concurrency_count", every, **USUAL)
    story.counter("sidecar_responses_out_of_order_total", some, **USUAL)
    story.counter("sidecar_conversation_overlaps_total", some, **USUAL)
    for relation, segments in (("races", some), ("continues", every)):
        story.counter(
            "sidecar_turns_related_total",
            segments,
            job="app",
            instance="1",
            sidecar_turn_relation=relation,
        )
    return story


def nameless() -> Story:
    """An app stops naming its sessions."""
    story = Story()
    story.healthy("default", DEFAULT)
    for source, segments in (
        ("own_header", story.incident(DEFAULT, 0)),
        ("generated", story.incident(0, DEFAULT)),
    ):
        story.counter(
            "sidecar_identity_total", segments, job="app", instance="1", sidecar_session_source=source
        )
    return story


def one_hangs() -> Story:
    """One request among many that complete hears nothing for ten minutes."""
    story = Story(lasts=10)
    grows = tuple((60.0 * minute, 1) for minute in range(10))
    story.upstream(
        "default",
        results={"completed": story.incident(DEFAULT, DEFAULT)},
        silence=((1, story.past), *grows, (1, AFTER + LASTS - 10)),
    )
    return story


def headroom() -> Story:
    """The provider says that five of a hundred requests are left."""
    story = Story()
    story.healthy("default", DEFAULT)
    where = {**USUAL, "gen_ai_request_model": "m", "sidecar_ratelimit_kind": "requests"}
    story.gauge("sidecar_ratelimit_remaining", story.incident(80, 5), **where)
    story.gauge("sidecar_ratelimit_limit", story.incident(100, 100), **where)
    return story


def one_of_three() -> Story:
    """`gamma` answers 503 to everything; the others are well."""
    story = broken()
    story.upstream("gamma", {"completed": story.incident(BETA, 0), "server_error": story.incident(0, BETA)})
    return story


def _made(
    title: str, story: Story, fires: Mapping[str, tuple[int, int]], board: str, panel: int, value: float
) -> Incident:
    return Incident(title, story.series, fires, story.past, (board, panel, value))


INCIDENTS: tuple[Incident, ...] = (
    _made(
        "the provider answers 503 to everything",
        broken(server_error=DEFAULT),
        {"SidecarBadAnswers": (4, 62)},
        "traffic",
        901,
        0.8,
    ),
    _made(
        "the provider answers 429 to 60 %",
        broken(rate_limited=0.6 * DEFAULT),
        {"SidecarRateLimited": (4, 62)},
        "traffic",
        901,
        0.48,
    ),
    _made(
        "the provider answers 429 and 503, more of the one and of the other by turns",
        by_turns(),
        {"SidecarBadAnswers": (4, 62), "SidecarRateLimited": (4, 62)},
        "traffic",
        901,
        0.8,
    ),
    _made(
        "the key is revoked, and the provider answers 401 to everything",
        broken(client_error=DEFAULT),
        {"SidecarClientErrors": (7, 62)},
        "traffic",
        905,
        0.8,
    ),
    _made(
        "one model of three is gone, and the provider answers 404 to a third",
        broken(client_error=DEFAULT / 3),
        {"SidecarClientErrors": (9, 60)},
        "traffic",
        905,
        0.2667,
    ),
    _made(
        "connections are refused",
        broken(upstream_failed=DEFAULT),
        {"SidecarBadAnswers": (4, 62)},
        "traffic",
        901,
        0.8,
    ),
    _made(
        "the provider hangs, and clients wait",
        hanging(leave=False),
        {"SidecarNothingCompletes": (5, 14), "SidecarBadAnswers": (14, 60)},
        "traffic",
        904,
        300,
    ),
    _made(
        "the provider hangs, and clients leave after a minute",
        hanging(leave=True),
        {"SidecarNothingCompletes": (5, 60)},
        "traffic",
        114,
        40,
    ),
    _made(
        "5 % fail for an hour",
        broken(upstream_failed=0.05 * DEFAULT),
        {"SidecarBadAnswersSlow": (51, 73)},
        "traffic",
        901,
        0.04,
    ),
    _made(
        "every second answer is bad, of one request a minute",
        seldom_asked(1),
        {"SidecarBadAnswersSlow": (19, 73)},
        "traffic",
        901,
        0.3333,
    ),
    _made(
        "every second answer is bad, of one request in three minutes",
        seldom_asked(3),
        {"SidecarBadAnswersSlow": (43, 71)},
        "traffic",
        901,
        1,
    ),
    _made(
        "the provider hangs, and one agent tries each minute and leaves",
        seldom_heard(),
        {"SidecarNothingCompletes": (10, 60)},
        "traffic",
        111,
        0.0167,
    ),
    _made(
        "the first word comes after 9.5 s instead of 0.5 s",
        slow(FIRST_CHUNK, "0.64", "10.24", BOUNDS, per_minute=60),
        {"SidecarFirstByteLatency": (3, 68)},
        "traffic",
        903,
        10.088,
    ),
    _made(
        "the first word comes after 12 s instead of 0.5 s",
        slow(FIRST_CHUNK, "0.64", "14.5", BOUNDS, per_minute=60),
        {"SidecarFirstByteLatency": (3, 68)},
        "traffic",
        903,
        14.287,
    ),
    _made(
        "answers that do not stream take 60 s instead of 3 s",
        slow(DURATION, "3.6", "81.92", BOUNDS, per_minute=60, sidecar_streaming="false"),
        {"SidecarSlowAnswers": (3, 68)},
        "traffic",
        120,
        79.872,
    ),
    _made(
        "streams drip: 7 s from one piece to the next instead of 0.05 s",
        dripping("8.192"),
        {"SidecarSlowStreams": (7, 64)},
        "traffic",
        122,
        6.144,
    ),
    _made(
        "one of three upstreams answers 503",
        one_of_three(),
        {"SidecarBadAnswers": (4, 62)},
        "traffic",
        902,
        1,
    ),
    _made("the only sidecar is killed", killed(), {"SidecarGone": (5, 59)}, "innocence", 440, 0),
    _made(
        "a sidecar restarts with requests in flight",
        restarted(),
        {"SidecarRestartedInFlight": (4, 13)},
        "innocence",
        0,
        1,
    ),
    _made("twenty are deployed at once", deployed(scraped=False), {}, "innocence", 0, 1),
    _made(
        "twenty that Prometheus scrapes are deployed at once", deployed(scraped=True), {}, "innocence", 0, 1
    ),
    _made(
        "the sidecar has no room for nine requests of ten",
        full(),
        {"SidecarOverloaded": (2, 63)},
        "traffic",
        111,
        7.2,
    ),
    _made(
        "the Collector is dead",
        collector_dead(),
        {"SidecarGone": (5, 59), "SidecarTelemetryLoss": (61, 68)},
        "innocence",
        440,
        0,
    ),
    _made("the event loop is blocked", blocked(), {"SidecarEventLoopLag": (4, 8)}, "innocence", 403, 0.8151),
    _made(
        "answers come jumbled as never before",
        conversations(0.4, 8),
        {"SidecarOutOfOrderSurge": (20, 79), "SidecarRaceSurge": (21, 78), "SidecarOverlapSurge": (29, 99)},
        "sessions",
        907,
        0.1557,  # of a quarter of an hour, a third of which it has been going on
    ),
    _made(
        "traffic stops naming its sessions",
        nameless(),
        {"SidecarTrafficWithoutSession": (25, 74)},
        "innocence",
        404,
        0,
    ),
    _made(
        "one request hangs among many that complete",
        one_hangs(),
        {"SidecarRequestHung": (6, 9)},
        "traffic",
        904,
        300,
    ),
    _made(
        "the provider says that little is left",
        headroom(),
        {"SidecarHeadroomLow": (1, 59)},
        "traffic",
        165,
        0.05,
    ),
    _made("a healthy day of an agent with parallel tools", conversations(12, 12), {}, "sessions", 907, 0.6),
)
