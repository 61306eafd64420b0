"""The image: what the Dockerfile promises, and that the sidecar keeps to it on a file system nobody can write to.

No container engine is needed; what an engine would do with the file is not tried here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar import cli, settings
from sidecar.testing import OtlpSink, ScriptedUpstream, chat_completion, chat_request, exchange, json_answer

ROOT = Path(__file__).parents[2]
FINAL = ("sidecar", "demo")

Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage, the stage's own `FROM` first; lines that go on are joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if line[:1] != "#"))
    found: dict[str, list[Instruction]] = {"": []}
    for line in filter(None, lines.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[next(reversed(found))].append((word, rest.strip()))
    return found


def chain(name: str) -> list[Instruction]:
    """The instructions that make a stage, those of the stages it builds on included."""
    found = stages()
    own = found[name]
    base = own[0][1].split(" AS ")[0]
    return [*(chain(base) if base in found else []), *own]


def values(name: str, word: str) -> list[str]:
    """What an instruction says in a stage and those below it, in order."""
    return [rest for instruction, rest in chain(name) if instruction == word]


def test_the_base_is_pinned_and_tried() -> None:
    """One Python for every stage, to the patch, of a version that the package says it was tested with."""
    ((_, argument),) = stages()[""]
    version = re.fullmatch(r"PYTHON=(3\.\d+)\.\d+-slim-[a-z]+", argument)
    assert version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]
    outside = [own[0][1].split(" AS ")[0] for own in list(stages().values())[1:]]
    assert {base for base in outside if base not in stages()} == {"python:${PYTHON}"}


@pytest.mark.parametrize("name", FINAL)
def test_how_it_runs(name: str) -> None:
    """Not root, told as a number; its own health check; a command of ours that exists; nothing of the build."""
    user = values(name, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    (check,) = values(name, "HEALTHCHECK")
    assert json.loads(check[check.index("CMD ") + 4 :]) == ["sidecar", "health"]
    assert json.loads(values(name, "ENTRYPOINT")[-1]) == ["sidecar"]
    copied = [rest.split() for instruction, rest in chain(name) if instruction == "COPY"]
    assert [source for source, *_ in copied] == [f"--from={'build' if name == 'sidecar' else 'build-demo'}"]
    assert not [line for line in values(name, "RUN") if "pip install" in line]


def test_the_default_is_the_sidecar() -> None:
    """A build without a target gives the last stage, and a container without a command serves."""
    assert list(stages())[-1] == "sidecar"
    assert json.loads(values("sidecar", "CMD")[-1]) == ["run"]
    ports = {address.rpartition(":")[2] for address in ("127.0.0.1:7070", "127.0.0.1:7071")}
    defaults = {row.variable: row.default for row in settings.TABLE}
    assert {defaults["SIDECAR_LISTEN"][-4:], defaults["SIDECAR_ADMIN_LISTEN"][-4:]} == ports
    assert {*values("sidecar", "EXPOSE")[0].split()} >= ports


def test_every_package_has_its_hash() -> None:
    """Each install reads a lock with hashes and takes wheels only; what is ours is built from what is there."""
    installs = [
        shlex.split(step)
        for line in values("build-demo", "RUN")
        for step in line.split("&&")
        if " install " in step
    ]
    locks = []
    for words in installs:
        if "-r" in words:
            assert {"--require-hashes", "--no-deps", "--only-binary"} <= {*words}
            locks.append(words[words.index("-r") + 1])
        else:
            assert words[-2:] == ["--no-deps", "/wheels/*.whl"]
    assert locks == ["requirements/build.lock", "requirements/run.lock", "requirements/demo.lock"]
    (wheel,) = (line for line in values("build", "RUN") if "pip wheel" in line)
    assert "--no-build-isolation" in wheel


def test_what_is_copied_is_sent() -> None:
    """Every source of a COPY exists and is let through to the builder, and nothing else is."""
    ignore = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert ignore[0] == "*"
    assert ignore[-1] == "**/__pycache__"
    let_through = {path for line in ignore[1:-1] for path in ROOT.glob(line.removeprefix("!"))}
    copied = {
        ROOT / source
        for name in ("build", "build-demo")
        for rest in values(name, "COPY")
        for source in rest.split()[:-1]
    }
    assert all(path.exists() for path in copied)
    assert copied <= let_through
    assert {path for path in let_through - copied if path.suffix != ".lock"} == set()


def read_only(*command: str) -> list[str]:
    """The command on a root file system that is read-only, in a mount namespace of its own."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    return [*unshare, "sh", "-ec", 'mount -o remount,bind,ro /; exec "$@"', "sh", *command]


def can_unshare() -> bool:
    """Whether this machine lets us have such a namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(read_only("true"), capture_output=True, check=False).returncode == 0


@contextmanager
def sidecar_without_a_disk(sink: OtlpSink, upstream: ScriptedUpstream) -> Iterator[tuple[int, str]]:
    """A sidecar that can write nowhere: its data port and its admin port's address. It must end with 0."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "SIDECAR_UPSTREAM": upstream.url,
        "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        **sink.environ(),
    }
    with subprocess.Popen(
        read_only(sys.executable, "-m", "sidecar", "run"), env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if '"sidecar.listening"' in line:
                break
        assert said, "it ended"
        listening = json.loads(said[-1])
        yield int(listening["data"].rpartition(":")[2]), listening["admin"]
        process.terminate()
        rest, _ = process.communicate(timeout=120)
        assert process.returncode == 0, rest


@pytest.mark.skipif(not can_unshare(), reason="needs a mount namespace of its own (unshare)")
def test_a_read_only_root_is_enough(sink: OtlpSink, upstream: ScriptedUpstream) -> None:
    """It starts, serves, exports, tells its health and ends, with no folder that it could write to, /tmp included."""
    probe = read_only("touch", "/tmp/a-file-that-cannot-be")
    assert subprocess.run(probe, capture_output=True, check=False).returncode != 0
    upstream.answer(json_answer(chat_completion()))
    with sidecar_without_a_disk(sink, upstream) as (port, admin):
        answer = exchange(port, chat_request(headers=(b"X-Sidecar-Session-Id: read-only",)))
        assert answer.status == 200
        assert cli.main(["health", f"http://{admin}/readiness"], {}) == 0
    ended = sink.span(name="session", attributes={"session.id": "read-only"})
    assert ended.attributes["sidecar.session.source"] == "own_header"
