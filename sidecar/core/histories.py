"""The memory of histories: which answers went by, and what the next request is to them.

Owns the turns that are remembered, as digests (`digests.py`), the threads they belong to, and the rules by which a request
is recognised: exact ones or none. It keeps no text and no clock, and every map in it is bounded; what a bound drops is
counted. A turn here is one request that carries its history.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from sidecar.core.digests import History, Point, Prompt, Said
from sidecar.core.echo import Echo
from sidecar.core.facts import Anomaly
from sidecar.core.identity import MADE_UP, MAIN, Identity
from sidecar.core.registry import BoundedMap
from sidecar.core.threads import Past, Place, Relation, Thread
from sidecar.core.turns import ConversationSummary, SessionListener

SIDE = "side:"
"""How the names of lanes begin that are not the main one."""

AGENT = "agent"
TITLE = SIDE + "title"

PER_THREAD = 64
"""Turns that are remembered of one thread: a history names its latest ones."""

_ALIKE = 8
"""Turns that are remembered under one digest; what more of them have in common tells none of them from the others."""

_LANES = 32
"""Lanes of one session; what begins after them is in the main one."""

_TITLES = 256
"""System prompts that are known to ask for titles."""


class _Lanes:
    """The threads of one session that nobody named as conversations."""

    __slots__ = ("_made", "threads")

    def __init__(self) -> None:
        self.threads: dict[str, Thread] = {}
        self._made: dict[str, int] = {}

    def begin(self, word: str = "") -> str:
        """The name of one more side lane; the main one's if there are too many."""
        if len(self.threads) >= _LANES:
            return MAIN
        number = self._made[word] = self._made.get(word, 0) + 1
        return f"{SIDE}{word}-{number}" if word else f"{SIDE}{number}"


_UNKNOWN = Place(Relation.FIRST)
_AMBIGUOUS = Place(Relation.FIRST, ambiguous=True)


@dataclass(slots=True)
class _Echoed:
    """Whose answer a history has at one of its points, and whether that turn's request is what precedes it there."""

    past: Past
    at: int
    said: Said | None
    confirmed: bool


class Histories(SessionListener):
    """The memory. `limit` bounds the turns in it; `anomaly` is told what a bound drops, `orphaned` of each orphaned answer."""

    __slots__ = (
        "_anomaly",
        "_found",
        "_lanes",
        "_limit",
        "_orphaned",
        "_threads",
        "_titles",
        "_turns",
        "turns",
    )

    def __init__(
        self,
        limit: int,
        anomaly: Callable[[Anomaly], None],
        orphaned: Callable[[], None],
    ) -> None:
        self._orphaned = orphaned
        self._limit = limit
        self._anomaly = anomaly
        self.turns = 0
        """How many are remembered."""
        self._turns: deque[Past] = deque()
        """They, the oldest first, and some that are forgotten already."""
        self._found: dict[bytes, tuple[Past | None, ...]] = {}
        """Turns by what they are found by; None stands for those that are forgotten, or had no room."""
        self._threads: dict[tuple[str, str], Thread] = {}
        self._lanes: dict[str, _Lanes] = {}
        self._titles: BoundedMap[bytes, bool] = BoundedMap(_TITLES, lambda: None)
        """System prompts of calls without tools that came before a session's main thread, which has some."""

    # What a request is.

    def recognise(self, history: History, identity: Identity) -> Place:
        """What a request of that identity is, by its history."""
        if identity.source in MADE_UP:
            return self._unnamed(history)
        if not identity.conversation_supplied:
            return self._in_lanes(history, identity.session_id)
        thread = self._threads.get((identity.session_id, identity.conversation_id))
        if thread is None:
            return Place(Relation.FIRST, spawned_by=self._spawned(history, identity.session_id))
        grows = isinstance(history, Prompt)
        echoed = self._echoed(history, (thread,)) if history.said or grows else None
        return self._relate(history, thread, echoed)

    def _grown(self, prompt: Prompt, threads: Collection[Thread] | None) -> tuple[Past | None, ...]:
        """The turns whose prompt and answer stand at the beginning of a prompt, the latest ones."""
        for key in prompt.stems():
            known = self._known(key, threads)
            found = tuple([past for past in known if past is not None and _begins(prompt, past)])
            if found:
                return (*found, None) if None in known else found
        return ()

    def _unnamed_prompt(self, prompt: Prompt) -> Place:
        found = self._grown(prompt, None)
        if len({None if past is None else past.thread.session_id for past in found}) > 1:
            return _AMBIGUOUS
        past = found[0] if found else None
        if past is None:
            return _UNKNOWN
        return replace(self._relate(prompt, past.thread, _Echoed(past, 0, None, confirmed=True)), joins=True)

    def _unnamed(self, history: History) -> Place:
        if isinstance(history, Prompt):
            return self._unnamed_prompt(history)
        for at, said in reversed(history.said):
            found = self._candidates(history.point(at), said, None)
            if not found:
                continue
            if len({None if past is None else past.thread.session_id for past in found}) > 1:
                return _AMBIGUOUS
            past = next((past for past, confirmed in found.items() if confirmed), None) or next(iter(found))
            if past is None:
                return _UNKNOWN
            return replace(self._beside(history, _Echoed(past, at, said, found[past])), joins=True)
        parents = self._parents(history)
        if len({past.thread.session_id for past in parents}) > 1:
            return _AMBIGUOUS
        if not parents or history.said or parents[0].continued:
            return _UNKNOWN
        lane = self._lanes_of(parents[0].thread.session_id).begin(AGENT)
        return Place(Relation.FIRST, lane=lane, family=parents[0].thread, spawned_by=parents[0], joins=True)

    def _lanes_of(self, session_id: str) -> _Lanes:
        return self._lanes.get(session_id) or _Lanes()

    def _in_lanes(self, history: History, session_id: str) -> Place:
        """What a request is in a session of which no conversation is named: the main thread's, or a side lane's."""
        lanes = self._lanes_of(session_id)
        threads = lanes.threads
        echoed = self._echoed(history, threads.values())
        if echoed is not None:
            return self._beside(history, echoed)
        for thread in threads.values():
            if thread.is_under(history):
                place = self._relate(history, thread, None)
                if place.relation not in (Relation.FIRST, Relation.REWRITTEN):
                    return place
        spawned = self._spawned(history, session_id)
        if spawned is not None and not history.said:
            return Place(Relation.FIRST, lane=lanes.begin(AGENT), spawned_by=spawned)
        if history.titles:
            return Place(Relation.FIRST, threads.get(TITLE), lane=TITLE)
        main = threads.get(MAIN)
        if main is None:
            titles = not history.tools and self._titles.get(history.system)
            return Place(Relation.FIRST, lane=TITLE if titles else MAIN)
        if history.said:
            return self._relate(history, main, None)
        for thread in threads.values():
            if not thread.grew and thread.is_under(history) and bool(thread.tools) == bool(history.tools):
                return Place(Relation.FIRST, thread)
        if history.tools and not main.tools and not main.grew and main.system:
            self._titles.put(main.system, True)
        return Place(Relation.FIRST, threads.get(lane := lanes.begin()), lane=lane)

    def _beside(self, history: History, echoed: _Echoed) -> Place:
        """What a request is that has an answer of a thread: of that thread, or a call beside it with the same past."""
        thread = echoed.past.thread
        if thread.conversation_supplied or not thread.is_beside(history):
            return self._relate(history, thread, echoed)
        lanes = self._lanes_of(thread.session_id)
        for side in lanes.threads.values():
            if side is not thread and side.is_under(history):
                return Place(Relation.CONTINUES, side, None, echoed.past, history.kept(thread.digests))
        lane = lanes.begin()
        kept = history.kept(thread.digests)
        return Place(
            Relation.CONTINUES, lanes.threads.get(lane), None, echoed.past, kept, lane=lane, family=thread
        )

    def _parents(self, history: History) -> list[Past]:
        """The turns whose answer gives a sub-agent this request's first text, and no other turn has begun by it."""
        return [past for past in self._found.get(history.task, ()) if past is not None]

    def _spawned(self, history: History, session_id: str) -> Past | None:
        """The turn of a session by whose answer a request has been begun."""
        found = [past for past in self._parents(history) if past.thread.session_id == session_id]
        return found[0] if found else None

    def _echoed(self, history: History, threads: Collection[Thread]) -> _Echoed | None:
        """Whose answer of some threads the history has, the last one first."""
        if isinstance(history, Prompt):
            past = next(iter(self._grown(history, threads)), None)
            return None if past is None else _Echoed(past, 0, None, confirmed=True)
        for at, said in reversed(history.said):
            for past, confirmed in self._candidates(history.point(at), said, threads).items():
                if past is not None:
                    return _Echoed(past, at, said, confirmed)
        return None

    def _candidates(
        self, point: Point, said: Said, threads: Collection[Thread] | None
    ) -> dict[Past | None, bool]:
        """Whose answer that message can be, in some threads or in all, and whether that turn's request is the past of it.

        An id that only one answer can have is enough. An id of another kind, or a text, is not: several answers may have
        it, and what was said before must be the same. None stands among them for turns that are no longer known.
        """
        sure: dict[Past | None, bool] = {}
        likely: dict[Past | None, bool] = {}
        fits = _is_all if threads is None else _confirms
        for digest, own in said.ids:
            if own:
                sure.update((past, _confirms(past, point)) for past in self._known(digest, threads) if past)
        if sure:
            return sure
        marks = [*said.marks, *(digest for digest, _ in said.ids)]
        for mark in marks:
            known = self._known(mark, threads)
            fitting = [past for past in known if past is not None and fits(past, point)]
            likely.update((past, True) for past in fitting)
            if fitting:
                for past in known:
                    if past is None or _may_be(past, point):
                        likely.setdefault(past, False)
        waiting = self._known(point.key, threads)
        begun = [past for past in waiting if past is not None and any(map(past.begins, marks))]
        likely.update((past, True) for past in begun)
        if begun and None in waiting:
            likely[None] = False
        return likely

    def _known(self, key: bytes, threads: Collection[Thread] | None) -> tuple[Past | None, ...]:
        """The turns that are found by a key, the latest first."""
        known = self._found.get(key)
        if known is None:
            return ()
        if threads is not None:
            return tuple(past for past in known if past is not None and past.thread in threads)
        return known

    def _relate(self, history: History, thread: Thread, echoed: _Echoed | None) -> Place:
        """What a request is within its thread."""
        kept = history.kept(thread.digests)
        same = thread.ends.get(history.end.key)
        if same is not None:
            return Place(Relation.REPEATS, thread, None, same, kept)
        parent, reached = None, -1
        if echoed is not None and (echoed.confirmed or history.previous is not None):
            parent = echoed.past
            reached = parent.end.count if isinstance(history, Prompt) else history.point(echoed.at).count
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
            had = b"" if echoed is None or echoed.said is None else echoed.said.had
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
        """True if what follows a turn's request is its answer, or the turn had none."""
        if past.answer is None:
            return True
        behind = history.point_behind(past.end.count)
        texts = [said.text for at, said in history.said if at == behind and said.text]
        return bool(texts) and past.answer.issuperset(texts)

    # What is remembered.

    def remember(self, place: Place, history: History, ref: bytes, echo: Echo, identity: Identity) -> Past:
        """A request of that identity is on its way; it begins a thread if it belongs to none."""
        thread = place.thread
        if thread is None:
            thread = Thread(identity, place.lane)
            self._threads[thread.session_id, thread.conversation_id] = thread
            if not thread.conversation_supplied:
                lanes = self._lanes.setdefault(thread.session_id, _Lanes())
                lanes.threads[thread.conversation_id] = thread
        if place.relation not in (Relation.FIRST, Relation.REPEATS):
            thread.grew = True
        past = Past(place, thread, history.end, ref, echo)
        if place.parent is not None:
            place.parent.continued = (*place.parent.continued, past)[-_ALIKE:]
        if place.relation is Relation.RACES and place.other is not None:
            place.other.rivals = (*place.other.rivals, (past, place.had))[-_ALIKE:]
        thread.add(past, history)
        self._turns.append(past)
        self.turns += 1
        key = history.end.key
        past.keys, known = (key,), self._found.get(key, ())
        self._found[key] = (past, *known) if len(known) < _ALIKE else (past, *known[: _ALIKE - 1], None)
        if len(thread.past) > PER_THREAD:
            self._anomaly(Anomaly.HISTORY_CONVERSATION_CAP)
            self._forget(thread.past[0])
        while self.turns > self._limit:
            oldest = self._turns.popleft()
            if not oldest.forgotten:
                self._anomaly(Anomaly.HISTORY_EVICTED)
                self._forget(oldest)
        while self._turns[0].forgotten:
            self._turns.popleft()
        return past

    def answered(self, past: Past, *, whole: bool, input_tokens: int | None = None) -> None:
        """Its answer has ended; one that is not whole may come back as far as it went."""
        past.input_tokens, past.before = input_tokens, None
        echo, past.echo, past.in_flight = past.echo, None, False
        if echo is None or past.forgotten:
            return
        if echo.grown:
            past.grown = tuple([grown.whole() for grown in echo.grown.values()])
            self._find_by(past, tuple({stem for grown in echo.grown.values() if (stem := grown.stem())}))
            past.answer = frozenset(digest for _, digest in past.grown) if whole else None
            return
        if whole:
            ids, texts, short, tasks = echo.marks()
            self._lose(past)
            past.answer = answer = frozenset((*ids, *texts, *short))
            self._find_by(past, (*ids, *texts, *tasks))
            for rival, had in past.rivals:
                if had in answer:
                    rival.thread.clear(rival)
        else:
            past.tails = echo.tails()
            self._find_by(past, tuple(digest for digest, _ in echo.ids()))

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """What is known by now: which of its answers no later turn has."""
        thread = self._threads.get((summary.session_id, summary.conversation_id))
        for past in () if thread is None else thread.past:
            if past.orphaned:
                self._orphaned()
                past.answer = frozenset()  # it counts once, also if the conversation goes on after all

    def _find_by(self, past: Past, keys: tuple[bytes, ...]) -> None:
        """It is found by these from now on."""
        past.keys += keys
        for key in keys:
            known = self._found.get(key, ())
            self._found[key] = (past, *known) if len(known) < _ALIKE else (past, *known[: _ALIKE - 1], None)

    def _lose(self, past: Past) -> None:
        """It is found no more."""
        found, alone = self._found, (past,)
        for key in past.keys:
            known = found.get(key, alone)
            left = known if known == alone else tuple([None if one is past else one for one in known])
            if left == alone or not any(left):
                found.pop(key, None)
            else:
                found[key] = left
        past.keys = ()

    def _forget(self, past: Past) -> None:
        """It is remembered no more, and its thread neither if it was the last of it."""
        if past.orphaned:
            self._orphaned()
        self._lose(past)
        past.forgotten = True
        thread = past.thread
        thread.drop(past)
        past.continued = past.rivals = ()
        self.turns -= 1
        if not thread.past:
            self._threads.pop((thread.session_id, thread.conversation_id), None)
            lanes = self._lanes.get(thread.session_id)
            if lanes is not None and lanes.threads.get(thread.conversation_id) is thread:
                del lanes.threads[thread.conversation_id]
                if not lanes.threads:
                    del self._lanes[thread.session_id]


def _begins(prompt: Prompt, past: Past) -> bool:
    """True if a turn's prompt, with an answer to it, stands at the beginning of a prompt."""
    return any(size <= prompt.size and prompt.digest(size) == digest for size, digest in past.grown)


def _confirms(past: Past, point: Point) -> bool:
    """True if a turn's request is all that precedes a point, in one of the three forms."""
    return _is_all(past, point) or (past.end.spoken == point.spoken and bool(point.spoken))


def _is_all(past: Past, point: Point) -> bool:
    """The same, in texts alone only where the history has nothing else: one that has calls says by them whose it is."""
    end = past.end
    reduced = end.reduced == point.reduced and bool(point.reduced)
    spoken = end.spoken == point.spoken == point.reduced and bool(point.spoken)
    return end.full == point.full or reduced or spoken


def _may_be(past: Past, point: Point) -> bool:
    """True if what precedes a point cannot rule a turn out: of both nothing is left but what clients move about."""
    return not (past.end.reduced or point.reduced) and past.end.count == point.count
