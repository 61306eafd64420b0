"""Sums over a conversation or a session, kept while it lives and frozen when it ends.

Owns adding up, nothing else: what is counted, and when, is decided by `conversation.py` and `registry.py`.
What nobody reported stays None.
"""

from sidecar.core.outcome import Outcome
from sidecar.core.session_facts import RequestRef, Result, Totals

MAX_MODELS = 32
"""Distinct models named by one summary."""

_MODEL_LENGTH = 200


class Sums:
    """Totals under construction. Times in ns."""

    __slots__ = (
        "input_tokens",
        "model_time",
        "models",
        "models_failed",
        "most_at_once",
        "out_of_order",
        "output_tokens",
        "overlaps",
        "requests",
        "think_time",
        "turns",
        "wait_avoided",
        "waits_known",
        "waits_unknown",
    )

    def __init__(self) -> None:
        self.requests: dict[Outcome, int] = {}
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.models: tuple[str, ...] = ()
        """Those that completed a request."""
        self.models_failed: tuple[str, ...] = ()
        """Those of requests that did not; a summary names them where the others leave room."""
        self.turns = self.overlaps = self.most_at_once = self.out_of_order = 0
        self.waits_known = self.wait_avoided = self.waits_unknown = 0
        self.model_time = self.think_time = 0

    def ended(self, result: Result, *, turn: bool) -> bool:
        """Adds one ended request; False if its model found no room."""
        self.requests[result.outcome] = self.requests.get(result.outcome, 0) + 1
        self.input_tokens = _plus(self.input_tokens, result.input_tokens)
        self.output_tokens = _plus(self.output_tokens, result.output_tokens)
        if turn:
            self.model_time += result.duration
        if result.model is None:
            return True
        named = (result.model[:_MODEL_LENGTH],)
        if result.outcome is Outcome.COMPLETED:
            self.models = _with(self.models, named)
            return named[0] in self.models
        self.models_failed = _with(self.models_failed, named)
        return named[0] in self._all_models()

    def wait(self, wait: int) -> None:
        """Adds one known wait."""
        self.waits_known += 1
        self.wait_avoided += wait

    def merge(self, other: "Sums") -> None:
        """Adds the sums of a part; `most_at_once` becomes the greater of both."""
        for outcome, count in other.requests.items():
            self.requests[outcome] = self.requests.get(outcome, 0) + count
        self.input_tokens = _plus(self.input_tokens, other.input_tokens)
        self.output_tokens = _plus(self.output_tokens, other.output_tokens)
        self.models = _with(self.models, other.models)
        self.models_failed = _with(self.models_failed, other.models_failed)
        self.turns += other.turns
        self.overlaps += other.overlaps
        self.most_at_once = max(self.most_at_once, other.most_at_once)
        self.out_of_order += other.out_of_order
        self.waits_known += other.waits_known
        self.wait_avoided += other.wait_avoided
        self.waits_unknown += other.waits_unknown
        self.model_time += other.model_time
        self.think_time += other.think_time

    def freeze(self) -> Totals:
        """The totals as they stand."""
        return Totals(
            requests=dict(self.requests),
            turns=self.turns,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            overlaps=self.overlaps,
            most_at_once=self.most_at_once,
            out_of_order=self.out_of_order,
            waits_known=self.waits_known,
            wait_avoided=self.wait_avoided,
            waits_unknown=self.waits_unknown,
            model_time=self.model_time,
            think_time=self.think_time,
            models=self._all_models(),
        )

    def _all_models(self) -> tuple[str, ...]:
        return _with(self.models, self.models_failed)


def _with(models: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """The models and those not among them yet, as many as are kept."""
    new = tuple(model for model in more if model not in models)
    return (*models, *new)[:MAX_MODELS] if new else models


def _plus(total: int | None, more: int | None) -> int | None:
    if more is None:
        return total
    return more if total is None else total + more


class Highlights:
    """The requests a conversation's summary points at: first, last, slowest, failed and overlapping ones."""

    __slots__ = ("_cap", "_first", "_last", "_others", "_slowest", "_slowest_took", "dropped")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._first: RequestRef | None = None
        self._last: RequestRef | None = None
        self._slowest: RequestRef | None = None
        self._slowest_took = -1
        self._others: list[tuple[str, RequestRef]] = []
        self.dropped = 0

    def arrived(self, ref: RequestRef) -> None:
        """A request arrived."""
        if self._first is None:
            self._first = ref
        self._last = ref

    def took(self, ref: RequestRef, duration: int) -> None:
        """A request took so many ns from arrival to end."""
        if duration > self._slowest_took:
            self._slowest, self._slowest_took = ref, duration

    def note(self, word: str, ref: RequestRef) -> None:
        """Keeps a `failed` or `overlapping` request, or counts it if there is no room left."""
        if len(self._others) < self._cap - 3:
            self._others.append((word, ref))
        else:
            self.dropped += 1

    def links(self) -> tuple[tuple[str, RequestRef], ...]:
        """All of them, in the order first, last, slowest, then the others as they happened."""
        named = (("first", self._first), ("last", self._last), ("slowest", self._slowest))
        return (*((word, ref) for word, ref in named if ref is not None), *self._others)
