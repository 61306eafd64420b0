"""What is put into a pod: the sidecar's container, and the variables that point its apps there.

Owns these texts. Each is a block of YAML without indentation.
"""

import json
from dataclasses import dataclass, field

NAME = "sidecar"
"""The container's name."""

_VARIABLES = {
    "openai": "OPENAI_BASE_URL",
    "anthropic": "ANTHROPIC_BASE_URL",
    "gcp.gemini": "GOOGLE_GEMINI_BASE_URL",
}
_PATHS = {"openai": "/v1"}
"""What clients of a provider expect at the end of their base URL."""

GRACE = 60
"""Seconds for a pod that says nothing: the app's 30, and the sidecar's `SIDECAR_SHUTDOWN_TIMEOUT`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the sidecar is to be. `upstreams` are (name, provider), `default` for the one without a name."""

    image: str
    environ: dict[str, str]
    upstreams: tuple[tuple[str, str | None], ...]
    port: int = 7070
    health: int = 7072
    """The port that probes ask, at the pod's address."""
    extra: dict[str, str] = field(default_factory=dict)
    """More variables for the apps."""

    def variables(self) -> dict[str, str]:
        """The variables of the apps, by name. An upstream whose provider is not known is taken for OpenAI's kind."""
        found: dict[str, str] = {}
        for name, provider in self.upstreams:
            path = "" if name == "default" else f"/{name}"
            kind = provider if provider in _VARIABLES else "openai"
            url = f"http://127.0.0.1:{self.port}{path}{_PATHS.get(kind, '')}"
            found.setdefault(_VARIABLES[kind], url)
        return {**found, **self.extra}


def item(name: str, value: str) -> list[str]:
    """A variable, as an item of a list."""
    return [f"- name: {name}", f"  value: {json.dumps(value, ensure_ascii=False)}"]


def container(wanted: Wanted, workload: str) -> list[str]:
    """The container, as an item of `initContainers`. `workload` names the service where nothing else does."""
    environ = {
        "SIDECAR_HEALTH_LISTEN": f"0.0.0.0:{wanted.health}",
        "OTEL_SERVICE_NAME": f"{workload}-sidecar",
        **wanted.environ,
    }
    lines = [
        f"- name: {NAME}",
        f"  image: {json.dumps(wanted.image)}",
        "  restartPolicy: Always",
        "  args: [run]",
        "  env:",
        "    - name: POD_NAME",
        "      valueFrom: {fieldRef: {fieldPath: metadata.name}}",
        "    - name: POD_NAMESPACE",
        "      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}",
    ]
    if "OTEL_RESOURCE_ATTRIBUTES" not in environ:
        pod = "service.instance.id=$(POD_NAMESPACE).$(POD_NAME).sidecar,k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME)"
        environ["OTEL_RESOURCE_ATTRIBUTES"] = pod
    for name, value in environ.items():
        lines += [f"    {line}" for line in item(name, value)]
    return [
        *lines,
        "  ports:",
        f"    - {{name: sidecar-health, containerPort: {wanted.health}}}",
        *_probe("startupProbe", "/startup", "periodSeconds: 1", "failureThreshold: 60"),
        *_probe("livenessProbe", "/liveness", "periodSeconds: 10", "timeoutSeconds: 3"),
        *_probe("readinessProbe", "/readiness", "periodSeconds: 5", "timeoutSeconds: 3"),
        "  resources:",
        "    requests: {cpu: 50m, memory: 96Mi}",
        "    limits: {memory: 512Mi}",
        "  securityContext:",
        "    allowPrivilegeEscalation: false",
        "    readOnlyRootFilesystem: true",
        "    capabilities: {drop: [ALL]}",
    ]


def _probe(kind: str, path: str, *more: str) -> list[str]:
    return [
        f"  {kind}:",
        f"    httpGet: {{path: {path}, port: sidecar-health}}",
        *(f"    {line}" for line in more),
    ]
