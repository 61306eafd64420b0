"""The session explorer: one session, its requests, what overlapped what, its traces and its logs.

Owns two dashboards that read spans: from Tempo by TraceQL, and from Jaeger by its search, which knows tags only. Both
begin with a list of sessions. Metrics give no more than marks in time. Written by `write.py`.
"""

from dataclasses import dataclass

from grafana.names import label
from grafana.panels import TABLE, WIDTH, Json, Row, dashboard, data_source, placed, row
from grafana.variables import annotations
from sidecar.telemetry import names as n

TEMPO_UID, JAEGER_UID = "sidecar-explorer", "sidecar-explorer-jaeger"

SESSION = "${session:doublequote}"
"""The session's id as a quoted text: quotes in it are escaped, and nothing else in it means anything there."""
SERVICE = "${service:doublequote}"
"""A pattern for the service's name, likewise."""
NO_LOGS = "no line with this session id in this range: logs leave with OTEL_LOGS_EXPORTER=otlp only"
LIMIT = 200
_OURS = f'instrumentation:name = "sidecar" && resource.service.name =~ {SERVICE}'
"""The sidecar's own spans: others carry a `session.id` too."""
_LINES = f'{{service_name=~{SERVICE}}} | scope_name = "sidecar"'


def _shown(*parts: tuple[str, str]) -> str:
    """A line of a log's attributes in the order of reading, each with a format, where it has it."""
    told = "".join(
        f"{{{{ if .{label(name)} }}}} {form.replace('%', '{{ .' + label(name) + ' }}')}{{{{ end }}}}"
        for name, form in parts
    )
    return f"line_format `{{{{ __line__ }}}}{told}`"


_REQUEST_LINE = _shown(
    (n.SEQUENCE, "#%"),
    (n.OUTCOME, "%"),
    (n.UPSTREAM, "to %"),
    (n.REQUEST_MODEL, "%"),
    (n.DURATION, "%s"),
    (n.OVERLAPS, "overlaps %"),
    (n.ERROR_TYPE, "error %"),
)
_SESSION_LINE = _shown(
    (n.SESSION_ID, "%"),
    (n.TOTAL_REQUESTS, "requests %"),
    (n.TOTAL_OVERLAPS, "overlaps %"),
    (n.TOTAL_OUT_OF_ORDER, "overtaken %"),
)
_RUNNING_LINE = _shown(
    (n.SESSION_ID, "%"),
    (n.SEQUENCE, "#%"),
    (n.UPSTREAM, "to %"),
    (n.REQUEST_MODEL, "%"),
    (n.AGE, "running %s"),
    (n.SILENCE, "silent %s"),
)
_LOGS = f"{_LINES} | session_id = {SESSION} | {_REQUEST_LINE}"
_LINES_OVER_TIME = f"sum (count_over_time({_LINES} | session_id = {SESSION} [$__auto])) or vector(0)"
_ENDED = f"{_LINES} |= `{n.SESSION_END}` | {_SESSION_LINE}"
_RUNNING = f"{_LINES} |= `{n.REQUEST_LONG_RUNNING}` | {_RUNNING_LINE}"

TITLES = {
    n.SESSION_ID: ("Session", ""),
    n.SESSION_SOURCE: ("Named by", ""),
    n.CONVERSATION: ("Conversation", ""),
    n.SEQUENCE: ("#", "none"),
    n.OUTCOME: ("Outcome", ""),
    n.TURN_RELATION: ("To its past", ""),
    n.STREAMING: ("Streams", ""),
    n.OVERLAPS: ("Overlaps", "none"),
    n.OVERLAPPED_BY: ("Overlapped by", "none"),
    n.DISTANCE: ("Overtaken by", "none"),
    n.WAIT_AVOIDED: ("Wait avoided", "s"),
    n.STATUS: ("Status", "none"),
    n.OPERATION: ("Operation", ""),
    n.REQUEST_MODEL: ("Model asked for", ""),
    n.RESPONSE_MODEL: ("Model that answered", ""),
    n.INPUT_TOKENS: ("Input tokens", "none"),
    n.OUTPUT_TOKENS: ("Output tokens", "none"),
    n.TIME_TO_FIRST_CHUNK: ("First word", "s"),
    n.ERROR_TYPE: ("Error", ""),
    n.TOTAL_CONVERSATIONS: ("Conversations", "none"),
    n.TOTAL_REQUESTS: ("Requests", "none"),
    n.TOTAL_OVERLAPS: ("Overlaps", "none"),
    n.TOTAL_MOST_AT_ONCE: ("Most at once", "none"),
    n.TOTAL_OUT_OF_ORDER: ("Overtaken", "none"),
    n.TOTAL_WAIT_AVOIDED: ("Wait avoided", "s"),
    n.TOTAL_MODEL_TIME: ("Model time", "s"),
    n.TOTAL_THINK_TIME: ("Think time", "s"),
    n.TOTAL_INPUT_TOKENS: ("Input tokens", "none"),
    n.TOTAL_OUTPUT_TOKENS: ("Output tokens", "none"),
    n.REPLAY_OMITTED: ("Requests left out", "none"),
}
"""A column's title and unit; a unit says that it holds numbers, which a trace store tells as texts."""

EMPTY = (
    "Rows are the latest, at most 200. **No session?** One ends half an hour after its last request; one that runs is "
    "among the requests on the right. Of a request that has not ended there is no span yet: see *Running for long*. "
    "**No request?** Check the service and the range; a trace store finds what was just sent after half a minute."
)
EMPTY_SESSION = (
    "**No row?** Check the id, or widen the range: no span has this session's id there. *Overlaps and inversions* is empty "
    "where no request met another. Conversations and the replay are there once they have ended."
)


@dataclass(frozen=True, slots=True)
class Spans:
    """A panel of spans. `query` is TraceQL; `columns` are attributes, beside start, name and duration."""

    number: int
    title: str
    says: str
    query: str
    columns: tuple[str, ...]
    kind: str = "table"
    width: int = WIDTH
    height: int = 9

    @property
    def traceql(self) -> str:
        """The query with its columns, the latest first: else a store may give any of the range."""
        chosen = ", ".join(f"span.{name}" for name in self.columns)
        return f"{self.query} | select({chosen}) with (most_recent=true)"


_REQUESTS = f"{_OURS} && kind = server && span.{n.SESSION_ID} = {SESSION}"
_REPLAY = "replay session"
"""The root of the trace that has a session's lanes."""
_LANES = (
    "One trace with a lane for each conversation and a bar for each request, with its final figures and a link to its own trace: "
    "a click opens it. It comes when the session ends; one that went on and ended again has another. "
    "Spans: replay session."
)
_WAITS = (n.OVERLAPS, n.OVERLAPPED_BY, n.DISTANCE, n.WAIT_AVOIDED)

TEMPO: tuple[Spans | Row, ...] = (
    Row(305, "Choose a session"),
    Spans(
        301,
        "Sessions that ended",
        "By their `session` spans, newest first. A click on an id chooses the session; one on a span opens it, and its links lead "
        "to its conversations. Spans: session.",
        f'{{ {_OURS} && name = "session" && span.{n.SESSION_ID} != "" }}',
        (
            n.SESSION_ID,
            n.SESSION_SOURCE,
            n.TOTAL_CONVERSATIONS,
            n.TOTAL_REQUESTS,
            n.TOTAL_OVERLAPS,
            n.TOTAL_MOST_AT_ONCE,
            n.TOTAL_OUT_OF_ORDER,
            n.TOTAL_WAIT_AVOIDED,
        ),
        width=14,
    ),
    Spans(
        302,
        "Requests of sessions, running ones too",
        "The latest requests of all sessions: those that still run are found by them. A click on an id chooses the session. "
        "Spans: SERVER spans of requests.",
        f'{{ {_OURS} && kind = server && span.{n.SESSION_ID} != "" }}',
        (n.SESSION_ID, n.SESSION_SOURCE, n.OUTCOME),
        width=10,
    ),
    Row(306, "The session: $session"),
    Spans(
        319,
        "Its replay",
        _LANES,
        f'{{ {_OURS} && name = "{_REPLAY}" && span.{n.SESSION_ID} = {SESSION} }}',
        (n.SESSION_SOURCE, n.REPLAY_OMITTED),
        height=4,
    ),
    Spans(
        310,
        "Its requests",
        "In the order of their numbers; those of other sessions are not among them. Overlaps: turns in flight when it came, and "
        "turns that came while it ran. A trace's links lead to the requests it overlapped. Spans: SERVER spans of requests.",
        f"{{ {_REQUESTS} }}",
        (
            n.SEQUENCE,
            n.CONVERSATION,
            n.TURN_RELATION,
            n.OUTCOME,
            n.STREAMING,
            *_WAITS,
            n.STATUS,
        ),
        height=10,
    ),
    Spans(
        311,
        "Against time",
        "Each dot is a request: when it began, and how long it took. What ran at once began at different times: the replay has the "
        "lanes. "
        "Spans: SERVER spans of requests.",
        f"{{ {_REQUESTS} }}",
        (n.SEQUENCE,),
        kind="xychart",
        width=12,
    ),
    Spans(
        312,
        "Overlaps and inversions",
        "Only requests that met another of their conversation, or were overtaken. Spans: SERVER spans of requests.",
        f"{{ {_REQUESTS} && (span.{n.OVERLAPS} > 0 || span.{n.OVERLAPPED_BY} > 0 || span.{n.DISTANCE} > 0) }}",
        (n.SEQUENCE, n.CONVERSATION, *_WAITS),
        width=12,
    ),
    Spans(
        313,
        "Its calls to models",
        "What was asked, what answered, and what it cost. Spans: CLIENT spans of requests.",
        f"{{ {_OURS} && kind = client && span.{n.SESSION_ID} = {SESSION} }}",
        (
            n.SEQUENCE,
            n.OPERATION,
            n.REQUEST_MODEL,
            n.RESPONSE_MODEL,
            n.INPUT_TOKENS,
            n.OUTPUT_TOKENS,
            n.TIME_TO_FIRST_CHUNK,
            n.ERROR_TYPE,
        ),
    ),
    Spans(
        314,
        "Its conversations that ended",
        "Their sums; links of such a span lead to the first, last, slowest, failed and overlapping requests. "
        "Spans: conversation.",
        f'{{ {_OURS} && name = "conversation" && span.{n.SESSION_ID} = {SESSION} }}',
        (
            n.CONVERSATION,
            n.TOTAL_REQUESTS,
            n.TOTAL_OVERLAPS,
            n.TOTAL_MOST_AT_ONCE,
            n.TOTAL_OUT_OF_ORDER,
            n.TOTAL_WAIT_AVOIDED,
            n.TOTAL_MODEL_TIME,
            n.TOTAL_THINK_TIME,
            n.TOTAL_INPUT_TOKENS,
            n.TOTAL_OUTPUT_TOKENS,
        ),
    ),
)


def _base(number: int, title: str, says: str, kind: str, source: Json, no_data: str = "") -> Json:
    return {
        "id": number,
        "type": kind,
        "title": title,
        "description": says,
        "datasource": source,
        "fieldConfig": {
            # In a table these words would stand in every cell that has nothing.
            "defaults": ({"noValue": no_data} if no_data else {}) | {"custom": {}},
            "overrides": [],
        },
    }


def _source(kind: str) -> Json:
    return {"type": kind, "uid": f"${{{kind}}}"}


def _choosing(uid: str) -> Json:
    """A session's id in a table is a link to this dashboard, with it chosen."""
    link = {
        "title": "Choose this session",
        "url": f"/d/{uid}?var-session=${{__value.text:percentencode}}&${{datasource:queryparam}}&${{tempo:queryparam}}"
        "&${loki:queryparam}&${service:queryparam}&${__url_time_range}",
    }
    return {
        "matcher": {"id": "byName", "options": TITLES[n.SESSION_ID][0]},
        "properties": [{"id": "links", "value": [link]}],
    }


def _unit(name: str) -> Json:
    title, unit = TITLES[name]
    return {
        "matcher": {"id": "byName", "options": title},
        "properties": [{"id": "unit", "value": unit}],
    }


def _arranged(panel: Spans) -> list[Json]:
    """Numbers as numbers, columns in the order of reading under their titles, requests by their number."""
    numbers = [name for name in panel.columns if TITLES[name][1]]
    converted = [{"targetField": name, "destinationType": "number"} for name in numbers]
    order = ["Start time", *panel.columns, "Duration", "Span ID"]
    organised = {
        "excludeByName": {"Trace Service": True, "Trace Name": True, "Name": True},
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": {name: TITLES[name][0] for name in panel.columns},
    }
    first = TITLES[n.SEQUENCE][0] if n.SEQUENCE in panel.columns else "Start time"
    return [
        {"id": "convertFieldType", "options": {"conversions": converted, "fields": {}}},
        {"id": "organize", "options": organised},
        {
            "id": "sortBy",
            "options": {"sort": [{"field": first, "desc": first == "Start time"}], "fields": {}},
        },
    ]


def _words(number: int, text: str, width: int = WIDTH) -> tuple[Json, int, int]:
    """What an empty table may mean, beside it."""
    made: Json = {"id": number, "type": "text", "title": "", "options": {"mode": "markdown", "content": text}}
    return made, width, 2


def _spans(panel: Spans) -> Json:
    source = _source("tempo")
    made = _base(panel.number, panel.title, panel.says, panel.kind, source)
    made["targets"] = [
        {
            "refId": "A",
            "datasource": source,
            "queryType": "traceql",
            "query": panel.traceql,
            "tableType": "spans",
            "limit": LIMIT,
            # All of a trace: an app that traces itself has the calls of a whole run in one.
            "spss": 100,
            "filters": [],
        }
    ]
    if panel.kind == "table":
        made["fieldConfig"]["overrides"] = [
            *(_unit(name) for name in panel.columns if TITLES[name][1] not in ("", "none")),
            *([_choosing(TEMPO_UID)] if n.SESSION_ID in panel.columns else []),
        ]
        made["transformations"] = _arranged(panel)
        made["options"] = TABLE
        return made
    made["fieldConfig"]["defaults"]["custom"] = {"show": "points", "pointSize": {"fixed": 8}}
    made["options"] = {
        "mapping": "manual",
        "series": [
            {
                "x": {"matcher": {"id": "byType", "options": "time"}},
                "y": {"matcher": {"id": "byName", "options": "Duration"}},
            }
        ],
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return made


def _logs(number: int, title: str, says: str, query: str, no_data: str) -> Json:
    source = _source("loki")
    made = _base(number, title, says, "logs", source, no_data)
    made["targets"] = [{"refId": "A", "datasource": source, "expr": query, "queryType": "range"}]
    made["options"] = {
        "showTime": True,
        "sortOrder": "Descending",
        "wrapLogMessage": True,
        "enableLogDetails": True,
    }
    return made


def _its_lines(number: int) -> Json:
    says = "The sidecar's lines about it, newest first; each leads to its trace. Logs: attribute session.id."
    return _logs(number, "Its log lines", says, _LOGS, NO_LOGS)


def _over_time(number: int) -> Json:
    """The marks in time need a panel that has an axis for it; here it is there for a session without lines, too."""
    says = (
        "How many lines it wrote. Purple marks are processes of the service that start, red ones are alerts that fire. "
        "Logs: attribute session.id."
    )
    source = _source("loki")
    made = _base(number, "Its log lines over time, with restarts and alerts", says, "timeseries", source)
    made["fieldConfig"]["defaults"] |= {
        "unit": "none",
        "min": 0,
        "custom": {"drawStyle": "bars", "fillOpacity": 30},
    }
    made["targets"] = [
        {
            "refId": "A",
            "datasource": source,
            "expr": _LINES_OVER_TIME,
            "queryType": "range",
            "legendFormat": "lines",
        }
    ]
    return made


def _running(number: int) -> Json:
    says = (
        "Requests in flight that have run for a minute and more, once a minute: they have no span before they end. "
        "Logs: sidecar.request.long_running."
    )
    nothing = "no request ran for a minute in this range; logs leave with OTEL_LOGS_EXPORTER=otlp only"
    return _logs(number, "Running for long", says, _RUNNING, nothing)


def _text(name: str, title: str, value: str = "") -> Json:
    return {
        "name": name,
        "label": title,
        "type": "textbox",
        "query": value,
        "current": {"text": value, "value": value},
    }


METRICS = data_source("datasource", "prometheus", "Marks")
"""Where the marks in time come from: the same variable as on the dashboards on metrics, so that links carry it."""


def _marks(service: str) -> list[Json]:
    """Those of the service, which is a job after its namespace, if it has one."""
    job = f"job=~`(.+/)?({service})`"
    return annotations(job, job)


def explorer() -> Json:
    """The dashboard on Tempo."""
    parts = [
        (row(part), WIDTH, 1) if isinstance(part, Row) else (_spans(part), part.width, part.height)
        for part in TEMPO
    ]
    session = next(place for place, part in enumerate(parts) if part[0]["id"] == 306)
    parts.insert(session + 1, _words(317, EMPTY_SESSION))
    parts.insert(session, (_running(318), WIDTH, 6))
    parts.insert(1, _words(316, EMPTY))
    parts += [(_over_time(320), WIDTH, 5), (_its_lines(315), WIDTH, 10)]
    return dashboard(
        TEMPO_UID,
        "Sidecar: session explorer",
        "One session, by its id: its requests, what overlapped what, its traces and its logs, from Tempo and Loki.",
        panels=placed(parts),
        variables=[
            data_source("tempo", "tempo", "Traces"),
            data_source("loki", "loki", "Logs"),
            METRICS,
            _text("service", "Service (a pattern)", ".+"),
            _text("session", "Session id"),
        ],
        annotations=_marks("${service:raw}"),
    )


@dataclass(frozen=True, slots=True)
class Search:
    """A panel of Jaeger's search: one for each of its `tags` (logfmt). `operation` is a span's name."""

    number: int
    title: str
    says: str
    tags: tuple[str, ...]
    operation: str = ""
    height: int = 9


_FAILED = ("upstream_rejected", "upstream_failed", "error_in_stream", "timed_out", "internal_error")
"""A word each: Jaeger's memory takes `error=true` for the opposite where the status says error."""

JAEGER: tuple[Search, ...] = (
    Search(332, "Its replay", _LANES, (f"{n.SESSION_ID}={SESSION}",), _REPLAY, height=4),
    Search(
        330,
        "Its requests, and its own spans",
        "The traces that carry its id: one for each request, and once they have ended those of its conversations and of "
        "itself. References of a request lead to those it overlapped. Spans: all that carry session.id.",
        (f"{n.SESSION_ID}={SESSION}",),
    ),
    Search(
        331,
        "Its requests that failed",
        "By their outcomes: rejected, failed, broken off, timed out. Empty: none did. Spans: SERVER spans of requests.",
        tuple(f"{n.SESSION_ID}={SESSION} {n.OUTCOME}={word}" for word in _FAILED),
    ),
)


def _search(panel: Search) -> Json:
    source = _source("jaeger")
    made = _base(panel.number, panel.title, panel.says, "table", source)
    made["targets"] = [
        {
            "refId": chr(ord("A") + number),
            "datasource": source,
            "queryType": "search",
            "service": "${service}",
            "operation": panel.operation,
            "tags": tags,
            "limit": LIMIT,
        }
        for number, tags in enumerate(panel.tags)
    ]
    if len(panel.tags) > 1:
        made["transformations"] = [{"id": "merge", "options": {}}]
    made["options"] = TABLE
    return made


def explorer_jaeger() -> Json:
    """The dashboard on Jaeger."""
    ended = "Their lines, with their ids and sums, newest first: copy an id from here. Logs: session.end."
    none_ended = "no session ended in this range; logs leave with OTEL_LOGS_EXPORTER=otlp only"
    parts = [
        (row(Row(325, "Choose a session")), WIDTH, 1),
        (_logs(321, "Sessions that ended", ended, _ENDED, none_ended), WIDTH // 2, 9),
        (_running(338), WIDTH // 2, 9),
        (row(Row(326, "The session: $session")), WIDTH, 1),
        _words(337, EMPTY_SESSION.partition(" *Overlaps")[0]),
        *((_search(part), WIDTH, part.height) for part in JAEGER),
        (_over_time(339), WIDTH, 5),
        (_its_lines(335), WIDTH, 10),
    ]
    return dashboard(
        JAEGER_UID,
        "Sidecar: session explorer (Jaeger)",
        "One session, by its id: its traces from Jaeger, its logs from Loki.",
        panels=placed(parts),
        variables=[
            data_source("jaeger", "jaeger", "Traces"),
            data_source("loki", "loki", "Logs"),
            METRICS,
            _text("service", "Service", "demo-sidecar"),
            _text("session", "Session id"),
        ],
        annotations=_marks("${service:regex}"),
    )
