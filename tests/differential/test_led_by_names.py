"""Four public clients, and what names lead to: directly and through the sidecar, both asking the same name server."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.testing import RunningSidecar, ScriptedUpstream, answer
from tests.blackbox.names import BROKEN_6, HANG_6, NameServer
from tests.conftest import black_hole
from tests.differential.four_clients import CLIENTS, Said
from tests.differential.test_differential import differs

FOUR, SIX = "127.0.0.1", "::1"
REFUSES, BLACK, OTHER_BLACK = "127.77.0.1", "127.77.0.2", "127.77.0.3"

NAMES: list[tuple[str, str, str]] = [
    ("one", "four", FOUR),
    ("refuses-first", "four", f"{REFUSES} {FOUR}"),
    ("refuses-last", "four", f"{FOUR} {REFUSES}"),
    ("refuses-all-but-last", "four", f"{REFUSES} 127.77.0.4 127.77.0.5 {FOUR}"),
    ("black-first", "four", f"{BLACK} {FOUR}"),
    ("black-last", "four", f"{FOUR} {BLACK}"),
    ("black-and-refuses", "four", f"{BLACK} {REFUSES} {FOUR}"),
    ("black-twice", "four", f"{BLACK} {OTHER_BLACK} {FOUR}"),
    ("nobody", "four", f"{REFUSES} {SIX}"),
    ("six", "both", SIX),
    ("six-alone", "six", SIX),
    ("both", "both", f"{FOUR} {SIX}"),
    ("both-four-listens", "four", f"{FOUR} {SIX}"),
    ("both-six-listens", "six", f"{FOUR} {SIX}"),
    ("both-six-black", "black six", f"{FOUR} {SIX}"),
    ("both-four-black", "six", f"{BLACK} {SIX}"),
    ("both-all-of-four-dead", "both", f"{REFUSES} {BLACK} {SIX}"),
    ("late", "both", f"{FOUR} {SIX}"),
    ("later-than-patience", "both", f"{FOUR} {SIX}"),
    ("late-and-dead", "four", f"{BLACK} {FOUR}"),
    ("six-hangs", "four", f"{FOUR} {HANG_6}"),
    ("six-broken", "four", f"{FOUR} {BROKEN_6}"),
    ("gone", "four", "gone"),
]
"""Name, where it is listened, and its addresses."""

LATE = {"late": 0.3, "later-than-patience": 0.6, "late-and-dead": 0.6}


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Ports on which an upstream listens, by where it does; some addresses are black holes of them."""
    with ExitStack() as stack:

        def listen(*hosts: str) -> int:
            port = 0
            for host in hosts:
                upstream = stack.enter_context(ScriptedUpstream(host=host, port=port))
                upstream.answer_always(answer(b"abc"))
                port = upstream.port
            for host in (BLACK, OTHER_BLACK):
                stack.enter_context(black_hole(host, port))
            return port

        ports = {
            "four": listen(FOUR),
            "six": listen(SIX),
            "both": listen(FOUR, SIX),
            "black six": listen(FOUR),
        }
        stack.enter_context(black_hole(SIX, ports["black six"]))
        yield ports


def asked(urls: list[str], launcher: tuple[str, ...] = ()) -> dict[tuple[str, str], Said | None]:
    """What each client is told, all at once, in another process than the name server and the upstreams are in."""
    program = (*launcher, sys.executable, "-m", "tests.differential.elsewhere", *urls)
    called = subprocess.run(program, capture_output=True, check=True)
    told: dict[tuple[str, str], Said | None] = pickle.loads(called.stdout)
    return told


def test_names(tmp_path: Path, ports: dict[str, int]) -> None:
    """Where a client gets an answer directly, it gets the same through the sidecar."""
    with NameServer(tmp_path, {f"{name}.test": addresses for name, _, addresses in NAMES}) as names:
        names.late = {f"{name}.test": seconds for name, seconds in LATE.items()}
        names.patience = 1
        urls = {name: f"http://{name}.test:{ports[where]}" for name, where, _ in NAMES}
        direct = asked([f"{url}/x" for url in urls.values()], names.launcher)
        settings = {"UPSTREAMS": ",".join(f"{name}={url}" for name, url in urls.items())}
        with RunningSidecar(settings=settings, launcher=names.launcher) as sidecar:
            through = asked([f"{sidecar.url}/{name}/x" for name in urls])
            both = {
                (name, client): (direct[f"{url}/x", client], through[f"{sidecar.url}/{name}/x", client])
                for name, url in urls.items()
                for client in CLIENTS
            }
    assert {case: said for case, said in both.items() if differs(said)} == {}
    idle = {name for name in urls if not any(both[name, client][0] for client in CLIENTS)}
    assert idle == {"nobody", "gone"}
