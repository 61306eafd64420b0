"""Health and cost of the sidecar itself: what it adds, what it needs, what it lost, and what it could not see.

Owns its panels, from general to specific. They are about the process, so they know no upstream and no model.
Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label
from grafana.panels import Json, Panel, Query, Row, dashboard, laid_out
from grafana.variables import annotations, variables
from sidecar.core import facts
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n

UID = "sidecar-innocence"

_PART = label(n.OVERHEAD_PART)
_STATE = label(n.TELEMETRY_STATE)
_SIGNAL = label(n.TELEMETRY_SIGNAL)
_SOURCE = label(n.SESSION_SOURCE)
_WORD = label(n.ANOMALY)
LOST = f'{_STATE}=~"{"|".join(facts.LOST)}"'
_TURNS = f'{_SOURCE}!="no_turn"'
_UNNAMED = f'{_SOURCE}=~"generated|uninspected"'
_NO_REPORT = "no sidecar reported in this range"
_NO_EXPORT = "nothing was exported in this range"
_HTTP = q.rate(metrics.HTTP_DURATION, "", "_count")

PANELS: tuple[Panel | Row, ...] = q.widened(
    (
        Row(405, "Overview"),
        Panel(
            401,
            "Added to a request, mean",
            "What the sidecar itself added, on average, over all pieces of a stream: before the upstream and after it, waiting for "
            "the event loop included. Beside Share of the requests' time it means something. "
            "Metric: sidecar.overhead.",
            (
                Query(
                    q.share(
                        q.rate(metrics.OVERHEAD, "", "_sum"),
                        q.rate(metrics.OVERHEAD, "", "_count", where=f'{_PART}="before"'),
                    )
                ),
            ),
            unit="s",
            kind="stat",
            width=8,
            height=4,
            steps=(("orange", 0.05), ("red", 0.2)),
        ),
        Panel(
            403,
            "Event-loop lag, p99",
            "How late the event loop runs. Over 50 ms: the machine is too busy, and every stream feels it. "
            "Metric: sidecar.event_loop.lag.",
            (Query(q.quantile(0.99, metrics.LOOP_LAG)),),
            unit="s",
            kind="stat",
            width=8,
            height=4,
            steps=(("orange", 0.05), ("red", 0.2)),
            no_data=_NO_REPORT,
        ),
        Panel(
            404,
            "Traffic whose session is known",
            "Share of turns whose session somebody named, or that joined one by their history. What is not known passes as well, but "
            "nothing is known of its conversation. Metric: sidecar.identity.",
            (
                Query(
                    f"1 - ({q.share(q.rate(metrics.IDENTITY, where=_UNNAMED), q.rate(metrics.IDENTITY, where=_TURNS))})"
                ),
            ),
            unit="percentunit",
            kind="stat",
            width=8,
            height=4,
        ),
        Row(406, "What it adds"),
        Panel(
            410,
            "Overhead by part",
            "p99 of before (from the last byte needed to asking for a connection), after (from reading to writing) and loop "
            "(waiting for the event loop). Metric: sidecar.overhead.",
            (Query(q.quantile(0.99, metrics.OVERHEAD, _PART), q.named(_PART), exemplars=True),),
            unit="s",
        ),
        Panel(
            411,
            "Share of the requests' time",
            "What the sidecar added, of all the time that requests took. "
            "Metrics: sidecar.overhead, http.server.request.duration.",
            (
                Query(
                    q.share(q.rate(metrics.OVERHEAD, "", "_sum"), q.rate(metrics.HTTP_DURATION, "", "_sum")),
                    "share",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            412,
            "Event-loop lag",
            "How late timers run, at p99 and by pod. Metric: sidecar.event_loop.lag.",
            (Query(q.by_pod(q.quantile(0.99, metrics.LOOP_LAG, q.POD)), "{{pod}}"),),
            unit="s",
            no_data=_NO_REPORT,
        ),
        Panel(
            413,
            "CPU of a request",
            "CPU time of the process by requests settled; idle time is in it too. "
            "Metrics: process.cpu.time, http.server.request.duration (its count).",
            (Query(q.share(q.rate(metrics.PROCESS_CPU), _HTTP), "per request"),),
            unit="s",
        ),
        Row(407, "What it needs"),
        Panel(
            440,
            "Sidecars that report",
            "How many processes of each service are heard from, a minute and a half after the last export of one that is gone. 0 is "
            "a gap: the service has none, or its metrics have lost their way. Metric: process.thread.count.",
            (Query(f"count by (job) ({q.fresh(metrics.PROCESS_THREADS)})", "{{job}}"),),
            width=24,
            height=6,
            no_data=_NO_REPORT,
        ),
        Panel(
            414,
            "CPU",
            "Cores used, by pod. Near 1: the sidecar's one event loop is full. Metric: process.cpu.time.",
            (Query(q.by_pod(q.rate(metrics.PROCESS_CPU, q.POD)), "{{pod}}"),),
            width=8,
            no_data=_NO_REPORT,
        ),
        Panel(
            415,
            "Memory",
            "Resident, by pod. It follows what is in flight; if it only grows, tell us. Metric: process.memory.usage.",
            (Query(q.by_pod(q.now(metrics.PROCESS_MEMORY, q.POD)), "{{pod}}"),),
            unit="bytes",
            width=8,
            no_data=_NO_REPORT,
        ),
        Panel(
            416,
            "Files and threads",
            "Open files and sockets, and threads. Files near the limit: new connections fail. "
            "Metrics: process.unix.file_descriptor.count, process.thread.count.",
            (
                Query(q.now(metrics.PROCESS_FILES), "files and sockets"),
                Query(q.now(metrics.PROCESS_THREADS), "threads"),
            ),
            width=8,
            no_data=_NO_REPORT,
        ),
        Row(408, "What became of telemetry"),
        Panel(
            420,
            "The loss ledger",
            "Items per second by what became of them. dropped: the queue was full; failed: the collector refused or was away, or "
            "stderr could not be written; unknown: no answer in time; unconfirmed: what answered is not a collector; "
            "rejected: it took the batch and not the item. Metric: sidecar.telemetry.items.",
            (Query(q.rate(metrics.TELEMETRY_ITEMS, _STATE), q.named(_STATE)),),
            unit="cps",
            no_data=_NO_EXPORT,
            colours=q.STATES,
        ),
        Panel(
            422,
            "Waiting to be exported",
            "Items in the queues, by signal. Full (OTEL_BSP_MAX_QUEUE_SIZE) means that more are dropped. "
            "Metric: sidecar.telemetry.queue.",
            (Query(q.now(metrics.TELEMETRY_QUEUE, _SIGNAL), q.named(_SIGNAL)),),
            no_data=_NO_EXPORT,
        ),
        Row(409, "What it could see"),
        Panel(
            430,
            "Who named the sessions",
            "Arrivals per second, by the rule that found their session. generated: nobody named one; history: the turn's past did; "
            "uninspected: the body could not be read; no_turn: requests that generate nothing. Metric: sidecar.identity.",
            (Query(q.happening(q.rate(metrics.IDENTITY, _SOURCE)), q.named(_SOURCE)),),
            unit="reqps",
            stacked=True,
            width=24,
        ),
        Row(419, "Nothing wrong here", collapsed=True),
        Panel(
            402,
            "Telemetry lost in the range",
            "Spans, data points, log records and lines on stderr that did not arrive, or of which nobody knows. Not 0: see The loss "
            "ledger. "
            "Requests are never touched by it. Metric: sidecar.telemetry.items.",
            (
                Query(
                    q.at_least_zero(
                        q.grown(metrics.TELEMETRY_ITEMS, where=LOST), q.grown(metrics.TELEMETRY_ITEMS)
                    )
                ),
            ),
            kind="stat",
            width=24,
            height=4,
            decimals=0,
            steps=(("red", 1),),
            no_data=_NO_EXPORT,
        ),
        Panel(
            421,
            "Lost in the range, by signal and reason",
            "Whose items did not arrive, and why. Metric: sidecar.telemetry.items.",
            (
                Query(
                    f"{q.grown(metrics.TELEMETRY_ITEMS, f'{_SIGNAL}, {_STATE}', where=LOST)} > 0",
                    f"{q.named(_SIGNAL)}, {q.named(_STATE)}",
                    quiet="nothing was lost",
                ),
            ),
            kind="bargauge",
            no_data="nothing was lost, or nothing exported",
            decimals=0,
        ),
        Panel(
            431,
            "What should not happen",
            "Per minute, by kind: caps that were reached, bodies that could not be read, ids that were not valid. "
            "Metric: sidecar.anomalies.",
            (
                Query(
                    q.happening(f"60 * {q.rate(metrics.ANOMALIES, _WORD)}"),
                    q.named(_WORD),
                    quiet="nothing of this happened",
                ),
            ),
            no_data="nothing of this happened, or there was no traffic",
        ),
    ),
    q.WHERE,
    q.WHO,
)


def innocence() -> Json:
    """The dashboard."""
    about = "What the sidecar itself costs, loses and misses."
    return dashboard(
        UID,
        "Sidecar: health and cost",
        about,
        panels=laid_out(PANELS),
        variables=variables(upstream=False),
        annotations=annotations(),
    )
