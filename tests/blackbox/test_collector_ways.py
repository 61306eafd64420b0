"""The way to a collector as it is in the world: connections that die silently, size limits, renewed certificates, words.

Each row in both protocols, on the production server; what is asked is that the ledger is exact and the signal goes on.
"""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sidecar.testing import (
    Certificate,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    self_signed,
)

PROTOCOLS = ("http/protobuf", "grpc")
TRACES_ONLY = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The collector's."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def provider(upstream: ScriptedUpstream) -> ScriptedUpstream:
    """It answers everything."""
    upstream.answer_always(json_answer(chat_completion()))
    return upstream


def ask(sidecar: RunningSidecar, session: str = "s") -> None:
    """One request, with its spans exported or lost."""
    said = exchange(sidecar.port, chat_request(headers=(f"X-Sidecar-Session-Id: {session}".encode(),)))
    assert said.status == 200
    sidecar.wait_until(lambda: not sidecar.stats()["telemetry"]["traces"]["queued"])


def states(sidecar: RunningSidecar, signal: str = "traces") -> dict[str, int]:
    """A page of the ledger, without zeros, after checking that it adds up."""
    counts: dict[str, int] = sidecar.stats()["telemetry"][signal]
    assert counts["created"] == sum(counts.values()) - counts["created"]
    return {state: count for state, count in counts.items() if count and state != "created"}


def reason(sidecar: RunningSidecar, event: str = "sidecar.telemetry.failing") -> str:
    """Why, as the line says."""
    return str(sidecar.wait_log(event)["reason"])


@contextmanager
def deafening(port: int) -> Iterator[tuple[int, threading.Event]]:
    """A port before `port`: what stands when the event is set stays open and brings nothing any more, as behind a NAT."""
    deaf = threading.Event()
    held: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket, *, old: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not (old and deaf.is_set()):
                    target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                pair = (server.accept()[0], socket.create_connection(("127.0.0.1", port)))
                held.extend(pair)
                old = not deaf.is_set()
                for one, other in (pair, pair[::-1]):
                    threading.Thread(target=pump, args=(one, other), kwargs={"old": old}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], deaf
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in held:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_connection_behind_which_nobody_answers(protocol: str, provider: ScriptedUpstream) -> None:
    """One time-out, whose spans are `unknown`; the next export goes over a new connection."""
    with OtlpSink(protocol) as sink, deafening(sink.port) as (port, deaf):
        environ = {
            **sink.environ(),
            **TRACES_ONLY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
        }
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            before = states(sidecar)
            assert set(before) == {"exported"}
            deaf.set()
            ask(sidecar)
            lost = states(sidecar)["unknown"]
            ask(sidecar)
            after = states(sidecar)
            assert after["unknown"] == lost > 0
            assert after["exported"] > before["exported"]
            assert reason(sidecar) == "no answer in time"
            sidecar.wait_log("sidecar.telemetry.recovered")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_takes_half_of_it(protocol: str, provider: ScriptedUpstream) -> None:
    """A refusal for size divides the message once: everything arrives, once."""
    with OtlpSink(protocol) as sink:
        environ = {**sink.environ(), **TRACES_ONLY, "OTEL_BSP_SCHEDULE_DELAY": "1500"}
        words = "grpc: received message larger than max (9 vs. 4)"
        sink.answer("traces", SinkAnswer(status=413, code="RESOURCE_EXHAUSTED", message=words))
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            for number in range(8):
                exchange(sidecar.port, chat_request(headers=(b"X-Sidecar-Session-Id: s-%d" % number,)))
            sidecar.wait_until(lambda: states(sidecar).keys() == {"exported"})
            assert states(sidecar)["exported"] == sink.accepted("traces")
        assert len([call for call in sink.calls if call.signal == "traces" and not call.answer.takes]) == 1
        spans = [span.span_id for span in sink.spans]
        assert len(spans) == len(set(spans))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_receiver_says_reaches_the_log(protocol: str, provider: ScriptedUpstream) -> None:
    """Of a refusal, and of an export that it took."""
    with OtlpSink(protocol) as sink:
        sink.answer(
            "traces",
            SinkAnswer(status=400, code="INVALID_ARGUMENT", message="no such tenant"),
            *[SinkAnswer(message="attributes were cut")] * 2,
        )
        with RunningSidecar(upstream=provider.url, environ={**sink.environ(), **TRACES_ONLY}) as sidecar:
            for _ in range(3):
                ask(sidecar)
            assert reason(sidecar).endswith(": no such tenant")
            assert reason(sidecar, "sidecar.telemetry.warning") == "attributes were cut"
            assert len(sidecar.find_logs("sidecar.telemetry.warning")) == 1
            assert set(states(sidecar)) == {"failed", "exported"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_differences_that_failed_come_with_the_next(protocol: str, provider: ScriptedUpstream) -> None:
    """Delta temporality: what the collector has in the end is what happened."""
    with OtlpSink(protocol) as sink:
        environ = {
            **sink.environ(),
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        }
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            for answer in (SinkAnswer(), SinkAnswer(status=400, code="INVALID_ARGUMENT")) * 3:
                sink.answer_always("metrics", answer)
                failed = states(sidecar, "metrics").get("failed", 0)
                for _ in range(3):
                    assert exchange(sidecar.port, chat_request()).status == 200
                if not answer.takes:
                    sidecar.wait_until(lambda n=failed: states(sidecar, "metrics").get("failed", 0) > n)  # type: ignore[misc]
            sink.answer_always("metrics", SinkAnswer())
        settled = [point for point in sink.points if point.metric == "sidecar.requests"]
        assert sum(int(point.value or 0) for point in settled) == 18
        durations = [point for point in sink.points if point.metric == "http.server.request.duration"]
        assert sum(int(point.count or 0) for point in durations) == 18


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_collector_is_trusted_as_upstreams_are(
    protocol: str, variable: str, certificate: Certificate, tmp_path: Path, provider: ScriptedUpstream
) -> None:
    """By a file or a folder of the environment."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate.certificate)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(certificate.certificate.read_bytes())
    trust = {"SSL_CERT_FILE": str(certificate.certificate), "SSL_CERT_DIR": str(tmp_path)}[variable]
    with OtlpSink(protocol, tls=certificate) as sink:
        environ = {**sink.environ(), **TRACES_ONLY, variable: trust}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            assert set(states(sidecar)) == {"exported"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_is_not_trusted(
    protocol: str, certificate: Certificate, provider: ScriptedUpstream
) -> None:
    """Nothing was sent, and the reason says which check failed."""
    with OtlpSink(protocol, tls=certificate) as sink:
        environ = {**sink.environ(), **TRACES_ONLY, "OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            assert set(states(sidecar)) == {"failed"}
            assert reason(sidecar).startswith("TLS failed: ")
            assert "self" in reason(sidecar)
            assert "signed" in reason(sidecar)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_renewed_certificates_are_read(
    protocol: str, certificate: Certificate, tmp_path: Path, provider: ScriptedUpstream
) -> None:
    """Files that are replaced while the sidecar runs hold from the next connection on."""
    stranger = self_signed(tmp_path)
    with OtlpSink(protocol, tls=certificate, clients=certificate.certificate) as sink:
        environ = {
            **sink.environ(),
            **TRACES_ONLY,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(stranger.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(stranger.key),
        }
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            assert set(states(sidecar)) == {"failed"}
            assert reason(sidecar).startswith("TLS failed: ")
            stranger.certificate.write_bytes(certificate.certificate.read_bytes())
            stranger.key.write_bytes(certificate.key.read_bytes())
            ask(sidecar)
            assert set(states(sidecar)) == {"failed", "exported"}
