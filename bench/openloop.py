"""Latency at a fixed rate: requests leave when they are due, whatever has become of the earlier ones.

Owns the schedule (seeded, the same for every proxy) and the clients that keep to it. A latency is counted from the
moment its request was due, so a proxy that stalls cannot hide it.
"""

import math
import random
import select
import socket
import time
from dataclasses import dataclass

from bench import traffic

SEED = 20260101
MOST_CONNECTIONS = 400
_DRAIN = 5.0
"""Seconds for the last answers to come."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles in microseconds, how late requests left (99th percentile), and how many were lost."""

    p50_us: float
    p99_us: float
    late_p99_us: float
    requests: int
    lost: int


def schedule(rate: float, seconds: float) -> list[float]:
    """When requests are due, in seconds from the start: `rate` a second, at random distances."""
    dice = random.Random(SEED)
    due, at = [], 0.0
    while (at := at + dice.expovariate(rate)) < seconds:
        due.append(at)
    return due


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class _Clients:
    """Connections that are kept; one that is busy is not used, and a new one is opened where all are."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[socket.socket] = []
        self._busy: dict[socket.socket, tuple[float, traffic.AnswerEnd]] = {}
        self.latencies: list[float] = []
        self.lost = 0

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._busy)

    def send(self, request: bytes, due: float) -> None:
        """One request that was due at `due`."""
        if not self._idle and len(self._busy) >= MOST_CONNECTIONS:
            self.lost += 1
            return
        connection = self._idle.pop() if self._idle else self._open()
        self._busy[connection] = (due, traffic.AnswerEnd())
        connection.sendall(request)

    def warm(self, count: int) -> None:
        """Opens connections before they are needed."""
        self._idle += [self._open() for _ in range(count)]

    def _open(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def receive(self, timeout: float) -> None:
        """Takes what has come, waiting `timeout` seconds at most, to the microsecond."""
        readable, _, _ = select.select([*self._busy], [], [], max(0.0, timeout))
        for connection in readable:
            data = connection.recv(65536)
            due, end = self._busy[connection]
            if not data:
                self.lost += 1
                del self._busy[connection]
                connection.close()
            elif end.feed(data):
                self.latencies.append(time.perf_counter() - due)
                self.lost += not end.ok
                del self._busy[connection]
                self._idle.append(connection)

    def close(self) -> None:
        """Closes all; what has not been answered is lost."""
        self.lost += len(self._busy)
        for connection in (*self._idle, *self._busy):
            connection.close()


def measure(port: int, rate: float, seconds: float, *, warm: int = 16) -> Latencies:
    """Asks at `rate` requests a second, for `seconds`."""
    requests, lateness = traffic.requests(), []
    clients = _Clients(port)
    due_times = schedule(rate, seconds)
    try:
        clients.warm(warm)
        start = time.perf_counter() + 0.05
        for number, offset in enumerate(due_times):
            due = start + offset
            while (left := due - time.perf_counter()) > 0:
                clients.receive(left)
            lateness.append(time.perf_counter() - due)
            clients.send(requests[number % len(requests)], due)
        end = time.perf_counter() + _DRAIN
        while clients.waiting and time.perf_counter() < end:
            clients.receive(0.1)
    finally:
        clients.close()
    micro = [latency * 1e6 for latency in clients.latencies]
    late = percentile(lateness, 0.99) * 1e6
    return Latencies(percentile(micro, 0.5), percentile(micro, 0.99), late, len(due_times), clients.lost)
