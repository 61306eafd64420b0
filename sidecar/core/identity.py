"""Who is talking: the session and conversation of a request, by the first rule that gives a valid value."""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.core.anomaly import Anomaly


class Source(StrEnum):
    """Where a session id came from (`sidecar.session.source`)."""

    OWN_HEADER = "own_header"
    CONFIGURED_HEADER = "configured_header"
    KNOWN_HEADER = "known_header"
    VENDOR_HEADER = "vendor_header"
    BAGGAGE = "baggage"
    BODY = "body"
    RESPONSE_CHAIN = "response_chain"
    GENERATED = "generated"
    UNINSPECTED = "uninspected"


MAIN = "main"
"""The one conversation of a session whose caller tells no finer word."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The resolved ids of one request."""

    session_id: str
    source: Source
    conversation_id: str = MAIN
    conversation_supplied: bool = False
    agent: str | None = None
    parent_agent: str | None = None
    request_kind: str | None = None
    anomalies: tuple[Anomaly, ...] = ()

    @property
    def named(self) -> bool:
        """True when a caller named the session; False for ids made up by the sidecar."""
        return self.source not in (Source.GENERATED, Source.UNINSPECTED)
