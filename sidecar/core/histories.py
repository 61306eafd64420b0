"""The memory of histories: which answers went by, and what the next request is to them.

Owns the turns that are remembered, as digests (`digests.py`), the threads they belong to, and the rules by which a request
is recognised: exact ones or none. It keeps no text and no clock, and every map in it is bounded; what a bound drops is
counted. A turn here is one request that carries its history.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace

from sidecar.core.digests import History, Point, Said
from sidecar.core.echo import Echo, Prompt, alternatives, had_of, standing
from sidecar.core.facts import Anomaly
from sidecar.core.identity import MADE_UP, MAIN, Identity
from sidecar.core.registry import BoundedMap
from sidecar.core.threads import (
    ALIKE,
    SIDE,
    Echoed,
    Finder,
    Lanes,
    Past,
    Place,
    Relation,
    Thread,
    confirms,
    follows,
    is_all,
    may_be,
    sampled,
    spread,
)
from sidecar.core.turns import ConversationSummary, SessionListener

AGENT = "agent"
TITLE = SIDE + "title"
COMPACTION = SIDE + "compaction"

PER_THREAD = 64
"""Turns that are remembered of one thread: a history names its latest ones."""

_PROMPTS = 256
"""System prompts of which it is known what the calls under them are."""


_CONTAINED = 256
"""Answers of a history, the last ones, that are looked for in the turns before it."""

_UNKNOWN = Place(Relation.FIRST)
_AMBIGUOUS = Place(Relation.FIRST, ambiguous=True)


class Histories(SessionListener):
    """The memory. `limit` bounds the turns in it; `anomaly` is told what a bound drops, `orphaned` of each orphaned answer.

    `waits` is how long (ns) what an answer has called may begin, where nobody is told that its conversation has ended: one of
    a single turn whose session nobody named.
    """

    __slots__ = (
        "_anomaly",
        "_calls",
        "_finder",
        "_lanes",
        "_limit",
        "_orphaned",
        "_prompts",
        "_stood",
        "_threads",
        "_turns",
        "_waits",
    )

    def __init__(
        self,
        limit: int,
        anomaly: Callable[[Anomaly], None],
        orphaned: Callable[[], None],
        waits: int,
    ) -> None:
        self._waits = waits
        self._stood = 0
        """For how long (ns) no request could have come, in all: that is no waiting."""
        self._orphaned = orphaned
        self._calls = False
        """An answer has called a sub-agent."""
        self._limit = limit
        self._anomaly = anomaly
        self._turns: OrderedDict[Past, None] = OrderedDict()
        """Those that are remembered, the oldest first. Any of them may be the next that goes."""
        self._finder = Finder(limit)
        self._threads: dict[tuple[str, str], Thread] = {}
        self._lanes: dict[str, Lanes] = {}
        self._prompts: BoundedMap[bytes, str] = BoundedMap(_PROMPTS, lambda: None)
        """Lanes by system prompts. Of calls without tools that come before a main thread, which has some: that of titles, or
        any side lane; the main one for what goes on after all. Of calls beside it: that of compaction."""

    @property
    def turns(self) -> int:
        """How many are remembered."""
        return len(self._turns)

    def stood_still(self, by: int) -> None:
        """No request could have come for `by` ns."""
        self._stood += by

    # What a request is.

    def recognise(self, history: History, identity: Identity, at: int = 0) -> Place:
        """What a request of that identity is, by its history, which has come at that time (ns)."""
        if history.answered_at > 0 and (place := self._next(history, identity)) is not None:
            return place
        return self._any(history, identity, at)

    def _next(self, history: History, identity: Identity) -> Place | None:
        """What a request is, if it is the latest request of a thread, its answer, and what is said then, as most are.

        It is what the rules for any request say; None where they may say something else.
        """
        said = history.answer
        if said is None or history.previous is not None:
            return None
        found, ids, marks = self._finder.found, said.ids, said.marks
        mark = ids[0][0] if ids else marks[0] if len(marks) == 1 else b""
        known = found.get(mark, ())
        joins = identity.source in MADE_UP
        past = known[0] if len(known) == 1 else None
        if not (ids or marks or joins):
            past = self._latest_alone(history, identity, said)
        if past is None or past.answer is None or past.continued:
            return None
        thread, end = past.thread, past.end
        if (
            thread.past[-1] is not past
            or thread.longest > end.count
            or history.answered_at != end.count
            or not history.begins(end, thread.digests)
            or history.end.key in thread.ends
            or (ids and not all(own and found.get(digest) == known for digest, own in ids))
        ):
            return None
        if joins:
            if not ids and (end.key in found or self._finder.is_gone(mark, end)):
                return None
        elif self._threads.get((identity.session_id, thread.conversation_id)) is not thread:
            return None
        elif identity.conversation_supplied:
            if identity.conversation_id != thread.conversation_id:
                return None
        elif thread.conversation_supplied:
            return None
        if history.tools != thread.tools and not thread.conversation_supplied and thread.is_beside(history):
            return None
        return Place(Relation.CONTINUES, thread, past, past, end.count, joins=joins)

    def _latest_alone(self, history: History, identity: Identity, said: Said) -> Past | None:
        """The latest turn of a named conversation, or of the only one of a named session, if that short text is its answer."""
        if identity.conversation_supplied:
            thread = self._threads.get((identity.session_id, identity.conversation_id))
        else:
            thread = self._lanes_of(identity.session_id).only
            thread = thread if thread is not None and thread.is_under(history) else None
        past = None if thread is None else thread.past[-1]
        return past if past is not None and said.text and said.text in (past.answer or ()) else None

    def _any(self, history: History, identity: Identity, at: int = 0) -> Place:
        """The same, by the rules."""
        if identity.source in MADE_UP:
            return self._unnamed(history, at - self._stood - self._waits)
        if not identity.conversation_supplied:
            return self._in_lanes(history, identity.session_id)
        thread = self._threads.get((identity.session_id, identity.conversation_id))
        if thread is None:
            parents = self._parents_in(identity.session_id, history)
            return Place(Relation.FIRST, spawned_by=parents[0] if parents else None)
        grows = history.answered_at >= 0 or isinstance(history, Prompt)
        echoed = self._echoed(history, (thread,)) if grows else None
        return self._relate(history, thread, echoed)

    def _unnamed_prompt(self, prompt: Prompt) -> Place:
        found = self._finder.grown(prompt, None)
        if len({None if past is None else past.thread.session_id for past in found}) > 1:
            return _AMBIGUOUS
        past = found[0] if found else None
        if past is None:
            return _UNKNOWN
        latest = self._echoed(prompt, (past.thread,))
        return replace(self._relate(prompt, past.thread, latest), joins=True)

    def _unnamed(self, history: History, since: int) -> Place:
        if isinstance(history, Prompt):
            return self._unnamed_prompt(history)
        for at, said in self._finder.answers(history):
            found = self._candidates(history.point(at), said, None)
            if not found or not self._goes_on(history, at, said, found):
                continue
            if len({None if past is None else past.thread.session_id for past in found}) > 1:
                return _AMBIGUOUS
            past = next((past for past, confirmed in found.items() if confirmed), None) or next(iter(found))
            if past is None:
                return _UNKNOWN
            past = spread(found, past)
            echoed = Echoed(past, at, said, found[past])
            if said is not history.said[-1][1]:  # what stands behind it may be known to its thread
                echoed = self._echoed(history, (past.thread,)) or echoed
            return replace(self._beside(history, echoed), joins=True)
        parents = self._waiting(history, since)
        if len({past.thread.session_id for past in parents}) > 1:
            return _AMBIGUOUS
        if not parents or history.said:
            return _UNKNOWN
        if any(past.thread.begins_as(history) for past in parents):
            return _UNKNOWN  # another run of the agent that hands its task on
        place = self._called(history, parents, self._lanes_of(parents[0].thread.session_id))
        return _UNKNOWN if place is None else replace(place, joins=True)

    def _goes_on(self, history: History, at: int, said: Said, found: Collection[Past | None]) -> bool:
        """False if more was answered behind it that nobody asked here: then somebody else may only have begun alike.

        It is enough that one of those turns has asked what stands before a later answer, which a client has changed since.
        """
        last = history.said[-1][0] - (history.asked is not None)
        if at >= last or any(own and self._finder.known(one, None) for one, own in said.ids):
            return True
        later = history.keys_behind(at, last)
        return any(past is not None and not later.isdisjoint(past.thread.ends) for past in found)

    def _lanes_of(self, session_id: str) -> Lanes:
        return self._lanes.get(session_id) or Lanes()

    def _in_lanes(self, history: History, session_id: str) -> Place:
        """What a request is in a session of which no conversation is named: the main thread's, or a side lane's."""
        lanes = self._lanes_of(session_id)
        threads = lanes.threads
        echoed = self._echoed(history, threads.values())
        if echoed is not None:
            return self._beside(history, echoed)
        parents: list[Past] = []
        alike: set[Thread] = set()
        if self._calls and not history.said:
            parents = self._parents_in(session_id, history)
            alike = {agent for past in parents for agent in past.called if history.end.key in agent.ends}
        for thread in threads.values():
            if thread.leads_to(history) and thread not in alike and thread.is_under(history):
                place = self._relate(history, thread, None)
                if place.relation not in _OF_NO_TURN:
                    return place
        if parents and (called := self._called(history, parents, lanes)) is not None:
            return called
        if history.titles:
            return Place(Relation.FIRST, threads.get(TITLE), lane=TITLE)
        main = threads.get(MAIN)
        if main is None:
            lane = self._prompts.get(history.system) if not history.tools else None
            lane = lane or MAIN
            lane = lanes.begin() if lane == SIDE else lane
            return Place(Relation.FIRST, threads.get(lane), lane=lane)
        if history.answered_at >= 0 and history.said:
            place = self._relate(history, main, None)
            if place.relation is not Relation.REWRITTEN:
                return place
            if main.is_under(history) or history.point(0).key in main.ends:
                self._learn_compaction(history, main, threads.values())
                return place
        for thread in threads.values():
            if not thread.grew and thread.is_under(history) and (not thread.tools) is (not history.tools):
                return Place(Relation.FIRST, thread)
        before = history.tools and not main.tools and not main.grew and main.system
        if before and self._prompts.get(before) is None:
            self._prompts.put(before, TITLE if main.asks_behind(history) else SIDE)
        return Place(Relation.FIRST, threads.get(lane := lanes.begin()), lane=lane)

    def _beside(self, history: History, echoed: Echoed) -> Place:
        """What a request is that has an answer of a thread: of that thread, or a call beside it with the same past."""
        thread = echoed.past.thread
        if thread.conversation_supplied or not thread.is_beside(history):
            return self._relate(history, thread, echoed)
        lanes = self._lanes_of(thread.session_id)
        for side in lanes.threads.values():
            if side is not thread and side.is_under(history):
                return Place(Relation.CONTINUES, side, None, echoed.past, side.kept(history))
        lane = COMPACTION if self._prompts.get(history.system) == COMPACTION else lanes.begin()
        begun = lanes.threads.get(lane)
        kept = (begun or thread).kept(history)
        return Place(Relation.CONTINUES, begun, None, echoed.past, kept, lane=lane, family=thread)

    def _learn_compaction(self, history: History, main: Thread, threads: Collection[Thread]) -> None:
        """If a main thread's past begins now with the answer of a call beside it, that call was made to write that past anew."""
        at, said = history.said[0]
        for mark in said.marks if at == 0 else ():
            for past in self._finder.known(mark, threads):
                if past is None or past.thread is main or past.thread.tools:
                    continue
                if past.other is not None and past.other.thread is main:
                    self._prompts.put(past.thread.system, COMPACTION)

    def _parents_in(self, session_id: str, history: History) -> list[Past]:
        """The turns of a session whose answer gives a sub-agent this request's first text, once for each call."""
        found = self._finder.found.get(history.task, ()) if self._calls else ()
        return [past for past in found if past and past.thread.session_id == session_id]

    def _waiting(self, history: History, since: int) -> list[Past]:
        """The same of any session, those that wait."""
        found = self._finder.found.get(history.task, ()) if self._calls else ()
        return [past for past in found if past and past.waits(since)]

    def _called(self, history: History, parents: list[Past], lanes: Lanes) -> Place | None:
        """What a request is that has the task of a call: the beginning of a sub-agent, or of one that has begun already again."""
        key, agents = history.end.key, []
        for parent in dict.fromkeys(parents):
            alike = [agent for agent in parent.called if key in agent.ends]
            if len(alike) < parents.count(parent):
                thread = lanes.threads.get(lane := lanes.begin(AGENT))
                return Place(Relation.FIRST, thread, lane=lane, family=parent.thread, spawned_by=parent)
            agents += alike
        for agent in reversed(agents):
            if agent.begins_as(history):
                return Place(Relation.REPEATS, agent, None, agent.ends[key], agent.kept(history))
        return None

    def _echoed(self, history: History, threads: Collection[Thread]) -> Echoed | None:
        """Whose answer of some threads the history has, the last one first."""
        if isinstance(history, Prompt):
            past = next(iter(self._finder.grown(history, threads)), None)
            return None if past is None else Echoed(past, 0, None, confirmed=True)
        for at, said in self._finder.answers(history):
            found = self._candidates(history.point(at), said, threads)
            past = next(filter(None, found), None)
            if past is not None:
                past = spread(found, past)
                return Echoed(past, at, said, found[past])
        if history.previous is not None:  # the id that stands first names an answer, whatever it looks like
            at, said = history.said[0]
            past = next(filter(None, self._finder.known(said.ids[0][0], threads)), None)
            return None if past is None else Echoed(past, at, said, confirmed=False)
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
        fits = is_all if threads is None else confirms
        for digest, own in said.ids:
            if own:
                sure.update(
                    (past, confirms(past, point)) for past in self._finder.known(digest, threads) if past
                )
        if sure:
            return sure
        beside = b"" if said.mentions else said.text
        marks = {
            **dict.fromkeys([digest for digest, _ in said.ids], beside),
            **dict.fromkeys(said.marks, b""),
        }
        for mark, text in marks.items():
            known = self._finder.known_behind(mark, point, threads)
            fitting = [
                past
                for past in known
                if past is not None and fits(past, point) and (not text or past.may_say(text))
            ]
            likely.update((past, True) for past in fitting)
            if fitting:
                if threads is None and self._finder.is_gone(mark, point):
                    likely[None] = False
                for past in known:
                    if may_be(past, point):
                        likely.setdefault(past, False)
                if mark == said.text:
                    break  # what is found by less than the whole text may be another one
        waiting = self._finder.known(point.key, threads) if marks else ()
        begun = [past for past in waiting if past is not None and past.begins(marks)]
        likely.update((past, True) for past in begun)
        if begun and (None in waiting or any(self._finder.is_gone(mark, point) for mark in marks)):
            likely[None] = False
        return likely

    def _relate(self, history: History, thread: Thread, echoed: Echoed | None) -> Place:
        """What a request is within its thread."""
        same = thread.ends.get(history.end.key)
        if same is not None and (history.tools == thread.tools or not thread.is_beside(history)):
            return Place(Relation.REPEATS, thread, None, same, thread.kept(history))
        parent, reached = None, -1
        if echoed is not None and (echoed.confirmed or history.previous is not None):
            parent, said = echoed.past, echoed.said
            reached = parent.end.count if isinstance(history, Prompt) else history.point(echoed.at).count
            # Several answers may have an id that is not its own.
            if said is not None and not said.text and said.ids and not said.ids[0][1]:
                answers = alternatives(history, standing(history, echoed.at))
                parent = sampled(answers, parent)
                if not follows(answers, parent):
                    parent, reached = None, -1
        extended, behind = self._extended(history, thread, max(reached, 0))
        if extended is not None:
            there = standing(history, behind)
            answers = alternatives(history, there)
            extended = sampled(answers, extended)
            if extended.in_flight:
                kept = thread.kept(history)
                return Place(Relation.RACES, thread, parent, extended, kept, had_of(there))
            if follows(answers, extended):
                parent = extended
        kept = thread.kept(history)
        if parent is None:
            # Answers that nobody gave, and the turn before had as well, are examples.
            if echoed is None and not thread.grew and (kept or 0) > history.answered_at:
                return Place(Relation.FIRST, thread)
            return Place(Relation.REWRITTEN, thread, None if echoed is None else echoed.past, None, kept)
        if parent.in_flight:
            had = None if echoed is None or echoed.said is None else echoed.said.had
            return Place(Relation.RACES, thread, parent, parent, kept, had)
        others = parent.continued and [past for past in parent.continued if not past.rejected]
        if not others:
            return Place(Relation.CONTINUES, thread, parent, parent, kept)
        running = next((past for past in reversed(others) if past.in_flight), None)
        if running is not None:
            return Place(Relation.RACES, thread, parent, running, kept)
        return Place(Relation.BRANCHES, thread, parent, others[-1], kept)

    def _extended(self, history: History, thread: Thread, reached: int) -> tuple[Past | None, int | None]:
        """The turn of the longest request with which this one begins, if that is of more than `reached` messages.

        And at which place an answer to it stands, if one does. Of a request that a client has changed meanwhile, what lasts
        is enough there.
        """
        found, place = None, None
        for at in history.latest_places(ALIKE):
            if history.point(at).count <= reached:
                break
            found = thread.ends.get(history.point(at).key)
            if found is not None:
                place = at
                break
        longest = reached if found is None else found.end.count
        mine = history.end.count
        if thread.longest <= longest or thread.shortest >= mine:
            return found, place
        longer = [past for past in thread.past if longest < past.end.count < mine]
        history.look_ahead({past.end.count for past in longer})
        for past in reversed(longer):
            if longest < past.end.count and history.begins_with(past.end):
                found, longest = past, past.end.count
                place = history.point_behind(longest)
        return found, place

    # What is remembered.

    def remember(self, place: Place, history: History, ref: bytes, echo: Echo, identity: Identity) -> Past:
        """A request of that identity is on its way; it begins a thread if it belongs to none."""
        thread = place.thread
        if thread is None:
            thread = self._begun(identity, place.lane)
        if not thread.grew and place.relation not in _BEGINS:
            thread.grew = True
            lane = thread.session_supplied and not thread.conversation_supplied
            if lane and thread.system and not thread.tools:
                self._prompts.put(thread.system, MAIN)
        past = Past(place, thread, history, ref, echo)
        parent = place.parent
        if parent is not None:
            parent.continued = (*parent.continued, past)[-ALIKE:] if parent.continued else (past,)
            if called := parent.called:
                past.spawned = tuple([agent.past[-1].ref for agent in called if agent.past])
        elif history.answered_at >= 0 and thread.past and place.relation is not Relation.REPEATS:
            self._note_answers(history, thread)
        if place.spawned_by is not None and place.spawned_by.thread is not thread:
            place.spawned_by.called = (*place.spawned_by.called, thread)[-ALIKE:]
        if place.other is not None and place.relation is Relation.RACES:
            place.other.rivals = (*place.other.rivals, (past, place.had))[-ALIKE:]
        thread.add(past, history)
        self._turns[past] = None
        found, key = self._finder.found, past.point.key
        if key in found:
            self._finder.add(past, (key,))
        else:
            found[key], past.keys = (past,), (key,)
        if len(thread.past) > PER_THREAD or len(self._turns) > self._limit:
            self._make_room(thread)
        return past

    def _note_answers(self, history: History, thread: Thread) -> None:
        """Notes whose answers of its session a history has that goes on from none of them; a word is anybody's."""
        latest = history.said[-_CONTAINED:]
        had = {
            digest for _, said in latest for digest in (*said.marks, *(one for one, own in said.ids if own))
        }
        lanes = self._lanes_of(thread.session_id).threads.values()
        for one in {thread, *lanes}:
            for past in one.past:
                if past.answer is not None and not had.isdisjoint(past.answer):
                    past.contained = True

    def _begun(self, identity: Identity, lane: str | None) -> Thread:
        """A thread that begins with a request of that identity, or a lane of its session."""
        thread = Thread(identity, lane)
        self._threads[thread.session_id, thread.conversation_id] = thread
        if not thread.conversation_supplied:
            lanes = self._lanes.setdefault(thread.session_id, Lanes())
            lanes.threads[thread.conversation_id] = thread
        return thread

    def _make_room(self, thread: Thread) -> None:
        """Forgets what exceeds the bounds: of the turns of a thread, and of all."""
        if len(thread.past) > PER_THREAD:
            self._anomaly(Anomaly.HISTORY_CONVERSATION_CAP)
            self._forget(thread.past[0])
        while len(self._turns) > self._limit:
            self._anomaly(Anomaly.HISTORY_EVICTED)
            self._forget(next(iter(self._turns)))

    def answered(self, past: Past, *, whole: bool, input_tokens: int | None = None, at: int = 0) -> None:
        """Its answer has ended, at that time (ns); one that is not whole may come back as far as it went."""
        echo = past.echo
        past.input_tokens = input_tokens
        past.before = past.echo = None
        past.in_flight = False
        if echo is None or past.forgotten:
            return
        if echo.grown:
            past.grown = tuple([grown.whole() for grown in echo.grown.values()])
            self._finder.add(past, tuple({stem for grown in echo.grown.values() if (stem := grown.stem())}))
            past.answer = tuple([digest for _, digest in past.grown]) if whole else None
            return
        if not whole:
            past.tails, ids = echo.tails(), echo.ids()
            if not (past.tails or ids):
                past.rejected = True
                self._finder.lose(past)
            self._finder.add(past, tuple([digest for digest, _ in ids]))
            return
        keys, past.answer, calls = echo.marks()
        if calls:
            self._calls = True
            past.called_at = at - self._stood
        found, key = self._finder.found, past.point.key
        if len(past.keys) == 1 and found.get(key) == (past,):
            del found[key]
            past.keys = ()
        else:
            self._finder.lose(past)
        self._finder.add(past, keys)
        for rival, had in past.rivals:
            if had in past.answer:
                rival.thread.clear(rival)

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """What is known by now: which of its answers no later turn has."""
        thread = self._threads.get((summary.session_id, summary.conversation_id))
        if thread is None:
            return
        thread.ended = True
        for past in thread.past:
            if past.orphaned:
                self._orphaned()
                past.answer = ()  # it counts once, also if the conversation goes on after all

    def _forget(self, past: Past) -> None:
        """It is remembered no more, and its thread neither if it was the last of it."""
        if past.orphaned:
            self._orphaned()
        self._finder.forget(past)
        past.forgotten = True
        del self._turns[past]
        if not past.in_flight:
            past.other = None  # of the turns before it each refers to another one
        thread = past.thread
        thread.drop(past)
        past.continued = past.rivals = past.called = ()
        if not thread.past:
            self._threads.pop((thread.session_id, thread.conversation_id), None)
            lanes = self._lanes.get(thread.session_id)
            if lanes is not None and lanes.threads.get(thread.conversation_id) is thread:
                del lanes.threads[thread.conversation_id]
                if not lanes.threads:
                    del self._lanes[thread.session_id]


_BEGINS = frozenset((Relation.FIRST, Relation.REPEATS))
"""What a turn may be to a past of which nothing is known."""

_OF_NO_TURN = frozenset((Relation.FIRST, Relation.REWRITTEN))
"""What a turn may be that is nothing to any other one."""
