"""A request as a person has it at hand: a curl line, or the text of a request.

Owns the reading of both, as far as they tell a method, a target, header fields and a body. It sends nothing.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from sidecar.core.headers import Field, Headers


class RequestTextError(ValueError):
    """The text is no request; says what is missing."""


@dataclass(frozen=True, slots=True)
class GivenRequest:
    """What a request's text says. `target` is its path and query."""

    method: str
    target: bytes
    headers: Headers
    body: bytes


class _Curl(argparse.ArgumentParser):
    """The options of curl that make a request what it is."""

    def __init__(self) -> None:
        super().__init__(prog="curl", add_help=False, allow_abbrev=False)
        self.add_argument("urls", nargs="*")
        self.add_argument("--url", action="append", default=[])
        self.add_argument("-X", "--request")
        self.add_argument("-H", "--header", action="append", default=[])
        self.add_argument("-A", "--user-agent")
        self.add_argument("-G", "--get", action="store_true")
        self.add_argument("-I", "--head", action="store_true")
        for name in ("-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json"):
            self.add_argument(name, action="append", dest="json" if name == "--json" else "data")
        for flags in (
            ("-u", "--user"),
            ("-o", "--output"),
            ("-m", "--max-time"),
            ("-x", "--proxy"),
            ("--retry",),
        ):
            self.add_argument(*flags, dest="passed_over")

    def error(self, message: str) -> NoReturn:
        """As everything that is wrong here."""
        raise RequestTextError(f"this curl line cannot be read: {message}")


def read_request(text: str) -> GivenRequest:
    """The request that a curl line or a request's text describes.

    Raises:
        RequestTextError: it is neither.
        OSError: a file that the curl line names cannot be read.
    """
    stripped = text.lstrip()
    return _curl(stripped) if stripped.startswith("curl") else _message(stripped)


def _curl(line: str) -> GivenRequest:
    try:
        words = shlex.split(line.replace("\\\r\n", " "))
    except ValueError as error:
        raise RequestTextError(f"this curl line cannot be read: {error}") from None
    given, _ = _Curl().parse_known_args(words[1:])
    urls = [*given.urls, *given.url]
    if not urls:
        raise RequestTextError("this curl line has no URL")
    pieces = [_content(piece) for piece in (given.json or given.data or ())]
    body = b"".join(pieces) if given.json else b"&".join(pieces)
    fields = [_field(one) for one in given.header if ":" in one]
    named = {name.lower() for name, _ in fields}
    if given.user_agent:
        fields.append((b"User-Agent", given.user_agent.encode()))
    if given.json and b"content-type" not in named:
        fields.append((b"Content-Type", b"application/json"))
    elif given.data and b"content-type" not in named:
        fields.append((b"Content-Type", b"application/x-www-form-urlencoded"))
    target = _target(urls[-1])
    if given.get and body:
        target, body = target + (b"&" if b"?" in target else b"?") + body, b""
    method = given.request or ("HEAD" if given.head else "POST" if body else "GET")
    return GivenRequest(method, target, Headers(fields), body)


def _content(piece: str) -> bytes:
    return Path(piece[1:]).read_bytes() if piece.startswith("@") and piece != "@-" else piece.encode()


def _field(line: str) -> Field:
    name, _, value = line.partition(":")
    return name.strip().encode(), value.strip().encode()


def _target(url: str) -> bytes:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    path = parts.path or "/"
    return (f"{path}?{parts.query}" if parts.query else path).encode()


def _message(text: str) -> GivenRequest:
    """A request's own text: a request line, header fields, an empty line, a body."""
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    line, *rest = head.split("\n")
    method, _, target = line.partition(" ")
    target = target.rpartition(" ")[0] if " HTTP/" in target else target
    if not method.isalpha() or not method.isupper() or not target:
        raise RequestTextError(
            "neither a curl line nor a request: it begins with curl, or as POST /v1/... does"
        )
    if not target.startswith("/"):
        target = _target(target).decode()
    fields = [_field(one) for one in rest if ":" in one]
    return GivenRequest(method, target.encode(), Headers(fields), body.rstrip("\n").encode())
