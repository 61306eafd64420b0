"""The rules of this repository, as code: sizes, rooms and their arrows, docstrings, and what nobody may do.

A rule that has to give way somewhere says so in `EXCEPTIONS`, with a reason; an exception that is no longer
needed fails. The guide figures come with a purpose: a feature belongs into a new observer or a new step, never
into the longest function there is.
"""

import ast
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "sidecar").rglob("*.py"))
BENCH = sorted((ROOT / "bench").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MODULE_LINES, TEST_MODULE_LINES = 600, 600
FUNCTION_LINES = 60
FILES = {"core": 16, "proxy": 16, "telemetry": 20}
"""How many files the three great rooms may have: a story is told whole, in one of those there are."""
POSITIONAL, PARAMETERS = 6, 10

EXCEPTIONS: dict[str, dict[str, str]] = {
    "lines": {
        "tests/blackbox/test_outcomes.py": "nine outcomes, each with whole spans and metric points",
    },
    "length": {
        "tests/blackbox/test_outcomes.py:test_completed": "a whole trace and its metric points, compared",
        "tests/telemetry/test_request_spans.py:test_a_completed_stream_whole": "a whole trace, compared",
    },
    "parameters": {
        "sidecar/telemetry/recorder.py:__init__": "the rooms it ties together, all by keyword",
    },
    "assertion": {},
    "broad": {
        "sidecar/core/turns.py": "a listener of somebody else must not end a request; it is counted",
        "sidecar/proxy/arrival.py": "histories are only looked at: a bug there ends no request",
        "sidecar/proxy/bodies.py": "so is a request's body, which passes unread",
        "sidecar/proxy/loop.py": "the relay's outermost handler",
        "sidecar/record/writer.py": "the outermost handler of its thread: those that wait are written, whatever one fails by",
        "sidecar/telemetry/exporters.py": "an encoder of somebody else's: the messages before what it cannot encode are counted",
        "sidecar/telemetry/queues.py": "the outermost handlers of the threads: of calls put off, and around the exporters",
        "sidecar/telemetry/recorder.py": "the telemetry guard, around what the relay reports",
        "sidecar/testing/player.py": "a script that fails is kept for the test to see",
    },
    "environ": {
        "sidecar/cli.py": "the one place that takes the environment of a sidecar",
        "sidecar/client/through_sidecar.py": "where an app finds its sidecar, beside what its client reads anyway",
        "sidecar/testing/process.py": "a process is started with the environment of its parent",
    },
    "sleep": {
        "tests/soak/peers.py": "the pace of peers that are slow by design",
        "tests/soak/test_soak.py": "a soak lasts as long as it is told to",
        "tests/telemetry/way_out.py": "the pause of a loop that waits for a condition",
    },
}
"""Rule, place, reason."""

ROOMS = {
    "core": "",
    "version": "",
    "ways_out": "core",
    "apis": "core",
    "errors": "core",
    "listener": "",
    "codings": "",
    "providers": "",
    "settings_values": "core providers",
    "settings": "core settings_values",
    "proxy": "apis codings core errors listener settings ways_out",
    "live": "core",
    "admin": "core errors listener live settings settings_values version",
    "telemetry": "apis core settings settings_values version ways_out",
    "app": "admin core errors live proxy record settings telemetry version ways_out",
    "testing": "core",
    "client": "core version",
    "picture": "core settings version",
    "demo": "core client errors picture settings settings_values version",
    "health": "core settings",
    "top": "core picture",
    "inject": "",
    "record": "admin core errors live settings_values version",
    "check": "core errors health proxy settings telemetry ways_out",
    "request_text": "core",
    "explain": "apis codings core proxy request_text settings",
    "stdio": "",
    "cli": "app check core demo errors explain health inject picture proxy record request_text settings settings_values stdio telemetry top version",
    "__main__": "cli",
    "__init__": "core",
}
"""Which rooms a room may import. Arrows point down only: cli, app, (proxy, admin, telemetry), apis, core."""

LIBRARIES = {
    "admin": "aiohttp msgspec opentelemetry prometheus_client",
    "apis": "msgspec",
    "app": "msgspec uvloop",
    "client": "openai opentelemetry",
    "demo": "aiohttp msgspec openai",
    "picture": "aiohttp msgspec",
    "top": "aiohttp msgspec",
    "inject": "yaml",
    "live": "msgspec",
    "record": "msgspec",
    "codings": "backports brotli",
    "proxy": "aiohappyeyeballs httptools",
    "telemetry": "google grpc msgspec opentelemetry psutil structlog",
    "testing": "aiohttp google grpc opentelemetry",
}
"""Which libraries a room may import; a room not named here has the standard library only."""

DISTRIBUTIONS = {
    "backports": "backports-zstd",
    "google": "protobuf",
    "grpc": "grpcio",
    "opentelemetry": "opentelemetry-sdk",
    "yaml": "pyyaml",
}
"""The distribution that brings a module, where its name is another."""

PRIVATE = {
    "opentelemetry._logs": "the API of logs, which has no public package yet",
    "opentelemetry.sdk._logs": "the SDK's log records, likewise",
    "opentelemetry.exporter.otlp.proto.common._log_encoder": "their encoder, likewise",
}
"""The private packages of OpenTelemetry that are used, and why: pyproject.toml has a bound above for them."""

_used: set[tuple[str, str]] = set()


def excused(rule: str, where: str) -> bool:
    """Whether an exception covers this; notes that it was needed."""
    if where not in EXCEPTIONS[rule]:
        return False
    _used.add((rule, where))
    return True


@cache
def tree(path: Path) -> ast.Module:
    """The module's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    """The path as the lists above have it."""
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """Which room a module of the package stands in."""
    return path.relative_to(ROOT / "sidecar").parts[0].removesuffix(".py")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path) -> Iterator[str]:
    """The dotted name of every import, wherever it stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: imports are absolute"
            if node.module == "sidecar":
                yield from (f"sidecar.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def calls(path: Path, *names: str) -> Iterator[ast.Call]:
    """Calls of functions by their dotted names."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def project() -> dict[str, list[Requirement]]:
    """What pyproject.toml requires: to run, per extra, and per group."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    table = tables["project"]
    groups = {"run": table["dependencies"], **table["optional-dependencies"], **tables["dependency-groups"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def locked(lock: str) -> dict[str, str]:
    """The versions in a lock file, by canonical name."""
    text = (ROOT / "requirements" / lock).read_text()
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", text, re.MULTILINE)
    return {canonicalize_name(found): version for found, version in pairs}


def test_module_length() -> None:
    """Modules stay within sight."""
    too_long = {}
    for path in [*CODE, *BENCH, *TESTS]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (TEST_MODULE_LINES if path in TESTS else MODULE_LINES) and not excused(
            "lines", name(path)
        ):
            too_long[name(path)] = lines
    assert too_long == {}


def test_function_length() -> None:
    """Functions fit on a screen, in tests too."""
    too_long = {}
    for path in [*CODE, *BENCH, *TESTS]:
        for function in functions(path):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            where = f"{name(path)}:{function.name}"
            if lines > FUNCTION_LINES and not excused("length", where):
                too_long[where] = lines
    assert too_long == {}


def test_parameters() -> None:
    """Six parameters by position, a few more by keyword."""
    too_many = {}
    for path in CODE:
        for function in functions(path):
            given = function.args
            by_position = [arg for arg in [*given.posonlyargs, *given.args] if arg.arg not in {"self", "cls"}]
            total = len(by_position) + len(given.kwonlyargs)
            where = f"{name(path)}:{function.name}"
            if (len(by_position) > POSITIONAL or total > PARAMETERS) and not excused("parameters", where):
                too_many[where] = total
    assert too_many == {}


@pytest.mark.parametrize("path", CODE, ids=name)
def test_arrows(path: Path) -> None:
    """A room imports the rooms below it and its own libraries, nothing else."""
    here = room(path)
    assert here in ROOMS, f"{here} is a room that ROOMS does not know"
    allowed = {here, *ROOMS[here].split()}
    libraries = {*sys.stdlib_module_names, "compression", *LIBRARIES.get(here, "").split()}
    for dotted in imports(path):
        top, _, rest = dotted.partition(".")
        if top == "sidecar":
            assert rest.partition(".")[0] in allowed, f"{name(path)} imports {dotted}"
        else:
            assert top in libraries, f"{name(path)} imports {dotted}"
        if here == "testing" and top == "opentelemetry":
            assert dotted.startswith("opentelemetry.proto."), f"{name(path)} imports {dotted}"


def test_rooms_have_few_files() -> None:
    """Whoever opens one of the great rooms can look over it."""
    counts = {where: len([path for path in CODE if room(path) == where]) for where in FILES}
    assert {where: count for where, count in counts.items() if count > FILES[where]} == {}


def needs(path: Path) -> set[str]:
    """The modules that a module imports, be it for a type only; what a package's own file hands on is not followed."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            for dotted in [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]:
                file = ROOT / f"{dotted.replace('.', '/')}.py"
                if dotted.startswith("sidecar.") and file.is_file():
                    found.add(name(file))
    return found


def test_no_modules_import_each_other() -> None:
    """Not even for a type: two files that need each other are one, or a third is missing."""
    order = TopologicalSorter({name(path): needs(path) for path in CODE}).static_order()
    assert {*order} >= {name(path) for path in CODE}


@pytest.mark.parametrize("where", ["core", "telemetry"])
def test_the_inside_of_rooms_is_as_told(where: str) -> None:
    """docs/architecture.md names every file of the room, and each above all that it needs."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.partition(f"| `{where}/` | |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    floors = {f"sidecar/{where}/{file}.py": -at for at, row in enumerate(rows) for file in row}
    files = {name(path): needs(path) for path in CODE if room(path) == where and path.stem != "__init__"}
    assert {*floors} == {*files}
    below = {file: {one for one in needed if one in floors} for file, needed in files.items()}
    assert [(file, one) for file in files for one in below[file] if floors[one] >= floors[file]] == []


def test_rooms_that_are_listed_exist() -> None:
    """The lists above name rooms that are there."""
    assert {*ROOMS, *LIBRARIES} <= {room(path) for path in CODE}


def test_what_is_imported_is_declared() -> None:
    """A library that is imported is a dependency of its own, not somebody else's."""
    groups = project()
    declared = {canonicalize_name(one.name) for group in ("run", "demo", "inject") for one in groups[group]}
    for path in CODE:
        for top in {dotted.partition(".")[0] for dotted in imports(path)}:
            if top not in {*sys.stdlib_module_names, "compression", "sidecar"}:
                distribution = canonicalize_name(DISTRIBUTIONS.get(top, top))
                assert distribution in declared, f"{name(path)} imports {top}"


def test_private_packages_are_few_and_known() -> None:
    """Nothing private of OpenTelemetry but this list, each still there; a newer minor version is looked at first."""
    used = set()
    for path in CODE:
        for node in ast.walk(tree(path)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                parts = module.split(".")
                if parts[0] == "opentelemetry" and any(part.startswith("_") for part in parts):
                    used.add(module.removesuffix(".export"))
    telemetry = [path for path in CODE if path.parent.name == "telemetry"]
    for node in (node for path in telemetry for node in ast.walk(tree(path))):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in {"self", "cls"}):
                used.add(ast.unparse(node))
    assert used == set(PRIVATE), "an attribute or package that is not ours to use"
    for package in PRIVATE:
        assert importlib.util.find_spec(package), (
            f"{package} is gone: use its public name, and lift the bound"
        )
    bounds = [one for one in project()["run"] if one.name.startswith("opentelemetry-")]
    assert bounds
    assert all("<" in str(one.specifier) for one in bounds)


def test_modules_say_what_they_own() -> None:
    """Every module that is not empty opens with a title and what it owns."""
    silent = [
        name(path)
        for path in [*CODE, *BENCH]
        if path.read_text(encoding="utf-8").strip()
        and len([line for line in (ast.get_docstring(tree(path)) or "").splitlines() if line.strip()]) < 2
    ]
    assert silent == []


_CALLERS = re.compile(
    r"(?:^|[.:;] )(Called|Created|Made|Asked|Told|Filled|Fed|Served|Used|Read|Driven|Started) "
    r"(?:and \w+ |once |only |on the \w+(?: \w+)? )*by\b"
)


def test_modules_say_nothing_of_their_callers() -> None:
    """Nothing holds such a sentence true: who calls a module is found by looking for its name."""
    claims = {}
    for path in [*CODE, *BENCH, *sorted((ROOT / "grafana").rglob("*.py"))]:
        text = " ".join((ast.get_docstring(tree(path)) or "").split())
        if found := _CALLERS.search(text):
            claims[name(path)] = text[found.start() :]
    assert claims == {}


def test_every_test_says_what_it_shows() -> None:
    """A docstring per test, and one per test module."""
    for path in TESTS:
        assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"
        for function in functions(path):
            if function.name.startswith("test_"):
                assert ast.get_docstring(function), f"{name(path)}:{function.name} has no docstring"


def asserting() -> set[str]:
    """Names of functions that can fail: they assert, raise, or call one that does."""
    able: dict[str, set[str]] = {}
    found = set()
    for path in [*TESTS, *sorted((ROOT / "sidecar" / "testing").rglob("*.py"))]:
        for function in functions(path):
            called = {ast.unparse(one.func) for one in ast.walk(function) if isinstance(one, ast.Call)}
            able.setdefault(function.name, set()).update(one.rpartition(".")[2] for one in called)
            if {"pytest.raises", "pytest.fail"} & called or any(
                isinstance(one, ast.Assert | ast.Raise) for one in ast.walk(function)
            ):
                found.add(function.name)
    while more := {one for one, called in able.items() if one not in found and called & found}:
        found |= more
    return found


def test_every_test_can_fail() -> None:
    """It asserts something, itself or by a helper, and not something that always holds."""
    able = asserting()
    for path in TESTS:
        for function in functions(path):
            if not function.name.startswith("test_"):
                continue
            where = f"{name(path)}:{function.name}"
            assert function.name in able or excused("assertion", where), f"{where} asserts nothing"
            for one in ast.walk(function):
                if isinstance(one, ast.Assert):
                    said = ast.unparse(one.test)
                    idle = isinstance(one.test, ast.Constant | ast.Tuple | ast.Lambda)
                    assert not idle, f"{where} asserts {said}"


def test_no_globals() -> None:
    """Mutable state lives in objects."""
    for path in [*CODE, *TESTS]:
        assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Global)], name(path)


def test_environment_is_read_in_one_place() -> None:
    """Everybody else is given mappings."""
    for path in CODE:
        text = ast.unparse(tree(path))
        reads = re.search(r"\bos\.(environb?|getenv)\b", text) or re.search(r"from os import .*environ", text)
        assert not reads or excused("environ", name(path)), f"{name(path)} reads the environment"


def test_broad_excepts_stand_in_named_places() -> None:
    """Whoever catches everything is named above; cleaning up and raising again is no catching."""
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
                caught = ast.unparse(node.type) if node.type else "BaseException"
                broad = re.search(r"\b(Base)?Exception\b", caught)
                assert not broad or excused("broad", name(path)), (
                    f"{name(path)}:{node.lineno} catches {caught}"
                )


KEEPERS = frozenset(
    {"dict", "OrderedDict", "defaultdict", "deque", "set", "BoundedMap", "Counter", "queue.Queue"}
)
GUESTS = ("client", "demo", "inject", "picture", "testing", "top")


def kept() -> Iterator[str]:
    """What a sidecar keeps beside one request: maps, sets and queues that begin empty, and caches of functions."""
    for path in sorted((ROOT / "sidecar").rglob("*.py")):
        if path.relative_to(ROOT / "sidecar").parts[0] in GUESTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("lru_cache("):
                yield f"`{path.relative_to(ROOT)}` `{ast.unparse(node.targets[0]).removeprefix('self.')}`"
            if not isinstance(node, ast.FunctionDef):
                continue
            if any("lru_cache" in ast.unparse(one) for one in node.decorator_list):
                yield f"`{path.relative_to(ROOT)}` `{node.name}`"
            if node.name == "__init__":
                yield from (
                    f"`{path.relative_to(ROOT)}` `{attribute}`" for attribute in beginning_empty(node)
                )


def beginning_empty(function: ast.FunctionDef) -> Iterator[str]:
    """The attributes that it sets to something empty which may grow."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        value = node.value
        empty = isinstance(value, ast.Dict) and not value.keys
        made = isinstance(value, ast.Call) and ast.unparse(value.func).partition("[")[0] in KEEPERS
        if isinstance(target, ast.Attribute) and (empty or made):
            yield target.attr


def test_what_is_kept_has_a_bound_that_is_told() -> None:
    """Each map, set, queue and cache is a row of the table in docs/architecture.md, and the table has no other."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = text.partition("## What is kept")[2].partition("\n## ")[0].splitlines()
    assert sorted(kept()) == sorted(row[2:].partition(" | ")[0] for row in rows if row.startswith("| `"))


def test_tests_do_not_sleep() -> None:
    """They wait for a condition."""
    for path in TESTS:
        for call in calls(path, "time.sleep", "asyncio.sleep", "sleep"):
            yields = ast.unparse(call) == "asyncio.sleep(0)"
            assert yields or excused("sleep", name(path)), f"{name(path)}:{call.lineno} sleeps"


def test_no_mocks() -> None:
    """Scripted upstreams, a fixed clock and a decoding sink stand where mocks would."""
    for path in TESTS:
        assert not {"mock", "unittest.mock", "pytest_mock"} & set(imports(path)), name(path)


def test_test_files_have_names_of_their_own() -> None:
    """Tests are no packages, so their names must tell them apart."""
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert len(names) == len(set(names))


def texts() -> Iterator[Path]:
    """Every text of ours: code, tests, docs, settings of tools."""
    for pattern in (
        "*.md",
        "*.toml",
        "*.yml",
        "Dockerfile",
        "Makefile",
        ".ci/*",
        "docs/**/*.md",
        "requirements/*",
        "deploy/**/*",
        "grafana/**/*.yaml",
        "bench/**/*",
    ):
        yield from (path for path in ROOT.glob(pattern) if path.is_file())
    yield from CODE
    yield from TESTS


def test_nothing_left_to_do_and_no_machine_of_ours() -> None:
    """No notes to ourselves, and no paths that only one machine has."""
    leftover = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X)\b")
    ours = re.compile(r"(?<![\w.:/])/(work|root|opt|home|Users)/\w")
    for path in texts():
        if path.suffix in {".pyc", ".bin"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not leftover.search(line), f"{name(path)}:{number}: {line.strip()}"
            assert not ours.search(line), f"{name(path)}:{number}: {line.strip()}"


@pytest.mark.parametrize("lock", ["run.lock", "demo.lock", "dev.lock", "build.lock", "ui.lock"])
def test_lock_names_no_address(lock: str) -> None:
    """Packages come from wherever the installer is told to; every one has its hashes."""
    text = (ROOT / "requirements" / lock).read_text()
    assert not re.search(r"://|--(index|extra-index|find-links|trusted)|file:| @ ", text)
    for entry in re.findall(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_node_lock_names_no_address() -> None:
    """The same holds for packages of npm: a version and a hash, and no place."""
    lock = json.loads((ROOT / "tests" / "clients" / "node" / "package-lock.json").read_text())
    packages = {where: package for where, package in lock["packages"].items() if where}
    assert packages
    for where, package in packages.items():
        assert package["integrity"].startswith("sha512-"), where
        assert "resolved" not in package, where


@pytest.mark.parametrize(
    "lock,groups",
    [
        ("run.lock", ["run"]),
        ("demo.lock", ["run", "demo"]),
        ("dev.lock", ["run", "demo", "dev"]),
        ("build.lock", ["build"]),
        ("ui.lock", ["ui"]),
    ],
)
def test_lock_is_current(lock: str, groups: list[str]) -> None:
    """Whatever pyproject.toml asks for is locked, at a version that fits; `make lock` makes it so."""
    versions = locked(lock)
    for wanted in (one for group in groups for one in project()[group]):
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None, f"{lock} lacks {wanted.name}: run `make lock`"
        assert wanted.specifier.contains(version, prereleases=True), f"{lock} has {wanted.name} {version}"


@pytest.mark.parametrize("lock", ["run.lock", "demo.lock", "build.lock"])
def test_locks_agree(lock: str) -> None:
    """What is developed with is what is run, and what an image is built with."""
    other, dev = locked(lock), locked("dev.lock")
    assert {package: dev.get(package) for package in other} == other


def test_exceptions_are_needed() -> None:
    """An exception whose reason has gone goes too."""
    for rule in (
        test_module_length,
        test_function_length,
        test_parameters,
        test_environment_is_read_in_one_place,
        test_broad_excepts_stand_in_named_places,
        test_tests_do_not_sleep,
    ):
        rule()
    listed = {(rule, where) for rule, places in EXCEPTIONS.items() for where in places}
    assert listed - _used == set()
