"""For those who pay: what is used, what it is worth, and whether it holds what was promised.

Owns its panels. They read what the recording rules of `alerts/sidecar-daily.rules.yaml` keep, since a month of
counters is too long to add up at each look. Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label
from grafana.panels import Json, Panel, Query, dashboard, laid_out
from grafana.variables import variables
from sidecar.telemetry import names as n

UID = "sidecar-value"
OBJECTIVE = 0.99
"""Share of the answers that are to come without trouble, over 30 days."""

_DAY = "sidecar:{}:increase1d"
_NOTHING = "no day is recorded in this range"


def _daily(what: str, *, ago: str = "") -> str:
    return f"sum ({_DAY.format(what)}{{{q.JOB}}}{ago})"


def _over(what: str, days: int) -> str:
    return f"sum (avg_over_time({_DAY.format(what)}{{{q.JOB}}}[{days}d]))"


_WELL = f"1 - {_over('bad', 30)} / ({_over('answers', 30)} > 0)"

PANELS: tuple[Panel, ...] = (
    Panel(
        501,
        "Answered without trouble, 30 days",
        "Of all answers, those that were not bad: failed, timed out, an error in the stream, 5xx, 429. The objective is 99 %: "
        "orange below 99.5 %, red below. Metric: sidecar.results.",
        (Query(_WELL),),
        unit="percentunit",
        kind="stat",
        width=6,
        height=5,
        decimals=2,
        steps=(("red", 0.0), ("orange", OBJECTIVE), ("green", 0.995)),
        no_data=_NOTHING,
    ),
    Panel(
        502,
        "Error budget left, 30 days",
        "Of the one per cent that may be bad, what is left. Orange below half, red when it is used up. Metric: sidecar.results.",
        (Query(f"clamp_min(1 - (1 - ({_WELL})) / {1 - OBJECTIVE:.2g}, 0)"),),
        unit="percentunit",
        kind="stat",
        width=6,
        height=5,
        decimals=0,
        steps=(("red", 0.0), ("orange", 0.01), ("green", 0.5)),
        no_data=_NOTHING,
    ),
    Panel(
        503,
        "Queueing spared, per day",
        "How long turns would have waited for one another in a day. Metric: sidecar.conversation.wait_avoided.",
        (Query(_daily("wait_avoided_seconds")),),
        unit="s",
        kind="stat",
        width=6,
        height=5,
        decimals=1,
        no_data=_NOTHING,
    ),
    Panel(
        504,
        "Sessions, per day",
        "Sessions that began in a day. Metric: sidecar.sessions.",
        (Query(_daily("sessions")),),
        kind="stat",
        width=6,
        height=5,
        decimals=0,
        no_data=_NOTHING,
    ),
    Panel(
        510,
        "Queueing spared, against last week",
        "Each day's, and that of the same day a week before. Metric: sidecar.conversation.wait_avoided.",
        (
            Query(_daily("wait_avoided_seconds"), "the day before this moment"),
            Query(_daily("wait_avoided_seconds", ago=" offset 7d"), "a week before"),
        ),
        unit="s",
        no_data=_NOTHING,
    ),
    Panel(
        511,
        "Sessions, against last week",
        "Each day's, and those of the same day a week before. Metric: sidecar.sessions.",
        (
            Query(_daily("sessions"), "the day before this moment"),
            Query(_daily("sessions", ago=" offset 7d"), "a week before"),
        ),
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
    )
    return made | {"time": {"from": "now-30d", "to": "now"}, "refresh": "15m"}
