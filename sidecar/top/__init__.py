"""`sidecar top`: the sessions of a running sidecar in a terminal, over its admin port.

Owns keys and the order of things; `sessions.py` has what is shown, `stream.py` where it comes from.
"""

from sidecar.top.main import main

__all__ = ["main"]
