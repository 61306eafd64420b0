"""Large heads are counted as the memory they take: begun, of requests under way, of answers; and none outlives its request."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sidecar.testing import (
    Bytes,
    Garbage,
    Gate,
    Header,
    OtlpSink,
    RawClient,
    RunningSidecar,
    Status,
    Step,
    Wait,
    answer,
    exchange,
    request_bytes,
)
from tests.hostility.test_held_memory import MIB, QUIET, most_resident
from tests.hostility.witness import Witness

ROOM = 8 * MIB
"""`SIDECAR_INSPECT_MEMORY`."""
FIELDS = [b"X-%03d: %s" % (number, b"a" * 230) for number in range(250)]
HEAD = 250 * 238
"""Bytes of them."""
CLIENTS = 200
FIT = ROOM // (2 * HEAD)
"""As many of such heads as there is memory for, and no more."""
GROWTH = ROOM + 16 * MIB
"""Bytes by which the process may grow: what is held, and `CLIENTS` connections and refusals; uncounted, the heads alone took 24 MiB."""


@pytest.fixture
def sidecar(witness: Witness, module_sink: OtlpSink) -> Iterator[RunningSidecar]:
    """A sidecar with little memory."""
    settings = {"INSPECT_MEMORY": str(ROOM), "CLIENT_HEAD_TIMEOUT": "10m", "FIRST_BYTE_TIMEOUT": "10m"}
    running = RunningSidecar(upstream=witness.url, sink=module_sink, settings=settings, environ=QUIET)
    with running as sidecar:
        exchange(sidecar.port, request_bytes("GET", "/warm"))
        yield sidecar


Hold = Callable[[RawClient], object]


def begins(client: RawClient) -> None:
    """A head without an end."""
    client.send(request_bytes("GET", "/x", headers=FIELDS)[:-2])


def asks(client: RawClient) -> None:
    """A whole head, which is answered late."""
    client.send(request_bytes("GET", "/late", headers=FIELDS))


def follows(client: RawClient) -> None:
    """A head without an end, behind a request that is under way."""
    client.send(request_bytes("GET", "/late") + request_bytes("GET", "/x", headers=FIELDS)[:-2])


def is_answered(client: RawClient) -> None:
    """A small request, to which the answer's head has no end."""
    client.send(request_bytes("GET", "/endless"))


def has_body(client: RawClient) -> None:
    """A small request, to which the answer's head is large, and its body late."""
    client.send(request_bytes("GET", "/large"))


def late(gate: Gate) -> dict[str, tuple[Step, ...]]:
    """What the upstream says on each path."""
    fields = tuple(Header(field) for field in FIELDS)
    return {
        "/late": (Wait(gate), *answer(b"ok")),
        "/endless": (Garbage(b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(FIELDS)), Wait(gate)),
        "/large": (Status(), *fields, Header(b"Content-Length: 4"), Bytes(b"ab"), Wait(gate), Bytes(b"cd")),
    }


@pytest.mark.parametrize(
    "hold, ends",
    [(begins, "refused"), (asks, "refused"), (is_answered, "upstream_failed"), (has_body, "upstream_failed")],
)
def test_heads_that_are_held(sidecar: RunningSidecar, witness: Witness, hold: Hold, ends: str) -> None:
    """As many as there is memory for; others are told so, and who needs none is served. Then all of it is there again."""
    gate = Gate()
    for path, steps in late(gate).items():
        witness.answer_always(*steps, path=path)

    def ended() -> int:
        count: int = sidecar.stats()["requests"]["outcomes"].get(ends, 0)
        return count

    before, grown = ended(), most_resident(sidecar)
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            hold(stack.enter_context(RawClient(sidecar.port)))
        sidecar.wait_until(lambda: ended() - before >= CLIENTS - FIT)
        assert exchange(sidecar.port, request_bytes("GET", "/small")).body == b"ok"
        refused = exchange(sidecar.port, request_bytes("GET", "/x", headers=FIELDS))
        assert refused.status == 503
        assert json.loads(refused.body)["error"]["code"] == "overloaded"
        assert ended() - before <= CLIENTS - FIT + 3 + (ends == "refused")
        assert most_resident(sidecar) - grown < GROWTH
        gate.open()
    sidecar.wait_until(
        lambda: exchange(sidecar.port, request_bytes("GET", "/x", headers=FIELDS)).status == 200
    )


def test_a_head_behind_a_request_waits(sidecar: RunningSidecar, witness: Witness) -> None:
    """It is read on when its turn has come."""
    gate = Gate()
    witness.answer_always(Wait(gate), *answer(b"ok"), path="/late")
    grown = most_resident(sidecar)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(CLIENTS)]
        for client in clients:
            follows(client)
        sidecar.wait_until(lambda: sidecar.stats()["requests"]["in_flight"] == CLIENTS)
        sidecar.wait_until(
            lambda: exchange(sidecar.port, request_bytes("GET", "/x", headers=FIELDS)).status == 503
        )
        gate.open()
        for client in clients:
            assert client.read_answer().status == 200
        for client in clients:
            client.send(b"\r\n")
        assert {client.read_answer().status for client in clients} <= {200, 503}
        assert most_resident(sidecar) - grown < 2 * GROWTH


def test_who_stays_connected_holds_no_head(sidecar: RunningSidecar) -> None:
    """Neither a client's nor an upstream's connection keeps what came last on it."""
    grown = most_resident(sidecar)
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(RawClient(sidecar.port))
            client.send(request_bytes("GET", "/x", headers=FIELDS))
            assert client.read_answer().status == 200
        assert most_resident(sidecar) - grown < CLIENTS * HEAD // 2
