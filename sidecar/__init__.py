"""A transparent proxy sidecar for LLM calls that shows what happens inside a conversation.

`SessionManager`, the light tracking behind it, can be used on its own; importing it needs nothing but the
standard library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.core.sessions import SessionManager as SessionManager

__all__ = ["SessionManager"]


def __getattr__(name: str) -> Any:
    if name != "SessionManager":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sidecar.core.sessions import SessionManager  # noqa: PLC0415 - every command and client begins in this package

    return SessionManager
