"""The matrix's odd shapes: what compatible servers, gateways and other families of APIs make of the same APIs.

Owns tables of changes to the examples of `matrix_apis.py`: errors in other places, bodies that are no answer, usage and
output in other forms, models with odd names. A shape differs from its API in what its row says and in nothing else.
"""

import json
from dataclasses import replace
from typing import Any

from tests.apis.example import SERVED, TOKENS, USAGE, Attributes, Example, Stream, event, typed
from tests.apis.golden.anthropic_messages import MESSAGES
from tests.apis.golden.gemini import GEMINI, GEMINI_ARRAY
from tests.apis.golden.openai_chat import CHAT
from tests.apis.golden.openai_completions import COMPLETIONS
from tests.apis.golden.openai_embeddings import EMBEDDINGS
from tests.apis.golden.openai_responses import RESPONSES
from tests.matrix.matrix_apis import EXAMPLES

EVENTS = tuple(api for api in EXAMPLES if api.stream is not None and api.stream.media == b"text/event-stream")
"""What streams as server-sent events."""


def _streams(api: Example) -> Stream:
    if api.stream is None:
        raise ValueError(f"{api.name} does not stream")
    return api.stream


def _failing(api: Example, name: str, error: bytes, word: str, odd: str = "", reason: str = "") -> Example:
    """The same, with another error in its stream, which may tell a finish reason."""
    stream = _streams(api)
    broken = {**stream.early, _REASON: [reason]} if reason else None
    changed = replace(stream, error=error, broken=broken, odd=odd)
    return replace(api, name=f"{api.name}, {name}", word=word, stream=changed)


def _choice(**more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {}, "text": "", **more}]})


_BAD_GATEWAY = {"code": 502, "message": "no"}
_REASON = "gen_ai.response.finish_reasons"

IN_A_CHOICE = (
    *(
        _failing(
            api,
            "error in a choice",
            _choice(finish_reason="error", error=_BAD_GATEWAY),
            "502",
            reason="error",
        )
        for api in (CHAT, COMPLETIONS)
    ),
    *(
        _failing(api, "a choice that failed", _choice(finish_reason="error"), "error", reason="error")
        for api in (CHAT, COMPLETIONS)
    ),
    _failing(
        RESPONSES,
        "a response that failed",
        typed(
            "response.failed",
            response={"id": "resp_1", "status": "failed", "error": {"code": "rate_limit_exceeded"}},
        ),
        "rate_limit_exceeded",
    ),
    _failing(
        MESSAGES,
        "a message that failed",
        typed("message_delta", delta={"stop_reason": "error"}, error=_BAD_GATEWAY),
        "502",
        reason="error",
    ),
    _failing(
        GEMINI,
        "a candidate that failed",
        event({"candidates": [{"index": 0, "finishReason": "ERROR", "error": _BAD_GATEWAY}]}),
        "502",
        reason="ERROR",
    ),
)

_PLACES = {
    "plain text": (b"event: error\ndata: no\n\n", "error", "answer_invalid"),
    "a word": (b"event: error\ndata: overloaded_error\n\n", "overloaded_error", "answer_invalid"),
    "a field": (b'error: {"code":500}\n\n', "500", ""),
    "no field": (b'{"error":{"type":"api_error","message":"no"}}\n\n', "api_error", ""),
    "other family": (event({"detail": "no", "status": 503}), "503", ""),
}

STREAMED_ERRORS = (
    *IN_A_CHOICE,
    *(
        _failing(api, f"error as {name}", error, word, odd)
        for api in EVENTS
        for name, (error, word, odd) in _PLACES.items()
    ),
)
"""Streams whose error is in a place of its own."""

_FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "code and message": ({"code": 429, "message": "no"}, "429"),
    "base_resp": ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "no"}}, "error"),
    "no success": ({"success": False}, "error"),
    "errors": ({"errors": [{"code": "rate_limit_exceeded"}]}, "rate_limit_exceeded"),
}

WHOLE_ERRORS = tuple(
    replace(api, name=f"{api.name}, {name}", failure=failure, word=word, failed={}, stream=None)
    for api in EXAMPLES
    if api is not GEMINI_ARRAY
    for name, (failure, word) in _FOREIGN.items()
)
"""Whole answers that are another family's error."""

_PAGES: dict[str, tuple[bytes, bytes]] = {
    "a page": (b"<!doctype html><title>Sign in</title>", b"text/html"),
    "an empty body": (b"", b"application/json"),
    "null": (b"null", b"application/json"),
    "a torn body": (b'{"id": "x", "usa', b"application/json"),
}

NO_ANSWERS = tuple(
    replace(api, name=f"{api.name}, {name}", answer=body, media=media, facts={}, stream=None)
    for api in EXAMPLES
    if api is not GEMINI_ARRAY
    for name, (body, media) in _PAGES.items()
)
"""Whole bodies that are no answer."""

_CACHED = {"gen_ai.usage.cache_read.input_tokens": 3}
_REASONED = {"gen_ai.usage.reasoning.output_tokens": 2}

_USAGES: dict[str, tuple[dict[str, Any], Attributes]] = {
    "DeepSeek's usage": ({**USAGE, "prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 2}, _CACHED),
    "Moonshot's usage": ({**USAGE, "cached_tokens": 3}, _CACHED),
    "SGLang's usage": ({**USAGE, "prompt_tokens_details": None, "reasoning_tokens": 2}, _REASONED),
    "Perplexity's usage": ({**USAGE, "citation_tokens": 9, "reasoning_tokens": 999}, {}),
    "parts beside their wholes": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 5,
            "total_tokens": 12,
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        _REASONED,
    ),
}


def _used(api: Example, name: str, usage: dict[str, Any], more: Attributes) -> Example:
    """The same, with this usage, whole and at the end of its stream."""
    stream, answer = _streams(api), api.answer
    if isinstance(answer, bytes):
        raise TypeError(f"{api.name} has no usage")
    old, new = json.dumps(USAGE).encode(), json.dumps(usage).encode()
    return replace(
        api,
        name=f"{api.name}, {name}",
        answer={**answer, "usage": usage},
        facts={**api.facts, **more},
        stream=replace(stream, rest=stream.rest.replace(old, new), late={**stream.late, **more}),
    )


def _ended(api: Example, name: str, rest: bytes, events: int, more: Attributes = TOKENS) -> Example:
    """The same, with another end of its stream."""
    stream = _streams(api)
    first, _, last = stream.events
    changed = replace(stream, rest=rest, events=(first, events, last), late={**stream.late, **more})
    return replace(api, name=f"{api.name}, {name}", stream=changed)


_LO = {"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}
_GROWING = {**USAGE, "completion_tokens": 6, "total_tokens": 11}
_ZEROS: dict[str, int] = dict.fromkeys(USAGE, 0)
_GEMINI_LO = {"index": 0, "content": {"parts": [{"text": "lo"}]}, "finishReason": "STOP"}
_GEMINI_USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 7}

USAGES = (
    *(
        _used(api, name, usage, more)
        for api in (CHAT, COMPLETIONS)
        for name, (usage, more) in _USAGES.items()
    ),
    _ended(CHAT, "usage in the choice", event({"choices": [{**_LO, "usage": USAGE}]}), 1),
    _ended(CHAT, "Groq's usage", event({"choices": [_LO], "x_groq": {"id": "r", "usage": USAGE}}), 1),
    _ended(
        CHAT,
        "usage that grows, and a placeholder",
        event({"choices": [_LO], "usage": _GROWING})
        + event({"choices": [], "usage": USAGE})
        + event({"choices": [], "usage": _ZEROS}),
        3,
    ),
    _ended(
        MESSAGES,
        "placeholders at the end",
        typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"})
        + typed(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"input_tokens": 0, "output_tokens": 7, "cache_read_input_tokens": None},
        ),
        2,
    ),
    _ended(
        GEMINI,
        "usage that grows, and a placeholder",
        event({"candidates": [_GEMINI_LO], "usageMetadata": _GEMINI_USAGE})
        + event({"usageMetadata": dict.fromkeys(_GEMINI_USAGE, 0)}),
        2,
    ),
)
"""Usage in the forms and places of compatible servers."""


def _moved(api: Example, name: str, path: str, route: str, model: str, provider: str) -> Example:
    """The same on another path, which names the model."""
    stream = _streams(api)
    verb = "streamGenerateContent" if api.stream and "Gemini" in name else ""
    return replace(
        api,
        name=f"{api.name}, {name}",
        path=path,
        route=route,
        model=model,
        provider=provider,
        request={key: value for key, value in api.request.items() if key != "model"},
        stream=replace(
            stream,
            path=path.replace("generateContent", verb) + "?alt=sse" * bool(verb),
            route=route.replace("generateContent", verb),
        ),
    )


MODELS = (
    _moved(
        GEMINI,
        "a Gemini model with slashes and colons",
        "/v1beta/models/vertex/gemini:2.5:generateContent",
        "/v1beta/models/{model}:generateContent",
        "vertex/gemini:2.5",
        "gcp.gemini",
    ),
    _moved(
        CHAT,
        "a deployment with a slash",
        "/openai/deployments/team/gpt-4o/chat/completions",
        "/openai/deployments/{deployment}/chat/completions",
        "team/gpt-4o",
        "azure.ai.openai",
    ),
    *(
        replace(api, name=f"{api.name}, a model with slashes and colons", model=model, request=request)
        for api in (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
        for model in ("org/model:free",)
        for request in ({**api.request, "model": model},)
    ),
)
"""Models whose names hold what paths are made of."""


def _pictured(api: Example, first: bytes) -> Example:
    return replace(api, name=f"{api.name}, images only", stream=replace(_streams(api), first=first))


IMAGES = (
    _pictured(
        CHAT,
        event(
            {
                "id": "chatcmpl-1",
                "model": "gpt-4o-2024",
                **SERVED,
                "choices": [{"index": 0, "delta": {"content": "", "images": [{"type": "image_url"}]}}],
            }
        ),
    ),
    _pictured(
        RESPONSES,
        typed(
            "response.created",
            response={"id": "resp_1", "model": "gpt-5", "status": "in_progress"},
        )
        + typed("response.image_generation_call.partial_image", partial_image_b64="iVBORw0KGgo="),
    ),
    _pictured(
        GEMINI,
        event(
            {
                "responseId": "gem_1",
                "modelVersion": "gemini-2.5",
                "candidates": [
                    {
                        "index": 0,
                        "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]},
                    }
                ],
            }
        ),
    ),
)
"""Streams whose first piece of output is a picture and no text."""
