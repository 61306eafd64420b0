"""`sidecar health`: what a container's health check runs, against the production server and against trouble."""

import signal
import socket
import subprocess
import sys
import threading

import pytest

from sidecar import cli, health
from sidecar.settings import load_addresses
from sidecar.testing import (
    Gate,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_request,
    json_answer,
    sse_head,
)


def asked(environ: dict[str, str], *arguments: str) -> int:
    """The exit code of `sidecar health`."""
    return cli.main(["health", *arguments], environ)


def test_a_ready_sidecar(sidecar: RunningSidecar, capfd: pytest.CaptureFixture[str]) -> None:
    """It is found by the variables it runs with, or by a URL; nothing is said, and no token is needed."""
    address = f"127.0.0.1:{sidecar.admin_port}"
    environ = {"SIDECAR_ADMIN_LISTEN": address, "HTTP_PROXY": "http://127.0.0.1:9"}
    assert asked(environ) == 0
    assert asked({**environ, "SIDECAR_IDLE_TIMEOUT": "soon"}) == 0, "that is no matter of where to ask"
    assert asked({}, "--admin-listen", address) == 0
    assert asked({"SIDECAR_ADMIN_LISTEN": "127.0.0.1:1"}, f"--admin-listen={address}") == 0
    assert asked({"SIDECAR_ADMIN_LISTEN": "127.0.0.1:1"}, f"--health-listen={address}") == 0
    assert asked({}, f"http://{address}/liveness") == 0
    assert capfd.readouterr() == ("", "")
    assert asked({}, f"http://{address}/nothing") == 1
    assert f"http://{address}/nothing: 404 Not Found" in capfd.readouterr().err


def test_as_a_command(sidecar: RunningSidecar) -> None:
    """As an image runs it: a process of its own."""
    url = f"http://127.0.0.1:{sidecar.admin_port}/readiness"
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "health", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_sidecar_that_drains(upstream: ScriptedUpstream, capfd: pytest.CaptureFixture[str]) -> None:
    """It is not ready any more, and 503 says so."""
    gate = Gate()
    upstream.answer(sse_head(), Wait(gate))
    with RunningSidecar(upstream=upstream.url) as draining, RawClient(draining.port) as client:
        client.send(chat_request(stream=True))
        draining.wait_until(lambda: draining.stats()["requests"]["in_flight"] == 1)
        draining.signal(signal.SIGTERM)
        draining.wait_log("sidecar.draining")
        assert asked({}, f"http://127.0.0.1:{draining.admin_port}/readiness") == 1
        gate.open()
    assert "503 Service Unavailable" in capfd.readouterr().err


@pytest.mark.parametrize(
    "settings, url",
    [
        ({}, "http://127.0.0.1:7071/readiness"),
        ({"SIDECAR_ADMIN_LISTEN": "[::]:81", "SIDECAR_ADMIN_TOKEN": "x" * 8}, "http://[::1]:81/readiness"),
        ({"SIDECAR_HEALTH_LISTEN": "0.0.0.0:7072"}, "http://127.0.0.1:7072/readiness"),
        ({"SIDECAR_HEALTH_LISTEN": "10.1.2.3:7072"}, "http://10.1.2.3:7072/readiness"),
    ],
)
def test_where_it_asks(settings: dict[str, str], url: str) -> None:
    """The health port wins over the admin port; a wildcard is asked on loopback."""
    assert health.url_of(*load_addresses({}, settings)) == url


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["https://127.0.0.1/"], "an http:// URL is needed"),
        (["http:///readiness"], "an http:// URL is needed"),
        (["http://127.0.0.1:port/"], "port"),
        (["http://127.0.0.1:1/"], "refused"),
        (["--admin-listen", "nowhere"], "--admin-listen=nowhere: host:port"),
        (["--health-listen", "127.0.0.1:1"], "127.0.0.1:1/readiness"),
    ],
)
def test_trouble(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says why, and the code is 1, whatever it was."""
    assert asked({}, *arguments) == 1
    told = capfd.readouterr().err
    assert told.startswith("sidecar: not ready: ")
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-none\r\n"])
def test_what_is_no_http(said: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """A port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        assert asked({}, f"http://127.0.0.1:{other.getsockname()[1]}/") == 1
        thread.join()
    assert "sidecar: not ready: http://127.0.0.1" in capfd.readouterr().err


def waited(sidecar: RunningSidecar, *arguments: str) -> int:
    """The exit code of `sidecar wait`."""
    return cli.main(["wait", f"http://127.0.0.1:{sidecar.admin_port}/readiness", *arguments], {})


def test_wait_until_ready(sidecar: RunningSidecar, capfd: pytest.CaptureFixture[str]) -> None:
    """At once where it is; after the time-out the reason is told."""
    assert waited(sidecar) == 0
    assert cli.main(["wait", "http://127.0.0.1:1/readiness", "--timeout=200ms"], {}) == 1
    assert "not ready after 0.2 s: http://127.0.0.1:1/readiness" in capfd.readouterr().err
    assert waited(sidecar, "--timeout=soon") == 1
    assert "a duration" in capfd.readouterr().err


NO_URLS = [
    "https://127.0.0.1:1",
    "127.0.0.1:7071",
    "localhost",
    "http://127.0.0.1:99999",
    "http://[::1",
    "http:///x",
]


@pytest.mark.parametrize("url", NO_URLS)
@pytest.mark.parametrize("command", [["health"], ["wait"], ["wait", "--until=drained"]], ids=" ".join)
def test_what_is_no_url(command: list[str], url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It is never taken for a sidecar that has gone, and it is what is told."""
    timeout = ["--timeout=1ms"] if "wait" in command else []
    assert cli.main([*command, url, *timeout], {}) == 1
    told = capfd.readouterr().err
    assert url in told
    assert "a duration" not in told


@pytest.mark.parametrize("stats", [None, [], {}, {"state": "draining"}, {"state": "draining", "requests": 1}])
def test_drained_is_said_by_a_sidecar_alone(
    stats: object, upstream: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    """Somebody else's port tells nothing of it."""
    upstream.answer_always(*json_answer(stats))
    assert cli.main(["wait", upstream.url, "--until=drained", "--timeout=1ms"], {}) == 1
    assert f"{upstream.url}: its /stats is not a sidecar's" in capfd.readouterr().err


def test_wait_until_drained_with_a_health_port(
    sidecar: RunningSidecar, capfd: pytest.CaptureFixture[str]
) -> None:
    """The health port knows nothing of what is in flight: the admin port is asked."""
    environ = {
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{sidecar.admin_port}",
        "SIDECAR_HEALTH_LISTEN": "127.0.0.1:1",
    }
    assert cli.main(["wait", "--until=drained", "--timeout=1ms"], environ) == 1
    assert "nobody has told it to stop" in capfd.readouterr().err


def test_wait_until_drained(upstream: ScriptedUpstream, capfd: pytest.CaptureFixture[str]) -> None:
    """Not while it takes requests, not while one is in flight; once it has gone it is."""
    gate = Gate()
    upstream.answer(sse_head(), Wait(gate))
    with RunningSidecar(upstream=upstream.url) as sidecar, RawClient(sidecar.port) as client:
        assert waited(sidecar, "--until=drained", "--timeout=1ms") == 1
        assert "nobody has told it to stop" in capfd.readouterr().err
        client.send(chat_request(stream=True))
        client.read_until(b"\r\n\r\n")
        sidecar.signal(signal.SIGTERM)
        sidecar.wait_log("sidecar.draining")
        assert waited(sidecar, "--until=drained", "--timeout=1ms") == 1
        assert "1 in flight" in capfd.readouterr().err
        gate.open()
        client.read_to_end()
        assert waited(sidecar, "--until=drained") == 0
        sidecar.wait()
        assert waited(sidecar, "--until=drained") == 0
