"""What is kept of short conversations is the same, however many of them have come and gone."""

import gc
import json
import sys
from collections.abc import Callable
from itertools import count

from sidecar.core.digests import Digester, History, Kind, Message, Role, Said
from sidecar.core.echo import Echo
from sidecar.core.histories import Histories
from sidecar.core.identity import Identity, Source
from sidecar.core.threads import placed
from tests.histories.shown import WAITS

LIMIT, CONVERSATIONS = 2_000, 100_000
EVERY = 1_000_000
"""Ns between two conversations."""


class Traffic:
    """A memory, and conversations that pass it as digests: no body is read, and none is written."""

    def __init__(self, limit: int) -> None:
        self.digester = Digester(b"a key of some bytes")
        self.memory = Histories(limit, self._count, lambda: None, WAITS)
        self.forgotten = 0
        self.joined = 0
        self._number = count(1)
        self._system = self._message(Role.SYSTEM, "You help.")

    def _count(self, _anomaly: object) -> None:
        self.forgotten += 1

    def _message(self, role: bytes, text: str) -> Message:
        """A message that is one text."""
        digest = self.digester.message(role, [(Kind.TEXT, text.encode())])
        said = Said(self.digester, (), text, self.digester.text(text)) if role is Role.MODEL else None
        lasting = b"" if role is Role.SYSTEM else digest
        return Message(role, digest, lasting, lasting, said)

    def user(self, text: str) -> Message:
        """What a user says."""
        return self._message(Role.USER, text)

    def model(self, text: str) -> Message:
        """What was answered."""
        return self._message(Role.MODEL, text)

    def turn(
        self,
        said: list[Message],
        answer: Callable[[Echo], None],
        session: str = "",
        *,
        task: str = "",
        title: bool = False,
    ) -> None:
        """A request of a session that is named or not, answered to its end. `task` is what its user says first, if that counts."""
        number = next(self._number)
        source = Source.KNOWN_HEADER if session else Source.GENERATED
        identity = Identity(session or f"made-up-{number}", source, session_supplied=bool(session))
        first = self.digester.task(task) if task else b""
        history = History(self.digester, [self._system, *said], b"", task=lambda: first)
        history.titles = title
        place = self.memory.recognise(history, identity, number * EVERY)
        self.joined += place.joins
        identity, echo = placed(identity, place), Echo(self.digester)
        past = self.memory.remember(place, history, number.to_bytes(24, "big"), echo, identity)
        history.forget()
        answer(echo)
        self.memory.answered(past, whole=True, at=number * EVERY)


def _said(text: str) -> Callable[[Echo], None]:
    return lambda echo: echo.text(0, text)


def _task(number: int) -> str:
    return f"Do the task number {number} of them all."


def _called(number: int) -> Callable[[Echo], None]:
    """An answer that calls a sub-agent: its id, and its task."""

    def answer(echo: Echo) -> None:
        echo.id(f"call_{number:016x}a1b2", "agent")
        echo.arguments(0, 0, json.dumps({"prompt": _task(number)}))

    return answer


def _converse(traffic: Traffic, number: int) -> None:
    """One conversation of four kinds: a turn, two turns, one with a sub-agent, one in a named session with a title."""
    asked, text = traffic.user(f"What is number {number}?"), f"It is the number {number}."
    kind = number % 4
    if kind == 0:
        traffic.turn([asked], _said(text))
    elif kind == 1:
        traffic.turn([asked], _said(text))
        traffic.turn([asked, traffic.model(text), traffic.user("Why?")], _said(f"So it is: {text}"))
    elif kind == 2:
        traffic.turn([asked], _called(number))
        traffic.turn([traffic.user(_task(number))], _said(f"It is done: {number}."), task=_task(number))
    else:
        traffic.turn([asked], _said(text), f"session-{number}")
        traffic.turn([asked], _said(f"Number {number}"), f"session-{number}", title=True)


def _books(memory: Histories) -> dict[str, dict[object, object] | set[bytes]]:
    finder = memory._finder
    return {
        name: getattr(owner, name)
        for owner, name in (
            *((memory, name) for name in ("_turns", "_threads", "_lanes")),
            *((finder, name) for name in ("found", "_gone", "_gone_before")),
        )
    }


def test_short_conversations_without_end() -> None:
    """Between the 50,000th and the 100,000th of them nothing grows: no map of the memory, and nothing that it refers to."""
    traffic = Traffic(LIMIT)
    kept: list[tuple[dict[str, int], int, int]] = []
    for number in range(CONVERSATIONS):
        _converse(traffic, number)
        if number + 1 in (CONVERSATIONS // 2, CONVERSATIONS):
            gc.collect()
            books = _books(traffic.memory)
            sizes = sum(sys.getsizeof(book) for name, book in books.items() if "gone" not in name)
            kept.append(({name: len(book) for name, book in books.items()}, sizes, sys.getallocatedblocks()))
    (counts, size, blocks), (later, later_size, later_blocks) = kept
    assert traffic.joined == CONVERSATIONS // 2, "one turn of every second conversation"
    assert traffic.forgotten == CONVERSATIONS * 7 // 4 - LIMIT, "all but the latest turns"
    assert counts["_turns"] == later["_turns"] == LIMIT
    for name in ("_threads", "_lanes", "_gone", "_gone_before"):
        assert later[name] <= LIMIT + 64, name
    assert later["found"] <= counts["found"] * 1.01 <= 8 * LIMIT
    assert later_size <= size * 1.1
    assert later_blocks - blocks < 2 * LIMIT, "not one object for ten conversations"
