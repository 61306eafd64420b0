"""What an answer will be recognised by when it comes back: gathered while it passes, digests once it has ended.

Owns the marks of an answer: its texts, the ids in it and what it says to sub-agents; what stands in a history where an answer
does; and the prompt that is one text and grows by it. Of a text in flight some kilobytes wait to be digested, or to be parsed
where it is JSON, which takes memory that is counted; nothing of it is kept afterwards.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from sys import getsizeof

from sidecar.core.digests import (
    LONGEST_ID,
    LONGEST_JSON,
    MOST_IDS,
    SHORTEST,
    THOUGHT,
    Digester,
    History,
    Point,
    Said,
    encoded,
    is_own,
    parsed,
)

BLOCK, _BLOCKS = 32, 512
"""Bytes of a prompt after each of which it is digested, and how many of these digests are looked for, the last ones."""

_PIECE = 4096
"""Characters of an answer that wait to be digested, over all choices; and bytes of its calls for which no memory is taken."""

_PIECES = 64
"""Pieces in which they wait: each takes some fifty bytes beside its own."""

Room = Callable[[int], bool]
"""Takes memory for so many bytes if there is room, or gives as many back where the number is negative."""

_MOST = 64
"""Choices, and texts for sub-agents, of one answer."""

_TAILS = 16
"""Pieces by which an answer that broke off may be shorter where it comes back."""

_JSON = ("{", "[", "```")
"""How a text begins that may be JSON."""

NOTHING_SAID = b""
"""What stands for an answer that has neither a text nor a call with an id."""

Marks = tuple[tuple[bytes, ...], tuple[bytes, ...], bool]
"""What an answer is found by, all that it can be known by, and whether it calls sub-agents."""

_TASKS = ("prompt", "task", "message", "input", "request", "description")
"""The arguments of a call that give a sub-agent its first message."""

_CALLS = 256
"""Calls of one answer whose arguments are looked at."""


HALVES = rb"\\udbf\1\3\\udc\2\4"
"""What stands for half a surrogate pair, as `re.sub` takes it: a character of private use, which UTF-8 can have.

It is for `\\udXYZ`, where X is one of the groups 1 and 3, and YZ one of 2 and 4. A stream may cut an emoji into two such halves.
"""

_FIRST, _SECOND = "\U0010e000", "\U0010f000"
"""From where on there are first halves, and second ones."""

_HALF = _FIRST.encode()[:2]
_PAIR = re.compile("[\U0010e000-\U0010efff][\U0010f000-\U0010ffff]")

_PAIRS = 4096
"""Pairs of one piece of a text that are put together; there are more only where somebody means to waste time."""


def _joined(text: str) -> str:
    """A text with one character in place of two halves that make one."""
    return _PAIR.sub(_character, text, _PAIRS) if _HALF in encoded(text) else text


def _character(pair: re.Match[str]) -> str:
    """Each half has eight bits of its ten as they are, and two that are above them by two more places."""
    first, second = [(code >> 2 & 0x300) | (code & 0xFF) for code in map(ord, pair[0])]
    return chr(0x10000 + (first << 10) + second)


def _complete(text: str) -> str:
    """A text without a first half at its end: what comes next may be the second."""
    return text[:-1] if _FIRST <= text[-1:] < _SECOND else text


class _Text:
    """One choice's text, as it comes."""

    __slots__ = ("_before", "_behind", "_counted", "_digest", "_digested", "_said", "pieces", "size")

    def __init__(self, first: str) -> None:
        self._digest: blake2b | None = None
        """What of it is digested: nothing, as long as it is short."""
        self._digested = 0
        self._said = (b"", 0)
        """Of that, the digest and the size without the blanks at its end."""
        self.size = len(first)
        """Characters of what is not digested yet, or of a whole that is short."""
        self.pieces = [first]
        """What is not digested yet."""
        self._before: str | None = ""
        """The end of what is digested, in which the end of thoughts may begin; None where that is looked for no more."""
        self._behind: _Text | None = None
        """What stands behind the thoughts, once they have ended."""
        self._counted = 0
        """Bytes of memory that were taken for it."""

    def add(self, piece: str, digester: Digester, room: Room, choices: int) -> None:
        """More of it; it is one of so many choices."""
        pieces = self.pieces
        pieces.append(piece)
        self.size += len(piece)
        if self._behind is not None:
            self._behind.add(piece, digester, room, choices)
        if self.size * choices > _PIECE:
            self._digest_some(digester, room)
        elif len(pieces) > _PIECES:
            pieces[:-_TAILS] = ["".join(pieces[:-_TAILS])]

    def _hold(self, size: int, room: Room) -> bool:
        """Takes memory for so many bytes in all; False, and nothing changes, where there is none."""
        if size != self._counted and not room(size - self._counted):
            return False
        self._counted = size
        return True

    def _said_behind(self, waiting: str) -> "_Text | None":
        """What stands behind the thoughts, if they have ended, also in what waits; in the pieces in which it came."""
        if self._before is None or THOUGHT not in (seen := self._before + waiting):
            return self._behind
        left = len(seen) - seen.index(THOUGHT) - len(THOUGHT)
        pieces: list[str] = []
        for piece in reversed(self.pieces):
            pieces.append(piece[len(piece) - left :] if left < len(piece) else piece)
            left -= len(pieces[-1])
        behind = _Text("")
        behind.pieces = pieces[::-1]
        behind.size = sum(map(len, pieces))
        behind._before = None
        return behind

    def _digest_some(self, digester: Digester, room: Room) -> None:
        text = "".join(self.pieces)
        if not self._digested:
            text = text.lstrip()
            json = self.size <= LONGEST_JSON and text.startswith(_JSON)
            if json and self._hold(getsizeof(text), room):
                self.pieces = [text]
                return
            self._hold(0, room)
        self._behind = self._said_behind(text)
        if self._before is not None:
            self._before = (self._before + text)[1 - len(THOUGHT) :] if self._behind is None else None
        if not text.isascii():
            text = _joined(text)
        digest, whole = self._digest, _complete(text)
        if stem := whole.rstrip():
            if digest is None:
                self._digest = digest = digester.begin_text()
            self._digested += len(stem)
            digest.update(encoded(stem))
            self._said = digest.digest(), self._digested
            text, whole = text[len(stem) :], whole[len(stem) :]
        if len(whole) > _PIECE and digest is not None:
            self._digested += len(whole)
            digest.update(encoded(whole))
            text = text[len(whole) :]
        self.pieces = [text]
        self.size = len(text)

    def close(self, digester: Digester, most: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """What it is found by, and what else it can be known by: the whole of it without blanks around it, the value that
        it is, and the same of what stands behind the thoughts. What is short finds nothing. It is parsed if it has `most`
        characters at most.
        """
        rest = "".join(self.pieces)
        behind = None if self._digest is None and THOUGHT not in rest else self._said_behind(rest)
        if not rest.isascii():
            rest = _joined(rest)
        if self._digest is None:
            rest = rest.strip()
            digest, size = digester.text(rest), len(rest)
        else:
            digest, size = self._said
            if rest := rest.rstrip():
                self._digest.update(encoded(rest))
                digest, size = self._digest.digest(), self._digested + len(rest)
        found: tuple[bytes, ...] = (digest,) if size >= SHORTEST else ()
        if found and self._digest is None and len(rest) <= most and rest.startswith(_JSON):
            value = digester.json(rest)
            found = found if value is None else (digest, value)
        short = (digest,) if size and not found else ()
        if behind is None:
            return found, short
        more, brief = behind.close(digester, most)
        return found + more, short + brief

    def tails(self, digester: Digester) -> list[bytes]:
        """Digests of the text as it was after each of its latest pieces, the longest first; and of what is behind the thoughts."""
        text, done = "".join(self.pieces[:-_TAILS]), self._digested
        so_far = digester.begin_text() if self._digest is None else self._digest.copy()
        (digest, size), made = self._said, []
        for piece in self.pieces[-_TAILS:]:
            text = _joined(text + piece)
            whole = _complete(text).rstrip()
            stem = whole if done else whole.lstrip()
            if stem:
                size = done = done + len(stem)
                so_far.update(encoded(stem))
                digest = so_far.digest()
                text = text[len(whole) :]
            if size >= SHORTEST:
                made.append(digest)
        behind = self._said_behind("".join(self.pieces))
        return made[::-1] if behind is None else made[::-1] + behind.tails(digester)


class Prompt(History):
    """A past that is one text, and grows: it is that of the turn before, the answer to it, and more.

    Sizes are bytes.
    """

    def __init__(self, digester: Digester, text: str) -> None:
        self.digester = digester
        self.tools = b""
        self._text = encoded(text)
        self._known: dict[int, bytes] = {}
        """Digests of its beginnings, by their size."""
        self.digests = whole = self.digest(len(self._text))
        self.end = Point(self.size, whole, b"", b"")

    @property
    def size(self) -> int:
        """How long it is."""
        return len(self._text)

    def digest(self, size: int) -> bytes:
        """That of its beginning."""
        return self._known.get(size) or self._begun(size).digest()

    def look_ahead(self, counts: Iterable[int]) -> None:
        """Its beginnings of these sizes are digested in one go: one by one, each would be read from the first byte on."""
        made, before, text = self.digester.begin_text(), 0, memoryview(self._text)
        for size in sorted(counts):
            made.update(text[before:size])
            self._known[size] = made.copy().digest()
            before = size

    def _begun(self, size: int) -> "blake2b":
        made = self.digester.begin_text()
        made.update(self._text[:size])
        return made

    @property
    def begun(self) -> "tuple[int, blake2b, bytes]":
        """What its answer adds to: the bytes in whole blocks, their digest so far, and the rest."""
        stem = self.size // BLOCK * BLOCK
        return stem, self._begun(stem), self._text[stem:]

    def begins(self, end: Point, digests: bytes) -> bool:  # noqa: ARG002 - it has no messages
        """True if an earlier prompt stands at its beginning."""
        return end.full == self.end.full or self.begins_with(end)

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
        self._known.clear()


class Grown:
    """A prompt with its answer behind it, as that comes."""

    __slots__ = ("_digest", "_half", "_stem", "_tail")

    def __init__(self, stem: int, digest: "blake2b", tail: bytes) -> None:
        """`digest` is of as many whole blocks as there are, of `stem` bytes in all, and `tail` is the rest."""
        self._stem = stem
        self._digest = digest
        self._tail = tail
        self._half = ""

    def copy(self) -> "Grown":
        """Another one that goes on from here."""
        return Grown(self._stem, self._digest.copy(), self._tail)

    def add(self, piece: str) -> None:
        """More of the answer."""
        piece = self._half + piece
        if not piece.isascii():
            piece = _joined(piece)
            whole = _complete(piece)
            piece, self._half = whole, piece[len(whole) :]
        data = self._tail + encoded(piece)
        cut = len(data) // BLOCK * BLOCK
        self._digest.update(data[:cut])
        self._stem += cut
        self._tail = data[cut:]

    def stem(self) -> bytes:
        """What it is found by; empty where it is too short to be told from others."""
        return self._digest.digest() if self._stem else b""

    def whole(self) -> tuple[int, bytes]:
        """How long it is, and what it is."""
        made = self._digest.copy()
        made.update(self._tail)
        return self._stem + len(self._tail), made.digest()


Answers = list[list[frozenset[bytes]]]
"""What stands behind a request, as what it can be known by: in each of the ways in which that may be one answer."""


def standing(history: History, place: int | None) -> list[Said]:
    """What stands at a place where an answer follows."""
    return [said for at, said in history.said if at == place] if place is not None else []


def alternatives(history: History, there: list[Said]) -> Answers:
    """What stands there: all of it is one answer, or, where it is one in pieces, the whole is."""
    if not there:
        return []
    answers = [[said.known_by for said in there if said.text or said.ids]]
    if history.in_pieces and there[-1] is history.said[-1][1]:
        answers.append(answers[0][-1:])
    return answers


def had_of(there: list[Said]) -> bytes | None:
    """What stands there, as it is compared with an answer; None if nothing does."""
    if not there:
        return None
    return next((said.text for said in reversed(there) if said.text), there[0].had)


class Echo:
    """Gathers what will be recognised of one answer."""

    __slots__ = (
        *("_arguments", "_counted", "_digester", "_ids", "_prefill", "_prompt", "_room", "_size", "_texts"),
        *("_waiting", "grown", "held"),
    )

    def __init__(
        self,
        digester: Digester,
        prompt: "tuple[int, blake2b, bytes] | None" = None,
        prefill: str = "",
        room: Room = bool,
    ) -> None:
        """`prompt` is what the answer goes on from, where that is one text (`Prompt.begun`); `prefill` is how its own text
        begins. `room` is asked for the memory of what waits to be parsed.
        """
        self._digester = digester
        self._room = room
        self.held = 0
        """Bytes of memory that were taken."""
        self._prefill = prefill
        self._prompt = None if prompt is None else Grown(*prompt)
        self.grown: dict[int, Grown] = {}
        """The prompt with each choice's answer behind it."""
        self._texts: dict[int, _Text] = {}
        self._ids: dict[str, str] = {}
        self._arguments: dict[tuple[int, int], list[str]] = {}
        self._size = self._waiting = self._counted = 0
        """Characters of its calls' arguments, the bytes of memory of those that wait, and how many were taken for them."""

    def text(self, choice: int, piece: str) -> None:
        """A piece of a choice's text."""
        if self._prompt is not None:
            self._grow(choice, piece, self._prompt)
            return
        text = self._texts.get(choice)
        if text is None:
            if len(self._texts) >= _MOST:
                return
            self._texts[choice] = _Text(self._prefill + piece)
            return
        text.add(piece, self._digester, self._take, len(self._texts))

    def _grow(self, choice: int, piece: str, prompt: Grown) -> None:
        grown = self.grown.get(choice)
        if grown is None:
            if len(self.grown) >= _MOST:
                return
            grown = self.grown[choice] = prompt.copy()
        grown.add(piece)

    def id(self, identifier: str | None, name: str = "") -> None:
        """An id that the provider made, of a call to the tool of that name if it calls one."""
        if identifier and len(self._ids) < MOST_IDS and len(identifier) <= LONGEST_ID:
            identifier = self._digester.shortened(identifier)
            self._ids[identifier] = name or self._ids.get(identifier, "")

    def arguments(self, choice: int, call: int, piece: str) -> None:
        """A piece of a call's arguments."""
        self._size += len(piece)
        if not piece or self._size > LONGEST_JSON:
            return
        pieces = self._arguments.get((choice, call))
        if pieces is None:
            if len(self._arguments) >= _CALLS:
                return
            pieces = self._arguments[choice, call] = []
        pieces.append(piece)
        self._waiting += getsizeof(piece)
        if len(pieces) > 2 * _PIECES:
            self._waiting -= sum(map(getsizeof, pieces[_PIECES:]))
            pieces[_PIECES:] = ["".join(pieces[_PIECES:])]
            self._waiting += getsizeof(pieces[-1])
        if self._waiting > _PIECE:
            if self._take(self._waiting - self._counted):
                self._counted = self._waiting
            else:
                self._take(-self._counted)
                self._arguments.clear()
                self._size = LONGEST_JSON

    def _take(self, change: int) -> bool:
        taken = self._room(change)
        self.held += change if taken else 0
        return taken

    def close(self) -> None:
        """Gives the memory back: nothing of it is looked at any more."""
        self._room(-self.held)
        self.held = 0

    def ids(self) -> list[tuple[bytes, bool]]:
        """The digests of its ids so far, and of each whether no other answer can have it."""
        digester = self._digester
        return [(digester.id(text), is_own((text, name))) for text, name in self._ids.items()]

    def tails(self) -> tuple[bytes, ...]:
        """The digests of its texts as they were after each of their last pieces."""
        digester = self._digester
        made = (digest for text in self._texts.values() for digest in text.tails(digester))
        return tuple(islice(made, _MOST))

    def marks(self) -> Marks:
        """What is remembered of it, once all of it has passed; nothing can be added to it then."""
        texts: tuple[bytes, ...] = ()
        short: tuple[bytes, ...] = ()
        digester, alone = self._digester, len(self._texts) == 1 and not self._ids and not self._arguments
        silent, left = not self._texts, LONGEST_JSON
        for text in self._texts.values():
            found, least = text.close(digester, left)
            left -= text.size
            if alone and (found or least):  # as most are
                return found, found + least, False
            texts += found
            short += least
            silent = silent or not (found or least)
        ids = tuple([digest for digest, _ in self.ids()]) if self._ids else ()
        if silent and not any(self._ids.values()):
            short = (*short, NOTHING_SAID)
        tasks = self._tasks() if self._arguments else ()
        return (*ids, *texts, *tasks), (*ids, *texts, *short), bool(tasks)

    def _tasks(self) -> Sequence[bytes]:
        """What its calls say to sub-agents."""
        found: list[str] = []
        for pieces in self._arguments.values():
            value = parsed(_joined("".join(pieces)))
            # Some servers give all calls the same number, and each of them in one piece.
            for given in [value] if value is not None else map(parsed, pieces[:_MOST]):
                if isinstance(given, dict):
                    found += [task for name in _TASKS if isinstance(task := given.get(name), str)]
        return [self._digester.task(task) for task in found[:_MOST] if len(task.strip()) >= SHORTEST]
