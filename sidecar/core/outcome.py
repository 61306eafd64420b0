"""How a request can end, and what can go wrong beside it: two fixed lists of public words.

Nine outcomes, each decided exactly once, and the anomalies, which are counted. The words are public: metric
labels, dashboard legends and alert rules use them. Nothing here knows why one was chosen.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """The nine ways a request can end."""

    __hash__ = str.__hash__  # an Enum's own is a call of Python

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

    __hash__ = str.__hash__  # an Enum's own is a call of Python

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


class Anomaly(StrEnum):
    """Values of `sidecar.anomaly`. Bounded on purpose: the list is the label's whole value set."""

    ID_HASHED = "id_hashed"
    ID_INVALID = "id_invalid"
    SESSION_UNTRACKED = "session_untracked"
    CONVERSATION_UNTRACKED = "conversation_untracked"
    UNKNOWN_ID_ENDED = "unknown_id_ended"
    SESSION_EVICTED = "session_evicted"
    CONVERSATION_EVICTED = "conversation_evicted"
    RESPONSE_CHAIN_EVICTED = "response_chain_evicted"
    RETRY_KEY_EVICTED = "retry_key_evicted"
    HISTORY_AMBIGUOUS = "history_ambiguous"
    HISTORY_EVICTED = "history_evicted"
    HISTORY_CONVERSATION_CAP = "history_conversation_cap"
    PENDING_WAITS_CAP = "pending_waits_cap"
    LINKS_CAP = "links_cap"
    MODEL_CAP = "model_cap"
    SERIES_CAP = "series_cap"
    BYTES_AFTER_END = "bytes_after_end"
    CONNECTION_RESENT = "connection_resent"
    BODY_TOO_LARGE = "body_too_large"
    BODY_NOT_JSON = "body_not_json"
    BODY_INVALID = "body_invalid"
    BODY_MEMORY_FULL = "body_memory_full"
    BODY_ENCODING = "body_encoding"
    ANSWER_NOT_READ = "answer_not_read"
    ANSWER_INVALID = "answer_invalid"
    ANSWER_ODD_HTTP = "answer_odd_http"
    EVENT_TOO_LARGE = "event_too_large"
    OUT_OF_RESOURCES = "out_of_resources"
    LISTENER_FAILED = "listener_failed"
    RECORD_DROPPED = "record_dropped"
