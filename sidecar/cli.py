"""The command line: what each command takes, and what it ends with.

Owns arguments, exit codes and what is said when a start fails: 2 and every bad value at once, 1 and one line
for a port that cannot be had, 0 after a clean end. It is the one place that takes the process's environment;
everything behind it gets mappings.
"""

import argparse
import difflib
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import stdio
from sidecar.core.shown import mask, shown
from sidecar.errors import CannotListenError
from sidecar.settings import TABLE, Problem, Settings, SettingsError, load, load_addresses
from sidecar.settings_values import ADDRESS, DURATION, read_address, read_duration
from sidecar.version import VERSION

if TYPE_CHECKING:
    from sidecar.inject.container import Wanted

DONE, FAILED, BAD_SETTINGS = 0, 1, 2


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Runs one command and gives its exit code. Both parameters default to the process's own."""
    stdio.open_closed()
    stdio.never_refuse()
    try:
        return _command(argv, environ)
    except KeyboardInterrupt:  # it ends by the signal, as a shell expects, and without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise
    finally:
        stdio.let_go()


def _command(argv: Sequence[str] | None, environ: Mapping[str, str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    environment = dict(os.environ if environ is None else environ)
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    given = dict(vars(options))
    command = given.pop("command")
    if command == "run":
        return _run(given, unknown, environment)
    if command == "check":
        return _check(given, unknown, environment)
    if command == "inject":
        return _inject(given, unknown)
    if command == "explain":
        return _explain(given, unknown, environment)
    if unknown:
        parser.error(f"no such argument: {unknown[0]}")
    if command == "settings":
        return _print(settings_table())
    if command == "view":
        return _view(given["path"], given["listen"])
    if command == "replay":
        return _replay(given)
    if command == "top":
        return _top(given, environment)
    if command in {"health", "wait"}:
        return _health(command, given, environment)
    if given["through"] is not None and given["listen"] is not None:
        parser.error("--listen is for the demo's own sidecar; with --through there is none")

    from sidecar import demo

    return demo.main(**given, environ=environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sidecar", description="A transparent LLM proxy beside your app.")
    parser.add_argument("--version", action="version", version=f"sidecar {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="serve until told to stop",
        usage="sidecar run [UPSTREAM] [--setting VALUE ...]",
        description="Serves until SIGTERM. Every flag is also a variable: --listen is SIDECAR_LISTEN; flags win. "
        "A URL alone is the upstream: sidecar run https://api.openai.com",
        allow_abbrev=False,
    )
    _add_settings(run)
    _add_demo(
        commands.add_parser(
            "demo", help="a simulated provider, the sidecar and conversations, in this terminal"
        )
    )
    _add_before_traffic(commands)
    _add_health(commands)
    commands.add_parser("settings", help="list every setting")
    _add_views(commands)
    _add_inject(commands)
    return parser


def _add_before_traffic(commands: Any) -> None:
    """What looks at settings and requests before there is traffic."""
    check = commands.add_parser(
        "check",
        help="what would keep the sidecar from working, before traffic does",
        usage="sidecar check [UPSTREAM] [--json] [--no-collector] [--setting VALUE ...]",
        description="Looks at settings, ports, upstreams, collector, clock and limits, as `sidecar run` with the same "
        "flags and variables would find them. Exits with 0, with 1 if something has to be fixed, with 2 if the "
        "settings are not valid.",
        allow_abbrev=False,
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.add_argument("--no-collector", action="store_true", help="send no telemetry")
    _add_settings(check)
    explain = commands.add_parser(
        "explain",
        help="what a request would be: upstream, API, session and conversation",
        usage="sidecar explain [FILE | 'curl ...'] [--setting VALUE ...]",
        description="Reads a curl line or a request's text (a file, or standard input with -), and tells what a sidecar "
        "with the same flags and variables would make of it. Nothing is sent.",
        allow_abbrev=False,
    )
    explain.add_argument(
        "request", nargs="?", default="-", metavar="REQUEST", help="a curl line, a file, or -"
    )
    _add_settings(explain)


def _add_health(commands: Any) -> None:
    """What asks a running sidecar how it is."""
    health = commands.add_parser(
        "health",
        help="ask a running sidecar whether it is ready",
        description="Exits with 0 if it is ready, else with 1 and the reason; for the health check of a container.",
    )
    _add_where(health)
    wait = commands.add_parser(
        "wait",
        help="wait until a sidecar is ready, or drained",
        description="Exits with 0 once it is, else with 1 and what is missing. Drained: it has been told to stop, and "
        "nothing is in flight any more.",
    )
    wait.add_argument("--until", choices=("ready", "drained"), default="ready", help="what to wait for")
    wait.add_argument("--timeout", default="30s", metavar="DURATION", help="how long (default: 30s)")
    _add_where(wait)


def _add_inject(commands: Any) -> None:
    inject = commands.add_parser(
        "inject",
        help="puts the sidecar into Kubernetes manifests",
        usage="sidecar inject [FILE ...] [--image IMAGE] [--in-place] [--remove] [--setting VALUE ...]",
        description="Reads manifests (files, or standard input) and gives them back with the sidecar in every pod, and with "
        "the variables that point the apps there. Settings given as flags, and OTEL_* given with --otel, become the "
        "sidecar's variables. Twice gives the same; --remove gives back what was there.",
        allow_abbrev=False,
    )
    inject.add_argument("files", nargs="*", metavar="FILE", help="manifests (default: standard input)")
    inject.add_argument("--image", default=f"session-sidecar:{VERSION}", help="the sidecar's image")
    inject.add_argument(
        "--otel", action="append", default=[], metavar="NAME=VALUE", help="an OTEL_* variable of it"
    )
    inject.add_argument("--in-place", action="store_true", help="write the files instead of printing them")
    inject.add_argument("--remove", action="store_true", help="take it out again")
    _add_settings(inject)


def _add_views(commands: Any) -> None:
    """What shows sessions: those of a running sidecar, and those in the files of `SIDECAR_RECORD`."""
    top = commands.add_parser("top", help="the sessions of a running sidecar, in a terminal")
    top.add_argument("--once", action="store_true", help="print the table and end")
    _add_where(top)
    view = commands.add_parser("view", help="the live page on recorded requests")
    view.add_argument("path", metavar="FILE", help="a file of SIDECAR_RECORD, or the folder")
    view.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where (default: loopback, any free port)",
    )
    replay = commands.add_parser(
        "replay",
        help="what a queue would have made of recorded requests",
        description="Lets the recorded turns arrive as they did, and runs at most that many at a time. Says who would have waited, "
        "and for how long.",
    )
    replay.add_argument("path", metavar="FILE", help="a file of SIDECAR_RECORD, or the folder")
    replay.add_argument("--limit", type=int, default=1, metavar="N", help="how many at a time (default: 1)")
    replay.add_argument(
        "--per",
        choices=("conversation", "model", "upstream"),
        default="conversation",
        help="what has a queue of its own (default: conversation)",
    )
    replay.add_argument(
        "--timeout", metavar="DURATION", help="how long a request would have waited (default: for ever)"
    )
    replay.add_argument("--json", action="store_true", help="print the findings as JSON")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag."""
    for setting in TABLE:
        shown = f" (default: {setting.default})" if setting.default else ""
        parser.add_argument(
            setting.flag,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=f"{setting.meaning}{shown}".replace("%", "%%"),
        )


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--once", action="store_true", help="end after one round")
    demo.add_argument(
        "--listen", metavar="HOST:PORT", help="the data port (default: 127.0.0.1:7070, or any free one)"
    )
    demo.add_argument("--seed", type=int, default=1, help="decides what goes wrong and how long answers are")
    demo.add_argument(
        "--through",
        metavar="URL",
        help="traffic only: the conversations go through the sidecar at this URL, and nothing is drawn",
    )
    demo.add_argument(
        "--provider",
        metavar="HOST:PORT",
        help="where the simulated provider listens (default: 127.0.0.1, any free port)",
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    """How a running sidecar is found."""
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="what to ask (default: the port that the flags or the SIDECAR_* variables name)",
    )
    for setting in TABLE:
        if setting.attribute in {"admin_listen", "health_listen"}:
            parser.add_argument(
                setting.flag, metavar="VALUE", default=argparse.SUPPRESS, help="as the sidecar was given it"
            )


def settings_table() -> str:
    """Every setting as lines of text: variable, default, meaning, and what is allowed."""
    return "\n".join(
        f"{setting.variable} [{setting.default or 'not set'}]\n    {setting.meaning}\n    {setting.kind.allowed}"
        for setting in TABLE
    )


def _run(flags: Mapping[str, str], unknown: Sequence[str], environ: Mapping[str, str]) -> int:
    settings = _settings(flags, unknown, environ)
    if settings is None:
        return BAD_SETTINGS
    if sys.stderr.isatty() and "log_format" not in flags and not environ.get("SIDECAR_LOG_FORMAT"):
        from sidecar.picture.run import main as lanes

        stdio.never_wait()  # a terminal that stands still holds up no signal
        code = lanes(settings, _as_variables(flags, unknown, environ), sys.stderr)
        if code is not None:
            return code

    # What libraries say while they are imported may quote the environment: OpenTelemetry's SDK reads it by itself.
    logging.getLogger().addHandler(logging.NullHandler())
    _prepare_grpc()
    gc.disable()  # what is imported stays: a tenth of the time to start went into looking for garbage in it
    from sidecar import app

    gc.freeze()
    gc.enable()

    stdio.never_wait()
    try:
        return app.run(settings)
    except CannotListenError as error:
        _say(f"sidecar: {error}")
        return FAILED


def _settings(
    flags: Mapping[str, str], unknown: Sequence[str], environ: Mapping[str, str]
) -> Settings | None:
    """The settings, or None where they are not valid, which has been told then."""
    if len(unknown) == 1 and not unknown[0].startswith("-") and "upstream" not in flags:
        # `sidecar run https://api.openai.com` is what everybody types first.
        flags, unknown = {**flags, "upstream": unknown[0]}, ()
    try:
        return read_settings(flags, environ, unknown)
    except SettingsError as error:
        _say("sidecar: the settings are not valid")
        for problem in error.problems:
            _say(f"  {problem}")
        return None


def _prepare_grpc() -> None:
    """Tells gRPC's core, before it is loaded, what it reads in the environment alone, unless that says otherwise.

    It writes to stderr itself, past the log; and a resolver of its own gives `localhost` an address that the system does not.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_DNS_RESOLVER", "native")


def _as_variables(
    flags: Mapping[str, str], unknown: Sequence[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment with every flag as a variable, for a process of its own."""
    flags = {**flags, "upstream": unknown[0]} if unknown else flags
    return {**environ, **{one.variable: flags[one.attribute] for one in TABLE if one.attribute in flags}}


def _check(given: dict[str, Any], unknown: Sequence[str], environ: Mapping[str, str]) -> int:
    as_json, left_out = given.pop("json"), given.pop("no_collector")
    settings = _settings(given, unknown, environ)
    if settings is None:
        return BAD_SETTINGS

    _prepare_grpc()
    from sidecar import check

    found = check.check(settings, _as_variables(given, unknown, environ), collector=not left_out)
    try:
        return check.tell(found, as_json=as_json)
    except OSError:
        return FAILED


def _inject(given: dict[str, Any], unknown: Sequence[str]) -> int:
    files, in_place = [Path(name) for name in given.pop("files")], given.pop("in_place")
    image, otel, removing = given.pop("image"), given.pop("otel"), given.pop("remove")
    usage = _inject_usage(files, otel, in_place=in_place)
    if usage is not None:
        _say(f"sidecar: {usage}")
        return BAD_SETTINGS
    read = _read(files or [None], "give manifests as files, or on standard input")
    if read is None:
        return FAILED
    if find_spec("yaml") is None:
        _say("sidecar: inject needs PyYAML: pip install pyyaml, or install the sidecar as '.[inject]'")
        return FAILED
    wanted = None if removing else _to_inject(given, unknown, image, otel)
    if wanted is None and not removing:
        return BAD_SETTINGS

    from sidecar.inject import InjectError, replace_files

    made: list[bytes] = []
    for name, text in read:
        try:
            made.append(_injected(text, wanted).encode())
        except InjectError as error:
            _say(f"sidecar: {name}: {error}")
            return FAILED
    try:
        if in_place:
            replace_files(zip(files, made, strict=True))
        else:
            sys.stdout.buffer.write(made[0])
            sys.stdout.buffer.flush()
    except OSError as error:
        _say(f"sidecar: {error}")
        return FAILED
    return DONE


def _inject_usage(files: Sequence[Path], otel: Sequence[str], *, in_place: bool) -> str | None:
    """What is wrong with how it was called."""
    if len(files) > 1 and not in_place:
        return "several files need --in-place"
    if in_place and not files:
        return "--in-place needs the files to write"
    misspelt = next((pair for pair in otel if not pair.startswith("OTEL_") or "=" not in pair), None)
    if misspelt is not None:
        return f"--otel {mask(misspelt)}: a variable and its value, such as OTEL_SERVICE_NAME=my-app-sidecar"
    return None


def _to_inject(
    given: dict[str, Any], unknown: Sequence[str], image: str, otel: Sequence[str]
) -> "Wanted | None":
    """What is to be put in, or None where it cannot be, which has been told then."""
    given.setdefault("health_listen", "0.0.0.0:7072")
    settings = _settings(given, unknown, {})
    if settings is None:
        _say("  inject takes settings as flags, and none from this shell's variables: --upstream=https://...")
        return None
    health = settings.health_listen
    if health is None or health.loopback:
        _say("sidecar: --health-listen: probes come to the pod's address, so as 0.0.0.0:7072 or [::]:7072")
        return None
    if 0 in {settings.listen.port, health.port}:
        _say("sidecar: --listen, --health-listen: apps and probes must know the port, so it cannot be 0")
        return None

    from sidecar.inject.container import Wanted

    variables = {one.variable: given[one.attribute] for one in TABLE if one.attribute in given}
    variables |= dict(pair.split("=", 1) for pair in otel)
    upstreams = tuple((one.name, one.provider) for one in settings.all_upstreams)
    return Wanted(image, variables, upstreams, settings.listen.port, health.port)


def _read(files: Sequence[Path | None], hint: str, errors: str = "strict") -> list[tuple[str, str]] | None:
    """Names and texts of files, None being standard input; or None where one cannot be read. That has been told then."""
    found: list[tuple[str, str]] = []
    for file in files:
        name = str(file or "standard input")
        try:
            data = sys.stdin.buffer.read() if file is None else file.read_bytes()
            found.append((name, data.decode(errors=errors)))
        except OSError as error:
            _say(f"sidecar: {name}: {error.strerror}; {hint}")
        except UnicodeDecodeError:
            _say(f"sidecar: {name}: this is not text in UTF-8; {hint}")
    return found if len(found) == len(files) else None


def _injected(text: str, wanted: "Wanted | None") -> str:
    from sidecar.inject import inject, remove

    if wanted is None:
        return remove(text)
    found = inject(text, wanted)
    for note in found.notes:
        _say(f"sidecar: {note}")
    if not found.pods:
        _say("sidecar: no pod to put it into")
    return found.text


def _explain(given: dict[str, Any], unknown: Sequence[str], environ: Mapping[str, str]) -> int:
    wanted = given.pop("request")
    text = os.fsencode(wanted).decode(errors="replace")  # UTF-8, whatever the locale
    if not re.match(r"\s*curl\s", text):
        read = _read(
            [None if wanted == "-" else Path(wanted)],
            "give a request as a file, on standard input, or as 'curl ...'",
            errors="surrogateescape",  # a body may be compressed
        )
        if read is None:
            return FAILED
        ((_, text),) = read
    settings = _settings(given, unknown, environ)
    if settings is None:
        return BAD_SETTINGS

    from sidecar import explain, request_text

    try:
        lines = explain.explain(request_text.read_request(text), settings)
    except ValueError as error:
        _say(f"sidecar: {shown(str(error), 1000)}")
        return FAILED
    return _print("\n".join(f"{name:<13} {told}" for name, told in lines))


def _top(given: dict[str, Any], environ: Mapping[str, str]) -> int:
    once, url = given.pop("once"), given.pop("url")
    try:
        admin, _ = load_addresses(given, environ)
    except SettingsError as error:
        _say(f"sidecar: {error}")
        return BAD_SETTINGS

    from sidecar import top

    url = (url or f"http://{admin.reachable}").rstrip("/")
    return top.main(url, environ.get("SIDECAR_ADMIN_TOKEN"), environ, once=once)


def _view(path: str, listen: str) -> int:
    from sidecar.record import RecordError
    from sidecar.record.view import view

    try:
        address = read_address(listen)
    except ValueError:
        _say(f"sidecar: --listen {listen}: {ADDRESS.allowed}")
        return BAD_SETTINGS
    try:
        view(Path(path), address, _print, _passed_over)
    except (RecordError, CannotListenError) as error:
        _say(f"sidecar: {error}")
        return FAILED
    return DONE


def _passed_over(lines: int) -> None:
    _say(f"sidecar: {lines} {'line' if lines == 1 else 'lines'} passed over: cut, or not of this version")


def _replay(given: dict[str, Any]) -> int:
    from sidecar.record import RecordError, read_records
    from sidecar.record.replay import replay, told

    if given["limit"] < 1:
        _say("sidecar: --limit: at least 1")
        return BAD_SETTINGS
    try:
        timeout = None if given["timeout"] is None else read_duration(given["timeout"])
        records = read_records(Path(given["path"]), _passed_over)
    except RecordError as error:
        _say(f"sidecar: {error}")
        return FAILED
    except ValueError:
        _say(f"sidecar: --timeout {given['timeout']}: {DURATION.allowed}")
        return BAD_SETTINGS
    found = replay(records, limit=given["limit"], per=given["per"], timeout=timeout)
    return _print(told(found, limit=given["limit"], per=given["per"], as_json=given["json"]))


def _health(command: str, given: dict[str, Any], environ: Mapping[str, str]) -> int:
    from sidecar import health

    url, until, text = given.pop("url"), given.pop("until", "ready"), given.pop("timeout", "1ms")
    try:
        seconds = read_duration(text)
        admin, port = load_addresses(given, environ)
    except SettingsError as error:
        found: str | None = f"not ready: {error}"
    except ValueError:
        found = f"--timeout {text}: {DURATION.allowed}"
    else:
        url = url or health.url_of(admin, None if until == "drained" else port)
        if command == "health":
            found = health.trouble(url)
            found = found and f"not ready: {found}"
        else:
            found = health.wait(url, until, seconds, environ.get("SIDECAR_ADMIN_TOKEN"))
    if found is not None:
        _say(f"sidecar: {found}")
        return FAILED
    return DONE


def read_settings(
    flags: Mapping[str, str], environ: Mapping[str, str], unknown: Sequence[str] = ()
) -> Settings:
    """The sidecar's settings.

    Raises:
        SettingsError: everything that is wrong with them, and the arguments nobody knows.
    """
    # What follows an unknown flag is its value, perhaps a secret, and is not repeated.
    misnamed = [argument for argument in unknown if argument.startswith("-")] or unknown
    problems = [_unknown_argument(argument) for argument in misnamed]
    settings: Settings | None = None
    try:
        settings = load(flags, environ)
    except SettingsError as error:
        problems += error.problems
    if settings is None or problems:
        raise SettingsError([*dict.fromkeys(problems)])
    return settings


def _unknown_argument(argument: str) -> Problem:
    flag, _, value = argument.partition("=")
    near = difflib.get_close_matches(flag, [setting.flag for setting in TABLE], n=1)
    hint = f"did you mean {near[0]}?" if near else "`sidecar run --help` lists all there are"
    return Problem(mask(flag), "***" if value else "", f"there is no such argument; {hint}")


def _print(text: str) -> int:
    """Whoever reads it may have seen enough, or the disk is full: that is told by the exit code."""
    try:
        print(text, flush=True)
    except OSError:
        return FAILED
    return DONE


def _say(line: str) -> None:
    with suppress(OSError):  # the exit code says it too
        print(line, file=sys.stderr)
