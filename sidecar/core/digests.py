"""A request's history as digests: what can be recognised when it comes again, and read by nobody.

Owns the keyed digest, and the chain over a history's messages in its three forms. It takes a message's parts as the JSON
tokens they came as, and keeps no text once the history has been looked at. What means what in a body is the business of
`apis/`; what an answer leaves is in `echo.py`.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, pairwise
from json.decoder import scanstring  # type: ignore[attr-defined] # C, and what `json` itself calls
from operator import attrgetter

SIZE = 12
"""Bytes of a digest."""

SHORTEST = 16
"""Characters from which on a text is remembered for itself; shorter ones are said by everybody."""

LONGEST_JSON = 64 * 1024
"""Characters of an answer, and of a call's arguments, that are parsed as JSON."""

_KNOWN = 16384
"""Messages that are known by how they are written, about the latest."""

_SINGLY = 8
"""Places of a history that are digested one by one before all of them are."""

_PLACES = 512
"""Those that are digested between two pauses."""

LONGEST_ID, MOST_IDS = 64 * 1024, 64
"""Characters of an id, which may be the signature of a model's thoughts, and ids of one answer."""

_LONG_ID = 1024
"""Characters from which on it is kept as a digest of it, behind half of them."""
SKETCH, _SKETCHED = 16, 16
"""Pieces of a system prompt that it is compared by, and how many are looked at where there are several."""

_NO_SKETCH: frozenset[int] = frozenset()

_IN_TEXT = re.compile(r"\b(?:call|toolu|fc)_[0-9A-Za-z_-]{8,128}")
"""Ids of calls, where a client writes its calls down as a text."""

_SEARCHED = 16 * 1024
"""Characters of a text that are searched for them."""

THOUGHT = "</think>"
"""What ends a model's thoughts where they stand in its text, before what it says: some clients leave them out, others add them."""

_JSON = "{[`"
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


_TEXT = Kind.TEXT
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
        "_leaving",
        "_one",
        "_values",
        "begin_asked",
        "begin_text",
        "older",
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
        for role in (_SYSTEM, _USER, _TOOL):
            begun = fresh.copy()
            begun.update(role + _TEXT)
            self._one[role, _TEXT] = begun.copy
        self.begin_asked = self._one[_USER, _TEXT]
        """Begins a message of a user that is one text, which follows."""
        words = (b"id", b"text", b"value", b"task")
        self._ids, self.begin_text, self._values, self._calls = (kind(word).copy for word in words)
        """`begin_text` begins a text that comes in pieces."""
        self.salt = kind(b"written").digest()
        """What goes before a text that is to be found by its `hash`."""
        self.recent: dict[int, Message] = {}
        """The latest messages that are known, by those hashes."""
        self.older: dict[int, Message] = {}
        """Those that came before them; the oldest goes with each that is learned."""
        self._leaving: Iterator[int] = iter(())

    def known(self, key: int) -> "Message | None":
        """What was made of that message, if it is still known."""
        message = self.recent.get(key)
        if message is None and (message := self.older.get(key)) is not None:
            self.learn(key, message)
        return message

    def learn(self, key: int, message: "Message") -> None:
        """It may come again."""
        if len(self.recent) >= _KNOWN:
            self.older, self.recent = self.recent, {}
            self._leaving = iter(list(self.older))
        self.older.pop(next(self._leaving, -1), None)  # no hash is -1
        self.recent[key] = message

    def message(self, role: bytes, parts: list[Part]) -> bytes:
        """A message."""
        if len(parts) == 1 and (begun := self._one.get((role, parts[0][0]))) is not None:
            made = begun()
            made.update(parts[0][1])
            return made.digest()
        made = self._fresh()
        made.update(b"".join((role, *chain.from_iterable(parts))))
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
        return _of(self._ids(), text if len(text) < _LONG_ID else self.shortened(text))

    def shortened(self, text: str) -> str:
        """What stands for a long id: its beginning, and a digest of it, which looks like nothing that was made at random."""
        return text if len(text) < _LONG_ID else text[: _LONG_ID // 2] + self.text(text).hex("-", 2)

    def text(self, text: str) -> bytes:
        """A text, without blanks around it."""
        made = self.begin_text()
        made.update(text.strip().encode("utf-8", "surrogatepass"))
        return made.digest()

    def task(self, text: str) -> bytes:
        """A text that starts a sub-agent."""
        return _of(self._calls(), text.strip())

    def json(self, text: str) -> bytes | None:
        """A text that is a JSON object or list, however it is written; 1.0 is 1."""
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


def _number(text: str) -> float:
    """A number with a fraction or an exponent: a whole one as such, up to where all of them have a float of their own."""
    number = float(text)
    return int(number) if abs(number) < 2**53 and number.is_integer() else number


def parsed(text: str) -> object | None:
    """The JSON object or list that a text is, with or without a fence around it; None if it is neither, or empty."""
    stripped = text.strip()
    if stripped.startswith("```"):
        stripped = stripped.removesuffix("```").removeprefix("```").removeprefix("json").strip()
    if len(stripped) > LONGEST_JSON or not stripped.startswith(("{", "[")):
        return None
    try:
        value: object = json.loads(stripped, parse_float=_number)
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
    for run in _RUN.findall(text[: _LONG_ID // 2]):
        if run.isalpha() or run.isdigit() or len(set(run)) <= 4:
            continue
        if len(run) >= 12 or sum(map(str.isdigit, run)) > 1:
            return True
    return False


class Said:
    """What a message may be the echo of. `ids` are digests, each with whether no other answer can have it, or those that its
    text `mentions`; `marks` what its text is found by where it is long enough; `text` is the digest of its text, empty where
    it has none.
    """

    __slots__ = ("ids", "marks", "mentions", "text")

    def __init__(self, digester: Digester, ids: Sequence[Id], text: str, digest: bytes) -> None:
        self.text = digest
        self.mentions = False
        self.ids: Sequence[tuple[bytes, bool]] = ()
        if ids:
            self.ids = [(digester.id(one[0]), is_own(one)) for one in ids[:MOST_IDS]]
        elif "_" in text and (found := _IN_TEXT.findall(text[:_SEARCHED])):  # they may be any other answer's
            self.ids = [(digester.id(one), False) for one in found[:MOST_IDS]]
            self.mentions = True
        if len(text) < SHORTEST:
            self.marks: tuple[bytes, ...] = ()
        elif text[0] in _JSON and (value := digester.json(text)) is not None:
            self.marks = (digest, value)
        elif THOUGHT in text and len(behind := text.partition(THOUGHT)[2].strip()) >= SHORTEST:
            self.marks = (digest, digester.text(behind))
        else:
            self.marks = (digest,)

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

    The latter two are empty where nothing is left. `said` is what it may be the echo of, `task` the digest of a user's text
    where it was asked for, `sketch` some of what a system prompt consists of.
    """

    __slots__ = ("full", "reduced", "role", "said", "sketch", "spoken", "task")

    def __init__(
        self, role: bytes, full: bytes, reduced: bytes, spoken: bytes, said: Said | None = None
    ) -> None:
        self.role = role
        self.full = full
        self.reduced = reduced
        self.spoken = spoken
        self.said = said
        self.sketch = _NO_SKETCH
        self.task: bytes | None = None


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
    """What a request's body says of its past.

    `beside` are system prompts beside the messages. `system` and `tools` are digests, empty where there are none. `previous` is
    the answer that it names in place of its past, `titles` that it asks for a title and nothing else.
    """

    answered_at = -1
    """Where the latest message of the model is; negative where there is none."""
    answer: Said | None = None
    """What may be the echo of an answer at the latest place where one follows, if that is a single message."""
    in_pieces = False
    """Several texts of the model stand behind each other at the latest place where an answer follows."""
    previous: str | None = None
    titles = False
    prefill = ""
    """How its answer's text begins, where the last message says that."""
    asked: Point | None = None
    """What precedes that message."""
    system = b""
    _messages: Sequence[Message] = ()
    _roles = b""
    _systems: Sequence[Message] = ()
    """The system prompts at its beginning, and beside it."""
    _task: Callable[[], bytes] | None = None
    _stands: list[int] | None = None
    """How many messages precede each answer."""
    _said: list[tuple[int, Said]] | None = None
    _points: dict[int, Point] | None = None
    _behind: tuple[int, set[bytes]] | None = None

    def __init__(
        self,
        digester: Digester,
        messages: Sequence[Message],
        tools: bytes,
        beside: Sequence[Message] = (),
        task: Callable[[], bytes] | None = None,
    ) -> None:
        self.digester = digester
        self.tools = tools
        self._task = task
        self._messages = messages
        self._roles = roles = b"".join(map(_ROLE, messages))
        self.digests = digests = b"".join(map(_FULL, messages))
        """Those of its messages."""
        reduced, spoken = b"".join(map(_REDUCED, messages)), b"".join(map(_SPOKEN, messages))
        self.end = _point(digester, len(messages), digests, reduced, spoken)
        at = roles.rfind(_MODEL)
        if at >= 0:
            self.answered_at = at
            self.answer = messages[at].said
            if _TWICE in roles:
                self.in_pieces = self._has_pieces()
                if roles[at - 1 : at] == _MODEL:
                    self.answer = None
        at = roles.rfind(_SYSTEM)
        if at == 0 and not beside:  # as most have it
            self._systems = messages[:1]
            self.system = messages[0].full
        elif at >= 0 or beside:
            self._systems = systems = (*_leading(messages), *beside)
            if systems:
                self.system = (
                    systems[0].full if len(systems) == 1 else digester.value(b"".join(map(_FULL, systems)))
                )

    def _has_pieces(self) -> bool:
        start = self._places()[-1]
        run = self._messages[start : start + len(_ANSWERS.match(self._roles, start)[0])]  # type: ignore[index] # it does
        texts = [bool(message.said and message.said.text) for message in run]
        return any(map(all, pairwise(texts)))

    def _places(self) -> Sequence[int]:
        stands = self._stands
        if stands is None:
            if self.answered_at < 0:
                return ()
            self._stands = stands = [run.start() for run in _ANSWERS.finditer(self._roles)]
        return stands

    @property
    def said(self) -> Sequence[tuple[int, Said]]:
        """What may be the echo of an answer, and at which of the places where one follows."""
        found = self._said
        if found is None:
            if self.answered_at < 0:
                return ()
            self._said = found = []
            for at, run in enumerate(_ANSWERS.finditer(self._roles)):
                answers = self._messages[run.start() : run.end()]
                found += [(at, message.said) for message in answers if message.said is not None]
        return found

    def begins(self, end: Point, digests: bytes) -> bool:
        """True if all messages of an earlier request stand at the beginning of this one. Its digests are given, or the first ones."""
        if len(digests) == end.count * SIZE:
            return self.digests.startswith(digests)
        return end.full == self.end.full or self.begins_with(end)

    def found_by(self) -> list[bytes]:
        """All that a turn may be found by whose answer this history has: what was said, and what precedes it."""
        said = self.said
        found = [mark for _, one in said for mark in one.marks]
        found += [digest for _, one in said for digest, _ in one.ids]
        if (points := self._points) is not None and len(points) == len(self._places()):
            return found + [point.key for point in points.values()]
        made, before, kept = self.digester.value_in_pieces(), 0, False
        for count in self._places():
            part = b"".join(map(_REDUCED, self._messages[before:count]))
            before, kept = count, kept or bool(part)
            made.update(part)
            found.append(made.copy().digest() if kept else self.digester.value(self.digests[: count * SIZE]))
        return found

    @property
    def task(self) -> bytes:
        """The digest of a user's first text, as one that starts a sub-agent; empty where there is none."""
        return b"" if self._task is None else self._task()

    @property
    def since_asked(self) -> int:
        """How many messages there are from the latest place on where an answer follows."""
        return len(self._messages) - self._places()[-1]

    def put_together(self, text: str, ids: list[Id]) -> None:
        """What stands there in pieces, as a client keeps those of a stream, is one answer as well."""
        text = text.strip()
        whole = Said(self.digester, ids, text, self.digester.text(text))
        self._said = [*self.said, (len(self._places()) - 1, whole)]

    def prefilled(self, text: str) -> None:
        """The last message is the beginning of its answer."""
        self.prefill, self.asked = text, self.point(len(self._places()) - 1)

    def sketch(self) -> frozenset[int]:
        """Some of what the system prompt consists of."""
        systems = self._systems[:_SKETCHED]
        if len(systems) == 1:
            return systems[0].sketch
        return frozenset(sorted({piece for system in systems for piece in system.sketch})[:SKETCH])

    def point(self, at: int) -> Point:
        """One of the places where an answer follows."""
        points = self._points
        if points is None:
            points = self._points = {}
        point = points.get(at)
        if point is not None:
            return point
        if len(points) >= _SINGLY:
            for _ in self.find_points():
                pass
            return self.point(at)
        count = self._places()[at]
        before, full = self._messages[:count], self.digests[: count * SIZE]
        reduced, spoken = b"".join(map(_REDUCED, before)), b"".join(map(_SPOKEN, before))
        points[at] = point = _point(self.digester, count, full, reduced, spoken)
        return point

    def latest_places(self, most: int) -> range:
        """The places where an answer follows, the last one first, so many at most."""
        places = len(self._places())
        return range(max(0, places - most), places)[::-1]

    def point_behind(self, count: int) -> int | None:
        """Which of the places follows so many messages."""
        places = self._places()
        return places.index(count) if count in places else None

    def keys_behind(self, at: int, last: int) -> set[bytes]:
        """The keys of the places behind one, up to the last of them. To be asked from the last place backwards."""
        first, keys = self._behind or (last + 1, set[bytes]())
        for place in range(at + 1, first):
            keys.add(self.point(place).key)
        self._behind = (min(first, at + 1), keys)
        return keys

    def find_points(self) -> Generator[None, None, None]:
        """All places where an answer follows, each from the one before it, with a pause behind so many of them."""
        points = self._points = {}
        begun = [self.digester.value_in_pieces() for _ in range(3)]
        before = kept = texts = 0
        for at, count in enumerate(self._places()):
            if at % _PLACES == _PLACES - 1:
                yield
            part = self._messages[before:count]
            for made, form in zip(begun, (_FULL, _REDUCED, _SPOKEN), strict=True):
                made.update(b"".join(map(form, part)))
            kept += any(map(_REDUCED, part))
            texts += any(map(_SPOKEN, part))
            full, reduced, spoken = [made.copy().digest() for made in begun]
            lasting = reduced if kept or not count else b""
            points[at] = Point(count, full, lasting, spoken if texts else b"" if kept else lasting)
            before = count

    def begins_with(self, end: Point) -> bool:
        """True if all messages of an earlier request stand at the beginning of this one, and more behind them."""
        size = end.count * SIZE
        return size < len(self.digests) and self.digester.value(self.digests[:size]) == end.full

    def look_ahead(self, counts: Iterable[int]) -> None:
        """So many of its messages will be compared with an earlier request's: nothing is to be done for that."""

    def forget(self) -> None:
        """Lets go of what a long one takes, once it has been recognised."""
        self._messages = self._systems = ()
        self._said = self._points = self._task = self._stands = self.answer = self._behind = None
        self._roles, self.prefill = b"", ""
        self.answered_at = -1


def _point(digester: Digester, count: int, full: bytes, reduced: bytes, spoken: bytes) -> Point:
    """What so many messages say, given their digests in each form."""
    begin = digester.value_in_pieces
    made = begin()
    made.update(full)
    whole = kept = texts = made.digest()
    if reduced != full:
        kept = texts = b""
        if reduced:
            made = begin()
            made.update(reduced)
            kept = texts = made.digest()
    if spoken != reduced:
        texts = digester.value(spoken) if spoken else b""
    return Point(count, whole, kept, texts)


def _leading(messages: Sequence[Message]) -> list[Message]:
    """The system prompts at a history's beginning: those before which nothing stands that lasts."""
    found = []
    for message in messages:
        if message.role is _SYSTEM:
            found.append(message)
        elif message.reduced:
            break
    return found


_ROLE, _FULL = attrgetter("role"), attrgetter("full")
_REDUCED, _SPOKEN = attrgetter("reduced"), attrgetter("spoken")
_TWICE = 2 * _MODEL
_ANSWERS = re.compile(re.escape(_MODEL) + rb"+")
"""Messages of the model, one behind another, where a message's role stands for it."""
