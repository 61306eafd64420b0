"""Who wants to know what happens to sessions, and the guarded way to tell them.

Owns the listener's shape and the fan-out. A listener that raises is counted and never disturbs a request,
the session manager or the other listeners. Called by the session manager and its registry only.
"""

from collections import Counter
from collections.abc import Callable

from sidecar.core.anomaly import Anomaly
from sidecar.core.session_facts import (
    ConversationSummary,
    KnownWait,
    Result,
    SessionRequest,
    SessionSummary,
)


class SessionListener:
    """What happens to sessions, one method each; override what you need. `at` is ns since the epoch.

    A method that raises is counted (`listener_failed`) and the others are still called.
    """

    def session_started(self, session_id: str, source: str, at: int) -> None:
        """A named session's first request arrived."""

    def session_ended(self, summary: SessionSummary) -> None:
        """After `conversation_ended` of each of its conversations."""

    def conversation_started(self, session_id: str, conversation_id: str, at: int) -> None:
        """A conversation's first request arrived."""

    def conversation_ended(self, summary: ConversationSummary) -> None:
        """With its session, or earlier through the cap."""

    def request_generated(self, request: SessionRequest) -> None:
        """A request was given its id."""

    def request_completed(self, request: SessionRequest, result: Result) -> None:
        """It ended as `completed`."""

    def request_failed(self, request: SessionRequest, result: Result) -> None:
        """It ended in any other way."""

    def response_out_of_order(self, request: SessionRequest, distance: int) -> None:
        """A completed turn that `distance` later ones had overtaken."""

    def wait_known(self, wait: KnownWait) -> None:
        """A turn's wait avoided has become known (0 included)."""

    def waits_unknown(self, count: int) -> None:
        """That many waits were given up: by the cap, an eviction or a shutdown."""

    def anomaly(self, anomaly: Anomaly) -> None:
        """A cap was reached, or an unknown id was ended."""


class Listeners:
    """The listeners of one session manager, and the count of each anomaly they were told."""

    __slots__ = ("_listeners", "anomalies")

    def __init__(self) -> None:
        self._listeners: tuple[SessionListener, ...] = ()
        self.anomalies: Counter[Anomaly] = Counter()

    def add(self, listener: SessionListener) -> None:
        """Tells `listener` from now on; one that is known already stays known once."""
        if listener not in self._listeners:
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: SessionListener) -> None:
        """Tells `listener` no more; an unknown one is none of our business."""
        self._listeners = tuple(known for known in self._listeners if known is not listener)

    def tell(self, call: Callable[[SessionListener], None]) -> None:
        """Calls every listener; one that raises is counted as `listener_failed`."""
        for listener in self._listeners:
            if _raises(listener, call):
                self.anomalies[Anomaly.LISTENER_FAILED] += 1
                for known in self._listeners:
                    _raises(known, _tell_of_failure)

    def anomaly(self, anomaly: Anomaly) -> None:
        """Counts an anomaly and tells it."""
        self.anomalies[anomaly] += 1
        self.tell(lambda listener: listener.anomaly(anomaly))


def _tell_of_failure(listener: SessionListener) -> None:
    listener.anomaly(Anomaly.LISTENER_FAILED)


def _raises(listener: SessionListener, call: Callable[[SessionListener], None]) -> bool:
    try:
        call(listener)
    except Exception:  # noqa: BLE001 - the guard: whatever a listener does, the request goes on
        return True
    return False
