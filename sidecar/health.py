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

MAX_ANSWER = 1 << 20
"""Bytes that are read of an answer; a sidecar's are far smaller."""


def url_of(admin: Address, health: Address | None) -> str:
    """Where a sidecar with these ports tells whether it is ready: its health port, else its admin port."""
    address = health or admin
    return f"http://{address.reachable}/readiness"


def trouble(url: str) -> str | None:
    """None if a GET of this `http://` URL is answered with a status of 200 to 299; else what came instead."""
    try:
        status, reason, _ = _asked(url, urlsplit(url).path or "/")
    except _TROUBLE as error:
        return f"{mask(url)}: {shown(str(error)) or type(error).__name__}"
    return None if 200 <= status < 300 else f"{mask(url)}: {status} {shown(reason)}"


_TROUBLE = (OSError, ValueError, http.client.HTTPException)


def _asked(url: str, path: str, token: str | None = None, read: int = 0) -> tuple[int, str, bytes]:
    """The answer to a GET of `path` at the host of `url`: status, reason, that much of its body. Raises one of `_TROUBLE`."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("an http:// URL is needed")
    headers = {"Connection": "close"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.reason, answer.read(read)
    finally:
        connection.close()


_PAUSE = 0.1


def wait(url: str, until: Literal["ready", "drained"], seconds: float, token: str | None) -> str | None:
    """Waits until the sidecar is ready, or has no request in flight any more and takes none; None once it is so.

    `url` is that of its readiness, at its admin port where it is to be drained. Else, after `seconds`, what is missing. A
    sidecar that has gone is drained; one that was never there is too.
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
    try:
        status, _, body = _asked(url, "/stats", token, MAX_ANSWER)
        if status != 200:
            return f"{mask(url)}: /stats answers {status}"
        stats = json.loads(body)
        state, in_flight = stats["state"], stats["requests"]["in_flight"]
    except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
        return None
    except (KeyError, TypeError, json.JSONDecodeError):
        return f"{mask(url)}: its /stats is not a sidecar's"
    except _TROUBLE as error:
        return f"{mask(url)}: {shown(str(error)) or type(error).__name__}"
    if state != "draining":
        return "it takes requests: nobody has told it to stop"
    return f"{in_flight} in flight" if in_flight else None
