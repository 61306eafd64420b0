"""What the hostile tests share: an upstream that remembers every byte, and a sidecar that tells its spans at once.

Owns these fixtures alone.
"""

from collections.abc import Iterator

import pytest

from sidecar.testing import OtlpSink, RunningSidecar
from tests.hostility.books import SPANS_SOON
from tests.hostility.witness import Turns, Witness, turns_of


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[Witness]:
    """One witness for the module's sidecar."""
    with Witness() as witness:
        yield witness


@pytest.fixture
def witness(module_upstream: Witness) -> Iterator[Witness]:
    """The module's upstream, with nothing on record."""
    module_upstream.clear()
    yield module_upstream
    assert module_upstream.errors == []


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """A head of 16 KiB and 64 fields."""
    return {"HEAD_LIMIT": "16KiB", "HEAD_FIELDS": "64"}


@pytest.fixture(scope="module")
def launcher() -> tuple[str, ...]:
    """What starts the module's sidecar; a module overrides this to have its own."""
    return ()


@pytest.fixture(scope="module")
def sidecar(
    module_sink: OtlpSink,
    module_upstream: Witness,
    sidecar_settings: dict[str, str],
    launcher: tuple[str, ...],
) -> Iterator[RunningSidecar]:
    """The production server; spans alone are exported, soon after they are there."""
    with RunningSidecar(
        upstream=module_upstream.url,
        sink=module_sink,
        settings=sidecar_settings,
        environ=SPANS_SOON,
        launcher=launcher,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def turns(sidecar: RunningSidecar) -> Iterator[Turns]:
    """The turns of the module's sidecar."""
    with turns_of(sidecar) as turns:
        yield turns
