"""Events that tell an error, in every shape in which servers do.

A row names its source where it was seen with one.
"""

import json

import pytest

from sidecar import apis
from sidecar.core.facts import EventKind, ResponseFacts, Route
from sidecar.core.sse import unbounded

READ = tuple(api.name for api in apis.APIS if api.stream is not None)
"""Every API whose streams are read."""


ERRORS = [
    ("openai.chat", b"", b'{"error":{"code":502,"message":"m","metadata":{}},"choices":[]}', "502"),
    ("openai.chat", b"", b'{"error":{"code":"500","type":"None"}}', "500"),
    ("openai.chat", b"", b'{"error":"out of memory"}', "error"),
    ("openai.chat", b"", b'{"error":{"type":"something_new","code":"never_heard_of"}}', "error"),
    (
        "openai.chat",
        b"",
        b'{"object":"error","type":"invalid_request_error","code":400}',
        "invalid_request_error",
    ),
    ("openai.chat", b"error", b'{"message":"m","type":"rate_limit_error"}', "rate_limit_error"),
    ("openai.chat", b"", b'{"object":"error","message":"m","choices":7}', "error"),
    ("openai.chat", b"error", b'{"object":7,"code":"model_not_found"}', "model_not_found"),
    *((api, b"error", b"upstream died", "error") for api in READ),
    *((api, b"error", b'{"code":500,"type":"server_error","message":"m"}', "server_error") for api in READ),
    ("openai.completions", b"", b'{"error":{"type":"server_error"}}', "server_error"),
    ("openai.completions", b"error", b'{"code":"server_error"}', "server_error"),
    ("openai.responses", b"response.failed", b'{"response":{"status":"failed","error":null}}', "error"),
    ("openai.responses", b"error", b'{"code":"server_error"}', "server_error"),
    ("anthropic.messages", b"error", b'{"error":{"type":"api_error"}}', "api_error"),
    ("anthropic.messages", b"error", b'{"message":"no object here"}', "error"),
    (
        "gemini.generate_content",
        b"",
        b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}',
        "RESOURCE_EXHAUSTED",
    ),
    ("gemini.generate_content", b"error", b'{"code":500,"status":"INTERNAL"}', "INTERNAL"),
    (
        "gemini.generate_content",
        b"",
        b'{"response":{"error":{"code":503,"status":"UNAVAILABLE"}}}',
        "UNAVAILABLE",
    ),
    ("gemini.generate_content", b"", b'{"response":null,"error":{"code":429,"message":"m"}}', "429"),
    # told inside a choice (genkit#6259), which OpenRouter and others do
    (
        "openai.chat",
        b"",
        b'{"choices":[{"finish_reason":"error","error":{"code":502,"message":"m"}}]}',
        "502",
    ),
    (
        "openai.chat",
        b"",
        b'{"choices":[{"finish_reason":null,"error":{"code":"rate_limit_exceeded"}}]}',
        "rate_limit_exceeded",
    ),
    ("openai.chat", b"", b'{"choices":[{"delta":{"content":"x"},"finish_reason":"error"}]}', "error"),
    # beside the choice whose reason says no more (OpenRouter: local-operator#223)
    *(
        (
            api,
            b"",
            b'{"error":{"code":502,"message":"m"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}',
            "502",
        )
        for api in ("openai.chat", "openai.completions")
    ),
    ("openai.chat", b"", b'{"error":null,"choices":[{"finish_reason":"error","error":{"code":502}}]}', "502"),
    (
        "gemini.generate_content",
        b"",
        b'{"candidates":[{"finishReason":"ERROR"}],"error":{"code":503,"status":"UNAVAILABLE"}}',
        "UNAVAILABLE",
    ),
    ("openai.chat", b"", b'{"choices":[{"finish_reason":"ERROR"}]}', "error"),
    ("openai.chat", b"", b'{"choices":[{"finish_reason":"network_error"}]}', "network_error"),
    # the engine gave it up (vllm#57082, sglang#2956); api-docs.deepseek.com/api/create-chat-completion
    *(
        (api, b"", b'{"choices":[{"index":0,"finish_reason":"%s"}]}' % word.encode(), word)
        for api in ("openai.chat", "openai.completions")
        for word in ("abort", "insufficient_system_resource")
    ),
    ("openai.chat", b"", b'{"choices":[{"finish_reason":"stop"},{"index":1,"error":"x"}]}', "error"),
    (
        "openai.completions",
        b"",
        b'{"choices":[{"text":"x","finish_reason":"error","error":{"code":503}}]}',
        "503",
    ),
    ("openai.completions", b"", b'{"choices":[{"finish_reason":"error"}]}', "error"),
    ("openai.responses", b"", b'{"type":"response.completed","response":{"status":"failed"}}', "error"),
    (
        "openai.responses",
        b"",
        b'{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"error"}}}',
        "error",
    ),
    ("anthropic.messages", b"", b'{"type":"message_delta","delta":{"stop_reason":"error"}}', "error"),
    (
        "anthropic.messages",
        b"",
        b'{"type":"message_start","message":{"error":{"type":"overloaded_error"}}}',
        "overloaded_error",
    ),
    (
        "anthropic.messages",
        b"",
        b'{"type":"message_delta","delta":{},"error":{"type":"api_error"}}',
        "api_error",
    ),
    ("gemini.generate_content", b"", b'{"candidates":[{"finishReason":"ERROR"}]}', "error"),
    (
        "gemini.generate_content",
        b"",
        b'{"candidates":[{"finishReason":"OTHER","error":{"code":500}}]}',
        "500",
    ),
    # errors inside errors, and in texts
    (
        "openai.chat",
        b"",
        b'{"error":{"message":"m","error":{"code":"insufficient_quota"}}}',
        "insufficient_quota",
    ),
    ("openai.chat", b"", b'{"error":"{\\"code\\":\\"server_error\\"}"}', "server_error"),
    ("openai.chat", b"", b'{"error":"insufficient_quota"}', "insufficient_quota"),
    ("openai.chat", b"", b'{"error":[{"code":429}]}', "429"),
    # the event's name alone says it (ai_clients_dart#88), whatever its data's type says
    *((api, b"error", b"upstream connect error", "error") for api in READ),
    *((api, b"error", b"rate_limit_exceeded", "rate_limit_exceeded") for api in READ),
    *((api, b"error", b"", "error") for api in READ),
    *((api, b"error", b'["x"]', "error") for api in READ),
    *((api, b"error", b'{"type":"server_error","message":"m"}', "server_error") for api in READ),
    # the choice's text is the error's (DashScope's throttling, as qwen-code reads it: pipeline.ts)
    (
        "openai.chat",
        b"",
        b'{"choices":[{"index":0,"delta":{"content":"Throttling: TPM"},"finish_reason":"error_finish"}]}',
        "error",
    ),
    (
        "openai.completions",
        b"",
        b'{"choices":[{"text":"Throttling","finish_reason":"error_finish"}]}',
        "error",
    ),
    # beside choices that are null (DeepInfra, Venice), and Baidu's (one-api#1332); FastChat's (FastChat#3367)
    *(
        (
            api,
            b"",
            b'{"id":"x","choices":null,"error_type":"rate_limit_error","error_message":"m"}',
            "rate_limit_error",
        )
        for api in READ
    ),
    *((api, b"", b'{"choices":null,"error_type":"upstream","error_message":"m"}', "error") for api in READ),
    *((api, b"", b'{"choices":null,"error_message":"m"}', "error") for api in READ),
    *((api, b"", b'{"error_code":336003,"error_msg":"m","id":"as-1"}', "error") for api in READ),
    *((api, b"", b'{"error_code":429,"error_msg":"m"}', "429") for api in READ),
    *((api, b"", b'{"text":"m","error_code":50001}', "error") for api in READ),
    # errors of other families, in place of an event
    *(
        (api, b"", b'{"code":"InvalidApiKey","message":"m","request_id":"r"}', "InvalidApiKey")
        for api in READ
    ),
    *((api, b"", b'{"object":"error","message":"m","code":400}', "400") for api in READ),
    *(
        (api, b"", b'{"choices":null,"base_resp":{"status_code":1002,"status_msg":"m"}}', "error")
        for api in READ
    ),
    *((api, b"", b'{"detail":"Not Found"}', "error") for api in READ),
]


@pytest.mark.parametrize("api, name, data, word", ERRORS)
def test_error_events(api: str, name: bytes, data: bytes, word: str) -> None:
    """An error event is one in every shape; its word is known, a status, or `error`."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.event(name, data) is EventKind.ERROR
    assert facts.error == word


def test_an_error_after_the_names_are_known() -> None:
    """Once id and model are known less is read of each chunk; an error is seen all the same."""
    for error in (
        b'{"object":"error","code":"server_error"}',
        b'{"error":{"code":"server_error"},"choices":[]}',
    ):
        facts = ResponseFacts()
        reader = apis.stream_reader(Route("/", api="openai.chat"), facts)
        assert reader is not None
        for content in ("", "a"):
            chunk = {"id": "x", "model": "m", "choices": [{"delta": {"content": content}}]}
            expected = EventKind.CHUNK if content else EventKind.EVENT
            assert reader.event(b"", json.dumps(chunk).encode()) is expected
        assert reader.event(b"", error) is EventKind.ERROR
        assert facts == ResponseFacts(id="x", model="m", error="server_error")


RAW = [
    b'{\n  "error": {\n    "code": 503,\n    "message": "m"\n  }\n}\n\n',
    b'{ "error":\r\n {"code": 503}}\r\n',
    b'[{\n  "error": {\n    "code": 503,\n    "status": "?"\n  }\n}\n]\n\n',
    b'{\n  "error": {\n    "code": 503\n  }\n}\ndata: [DONE]\n\n',
    b'data: {\n  "error": {\n    "code": 503\n  }\n}\n\n',
    b'{"error": {"code": 503}}\ndata: [DONE]\n\n',  # js-genai#1973
    # behind an event that was broken off (sub2api#1471)
    b'event: x\ndata: {"a":"b\ndata: {"type":"error","error":{"code":503}}\n\n',
    b'event: x\ndata: {"a":"b\nevent: error\ndata: {"error":{"code":503}}\n\n',
    b'data: {"a":"b\n{"type":"error","error":{"code":503}}\n\n',
]


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("api", READ)
def test_an_error_that_is_written_between_events(api: str, raw: bytes) -> None:
    """As JSON in one line or in several, without a field's name in front of each: it is told, and before any end."""
    for before in (b"data: {}\n\n", b"data: {}\n", b": ping\n\n"):
        facts = ResponseFacts()
        parser = apis.event_parser(apis.Form.EVENTS, 1 << 20, unbounded)
        reader = apis.stream_reader(Route("/", api=api), facts)
        assert reader is not None
        events = parser.feed(before) + parser.feed(raw) + parser.finish()
        kinds = [reader.event(*event) for event in events]
        assert (next(kind for kind in kinds if kind > EventKind.EVENT), facts.error) == (
            EventKind.ERROR,
            "503",
        )
