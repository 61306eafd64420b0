"""The demo's sidecar: which settings it gets, and where it can be reached.

Owns the choice of ports where nobody chose any, and the short times that show something within a round.
"""

import socket
from collections.abc import Mapping

from sidecar import settings
from sidecar.picture.child import Composed
from sidecar.settings import Address

SESSION_IDLE = "4s"
"""How soon a quiet session ends here, so that `session` spans can be seen; `SIDECAR_SESSION_IDLE` wins."""

SHUTDOWN_TIMEOUT = "6s"
"""How long Ctrl-C may take if the collector does not answer; `SIDECAR_SHUTDOWN_TIMEOUT` wins."""

_LOOPBACK = "127.0.0.1,localhost,::1"


def compose(environ: Mapping[str, str], *, listen: str | None, upstream: str) -> Composed:
    """The settings of a sidecar for the demo. `listen` (a flag) and variables win over the demo's choice.

    Where nobody chose a port and the usual one is taken, any free one will do. `OTEL_*` stays as it is.

    Raises:
        SettingsError: `listen` or a variable is no valid setting.
    """
    child = {name: value for name, value in environ.items() if name != "SIDECAR_UPSTREAMS"}
    child["SIDECAR_UPSTREAM"] = upstream
    child["SIDECAR_LOG_FORMAT"] = "json"
    child.setdefault("SIDECAR_SESSION_IDLE", SESSION_IDLE)
    child.setdefault("SIDECAR_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT)
    for name in ("NO_PROXY", "no_proxy"):
        child[name] = ",".join(filter(None, (child.get(name), _LOOPBACK)))
    if listen is not None:
        child["SIDECAR_LISTEN"] = listen
    chosen = settings.load({}, child)
    remark = None
    if "SIDECAR_LISTEN" not in child or chosen.listen.port == 0:
        address = _free(chosen.listen)
        if chosen.listen.port not in (0, address.port):
            remark = f"{chosen.listen} is taken; listening on {address}"
        child["SIDECAR_LISTEN"] = str(address)
    if "SIDECAR_ADMIN_LISTEN" not in child or chosen.admin_listen.port == 0:
        child["SIDECAR_ADMIN_LISTEN"] = str(_free(chosen.admin_listen))
    final = settings.load({}, child)
    return Composed(child, final.listen.reachable, final.admin_listen.reachable, final.admin_token, remark)


def _free(address: Address) -> Address:
    """The address if nobody listens there, else the same host with any free port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    for port in (address.port, 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, port))
            except OSError:
                continue
            return Address(address.host, probe.getsockname()[1])
    return address
