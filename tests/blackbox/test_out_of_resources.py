"""What this process or machine has none left of: told as ours, with a word of its own, and over once it is over."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sidecar import health
from sidecar.testing import (
    Gate,
    Message,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    answer,
    chat_request,
    exchange,
    free_port,
    request_bytes,
)
from tests.blackbox.names import NameServer

REQUEST = request_bytes("GET", "/x")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_file_descriptor_for_an_upstream(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, host: str
) -> None:
    """Requests under way hold them all: one whose upstream connection would need one more is told so, as ours."""
    gate = Gate()
    upstream.answer_always(Wait(gate), answer())
    sidecar = start_sidecar(upstream=f"http://{host}:{upstream.port}", launcher=("prlimit", "--nofile=80:80"))
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(40)]
        for number, client in enumerate(clients):
            client.send(
                request_bytes("GET", "/x", headers=[b"X-Sidecar-Session-Id: %b-%d" % (host.encode(), number)])
            )
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["settled"])
        gate.open()
        answers = [client.read_answer() for client in clients]
    statuses = [said.status for said in answers]
    assert {*statuses} == {200, 503}
    refused = statuses.index(503)
    error = json.loads(answers[refused].body)["error"]
    assert (error["code"], answers[refused].get("retry-after")) == ("out_of_resources", b"1")
    assert "SIDECAR_UPSTREAM" not in error["message"]
    for kind in ("SERVER", "CLIENT"):
        span = sink.span(kind=kind, attributes={"session.id": f"{host}-{refused}"})
        assert (span.status, span.attributes["error.type"]) == ("ERROR", "out_of_resources")
    stats = sidecar.stats()
    assert stats["requests"]["outcomes"] == {
        "completed": statuses.count(200),
        "internal_error": statuses.count(503),
    }
    assert stats["anomalies"]["out_of_resources"] >= statuses.count(503)
    assert sidecar.find_logs("sidecar.bug") == []
    assert exchange(sidecar.port, REQUEST).status == 200


CONNECTIONS = ("EADDRNOTAVAIL", "ENOBUFS", "ENOMEM", "EMFILE", "ENFILE")
SHORTAGES = [
    (CONNECTIONS, "127.0.0.1"),
    (CONNECTIONS, "localhost"),
    (("threads",), "localhost"),
    (("lookups",), "localhost"),
]


@pytest.mark.parametrize("words,host", SHORTAGES, ids=["address", "name", "threads", "lookups"])
def test_nothing_left_to_connect_with(
    start_sidecar: Any,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    tmp_path: Path,
    words: Sequence[str],
    host: str,
) -> None:
    """A request that needs it is told so, as ours; the next one, when there is some again, passes."""
    shortage = tmp_path / "shortage"
    shortage.write_text("")
    script = str(Path(__file__).with_name("with_no_means.py"))
    sidecar = start_sidecar(
        upstream=f"http://{host}:{upstream.port}",
        launcher=(sys.executable, script, str(shortage), str(upstream.port)),
    )
    upstream.answer_always(answer(b"{}", headers=(b"Connection: close",)))
    for word in words:
        shortage.write_text(word)
        for stream in (False, True):
            session = f"{word}-{host}-{stream}"
            named = b"X-Sidecar-Session-Id: " + session.encode()
            said = exchange(sidecar.port, chat_request(stream=stream, headers=(named,)))
            error = json.loads(said.body)["error"]
            assert (said.status, error["code"], said.get("retry-after")) == (503, "out_of_resources", b"1")
            for kind in ("SERVER", "CLIENT"):
                span = sink.span(kind=kind, attributes={"session.id": session})
                assert (span.status, span.attributes["error.type"]) == ("ERROR", "out_of_resources")
        shortage.write_text("")
        sidecar.wait_until(lambda: exchange(sidecar.port, REQUEST).status == 200)
    stats = sidecar.stats()
    requests = stats["requests"]
    failed = requests["outcomes"]["internal_error"]
    assert failed >= 2 * len(words)
    assert requests["outcomes"] == {"internal_error": failed, "completed": len(words)}
    assert requests["started"] == requests["settled"] == failed + len(words)
    assert stats["anomalies"]["out_of_resources"] == failed
    assert len(upstream.requests) == len(words)
    assert sidecar.find_logs("sidecar.bug") == []


@pytest.mark.parametrize("addresses", ["127.0.0.1 ::1", "127.0.0.1 ::1 2001:db8::1", "127.0.0.1", "::1"])
def test_a_machine_without_ipv6(
    start_sidecar: Any, upstream: ScriptedUpstream, tmp_path: Path, addresses: str
) -> None:
    """The system says the same as where no port is left: that is told only if one was missing."""
    shortage = tmp_path / "shortage"
    shortage.write_text("")
    script = str(Path(__file__).with_name("with_no_means.py"))
    four = "127.0.0.1" in addresses
    said = {}
    with NameServer(tmp_path, {"both.test": addresses}) as names:
        sidecar = start_sidecar(
            upstream=f"http://both.test:{upstream.port}",
            launcher=(*names.launcher, sys.executable, script, str(shortage), str(upstream.port)),
        )
        upstream.answer_always(answer(b"{}", headers=(b"Connection: close",)))
        for words in ("IPv6", "IPv6 EADDRNOTAVAIL", "EADDRNOTAVAIL"):
            shortage.write_text(words)
            said[words] = exchange(sidecar.port, REQUEST)
        upstream.refuse()
        shortage.write_text("IPv6")
        said["refused"] = exchange(sidecar.port, REQUEST)
        upstream.accept()
    ours = (503, "out_of_resources")
    told = {words: one.status if one.status == 200 else _told(one) for words, one in said.items()}
    assert told == {
        "IPv6": 200 if four else (502, "upstream_failed"),
        "IPv6 EADDRNOTAVAIL": ours if four else (502, "upstream_failed"),
        "EADDRNOTAVAIL": ours,
        "refused": (502, "upstream_failed"),
    }


def _told(said: Message) -> tuple[int, str]:
    return said.status, json.loads(said.body)["error"]["code"]


SILENT = (b"", b"GET /readiness HTTP/1.1\r\nHo")


@pytest.fixture(scope="module")
def three_ports(module_upstream: ScriptedUpstream) -> Iterator[tuple[RunningSidecar, int]]:
    """A sidecar of few descriptors, and its port for health alone."""
    spare = free_port()
    settings, launcher = {"HEALTH_LISTEN": f"127.0.0.1:{spare}"}, ("prlimit", "--nofile=256:256")
    with RunningSidecar(upstream=module_upstream.url, settings=settings, launcher=launcher) as running:
        yield running, spare


@pytest.mark.parametrize("begun", SILENT, ids=["nothing", "half a head"])
@pytest.mark.parametrize("which", ["ADMIN_LISTEN", "HEALTH_LISTEN"])
def test_silent_strangers_on_another_port(
    three_ports: tuple[RunningSidecar, int], upstream: ScriptedUpstream, which: str, begun: bytes
) -> None:
    """More of them than there are descriptors: the data port does not notice, and the port itself still answers."""
    sidecar, spare = three_ports
    port = spare if which == "HEALTH_LISTEN" else sidecar.admin_port
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(begun)
        assert exchange(sidecar.port, REQUEST).status == 200
        assert health.trouble(f"http://127.0.0.1:{port}/readiness") is None
        assert len([*Path(f"/proc/{sidecar.pid}/fd").iterdir()]) < 80
    assert "out_of_resources" not in sidecar.stats()["anomalies"]


def test_clients_beyond_the_descriptors_wait(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """They are not reset: they wait, without any work, and are served when others have gone; it is counted."""
    sidecar = start_sidecar(launcher=("prlimit", "--nofile=80:80"))

    def pauses() -> int:
        found: int = sidecar.stats()["anomalies"].get("out_of_resources", 0)
        return found

    with ExitStack() as stack:
        first = [stack.enter_context(RawClient(sidecar.port)) for _ in range(80)]
        sidecar.wait_until(pauses)
        late = [stack.enter_context(RawClient(sidecar.port)) for _ in range(20)]
        for client in late:
            client.send(REQUEST)
        begun, used = time.monotonic(), cpu(sidecar)
        # What is left for upstreams is enough for those who have been taken.
        first[0].send(REQUEST)
        assert first[0].read_answer().status == 200
        assert cpu(sidecar) - used < 0.3 + (time.monotonic() - begun) / 4
        for client in first[1:]:
            client.close()
        assert [client.read_answer().status for client in late] == [200] * 20
    assert sidecar.stats()["requests"]["outcomes"] == {"completed": 21}


def cpu(sidecar: RunningSidecar) -> float:
    """Seconds of processor time that it has used."""
    fields = Path(f"/proc/{sidecar.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_soft_limit_is_raised(start_sidecar: Any) -> None:
    """As far as the hard one allows."""
    sidecar = start_sidecar(launcher=("prlimit", "--nofile=100:5000"))
    (line,) = (
        line
        for line in Path(f"/proc/{sidecar.pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    )
    assert line.split()[3:5] == ["5000", "5000"]
