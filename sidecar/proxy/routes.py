"""Which upstream a request goes to: the first path segment where it is a name, else the default.

Owns that one decision. Paths go on byte for byte: only the name is taken off and the upstream's own path
put in front; nothing is decoded, merged or normalised.
"""

from collections.abc import Mapping

from sidecar import apis
from sidecar.core.exchange import Upstream
from sidecar.core.facts import Route
from sidecar.core.record import record
from sidecar.errors import UnknownUpstreamError

_REMEMBERED, _SHORT = 1024, 512
"""How many request lines are remembered, and the bytes of the longest target among them."""


@record
class Target:
    """What follows from a request's method and target.

    `path` is the target less the upstream's name, `asked` the target as the upstream is asked for it; `line` the request
    line towards the upstream, its authority `host`. These are empty where no upstream is for it.
    """

    upstream: Upstream | None
    path: bytes
    route: Route
    asked: bytes = b""
    line: bytes = b""
    host: bytes = b""


class Routes:
    """The default upstream and the named ones. At least one is needed."""

    def __init__(self, default: Upstream | None, named: Mapping[str, Upstream]) -> None:
        self._default = default
        self._named = {name.encode("latin-1"): upstream for name, upstream in named.items()}
        self._known: dict[tuple[str, bytes], Target] = {}

    @property
    def names(self) -> list[str]:
        """The known names."""
        return [name.decode("latin-1") for name in self._named]

    def unknown(self, target: bytes) -> UnknownUpstreamError:
        """What is said to a request that no upstream is for."""
        return UnknownUpstreamError(
            target.partition(b"?")[0].removeprefix(b"/").partition(b"/")[0].decode("latin-1"), self.names
        )

    def target(self, method: str, target: bytes) -> Target:
        """What follows from a request's method and target, found once for those that are alike."""
        known = self._known.get((method, target))
        if known is None:
            known = self._find(method, target)
            if len(target) <= _SHORT:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[method, target] = known
        return known

    def _find(self, method: str, target: bytes) -> Target:
        upstream, path = self._upstream(target)
        route = apis.match(method, path.partition(b"?")[0].decode("latin-1"))
        if upstream is None:
            return Target(None, path, route)
        asked = upstream.base_path + path if path.startswith(b"/") else path
        line = b"%b %b HTTP/1.1" % (method.encode("latin-1"), asked)
        return Target(upstream, path, route, asked, line, upstream.authority.encode("latin-1"))

    def _upstream(self, target: bytes) -> tuple[Upstream | None, bytes]:
        """The upstream for a request target, and the target less the upstream's name."""
        if self._named and target.startswith(b"/"):
            end = min((at for at in (target.find(b"/", 1), target.find(b"?")) if at > 0), default=len(target))
            upstream = self._named.get(target[1:end])
            if upstream is not None:
                rest = target[end:]
                return upstream, rest if rest.startswith(b"/") else b"/" + rest
        return self._default, target
