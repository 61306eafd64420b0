"""Exports through TLS, with the client's certificate, and through a proxy."""

import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from sidecar.testing import OtlpSink
from sidecar.testing.tls import Certificate, self_signed
from tests.telemetry.way_out import PROTOCOLS, SLOW, WayOut, started


class _Taker(BaseHTTPRequestHandler):
    """Takes every export."""

    def do_POST(self) -> None:
        """An empty answer, which is a full success."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


class _Server(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust us is no event of the test."""


class _Services(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, _details: Any) -> Any:
        """Takes every export."""
        return grpc.unary_unary_rpc_method_handler(lambda _body, _context: b"")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One for both sides."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def https(certificate: Certificate) -> Iterator[str]:
    """An HTTPS collector that wants to know its clients."""
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.certificate)
    server = _Server(("127.0.0.1", 0), _Taker)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def grpcs(certificate: Certificate) -> Iterator[str]:
    """A gRPC collector that wants to know its clients."""
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool, handlers=(_Services(),))
    key, chain = certificate.key.read_bytes(), certificate.certificate.read_bytes()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
    )
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()
    pool.shutdown()


async def _sent(settings: dict[str, str]) -> WayOut:
    out = started({**SLOW, "OTEL_EXPORTER_OTLP_TIMEOUT": "20000", **settings})
    out.pipeline.span(out.span())
    assert await out.pipeline.shutdown(30)
    return out


def _known(certificate: Certificate) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificate.certificate),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(certificate.key),
    }


async def test_https_with_a_client_certificate(https: str, certificate: Certificate) -> None:
    """Trusted, and known."""
    out = await _sent({"OTEL_EXPORTER_OTLP_ENDPOINT": https, **_known(certificate)})
    assert out.states() == {"created": 1, "exported": 1}


async def test_https_that_is_not_trusted_has_failed(https: str) -> None:
    """Nothing was sent, so nothing is unknown."""
    out = await _sent({"OTEL_EXPORTER_OTLP_ENDPOINT": https, "OTEL_EXPORTER_OTLP_TIMEOUT": "3000"})
    assert out.states() == {"created": 1, "failed": 1}
    assert out.lines[0]["reason"] == "TLS failed: self-signed certificate"


async def test_grpc_with_a_client_certificate(grpcs: str, certificate: Certificate) -> None:
    """An endpoint without a scheme means TLS."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": grpcs, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    out = await _sent({**settings, **_known(certificate)})
    assert out.states() == {"created": 1, "exported": 1}


async def test_grpc_that_is_not_trusted_has_failed(grpcs: str) -> None:
    """Likewise with gRPC."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": grpcs, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    out = await _sent({**settings, "OTEL_EXPORTER_OTLP_TIMEOUT": "3000"})
    assert out.states() == {"created": 1, "failed": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_certificate_with_its_key_in_one_file(
    protocol: str, https: str, grpcs: str, certificate: Certificate, tmp_path: Path
) -> None:
    """No key is named then."""
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
    out = await _sent(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": https if protocol == "http/protobuf" else grpcs,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(both),
        }
    )
    assert out.states() == {"created": 1, "exported": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("empty", ["certificate", "key"])
async def test_a_file_that_is_empty_while_it_is_renewed_costs_one_export(
    empty: str, protocol: str, https: str, grpcs: str, certificate: Certificate, tmp_path: Path
) -> None:
    """It has failed, and the next one reads the file anew."""
    ours = Certificate(tmp_path / "certificate.pem", tmp_path / "key.pem")
    ours.certificate.write_bytes(certificate.certificate.read_bytes())
    ours.key.write_bytes(certificate.key.read_bytes())
    renewed = getattr(ours, empty)
    content = renewed.read_bytes()
    renewed.write_bytes(b"")
    out = started(
        {
            **SLOW,
            "OTEL_EXPORTER_OTLP_ENDPOINT": https if protocol == "http/protobuf" else grpcs,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
            **_known(ours),
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
        }
    )
    out.pipeline.span(out.span())
    assert await out.pipeline.flush(30)
    assert out.states() == {"created": 1, "failed": 1}
    renewed.write_bytes(content)
    out.pipeline.span(out.span())
    assert await out.pipeline.flush(30)
    assert out.states() == {"created": 2, "failed": 1, "exported": 1}
    assert await out.pipeline.shutdown(30)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_renewed_files_are_read(
    protocol: str, https: str, grpcs: str, certificate: Certificate, tmp_path: Path
) -> None:
    """A certificate that the collector does not know fails as TLS; once its files are replaced exports pass."""
    stranger = self_signed(tmp_path)
    out = started(
        {
            **SLOW,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "5000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": https if protocol == "http/protobuf" else grpcs,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(stranger.certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(stranger.key),
        }
    )
    out.pipeline.span(out.span())
    assert await out.pipeline.flush(30)
    assert out.states() == {"created": 1, "failed": 1}
    assert out.lines[0]["reason"].startswith("TLS failed: ")
    for ours, theirs in ((stranger.certificate, certificate.certificate), (stranger.key, certificate.key)):
        ours.write_bytes(theirs.read_bytes())
    out.pipeline.span(out.span())
    assert await out.pipeline.flush(30)
    assert out.states() == {"created": 2, "failed": 1, "exported": 1}
    assert await out.pipeline.shutdown(30)


async def test_the_collector_is_trusted_as_upstreams_are(
    https: str, grpcs: str, certificate: Certificate, tmp_path: Path
) -> None:
    """By a file or a folder of the environment, in both protocols."""
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / f"{_hash(certificate)}.0").write_bytes(certificate.certificate.read_bytes())
    known = _known(certificate)
    del known["OTEL_EXPORTER_OTLP_CERTIFICATE"]
    for trust in ({"SSL_CERT_FILE": str(certificate.certificate)}, {"SSL_CERT_DIR": str(folder)}):
        for protocol, endpoint in (("http/protobuf", https), ("grpc", grpcs)):
            where = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
            out = await _sent({**where, **known, **trust})
            assert out.states() == {"created": 1, "exported": 1}, (trust, protocol)


def _hash(certificate: Certificate) -> str:
    """The name by which OpenSSL finds it in a folder."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate.certificate)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def test_a_proxy_is_on_the_way() -> None:
    """The collector's name need not be known here."""
    with OtlpSink() as proxy:
        out = await _sent(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.invalid:4318", "HTTP_PROXY": proxy.endpoint}
        )
        assert out.states() == {"created": 1, "exported": 1}
        assert proxy.calls[0].headers["host"] == "collector.invalid:4318"
