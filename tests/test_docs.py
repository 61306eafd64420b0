"""What the documents say, held against the code in both directions: tables, names, links.

Nothing is listed that is not there, and nothing is there that is not listed. What the examples do is
`test_docs_examples.py`. A table that is out of date is told whole, ready to be pasted.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast, get_args

import pytest

from sidecar import apis, cli, errors, settings
from sidecar.admin import AdminView, create_admin_app
from sidecar.core import identity
from sidecar.core.facts import Anomaly, Outcome, Phase
from sidecar.core.threads import Relation
from sidecar.core.turns import DEFAULT_FORMAT, FORMAT_FIELDS, SessionStats
from sidecar.proxy import wire
from sidecar.telemetry import metrics, otel_settings
from sidecar.telemetry.ledger import State
from sidecar.telemetry.metrics import MetricKind
from sidecar.telemetry.names import ALL_ATTRIBUTES, ALL_EVENTS
from sidecar.telemetry.series import KINDS, PHASES, RESULTS
from sidecar.testing import (
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    chat_chunk,
    chat_request,
    exchange,
    free_port,
    request_bytes,
    sse,
)
from tests.live.boards import Looking, empty_board
from tests.stack import build
from tests.telemetry import environment

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SETTINGS = ROOT / "docs" / "settings.md"
SIGNALS = ROOT / "docs" / "signals.md"
SESSIONS = ROOT / "docs" / "sessions.md"
CLIENTS = ROOT / "docs" / "clients.md"
COMMANDS = ROOT / "docs" / "commands.md"
LIBRARY = ROOT / "docs" / "library.md"
INDEX = ROOT / "docs" / "README.md"
TELEMETRY = ROOT / "docs" / "telemetry.md"
ADMIN = ROOT / "docs" / "admin.md"
WIRE = ROOT / "docs" / "wire.md"
STACK = ROOT / "docs" / "stack.md"
BACKENDS = ROOT / "docs" / "backends.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]

FLAGS = {setting.flag for setting in settings.TABLE} | {"--once", "--seed", "--version", "--help"}
FLAGS |= {
    "--json",
    "--no-collector",
    "--until",
    "--timeout",
    "--url",
    "--limit",
    "--per",
    "--in-place",
    "--remove",
    "--otel",
    "--image",
}
FLAGS |= {"--quick", "--rows", "--columns", "--rounds"}  # of the benchmark, see docs/benchmark.md
FLAGS |= {"--enable-feature"}  # of Prometheus

Row = tuple[str, ...]


def named(path: Path) -> str:
    """The document's name in a test's id."""
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """The document without its code blocks."""
    return re.sub(r"^(```+).*?^\1$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def section(path: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    parts = re.split(r"^(#+ .+)$", prose(path), flags=re.MULTILINE)
    found = [
        text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title.lstrip("# ") == heading
    ]
    assert len(found) == 1, f"{named(path)} has {len(found)} sections {heading!r}"
    return found[0]


def table(path: Path, heading: str) -> list[Row]:
    """The rows of the one table under a heading; the first is its head."""
    lines = [line for line in section(path, heading).splitlines() if line.startswith("|")]
    head, rule, *rows = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines]
    assert {*rule} == {"---"}, f"{named(path)}, {heading}: the second line is the rule"
    assert {len(row) for row in rows} == {len(head)}, f"{named(path)}, {heading}: rows of one length"
    return [head, *rows]


def words(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def code(word: str) -> str:
    """A word in backticks, or nothing."""
    return f"`{word}`" if word else ""


def same(path: Path, heading: str, head: Row, expected: Iterable[Row]) -> None:
    """Fails unless the table is exactly this one."""
    rows = [head, *expected]
    if table(path, heading) != rows:
        made = [head, tuple("---" for _ in head), *rows[1:]]
        text = "\n".join(f"| {' | '.join(row)} |" for row in made)
        raise AssertionError(f"{named(path)}, {heading}: the table should be\n\n{text}\n")


SETTINGS_HEAD = ("variable", "default", "meaning")


def settings_rows() -> list[Row]:
    """Every setting as the page has it."""
    return [
        (code(setting.variable), code(setting.default), setting.meaning.replace("/metrics", "`/metrics`"))
        for setting in settings.TABLE
    ]


def otel_rows() -> list[Row]:
    """Every `OTEL_*` variable; where each signal has one of its own, one row stands for the four."""
    rows: list[Row] = []
    names = {one.variable for one in otel_settings.TABLE}
    for setting in otel_settings.TABLE:
        if setting.meaning.startswith("the same, for "):
            continue
        own = setting.variable.replace("_OTLP_", "_OTLP_TRACES_")
        shared = own != setting.variable and own in names
        default = code(setting.default) or setting.unset
        rows.append((code(setting.variable) + (" †" if shared else ""), default, setting.meaning))
    return rows


METRICS_HEAD = ("metric", "kind, unit", "attributes", "says")
CALL = frozenset(metrics.OPERATION_FIRST_CHUNK.attributes)
"""The attributes that describe a call; the table says "call" for all of them."""


def metric_rows() -> list[Row]:
    """Every metric as the page has it."""
    kinds = {MetricKind.UP_DOWN_COUNTER: "up-down counter"}
    rows: list[Row] = []
    for metric in metrics.ALL_METRICS:
        attributes = {*metric.attributes}
        shown = [code(name) for name in metric.attributes]
        if attributes >= CALL:
            shown = ["call", *(code(name) for name in sorted(attributes - CALL))]
        kind = f"{kinds.get(metric.kind, str(metric.kind))}, {metric.unit}"
        rows.append((code(metric.name), kind, ", ".join(shown), metric.description))
    return rows


def bounds_rows() -> list[Row]:
    """The buckets of every histogram, those with the same ones together."""
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for metric in metrics.ALL_METRICS:
        if metric.bounds:
            by_bounds.setdefault(metric.bounds, []).append(code(metric.name))
    return [
        (", ".join(metrics), " ".join(f"{bound:.10g}" for bound in bounds))
        for bounds, metrics in by_bounds.items()
    ]


def test_settings() -> None:
    """`docs/settings.md` lists every `SIDECAR_*` variable with its default and meaning."""
    same(SETTINGS, "Settings", SETTINGS_HEAD, settings_rows())


def test_otel_settings() -> None:
    """`docs/settings.md` lists every `OTEL_*` variable that holds."""
    same(SETTINGS, "OpenTelemetry's own variables", SETTINGS_HEAD, otel_rows())


def test_what_is_read_in_depth() -> None:
    """The README names every API by its title."""
    told = re.search(r"are read in depth \([^)]*\): (.*?); under", " ".join(README.read_text().split()))
    assert told
    assert told[1] == ", ".join(sorted(api.title for api in apis.APIS))


def test_metrics() -> None:
    """`docs/signals.md` lists every metric with kind, unit, attributes and sentence; and what "call" stands for."""
    same(SIGNALS, "Metrics", METRICS_HEAD, metric_rows())
    told = re.search(r"\*call\* stands for ([^.]*(?:\.[^.\s][^.]*)*)\.", section(SIGNALS, "Metrics"))
    assert told
    assert {*words(told[1])} == CALL


def test_log_events() -> None:
    """`docs/signals.md` lists every log event."""
    same(SIGNALS, "Log events", ("event", "when"), [(code(name), says) for name, says in ALL_EVENTS.items()])


def test_attributes() -> None:
    """`docs/telemetry.md` lists every attribute."""
    rows = [(code(name), says) for name, says in ALL_ATTRIBUTES.items()]
    same(TELEMETRY, "Attributes", ("attribute", "says"), rows)


def test_buckets() -> None:
    """`docs/telemetry.md` has the bounds of every histogram."""
    same(TELEMETRY, "Buckets", ("histograms", "upper bounds, in the metric's unit"), bounds_rows())


@pytest.mark.parametrize(
    "path,heading,expected",
    [
        (SIGNALS, "Outcomes", Outcome),
        (SESSIONS, "What a turn is to its past", Relation),
        (TELEMETRY, "Where an outcome is decided", Phase),
        (TELEMETRY, "What became of a request", RESULTS),
        (TELEMETRY, "What the time of a request went to", PHASES),
        (TELEMETRY, "What is left before the 429", KINDS),
        (TELEMETRY, "Anomalies", Anomaly),
        (TELEMETRY, "The ledger", State),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words(path: Path, heading: str, expected: Iterable[str]) -> None:
    """Words of a fixed list are explained once each, in the code's order."""
    assert [word for row in table(path, heading)[1:] for word in words(row[0])] == [
        str(word) for word in expected
    ]


def test_identity() -> None:
    """The rules that name a session stand in their order, and each with every name that it looks for."""
    rows = {words(row[0])[0]: {*words(row[1])} for row in table(SESSIONS, "Who is talking")[1:]}
    assert list(rows) == [source.value for source in identity.Source]
    assert {name.lower().encode() for name in rows["known_header"]} - {b"session_id"} == {
        *identity.KNOWN_SESSION_HEADERS
    } - {b"session_id"}
    assert rows["own_header"] == {"X-Sidecar-Session-Id"}
    assert rows["baggage"] == {*identity.SESSION_BAGGAGE}
    assert rows["cache_key"] == {identity.CACHE_KEY_FIELD}
    named_in_body = {*identity.SESSION_FIELDS, identity.USER_FIELD, identity.CONVERSATION_FIELD}
    assert rows["body"] - {"SIDECAR_SESSION_FIELDS"} == named_in_body
    assert rows["response_chain"] == {identity.CHAIN_FIELD}
    text = section(SESSIONS, "Conversations")
    for name in (*identity.KNOWN_CONVERSATION_HEADERS, identity.OWN_CONVERSATION_HEADER):
        assert f"`{name.decode()}`" in text.lower()
    for field in (*identity.CONVERSATION_FIELDS, identity.CONVERSATION_BAGGAGE, identity.MAIN):
        assert f"`{field}`" in text


def test_request_id() -> None:
    """The format, and what it may be made of."""
    text = section(SESSIONS, "Request ids")
    assert f"`{DEFAULT_FORMAT}`" in text
    assert {f"{{{name}}}" for name in FORMAT_FIELDS} <= {*words(text)}


def test_wire() -> None:
    """The header fields that belong to one hop are named, all of them."""
    text = section(WIRE, "What it changes on the wire")
    told = re.search(r"belong to one hop \((.*?)\)", text, re.DOTALL)
    assert told
    assert {word.lower().encode() for word in words(told[1])} == wire._HOP


def test_errors() -> None:
    """`docs/wire.md` lists every error that the relay answers with: status, code, outcome, telemetry word."""
    used = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "sidecar" / "proxy").glob("*.py"))
    made: list[errors.SidecarError] = [
        errors.MalformedError("x"),
        errors.FramingError("x"),
        errors.HeadTooLargeError("SIDECAR_HEAD_LIMIT", 1),
        errors.UpgradeRefusedError("websocket"),
        errors.OverloadError(1),
        errors.HeadsMemoryError(),
        errors.DrainingError(),
        errors.UnknownUpstreamError("x", ["y"]),
        *(errors.UpstreamFailedError(word, "x") for word in get_args(errors.UpstreamWord)),
        *(timer(1.0) for timer in errors.TimedOutError.__subclasses__()),
        errors.ExhaustedError("x"),
        errors.ShutdownError(),
        errors.InternalError(),
    ]
    raised = {name for name in re.findall(r"\b(\w+Error)\(", used) if hasattr(errors, name)}
    assert raised - {"CannotListenError"} <= {type(error).__name__ for error in made}
    listed = [
        (row[0], *words(row[1]), *words(row[2]), word)
        for row in table(WIRE, "What the sidecar answers itself")[1:]
        for word in words(row[3])
    ]
    assert sorted(listed) == sorted((str(one.status), one.code, str(one.outcome), one.word) for one in made)


def test_admin_paths(start_sidecar: Callable[..., RunningSidecar]) -> None:
    """`docs/admin.md` has every path, and the running ports serve them alone."""
    short = [words(row[0])[0] for row in table(ADMIN, "The admin port")[1:]]
    health = {path for path in short if path in {"GET /startup", "GET /liveness", "GET /readiness"}}
    assert len(health) == 3
    port = free_port()
    sidecar = start_sidecar(settings={"PROMETHEUS": "on", "HEALTH_LISTEN": f"127.0.0.1:{port}"})
    exchange(sidecar.port, request_bytes("GET", "/x", headers=(b"X-Sidecar-Session-Id: one",)))
    admin_port = sidecar.admin_port
    with Looking(admin_port) as looking:
        ended = looking.one(session="one", outcome="completed")["id"]
    named_so = {"/sessions/{id}": "/sessions/one", "/live/requests/{id}": f"/live/requests/{ended}"}
    named_so["/live/{file}"] = "/live/page.js"
    short.remove("GET /live/events")  # it has no end, and was read above
    served = {}
    for asked, sidecar.admin_port in ((one, at) for at in (port, admin_port) for one in short):
        method, path = asked.split(" ")
        path = named_so.get(path, path)
        served[asked, sidecar.admin_port == port] = sidecar.admin(method, path)[0]
    assert {one for one in short if served[one, True] == 200} == health
    assert {one: served[one, False] for one in short} == {
        one: 202 if one == "POST /shutdown" else 200 for one in short
    }
    view = cast(AdminView, None)
    made = create_admin_app(
        view, empty_board(), listen=settings.Address("127.0.0.1", 1), token=None, prometheus=True
    )
    routed = {f"{one.method} {one.resource.canonical}" for one in made.router.routes() if one.resource}
    assert {one for one in routed if not one.startswith("HEAD ")} == {*short, "GET /live/events"}


def test_exit_codes() -> None:
    """Those of the command line."""
    codes = [int(words(row[0])[0]) for row in table(COMMANDS, "Exit codes and signals")[1:]]
    assert codes == [cli.DONE, cli.FAILED, cli.BAD_SETTINGS]


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`docs/commands.md` lists every command, and what each ends with if an argument does not exist or a value is bad."""
    with pytest.raises(SystemExit):
        cli.main(["--help"], {})
    listed = re.findall(r"^    ([a-z]+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    rows = [words(row[0])[0].removeprefix("sidecar ") for row in table(COMMANDS, "Commands")[1:]]
    assert sorted(rows) == sorted(listed)
    settled = {command: ended(command, "--bogus", *READS.get(command, ())) for command in listed}
    assert settled == dict.fromkeys(listed, cli.BAD_SETTINGS)
    valued = {command for command in listed if command != "settings"}  # it takes none
    codes = {
        command: ended(command, *BAD.get(command, ("--listen", "x")), *READS.get(command, ()))
        for command in valued
    }
    assert codes == {command: cli.FAILED if command in ONE else cli.BAD_SETTINGS for command in valued}


READS = {
    "explain": ("curl http://127.0.0.1:7070/",),
    "inject": (str(ROOT / "deploy/kubernetes/base/app.yaml"),),
    "replay": ("x",),
    "view": ("x",),
}
"""What commands are given to read that would else read standard input, or need a file."""

BAD = {
    "health": ("--admin-listen", "x"),
    "replay": ("--limit", "0"),
    "top": ("--admin-listen", "x"),
    "wait": ("--timeout", "x"),
}
"""A flag with a value that is not valid, for commands that have no `--listen`."""

ONE = {"health", "wait"}
"""Commands that end with 1 all the same: probes know ready and not ready."""


def ended(*arguments: str) -> int:
    """The exit code of a command."""
    try:
        return cli.main(arguments, {})
    except SystemExit as end:
        return cast(int, end.code)


def test_clients() -> None:
    """The versions that the SDKs are said to have been seen with are those that the tests run."""
    text = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^(openai|anthropic|google-genai)==(\S+)", text, re.MULTILINE))
    expected = {f"`{package}` for Python": version for package, version in versions.items()}
    node = json.loads((ROOT / "tests" / "clients" / "node" / "package.json").read_text(encoding="utf-8"))
    expected["`openai` for Node"] = node["dependencies"]["openai"]
    rows = {row[0]: row[1] for row in table(CLIENTS, "Point your tools at it")[1:]}
    assert {tool: version for tool, version in rows.items() if tool.startswith("`")} == expected


def test_versions_of_the_back_ends() -> None:
    """Those that the pages name are those that the stack test builds, and that docker-compose.yml starts if it has them."""
    modules = (build.MODULES / "prometheus" / "go.mod").read_text(encoding="utf-8")
    prometheus = re.findall(
        r"^require github\.com/prometheus/prometheus v0\.(\d)(\d+)\.(\d+)$", modules, re.MULTILINE
    )
    built = {
        "OpenTelemetry Collector": build.COLLECTOR_BUILDER.rpartition("@v")[2],
        "Jaeger": build.JAEGER_MODULE.rpartition("@")[2],
        "Prometheus": f"{prometheus[0][0]}.{prometheus[0][1]}",
        "Loki": build.LOKI_MODULE.rpartition("@v")[2],
        "kustomize": build.KUSTOMIZE.rpartition("@v")[2],
        "compose-go": build.COMPOSE_GO.rpartition("@v")[2],
    }
    needed = {row[0]: row[1] for row in table(STACK, "What it needs")[1:]}
    told = {row[0]: row[2] for row in table(BACKENDS, "Back ends, one by one")[1:]}
    for name, version in built.items():
        cells = [cell for title, cell in needed.items() if name in title]
        cells += [cell for title, cell in told.items() if title.startswith(f"[{name}]")]
        assert cells, name
        assert [
            cell for cell in cells if not re.search(rf"(?<![\d.]){re.escape(version)}(?!\d)", cell)
        ] == [], name
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    images = re.findall(r"image: \S+/(opentelemetry-collector-contrib|prometheus|loki):v?(\S+)", compose)
    expected = {
        "opentelemetry-collector-contrib": built["OpenTelemetry Collector"],
        "prometheus": f"{built['Prometheus']}.{prometheus[0][2]}",
        "loki": built["Loki"],
    }
    assert dict(images) == expected


def test_session_stats() -> None:
    """What `get_session_stats` gives is named whole."""
    fields = {field.name for field in dataclasses.fields(SessionStats)}
    assert fields <= {*words(section(LIBRARY, "The session manager as a library"))}


def exists(word: str) -> bool:
    """False if a word looks like a setting, a signal, an attribute, a flag or a file of ours, and is none."""
    name = word.partition("=")[0]
    if re.fullmatch(r"(SIDECAR|OTEL)_[A-Z_]+[A-Z]", name):
        known = {setting.variable for setting in settings.TABLE}
        return name in known | {one.variable for one in otel_settings.TABLE} | {*environment.UNHELD}
    if re.fullmatch(r"--[a-z-]+", name):
        return name in FLAGS
    if re.fullmatch(r"(sidecar|gen_ai|process)\.(?!py$)[a-z_.]+[a-z]", word):
        module = ROOT / word.replace(".", "/")
        known = {metric.name for metric in metrics.ALL_METRICS}
        is_module = module.is_dir() or module.with_suffix(".py").is_file()
        return is_module or word in {*ALL_ATTRIBUTES, *ALL_EVENTS, *known}
    if re.fullmatch(r"(sidecar|tests|docs|bench|requirements)/[\w./]*", word):
        return (ROOT / word).exists()
    return True


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_names_exist(path: Path) -> None:
    """Whatever looks like a name of ours is one."""
    assert [word for word in words(prose(path)) if not exists(word)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links(path: Path) -> None:
    """Every link within the repository leads somewhere, to a heading too."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith(("http://", "https://", "/d/")):
            continue  # those into Grafana are held by the alerts' tests
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    """It can be read in ten minutes: 12 KiB at most. More belongs on a page of its own."""
    assert README.stat().st_size <= 12 * 1024


def test_every_page_is_in_the_index() -> None:
    """`docs/README.md` leads to every page beside it."""
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {INDEX.name}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", INDEX.read_text(encoding="utf-8"))) == pages


def test_every_decision_is_listed() -> None:
    """`docs/architecture.md` leads to each of them, and each has the four parts."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions
    for path in decisions:
        assert f"(decisions/{path.name})" in ARCHITECTURE.read_text(encoding="utf-8")
        parts = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert parts == ["Context", "Choice", "Rejected", "How we will know"], path.name


def test_rooms() -> None:
    """Every room stands in the table, and the file to start at is in it."""
    rows = {words(row[0])[0]: row[2] for row in table(ARCHITECTURE, "Rooms")[1:]}
    entries = [path for path in (ROOT / "sidecar").iterdir() if path.is_dir() or path.suffix == ".py"]
    found = {f"sidecar/{path.name}{'/' if path.is_dir() else ''}" for path in entries}
    alone = {"sidecar/__init__.py", "sidecar/__main__.py", "sidecar/version.py", "sidecar/__pycache__/"}
    assert {*rows} == found - alone
    for room, start in rows.items():
        assert all((ROOT / room / file).is_file() for file in words(start)), room


def shape(name: str) -> str:
    """A span's name as the page has it."""
    if name.startswith("replay "):
        return f"replay {shape(name.removeprefix('replay '))}"
    if name in {"connect", "wait", "stream", "conversation", "session"}:
        return name
    return "{method} {route}" if name.startswith(("GET ", "POST ", "HEAD ")) else "{operation} {model}"


def test_spans() -> None:
    """The table of spans is what an export shows: names, kinds and parents, all of them and no other."""
    with OtlpSink() as sink, ScriptedUpstream() as upstream:
        upstream.answer(sse([chat_chunk("Hi"), chat_chunk(finish_reason="stop")]))
        named_session = (b"X-Sidecar-Session-Id: documented",)
        with RunningSidecar(upstream=upstream.url, sink=sink, settings={"SESSION_IDLE": "100ms"}) as sidecar:
            exchange(sidecar.port, chat_request(headers=named_session, stream=True))
            sink.span(name="replay session")
        spans = {span.span_id: span for span in sink.spans}
    seen = set()
    for span in spans.values():
        parent = f"`{shape(spans[span.parent].name)}`" if span.parent else ""
        seen.add((f"`{shape(span.name)}`", span.kind, parent))
        assert {*span.attributes} <= {*ALL_ATTRIBUTES}
    assert seen == {
        (row[0], row[1], " ".join(re.findall("`[^`]+`", row[2]))) for row in table(SIGNALS, "Spans")[1:]
    }
