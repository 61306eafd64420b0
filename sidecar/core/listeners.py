"""Who wants to know what happens to sessions, and the guarded way to tell them.

Owns the listener's shape and the fan-out. A listener that raises is counted and never disturbs a request,
the session manager or the other listeners.
"""

from collections import Counter
from collections.abc import Callable
from typing import Concatenate, ParamSpec

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


_Given = ParamSpec("_Given")


def overrides(listener: SessionListener, event: Callable[..., None]) -> bool:
    """True if the listener has a method of its own for this event of `SessionListener`."""
    method = getattr(listener, event.__name__)
    return getattr(method, "__func__", method) is not event


class Listeners:
    """The listeners of one session manager, and the count of each anomaly they were told."""

    __slots__ = ("_listeners", "_told", "anomalies")

    def __init__(self) -> None:
        self._listeners: tuple[SessionListener, ...] = ()
        self._told: dict[Callable[..., None], list[Callable[..., None]]] = {}
        self.anomalies: Counter[Anomaly] = Counter()

    def add(self, listener: SessionListener) -> None:
        """Tells `listener` from now on; one that is known already stays known once."""
        if listener not in self._listeners:
            self._listeners = (*self._listeners, listener)
            self._told = {}

    def remove(self, listener: SessionListener) -> None:
        """Tells `listener` no more; an unknown one is none of our business."""
        self._listeners = tuple(known for known in self._listeners if known is not listener)
        self._told = {}

    def tell(
        self,
        event: Callable[Concatenate[SessionListener, _Given], None],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> None:
        """Tells every listener that cares; one that raises is counted as `listener_failed`.

        `event` is the method of `SessionListener`: `tell(SessionListener.waits_unknown, 3)`.
        """
        for call in self._calls(event):
            if _raises(call, *given, **named):
                self.anomalies[Anomaly.LISTENER_FAILED] += 1
                for known in self._calls(SessionListener.anomaly):
                    _raises(known, Anomaly.LISTENER_FAILED)

    def anomaly(self, anomaly: Anomaly) -> None:
        """Counts an anomaly and tells it."""
        self.anomalies[anomaly] += 1
        self.tell(SessionListener.anomaly, anomaly)

    def _calls(self, event: Callable[..., None]) -> list[Callable[..., None]]:
        """The listeners' own methods for an event; found once, while the listeners stay the same."""
        calls = self._told.get(event)
        if calls is None:
            calls = self._told[event] = [
                getattr(listener, event.__name__)
                for listener in self._listeners
                if overrides(listener, event)
            ]
        return calls


def _raises(call: Callable[..., None], *given: object, **named: object) -> bool:
    try:
        call(*given, **named)
    except Exception:  # noqa: BLE001 - the guard: whatever a listener does, the request goes on
        return True
    return False
