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


def annotations() -> list[Json]:
    """Marks in time: processes that begin, and alerts that fire."""
    alive = f"count by (job, instance) ({ANY}{{{WHO}}})"
    before = f"count by (job, instance) ({ANY}{{{WHO}}} offset 2m)"
    firing = 'ALERTS{alertname=~"Sidecar.*", alertstate="firing", job=~`${job:regex}`}'
    return [
        annotation("Restarts", f"{alive} unless {before}", "{{job}} started", "purple"),
        annotation("Alerts", firing, "{{alertname}} {{sidecar_upstream}}", "red"),
    ]
