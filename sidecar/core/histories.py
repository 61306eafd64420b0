"""The memory of histories: which answers went by, and what the next request is to them.

Owns the turns that are remembered, as digests (`digests.py`), the threads they belong to, and the rules by which a request
is recognised: exact ones or none. It keeps no text and no clock, and every map in it is bounded; what a bound drops is
counted. A turn here is one request that carries its history.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.core.digests import SHORTEST, SIZE, Digester, History, Point, Said, is_own
from sidecar.core.echo import Echo
from sidecar.core.identity import Identity
from sidecar.core.outcome import Anomaly
from sidecar.core.record import record

PER_THREAD = 64
"""Turns that are remembered of one thread: a history names its latest ones."""

_ALIKE = 8
"""Turns that are remembered under one digest; what more of them have in common tells none of them from the others."""

_COMPARED = 256
"""Messages of a thread's latest request with which the next one is compared."""


class Relation(StrEnum):
    """What a turn is to its past (`sidecar.turn.relation`)."""

    FIRST = "first"
    """Nothing of a past is known of it."""
    CONTINUES = "continues"
    """An earlier turn and its answer are its past."""
    REPEATS = "repeats"
    """The same past as an earlier turn's, and nothing new."""
    BRANCHES = "branches"
    """It continues a point that has a continuation already."""
    RACES = "races"
    """It branches while the other continuation is in flight, or was sent before the answer it should have had was whole."""
    REWRITTEN = "rewritten"
    """Its conversation is known, its past is not."""
    UNREAD = "unread"
    """Its body was not read, or carries no history."""


class Thread:
    """Turns that follow each other, under the ids that the first of them had."""

    __slots__ = (
        "conversation_id",
        "conversation_supplied",
        "digests",
        "grew",
        "past",
        "session_id",
        "session_supplied",
    )

    def __init__(self, identity: Identity) -> None:
        self.session_id = identity.session_id
        self.conversation_id = identity.conversation_id
        self.session_supplied = identity.session_supplied
        self.conversation_supplied = identity.conversation_supplied
        self.past: deque[Past] = deque()
        """The turns of it that are remembered, the latest last."""
        self.digests = b""
        """The messages of the latest one, as far as they are compared."""
        self.grew = False
        """One of them had a past."""


class Past:
    """One turn that is remembered. `ref` is what links name."""

    __slots__ = (
        "answer",
        "continued",
        "echo",
        "end",
        "forgotten",
        "in_flight",
        "kept",
        "keys",
        "other",
        "ref",
        "relation",
        "rivals",
        "tails",
        "thread",
    )

    def __init__(self, place: "Place", thread: Thread, end: Point, ref: bytes, echo: Echo) -> None:
        self.relation = place.relation
        self.other = place.other
        """The turn that it is in this relation to."""
        self.kept = place.kept
        self.thread = thread
        self.forgotten = False
        self.end = end
        self.ref = ref
        self.in_flight = True
        self.echo: Echo | None = echo
        """Its answer, while it passes."""
        self.tails: tuple[bytes, ...] = ()
        """Of an answer that broke off: its text as it was after each of the last pieces."""
        self.answer: frozenset[bytes] | None = None
        """Of one that is whole: all that it can be known by; None if there was none."""
        self.continued: tuple[Past, ...] = ()
        """Turns that continue it, the latest ones."""
        self.keys: tuple[bytes, ...] = ()
        """Under which it is found."""
        self.rivals: tuple[tuple[Past, bytes], ...] = ()
        """Turns that raced it, and what they had of its answer by then."""

    @property
    def races(self) -> tuple[bytes, ...]:
        """The turns that it raced, and that raced it."""
        races = Relation.RACES
        raced = (self.other.ref,) if self.relation is races and self.other is not None else ()
        return (*raced, *(rival.ref for rival, _ in self.rivals if rival.relation is races))

    def begins(self, digest: bytes) -> bool:
        """True if that is its answer's text so far, or as it broke off, or an id that it has by now."""
        if self.echo is None:
            return digest in self.tails
        return digest in self.echo.tails() or any(digest == known for known, _ in self.echo.ids())


@record
class Place:
    """What a request was found to be. `thread` is where it belongs, None for one of its own.

    `parent` is the turn whose answer it has, `other` the one that it continues, repeats, branches from or races; `kept` how
    many messages of its thread's latest request it begins with; `had` what it has of an answer that still passes. `joins` says that nobody named its session, and its history
    does; `ambiguous` that several sessions could be it.
    """

    relation: Relation
    thread: Thread | None = None
    parent: Past | None = None
    other: Past | None = None
    kept: int | None = None
    had: bytes = b""
    joins: bool = False
    ambiguous: bool = False


_UNKNOWN = Place(Relation.FIRST)
_AMBIGUOUS = Place(Relation.FIRST, ambiguous=True)


@dataclass(slots=True)
class _Echoed:
    """Whose answer a history has at one of its points, and whether that turn's request is what stands before it there."""

    past: Past
    said: Said
    confirmed: bool


class Histories:
    """The memory. `limit` bounds the turns in it; `anomaly` is told what a bound drops, and what is ambiguous."""

    __slots__ = ("_anomaly", "_digester", "_found", "_limit", "_threads", "_turns", "turns")

    def __init__(self, digester: Digester, limit: int, anomaly: Callable[[Anomaly], None]) -> None:
        self._digester = digester
        self._limit = limit
        self._anomaly = anomaly
        self.turns = 0
        """How many are remembered."""
        self._turns: deque[Past] = deque()
        """They, the oldest first, and some that are forgotten already."""
        self._found: dict[bytes, tuple[Past | None, ...]] = {}
        """Turns by what they are found by; None stands for those that are forgotten, or had no room."""
        self._threads: dict[tuple[str, str], Thread] = {}

    # What a request is.

    def recognise(self, history: History, session_id: str | None, conversation_id: str) -> Place:
        """What a request of that conversation is, by its history; without a session, of any."""
        if session_id is None:
            return self._unnamed(history)
        thread = self._threads.get((session_id, conversation_id))
        return _UNKNOWN if thread is None else self._relate(history, thread, self._echoed(history, thread))

    def _unnamed(self, history: History) -> Place:
        for said in reversed(history.said):
            found = self._candidates(history, said, None)
            if not found:
                continue
            if len({None if past is None else past.thread.session_id for past in found}) > 1:
                return _AMBIGUOUS
            past = next((past for past, confirmed in found.items() if confirmed), None) or next(iter(found))
            if past is None:
                return _UNKNOWN
            place = self._relate(history, past.thread, _Echoed(past, said, found[past]))
            return replace(place, joins=True)
        return _UNKNOWN

    def _echoed(self, history: History, thread: Thread) -> _Echoed | None:
        """Whose answer of a thread the history has, the last one first."""
        for said in reversed(history.said):
            for past, confirmed in self._candidates(history, said, thread).items():
                if past is not None:
                    return _Echoed(past, said, confirmed)
        return None

    def _candidates(self, history: History, said: Said, thread: Thread | None) -> dict[Past | None, bool]:
        """Whose answer that message can be, in a thread or in all, and whether that turn's request is the past of it.

        An id that only one answer can have is enough. An id of another kind, or a text, is not: several answers may have
        it, and what was said before must be the same. None stands among them for turns that are no longer known.
        """
        point, digester = history.point(said.point), self._digester
        sure: dict[Past | None, bool] = {}
        likely: dict[Past | None, bool] = {}
        text = said.text
        marks = self._marks(text)
        for identifier in said.named(text):
            digest = digester.id(identifier[0])
            marks.append(digest)
            if is_own(identifier):
                sure.update((past, _confirms(past, point)) for past in self._known(digest, thread) if past)
        if sure:
            return sure
        for mark in marks:
            known = self._known(mark, thread)
            fitting = [past for past in known if past is not None and _confirms(past, point)]
            likely.update((past, True) for past in fitting)
            if fitting and None in known:
                likely[None] = False
        for past in self._known(_unanswered(point), thread):
            if past is not None and any(map(past.begins, marks)):
                likely[past] = True
        return likely

    def _known(self, key: bytes, thread: Thread | None) -> tuple[Past | None, ...]:
        """The turns that are found by a key, the latest first."""
        known = self._found.get(key)
        if known is None:
            return ()
        if thread is not None:
            return tuple(past for past in known if past is not None and past.thread is thread)
        return known

    def _marks(self, text: str) -> list[bytes]:
        """What a message's text is found by."""
        if len(text.strip()) < SHORTEST:
            return []
        value = self._digester.json(text)
        return [self._digester.text(text)] if value is None else [self._digester.text(text), value]

    def _relate(self, history: History, thread: Thread, echoed: _Echoed | None) -> Place:
        """What a request is within its thread."""
        kept = history.kept(thread.digests)
        for past in reversed(thread.past):
            if _same(past.end, history.end):
                return Place(Relation.REPEATS, thread, None, past, kept)
        parent, reached = None, -1
        if echoed is not None and (echoed.confirmed or history.previous is not None):
            parent, reached = echoed.past, history.point(echoed.said.point).count
        extended = self._extended(history, thread, reached)
        if extended is not None and extended.in_flight:
            return Place(Relation.RACES, thread, parent, extended, kept)
        if extended is not None and self._follows(history, extended):
            parent = extended
        if parent is None:
            if echoed is None and not history.said and not thread.grew:
                return Place(Relation.FIRST, thread)
            return Place(Relation.REWRITTEN, thread, None if echoed is None else echoed.past, None, kept)
        if parent.in_flight:
            had = b"" if echoed is None else self._had(echoed.said)
            return Place(Relation.RACES, thread, parent, parent, kept, had)
        others = parent.continued
        if not others:
            return Place(Relation.CONTINUES, thread, parent, parent, kept)
        running = next((past for past in reversed(others) if past.in_flight), None)
        if running is not None:
            return Place(Relation.RACES, thread, parent, running, kept)
        return Place(Relation.BRANCHES, thread, parent, others[-1], kept)

    def _extended(self, history: History, thread: Thread, reached: int) -> Past | None:
        """The latest turn with whose whole request this one begins, if that is of more than `reached` messages."""
        for past in reversed(thread.past):
            if past.end.count > max(reached, 0) and history.begins_with(past.end):
                return past
        return None

    def _follows(self, history: History, past: Past) -> bool:
        """True if what stands behind a turn's request is its answer, or the turn had none."""
        if past.answer is None:
            return True
        at = history.point_behind(past.end.count)
        texts = [said.text for said in history.said if said.point == at]
        return self._digester.text("".join(texts)) in past.answer

    def _had(self, said: Said) -> bytes:
        """What shows that a message is the whole of an answer, once that is known: its text, else its last id."""
        text = said.text
        return self._digester.text(text) if text or not said.ids else self._digester.id(said.ids[-1][0])

    # What is remembered.

    def remember(self, place: Place, history: History, ref: bytes, echo: Echo, identity: Identity) -> Past:
        """A request of that identity is on its way; it begins a thread if it belongs to none."""
        thread = place.thread
        if thread is None:
            thread = Thread(identity)
            self._threads[thread.session_id, thread.conversation_id] = thread
        if place.relation is not Relation.FIRST:
            thread.grew = True
        past = Past(place, thread, history.end, ref, echo)
        if place.parent is not None:
            place.parent.continued = (*place.parent.continued, past)[-_ALIKE:]
        if place.relation is Relation.RACES and place.other is not None:
            place.other.rivals = (*place.other.rivals, (past, place.had))[-_ALIKE:]
        thread.past.append(past)
        thread.digests = history.digests[: _COMPARED * SIZE]
        self._turns.append(past)
        self.turns += 1
        self._find_by(past, (_unanswered(history.end),))
        if len(thread.past) > PER_THREAD:
            self._anomaly(Anomaly.HISTORY_CONVERSATION_CAP)
            self._forget(thread.past[0])
        while self.turns > self._limit:
            oldest = self._turns.popleft()
            if not oldest.forgotten:
                self._anomaly(Anomaly.HISTORY_EVICTED)
                self._forget(oldest)
        while self._turns and self._turns[0].forgotten:
            self._turns.popleft()
        return past

    def answered(self, past: Past, *, whole: bool) -> None:
        """Its answer has ended; one that is not whole may come back as far as it went."""
        echo, past.echo, past.in_flight = past.echo, None, False
        if echo is None or past.forgotten:
            return
        marks = echo.marks()
        if whole:
            self._lose(past)
            past.answer = answer = frozenset((*marks.ids, *marks.texts, *marks.short))
            self._find_by(past, (*marks.ids, *marks.texts))
            for rival, had in past.rivals:
                if had in answer:
                    rival.relation = Relation.CONTINUES
        else:
            past.tails = echo.tails()
            self._find_by(past, tuple(marks.ids))

    def _find_by(self, past: Past, keys: tuple[bytes, ...]) -> None:
        """It is found by these from now on."""
        past.keys += keys
        for key in keys:
            known = self._found.get(key, ())
            self._found[key] = (past, *known) if len(known) < _ALIKE else (past, *known[: _ALIKE - 1], None)

    def _lose(self, past: Past) -> None:
        """It is found no more."""
        for key in past.keys:
            left = tuple(None if known is past else known for known in self._found.get(key, ()))
            if any(left):
                self._found[key] = left
            else:
                self._found.pop(key, None)
        past.keys = ()

    def _forget(self, past: Past) -> None:
        """It is remembered no more, and its thread neither if it was the last of it."""
        self._lose(past)
        past.forgotten = True
        thread = past.thread
        thread.past.remove(past)
        past.continued = past.rivals = ()
        self.turns -= 1
        if not thread.past:
            self._threads.pop((thread.session_id, thread.conversation_id), None)


def _confirms(past: Past, point: Point) -> bool:
    """True if a turn's request is all that stands before a point, in one of the three forms."""
    end = past.end
    reduced = end.reduced == point.reduced and bool(point.reduced)
    return end.full == point.full or reduced or (end.spoken == point.spoken and bool(point.spoken))


def _unanswered(end: Point) -> bytes:
    """Under which a turn is found whose answer is not whole."""
    return end.reduced or end.full


def _same(one: Point, other: Point) -> bool:
    """True if two requests say the same."""
    return one.full == other.full or (one.reduced == other.reduced and bool(one.reduced))
