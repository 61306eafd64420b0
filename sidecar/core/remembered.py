"""What is remembered of requests that have ended: answers' ids and idempotency keys, within a cap and in few bytes.

Owns the map that forgets its oldest entry when it is full and says so, and the form of what an answer's id leads to. A
hundred thousand of them may be kept for as long as the process runs, so a request's objects are not; of its result
stays what the sums of a conversation take.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from struct import Struct
from typing import Generic, TypeVar

from sidecar.core.identity import MAIN, Identity, Source, tidy
from sidecar.core.outcome import Outcome
from sidecar.core.turns import Turn

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_FIXED = Struct("<24sIBBqqii")
"""Reference, number, flags, outcome; arrival and end (ns); tokens in and out, -1 for none."""

_MOST = 2**31 - 1
_OUTCOMES = tuple(Outcome)
_END = "\n"
"""Stands between the texts; no id holds it."""


class BoundedMap(Generic[Key, Value]):
    """At most `cap` entries; `evicted` is called once for each that had to go. A cap of 0 keeps nothing."""

    __slots__ = ("_cap", "_entries", "_evicted")

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._cap = cap
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._evicted = evicted

    def get(self, key: Key) -> Value | None:
        """What was last put under `key`, if it is still remembered."""
        return self._entries.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remembers `value` under `key`, as the newest entry."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._cap:
            self._entries.popitem(last=False)
            self._evicted()

    def amend(self, key: Key, value: Value) -> None:
        """Changes what is remembered under `key`, if anything still is, which makes it no newer."""
        if key in self._entries:
            self._entries[key] = value


class Answers:
    """Whose answer a response id is: requests in flight as they are, those that have ended as bytes.

    At most `cap`; `evicted` is called for each that had to go.
    """

    __slots__ = ("_known",)

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._known: BoundedMap[bytes, Turn | bytes] = BoundedMap(cap, evicted)

    def learn(self, response_id: str, turn: Turn) -> None:
        """A request in flight, or one that ends now, has this answer."""
        key = _key(response_id)
        if key is not None:
            self._known.put(key, turn)
            if key not in turn.answers:
                turn.answers = (*turn.answers, key)

    def condense(self, turn: Turn) -> None:
        """The request has ended."""
        for key in turn.answers:
            if self._known.get(key) is turn:
                self._known.amend(key, packed(turn))

    def find(self, response_id: str) -> Turn | None:
        """Whose answer that is, if it is still remembered; of a request that has ended a copy."""
        key = _key(response_id)
        known = None if key is None else self._known.get(key)
        return unpacked(known) if isinstance(known, bytes) else known

    def amend(self, response_id: str, turn: Turn) -> None:
        """What is known of the request, whose answer that is, has changed."""
        key = _key(response_id)
        if key is not None:
            self._known.amend(key, turn if turn.ended_at is None else packed(turn))


def _key(response_id: str) -> bytes | None:
    """A key of a few bytes, whatever the length of the id; of 100,000 ids, two are alike once in some billion times."""
    known = tidy(response_id)
    return None if known is None else blake2b(known.encode(), digest_size=8).digest()


def packed(turn: Turn) -> bytes:
    """An ended request as bytes.

    Raises:
        ValueError: it has not ended.
    """
    identity = turn.identity
    if turn.outcome is None or turn.ended_at is None:
        raise ValueError("only what has ended is condensed")
    flags = (
        turn.sampled,
        turn.streaming,
        turn.turn,
        turn.generated,
        identity.session_supplied,
        identity.conversation_supplied,
        turn.usage_told,
    )
    fixed = _FIXED.pack(
        turn.ref,
        turn.sequence,
        sum(flag << at for at, flag in enumerate(flags)),
        _OUTCOMES.index(turn.outcome),
        turn.arrived_at,
        turn.ended_at,
        -1 if turn.input_tokens is None else min(turn.input_tokens, _MOST),
        -1 if turn.output_tokens is None else min(turn.output_tokens, _MOST),
    )
    conversation = "" if identity.conversation_id == MAIN else identity.conversation_id
    return fixed + _END.join((identity.session_id, conversation, turn.model or "")).encode(errors="replace")


def unpacked(data: bytes) -> Turn:
    """The ended request again; its own id is not remembered, nor where its session's came from."""
    ref, sequence, bits, outcome, arrived_at, ended_at, given, made = _FIXED.unpack_from(data)
    session_id, conversation, model = data[_FIXED.size :].decode().split(_END, 2)
    sampled, streaming, turn, generated, session_supplied, conversation_supplied, usage_told = (
        bool(bits >> at & 1) for at in range(7)
    )
    identity = Identity(
        session_id,
        Source.GENERATED if generated else Source.RESPONSE_CHAIN,
        conversation or MAIN,
        conversation_supplied,
        session_supplied=session_supplied,
    )
    return Turn(
        "",
        identity,
        sequence,
        arrived_at,
        ref,
        sampled,
        streaming,
        turn,
        generated,
        ended_at=ended_at,
        outcome=_OUTCOMES[outcome],
        model=model or None,
        input_tokens=None if given < 0 else given,
        output_tokens=None if made < 0 else made,
        usage_told=usage_told,
    )
