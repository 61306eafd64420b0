"""Keeps the words that others send within bounds before they become a label, a span's name or an attribute.

Owns the list of known methods, the words for errors and finish reasons, and the cap on models.
"""

from collections.abc import Callable

from sidecar.apis import FINISH_REASONS, KNOWN_ERRORS
from sidecar.core.clock import SECOND
from sidecar.core.exchange import Verdict
from sidecar.core.facts import Anomaly, Outcome
from sidecar.core.shown import is_credential, shown

OTHER = "other"
"""Stands for every value beyond a cap or outside a list."""
OTHER_HTTP = "_OTHER"
"""The same word as the HTTP and error conventions have it."""
MISSING = "missing"
"""The finish reason of a response that gave none."""

_NO_ERRORS = (Outcome.COMPLETED, Outcome.CLIENT_LEFT)

UNUSED = 3600 * SECOND
"""After so long without use a place may be taken by somebody who has earned it, ns."""
UNTRIED = 24 * UNUSED
"""After so long a name that only failed may be followed by another one, ns: each may be a series that stays."""

KNOWN_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)


def known_method(method: str) -> str:
    """The method, or `_OTHER`."""
    return method if method in KNOWN_METHODS else OTHER_HTTP


def finish_reason(reasons: list[str]) -> str:
    """One word for a response: its first choice's reason if it is known (any case), `other`, or `missing`."""
    if not reasons:
        return MISSING
    reason = reasons[0]
    if reason in FINISH_REASONS:
        return reason
    lower = reason.lower()
    return lower if lower in FINISH_REASONS else OTHER


def error_type(verdict: Verdict) -> str | None:
    """Why it went wrong, from a fixed set; None for what did not.

    Only an error inside a stream brings words that are not ours; without any word, the outcome is the word.
    """
    word, outcome = verdict.error_type, verdict.outcome
    if outcome in _NO_ERRORS:
        return None
    if outcome is Outcome.ERROR_IN_STREAM and word is not None and word not in KNOWN_ERRORS:
        return OTHER_HTTP
    return word or outcome.value


RESULTS = (
    *("completed", "client_left", "client_error", "rate_limited", "server_error", "upstream_failed"),
    *("error_in_stream", "timed_out", "refused", "shutdown", "internal_error"),
)
"""The words of `sidecar.result`: the outcomes, and in place of `upstream_rejected` which kind of answer it was."""


def result(outcome: Outcome, status: int | None) -> str:
    """What became of a request, by its outcome and the status that the client was told."""
    if outcome is not Outcome.UPSTREAM_REJECTED:
        return outcome.value
    if status == 429:
        return "rate_limited"
    return "server_error" if (status or 0) >= 500 else "client_error"


def provider_word(word: str | None) -> str | None:
    """A provider's error code as an attribute: only if it is one short word, so that no prose can pass."""
    if (
        not word
        or len(word) > 64
        or not word.isascii()
        or not word.replace("_", "").replace(".", "").isalnum()
        or is_credential(word)
    ):
        return None
    return word


class Cap:
    """Which names are told: at most `limit` have a place of their own, every other is `other`.

    A call that completed earns its name a place, from one that only failed if need be, else from one that has not
    completed a call for `UNUSED`. Names that only failed have at most half of the places, as long as nobody earns them,
    and give them to others of their kind after `UNTRIED`. `report` is called for each name told as `other`.
    """

    __slots__ = ("_earned", "_failed", "_limit", "_report", "changes")

    def __init__(self, limit: int, report: Callable[[Anomaly], None]) -> None:
        self._limit = limit
        self._report = report
        self.changes = 0
        """How often a name has got a place; until the next time all are told as they were, but for those without one."""
        self._earned: dict[str, int] = {}
        """By name, when it last completed a call; the longest ago stands first."""
        self._failed: dict[str, int] = {}
        """The names that only failed: when they were last tried, likewise."""

    def __call__(self, value: str, at: int, *, completed: bool) -> str:
        """The name as it may be shown, or `other`, for a call that ended at `at` (ns)."""
        earned, failed = self._earned, self._failed
        name = value if value in earned or value in failed else shown(value)
        if name in earned and not completed:
            return name
        known = earned.pop(name, None) is not None or failed.pop(name, None) is not None
        if not known:
            if not (self._earn(at) if completed else self._lend(at)):
                self._report(Anomaly.MODEL_CAP)
                return OTHER
            self.changes += 1
        (earned if completed else failed)[name] = at
        return name

    def _earn(self, at: int) -> bool:
        """Whether there is a place for one more name that completed a call."""
        if len(self._earned) + len(self._failed) < self._limit:
            return True
        return _yields(self._failed, at, 0) or _yields(self._earned, at, UNUSED)

    def _lend(self, at: int) -> bool:
        """Whether there is one for a name that failed."""
        free = self._limit - len(self._earned) - len(self._failed)
        if free > 0 and len(self._failed) < (self._limit + 1) // 2:
            return True
        return _yields(self._failed, at, UNTRIED)


def _yields(places: dict[str, int], at: int, after: int) -> bool:
    """Whether the place used longest ago has been unused for so long (ns); then it is given up."""
    for name, used in places.items():
        if at - used < after:
            return False
        del places[name]
        return True
    return False
