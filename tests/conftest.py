"""Fixtures that every test may use: a collector, a scripted provider, and the production server between them.

Owns how long they live: one process per test module, because starting one costs more than most tests. And it owns the
environment of all tests, which is the same on every machine and terminal.
"""

import gc
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import settings

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream

# How long an example takes says more about the machine than about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_CHANGING = re.compile(
    r"(SIDECAR|OTEL|OPENAI|ANTHROPIC|GEMINI|GOOGLE|GRPC|LC|SSL_CERT)_.*|(.+_)?(PROXY|CA_BUNDLE)|LANG|LANGUAGE|TZ|TERM"
    r"|COLUMNS|LINES|.*COLOR.*|NODE_OPTIONS|NODE_EXTRA_CA_CERTS|PYTHON(UTF8|IOENCODING|WARNINGS|DEVMODE|ASYNCIODEBUG)",
    re.IGNORECASE,
)


def pytest_configure() -> None:
    """Takes out of the environment what would change the sidecar, a client library or a program that a test starts.

    A test that is about one of these sets it. And a program hears the signals that it would hear on a terminal: `nohup` and a
    shell's `&` leave them ignored, which is inherited, while a handler is not.
    """
    for name in list(os.environ):
        if _CHANGING.fullmatch(name):
            del os.environ[name]
    time.tzset()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    gc.disable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that nobody can read name no test: compressed ones may differ from one process to the next (gzip's hold the time)."""
    unreadable = isinstance(val, bytes) and not all(0x20 <= byte < 0x7F for byte in val)
    return argname if unreadable else None


def pytest_collection_finish() -> None:
    """What was collected stays: looking for garbage in it took a third of the time to collect."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def module_sink() -> Iterator[OtlpSink]:
    """One collector for the module's sidecar."""
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[ScriptedUpstream]:
    """One provider for the module's sidecar."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def sidecar_settings() -> dict[str, str]:
    """Settings of the module's sidecar, without `SIDECAR_`; a module overrides this to have its own."""
    return {}


@pytest.fixture(scope="module")
def sidecar(
    module_sink: OtlpSink, module_upstream: ScriptedUpstream, sidecar_settings: dict[str, str]
) -> Iterator[RunningSidecar]:
    """The module's sidecar, in front of `upstream`, exporting to `sink`."""
    running = RunningSidecar(upstream=module_upstream.url, sink=module_sink, settings=sidecar_settings)
    with running:
        yield running


@pytest.fixture
def upstream(module_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """The module's provider with no scripts and no records; a wrong script fails the test."""
    module_upstream.clear()
    yield module_upstream
    assert module_upstream.errors == []


@pytest.fixture
def sink(module_sink: OtlpSink) -> OtlpSink:
    """The module's collector. What earlier tests exported is still in it: ask by ids of your own."""
    return module_sink


@contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A port on which connections neither stand nor fail: its queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket(family))
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = open_sockets.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield port


@pytest.fixture(scope="module")
def blackhole() -> Iterator[int]:
    """A black hole of the machine's own address."""
    with black_hole("127.0.0.1") as port:
        yield port


StartSidecar = Callable[..., RunningSidecar]


@pytest.fixture
def start_sidecar(module_sink: OtlpSink, module_upstream: ScriptedUpstream) -> Iterator[StartSidecar]:
    """Starts a sidecar with settings of its own; it takes what `RunningSidecar` takes, and is ended with the test.

    Without a word about them it stands in front of `upstream` and exports to `sink`.
    """
    running: list[RunningSidecar] = []

    def start(**options: object) -> RunningSidecar:
        options = {"upstream": module_upstream.url, "sink": module_sink, **options}
        one = RunningSidecar(**options)  # type: ignore[arg-type]
        running.append(one)
        return one.start()

    yield start
    for one in running:
        one.kill()
