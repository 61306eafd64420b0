"""A certificate authority for one test: a self-signed certificate for loopback.

Owns two files in a directory the test gives. It asks the `openssl` command, so it needs no package, and
nothing outside the test ever trusts it.
"""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which

_REQUEST = (
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=sidecar-test "
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:TRUE"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for `localhost` and 127.0.0.1, and its key, as PEM files."""

    certificate: Path
    key: Path

    def server_context(self, clients: Path | None = None) -> ssl.SSLContext:
        """What a server shows; `clients`: a file of what it trusts, where its clients must show a certificate too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        return context

    def client_context(self) -> ssl.SSLContext:
        """What a client that trusts this certificate uses."""
        return ssl.create_default_context(cafile=self.certificate)


def self_signed(directory: Path) -> Certificate:
    """Makes a new certificate in `directory`.

    Raises:
        FileNotFoundError: there is no `openssl` command.
        subprocess.CalledProcessError: it failed.
    """
    command = which("openssl")
    if command is None:
        raise FileNotFoundError("the openssl command is needed to make a certificate")
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    files = ("-keyout", str(made.key), "-out", str(made.certificate))
    subprocess.run((command, *_REQUEST.split(), *files), check=True, capture_output=True)  # noqa: S603
    return made
