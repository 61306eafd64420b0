"""Where the time goes: the sidecar with full telemetry under the sampler, by room, per request and per event.

Owns this one run and its table. It is no part of the comparison: a sampled sidecar is a little slower.
"""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

from bench import rows, streams, traffic, unary
from bench.processes import Running
from bench.results import Profile
from bench.rounds import Bench

_WRITTEN_WITHIN = 10.0
"""Seconds for the sampler's file to be there."""


def measure(bench: Bench, folder: Path) -> list[Profile]:
    """One profile of requests, one of streams."""
    folder.mkdir(parents=True)
    file = folder / "profile"
    with rows.profiled(bench.world, folder, file) as proxy:
        proxy.answers()
        unary.load(proxy.url, bench.requests, bench.plan.warm_seconds)
        proxy.signal(signal.SIGUSR1)
        said = unary.load(proxy.url, bench.requests, 2 * bench.plan.unary_seconds)
        requests = _profile(_sampled(proxy, file), "request", said.requests)
        return [requests, asyncio.run(_streams(bench, proxy, file))]


async def _streams(bench: Bench, proxy: Running, file: Path) -> Profile:
    plan = bench.plan
    async with streams.Streams(
        proxy.port, plan.streams, plan.stream_every_ms, traffic.STREAM_PATH
    ) as clients:
        await asyncio.sleep(0.5)
        proxy.signal(signal.SIGUSR1)
        before = clients.events
        await asyncio.sleep(2 * plan.stream_seconds)
        return _profile(_sampled(proxy, file), "stream event", clients.events - before)


def _sampled(proxy: Running, file: Path) -> dict[str, Any]:
    """Ends the sampling, and reads what it wrote.

    Raises:
        TimeoutError: nothing was written in time.
    """
    proxy.signal(signal.SIGUSR2)
    end = time.monotonic() + _WRITTEN_WITHIN
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError("the sampler wrote nothing")
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return found


def _profile(found: dict[str, Any], unit: str, count: int) -> Profile:
    def each(seconds: float) -> float:
        return seconds / count * 1e6

    by_room = {name: each(seconds) for name, seconds in (found["rooms"] | found["threads"]).items()}
    return Profile(
        unit=unit,
        total=each(found["process"]),
        rooms=dict(sorted(by_room.items(), key=lambda item: -item[1])),
        garbage=each(found["garbage"]),
        functions={name: each(seconds) for name, seconds in found["functions"].items()},
        looks=found["looks"],
    )
