"""What this process or machine has none left of: told as ours, with a word of its own, and over once it is over."""

import json
from contextlib import ExitStack
from typing import Any

import pytest

from sidecar.testing import (
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    answer,
    exchange,
    request_bytes,
)

SESSION = b"X-Sidecar-Session-Id: short"
REQUEST = request_bytes("GET", "/x", headers=[SESSION])


def told_as_ours(sidecar: RunningSidecar, sink: OtlpSink, said: Any) -> None:
    """The answer, both spans and the books."""
    error = json.loads(said.body)["error"]
    assert (said.status, error["code"], said.get("retry-after")) == (503, "out_of_resources", b"1")
    assert "SIDECAR_UPSTREAM" not in error["message"]
    for kind in ("SERVER", "CLIENT"):
        told = {"session.id": "short", "error.type": "out_of_resources"}
        assert sink.span(kind=kind, attributes=told).status == "ERROR"
    assert (
        sink.span(kind="SERVER", attributes={"sidecar.outcome": "internal_error"}).attributes["session.id"]
        == "short"
    )
    stats = sidecar.stats()
    assert stats["requests"]["outcomes"]["internal_error"] == stats["anomalies"]["out_of_resources"] >= 1
    assert sidecar.find_logs("sidecar.bug") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_file_descriptor_for_an_upstream(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, host: str
) -> None:
    """Clients hold them all: the one whose upstream connection would need one more is told why."""
    sidecar = start_sidecar(
        upstream=f"http://{host}:{upstream.port}", launcher=("prlimit", "--nofile=80:80"), sink=sink
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(80)]
        answers = []

        def refused() -> bool:
            clients[0].send(REQUEST)
            answers.append(clients[0].read_answer())
            return answers[-1].status == 503

        upstream.answer_always(answer(headers=[b"Connection: close"]))
        sidecar.wait_until(refused)
        for client in clients[1:]:
            client.close()
    sidecar.wait_until(lambda: exchange(sidecar.port, request_bytes("GET", "/x")).status == 200)
    told_as_ours(sidecar, sink, answers[-1])
