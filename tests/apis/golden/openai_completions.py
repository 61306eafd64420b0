"""OpenAI's completions: a call whole and streamed, and what it tells."""

from tests.apis.example import DONE, FINGERPRINT, OPENAI_ERROR, TOKENS, USAGE, Example, Stream, event, told


def _text(text: str, reason: str | None = None, **more: object) -> dict[str, object]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    head = {"id": "cmpl-1", "object": "text_completion", "model": "gpt-i"}
    return {**head, "system_fingerprint": "fp_44709d6fcb", "choices": [choice], **more}


COMPLETIONS = Example(
    name="openai completions",
    path="/v1/completions",
    route="/v1/completions",
    request={"model": "gpt-4o", "prompt": "Hi", "max_tokens": 9},
    answer=_text("Hello", "length", usage=USAGE),
    facts=told("cmpl-1", "gpt-i", "length") | TOKENS | FINGERPRINT,
    operation="text_completion",
    provider="openai",
    failure=OPENAI_ERROR,
    word="server_error",
    asked={"gen_ai.request.max_tokens": 9},
    stream=Stream(
        path="/v1/completions",
        route="/v1/completions",
        request={"stream": True},
        first=event(_text("Hel")),
        rest=event(_text("lo", "length", usage=USAGE)),
        terminator=DONE,
        events=(1, 1, 1),
        error=event(OPENAI_ERROR),
        early=told("cmpl-1", "gpt-i") | FINGERPRINT,
        late=told("cmpl-1", "gpt-i", "length") | TOKENS | FINGERPRINT,
    ),
)

EXAMPLES = (COMPLETIONS,)
