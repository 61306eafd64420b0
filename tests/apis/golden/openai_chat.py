"""OpenAI's chat completions: a call whole and streamed, and what it tells."""

from tests.apis.example import (
    CHAT_MESSAGES,
    DONE,
    FINGERPRINT,
    OPENAI_ERROR,
    SERVED,
    TIER,
    TOKENS,
    USAGE,
    Example,
    Stream,
    event,
    told,
)


def _chat_chunk(content: str | None, reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024"}
    return event({**head, **SERVED, "choices": [choice], **more})


CHAT = Example(
    name="openai chat completions",
    path="/v1/chat/completions",
    route="/v1/chat/completions",
    request={"model": "gpt-4o", "messages": CHAT_MESSAGES, "temperature": 0.5},
    answer={
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024",
        **SERVED,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    },
    facts=told("chatcmpl-1", "gpt-4o-2024", "stop") | TOKENS | TIER | FINGERPRINT,
    operation="chat",
    provider="openai",
    failure=OPENAI_ERROR,
    word="server_error",
    asked={"sidecar.request.messages": 1, "gen_ai.request.temperature": 0.5},
    stream=Stream(
        path="/v1/chat/completions",
        route="/v1/chat/completions",
        request={"stream": True, "stream_options": {"include_usage": True}},
        first=_chat_chunk("Hel"),
        rest=_chat_chunk("lo") + _chat_chunk(None, "stop") + _chat_chunk(None, usage=USAGE),
        terminator=DONE,
        events=(1, 3, 1),
        error=event(OPENAI_ERROR),
        early=told("chatcmpl-1", "gpt-4o-2024") | TIER | FINGERPRINT,
        late=told("chatcmpl-1", "gpt-4o-2024", "stop") | TOKENS | TIER | FINGERPRINT,
    ),
)

EXAMPLES = (CHAT,)
