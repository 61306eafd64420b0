"""Asks a port for its health: what `sidecar health` and `sidecar wait` do, for containers and scripts.

Owns the questions and the words for a bad answer. It never goes through a proxy, follows nothing, and never waits longer
than `TIMEOUT` for one answer.
"""

import http.client
import json
import time
from typing import Literal
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


_PAUSE = 0.1


def wait(url: str, until: Literal["ready", "drained"], seconds: float, token: str | None) -> str | None:
    """Waits until the sidecar is ready, or has no request in flight any more and takes none; None once it is so.

    `url` is that of its readiness. Else, after `seconds`, what is missing. A sidecar that has gone is drained; one that
    was never there is too.
    """
    deadline = time.monotonic() + seconds
    while True:
        missing = trouble(url) if until == "ready" else _undrained(url, token)
        if missing is None:
            return None
        if time.monotonic() >= deadline:
            return f"not {until} after {seconds:g} s: {missing}"
        time.sleep(_PAUSE)


def _undrained(url: str, token: str | None) -> str | None:
    parts = urlsplit(url)
    headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("GET", "/stats", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return f"/stats answers {answer.status}"
        stats = json.loads(answer.read())
    except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return shown(str(error)) or type(error).__name__
    finally:
        connection.close()
    if stats["state"] != "draining":
        return "it takes requests: nobody has told it to stop"
    in_flight = stats["requests"]["in_flight"]
    return f"{in_flight} in flight" if in_flight else None
