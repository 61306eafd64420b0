"""Panels and dashboards as Grafana's classic JSON (schema 39, which Grafana 11 to 13 load).

Owns the form: what every panel has (title, unit, description, words for no data), rows, the grid, the variables, the
links. It knows no metric.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SCHEMA = 39
WIDTH = 24
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

NO_DATA = "no traffic in this range"

SOFT_MAXIMA = {"percentunit": 0.05, "reqps": 0.1, "ops": 0.1, "short": 1}
"""Up to where an axis goes at least, so that a line of zeros lies on the ground of a scale that means something."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression with its legend. `exemplars`: dots that lead to traces.

    `quiet` says why it may have no answer though there is traffic.
    """

    expression: str
    legend: str = ""
    exemplars: bool = False
    quiet: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A heading; what follows it stands below."""

    number: int
    title: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `number` is its id for good, since runbooks link to it; `width` of 24, `height` in rows.

    `steps` are (colour, from this value on) of a stat; `colours` those of series by their legend; `says` ends with the
    metrics' names.
    """

    number: int
    title: str
    says: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    stacked: bool = False
    steps: tuple[tuple[str, float], ...] = ()
    decimals: int | None = None
    no_data: str = NO_DATA
    colours: Mapping[str, str] = field(default_factory=dict)


def _options(panel: Panel) -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        return {"reduceOptions": reduced, "graphMode": "area", "colorMode": "value", "textMode": "auto"}
    if panel.kind == "bargauge":
        return {
            "reduceOptions": reduced,
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": True,
            "valueMode": "text",
        }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _defaults(panel: Panel) -> Json:
    steps = [{"color": "green", "value": None}] + [
        {"color": colour, "value": value} for colour, value in panel.steps
    ]
    defaults: Json = {
        "unit": panel.unit,
        "noValue": panel.no_data,
        "min": 0,
        "color": {"mode": "thresholds" if panel.kind in ("stat", "bargauge") else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 10,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        if panel.unit in SOFT_MAXIMA:
            defaults["custom"]["axisSoftMax"] = SOFT_MAXIMA[panel.unit]
    return defaults


def _overrides(panel: Panel) -> list[Json]:
    """A fixed colour for each series that is named by a word which has one."""
    return [
        {
            "matcher": {"id": "byName", "options": word},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for word, colour in panel.colours.items()
    ]


def _panel(panel: Panel) -> Json:
    instant = panel.kind in ("stat", "bargauge")
    return {
        "id": panel.number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "exemplar": query.exemplars,
                "instant": instant,
                "range": not instant,
            }
            for number, query in enumerate(panel.queries)
        ],
    }


def row(heading: Row) -> Json:
    """A heading across the page."""
    return {"id": heading.number, "type": "row", "title": heading.title, "collapsed": False, "panels": []}


def placed(parts: Iterable[tuple[Json, int, int]]) -> list[Json]:
    """Panels with their width and height, from left to right and from top to bottom; a row begins anew."""
    laid: list[Json] = []
    x, y, deepest = 0, 0, 0
    for panel, width, height in parts:
        if panel["type"] == "row" or x + width > WIDTH:
            x, y, deepest = 0, y + deepest, 0
        laid.append(panel | {"gridPos": {"h": height, "w": width, "x": x, "y": y}})
        x, deepest = x + width, max(deepest, height)
    return laid


def laid_out(parts: tuple[Panel | Row, ...]) -> list[Json]:
    """Panels and rows in their places."""
    return placed(
        (row(part), WIDTH, 1) if isinstance(part, Row) else (_panel(part), part.width, part.height)
        for part in parts
    )


def data_source(name: str, kind: str, title: str) -> Json:
    """A variable that chooses a data source; the first of its kind, unless one is chosen."""
    return {"name": name, "label": title, "type": "datasource", "query": kind, "refresh": 1}


def chosen(name: str, title: str, of: str, within: str = "") -> Json:
    """A variable with every value of a label of the series `of`."""
    query = f"label_values({of}{{{within}}}, {name})"
    return {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(uid: str, title: str, about: str, *, panels: list[Json], variables: list[Json]) -> Json:
    """A dashboard. Its links keep the time and whatever variables the others have as well."""
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
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": panels,
    }
