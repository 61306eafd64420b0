"""The way to a collector as it is in the world: connections that die silently, size limits, renewed certificates, words.

Each row in both protocols, on the production server; what is asked is that the ledger is exact and the signal goes on.
"""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from sidecar.testing import (
    Certificate,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    SinkAnswer,
    answer,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    request_bytes,
    self_signed,
)
from sidecar.testing.sink_servers import GrpcServices
from tests.terminals import ALL, OnTerminal

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
            thread.join(30)
            for one in held:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@pytest.mark.parametrize("signals", [TRACES_ONLY, {}], ids=["traces", "all signals"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_connection_behind_which_nobody_answers(
    protocol: str, signals: dict[str, str], provider: ScriptedUpstream
) -> None:
    """One time-out, whose spans are `unknown`; the next export goes over a new connection, whatever others do."""
    with OtlpSink(protocol) as sink, deafening(sink.port) as (port, deaf):
        environ = {
            **sink.environ(),
            **signals,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "3000",
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


MESSAGE_MOST = 3 << 20
"""Bytes of one message at most, on the wire: a gRPC receiver refuses 4 MiB unless it is told otherwise."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mib", [0.5, 4])
def test_much_that_waits_leaves_in_messages_that_a_receiver_takes(
    protocol: str, mib: float, provider: ScriptedUpstream
) -> None:
    """A queue of half a MiB, or of more than a gRPC receiver takes, flushed at once: all of it arrives, in bounded messages, once."""
    with OtlpSink(protocol) as sink:
        queue = {"SCHEDULE_DELAY": "600000", "MAX_QUEUE_SIZE": "60000", "MAX_EXPORT_BATCH_SIZE": "60000"}
        environ = {
            **sink.environ(),
            **{f"OTEL_{signal}_{name}": value for signal in ("BSP", "BLRP") for name, value in queue.items()},
            "OTEL_METRICS_EXPORTER": "none",
            "SIDECAR_SHUTDOWN_TIMEOUT": "120s",
        }
        target = f"/v1/models/{'p' * 1000}?{'q' * 1600}"
        provider.answer_always(answer(b"{}"))
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            with RawClient(sidecar.port) as client:
                for _ in range(round(mib * (1 << 20) / 2700 / 50) + 1):
                    client.send(request_bytes("GET", target) * 50)
                    for _ in range(50):
                        assert client.read_answer().status == 200
            assert sink.calls == []
            assert sidecar.stop() == 0
            ledger = json.loads(sidecar.find_logs("sidecar.stopped")[0]["telemetry"])
        for signal in ("traces", "logs"):
            calls = [call for call in sink.calls if call.signal == signal]
            assert max(call.size for call in calls) < MESSAGE_MOST
            if signal == "traces":
                assert sum(call.size for call in calls) > mib * (1 << 20)
                assert len(calls) > mib / 3
            left = {state: count for state, count in ledger[signal].items() if count}
            assert left == dict.fromkeys(("created", "exported"), sink.accepted(signal))
        spans = [span.span_id for span in sink.spans]
        assert len(spans) == len(set(spans))


# --- where it is


@contextmanager
def on_a_unix_socket(path: Path) -> Iterator[OtlpSink]:
    """A collector that is to be had there only, over gRPC."""
    sink = OtlpSink("grpc")
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=(GrpcServices(sink),))
        assert server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield sink
        finally:
            server.stop(0).wait()


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_collector_behind_a_unix_socket(form: str, tmp_path: Path, provider: ScriptedUpstream) -> None:
    """All three signals; a proxy of the environment has nothing to do with it. Its end and return are as of any other."""
    path = tmp_path / "otlp.sock"
    environ = {
        **OtlpSink("grpc").environ(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": form.format(path),
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3000",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": "127.0.0.1",
    }
    with ExitStack() as stack:
        with on_a_unix_socket(path) as sink:
            sidecar = stack.enter_context(RunningSidecar(upstream=provider.url, environ=environ))
            ask(sidecar, "there")
            sink.wait_for(lambda: sink.spans and sink.logs and sink.points)
            assert states(sidecar).keys() == {"exported"}
            assert states(sidecar)["exported"] == len(sink.spans)
        ask(sidecar, "gone")
        assert states(sidecar).keys() == {"exported", "failed"}
        assert reason(sidecar).startswith("cannot connect")
        with on_a_unix_socket(path) as sink:

            def back() -> bool:
                ask(sidecar, "back")
                return bool(sink.find_spans(attributes={"session.id": "back"}))

            sidecar.wait_until(back)


@pytest.mark.parametrize(
    "variable, endpoint, target",
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "{}?key=SEKRIT", "/v1/traces?key=SEKRIT"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "{}/?key=SEKRIT&b=%2F", "/v1/traces?key=SEKRIT&b=%2F"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "{}/a/b/?key=SEKRIT", "/a/b/v1/traces?key=SEKRIT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "{}/own?key=SEKRIT", "/own?key=SEKRIT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "{}?key=SEKRIT", "/?key=SEKRIT"),
    ],
)
def test_an_endpoint_with_a_query(
    variable: str, endpoint: str, target: str, provider: ScriptedUpstream
) -> None:
    """It reaches the receiver as it is written, and no line: many vendors take their key there."""
    with ScriptedUpstream() as collector:
        collector.answer_always(answer(b""))
        environ = {variable: endpoint.format(collector.url), **TRACES_ONLY, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            assert set(states(sidecar)) == {"exported"}
            assert collector.request().target.decode() == target
            assert collector.request().get("host") == collector.authority.encode()
            collector.answer_always(answer(b"", status=400))
            ask(sidecar)
            assert "?***" in str(sidecar.wait_log("sidecar.telemetry.failing")["endpoint"])
        assert "SEKRIT" not in sidecar.stderr


@pytest.mark.parametrize("rest", ["", "/", "/a/b", "?key=SEKRIT", "/?key=SEKRIT"])
def test_grpc_takes_host_and_port_of_an_endpoint(rest: str, provider: ScriptedUpstream) -> None:
    """It knows neither path nor query."""
    with OtlpSink("grpc") as sink:
        environ = {**sink.environ(), **TRACES_ONLY, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint + rest}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            assert set(states(sidecar)) == {"exported"}
        assert "SEKRIT" not in sidecar.stderr


# --- what it says


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


@contextmanager
def both_ways(certificate: Certificate) -> Iterator[dict[str, str]]:
    """Two collectors behind TLS: the environment in which spans go to one over HTTP, and lines to the other over gRPC."""
    with OtlpSink(tls=certificate) as of_spans, OtlpSink("grpc", tls=certificate) as of_lines:
        yield {
            **of_spans.environ(),
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": of_lines.endpoint,
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
            "OTEL_METRICS_EXPORTER": "none",
        }


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_collector_is_trusted_as_upstreams_are(
    variable: str, certificate: Certificate, tmp_path: Path, provider: ScriptedUpstream
) -> None:
    """By a file or a folder of the environment."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate.certificate)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(certificate.certificate.read_bytes())
    trust = {"SSL_CERT_FILE": str(certificate.certificate), "SSL_CERT_DIR": str(tmp_path)}[variable]
    with both_ways(certificate) as environ:
        environ |= {variable: trust}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            for signal in ("traces", "logs"):
                sidecar.wait_until(lambda signal=signal: "queued" not in states(sidecar, signal))  # type: ignore[misc]
                assert set(states(sidecar, signal)) == {"exported"}


def test_a_collector_that_is_not_trusted(certificate: Certificate, provider: ScriptedUpstream) -> None:
    """Nothing was sent, and the reason says which check failed."""
    with both_ways(certificate) as environ:
        environ |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "3000"}
        with RunningSidecar(upstream=provider.url, environ=environ) as sidecar:
            ask(sidecar)
            for signal in ("traces", "logs"):
                why = str(sidecar.wait_log("sidecar.telemetry.failing", signal=signal)["reason"])
                assert why.startswith("TLS failed: ")
                assert "self" in why
                assert "signed" in why
                assert set(states(sidecar, signal)) <= {"failed", "queued"}


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
            "OTEL_EXPORTER_OTLP_TIMEOUT": "4000",
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_with_a_password_is_asked_of_nobody(
    protocol: str, certificate: Certificate, tmp_path: Path
) -> None:
    """No terminal is asked for it, which would keep the signals of the process meanwhile: it says so, and stops as ever."""
    key = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:hush", "-in", str(certificate.key)]
    subprocess.run([*command, "-out", str(key)], check=True, capture_output=True)
    with OtlpSink(protocol, tls=certificate, clients=certificate.certificate) as sink:
        environ = {
            **sink.environ(),
            **TRACES_ONLY,
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificate.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
            "SIDECAR_UPSTREAM": "http://127.0.0.1:9",
            "SIDECAR_LISTEN": "127.0.0.1:0",
            "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        }
        command = [sys.executable, "-m", "sidecar", "run"]
        sidecar = OnTerminal(command, streams=ALL, environ=environ, limit=60)
        try:
            sidecar.read_until(r"sidecar\.telemetry\.failing.*\n")
            sidecar.process.terminate()
            assert sidecar.end() == 0
        finally:
            sidecar.process.kill()
            sidecar.process.wait()
            sidecar.close()
    assert "pass phrase" not in sidecar.seen
    if protocol == "http/protobuf":
        assert "cannot connect: the client's key has a password" in sidecar.seen


@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
def test_only_who_exports_by_grpc_pays_for_it(upstream: ScriptedUpstream, protocol: str | None) -> None:
    """Its library takes a sixth of the memory of a sidecar that has nothing to do."""
    with ExitStack() as stack:
        sink = stack.enter_context(OtlpSink(protocol)) if protocol is not None else None
        sidecar = stack.enter_context(RunningSidecar(upstream=upstream.url, sink=sink))
        process = Path(f"/proc/{sidecar.pid}")
        assert ("cygrpc" in (process / "maps").read_text()) is (protocol == "grpc")
        if protocol != "grpc":
            status = (process / "status").read_text()
            resident = int(status.partition("VmRSS:")[2].split()[0])
            assert resident < 65_000
