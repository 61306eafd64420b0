"""Random schedules on one connection: requests and answers of every kind, in any pieces, in any order of theirs.

A simple model (`schedules.py`) says what the client gets, what the upstream sees, and what the books hold.
"""

import select
import socket
import struct
import time
from collections import Counter
from contextlib import suppress

import pytest

from sidecar.testing import OtlpSink, Received, RunningSidecar, Span
from sidecar.testing.messages import Message, MessageReader
from tests.hostility.schedules import LEAVING, Schedule, Turn, drawn, shown
from tests.hostility.witness import Turns, Witness, turns_of

SEEDS, BLOCK = 240, 80
PATIENCE = 20.0
"""Seconds for what must come."""

UNSERVED = {"client_left", "refused"}


Played = tuple[Schedule, list[Turn]]
"""A schedule, and its turns that have ended for its client."""


Answered = tuple[Turn, list[int], Message]
"""A turn, the statuses of its interim answers, and its answer."""


class Peer:
    """A client that never waits for its sends: what does not fit goes later."""

    def __init__(self, port: int, *, small_buffer: bool) -> None:
        self._socket = socket.socket()
        if small_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._pending = memoryview(b"")
        self.received = bytearray()
        self.closed = False
        """The other side has ended the connection."""
        self.broken = False
        """It did so while something was sent to it, and may have lost something by that."""
        self.reset = False
        """It did so by a reset."""

    def send(self, data: bytes) -> None:
        """Sends as much as fits."""
        self._pending = memoryview(bytes(self._pending) + data)
        self._push()

    def _push(self) -> None:
        with suppress(BlockingIOError):
            while self._pending:
                try:
                    self._pending = self._pending[self._socket.send(self._pending) :]
                except (BrokenPipeError, ConnectionResetError):
                    self.broken, self._pending = True, memoryview(b"")

    def read(self, most: int) -> None:
        """Takes what has come."""
        with suppress(BlockingIOError):
            while most > 0 and not self.closed:
                try:
                    data = self._socket.recv(min(most, 65_536))
                except ConnectionResetError:
                    data, self.reset = b"", True
                self.received += data
                most -= len(data)
                self.closed = not data

    def finish(self) -> None:
        """Sends and reads until the other side has closed."""
        end = time.monotonic() + PATIENCE
        while not self.closed:
            writing = [self._socket] if self._pending else []
            ready = select.select([self._socket], writing, [], end - time.monotonic())
            assert ready[0] or ready[1], "the connection stands still"
            self._push()
            self.read(1 << 22)

    def leave(self, how: str) -> None:
        """Goes away."""
        if how == "half-close":
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            return
        if how == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Closes its socket."""
        self._socket.close()


def carry_out(schedule: Schedule, peer: Peer, turns: Turns) -> None:
    """Does what the schedule says, and all that is left at its end."""
    stream = b"".join(turn.data for turn in schedule.turns)
    for word, first, second in schedule.actions:
        if word == "send":
            peer.send(stream[:first])
            stream = stream[first:]
        elif word == "read":
            peer.read(first)
        elif word == "leave":
            turns.wait()  # what was sent is under way, and is counted
            peer.leave(LEAVING[first])
            return
        elif word == "wait":
            turns.wait()
        else:
            turn = schedule.turns[first]
            waited_for = turn.at == second
            turn.gates[second].open()
            while waited_for and turn.at == second:
                turns.wait()
    peer.finish()


def answers_in(peer: Peer, asked: list[Turn]) -> tuple[list[Answered], bytes]:
    """The answers that were received, with the interim ones before each, and the bytes that belong to none."""
    found: list[Answered] = []
    rest = bytes(peer.received)
    for turn in asked:
        interim: list[int] = []
        while rest:
            reader = MessageReader(turn.method)
            reader.feed(rest)
            rest = bytes(reader.rest)
            if not reader.head_read:
                return found, b""  # a head that was cut
            if reader.message.status >= 200:
                found.append((turn, interim, reader.message))
                break
            interim.append(reader.message.status)
        else:
            break
        if turn.old and not peer.reset:
            reader.end()
        if not reader.message.complete:
            return found, b""
        if turn.last or turn.refused:
            break
    return found, rest


def check_answer(turn: Turn, interim: list[int], message: Message, *, whole: bool) -> None:
    """This is the answer of that turn, all of it if it must be `whole`."""
    hundreds = Counter(interim)
    assert hundreds[100] <= turn.hesitates, (turn, interim)
    if message.status == turn.refused or (turn.cut and message.status == 502):
        assert message.complete, turn
        return
    assert (message.status, message.get("x-turn")) == (turn.status, turn.name.encode()), (turn, message)
    assert hundreds[103] == turn.interim, (turn, interim)
    assert turn.said.startswith(message.body), turn
    assert not (turn.cut and message.complete), turn
    if whole and not turn.cut:
        assert (message.complete, message.body) == (True, turn.said), turn
    assert (b"close" in (message.get("connection") or b"")) == turn.last, (turn, message.head)


def query(request: Received) -> bytes:
    """The name of its turn."""
    return request.target.partition(b"?")[2]


def check_upstream(seen: list[Received], served: list[Turn], *, left: bool) -> None:
    """Each request went up in its turn, once and whole, and no other did."""
    names = [query(request).decode() for request in seen]
    expected = [turn.name for turn in served if not turn.refused]
    refused = [turn.name for turn in served if turn.refused]
    passed = [name for name in dict.fromkeys(names) if name not in refused]
    assert passed == expected[: len(passed) if left else None]
    for turn in served:
        mine = [request for request, name in zip(seen, names, strict=True) if name == turn.name]
        if turn.refused:
            assert not any(request.complete for request in mine), turn
        elif turn.cut or left:
            assert all(turn.body.startswith(request.body) for request in mine), turn
        else:
            assert len(mine) == 1 or (turn.dropped and len(mine) == 2), turn
            assert all(turn.body.startswith(request.body) for request in mine), turn
            assert turn.early or (mine[-1].complete and mine[-1].body == turn.body), turn


def check_spans(spans: list[Span], played: list[Played]) -> None:
    """One span for each request that was begun, with its own outcome."""
    told = {str(span.attributes.get("session.id")): span for span in spans}
    assert len(told) == len(spans), Counter(span.attributes.get("session.id") for span in spans).most_common(
        3
    )
    for schedule, done in played:
        for turn in schedule.turns:
            span = told.pop(turn.name, None)
            if span is None:
                assert turn not in done, (turn, schedule)
                continue
            expected = turn.outcomes if turn in done else turn.outcomes | UNSERVED
            assert span.attributes["sidecar.outcome"] in expected, (span, turn, schedule)
            assert span.attributes["url.path"] == turn.path, (span, turn, schedule)
            method = span.attributes["http.request.method"]
            assert method == turn.method or (method == "_OTHER" and turn not in done), (span, turn, schedule)
    # What is left had no whole head.
    assert all(span.attributes["sidecar.outcome"] in UNSERVED for span in told.values()), told


def play(seed: int, sidecar: RunningSidecar, witness: Witness, turns: Turns) -> Played:
    """Plays the schedule of a seed, and compares what both sides saw with the model; gives the turns that ended."""
    schedule = drawn(seed)
    by_name = {turn.name.encode(): turn for turn in schedule.turns}
    witness.clear()
    witness.answer_with(
        lambda request: turn.script(request) if (turn := by_name.get(query(request))) is not None else ()
    )
    peer = Peer(sidecar.port, small_buffer=schedule.small_buffer)
    try:
        carry_out(schedule, peer, turns)
        found, rest = answers_in(peer, schedule.turns)
        lost = peer.reset and not (found and found[-1][0].endless and found[-1][0].cut)
        left = schedule.leaves or peer.broken or lost
        for turn, interim, message in found:
            check_answer(turn, interim, message, whole=not left)
        assert not rest, shown(rest)
        ended = [turn for turn, _, message in found if message.complete or not left]
        assert left or (ended and (ended[-1].last or ended[-1].cut or ended[-1].refused))
        if left:
            sidecar.wait_until(lambda: not sidecar.stats()["requests"]["in_flight"])
            for gate in (gate for turn in schedule.turns for gate in turn.gates):
                gate.open()  # an upstream that holds its reading does not see that it is left
            witness.wait_for(witness.broken_off)
        seen = [request for request in witness.requests if query(request) in by_name]
        check_upstream(seen, schedule.turns if left else ended, left=left)
        assert witness.errors == []
    except BaseException as error:
        error.add_note(f"seed {seed}:\n{schedule}\nreceived: {shown(bytes(peer.received))}")
        raise
    finally:
        peer.close()
    return schedule, ended


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_schedules(first: int) -> None:
    """Whatever comes when: each request has its own answer, in its turn, and one outcome."""
    environ = {
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    with Witness() as witness, OtlpSink() as sink:
        with (
            RunningSidecar(
                upstream=witness.url, sink=sink, settings={"INSPECT_LIMIT": "1MiB"}, environ=environ
            ) as sidecar,
            turns_of(sidecar) as turns,
        ):
            played = [play(seed, sidecar, witness, turns) for seed in range(first, first + BLOCK)]
            requests = sidecar.stats()["requests"]
            assert requests["started"] == requests["settled"] + requests["in_flight"]
            assert sidecar.stop() == 0
        check_spans(sink.find_spans(kind="SERVER"), played)
