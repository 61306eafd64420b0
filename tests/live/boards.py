"""Boards, what they keep and browsers that never were, for tests of a board; and a reader of the stream that it tells."""

import json
import socket
from collections.abc import Callable, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self

from sidecar.core.clock import SECOND
from sidecar.core.exchange import Exchange, RequestHead
from sidecar.core.facts import Outcome, Route
from sidecar.core.headers import Headers
from sidecar.live import Board, Ended, ended


def empty_board() -> Board:
    """A board that nobody fills."""
    return Board(
        limit=10,
        since=lambda: 0,
        in_flight=list,
        figures=lambda: {"state": "ready"},
        about={"version": "1", "data": "http://127.0.0.1:1", "links": {}, "age_s": 60.0, "live": True},
        now=lambda: 1_000_000,
    )


class Looking:
    """A browser, as far as the stream goes: `bars` by id, `figures` as told last, `hellos` counted."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._socket.sendall(f"GET /live/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.fields: dict[str, str] = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            self.fields[name.lower()] = value
        self.bars: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.hellos = 0
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def read(self) -> bool:
        """Takes one piece of the stream; False at its end."""
        size = int(self._file.readline().strip() or b"0", 16)
        self._text += self._file.read(size).decode()
        self._file.readline()
        *frames, self._text = self._text.split("\n\n")
        for frame in frames:
            if frame.startswith(":"):
                continue
            event, data = frame.split("\n")
            self._take(event.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        return size > 0

    def _take(self, event: str, document: dict[str, Any]) -> None:
        if event == "hello":
            self.hellos += 1
            self.about = document
            self.bars.clear()
        self.figures = document.get("figures", self.figures)
        for bar in document.get("bars", ()):
            self.bars[bar["id"]] = bar

    def until(self, condition: Callable[[], object]) -> None:
        """Reads on until it holds.

        Raises:
            AssertionError: the stream ended before, or it did not hold in time.
        """
        deadline = monotonic() + 60
        while not condition():
            assert self.read(), "the stream has ended"
            assert monotonic() < deadline, f"not told in time: {self.bars}"

    def one(self, **wanted: object) -> dict[str, Any]:
        """The bar with these values, waited for."""

        def found() -> list[dict[str, Any]]:
            return [
                bar for bar in self.bars.values() if all(bar[key] == value for key, value in wanted.items())
            ]

        self.until(found)
        return found()[0]

    def ended(self, outcome: str) -> list[dict[str, Any]]:
        """The bars with this outcome, in the order of their ends."""
        found = [bar for bar in self.bars.values() if bar["outcome"] == outcome]
        return sorted(found, key=lambda bar: int(bar["end"]))


class Ids:
    """A trace of an exchange that is never exported."""

    def __init__(self, number: int) -> None:
        self.trace_id = self.server_span_id = self.client_span_id = number
        self.sampled = False

    def outbound(self) -> tuple[()]:
        """Nothing."""
        return ()


class Connection:
    """A browser's connection: what was written lies in it until it is read."""

    def __init__(self) -> None:
        self.unread: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        """Keeps it."""
        self.unread.append(data)

    def get_write_buffer_size(self) -> int:
        """What was not read."""
        return sum(map(len, self.unread))

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def abort(self) -> None:
        """Closes it."""
        self.closing = True

    def read(self) -> bytes:
        """All that lies in it."""
        text = b"".join(self.unread)
        self.unread.clear()
        return text


def in_flight(number: int) -> Exchange:
    """An exchange that has arrived."""
    head = RequestHead("GET", b"/", "HTTP/1.1", Headers([]))
    return Exchange(start=number, head=head, trace=Ids(number), route=Route("/"), arrived=number)


def settled(number: int) -> Ended:
    """What is kept of an exchange that has ended."""
    head = RequestHead("GET", b"/", "HTTP/1.1", Headers([]))
    one = Exchange(start=number * SECOND, head=head, trace=Ids(number), route=Route("/"))
    one.decide(Outcome.COMPLETED, one.start)
    one.settle(one.start + SECOND)
    return ended(one, {}, {})
