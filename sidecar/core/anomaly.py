"""The fixed list of things that should not happen, each counted as `sidecar.anomalies`.

Owns the words, which are a metric's whole value set: bounded, and never made of a caller's text.
Noted by the core and the relay, counted by telemetry, shown by the admin port.
"""

from enum import StrEnum


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
