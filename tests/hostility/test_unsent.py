"""What was written and has not left: uploads that an upstream does not take, answers that a client does not.

Nothing behind it may wait for it, nothing of it may be lost, and no time-out counts what it takes to leave.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.testing import (
    Certificate,
    Gate,
    HoldReading,
    OtlpSink,
    Pause,
    RawClient,
    ReadBody,
    Reset,
    ResumeReading,
    RunningSidecar,
    Wait,
    answer,
    exchange,
    request_bytes,
    self_signed,
)
from tests.hostility.books import SPANS_SOON, Books
from tests.hostility.witness import Witness

JSON = b"Content-Type: application/json"
HELD = b'{"a":"%b"}' % (b"x" * 8_000_000)
"""A body that is held, and then written in one go: about twice what two systems keep of it where nobody reads."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The upstream's own."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=["plain", "TLS"])
def module_upstream(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Witness]:
    """A witness, with TLS and without."""
    with Witness(tls=certificate.server_context() if request.param == "TLS" else None) as witness:
        yield witness


@pytest.fixture(scope="module")
def sidecar(
    module_upstream: Witness, module_sink: OtlpSink, certificate: Certificate
) -> Iterator[RunningSidecar]:
    """A sidecar that trusts the upstream."""
    environ = {**SPANS_SOON, "SSL_CERT_FILE": str(Path(certificate.certificate))}
    with RunningSidecar(upstream=module_upstream.url, sink=module_sink, environ=environ) as running:
        yield running


def test_nothing_waits_behind_an_upload_that_is_not_taken(
    sidecar: RunningSidecar, witness: Witness, sink: OtlpSink
) -> None:
    """Whoever is answered before its body has left does not leave its connection to the next request."""
    books, gate = Books(sidecar, sink), Gate()
    early = answer(b"no", status=413, reason=b"No")
    witness.answer(ReadBody(0), HoldReading(), early, Wait(gate), ResumeReading(), path="/early")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/early", headers=(JSON,), body=HELD))
        assert client.read_answer("POST").status == 413
        assert exchange(sidecar.port, request_bytes("GET", "/next"), timeout=10).body == b"ok"
        client.send(request_bytes("GET", "/after"))
        assert client.read_answer().body == b"ok"
    gate.open()
    first, second, third = witness.requests
    assert (second.connection, third.connection) != (first.connection, first.connection)
    assert second.connection is third.connection
    assert witness.closed(first).closed is not None
    assert books.outcomes() == ["completed", "completed", "upstream_rejected"]


@pytest.mark.parametrize("pieces", [1, 100])
def test_an_answer_before_a_reset_is_passed(sidecar: RunningSidecar, witness: Witness, pieces: int) -> None:
    """Whoever answers before it has all of a body, and resets: the next write fails, and what came before is read first."""
    early = answer(b"no", status=413, reason=b"No", headers=(b"Connection: close",))
    for _ in range(20):
        witness.answer(ReadBody(100_000), *early, Reset(), path="/early")
        with RawClient(sidecar.port) as client:
            client.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(pieces):
                client.send(bytes(1_000_000 // pieces))
            assert client.read_answer("POST").status == 413


@pytest.fixture(scope="module")
def hasty(
    module_upstream: Witness, module_sink: OtlpSink, certificate: Certificate
) -> Iterator[tuple[RunningSidecar, Witness]]:
    """A sidecar that waits 3 s for an answer to begin, and its upstream."""
    settings = {"FIRST_BYTE_TIMEOUT": "3s", "INSPECT_LIMIT": "32MiB"}
    environ = {**SPANS_SOON, "SSL_CERT_FILE": str(Path(certificate.certificate))}
    with RunningSidecar(
        upstream=module_upstream.url, sink=module_sink, settings=settings, environ=environ
    ) as running:
        module_upstream.clear()
        yield running, module_upstream


STEP, STEPS = 3_000_000, 8
"""What a slow upstream takes at once: more than must have left before a system asks for more."""


def test_the_wait_for_an_answer_begins_when_the_request_has_left(
    hasty: tuple[RunningSidecar, Witness], sink: OtlpSink
) -> None:
    """An upstream that takes a body slowly has the same time to answer as another."""
    sidecar, witness = hasty
    books = Books(sidecar, sink)
    steps = [
        step
        for at in range(1, STEPS)
        for step in (HoldReading(), Pause(0.8), ResumeReading(), ReadBody(at * STEP))
    ]
    witness.answer(ReadBody(0), *steps, ReadBody(), answer(b"ok"))
    body = b'{"a":"%b"}' % (b"x" * STEP * STEPS)
    assert exchange(sidecar.port, request_bytes("POST", "/x", headers=(JSON,), body=body)).status == 200
    assert books.outcomes() == ["completed"]
    (wait,) = sink.find_spans(name="wait")
    (call,) = sink.find_spans(kind="CLIENT")
    assert wait.start - call.start > 3e9
    assert sink.find_spans(name="connect")[0].end < wait.start


def test_an_upload_of_which_nothing_is_taken(hasty: tuple[RunningSidecar, Witness], sink: OtlpSink) -> None:
    """It is given up in the same time, whether it was held or not."""
    sidecar, witness = hasty
    books = Books(sidecar, sink)
    for kind in (JSON, b"Content-Type: text/plain"):
        gate = Gate()
        witness.answer(ReadBody(0), HoldReading(), Wait(gate), ResumeReading())
        with RawClient(sidecar.port, timeout=30) as client:
            client.send_what_fits(request_bytes("POST", "/x", headers=(kind,), body=HELD))
            assert client.read_answer("POST").status == 504
        gate.open()
    assert books.outcomes() == ["timed_out", "timed_out"]
    assert {span.attributes["error.type"] for span in books.spans()} == {"timeout.first_byte"}


def test_a_large_upload_that_was_taken_leaves_its_connection(
    sidecar: RunningSidecar, witness: Witness
) -> None:
    """The next request gets it."""
    for path in ("/first", "/second"):
        assert exchange(sidecar.port, request_bytes("POST", path, headers=(JSON,), body=HELD)).status == 200
    first, second = witness.requests
    assert first.connection is second.connection
