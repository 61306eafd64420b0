"""What requests and answers of LLM APIs mean, as small facts.

Owns the public functions. Every module of this package that ends in a record named `API` is one API, whole; it is found by
that alone. Pure: bytes and values in, facts out. It knows no socket, no clock and no telemetry, and it keeps no prompt or
answer text.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from sidecar.apis.base import Api, BodyReader, EventParser, StreamReader
from sidecar.apis.catalog import Catalog, Form, event_parser, undecided
from sidecar.apis.ends import ends_of
from sidecar.apis.errors import KNOWN_ERRORS, RejectionReader
from sidecar.apis.routes import UNKNOWN
from sidecar.apis.shapes import LARGE, Steps, UnreadableBody, at_once


def _records() -> Iterator[Api]:
    """The records of all modules here, by the modules' names."""
    for name in sorted(module.name for module in iter_modules(__path__)):
        api = getattr(import_module(f"{__name__}.{name}"), "API", None)
        if api is not None:
            yield api


APIS = tuple(_records())
"""Every API that is read in depth."""

_catalog = Catalog(APIS)

FINISH_REASONS = _catalog.finish_reasons
body_reader = _catalog.body_reader
form = _catalog.form
match = _catalog.match
read_request = _catalog.read_request
request_steps = _catalog.request_steps
small_request = _catalog.small_request
stream_reader = _catalog.stream_reader
streams_are_read = _catalog.streams_are_read

__all__ = [
    "APIS",
    "FINISH_REASONS",
    "KNOWN_ERRORS",
    "LARGE",
    "UNKNOWN",
    "Api",
    "BodyReader",
    "EventParser",
    "Form",
    "RejectionReader",
    "Steps",
    "StreamReader",
    "UnreadableBody",
    "at_once",
    "body_reader",
    "ends_of",
    "event_parser",
    "form",
    "match",
    "read_request",
    "request_steps",
    "small_request",
    "stream_reader",
    "streams_are_read",
    "undecided",
]
