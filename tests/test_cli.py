"""The command line: exit codes, and what is said on the way out."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli
from sidecar.settings import TABLE, SettingsError
from sidecar.testing import ScriptedUpstream, exchange, request_bytes
from sidecar.version import VERSION
from sidecar.ways_out import EgressRules, Trust


def test_bad_settings_are_listed_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags, variables and unknown arguments: all of it at once."""
    environ = {"SIDECAR_IDLE_TIMEOUT": "soon"}
    code = cli.main(["run", "--listen", "nowhere", "--semcov=secret", "--admin-tokn", "secret"], environ)
    said = capsys.readouterr().err
    assert code == 2
    assert "--listen=nowhere: host:port" in said
    assert "SIDECAR_IDLE_TIMEOUT=soon: a duration" in said
    assert "did you mean --semconv?" in said
    assert "did you mean --admin-token?" in said
    assert "SIDECAR_UPSTREAM: a URL is needed" in said
    assert "secret" not in said


MISTYPED = [
    (["api.openai.com"], "--upstream=api.openai.com: type https://api.openai.com ("),
    (["--upstream=api.openai.com"], "--upstream=api.openai.com: type https://api.openai.com ("),
    (["--upstream", "api.openai.com/v1"], "type https://api.openai.com/v1 (the scheme is missing)"),
    (["--upstream=localhost:11434"], "type http://localhost:11434 (the scheme is missing)"),
    (["--upstream=ollama:11434"], "type http://ollama:11434 (the scheme is missing)"),
    (["--upstream=[::1]:8080"], "type http://[::1]:8080 (the scheme is missing)"),
    (
        ["--upstream='https://api.openai.com'"],
        "type https://api.openai.com (the quotes are part of the value)",
    ),
    (["--upstream=\u201chttps://api.openai.com\u201d"], "type https://api.openai.com (the quotes"),
    (
        ["--upstream=openai=https://api.openai.com"],
        "type https://api.openai.com (names belong to SIDECAR_UPSTREAMS",
    ),
    (["--upstreams=a=api.openai.com"], "type a=https://api.openai.com (the scheme is missing)"),
    (["--upstreams=https://api.openai.com"], "type name=https://api.openai.com, with a name"),
    (["--upstream=https://user:secret@api.test"], "--upstream=***@api.test: http:// or https://"),
    (["--upstream=https://"], "--upstream=https://: http:// or https://"),
    (["https://a.test", "https://b.test"], "there is no such argument"),
    (["--upstream=https://a.test", "https://b.test"], "there is no such argument"),
    (["--upsteam=https://a.test"], "did you mean --upstream?"),
    (["--Upstream", "https://a.test"], "did you mean --upstream?"),
    (["-upstream", "https://a.test"], "did you mean --upstream?"),
]


@pytest.mark.parametrize("arguments, said", MISTYPED)
def test_what_to_type(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The usual slips, and exactly what was meant."""
    assert cli.main(["run", *arguments], {}) == 2
    assert said in capsys.readouterr().err


def test_the_upstream_alone(upstream: ScriptedUpstream, start_sidecar: Any) -> None:
    """`sidecar run URL` is what everybody types first; blanks around it are no matter."""
    sidecar = start_sidecar(upstream=None, arguments=("run", f" {upstream.url}/v1 "))
    assert exchange(sidecar.port, request_bytes("GET", "/x")).status == 200
    assert upstream.request().path == "/v1/x"
    line = sidecar.wait_log("sidecar.way_out", level="warning")
    assert "/v1/... is asked for as /v1/v1/..." in line["message"]


PORTS = [
    ("0.0.0.0:7071", "127.0.0.1:7071", True),
    ("localhost:7071", "127.0.0.1:7071", True),
    ("127.0.0.1:7071", "LOCALHOST:7071", True),
    ("[::]:7071", "[::1]:7071", True),
    ("[::]:7071", "localhost:7071", True),
    ("[0:0::1]:7071", "[::1]:7071", True),
    ("10.0.0.1:7071", "0.0.0.0:7071", True),
    ("host.test:7071", "HOST.test:7071", True),
    ("[::]:7071", "127.0.0.1:7071", False),
    ("127.0.0.2:7071", "127.0.0.1:7071", False),
    ("0.0.0.0:0", "127.0.0.1:0", False),
    ("0.0.0.0:7070", "127.0.0.1:7071", False),
]


@pytest.mark.parametrize("first, second, meet", PORTS)
@pytest.mark.parametrize(
    "names", [("LISTEN", "ADMIN_LISTEN"), ("LISTEN", "HEALTH_LISTEN"), ("ADMIN_LISTEN", "HEALTH_LISTEN")]
)
def test_two_ports_that_are_one(names: tuple[str, str], first: str, second: str, meet: bool) -> None:
    """Compared as addresses; both settings are named."""
    given = dict(zip((f"SIDECAR_{name}" for name in names), (first, second), strict=True))
    environ = {"SIDECAR_UPSTREAM": "http://127.0.0.1:9", "SIDECAR_ADMIN_TOKEN": "long-enough"}
    environ |= {"SIDECAR_LISTEN": "127.0.0.1:1", "SIDECAR_ADMIN_LISTEN": "127.0.0.1:2"} | given
    if not meet:
        assert cli.read_settings({}, environ).upstream is not None
        return
    with pytest.raises(SettingsError) as caught:
        cli.read_settings({}, environ)
    (problem,) = caught.value.problems
    one, other = given
    assert problem.name == other
    assert problem.allowed.startswith(f"a port of its own; {one} has this one (")


def test_a_stray_word_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that belongs to no flag is an error too."""
    assert cli.main(["run", "extra", "--upstream", "http://127.0.0.1:9"], {}) == 2
    assert "extra: there is no such argument" in capsys.readouterr().err


def test_settings_of_others_stop_nothing() -> None:
    """What OTEL_* variables say is everybody's, and never an error."""
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon", "OTEL_BSP_SCHEDULE_DELAY": "5s"}
    assert cli.read_settings({"upstream": "http://127.0.0.1:9"}, environ).environ == environ


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_neither_do_proxies_and_certificates(name: str) -> None:
    """They are named in a line each, and passed over."""
    environ = {name: "socks5://user:secret@nowhere/x.pem"}
    settings = cli.read_settings({"upstream": "http://127.0.0.1:9"}, environ)
    told = (*EgressRules(settings.environ).ignored, *Trust(settings.environ).ignored)
    assert told
    assert all(line.startswith(f"{name}=") and "secret" not in line for line in told)


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """`sidecar run --help` and `sidecar settings` show the whole table."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--help"], {})
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert cli.main(["settings"], {}) == 0
    listed = capsys.readouterr().out
    for setting in TABLE:
        assert re.search(rf"{setting.flag}\b", shown)
        assert f"{setting.variable} [{setting.default or 'not set'}]" in listed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`sidecar --version` says which it is."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"], {})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sidecar {VERSION}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["settings", "--loud"], ["demo", "--forever"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No command, an unknown one, or an argument it does not have: usage, and code 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments, {})
    assert ended.value.code == 2
    assert "usage: sidecar" in capsys.readouterr().err


@pytest.mark.parametrize("taken", ["LISTEN", "ADMIN_LISTEN", "HEALTH_LISTEN"])
def test_port_in_use_is_one_line_with_code_1(taken: str) -> None:
    """Each of the ports; the line names the setting that moves it."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        host, port = holder.getsockname()
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("SIDECAR_", "OTEL_"))
        }
        environ |= {"SIDECAR_LISTEN": "127.0.0.1:0", "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0"}
        environ |= {f"SIDECAR_{taken}": f"{host}:{port}"}
        ended = subprocess.run(
            [sys.executable, "-m", "sidecar", "run", "--upstream", "http://127.0.0.1:9"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("sidecar:")]
    assert lines == [f"sidecar: cannot listen on {host}:{port} (SIDECAR_{taken}): the port is in use"]
    assert "Traceback" not in ended.stderr


UNWRITABLE = {"full": ">/dev/full", "closed": ">&-", "nobody reads": "| true"}


@pytest.mark.parametrize("stdout", UNWRITABLE)
@pytest.mark.parametrize(
    "command, code",
    [("settings", 1), ("--help", 0), ("run --help", 0), ("--version", 0), ("demo --once", 1)],
)
def test_output_that_nobody_takes(command: str, code: int, stdout: str, tmp_path: Path) -> None:
    """No traceback, and an exit code of ours: 1 where the output was all that was asked for and could not be written."""
    expected = {"full": code, "closed": 0, "nobody reads": 0 if "demo" in command else code}[stdout]
    # The code is written to a file, since a pipe tells that of its last command.
    script = f'{{ "$@" 2>{tmp_path}/said; echo $? >{tmp_path}/code; }} {UNWRITABLE[stdout]}'
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
    }
    words = ("/bin/sh", "-c", script, "sh", sys.executable, "-m", "sidecar", *command.split())
    subprocess.run(words, env=environ, check=True, timeout=120)
    said = (tmp_path / "said").read_text()
    assert int((tmp_path / "code").read_text()) == expected, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("command, code", [("health http://127.0.0.1:9/", 1), ("run", 2), ("nonsense", 2)])
def test_an_error_that_cannot_be_said(command: str, code: int, stderr: str) -> None:
    """The exit code says it still."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    words = ("/bin/sh", "-c", f'exec "$@" {stderr}', "sh", sys.executable, "-m", "sidecar", *command.split())
    ended = subprocess.run(words, env=environ, check=False, timeout=120)
    assert ended.returncode == code


@pytest.mark.parametrize("command", ["wait URL", "health URL", "top --once URL", "check URL --no-collector"])
def test_interrupted(command: str) -> None:
    """Ctrl-C ends what waits, by its signal and without a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = [sys.executable, "-m", "sidecar", *command.replace("URL", url).split()]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=120) == (b"", b"")
            connection.close()
        assert process.returncode == -signal.SIGINT
