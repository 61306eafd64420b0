"""Sessions and concurrency: the dashboard that stands in for the deleted queue's monitoring.

Owns its panels: each says what it means, and what to do; docs/dashboards.md says which signal of the
queue it stands in for. General ones stand on top. Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label
from grafana.overview import start
from grafana.panels import Json, Panel, Query, Row, dashboard, laid_out
from grafana.variables import annotations, variables
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n

UID = "sidecar-sessions"
NO_SESSIONS = "no named session in this range"
NO_TURNS = "no turn of a named session in this range"

_RELATION = label(n.TURN_RELATION)
_SOURCE = label(n.SESSION_SOURCE)
_TURNS = q.rate(metrics.CONCURRENCY, "", "_count")
_WAITED = q.rate(metrics.WAIT_AVOIDED, "", "_count")


def _found_by(rules: str) -> str:
    """Share of turns whose session was found by these rules."""
    turns = q.rate(metrics.IDENTITY, where=f'{_SOURCE}!="no_turn"')
    return q.share(q.rate(metrics.IDENTITY, where=f"{_SOURCE}{rules}"), turns)


def _waited_over(seconds: int) -> str:
    """Share of turns whose wait would have been longer."""
    below = q.rate(metrics.WAIT_AVOIDED, "", "_bucket", where=f'le=~"{seconds}|{seconds}.0"')
    return f"clamp_min(1 - {q.share(below, _WAITED)}, 0)"


PANELS: tuple[Panel | Row, ...] = q.widened(
    (
        *start(UID),
        Row(6, "Conversations"),
        Panel(
            10,
            "Live sessions and conversations",
            "Those that are alive, and conversations with a request in flight. Alive and never busy: sessions are opened and "
            "left. Metrics: sidecar.sessions.active, sidecar.conversations.active, sidecar.conversations.busy.",
            (
                Query(q.now(metrics.SESSIONS_ACTIVE), "sessions"),
                Query(q.now(metrics.CONVERSATIONS_ACTIVE), "conversations"),
                Query(q.now(metrics.CONVERSATIONS_BUSY), "with a request in flight"),
            ),
        ),
        Panel(
            13,
            "Most at once in one conversation, over time",
            "The busiest conversation, and how many turns half and nearly all arrivals found in flight, themselves included. "
            "Metrics: sidecar.conversation.concurrency.max, sidecar.conversation.concurrency.",
            (
                Query(q.now(metrics.CONCURRENCY_MAX, how="max"), "busiest"),
                Query(q.quantile(0.5, metrics.CONCURRENCY), "median arrival", exemplars=True),
                Query(q.quantile(0.95, metrics.CONCURRENCY), "p95 arrival"),
            ),
            no_data=NO_SESSIONS,
        ),
        Panel(
            14,
            "Races: overlaps and inversions",
            "Turns per second that arrived while another was in flight, and that completed after a later one. Inversions in an "
            "app that shows answers in order: it must sort them itself now. "
            "Metrics: sidecar.conversation.overlaps, sidecar.responses.out_of_order.",
            (
                Query(q.at_least_zero(q.rate(metrics.OVERLAPS), _TURNS), "overlaps"),
                Query(q.at_least_zero(q.rate(metrics.OUT_OF_ORDER), _TURNS), "out of order"),
            ),
            unit="ops",
            no_data=NO_TURNS,
        ),
        Panel(
            19,
            "Overlap share by upstream",
            "Of the turns that arrived, those that met another in flight. A jump: an app has begun to run turns at once, or "
            "repeats them. Metrics: sidecar.conversation.overlaps, "
            "sidecar.conversation.concurrency.",
            (
                Query(
                    q.share(
                        q.rate(metrics.OVERLAPS, q.UPSTREAM),
                        q.rate(metrics.CONCURRENCY, q.UPSTREAM, "_count"),
                    ),
                    q.named(q.UPSTREAM),
                ),
            ),
            unit="percentunit",
            no_data=NO_TURNS,
        ),
        Panel(
            29,
            "What turns are to their past",
            "Turns per second by what their history shows them to be. Overlaps do harm only where turns race: they continue the "
            "same point of a conversation, one sent while the other was in flight. Many races: the app sends before it has the "
            "answer; each has a link to the other on its span. "
            "Metric: sidecar.turns.related.",
            (Query(q.happening(q.rate(metrics.TURNS_RELATED, _RELATION)), q.named(_RELATION)),),
            unit="ops",
            stacked=True,
            no_data="no turn in this range, or SIDECAR_HISTORY=off",
        ),
        Panel(
            30,
            "Races and orphaned answers",
            "The overlaps that did harm: turns per second that raced another one, and answers that no later turn has "
            "although their conversation went on (known when that ends). Overlaps without races do none. "
            "Metrics: sidecar.turns.related, sidecar.answers.orphaned.",
            (
                Query(
                    q.at_least_zero(q.rate(metrics.TURNS_RELATED, where=f'{_RELATION}="races"'), _TURNS),
                    "races",
                ),
                Query(q.at_least_zero(q.rate(metrics.ORPHANED), _TURNS), "orphaned answers"),
            ),
            unit="ops",
            no_data=NO_TURNS,
        ),
        Panel(
            32,
            "Overlaps that raced",
            "Of the turns that arrived while another was in flight, those that raced one: the others did no harm. Rising: the app "
            "sends before it has the answer. Of all upstreams, whatever is chosen. Metrics: sidecar.turns.related, sidecar.conversation.overlaps.",
            (
                Query(
                    q.share(
                        q.rate(metrics.TURNS_RELATED, where=f'{_RELATION}="races"'),
                        q.rate(metrics.OVERLAPS).replace(q.WHERE, q.WHO),
                    ),
                    "raced",
                ),
            ),
            unit="percentunit",
            no_data="no overlap in this range, or SIDECAR_HISTORY=off",
        ),
        Panel(
            31,
            "Turns whose session is known",
            "Share of turns whose session somebody named, and on top of it of those that joined one by an answer in their history. "
            "Much of the latter: the app names none. Little of both: single calls, or histories that are made anew each time. "
            "Metric: sidecar.identity.",
            (
                Query(_found_by('!~"history|response_chain|generated|uninspected|no_turn"'), "named"),
                Query(_found_by('=~"history|response_chain"'), "joined by their history"),
            ),
            stacked=True,
            unit="percentunit",
            no_data="no turn in this range",
        ),
        Panel(
            20,
            "How far turns were overtaken",
            "Of the turns out of order: how many later ones had completed before, at the median and at p95. "
            "Metric: sidecar.responses.out_of_order.distance.",
            (
                Query(
                    q.quantile(0.5, metrics.DISTANCE),
                    "median",
                    quiet="only what is out of order has a distance",
                ),
                Query(q.quantile(0.95, metrics.DISTANCE), "p95", exemplars=True, quiet="likewise"),
            ),
            no_data="no turn out of order, or none at all, in this range",
        ),
        Panel(
            21,
            "Think time",
            "From a conversation's last ending to its next arrival, when nothing was in flight: people reading, or tools at "
            "work. Metric: sidecar.conversation.think_time.",
            (
                Query(
                    q.quantile(0.5, metrics.THINK_TIME), "median", quiet="needs a second turn after a pause"
                ),
                Query(q.quantile(0.95, metrics.THINK_TIME), "p95", exemplars=True, quiet="likewise"),
            ),
            unit="s",
            no_data="no second turn in this range",
        ),
        Row(7, "The wait that did not happen"),
        Panel(
            2,
            "Requests the queue would be holding",
            "Turns in flight that the deleted queue would be making wait. Many for long: look at Queue wait avoided; the app "
            "gains that much by running at once. Metric: sidecar.requests.overlapping.",
            (Query(q.now(metrics.REQUESTS_OVERLAPPING), "held"),),
        ),
        Panel(
            12,
            "Queue wait avoided",
            "What one turn would have waited: average and p95. Metric: sidecar.conversation.wait_avoided.",
            (
                Query(q.mean(metrics.WAIT_AVOIDED), "average"),
                Query(q.quantile(0.95, metrics.WAIT_AVOIDED), "p95", exemplars=True),
            ),
            unit="s",
            no_data=NO_TURNS,
        ),
        Row(9, "Sessions"),
        Panel(
            23,
            "Sessions started",
            "New ones per minute. Many more than the app has users or runs: it names each request a session of its own. "
            "A session meets a bad answer once, at its first. Metrics: sidecar.sessions, sidecar.sessions.with_bad_answers.",
            (
                Query(f"60 * {q.rate(metrics.SESSIONS)}", "per minute"),
                Query(f"60 * {q.rate(metrics.SESSIONS_BAD)}", "met a bad answer, per minute"),
            ),
            width=8,
            colours={"met a bad answer, per minute": "red"},
        ),
        Panel(
            24,
            "Length of sessions",
            "From the first arrival to the last ending, of sessions that ended. Metric: sidecar.session.duration.",
            (
                Query(q.quantile(0.5, metrics.SESSION_DURATION), "median", quiet="told when a session ends"),
                Query(q.quantile(0.95, metrics.SESSION_DURATION), "p95", quiet="likewise"),
            ),
            unit="s",
            width=8,
            no_data="no session ended in this range",
        ),
        Panel(
            25,
            "Requests of a session",
            "How many requests sessions had that ended. One each: the app names every request a session of its own. "
            "Metric: sidecar.session.requests.",
            (
                Query(q.quantile(0.5, metrics.SESSION_REQUESTS), "median", quiet="told when a session ends"),
                Query(q.quantile(0.95, metrics.SESSION_REQUESTS), "p95", quiet="likewise"),
            ),
            width=8,
            no_data="no session ended in this range",
        ),
        Row(5, "Nothing wrong here", collapsed=True),
        Panel(
            15,
            "Would have timed out in the queue",
            "Share of turns whose wait would have been over 30 s, the queue's time-out, and over 60 s, the request's. "
            "Metric: sidecar.conversation.wait_avoided.",
            (Query(_waited_over(30), "over 30 s"), Query(_waited_over(60), "over 60 s")),
            unit="percentunit",
            no_data=NO_TURNS,
        ),
        Panel(
            22,
            "Waits left open",
            "Turns whose wait could not be known: a cap was reached, or the sidecar stopped first. More than a few: the figures "
            "above are too low. Metric: sidecar.conversation.wait_unknown.",
            (Query(q.at_least_zero(q.rate(metrics.WAIT_UNKNOWN), _WAITED), "unknown"),),
            unit="ops",
            no_data=NO_TURNS,
        ),
    ),
    q.WHICH,
    q.WHERE,
)


def sessions() -> Json:
    """The dashboard."""
    about = "What happens inside conversations now that their requests run at the same time."
    title = "Sidecar: sessions and concurrency"
    return dashboard(
        UID, title, about, panels=laid_out(PANELS), variables=variables(), annotations=annotations()
    )
