"""The matrix's APIs: the examples of all golden modules, and streams of theirs that look otherwise.

Owns the gathering: whatever module in `tests/apis/golden` has `EXAMPLES` is a row, by its name alone.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tests.apis import golden
from tests.apis.example import Example, Stream
from tests.apis.golden.anthropic_messages import MESSAGES
from tests.apis.golden.gemini import GEMINI, GEMINI_ARRAY
from tests.apis.golden.openai_chat import CHAT
from tests.apis.golden.openai_completions import COMPLETIONS
from tests.apis.golden.openai_responses import RESPONSES


def _examples() -> Iterator[Example]:
    for name in sorted(module.name for module in iter_modules(golden.__path__)):
        yield from import_module(f"{golden.__name__}.{name}").EXAMPLES


EXAMPLES = tuple(_examples())

IMAGE = b'{"image": "' + b"iVBORw0KGgo" * 150_000 + b'", '
"""A member of 1.5 MiB, at the beginning of an object."""


def _variant(api: Example, name: str, **changes: Any) -> Example:
    return replace(api, name=f"{api.name}, {name}", stream=replace(_stream(api), **changes))


def _stream(api: Example) -> Stream:
    if api.stream is None:
        raise ValueError(f"{api.name} does not stream")
    return api.stream


def _large(api: Example, part: str, *, unnamed: bool = False) -> Example:
    """The same, with an image in the last event of `part`, and without names of events if they are to be `unnamed`."""
    said: bytes = getattr(_stream(api), part)
    at = said.rindex(b'data: {"' if api is not GEMINI_ARRAY else b'{"candidates"')
    said = said[:at] + said[at:].replace(b"{", IMAGE, 1)
    if unnamed:
        said = re.sub(rb"event: .*\n", b"", said)
    return _variant(api, "large end" + ", unnamed" * unnamed, **{part: said})


def _typed(api: Example, media: bytes, before: bytes = b"") -> Example:
    """The same, under another type, with something before it."""
    name = f"as {media.decode() or 'nothing'}" + ", later" * bool(before)
    return _variant(api, name, media=media, first=before + _stream(api).first)


VARIANTS = (
    _large(CHAT, "rest"),
    _large(COMPLETIONS, "rest"),
    _large(RESPONSES, "terminator"),
    _large(RESPONSES, "terminator", unnamed=True),
    _large(MESSAGES, "rest"),
    _large(GEMINI, "rest"),
    _large(GEMINI_ARRAY, "rest"),
    _typed(CHAT, b"text/plain"),
    _typed(CHAT, b"", b"\xef\xbb\xbf"),
    _typed(COMPLETIONS, b"application/octet-stream", b": hello\n\n"),
    _typed(RESPONSES, b"TEXT/Event-Stream; Charset=UTF-8", b"\r\n"),
    _typed(MESSAGES, b"application/json", b"retry: 10\n\n"),
    _typed(GEMINI, b"application/json", b"id: 1\n"),
    _typed(GEMINI_ARRAY, b"text/event-stream", b"\n "),
    _typed(GEMINI_ARRAY, b"text/html", b"\xef\xbb\xbf"),
)
"""Streams that are told and read as their API's are, though they look otherwise."""
