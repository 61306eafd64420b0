"""Every setting of the sidecar: one table, read once, from `SIDECAR_*` variables and flags of the same names.

Owns names, defaults and meanings, and the form of such a table, which OpenTelemetry's variables have too
(`telemetry/otel_settings.py`). It reads only the mappings it is given and reports all bad values at once. Every other room
takes the frozen `Settings`. There is no settings library behind it: variables, flags, the list of errors, unknown names
and the tables in docs/settings.md come from the rows.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sidecar import settings_values as values
from sidecar.core.exchange import Upstream
from sidecar.core.shown import mask
from sidecar.core.turns import DEFAULT_FORMAT
from sidecar.settings_values import Address, Kind

__all__ = [
    "TABLE",
    "Address",
    "Kind",
    "Problem",
    "Setting",
    "Settings",
    "SettingsError",
    "Values",
    "load",
    "read_table",
    "unknown_names",
]

PREFIX = "SIDECAR_"

PASSED_ON = re.compile(r"OTEL_.*|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)")
"""The variables of the environment that other rooms may see."""

_SERVICE_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""How the variables go on that Kubernetes puts into every pod, after a Service's name."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad value: where it was given, what was given (credentials masked), and what is allowed.

    `ignored`: it counts as not set; otherwise the sidecar does not start.
    """

    name: str
    value: str
    allowed: str
    ignored: bool = False

    def __str__(self) -> str:
        """One line for a terminal."""
        given = f"{self.name}={self.value}" if self.value else self.name
        return f"{given} is ignored: {self.allowed}" if self.ignored else f"{given}: {self.allowed}"


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
    long_running: float
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
    replay_limit: int
    live_requests: int
    live_age: float
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
    """One row of a table.

    `default` is written as a user would; where it is empty, `unset` says in words what holds instead. A bad value is
    refused; of a `lenient` row it is told, and counts as not set.
    """

    variable: str
    default: str
    kind: Kind
    meaning: str
    unset: str = ""
    lenient: bool = False

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return "--" + self.attribute.replace("_", "-")

    @property
    def attribute(self) -> str:
        """Its attribute of `Settings`, and its key among the flags."""
        return self.variable.removeprefix(PREFIX).lower()

    def problem(self, name: str, text: object, allowed: str) -> Problem:
        """What is wrong with this text, given as `name`; no credential is repeated."""
        shown = "***" if self.kind.secret else mask(str(text))
        return Problem(name, shown, allowed, ignored=self.lenient)


@dataclass(frozen=True, slots=True)
class Values:
    """What a table was read as, by variable: the value given, else the default. `given` are those that somebody gave."""

    values: Mapping[str, Any]
    given: frozenset[str]
    problems: tuple[Problem, ...]

    def __getitem__(self, variable: str) -> Any:
        """Its value."""
        return self.values[variable]


def read_table(table: Iterable[Setting], flags: Mapping[str, str], environ: Mapping[str, str]) -> Values:
    """Reads every row. `flags` are keyed by `Setting.attribute` and win; an empty text is not set."""
    found: dict[str, Any] = {}
    given: set[str] = set()
    problems: list[Problem] = []
    for setting in table:
        in_flags = setting.attribute in flags
        name = setting.flag if in_flags else setting.variable
        text = flags[setting.attribute] if in_flags else environ.get(setting.variable, "")
        read, bad = _parts(setting, name, text)
        problems += bad
        if read:
            given.add(setting.variable)
        elif setting.lenient or not bad:
            read, _ = _parts(setting, name, setting.default)
        found[setting.variable] = setting.kind.value(read)
    return Values(found, frozenset(given), tuple(problems))


def _parts(setting: Setting, name: str, text: str) -> tuple[list[object], list[Problem]]:
    """What the parts of a text are read as, and what is wrong with the others."""
    kind = setting.kind
    read: list[object] = []
    bad: list[Problem] = []
    for part in kind.parts(text):
        try:
            read.append(kind.read(part))
        except (ValueError, OSError) as error:
            allowed = str(error) if isinstance(error, values.MistypedError) else kind.allowed
            bad.append(setting.problem(name, part, allowed))
    return read, bad


def unknown_names(table: Iterable[Setting], prefix: str, environ: Mapping[str, str]) -> list[str]:
    """The names with this prefix that are no row of the table.

    What Kubernetes puts into every pod for its Services is nobody's setting: a Service `sidecar-injector` makes
    `SIDECAR_INJECTOR_SERVICE_HOST`, `SIDECAR_INJECTOR_PORT_443_TCP` and so on.
    """
    own = sorted({name for name in environ if name.startswith(prefix)})
    services = [name.removesuffix("SERVICE_HOST") for name in own if name.endswith("_SERVICE_HOST")]
    known = {setting.variable for setting in table}
    return [
        name
        for name in own
        if name not in known
        and not any(
            name.startswith(service) and _SERVICE_LINK.fullmatch(name, len(service)) for service in services
        )
    ]


TABLE = (
    Setting(
        "SIDECAR_LISTEN", "127.0.0.1:7070", values.ADDRESS, "the data port: where the app sends its calls"
    ),
    Setting(
        "SIDECAR_ADMIN_LISTEN",
        "127.0.0.1:7071",
        values.ADDRESS,
        "the admin port: health, stats, sessions, /metrics",
    ),
    Setting(
        "SIDECAR_HEALTH_LISTEN",
        "",
        values.ADDRESS,
        "a port of its own for health, for probes that come from outside",
    ),
    Setting(
        "SIDECAR_ADMIN_TOKEN",
        "",
        values.TOKEN,
        "bearer token of the admin port; needed when that is not on loopback",
    ),
    Setting(
        "SIDECAR_UPSTREAM",
        "",
        values.URL,
        "the provider that calls go to; its path is put before the request's",
    ),
    Setting("SIDECAR_UPSTREAMS", "", values.URLS, "further providers, each reached as /name/..."),
    Setting("SIDECAR_CLIENT_HEAD_TIMEOUT", "30s", values.DURATION, "for a request's whole head to arrive"),
    Setting(
        "SIDECAR_CLIENT_BODY_TIMEOUT",
        "60s",
        values.DURATION,
        "between two pieces of a request's body, and how far a slow body may fall behind",
    ),
    Setting(
        "SIDECAR_CLIENT_KEEPALIVE",
        "75s",
        values.DURATION,
        "how long a client's connection may stay idle between requests",
    ),
    Setting(
        "SIDECAR_POOL_IDLE",
        "30s",
        values.DURATION,
        "how long an idle upstream connection is kept; less if the upstream keeps it for less",
    ),
    Setting("SIDECAR_HEAD_LIMIT", "64KiB", values.HEAD_SIZE, "size of a head, of requests and of answers"),
    Setting("SIDECAR_HEAD_FIELDS", "256", values.NUMBER, "number of header fields in a head"),
    Setting("SIDECAR_CONNECT_TIMEOUT", "10s", values.DURATION, "for connecting to an upstream, TLS included"),
    Setting(
        "SIDECAR_FIRST_BYTE_TIMEOUT",
        "600s",
        values.DURATION,
        "for an answer's first byte, from the request's end",
    ),
    Setting(
        "SIDECAR_IDLE_TIMEOUT",
        "300s",
        values.DURATION,
        "silence after which an answer that has begun is given up",
    ),
    Setting("SIDECAR_STALL_AFTER", "10s", values.DURATION, "silence of a stream that is reported as a stall"),
    Setting(
        "SIDECAR_LONG_RUNNING",
        "60s",
        values.DURATION,
        "age at which a request in flight is reported in the log, and again after each such time",
    ),
    Setting("SIDECAR_MAX_REQUESTS", "10000", values.NUMBER, "requests in flight; more get 503"),
    Setting(
        "SIDECAR_INSPECT_LIMIT", "8MiB", values.SIZE, "size up to which a JSON body is read before it goes on"
    ),
    Setting(
        "SIDECAR_INSPECT_MEMORY",
        "256MiB",
        values.SIZE,
        "memory for such bodies, their decoders and heads of over 4 KiB, over all requests",
    ),
    Setting(
        "SIDECAR_SHUTDOWN_TIMEOUT",
        "25s",
        values.DURATION,
        "for the whole drain, the telemetry's last flush included",
    ),
    Setting("SIDECAR_SESSION_IDLE", "30m", values.DURATION, "idle time after which a session ends"),
    Setting("SIDECAR_SESSION_LIMIT", "100000", values.NUMBER, "sessions tracked at once"),
    Setting(
        "SIDECAR_CONVERSATIONS_PER_SESSION", "1000", values.NUMBER, "conversations tracked in one session"
    ),
    Setting(
        "SIDECAR_RESPONSE_CHAIN_LIMIT",
        "100000",
        values.NUMBER,
        "response ids remembered for requests that continue or fetch them, about 1.2 KB each",
    ),
    Setting(
        "SIDECAR_HISTORY",
        "join",
        values.one_of("join", "observe", "off"),
        "whether turns that name no session join one by their history, are only labelled, or neither",
    ),
    Setting(
        "SIDECAR_HISTORY_LIMIT",
        "20000",
        values.NUMBER,
        "turns remembered by digests of their history, about 3 KB each",
    ),
    Setting(
        "SIDECAR_MODEL_LIMIT",
        "100",
        values.NUMBER,
        "model names in metrics; further ones are counted as other",
    ),
    Setting(
        "SIDECAR_SESSION_HEADERS",
        "",
        values.HEADERS,
        "header fields that name a session, before the known ones",
    ),
    Setting("SIDECAR_SESSION_FIELDS", "", values.FIELDS, "body fields that name a session, as dotted paths"),
    Setting("SIDECAR_CONVERSATION_HEADERS", "", values.HEADERS, "header fields that name a conversation"),
    Setting(
        "SIDECAR_CONVERSATION_FIELDS",
        "",
        values.FIELDS,
        "body fields that name a conversation, as dotted paths",
    ),
    Setting("SIDECAR_REQUEST_ID_FORMAT", DEFAULT_FORMAT, values.REQUEST_ID, "how a request id is composed"),
    Setting(
        "SIDECAR_INCOMING_TRACE",
        "parent",
        values.one_of("parent", "link", "ignore"),
        "what the caller's traceparent becomes of the request's span",
    ),
    Setting(
        "SIDECAR_FORWARD_TRACE", "on", values.SWITCH, "whether the upstream gets the sidecar's traceparent"
    ),
    Setting("SIDECAR_FORWARD_BAGGAGE", "none", values.BAGGAGE, "which baggage members the upstream gets"),
    Setting(
        "SIDECAR_SEMCONV",
        "shipped",
        values.one_of("shipped", "latest", "both"),
        "which names of the GenAI conventions telemetry uses",
    ),
    Setting("SIDECAR_LOG_FORMAT", "json", values.one_of("json", "console"), "how log lines look on stderr"),
    Setting("SIDECAR_PROMETHEUS", "off", values.SWITCH, "whether the admin port serves /metrics"),
    Setting(
        "SIDECAR_QUIET_PATHS",
        "/health,/healthz,/livez,/readyz,/liveness,/readiness,/ping,HEAD /,HEAD /api/hello",
        values.QUIET_PATHS,
        "probes (GET and HEAD) that are only counted, unless they fail",
    ),
    Setting(
        "SIDECAR_REPLAY_LIMIT",
        "20000",
        values.LIMIT,
        "ended requests remembered for a replay trace of each session, some 1 KB each; 0: no such traces",
    ),
    Setting(
        "SIDECAR_LIVE_REQUESTS",
        "1000",
        values.NUMBER,
        "ended requests kept for the live page, about 4 KB each",
    ),
    Setting("SIDECAR_LIVE_AGE", "1h", values.DURATION, "how long the live page keeps them at most"),
    Setting(
        "SIDECAR_TRACE_LINKS",
        "",
        values.LINKS,
        "where the live page opens a trace, such as Jaeger or Grafana",
    ),
    Setting(
        "SIDECAR_RECORD", "", values.FOLDER, "folder for a JSON line about each request, without content"
    ),
    Setting(
        "SIDECAR_RECORD_LIMIT", "256MiB", values.RECORD_SIZE, "size of these files together; the oldest go"
    ),
)
"""Every setting, in the order of docs/settings.md."""


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Reads all settings. `flags` are keyed by `Setting.attribute` and win; an empty variable is not set.

    Raises:
        SettingsError: with every bad value, unknown `SIDECAR_*` name and impossible combination.
    """
    found = read_table(TABLE, flags, environ)
    read = {setting.attribute: found[setting.variable] for setting in TABLE}
    named = {one.name for one in found.problems}
    bad = {setting.attribute for setting in TABLE if not named.isdisjoint((setting.flag, setting.variable))}
    problems = [*_unknown(environ), *found.problems, *_combinations(read, bad)]
    if problems:
        raise SettingsError(problems)
    visible = {name: value for name, value in environ.items() if PASSED_ON.fullmatch(name)}
    return Settings(**read, environ=visible)


def load_addresses(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Address, Address | None]:
    """Where a sidecar with these settings has its admin and its health port, whatever else is set or missing.

    Raises:
        SettingsError: one of the two is not an address.
    """
    admin, health = "SIDECAR_ADMIN_LISTEN", "SIDECAR_HEALTH_LISTEN"
    found = read_table([setting for setting in TABLE if setting.variable in {admin, health}], flags, environ)
    if found.problems:
        raise SettingsError(found.problems)
    return found[admin], found[health]


def _unknown(environ: Mapping[str, str]) -> Iterator[Problem]:
    known = [setting.variable for setting in TABLE]
    for name in unknown_names(TABLE, PREFIX, environ):
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
