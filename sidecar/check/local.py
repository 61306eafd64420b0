"""What this machine gives: ports, open files, the clock.

Owns these three checks. Ports are bound and let go at once; nothing is changed.
"""

import resource
import socket
from collections.abc import Sequence

from sidecar import health
from sidecar.check.finding import Finding, State
from sidecar.errors import CannotListenError
from sidecar.settings import Address, Settings

_FILES_OF_A_REQUEST = 2
_FILES_BESIDE = 64
"""Open files that are not of requests, in round numbers."""

_FILES_RAISED = 1 << 16
"""How far a sidecar raises the soft limit itself."""

CLOCK_WARN = 5.0
"""Seconds by which the clock may differ from the upstreams'."""


def check_ports(settings: Settings) -> list[Finding]:
    """One for each port that would be listened on."""
    wanted = [
        ("LISTEN", settings.listen),
        ("ADMIN_LISTEN", settings.admin_listen),
        ("HEALTH_LISTEN", settings.health_listen),
    ]
    return [_port(f"SIDECAR_{name}", address) for name, address in wanted if address is not None]


def _port(setting: str, address: Address) -> Finding:
    what = f"port {address.port}"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        running = health.trouble(f"http://{address.reachable}/liveness") is None
        fix = "that is a running sidecar; stop it, or" if running else "stop what uses it, or"
        told = str(CannotListenError.because(error, str(address), setting))
        return Finding(State.FAIL, what, told, f"{fix} choose another address: {setting}=...")
    return Finding(State.OK, what, f"{address} is free ({setting})")


def check_files(settings: Settings) -> Finding:
    """Whether `SIDECAR_MAX_REQUESTS` can be reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = _FILES_RAISED if hard == resource.RLIM_INFINITY else min(hard, _FILES_RAISED)
    most = max(0, (usable - _FILES_BESIDE) // _FILES_OF_A_REQUEST)
    if most >= settings.max_requests:
        return Finding(
            State.OK, "open files", f"{usable}, enough for {settings.max_requests} requests at once"
        )
    return Finding(
        State.WARN,
        "open files",
        f"{usable}, enough for some {most} requests at once; SIDECAR_MAX_REQUESTS is {settings.max_requests}",
        f"raise the hard limit (ulimit -Hn {settings.max_requests * _FILES_OF_A_REQUEST + _FILES_BESIDE}, "
        "LimitNOFILE=), or lower SIDECAR_MAX_REQUESTS",
    )


def check_clock(ahead: Sequence[float]) -> Finding:
    """Against what the upstreams say in `Date`: `ahead` is how far (s) this clock is before each of them."""
    if not ahead:
        return Finding(
            State.WARN, "clock", "no upstream told its time, so there is nothing to compare it with"
        )
    least = min(ahead, key=abs)
    if abs(least) <= CLOCK_WARN:
        return Finding(State.OK, "clock", "agrees with the upstreams'")
    side = "ahead of" if least > 0 else "behind"
    return Finding(
        State.WARN,
        "clock",
        f"{abs(least):.0f} s {side} the upstreams'; spans will have the wrong time",
        "set this machine's clock (NTP)",
    )
