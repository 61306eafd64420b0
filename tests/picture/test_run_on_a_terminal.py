"""`sidecar run` on a terminal: lanes in place of lines, and the same sidecar behind them."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from sidecar.testing import (
    Gate,
    RawClient,
    ScriptedUpstream,
    Wait,
    chat_completion,
    chat_request,
    exchange,
    free_port,
    json_answer,
)
from tests.terminals import ERRORS, OnTerminal

LIMIT = 60.0


class Running(OnTerminal):
    """`sidecar run` with its stderr on a terminal."""

    def __init__(self, upstream: str, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.port, self.admin = free_port(), free_port()
        ports = (f"--listen=127.0.0.1:{self.port}", f"--admin-listen=127.0.0.1:{self.admin}")
        super().__init__(
            [sys.executable, "-m", "sidecar", "run", upstream, *ports, *arguments],
            streams=ERRORS,
            environ={**os.environ, "TERM": "xterm", **(environ or {})},
            limit=LIMIT,
        )

    def close(self) -> None:
        """Ends it, if it has not ended."""
        if self.process.poll() is None:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                one.kill()
            self.process.kill()
            self.process.wait()
        super().close()


@pytest.fixture
def terminal(upstream: ScriptedUpstream) -> Iterator[Callable[..., Running]]:
    """Starts one before the scripted provider."""
    started: list[Running] = []

    def start(*arguments: str, environ: dict[str, str] | None = None) -> Running:
        started.append(Running(upstream.url, *arguments, environ=environ))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_lanes_and_a_good_end(terminal: Callable[..., Running], upstream: ScriptedUpstream) -> None:
    """Overlapping calls in their lane with the queue's row, hostile ids as text; Ctrl-C drains, with 0."""
    gates = [Gate(), Gate()]
    running = terminal()
    running.read_until("waiting for the first request")
    running.read_until(f"http://127.0.0.1:{running.admin}/")
    running.read_until(f"export OPENAI_BASE_URL=http://127.0.0.1:{running.port}/v1")
    fields = [b"X-Sidecar-Session-Id: race <b>"]
    clients = [RawClient(running.port) for _ in gates]
    for number, (client, gate) in enumerate(zip(clients, gates, strict=True)):
        upstream.answer(Wait(gate), *json_answer(chat_completion("Hi")))
        client.send(chat_request(headers=fields))
        upstream.head(number)  # or the other one might be answered so
    running.read_until("race <b>")
    running.read_until("2 at once")
    running.read_until("would queue")
    for client, gate in zip(clients, gates, strict=True):
        gate.open()
        client.read_answer()
        client.close()
    running.read_until("2 settled")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert running.seen.endswith(
        "\x1b[?25h\x1b[?1049lsidecar: 2 requests: 2 completed; 1 session; telemetry off\r\n"
    )
    assert "-10 s" in running.seen
    assert "1 session, 1 live" in running.seen
    assert "1 overlap " in running.seen
    assert "{" not in running.seen


def test_calls_of_no_session_share_a_lane(
    terminal: Callable[..., Running], upstream: ScriptedUpstream
) -> None:
    """As they have in the demo."""
    running = terminal()
    running.read_until("waiting for the first request")
    upstream.answer(*json_answer(chat_completion("Hi")))
    exchange(running.port, chat_request())
    running.read_until(r"\(no session named\)|\(no session na")


@pytest.mark.parametrize(
    "arguments,environ",
    [
        (("--log-format=json",), {}),
        ((), {"SIDECAR_LOG_FORMAT": "json"}),
        ((), {"NO_COLOR": "1"}),
        ((), {"TERM": "dumb"}),
    ],
)
def test_lines_where_they_are_wanted(
    terminal: Callable[..., Running], arguments: tuple[str, ...], environ: dict[str, str]
) -> None:
    """The same lines as without a terminal: a form was asked for, or nothing can be drawn."""
    running = terminal(*arguments, environ=environ)
    running.read_until(r'"event":"sidecar.listening".*\n')
    assert json.loads(running.seen.splitlines()[0])["event"]
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0


def test_a_port_that_is_taken(terminal: Callable[..., Running]) -> None:
    """Told as without a terminal, with 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        running = terminal(f"--health-listen=127.0.0.1:{other.getsockname()[1]}")
        assert running.end() == 1
    assert "the port is in use" in running.seen


def test_a_terminal_that_is_gone(terminal: Callable[..., Running], upstream: ScriptedUpstream) -> None:
    """Ends the sidecar too: none is left behind."""
    running = terminal()
    running.read_until("waiting for the first request")
    (child,) = psutil.Process(running.process.pid).children()
    running.process.send_signal(signal.SIGHUP)
    running.end()
    assert psutil.wait_procs([child], timeout=LIMIT)[1] == []


def test_a_terminal_that_stands_still(terminal: Callable[..., Running]) -> None:
    """Nobody reads what is drawn, as after Ctrl-S: a signal still ends it, and calls went on."""
    running = terminal()
    running.read_until("waiting for the first request")
    pictures = 0
    with socket.create_connection(("127.0.0.1", running.admin)) as looking:
        looking.sendall(b"GET /live/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while pictures < 8:  # some seconds in which nothing of the terminal is read
            pictures += looking.recv(65536).count(b"event: head")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(LIMIT) == 0


def test_a_look_that_fails(terminal: Callable[..., Running], upstream: ScriptedUpstream) -> None:
    """The sidecar is busy or was stopped for a while: the picture says so, waits, and nothing is drained for it."""
    running = terminal()
    running.read_until("waiting for the first request")
    (child,) = psutil.Process(running.process.pid).children()
    child.suspend()
    running.read_until("admin port +.{0,9}does not answer")
    child.resume()
    running.seen = ""
    running.read_until("0 in flight")
    upstream.answer(*json_answer(chat_completion("Hi")))
    assert exchange(running.port, chat_request()).status == 200
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0
    assert "sidecar: 1 request: 1 completed; " in running.seen


def test_a_sidecar_that_is_killed(terminal: Callable[..., Running]) -> None:
    """The terminal is given back, and the exit code says that it did not end well."""
    running = terminal()
    running.read_until("waiting for the first request")
    (child,) = psutil.Process(running.process.pid).children()
    child.kill()
    assert running.end() != 0
    assert "\x1b[?1049l" in running.seen


def test_what_is_asked_for_passes(terminal: Callable[..., Running]) -> None:
    """Flags reach the sidecar behind the lanes."""
    running = terminal("--admin-token=correct-horse", "--max-requests=7")
    running.read_until("waiting for the first request")
    host = f"Host: 127.0.0.1:{running.admin}".encode()
    answered = exchange(running.admin, b"GET /stats HTTP/1.1\r\n" + host + b"\r\nConnection: close\r\n\r\n")
    assert answered.status == 401
