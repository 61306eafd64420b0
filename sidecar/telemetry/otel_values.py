"""How the text of an `OTEL_*` variable becomes a value: one small parser per kind.

Owns the grammar of OpenTelemetry's environment variables. A parser raises `ValueError` for what is not allowed;
which variable it was, and what would be allowed, is said by the table in `otel_table.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is read, and what is allowed."""

    parse: Callable[[str], Any]
    allowed: str


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(text)
        return value

    return parse


def _milliseconds(text: str) -> float:
    value = int(text)
    if value <= 0:
        raise ValueError(text)
    return value / 1000


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for member in text.split(","):
        if not member.strip():
            continue
        key, equals, value = member.partition("=")
        key = unquote(key.strip())
        if not equals or not key:
            raise ValueError(member)
        pairs.append((key, unquote(value.strip())))
    return tuple(pairs)


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    headers = tuple((key.lower(), value) for key, value in _pairs(text))
    for key, value in headers:
        if not (key.isascii() and value.isascii() and f"{key}{value}".isprintable()) or " " in key:
            raise ValueError(key)
    return headers


def _endpoint(text: str) -> str:
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in {"http", "https", ""} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(text)
    _ = parts.port  # raises for a port that is none
    return text


def _file(text: str) -> str:
    with Path(text).open("rb"):
        return text


def one_of(*words: str) -> Kind:
    """One of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return Kind(parse, "one of " + ", ".join(words))


def _propagators(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if names == ("none",):
        return ()
    if not set(names) <= {"tracecontext", "baggage"}:
        raise ValueError(text)
    return names


SWITCH = Kind(_switch, "true or false")
COUNT = Kind(_integer(1), "a whole number of 1 or more")
LIMIT = Kind(_integer(0), "a whole number of 0 or more")
MILLISECONDS = Kind(_milliseconds, "a whole number of milliseconds, 1 or more")
SHARE = Kind(_share, "a number from 0 to 1")
ENDPOINT = Kind(_endpoint, "an http:// or https:// URL with a host; for grpc also host:port")
HEADERS = Kind(_headers, "key=value pairs, separated by commas, percent-encoded")
ATTRIBUTES = Kind(_pairs, "key=value pairs, separated by commas, percent-encoded")
FILE = Kind(_file, "the path of a file that can be read")
PROPAGATORS = Kind(_propagators, "tracecontext and baggage, separated by a comma, or none")
TEXT = Kind(str, "any text")
EXPORTER = one_of("otlp", "console", "none")
PROTOCOL = one_of("http/protobuf", "grpc")
