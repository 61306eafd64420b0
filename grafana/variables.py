"""What the dashboards on metrics have in common: variables for source, service, instance, upstream, model; marks.

Owns their lists. Named by the labels they choose, so that links carry them from one dashboard to another.
"""

from grafana.names import series
from grafana.panels import Json, annotation, chosen, data_source
from grafana.queries import JOB, MODEL, REQUESTS, UPSTREAM, WHO
from sidecar.telemetry import metrics

ANY = series(metrics.REQUESTS_ACTIVE)
"""A series that every sidecar has from its start on."""


def variables(*, instance: bool = True, upstream: bool = True, model: bool = False) -> list[Json]:
    """Those that a dashboard's metrics can be narrowed down by."""
    found = [
        data_source("datasource", "prometheus", "Data source"),
        chosen("job", "Service", ANY, every=".+"),
    ]
    if instance:
        found.append(chosen("instance", "Instance", ANY, JOB, every=".+"))
    if upstream:
        found.append(chosen(UPSTREAM, "Upstream", series(metrics.RESULTS), WHO))
    if model:
        found.append(chosen(MODEL, "Model", REQUESTS, WHO))
    return found


def annotations(processes: str = WHO, services: str = JOB, *, minutes: int = 1) -> list[Json]:
    """Marks in time: processes that begin, and alerts that fire, looked for each so many `minutes`.

    `processes` and `services` are the matchers of what is chosen. A month has more minutes than Prometheus gives points.
    """

    def within(series: str, ago: str = "") -> str:
        return f"{series}{ago}" if minutes == 1 else f"last_over_time({series}[{minutes}m]{ago})"

    step = f"{60 * minutes}s"
    process = f"{ANY}{{{processes}}}"
    alive = f"count by (job, instance) ({within(process)})"
    before = f"count by (job, instance) ({within(process, f' offset {2 * minutes}m')})"
    firing = within(f'ALERTS{{alertname=~"Sidecar.*", alertstate="firing", {services}}}')
    return [
        annotation("Restarts", f"{alive} unless {before}", "{{job}} started", "purple", step),
        annotation("Alerts", firing, "{{alertname}} {{sidecar_upstream}}", "red", step),
    ]
