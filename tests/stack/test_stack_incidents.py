"""Three incidents and a healthy service, lived through at once: which alert fires of each, and that no other does.

Real sidecars, Collector and Prometheus with the shipped rules, in which a minute takes two seconds (`MINUTE`), as does the time
for which a value of a process that is gone stays. Thresholds are as they are: silence counts from half a minute on.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from sidecar.testing import (
    Gate,
    RawClient,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    Wait,
    chat_request,
    exchange,
)
from tests.stack.backends import Stack
from tests.stack.programs import eventually
from tests.stack.scenario import rejected, whole

MINUTE = 2
BUSY = "SidecarEventLoopLag"
"""Where the machine has other work, this one tells the truth."""
PATIENCE = 120.0

FIRES = {
    "everything-503": {"SidecarBadAnswers"},
    "clients-wait": {"SidecarNothingCompletes"},
    "only-one-killed": {"SidecarGone"},
    "well": set(),
}
WELL = 10
"""Requests that are answered before it begins."""


class Service:
    """A sidecar before a scripted provider, and clients of one session that ask again and again."""

    def __init__(self, stack: Stack, name: str, opened: ExitStack) -> None:
        self.name = name
        self.upstream = opened.enter_context(ScriptedUpstream())
        self.upstream.answer_always(whole())
        running = RunningSidecar(upstream=self.upstream.url, environ=stack.environ(name))
        self.sidecar = opened.enter_context(running)
        self._request = chat_request(headers=(b"X-Session-Id: " + name.encode(),))

    def ask(self, often: int = 1) -> None:
        """Asks, and has the answer."""
        for _ in range(often):
            exchange(self.sidecar.port, self._request)

    def ask_until(self, enough: threading.Event) -> None:
        """Some ten requests a second."""
        while not enough.wait(0.1):
            self.ask()

    def wait_for_an_answer(self, opened: ExitStack, script: Script) -> None:
        """A client that asks and waits."""
        self.upstream.answer_always(script)
        opened.enter_context(RawClient(self.sidecar.port)).send(self._request)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own in which all of them have happened, and are told."""
    stack = Stack(tmp_path_factory.mktemp("incidents"), MINUTE)
    gate, enough = Gate(), threading.Event()
    with ExitStack() as opened:
        opened.callback(stack.stop)
        stack.start()
        rejecting, hanging, killed, well = (Service(stack, name, opened) for name in FIRES)
        opened.callback(gate.open)
        for service in (rejecting, hanging, killed, well):
            service.ask(WELL)
        eventually(lambda: arrived(stack) == dict.fromkeys(FIRES, WELL))
        with ThreadPoolExecutor(2) as pool:
            try:
                rejecting.upstream.answer_always(rejected(503))
                asking = [pool.submit(one.ask_until, enough) for one in (rejecting, well)]
                for _ in range(3):
                    hanging.wait_for_an_answer(opened, (Wait(gate), *whole()))
                killed.sidecar.kill()
                for name, alerts in FIRES.items():
                    eventually(lambda: stack.prometheus.fired(name) >= alerts, PATIENCE)  # noqa: B023
            finally:
                enough.set()
            for one in asking:
                one.result()
        yield stack


def arrived(stack: Stack) -> dict[str, float]:
    """Completed requests by service."""
    completed = 'sidecar_results_total{sidecar_result="completed"}'
    return stack.prometheus.by("job", f"sum by (job) ({completed})")


@pytest.mark.parametrize("name", FIRES)
def test_an_incident_has_its_alert_and_no_other(lived: Stack, name: str) -> None:
    """From its beginning until the last of the others has had its own."""
    assert lived.prometheus.fired(name) - {BUSY} == FIRES[name]
