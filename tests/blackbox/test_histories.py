"""Turns that name no session, through the production server: which they join by their history, and what they are to it."""

import json
from itertools import count
from typing import Any

import pytest

from sidecar.testing import (
    Chunk,
    Gate,
    LastChunk,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Span,
    Wait,
    answer,
    chat_chunk,
    exchange,
    json_answer,
    request_bytes,
    sse_event,
    sse_head,
)
from tests.histories.shown import (
    CHAT,
    COMPLETIONS,
    GEMINI,
    MESSAGES,
    PATHS,
    RESPONSES,
    Answer,
    body_of,
    events_of,
    request_of,
)

_number = count(1)


def span_of(sink: OtlpSink, said: Any) -> Span:
    """The SERVER span of an answered request."""
    request_id = (said.get("x-sidecar-request-id") or b"").decode()
    return sink.span(kind="SERVER", attributes={"sidecar.request.id": request_id})


def asked(api: str, messages: list[Any], *headers: str, stream: bool = False) -> bytes:
    """A request of an API with these messages."""
    body = json.dumps(request_of(api, messages, stream=stream)).encode()
    kind = ("Content-Type: application/json", *headers)
    return request_bytes("POST", PATHS[api], headers=tuple(line.encode() for line in kind), body=body)


def told(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, request: bytes, said: Any
) -> Span:
    """The SERVER span of a request that is answered so."""
    upstream.answer(json_answer(said))
    return span_of(sink, exchange(sidecar.port, request))


def user(text: str) -> dict[str, str]:
    """What a user says."""
    return {"role": "user", "content": text}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES, GEMINI])
def test_a_turn_joins_the_session_of_the_seenit_has(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, api: str, streamed: bool
) -> None:
    """By the answer's text behind the same messages; the first turn's id is the session's, and nobody supplied it."""
    mark = f"{api} {streamed}"
    seen = Answer(f"It is a long way to answer number {mark}.", response=f"resp_{next(_number)}")

    def ask(messages: list[Any]) -> Span:
        if streamed:
            pieces = [Chunk(sse_event(event)) for event in events_of(api, seen)]
            upstream.answer(*sse_head(), *pieces, LastChunk())
        else:
            upstream.answer(json_answer(body_of(api, seen)))
        return span_of(sink, exchange(sidecar.port, asked(api, messages, stream=streamed)))

    first = ask([user(mark)])
    second = ask([user(mark), seen, user("Why?")])
    stranger = ask([user(f"{mark}, another one"), seen, user("Why?")])
    assert first.attributes["sidecar.session.source"] == "generated"
    assert first.attributes["sidecar.turn.relation"] == "first"
    assert second.attributes["session.id"] == first.attributes["session.id"]
    assert second.attributes["sidecar.session.source"] == "history"
    assert second.attributes["sidecar.turn.relation"] == "continues"
    assert second.attributes["sidecar.turn.kept"] == 1
    assert second.attributes["sidecar.request.sequence"] == 2
    assert "gen_ai.conversation.id" not in second.attributes
    assert stranger.attributes["sidecar.session.source"] == "generated"


def test_a_prompt_that_grows(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """A text completion joins the turn whose prompt and answer its own begins with; of another answer it does not."""
    prompt = "A conversation with an assistant, who is helpful.\n\nHuman: What of the grown prompt?\nAI:"
    spans = []
    for asked_for in (
        prompt,
        f"{prompt} It grew and grew.\nHuman: And now?\nAI:",
        f"{prompt} It shrank.\nHuman: And now?\nAI:",
    ):
        body = json.dumps({"model": "m", "prompt": asked_for}).encode()
        request = request_bytes(
            "POST", PATHS[COMPLETIONS], headers=(b"Content-Type: application/json",), body=body
        )
        spans.append(
            told(sidecar, upstream, sink, request, body_of(COMPLETIONS, Answer(" It grew and grew.")))
        )
    first, second, other = (span.attributes for span in spans)
    assert second["session.id"] == first["session.id"] != other["session.id"]
    assert second["sidecar.session.source"] == "history"
    relations = [one["sidecar.turn.relation"] for one in (first, second, other)]
    assert relations == ["first", "continues", "first"]


def test_several_sessions_could_be_it(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Two runs that begin and are answered alike stay two; what could continue either is counted, and joins none."""
    said = body_of(CHAT, alike := Answer("An answer that both of them were given."))
    runs = [told(sidecar, upstream, sink, asked(CHAT, [user("Begin alike.")]), said) for _ in range(2)]
    third = told(sidecar, upstream, sink, asked(CHAT, [user("Begin alike."), alike, user("Go on.")]), said)
    assert len({span.attributes["session.id"] for span in (*runs, third)}) == 3
    assert third.attributes["sidecar.session.source"] == "generated"
    assert third.attributes["sidecar.anomalies"] == ["history_ambiguous"]


def test_an_id_that_is_spoken_of(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """An answer about another session's call belongs to the session in which it was given, if to any."""
    made = "call_5b1d9e7a3c2f8d40"
    calling = Answer("", [(made, "look", "{}")])
    other = told(sidecar, upstream, sink, asked(CHAT, [user("Look it up.")]), body_of(CHAT, calling))
    about = Answer(f"The call that failed is {made}, says the log.")
    messages = [user("Which call failed, of those in the log?")]
    unseen = told(
        sidecar, upstream, sink, asked(CHAT, [*messages, about, user("Why?")]), body_of(CHAT, about)
    )
    first = told(sidecar, upstream, sink, asked(CHAT, messages), body_of(CHAT, about))
    second = told(sidecar, upstream, sink, asked(CHAT, [*messages, about, user("So?")]), body_of(CHAT, about))
    sessions = [span.attributes["session.id"] for span in (other, unseen, first, second)]
    assert len(set(sessions)) == 3
    assert sessions[2] == sessions[3]
    assert unseen.attributes["sidecar.session.source"] == "generated"


def test_a_race_names_both(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Two turns that continue the same answer, one sent while the other is in flight, link to each other."""
    named = "X-Sidecar-Session-Id: a-race"
    said = Answer("The answer from which two turns go on.")
    told(sidecar, upstream, sink, asked(CHAT, [user("Race.")], named), body_of(CHAT, said))
    gate = Gate()
    upstream.answer(
        *sse_head(), Chunk(sse_event(chat_chunk("a"))), Wait(gate), Chunk(sse_event("[DONE]")), LastChunk()
    )
    with RawClient(sidecar.port) as client:
        client.send(asked(CHAT, [user("Race."), said, user("One way.")], named, stream=True))
        client.read_until(b'"a"')
        second = told(
            sidecar,
            upstream,
            sink,
            asked(CHAT, [user("Race."), said, user("Another.")], named),
            body_of(CHAT, said),
        )
        gate.open()
        client.read_until(b"[DONE]")
    first = sink.span(kind="SERVER", attributes={"session.id": "a-race", "sidecar.request.sequence": 2})
    assert first.attributes["sidecar.turn.relation"] == "continues"
    assert second.attributes["sidecar.turn.relation"] == "races"
    for span, other in ((first, second), (second, first)):
        assert linked(span, "races") == [other.span_id]
        _, detail = sidecar.admin("GET", f"/live/requests/{span.span_id}")
        assert [link["id"] for link in detail["links"] if link["kind"] == "races"] == [other.span_id]
        assert detail["bar"]["races"] == 1


def linked(span: Span, kind: str) -> list[str]:
    """The spans to which its links of a kind lead."""
    return [link.span_id for link in span.links if link.attributes["sidecar.link"] == kind]


def test_lanes_of_a_session(sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """A title call, a call with the same past under another system prompt and a sub-agent do not overlap the main thread."""
    named = "X-Sidecar-Session-Id: with-lanes"
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "spawn")]
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "t", "schema": schema}}
    task = "Look into the corner, and report."
    calls = [("call_0a1b2c3d4e5f", "spawn", json.dumps({"prompt": task}))]
    said = Answer("I ask somebody to look into it.", calls)

    def ask(system: str, messages: list[Any], given: Answer, **more: Any) -> Span:
        body = request_of(CHAT, [{"role": "system", "content": system}, *messages], **more)
        kind = (b"Content-Type: application/json", named.encode())
        upstream.answer(json_answer(body_of(CHAT, given)))
        request = request_bytes("POST", PATHS[CHAT], headers=kind, body=json.dumps(body).encode())
        return span_of(sink, exchange(sidecar.port, request))

    done = Answer("It has been looked into, and all is well.")
    result = {"role": "tool", "tool_call_id": calls[0][0], "content": done.text}
    title = ask("You name sessions.", [user("Look.")], Answer("Looking"), response_format=form)
    main = ask("You look into things.", [user("Look.")], said, tools=tools)
    child = ask("You are a helper of somebody.", [user(task)], done, tools=tools[:1])
    again = ask("You look into things.", [user("Look."), said, result], done, tools=tools)
    memory = ask("Extract what is worth keeping.", [user("Look."), said, result, done, user("Keep.")], done)
    last = ask(
        "You look into things.", [user("Look."), said, result, done, user("Thanks.")], done, tools=tools
    )
    lanes = {span.attributes["sidecar.conversation.id"]: span for span in (title, main, child, memory)}
    assert list(lanes) == ["side:title", "main", "side:agent-1", "side:1"]
    assert {span.attributes["sidecar.conversation.id"] for span in (again, last)} == {"main"}
    relations = [
        span.attributes["sidecar.turn.relation"] for span in (title, main, child, again, memory, last)
    ]
    assert relations == ["first", "first", "first", "continues", "continues", "continues"]
    assert child.attributes["sidecar.conversation.parent"] == "main"
    assert linked(child, "spawned_by") == [main.span_id]
    assert linked(again, "spawned") == [child.span_id]
    assert not any(linked(span, "spawned") for span in (title, main, child, memory, last))
    _, detail = sidecar.admin("GET", f"/live/requests/{again.span_id}")
    assert [link["id"] for link in detail["links"] if link["kind"] == "spawned"] == [child.span_id]
    assert "gen_ai.conversation.id" in main.attributes


PLANNER = {"X-Claude-Code-Agent-Id": "planner"}


@pytest.mark.parametrize(
    "session,parent,named",
    [
        ("", {}, False),
        ("agents-1", {}, False),
        ("agents-2", {}, True),
        ("agents-3", PLANNER, False),
        ("agents-4", PLANNER, True),
    ],
)
def test_agents_that_come_back(
    sidecar: RunningSidecar,
    upstream: ScriptedUpstream,
    sink: OtlpSink,
    session: str,
    parent: dict[str, str],
    named: bool,
) -> None:
    """The parent's next turn leads to the latest turn of each agent that its answer called, named by the client or not."""
    tasks = ["Count the cows behind the house.", "Count the goats in front of it."]
    calls = [
        (f"call_{at}f8e7d6c5b4a", "spawn", json.dumps({"prompt": task})) for at, task in enumerate(tasks)
    ]
    said = Answer("", calls)

    def ask(messages: list[Any], given: Answer, headers: dict[str, str]) -> Span:
        if session:
            headers = {"X-Claude-Code-Session-Id": session, **headers}
        fields = [f"{name}: {value}".encode() for name, value in headers.items()]
        upstream.answer(json_answer(body_of(CHAT, given)))
        request = request_bytes(
            "POST",
            PATHS[CHAT],
            headers=(b"Content-Type: application/json", *fields),
            body=json.dumps(request_of(CHAT, messages)).encode(),
        )
        return span_of(sink, exchange(sidecar.port, request))

    first = ask([user("How many are there?")], said, parent)
    ends = []
    for at, task in enumerate(tasks):
        agent = {"X-Claude-Code-Agent-Id": f"counter-{at}"} if named else {}
        step = Answer("", [(f"call_{at}1122334455", "look", "{}")])
        seen = {"role": "tool", "tool_call_id": step.calls[0][0], "content": "many"}
        begun = ask([user(task)], step, agent)
        assert linked(begun, "spawned_by") == [first.span_id]
        ends.append(ask([user(task), step, seen], Answer("There are twelve of them."), agent))
    results = [{"role": "tool", "tool_call_id": call[0], "content": "Twelve."} for call in calls]
    second = ask([user("How many are there?"), said, *results], Answer("Twelve of each, I hear."), parent)
    assert sorted(linked(second, "spawned")) == sorted(span.span_id for span in ends)
    third = ask(
        [user("How many are there?"), said, *results, Answer("Twelve of each, I hear."), user("Thanks.")],
        Answer("You are welcome, and ask again."),
        parent,
    )
    assert linked(third, "spawned") == []


def test_a_sub_agent_of_a_session_that_nobody_named(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Its first message is a task in an answer that waits for it: it is a conversation of that session."""
    task = "Count the sheep behind the house."
    said = Answer("", [("call_9f8e7d6c5b4a", "spawn", json.dumps({"task": task}))])
    parent = told(sidecar, upstream, sink, asked(CHAT, [user("How many?")]), body_of(CHAT, said))
    child = told(
        sidecar, upstream, sink, asked(CHAT, [user(task)]), body_of(CHAT, Answer("There are twelve of them."))
    )
    stranger = told(sidecar, upstream, sink, asked(CHAT, [user("Count the sheep.")]), body_of(CHAT, said))
    assert child.attributes["session.id"] == parent.attributes["session.id"]
    assert child.attributes["sidecar.conversation.id"] == "side:agent-1"
    assert child.attributes["sidecar.session.source"] == "history"
    assert stranger.attributes["sidecar.session.source"] == "generated"


def test_prompts_that_break_and_answers_that_are_orphaned(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Where each prompt is another one, what was reported to come from the cache, and the answer that nobody went on from."""
    sidecar = start_sidecar()
    named = "X-Sidecar-Session-Id: breaks"
    tools = [{"type": "function", "function": {"name": "look"}}]
    system = {"role": "system", "content": "You look into things."}
    first, again = Answer("An answer that is dropped again."), Answer("An answer that is taken instead.")
    messages: list[Any] = [system, user("Look.")]

    def ask(said: Answer, given: int, cached: int | None, *, under: Any = None, more: Any = ()) -> Span:
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        usage = {"prompt_tokens": given, "completion_tokens": 5, "total_tokens": given + 5, **details}
        upstream.answer(json_answer({**body_of_chat(said), "usage": usage}))
        body = request_of(CHAT, [under or system, *messages[1:]], tools=more or tools)
        kind = (b"Content-Type: application/json", named.encode())
        request = request_bytes("POST", PATHS[CHAT], headers=kind, body=json.dumps(body).encode())
        return span_of(sink, exchange(sidecar.port, request))

    spans = [ask(first, 100, 0), ask(again, 100, 80)]
    messages += [again, user("Go on.")]
    spans.append(ask(first, 130, 90))
    messages[1] = user("Look again.")
    spans.append(ask(first, 140, None))
    spans.append(ask(first, 140, 0, under={"role": "system", "content": "You look into things at noon."}))
    spans.append(
        ask(
            first,
            150,
            0,
            under={"role": "system", "content": "You look into things at noon."},
            more=tools * 2,
        )
    )
    sidecar.stop()
    broke = [span.attributes.get("sidecar.prompt.broke_at") for span in spans]
    assert broke == [None, None, None, "message", "system", "tools"]
    shares = [span.attributes.get("sidecar.prompt.cached") for span in spans]
    assert shares == [0.0, 0.8, 90 / 130, None, 0.0, 0.0]
    anew = {"none": (100 - 80) + (130 - 90), "message": 130, "system": 140, "tools": 140}
    assert latest(sink, "sidecar.prompt.read_anew", "sidecar.prompt.broke_at") == anew
    cached = [point for point in sink.points if point.metric == "sidecar.prompt.cached"][-1]
    assert cached.count == 5
    assert cached.sum == pytest.approx(0.8 + 90 / 130)
    assert cached.attributes["gen_ai.request.model"] == "m"
    breaks = {"message": 1, "system": 1, "tools": 1}
    assert latest(sink, "sidecar.prompt.breaks", "sidecar.prompt.broke_at") == breaks
    assert sum(point.value or 0 for point in sink.points if point.metric == "sidecar.answers.orphaned") >= 1


def body_of_chat(said: Answer) -> dict[str, object]:
    """A chat completion."""
    body = body_of(CHAT, said)
    assert isinstance(body, dict)
    return body


def latest(sink: OtlpSink, metric: str, attribute: str) -> dict[str, float]:
    """A counter's last values, by an attribute, of the sidecar that was started last: others may tell theirs meanwhile."""
    points = sorted(
        (point for point in sink.points if point.metric == metric),
        key=lambda point: (point.start, point.time),
    )
    return {str(point.attributes[attribute]): point.value or 0 for point in points}


@pytest.mark.parametrize("mode, relation", [("observe", "continues"), ("off", None)])
def test_histories_that_join_nothing(
    start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink, mode: str, relation: str | None
) -> None:
    """`observe` says what a turn is, `off` nothing; the session is made up for each in both."""
    sidecar = start_sidecar(settings={"HISTORY": mode})
    said = body_of(CHAT, seen := Answer("An answer that is seen and not joined."))
    first = told(sidecar, upstream, sink, asked(CHAT, [user("Look.")]), said)
    second = told(sidecar, upstream, sink, asked(CHAT, [user("Look."), seen, user("More.")]), said)
    assert second.attributes["session.id"] != first.attributes["session.id"]
    assert second.attributes["sidecar.session.source"] == "generated"
    assert second.attributes.get("sidecar.turn.relation") == relation


def test_the_oldest_is_forgotten(start_sidecar: Any, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Over the limit the oldest turn is not known any more, which is counted."""
    sidecar = start_sidecar(settings={"HISTORY_LIMIT": "1"})
    said = body_of(CHAT, seen := Answer("An answer that is soon forgotten."))
    told(sidecar, upstream, sink, asked(CHAT, [user("One.")]), said)
    told(sidecar, upstream, sink, asked(CHAT, [user("Two.")]), said)
    third = told(sidecar, upstream, sink, asked(CHAT, [user("One."), seen, user("Three.")]), said)
    assert third.attributes["sidecar.session.source"] == "generated"
    assert sidecar.stats()["anomalies"]["history_evicted"] >= 1


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "torn": (b"{", "unread"),
    "number": (b'{"messages": 3}', "unread"),
    "object": (b'{"messages": {}}', "unread"),
    "list": (b"[]", "unread"),
    "a text that is none": (b'{"messages": [{"role": "user", "content": [{"text": 5}]}]}', "first"),
}


@pytest.mark.parametrize("body,relation", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, body: bytes, relation: str
) -> None:
    """A body that is no history, or an odd one, and no error either."""
    upstream.answer(answer(b"{}", headers=(b"Content-Type: application/json",)))
    kind = b"Content-Type: application/json"
    span = span_of(
        sink, exchange(sidecar.port, request_bytes("POST", PATHS[CHAT], headers=(kind,), body=body))
    )
    assert span.attributes["sidecar.turn.relation"] == relation
