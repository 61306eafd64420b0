"""The outermost handler of the relay: a bug ends one request, and never the process.

The one place under `proxy/` with a broad `except`. It wraps what the event loop calls directly; whoever
owns the call says through `broke(error)` what ends because of it.
"""

import functools
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple, Unpack


class Breakable(Protocol):
    """Something that can say what ends when a bug strikes."""

    def broke(self, error: Exception) -> None:
        """Ends what was under way as `internal_error`."""


Given = TypeVarTuple("Given")
T = TypeVar("T", bound=Breakable)
Made = TypeVar("Made")


def outermost(method: Callable[[T, Unpack[Given]], None]) -> Callable[[T, Unpack[Given]], None]:
    """Hands whatever the method raises to its owner's `broke`. Its arguments have places, no names."""

    @functools.wraps(method)
    def guarded(self: T, /, *given: *Given) -> None:
        try:
            method(self, *given)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            self.broke(error)

    return guarded


def guarded(report: Callable[[Exception], None], *calls: Callable[[], object]) -> None:
    """Makes all of the calls, whatever one of them raises; that is told."""
    for call in calls:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the outermost handler
            report(error)


def made(report: Callable[[Exception], None], make: Callable[[], Made]) -> Made | None:
    """What `make` gives; None if it raises, and that is told."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - the outermost handler
        report(error)
        return None
