"""A request's history as digests: what can be recognised when it comes again, and read by nobody.

Owns the keyed digest, and the chain over a history's messages in its three forms. It takes a message's parts as the JSON
tokens they came as, and keeps no text once the history has been looked at. What means what in a body is the business of
`apis/`; what an answer leaves is in `echo.py`.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable
from hashlib import blake2b

SIZE = 12
"""Bytes of a digest."""

SHORTEST = 16
"""Characters from which on a text is remembered for itself; shorter ones are said by everybody."""

LONGEST_JSON = 64 * 1024
"""Characters of an answer, and of a call's arguments, that are parsed as JSON."""

_LONGEST_ID = 1024
_SKETCH = 16
"""Pieces of a system prompt that it is compared by."""

_REMINDER = re.compile(rb'"(?: |\\n)*<(?:system-reminder|session_context|environment_context)\b')
"""How a block begins that a client writes into a user's message by itself, and anew with each call."""

_IN_TEXT = re.compile(r"\b(?:call|toolu|fc)_[0-9A-Za-z_-]{8,128}")
"""Ids of calls, where a client writes its calls down as a text."""

_SEARCHED = 16 * 1024
"""Characters of a text that are searched for them."""

_REMINDED = re.compile(rb"</(?:system-reminder|session_context|environment_context)>(?: |\\n)*")
_BEFORE_TAG = frozenset(b"< \\")
_RUN = re.compile(r"[0-9A-Za-z]{8,}")

Token = bytes | memoryview
Part = tuple[bytes, Token]
"""A kind, and what it holds."""

Id = tuple[str, str]
"""An id that a provider made, and the name of the tool that it calls; empty where it calls none."""


class Role:
    """Whose message it is: what stands for it in a digest."""

    SYSTEM = b"\x00"
    USER = b"\x01"
    MODEL = b"\x02"
    TOOL = b"\x03"


class Kind:
    """What a part of a message is: what stands for it in a digest."""

    TEXT = b"\x10"
    THOUGHT = b"\x11"
    CALL = b"\x12"
    RESULT = b"\x13"
    OTHER = b"\x14"


_TEXT, _THOUGHT, _CALL, _RESULT = Kind.TEXT, Kind.THOUGHT, Kind.CALL, Kind.RESULT
_SYSTEM, _USER, _MODEL, _TOOL = Role.SYSTEM, Role.USER, Role.MODEL, Role.TOOL


class Digester:
    """BLAKE2b under one key, which never leaves the process."""

    __slots__ = ("_calls", "_fresh", "_ids", "_one", "_texts", "_values")

    def __init__(self, key: bytes) -> None:
        def kind(word: bytes) -> "blake2b":
            return blake2b(key=key, digest_size=SIZE, person=word)

        fresh = kind(b"message")
        self._fresh = fresh.copy
        self._one: dict[tuple[bytes, bytes], Callable[[], blake2b]] = {}
        for role in (_SYSTEM, _USER, _MODEL, _TOOL):
            begun = fresh.copy()
            begun.update(role + _TEXT)
            self._one[role, _TEXT] = begun.copy
        words = (b"id", b"text", b"value", b"task")
        self._ids, self._texts, self._values, self._calls = (kind(word).copy for word in words)

    def message(self, role: bytes, parts: list[Part]) -> bytes:
        """A message."""
        if len(parts) == 1 and (begun := self._one.get((role, parts[0][0]))) is not None:
            made = begun()
            made.update(parts[0][1])
            return made.digest()
        made = self._fresh()
        for kind, token in parts:
            made.update(role + kind)
            made.update(token)
        return made.digest()

    def value(self, token: Token) -> bytes:
        """Anything whole, as it came."""
        made = self._fresh()
        made.update(token)
        return made.digest()

    def in_steps(self, token: Token, step: int) -> Generator[None, None, bytes]:
        """The same, in pieces of so many bytes."""
        made = self._fresh()
        for start in range(0, len(token), step):
            made.update(token[start : start + step])
            yield
        return made.digest()

    def id(self, text: str) -> bytes:
        """An id."""
        return _of(self._ids(), text)

    def text(self, text: str) -> bytes:
        """A text, without blanks around it."""
        return _of(self._texts(), text.strip())

    def task(self, text: str) -> bytes:
        """A text that starts a sub-agent."""
        return _of(self._calls(), text.strip())

    def json(self, text: str) -> bytes | None:
        """A text that is a JSON object or list, however it is written."""
        value = parsed(text)
        if value is None:
            return None
        return _of(self._values(), json.dumps(value, sort_keys=True, separators=(",", ":")))

    def begin_text(self) -> "blake2b":
        """A text that comes in pieces."""
        return self._texts()


def _of(made: "blake2b", text: str) -> bytes:
    made.update(encoded(text))
    return made.digest()


def encoded(text: str) -> bytes:
    """A text's bytes; halves of surrogate pairs stay what they are."""
    return text.encode("utf-8", "surrogatepass")


def parsed(text: str) -> object | None:
    """The JSON object or list that a text is, with or without a fence around it; None if it is neither, or empty."""
    stripped = text.strip()
    if stripped.startswith("```"):
        stripped = stripped.removesuffix("```").removeprefix("```").removeprefix("json").strip()
    if len(stripped) > LONGEST_JSON or not stripped.startswith(("{", "[")):
        return None
    try:
        value: object = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return value or None


def string(token: Token) -> str:
    """What a JSON string says; nothing for what is none."""
    try:
        text: object = json.loads(bytes(token).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(text, str) else ""


def is_own(identifier: Id) -> bool:
    """True for an id that was made at random, which no other answer has: a run of letters and digits that is no name.

    Counters (`csaid0`), times and names (`functions.search:1`) come again in conversations that have nothing in common.
    """
    text, name = identifier
    if name and name in text:
        return False
    return any(
        len(set(run)) > 4 and (2 if len(run) < 12 else 1) <= sum(map(str.isdigit, run)) < len(run)
        for run in _RUN.findall(text[:_LONGEST_ID])
    )


class Said:
    """A message in a history that may be the echo of an answer. `point` is where in the history that answer begins."""

    __slots__ = ("ids", "point", "tokens")

    def __init__(self, point: int, ids: list[Id], parts: list[Part]) -> None:
        self.point = point
        self.ids = ids
        self.tokens = [token for kind, token in parts if kind is _TEXT]

    @property
    def text(self) -> str:
        """Its whole text."""
        return "".join(map(string, self.tokens))

    def named(self, text: str) -> list[Id]:
        """Its ids, and those that stand inside its text."""
        if self.ids or "_" not in text:
            return self.ids
        return [(found, "") for found in _IN_TEXT.findall(text[:_SEARCHED])]


class Point:
    """A place in a history where an answer follows, or its end: what was said before it, in three forms.

    `full` is of all `count` messages; `reduced` without system prompts, thinking and reminders; `spoken` of the texts alone,
    as an app keeps them that drops calls and their results. The latter two are empty where nothing is left.
    """

    __slots__ = ("count", "full", "reduced", "spoken")

    def __init__(self, count: int, full: bytes, reduced: bytes, spoken: bytes) -> None:
        self.count = count
        self.full = full
        self.reduced = reduced
        self.spoken = spoken


class Chain:
    """Takes a history's messages one after another, and keeps the digest of each, in the three forms of a point."""

    __slots__ = ("_last", "digester", "full", "points", "reduced", "said", "spoken", "systems", "task")

    def __init__(self, digester: Digester) -> None:
        self.digester = digester
        self._last = _SYSTEM
        self.full: list[bytes] = []
        self.reduced: list[bytes] = []
        self.spoken: list[bytes] = []
        self.points: list[tuple[int, int, int]] = []
        """How many of each stand before an answer."""
        self.said: list[Said] = []
        self.systems: list[Token] = []
        """The system prompts at its beginning."""
        self.task: Token | None = None
        """The first text of a user."""

    def instruct(self, parts: Iterable[Part]) -> None:
        """A system prompt, of the messages or beside them."""
        self.systems += [token for _, token in parts]

    def add(self, role: bytes, parts: list[Part], ids: list[Id]) -> None:
        """The next message."""
        if role is _MODEL:
            if self._last is not _MODEL:
                self.points.append((len(self.full), len(self.reduced), len(self.spoken)))
            self.said.append(Said(len(self.points) - 1, ids, parts))
        elif ids and self.points:
            self.said.append(Said(len(self.points) - 1, ids, []))
        self._last = role
        whole = self.digester.message(role, parts)
        self.full.append(whole)
        if len(parts) == 1 and parts[0][0] is _TEXT and role is not _SYSTEM:
            self._add_text(role, parts[0], whole)
            return
        if role is _SYSTEM:
            if not self.reduced:
                self.instruct(parts)
            return
        kept = [kept for part in parts if (kept := _lasting(part)) is not None]
        if not kept:
            return
        reduced = whole if kept == parts else self.digester.message(role, kept)
        self.reduced.append(reduced)
        spoken = _spoken(role, kept)
        if not spoken:
            return
        self.spoken.append(reduced if len(spoken) == len(kept) else self.digester.message(role, spoken))
        if self.task is None and role is _USER:
            self.task = next((token for kind, token in spoken if kind is _TEXT), None)

    def _add_text(self, role: bytes, part: Part, whole: bytes) -> None:
        """A message that is one text, as most are: what the other forms have of it is the same, or nothing."""
        kept = _lasting(part)
        if kept is None:
            return
        reduced = whole if kept is part else self.digester.message(role, [kept])
        self.reduced.append(reduced)
        if role is not _TOOL:
            self.spoken.append(reduced)
            if self.task is None and role is _USER:
                self.task = kept[1]


def _lasting(part: Part) -> Part | None:
    """What the reduced form has of a part: nothing of thinking and of reminders, all of the text behind a reminder."""
    kind, token = part
    if kind is _THOUGHT:
        return None
    if kind is not _TEXT or token[1] not in _BEFORE_TAG or not _REMINDER.match(bytes(token[:64])):
        return part
    text = bytes(token)
    behind = _REMINDED.split(text)[-1]
    return (kind, b'"' + behind) if len(behind) > 1 and len(behind) < len(text) else None


def _spoken(role: bytes, kept: list[Part]) -> list[Part]:
    """What is left where calls and results are dropped, and the messages that make calls."""
    if len(kept) == 1 and kept[0][0] is _TEXT:
        return [] if role is _TOOL else kept
    if role is _TOOL or any(kind is _CALL for kind, _ in kept):
        return []
    return [part for part in kept if part[0] is not _RESULT]


class History:
    """What a request's body says of its past. `system` and `tools` are digests, empty where there are none.

    `previous` is the answer that it names in place of its past, `titles` that it asks for a title and nothing else.
    """

    __slots__ = ("_chain", "_points", "digests", "end", "previous", "system", "titles", "tools")

    def __init__(
        self, chain: Chain, tools: bytes, *, previous: str | None = None, titles: bool = False
    ) -> None:
        self._chain = chain
        self._points: dict[int, Point] = {}
        self.digests = b"".join(chain.full)
        """Those of its messages."""
        self.end = self._point(len(chain.full), len(chain.reduced), len(chain.spoken))
        systems = chain.systems
        self.system = (
            chain.digester.message(_SYSTEM, [(_TEXT, token) for token in systems]) if systems else b""
        )
        self.tools = tools
        self.previous = previous
        self.titles = titles

    @property
    def digester(self) -> Digester:
        """What made its digests."""
        return self._chain.digester

    @property
    def said(self) -> list[Said]:
        """What may be the echo of an answer."""
        return self._chain.said

    @property
    def task(self) -> str:
        """The first text of a user, or nothing."""
        task = self._chain.task
        return "" if task is None else string(task)

    def sketch(self) -> frozenset[int]:
        """Some of what the system prompt consists of: two that were changed in places have much of it in common."""
        whole = b"\n".join(self._chain.systems)
        pieces = set(whole.split(b"\\n"))
        if len(pieces) < _SKETCH:
            pieces = set(whole.split())
        return frozenset(sorted(map(hash, pieces))[:_SKETCH])

    def point(self, at: int) -> Point:
        """One of the places where an answer follows."""
        point = self._points.get(at)
        if point is None:
            point = self._points[at] = self._point(*self._chain.points[at])
        return point

    def point_behind(self, count: int) -> int | None:
        """Which of the places stands behind so many messages."""
        return next((at for at, counts in enumerate(self._chain.points) if counts[0] == count), None)

    def _point(self, count: int, reduced: int, spoken: int) -> Point:
        chain, value = self._chain, self._chain.digester.value
        said = self.digests[: count * SIZE]
        full = value(said)
        kept, texts = b"".join(chain.reduced[:reduced]), b"".join(chain.spoken[:spoken])
        return Point(
            count,
            full,
            full if kept == said else value(kept) if kept else b"",
            full if texts == said else value(texts) if texts else b"",
        )

    def begins_with(self, end: Point) -> bool:
        """True if all messages of an earlier request stand at the beginning of this one, and more behind them."""
        size = end.count * SIZE
        return size < len(self.digests) and self._chain.digester.value(self.digests[:size]) == end.full

    def kept(self, before: bytes) -> int:
        """How many messages of an earlier request, given its digests, stand at this one's beginning."""
        mine = self.digests
        most = min(len(mine), len(before))
        if mine[:most] == before[:most]:
            return most // SIZE
        return (
            next(at for at in range(0, most, SIZE) if mine[at : at + SIZE] != before[at : at + SIZE]) // SIZE
        )

    def forget(self) -> None:
        """Lets go of what came, of which the digests remain."""
        self._chain = Chain(self._chain.digester)
