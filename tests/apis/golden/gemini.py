"""Gemini's generated content, streamed in both ways: a call whole and streamed, and what it tells."""

import json
from dataclasses import replace

from tests.apis.example import TOKENS, Example, Stream, event, told

GEMINI_ERROR = {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}
GEMINI_USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 7}
GEMINI_ROUTE = "/v1beta/models/{model}:"


def _gemini(text: str, reason: str | None = None, **more: object) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}]}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "gemini-2.5", "responseId": "gem_1", **more}


def _gemini_api(name: str, stream: Stream) -> Example:
    return Example(
        name=name,
        path="/v1beta/models/gemini-pro:generateContent",
        route=GEMINI_ROUTE + "generateContent",
        request={"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        answer=_gemini("Hello", "STOP", usageMetadata=GEMINI_USAGE),
        facts=told("gem_1", "gemini-2.5", "STOP") | TOKENS,
        operation="generate_content",
        provider="gcp.gemini",
        failure=GEMINI_ERROR,
        word="UNAVAILABLE",
        model="gemini-pro",
        asked={"sidecar.request.messages": 1},
        stream=stream,
    )


GEMINI = _gemini_api(
    "gemini, streamed as events",
    Stream(
        path="/v1beta/models/gemini-pro:streamGenerateContent?alt=sse",
        route=GEMINI_ROUTE + "streamGenerateContent",
        request={},
        first=event(_gemini("Hel")),
        rest=event(_gemini("lo", "STOP", usageMetadata=GEMINI_USAGE)),
        terminator=b"",
        events=(1, 1, 0),
        error=event(GEMINI_ERROR),
        nothing=b": nothing\n\n",
        empty=0,
        early=told("gem_1", "gemini-2.5"),
        late=told("gem_1", "gemini-2.5", "STOP") | TOKENS,
    ),
)

GEMINI_ARRAY = _gemini_api(
    "gemini, streamed as an array",
    Stream(
        path="/v1beta/models/gemini-pro:streamGenerateContent",
        route=GEMINI_ROUTE + "streamGenerateContent",
        request={},
        first=b"[" + json.dumps(_gemini("Hel")).encode(),
        rest=b",\r\n" + json.dumps(_gemini("lo", "STOP", usageMetadata=GEMINI_USAGE)).encode() + b"\n]",
        terminator=b"",
        events=(1, 1, 0),
        error=b",\n" + json.dumps(GEMINI_ERROR).encode() + b"]",
        nothing=b"[]",
        empty=0,
        early=told("gem_1", "gemini-2.5"),
        late=told("gem_1", "gemini-2.5", "STOP") | TOKENS,
        media=b"application/json",
    ),
)


def _wrapped(inner: dict[str, object]) -> dict[str, object]:
    """As Code Assist answers the Gemini CLI (code_assist/converter.ts)."""
    return {
        "response": {name: value for name, value in inner.items() if name != "responseId"},
        "traceId": "gem_1",
    }


_ASSIST = GEMINI.stream
assert _ASSIST is not None
CODE_ASSIST = replace(
    GEMINI,
    name="gemini's code assist",
    path="/v1internal:generateContent",
    route="/v1internal:generateContent",
    request={"model": "gemini-pro", "project": "p", "request": GEMINI.request},
    answer=_wrapped(_gemini("Hello", "STOP", usageMetadata=GEMINI_USAGE)),
    provider="gcp.gen_ai",
    stream=replace(
        _ASSIST,
        path="/v1internal:streamGenerateContent?alt=sse",
        route="/v1internal:streamGenerateContent",
        first=event(_wrapped(_gemini("Hel"))),
        rest=event(_wrapped(_gemini("lo", "STOP", usageMetadata=GEMINI_USAGE))),
    ),
)

EXAMPLES = (GEMINI, GEMINI_ARRAY, CODE_ASSIST)
