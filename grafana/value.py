"""For those who pay: what is used, what it is worth, and whether it holds what was promised.

Owns its panels. They read what the recording rules of `alerts/sidecar-daily.rules.yaml` keep, since a month of
counters is too long to add up at each look. Written by `write.py`.
"""

from functools import partial

from grafana import queries as q
from grafana.names import label
from grafana.panels import Json, Panel, Query, dashboard, laid_out
from grafana.variables import annotations, variables
from sidecar.telemetry import names as n

UID = "sidecar-value"
OBJECTIVE = 0.99
"""Share of the answers that are to come without trouble, over 30 days."""

_DAY = "sidecar:{}:increase1d"
_NOTHING = "no day is recorded in this range"
_THIS, _LAST, _PROBLEM = "the day before this moment", "a week before", "met a problem"
_COLOURS = {_THIS: "blue", _LAST: "#8a8f98", _PROBLEM: "red"}
"""What is past is paler than what is now."""


def _daily(what: str, *, ago: str = "") -> str:
    return f"sum ({_DAY.format(what)}{{{q.JOB}}}{ago})"


def _over(what: str, days: int) -> str:
    """Comparable with another such sum only: each moment's day is in it, so that a service weighs as long as it was there."""
    return f"sum (sum_over_time({_DAY.format(what)}{{{q.JOB}}}[{days}d]))"


_WELL = f"1 - {_over('bad', 30)} / ({_over('answers', 30)} > 0)"

_tile = partial(Panel, kind="stat", width=5, height=5, no_data=_NOTHING)

PANELS: tuple[Panel, ...] = (
    _tile(
        501,
        "Without trouble, 30 days",
        "Of all answers, those that were not bad: failed, timed out, an error in the stream, 5xx, 429. The objective is 99 %: "
        "orange below 99.5 %, red below. Metric: sidecar.results.",
        (Query(_WELL),),
        unit="percentunit",
        decimals=2,
        steps=(("red", 0.0), ("orange", OBJECTIVE), ("green", 0.995)),
    ),
    _tile(
        502,
        "Error budget left, 30 days",
        "Of the one per cent that may be bad, what is left. Orange below half, red when it is used up. Metric: sidecar.results.",
        (Query(f"clamp_min(1 - (1 - ({_WELL})) / {1 - OBJECTIVE:.2g}, 0)"),),
        unit="percentunit",
        decimals=0,
        steps=(("red", 0.0), ("orange", 0.01), ("green", 0.5)),
    ),
    _tile(
        503,
        "Queueing spared, per day",
        "How long turns would have waited for one another in a day. Metric: sidecar.conversation.wait_avoided.",
        (Query(_daily("wait_avoided_seconds")),),
        unit="s",
        decimals=1,
    ),
    _tile(
        504,
        "Sessions, per day",
        "Sessions that began in a day. Metric: sidecar.sessions.",
        (Query(_daily("sessions")),),
        width=4,
        decimals=0,
    ),
    _tile(
        505,
        "Sessions that met a problem",
        "Of a day's sessions, those that met at least one bad answer: failed, timed out, an error in the stream, 5xx, 429. A person "
        "or a run was in each. Metrics: sidecar.sessions.with_bad_answers, sidecar.sessions.",
        (Query(f"{_daily('sessions_with_bad_answers')} / ({_daily('sessions')} > 0)"),),
        unit="percentunit",
        decimals=1,
    ),
    Panel(
        510,
        "Queueing spared, against last week",
        "Each day's, and that of the same day a week before. Metric: sidecar.conversation.wait_avoided.",
        (
            Query(_daily("wait_avoided_seconds"), _THIS),
            Query(_daily("wait_avoided_seconds", ago=" offset 7d"), _LAST),
        ),
        unit="s",
        decimals=1,
        colours=_COLOURS,
        no_data=_NOTHING,
    ),
    Panel(
        511,
        "Sessions, against last week",
        "Each day's, those of the same day a week before, and how many of the day's met a bad answer. "
        "Metrics: sidecar.sessions, sidecar.sessions.with_bad_answers.",
        (
            Query(_daily("sessions"), _THIS),
            Query(_daily("sessions", ago=" offset 7d"), _LAST),
            Query(_daily("sessions_with_bad_answers"), _PROBLEM),
        ),
        colours=_COLOURS,
        no_data=_NOTHING,
    ),
    Panel(
        512,
        "Tokens by model, per day",
        "Input and output as the providers reported them. Metric: gen_ai.client.token.usage.",
        (
            Query(
                f"sum by ({q.MODEL}, {label(n.TOKEN_TYPE)}) ({_DAY.format('tokens')}{{{q.JOB}}})",
                f"{q.named(q.MODEL)}, {q.named(label(n.TOKEN_TYPE))}",
            ),
        ),
        stacked=True,
        height=10,
        no_data="no usage reported, or no day recorded, in this range",
    ),
    Panel(
        513,
        "Input from the cache, by model",
        "Share of a day's input tokens that the provider's cache gave: they cost a fraction. "
        "Metrics: sidecar.tokens.details, gen_ai.client.token.usage.",
        (
            Query(
                f"sum by ({q.MODEL}) ({_DAY.format('tokens_cached')}{{{q.JOB}}}) / "
                f'(sum by ({q.MODEL}) ({_DAY.format("tokens")}{{{q.JOB}, {label(n.TOKEN_TYPE)}="input"}}) > 0)',
                q.named(q.MODEL),
                quiet="only where a provider tells it",
            ),
        ),
        unit="percentunit",
        height=10,
        no_data="no usage reported, or no day recorded, in this range",
    ),
)


def value() -> Json:
    """The dashboard."""
    made = dashboard(
        UID,
        "Sidecar: for those who pay",
        "What is used, what it spares, and whether it holds what was promised.",
        panels=laid_out(PANELS),
        variables=variables(instance=False, upstream=False),
        annotations=annotations(processes=q.JOB, minutes=10),
    )
    return made | {"time": {"from": "now-30d", "to": "now"}, "refresh": "15m"}
