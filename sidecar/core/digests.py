"""A request's history as digests: what can be recognised when it comes again, and read by nobody.

Owns the keyed digest, and the chain over a history's messages in its three forms. It takes a message's parts as the JSON
tokens they came as, and keeps no text once the history has been looked at. What means what in a body is the business of
`apis/`; what an answer leaves is in `echo.py`.
"""

import json
import re
from collections.abc import Callable, Generator
from hashlib import blake2b
from json.decoder import scanstring  # type: ignore[attr-defined] # C, and what `json` itself calls

SIZE = 12
"""Bytes of a digest."""

SHORTEST = 16
"""Characters from which on a text is remembered for itself; shorter ones are said by everybody."""

LONGEST_JSON = 64 * 1024
"""Characters of an answer, and of a call's arguments, that are parsed as JSON."""

_GENERATION = 8192
"""Messages that are known by how they are written, the latest; as many older ones beside them, until so many more have come."""

BLOCK, _BLOCKS = 32, 512
"""Bytes of a prompt after each of which it is digested, and how many of these digests are looked for, the last ones."""

_SINGLY = 8
"""Places of a history that are digested one by one before all of them are."""

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
_JSON = "{[`"
_BEFORE_TAG = frozenset(b"< \\")
_RUN = re.compile(r"(?<![0-9A-Za-z])(?!\d{8}T\d{6})[0-9A-Za-z]{8,}")
"""What may have been made at random in an id; a time is not."""

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
    """BLAKE2b under one key, which never leaves the process; and what was made of messages that come again.

    An agent sends the same messages with each turn. Each is found by a keyed hash of how it is written, and is digested
    only once.
    """

    __slots__ = (
        "_calls",
        "_fresh",
        "_ids",
        "_older",
        "_one",
        "_values",
        "begin_text",
        "recent",
        "salt",
        "value_in_pieces",
    )

    def __init__(self, key: bytes) -> None:
        def kind(word: bytes) -> "blake2b":
            return blake2b(key=key, digest_size=SIZE, person=word)

        fresh = kind(b"message")
        self._fresh = self.value_in_pieces = fresh.copy
        self._one: dict[tuple[bytes, bytes], Callable[[], blake2b]] = {}
        for role in (_SYSTEM, _USER, _MODEL, _TOOL):
            begun = fresh.copy()
            begun.update(role + _TEXT)
            self._one[role, _TEXT] = begun.copy
        words = (b"id", b"text", b"value", b"task")
        self._ids, self.begin_text, self._values, self._calls = (kind(word).copy for word in words)
        """`begin_text` begins a text that comes in pieces."""
        self.salt = kind(b"written").digest()
        """What goes before a text that is to be found by its `hash`."""
        self.recent: dict[int, Message] = {}
        """The latest messages that are known, by those hashes."""
        self._older: dict[int, Message] = {}

    def known(self, key: int) -> "Message | None":
        """What was made of that message, if it is still known."""
        message = self.recent.get(key)
        if message is None and (message := self._older.get(key)) is not None:
            self.learn(key, message)
        return message

    def learn(self, key: int, message: "Message") -> None:
        """It may come again."""
        if len(self.recent) >= _GENERATION:
            self._older, self.recent = self.recent, {}
        self.recent[key] = message

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
        return _of(self.begin_text(), text.strip())

    def task(self, text: str) -> bytes:
        """A text that starts a sub-agent."""
        return _of(self._calls(), text.strip())

    def json(self, text: str) -> bytes | None:
        """A text that is a JSON object or list, however it is written."""
        value = parsed(text)
        if value is None:
            return None
        return _of(self._values(), json.dumps(value, sort_keys=True, separators=(",", ":")))


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
        written = str(token, "utf-8", "surrogatepass")
        text: str = scanstring(written, 1)[0] if written[:1] == '"' else ""
    except ValueError:
        return ""
    return text


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
    """What a message may be the echo of. `ids` are digests, each with whether no other answer can have it; `marks` what its
    text is found by where it is long enough; `text` is the digest of its text, empty where it has none.
    """

    __slots__ = ("ids", "marks", "text")

    def __init__(self, digester: Digester, ids: list[Id], text: str, digest: bytes) -> None:
        self.ids = [(digester.id(one[0]), is_own(one)) for one in ids] if ids else []
        if not ids and "_" in text:  # one that a text mentions may be any other answer's
            self.ids = [(digester.id(found), False) for found in _IN_TEXT.findall(text[:_SEARCHED])]
        self.marks: list[bytes] = []
        self.text = digest
        if len(text) >= SHORTEST:
            self.marks.append(self.text)
            if text[0] in _JSON and (value := digester.json(text)) is not None:
                self.marks.append(value)

    @property
    def known_by(self) -> frozenset[bytes]:
        """All that shows whose answer it is, once a turn is known of which it may be: a text more than an id of any kind."""
        ids = [digest for digest, own in self.ids if own or not self.text]
        return frozenset(filter(None, (self.text, *self.marks, *ids)))

    @property
    def had(self) -> bytes:
        """What shows that it is the whole of an answer, once that is known: its text, else its last id."""
        return self.text or (self.ids[-1][0] if self.ids else b"")


class Message:
    """One message of a history, as digests in three forms: whole; without thinking and reminders; its texts alone.

    The latter two are empty where nothing is left. `said` is what it may be the echo of, `task` the digest of a user's text,
    where it was asked for, and `sketch` some of what a system prompt consists of.
    """

    __slots__ = ("full", "reduced", "role", "said", "sketch", "spoken", "task")

    def __init__(self, digester: Digester, role: bytes, parts: list[Part], ids: list[Id]) -> None:
        self.role = role
        self.said: Said | None = None
        if role is _MODEL:
            parts, text, digest = _told(digester, parts)
            self.said = Said(digester, ids, text, digest)
        self.full = whole = digester.message(role, parts)
        self.reduced = self.spoken = b""
        self.task: bytes | None = None
        self.sketch: frozenset[int] = frozenset()
        if role is _SYSTEM:
            self.sketch = _sketch([token for _, token in parts])
            return
        if len(parts) == 1 and parts[0][0] is _TEXT and parts[0][1][1] not in _BEFORE_TAG:
            self.reduced = whole  # as most are
            self.spoken = b"" if role is _TOOL else whole
            return
        kept = [kept for part in parts if (kept := _lasting(part)) is not None]
        if not kept:
            return
        self.reduced = reduced = whole if kept == parts else digester.message(role, kept)
        spoken = _spoken(role, kept)
        if spoken:
            self.spoken = reduced if len(spoken) == len(kept) else digester.message(role, spoken)

    def learn_task(self, digester: Digester, parts: list[Part]) -> None:
        """It is the first one of a user: its text, if it has any, may have begun a sub-agent."""
        spoken = _spoken(_USER, [kept for part in parts if (kept := _lasting(part)) is not None])
        text = next((token for kind, token in spoken if kind is _TEXT), None)
        self.task = b"" if text is None else digester.task(string(text))


def _told(digester: Digester, parts: list[Part]) -> tuple[list[Part], str, bytes]:
    """A model's message: its parts with digests in place of texts, all of its text, and the digest of that."""
    made: list[Part] = []
    texts: list[str] = []
    digest = b""
    for part in parts:
        text = string(part[1]) if part[0] is _TEXT else ""
        if text:
            texts.append(text)
            digest = digester.text(text)
            made.append((_TEXT, digest))
        else:
            made.append(part)
    whole = "".join(texts).strip()
    if not whole:
        return made, "", b""
    return made, whole, digest if len(texts) < 2 else digester.text(whole)


def _sketch(tokens: list[Token]) -> frozenset[int]:
    """Some of what a system prompt consists of: two that were changed in places have much of it in common."""
    whole = b"\n".join(tokens)
    pieces = set(whole.split(b"\\n"))
    if len(pieces) < _SKETCH:
        pieces = set(whole.split())
    return frozenset(sorted(map(hash, pieces))[:_SKETCH])


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


class Point:
    """A place in a history where an answer follows, or its end: what was said before it, in three forms.

    `full` is of all `count` messages; `reduced` without system prompts, thinking and reminders; `spoken` of the texts alone,
    as an app keeps them that drops calls and their results. The latter two are empty where nothing is left. `key` is what
    it has in common with another one that says the same.
    """

    __slots__ = ("count", "full", "key", "reduced", "spoken")

    def __init__(self, count: int, full: bytes, reduced: bytes, spoken: bytes) -> None:
        self.count = count
        self.full = full
        self.reduced = reduced
        self.spoken = spoken
        self.key = reduced or full


class History:
    """What a request's body says of its past: it takes its messages one after another, then is `closed`.

    `system` and `tools` are digests, empty where there are none. `previous` is the answer that it names in place of its
    past, `titles` that it asks for a title and nothing else.
    """

    __slots__ = (
        "_full",
        "_last",
        "_points",
        "_reduced",
        "_spoken",
        "_stands",
        "_systems",
        "digester",
        "digests",
        "end",
        "in_pieces",
        "previous",
        "said",
        "system",
        "task",
        "titles",
        "tools",
    )

    digests: bytes
    """Those of its messages."""
    end: Point
    system: bytes
    tools: bytes
    previous: str | None
    titles: bool

    def __init__(self, digester: Digester) -> None:
        self.digester = digester
        self._last = _SYSTEM
        self._full: list[bytes] = []
        self._reduced: list[bytes] = []
        self._spoken: list[bytes] = []
        self._stands: list[tuple[int, int, int]] = []
        """How many of each precede an answer."""
        self._points: dict[int, Point] = {}
        self._systems: list[Message] = []
        """The system prompts at its beginning, and beside it."""
        self.said: list[tuple[int, Said]] = []
        """What may be the echo of an answer, and at which of the places where one follows."""
        self.in_pieces = False
        """Several texts of the model stand behind each other at the latest of these places."""
        self.task = b""
        """The digest of a user's first text, as one that starts a sub-agent; empty where there is none."""

    def add(self, message: Message) -> None:
        """The next message."""
        role, said = message.role, message.said
        if role is _MODEL:
            if self._last is not _MODEL:
                self._stands.append((len(self._full), len(self._reduced), len(self._spoken)))
                self.in_pieces = False
            elif said and said.text and self.said[-1][1].text:
                self.in_pieces = True
        if said is not None and self._stands:
            self.said.append((len(self._stands) - 1, said))
        if role is _SYSTEM and not self._reduced:
            self._systems.append(message)
        self._last = role
        self._full.append(message.full)
        if message.reduced:
            self._reduced.append(message.reduced)
        if message.spoken:
            self._spoken.append(message.spoken)

    @property
    def since_asked(self) -> int:
        """How many messages there are from the latest place on where an answer follows."""
        return len(self._full) - self._stands[-1][0]

    def put_together(self, text: str, ids: list[Id]) -> None:
        """What stands there in pieces, as a client keeps those of a stream, is one answer as well."""
        text = text.strip()
        whole = Said(self.digester, ids, text, self.digester.text(text))
        self.said.append((len(self._stands) - 1, whole))

    def instruct(self, message: Message) -> None:
        """A system prompt beside the messages."""
        self._systems.append(message)

    def close(self, tools: bytes, *, previous: str | None = None, titles: bool = False) -> "History":
        """All has come."""
        self.tools, self.previous, self.titles = tools, previous, titles
        self.digests = b"".join(self._full)
        self.end = self._point(len(self._full), len(self._reduced), len(self._spoken))
        systems = self._systems
        self.system = systems[0].full if len(systems) == 1 else b""
        if len(systems) > 1:
            self.system = self.digester.value(b"".join([system.full for system in systems]))
        return self

    def sketch(self) -> frozenset[int]:
        """Some of what the system prompt consists of."""
        systems = self._systems
        if len(systems) == 1:
            return systems[0].sketch
        return frozenset(sorted({piece for system in systems for piece in system.sketch})[:_SKETCH])

    def point(self, at: int) -> Point:
        """One of the places where an answer follows."""
        points = self._points
        if at not in points and len(points) < _SINGLY:
            points[at] = self._point(*self._stands[at])
        elif at not in points:
            self._find_points()
        return points[at]

    def latest_places(self, most: int) -> range:
        """The places where an answer follows, the last one first, so many at most."""
        places = len(self._stands)
        return range(max(0, places - most), places)[::-1]

    def point_behind(self, count: int) -> int | None:
        """Which of the places follows so many messages."""
        return next((at for at, counts in enumerate(self._stands) if counts[0] == count), None)

    def _point(self, count: int, reduced: int, spoken: int) -> Point:
        value = self.digester.value
        said = self.digests[: count * SIZE]
        full = value(said)
        kept, texts = b"".join(self._reduced[:reduced]), b"".join(self._spoken[:spoken])
        lasting = full if kept == said else value(kept) if kept else b""
        return Point(count, full, lasting, lasting if texts == kept else value(texts) if texts else b"")

    def _find_points(self) -> None:
        """All of them, each from the one before it."""
        begun = [self.digester.value_in_pieces() for _ in range(3)]
        forms, before = (self._full, self._reduced, self._spoken), (0, 0, 0)
        for at, counts in enumerate(self._stands):
            for made, form, start, end in zip(begun, forms, before, counts, strict=True):
                made.update(b"".join(form[start:end]))
            full, reduced, spoken = [made.copy().digest() for made in begun]
            count, kept, texts = before = counts
            lasting = reduced if kept or not count else b""
            self._points[at] = Point(count, full, lasting, spoken if texts else b"" if kept else lasting)

    def begins_with(self, end: Point) -> bool:
        """True if all messages of an earlier request stand at the beginning of this one, and more behind them."""
        size = end.count * SIZE
        return size < len(self.digests) and self.digester.value(self.digests[:size]) == end.full

    def kept(self, before: bytes) -> int | None:
        """How many messages of an earlier request, given its digests, stand at this one's beginning."""
        mine = self.digests
        most = min(len(mine), len(before))
        if mine[:most] == before[:most]:
            return most // SIZE
        return (
            next(at for at in range(0, most, SIZE) if mine[at : at + SIZE] != before[at : at + SIZE]) // SIZE
        )

    def forget(self) -> None:
        """Lets go of what a long one takes, once it has been recognised."""
        self._full, self._reduced, self._spoken = [], [], []
        self._stands, self._systems, self.said, self._points = [], [], [], {}


class Prompt(History):
    """A past that is one text, and grows: it is that of the turn before, the answer to it, and more.

    Sizes are bytes.
    """

    __slots__ = ("_text",)

    def __init__(self, digester: Digester, text: str) -> None:
        super().__init__(digester)
        self._text = encoded(text)
        whole = self.digest(len(self._text))
        self._full.append(whole)
        self.close(b"")
        self.end = Point(self.size, whole, b"", b"")

    @property
    def size(self) -> int:
        """How long it is."""
        return len(self._text)

    def digest(self, size: int) -> bytes:
        """That of its beginning."""
        return self._begun(size).digest()

    def _begun(self, size: int) -> "blake2b":
        made = self.digester.begin_text()
        made.update(self._text[:size])
        return made

    @property
    def begun(self) -> "tuple[int, blake2b, bytes]":
        """What its answer adds to: the bytes in whole blocks, their digest so far, and the rest."""
        stem = self.size // BLOCK * BLOCK
        return stem, self._begun(stem), self._text[stem:]

    def kept(self, before: bytes) -> None:
        """None: it has no messages."""

    def stems(self) -> list[bytes]:
        """What turns are found by whose prompt and answer it begins with, the longest first: digests at every so many bytes."""
        last = self.size // BLOCK
        first = max(1, last - _BLOCKS)
        made = self._begun((first - 1) * BLOCK)
        keys = []
        for at in range(first - 1, last):
            made.update(self._text[at * BLOCK : (at + 1) * BLOCK])
            keys.append(made.copy().digest())
        return keys[::-1]

    def begins_with(self, end: Point) -> bool:
        """True if an earlier prompt stands at its beginning, and more behind it."""
        return end.count < self.size and self.digest(end.count) == end.full

    def forget(self) -> None:
        """Lets go of the text."""
        super().forget()
        self._text = b""
