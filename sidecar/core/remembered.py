"""What is remembered of a request that has ended, for those that name its answer: as few bytes as that takes.

Owns the form of these bytes and of their keys. A hundred thousand of them may be kept for as long as the process runs,
so a request's objects are not; of its result stays what the sums of a conversation take.
"""

from collections.abc import Callable
from hashlib import blake2b
from struct import Struct

from sidecar.core.bounded_map import BoundedMap
from sidecar.core.conversation import Tracked
from sidecar.core.identity import MAIN, tidy
from sidecar.core.outcome import Outcome
from sidecar.core.turns import RequestRef, Result, SessionRequest

_FIXED = Struct("<16sQIBBqqii")
"""Trace id, span id, number, flags, outcome; arrival and end (ns); tokens in and out, -1 for none."""

_MOST = 2**31 - 1
_OUTCOMES = tuple(Outcome)
_END = "\n"
"""Stands between the texts; no id holds it."""


class Answers:
    """Whose answer a response id is: requests in flight as they are, those that have ended as bytes.

    At most `cap`; `evicted` is called for each that had to go.
    """

    __slots__ = ("_known",)

    def __init__(self, cap: int, evicted: Callable[[], None]) -> None:
        self._known: BoundedMap[bytes, Tracked | bytes] = BoundedMap(cap, evicted)

    def learn(self, response_id: str, tracked: Tracked) -> None:
        """A request in flight, or one that ends now, has this answer."""
        key = _key(response_id)
        if key is not None:
            self._known.put(key, tracked)
            if key not in tracked.answers:
                tracked.answers = (*tracked.answers, key)

    def condense(self, tracked: Tracked) -> None:
        """The request has ended."""
        for key in tracked.answers:
            if self._known.get(key) is tracked:
                self._known.amend(key, packed(tracked))

    def find(self, response_id: str) -> Tracked | None:
        """Whose answer that is, if it is still remembered; of a request that has ended a copy."""
        key = _key(response_id)
        known = None if key is None else self._known.get(key)
        return unpacked(known) if isinstance(known, bytes) else known

    def amend(self, response_id: str, tracked: Tracked) -> None:
        """What is known of the request, whose answer that is, has changed."""
        key = _key(response_id)
        if key is not None:
            self._known.amend(key, tracked if tracked.result is None else packed(tracked))


def _key(response_id: str) -> bytes | None:
    """A key of a few bytes, whatever the length of the id; of 100,000 ids, two are alike once in some billion times."""
    known = tidy(response_id)
    return None if known is None else blake2b(known.encode(), digest_size=8).digest()


def packed(tracked: Tracked) -> bytes:
    """An ended request as bytes.

    Raises:
        ValueError: it has not ended.
    """
    request, ref, result = tracked.request, tracked.request.ref, tracked.result
    if result is None or tracked.ended_at is None:
        raise ValueError("only what has ended is condensed")
    flags = (
        ref.sampled,
        request.streaming,
        request.turn,
        tracked.generated,
        tracked.session_supplied,
        tracked.conversation_supplied,
        tracked.usage_told,
    )
    fixed = _FIXED.pack(
        ref.trace_id.to_bytes(16, "little"),
        ref.span_id,
        request.sequence,
        sum(flag << at for at, flag in enumerate(flags)),
        _OUTCOMES.index(result.outcome),
        request.arrived_at,
        tracked.ended_at,
        -1 if result.input_tokens is None else min(result.input_tokens, _MOST),
        -1 if result.output_tokens is None else min(result.output_tokens, _MOST),
    )
    conversation = "" if request.conversation_id == MAIN else request.conversation_id
    return fixed + _END.join((request.session_id, conversation, result.model or "")).encode(errors="replace")


def unpacked(data: bytes) -> Tracked:
    """The ended request again; its own id is not remembered."""
    trace, span_id, sequence, bits, outcome, arrived_at, ended_at, given, made = _FIXED.unpack_from(data)
    session_id, conversation, model = data[_FIXED.size :].decode().split(_END, 2)
    sampled, streaming, turn, generated, session_supplied, conversation_supplied, usage_told = (
        bool(bits >> at & 1) for at in range(7)
    )
    ref = RequestRef("", sequence, int.from_bytes(trace, "little"), span_id, sampled)
    tracked = Tracked(
        SessionRequest("", session_id, conversation or MAIN, sequence, streaming, turn, arrived_at, ref),
        generated=generated,
        session_supplied=session_supplied,
        conversation_supplied=conversation_supplied,
    )
    tracked.result = Result(
        _OUTCOMES[outcome],
        ended_at - arrived_at,
        model or None,
        input_tokens=None if given < 0 else given,
        output_tokens=None if made < 0 else made,
    )
    tracked.ended_at, tracked.usage_told = ended_at, usage_told
    return tracked
