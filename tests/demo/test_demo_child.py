"""The environment that the demo gives the sidecar, and what happens when that does not start."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from sidecar.demo.composed import compose
from sidecar.picture.child import Child, ChildError, Composed
from sidecar.picture.watch import Watch
from sidecar.settings import Address, SettingsError
from sidecar.testing import RunningSidecar

UPSTREAM = "http://127.0.0.1:9999"


@pytest.fixture
def taken() -> Iterator[Address]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield Address("127.0.0.1", listener.getsockname()[1])


def test_what_the_sidecar_is_given() -> None:
    """The provider as upstream, short sessions, a short end, no proxy to loopback; everything else as it was."""
    environ = {
        "PATH": "/bin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "NO_PROXY": "corp",
        "SIDECAR_UPSTREAM": "https://elsewhere",
        "SIDECAR_UPSTREAMS": "x=https://elsewhere",
        "SIDECAR_SEMCONV": "both",
    }
    child = compose(environ, listen="127.0.0.1:0", upstream=UPSTREAM).environ
    assert child["SIDECAR_UPSTREAM"] == UPSTREAM
    assert (child["SIDECAR_SESSION_IDLE"], child["SIDECAR_SHUTDOWN_TIMEOUT"]) == ("4s", "6s")
    assert child["NO_PROXY"] == "corp,127.0.0.1,localhost,::1"
    assert child["no_proxy"] == "127.0.0.1,localhost,::1"
    assert (child["PATH"], child["SIDECAR_SEMCONV"]) == ("/bin", "both")
    assert child["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://c:4318"
    assert "SIDECAR_UPSTREAMS" not in child


def test_a_port_of_its_own_choice() -> None:
    """Port 0 becomes a real one, so that the line for other apps can be printed."""
    composed = compose({}, listen="127.0.0.1:0", upstream=UPSTREAM)
    assert composed.listen.port != 0
    assert composed.environ["SIDECAR_LISTEN"] == str(composed.listen)
    assert composed.admin.port not in (0, composed.listen.port)
    assert composed.remark is None


def test_the_usual_port_is_taken() -> None:
    """Another one is used, and a line says so."""
    with ExitStack() as stack:
        # If somebody has it already, all the better; what they left in TIME_WAIT does not count.
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 7070)))
        composed = compose({}, listen=None, upstream=UPSTREAM)
    assert composed.listen.port != 7070
    assert composed.remark == f"127.0.0.1:7070 is taken; listening on {composed.listen}"
    assert len(" port          ") + len(composed.remark) <= 80, "cut off, it would tell another port"


def test_a_port_that_somebody_chose_is_kept(taken: Address) -> None:
    """Taken or not: the sidecar itself says that it cannot have it."""
    for composed in (
        compose({}, listen=str(taken), upstream=UPSTREAM),
        compose({"SIDECAR_LISTEN": str(taken)}, listen=None, upstream=UPSTREAM),
    ):
        assert composed.listen == taken


def test_ports_that_listen_on_every_address() -> None:
    """Are reached through loopback, the admin port with its token."""
    environ = {"SIDECAR_ADMIN_LISTEN": "[::]:7171", "SIDECAR_ADMIN_TOKEN": "t" * 32}
    composed = compose(environ, listen="0.0.0.0:7170", upstream=UPSTREAM)
    assert (str(composed.listen), str(composed.admin)) == ("127.0.0.1:7170", "[::1]:7171")
    assert composed.token == "t" * 32


def test_a_bad_setting() -> None:
    """Is told as every bad setting is."""
    with pytest.raises(SettingsError, match="SIDECAR_LISTEN"):
        compose({}, listen="nowhere", upstream=UPSTREAM)


async def test_a_sidecar_that_ends_at_once() -> None:
    """Its exit code and its last words are told."""
    nowhere = Address("127.0.0.1", 1)
    composed = Composed({**os.environ, "SIDECAR_LISTEN": "bad"}, nowhere, nowhere, None, None)
    async with Watch("http://127.0.0.1:1", None) as watch:
        with pytest.raises(ChildError, match="ended with exit code") as raised:
            await Child.start(composed, watch)
    assert raised.value.lines


async def test_another_sidecar_that_was_quicker() -> None:
    """Is not taken for the demo's own, though it answers where that one would."""
    async with RunningSidecar(upstream=UPSTREAM) as quicker:
        listen, admin = (Address("127.0.0.1", port) for port in (quicker.port, quicker.admin_port))
        ports = {"SIDECAR_LISTEN": str(listen), "SIDECAR_ADMIN_LISTEN": str(admin)}
        composed = Composed({**os.environ, **ports, "SIDECAR_UPSTREAM": UPSTREAM}, listen, admin, None, None)
        async with Watch(f"http://{admin}", None) as watch:
            assert await watch.ready()
            with pytest.raises(ChildError, match="ended with exit code 1") as raised:
                await Child.start(composed, watch)
    assert "in use" in raised.value.lines[-1]
