"""Gets the real back ends: from PATH or a variable where they are at hand, else built from Go modules into a cache.

Owns which programs there are, at which versions, and how each is built. It builds only what is missing, and anew when
its module files have changed. It must never fetch anything but Go modules. Called by the fixtures, or by hand:
`python tests/stack/build.py` builds all and prints where they are.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = HERE / "modules"

COLLECTOR_BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.155.0"
JAEGER_MODULE = "github.com/jaegertracing/jaeger@v1.76.0"
LOKI_MODULE = "github.com/grafana/loki/v3@v3.7.6"

SMALL = ("-trimpath", "-ldflags=-s -w")


class CannotBuildError(RuntimeError):
    """A back end is not at hand and cannot be built; the text says what to install or to set."""


class Go:
    """The go command, with a folder to work in."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}

    def __call__(self, *words: str, fails: bool = False, cwd: Path | None = None, **environ: str) -> str:
        """Runs `go`; gives what it printed. `fails`: a non-zero end is no error."""
        return self.run("go", *words, fails=fails, cwd=cwd, **environ)

    def run(self, *words: str, fails: bool = False, cwd: Path | None = None, **environ: str) -> str:
        """Runs any program of the build."""
        done = subprocess.run(
            words,
            cwd=cwd or self.work,
            env={**self._environ, **environ},
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode and not fails:
            raise CannotBuildError(f"{' '.join(words)} failed:\n{done.stderr[-4000:]}")
        return done.stdout


def _collector(go: Go, into: Path) -> None:
    go("install", COLLECTOR_BUILDER, GOBIN=str(go.work))
    made = go.work / "made"
    manifest = (MODULES / "collector" / "manifest.yaml").read_text()
    (go.work / "manifest.yaml").write_text(manifest.replace("dist:\n", f"dist:\n  output_path: {made}\n"))
    # It ends with an error, as its `go mod tidy` asks for modules that only tests need; go.mod is written by then.
    go.run("./builder", "--config=manifest.yaml", "--skip-compilation", fails=True)
    go("get", ".", cwd=made)
    go("build", *SMALL, "-o", str(into), ".", cwd=made)


def _by_its_sums(module: str, command: str) -> Callable[[Go, Path], None]:
    """`cmd/<command>` of a module, with the checksums that the module lists: some have no entry in the database."""

    def build(go: Go, into: Path) -> None:
        shutil.copy(MODULES / command / "go.mod", go.work)
        told = go("mod", "download", "-json", module)
        folder = next(line.split('"')[3] for line in told.splitlines() if '"Dir"' in line)
        (go.work / "go.sum").write_bytes((Path(folder) / "go.sum").read_bytes())
        go("build", "-mod=mod", *SMALL, "-o", str(into), f"{module.partition('@')[0]}/cmd/{command}")

    return build


def _prometheus(command: str) -> Callable[[Go, Path], None]:
    def build(go: Go, into: Path) -> None:
        shutil.copy(MODULES / "prometheus" / "go.mod", go.work)
        # Without these tags a module for a service discovery that nobody uses here is asked for.
        tags = "-tags=remove_all_sd,netgo"
        go(
            "build",
            "-mod=mod",
            tags,
            *SMALL,
            "-o",
            str(into),
            f"github.com/prometheus/prometheus/cmd/{command}",
        )

    return build


def _installed(package: str) -> Callable[[Go, Path], None]:
    """A command that is built by its own module, as it stands."""

    def build(go: Go, into: Path) -> None:
        go("install", *SMALL, package, GOBIN=str(go.work / "bin"))
        (made,) = (go.work / "bin").iterdir()
        shutil.move(made, into)

    return build


KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"
COMPOSE_GO = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"


@dataclass(frozen=True, slots=True)
class Program:
    """A back end, or a program that checks files for one. Without `build` it cannot be built.

    `modules` is the folder whose files decide when it is built anew, or the package that does.
    """

    name: str
    build: Callable[[Go, Path], None] | None = None
    modules: str = ""

    @property
    def variable(self) -> str:
        """The variable that names its binary."""
        return f"STACK_{self.name.upper().replace('-', '_')}"

    @property
    def stamp(self) -> str:
        """What its module files, or its package, are now."""
        if "@" in self.modules:
            return self.modules
        files = sorted((MODULES / self.modules).iterdir())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


PROGRAMS = {
    program.name: program
    for program in (
        Program("promtool", _prometheus("promtool"), "prometheus"),
        Program("prometheus", _prometheus("prometheus"), "prometheus"),
        Program("otelcol", _collector, "collector"),
        Program("jaeger", _by_its_sums(JAEGER_MODULE, "jaeger"), "jaeger"),
        Program("loki", _by_its_sums(LOKI_MODULE, "loki"), "loki"),
        Program("kustomize", _installed(KUSTOMIZE), KUSTOMIZE),
        Program("compose-go", _installed(COMPOSE_GO), COMPOSE_GO),
        Program("tempo"),
        Program("phoenix"),
        Program("dashboard-linter"),
    )
}


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built programs are kept: `STACK_CACHE`, else `.cache/stack` in the checkout."""
    return Path(environ.get("STACK_CACHE") or ROOT / ".cache" / "stack").resolve()


def at_hand(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program, if nothing needs to be built for it."""
    program = PROGRAMS[name]
    named = environ.get(program.variable) or shutil.which(name, path=environ.get("PATH"))
    if named:
        return Path(named)
    built = cache(environ) / name
    fresh = program.build is not None and built.exists() and _stamp(built).exists()
    return built if fresh and _stamp(built).read_text() == program.stamp else None


def binary(name: str) -> Path:
    """The program, built if need be.

    Raises:
        CannotBuildError: it is not at hand and cannot be built here.
    """
    found = at_hand(name)
    if found is not None:
        return found
    program, into = PROGRAMS[name], cache() / name
    if program.build is None:
        raise CannotBuildError(f"{name} is not at hand: put it on PATH or name it in {program.variable}")
    if shutil.which("go") is None:
        raise CannotBuildError(
            f"{name} is built from Go modules: install Go 1.26 or newer, or name a binary in {program.variable}"
        )
    with _alone(name):
        if at_hand(name) is None:
            _say(f"building {name} into {into.parent}")
            work = into.parent / f"{name}.work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            program.build(Go(work), into)
            _stamp(into).write_text(program.stamp)
            shutil.rmtree(work)
    return into


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _stamp(built: Path) -> Path:
    return built.with_name(f"{built.name}.stamp")


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One build of a program at a time, over all processes."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for each, about in PROGRAMS.items():
        if about.build is not None or at_hand(each) is not None:
            _say(f"{each}: {binary(each)}")
        else:
            _say(f"{each}: not at hand; {about.variable} may name it")
