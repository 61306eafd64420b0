"""How the text of an `OTEL_*` variable becomes a value: one small parser per kind.

Owns the grammar of OpenTelemetry's environment variables, as their specification has it. A parser raises `ValueError`
for what is not allowed, and never says the value: it may be a credential.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_NO_LIMIT = (1 << 31) - 1
"""Milliseconds that stand for no limit, and the largest whole number that is taken."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is read, and what is allowed.

    `members`: the text is a list, parted by commas; each member is read alone, and one that is not allowed does no harm
    to the others.
    """

    parse: Callable[[str], Any]
    allowed: str
    members: bool = False


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _NO_LIMIT:
        raise ValueError("not a whole number")
    return int(text)


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _number(text)
        if value < least:
            raise ValueError("too small")
        return value

    return parse


def _duration(text: str) -> float:
    return max(_number(text), 1) / 1000


def _interval(text: str) -> float:
    return _integer(1)(text) / 1000


def _timeout(text: str) -> float:
    return (_number(text) or _NO_LIMIT) / 1000


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("not a share")
    return value


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    key = unquote(key.strip(), errors="strict")
    if not equals or not key:
        raise ValueError("not key=value")
    return key, unquote(value.strip(), errors="strict")


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(_pair(member) for member in text.split(",") if member.strip())


def _header(text: str) -> tuple[str, str]:
    key, value = _pair(text)
    if not (key.isascii() and value.isascii() and f"{key}{value}".isprintable()) or " " in key:
        raise ValueError("not a header field")
    return key.lower(), value


def _endpoint(text: str) -> str:
    if text.startswith("unix:"):
        if not text.removeprefix("unix:").lstrip("/"):
            raise ValueError("no path")
        return text
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in {"http", "https", ""} or not parts.hostname or parts.fragment:
        raise ValueError("not a URL")
    _ = parts.port  # raises for a port that is none
    return text


def _file(text: str) -> str:
    with Path(text).open("rb"):
        return text


def one_of(*words: str, members: bool = False, **others: str) -> Kind:
    """One of a few words, in any case; or a list of them. `others` are words that mean one of these."""

    def parse(text: str) -> str:
        word = others.get(text.lower(), text.lower())
        if word not in words:
            raise ValueError("no such word")
        return word

    listed = ", ".join(words)
    return Kind(parse, f"a list of {listed}" if members else f"one of {listed}", members=members)


SWITCH = Kind(_switch, "true or false")
COUNT = Kind(_integer(1), "a whole number of 1 or more")
LIMIT = Kind(_integer(0), "a whole number of 0 or more")
DURATION = Kind(_duration, "a whole number of milliseconds")
INTERVAL = Kind(_interval, "a whole number of milliseconds, 1 or more")
TIMEOUT = Kind(_timeout, "a whole number of milliseconds; 0: no limit")
SHARE = Kind(_share, "a number from 0 to 1")
ENDPOINT = Kind(_endpoint, "an http:// or https:// URL with a host; for grpc also host:port or unix:path")
HEADERS = Kind(_header, "key=value pairs, separated by commas, percent-encoded", members=True)
ATTRIBUTES = Kind(_pairs, "key=value pairs, separated by commas, percent-encoded")
FILE = Kind(_file, "the path of a file that can be read")
PROPAGATORS = one_of("tracecontext", "baggage", "none", members=True)
TEXT = Kind(str, "any text")
EXPORTERS = one_of("otlp", "console", "none", members=True, logging="console")
PROTOCOL = one_of("http/protobuf", "grpc")
