"""gRPC's own words and a collector's, streams that it resets, and channels that are made anew."""

import socket
import threading
import time
from pathlib import Path

import pytest

from sidecar.telemetry.grpc_transport import GrpcTransport
from sidecar.telemetry.ledger import Signal, State
from sidecar.telemetry.otel_settings import read
from sidecar.testing import OtlpSink, SinkAnswer
from sidecar.ways_out import Trust


def grpc_transport(endpoint: str, **more: str) -> GrpcTransport:
    """One that sends spans there."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **more}
    return GrpcTransport(Signal.TRACES, read(environ).targets[Signal.TRACES], Trust({}))


# --- a stream that the receiver resets


_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
_END, _ACK = 1, 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _reset_calls(server: socket.socket, code: int) -> None:
    """Takes each call whole, and answers with `RST_STREAM` and this error code of HTTP/2."""
    peer, _ = server.accept()
    with peer, peer.makefile("rb") as frames:
        frames.read(24)  # the preface
        peer.sendall(_frame(_SETTINGS, 0, 0))
        while len(head := frames.read(9)) == 9:
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = frames.read(int.from_bytes(head[:3], "big"))
            if kind in {_SETTINGS, _PING} and not flags & _ACK:
                peer.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind in {_DATA, _HEADERS} and flags & _END:
                peer.sendall(_frame(_RESET, 0, stream, code.to_bytes(4, "big")))


@pytest.mark.parametrize(
    "code, state, again",
    [(code, State.UNKNOWN, None) for code in (0, 1, 2, 8, 11)] + [(7, State.FAILED, 0)],
)
def test_a_reset_stream_may_have_arrived(code: int, state: State, again: float | None) -> None:
    """Unless it was refused before anything of it was looked at (7, REFUSED_STREAM), it is not sent again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_reset_calls, args=(server, code))
        thread.start()
        transport = grpc_transport(f"http://127.0.0.1:{server.getsockname()[1]}")
        try:
            attempt = transport.attempt(b"", time.monotonic() + 10)
        finally:
            transport.close()
            thread.join()
        assert (attempt.state, attempt.again) == (state, again), attempt


# --- gRPC's words and a collector's


@pytest.mark.parametrize(
    "words",
    [
        "x509: certificate signed by unknown authority",
        "TLS handshake error from 192.0.2.1",
        "upstream: failed to connect to all addresses; last error: Socket closed",
        "exporting failed: DNS resolution failed for store:4317",
        "rpc error: Broken pipe",
    ],
)
@pytest.mark.parametrize("after", [None, 7])
def test_what_a_collector_says_of_those_behind_it_is_its_answer(words: str, after: int | None) -> None:
    """It was reached, and has refused; when it wants to be asked again holds, whatever its words are."""
    with OtlpSink("grpc") as sink:
        headers = {} if after is None else {"Retry-After": str(after)}
        sink.answer("traces", SinkAnswer(code="UNAVAILABLE", message=words, headers=headers))
        transport = grpc_transport(sink.endpoint)
        attempt = transport.attempt(b"", time.monotonic() + 30)
        transport.close()
    assert (attempt.state, attempt.reason) == (State.FAILED, f"gRPC UNAVAILABLE: {words}")
    assert attempt.again == (after or 0)


def test_a_grpc_receiver_that_comes_back_is_found_by_the_next_attempt() -> None:
    """The patience of its core, which grows to two minutes, is not waited for."""
    with OtlpSink("grpc") as sink:
        transport = grpc_transport(sink.endpoint)
        sink.stop()
        gone = transport.attempt(b"", time.monotonic() + 30)
        assert gone.state is State.FAILED
        assert gone.reason.startswith("cannot connect: ")
        sink.start()
        assert transport.attempt(b"", time.monotonic() + 30).state is State.EXPORTED
        transport.close()


# --- channels


def test_a_channel_is_renewed_with_its_certificates(tmp_path: Path) -> None:
    """A changed file makes the next attempt read all of them anew."""
    files = {name: tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")}
    for path in files.values():
        path.write_bytes(b"one")
    settings = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://localhost:1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(files["ca.pem"]),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(files["cert.pem"]),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(files["key.pem"]),
    }
    target = read(settings).targets[Signal.TRACES]
    transport = GrpcTransport(Signal.TRACES, target, Trust({}))
    first = transport._open()
    assert transport._open() is first
    files["cert.pem"].unlink()
    files["cert.pem"].write_bytes(b"two")
    assert transport._open() is not first
    transport.close()


def test_a_closed_transport_sends_nothing() -> None:
    """And says so."""
    transport = grpc_transport("http://127.0.0.1:1")
    transport.close()
    assert transport.attempt(b"", time.monotonic() + 1).reason == "cannot connect: the export was given up"
