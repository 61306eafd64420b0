"""What the two sides of a request and its flow ask of each other, as shapes.

Owns nothing but the walls: a flow knows its client through `Client`, an upstream connection knows its flow
through `Reader`. So neither side knows the other, and the arrows run one way.
"""

from collections.abc import Callable
from typing import Protocol

from sidecar.proxy.inbound import Inbound


class Client(Protocol):
    """The client's connection, as a flow sees it."""

    @property
    def writable(self) -> bool:
        """False while the client takes no more."""

    @property
    def paused(self) -> bool:
        """True while it is not read from."""

    @property
    def read_at(self) -> int:
        """When the latest bytes came (ns since the epoch)."""

    @property
    def heard_at(self) -> int:
        """When the client was last heard of: now, while something of it waits to be parsed."""

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""

    def expect_body(self, inbound: Inbound) -> None:
        """The body is wanted."""

    def pause(self) -> None:
        """Stops reading."""

    def resume(self) -> None:
        """Reads on."""

    @property
    def set_deadline(self) -> Callable[[int], None]:
        """Says when `due` is to be called (ns since the epoch)."""

    def flow_done(self, inbound: Inbound, *, keep: bool, cut: bool = False) -> None:
        """The flow has settled."""

    def drop(self) -> None:
        """Nothing goes on here: a bug has struck."""


class Reader(Protocol):
    """The flow, as its upstream connection sees it."""

    def answer_read(self, at: int) -> None:
        """Something of the answer was read; pull it."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone (None: a clean end)."""

    def upstream_blocked(self) -> None:
        """Its send buffer is full."""

    def upstream_ready(self) -> None:
        """Its send buffer has drained."""

    def broke(self, error: Exception) -> None:
        """A bug struck."""
