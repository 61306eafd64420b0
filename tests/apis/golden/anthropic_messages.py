"""Anthropic's messages: a call whole and streamed, and what it tells."""

from tests.apis.example import CHAT_MESSAGES, TOKENS, Example, Stream, event, told, typed

CLAUDE_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}


def _claude(**more: object) -> dict[str, object]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-4", **more}


def _claude_delta(text: str) -> bytes:
    return typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


MESSAGES = Example(
    name="anthropic messages",
    path="/v1/messages",
    route="/v1/messages",
    request={"model": "claude", "max_tokens": 9, "messages": CHAT_MESSAGES},
    answer=_claude(
        content=[{"type": "text", "text": "Hello"}],
        stop_reason="end_turn",
        usage={"input_tokens": 5, "output_tokens": 7},
    ),
    facts=told("msg_1", "claude-4", "end_turn") | TOKENS,
    operation="chat",
    provider="anthropic",
    failure=CLAUDE_ERROR,
    word="overloaded_error",
    model="claude",
    asked={"sidecar.request.messages": 1, "gen_ai.request.max_tokens": 9},
    stream=Stream(
        path="/v1/messages",
        route="/v1/messages",
        request={"stream": True},
        first=typed("message_start", message=_claude(usage={"input_tokens": 5, "output_tokens": 1}))
        + _claude_delta("Hel"),
        rest=_claude_delta("lo")
        + typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
        terminator=typed("message_stop"),
        events=(2, 2, 1),
        error=event(CLAUDE_ERROR, "error"),
        nothing=typed("message_stop"),
        early=told("msg_1", "claude-4", input_tokens=5),
        late=told("msg_1", "claude-4", "end_turn") | TOKENS,
    ),
)

EXAMPLES = (MESSAGES,)
