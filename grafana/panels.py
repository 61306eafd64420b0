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

TABLE: Json = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
"""A table's options."""

NO_DATA = "no traffic in this range"

COLOURS = {"p50": "blue", "median": "blue", "p95": "orange", "p99": "red", "average": "green"}
"""Words that stand in many legends have one colour everywhere."""

SOFT_MAXIMA = {"percentunit": 0.05, "reqps": 0.1, "ops": 0.1, "short": 1}
"""Up to where an axis goes at least, so that a line of zeros lies on the ground of a scale that means something."""


NEUTRAL = "blue"
"""Of a figure that is neither good nor bad."""
UNKNOWN = "#4b5058"
"""Of a tile that has none: no traffic is not well."""


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
    """A heading; what follows it stands below, and inside of it where it is collapsed."""

    number: int
    title: str
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, unit and steps, as a panel has them."""

    title: str
    unit: str = "short"
    steps: tuple[tuple[str, float], ...] = ()
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `number` is its id for good, since runbooks link to it; `width` of 24, `height` in rows.

    `steps` are (colour, from this value on) of a stat, which fills its tile, green below the first unless that is 0; without any
    it is neutral. `calc` is how a stat sums up the range. `colours` are those of series by how their legend begins; `says` ends with
    the metrics' names. `columns` are those of a table, the first of which is the label that its queries have in common;
    `chosen` is the address that a click there leads to. `links` are titles and addresses.
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
    calc: str = "lastNotNull"
    logarithmic: bool = False
    label: str = ""
    columns: tuple[Column, ...] = ()
    chosen: str = ""
    links: tuple[tuple[str, str], ...] = ()


def _options(panel: Panel) -> Json:
    reduced = {"calcs": [panel.calc], "fields": "", "values": False}
    if panel.kind == "stat":
        return {
            "reduceOptions": reduced,
            "graphMode": "area",
            "colorMode": "background" if panel.steps else "value",
            "textMode": "value_and_name" if panel.queries[0].legend else "value",
            "wideLayout": False,
            "justifyMode": "center",
        }
    if panel.kind == "bargauge":
        return {
            "reduceOptions": reduced,
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": True,
            "valueMode": "text",
        }
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "orange"},
            "yAxis": {"unit": panel.unit, "axisPlacement": "left", "reverse": False},
            "rowsFrame": {"layout": "auto"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
        }
    if panel.kind == "table":
        return TABLE
    legend = {
        "displayMode": "list",
        "placement": "bottom",
        "showLegend": True,
        "calcs": ["lastNotNull", "max"],
    }
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _thresholds(steps: tuple[tuple[str, float], ...], base: str) -> Json:
    first: list[Json] = [{"color": base, "value": None}]
    return {
        "mode": "absolute",
        "steps": first + [{"color": colour, "value": value} for colour, value in steps],
    }


def _defaults(panel: Panel) -> Json:
    by_step = panel.kind in ("stat", "bargauge", "table")
    defaults: Json = {
        # A figure is told whole: 1600 and 2400 would both be "2 K".
        "unit": "none" if by_step and panel.unit == "short" else panel.unit,
        "noValue": panel.no_data,
        "min": 0,
        "color": {"mode": "thresholds" if by_step else "palette-classic-by-name"},
        "thresholds": _thresholds(
            panel.steps if panel.steps[0][1] == 0 else (("green", 0.0), *panel.steps), UNKNOWN
        )
        if panel.steps
        else _thresholds((), NEUTRAL),
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        if panel.unit in SOFT_MAXIMA:
            defaults["custom"]["axisSoftMax"] = SOFT_MAXIMA[panel.unit]
        if panel.logarithmic:
            defaults["custom"]["scaleDistribution"] = {"type": "log", "log": 10}
            del defaults["min"]
    if panel.kind == "table":
        # A word for no data would stand in every cell that has none.
        del defaults["noValue"]
        defaults["custom"] = {"align": "auto", "minWidth": 80, "cellOptions": {"type": "auto"}}
    return defaults


def _fixed(word: str, colour: str) -> Json:
    return {
        "matcher": {"id": "byRegexp", "options": f"/^{word}( |$)/"},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _column(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    if column.steps:
        properties.append({"id": "thresholds", "value": _thresholds(column.steps, "transparent")})
        properties.append(
            {"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "basic"}}
        )
    return {"matcher": {"id": "byName", "options": column.title}, "properties": properties}


def _overrides(panel: Panel) -> list[Json]:
    """A fixed colour for each series whose name begins with a word which has one; units and steps of columns."""
    found = [_fixed(word, colour) for word, colour in (COLOURS | dict(panel.colours)).items()]
    if panel.kind != "table":
        return found if panel.kind == "timeseries" else []
    found = [_column(column) for column in panel.columns]
    link = {"title": "Narrow the dashboard to it", "url": panel.chosen}
    found[0]["properties"].append({"id": "links", "value": [link]})
    return found


def _arranged(panel: Panel) -> list[Json]:
    """One row for each value of the label, one column for each query, in their order."""
    values = [f"Value #{chr(ord('A') + number)}" for number in range(len(panel.queries))]
    names = [panel.label, *values]
    organised = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": {name: column.title for name, column in zip(names, panel.columns, strict=True)},
    }
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organised}]


_FORMS = {"table": "table", "heatmap": "heatmap"}


def _panel(panel: Panel) -> Json:
    instant = panel.kind in ("bargauge", "table")
    made: Json = {
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
                "format": _FORMS.get(panel.kind, "time_series"),
                "exemplar": query.exemplars,
                "instant": instant,
                "range": not instant,
            }
            for number, query in enumerate(panel.queries)
        ],
    }
    if panel.kind == "table":
        made["transformations"] = _arranged(panel)
    if panel.links:
        made["links"] = [{"title": title, "url": url} for title, url in panel.links]
    return made


def row(heading: Row, inside: list[Json] | None = None) -> Json:
    """A heading across the page, with the panels inside of it where it is collapsed."""
    return {
        "id": heading.number,
        "type": "row",
        "title": heading.title,
        "collapsed": heading.collapsed,
        "panels": inside or [],
    }


def placed(parts: Iterable[tuple[Json, int, int]]) -> list[Json]:
    """Panels with their width and height, from left to right and from top to bottom; a row begins anew.

    What follows a collapsed row stands inside of it, and takes no place.
    """
    laid: list[Json] = []
    x, y, deepest = 0, 0, 0
    into = laid
    for panel, width, height in parts:
        if panel["type"] == "row" or x + width > WIDTH:
            x, y, deepest = 0, y + deepest, 0
        set_down = panel | {"gridPos": {"h": height, "w": width, "x": x, "y": y}}
        if panel["type"] == "row":
            laid.append(set_down)
            into = set_down["panels"] if panel["collapsed"] else laid
        else:
            into.append(set_down)
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


def chosen(name: str, title: str, of: str, within: str = "", *, every: str = ".*") -> Json:
    """A variable with every value of a label of the series `of`; `every` is what all of them are asked by."""
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
        "allValue": every,
        "current": {"text": "All", "value": "$__all"},
    }


def annotation(name: str, expression: str, title: str, colour: str, step: str) -> Json:
    """Marks in every panel's time, from a PromQL expression: one for each series and step where it has a value."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "expr": expression,
        "titleFormat": title,
        "step": step,
        "iconColor": colour,
    }


def _owning(panel: Json, choices: list[Json]) -> Json:
    """The panel, whose description says which choices change nothing about it, or only a part; and what is inside of a row."""
    if panel["type"] == "row":
        return panel | {"panels": [_owning(one, choices) for one in panel["panels"]]}
    said = panel.get("description", "")
    for choice in choices:
        heeds = [f"${{{choice['name']}:" in target["expr"] for target in panel["targets"]]
        if not all(heeds):
            how = "In part of" if any(heeds) else "Of"
            said += f" {how} every {choice['label'].lower()}, whichever is chosen."
    return panel | {"description": said}


def dashboard(
    uid: str,
    title: str,
    about: str,
    *,
    panels: list[Json],
    variables: list[Json],
    annotations: Iterable[Json] = (),
) -> Json:
    """A dashboard. Its links keep the time and whatever variables the others have as well."""
    choices = [one for one in variables if one["type"] == "query"]
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
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
        "annotations": {"list": [*annotations]},
        "panels": [_owning(one, choices) for one in panels],
    }
