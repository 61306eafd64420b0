"""The named lines below the lanes, and the one at the end: what the sidecar counted, and what became of its telemetry.

Pure: takes what the sidecar told, and the environment that says where telemetry goes.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from sidecar.core.facts import LOST
from sidecar.core.shown import mask
from sidecar.picture.drawing import counted
from sidecar.picture.watch import Stats


class _Stopped(Struct, frozen=True):
    """The line `sidecar.stopped`; two of its fields are JSON of their own."""

    requests: str
    sessions: int
    telemetry: str


class _Requests(Struct, frozen=True):
    settled: int
    outcomes: dict[str, int]


def closing(stopped: bytes, environ: Mapping[str, str]) -> str | None:
    """What a sidecar saw, in one line, from its own last one; None where there is none (it was killed)."""
    try:
        last = msgspec.json.decode(stopped, type=_Stopped)
        requests = msgspec.json.decode(last.requests, type=_Requests)
        telemetry = msgspec.json.decode(last.telemetry, type=dict[str, dict[str, int]])
    except msgspec.DecodeError:
        return None
    ranked = sorted(requests.outcomes.items(), key=lambda item: (-item[1], item[0]))
    outcomes = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in ranked if count)
    lost = sum(map(_lost, telemetry.values()))
    exported = sum(items.get("exported", 0) for signal, items in telemetry.items() if signal != "lines")
    told = (
        f"{counted(requests.settled, 'request')}{': ' if outcomes else ''}{outcomes}",
        counted(last.sessions, "session"),
        f"telemetry: {exported} exported, {lost} lost" if _sent(environ) else "telemetry off",
    )
    return f"sidecar: {'; '.join(told)}"


def figures(stats: Stats, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines, by their names."""
    requests, sessions = stats.requests, stats.sessions
    proof = f"{requests.started} started = {requests.settled} settled + {requests.in_flight} in flight"
    return [
        ("since start", f"{proof}   {counted(sessions.total, 'session')}, {sessions.active} live"),
        ("telemetry", telemetry_line(environ, stats)),
    ]


def telemetry_line(environ: Mapping[str, str], stats: Stats) -> str:
    """Where telemetry goes, and what has become of it so far; or how to turn it on."""
    sent = _sent(environ)
    if sent is None:
        return "off; OTEL_EXPORTER_OTLP_ENDPOINT=http://... sends it there"
    spans = stats.telemetry.get("traces", {})
    return f"{sent}   {counted(spans.get('exported', 0), 'span')} exported, {_lost(spans)} lost"


def _lost(items: Mapping[str, int]) -> int:
    return sum(items.get(state, 0) for state in LOST)


def _sent(environ: Mapping[str, str]) -> str | None:
    """Where telemetry goes: an address without a password, or `on` where only exporters are named; None if nowhere."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    endpoint = next(
        (
            mask(environ[name])
            for name in sorted(environ)
            if name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("ENDPOINT") and environ[name]
        ),
        None,
    )
    chosen = any(
        name.startswith("OTEL_") and name.endswith("S_EXPORTER") and value.strip().lower() not in {"", "none"}
        for name, value in environ.items()
    )
    return endpoint or ("on" if chosen else None)
