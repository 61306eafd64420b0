"""Panels that show trouble, asked of the real Prometheus over a time with known trouble: each has exactly that.

The scenario is played once, so that every counter exists, and then twice more within the window that is asked about. A
`rate` times the window is what happened in it, but for Prometheus' extrapolation to the window's edges: that is the
same factor for all series, which are exported together, and known from the requests in all. Divided by it, figures are
whole numbers to a few hundredths. Shares need no factor.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from grafana import innocence, queries, sessions, streams, traffic
from grafana.names import series
from grafana.panels import Panel
from sidecar.core.facts import Anomaly
from sidecar.telemetry import metrics
from tests.stack.backends import Stack
from tests.stack.programs import eventually
from tests.stack.scenario import MODEL, Scenario
from tests.stack.scenario_known import ERRORS, FINISHES, KNOWN, SOURCES

SERVICE = "stack-trouble"
ROUNDS = 2
QUIET = 4
"""Seconds before and after the window's rounds in which nothing happens, and some exports come."""
SETTLED = KNOWN[0].per_round
"""Requests of a round."""


@dataclass(frozen=True, slots=True)
class Window:
    """When the known trouble happened: `end` in seconds since the epoch, and how long before that it began.

    `stretched`: by how much Prometheus says that more happened than did.
    """

    end: float
    seconds: int
    stretched: float


@pytest.fixture(scope="module")
def window(stack: Stack) -> Iterator[Window]:
    """A round that makes every counter, then two within the window."""
    total = f'sidecar_requests_total{{job="{SERVICE}"}}'

    def settle(requests: int) -> float:
        """Waits until all of them have arrived, and for some exports more; gives the time."""
        eventually(lambda: stack.prometheus.number(f"sum({total})") == requests)
        arrived = time.time()
        eventually(lambda: time.time() > arrived + QUIET)
        return time.time()

    with Scenario(stack.environ(SERVICE)) as playing:
        playing.play()
        playing.wait_sessions_ended()
        begin = settle(SETTLED) - QUIET
        playing.play(rounds=ROUNDS)
        playing.wait_sessions_ended()
        end = settle(SETTLED * (1 + ROUNDS))
        seconds = round(end - begin)
        grown = stack.prometheus.query(f"sum(increase({total}[{seconds}s]))", at=end)
        yield Window(end, seconds, float(grown[0]["value"][1]) / (SETTLED * ROUNDS))


COUNTS = "counts"
"""A rate, shown as how often in the window."""
SHARE = "a share"
NUMBER = "a number"

Expected = Mapping[str, float]

RESULTS = {
    "client_left, default": 2,
    "rate_limited, default": 1,
    "server_error, default": 1,
    "upstream_failed, default": 1,
    "upstream_failed, dead": 1,
    "error_in_stream, default": 1,
    "timed_out, default": 3,
    "refused, default": 2,
}
"""As `OUTCOMES`, with a word of its own for each kind of rejection, and the upstream."""
BAD = 8
TURNS, COMPLETED_TURNS, OVERLAPS, INVERSIONS = 24, 15, 2, 2
NAMED = SOURCES["own_header"] / (SOURCES["own_header"] + SOURCES["generated"])

TROUBLE: dict[tuple[str, int], tuple[str, list[Expected]]] = {
    (sessions.UID, 14): (COUNTS, [{"": OVERLAPS}, {"": INVERSIONS}]),
    (sessions.UID, 30): (COUNTS, [{"": 0}, {"": 0}]),
    (sessions.UID, 31): (SHARE, [{"": NAMED}, {"": 0}]),
    (sessions.UID, 32): (SHARE, [{"": 0}]),
    (sessions.UID, 23): (COUNTS, [{"": 60 * 13}, {"": 60 * 4}]),
    (sessions.UID, 19): (SHARE, [{"default": OVERLAPS / (TURNS - 1), "dead": 0}]),
    (sessions.UID, 15): (SHARE, [{"": 0}, {"": 0}]),
    (sessions.UID, 22): (COUNTS, [{"": 0}]),
    (traffic.UID, 111): (COUNTS, [RESULTS]),
    (traffic.UID, 150): (SHARE, [{"default": 7 / 30, "dead": 1}]),
    (traffic.UID, 151): (SHARE, [{MODEL: 7 / 26}, {MODEL: 0}]),
    (traffic.UID, 112): (NUMBER, [dict.fromkeys(ERRORS, ROUNDS)]),
    (traffic.UID, 113): (COUNTS, [{"": 1}]),
    (traffic.UID, 115): (COUNTS, [{f"{word}, default": often for word, often in FINISHES.items()}]),
    (streams.UID, 202): (NUMBER, [{"": 2 * ROUNDS}]),
    (streams.UID, 203): (SHARE, [{"": 1 / 9}]),
    (streams.UID, 212): (COUNTS, [{"default": 2 * 60}]),
    (streams.UID, 214): (COUNTS, [{"before_headers": 1, "mid_stream": 1}]),
    (streams.UID, 215): (COUNTS, [{"upstream_failed": 1, "error_in_stream": 1, "timed_out": 1}]),
    (innocence.UID, 402): (NUMBER, [{"": 0}]),
    (innocence.UID, 404): (SHARE, [{"": NAMED}]),
    (innocence.UID, 421): (NUMBER, [{}]),
    (innocence.UID, 430): (COUNTS, [{**SOURCES}]),
    (innocence.UID, 431): (
        COUNTS,
        [{anomaly.value: 60 for anomaly in (Anomaly.ID_HASHED, Anomaly.BODY_INVALID)}],
    ),
}
for _way_in in (sessions.UID, traffic.UID, streams.UID):
    TROUBLE[_way_in, 901] = (SHARE, [{"": BAD / SETTLED}])
    TROUBLE[_way_in, 902] = (SHARE, [{"dead": 1}])
    TROUBLE[_way_in, 905] = (SHARE, [{"": 0}])
    TROUBLE[_way_in, 907] = (SHARE, [{"": INVERSIONS / COMPLETED_TURNS}])
"""By dashboard and panel: what is asked, and of each query the figures of one round (numbers: of the window) by label."""

SHOWS_TROUBLE = (
    metrics.OVERLAPS,
    metrics.OUT_OF_ORDER,
    metrics.STREAM_STALLS,
    metrics.RETRIES,
    metrics.ANOMALIES,
    metrics.WAIT_UNKNOWN,
    metrics.FINISH_REASONS,
    metrics.SESSIONS_BAD,
)
ELSEWHERE = {
    (way_in, 910): "its columns are figures of other panels, or counts of one word"
    for way_in in (sessions.UID, traffic.UID, streams.UID)
}


def boards() -> Iterator[tuple[str, Panel]]:
    """Every panel of metrics with its dashboard's uid."""
    for board in (sessions, traffic, streams, innocence):
        for part in board.PANELS:
            if isinstance(part, Panel):
                yield board.UID, part


def test_every_panel_that_shows_trouble_is_here() -> None:
    """A new one has to be given its known figures, or a reason why not."""
    for uid, panel in boards():
        text = " ".join(query.expression for query in panel.queries)
        shows = any(f"{series(metric)}{{" in text for metric in SHOWS_TROUBLE)
        shows |= any(f"{word}{sign}" in text for word in (queries.OUTCOME, queries.RESULT) for sign in "=!")
        shows |= "sidecar_telemetry_state=" in text
        if shows:
            assert (uid, panel.number) in {*TROUBLE, *ELSEWHERE}, f"{uid}: {panel.title}"


CASES = [(panel, *TROUBLE[uid, panel.number]) for uid, panel in boards() if (uid, panel.number) in TROUBLE]


@pytest.mark.parametrize("panel,kind,expected", CASES, ids=[panel.title for panel, *_ in CASES])
def test_a_panel_shows_the_known_trouble(
    stack: Stack, window: Window, panel: Panel, kind: str, expected: list[Expected]
) -> None:
    """Each query, with the panel's own expression over the window."""
    for query, wanted in zip(panel.queries, expected, strict=True):
        found = _asked(stack, window, query.expression)
        assert bool(found) == bool(wanted)
        if kind is SHARE:
            assert found == pytest.approx(wanted, abs=1e-6)
            continue
        times, rounds = (window.seconds, ROUNDS) if kind is COUNTS else (1, 1)
        counted = {key: value * times / window.stretched for key, value in found.items()}
        happened = {key: value * rounds for key, value in wanted.items() if value}
        assert {key: value for key, value in counted.items() if value} == pytest.approx(happened, abs=0.2)


def _asked(stack: Stack, window: Window, expression: str) -> Expected:
    expression = expression.replace("${job:regex}", SERVICE)
    for variable in ("instance", "sidecar_upstream", "gen_ai_request_model"):
        expression = expression.replace(f"${{{variable}:regex}}", ".*")
    for variable in ("$__rate_interval", "$__range"):
        expression = expression.replace(variable, f"{window.seconds}s")
    return {
        ", ".join(one["metric"].values()): float(one["value"][1])
        for one in stack.prometheus.query(expression, at=window.end)
    }
