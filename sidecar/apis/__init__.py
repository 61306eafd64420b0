"""What requests and answers of LLM APIs mean, as small facts.

Owns the public functions; one module per API knows its shapes. Pure: bytes and values in, facts out. It
knows no socket, no clock and no telemetry, and it keeps no prompt or answer text. The relay calls it.
"""

from sidecar.apis.answers import (
    Form,
    body_reader,
    event_parser,
    form,
    stream_reader,
    streams_are_read,
    undecided,
)
from sidecar.apis.base import BodyReader, EventParser, StreamReader
from sidecar.apis.ends import ends_of
from sidecar.apis.errors import error_code
from sidecar.apis.providers import provider_of_host
from sidecar.apis.requests import read_request, request_steps
from sidecar.apis.routes import UNKNOWN, match
from sidecar.apis.salvage import LARGE, Steps, UnreadableBody, at_once

__all__ = [
    "LARGE",
    "UNKNOWN",
    "BodyReader",
    "EventParser",
    "Form",
    "Steps",
    "StreamReader",
    "UnreadableBody",
    "at_once",
    "body_reader",
    "ends_of",
    "error_code",
    "event_parser",
    "form",
    "match",
    "provider_of_host",
    "read_request",
    "request_steps",
    "stream_reader",
    "streams_are_read",
    "undecided",
]
