"""Which upstream a request goes to: the first path segment where it is a name, else the default.

Owns that one decision. Paths go on byte for byte: only the name is taken off and the upstream's own path
put in front; nothing is decoded, merged or normalised.
"""

from collections.abc import Mapping

from sidecar.core.exchange import Upstream
from sidecar.errors import UnknownUpstreamError


class Routes:
    """The default upstream and the named ones. At least one is needed."""

    def __init__(self, default: Upstream | None, named: Mapping[str, Upstream]) -> None:
        self._default = default
        self._named = {name.encode("latin-1"): upstream for name, upstream in named.items()}

    @property
    def names(self) -> list[str]:
        """The known names."""
        return [name.decode("latin-1") for name in self._named]

    def unknown(self, target: bytes) -> UnknownUpstreamError:
        """What is said to a request that no upstream is for."""
        return UnknownUpstreamError(
            target.partition(b"?")[0].removeprefix(b"/").partition(b"/")[0].decode("latin-1"), self.names
        )

    def find(self, target: bytes) -> tuple[Upstream | None, bytes]:
        """The upstream for a request target, and the target less the upstream's name."""
        if self._named and target.startswith(b"/"):
            end = min((at for at in (target.find(b"/", 1), target.find(b"?")) if at > 0), default=len(target))
            upstream = self._named.get(target[1:end])
            if upstream is not None:
                rest = target[end:]
                return upstream, rest if rest.startswith(b"/") else b"/" + rest
        return self._default, target


def upstream_target(upstream: Upstream, target: bytes) -> bytes:
    """The target as the upstream is asked for it."""
    return upstream.base_path + target if target.startswith(b"/") else target
