"""The named lines below the lanes: what the sidecar counted, and what became of its telemetry.

Pure: takes what the admin port told, and the environment that says where telemetry goes.
"""

from collections.abc import Mapping

from sidecar.picture.watch import Stats


def figures(stats: Stats, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines, by their names."""
    requests, sessions = stats.requests, stats.sessions
    proof = f"{requests.started} started = {requests.settled} settled + {requests.in_flight} in flight"
    return [
        ("since start", f"{proof}   {sessions.total} sessions, {sessions.active} live"),
        ("telemetry", telemetry_line(environ, stats)),
    ]


def telemetry_line(environ: Mapping[str, str], stats: Stats) -> str:
    """Where telemetry goes, and what has become of it so far; or how to turn it on."""
    endpoint = next(
        (
            environ[name]
            for name in sorted(environ)
            if name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("ENDPOINT") and environ[name]
        ),
        None,
    )
    chosen = any(name.startswith("OTEL_") and name.endswith("S_EXPORTER") for name in environ)
    if endpoint is None and not chosen:
        return "off; OTEL_EXPORTER_OTLP_ENDPOINT=http://... sends it there"
    spans = stats.telemetry.get("traces", {})
    lost = sum(spans.get(state, 0) for state in ("rejected", "dropped", "failed", "unknown"))
    return f"{endpoint or 'on'}   {spans.get('exported', 0)} spans exported, {lost} lost"
