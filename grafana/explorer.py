"""The session explorer: one session, its requests, what overlapped what, its traces and its logs.

Owns two dashboards that read spans: from Tempo by TraceQL, and from Jaeger by its search, which knows tags only. Both
begin with a list of sessions. Needs no metric. Written by `write.py`.
"""

from dataclasses import dataclass

from grafana.panels import WIDTH, Json, Row, dashboard, data_source, placed, row
from sidecar.telemetry import names as n

TEMPO_UID, JAEGER_UID = "sidecar-explorer", "sidecar-explorer-jaeger"

SESSION = "${session:doublequote}"
"""The session's id as a quoted text: quotes in it are escaped, and nothing else in it means anything there."""
NO_SESSION = "no span with this session id in this range: check the id, or widen the range"
NO_OVERLAP = "no overlap in this session, or no such session in this range"
NONE_ENDED = "no session ended in this range: it does so half an hour after its last request"
NONE_AT_ALL = "no request in this range"
NO_LOGS = "no line with this session id in this range: logs leave with OTEL_LOGS_EXPORTER=otlp only"
LIMIT = 200

_LOGS = f'{{service_name=~".+"}} | session_id = {SESSION}'


@dataclass(frozen=True, slots=True)
class Spans:
    """A panel of spans. `query` is TraceQL; `columns` are attributes, beside start, name and duration."""

    number: int
    title: str
    says: str
    query: str
    columns: tuple[str, ...]
    no_data: str
    kind: str = "table"
    width: int = WIDTH
    height: int = 9

    @property
    def traceql(self) -> str:
        """The query with its columns."""
        chosen = ", ".join(f"span.{name}" for name in self.columns)
        return f"{self.query} | select({chosen})"


_REQUESTS = f"kind = server && span.{n.SESSION_ID} = {SESSION}"
_WAITS = (n.OVERLAPS, n.OVERLAPPED_BY, n.DISTANCE, n.WAIT_AVOIDED)

TEMPO: tuple[Spans | Row, ...] = (
    Row(305, "Choose a session"),
    Spans(
        301,
        "Sessions that ended",
        "By their `session` spans, newest first. A click on an id chooses the session; one on a trace id opens its span, "
        "whose links lead to its conversations. Spans: session.",
        '{ name = "session" }',
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
        NONE_ENDED,
        width=14,
    ),
    Spans(
        302,
        "Requests of sessions, running ones too",
        "The latest requests of all sessions: those that still run are found by them. A click on an id chooses the session. "
        "Spans: SERVER spans of requests.",
        f'{{ kind = server && span.{n.SESSION_ID} != "" }}',
        (n.SESSION_ID, n.SESSION_SOURCE, n.OUTCOME),
        NONE_AT_ALL,
        width=10,
    ),
    Row(306, "The session: $session"),
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
        NO_SESSION,
        height=10,
    ),
    Spans(
        311,
        "Against time",
        "Each dot is a request: when it began, and how long it took. Dots above one another ran at once. "
        "Spans: SERVER spans of requests.",
        f"{{ {_REQUESTS} }}",
        (n.SEQUENCE,),
        NO_SESSION,
        kind="xychart",
        width=12,
    ),
    Spans(
        312,
        "Overlaps and inversions",
        "Only requests that met another of their conversation, or were overtaken. Spans: SERVER spans of requests.",
        f"{{ {_REQUESTS} && (span.{n.OVERLAPS} > 0 || span.{n.OVERLAPPED_BY} > 0 || span.{n.DISTANCE} > 0) }}",
        (n.SEQUENCE, n.CONVERSATION, *_WAITS),
        NO_OVERLAP,
        width=12,
    ),
    Spans(
        313,
        "Its calls to models",
        "What was asked, what answered, and what it cost. Spans: CLIENT spans of requests.",
        f"{{ kind = client && span.{n.SESSION_ID} = {SESSION} }}",
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
        NO_SESSION,
    ),
    Spans(
        314,
        "Its conversations that ended",
        "Their sums; links of such a span lead to the first, last, slowest, failed and overlapping requests. "
        "Spans: conversation.",
        f'{{ name = "conversation" && span.{n.SESSION_ID} = {SESSION} }}',
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
        "no conversation of this session ended in this range",
    ),
)


def _base(number: int, title: str, says: str, kind: str, no_data: str, source: Json) -> Json:
    return {
        "id": number,
        "type": kind,
        "title": title,
        "description": says,
        "datasource": source,
        "fieldConfig": {
            "defaults": {"noValue": no_data, "unit": "short", "custom": {}},
            "overrides": [],
        },
    }


def _source(kind: str) -> Json:
    return {"type": kind, "uid": f"${{{kind}}}"}


def _choosing(uid: str) -> Json:
    """A session's id in a table is a link to this dashboard, with it chosen."""
    link = {
        "title": "Choose this session",
        "url": f"/d/{uid}?var-session=${{__value.text:percentencode}}&${{__url_time_range}}",
    }
    return {
        "matcher": {"id": "byName", "options": n.SESSION_ID},
        "properties": [{"id": "links", "value": [link]}],
    }


def _spans(panel: Spans) -> Json:
    source = _source("tempo")
    made = _base(panel.number, panel.title, panel.says, panel.kind, panel.no_data, source)
    made["targets"] = [
        {
            "refId": "A",
            "datasource": source,
            "queryType": "traceql",
            "query": panel.traceql,
            "tableType": "spans",
            "limit": LIMIT,
            "spss": 1,
            "filters": [],
        }
    ]
    if panel.kind == "table":
        made["fieldConfig"]["overrides"].append(_choosing(TEMPO_UID))
        made["options"] = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
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


def _logs(number: int) -> Json:
    source = _source("loki")
    says = "The sidecar's lines about it, newest first; each leads to its trace. Logs: attribute session.id."
    made = _base(number, "Its log lines", says, "logs", NO_LOGS, source)
    made["targets"] = [{"refId": "A", "datasource": source, "expr": _LOGS, "queryType": "range"}]
    made["options"] = {
        "showTime": True,
        "sortOrder": "Descending",
        "wrapLogMessage": True,
        "enableLogDetails": True,
    }
    return made


def _text(name: str, title: str, value: str = "") -> Json:
    return {
        "name": name,
        "label": title,
        "type": "textbox",
        "query": value,
        "current": {"text": value, "value": value},
    }


def explorer() -> Json:
    """The dashboard on Tempo."""
    parts = [
        (row(part), WIDTH, 1) if isinstance(part, Row) else (_spans(part), part.width, part.height)
        for part in TEMPO
    ]
    parts.append((_logs(315), WIDTH, 10))
    return dashboard(
        TEMPO_UID,
        "Sidecar: session explorer",
        "One session, by its id: its requests, what overlapped what, its traces and its logs, from Tempo and Loki.",
        panels=placed(parts),
        variables=[
            data_source("tempo", "tempo", "Traces"),
            data_source("loki", "loki", "Logs"),
            _text("session", "Session id"),
        ],
    )


@dataclass(frozen=True, slots=True)
class Search:
    """A panel of Jaeger's search: `operation` and `tags` (logfmt), each empty for any."""

    number: int
    title: str
    says: str
    operation: str
    tags: str
    no_data: str


JAEGER: tuple[Search | Row, ...] = (
    Row(325, "Choose a session"),
    Search(
        321,
        "Sessions that ended",
        "Each opens its `session` span, whose tag session.id is the id, and whose references lead to its conversations. "
        "Spans: session.",
        "session",
        "",
        NONE_ENDED,
    ),
    Row(326, "The session: $session"),
    Search(
        330,
        "Its requests, and its own spans",
        "The traces that carry its id: one for each request, and once they have ended those of its conversations and of "
        "itself. References of a request lead to those it overlapped. Spans: all that carry session.id.",
        "",
        f"{n.SESSION_ID}={SESSION}",
        NO_SESSION,
    ),
    Search(
        331,
        "Its requests that failed",
        "Those whose SERVER span is an error. Spans: all that carry session.id and are errors.",
        "",
        f"{n.SESSION_ID}={SESSION} error=true",
        "no request of this session failed, or no such session in this range",
    ),
)


def _search(panel: Search) -> Json:
    source = _source("jaeger")
    made = _base(panel.number, panel.title, panel.says, "table", panel.no_data, source)
    made["targets"] = [
        {
            "refId": "A",
            "datasource": source,
            "queryType": "search",
            "service": "${service}",
            "operation": panel.operation,
            "tags": panel.tags,
            "limit": LIMIT,
        }
    ]
    made["options"] = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    return made


def explorer_jaeger() -> Json:
    """The dashboard on Jaeger."""
    parts = [(row(part), WIDTH, 1) if isinstance(part, Row) else (_search(part), WIDTH, 9) for part in JAEGER]
    parts.append((_logs(335), WIDTH, 10))
    return dashboard(
        JAEGER_UID,
        "Sidecar: session explorer (Jaeger)",
        "One session, by its id: its traces from Jaeger, its logs from Loki.",
        panels=placed(parts),
        variables=[
            data_source("jaeger", "jaeger", "Traces"),
            data_source("loki", "loki", "Logs"),
            _text("service", "Service", "demo-sidecar"),
            _text("session", "Session id"),
        ],
    )
