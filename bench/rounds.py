"""The measuring itself: rounds, each with a fresh process of every row, one row after the other.

Owns what is done to a proxy and in which order, and the figures of each round. It draws no conclusion. Called by
the command line; what it fills is rendered elsewhere.
"""

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine, openloop, streams, unary
from bench.processes import Running
from bench.rows import Row, World

COLUMNS = ("unary", "streams", "latency", "memory")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. Times in seconds."""

    rounds: int
    columns: tuple[str, ...]
    warm_seconds: int = 1
    unary_seconds: int = 4
    stream_seconds: float = 4.0
    latency_seconds: float = 4.0
    streams: int = 100
    stream_every_ms: int = 20
    many_streams: int = 1000
    many_every_ms: int = 1000


QUICK = Plan(rounds=3, columns=("unary", "streams"), unary_seconds=2, stream_seconds=2.0, latency_seconds=2.0)
FULL = Plan(rounds=5, columns=COLUMNS)

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a round needs beside its row."""

    world: World
    plan: Plan
    requests: Path
    rate: float
    """Requests per second of the latency column, unless half of what a row can do is less."""


def round_of(bench: Bench, row: Row, folder: Path) -> Figures:
    """One row's figures of one round.

    Raises:
        StartError: it did not become ready.
        ValueError, TimeoutError: it could not be measured.
    """
    folder.mkdir(parents=True)
    plan = bench.plan
    figures: Figures = {}
    with row.start(bench.world, folder).ready() as proxy:
        if "memory" in plan.columns:
            time.sleep(0.5)
            figures["idle_mb"] = proxy.memory()
        proxy.answers()
        if "unary" in plan.columns or "latency" in plan.columns:
            figures |= _unary(bench, proxy)
        if "memory" in plan.columns:
            figures["load_mb"] = proxy.memory()
        if "latency" in plan.columns:
            figures |= latency(proxy.port, min(bench.rate, figures["requests_per_s"] / 2), plan)
        if "streams" in plan.columns:
            figures |= asyncio.run(_streams(proxy, plan))
        if "memory" in plan.columns:
            figures |= asyncio.run(_many_streams(proxy, plan))
        figures |= _ledger(proxy)
    return figures


def direct(bench: Bench) -> Figures:
    """The same without a proxy: what the load's core can do, and the latency that is not the proxy's."""
    plan, figures = bench.plan, Figures()
    port = int(bench.world.unary.rpartition(":")[2])
    if "unary" in plan.columns:
        said = unary.load(f"http://127.0.0.1:{port}", bench.requests, plan.warm_seconds)
        figures["requests_per_s"] = said.rate
    if "latency" in plan.columns:
        figures |= latency(port, bench.rate, plan)
    return figures


def _unary(bench: Bench, proxy: Running) -> Figures:
    plan = bench.plan
    unary.load(proxy.url, bench.requests, plan.warm_seconds)
    before = proxy.cpu()
    said = unary.load(proxy.url, bench.requests, plan.unary_seconds)
    used = proxy.cpu() - before
    if said.errors or not said.requests:
        raise ValueError(f"{said.errors} errors of {said.requests} requests")
    return {
        "requests_per_s": said.rate,
        "cpu_us_per_request": used / said.requests * 1e6,
        "cpu_share": used / said.seconds,
    }


def latency(port: int, rate: float, plan: Plan) -> Figures:
    """Percentiles at a rate."""
    said = openloop.measure(port, rate, plan.latency_seconds)
    return {
        "latency_rate": rate,
        "p50_us": said.p50_us,
        "p99_us": said.p99_us,
        "late_p99_us": said.late_p99_us,
        "lost": said.lost,
    }


async def _streams(proxy: Running, plan: Plan) -> Figures:
    async with streams.Streams(proxy.port, plan.streams, plan.stream_every_ms) as clients:
        await asyncio.sleep(0.5)
        events, used, began = clients.events, proxy.cpu(), time.perf_counter()
        await asyncio.sleep(plan.stream_seconds)
        events, used = clients.events - events, proxy.cpu() - used
        seconds = time.perf_counter() - began
        if clients.open < plan.streams or not events:
            raise ValueError(f"{clients.open} of {plan.streams} streams are left, {events} events came")
    return {"cpu_us_per_event": used / events * 1e6, "events_per_s": events / seconds}


async def _many_streams(proxy: Running, plan: Plan) -> Figures:
    async with streams.Streams(proxy.port, plan.many_streams, plan.many_every_ms) as clients:
        await asyncio.sleep(1.0)
        if clients.open < plan.many_streams:
            raise ValueError(f"{clients.open} of {plan.many_streams} streams are left")
        return {"streams_mb": proxy.memory()}


def _ledger(proxy: Running) -> Figures:
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
        f"{signal}_{state}": count
        for signal, states in ledger.items()
        for state, count in states.items()
        if count
    }


def calibrate(bench_world: World, base: Row, requests: Path, folder: Path) -> float:
    """Half of what the base row does, in requests per second."""
    folder.mkdir(parents=True)
    with base.start(bench_world, folder).answers() as proxy:
        unary.load(proxy.url, requests, 1)
        return unary.load(proxy.url, requests, 2).rate / 2


def machine_is_ready(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What cannot be measured here, in sentences."""
    told = [f"{row.title}: not measured, {row.needs} is not installed" for row in rows if row.missing]
    if machine.program("wrk") is None and {"unary", "latency"} & {*columns}:
        told.append("requests/s, CPU per request and added latency: not measured, wrk is not installed")
    if machine.cores()[0] & machine.cores()[1]:
        told.append("there is one core only: proxy and load share it, and no figure here says much")
    return told
