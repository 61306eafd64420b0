"""docker-compose.yml in the programs it is for: Docker Compose where there is one, else the parser it is made of.

Neither needs an engine. Compose comes from the PATH (`docker compose`, `docker-compose`) or from the stack test's
cache; the parser, compose-go, from the cache.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
CACHE = Path(os.environ.get("STACK_CACHE") or ROOT / ".cache" / "stack")

SECRETS = {"SIDECAR_ADMIN_TOKEN": "a-token-of-enough-length", "GRAFANA_PASSWORD": "a-password"}


def ran(*command: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command with the secrets, or what else is given, in its environment."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    given = {**kept, **(SECRETS if environ is None else environ)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, check=False)


@cache
def compose() -> tuple[str, ...] | None:
    """Docker Compose, if there is one."""
    here: list[tuple[str, ...]] = [(str(CACHE / "docker-compose"),)]
    here += [(path,) for path in [shutil.which("docker-compose")] if path]
    here += [(path, "compose") for path in [shutil.which("docker")] if path]
    for command in here:
        if Path(command[0]).is_file() and ran(*command, "version").returncode == 0:
            return command
    return None


def parser() -> str | None:
    """compose-go's command line, if there is one."""
    path = CACHE / "compose-go"
    return str(path) if path.is_file() else None


needs_compose = pytest.mark.skipif(compose() is None, reason="no Docker Compose here, nor in the cache")
needs_parser = pytest.mark.skipif(parser() is None, reason="no compose-go in the stack test's cache")


def configured(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `docker compose config` says of the file."""
    command = compose()
    assert command is not None
    return ran(*command, "--file", str(FILE), "config", *arguments)


@needs_compose
def test_docker_compose_takes_it() -> None:
    """Without a warning; the model has every service, and what it publishes stands on loopback."""
    done = configured("--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    model: dict[str, Any] = json.loads(done.stdout)
    published = [port for service in model["services"].values() for port in service.get("ports", [])]
    assert len(model["services"]) == 9
    assert len(published) == 7
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert all("limits" in service["deploy"]["resources"] for service in model["services"].values())


@needs_compose
@pytest.mark.parametrize("missing", [*SECRETS])
def test_docker_compose_asks_for_the_secrets(missing: str) -> None:
    """Nothing starts without one of them, and the message leads to the commands that make them."""
    command = compose()
    assert command is not None
    given = {name: value for name, value in SECRETS.items() if name != missing}
    done = ran(*command, "--file", str(FILE), "--env-file", os.devnull, "config", "--quiet", environ=given)
    assert done.returncode != 0
    assert f"{missing} is missing a value" in done.stderr
    assert "the two commands at the top of this file" in done.stderr


@needs_parser
def test_the_parser_takes_it(tmp_path: Path) -> None:
    """By the schema of the Compose specification; a field that there is not it refuses."""
    path = parser()
    assert path is not None
    done = ran(path, "-no-interpolation", "-format", "json", str(FILE))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["services"]) == 9
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("read_only:", "read_onyl:"), encoding="utf-8")
    refused = ran(path, "-no-interpolation", str(wrong))
    assert refused.returncode != 0
    assert "read_onyl" in refused.stderr
