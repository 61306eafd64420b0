"""A request as a person has it at hand: a curl line, or the text of a request.

Owns the reading of both, as far as they tell a method, a target, header fields and a body. It sends nothing.
"""

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit

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


_EMPTY_LINE = re.compile(r"\r?\n\r?\n")

_ALONE = "#012346:BJLMNORSZafgijklnpqsv"
_WITH_VALUE = "CDEKPQTUYbcehmortuwxyz"
"""curl's other options of one letter, which may stand together: `-sXPOST`."""


class _Curl(argparse.ArgumentParser):
    """The options of curl that make a request what it is. The URL is among the words that are left."""

    def __init__(self) -> None:
        super().__init__(prog="curl", add_help=False, allow_abbrev=False)
        self.add_argument("--url", action="append", default=[])
        self.add_argument("-X", "--request")
        self.add_argument("-H", "--header", action="append", default=[])
        self.add_argument("-A", "--user-agent")
        self.add_argument("-G", "--get", action="store_true")
        self.add_argument("-I", "--head", action="store_true")
        for flags, read in (
            (("-d", "--data", "--data-ascii"), _data),
            (("--data-binary",), _content),
            (("--data-raw",), str.encode),
            (("--data-urlencode",), _encoded),
        ):
            self.add_argument(*flags, action="append", dest="data", type=read)
        self.add_argument("--json", action="append", type=_content)
        self.add_argument("-F", "--form", "--form-string", action="append", type=str.encode)
        for letter in _ALONE:
            self.add_argument(f"-{letter}", action="store_true", dest="passed_over")
        for letter in _WITH_VALUE:
            self.add_argument(f"-{letter}", dest="passed_over")
        self.add_argument("--proxy", "--preproxy", "--referer", "--doh-url", dest="passed_over")

    def error(self, message: str) -> NoReturn:
        """As everything that is wrong here."""
        raise RequestTextError(f"this curl line cannot be read: {message}")


def read_request(text: str) -> GivenRequest:
    """The request that a curl line or a request's text describes; bytes that are not UTF-8 are escaped in it (PEP 383).

    Raises:
        RequestTextError: it is neither, or a file that the curl line names cannot be read.
    """
    stripped = text.lstrip()
    return _curl(stripped) if stripped.startswith("curl") else _message(stripped)


def _curl(line: str) -> GivenRequest:
    try:
        words = shlex.split(_QUOTED.sub(_for_shlex, line))
    except ValueError as error:
        raise RequestTextError(f"this curl line cannot be read: {error}") from None
    given, left = _Curl().parse_known_args(words[1:])
    urls = given.url or [word for word in left if not word.startswith("-")]
    if not urls:
        raise RequestTextError("this curl line has no URL")
    if "curl" in left or sum("://" in word for word in urls) > 1:
        raise RequestTextError("there are several calls, or several URLs: give one")
    # Among the words that are left is also the value of an option that is not known here: `--connect-timeout 5`.
    target = _target(max(urls, key=lambda word: ("://" in word, "/" in word)))
    if given.json is not None:
        kind, body = b"application/json", b"".join(given.json)
    elif given.form is not None:
        kind, body = b"multipart/form-data", b"\r\n".join(given.form)
    else:
        kind, body = b"application/x-www-form-urlencoded", b"&".join(given.data or ())
    posted = not given.get and (given.json, given.form, given.data) != (None, None, None)
    fields = [_field(one) for one in given.header if ":" in one]
    if given.user_agent:
        fields.append((b"User-Agent", given.user_agent.encode()))
    if posted and b"content-type" not in {name.lower() for name, _ in fields}:
        fields.append((b"Content-Type", kind))
    if given.get and body:
        target, body = target + (b"&" if b"?" in target else b"?") + body, b""
    method = given.request or ("HEAD" if given.head else "POST" if posted else "GET")
    return GivenRequest(method, target, Headers(fields), body)


_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\\r?\n|\\.|\$'((?:[^'\\]|\\.)*)'""", re.DOTALL)
_ESCAPED = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}


def _for_shlex(found: re.Match[str]) -> str:
    """What `shlex` does not know of a shell's quoting: `$'...'`, as browsers copy a call, and lines that continue."""
    text = found[0]
    if found[1] is not None:
        return shlex.quote(_ESCAPED.sub(_escaped, found[1]))
    return text if text.startswith("'") else re.sub(r"\\\r?\n", "", text)


def _escaped(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else _LETTERS.get(found[3], found[3])


def _content(piece: str) -> bytes:
    if not piece.startswith("@"):
        return piece.encode()
    if piece == "@-":
        raise argparse.ArgumentTypeError("@- is standard input: give the content itself, or a file")
    try:
        return Path(piece[1:]).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{piece[1:]}: {error.strerror}") from None


def _data(piece: str) -> bytes:
    """As curl does, without the line ends of a file."""
    content = _content(piece)
    return content.translate(None, b"\r\n\0") if piece.startswith("@") else content


def _encoded(piece: str) -> bytes:
    """`content`, `=content`, `name=content`, `@file` or `name@file`."""
    parts = re.split("([=@])", piece, maxsplit=1)
    name, mark, content = parts if len(parts) == 3 else ("", "=", piece)
    text = quote(_content(f"@{content}") if mark == "@" else content, safe="")
    return (f"{name}={text}" if name else text).encode()


def _field(line: str) -> Field:
    name, _, value = line.partition(":")
    return name.strip().encode(errors="surrogateescape"), value.strip().encode(errors="surrogateescape")


def _target(url: str) -> bytes:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError as error:
        raise RequestTextError(f"its URL cannot be read: {error}") from None
    path = parts.path or "/"
    return (f"{path}?{parts.query}" if parts.query else path).encode()


def _message(text: str) -> GivenRequest:
    """A request's own text: a request line, header fields, an empty line, a body. One that is coded is left as it is."""
    head, *said = _EMPTY_LINE.split(text, maxsplit=1)
    line, *rest = head.replace("\r\n", "\n").split("\n")
    method, _, target = line.partition(" ")
    target = target.rpartition(" ")[0] if " HTTP/" in target else target
    if not method.isalpha() or not method.isupper() or not target:
        raise RequestTextError(
            "neither a curl line nor a request: it begins with curl, or as POST /v1/... does"
        )
    if not target.startswith("/"):
        target = _target(target).decode()
    fields = [_field(one) for one in rest if ":" in one]
    headers = Headers(fields)
    body = "".join(said).encode(errors="surrogateescape")
    if b"content-encoding" not in headers.first:
        body = body.replace(b"\r\n", b"\n").rstrip(b"\n")
    return GivenRequest(method, target.encode(errors="surrogateescape"), headers, body)
