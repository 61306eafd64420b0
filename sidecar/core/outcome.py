"""How a request can end: nine outcomes, each decided exactly once.

The words are public: metric labels, dashboard legends and alert rules use them.
Nothing here knows why an outcome was chosen; that is `exchange.py`.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """The nine ways a request can end."""

    COMPLETED = "completed"
    CLIENT_LEFT = "client_left"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_FAILED = "upstream_failed"
    ERROR_IN_STREAM = "error_in_stream"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


class Phase(StrEnum):
    """Where in its life a request was when its outcome was decided (`sidecar.outcome.phase`)."""

    HEAD = "head"
    """The request's head or body was still being received."""
    CONNECT = "connect"
    """A connection to the upstream was being made."""
    BEFORE_HEADERS = "before_headers"
    """The request was on its way; no answer's head had come."""
    MID_STREAM = "mid_stream"
    """The answer's head had come; its end had not."""
    END = "end"
    """The answer's end had been seen."""
