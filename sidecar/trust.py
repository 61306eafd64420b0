"""Which certificates are trusted: one answer, for the upstreams and for the collector.

Owns `SSL_CERT_FILE` and `SSL_CERT_DIR`, read from the mapping it is given, and the system's own places behind them.
A path that is not there is passed over and named: OpenSSL would silently trust nobody.
"""

import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sidecar.core.shown import mask

_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the bundle, for a Python whose OpenSSL was built to look elsewhere."""


class Trust:
    """The trust of one process. `ignored` has a sentence for each variable whose path is not there."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        paths = ssl.get_default_verify_paths()
        self.ignored: tuple[str, ...] = ()
        own = (paths.openssl_cafile, *_PLACES)
        system = next((path for path in own if os.path.isfile(path)), None)  # noqa: PTH113 - as OpenSSL has it
        self._file = self._given(environ, "SSL_CERT_FILE") or system
        self._folder = self._given(environ, "SSL_CERT_DIR") or paths.openssl_capath

    def _given(self, environ: Mapping[str, str], name: str) -> str | None:
        path = environ.get(name, "")
        if path and not os.path.exists(path):  # noqa: PTH110 - OpenSSL takes it as text, too
            self.ignored += (
                f"{name}={mask(path)} is ignored: there is no such path, and the system's trust holds",
            )
            return None
        return path or None

    def context(self, only: str | None = None) -> ssl.SSLContext:
        """For a client that checks the host. `only`: a file of certificates that are trusted in place of all others.

        Raises:
            OSError, ssl.SSLError: the file cannot be read, or holds no certificate.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if only is not None:
            context.load_verify_locations(cafile=only)
        else:
            context.load_verify_locations(cafile=self._file, capath=self._folder)
        return context

    def pem(self, only: str | None = None) -> bytes | None:
        """The same certificates as PEM; None where there are none.

        Raises:
            OSError: the file cannot be read.
        """
        if only is not None:
            return Path(only).read_bytes()
        found = [] if self._file is None else [Path(self._file).read_bytes()]
        for path in sorted(Path(self._folder).glob("*.[0-9]*")):
            with suppress(OSError):
                found.append(path.read_bytes())
        return b"\n".join(dict.fromkeys(found)) or None
