"""Traffic without a picture: rounds of conversations through a sidecar that somebody else runs.

Owns the rounds and one line about each. It asks the sidecar nothing: what happened is on the dashboards, and
only calls that never came through are told here.
"""

import asyncio
import secrets

from sidecar.demo.conversations import STORIES, play

ROUND = 14.0
"""Seconds from the beginning of one round to the next."""


async def drive(url: str, *, once: bool, seed: int) -> None:
    """Plays rounds until it is cancelled, or once. `url` is what an app is given as OPENAI_BASE_URL.

    The session ids of each start are its own, so that what is kept of an earlier one is not continued.
    """
    run = secrets.token_hex(2)
    loop = asyncio.get_running_loop()
    number = 1
    while True:
        begun = loop.time()
        broken = await play(url, number, seed=seed, run=run)
        failed = f"; broken off: {', '.join(broken)}" if broken else ""
        print(f"round {number}: {len(STORIES) + 1} sessions {run}-{number} through {url}{failed}", flush=True)
        if once:
            return
        await asyncio.sleep(max(0.0, begun + ROUND - loop.time()))
        number += 1
