"""The manifests: valid by the schemas of Kubernetes, with settings that hold, and no container that may more than it needs.

What kustomize does with them is done here in small (patches by name) and, where a kustomize is at hand, by the real
one, whose result must be the same.
"""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sidecar import cli
from sidecar.telemetry import otel_settings
from sidecar.version import VERSION

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
OVERLAY = KUBERNETES / "overlays" / "demo"
DASHBOARDS = ROOT / "grafana"

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The first with native sidecars switched on, and the newest whose schemas we have."""

ANNOTATION_LIMIT = 262_144
"""Bytes that all annotations of an object may have: `kubectl apply` keeps the whole object in one."""

Document = dict[str, Any]


def load(path: Path) -> list[Document]:
    """The documents of a file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def kustomization(folder: Path) -> Document:
    """What a folder says to kustomize."""
    (document,) = load(folder / "kustomization.yaml")
    return document


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as these manifests need it: lists of named things by name, other lists whole."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in one for one in [*base, *patch]):
        changes = {one["name"]: one for one in patch}
        kept = [merged(one, changes.pop(one["name"], {})) for one in base]
        return [*kept, *changes.values()]
    return copy.deepcopy(patch)


def written() -> list[Document]:
    """The manifests as they stand in the base and in the overlay."""
    return [
        document
        for folder in (BASE, OVERLAY)
        for entry in kustomization(folder)["resources"]
        if (folder / entry).is_file()
        for document in load(folder / entry)
    ]


def overlaid() -> list[Document]:
    """The manifests with the overlay's patches."""
    documents = written()
    for entry in kustomization(OVERLAY)["patches"]:
        for patch in load(OVERLAY / entry["path"]):
            (index,) = (i for i, one in enumerate(documents) if identity(one) == identity(patch))
            documents[index] = merged(documents[index], patch)
    return documents


def identity(document: Document) -> tuple[str, str]:
    """What tells an object from others here."""
    return document["kind"], document["metadata"]["name"]


def pods(documents: list[Document]) -> Iterator[Document]:
    """The pods' specifications."""
    for document in documents:
        if "template" in document.get("spec", {}):
            yield document["spec"]["template"]["spec"]


def app(documents: list[Document]) -> tuple[Document, Document, Document]:
    """The example's pod, its sidecar, and its app."""
    (pod,) = (pod for pod in pods(documents) if "initContainers" in pod)
    (sidecar,) = pod["initContainers"]
    (container,) = pod["containers"]
    return pod, sidecar, container


def environ(container: Document) -> dict[str, str]:
    """A container's environment; what Kubernetes fills in is filled in with a word."""
    given = {one["name"]: one.get("value", "filled-in") for one in container["env"]}
    return {
        name: re.sub(r"\$\((\w+)\)", lambda match: given[match[1]], value) for name, value in given.items()
    }


STANDS = pytest.mark.parametrize("documents", [written(), overlaid()], ids=["written", "overlaid"])


@pytest.mark.parametrize("version", VERSIONS)
@STANDS
def test_valid(documents: list[Document], version: str) -> None:
    """Every manifest, by the schema of its kind, unknown fields refused."""
    assert {document["kind"] for document in documents} == {
        "Deployment",
        "Namespace",
        "Service",
        "StatefulSet",
    }
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_check_refuses() -> None:
    """A field that is none fails."""
    documents = copy.deepcopy(written())
    _, sidecar, _ = app(documents)
    sidecar["restartPolice"] = "Always"
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@STANDS
def test_a_native_sidecar(documents: list[Document]) -> None:
    """It is restarted always, its settings hold, and its probes ask the health port, which listens on every address."""
    _, sidecar, container = app(documents)
    assert sidecar["restartPolicy"] == "Always"
    given = environ(sidecar)
    loaded = cli.read_settings({}, {name: value for name, value in given.items() if name[:3] != "POD"})
    assert loaded.listen.loopback
    assert loaded.admin_listen.loopback
    assert loaded.health_listen is not None
    assert loaded.health_listen.host == "0.0.0.0"
    assert {"name": "health", "containerPort": loaded.health_listen.port} in sidecar["ports"]
    for probe, path in (("startup", "/startup"), ("liveness", "/liveness"), ("readiness", "/readiness")):
        assert sidecar[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "health"}
    telemetry = otel_settings.read(given)
    assert telemetry.lines() == ()
    assert telemetry.resource.attributes["service.instance.id"] == "filled-in.filled-in.sidecar"
    assert environ(container)["OPENAI_BASE_URL"] == f"http://{loaded.listen}/v1"


@STANDS
def test_time_to_end(documents: list[Document]) -> None:
    """There is time for the app and, after it, for the whole drain; nothing stands in between."""
    pod, sidecar, container = app(documents)
    settings = {name: value for name, value in environ(sidecar).items() if name.startswith("SIDECAR_")}
    drain = cli.read_settings({}, settings).shutdown_timeout
    assert pod["terminationGracePeriodSeconds"] >= drain + 15
    assert "lifecycle" not in sidecar
    assert "lifecycle" not in container


@STANDS
def test_restricted(documents: list[Document]) -> None:
    """Every pod keeps to the strictest Pod Security Standard, writes to volumes only, and has limits for memory."""
    for pod in pods(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # whatever Services are called, they set no variable here
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {*container["resources"]["requests"]} == {"cpu", "memory"}


def test_pinned() -> None:
    """The Collector's version is that of docker-compose.yml; ours have the package's."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    named = {image["name"]: image["newTag"] for image in kustomization(OVERLAY)["images"]}
    for pod in pods(written()):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            image = container["image"]
            assert image in named or image == compose["otel-collector"]["image"]
    assert {*named.values()} == {VERSION}


def test_the_sidecar_finds_the_collector() -> None:
    """Under the name and the port of its Service, whose target is open in its pod."""
    _, sidecar, _ = app(written())
    (service,) = (one for one in written() if one["kind"] == "Service")
    (collector,) = (one for one in written() if one["kind"] == "StatefulSet")
    endpoint = environ(sidecar)["OTEL_EXPORTER_OTLP_ENDPOINT"]
    ports = {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
    assert endpoint == f"http://{service['metadata']['name']}:{ports['otlp-http']}"
    template = collector["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    opened = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert opened == ports


def test_the_collector_has_its_configuration() -> None:
    """The file that its image reads, from the ConfigMap; a copy, byte for byte, of the one at the top."""
    (generator,) = kustomization(BASE)["configMapGenerator"]
    (entry,) = generator["files"]
    key, _, file = entry.partition("=")
    (collector,) = (one for one in pods(written()) if "initContainers" not in one)
    assert {"name": "config", "configMap": {"name": generator["name"]}} in collector["volumes"]
    assert f"/etc/otelcol-contrib/{key}" == "/etc/otelcol-contrib/config.yaml"
    top = (ROOT / "otel-collector.yaml").read_bytes()
    assert (BASE / file).read_bytes() == top, f"cp otel-collector.yaml {(BASE / file).relative_to(ROOT)}"


def test_every_dashboard_and_rule_is_in_a_config_map() -> None:
    """One each for the dashboards, none forgotten, none too large to be applied; one for the rules."""
    assert "../../../grafana" in kustomization(BASE)["resources"]
    generators = kustomization(DASHBOARDS)["configMapGenerator"]
    files = [file for generator in generators for file in generator["files"]]
    dashboards = {path.relative_to(DASHBOARDS).as_posix() for path in DASHBOARDS.glob("dashboards/*.json")}
    rules = {path.relative_to(DASHBOARDS).as_posix() for path in DASHBOARDS.glob("alerts/*.rules.yaml")}
    assert dashboards
    assert rules
    assert sorted(files) == sorted(dashboards | rules)
    for generator in generators:
        (file,) = generator["files"]
        labels = generator.get("options", {}).get("labels", {})
        assert labels == ({"grafana_dashboard": "1"} if file in dashboards else {})
        # As text within JSON every quote and every line's end takes two bytes.
        text = (DASHBOARDS / file).read_text(encoding="utf-8")
        assert len(text.encode()) + text.count('"') + text.count("\n") < ANNOTATION_LIMIT, file


def kustomize() -> str | None:
    """The real one: on the PATH, or where the stack test keeps its programs."""
    kept = Path(os.environ.get("STACK_CACHE") or ROOT / ".cache" / "stack") / "kustomize"
    return str(kept) if kept.is_file() else shutil.which("kustomize")


@pytest.mark.skipif(kustomize() is None, reason="no kustomize on the PATH or in the stack test's cache")
def test_built_by_kustomize() -> None:
    """It builds the overlay; its manifests are ours, with namespace, images and labels added, and are valid."""
    command = [str(kustomize()), "build", str(OVERLAY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    built = {identity(one): one for one in yaml.safe_load_all(done.stdout)}
    for version in VERSIONS:
        for document in built.values():
            kubernetes_validate.validate(document, version, strict=True)
    assert {one["metadata"].get("namespace") for one in built.values()} == {"llm-demo", None}
    for document in overlaid():
        assert comparable(built[identity(document)]) == comparable(document)


def comparable(document: Document) -> Any:
    """A specification without what kustomize is to change: images, and names of generated ConfigMaps."""
    changed = copy.deepcopy(document)
    for pod in pods([changed]):
        pod.pop("volumes", None)
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            del container["image"]
    return by_name(changed.get("spec"))


def by_name(value: Any) -> Any:
    """The same with lists of named things as tables: their order is kustomize's own."""
    if isinstance(value, dict):
        return {key: by_name(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return {one["name"]: by_name(one) for one in value}
    return value
