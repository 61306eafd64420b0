"""Sessions and concurrency: the dashboard that stands in for the deleted queue's monitoring.

Owns its panels: each says which signal of the queue it replaces, what it means, and what to do. General ones stand
on top. Written by `write.py`.
"""

from grafana.names import label, series
from grafana.panels import Json, Panel, Query, dashboard
from sidecar.telemetry import attributes as a
from sidecar.telemetry import names

UID = "sidecar-sessions"

_WHO = 'job=~"$job", instance=~"$instance"'
_WHERE = f'{_WHO}, {label(a.UPSTREAM)}=~"$sidecar_upstream"'
_ACTIVE = series(names.REQUESTS_ACTIVE)
_REQUESTS = series(names.REQUESTS)
_CONCURRENCY = series(names.CONCURRENCY)
_OVERLAPS = series(names.OVERLAPS)
_OUT_OF_ORDER = series(names.OUT_OF_ORDER)
_TURNS = series(names.TURNS)
_WAIT = series(names.WAIT_AVOIDED)
_FINISH = series(names.FINISH_REASONS)


def _per_second(metric: str, by: str = "", where: str = _WHERE) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{where}}}[$__rate_interval]))"


def _in_range(metric: str, where: str = _WHERE) -> str:
    return f"sum(increase({metric}{{{where}}}[$__range]))"


def _share(part: str, whole: str) -> str:
    """A share that is absent where there is nothing to divide by; a part that never happened is 0."""
    return f"(({part}) or 0 * ({whole})) / (({whole}) > 0)"


_OUTCOME = label(a.OUTCOME)

PANELS = (
    Panel(
        1,
        "Most at once in one conversation",
        "Turns in flight in the busiest conversation now. More than 1 is what the queue forbade. If it keeps growing, "
        "an app starts turns without waiting. Replaces: longest queue. Metric: sidecar.conversation.concurrency.max.",
        (Query(f"max({series(names.CONCURRENCY_MAX)}{{{_WHO}}})"),),
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        2,
        "Requests the queue would be holding",
        "Turns in flight that the deleted queue would be making wait. Replaces: total pending requests. "
        "Metric: sidecar.requests.overlapping.",
        (Query(f"sum({series(names.REQUESTS_OVERLAPPING)}{{{_WHO}}})"),),
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        3,
        "Queue wait avoided in the range",
        "How long turns would have waited in all, one at a time. Replaces: average wait time (its sum). "
        "Metric: sidecar.conversation.wait_avoided.",
        (Query(_in_range(f"{_WAIT}_sum", _WHO)),),
        unit="s",
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        4,
        "In-order share in the range",
        "Completed turns that no later turn had overtaken. Below 99 %: look at Races, and whether the app relies on "
        "order. Replaces: sequence accuracy. Metrics: sidecar.responses.out_of_order, sidecar.turns.",
        (Query(f"1 - {_share(_in_range(_OUT_OF_ORDER), _in_range(_TURNS))}"),),
        unit="percentunit",
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        10,
        "Live conversations",
        "Conversations that are alive, and those with a request in flight. Replaces: total queues. "
        "Metrics: sidecar.conversations.active, sidecar.conversations.busy.",
        (
            Query(f"sum({series(names.CONVERSATIONS_ACTIVE)}{{{_WHO}}})", "alive"),
            Query(f"sum({series(names.CONVERSATIONS_BUSY)}{{{_WHO}}})", "with a request in flight"),
        ),
    ),
    Panel(
        11,
        "Outcomes",
        "Settled requests per second by outcome. Much of anything but completed: look at LLM errors by upstream. "
        "Replaces: requests started, completed, failed. Metric: sidecar.requests.",
        (Query(_per_second(_REQUESTS, _OUTCOME), f"{{{{{_OUTCOME}}}}}"),),
        unit="reqps",
    ),
    Panel(
        12,
        "Queue wait avoided",
        "What one turn would have waited: average and p95. Replaces: average wait time. "
        "Metric: sidecar.conversation.wait_avoided.",
        (
            Query(
                _share(_per_second(f"{_WAIT}_sum", "", _WHO), _per_second(f"{_WAIT}_count", "", _WHO)),
                "average",
            ),
            Query(
                f"histogram_quantile(0.95, {_per_second(f'{_WAIT}_bucket', 'le', _WHO)})",
                "p95",
                exemplars=True,
            ),
        ),
        unit="s",
    ),
    Panel(
        13,
        "Most at once in one conversation, over time",
        "The busiest conversation, and how many turns half of the arrivals found in flight, themselves included. "
        "Replaces: longest queue. Metrics: sidecar.conversation.concurrency.max, sidecar.conversation.concurrency.",
        (
            Query(f"max({series(names.CONCURRENCY_MAX)}{{{_WHO}}})", "busiest"),
            Query(
                f"histogram_quantile(0.5, {_per_second(f'{_CONCURRENCY}_bucket', 'le')})", "median arrival"
            ),
        ),
    ),
    Panel(
        14,
        "Races: overlaps and inversions",
        "Turns per second that arrived while another was in flight, and that completed after a later one. "
        "Replaces: race conditions detected. Metrics: sidecar.conversation.overlaps, sidecar.responses.out_of_order.",
        (
            Query(_per_second(_OVERLAPS), "overlaps"),
            Query(_per_second(_OUT_OF_ORDER), "out of order"),
        ),
        unit="ops",
    ),
    Panel(
        15,
        "Would have timed out in the queue",
        "Share of turns whose wait would have been over 30 s, the queue's time-out. Replaces: queue-wait time-out, "
        "forced clean-up, deadlocks. Metric: sidecar.conversation.wait_avoided.",
        (
            Query(
                "clamp_min(1 - "
                + _share(
                    _per_second(f"{_WAIT}_bucket", "", f'{_WHO}, le=~"30|30.0"'),
                    _per_second(f"{_WAIT}_count", "", _WHO),
                )
                + ", 0)",
                "over 30 s",
            ),
        ),
        unit="percentunit",
    ),
    Panel(
        16,
        "Traffic",
        "Requests per second, and those in flight. Replaces: sequence totals. "
        "Metrics: sidecar.requests, sidecar.requests.active.",
        (
            Query(_per_second(_REQUESTS), "settled per second"),
            Query(f"sum({_ACTIVE}{{{_WHERE}}})", "in flight"),
        ),
    ),
    Panel(
        17,
        "Finish-reason coverage",
        "Share of turns' responses that said why they ended. Low: a provider leaves it out, or answers break off. "
        "Replaces: finish-reason coverage. Metric: sidecar.finish_reasons.",
        (
            Query(
                "1 - "
                + _share(
                    _per_second(_FINISH, "", f'{_WHERE}, {label(a.FINISH_REASON)}="missing"'),
                    _per_second(_FINISH),
                ),
                "told",
            ),
        ),
        unit="percentunit",
    ),
    Panel(
        18,
        "Oldest request in flight",
        "How long the oldest has been running. Hours: nothing ends it; look at the admin port's sessions. "
        "Replaces: request time-out. Metric: sidecar.requests.oldest.age.",
        (Query(f"max({series(names.OLDEST_AGE)}{{{_WHO}}})", "age"),),
        unit="s",
    ),
)


def sessions() -> Json:
    """The dashboard."""
    about = "What happens inside conversations now that their requests run at the same time."
    return dashboard(UID, "Sidecar: sessions and concurrency", about, PANELS, of=_REQUESTS)
