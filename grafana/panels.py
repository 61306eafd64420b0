"""Panels and dashboards as Grafana's classic JSON (schema 39, which Grafana 11 to 13 load).

Owns the form: what every panel has (title, unit, description, words for no data), the grid, the variables. It knows
no metric. Used by the dashboards' modules.
"""

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SCHEMA = 39
WIDTH = 24
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

NO_DATA = "no traffic in this range"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression with its legend. `exemplars`: dots that lead to traces."""

    expression: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `number` is its id for good, since runbooks link to it; `width` of 24, `height` in rows."""

    number: int
    title: str
    says: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    options: Json = field(default_factory=dict)


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "graphMode": "area",
        }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _panel(panel: Panel, x: int, y: int) -> Json:
    instant = panel.kind == "stat"
    return {
        "id": panel.number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "noValue": NO_DATA, "min": 0}, "overrides": []},
        "options": _options(panel) | panel.options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "exemplar": query.exemplars,
                "instant": instant,
                "range": not instant,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def _laid_out(panels: tuple[Panel, ...]) -> list[Json]:
    """From left to right, and from top to bottom."""
    laid, x, y, row = [], 0, 0, 0
    for panel in panels:
        if x + panel.width > WIDTH:
            x, y, row = 0, y + row, 0
        laid.append(_panel(panel, x, y))
        x, row = x + panel.width, max(row, panel.height)
    return laid


def _chosen(name: str, title: str, of: str, within: str = "") -> Json:
    """A variable with every value of a label."""
    query = f"label_values({of}{{{within}}}, {name})"
    return {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(uid: str, title: str, about: str, panels: tuple[Panel, ...], *, of: str) -> Json:
    """A dashboard; `of` is the metric whose labels fill the variables."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    within = 'job=~"$job"'
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "tags": ["sidecar"],
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "graphTooltip": 1,
        "links": [
            {
                "title": "Sidecar",
                "type": "dashboards",
                "tags": ["sidecar"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {
            "list": [
                source,
                _chosen("job", "Service", of),
                _chosen("instance", "Instance", of, within),
                _chosen("sidecar_upstream", "Upstream", of, within),
            ]
        },
        "annotations": {"list": []},
        "panels": _laid_out(panels),
    }
