"""Sub-agents whose client says whose they are: the session, the parent and the link that their first requests get."""

import json

from sidecar.testing import OtlpSink, RunningSidecar, ScriptedUpstream, Span, json_answer
from tests.blackbox.test_identity_rows import Row, send, spans_of


def test_a_sub_agent_names_its_parent(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Its first request links to the latest one of its parent's conversation; later ones do not."""
    session = "X-Sidecar-Session-Id: with-a-sub-agent"
    spans = []
    for headers in (
        (session,),
        (session, "x-claude-code-agent-id: sub"),
        (session, "x-claude-code-agent-id: sub"),
    ):
        upstream.answer(json_answer({"choices": [{"index": 0, "finish_reason": "stop"}]}))
        spans.append(spans_of(sink, send(sidecar, Row("", "", "", headers)))[0])
    linked = [
        [link.span_id for link in span.links if link.attributes["sidecar.link"] == "spawned_by"]
        for span in spans
    ]
    assert linked == [[], [spans[0].span_id], []]


def test_a_sub_agent_names_its_parents_turn(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Its first request links to the latest one of that turn, also if its parent has begun another one; else to the latest."""

    def ask(thread: str, **metadata: str) -> Span:
        told = {"session_id": "with-turns", "thread_id": thread, **metadata}
        upstream.answer(json_answer({"choices": [{"index": 0, "finish_reason": "stop"}]}))
        return spans_of(
            sink, send(sidecar, Row("", "", "", (f"x-codex-turn-metadata: {json.dumps(told)}",)))
        )[0]

    turns = [ask("root", turn_id=turn) for turn in ("one", "one", "two")]
    linked = []
    for turn in ("one", "two", "forgotten"):
        span = ask(f"sub-{turn}", turn_id=f"in-{turn}", parent_thread_id="root", parent_turn_id=turn)
        linked += [link.span_id for link in span.links if link.attributes["sidecar.link"] == "spawned_by"]
    assert linked == [turns[1].span_id, turns[2].span_id, turns[2].span_id]


def test_sub_agents_of_sub_agents(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """However deep they are, all that have sessions of their own are conversations of the first one's, each with its parent."""

    def ask(own: str, parent: str | None) -> Span:
        named = () if parent is None else (f"x-parent-session-id: {parent}",)
        upstream.answer(json_answer({"choices": [{"index": 0, "finish_reason": "stop"}]}))
        return spans_of(sink, send(sidecar, Row("", "", "", (f"x-session-id: {own}", *named))))[0]

    asked = [("ses_0", None), ("ses_1", "ses_0"), ("ses_2", "ses_1"), ("ses_3", "ses_2"), ("ses_2", "ses_1")]
    spans = [ask(own, parent) for own, parent in asked]
    assert {span.attributes["session.id"] for span in spans} == {"ses_0"}
    assert [
        (span.attributes["sidecar.conversation.id"], span.attributes.get("sidecar.conversation.parent"))
        for span in spans
    ] == [("main", None), ("ses_1", "main"), ("ses_2", "ses_1"), ("ses_3", "ses_2"), ("ses_2", "ses_1")]
    linked = [
        [link.span_id for link in span.links if link.attributes["sidecar.link"] == "spawned_by"]
        for span in spans
    ]
    assert linked == [[], *([span.span_id] for span in spans[:3]), []]
    early = ask("ses_5", "ses_4")
    assert (early.attributes["session.id"], early.attributes["sidecar.conversation.parent"]) == (
        "ses_4",
        "main",
    )
