"""A message of a history as digests: in three forms, by what it is recognised when it comes again.

Owns what of a message lasts: clients drop thinking, write reminders anew, and some keep texts alone. It takes a message's
parts as the JSON tokens they came as, and keeps none of them.
"""

import re

import msgspec

from sidecar.core.digests import SKETCH, Digester, Id, Kind, Message, Part, Role, Said, Token, string

_REMINDER = re.compile(rb'"(?: |\\n)*<(?:system-reminder|session_context|environment_context)\b')
"""How a block begins that a client writes into a user's message by itself, and anew with each call."""

_REMINDED = (b"</system-reminder>", b"</session_context>", b"</environment_context>")
"""How such a block ends."""

_BLANKS = re.compile(rb"(?: |\\n)*").match
_BEFORE_TAG = frozenset(b"< \\")

_SKETCHED = 64 * 1024
"""Bytes of a system prompt that is compared by pieces."""

_TEXT, _THOUGHT, _CALL, _RESULT = Kind.TEXT, Kind.THOUGHT, Kind.CALL, Kind.RESULT
_SYSTEM, _USER, _MODEL, _TOOL = Role.SYSTEM, Role.USER, Role.MODEL, Role.TOOL


def message_of(digester: Digester, role: bytes, parts: list[Part], ids: list[Id]) -> Message:
    """Any message."""
    said, alone = None, b""
    if role is _MODEL:
        text, alone = _told(digester, parts)
        said = Said(digester, ids, text, alone)
    whole = _digest(digester, role, parts, alone)
    if role is _SYSTEM:
        made = Message(role, whole, b"", b"")
        made.sketch = _sketch([token for _, token in parts])
        return made
    if len(parts) == 1 and parts[0][0] is _TEXT and parts[0][1][1] not in _BEFORE_TAG:
        return Message(role, whole, whole, b"" if role is _TOOL else whole, said)
    if role is _MODEL:
        kept = [part for part in parts if part[0] is not _THOUGHT]
    else:
        kept = [left for part in parts if (left := _lasting(part)) is not None]
    if not kept:
        return Message(role, whole, b"", b"", said)
    reduced = whole if kept == parts else _digest(digester, role, kept, alone)
    spoken = _spoken(role, kept)
    if not spoken:
        return Message(role, whole, reduced, b"", said)
    texts = reduced if len(spoken) == len(kept) else _digest(digester, role, spoken, alone)
    return Message(role, whole, reduced, texts, said)


def _digest(digester: Digester, role: bytes, parts: list[Part], alone: bytes) -> bytes:
    """That of a message: of the model's that is one text, the digest of that text."""
    if alone and len(parts) == 1 and parts[0][1] is alone:
        return alone
    return digester.message(role, parts)


class _Message(msgspec.Struct, gc=False):
    """A message of OpenAI's or Anthropic's APIs, as most are: a role and a text."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


_FRAME = len(b'{"role": "", "content": }')
"""Bytes of it, beside both, however it is written; another member would take more."""

_ASKED = re.compile(rb'"[^"< \\]').match
"""How a text begins that says something, and no reminder first."""

_SAYS = re.compile(rb'"[^"]').match
"""How any text begins."""

_text_message = msgspec.json.Decoder(_Message).decode
_text = msgspec.json.Decoder(str).decode


def text_of(raw: msgspec.Raw, digester: Digester) -> Message | None:
    """The same of a message that has a role, a text, and nothing else, as most have; None for any other."""
    try:
        written = _text_message(raw)
    except (ValueError, RecursionError):
        return None
    content, role = written.content, written.role
    if len(raw) - len(content) - len(role) > _FRAME:
        return None
    if role == "user" and _ASKED(content):
        made = digester.begin_asked()
        made.update(content)
        whole = made.digest()
        return Message(_USER, whole, whole, whole)
    if role == "assistant" and _SAYS(content) and (text := told(content).strip()):
        whole = digester.text(text)
        return Message(_MODEL, whole, whole, whole, Said(digester, (), text, whole))
    return None


def told(raw: msgspec.Raw | Token) -> str:
    """What a text says, however long it is; nothing for anything else."""
    try:
        return _text(raw)
    except ValueError:
        return string(memoryview(raw))


def _told(digester: Digester, parts: list[Part]) -> tuple[str, bytes]:
    """A model's message: all of its text, and the digest of that. Its parts have digests in place of texts then."""
    texts: list[str] = []
    digest = b""
    for at, (kind, token) in enumerate(parts):
        if kind is _TEXT and (text := told(token)):
            texts.append(text)
            digest = digester.text(text)
            parts[at] = (_TEXT, digest)
    whole = "".join(texts).strip()
    if not whole:
        return "", b""
    return whole, digest if len(texts) < 2 else digester.text(whole)


def _sketch(tokens: list[Token]) -> frozenset[int]:
    """Some of what a system prompt consists of: two that were changed in places have much of it in common."""
    whole = b"\n".join(tokens)[:_SKETCHED]
    pieces = set(whole.split(b"\\n"))
    if len(pieces) < SKETCH:
        pieces = set(whole.split())
    return frozenset(sorted(map(hash, pieces))[:SKETCH])


def _lasting(part: Part) -> Part | None:
    """What the reduced form has of a part: nothing of thinking and of reminders, all of the text behind a reminder."""
    kind, token = part
    if kind is _THOUGHT:
        return None
    if kind is not _TEXT or token[1] not in _BEFORE_TAG or not _REMINDER.match(bytes(token[:64])):
        return part
    text = bytes(token)
    ends = [at + len(tag) for tag in _REMINDED if (at := text.rfind(tag)) >= 0]
    blanks = _BLANKS(text, max(ends)) if ends else None
    behind = b"" if blanks is None else text[blanks.end() :]
    return (kind, b'"' + behind) if len(behind) > 1 else None


def _spoken(role: bytes, kept: list[Part]) -> list[Part]:
    """What is left where calls and results are dropped, and the messages that make calls."""
    if len(kept) == 1 and kept[0][0] is _TEXT:
        return [] if role is _TOOL else kept
    if role is _TOOL or any(kind is _CALL for kind, _ in kept):
        return []
    return [part for part in kept if part[0] is not _RESULT]


def task_of(digester: Digester, parts: list[Part]) -> bytes:
    """The digest of the text in a user's message as one that may have begun a sub-agent; empty where there is none."""
    spoken = _spoken(_USER, [kept for part in parts if (kept := _lasting(part)) is not None])
    text = next((token for kind, token in spoken if kind is _TEXT), None)
    return b"" if text is None else digester.task(string(text))
