"""An answer that is there when its time is up: a process that stood still meanwhile has not lost it."""

import http.client
import select
import time

import pytest

from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.otel_settings import read
from sidecar.telemetry.transports import HttpTransport
from sidecar.testing import End, Garbage, ReadBody, ScriptedUpstream
from sidecar.ways_out import Trust

ANSWERS = {
    "a length": (b"Content-Length: 1\r\n\r\n\n", State.EXPORTED),
    "nothing in it": (b"Content-Length: 0\r\n\r\n", State.EXPORTED),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n", State.EXPORTED),
    "no chunk but the last": (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", State.EXPORTED),
    "chunks and a trailer": (b"Transfer-Encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n", State.EXPORTED),
    "too short": (b"Content-Length: 9\r\n\r\n\n", State.UNKNOWN),
    "chunks without an end": (b"Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n", State.UNKNOWN),
    "chunks cut in the last": (b"Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0", State.UNKNOWN),
    "chunks cut behind the last": (b"Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n", State.UNKNOWN),
    "chunks cut in a trailer": (b"Transfer-Encoding: chunked\r\n\r\n0\r\na: b", State.UNKNOWN),
    "no length": (b"\r\n\n", State.UNKNOWN),
}


@pytest.mark.parametrize("rest, state", ANSWERS.values(), ids=list(ANSWERS))
def test_a_whole_answer_counts(rest: bytes, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a length, or without the end of its chunks, is not known to be whole: the alarm may have ended it."""
    with ScriptedUpstream() as receiver:
        receiver.answer(ReadBody(), Garbage(b"HTTP/1.1 200 OK\r\n" + rest), End())
        target = read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url}).targets[Signal.TRACES]
        transport = HttpTransport(Signal.TRACES, target, Trust({}))
        take = http.client.HTTPConnection.getresponse

        def late(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
            """All of it has come when the alarm goes off, and nothing of it has been read."""
            ended = select.poll()
            ended.register(connection.sock, select.POLLRDHUP)
            assert ended.poll(30_000)
            transport.close()  # as the alarm does, and for good
            return take(connection)

        monkeypatch.setattr(http.client.HTTPConnection, "getresponse", late)
        assert transport.attempt(b"x", time.monotonic() + 30).state is state
