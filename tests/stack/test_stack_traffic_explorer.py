"""The session explorer's questions, asked of the real stores: one session found by its id, none for another's.

Jaeger is asked as Grafana's data source asks it: `/api/traces` with service, operation, tags as JSON (made of the
panel's logfmt), limit and a time range in microseconds (grafana/grafana, pkg/tsdb/jaeger). Tempo where it is at hand.
"""

import json
import re
import time
from typing import Any

import pytest

from grafana import explorer
from grafana.panels import Row
from sidecar.testing import RawClient, RunningSidecar, ScriptedUpstream, chat_request
from tests.stack.app import Counted
from tests.stack.backends import Stack, Tempo
from tests.stack.conftest import SERVICE
from tests.stack.programs import eventually, get
from tests.stack.scenario import rejected, whole

SEARCHES = [(part, tags) for part in explorer.JAEGER for tags in part.tags]
TITLES = [part.title for part, _ in SEARCHES]
QUERIES = [part for part in explorer.TEMPO if not isinstance(part, Row)]
HOSTILE = ('a"b', "{}", ".*", "a b=c", "\\", "' || true || '")


def quoted(value: str) -> str:
    """`${name:doublequote}` as Grafana replaces it."""
    return '"' + value.replace('"', '\\"') + '"'


def ask(stack: Stack, panel: explorer.Search, search: str, session: str) -> list[dict[str, Any]] | None:
    """The traces that a panel of Jaeger's shows; None where Jaeger refuses the question."""
    tags = {
        name: re.sub(r"\\(.)", r"\1", text or plain)
        for name, text, plain in re.findall(
            r'([\w.]+)=(?:"((?:[^"\\]|\\.)*)"|(\S+))', search.replace(explorer.SESSION, quoted(session))
        )
    }
    now = int(time.time() * 1e6)
    asked = {
        "service": SERVICE,
        "limit": str(explorer.LIMIT),
        "start": str(now - 3600_000_000),
        "end": str(now),
        **({"operation": panel.operation} if panel.operation else {}),
    }
    answer = get(f"{stack.jaeger.url}/api/traces", **asked, tags=json.dumps(tags))
    return None if answer is None else answer["data"]


@pytest.mark.parametrize("panel,search", SEARCHES, ids=TITLES)
def test_jaeger_answers_each_panel(
    stack: Stack, traffic: tuple[Counted, RunningSidecar], panel: explorer.Search, search: str
) -> None:
    """For a known session: its requests, as many as its client sent, and its replay; for an unknown one nothing."""
    counted, _ = traffic
    session, sent = next(iter(counted.sessions.items()))
    if panel.title == "Its requests, and its own spans":
        eventually(lambda: len(ask(stack, panel, search, session) or ()) >= sent)
    if panel.title == "Its replay":
        (replay,) = eventually(lambda: ask(stack, panel, search, session) or [])
        names = [span["operationName"] for span in replay["spans"]]
        lanes = names.count("replay conversation")
        assert names.count("replay session") == 1
        assert len(names) == 1 + lanes + sent
        assert lanes
    assert ask(stack, panel, search, "no-such-session") == []


def test_jaeger_finds_what_failed(stack: Stack) -> None:
    """Each request of a session that did not end well is found by its outcome; `error=true` finds none of them."""
    upstream = ScriptedUpstream()
    with upstream, RunningSidecar(upstream=upstream.url, environ=stack.environ(SERVICE)) as sidecar:
        for script in (rejected(503), rejected(400), whole()):
            upstream.answer(*script)
            with RawClient(sidecar.port) as client:
                client.send(chat_request(headers=(b"X-Session-Id: some-failed",)))
                client.read_answer("POST")
        failed = [one for one in SEARCHES if one[0].title == "Its requests that failed"]
        eventually(lambda: sum(len(ask(stack, *one, "some-failed") or ()) for one in failed) == 2)


@pytest.mark.parametrize("value", HOSTILE)
def test_jaeger_takes_a_hostile_id(stack: Stack, traffic: tuple[Counted, RunningSidecar], value: str) -> None:
    """It finds nothing, and refuses nothing."""
    assert traffic
    for panel, search in SEARCHES:
        assert ask(stack, panel, search, value) == []


def logs(panel: str, session: str = "") -> str:
    """The LogQL of the panel of this title, with a session's id filled in; the explorer on Tempo has the same."""
    (made,) = [one for one in explorer.explorer_jaeger()["panels"] if one["title"] == panel]
    query: str = made["targets"][0]["expr"]
    return query.replace(explorer.SERVICE, quoted(SERVICE)).replace(explorer.SESSION, quoted(session))


def test_loki_answers_each_panel(stack: Stack, traffic: tuple[Counted, RunningSidecar]) -> None:
    """A session's lines: its begin, two per request, its end, with what each is about; nothing for an unknown session."""
    counted, _ = traffic
    session, sent = next(iter(counted.sessions.items()))

    def lines(begin: str, panel: str = "Its log lines") -> list[str]:
        found = stack.loki.lines(logs(panel, session)) or ()
        return [line for line in found if line.startswith(begin)]

    eventually(lambda: len(lines("sidecar.request.completed")) + len(lines("sidecar.request.failed")) == sent)
    assert lines("session.start") == ["session.start"]
    begun = lines("sidecar.request.generated")
    assert len(begun) == sent
    assert all(re.match(r"sidecar\.request\.generated #\d+ ", line) for line in begun)
    eventually(lambda: lines(f"session.end {session} requests {sent} ", "Sessions that ended"))
    assert stack.loki.lines(logs("Its log lines", "no-such-session")) == []
    over_time = logs("Its log lines over time, with restarts and alerts", "no-such-session")
    assert {*(stack.loki.lines(over_time.replace("$__auto", "1m")) or ())} == {"0"}
    assert stack.loki.lines(logs("Running for long")) == []


@pytest.mark.parametrize("value", HOSTILE)
def test_loki_takes_a_hostile_id(stack: Stack, traffic: tuple[Counted, RunningSidecar], value: str) -> None:
    """It finds nothing; what Grafana leaves of a backslash is no text to Loki, which says so."""
    assert traffic
    assert stack.loki.lines(logs("Its log lines", value)) == (None if "\\" in value else [])


def test_a_request_leads_to_those_it_overlapped(
    stack: Stack, traffic: tuple[Counted, RunningSidecar]
) -> None:
    """From a request's links to requests of the same session, which name it in turn."""
    assert traffic
    found = 0
    for trace in eventually(lambda: stack.jaeger.requests(SERVICE)):
        for kind, other in stack.jaeger.links(trace["traceID"]):
            if kind == "overlaps":
                met = stack.jaeger.trace(other)
                assert met is not None
                assert _sessions(met) == _sessions(trace)
                assert ("overlaps", trace["traceID"]) in stack.jaeger.links(other)
                found += 1
    assert found


def _sessions(trace: dict[str, Any]) -> set[str]:
    return {tag["value"] for span in trace["spans"] for tag in span["tags"] if tag["key"] == "session.id"}


@pytest.mark.parametrize("panel", QUERIES, ids=[panel.title for panel in QUERIES])
def test_tempo_answers_each_panel(
    tempo: Tempo, traffic: tuple[Counted, RunningSidecar], panel: explorer.Spans
) -> None:
    """The same in TraceQL."""
    counted, _ = traffic
    query = panel.traceql.replace(explorer.SERVICE, quoted(SERVICE))

    def of(session: str) -> list[dict[str, Any]]:
        return tempo.search(query.replace(explorer.SESSION, quoted(session)))

    # Not every session has an overlap.
    eventually(lambda: [session for session in counted.sessions if of(session)])
    for value in HOSTILE[:3]:
        if explorer.SESSION in panel.traceql:
            assert of(value) == []
