"""PromQL that the panels share: who is asked about, rates, shares and quantiles.

Owns the forms, so that every panel is empty where there was no traffic, and 0 where there was traffic and nothing
happened. Variables stand in raw strings and are escaped as regular expressions, so that no value can break a query.
"""

from dataclasses import replace

from grafana.names import label, series
from grafana.panels import Panel, Query, Row
from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry import series as results
from sidecar.telemetry.metrics import Metric

JOB = "job=~`${job:regex}`"
WHO = f"{JOB}, instance=~`${{instance:regex}}`"
UPSTREAM = label(n.UPSTREAM)
WHERE = f"{WHO}, {UPSTREAM}=~`${{sidecar_upstream:regex}}`"
KNOWN = f'{UPSTREAM}!=""'
"""What is refused before an upstream is known has none, and no row."""
MODEL = label(n.REQUEST_MODEL)
# A request whose model nobody knows has no such label: it is among all of them, and among no chosen one.
WHICH = f"{WHERE}, {MODEL}=~`${{gen_ai_request_model:regex}}`"

REQUESTS = series(metrics.REQUESTS)
OUTCOME = label(n.OUTCOME)
OUTCOMES = {
    "completed": "green",
    "client_left": "blue",
    "upstream_rejected": "yellow",
    "upstream_failed": "red",
    "error_in_stream": "light-red",
    "timed_out": "orange",
    "refused": "purple",
    "shutdown": "text",
    "internal_error": "super-light-red",
}
"""Each outcome has one colour wherever it is shown."""
STATES = {
    "exported": "green",
    "not_sampled": "text",
    "dropped": "red",
    "failed": "dark-red",
    "rejected": "orange",
    "unconfirmed": "super-light-yellow",
    "unknown": "yellow",
}
"""And each state of the loss ledger."""


RESULT = label(n.RESULT)
RESULTS = {
    "completed": "green",
    "client_left": "blue",
    "client_error": "light-blue",
    "rate_limited": "yellow",
    "server_error": "dark-red",
    "upstream_failed": "red",
    "error_in_stream": "light-red",
    "timed_out": "orange",
    "refused": "purple",
    "shutdown": "text",
    "internal_error": "super-light-red",
}
"""Each kind of answer has the colour of its outcome."""
BAD = f'{RESULT}=~"{"|".join(results.BAD)}"'
"""What nobody wanted: neither a client's own mistakes nor its departure."""

POD = "k8s_pod_name, instance"

FRESH = 90
"""Seconds after which a gauge's last value is that of a process that is gone. Prometheus keeps it for five minutes where
the process could not say that it ended; one export a minute is still shown."""


def within(metric: Metric) -> str:
    """The variables as far as the metric has their labels."""
    if n.UPSTREAM not in metric.attributes:
        return WHO
    return WHICH if n.REQUEST_MODEL in metric.attributes else WHERE


def named(by: str) -> str:
    """A label's value, as a legend has it."""
    return f"{{{{{by}}}}}"


def _grouped(by: str) -> str:
    return f" by ({by})" if by else ""


def _matchers(metric: Metric, where: str) -> str:
    return f"{within(metric)}, {where}" if where else within(metric)


def _summed(how: str, window: str, metric: Metric, by: str, part: str, where: str) -> str:
    return f"sum{_grouped(by)} ({how}({series(metric, part)}{{{_matchers(metric, where)}}}[{window}]))"


def rate(metric: Metric, by: str = "", part: str = "", *, where: str = "") -> str:
    """Per second; `part` is `_sum`, `_count` or `_bucket` of a histogram, `where` narrows it down."""
    return _summed("rate", "$__rate_interval", metric, by, part, where)


def grown(metric: Metric, by: str = "", part: str = "", *, where: str = "") -> str:
    """How much it grew in the range that is shown."""
    return _summed("increase", "$__range", metric, by, part, where)


def fresh(metric: Metric, where: str = "") -> str:
    """A level or a gauge of every process that lives."""
    chosen = f"{series(metric)}{{{_matchers(metric, where)}}}"
    return f"({chosen} and time() - timestamp({chosen}) < {FRESH})"


def now(metric: Metric, by: str = "", *, how: str = "sum") -> str:
    """A level or a gauge, over all processes that live; by upstream, of those requests that have one."""
    return f"{how}{_grouped(by)} ({fresh(metric, KNOWN if by == UPSTREAM else '')})"


def at_least_zero(part: str, whole: str) -> str:
    """The part, or 0 where only the whole has something to show: counters begin when they first count."""
    return f"({part}) or 0 * ({whole})"


def happening(expression: str) -> str:
    """Only what is not 0: of words that are all told from the start, a legend names those that occur."""
    return f"{expression} > 0"


def share(part: str, whole: str) -> str:
    """A share that is absent where there is nothing to divide by; a part that never happened is 0."""
    return f"({at_least_zero(part, whole)}) / (({whole}) > 0)"


def mean(metric: Metric, by: str = "") -> str:
    """A histogram's mean."""
    return f"{rate(metric, by, '_sum')} / ({rate(metric, by, '_count')} > 0)"


def quantile(share_below: float, metric: Metric, by: str = "", *, where: str = "") -> str:
    """A histogram's quantile; absent where nothing was recorded. Of what is counted it is a whole number."""
    grouped = f"le, {by}" if by else "le"
    found = f"histogram_quantile({share_below}, {rate(metric, grouped, '_bucket', where=where)})"
    if metric.integer and metric.unit != "{token}":
        found = f"ceil({found})"
    return f"{found} and ({rate(metric, by, '_count', where=where)} > 0)"


def either(expression: str, shipped: Metric, latest: Metric) -> str:
    """The expression on the shipped metric, or on the one that the latest conventions have in its place."""
    return f"({expression}) or ({expression.replace(series(shipped), series(latest))})"


def cells(metric: Metric) -> str:
    """A histogram's buckets, as a heatmap wants them."""
    return _summed("increase", "$__rate_interval", metric, "le", "_bucket", "")


def worst(expression: str) -> str:
    """Of what is by upstream, the course of the one that is highest at the end of the range."""
    at_the_end = expression.replace("[$__rate_interval]", "[$__rate_interval] @ end()")
    return f"({expression}) and on ({UPSTREAM}) topk(1, {at_the_end})"


def by_pod(expression: str) -> str:
    """What is by `POD`, named by its pod; where nobody says which, by the first part of the instance's id."""
    short = f'label_replace({expression}, "pod", "$1", "instance", "([^-]*).*")'
    return f'label_replace({short}, "pod", "$1", "k8s_pod_name", "(.+)")'


def widened(parts: tuple[Panel | Row, ...], narrow: str, wide: str) -> tuple[Panel | Row, ...]:
    """The panels without the choice of something that few of their metrics know: there it is not offered.

    `narrow` is one of `WHICH` and `WHERE`, `wide` the next wider one.
    """

    def asked(query: Query) -> Query:
        return replace(query, expression=query.expression.replace(narrow, wide))

    return tuple(
        part if isinstance(part, Row) else replace(part, queries=tuple(map(asked, part.queries)))
        for part in parts
    )
