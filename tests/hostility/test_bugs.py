"""A bug of ours, wherever it strikes, ends one request at most: it is told, and what began has settled."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.testing import OtlpSink, RunningSidecar, chat_request, exchange
from tests.hostility.witness import Witness

LAUNCHER = Path(__file__).parent / "with_a_bug.py"
CUT = {"completed": 1}
ERROR = {"internal_error": 1, "completed": 1}
TOLD = {"completed": 2}
"""The outcomes of two requests, of which the first met a bug: it was never one, ended by it, or had passed."""

ROWS = [
    ("sidecar.proxy.request_reader:RequestReader.feed", CUT),
    ("sidecar.proxy.request_reader:request_head", CUT),
    ("sidecar.proxy.flow:Flow.__init__", CUT),
    ("sidecar.proxy.flow:Deadlines", CUT),
    ("sidecar.proxy.routes:Routes.find", CUT),
    ("sidecar.proxy.arrival:resolve", ERROR),
    ("sidecar.proxy.flow:Upload.read", ERROR),
    ("sidecar.proxy.flow:Upload.pass_on", ERROR),
    ("sidecar.proxy.answer_reader:AnswerReader.feed", ERROR),
    ("sidecar.proxy.answer:Answer.take", ERROR),
    ("sidecar.proxy.flow:observer_for", ERROR),
    ("sidecar.proxy.flow:Answer.close", ERROR),
    ("sidecar.proxy.pool:Pool.put", ERROR),
    ("sidecar.core.sessions:SessionManager.settle", TOLD),
]


@pytest.mark.parametrize("where,outcomes", ROWS, ids=[where.rpartition(":")[2] for where, _ in ROWS])
def test_a_bug(witness: Witness, module_sink: OtlpSink, where: str, outcomes: dict[str, int]) -> None:
    """Two requests on two connections: the first meets the bug."""
    launcher = (sys.executable, str(LAUNCHER), where)
    with RunningSidecar(upstream=witness.url, sink=module_sink, launcher=launcher) as sidecar:
        with suppress(EOFError, OSError):
            exchange(sidecar.port, chat_request())
        assert exchange(sidecar.port, chat_request()).status == 200
        assert sidecar.wait_log("sidecar.bug")["error"] == "AttributeError"
        assert len(sidecar.find_logs("sidecar.bug")) == 1
        told = sidecar.stats()["requests"]
        assert (told["outcomes"], told["in_flight"]) == (outcomes, 0)
        assert told["started"] == sum(outcomes.values())
