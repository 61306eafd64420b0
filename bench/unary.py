"""Requests per second, and what one costs: wrk against a proxy, as fast as it goes.

Owns the call of wrk and the reading of what it says. It measures one proxy once; rounds and medians are the run's.
"""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import machine, traffic

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class WrkSaid:
    """The summary of wrk: times in seconds and microseconds."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def read_wrk(output: str) -> WrkSaid:
    """What wrk said with our script.

    Raises:
        ValueError: there is no summary in it.
    """
    found = re.search(r"^WRK (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise ValueError(f"wrk gave no summary: {output[-400:]!r}")
    said = json.loads(found[1])
    return WrkSaid(said["requests"], said["microseconds"] / 1e6, said["p50"], said["p99"], said["errors"])


def write_requests(folder: Path) -> Path:
    """The file that wrk's script reads."""
    path = folder / "requests"
    path.write_bytes(b"".join(one + traffic.SEPARATOR for one in traffic.requests()))
    return path


def load(url: str, requests: Path, seconds: int) -> WrkSaid:
    """One round of wrk. It runs on the cores of its caller.

    Raises:
        ValueError: wrk failed.
    """
    wrk = machine.program("wrk")
    if wrk is None:
        raise ValueError("wrk is missing")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT), url, "--", str(requests)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 30,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"wrk did not end: {error}") from error
    return read_wrk(done.stdout + done.stderr)
