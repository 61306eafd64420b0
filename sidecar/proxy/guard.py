"""The outermost handler of the relay: a bug ends one request, and never the process.

The one place under `proxy/` with a broad `except`. It wraps what the event loop calls directly; whoever
owns the call says through `broke(error)` what ends because of it.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Breakable(Protocol):
    """Something that can say what ends when a bug strikes."""

    def broke(self, error: Exception) -> None:
        """Ends what was under way as `internal_error`."""


P = ParamSpec("P")
T = TypeVar("T", bound=Breakable)


def outermost(method: Callable[Concatenate[T, P], None]) -> Callable[Concatenate[T, P], None]:
    """Hands whatever the method raises to its owner's `broke`."""

    @functools.wraps(method)
    def guarded(self: T, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            self.broke(error)

    return guarded
