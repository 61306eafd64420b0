"""A collector whose answer never comes to an end: each export ends with its time-out as a whole, and so does the shutdown.

Each row is one way to go on and on, over HTTP and gRPC. Two of them at a time are the collectors of one sidecar: one of its
spans, the other of its lines.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from sidecar.testing import ReadBody, RunningSidecar, ScriptedUpstream, answer
from tests.blackbox.test_collector_faults import ENVIRON, GRPC, HTTP, ask, ledger
from tests.pace import promptly

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
"""An empty SETTINGS frame (RFC 9113, section 6.5)."""


_GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\0\0\0\0\x02"
"""A GOAWAY frame of an internal error (section 6.8), about which gRPC has a line of its own for stderr."""


@dataclass(frozen=True, slots=True)
class Dribble:
    """What a collector says at once, and then over and over, a piece each `every` seconds."""

    name: str
    at_once: bytes
    again: bytes
    protocol: str = HTTP
    scheme: str = "http"
    every: float = 0.2


DRIBBLES = (
    Dribble("nothing", b"", b""),
    Dribble("status line", b"HTTP/1.1 200 O", b"K"),
    Dribble("head", _OK + b"X-A: ", b"a"),
    Dribble("fields", _OK, b"X-A: b\r\n"),
    Dribble("body with a length", _OK + b"Content-Length: 1000\r\n\r\n", b"\0"),
    Dribble("body without an end", _OK + b"\r\n", b"\0"),
    Dribble("chunks", _OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n\0\r\n"),
    Dribble("chunk size", _OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    Dribble("trailers", _OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
    Dribble("refusal's body", b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n", b"a"),
    Dribble("interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    Dribble("flood of interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, every=0.0),
    Dribble("TLS record", b"\x16\x03\x03\x40\x00", b"\x02", scheme="https"),
    Dribble("nothing", b"", b"", GRPC),
    Dribble("frame", _SETTINGS[:3], b"", GRPC),
    Dribble("frames", _SETTINGS, _SETTINGS, GRPC),
    Dribble("flood of frames", _SETTINGS, _SETTINGS * 100, GRPC, every=0.0),
    Dribble("goodbyes", _SETTINGS, _GOAWAY, GRPC),
    Dribble(
        "answer's fields", _SETTINGS + b"\0\0\x01\x01\0\0\0\0\x01\x88", b"\0\0\x01\x09\0\0\0\0\x01\x88", GRPC
    ),
    Dribble("TLS record", b"\x16\x03\x03\x40\x00", b"\x02", GRPC, scheme="https"),
)


@contextmanager
def dribbling(dribble: Dribble) -> Iterator[str]:
    """An endpoint that does so to everybody who connects."""
    over = threading.Event()
    peers: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.recv(65536)
            peer.sendall(dribble.at_once)
            while not over.wait(dribble.every):
                peer.sendall(dribble.again)

    def accept() -> None:
        with suppress(OSError):
            while True:
                peers.append(server.accept()[0])
                threads.append(threading.Thread(target=serve, args=(peers[-1],)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"{dribble.scheme}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            threads[0].join(30)
            for peer in peers:
                with suppress(OSError):
                    peer.shutdown(
                        socket.SHUT_RDWR
                    )  # one that is full may wait for long, even where nobody reads any more
            for thread in threads[1:]:
                thread.join(30)


@contextmanager
def never_accepting() -> Iterator[str]:
    """An endpoint whose port takes no connection any more, and refuses none."""
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@dataclass(frozen=True, slots=True)
class End:
    """Where one signal is exported to."""

    url: str
    protocol: str = HTTP


def goes_on_without(upstream: ScriptedUpstream, **ends: End) -> None:
    """Each export ends within its time as a whole, which is said; the next one is tried; the shutdown is in time.

    `ends`: the collector of `traces`, and that of `logs` if lines are exported too.
    """
    environ = {
        **ENVIRON,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "otlp" if "logs" in ends else "none",
    }
    for signal, end in ends.items():
        path = f"/v1/{signal}" if end.protocol == HTTP else ""
        environ[f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"] = end.url + path
        environ[f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"] = end.protocol
    least = {"traces": 3, "logs": 1}
    settings = {"SHUTDOWN_TIMEOUT": "4s"}
    with RunningSidecar(upstream=upstream.url, settings=settings, environ=environ) as sidecar:
        for batch in (1, 2):

            def told(batch: int = batch) -> bool:
                pages = ledger(sidecar)
                return all(
                    pages[signal]["created"] >= least[signal] * batch and not pages[signal]["queued"]
                    for signal in ends
                )

            with promptly(1 + 8, sidecar.pid):  # the time-out, and what is done besides
                ask(sidecar, upstream, f"batch-{batch}", 1)
                sidecar.wait_until(told)
        for signal in ends:
            states = ledger(sidecar)[signal]
            assert states["failed"] + states["unknown"] == states["created"], signal
            sidecar.wait_log("sidecar.telemetry.failing", signal=signal)
        assert len(sidecar.find_logs("sidecar.telemetry.failing")) == len(ends)
        # No library's own line is among them.
        assert [line for line in sidecar.stderr.splitlines() if not line.startswith("{")] == []
        ask(sidecar, upstream, "last", 1)
        with promptly(4 + 8, sidecar.pid):
            assert sidecar.stop() == 0


PAIRS = list(zip(DRIBBLES[::2], DRIBBLES[1::2], strict=True))


@pytest.mark.parametrize(
    "pair",
    PAIRS,
    ids=[" and ".join(f"{dribble.name}, {dribble.protocol}" for dribble in pair) for pair in PAIRS],
)
def test_an_answer_that_never_ends_takes_one_time_out(
    pair: tuple[Dribble, Dribble], upstream: ScriptedUpstream
) -> None:
    """Whatever comes a piece at a time: head, body, frames, the TLS handshake."""
    traces, logs = pair
    with dribbling(traces) as one, dribbling(logs) as other:
        goes_on_without(upstream, traces=End(one, traces.protocol), logs=End(other, logs.protocol))


def test_a_connection_that_never_stands_takes_one_time_out(upstream: ScriptedUpstream) -> None:
    """Likewise, over HTTP and over gRPC."""
    with never_accepting() as one, never_accepting() as other:
        goes_on_without(upstream, traces=End(one, HTTP), logs=End(other, GRPC))


def test_a_redirect_to_itself_is_a_refusal(upstream: ScriptedUpstream) -> None:
    """It is not followed, not even once."""
    with ScriptedUpstream() as collector:
        collector.answer_always(
            ReadBody(),
            answer(
                b"", status=307, reason=b"Here", headers=(f"Location: {collector.url}/v1/traces".encode(),)
            ),
        )
        goes_on_without(upstream, traces=End(collector.url))
        traces = [one.body for one in collector.requests if one.path == "/v1/traces"]
        assert len(traces) >= 3
        assert len(set(traces)) == len(traces)
