"""The command line: `sidecar run`, `sidecar demo`, `sidecar health`, `sidecar settings`.

Owns arguments, exit codes and what is said when a start fails: 2 and every bad value at once, 1 and one line
for a port that cannot be had, 0 after a clean end. It is the one place that takes the process's environment;
everything behind it gets mappings.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sidecar import stdio
from sidecar.core.shown import mask
from sidecar.errors import CannotListenError
from sidecar.settings import TABLE, Problem, Settings, SettingsError, load, load_addresses
from sidecar.version import VERSION

DONE, FAILED, BAD_SETTINGS = 0, 1, 2


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Runs one command and gives its exit code. Both parameters default to the process's own."""
    stdio.open_closed()
    try:
        return _command(argv, environ)
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
    if unknown:
        parser.error(f"no such argument: {unknown[0]}")
    if command == "settings":
        return _print(settings_table())
    if command == "health":
        return _health(given.pop("url"), given, environment)
    if given["through"] is not None and given["listen"] is not None:
        parser.error("--listen is for the demo's own sidecar; with --through there is none")

    from sidecar import demo

    return demo.main(**given, environ=environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sidecar", description="A transparent LLM proxy beside your app.")
    parser.add_argument("--version", action="version", version=f"sidecar {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | demo | health | settings")
    run = commands.add_parser(
        "run",
        help="serve until told to stop",
        usage="sidecar run [UPSTREAM] [--setting VALUE ...]",
        description="Serves until SIGTERM. Every flag is also a variable: --listen is SIDECAR_LISTEN; flags win. "
        "A URL alone is the upstream: sidecar run https://api.openai.com",
        allow_abbrev=False,
    )
    for setting in TABLE:
        shown = f" (default: {setting.default})" if setting.default else ""
        run.add_argument(
            setting.flag,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=f"{setting.meaning}{shown}".replace("%", "%%"),
        )
    demo = commands.add_parser(
        "demo", help="a simulated provider, the sidecar and conversations, in this terminal"
    )
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
    health = commands.add_parser(
        "health",
        help="ask a running sidecar whether it is ready",
        description="Ends with 0 if it is ready, else with 1 and the reason; for the health check of a container.",
    )
    health.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="what to ask (default: the port that the flags or the SIDECAR_* variables name)",
    )
    for setting in TABLE:
        if setting.attribute in {"admin_listen", "health_listen"}:
            health.add_argument(
                setting.flag, metavar="VALUE", default=argparse.SUPPRESS, help="as the sidecar was given it"
            )
    commands.add_parser("settings", help="list every setting")
    return parser


def settings_table() -> str:
    """Every setting as lines of text: variable, default, meaning, and what is allowed."""
    return "\n".join(
        f"{setting.variable} [{setting.default or 'not set'}]\n    {setting.meaning}\n    {setting.kind.allowed}"
        for setting in TABLE
    )


def _run(flags: Mapping[str, str], unknown: Sequence[str], environ: Mapping[str, str]) -> int:
    if len(unknown) == 1 and not unknown[0].startswith("-") and "upstream" not in flags:
        # `sidecar run https://api.openai.com` is what everybody types first.
        flags, unknown = {**flags, "upstream": unknown[0]}, ()
    try:
        settings = read_settings(flags, environ, unknown)
    except SettingsError as error:
        _say("sidecar: the settings are not valid")
        for problem in error.problems:
            _say(f"  {problem}")
        return BAD_SETTINGS

    # What libraries say while they are imported may quote the environment: OpenTelemetry's SDK reads it by itself.
    logging.getLogger().addHandler(logging.NullHandler())
    # gRPC's core writes to stderr itself, past the log; it is asked before it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from sidecar import app

    stdio.never_wait()
    try:
        return app.run(settings)
    except CannotListenError as error:
        _say(f"sidecar: {error}")
        return FAILED


def _health(url: str | None, flags: Mapping[str, str], environ: Mapping[str, str]) -> int:
    from sidecar import health

    try:
        found = health.trouble(url or health.url_of(*load_addresses(flags, environ)))
    except SettingsError as error:
        found = str(error)
    if found is not None:
        _say(f"sidecar: not ready: {found}")
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
