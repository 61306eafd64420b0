"""Every setting of the sidecar: one table, read once, from `SIDECAR_*` variables and flags of the same names.

Owns names, defaults and meanings. It reads only the mappings it is given and reports all bad values at once.
Every other room takes the frozen `Settings`. There is no settings library behind it: variables, flags, the
list of errors, unknown names and the table in docs/settings.md come from the one table.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sidecar import settings_values as values
from sidecar.core.exchange import Upstream
from sidecar.core.shown import mask
from sidecar.core.turns import DEFAULT_FORMAT
from sidecar.settings_values import Address, Kind

__all__ = ["TABLE", "Address", "Problem", "Setting", "Settings", "SettingsError", "load"]

PREFIX = "SIDECAR_"

PASSED_ON = re.compile(r"OTEL_.*|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)")
"""The variables of the environment that other rooms may see."""

_SERVICE_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""How the variables go on that Kubernetes puts into every pod, after a Service's name."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad value: where it was given, what was given (credentials masked), and what is allowed."""

    name: str
    value: str
    allowed: str

    def __str__(self) -> str:
        """One line for a terminal."""
        return f"{self.name}={self.value}: {self.allowed}" if self.value else f"{self.name}: {self.allowed}"


class SettingsError(Exception):
    """All that is wrong with the settings, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one sidecar, valid. Durations in seconds, sizes in bytes; made by `load`.

    `forward_baggage` is `"none"`, `"all"`, or the names of the members that may pass. `environ` is the only
    environment other rooms may see: the variables that `PASSED_ON` names.
    """

    listen: Address
    admin_listen: Address
    health_listen: Address | None
    admin_token: str | None = field(repr=False)
    upstream: Upstream | None
    upstreams: Mapping[str, Upstream]
    client_head_timeout: float
    client_body_timeout: float
    client_keepalive: float
    pool_idle: float
    head_limit: int
    head_fields: int
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    stall_after: float
    max_requests: int
    inspect_limit: int
    inspect_memory: int
    shutdown_timeout: float
    session_idle: float
    session_limit: int
    conversations_per_session: int
    response_chain_limit: int
    history: Literal["join", "observe", "off"]
    history_limit: int
    model_limit: int
    session_headers: tuple[str, ...]
    session_fields: tuple[str, ...]
    conversation_headers: tuple[str, ...]
    conversation_fields: tuple[str, ...]
    request_id_format: str
    incoming_trace: Literal["parent", "link", "ignore"]
    forward_trace: bool
    forward_baggage: Literal["none", "all"] | frozenset[str]
    semconv: Literal["shipped", "latest", "both"]
    log_format: Literal["json", "console"]
    prometheus: bool
    quiet_paths: tuple[str, ...]
    live_requests: int
    trace_links: Mapping[str, str]
    record: str | None
    record_limit: int
    environ: Mapping[str, str] = field(repr=False)

    @property
    def all_upstreams(self) -> tuple[Upstream, ...]:
        """The default one, if there is one, and the named ones."""
        return (*([self.upstream] if self.upstream else []), *self.upstreams.values())


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `name` is without the prefix; an empty `default` means "not set"."""

    name: str
    default: str
    kind: Kind
    meaning: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return "--" + self.attribute.replace("_", "-")

    @property
    def attribute(self) -> str:
        """Its attribute of `Settings`, and its key among the flags."""
        return self.name.lower()


TABLE = (
    Setting("LISTEN", "127.0.0.1:7070", values.ADDRESS, "the data port: where the app sends its calls"),
    Setting(
        "ADMIN_LISTEN", "127.0.0.1:7071", values.ADDRESS, "the admin port: health, stats, sessions, /metrics"
    ),
    Setting(
        "HEALTH_LISTEN", "", values.ADDRESS, "a port of its own for health, for probes that come from outside"
    ),
    Setting(
        "ADMIN_TOKEN", "", values.TOKEN, "bearer token of the admin port; needed when that is not on loopback"
    ),
    Setting(
        "UPSTREAM", "", values.URL, "the provider that calls go to; its path stands before the request's"
    ),
    Setting("UPSTREAMS", "", values.URLS, "further providers, each reached as /name/..."),
    Setting("CLIENT_HEAD_TIMEOUT", "30s", values.DURATION, "for a request's whole head to come"),
    Setting(
        "CLIENT_BODY_TIMEOUT",
        "60s",
        values.DURATION,
        "between two pieces of a request's body, and what a slow body may lag behind",
    ),
    Setting(
        "CLIENT_KEEPALIVE", "75s", values.DURATION, "how long a client's connection may rest between requests"
    ),
    Setting(
        "POOL_IDLE", "30s", values.DURATION, "how long an upstream connection is kept, unless upstream says"
    ),
    Setting("HEAD_LIMIT", "64KiB", values.HEAD_SIZE, "size of a head, of requests and of answers"),
    Setting("HEAD_FIELDS", "256", values.NUMBER, "number of header fields in a head"),
    Setting("CONNECT_TIMEOUT", "10s", values.DURATION, "for an upstream connection to stand, TLS included"),
    Setting(
        "FIRST_BYTE_TIMEOUT", "600s", values.DURATION, "for an answer's first byte, from the request's end"
    ),
    Setting(
        "IDLE_TIMEOUT", "300s", values.DURATION, "silence after which an answer that has begun is given up"
    ),
    Setting("STALL_AFTER", "10s", values.DURATION, "silence of a stream that is reported as a stall"),
    Setting("MAX_REQUESTS", "10000", values.NUMBER, "requests in flight; more get 503"),
    Setting("INSPECT_LIMIT", "8MiB", values.SIZE, "size up to which a JSON body is read before it goes on"),
    Setting(
        "INSPECT_MEMORY",
        "256MiB",
        values.SIZE,
        "memory for such bodies and for their decoders, over all requests",
    ),
    Setting(
        "SHUTDOWN_TIMEOUT", "25s", values.DURATION, "for the whole drain, the telemetry's last flush included"
    ),
    Setting("SESSION_IDLE", "30m", values.DURATION, "quiet after which a session ends"),
    Setting("SESSION_LIMIT", "100000", values.NUMBER, "sessions tracked at once"),
    Setting("CONVERSATIONS_PER_SESSION", "1000", values.NUMBER, "conversations tracked in one session"),
    Setting(
        "RESPONSE_CHAIN_LIMIT",
        "100000",
        values.NUMBER,
        "response ids remembered for what continues or fetches them, some 1.2 KB each",
    ),
    Setting(
        "HISTORY",
        "join",
        values.one_of("join", "observe", "off"),
        "whether turns that name no session join one by their history, are only told what they are, or neither",
    ),
    Setting(
        "HISTORY_LIMIT",
        "20000",
        values.NUMBER,
        "turns remembered by digests of their history, some 2 KB each",
    ),
    Setting("MODEL_LIMIT", "100", values.NUMBER, "model names in metrics; further ones are counted as other"),
    Setting(
        "SESSION_HEADERS", "", values.HEADERS, "header fields that name a session, before the known ones"
    ),
    Setting("SESSION_FIELDS", "", values.FIELDS, "body fields that name a session, as dotted paths"),
    Setting("CONVERSATION_HEADERS", "", values.HEADERS, "header fields that name a conversation"),
    Setting(
        "CONVERSATION_FIELDS", "", values.FIELDS, "body fields that name a conversation, as dotted paths"
    ),
    Setting("REQUEST_ID_FORMAT", DEFAULT_FORMAT, values.REQUEST_ID, "how a request id is composed"),
    Setting(
        "INCOMING_TRACE",
        "parent",
        values.one_of("parent", "link", "ignore"),
        "what the caller's traceparent becomes of the request's span",
    ),
    Setting("FORWARD_TRACE", "on", values.SWITCH, "whether the upstream is told our traceparent"),
    Setting("FORWARD_BAGGAGE", "none", values.BAGGAGE, "which baggage members the upstream is told"),
    Setting(
        "SEMCONV",
        "shipped",
        values.one_of("shipped", "latest", "both"),
        "which names of the GenAI conventions telemetry uses",
    ),
    Setting("LOG_FORMAT", "json", values.one_of("json", "console"), "how log lines look on stderr"),
    Setting("PROMETHEUS", "off", values.SWITCH, "whether the admin port serves /metrics"),
    Setting(
        "QUIET_PATHS",
        "/health,/healthz,/livez,/readyz,/liveness,/readiness,/ping,HEAD /,HEAD /api/hello",
        values.QUIET_PATHS,
        "probes (GET and HEAD) that are only counted, unless they fail",
    ),
    Setting("LIVE_REQUESTS", "1000", values.NUMBER, "ended requests kept for the live page, some 4 KB each"),
    Setting("TRACE_LINKS", "", values.LINKS, "where the live page opens a trace, such as Jaeger or Grafana"),
    Setting("RECORD", "", values.FOLDER, "folder for what is known of each request, as lines of JSON"),
    Setting("RECORD_LIMIT", "256MiB", values.RECORD_SIZE, "size of these files together; the oldest go"),
)
"""Every setting, in the order of docs/settings.md."""


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Reads all settings. `flags` are keyed by `Setting.attribute` and win; an empty variable is not set.

    Raises:
        SettingsError: with every bad value, unknown `SIDECAR_*` name and impossible combination.
    """
    problems: list[Problem] = list(_unknown(environ))
    read: dict[str, Any] = {}
    bad: set[str] = set()
    for setting in TABLE:
        name, text = _given(setting, flags, environ)
        if not text:
            read[setting.attribute] = _NOT_SET.get(setting.attribute)
            continue
        try:
            read[setting.attribute] = setting.kind.read(text)
        except ValueError as error:
            bad.add(setting.attribute)
            read[setting.attribute] = None
            allowed = str(error) if isinstance(error, values.MistypedError) else setting.kind.allowed
            shown = "***" if setting.kind is values.TOKEN else mask(text)
            problems.append(Problem(name, shown, allowed))
    problems.extend(_combinations(read, bad))
    if problems:
        raise SettingsError(problems)
    visible = {name: value for name, value in environ.items() if PASSED_ON.fullmatch(name)}
    return Settings(**read, environ=visible)


def load_addresses(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Address, Address | None]:
    """Where a sidecar with these settings has its admin and its health port, whatever else is set or missing.

    Raises:
        SettingsError: one of the two is not an address.
    """
    found: dict[str, Address | None] = {}
    for setting in TABLE:
        if setting.attribute in {"admin_listen", "health_listen"}:
            name, text = _given(setting, flags, environ)
            try:
                found[setting.attribute] = values.read_address(text) if text else None
            except ValueError:
                raise SettingsError([Problem(name, mask(text), setting.kind.allowed)]) from None
    admin = found["admin_listen"]
    if admin is None:
        raise AssertionError("the table has a default for it")
    return admin, found["health_listen"]


_NOT_SET: Mapping[str, object] = {
    "upstreams": {},
    "trace_links": {},
    "session_headers": (),
    "session_fields": (),
    "conversation_headers": (),
    "conversation_fields": (),
}
"""What an unset setting is where that is not None."""


def service_links(environ: Mapping[str, str], prefix: str) -> frozenset[str]:
    """The names with this prefix that Kubernetes has put there for its Services, and that are nobody's settings.

    A Service `sidecar-injector` makes `SIDECAR_INJECTOR_SERVICE_HOST`, `SIDECAR_INJECTOR_PORT_443_TCP` and so on.
    """
    own = [name for name in environ if name.startswith(prefix)]
    services = [name.removesuffix("SERVICE_HOST") for name in own if name.endswith("_SERVICE_HOST")]
    return frozenset(
        name
        for name in own
        for service in services
        if name.startswith(service) and _SERVICE_LINK.fullmatch(name, len(service))
    )


def _given(setting: Setting, flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, str]:
    """Where a value comes from (flag, variable or the table's default), and the value."""
    if setting.attribute in flags:
        return setting.flag, flags[setting.attribute].strip() or setting.default
    return setting.variable, environ.get(setting.variable, "").strip() or setting.default


def _unknown(environ: Mapping[str, str]) -> Iterator[Problem]:
    known = [setting.variable for setting in TABLE]
    links = service_links(environ, PREFIX)
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name in links:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`sidecar settings` lists all there are"
        yield Problem(name, "***", f"there is no such setting; {hint}")


def _combinations(read: Mapping[str, Any], bad: set[str]) -> Iterator[Problem]:
    """What is wrong although each value is right. Values that are bad themselves take no part."""
    if not read["upstream"] and not read["upstreams"] and not bad & {"upstream", "upstreams"}:
        yield Problem(PREFIX + "UPSTREAM", "", "a URL is needed here or in SIDECAR_UPSTREAMS")
    admin: Address | None = read["admin_listen"]
    if admin and not admin.loopback and not read["admin_token"] and "admin_token" not in bad:
        yield Problem(
            PREFIX + "ADMIN_TOKEN", "", f"a token is needed, as the admin port {admin} is not on loopback"
        )
    taken: dict[str, Address] = {}
    for attribute in ("listen", "admin_listen", "health_listen"):
        address: Address | None = read[attribute]
        if address is None:
            continue
        name = PREFIX + attribute.upper()
        other = next((other for other, theirs in taken.items() if address.meets(theirs)), None)
        if other is not None:
            yield Problem(name, str(address), f"a port of its own; {other} has this one ({taken[other]})")
        taken[name] = address
