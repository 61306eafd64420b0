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


def _own(text: str, **more: object) -> dict[str, object]:
    return {"index": 0, "content": text, "tokens": [], "stop": False, "id_slot": -1, **more}


LLAMA_END = {
    "stop": True,
    "id_slot": 0,
    "model": "llama",
    "tokens_predicted": 7,
    "tokens_evaluated": 5,
    "generation_settings": {"n_predict": 9, "stop": []},
    "stop_type": "limit",
    "stopping_word": "",
    "tokens_cached": 11,
}

LLAMA_CPP = Example(
    name="llama.cpp's completion",
    path="/completion",
    route="/completion",
    request={"model": "gpt-4o", "prompt": "Hi", "n_predict": 9},
    answer=_own("Hello", **LLAMA_END),
    facts=told(None, "llama", "length") | TOKENS,
    operation="text_completion",
    provider="openai",
    failure=OPENAI_ERROR,
    word="server_error",
    asked={"gen_ai.request.max_tokens": 9},
    stream=Stream(
        path="/completion",
        route="/completion",
        request={"stream": True},
        first=event(_own("Hel", tokens_predicted=1, tokens_evaluated=5)),
        rest=event(_own("lo", **LLAMA_END)),
        terminator=b"",
        events=(1, 1, 0),
        error=event(OPENAI_ERROR),
        nothing=b": nothing\n\n",
        empty=0,
        early={"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1},
        late=told(None, "llama", "length") | TOKENS,
    ),
)

EXAMPLES = (COMPLETIONS, LLAMA_CPP)
