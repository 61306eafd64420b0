"""The turns that are remembered of a thread, and what each is to those before it.

Owns the shapes of the memory of histories (`histories.py`): what turns are found by, and what a thread knows of itself: its
latest prompt, the system prompts it was seen with, and which of its answers nobody went on from. Digests only, and no clock.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import islice

from sidecar.core.digests import SHORTEST, SIZE, History, Point, Said
from sidecar.core.echo import NOTHING_SAID, Answers, Echo, Prompt
from sidecar.core.facts import record
from sidecar.core.identity import MAIN, Identity, Source

_SYSTEMS = 8
"""System prompts of a thread that are known."""

_ENDLESS = 2**62
"""Longer than any history."""

_COMPARED = 256 * SIZE
"""Bytes of the digests of a thread's latest request with which the next one is compared."""

_ANSWERS = 1024
"""Answers of a history that are looked at, of those that may be known."""

SIDE = "side:"
"""How the names of lanes begin that are not the main one."""

_LANES = 32
"""Lanes of one session; what begins after them is in the main one."""


class Relation(StrEnum):
    """What a turn is to its past (`sidecar.turn.relation`)."""

    __hash__ = str.__hash__  # an Enum's own is a call of Python

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


RACES = Relation.RACES


class Break(StrEnum):
    """Where a prompt is another one than that of the turn before (`sidecar.prompt.broke_at`)."""

    TOOLS = "tools"
    SYSTEM = "system"
    MESSAGE = "message"


class Thread:
    """Turns that follow each other, under the ids that the first of them had."""

    __slots__ = (
        "_sketch",
        "_systems",
        "conversation_id",
        "conversation_supplied",
        "digests",
        "ended",
        "ends",
        "grew",
        "longest",
        "past",
        "session_id",
        "session_supplied",
        "shortest",
        "system",
        "tools",
        "went_on",
    )

    def __init__(self, identity: Identity, lane: str | None) -> None:
        self.session_id = identity.session_id
        self.conversation_id = lane or identity.conversation_id
        self.session_supplied = identity.session_supplied
        self.conversation_supplied = identity.conversation_supplied
        self.past: deque[Past] = deque()
        """The turns of it that are remembered, the latest last."""
        self.ends: dict[bytes, Past] = {}
        """They, by what each says; the latest of those that say the same."""
        self.digests = b""
        """The messages of the latest one, as far as they are compared."""
        self.longest = 0
        """The messages of the longest one that there was."""
        self.shortest = _ENDLESS
        """And of the shortest one."""
        self.went_on = 0
        """The number of the latest one that went on from others."""
        self.grew = False
        """One of them had a past."""
        self.ended = False
        """Its conversation has ended, and has not gone on since."""
        self.tools = b""
        self.system = b""
        """Its latest system prompt, and the latest ones."""
        self._systems: tuple[bytes, ...] = ()
        self._sketch: frozenset[int] = frozenset()

    def add(self, past: "Past", history: History) -> None:
        """A turn of it has come: that request."""
        turns, end = self.past, past.end
        if turns:
            past.before = latest = turns[-1]
            past.number = latest.number + 1
            same = history.system == self.system
            if not same or history.tools != self.tools or past.kept != latest.end.count:
                past.broke_at = self._breaks(history, past, latest)
                if not same:
                    self._add_system(history)
        else:
            self._add_system(history)
        turns.append(past)
        self.ended = False
        if past.relation in _GOES_ON:
            self.went_on = past.number
        self.ends[end.key] = past
        if end.count > self.longest:  # noqa: PLR1730 - a third of the cost of calling max()
            self.longest = end.count
        if end.count < self.shortest:  # noqa: PLR1730
            self.shortest = end.count
        self.digests = history.digests[:_COMPARED]
        self.tools = history.tools

    def _breaks(self, history: History, past: "Past", latest: "Past") -> Break | None:
        """Where a request is another one than the latest, in the order in which a provider reads them; None where it goes on."""
        if history.tools != self.tools:
            return Break.TOOLS
        if history.system != self.system:
            return Break.SYSTEM
        if history.previous is not None:  # the provider has what precedes it
            return None if past.other is latest and past.relation in _HAS_ALL else Break.MESSAGE
        end = latest.point if past.other is latest else latest.end
        return None if history.begins(end, self.digests) else Break.MESSAGE

    def kept(self, history: History) -> int | None:
        """How many messages of its latest request stand at a request's beginning: if not all, of those that are compared.

        None for a prompt, which has no messages, and for a request that names its past in place of sending it.
        """
        if history.previous is not None or isinstance(history, Prompt):
            return None
        mine, before = history.digests, self.digests
        most = min(len(mine), len(before))
        same, other = 0, most // SIZE + 1
        while other - same > 1:
            middle = (same + other) // 2
            if mine.startswith(before[: middle * SIZE]):
                same = middle
            else:
                other = middle
        latest = self.past[-1].end
        more = same * SIZE == _COMPARED < latest.count * SIZE
        return latest.count if more and history.begins(latest, before) else same

    def _add_system(self, history: History) -> None:
        """Its latest system prompt is another one."""
        systems = self._systems
        if history.system not in systems:
            self._sketch = history.sketch()
        others = tuple([system for system in systems if system != history.system])
        self._systems = (*others, history.system)[-_SYSTEMS:]
        self.system = history.system

    def clear(self, past: "Past") -> None:
        """A turn that seemed to race another one had the whole of its answer. What has ended was told as a race, and stays one."""
        if past.in_flight:
            past.relation = Relation.CONTINUES
        self.went_on = max(self.went_on, past.number)

    def drop(self, past: "Past") -> None:
        """One of them is remembered no more."""
        self.past.remove(past)
        if self.ends.get(past.end.key) is past:
            del self.ends[past.end.key]

    def is_under(self, history: History) -> bool:
        """True if a request has this thread's system prompt, or one of which the greater part is the same."""
        if history.system in self._systems:
            return True
        new = history.sketch() if history.system else frozenset()
        return 2 * len(new & self._sketch) > len(new | self._sketch) > 0

    def leads_to(self, history: History) -> bool:
        """False if a request is nothing to any of its turns: it has no answer, and none asked the same, or how it begins."""
        end = history.end
        return history.answered_at >= 0 or self.shortest < end.count or end.key in self.ends

    def begins_as(self, history: History) -> bool:
        """True if one of its turns asked the same, under the same system prompt and with the same tools."""
        return history.end.key in self.ends and self.tools == history.tools and self.is_under(history)

    def asks_behind(self, history: History) -> bool:
        """True if its latest request ends with all that another one's user says, and says more before: of that, as a title call."""
        more = self.past[-1].end.count > history.end.count
        return more and self.digests[-SIZE:] == history.digests[-SIZE:]

    def is_beside(self, history: History) -> bool:
        """True if a request that continues this thread is a call beside it: under another system prompt and other tools.

        Neither alone tells: clients change each within a run.
        """
        return history.tools != self.tools and not self.is_under(history)


class Lanes:
    """The threads of one session that nobody named as conversations."""

    __slots__ = ("_made", "threads")

    def __init__(self) -> None:
        self.threads: dict[str, Thread] = {}
        self._made: dict[str, int] = {}

    @property
    def only(self) -> Thread | None:
        """Its thread, if it has a single one."""
        return next(iter(self.threads.values())) if len(self.threads) == 1 else None

    def begin(self, word: str = "") -> str:
        """The name of one more side lane; the main one's if there are too many."""
        if len(self.threads) >= _LANES:
            return MAIN
        begun = SIDE + word + "-" * bool(word)
        while True:
            number = self._made[word] = self._made.get(word, 0) + 1
            if (name := f"{begun}{number}") not in self.threads:
                return name


_HAS_ALL = frozenset((Relation.CONTINUES, Relation.REPEATS))
"""What a turn is to another one whose prompt stands at the beginning of its own."""

_GOES_ON = frozenset((Relation.CONTINUES, Relation.BRANCHES, Relation.REWRITTEN))


class Past:
    """One turn that is remembered. `ref` is what links name.

    What few turns have is an attribute of the class until they have it.
    """

    broke_at: Break | None = None
    before: "Past | None" = None
    """The turn before it in its thread, while it is in flight; None for a first one."""
    input_tokens: int | None = None
    """Those that its answer reported."""
    grown: tuple[tuple[int, bytes], ...] = ()
    """Of a prompt that is one text: how long it is with its answer, and what that is."""
    number = 1
    """Its number in its thread."""
    forgotten = False
    in_flight = True
    rejected = False
    """Nothing came that could come back."""
    contained = False
    """Its answer stands in a later turn, which does not go on from it: its past was cut, or written anew."""
    tails: tuple[bytes, ...] = ()
    """Of an answer that broke off: its text as it was after each of the last pieces."""
    answer: tuple[bytes, ...] | None = None
    """Of one that is whole: all that it can be known by; None if there was none."""
    continued: "tuple[Past, ...]" = ()
    """Turns that continue it, the latest ones."""
    rivals: "tuple[tuple[Past, bytes | None], ...]" = ()
    """Turns that raced it, and what they had of its answer by then, if anything."""
    raced: tuple[bytes, ...] = ()
    """The turn that it raced when it came."""
    called: tuple[Thread, ...] = ()
    """Sub-agents that its answer called, the latest ones."""
    called_at = 0
    """When its answer had ended, if that calls any: ns, without times in which the process stood still."""
    spawned: tuple[bytes, ...] = ()
    """Of those that the answer called from which it goes on: the latest turn of each."""

    def __init__(self, place: "Place", thread: Thread, history: History, ref: bytes, echo: Echo) -> None:
        self.relation = place.relation
        self.other = place.other
        """The turn that it is in this relation to, while either is remembered."""
        self.kept = place.kept
        self.thread = thread
        self.end = end = history.end
        self.point = history.asked or end
        """What its answer stands behind, where it comes back."""
        self.ref = ref
        if place.relation is RACES and place.other is not None:
            self.raced = (place.other.ref,)
        self.echo: Echo | None = echo
        """Its answer, while it passes."""
        self.keys: tuple[bytes, ...] = ()
        """Under which it is found."""

    @property
    def races(self) -> tuple[bytes, ...]:
        """The turns that it raced, and that raced it."""
        if not self.rivals and self.relation is not RACES:
            return ()
        raced = self.raced if self.relation is RACES else ()
        return (*raced, *(rival.ref for rival, _ in self.rivals if rival.relation is RACES))

    def waits(self, since: int) -> bool:
        """What its answer has called may still begin: nothing has come behind it, and its conversation goes on.

        Of one that has no other turn nobody tells when it ends: it has if that answer came before `since` (ns, without times in
        which the process stood still).
        """
        thread = self.thread
        if self.continued or self.number < thread.went_on or thread.ended:
            return False
        return self.called_at >= since or thread.session_supplied or thread.grew or bool(self.called)

    @property
    def orphaned(self) -> bool:
        """No later turn has its answer, although its thread went on from other ones."""
        return (
            self.answer is not None
            and any(self.answer)
            and not (self.continued or self.contained)
            and self.number < self.thread.went_on
            and not any(map(self._is_said_by, self.thread.past))
        )

    def _is_said_by(self, other: "Past") -> bool:
        """True if the thread went on from another turn that asked the same, and was answered the same."""
        same = other.answer == self.answer and other.end.key == self.end.key
        return same and bool(other.continued)

    def may_say(self, text: bytes) -> bool:
        """True unless its answer is whole, and another one than that text."""
        return self.answer is None or text in self.answer

    def begins(self, marks: Collection[bytes]) -> bool:
        """True if one of them is its answer's text so far, or as it broke off, or an id that it has by now."""
        if self.echo is None:
            return any(digest in marks for digest in self.tails)
        ids = [digest for digest, _ in self.echo.ids()]
        return any(digest in marks for digest in (*ids, *self.echo.tails()))


ALIKE = 8
"""Turns that stand under one digest; of what more have in common, each stands under that with its past."""


class Finder:
    """Turns by what they are found by: ids and texts of answers, and what was asked before them."""

    __slots__ = ("_gone", "_gone_before", "_limit", "found")

    def __init__(self, limit: int) -> None:
        """`limit`: how much is known of turns that are forgotten, and as much of those before them."""
        self._limit = limit
        self.found: dict[bytes, tuple[Past | None, ...]] = {}
        """None stands for turns that are forgotten, or stand elsewhere."""
        self._gone: set[bytes] = set()
        """What turns that are forgotten were found by, each with its past; and that of as many ones before them."""
        self._gone_before: set[bytes] = set()

    def known(self, key: bytes, threads: Collection[Thread] | None) -> tuple[Past | None, ...]:
        """The turns of some threads, or of all, that are found by a key, the latest first."""
        known = self.found.get(key)
        if known is None:
            return ()
        return known if threads is None else _of(known, threads)

    def known_behind(
        self, key: bytes, point: Point, threads: Collection[Thread] | None
    ) -> tuple[Past | None, ...]:
        """The same, and of those that have the key in common with many the ones with that past."""
        known = self.found.get(key)
        if known is None:
            return ()
        if None in known:
            more = [past for form in _forms(point) for past in self.found.get(key + form, ()) if past]
            known = (*known, *more)
        return known if threads is None else _of(known, threads)

    def answers(self, history: History) -> Iterator[tuple[int, Said]]:
        """A history's answers, and the places of them, where something is known of either; the last ones, the very last first."""
        found = self.found
        if history.answered_at < 0 or found.keys().isdisjoint(history.found_by()):
            return iter(())
        known = (
            (at, said)
            for at, said in reversed(history.said)
            if not found.keys().isdisjoint((history.point(at).key, *said.marks, *dict(said.ids)))
        )
        return islice(known, _ANSWERS)

    def grown(self, prompt: Prompt, threads: Collection[Thread] | None) -> tuple[Past | None, ...]:
        """The turns whose prompt and answer stand at the beginning of a prompt, the latest ones.

        Where it can be anybody's, their answers are long enough to be told from others.
        """
        least = SHORTEST if threads is None else 0
        for key in prompt.stems():
            known = self.known(key, threads)
            found = tuple([past for past in known if past is not None and begins_with(prompt, past, least)])
            if found:
                return (*found, None) if None in known else found
        return ()

    def is_gone(self, key: bytes, point: Point) -> bool:
        """True if a turn that is forgotten was found by this, and had that past."""
        gone, before = self._gone, self._gone_before
        if not (gone or before):
            return False
        return any(key + form in gone or key + form in before for form in _forms(point))

    def add(self, past: "Past", keys: Iterable[bytes]) -> None:
        """It is found by these from now on, as the latest."""
        past.keys += (keys := tuple(keys))
        found = self.found
        for key in keys:
            known = found.get(key)
            if known is None:
                found[key] = (past,)
            elif len(known) < ALIKE:
                found[key] = (past, *known)
            else:
                *others, last = known[:ALIKE]
                found[key] = (past, *others, None)
                if last is not None and len(key) == SIZE:
                    self.add(last, [key + form for form in _forms(last.point)])

    def lose(self, past: "Past", *, forgotten: bool = False) -> None:
        """It is found no more by what it was found by. Where it is forgotten, None stands for it beside others."""
        found, alone = self.found, (past,)
        for key in past.keys:
            known = found.get(key, alone)
            if known != alone:
                left = tuple([None if one is past else one for one in known if forgotten or one is not past])
                if any(left):
                    found[key] = left
                    continue
            found.pop(key, None)
        past.keys = ()

    def forget(self, past: "Past") -> None:
        """The same, and what it was found by is known as that of one that is gone."""
        forms = _forms(past.point)
        self._gone.update([key + form for key in past.keys if len(key) == SIZE for form in forms])
        if len(self._gone) > self._limit:
            self._gone_before, self._gone = self._gone, set()
        self.lose(past, forgotten=True)


def _of(known: tuple[Past | None, ...], threads: Collection[Thread]) -> tuple[Past, ...]:
    return tuple([past for past in known if past is not None and past.thread in threads])


def _forms(point: Point) -> Collection[bytes]:
    """What two pasts that are one have in common."""
    return {point.key, point.spoken or point.key}


@record
class Place:
    """What a request was found to be. `thread` is where it belongs, None for one of its own.

    `parent` is the turn whose answer it has, `other` the one that it continues, repeats, branches from or races; `kept` how
    many messages of its thread's latest request it begins with; `had` what it has of an answer that still passes, None if it
    has nothing of it. `lane` is
    the name of a thread that begins with it, beside others of its session, and `spawned_by` the turn whose answer has its
    first message as a task. `joins` says that nobody named its session, and its history does: `family` is a thread of that
    session, where `thread` is none; `ambiguous` that several sessions could be it.
    """

    relation: Relation
    thread: Thread | None = None
    parent: Past | None = None
    other: Past | None = None
    kept: int | None = None
    had: bytes | None = None
    lane: str | None = None
    family: Thread | None = None
    spawned_by: Past | None = None
    joins: bool = False
    ambiguous: bool = False


@record
class Echoed:
    """Whose answer a history has at one of its points, and whether that turn's request is what precedes it there."""

    past: Past
    at: int
    said: Said | None
    confirmed: bool


def placed(identity: Identity, place: Place) -> Identity:
    """The identity of a request by its history: its session if nobody named it, and its conversation likewise."""
    thread, spawned = place.thread, place.spawned_by
    if (
        thread is not None
        and spawned is None
        and not place.joins
        and thread.conversation_id == identity.conversation_id
        and thread.conversation_supplied is identity.conversation_supplied
    ):
        return identity  # as most are that name their session
    family = thread or place.family
    joins = place.joins and family is not None
    parent = identity.parent_conversation
    if parent is None and spawned is not None and spawned.thread is not thread:
        parent = spawned.thread.conversation_id
    conversation_id, supplied = identity.conversation_id, identity.conversation_supplied
    if not supplied:
        conversation_id = place.lane or MAIN if thread is None else thread.conversation_id
        supplied = thread is not None and thread.conversation_supplied
    same = conversation_id == identity.conversation_id and supplied is identity.conversation_supplied
    if same and not joins and parent is identity.parent_conversation:
        return identity
    return Identity(
        family.session_id if joins and family is not None else identity.session_id,
        Source.HISTORY if joins else identity.source,
        conversation_id,
        supplied,
        identity.agent,
        identity.parent_agent,
        identity.request_kind,
        identity.anomalies,
        family.session_supplied if joins and family is not None else identity.session_supplied,
        parent,
        identity.agent_kind,
        identity.initiator,
        identity.agent_turn,
    )


def follows(answers: Answers, past: Past) -> bool:
    """True if what stands behind a turn's request is its answer, or the turn had none."""
    answer = past.answer
    if answer is None:
        return True
    return any(
        not any(known.isdisjoint(answer) for known in one) if one else NOTHING_SAID in answer
        for one in answers
    )


def sampled(answers: Answers, latest: Past) -> Past:
    """Of the turns that asked what the latest of them did, that whose whole answer stands there; else the latest."""
    for past in reversed(latest.thread.past):
        if past.answer is not None and past.end.key == latest.end.key and follows(answers, past):
            return past
    return latest


def spread(found: Mapping[Past | None, bool], past: Past) -> Past:
    """The same, or, if a turn went on from it, one of another thread that fits as well and from which none did."""
    if past.continued and len(found) > 1:
        for other, confirmed in found.items():
            if other and confirmed and not other.continued and other.thread is not past.thread:
                return other
    return past


def confirms(past: Past, point: Point) -> bool:
    """True if a turn's request is all that precedes a point, in one of the three forms."""
    return is_all(past, point) or (past.point.spoken == point.spoken and bool(point.spoken))


def is_all(past: Past, point: Point) -> bool:
    """The same, in texts alone only where the history has nothing else: one that has calls says by them whose it is."""
    mine = past.point
    reduced = mine.reduced == point.reduced and bool(point.reduced)
    spoken = mine.spoken == point.spoken == point.reduced and bool(point.spoken)
    return mine.full == point.full or reduced or spoken


def may_be(past: Past | None, point: Point) -> bool:
    """True if what precedes a point cannot rule a turn out: of both nothing is left but what clients move about."""
    if point.reduced:
        return False
    return past is None or (not past.point.reduced and past.point.count == point.count)


def begins_with(prompt: Prompt, past: Past, least: int) -> bool:
    """True if a turn's prompt, with an answer to it of so many bytes at least, stands at the beginning of a prompt."""
    grown = [one for one in past.grown if past.end.count + least <= one[0] <= prompt.size]
    prompt.look_ahead({size for size, _ in grown})
    return any(prompt.digest(size) == digest for size, digest in grown)
