"""Writes the dashboards' files from their code: `python -m grafana.write`, or with `--check` only compares them.

Owns the files in `grafana/dashboards/`, and Grafana's form of the alert rules.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from grafana.alerting import provisioned
from grafana.explorer import explorer, explorer_jaeger
from grafana.innocence import innocence
from grafana.panels import Json
from grafana.sessions import sessions
from grafana.streams import streams
from grafana.traffic import traffic
from grafana.value import value

HERE = Path(__file__).parent
FOLDER = HERE / "dashboards"
GENERATED = "# Made from grafana/alerts/sidecar.rules.yaml by `make dashboards`. Change it there.\n"

DASHBOARDS: dict[str, Callable[[], Json]] = {
    "sessions": sessions,
    "traffic": traffic,
    "streams": streams,
    "explorer": explorer,
    "explorer-jaeger": explorer_jaeger,
    "innocence": innocence,
    "value": value,
}


class _Readable(yaml.SafeDumper):
    """Writes a text of several lines as it stands."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def files() -> dict[Path, str]:
    """Every file with its text."""
    rules = yaml.safe_load((HERE / "alerts" / "sidecar.rules.yaml").read_text(encoding="utf-8"))
    alerting = yaml.dump(provisioned(rules["groups"]), Dumper=_Readable, sort_keys=False, width=120)
    return {HERE / "provisioning" / "alerting" / "sidecar.yaml": GENERATED + alerting} | {
        FOLDER / f"{name}.json": json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        for name, make in DASHBOARDS.items()
    }


def main(arguments: list[str]) -> int:
    """Writes, or with `--check` says which files are not what the code gives; gives the exit code."""
    stale = {
        path: text
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path.name} is not what the code gives: run `make dashboards`\n")
        return int(bool(stale))
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
