"""Fixtures of the stack test: one stack for all, and the demo's traffic once through it.

Owns how long they live. `make stack-test` runs these tests; `make test` does not.
"""

from collections.abc import Iterator

import pytest

from sidecar.testing import RunningSidecar
from tests.stack.app import Counted, demo
from tests.stack.backends import Stack, Tempo

SERVICE = "stack-demo"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Every back end, as docker-compose.yml configures it."""
    running = Stack(tmp_path_factory.mktemp("stack"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def traffic(stack: Stack) -> Iterator[tuple[Counted, RunningSidecar]]:
    """Two rounds of the demo's conversations, as service `stack-demo`; the sidecar still runs."""
    with demo(stack, SERVICE, "a", "b") as done:
        yield done


@pytest.fixture
def tempo(stack: Stack) -> Tempo:
    """The running Tempo, where there is one."""
    if stack.tempo is None:
        pytest.skip("Tempo: not run. There is no binary: put `tempo` on PATH, or name it in STACK_TEMPO")
    return stack.tempo
