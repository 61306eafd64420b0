"""docker-compose.yml, read as YAML: what it mounts exists, what it starts is pinned, guarded and reachable from here only.

That the file is one that Docker Compose takes is shown by `test_compose_parser.py`; that the mounted
configurations are ones that the real programs take, by the stack test.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import cli, settings
from sidecar.telemetry import otel_settings

ROOT = Path(__file__).parents[2]

NO_HEALTH_CHECK = {
    "otel-collector": "the image holds the Collector and nothing else, and it has no command that asks",
    "collector-volume": "it ends at once; whoever needs it waits for that",
}
"""Services without a health check, and why."""

ONCE = {"collector-volume"}
"""Services that do one thing and end."""

FROM_THE_STACK = {
    "otel/opentelemetry-collector-contrib": "0.155.0",
    "jaegertracing/jaeger": "2.13.0",
    "grafana/tempo": "3.0.3",
    "prom/prometheus": "v3.16.0",
}
"""The versions that the stack test runs."""

GIVEN = {"SIDECAR_ADMIN_TOKEN": "a-token-of-enough-length", "GRAFANA_PASSWORD": "a-password"}
"""What the two commands put into .env."""

Service = dict[str, Any]


@cache
def compose() -> dict[str, Any]:
    """The file."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def services() -> dict[str, Service]:
    """Its services, by name."""
    found: dict[str, Service] = compose()["services"]
    return found


EVERY = pytest.mark.parametrize("name", list(services()))


def filled(text: str) -> str:
    """A value with `${NAME:-default}` and `${NAME:?message}` as Compose would give it."""

    def value(match: re.Match[str]) -> str:
        return GIVEN[match[1]] if match[2] == "?" else match[3]

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, text)


def environ(name: str) -> dict[str, str]:
    """The environment of a service."""
    return {key: filled(value) for key, value in services()[name].get("environment", {}).items()}


def mounts(name: str) -> list[tuple[str, str, str]]:
    """Source, target and mode of what a service has mounted."""
    parts = [volume.split(":") for volume in services()[name].get("volumes", [])]
    return [(source, target, mode[0] if mode else "rw") for source, target, *mode in parts]


def test_the_services() -> None:
    """All that belongs to it, under the names that the configurations call."""
    names = {"sidecar", "demo", "otel-collector", "jaeger", "tempo", "loki", "prometheus", "grafana"}
    assert {*services()} - ONCE == names


@EVERY
def test_pinned(name: str) -> None:
    """A version, never a moving tag; or a target of our own Dockerfile."""
    service = services()[name]
    if "build" in service:
        assert "image" not in service
        assert (ROOT / service["build"]["context"]).resolve() == ROOT
        assert service["build"]["target"] in {"sidecar", "demo"}
        return
    image, _, tag = service["image"].partition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)
    assert FROM_THE_STACK.get(image, tag) == tag


def test_versions_of_the_stack_are_used() -> None:
    """Each of them, where the image exists."""
    images = {service["image"].partition(":")[0] for service in services().values() if "image" in service}
    assert {*FROM_THE_STACK} <= images


@EVERY
def test_reachable_from_here_only(name: str) -> None:
    """A published port stands on 127.0.0.1, and is the same on both sides, so that a document can name it."""
    for port in services()[name].get("ports", []):
        address, outside, inside = port.split(":")
        assert (address, outside) == ("127.0.0.1", inside)


def test_the_page_has_every_published_port() -> None:
    """`docs/compose.md` lists them, no others, and who asks for what."""
    text = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    told = [port for cell in cells for port in re.findall(r"127\.0\.0\.1:(\d+)", cell[1])]
    published = [port.split(":")[1] for service in services().values() for port in service.get("ports", [])]
    assert sorted(told) == sorted(published)
    assert {*re.findall(r"`([A-Z_]+)` from `\.env`", text)} == {*GIVEN}


@EVERY
def test_guarded(name: str) -> None:
    """Read-only, no capabilities, no new privileges; limits for processor, memory and processes; logs that end."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["CHOWN"] if name in ONCE else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {*service["deploy"]["resources"]["limits"]} == {"cpus", "memory", "pids"}
    assert {*service["logging"]["options"]} == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert not {"privileged", "pid", "ipc", "devices"} & {*service}


@EVERY
def test_who_may_be_root(name: str) -> None:
    """Nobody: the user of each image stays. Only who gives a volume away is, and that one has no network."""
    service = services()[name]
    assert ("user" in service) == (name in ONCE)
    assert service.get("network_mode") == ("none" if name in ONCE else None)


@EVERY
def test_health(name: str) -> None:
    """A command that needs no shell, or a reason; our own image brings its check along."""
    service = services()[name]
    check = service.get("healthcheck", {})
    if name in NO_HEALTH_CHECK:
        assert check in ({}, {"disable": True})
    elif name == "sidecar":
        assert check == {}
    else:
        assert check["test"][0] == "CMD"
        assert {*check} == {"test", "interval", "timeout", "start_period"}


@EVERY
def test_order(name: str) -> None:
    """Whoever is waited for can be: healthy where there is a check, ended where it ends, else started."""
    for other, how in services()[name].get("depends_on", {}).items():
        if other in ONCE:
            assert how == {"condition": "service_completed_successfully"}
        elif other in NO_HEALTH_CHECK:
            assert how == {"condition": "service_started"}
        else:
            assert how == {"condition": "service_healthy"}


def test_the_order_has_no_circle() -> None:
    """Back ends, Collector, sidecar, demo; Grafana beside them."""
    rest = {name: {*service.get("depends_on", {})} for name, service in services().items()}
    started: list[str] = []
    while ready := [name for name, needs in rest.items() if needs <= {*started}]:
        started += ready
        rest = {name: needs for name, needs in rest.items() if name not in ready}
    assert rest == {}
    order = ["prometheus", "otel-collector", "sidecar", "demo"]
    assert [name for name in started if name in order] == order


@EVERY
def test_what_is_mounted(name: str) -> None:
    """Files of the repository exist and are read-only; everything else is a volume that is declared, or memory."""
    for source, target, mode in mounts(name):
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == "ro"
        else:
            assert source in compose()["volumes"]


def test_every_volume_is_used() -> None:
    """None is declared for nobody."""
    used = {source for name in services() for source, _, _ in mounts(name) if not source.startswith("./")}
    assert used == {*compose()["volumes"]}


def test_the_settings_of_the_sidecar() -> None:
    """All of them hold: the sidecar would start with them, with logs, and with its admin port behind the token."""
    given = environ("sidecar")
    loaded = cli.read_settings({}, given)
    assert loaded.admin_token == GIVEN["SIDECAR_ADMIN_TOKEN"]
    assert not loaded.admin_listen.loopback
    telemetry = otel_settings.read(given)
    assert telemetry.lines() == ()
    published = {port.split(":")[2] for port in services()["sidecar"]["ports"]}
    assert {str(loaded.listen.port), str(loaded.admin_listen.port)} == published
    grace = int(services()["sidecar"]["stop_grace_period"].removesuffix("s"))
    assert grace > loaded.shutdown_timeout


@pytest.mark.parametrize("name", [*GIVEN])
def test_secrets_must_be_set(name: str) -> None:
    """Neither has a default; the message leads to the two commands, which make both."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert re.findall(rf"\$\{{{name}([^}}]{{2}})", text) == [":?"]
    assert f"{name}=%s" in text


def test_the_demo_goes_through_the_sidecar() -> None:
    """Its calls come to the data port under the upstream's name, which leads back to its provider."""
    given = environ("sidecar")
    loaded = settings.load({}, given)
    words = services()["demo"]["command"]
    through, provider = words[words.index("--through") + 1], words[words.index("--provider") + 1]
    assert through == f"http://sidecar:{loaded.listen.port}/demo/v1"
    upstream = loaded.upstreams["demo"]
    assert (upstream.host, upstream.port) == ("demo", int(provider.rpartition(":")[2]))
    assert f":{upstream.port}/v1/models" in services()["demo"]["healthcheck"]["test"][-1]


def test_grafana_is_at_home() -> None:
    """Its home is a dashboard that is mounted, and the provider reads the folder it stands in."""
    home = Path(environ("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    folders = {Path(target): ROOT / source for source, target, _ in mounts("grafana")}
    dashboard = json.loads((folders[home.parent] / home.name).read_text(encoding="utf-8"))
    assert dashboard["uid"] == "sidecar-sessions"
    provider = yaml.safe_load(
        (ROOT / "grafana/provisioning/dashboards/dashboards.yaml").read_text(encoding="utf-8")
    )
    assert Path(provider["providers"][0]["options"]["path"]) == home.parent


def test_nobody_reports_its_use() -> None:
    """Of those that would by default: Grafana, Loki and Tempo."""
    assert environ("grafana")["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
    assert "-reporting.enabled=false" in services()["loki"]["command"]
    tempo = yaml.safe_load((ROOT / "deploy/tempo/tempo.yaml").read_text(encoding="utf-8"))
    assert tempo["usage_report"] == {"reporting_enabled": False}


def test_a_first_value_counts() -> None:
    """Prometheus takes a series' start for its zero, and keeps exemplars."""
    (features,) = [one for one in services()["prometheus"]["command"] if one.startswith("--enable-feature=")]
    assert {*features.partition("=")[2].split(",")} == {
        "exemplar-storage",
        "created-timestamp-zero-ingestion",
    }
