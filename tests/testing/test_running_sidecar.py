"""The running sidecar tells why it did not start, and leaves no process behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from sidecar.testing import RawClient, RunningSidecar, ScriptedUpstream, exchange, request_bytes
from sidecar.testing.process import START_TIMEOUT


def test_it_serves_and_stops(module_upstream: ScriptedUpstream) -> None:
    """Ports of the system's choice, log lines as dicts, stats, and exit code 0."""
    with RunningSidecar(upstream=module_upstream.url) as sidecar:
        assert exchange(sidecar.port, request_bytes("GET", "/")).status == 200
        assert sidecar.url == f"http://127.0.0.1:{sidecar.port}"
        assert sidecar.stats()["requests"]["started"] == 1
        assert sidecar.find_logs("sidecar.listening", admin=f"127.0.0.1:{sidecar.admin_port}")
        with pytest.raises(AssertionError, match="no never within"):
            sidecar.wait_log("never", timeout=0.01)
        assert sidecar.stop() == 0
    assert not sidecar.running


async def test_async_tests_use_it_as_well(module_upstream: ScriptedUpstream) -> None:
    """Starting and stopping block for about a second; the process runs beside the test's loop."""
    async with RunningSidecar(upstream=module_upstream.url) as sidecar:
        assert sidecar.running
    assert not sidecar.running


def test_a_start_that_fails_tells_why() -> None:
    """The failure's text holds how it ended, and what it wrote."""
    with pytest.raises(AssertionError, match=r"(?s)ended with 2 .*SIDECAR_UPSTREAM"), RunningSidecar():
        pass


def test_a_start_that_fails_is_noticed_at_once(tmp_path: Path) -> None:
    """Also where something else that was started with it goes on, and holds its stderr."""
    lasting = tmp_path / "lasting"
    os.mkfifo(lasting)
    launcher = ("sh", "-c", 'cat "$0" & exec "$@"', str(lasting))
    begun = time.monotonic()
    try:
        with pytest.raises(AssertionError, match="ended with 2"), RunningSidecar(launcher=launcher):
            pass
        assert time.monotonic() - begun < START_TIMEOUT / 2
    finally:
        lasting.open("w").close()


def test_a_process_that_does_not_end_is_killed(module_upstream: ScriptedUpstream) -> None:
    """A wait that runs out fails, and nothing goes on running."""
    with RunningSidecar(upstream=module_upstream.url) as sidecar:
        with pytest.raises(AssertionError, match="still running"):
            sidecar.wait(timeout=0.01)
        assert not sidecar.running
    assert sidecar.wait() == -signal.SIGKILL


def test_nothing_of_the_environment_is_inherited(
    module_upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A developer's own variables change no test."""
    monkeypatch.setenv("SIDECAR_HEAD_LIMIT", "nonsense")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with RunningSidecar(upstream=module_upstream.url) as sidecar, RawClient(sidecar.port) as client:
        client.send(request_bytes("GET", "/"))
        assert client.read_answer().status == 200
