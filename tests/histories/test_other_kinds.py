"""Answers of other kinds than texts and calls of functions are recognised when they come back, and errors' texts are none."""

import json
from typing import Any

import pytest

from sidecar import apis
from sidecar.core.digests import Digester
from sidecar.core.echo import Echo
from sidecar.core.facts import ResponseFacts, Route
from tests.histories.shown import CHAT, COMPLETIONS, GEMINI, RESPONSES, Answer, Memory, request_of

ASKED: list[Any] = [{"role": "user", "content": "Say something."}]
NEXT = {"role": "user", "content": "And then?"}
SPOKEN = "It is what it is, so be it."
DELTAS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "a refusal": (
        [{"content": None}, {"refusal": SPOKEN[:9]}, {"refusal": SPOKEN[9:]}],
        {"content": None, "refusal": SPOKEN},
    ),
    "speech": (
        [
            {"role": "assistant", "audio": {"id": "audio_67b1d721fcc48190"}},
            {"audio": {"transcript": "Hello"}},
            {"audio": {"data": "UklG"}},
            {"audio": {"expires_at": 1739707387}},
        ],
        {"audio": {"id": "audio_67b1d721fcc48190"}},
    ),
    "blocks": (
        [
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Well."}]}]},
            {"content": [{"type": "text", "text": SPOKEN[:9]}]},
            {"content": [{"type": "text", "text": SPOKEN[9:12]}, {"type": "text", "text": SPOKEN[12:20]}]},
            {"content": SPOKEN[20:]},
        ],
        {"content": [{"type": "thinking", "thinking": "Well."}, {"type": "text", "text": SPOKEN}]},
    ),
}


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("deltas,back", DELTAS.values(), ids=DELTAS)
def test_other_kinds_of_deltas(deltas: Any, back: Any, session: str | None) -> None:
    """A text that streams as a refusal, or in blocks as Mistral's do, is the answer's as well, and so is the id of speech."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED), session)
    reader = apis.stream_reader(Route("", CHAT), first.facts)
    assert reader is not None
    for delta in deltas:
        reader.event(b"", json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())
    memory.end(first)
    asked = [*ASKED, {"role": "assistant", **back}, NEXT]
    second = memory.ask(CHAT, request_of(CHAT, asked), session)
    assert (second.session, second.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize(
    "said, back",
    [
        ({"id": "audio_abc123def456", "data": "UklG", "transcript": "Hello"}, {"id": "audio_abc123def456"}),
        ({"id": "audio_abc123def456", "data": "UklG"}, {"id": "audio_abc123def456", "data": "UklG"}),
    ],
)
def test_speech_of_a_whole_answer(said: Any, back: Any, session: str | None) -> None:
    """It comes back by its id (platform.openai.com/docs/guides/audio), and another id is of another answer."""
    memory = Memory()
    first = memory.ask(CHAT, request_of(CHAT, ASKED), session)
    reader = apis.body_reader(Route("", CHAT), first.facts)
    assert reader is not None
    message = {"role": "assistant", "content": None, "audio": said}
    assert reader.body(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())
    memory.end(first)
    asked = [*ASKED, {"role": "assistant", "audio": back}, NEXT]
    second = memory.ask(CHAT, request_of(CHAT, asked), session)
    assert (second.session, second.past.relation) == (first.session, "continues")
    asked = [*ASKED, {"role": "assistant", "audio": {"id": "audio_fed321cba654"}}, NEXT]
    assert not memory.ask(CHAT, request_of(CHAT, asked)).place.joins


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("api", [CHAT, COMPLETIONS])
def test_an_errors_text_is_no_answer(api: str, streamed: bool) -> None:
    """DashScope tells throttling as a choice's text: nobody goes on from that."""
    text, facts = "Throttling: too many requests, try again later.", ResponseFacts()
    echo = facts.echo = Echo(Digester(b"key"))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "error_finish"}
    if api != CHAT:
        choice["text"] = text
    else:
        choice["delta" if streamed else "message"] = {"role": "assistant", "content": text}
    data = json.dumps({"choices": [choice]}).encode()
    make = apis.stream_reader if streamed else apis.body_reader
    reader: Any = make(Route("", api), facts)
    if streamed:
        reader.event(b"", data)
    else:
        reader.body(data)
    assert facts.error == "error"
    assert echo.marks() == Echo(Digester(b"key")).marks()


ITEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a call of a shell": (
        {
            "type": "local_shell_call",
            "id": "lsh_0a1b2c3d4e5f",
            "call_id": "call_1a1b2c3d4e5f",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "local_shell_call_output", "call_id": "call_1a1b2c3d4e5f", "output": "It is there."},
    ),
    "a wish for approval": (
        {"type": "mcp_approval_request", "id": "mcpr_0a1b2c3d4e5f", "name": "look", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_0a1b2c3d4e5f", "approve": True},
    ),
    "a refusal": (
        {
            "type": "message",
            "id": "msg_0a1b2c3d4e5f",
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": SPOKEN}],
        },
        NEXT,
    ),
}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("session", [None, "named"])
@pytest.mark.parametrize("item,after", ITEMS.values(), ids=ITEMS)
def test_other_kinds_of_items(item: Any, after: Any, session: str | None, streamed: bool) -> None:
    """What a response holds beside texts and functions is the model's as well, also where clients leave an item's id out."""
    memory = Memory()
    first = memory.ask(RESPONSES, request_of(RESPONSES, ASKED), session)
    if streamed:
        events: list[Any] = [{"type": "response.output_item.done", "item": item}]
        if item["type"] == "message":
            events.insert(0, {"type": "response.refusal.delta", "delta": SPOKEN[9:]})
            events.insert(0, {"type": "response.refusal.delta", "delta": SPOKEN[:9]})
        reader = apis.stream_reader(Route("", RESPONSES), first.facts)
        assert reader is not None
        for event in events:
            reader.event(b"", json.dumps(event).encode())
    else:
        whole = apis.body_reader(Route("", RESPONSES), first.facts)
        assert whole is not None
        assert whole.body(json.dumps({"id": "resp_1", "status": "completed", "output": [item]}).encode())
    memory.end(first)
    kept = item if item["type"] == "mcp_approval_request" else {**item, "id": None}
    second = memory.ask(RESPONSES, request_of(RESPONSES, [*ASKED, kept, after]), session)
    assert (second.session, second.past.relation) == (first.session, "continues")


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("session", [None, "named"])
def test_what_code_assist_wraps(session: str | None, streamed: bool) -> None:
    """The Gemini CLI's requests and its answers, each in a member (code_assist/converter.ts), carry the same past."""

    def wrapped(*messages: object) -> dict[str, object]:
        return {"model": "m", "project": "p", "request": request_of(GEMINI, messages)}

    memory, said = Memory(), Answer("It is what it is, so be it, as ever.", response="")
    first = memory.ask(GEMINI, wrapped(*ASKED), session)
    candidate = {"content": {"role": "model", "parts": [{"text": said.text}]}, "finishReason": "STOP"}
    data = json.dumps({"response": {"candidates": [candidate]}, "traceId": "t"}).encode()
    reader: Any = (apis.stream_reader if streamed else apis.body_reader)(Route("", GEMINI), first.facts)
    if streamed:
        reader.event(b"", data)
    else:
        assert reader.body(data)
    memory.end(first)
    second = memory.ask(GEMINI, wrapped(*ASKED, said, NEXT), session)
    assert (second.session, second.past.relation) == (first.session, "continues")
