"""A transparent proxy sidecar for LLM calls that shows what happens inside a conversation.

`SessionManager`, the light tracking behind it, can be used on its own; importing it needs nothing but the
standard library.
"""

from sidecar.core.sessions import SessionManager

__all__ = ["SessionManager"]
