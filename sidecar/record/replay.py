"""What a queue would have made of recorded traffic: so many at a time per conversation, model or upstream.

Pure: takes recorded requests, gives figures. Arrivals stay where they were and each request takes as long as it took;
an app that waits for an answer before it asks again would have come later, so waits are what a queue would have added
at least at first, and at most later on.
"""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sidecar.core.shown import clean

Per = Literal["conversation", "model", "upstream"]

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the queue would have done. Times in seconds."""

    requests: int
    waited: int
    """Those that would have waited at all."""
    timed_out: int
    """Those that would have given up in the queue."""
    wait_sum: float
    wait_p50: float
    wait_p95: float
    wait_max: float
    longest_queue: int
    """Requests that would have waited at the same time in one queue."""
    worst: tuple[tuple[str, int, float], ...]
    """The queues with the longest waits: name, requests, waits summed."""


@dataclass(frozen=True, slots=True)
class _Queued:
    waits: list[float]
    timed_out: int
    longest: int


def replay(
    records: Iterable[Mapping[str, Any]],
    *,
    limit: int,
    per: Per = "conversation",
    timeout: float | None = None,
) -> Replayed:
    """Plays the turns of `records` through queues that let `limit` run at a time. `timeout` (s) ends a wait."""
    queues: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        bar = record["bar"]
        key = _key(bar, per)
        if bar["turn"] and key is not None:
            queues[key].append((bar["start"], bar["end"] - bar["start"]))
    played = {key: _queue(sorted(turns), limit, timeout) for key, turns in queues.items()}
    waits = sorted(wait for one in played.values() for wait in one.waits)
    worst = sorted(
        ((key, len(one.waits), sum(one.waits)) for key, one in played.items()), key=lambda row: -row[2]
    )
    return Replayed(
        requests=len(waits),
        waited=sum(wait > 0 for wait in waits),
        timed_out=sum(one.timed_out for one in played.values()),
        wait_sum=sum(waits),
        wait_p50=_share(waits, 0.5),
        wait_p95=_share(waits, 0.95),
        wait_max=waits[-1] if waits else 0.0,
        longest_queue=max((one.longest for one in played.values()), default=0),
        worst=tuple(row for row in worst[:5] if row[2] > 0),
    )


def _key(bar: Mapping[str, Any], per: Per) -> str | None:
    """Which queue it stands in; None for a call of no named conversation."""
    if per == "conversation":
        return f"{bar['session']} / {bar['conversation']}" if bar["named"] else None
    return str(bar[per] or "(not told)")


def _queue(turns: list[tuple[int, int]], limit: int, timeout: float | None) -> _Queued:
    """One queue: `turns` are arrivals and how long each takes, in microseconds, by arrival."""
    busy: list[int] = []
    starts: list[int] = []
    waits: list[float] = []
    timed_out = longest = 0
    for arrived, took in turns:
        while starts and starts[0] <= arrived:
            heapq.heappop(starts)
        begins = arrived if len(busy) < limit else max(arrived, busy[0])
        wait = (begins - arrived) / _MICROS
        if timeout is not None and wait > timeout:
            timed_out += 1
            waits.append(timeout)
            heapq.heappush(starts, arrived + round(timeout * _MICROS))
        else:
            if len(busy) >= limit:
                heapq.heappop(busy)
            heapq.heappush(busy, begins + took)
            waits.append(wait)
            if wait:
                heapq.heappush(starts, begins)
        longest = max(longest, len(starts))
    return _Queued(waits, timed_out, longest)


def _share(ordered: list[float], share: float) -> float:
    """The value below which that share of the others lies (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def told(found: Replayed, *, limit: int, per: Per, as_json: bool) -> str:
    """The figures as text, or as JSON."""
    if as_json:
        return json.dumps(asdict(found), indent=2)
    share = f"{100 * found.waited / found.requests:.0f} %" if found.requests else "none"
    lines = [
        f"{found.requests} turns, {limit} at a time per {per}",
        f"would have waited   {found.waited} ({share}), {found.timed_out} of them timed out",
        f"waits summed        {found.wait_sum:.1f} s",
        f"a wait              p50 {found.wait_p50:.2f} s, p95 {found.wait_p95:.2f} s, longest {found.wait_max:.2f} s",
        f"longest queue       {found.longest_queue}",
        *(
            f"  {clean(key)[:60]}: {count} turns, {waits:.1f} s of waiting"
            for key, count, waits in found.worst
        ),
    ]
    return "\n".join(lines)
