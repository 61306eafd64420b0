"""The loss ledger: what became of every span, log record, metric point and line.

Owns the counts, and the law that they add up: whatever was created is in exactly one state, at every moment.
One lock per signal, held for a few additions, since the event loop and that signal's worker both count; what is made of
requests is counted while it is handed over, under the lock of what hands it over.
Counted by the pipeline; read by the admin port and by the metrics `sidecar.telemetry.items` and `.queue`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sidecar.telemetry import metrics
from sidecar.telemetry import names as n
from sidecar.telemetry.metric_store import MetricStore


class Signal(StrEnum):
    """What OTLP carries."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"


class State(StrEnum):
    """What became of an item, once and for all."""

    EXPORTED = "exported"
    """The collector took it."""
    REJECTED = "rejected"
    """The collector answered that it took the batch, but not this one (`partial_success`)."""
    DROPPED = "dropped"
    """Never sent: the queue was full, or the sidecar had to end."""
    FAILED = "failed"
    """Refused for good, or retries exhausted."""
    UNCONFIRMED = "unconfirmed"
    """Somebody answered that all is well, but not as an OTLP receiver does."""
    UNKNOWN = "unknown"
    """Sent, but no answer came in time: it may have arrived."""
    NOT_SAMPLED = "not_sampled"
    """The sampler did not want it."""


LINES = "lines"
"""The page of the process's own lines on stderr, beside those of the signals."""
QUEUED = "queued"
CREATED = "created"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one batch: how many were exported, rejected and so on, and why not all were.

    `warning` is what a receiver says although it took all; `returned` are the parts that certainly did not arrive;
    `silence`: seconds for which the receiver wants nothing more.
    """

    counts: dict[State, int]
    reason: str = ""
    warning: str = ""
    returned: tuple[Any, ...] = ()
    silence: float = 0.0

    @classmethod
    def of(cls, state: State, count: int, reason: str = "") -> "Delivery":
        """All of the batch met the same fate."""
        return cls({state: count}, reason)

    def with_more(self, other: "Delivery") -> "Delivery":
        """Both together; the first reason stays."""
        counts = {state: self.counts.get(state, 0) + other.counts.get(state, 0) for state in State}
        return Delivery(
            {state: count for state, count in counts.items() if count},
            self.reason or other.reason,
            self.warning or other.warning,
            self.returned + other.returned,
            max(self.silence, other.silence),
        )

    @property
    def complete(self) -> bool:
        """True if everything was exported."""
        return not any(count for state, count in self.counts.items() if state is not State.EXPORTED)


class Account:
    """One signal's page of the ledger. Its lock also guards the queue that the pipeline keeps beside it."""

    __slots__ = ("created", "handing_over", "lock", "pending", "queued", "states")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.created = 0
        self.queued = 0
        """Waiting to be exported, or being exported."""
        self.states = dict.fromkeys(State, 0)
        self.pending: Callable[[], int] = int
        """How many more have been created, and wait to be made."""
        self.handing_over: AbstractContextManager[object] = nullcontext()
        """Held while some of these become such as are counted here."""

    def not_made(self, count: int, state: State = State.NOT_SAMPLED) -> None:
        """Counts what was not even made: the sampler did not want it, or nobody had the time (`dropped`)."""
        with self.lock:
            self.created += count
            self.states[state] += count

    def snapshot(self) -> dict[str, int]:
        """`created`, `queued` and each state; the first is the sum of the others."""
        with self.handing_over, self.lock:
            pending = self.pending()
            counts = {CREATED: self.created + pending, QUEUED: self.queued + pending}
            counts.update((state.value, count) for state, count in self.states.items())
        return counts


class Ledger:
    """The accounts of all three signals, of the lines, and of what signals write on standard output."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {page: Account() for page in (*Signal, LINES)}

    def account(self, page: str) -> Account:
        """A signal's page, that of the `LINES`, or that of a signal's console (`console_traces`), opened when asked for."""
        return self._accounts.setdefault(page, Account())

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Per signal: `created`, `queued`, and each state."""
        return {str(signal): account.snapshot() for signal, account in self._accounts.items()}

    def items(self) -> Iterator[tuple[str, str, int]]:
        """Signal, state and count since the start, for `sidecar.telemetry.items`; states that are empty too.

        What is still queued is no state of an item: `queues` tells it.
        """
        for signal, account in self._accounts.items():
            counts = account.snapshot()
            for state in State:
                yield str(signal), state.value, counts[state.value]

    def queues(self) -> Iterator[tuple[str, int]]:
        """Signal and how many of its items wait, or are under way, for `sidecar.telemetry.queue`."""
        for signal, account in self._accounts.items():
            yield str(signal), account.snapshot()[QUEUED]


def observe_ledger(store: MetricStore, ledger: Ledger) -> None:
    """Lets the store ask the ledger what became of every item, and how many wait."""
    store.observe(
        metrics.TELEMETRY_ITEMS,
        lambda: (
            (count, ((n.TELEMETRY_SIGNAL, signal), (n.TELEMETRY_STATE, state)))
            for signal, state, count in ledger.items()
        ),
    )
    store.observe(
        metrics.TELEMETRY_QUEUE,
        lambda: ((count, ((n.TELEMETRY_SIGNAL, signal),)) for signal, count in ledger.queues()),
    )
