"""`sidecar inject` over a corpus of manifests: valid, the same twice, and byte for byte what it was when it is taken out."""

import io
import resource
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sidecar import cli
from sidecar.inject import InjectError, inject, remove
from sidecar.inject.container import Wanted
from tests.inject.corpus import CORPUS

ROOT = Path(__file__).parents[2]
WANTED = Wanted(
    "example/sidecar:1",
    {"SIDECAR_UPSTREAM": "https://api.openai.com", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
    (("default", "openai"), ("anthropic", "anthropic"), ("gemini", "gcp.gemini"), ("local", None)),
)
VARIABLES = {
    "OPENAI_BASE_URL": "http://127.0.0.1:7070/v1",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:7070/anthropic",
    "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:7070/gemini",
}
OWN = [*sorted((ROOT / "deploy" / "kubernetes").rglob("*.yaml"))]
VERSIONS = ("1.29", kubernetes_validate.latest_version())


def loaded(text: str) -> list[dict[str, Any]]:
    """Every object, those of lists too."""
    found: list[dict[str, Any]] = []
    for document in yaml.safe_load_all(text):
        if document is not None:
            found += document["items"] if document["kind"] == "List" else [document]
    return found


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The spec of its pod, if it has one."""
    spec: dict[str, Any] = document.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    spec = spec.get("template", {}).get("spec", spec)
    return spec if "containers" in spec else None


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", CORPUS)
def test_in_twice_and_out(name: str, ending: str) -> None:
    """Twice gives the same; out gives what was there; every line that was there is still there, or kept as a comment."""
    text = CORPUS[name].replace("\n", ending)
    once = inject(text, WANTED)
    assert once.pods >= 1
    assert once.text != text
    assert inject(once.text, WANTED) == once
    assert remove(once.text) == text
    assert remove(text) == text
    other = inject(once.text, Wanted("example/sidecar:2", {}, (("default", None),)))
    assert "example/sidecar:1" not in other.text
    assert remove(other.text) == text
    left = iter(once.text.splitlines())
    assert all(any(line in one for one in left) for line in text.splitlines())
    if ending == "\r\n":
        assert once.text.count("\n") == once.text.count("\r\n")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CORPUS)
def test_valid_and_as_meant(name: str, version: str) -> None:
    """By the schemas; the sidecar comes first, the apps keep all they had and point at it, and nothing else changes."""
    before, after = loaded(CORPUS[name]), loaded(inject(CORPUS[name], WANTED).text)
    assert len(before) == len(after)
    for was, now in zip(before, after, strict=True):
        kubernetes_validate.validate(now, version, strict=True)
        pod, old = pod_of(now), pod_of(was)
        if pod is None or old is None:
            assert now == was
            continue
        sidecar = pod["initContainers"].pop(0)
        assert (sidecar["name"], sidecar["image"], sidecar["restartPolicy"]) == (
            "sidecar",
            "example/sidecar:1",
            "Always",
        )
        given = {one["name"]: one.get("value") for one in sidecar["env"]}
        assert given["SIDECAR_UPSTREAM"] == "https://api.openai.com"
        assert given["OTEL_SERVICE_NAME"] == f"{now['metadata']['name']}-sidecar"
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= sidecar.keys()
        assert pod["initContainers"] == (old.get("initContainers") or [])
        assert pod["terminationGracePeriodSeconds"] == old.get("terminationGracePeriodSeconds", 60)
        for app, was_app in zip(pod["containers"], old["containers"], strict=True):
            had = {one["name"]: one for one in was_app.get("env") or ()}
            has = {one["name"]: one for one in app.pop("env")}
            was_app.pop("env", None)
            assert app == was_app
            added = {variable: {"name": variable, "value": url} for variable, url in VARIABLES.items()}
            assert has == {**added, **had}
        for spec in (pod, old):
            for key in ("initContainers", "containers", "terminationGracePeriodSeconds"):
                spec.pop(key, None)
        assert pod == old


def test_a_variable_of_their_own_stays() -> None:
    """It is told, and so are pods that are left alone."""
    notes = inject(CORPUS["many documents"], WANTED).notes
    assert notes == ("db: container db sets OPENAI_BASE_URL itself, left alone",)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_our_own_manifests(path: Path) -> None:
    """Those that have the sidecar already are left alone; the rest goes in and out."""
    text = path.read_text()
    found = inject(text, WANTED)
    if found.pods == 0:
        assert found.text == text
    assert remove(found.text) == text


REFUSED = {
    "{{ .Values.image }}: [": "not YAML",
    'name: "never closed\n': "not YAML",
    "name: @reserved": "not YAML",
    '{"kind": "Pod", "spec": {"containers": [{"name": "a"}]}}': "braces or brackets",
    "kind: Pod\nspec:\n  containers: [{name: a}]\n": "containers of pod in braces",
    "kind: Pod\nspec:\n  containers:\n  - name: a\n    env: [{name: x,\n      value: y}]\n": "over several lines",
    "kind: Pod\nspec:\n  image: {{ .Values.image\n": "; a template has to be rendered first",
    "a: &a\n  env: [{name: x}]\nkind: Pod\nspec:\n  containers:\n  - <<: *a\n    name: a\n": "`<<` may give pod its env: write env",
    "a: &a {}\nkind: Pod\nspec:\n  containers: [{<<: *a}]\n": "in braces",
    "a: &a {}\nkind: Pod\nspec:\n  containers:\n  - {<<: *a, name: a}\n": "`<<` may give pod its env",
    "a: &a {}\nkind: Pod\nspec:\n  <<: *a\n  containers:\n  - name: a\n": "`<<` may give pod its terminationGracePeriodSeconds",
    "a: &a {}\nkind: Pod\nspec:\n  <<: *a\n  terminationGracePeriodSeconds: 9\n  containers:\n  - name: a\n": "its initContainers",
    "kind: Pod\nspec:\n  initContainers: [{name: x}]\n  containers:\n  - name: a\n": "initContainers of pod in braces",
}


@pytest.mark.parametrize("text,why", REFUSED.items())
def test_what_cannot_be_edited(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused, with the line, and nothing is written."""
    with pytest.raises(InjectError, match=why):
        inject(text, WANTED)
    path = tmp_path / "manifest.yaml"
    path.write_text(text)
    assert cli.main(["inject", "--in-place", "--upstream=http://h", str(path)], {}) == 1
    assert f"sidecar: {path}: line" in (said := capsys.readouterr().err)
    assert why in said
    assert path.read_text() == text


def test_nested_too_deeply() -> None:
    """Told, as all that cannot be edited."""
    with pytest.raises(InjectError, match="nested too deeply"):
        inject("[" * 3000, WANTED)


@pytest.mark.parametrize("address", ["0.0.0.0:9000", "[::]:9000", "10.1.2.3:9000"])
def test_probes_ask_the_health_port(
    address: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The one that the sidecar is told to listen on."""
    (path := tmp_path / "pod.yaml").write_text(CORPUS["deployment"])
    assert cli.main(["inject", str(path), "--upstream=http://h", f"--health-listen={address}"], {}) == 0
    made = loaded(capsysbinary.readouterr().out.decode())
    sidecar = made[0]["spec"]["template"]["spec"]["initContainers"][0]
    assert {one["name"]: one.get("value") for one in sidecar["env"]}["SIDECAR_HEALTH_LISTEN"] == address
    assert sidecar["ports"] == [{"name": "sidecar-health", "containerPort": 9000}]
    assert {sidecar[f"{one}Probe"]["httpGet"]["port"] for one in ("startup", "liveness", "readiness")} == {
        "sidecar-health"
    }


def test_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to install is told."""
    (path := tmp_path / "pod.yaml").write_text(CORPUS["deployment"])
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    assert cli.main(["inject", str(path), "--upstream=http://h"], {}) == 1
    assert "'.[inject]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "# sidecar-inject: begin\n",
        "# sidecar-inject: end\n",
        "# sidecar-inject: begin\n# sidecar-inject: begin\n",
    ],
)
def test_marks_that_lost_their_other_half(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InjectError):
        remove(text)


def test_nothing_to_put_it_into(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The text as it was, and that is told; empty pods and others' kinds too."""
    for text in (
        "",
        "---\n",
        "kind: Service\nspec: {}\n",
        "kind: Pod\nspec:\n  containers: []\n",
        "just text\n",
        "[1]\n",
    ):
        assert inject(text, WANTED).text == text

        class Stdin:
            """Standard input with these bytes."""

            buffer = io.BytesIO(text.encode())

        monkeypatch.setattr("sys.stdin", Stdin)
        assert cli.main(["inject", "--upstream=http://h"], {}) == 0
        assert "no pod to put it into" in capsys.readouterr().err


def test_as_a_command(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Flags become the sidecar's variables; files in place, and out again."""
    paths = []
    for number, text in enumerate(CORPUS.values()):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_bytes(text.encode())
    names = [str(path) for path in paths]
    flags = ["--image=i:2", "--otel=OTEL_SERVICE_NAME=named", "--listen=127.0.0.1:8080"]
    upstreams = ["--upstream=https://api.openai.com", "--upstreams=claude=https://api.anthropic.com"]
    assert cli.main(["inject", names[0], *flags, *upstreams], {"SIDECAR_NONSENSE": "of this machine"}) == 0
    made = capsysbinary.readouterr().out.decode()
    sidecar = loaded(made)[0]["spec"]["template"]["spec"]["initContainers"][0]
    given = {one["name"]: one.get("value") for one in sidecar["env"]}
    assert (given["SIDECAR_LISTEN"], given["OTEL_SERVICE_NAME"], sidecar["image"]) == (
        "127.0.0.1:8080",
        "named",
        "i:2",
    )
    assert "http://127.0.0.1:8080/claude" in made
    assert cli.main(["inject", *names, *upstreams], {}) == 2
    assert cli.main(["inject", "--in-place", *names, *upstreams], {}) == 0
    assert all(b"sidecar-inject" in path.read_bytes() for path in paths)
    assert cli.main(["inject", "--in-place", "--remove", *names], {}) == 0
    assert [path.read_bytes().decode() for path in paths] == [*CORPUS.values()]


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost, and nothing stays behind; the next time it works, with mode bits and links as they were."""
    files = [tmp_path / "small.yaml", tmp_path / "large.yaml"]
    texts = [CORPUS["deployment"], CORPUS["deployment"] + "# so much of it\n" * 1000]
    for path, text in zip(files, texts, strict=True):
        path.write_text(text)
        path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(files[1])
    arguments = ["inject", "--in-place", "--upstream=http://h", str(files[0]), str(link)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        assert cli.main(arguments, {}) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in capsys.readouterr().err
    assert [path.read_text() for path in files] == texts
    assert sorted(tmp_path.iterdir()) == sorted([*files, link])
    assert cli.main(arguments, {}) == 0
    assert link.is_symlink()
    for path, text in zip(files, texts, strict=True):
        assert "sidecar-inject" in path.read_text() != text
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("removing", [[], ["--remove"], ["--in-place"]])
@pytest.mark.parametrize("flags", [[], ["--upstream=http://h"], ["--upstream=nonsense"]])
@pytest.mark.parametrize(
    "content,why",
    [
        (None, "No such file or directory; give manifests as files, or on standard input"),
        ("", "Is a directory; give manifests as files, or on standard input"),
        (b"\xff", "this is not text in UTF-8; give manifests as files, or on standard input"),
    ],
)
def test_what_cannot_be_read(
    content: bytes | str | None,
    why: str,
    flags: list[str],
    removing: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file is told by its name before settings are, and what to give."""
    path = tmp_path / "manifest.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
    assert cli.main(["inject", str(path), *flags, *removing], {}) == 1
    assert capsys.readouterr().err == f"sidecar: {path}: {why}\n"


def test_every_file_that_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At once; and what is there is not written."""
    (there := tmp_path / "pod.yaml").write_text(text := CORPUS["deployment"])
    names = [str(tmp_path / "a"), str(there), str(tmp_path / "b")]
    assert cli.main(["inject", "--in-place", "--upstream=http://h", *names], {}) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [names[0], names[2]]
    assert there.read_text() == text


@pytest.mark.parametrize(
    "arguments,told",
    [
        (["{file}"], "--upstream=https://"),
        (["{file}", "{file}"], "several files need --in-place"),
        (["--in-place", "--upstream=http://h"], "--in-place needs the files to write"),
        (["{file}", "--upstream=http://h", "--otel=OTEL_SERVICE_NAME"], "--otel OTEL_SERVICE_NAME: "),
        (["{file}", "--upstream=http://h", "--otel=PATH=/x"], "--otel PATH=/x: "),
        (["{file}", "--upstream=http://h", "--health-listen=127.0.0.1:9000"], "--health-listen: probes come"),
        (["{file}", "--upstream=http://h", "--health-listen="], "--health-listen: probes come"),
        (["{file}", "--upstream=http://h", "--health-listen=0.0.0.0:0"], "cannot be 0"),
        (["{file}", "--upstream=http://h", "--listen=127.0.0.1:0"], "cannot be 0"),
        (["{file}", "--upstream=http://h", "--listen=127.0.0.1:7072"], "a port of its own"),
        (["{file}", "--upstream=http://h", "--admin-listen=127.0.0.1:7072"], "a port of its own"),
    ],
)
def test_how_it_is_called(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is told, with 2, and nothing is written."""
    (path := tmp_path / "pod.yaml").write_text(text := CORPUS["deployment"])
    assert cli.main(["inject", *(one.format(file=path) for one in arguments)], {}) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert (said.out, path.read_text()) == ("", text)
