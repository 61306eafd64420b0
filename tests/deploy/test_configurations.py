"""The configurations that docker-compose.yml mounts, held against it: they call services that are there, by ports that
are open, and keep things where a volume is. That they are valid is for the real programs to say (the stack test).
"""

import re
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from sidecar.telemetry import names

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}")

Document = dict[str, Any]


def services() -> dict[str, Document]:
    """The services of docker-compose.yml."""
    loaded: Document = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, Document] = loaded["services"]
    return found


def configuration(service: str, target: str) -> Document:
    """What is mounted there, with the variables that the service sets, else with their defaults."""
    sources = {mounted.split(":")[1]: mounted.split(":")[0] for mounted in services()[service]["volumes"]}
    environ = services()[service].get("environment", {})
    text = (ROOT / sources[target]).read_text(encoding="utf-8")
    filled = VARIABLE.sub(lambda match: str(environ.get(match[1], match[2] or "")), text)
    loaded: Document = yaml.safe_load(filled)
    return loaded


def collector() -> Document:
    """The Collector's."""
    return configuration("otel-collector", "/etc/otelcol-contrib/config.yaml")


def leaves(value: Any) -> list[str]:
    """Every text in a structure."""
    inside = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] if isinstance(value, str) else [leaf for inner in inside for leaf in leaves(inner)]


def volumes(service: str) -> list[str]:
    """Where a service may write: its volumes, and what it has in memory."""
    parts = [mounted.split(":") for mounted in services()[service]["volumes"]]
    kept = [target for source, target, *_ in parts if not source.startswith("./")]
    return [*kept, *services()[service].get("tmpfs", [])]


def within(path: str, folders: list[str]) -> bool:
    """Whether a path lies in one of the folders."""
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def test_the_collector_calls_services() -> None:
    """Each store is called by the name of its service, and nobody else is."""
    endpoints = [leaf for one in collector()["exporters"].values() for leaf in leaves(one) if ":" in leaf]
    hosts = {
        found[1]
        for endpoint in endpoints
        if (found := re.fullmatch(r"(?:https?://)?([a-z][a-z0-9.-]*):\d+(?:/.*)?", endpoint))
    }
    assert {"jaeger", "tempo", "loki", "prometheus"} <= hosts
    assert hosts <= {*services()}


def test_every_variable_of_the_collector_is_one() -> None:
    """What docker-compose.yml and the manifest set for it, the configuration reads."""
    text = (ROOT / "otel-collector.yaml").read_text(encoding="utf-8")
    read = {match[1] for match in VARIABLE.finditer(text)} | {"GOMEMLIMIT"}
    assert {*services()["otel-collector"]["environment"]} <= read
    for document in yaml.safe_load_all((ROOT / "deploy/kubernetes/base/collector.yaml").read_text()):
        if document["kind"] == "StatefulSet":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            assert {one["name"] for one in container["env"]} <= read


def test_the_collector_is_open_to_others() -> None:
    """Its OTLP ports listen on every address of its container, at the ports that are published."""
    protocols = collector()["receivers"]["otlp"]["protocols"]
    opened = {protocol["endpoint"] for protocol in protocols.values()}
    published = {port.split(":")[2] for port in services()["otel-collector"]["ports"]}
    assert opened == {f"0.0.0.0:{port}" for port in published}


def test_the_queues_are_in_the_volume() -> None:
    """What the Collector keeps on disk survives it."""
    folders = [
        leaf
        for name, one in collector()["extensions"].items()
        if name.startswith("file_storage")
        for leaf in leaves(one)
        if leaf.startswith("/")
    ]
    assert folders
    assert all(within(folder, volumes("otel-collector")) for folder in folders)


def test_prometheus_reads_the_rules() -> None:
    """The pattern finds the rule file where it is mounted; the label that the links use is promoted."""
    config = configuration("prometheus", "/etc/prometheus/prometheus.yaml")
    (folder,) = (
        mounted.split(":")[1]
        for mounted in services()["prometheus"]["volumes"]
        if mounted.startswith("./grafana/alerts")
    )
    rules = [f"{folder}/{path.name}" for path in (ROOT / "grafana" / "alerts").glob("*.rules.yaml")]
    patterns = [str(PurePosixPath("/etc/prometheus") / pattern) for pattern in config["rule_files"]]
    assert rules
    assert all(any(fnmatch(rule, pattern) for pattern in patterns) for rule in rules)
    assert "service.name" in config["otlp"]["promote_resource_attributes"]


def test_tempo_keeps_everything_in_its_volume() -> None:
    """Every path of its configuration; and it listens to others."""
    config = configuration("tempo", "/etc/tempo/tempo.yaml")
    paths = [leaf for leaf in leaves(config) if leaf.startswith("/")]
    assert paths
    assert [path for path in paths if not within(path, volumes("tempo"))] == []
    listened = [leaf for leaf in leaves(config) if re.fullmatch(r".*:\d+", leaf)]
    assert not [address for address in listened if address.startswith(("127.0.0.1:", "localhost:"))]


def test_jaeger_listens_to_others() -> None:
    """Its OTLP port to the Collector, its pages to the published port."""
    config = configuration("jaeger", "/etc/jaeger/jaeger.yaml")
    addresses = [leaf for leaf in leaves(config) if re.fullmatch(r"[\w.]*:\d+", leaf)]
    assert not [address for address in addresses if address.startswith(("127.0.0.1:", "localhost:"))]
    query = config["extensions"]["jaeger_query"]
    assert query.get("http", {}).get("endpoint", "0.0.0.0:16686").endswith(":16686")
    assert [
        path for path in leaves(config) if path.startswith("/") and not within(path, volumes("jaeger"))
    ] == []


def test_the_collector_names_what_the_code_defines() -> None:
    """Each attribute of the sidecar's in the Collector's file is one that the code puts on spans."""
    text = re.sub(r"#.*", "", (ROOT / "otel-collector.yaml").read_text(encoding="utf-8"))
    named = {*re.findall(r"\b(?:sidecar|gen_ai|session)(?:\.\w+)+", text)}
    defined = {value for value in vars(names).values() if isinstance(value, str)}
    assert named
    assert named <= defined
