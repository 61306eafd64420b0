"""The matrix's APIs: for each a request, an answer, a stream, and what they tell.

Owns one row per API and no behaviour. A stream stands in three parts (`first`, `rest`, `terminator`), so that an
ending can fall between any two of them. Facts stand by the attribute names of the spans, written out from the
providers' documentation and the GenAI conventions, not taken from the sidecar's own tables.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. `early` is what `first` tells, `late` what all of it tells.

    `first` and `rest` carry one piece of output each; `events` counts the events of (first, rest, terminator).
    `error` is an event that says the answer has failed, `broken` what is told when it has come (if not `early`).
    `nothing` is a stream of no answer that ends as its API's streams do, of as many events as `empty` says.
    """

    path: str
    route: str
    request: Mapping[str, Any]
    first: bytes
    rest: bytes
    terminator: bytes
    events: tuple[int, int, int]
    error: bytes
    early: Attributes
    late: Attributes
    media: bytes = b"text/event-stream"
    broken: Attributes | None = None
    odd: str = ""
    """The anomaly that `error` is besides."""
    nothing: bytes = b"data: [DONE]\n\n"
    empty: int = 1


@dataclass(frozen=True, slots=True)
class Api:
    """One API. `word` is its error's known word; `answer` a whole answer and `facts` what it tells.

    Bytes in the place of an answer or of a failure are sent as they are, under the type `media`.
    """

    name: str
    path: str
    route: str
    request: Mapping[str, Any]
    answer: Mapping[str, Any] | bytes
    facts: Attributes
    operation: str
    provider: str
    failure: Mapping[str, Any] | bytes
    word: str
    model: str = "gpt-4o"
    turn: bool = True
    asked: Attributes = field(default_factory=dict)
    """What the request tells beyond its model."""
    failed: Attributes = field(default_factory=dict)
    """What `failure`, as a whole answer, tells beside its error."""
    media: bytes = b"application/json"
    stream: Stream | None = None


def event(value: object, name: str = "") -> bytes:
    """One server-sent event."""
    data = value if isinstance(value, str) else json.dumps(value)
    return f"{f'event: {name}' + chr(10) if name else ''}data: {data}\n\n".encode()


def typed(kind: str, **members: object) -> bytes:
    """An event whose name stands in its data too."""
    return event({"type": kind, **members}, kind)


DONE = event("[DONE]")
CHAT_MESSAGES = [{"role": "user", "content": "Hi"}]
OPENAI_ERROR = {"error": {"message": "no", "type": "server_error", "code": None}}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
TOKENS = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 7}


def told(answer_id: str | None, model: str, reason: str | None = None, **tokens: int) -> dict[str, Any]:
    """What an answer tells, by the attributes' names."""
    facts: dict[str, Any] = {"gen_ai.response.model": model}
    if answer_id:
        facts["gen_ai.response.id"] = answer_id
    if reason:
        facts["gen_ai.response.finish_reasons"] = [reason]
    return facts | {f"gen_ai.usage.{name}": count for name, count in tokens.items()}


SERVED = {"service_tier": "default", "system_fingerprint": "fp_44709d6fcb"}
TIER = {"openai.response.service_tier": "default"}
FINGERPRINT = {"openai.response.system_fingerprint": "fp_44709d6fcb"}


def _chat_chunk(content: str | None, reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024"}
    return event({**head, **SERVED, "choices": [choice], **more})


CHAT = Api(
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


def _text(text: str, reason: str | None = None, **more: object) -> dict[str, object]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    head = {"id": "cmpl-1", "object": "text_completion", "model": "gpt-i"}
    return {**head, "system_fingerprint": "fp_44709d6fcb", "choices": [choice], **more}


COMPLETIONS = Api(
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


def _response(status: str, **more: object) -> dict[str, object]:
    head = {"id": "resp_1", "object": "response", "model": "gpt-5", "status": status}
    return {**head, "service_tier": "auto" if status == "in_progress" else "default", **more}


RESPONSES_USAGE = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}

RESPONSES = Api(
    name="openai responses",
    path="/v1/responses",
    route="/v1/responses",
    request={"model": "gpt-4o", "input": "Hi", "max_output_tokens": 9},
    answer=_response("completed", output=[], usage=RESPONSES_USAGE, error=None),
    facts=told("resp_1", "gpt-5", "completed") | TOKENS | TIER,
    operation="chat",
    provider="openai",
    failure=_response("failed", error={"code": "server_error", "message": "no"}),
    word="server_error",
    asked={"sidecar.request.messages": 1, "gen_ai.request.max_tokens": 9},
    failed=told("resp_1", "gpt-5") | TIER,
    stream=Stream(
        path="/v1/responses",
        route="/v1/responses",
        request={"stream": True},
        first=typed("response.created", response=_response("in_progress"))
        + typed("response.output_text.delta", delta="Hel"),
        rest=typed("response.output_text.delta", delta="lo"),
        terminator=typed("response.completed", response=_response("completed", usage=RESPONSES_USAGE)),
        events=(2, 1, 1),
        error=typed("error", code="server_error", message="no"),
        early=told("resp_1", "gpt-5") | {"openai.response.service_tier": "auto"},
        late=told("resp_1", "gpt-5", "completed") | TOKENS | TIER,
    ),
)

EMBEDDINGS = Api(
    name="openai embeddings",
    path="/v1/embeddings",
    route="/v1/embeddings",
    request={"model": "gpt-4o", "input": "Hi", "dimensions": 2},
    answer={
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
        "model": "embed-3",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    },
    facts=told(None, "embed-3", input_tokens=5),
    operation="embeddings",
    provider="openai",
    failure=OPENAI_ERROR,
    word="server_error",
    turn=False,
    asked={"gen_ai.embeddings.dimension.count": 2},
)

CLAUDE_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}


def _claude(**more: object) -> dict[str, object]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-4", **more}


def _claude_delta(text: str) -> bytes:
    return typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


MESSAGES = Api(
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
        early=told("msg_1", "claude-4", input_tokens=5, output_tokens=1),
        late=told("msg_1", "claude-4", "end_turn") | TOKENS,
    ),
)

GEMINI_ERROR = {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}
GEMINI_USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 7}
GEMINI_ROUTE = "/v1beta/models/{model}:"


def _gemini(text: str, reason: str | None = None, **more: object) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}]}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "gemini-2.5", "responseId": "gem_1", **more}


def _gemini_api(name: str, stream: Stream) -> Api:
    return Api(
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

APIS = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES, GEMINI, GEMINI_ARRAY)

IMAGE = b'{"image": "' + b"iVBORw0KGgo" * 150_000 + b'", '
"""A member of 1.5 MiB, at the beginning of an object."""


def _variant(api: Api, name: str, **changes: Any) -> Api:
    return replace(api, name=f"{api.name}, {name}", stream=replace(_stream(api), **changes))


def _stream(api: Api) -> Stream:
    if api.stream is None:
        raise ValueError(f"{api.name} does not stream")
    return api.stream


def _large(api: Api, part: str, *, unnamed: bool = False) -> Api:
    """The same, with an image in the last event of `part`, and without names of events if they are to be `unnamed`."""
    said: bytes = getattr(_stream(api), part)
    at = said.rindex(b'data: {"' if api is not GEMINI_ARRAY else b'{"candidates"')
    said = said[:at] + said[at:].replace(b"{", IMAGE, 1)
    if unnamed:
        said = re.sub(rb"event: .*\n", b"", said)
    return _variant(api, "large end" + ", unnamed" * unnamed, **{part: said})


def _typed(api: Api, media: bytes, before: bytes = b"") -> Api:
    """The same, under another type, with something before it."""
    name = f"as {media.decode() or 'nothing'}" + ", later" * bool(before)
    return _variant(api, name, media=media, first=before + _stream(api).first)


VARIANTS = (
    _large(CHAT, "rest"),
    _large(COMPLETIONS, "rest"),
    _large(RESPONSES, "terminator"),
    _large(RESPONSES, "terminator", unnamed=True),
    _large(MESSAGES, "rest"),
    _large(GEMINI, "rest"),
    _large(GEMINI_ARRAY, "rest"),
    _typed(CHAT, b"text/plain"),
    _typed(CHAT, b"", b"\xef\xbb\xbf"),
    _typed(COMPLETIONS, b"application/octet-stream", b": hello\n\n"),
    _typed(RESPONSES, b"TEXT/Event-Stream; Charset=UTF-8", b"\r\n"),
    _typed(MESSAGES, b"application/json", b"retry: 10\n\n"),
    _typed(GEMINI, b"application/json", b"id: 1\n"),
    _typed(GEMINI_ARRAY, b"text/event-stream", b"\n "),
    _typed(GEMINI_ARRAY, b"text/html", b"\xef\xbb\xbf"),
)
"""Streams that are told and read as their API's are, though they look otherwise."""
