"""The alert rules in the form of Grafana's file provisioning, made from the rules for Prometheus.

Owns the translation only; the rules stand in `alerts/sidecar.rules.yaml`. In Prometheus a rule fires for every series
that its expression gives, whatever the value; in Grafana for every series of its condition whose value is not 0. So the
condition asks of each series whether it has a number, and a value of 0 fires as well. No series is no alert: `OK`.
"""

import re
from typing import Any

Json = dict[str, Any]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FOLDER = "Sidecar"
INTERVAL = "1m"
LOOKBACK = 300
"""Seconds that a rule without a window looks back: as long as Prometheus does for a value."""
SOURCE = "prometheus"
"""The data source's uid, as `provisioning/datasources` gives it."""


def provisioned(groups: list[Json]) -> Json:
    """The file, of the groups of a Prometheus rules file."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": group["name"],
                "folder": FOLDER,
                "interval": INTERVAL,
                "rules": [_rule(rule) for rule in group["rules"]],
            }
            for group in groups
        ],
    }


def _rule(rule: Json) -> Json:
    uid, panel = re.findall(r"/d/([\w-]+)\?viewPanel=(\d+)", rule["annotations"]["dashboard"])[0]
    windows = re.findall(r"\[(\d+)([smhd])\]", rule["expr"])
    longest = max((int(number) * SECONDS[unit] for number, unit in windows), default=LOOKBACK)
    return {
        "uid": re.sub(r"(?<!^)(?=[A-Z])", "-", rule["alert"]).lower(),
        "title": rule["alert"],
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": longest, "to": 0},
                "datasourceUid": SOURCE,
                "model": {
                    "refId": "A",
                    "datasource": {"type": "prometheus", "uid": SOURCE},
                    "expr": rule["expr"],
                    "instant": True,
                    "range": False,
                },
            },
            {
                "refId": "B",
                "relativeTimeRange": {"from": 0, "to": 0},
                "datasourceUid": "__expr__",
                "model": {"refId": "B", "type": "math", "expression": "is_number($A)"},
            },
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": dict(rule["labels"]),
        "annotations": {
            **{name: _templated(text) for name, text in rule["annotations"].items()},
            "__dashboardUid__": uid,
            "__panelId__": panel,
        },
    }


def _templated(text: str) -> str:
    """Prometheus' `$value` is a number; Grafana's is a text of all values, and the number is in `$values.A`.

    Grafana has no external labels, and a template that names them would fail.
    """
    text = re.sub(r"\{\{ \$externalLabels\.\w+ \}\}", "", text)
    return text.replace("$value ", "$values.A.Value ")
