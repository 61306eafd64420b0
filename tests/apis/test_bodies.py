"""What whole answers tell, and which error words may become a label."""

import json
from typing import Any

import pytest

from sidecar import apis
from sidecar.core.facts import EventKind, ResponseFacts, Route


def read(api: str, body: Any) -> ResponseFacts:
    """The facts of a whole answer given as a value."""
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    reader.body(json.dumps(body).encode())
    return facts


USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 0}}


def test_openai_chat() -> None:
    """Id, model, a finish reason per choice, usage; a reported zero is a zero."""
    body = {
        "id": "chatcmpl-1",
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "y"}, "finish_reason": "length"},
            {"index": 2, "message": {"role": "assistant", "content": "z"}},
        ],
        "usage": USAGE,
    }
    tokens = {"input": 9, "output": 12, "cache_read": 0}
    assert read("openai.chat", body) == ResponseFacts("chatcmpl-1", "gpt-4o", ["stop", "length"], tokens)


def test_openai_completions_and_embeddings() -> None:
    """The same facts of the older and the smaller API."""
    body = {
        "id": "c",
        "model": "m",
        "choices": [{"text": "x", "index": 0, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    tokens = {"input": 9, "output": 12, "cache_read": 0}
    assert read("openai.completions", body) == ResponseFacts("c", "m", ["stop"], tokens)
    body = {"model": "e", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    assert read("openai.embeddings", body) == ResponseFacts(model="e", tokens={"input": 8})


def test_a_total_alone_is_the_input_of_embeddings() -> None:
    """Voyage tells no more (docs.voyageai.com/discuss/68ecd62961e9d22896aadcb9); of a chat it would tell nothing."""
    body = {"data": [{"embedding": "AAAA"}], "choices": [{}], "usage": {"total_tokens": 10}}
    assert read("openai.embeddings", body).tokens == {"input": 10}
    assert read("openai.chat", body).tokens == {}


RESPONSE = {"id": "resp_1", "model": "gpt-5", "error": None, "incomplete_details": None}


def test_openai_responses() -> None:
    """Every status a response can have."""
    usage = {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}}
    assert read("openai.responses", RESPONSE | {"status": "completed", "usage": usage}) == ResponseFacts(
        "resp_1", "gpt-5", ["completed"], {"input": 1, "output": 2, "reasoning": 0}
    )
    details = {"reason": "content_filter"}
    incomplete = read("openai.responses", RESPONSE | {"status": "incomplete", "incomplete_details": details})
    assert incomplete == ResponseFacts("resp_1", "gpt-5", ["content_filter"])
    assert read("openai.responses", RESPONSE | {"status": "cancelled"}).finish_reasons == ["cancelled"]
    assert read("openai.responses", RESPONSE | {"status": "queued"}) == ResponseFacts("resp_1", "gpt-5")
    error = {"code": "rate_limit_exceeded", "message": "m"}
    failed = read("openai.responses", RESPONSE | {"status": "failed", "error": error})
    assert failed == ResponseFacts("resp_1", "gpt-5", error="rate_limit_exceeded")
    assert read("openai.responses", RESPONSE | {"status": "failed"}).error == "error"


def test_a_compaction_of_openai() -> None:
    """What it took (learn.microsoft.com/azure/foundry/reference/rest/compactconversation); it has no status."""
    usage = {"input_tokens": 139, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 438}
    output = [{"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAA"}]
    body = {"id": "resp_1", "object": "response.compaction", "output": output, "usage": usage}
    told = {"input": 139, "output": 438, "cache_read": 0}
    assert read("openai.responses", body) == ResponseFacts("resp_1", tokens=told)


def test_anthropic_messages() -> None:
    """Cached tokens are input tokens."""
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 0,
        "output_tokens": 5,
    }
    body = {"id": "msg_1", "type": "message", "model": "claude", "stop_reason": "end_turn", "usage": usage}
    tokens = {"output": 5, "cache_read": 20, "cache_write": 0, "input": 23}
    assert read("anthropic.messages", body) == ResponseFacts("msg_1", "claude", ["end_turn"], tokens)


@pytest.mark.parametrize("count, told", [(5, {"reasoning": 5}), (0, {"reasoning": 0}), (7, {}), (None, {})])
def test_thinking_of_claude(count: int | None, told: dict[str, int]) -> None:
    """It is part of the output (anthropic-sdk-python#1017); one that is larger than the whole is left out."""
    usage = {"output_tokens": 6, "output_tokens_details": {"thinking_tokens": count}}
    assert read("anthropic.messages", {"type": "message", "usage": usage}).tokens == {"output": 6} | told


def test_gemini() -> None:
    """Thought tokens are output tokens."""
    body = {
        "candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "MAX_TOKENS"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 5},
        "modelVersion": "gemini-2.5-pro",
        "responseId": "r",
    }
    tokens = {"input": 7, "output": 7, "reasoning": 5}
    assert read("gemini.generate_content", body) == ResponseFacts(
        "r", "gemini-2.5-pro", ["MAX_TOKENS"], tokens
    )


NUMBERS = [
    ({"candidates": [{"finishReason": 1}]}, ["STOP"]),
    ({"candidates": [{"finishReason": 2}]}, ["MAX_TOKENS"]),
    ({"candidates": [{"finishReason": 3}, {"index": 1, "finishReason": 5}]}, ["SAFETY", "OTHER"]),
    ({"candidates": [{"finishReason": 4}]}, ["RECITATION"]),
    ({"candidates": [{"finishReason": 7}]}, ["7"]),
    ({"candidates": [{"finishReason": 0}]}, []),
    *(
        ({"promptFeedback": {"blockReason": number}}, [word])
        for number, word in enumerate(("SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "5"), 1)
    ),
    ({"promptFeedback": {"blockReason": 0}}, []),
]
"""With `$alt=json;enum-encoding=int`. google/ai/generativelanguage has BLOCKLIST as 7, google/cloud/aiplatform has
PROHIBITED_CONTENT there, so neither is told."""


@pytest.mark.parametrize("body, reasons", NUMBERS)
def test_gemini_with_numbers_for_words(body: dict[str, Any], reasons: list[str]) -> None:
    """Google's generated clients ask for them by REST: the words on which both protos agree, whole and streamed."""
    api = "gemini.generate_content"
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.event(b"", json.dumps(body).encode()) is EventKind.EVENT
    assert facts == read(api, body) == ResponseFacts(finish_reasons=reasons)


NAMES = [api.name for api in apis.APIS]


@pytest.mark.parametrize("api", NAMES)
def test_an_error_in_a_good_status(api: str) -> None:
    """An error object in a 200 answer is an error."""
    assert read(api, {"type": "error", "error": {"type": "api_error", "message": "m"}}).error == "api_error"
    assert read(api, {"error": None}).error is None


UNNUMBERED: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        api,
        {"choices": [{**number, "finish_reason": reason} for reason in ("stop", "length")]},
        ["stop", "length"],
    )
    for api in ("openai.chat", "openai.completions")
    for number in ({}, {"index": 0})
]
UNNUMBERED += [
    (
        "gemini.generate_content",
        {"candidates": [{"finishReason": "STOP"}, {"finishReason": "SAFETY"}, {"finishReason": "STOP"}]},
        ["STOP", "SAFETY", "STOP"],
    ),
    (
        "gemini.generate_content",  # protobuf leaves a 0 out
        {"candidates": [{"index": 1, "finishReason": "STOP"}, {"finishReason": "SAFETY"}]},
        ["SAFETY", "STOP"],
    ),
]


@pytest.mark.parametrize("api, body, reasons", UNNUMBERED)
def test_choices_without_numbers(api: str, body: dict[str, Any], reasons: list[str]) -> None:
    """Several in one list are as many choices (one-api#1037), whole and streamed."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.event(b"", json.dumps(body).encode()) is EventKind.EVENT
    assert facts.finish_reasons == read(api, body).finish_reasons == reasons


@pytest.mark.parametrize("api", NAMES)
def test_an_error_ahead_of_events(api: str) -> None:
    """A gateway has written it as it is, and the rest of a stream follows."""
    for error, word in ((b'{\n "error": {\n  "code": 503\n }\n}', "503"), (b'{"detail": "m"}', "error")):
        for rest in (b"\n\ndata: [DONE]\n\n", b"\n: x\n", b"\r\n\r\nevent: error\r\ndata: {}\r\n\r\n"):
            facts = ResponseFacts()
            reader = apis.body_reader(Route("/", api=api), facts)
            assert reader is not None
            assert reader.body(error + rest)
            assert facts == ResponseFacts(error=word)


BLANK = [{}, {"message": "", "type": "", "param": "", "code": None}, {"code": 0, "details": [], "inner": {}}]
BLANK += [{"code": 0, "message": "success"}, {"code": "200", "message": "OK", "type": None}, {"code": 200}]
"""What relays send that fill in all members of a record, whether there was an error or not."""


@pytest.mark.parametrize("blank", BLANK)
@pytest.mark.parametrize("indent", [None, 1])
def test_an_error_that_says_nothing(blank: dict[str, Any], indent: int | None) -> None:
    """It is none, beside an answer or in a choice, whole or streamed; with a word in it, it is one."""
    for told, word in ((blank, None), ({**blank, "message": "m"}, "error"), ({**blank, "code": 503}, "503")):
        for body in (
            {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "error": told},
            {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop", "error": told}]},
        ):
            data = json.dumps(body, indent=indent).encode()
            whole, streamed = ResponseFacts(), ResponseFacts()
            answer, stream = (
                apis.body_reader(Route("/", api="openai.chat"), whole),
                apis.stream_reader(Route("/", api="openai.chat"), streamed),
            )
            assert answer is not None
            assert stream is not None
            assert answer.body(data)
            assert (stream.event(b"", data) is EventKind.CHUNK) == (word is None)
            assert (whole.error, streamed.error) == (word, word)


@pytest.mark.parametrize("api", NAMES)
def test_what_does_not_fit_costs_only_itself(api: str) -> None:
    """Wrong types are counted once, and the rest is read."""
    body = {"id": "x", "responseId": "x", "model": 7, "modelVersion": 7, "candidates": 1, "choices": [3]}
    named = read(api, {"id": "x", "responseId": "x"}).id
    assert named == "x" or not api.startswith(("openai", "anthropic", "gemini"))
    assert read(api, body) == ResponseFacts(id=named, unreadable=1)
    assert read(api, []) == ResponseFacts(unreadable=1)
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    reader.body(b'{"id":')
    assert facts == ResponseFacts(unreadable=1)


READ_ALL_THE_SAME = {
    "usage": {"prompt_tokens": 45, "input_tokens": 45},
    "usageMetadata": {"promptTokenCount": 45},
}
"""What an error may have cost before it struck."""

FOREIGN: list[tuple[Any, str]] = [
    ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "x"}}, "error"),
    ({"base_resp": {"status_code": "429"}, "choices": []}, "error"),
    ({"base_resp": {"status_code": 1027}, "choices": None, **READ_ALL_THE_SAME}, "error"),
    ({"detail": "the model is gone", **READ_ALL_THE_SAME}, "error"),
    ({"error": {"message": "m", "code": 503}}, "503"),
    ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], "RESOURCE_EXHAUSTED"),
    ({"code": "InvalidApiKey", "message": "m", "request_id": "r"}, "InvalidApiKey"),
    ({"code": 500, "msg": "m", "success": False}, "500"),
    ({"code": 1113, "message": "m"}, "error"),
    ({"success": False, "errors": [{"code": 10000, "message": "m"}], "result": None}, "error"),
    ({"success": False}, "error"),
    ({"status": "error", "message": "m"}, "error"),
    ({"status": 502, "message": "m"}, "502"),
    ({"detail": "Not Found"}, "error"),
    ({"detail": [{"loc": ["body"], "msg": "m"}]}, "error"),
    ({"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "BadRequestError"),
    ({"errors": [{"code": "rate_limit_exceeded"}]}, "rate_limit_exceeded"),
    ({"fault": {"faultstring": "m"}}, "error"),
    ({"type": "error", "message": "m"}, "error"),
    # DeepInfra, Venice; Baidu (one-api#1332); FastChat (FastChat#3367)
    ({"choices": None, "error_type": "rate_limit_error", "error_message": "m"}, "rate_limit_error"),
    ({"id": "x", "choices": None, "error_message": "m", **READ_ALL_THE_SAME}, "error"),
    ({"error_code": 336003, "error_msg": "m", "id": "as-1"}, "error"),
    ({"error_code": "503", "error_msg": "m"}, "503"),
    ({"text": "m", "error_code": 50001}, "error"),
]


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize("body, word", FOREIGN)
def test_errors_of_other_families(api: str, body: Any, word: str) -> None:
    """Gateways and providers of other APIs tell errors in their own ways, with a good status."""
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.body(json.dumps(body).encode())
    assert facts.error == word


NO_ANSWERS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"<!doctype html><title>Sign in</title>",
    b"upstream connect error",
    b'{"id":"x","model":"m","choices":[{"message":',
    b'{"id":"x","model":"m","choices":[],"candidates":[],"content":[],"output":[],"data":[]}',
    b'{"choices":null,"usage":{"prompt_tokens":0,"completion_tokens":0}}',
    b'{"ok":true}',
    b'{"code":0,"message":"success"}',
    b'{"error_code":0,"error_msg":"","error_type":null,"error_message":null}',
]


@pytest.mark.parametrize("api", NAMES)
@pytest.mark.parametrize("body", NO_ANSWERS)
def test_what_is_no_answer(api: str, body: bytes) -> None:
    """Neither a choice, nor a reason, nor usage, nor an error: the reader says that it is not an answer."""
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    assert not reader.body(body)
    assert facts.error is None


ANSWERS = [
    ("openai.chat", {"choices": [{"message": {"content": "x"}}]}),
    ("openai.chat", {"choices": [], "usage": {"prompt_tokens": 1}}),
    ("openai.completions", {"choices": [{"text": "x"}]}),
    ("openai.embeddings", {"data": [{"embedding": [0.1]}]}),
    ("openai.responses", {"id": "resp_1", "status": "queued", "usage": None}),
    ("openai.responses", {"output": [{}]}),
    ("anthropic.messages", {"type": "message", "content": []}),
    ("anthropic.messages", {"content": [{"type": "text", "text": "x"}]}),
    ("gemini.generate_content", {"candidates": [{"content": {}}]}),
    ("gemini.generate_content", {"promptFeedback": {"blockReason": "SAFETY"}}),
    ("gemini.generate_content", {"promptFeedback": {"blockReason": 1}}),
    ("gemini.generate_content", {"response": {"candidates": [{"content": {}}]}, "traceId": "t"}),
    ("openai.completions", {"content": "", "stop": True, "stop_type": "limit"}),
    ("openai.completions", [{"content": "x", "stop": True}, {"choices": [{"text": "x"}]}]),
]


@pytest.mark.parametrize("api, body", ANSWERS)
def test_what_is_an_answer(api: str, body: Any) -> None:
    """A part of one is enough; a response that is still to come is one as well."""
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    assert reader.body(json.dumps(body).encode())
    assert facts.error is None


CHOICES = [
    ("openai.chat", {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "m"}}]}, "502"),
    ("openai.completions", {"choices": [{"text": "", "finish_reason": "error"}]}, "error"),
    # DashScope's throttling, as qwen-code reads it
    (
        "openai.chat",
        {"choices": [{"message": {"content": "Throttling"}, "finish_reason": "error_finish"}]},
        "error",
    ),
    ("openai.completions", {"choices": [{"text": "Throttling", "finish_reason": "error_finish"}]}, "error"),
    *(
        (api, {"choices": [{"finish_reason": "error"}], "error": {"code": 502, "message": "m"}}, "502")
        for api in ("openai.chat", "openai.completions")
    ),
    ("openai.responses", {"status": "failed", "error": {"code": "server_error"}}, "server_error"),
    ("openai.responses", {"status": "incomplete", "error": {"code": 500}}, "500"),
    ("anthropic.messages", {"type": "message", "content": [], "stop_reason": "error"}, "error"),
    ("gemini.generate_content", {"candidates": [{"finishReason": "OTHER", "error": {"code": 500}}]}, "500"),
]


@pytest.mark.parametrize("api, body, word", CHOICES)
def test_a_failure_told_inside_a_choice(api: str, body: dict[str, Any], word: str) -> None:
    """The choice's own error, or a finish reason that says so, to which what stands beside it adds its word."""
    assert read(api, body).error == word


CODES = [
    (
        {"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}},
        "context_length_exceeded",
    ),
    ({"error": {"code": None, "type": "invalid_request_error"}}, "invalid_request_error"),
    # llama.cpp (lemonade#2975)
    (
        {"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096}},
        "exceed_context_size_error",
    ),
    ({"error": {"code": "made_up", "type": "server_error"}}, "server_error"),
    ({"type": "error", "error": {"type": "rate_limit_error"}}, "rate_limit_error"),
    ({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "m"}}, "INVALID_ARGUMENT"),
    ([{"error": {"code": 404, "status": "NOT_FOUND"}}], "NOT_FOUND"),
    ({"object": "error", "type": "invalid_request_error", "code": "1500"}, "invalid_request_error"),
    ({"code": "permission_denied", "error": "a text"}, "permission_denied"),
    ({"error": {"code": "a secret", "type": "made up"}}, None),
    ({"error": {"code": ["x"], "type": {}}}, None),
    ({"error": 7}, None),
    ({"error_code": 17, "error_type": "rate_limit_error", "error_msg": "m"}, "rate_limit_error"),
    ({"detail": "Not Found"}, None),
    ("text", None),
    (None, None),
]


def rejection(body: bytes) -> str | None:
    """The word that is read of a rejection's body."""
    facts = ResponseFacts()
    assert apis.RejectionReader(facts).body(body)
    return facts.error


@pytest.mark.parametrize("body, code", CODES)
def test_error_codes_are_bounded(body: object, code: str | None) -> None:
    """Known words only, the most telling first."""
    found = rejection(json.dumps(body, indent=1).encode())
    assert found == code
    assert found is None or found in apis.KNOWN_ERRORS


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad Gateway</html>", b"{", b"\xff", b"[" * 100_000, b"[]", b"[,"]
)
def test_error_bodies_that_are_no_json(body: bytes) -> None:
    """A gateway's page tells no code."""
    assert rejection(body) is None
