"""The measuring itself: rounds, each with a fresh process of every row, one row after the other.

Owns what is done to a proxy and in which order, and the figures of each round. It draws no conclusion. What
it fills is rendered elsewhere.
"""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine, openloop, streams, unary
from bench.processes import Running, StartError
from bench.results import BASE, MEASURED
from bench.rows import ROWS, Row, World, populate

COLUMNS = ("unary", "streams", "latency", "memory")
NEED_WRK = {"unary", "latency"}
"""The latency column too: its rate is half of what wrk finds."""

TOLD = (
    "requests_per_s",
    "cpu_us_per_request",
    "cpu_share",
    "p50_us",
    "p99_us",
    "cpu_us_per_event",
    "idle_mb",
    "streams_mb",
    "most_streams",
    "most_streams_mb",
)
"""The figures that are said while a run goes on."""

_OTHER_FILES = 1200
"""Files that a process may have open beside the connections of streams; some the sidecar keeps for its upstreams."""

_SETTLE = 0.5
"""Seconds before a look at something that shall be at rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. Times in seconds."""

    rounds: int
    columns: tuple[str, ...]
    warm_seconds: int = 1
    unary_seconds: int = 2
    stream_seconds: float = 3.0
    latency_seconds: float = 2.5
    connections: int = unary.CONNECTIONS
    streams: int = 100
    stream_every_ms: int = 20
    many_streams: int = 1000
    many_every_ms: int = 1000
    many_rounds: int = 3
    """The rounds that open so many: memory differs little between them, and opening takes its time. Those with a crowd, too."""
    most_every_ms: int = 10_000
    most_streams: int = 10_000
    """How many are opened once, in the first round, through the sidecar, or as many as there may be files open."""


QUICK = Plan(rounds=3, columns=("unary", "streams"), stream_seconds=2.0)
FULL = Plan(rounds=3, columns=COLUMNS)

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a round needs beside its row."""

    world: World
    plan: Plan
    requests: Path
    rate: float
    """Requests per second of the latency column, unless half of what a row can do is less."""


class Guest:
    """One row in one round: a process of its own. What fails is told, and the rest is still measured."""

    def __init__(self, bench: Bench, row: Row, number: int) -> None:
        self._bench = bench
        self._number = number
        self.row = row
        self.figures: Figures = {}
        self.failures: list[str] = []
        self._proxy: Running | None = None

    def start(self, folder: Path) -> None:
        """Starts the proxy, sees it idle and answering, and holds it until it is asked for."""
        folder.mkdir(parents=True)
        try:
            self._proxy = self.row.start(self._bench.world, folder)
            self._proxy.ready()
            if "memory" in self._bench.plan.columns:
                time.sleep(_SETTLE)
                self.figures["idle_mb"] = self._proxy.memory()
            self._proxy.answers(verbatim=self.row.verbatim)
            if self.row.sessions and self._number < self._bench.plan.many_rounds:
                populate(self._proxy.port, self.row.sessions)
            self._proxy.pause()
        except (StartError, OSError, ValueError) as error:
            self._fail(error)
            self.stop()

    def measure(self, step: "Step") -> None:
        """Lets the proxy run for one step."""
        if self._proxy is None:
            return
        self._proxy.resume()
        try:
            self.figures |= step(self, self._proxy)
        except (ValueError, OSError) as error:
            self._fail(error)
        self._proxy.pause()

    def stop(self) -> None:
        """Ends the proxy."""
        if self._proxy is not None:
            self._proxy.stop()
            self._proxy = None

    def _fail(self, error: Exception) -> None:
        self.failures.append(f"{self.row.title}, round {self._number + 1}: {str(error) or repr(error)}")

    def unary(self, proxy: Running) -> Figures:
        """As fast as it goes.

        Raises:
            ValueError: not every request was answered with 200.
        """
        plan, requests = self._bench.plan, self._bench.requests
        if self.row.sessions and self._number >= plan.many_rounds:
            return {}
        unary.load(proxy.url, requests, plan.warm_seconds)
        before = proxy.cpu()
        said = unary.load(proxy.url, requests, plan.unary_seconds)
        used = proxy.cpu() - before
        if said.errors or not said.requests:
            raise ValueError(f"{said.errors} errors of {said.requests} requests")
        return {
            "requests_per_s": said.rate,
            "cpu_us_per_request": used / said.requests * 1e6,
            "cpu_share": used / said.seconds,
        }

    def memory(self, proxy: Running) -> Figures:
        """What is resident after the full load, if there was one."""
        return {"load_mb": proxy.memory()} if "requests_per_s" in self.figures else {}

    def latency(self, proxy: Running) -> Figures:
        """At half of what the base row can do, or of what this one can.

        Raises:
            ValueError: answers were lost.
        """
        own = self.figures.get("requests_per_s", math.inf) / 2
        return latency(proxy.port, min(self._bench.rate, own), self._bench.plan)

    def streams(self, proxy: Running) -> Figures:
        """What an event costs.

        Raises:
            ValueError, TimeoutError: streams did not begin, or ended.
        """
        return asyncio.run(stream_events(proxy, self._bench.plan, self.row.stream_path))

    def many_streams(self, proxy: Running) -> Figures:
        """What is resident with very many streams, in the first rounds.

        Raises:
            ValueError, TimeoutError: streams did not begin, or ended.
        """
        plan = self._bench.plan
        if self._number >= plan.many_rounds:
            return {}
        memory = stream_memory(proxy, plan.many_streams, plan.many_every_ms, self.row.stream_path)
        return {"streams_mb": asyncio.run(memory)}

    def most_streams(self, proxy: Running) -> Figures:
        """What is resident with as many streams as one process can have, once; raises as `many_streams` does."""
        plan = self._bench.plan
        if self._number or self.row.name != MEASURED:
            return {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(plan.most_streams, (limit - _OTHER_FILES) // 2)
        memory = asyncio.run(stream_memory(proxy, count, plan.most_every_ms, self.row.stream_path))
        return {"most_streams": count, "most_streams_mb": memory}

    def ledger(self, proxy: Running) -> Figures:
        """What became of the telemetry so far, where the proxy is a sidecar."""
        if proxy.admin is None:
            return {}
        connection = http.client.HTTPConnection("127.0.0.1", proxy.admin, timeout=5)
        try:
            connection.request("GET", "/stats")
            ledger = json.loads(connection.getresponse().read())["telemetry"]
        finally:
            connection.close()
        return {
            f"{signal}_{state}": count for signal, states in ledger.items() for state, count in states.items()
        }


Step = Callable[[Guest, Running], Figures]

STEPS: tuple[tuple[str, Step], ...] = (
    ("unary", Guest.unary),
    ("memory", Guest.memory),
    ("latency", Guest.latency),
    ("streams", Guest.streams),
    ("memory", Guest.many_streams),
    ("memory", Guest.most_streams),
)
"""In this order, each for all rows one after the other before the next: so what is compared lies close together."""


def one_round(bench: Bench, number: int, rows: Sequence[Row], folder: Path) -> list[Guest]:
    """All rows side by side; while one is measured, the others are held."""
    guests = [Guest(bench, row, number) for row in rows]
    with contextlib.ExitStack() as stack:
        for guest in guests:
            stack.callback(guest.stop)
            guest.start(folder / f"{guest.row.name}-{number}")
        for column, step in STEPS:
            if column in bench.plan.columns:
                for guest in guests:
                    guest.measure(step)
        for guest in guests:
            guest.measure(Guest.ledger)
    return guests


def direct(bench: Bench) -> Figures:
    """The same without a proxy: what the load's core can do, and the latency that is not the proxy's.

    Raises:
        ValueError: the provider did not answer every request.
    """
    plan, figures = bench.plan, Figures()
    port = int(bench.world.unary.rpartition(":")[2])
    if "unary" in plan.columns:
        said = unary.load(f"http://127.0.0.1:{port}", bench.requests, plan.warm_seconds)
        figures["requests_per_s"] = said.rate
    if "latency" in plan.columns:
        figures |= latency(port, bench.rate, plan)
    return figures


def latency(port: int, rate: float, plan: Plan) -> Figures:
    """Percentiles at a rate.

    Raises:
        ValueError: answers were lost.
    """
    said = openloop.measure(port, rate, plan.latency_seconds)
    if said.lost:
        raise ValueError(f"{said.lost} of {said.requests} requests at {rate:.0f}/s had no answer with 200")
    return {
        "latency_rate": rate,
        "p50_us": said.p50_us,
        "p99_us": said.p99_us,
        "late_p99_us": said.late_p99_us,
    }


async def stream_events(proxy: Running, plan: Plan, path: str) -> Figures:
    """CPU per event, once all streams have begun; raises what `Guest.streams` says."""
    async with streams.Streams(proxy.port, plan.streams, plan.stream_every_ms, path) as clients:
        await asyncio.sleep(_SETTLE)
        events, used, began = clients.events, proxy.cpu(), time.perf_counter()
        await asyncio.sleep(plan.stream_seconds)
        events, used = clients.events - events, proxy.cpu() - used
        seconds = time.perf_counter() - began
        _all_there(clients, plan.streams)
        if not events:
            raise ValueError(f"no event of {plan.streams} streams came within {seconds:.1f} s")
        return {"cpu_us_per_event": used / events * 1e6, "events_per_s": events / seconds}


async def stream_memory(proxy: Running, count: int, every: int, path: str) -> float:
    """Memory (MB) with so many streams open, an event in each `every` ms; raises what `Guest.many_streams` says."""
    async with streams.Streams(proxy.port, count, every, path) as clients:
        await asyncio.sleep(1.0)
        _all_there(clients, count)
        return proxy.memory()


def _all_there(clients: streams.Streams, wanted: int) -> None:
    if clients.open < wanted or not clients.events:
        raise ValueError(f"{clients.open} of {wanted} streams are left, {clients.events} events came")


def half_load(world: World, requests: Path, folder: Path) -> float:
    """Half of what the base row does, in requests per second.

    Raises:
        StartError, ValueError: it could not be measured.
    """
    folder.mkdir(parents=True)
    base = next(row for row in ROWS if row.name == BASE)
    with base.start(world, folder) as proxy:
        proxy.answers()
        unary.load(proxy.url, requests, 1)
        return unary.load(proxy.url, requests, 2).rate / 2


def measurable(plan: Plan) -> Plan:
    """The plan without the columns that need what is missing here."""
    if machine.program("wrk") is not None:
        return plan
    return dataclasses.replace(plan, columns=tuple(one for one in plan.columns if one not in NEED_WRK))


def not_measurable(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What cannot be measured here, in sentences."""
    told = [f"{row.title}: not measured, {row.needs} is not installed" for row in rows if row.missing]
    if machine.program("wrk") is None and NEED_WRK & {*columns}:
        told.append("requests/s, CPU per request and added latency: not measured, wrk is not installed")
    if machine.cores()[0] & machine.cores()[1]:
        told.append("there is one core only: proxy and load share it, and no figure here says much")
    return told
