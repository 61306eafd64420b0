"""One trust for upstreams and collector: what the environment names, and what the system has."""

import ssl
from pathlib import Path

import pytest

from sidecar.testing import self_signed
from sidecar.ways_out import Trust


def subjects(context: ssl.SSLContext) -> set[str]:
    """The common names it has loaded."""
    return {dict(pair[0] for pair in one["subject"]).get("commonName", "") for one in context.get_ca_certs()}  # type: ignore[misc]


def test_a_file_of_the_environment(tmp_path: Path) -> None:
    """Both forms hold the same."""
    made = self_signed(tmp_path)
    trust = Trust({"SSL_CERT_FILE": str(made.certificate)})
    assert "sidecar-test" in subjects(trust.context())
    assert made.certificate.read_bytes() in (trust.pem() or b"")
    assert trust.ignored == ()


def test_only_a_file_replaces_all_others(tmp_path: Path) -> None:
    """As OTEL_EXPORTER_OTLP_CERTIFICATE asks."""
    made = self_signed(tmp_path)
    assert subjects(Trust({}).context(str(made.certificate))) == {"sidecar-test"}
    assert Trust({}).pem(str(made.certificate)) == made.certificate.read_bytes()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_path_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """And the system's trust holds."""
    trust = Trust({name: str(tmp_path / "no")})
    assert [line.partition("=")[0] for line in trust.ignored] == [name]
    assert subjects(trust.context()) == subjects(Trust({}).context())


def test_hosts_are_checked() -> None:
    """In every context."""
    context = Trust({}).context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
