"""Asks a port for its health: what `sidecar health` does, for the health check of a container.

Owns the one question and the words for a bad answer. It never goes through a proxy, follows nothing, needs no
token, and never waits longer than `TIMEOUT`.
"""

import http.client
from urllib.parse import urlsplit

from sidecar.core.shown import mask, shown
from sidecar.settings import Address

TIMEOUT = 3.0
"""Seconds for connecting, and again for the answer."""


def url_of(admin: Address, health: Address | None) -> str:
    """Where a sidecar with these ports tells whether it is ready: its health port, else its admin port."""
    address = health or admin
    return f"http://{address.reachable}/readiness"


def trouble(url: str) -> str | None:
    """None if a GET of this `http://` URL is answered with a status of 200 to 299; else what came instead."""
    parts = urlsplit(url)
    try:
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("an http:// URL is needed")
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
        try:
            connection.request("GET", parts.path or "/", headers={"Connection": "close"})
            answer = connection.getresponse()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{mask(url)}: {shown(str(error)) or type(error).__name__}"
    return None if 200 <= answer.status < 300 else f"{mask(url)}: {answer.status} {shown(answer.reason)}"
