"""Names of upstreams: what hangs, fails or changes for one is nothing to the others."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidecar.testing import (
    Message,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    answer,
    exchange,
    request_bytes,
)
from tests.blackbox.names import BROKEN, GONE, HANG, NameServer
from tests.pace import promptly

GOOD = ("good.test", "fine.test", "late.test")


@pytest.fixture
def names(tmp_path: Path) -> Iterator[NameServer]:
    """A name server that knows the upstream by good names."""
    with NameServer(tmp_path, dict.fromkeys(GOOD, "127.0.0.1")) as server:
        yield server


def upstreams(upstream: ScriptedUpstream, **hosts: str) -> dict[str, str]:
    """Settings: the same upstream under several hosts; every request needs a connection of its own."""
    upstream.answer_always(answer(b"ok", headers=[b"Connection: close"]))
    named = ",".join(f"{name}=http://{host}:{upstream.port}" for name, host in hosts.items())
    return {"UPSTREAMS": named}


def call(sidecar: RunningSidecar, name: str, session: str = "s") -> Message:
    """One request."""
    return exchange(
        sidecar.port,
        request_bytes("GET", f"/{name}/x", headers=[b"X-Sidecar-Session-Id: " + session.encode()]),
    )


def kept(sink: OtlpSink, session: str) -> Any:
    """What the session's `connect` span says of its addresses."""
    return sink.span(name="connect", attributes={"session.id": session}).attributes.get(
        "sidecar.connect.dns.kept"
    )


def test_a_name_that_hangs_holds_up_its_own_requests_only(
    start_sidecar: Any, upstream: ScriptedUpstream, names: NameServer
) -> None:
    """Forty calls to each of many hanging names: names that answer, and addresses, are served at once."""
    hanging = {f"hang{number}": f"hang{number}.test" for number in range(12)}
    names.names |= dict.fromkeys(hanging.values(), HANG)
    names.patience = 30
    sidecar = start_sidecar(
        upstream=None,
        settings=upstreams(upstream, good=GOOD[0], four="127.0.0.1", local="localhost", **hanging)
        | {"CONNECT_TIMEOUT": "15s"},
        launcher=names.launcher,
    )
    with ThreadPoolExecutor(80) as pool:
        stuck = [pool.submit(call, sidecar, name) for name in hanging for _ in range(6)]
        sidecar.wait_until(lambda: {*hanging.values()} <= {*names.asked})
        assert [call(sidecar, name).status for name in ("good", "four", "local", "good")] == [200] * 4
        assert not any(one.done() for one in stuck)
        assert {one.result().status for one in stuck} == {504}
    # The look-ups go on when their requests have gone. There is one of each name, and nobody waits for them.
    assert [call(sidecar, name).status for name in ("four", "good")] == [200] * 2
    asked = [name for name in names.asked if name in hanging.values()]
    assert sorted(asked) == sorted(hanging.values())
    with promptly(15, sidecar.pid):
        assert sidecar.stop() == 0


def test_known_addresses_stand_in(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, names: NameServer
) -> None:
    """They are used, and the span says so, while the name hangs or fails; not once it is said to be gone."""
    sidecar = start_sidecar(
        upstream=None, settings=upstreams(upstream, good=GOOD[0]), launcher=names.launcher
    )
    assert call(sidecar, "good", "fresh").status == 200
    assert kept(sink, "fresh") is None
    names.names[GOOD[0]] = HANG
    wait_until_asked(sidecar, names)
    assert call(sidecar, "good", "hangs").status == 200
    assert kept(sink, "hangs") is True
    names.names[GOOD[0]] = BROKEN
    wait_until_asked(sidecar, names)
    assert call(sidecar, "good", "broken").status == 200
    assert kept(sink, "broken") is True
    names.names[GOOD[0]] = GONE
    sidecar.wait_until(lambda: call(sidecar, "good", "polled").status == 502)
    said = call(sidecar, "good", "gone")
    assert (said.status, json.loads(said.body)["error"]["code"]) == (502, "upstream_failed")
    assert sink.span(kind="CLIENT", attributes={"session.id": "gone"}).attributes["error.type"] == "dns"


def wait_until_asked(sidecar: RunningSidecar, names: NameServer) -> None:
    """Calls until the sidecar asks for the name anew."""
    before = len(names.asked)

    def asked() -> bool:
        assert call(sidecar, "good", "polled").status == 200
        return len(names.asked) > before

    sidecar.wait_until(asked)


def test_look_ups_are_shared(start_sidecar: Any, upstream: ScriptedUpstream, names: NameServer) -> None:
    """All who wait for a name share one look-up, its answer, and for a second its failure."""
    names.names["broken.test"] = BROKEN
    sidecar = start_sidecar(
        upstream=None,
        settings=upstreams(upstream, good=GOOD[0], gone="gone.test", broken="broken.test"),
        launcher=names.launcher,
    )
    with ThreadPoolExecutor(24) as pool:
        for name, status in (("good", 200), ("gone", 502), ("broken", 502)):
            calls = [pool.submit(call, sidecar, name) for _ in range(8)]
            assert {one.result().status for one in calls} == {status}
    asked = {host: names.asked.count(host) for host in (GOOD[0], "gone.test", "broken.test")}
    assert asked[GOOD[0]] == 1
    assert asked["gone.test"] == 1


def test_the_egress_proxys_name_hangs(
    start_sidecar: Any, upstream: ScriptedUpstream, names: NameServer
) -> None:
    """Who does not need it is not held up."""
    names.names["proxy.test"] = HANG
    names.patience = 30
    sidecar = start_sidecar(
        upstream=None,
        settings=upstreams(upstream, good=GOOD[0], far="far.test") | {"CONNECT_TIMEOUT": "4s"},
        environ={"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": GOOD[0]},
        launcher=names.launcher,
    )
    with ThreadPoolExecutor(12) as pool:
        stuck = [pool.submit(call, sidecar, "far") for _ in range(12)]
        sidecar.wait_until(lambda: "proxy.test" in names.asked)
        assert call(sidecar, "good").status == 200
        assert {one.result().status for one in stuck} == {504}
