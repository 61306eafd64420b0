"""Streams: how answers flow, where they stop, and who leaves.

Owns its panels, from general to specific. Written by `write.py`.
"""

from grafana import queries as q
from grafana.names import label
from grafana.overview import start
from grafana.panels import Json, Panel, Query, Row, dashboard, laid_out
from grafana.variables import annotations, variables
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n

UID = "sidecar-streams"
NO_STREAM = "no stream in this range"

_STREAMS = q.rate(metrics.BACKPRESSURE, "", "_count")
"""Streams that ended, per second: each is recorded there once."""
_LEFT = f'{q.OUTCOME}="client_left"'
_PHASE = label(n.PHASE)
_STREAMED = f'{label(n.STREAMING)}="true"'

PANELS: tuple[Panel | Row, ...] = q.widened(
    (
        *start(UID),
        Row(205, "Streams"),
        Panel(
            201,
            "Open streams",
            "Answers that are streaming now. Metric: sidecar.streams.active.",
            (Query(q.at_least_zero(q.now(metrics.STREAMS_ACTIVE), q.now(metrics.REQUESTS_ACTIVE))),),
            kind="stat",
            width=12,
            height=4,
        ),
        Panel(
            203,
            "Streams that clients left",
            "Share of the streams that ended: apps that went away in the middle of an answer; people who stopped reading, or an "
            "app's own time-out. Metrics: sidecar.requests, sidecar.stream.backpressure (its count is that of the streams).",
            (
                Query(
                    q.share(
                        q.grown(metrics.REQUESTS, where=f'{_LEFT}, {_STREAMED}, {_PHASE}="mid_stream"'),
                        q.grown(metrics.BACKPRESSURE, "", "_count"),
                    )
                ),
            ),
            unit="percentunit",
            kind="stat",
            width=12,
            height=4,
            decimals=1,
        ),
        Row(206, "Flow"),
        Panel(
            211,
            "Longest silence of a stream",
            "Median, p95 and p99 of each stream's longest silence, from the first byte on. Near the app's own time-out: its users "
            "see broken answers. Metric: sidecar.stream.gap.",
            (
                Query(q.quantile(0.5, metrics.STREAM_GAP), "p50", exemplars=True),
                Query(q.quantile(0.95, metrics.STREAM_GAP), "p95"),
                Query(q.quantile(0.99, metrics.STREAM_GAP), "p99"),
            ),
            unit="s",
            no_data=NO_STREAM,
        ),
        Panel(
            213,
            "Back-pressure: how long clients block",
            "How long a slow client kept a stream waiting, at p95 and p99. Seconds: the app reads too slowly, or its page is "
            "hidden. Metric: sidecar.stream.backpressure.",
            (
                Query(q.quantile(0.95, metrics.BACKPRESSURE), "p95", exemplars=True),
                Query(q.quantile(0.99, metrics.BACKPRESSURE), "p99"),
            ),
            unit="s",
            no_data=NO_STREAM,
        ),
        Row(207, "Endings"),
        Panel(
            214,
            "Client departures by phase",
            "Per second. before_headers: nobody waited for the first byte; mid_stream: the answer was being read. "
            "Metric: sidecar.requests.",
            (Query(q.rate(metrics.REQUESTS, _PHASE, where=_LEFT), q.named(_PHASE), quiet="nobody left"),),
            unit="reqps",
            stacked=True,
            width=24,
            no_data="no client left, or none came, in this range",
        ),
        Row(208, "Volume"),
        Panel(
            216,
            "Events per second",
            "Events of streams that ended, by upstream. Metric: sidecar.stream.events.",
            (Query(q.rate(metrics.STREAM_EVENTS, q.UPSTREAM), q.named(q.UPSTREAM)),),
            unit="cps",
            width=8,
            no_data=NO_STREAM,
        ),
        Panel(
            217,
            "Bytes per second",
            "Bytes of streams that ended, by upstream. Metric: sidecar.stream.bytes.",
            (Query(q.rate(metrics.STREAM_BYTES, q.UPSTREAM), q.named(q.UPSTREAM)),),
            unit="Bps",
            width=8,
            no_data=NO_STREAM,
        ),
        Panel(
            218,
            "Events of a stream",
            "On average. One: a provider sends answers whole though a stream was asked for. Metrics: sidecar.stream.events, "
            "sidecar.stream.backpressure (its count is that of the streams).",
            (Query(q.share(q.rate(metrics.STREAM_EVENTS), _STREAMS), "events"),),
            width=8,
            no_data=NO_STREAM,
        ),
        Row(209, "Nothing wrong here", collapsed=True),
        Panel(
            212,
            "Stalls per minute",
            "By upstream. A surge on one alone is its provider's; on all: look at Event-loop lag. "
            "Metric: sidecar.stream.stalls.",
            (
                Query(
                    "60 * ("
                    + q.at_least_zero(
                        q.rate(metrics.STREAM_STALLS, q.UPSTREAM),
                        q.rate(metrics.BACKPRESSURE, q.UPSTREAM, "_count"),
                    )
                    + ")",
                    q.named(q.UPSTREAM),
                ),
            ),
            no_data=NO_STREAM,
        ),
        Panel(
            215,
            "Streams that did not end well",
            "Per second, by outcome: broken off by the upstream, an error inside, silent for too long. "
            "Metric: sidecar.requests.",
            (
                Query(
                    q.rate(
                        metrics.REQUESTS,
                        q.OUTCOME,
                        where=f'{_STREAMED}, {q.OUTCOME}=~"upstream_failed|error_in_stream|timed_out"',
                    ),
                    q.named(q.OUTCOME),
                    quiet="none failed",
                ),
            ),
            unit="reqps",
            stacked=True,
            no_data="no stream failed, or there was none, in this range",
            colours=q.OUTCOMES,
        ),
        Panel(
            202,
            "Stalls in the range",
            "Silences of an upstream longer than SIDECAR_STALL_AFTER, counted when they happen. "
            "Metric: sidecar.stream.stalls.",
            (
                Query(
                    q.at_least_zero(
                        q.grown(metrics.STREAM_STALLS), q.grown(metrics.BACKPRESSURE, "", "_count")
                    )
                ),
            ),
            kind="stat",
            width=24,
            height=4,
            decimals=0,
            steps=(("orange", 1),),
            no_data=NO_STREAM,
        ),
    ),
    q.WHICH,
    q.WHERE,
)


def streams() -> Json:
    """The dashboard."""
    about = "Answers that stream: silences, slow readers, and those who leave."
    return dashboard(
        UID,
        "Sidecar: streams",
        about,
        panels=laid_out(PANELS),
        variables=variables(),
        annotations=annotations(),
    )
