"""Every code block of the documents, run or checked: each is claimed by exactly one test.

Shell lines run as they stand, only with other ports and a scripted provider; what a block of Python prints is
compared with the comments beside it. A block that nobody claims fails.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from sidecar import settings
from sidecar.cli import main, read_settings
from sidecar.demo.conversations import STORIES
from sidecar.picture.drawing import MARKS
from sidecar.testing import (
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
)

ROOT = Path(__file__).parents[1]

EXAMPLES = {
    "picture": ("docs/commands.md", " sidecar demo · round 1"),
    "verbs": ("README.md", "make run     #"),
    "base url": ("README.md", "export OPENAI_BASE_URL=http://127.0.0.1:7070/v1\n"),
    "make run upstream": ("README.md", "make run UPSTREAM="),
    "install": ("README.md", "pip install ."),
    "upstreams": ("README.md", "sidecar run --upstream https://api.openai.com \\"),
    "collector": ("README.md", "export OTEL_EXPORTER_OTLP_ENDPOINT"),
    "compose": ("README.md", "printf 'SIDECAR_ADMIN_TOKEN="),
    "block": ("README.md", "from sidecar.client import OpenAI"),
    "hook": ("docs/clients.md", "import anthropic"),
    "sessions in python": ("docs/clients.md", "from openai import OpenAI"),
    "sessions in curl": ("README.md", "curl http://127.0.0.1:7070/v1/chat/completions"),
    "variables": ("README.md", "export OPENAI_BASE_URL=http://127.0.0.1:7070/v1  "),
    "codex": ("docs/clients.md", "model_provider = "),
    "opencode": ("docs/clients.md", '{\n  "$schema"'),
    "admin": ("docs/admin.md", "curl http://127.0.0.1:7071/stats"),
    "library": ("docs/library.md", "from sidecar import SessionManager"),
    "testing": ("docs/library.md", "from sidecar.testing import OtlpSink"),
    "kubernetes": ("docs/kubernetes.md", "spec:"),
    "kubernetes overlay": ("docs/kubernetes.md", "docker build --target sidecar"),
    "check": ("docs/commands.md", "sidecar check "),
    "explain": ("docs/commands.md", "sidecar explain "),
    "trace links": ("docs/live.md", "export SIDECAR_TRACE_LINKS="),
    "alert links": ("docs/alerts.md", "global:"),
    "rooms": ("docs/architecture.md", "   app "),
    "to a collector": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"),
    "to jaeger": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317"),
    "to prometheus": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
    "by prometheus": ("docs/backends.md", "scrape_configs:"),
    "to phoenix": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:6006"),
    "to langfuse": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_ENDPOINT=https://cloud"),
    "to grafana cloud": ("docs/backends.md", "export OTEL_EXPORTER_OTLP_ENDPOINT=https://otlp"),
}
"""By name: the document, and how the block begins."""


def blocks() -> list[tuple[str, str]]:
    """Every fenced block: its document, and its text."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    fence = re.compile(r"^(```+)[^\n`]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
    return [
        (path.relative_to(ROOT).as_posix(), found[2])
        for path in documents
        for found in fence.finditer(path.read_text(encoding="utf-8"))
    ]


def example(name: str) -> str:
    """The text of a block."""
    document, beginning = EXAMPLES[name]
    (text,) = (text for where, text in blocks() if where == document and text.startswith(beginning))
    return text


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, each as its words; continued lines are joined, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [split for line in lines if (split := shlex.split(line, comments=True))]


def environ(**more: str) -> dict[str, str]:
    """The environment without proxies and without what is set for us."""
    ours = ("SIDECAR_", "OTEL_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "MAKE", "MFLAGS", "ARGS")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and not name.lower().endswith("_proxy")
    }
    return {**kept, **more}


def run(command: list[str], **more: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=ROOT, env=environ(**more), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(text: str, **more: str) -> None:
    """Runs a block of Python; each `print(...)  # value` must print that value."""
    expected = re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)
    assert run([sys.executable, "-W", "error", "-c", text], **more).splitlines() == expected


def made(*goals: str) -> list[list[str]]:
    """The commands that `make` would run."""
    return commands(run(["make", "--dry-run", *goals]))


def start(command: list[str], **more: str) -> RunningSidecar:
    """A sidecar by a command of the documents, on ports of its own."""
    program, *arguments = command
    if arguments[:2] == ["-m", "sidecar"]:
        program, *arguments = arguments[1:]
    assert Path(program).name == "sidecar"
    return RunningSidecar(arguments=arguments, environ=more)


def exported(text: str, address: str, here: str, **given: str) -> dict[str, str]:
    """Our variables after a shell block, in which an address is replaced by one of ours."""
    assert address in text
    said = run(["sh", "-ec", f"{text.replace(address, here)}env -0"], **given)
    told = dict(line.partition("=")[::2] for line in said.split("\0"))
    return {name: value for name, value in told.items() if name.startswith(("OTEL_", "SIDECAR_"))}


def test_every_block_is_claimed_once() -> None:
    """Each block is one example, and each example is taken by one test."""
    claims = Counter(
        name
        for document, text in blocks()
        for name, (where, beginning) in EXAMPLES.items()
        if where == document and text.startswith(beginning)
    )
    assert claims == Counter({*EXAMPLES})
    assert len(blocks()) == len(EXAMPLES), "a block that no example names"
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "example"
    ]
    assert Counter(ast.literal_eval(call.args[0]) for call in calls) == Counter({*EXAMPLES})


def test_picture() -> None:
    """It has the lanes of the demo's conversations, marks and words as they are drawn, and sums that add up."""
    picture = example("picture")
    assert max(map(len, picture.splitlines())) <= 80
    assert {*re.findall(r"^ ([a-z-]+)-1 ", picture, re.MULTILINE)} == {*STORIES}
    marks = {outcome: mark for outcome, (mark, _) in MARKS.items()}
    counted = re.findall(rf"([{''.join(marks.values())}]) (\d+) ([a-z ]+?)(?=   |\n)", picture)
    assert all(marks[word.replace(" ", "_")] == mark for mark, _, word in counted)
    settled = sum(int(number) for _, number, _ in counted)
    proof = re.search(r"(\d+) started = (\d+) settled \+ (\d+) in flight", picture)
    assert proof
    assert [int(number) for number in proof.groups()] == [settled, settled, 0]
    assert picture.rstrip().endswith("export OPENAI_BASE_URL=http://127.0.0.1:7070/v1")


def test_verbs() -> None:
    """`make run` is the demo, `make test` is the suite."""
    verbs = commands(example("verbs"))
    assert verbs == [["make", "run"], ["make", "test"]]
    program, *arguments = made("run")[-1]
    assert (Path(program).name, arguments) == ("python", ["-m", "sidecar", "demo"])
    assert "pytest" in made("test")[-1]


def test_base_url(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """The line points the official client at the default data port, and nothing else is needed."""
    ((export, assignment),) = commands(example("base url"))
    name, _, value = assignment.partition("=")
    listen = next(row for row in settings.TABLE if row.variable == "SIDECAR_LISTEN").default
    assert (export, value) == ("export", f"http://{listen}/v1")
    upstream.answer(json_answer(chat_completion("Hello")))
    ask = (
        "from openai import OpenAI\n"
        "client = OpenAI()\n"
        'said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])\n'
        "client.close()\n"
        "print(said.choices[0].message.content)  # Hello\n"
    )
    run_python(ask, **{name: value.replace(listen, f"127.0.0.1:{sidecar.port}"), "OPENAI_API_KEY": "sk-test"})
    assert upstream.request().path == "/v1/chat/completions"


def test_make_run_upstream() -> None:
    """With an upstream it is the plain sidecar, which starts."""
    ((_, *goals),) = commands(example("make run upstream"))
    with start(made(*goals)[-1]) as sidecar:
        assert sidecar.admin("GET", "/readiness")[0] == 200


def test_install() -> None:
    """The package has a console command and the README as its text; the command starts a sidecar."""
    install, serve = commands(example("install"))
    assert install == ["pip", "install", "."]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"sidecar": "sidecar.cli:main"}
    assert (ROOT / project["readme"]).is_file()
    with start(serve) as sidecar:
        assert sidecar.admin("GET", "/readiness")[0] == 200


def test_upstreams(upstream: ScriptedUpstream) -> None:
    """Named upstreams are reached by name, and the name is taken off."""
    (command,) = commands(example("upstreams"))
    here = [word.replace("https://api.anthropic.com", upstream.url) for word in command]
    with start(here) as sidecar:
        exchange(sidecar.port, request_bytes("POST", "/anthropic/v1/messages", body=b"{}"))
    assert upstream.request().path == "/v1/messages"


def test_collector(upstream: ScriptedUpstream) -> None:
    """With an endpoint spans leave, under the service's name."""
    *exports, command = commands(example("collector"))
    told = dict(word.partition("=")[::2] for _, word in exports)
    here = [word.replace("https://api.openai.com", upstream.url) for word in command]
    with OtlpSink() as sink:
        told["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.endpoint
        with start(here, **told) as sidecar:
            exchange(sidecar.port, chat_request())
        assert sink.span(kind="SERVER").resource["service.name"] == told["OTEL_SERVICE_NAME"]
        assert sink.accepted("metrics") > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_compose(tmp_path: Path) -> None:
    """The first command makes the two secrets that docker-compose.yml asks for, which git does not see."""
    make_secrets, start_all = example("compose").splitlines()
    subprocess.run(["sh", "-ec", make_secrets], cwd=tmp_path, check=True)
    text = (tmp_path / ".env").read_text(encoding="utf-8")
    secrets = dict(line.split("=") for line in text.splitlines())
    assert all(re.fullmatch(r"[0-9a-f]{32}", value) for value in secrets.values())
    file = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert {*secrets} == {*re.findall(r"\$\{(\w+):\?", file)}
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert start_all == "docker compose up"


def named_by_example(sink: OtlpSink, upstream: ScriptedUpstream, conversation: str) -> None:
    """Session and conversation are on the span, and the provider never sees our headers."""
    span = sink.span(kind="SERVER", attributes={"sidecar.conversation.id": conversation})
    assert span.attributes["session.id"] == "visit-7"
    assert span.attributes["sidecar.outcome"] == "completed"
    assert not [name for name, _ in upstream.request().fields if name.lower().startswith(b"x-sidecar-")]


def test_block(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """The block names the call in it; the client finds the sidecar by the sidecar's own variable."""
    upstream.answer(json_answer(chat_completion()))
    text = example("block") + "client.close()\n"
    run_python(text, SIDECAR_LISTEN=f"127.0.0.1:{sidecar.port}", OPENAI_API_KEY="sk-test")
    named_by_example(sink, upstream, "trains")


def test_hook(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """The hook does the same for another client."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": "end_turn",
    }
    upstream.answer(json_answer(message))
    text = example("hook").replace(":7070", f":{sidecar.port}") + "client.close()\n"
    run_python(text, ANTHROPIC_API_KEY="sk-test")
    named_by_example(sink, upstream, "boats")


def test_sessions_in_python(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """So do the header fields."""
    upstream.answer(json_answer(chat_completion()))
    text = example("sessions in python") + "client.close()\n"
    run_python(text, OPENAI_BASE_URL=f"{sidecar.url}/v1", OPENAI_API_KEY="sk-test")
    named_by_example(sink, upstream, "trains-back")


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(text: str, sidecar: RunningSidecar) -> str:
    """What a shell block prints, with the ports of this sidecar."""
    here = text.replace(":7070", f":{sidecar.port}").replace(":7071", f":{sidecar.admin_port}")
    return run(
        ["sh", "-ec", here.replace("curl ", "curl --silent --show-error --fail ")], OPENAI_API_KEY="sk-test"
    )


@needs_curl
def test_sessions_in_curl(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """The same by curl; the key goes through."""
    upstream.answer(json_answer(chat_completion("A fine one.")))
    said = json.loads(curl(example("sessions in curl"), sidecar))
    assert said["choices"][0]["message"]["content"] == "A fine one."
    span = sink.span(kind="SERVER", attributes={"sidecar.conversation.id": "hotels"})
    assert span.attributes["session.id"] == "visit-7"
    assert upstream.request().get("authorization") == b"Bearer sk-test"


def test_variables(upstream: ScriptedUpstream) -> None:
    """Each client reads its variable, and reaches its own provider with the path and the key it has for it."""
    told = {
        name: value for _, word in commands(example("variables")) for name, _, value in [word.partition("=")]
    }
    named = {"UPSTREAMS": ",".join(f"{name}={upstream.url}" for name in ("anthropic", "gemini"))}
    ask = (
        "import anthropic, openai\n"
        "from google import genai\n"
        "with openai.OpenAI() as client:\n"
        "    client.models.with_raw_response.list()\n"
        "with anthropic.Anthropic() as client:\n"
        "    client.models.with_raw_response.list()\n"
        "with genai.Client() as client:\n"
        "    client.models.get(model='gemini')\n"
    )
    upstream.answer_always(json_answer({}))
    keys = {f"{name.upper()}_API_KEY": f"sk-{name}" for name in ("openai", "anthropic", "gemini")}
    with RunningSidecar(upstream=upstream.url, settings=named) as sidecar:
        here = {name: value.replace(":7070", f":{sidecar.port}") for name, value in told.items()}
        run_python(ask, **here, **keys)
    assert [request.path for request in upstream.requests] == [
        "/v1/models",
        "/v1/models",
        "/v1/models/gemini",
    ]
    sent = [request.get("authorization") or request.get("x-goog-api-key") for request in upstream.requests]
    assert sent == [b"Bearer sk-openai", b"Bearer sk-anthropic", b"sk-gemini"]


def test_agents() -> None:
    """The files are what the agents read: TOML and JSON, with the default data port in the place that was seen to work."""
    listen = next(row for row in settings.TABLE if row.variable == "SIDECAR_LISTEN").default
    codex = tomllib.loads(example("codex"))
    provider = codex["model_providers"][codex["model_provider"]]
    opencode = json.loads(example("opencode"))
    assert provider["wire_api"] == "responses"
    assert (
        provider["base_url"] == opencode["provider"]["openai"]["options"]["baseURL"] == f"http://{listen}/v1"
    )


@needs_curl
def test_admin(sidecar: RunningSidecar, upstream: ScriptedUpstream) -> None:
    """Each document comes; nothing is in flight any more, and the session is found by its id."""
    upstream.answer(json_answer(chat_completion()))
    exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: visit-7",)))
    said = curl(example("admin"), sidecar)
    documents = []
    while said:
        document, length = json.JSONDecoder().raw_decode(said)
        documents.append(document)
        said = said[length:].lstrip()
    stats, in_flight, session = documents
    assert in_flight == {"sessions": [], "requests": []}
    assert stats["requests"]["started"] == stats["requests"]["settled"] + stats["requests"]["in_flight"]
    assert session["id"] == "visit-7"


def test_kubernetes() -> None:
    """The example is the base's app, in short: the same fields with the same values, but for names and images."""
    (base,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/app.yaml").read_text(encoding="utf-8"))
    told = yaml.safe_load(example("kubernetes"))["spec"]["template"]["spec"]
    full = base["spec"]["template"]["spec"]
    assert told["terminationGracePeriodSeconds"] == full["terminationGracePeriodSeconds"]
    differs = {"image", "env"}
    for ours, theirs in (
        (told["initContainers"], full["initContainers"]),
        (told["containers"], full["containers"]),
    ):
        ((short,), (whole,)) = (ours, theirs)
        for field in short.keys() - differs - {"livenessProbe", "readinessProbe"}:
            assert short[field] == whole[field]
        for probe in short.keys() & {"livenessProbe", "readinessProbe"}:
            assert short[probe].items() <= whole[probe].items()
        assert {one["name"] for one in short["env"]} <= {one["name"] for one in whole["env"]}
    environ = {one["name"]: one["value"] for one in told["initContainers"][0]["env"]}
    loaded = read_settings({}, environ)
    assert loaded.health_listen is not None
    assert {"name": "health", "containerPort": loaded.health_listen.port} in told["initContainers"][0][
        "ports"
    ]
    assert told["containers"][0]["env"][0]["value"] == f"http://{loaded.listen}/v1"
    assert told["terminationGracePeriodSeconds"] > loaded.shutdown_timeout


def test_kubernetes_overlay() -> None:
    """The images that are built are those that the overlay names, from targets that the Dockerfile has."""
    *builds, apply = commands(example("kubernetes overlay"))
    folder = ROOT / apply[-1]
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    named = {f"{image['newName']}:{image['newTag']}" for image in overlay["images"]}
    file = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for program, verb, _, target, _, tag, context in builds:
        assert (program, verb, context) == ("docker", "build", ".")
        assert f" AS {target}\n" in file
        named.remove(tag)
    assert named == set()
    assert apply[:3] == ["kubectl", "apply", "--server-side"]


KEYS = {
    "LANGFUSE_PUBLIC_KEY": "pk",
    "LANGFUSE_SECRET_KEY": "sk",
    "GRAFANA_INSTANCE": "1234",
    "GRAFANA_TOKEN": "glc_token",
}
EVERYTHING = {"traces", "metrics", "logs"}


@pytest.mark.parametrize(
    "text,address,signals,headers",
    [
        (example("to a collector"), "http://127.0.0.1:4318", EVERYTHING, {}),
        (example("to jaeger"), "http://127.0.0.1:4317", {"traces"}, {}),
        (example("to prometheus"), "http://127.0.0.1:9090", {"metrics"}, {}),
        (example("to phoenix"), "http://127.0.0.1:6006", {"traces"}, {}),
        (
            example("to langfuse"),
            "https://cloud.langfuse.com",
            {"traces"},
            {"authorization": "Basic cGs6c2s=", "x-langfuse-ingestion-version": "4"},
        ),
        (
            example("to grafana cloud"),
            "https://otlp-gateway-prod-eu-west-0.grafana.net",
            EVERYTHING,
            {"authorization": "Basic MTIzNDpnbGNfdG9rZW4="},
        ),
    ],
    ids=["collector", "jaeger", "prometheus", "phoenix", "langfuse", "grafana cloud"],
)
def test_to_a_back_end(
    upstream: ScriptedUpstream, text: str, address: str, signals: set[str], headers: dict[str, str]
) -> None:
    """What the back end takes leaves, and nothing else, with the fields that it asks for; no variable is complained of."""
    with OtlpSink("grpc" if "=grpc" in text else "http/protobuf") as sink:
        told = exported(text, address, sink.endpoint, **KEYS)
        with RunningSidecar(upstream=upstream.url, environ=told) as sidecar:
            exchange(sidecar.port, chat_request())
        assert {signal for signal in EVERYTHING if sink.accepted(signal)} == signals
        assert all(headers.items() <= call.headers.items() for call in sink.calls)
    assert [line for line in sidecar.logs if line["level"] in {"warning", "error"}] == []


def test_by_prometheus() -> None:
    """The address that is asked is the admin port's."""
    (scraped,) = yaml.safe_load(example("by prometheus"))["scrape_configs"]
    listen = next(row for row in settings.TABLE if row.variable == "SIDECAR_ADMIN_LISTEN").default
    assert scraped["static_configs"] == [{"targets": [listen]}]


def test_alert_links() -> None:
    """The two addresses are those that the rules ask for, and none of them stays on an alert."""
    told = yaml.safe_load(example("alert links"))
    rules = (ROOT / "grafana/alerts/sidecar.rules.yaml").read_text(encoding="utf-8")
    assert {*told["global"]["external_labels"]} == {*re.findall(r"\$externalLabels\.(\w+)", rules)}
    (dropped,) = told["alerting"]["alert_relabel_configs"]
    assert {*dropped["regex"].split("|")} == {*told["global"]["external_labels"]}


def test_check(upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str]) -> None:
    """It looks at the upstream that is named."""
    ((program, *arguments),) = commands(example("check"))
    assert (program, arguments[-1]) == ("sidecar", "https://api.openai.com")
    upstream.answer(json_answer({}, status=401))
    free = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--no-collector"]
    assert main([*arguments[:-1], upstream.url, *free], {}) == 0
    assert "answers 401" in capsys.readouterr().out


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """The call of the example is a chat in the session that it names."""
    ((program, *arguments),) = commands(example("explain"))
    assert program == "sidecar"
    assert main(arguments, {}) == 0
    said = capsys.readouterr().out
    assert "https://api.openai.com/v1/chat/completions" in said
    assert re.search("^session +visit-7   by own_header$", said, re.MULTILINE)


def test_trace_links() -> None:
    """The setting is taken as it stands."""
    ((_, assignment),) = commands(example("trace links"))
    name, _, value = assignment.partition("=")
    read = settings.load({}, {"SIDECAR_UPSTREAM": "http://127.0.0.1:1", name: value})
    assert read.trace_links == {"Jaeger": "http://127.0.0.1:16686/trace/{trace_id}"}


def test_library() -> None:
    """The session manager says what the comments say."""
    run_python(example("library"))


def test_testing() -> None:
    """So do the tools for tests."""
    run_python(example("testing"))


def test_rooms_in_the_picture() -> None:
    """Every room and module in the architecture's picture exists."""
    picture = example("rooms")
    rooms = re.findall(r"\b([a-z]+)/(?= )", picture)
    assert {*rooms} == {"proxy", "core", "apis", "telemetry", "admin"}
    for module in ("client_side", "flow", "wire", "connect", "upstream_side", "bodies", "observer"):
        assert module in picture
        assert (ROOT / "sidecar" / "proxy" / f"{module}.py").is_file()
    for module in (
        "core/sessions",
        "core/identity",
        "core/exchange",
        "telemetry/recorder",
        "telemetry/ledger",
    ):
        assert module.partition("/")[2] in picture
        assert (ROOT / "sidecar" / f"{module}.py").is_file()
