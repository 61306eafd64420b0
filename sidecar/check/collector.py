"""Whether the collector takes what a sidecar with these settings exports: spans, metric points and log records.

Owns a sidecar of its own on free ports, which gets one request, is told to stop, and says in its last line what became
of all it exported. So what is checked is the production exporter with these settings, and nothing that is like it.
"""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

from sidecar.check.finding import Finding, State
from sidecar.core.facts import LOST
from sidecar.core.shown import shown
from sidecar.settings import TABLE, Settings
from sidecar.telemetry.metrics import SCHEMA_URLS

SESSION = "sidecar-check"
"""The session of the one request, by which it is found in the back end."""

PATIENCE = 60.0
"""Seconds for that sidecar to start, export and end."""

_WORDS = {"traces": "spans", "metrics": "metric points", "logs": "log records"}
_OWN = {
    "SIDECAR_LISTEN": "127.0.0.1:0",
    "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
    "SIDECAR_LOG_FORMAT": "json",
    "SIDECAR_SHUTDOWN_TIMEOUT": "15s",
}


def check_collector(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """One for each signal that is exported, or one that says there is none."""
    lines = _exported(settings, environ)
    last = next((line for line in lines if line.get("event") == "sidecar.stopped"), None)
    if last is None:
        said = "; ".join(str(line) for line in lines[-3:]) or "it said nothing"
        fix = "start it as `sidecar run`, and see what it says"
        return [
            Finding(State.FAIL, "collector", f"a sidecar with these settings did not run: {shown(said)}", fix)
        ]
    ledger: dict[str, dict[str, int]] = json.loads(last["telemetry"])
    said_by = {
        str(line.get("signal")): shown(str(line.get("reason") or line.get("message") or ""))
        for line in lines
        if line.get("event") in {"sidecar.telemetry.failing", "sidecar.telemetry.warning"}
    }
    names = f"conventions: {settings.semconv} ({SCHEMA_URLS[settings.semconv]})"
    findings = [
        _signal(signal_name, ledger.get(signal_name, {}), said_by.get(signal_name, ""), names)
        for signal_name in _WORDS
        if any(count for state, count in ledger.get(signal_name, {}).items() if state != "not_sampled")
    ]
    notes = [str(line["message"]) for line in lines if line.get("event") == "sidecar.telemetry"]
    if not findings:
        fix = "set OTEL_EXPORTER_OTLP_ENDPOINT=http://..., unless it is not wanted"
        return [Finding(State.WARN, "collector", notes[0] if notes else "nothing is exported", fix)]
    return [*findings, *(Finding(State.WARN, "collector", note) for note in notes)]


def _signal(name: str, states: Mapping[str, int], said: str, conventions: str) -> Finding:
    taken = states.get("exported", 0)
    lost = {state: count for state, count in states.items() if state in LOST and count}
    if taken and not lost:
        note = f"; {said}" if said else ""
        return Finding(State.OK, f"collector, {name}", f"took {taken} {_WORDS[name]}; {conventions}{note}")
    told = ", ".join(f"{count} {state}" for state, count in lost.items()) or "nothing was exported"
    fix = "check OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_HEADERS"
    return Finding(
        State.FAIL, f"collector, {name}", f"{_WORDS[name]}: {told}{f'; {said}' if said else ''}", fix
    )


def _exported(settings: Settings, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines of a sidecar that had one request and was told to stop."""
    mine = {name: value for name, value in environ.items() if not name.startswith("SIDECAR_")}
    mine |= _as_variables(settings, environ) | _OWN
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "run"],
        env=mine,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    late = Timer(PATIENCE, process.kill)
    late.start()
    lines: list[dict[str, Any]] = []
    try:
        for text in process.stderr or ():
            line = _line(text)
            lines.append(line)
            if line.get("event") == "sidecar.listening":
                _ask(str(line["data"]))
                process.send_signal(signal.SIGTERM)
    finally:
        late.cancel()
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    return lines


def _as_variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that matter to telemetry and to a start, as they were given."""
    given = {one.variable: environ[one.variable] for one in TABLE if one.variable in environ}
    for others in (
        "SIDECAR_HEALTH_LISTEN",
        "SIDECAR_RECORD",
    ):  # the port and the files are a running sidecar's
        given.pop(others, None)
    upstream = settings.all_upstreams[0]
    given["SIDECAR_UPSTREAM"] = f"{upstream.scheme}://{upstream.authority}"
    given["SIDECAR_SEMCONV"] = settings.semconv
    return given


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {"message": text.strip()}
    return found if isinstance(found, dict) else {"message": text.strip()}


def _ask(address: str) -> None:
    """One request that never leaves the sidecar: a WebSocket, which is refused. Other upgrades are ignored, and go on."""
    connection = http.client.HTTPConnection(address, timeout=5)
    fields = {"Upgrade": "websocket", "Connection": "Upgrade", "X-Sidecar-Session-Id": SESSION}
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/sidecar-check", headers=fields)
        connection.getresponse().read()
    connection.close()
