"""The real back ends behind one Collector, with the very configuration files that docker-compose.yml mounts.

Owns their ports, folders and order. Where no Tempo is at hand, a sink that takes what it is sent stands in for it. It
never changes a configuration but through the variables that the file names; for Loki, which runs on the configuration of
its image, it writes one that says the same.
"""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from sidecar.testing import OtlpSink, free_port
from tests.stack.build import at_hand, binary
from tests.stack.programs import Backend, get

ROOT = Path(__file__).parents[2]

Trace = dict[str, Any]


LOOKBACK = 5
"""Minutes that Prometheus looks back for a value."""


def hastened(rules: str, minute: int = 1) -> str:
    """Alert rules with `minute` seconds for every minute in their windows and times, evaluated every second; else the same.

    So that a test sees one fire and resolve: with exports every second it has as many samples in a window.
    """
    seconds = {"m": minute, "h": 60 * minute, "d": 1440 * minute, "w": 10080 * minute}

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * seconds[found[3]]}s"

    rules = re.sub(r"(\[|offset |for: )(\d+)([mhdw])", shorter, rules)
    return re.sub(r"^( +)- name: (.+)$", r"\1- name: \2\n\1  interval: 1s", rules, flags=re.MULTILINE)


class Jaeger:
    """Traces in memory, and its own API."""

    def __init__(self, folder: Path) -> None:
        self.otlp = f"127.0.0.1:{free_port()}"
        query = f"127.0.0.1:{free_port()}"
        self.url = f"http://{query}"
        self.backend = Backend(
            [str(binary("jaeger")), "--config", str(ROOT / "deploy/jaeger/jaeger.yaml")],
            folder=folder,
            ready=f"{self.url}/api/services",
            environ={
                "JAEGER_OTLP_LISTEN": self.otlp,
                "JAEGER_QUERY_LISTEN": query,
                "JAEGER_QUERY_GRPC_LISTEN": f"127.0.0.1:{free_port()}",
            },
        )

    def traces(self, service: str, operation: str = "", **tags: str) -> list[Trace]:
        """The traces with such a span: `tags` by attribute name, dots as two underscores."""
        named = {key.replace("__", "."): value for key, value in tags.items()}
        query = {"service": service, "limit": "1000", "tags": json.dumps(named)}
        answer = get(f"{self.url}/api/traces", **query, **({"operation": operation} if operation else {}))
        found: list[Trace] = (answer or {}).get("data") or []
        return found

    def requests(self, service: str, **tags: str) -> list[Trace]:
        """Of these traces, those of requests. Its search knows attributes only: not a span's kind, nor its status."""
        return [
            trace
            for trace in self.traces(service, **tags)
            if any(
                {"key": "span.kind", "type": "string", "value": "server"} in span["tags"]
                for span in trace["spans"]
            )
        ]

    def trace(self, trace_id: str) -> Trace | None:
        """One trace by its id."""
        found: list[Trace] = (get(f"{self.url}/api/traces/{trace_id}") or {}).get("data") or []
        return found[0] if found else None

    def links(self, trace_id: str) -> list[tuple[str, str]]:
        """The links of a trace's spans: what `sidecar.link` says, and the trace they lead to."""
        answer = get(f"{self.url}/api/v3/traces/{trace_id}") or {}
        return [
            (attribute["value"]["stringValue"], link["traceId"])
            for resource in answer.get("result", {}).get("resourceSpans", [])
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
            for link in span.get("links", [])
            for attribute in link["attributes"]
            if attribute["key"] == "sidecar.link"
        ]


class Prometheus:
    """Metrics by OTLP, the alert rules, and its own API.

    `minute`: the seconds that a minute of the rules takes, and of the time that a value of a process that is gone stays; without it,
    a minute of the rules takes a second, and such a value stays.
    """

    def __init__(self, folder: Path, minute: int | None = None) -> None:
        listen = f"127.0.0.1:{free_port()}"
        self.url = f"http://{listen}"
        self.otlp = f"{self.url}/api/v1/otlp"
        shutil.copy(ROOT / "deploy/prometheus/prometheus.yaml", folder)
        (folder / "alerts").mkdir()
        for rules in (ROOT / "grafana" / "alerts").glob("*.rules.yaml"):
            (folder / "alerts" / rules.name).write_text(hastened(rules.read_text(), minute or 1))
        lookback = [] if minute is None else [f"--query.lookback-delta={LOOKBACK * minute}s"]
        self.backend = Backend(
            [
                str(binary("prometheus")),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={listen}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
                *lookback,
            ],
            folder=folder,
            ready=f"{self.url}/-/ready",
        )
        self._config = folder / "prometheus.yaml"

    def configure(self, text: str) -> None:
        """Adds to its configuration; before it is started."""
        with self._config.open("a") as config:
            config.write(f"\n{text}")

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query, now or `at` (seconds since the epoch)."""
        when = {} if at is None else {"time": str(at)}
        answer = get(f"{self.url}/api/v1/query", query=expression, **when) or {}
        found: list[dict[str, Any]] = answer.get("data", {}).get("result", [])
        return found

    def number(self, expression: str) -> float | None:
        """The one value of an instant query."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values of an instant query, by a label."""
        return {one["metric"].get(label, ""): float(one["value"][1]) for one in self.query(expression)}

    def fired(self, service: str) -> set[str]:
        """The alerts about a service that fire, or have fired in the last ten minutes."""
        ever = f'last_over_time(ALERTS{{alertstate="firing",job="{service}"}}[10m])'
        return {str(one["metric"]["alertname"]) for one in self.query(ever)}

    def alerts(self, name: str, **labels: str) -> list[str]:
        """The states (`pending`, `firing`) of the alerts of this name with these labels."""
        found = (get(f"{self.url}/api/v1/alerts") or {}).get("data", {}).get("alerts", [])
        return [
            alert["state"]
            for alert in found
            if {**labels, "alertname": name}.items() <= alert["labels"].items()
        ]

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of the series that an expression names; times in seconds since the epoch."""
        answer = get(f"{self.url}/api/v1/query_exemplars", query=expression, start=str(start), end=str(end))
        found: list[dict[str, Any]] = (answer or {}).get("data") or []
        return [exemplar for series in found for exemplar in series["exemplars"]]


class Tempo:
    """Traces on disk, and its own API. Only where a binary is at hand."""

    def __init__(self, folder: Path) -> None:
        self.otlp = f"127.0.0.1:{free_port()}"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = (ROOT / "deploy/tempo/tempo.yaml").read_text()
        config = config.replace("/var/tempo", str(folder / "tempo")).replace("0.0.0.0:4317", self.otlp)
        config = config.replace("3200", str(port)).replace("0.0.0.0", "127.0.0.1")
        # By default it answers about what is half a minute old. Tempo 3 knows this in its file only.
        config += "\nquery_frontend:\n  query_end_cutoff: 0s\n"
        (folder / "tempo.yaml").write_text(config)
        self.backend = Backend(
            [str(binary("tempo")), f"-config.file={folder / 'tempo.yaml'}"],
            folder=folder,
            ready=f"{self.url}/ready",
        )

    def search(self, query: str) -> list[dict[str, Any]]:
        """The traces that a TraceQL query finds."""
        found: list[dict[str, Any]] = (get(f"{self.url}/api/search", q=query) or {}).get("traces") or []
        return found

    def has(self, trace_id: str) -> bool:
        """It has this trace."""
        return bool((get(f"{self.url}/api/v2/traces/{trace_id}") or {}).get("trace"))


class Loki:
    """Log lines on disk, and its own API. It is ready at once: the image waits 15 s for other ingesters to be seen."""

    def __init__(self, folder: Path) -> None:
        port, grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.otlp = f"{self.url}/otlp"
        here = "127.0.0.1"
        filesystem = {
            "chunks_directory": str(folder / "loki/chunks"),
            "rules_directory": str(folder / "loki/rules"),
        }
        schema = {"from": "2020-10-24", "store": "tsdb", "object_store": "filesystem", "schema": "v13"}
        config = {
            "auth_enabled": False,
            "server": {
                "http_listen_address": here,
                "http_listen_port": port,
                "grpc_listen_address": here,
                "grpc_listen_port": grpc,
            },
            "common": {
                "instance_addr": here,
                "path_prefix": str(folder / "loki"),
                "storage": {"filesystem": filesystem},
                "replication_factor": 1,
                "ring": {"kvstore": {"store": "inmemory"}},
            },
            "ingester": {"lifecycler": {"min_ready_duration": "0s"}},
            "schema_config": {"configs": [{**schema, "index": {"prefix": "index_", "period": "24h"}}]},
            "analytics": {"reporting_enabled": False},
        }
        (folder / "loki.json").write_text(json.dumps(config))
        self.backend = Backend(
            [str(binary("loki")), f"-config.file={folder / 'loki.json'}"],
            folder=folder,
            ready=f"{self.url}/ready",
        )

    def lines(self, query: str) -> list[str] | None:
        """The lines of the last hour that a LogQL query finds, as Grafana shows them, oldest first; None where Loki
        refuses the question.
        """
        now = int(time.time() * 1e9)
        span = {"start": str(now - 3600 * 10**9), "end": str(now), "limit": "5000"}
        answer = get(f"{self.url}/loki/api/v1/query_range", query=query, **span)
        if answer is None:
            return None
        found = [value for stream in answer["data"]["result"] for value in stream["values"]]
        return [line for _, line in sorted(found, key=lambda value: int(value[0]))]

    def requests(self, service: str) -> int:
        """How many requests of a service have ended, by their wide lines."""
        wide = f'{{service_name="{service}"}} |~ `^sidecar[.]request[.](completed|failed)$`'
        return len(self.lines(wide) or ())


class Phoenix:
    """Traces by OTLP, grouped into projects and sessions, and its own API. Only where it is installed."""

    def __init__(self, folder: Path) -> None:
        port, grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.backend = Backend(
            [str(binary("phoenix")), "serve"],
            folder=folder,
            ready=f"{self.url}/healthz",
            environ={
                "PHOENIX_HOST": "127.0.0.1",
                "PHOENIX_PORT": str(port),
                "PHOENIX_GRPC_PORT": str(grpc),
                "PHOENIX_WORKING_DIR": str(folder / "phoenix"),
                "PHOENIX_TELEMETRY_ENABLED": "false",
            },
            patience=300,
        )

    def project(self, name: str, fields: str) -> dict[str, Any]:
        """These fields (GraphQL) of a project; empty while it is not there."""
        found = get(f"{self.url}/graphql", query=f"{{projects{{edges{{node{{name {fields}}}}}}}}}") or {}
        nodes = [edge["node"] for edge in (found.get("data") or {}).get("projects", {}).get("edges", [])]
        return next((node for node in nodes if node["name"] == name), {})


class Stack:
    """All of them; `tempo` is None where there is no binary. `variables` are those of otel-collector.yaml, `minute` is
    Prometheus'.
    """

    def __init__(self, folder: Path, minute: int | None = None, **variables: str) -> None:
        self.jaeger = Jaeger(folder)
        self.prometheus = Prometheus(folder, minute)
        self.tempo = Tempo(folder) if at_hand("tempo") is not None else None
        self.loki = Loki(folder)
        self.instead_of_tempo = OtlpSink("grpc")
        self._folder = folder
        self._variables = variables

    def start(self) -> None:
        """Stores first, then the Collector."""
        self.instead_of_tempo.start()
        for store in (self.jaeger, self.prometheus, self.loki, self.tempo):
            if store is not None:
                store.backend.start()
        grpc, http, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
        tempo = self.tempo.otlp if self.tempo else f"127.0.0.1:{self.instead_of_tempo.port}"
        host, port = metrics.split(":")
        self.otlp, self.otlp_grpc = f"http://{http}", f"http://{grpc}"
        self.collector = Backend(
            [str(binary("otelcol")), "--config", str(ROOT / "otel-collector.yaml")],
            folder=self._folder,
            ready=f"http://{metrics}/metrics",
            environ={
                "OTLP_GRPC_LISTEN": grpc,
                "OTLP_HTTP_LISTEN": http,
                "METRICS_HOST": host,
                "METRICS_PORT": port,
                "STORAGE_DIR": str(self._folder / "queues"),
                "JAEGER_OTLP": self.jaeger.otlp,
                "TEMPO_OTLP": tempo,
                "PROMETHEUS_OTLP": self.prometheus.otlp,
                "LOKI_OTLP": self.loki.otlp,
                **self._variables,
            },
        )
        self.collector.start()

    def stop(self) -> None:
        """Ends them all."""
        if hasattr(self, "collector"):
            self.collector.kill()
        for store in (self.jaeger, self.prometheus, self.loki, self.tempo):
            if store is not None:
                store.backend.kill()
        self.instead_of_tempo.stop()

    def usual(self, service: str) -> dict[str, str]:
        """What a sidecar needs to export to it, as the README has it."""
        return {"OTEL_SERVICE_NAME": service, "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp}

    def environ(self, service: str) -> dict[str, str]:
        """What a sidecar needs to export to it, often, and its logs too."""
        return {
            **self.usual(service),
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "200",
        }
