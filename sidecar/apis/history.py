"""What of a request's body is its past: messages, their parts and the ids in them, as the APIs write them.

Owns the shapes that several APIs share, and the walk through a list of messages, in steps where it is long. Texts stay
the JSON tokens they came as; nothing is decoded that is not looked at. What cannot be read as a history gives none.
"""

from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from sidecar.apis.messages import message_of, task_of, text_of
from sidecar.apis.shapes import Steps
from sidecar.core.digests import (
    LONGEST_ID,
    Digester,
    History,
    Id,
    Kind,
    Message,
    Part,
    Role,
    encoded,
    string,
)
from sidecar.core.echo import Echo, Prompt

MOST_MESSAGES = 10_000
"""Messages of one request that are read; a longer history is not."""

_STEP = 256 * 1024
"""Bytes that are digested between two pauses."""

_LONGEST_ANSWER = 4 << 20
"""Bytes of a model's text that is digested at once, as it is where it passes as an answer."""

_PLAIN = 64 * 1024
"""Bytes of a value up to which it is brought into its normal form."""

_ELEMENTS = 2048
"""Elements of a list in a message, its blocks or calls, above which it is one part."""

_MARKS = 100_000
"""Opening braces, and commas, of a list above which its elements are not even taken apart to be counted."""

_NESTED, _CROWD = 4096, 8192
"""The same in objects and lists, which are also those of new messages between two pauses; and for all values of a list."""

_TOGETHER, _MOST = 128 * 1024, 32
"""Bytes, and messages, that are looked at between two pauses where messages are smaller."""

_LONG = 4096
"""Messages of a history above which all that it may be recognised by is found beforehand, with pauses."""

_VOLATILE = frozenset(("cache_control", "cachePoint", "id", "status", "annotations", "logprobs", "index"))
"""Members that clients change, add or leave out from call to call, of what an API defines."""

_NONE: frozenset[str] = frozenset()
"""The same of what a tool is given, and gives."""

Raw: TypeAlias = msgspec.Raw
NOTHING = Raw()

SYSTEM, USER, MODEL, TOOL = Role.SYSTEM, Role.USER, Role.MODEL, Role.TOOL
TEXT, THOUGHT, CALL, RESULT, OTHER = Kind.TEXT, Kind.THOUGHT, Kind.CALL, Kind.RESULT, Kind.OTHER

Said = tuple[bytes, list[Part], list[Id]]
"""One message: whose, its parts, and the ids of a provider in it."""

_QUOTE, _BRACKET, _BRACE = b'"[{'
_members: Callable[[Raw], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode
_EMPTY = frozenset((b"", b"null", b'""', b"[]", b"{}"))
_BETWEEN = (b"{", b",")
"""What stands between elements, or at their beginning."""


def there(raw: Raw) -> bool:
    """True for a member that is there and not empty."""
    return len(raw) > 4 or bytes(raw) not in _EMPTY


def says(raw: Raw) -> bool:
    """True for a text that is not empty."""
    return len(raw) > 2 and memoryview(raw)[0] == _QUOTE


def word(raw: Raw, longest: int = 2048) -> str:
    """A short text; empty for anything else."""
    if not 2 < len(raw) < longest:
        return ""
    try:
        return msgspec.json.decode(raw, type=str)
    except ValueError:
        return ""


def made_id(raw: Raw) -> str:
    """An id that a provider made, or a signature, which may be long; empty for anything else."""
    return word(raw, LONGEST_ID)


def plain(raw: Raw, volatile: frozenset[str] = _VOLATILE) -> bytes:
    """Any value in its normal form: members in order, without those that are volatile or empty.

    Of a large one, or of very many objects and lists, the members are in order, and each as it came.
    """
    if len(raw) > _PLAIN or (len(raw) > 2 * _NESTED and _nested(raw) > _NESTED):
        return _outline(raw, volatile)
    try:
        return msgspec.json.encode(_stripped(msgspec.json.decode(raw), volatile), order="sorted")
    except (ValueError, RecursionError):
        return bytes(raw)


def _outline(raw: Raw, volatile: frozenset[str] = _VOLATILE) -> bytes:
    """Its own members in order, without those that are volatile or empty, and each as it came."""
    token = bytes(raw)
    if token[:1] != b"{" or token.count(b'":') > _ELEMENTS:
        return token
    try:
        made = _members(raw)
    except (ValueError, RecursionError):
        return token
    kept = [name for name in sorted(made) if name not in volatile and there(made[name])]
    return b",".join([part for name in kept for part in (encoded(name), made[name])])


class Form(Protocol):
    """How a value is digested."""

    def __call__(self, raw: Raw, volatile: frozenset[str] = _VOLATILE) -> bytes:
        """The bytes that are."""


def form_of(listed: Raw) -> Form:
    """How the values in a list are digested: in their normal form, or their outlines if they are very many objects and lists."""
    many = len(listed) > 2 * _CROWD and _nested(listed) > _CROWD
    return _outline if many else plain


def _nested(raw: Raw) -> int:
    """How many objects and lists a value has at most."""
    token = bytes(raw)
    return token.count(b"{") + token.count(b"[")


def _stripped(value: Any, volatile: frozenset[str]) -> Any:
    if isinstance(value, dict):
        kept = {name: _stripped(member, volatile) for name, member in value.items() if name not in volatile}
        return {name: member for name, member in kept.items() if member not in (None, "", [], {})}
    return [_stripped(member, volatile) for member in value] if isinstance(value, list) else value


class Block(msgspec.Struct, gc=False):
    """One block of a message's content, of OpenAI's APIs and of Anthropic's."""

    type: str | None = None
    text: Raw = NOTHING
    thinking: Raw = NOTHING
    signature: Raw = NOTHING
    data: Raw = NOTHING
    refusal: Raw = NOTHING
    id: Raw = NOTHING
    name: Raw = NOTHING
    input: Raw = NOTHING
    tool_use_id: Raw = NOTHING
    content: Raw = NOTHING


_THOUGHTS = frozenset(("thinking", "redacted_thinking", "reasoning"))
_blocks: Callable[[Raw], list[Block]] = msgspec.json.Decoder(list[Block]).decode
_raws: Callable[[Raw], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode


def content(raw: Raw, parts: list[Part], ids: list[Id]) -> None:
    """Adds what a message's content holds: a text, or a list of blocks."""
    token = memoryview(raw)
    if not token:
        return
    if token[0] == _QUOTE:
        if len(token) > 2:
            parts.append((TEXT, token))
    elif token[0] == _BRACKET:
        form = form_of(raw)
        for block, whole in _each(raw):
            if block is None:
                parts.append((OTHER, form(whole)))
            else:
                _block(block, whole, parts, ids, form)
    elif there(raw):
        parts.append((OTHER, plain(raw, _NONE)))


def elements(raw: Raw) -> list[Raw] | None:
    """The elements of a list, as they came; None for what is none, or has too many to look at each."""
    if len(raw) > 2 * _MARKS and max(map(bytes(raw).count, _BETWEEN)) > _MARKS:
        return None
    try:
        found = _raws(raw)
    except (ValueError, RecursionError):
        return None
    return found if len(found) <= _ELEMENTS else None


def _each(raw: Raw) -> Iterable[tuple[Block | None, Raw]]:
    wholes = elements(raw)
    if wholes is None:
        return ((None, raw),)
    try:
        return zip(_blocks(raw), wholes, strict=True)
    except (ValueError, RecursionError):
        return ((None, whole) for whole in wholes)


def _block(block: Block, whole: Raw, parts: list[Part], ids: list[Id], form: Form) -> None:
    kind = block.type
    if kind in ("text", "input_text", "output_text", None) and says(block.text):
        parts.append((TEXT, memoryview(block.text)))
    elif kind == "refusal" and says(block.refusal):
        parts.append((TEXT, memoryview(block.refusal)))
    elif kind in _THOUGHTS:
        parts.append((THOUGHT, form(whole)))
        ids += [(mark, "") for mark in (made_id(block.signature), made_id(block.data)) if mark]
    elif kind is not None and kind.endswith("tool_use"):
        call(block.id, block.name, block.input, parts, ids, form)
    elif kind is not None and kind.endswith("tool_result"):
        result(block.tool_use_id, block.content, parts)
    elif kind != "text" or there(block.text):
        parts.append((OTHER, form(whole)))


def call(
    identifier: Raw, name: Raw, arguments: Raw, parts: list[Part], ids: list[Id], form: Form = plain
) -> None:
    """Adds a call of a tool. Its arguments are a text, which stays as it is, or an object."""
    text = bytes(memoryview(arguments)[:1]) in (b"", b'"')
    parts.append((CALL, bytes(name)))
    parts.append((CALL, memoryview(arguments) if text else form(arguments, _NONE)))
    if made := made_id(identifier):
        parts.append((CALL, bytes(identifier)))
        ids.append((made, word(name)))


def result(identifier: Raw, given: Raw, parts: list[Part]) -> None:
    """Adds a tool's result. Its id is its call's, which shows whose that is."""
    if made_id(identifier):
        parts.append((RESULT, bytes(identifier)))
    inner: list[Part] = []
    content(given, inner, [])
    parts += [(RESULT, token) for _, token in inner]


def asks_title(form: Raw) -> bool:
    """True for the form of an answer whose schema has one member, the title."""
    if not 0 < len(form) < 4096 or b'"title"' not in bytes(form):
        return False
    try:
        return _titles(msgspec.json.decode(form), 4)
    except (ValueError, RecursionError):
        return False


def _titles(value: object, deep: int) -> bool:
    if not isinstance(value, dict) or not deep:
        return False
    properties = value.get("properties")
    if isinstance(properties, dict):
        return list(properties) == ["title"]
    return any(_titles(member, deep - 1) for member in value.values())


Reads = Callable[[Raw], Said]
"""How an API reads a message."""


def parts_of(raw: Raw) -> list[Part]:
    """A content's parts."""
    parts: list[Part] = []
    content(raw, parts, [])
    return parts


class Written(msgspec.Struct, gc=False):
    """A history as a body has it. `api` stands for how it is read: what is written the same may mean another thing elsewhere.

    `read` is how a message is, `instructs` how a `system` prompt is that stands beside the messages, `before` what stands
    before them. `previous` and `titles` are a history's own.
    """

    api: bytes
    messages: list[Raw]
    read: Reads
    tools: Raw
    system: Raw | None = None
    instructs: Callable[[Raw], list[Part]] = parts_of
    before: Sequence[Said] = ()
    previous: str | None = None
    titles: bool = False
    texts: bool = True
    """A message may be a role and a text, under these names."""
    prefills: bool = False
    """The answer goes on from a text of the model that stands last."""


Past: TypeAlias = Written | Callable[[Digester], Prompt]
"""What an API's module finds: messages, or a prompt that is one text, to be digested."""


def at_once(past: Past, digester: Digester) -> History:
    """The history of a body that is no larger than `shapes.LARGE`.

    Raises:
        ValueError: one of its messages is no object.
    """
    if not isinstance(past, Written):
        return past(digester)
    keys, found = _look_up(past, past.messages, digester)
    if None in found:
        _make(past, past.messages, keys, found, digester, objects=True)
    made: list[Message] = found  # type: ignore[assignment] # none of them is None by now
    if past.before:
        made = [*[message_of(digester, *said) for said in past.before], *made]
    history = _closed(past, made, digester)
    if history.in_pieces:
        for _ in _put_together(history, past.messages[-history.since_asked :], past.read):
            pass
    return history


def in_steps(past: Past, digester: Digester) -> Steps[History]:
    """The same of any body, with pauses."""
    if not isinstance(past, Written):
        yield
        return past(digester)
    made: list[Message] = []
    for role, parts, ids in past.before:
        yield from _shortened(parts, digester)
        made.append(message_of(digester, role, parts, ids))
    messages = past.messages
    sizes, start = [*accumulate(map(len, messages))], 0
    while start < len(messages):
        since = sizes[start - 1] if start else 0
        end = min(max(bisect(sizes, since + _TOGETHER), start + 1), start + _MOST)
        if sizes[start] - since > _STEP:
            made.append((yield from _made_in_steps(past, messages[start], digester)))
        else:
            batch = messages[start:end]
            keys, found = _look_up(past, batch, digester)
            if None in found:
                if sum(map(_nested, batch)) > _NESTED:
                    end = start + 1
                    keys, found = keys[:1], found[:1]
                _make(past, batch, keys, found, digester)
            made += found  # type: ignore[arg-type] # none of them is None by now
        start = end
        yield
    history = _closed(past, made, digester)
    if len(made) > _LONG:
        yield from history.find_points()
    if history.in_pieces:
        yield from _put_together(history, messages[-history.since_asked :], past.read)
    return history


def _look_up(
    past: Written, messages: Sequence[Raw], digester: Digester
) -> tuple[list[int], list[Message | None]]:
    """What messages that are not large are found by, and what they are if they are among the latest: most have come before."""
    salt = digester.salt + past.api
    keys = [*map(hash, map(salt.__add__, messages))]
    return keys, [*map(digester.recent.get, keys)]


def _make(
    past: Written,
    messages: Sequence[Raw],
    keys: list[int],
    made: list[Message | None],
    digester: Digester,
    *,
    objects: bool = False,
) -> None:
    """Makes those messages that are not among the latest. Only objects are learnt, so that what is known is one.

    Raises:
        ValueError: one of them is no object, and they have to be.
    """
    at = -1
    for _ in range(made.count(None)):
        at = made.index(None, at + 1)
        key, raw = keys[at], messages[at]
        message = digester.older.get(key) or (text_of(raw, digester) if past.texts else None)
        if message is None:
            message = message_of(digester, *past.read(raw))
            if memoryview(raw)[0] != _BRACE:
                if objects:
                    raise ValueError("a message is an object")
                made[at] = message
                continue
        digester.learn(key, message)
        made[at] = message


def _made_in_steps(past: Written, raw: Raw, digester: Digester) -> Steps[Message]:
    """What a large message is."""
    key = yield from _key(raw, digester.salt + past.api)
    message = digester.known(key)
    if message is None:
        role, parts, ids = past.read(raw)
        yield from _shortened(parts, digester, _LONGEST_ANSWER if role is MODEL else _STEP)
        message = message_of(digester, role, parts, ids)
        if role is USER:
            message.task = task_of(digester, parts)
        digester.learn(key, message)
    return message


def _closed(past: Written, made: list[Message], digester: Digester) -> History:
    """The history of these messages."""
    beside: tuple[Message, ...] = ()
    if past.system and (known := _instruction(past, past.system, digester)).sketch:
        beside = (known,)
    tools = _tools(past.tools, digester) if past.tools else b""
    history = History(digester, made, tools, beside, partial(_task, past, made, digester))
    if past.previous is not None:
        history.previous = past.previous
    if past.titles:
        history.titles = True
    if past.prefills and history.answered_at == len(made) - 1 > 0 and history.answer is not None:
        _prefill(history, past)
    return history


def _prefill(history: History, past: Written) -> None:
    """The answer goes on from the last message, if that is a text and nothing else."""
    raw = past.messages[-1]
    _, parts, _ = past.read(raw) if len(raw) <= _PLAIN else (MODEL, [], [])
    if len(parts) == 1 and parts[0][0] is TEXT:
        history.prefilled(string(parts[0][1]))


def _task(past: Written, made: list[Message], digester: Digester) -> bytes:
    """The digest of the first text that a user says."""
    behind = len(past.before)
    for at, message in enumerate(made):
        if message.role is USER:
            if message.task is None:
                _, parts, _ = past.read(past.messages[at - behind]) if at >= behind else past.before[at]
                message.task = task_of(digester, parts)
            if message.task:
                return message.task
    return b""


def _tools(tools: Raw, digester: Digester) -> bytes:
    """The digest of a list of tools; empty where there are none."""
    token = bytes(tools)
    if token in _EMPTY:
        return b""
    key = hash(b"".join((digester.salt, b"tools", token)))
    known = digester.known(key)
    if known is None:
        if b'"cache_control"' in token:
            digest = digester.message(OTHER, [(OTHER, plain(tools))])
        else:
            digest = digester.value(token)
        digester.learn(key, known := Message(OTHER, digest, b"", b""))
    return known.full


def _instruction(past: Written, system: Raw, digester: Digester) -> Message:
    """A system prompt that stands beside the messages."""
    key = hash(b"".join((digester.salt, b"system", past.api, system)))
    known = digester.known(key)
    if known is None:
        parts = [(TEXT, token) for _, token in past.instructs(system)]
        digester.learn(key, known := message_of(digester, SYSTEM, parts, []))
    return known


def _put_together(history: History, messages: list[Raw], read: Reads) -> Steps[None]:
    """The answer with which these messages begin, one piece each."""
    texts: list[str] = []
    made: list[Id] = []
    since = 0
    for raw in messages:
        role, parts, ids = read(raw)
        if role is not MODEL:
            break
        texts += [string(token) for kind, token in parts if kind is TEXT]
        made += ids
        since += len(raw) + _STEP // _MOST
        if since > _STEP:
            since = 0
            yield
    history.put_together("".join(texts), made)


def _key(raw: Raw, salt: bytes) -> Steps[int]:
    """What a large message is found by."""
    view, found = memoryview(raw), []
    for start in range(0, len(view), _STEP):
        found.append(hash(b"".join((salt, view[start : start + _STEP]))))
        yield
    return hash((salt, *found))


def _shortened(parts: list[Part], digester: Digester, longest: int = _STEP) -> Steps[None]:
    """Makes digests of those parts of a message that are large: of texts of so many bytes, and of others."""
    for at, (kind, token) in enumerate(parts):
        if len(token) > (longest if kind is TEXT else _STEP):
            parts[at] = (kind, (yield from digester.in_steps(token, _STEP)))


T = TypeVar("T", bound=msgspec.Struct)


def structs(
    decoder: "msgspec.json.Decoder[list[T]]", one: "msgspec.json.Decoder[T]", raw: Raw, wholes: list[Raw]
) -> Iterable[T | Raw]:
    """The objects of a list whose elements are given, and as it came what is not as its API says."""
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError):
        return (_one(one, whole) for whole in wholes)


def _one(decoder: "msgspec.json.Decoder[T]", whole: Raw) -> T | Raw:
    try:
        return decoder.decode(whole)
    except (ValueError, RecursionError):
        return whole


def echoed(echo: Echo, choice: int, said: Said) -> None:
    """Notes an answer that is there as a whole, as it will stand in a history."""
    _, parts, ids = said
    for at, (kind, token) in enumerate(parts):
        if kind is TEXT:
            echo.text(choice, string(token))
        elif kind is CALL:
            echo.arguments(choice, at, string(token) or bytes(token).decode("utf-8", "replace"))
    for identifier, name in ids:
        echo.id(identifier, name)
