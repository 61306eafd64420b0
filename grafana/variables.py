"""The variables that the dashboards on metrics have in common: data source, service, instance, upstream, model.

Owns their list. Named by the labels they choose, so that links carry them from one dashboard to another.
"""

from grafana.names import series
from grafana.panels import Json, chosen, data_source
from grafana.queries import MODEL, REQUESTS, UPSTREAM, WHO
from sidecar.telemetry import metrics

ANY = series(metrics.REQUESTS_ACTIVE)
"""A series that every sidecar has from its start on."""


def variables(*, upstream: bool = True, model: bool = False) -> list[Json]:
    """Those that a dashboard's metrics can be narrowed down by."""
    found = [
        data_source("datasource", "prometheus", "Data source"),
        chosen("job", "Service", ANY),
        chosen("instance", "Instance", ANY, "job=~`${job:regex}`"),
    ]
    if upstream:
        found.append(chosen(UPSTREAM, "Upstream", REQUESTS, WHO))
    if model:
        found.append(chosen(MODEL, "Model", REQUESTS, WHO))
    return found
