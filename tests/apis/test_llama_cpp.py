"""What llama.cpp tells in its own ways: counts beside its times, the usage of each choice alone, and one text without choices.

A row's source is the function of its tools/server, or an issue.
"""

from typing import Any

import pytest

from sidecar.core.facts import ResponseFacts
from tests.apis.test_usage import BASE, CHAT, TOLD, streamed, whole


def test_timings_of_llama_cpp() -> None:
    """Its own count (llama.cpp#15827), where no usage was asked for; usage says more."""
    timings = {"cache_n": 236, "prompt_n": 1, "predicted_n": 35, "predicted_ms": 661.064}
    told = {"input": 237, "cache_read": 236, "output": 35}
    assert streamed(CHAT, {"choices": [], "timings": timings}).tokens == told
    assert whole("openai.completions", {"choices": [], "timings": timings}).tokens == told
    assert streamed(CHAT, {"choices": [], "timings": timings, "usage": BASE}).tokens == TOLD
    older = {"prompt_n": 1, "predicted_n": 35}
    assert streamed(CHAT, {"choices": [], "timings": older}).tokens == {"output": 35}


SEVERAL: list[tuple[str, str, list[dict[str, Any]], dict[str, int]]] = [
    (
        "a chunk without choices behind each (server-task.cpp: to_json_oaicompat_chat_stream)",
        CHAT,
        [
            part
            for index, made in enumerate((8, 6, 7))
            for part in (
                {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]},
                {
                    "choices": [],
                    "usage": {"prompt_tokens": 5, "completion_tokens": made, "total_tokens": 5 + made},
                    "timings": {"cache_n": 4 * bool(index), "prompt_n": 1, "predicted_n": made},
                },
            )
        ],
        {"input": 5, "output": 21},
    ),
    (
        "in the last chunk of each, of two prompts (to_json_oaicompat)",
        "openai.completions",
        [
            {
                "choices": [{"index": index, "text": "", "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5 + index, "completion_tokens": made},
                "timings": {"prompt_n": 1, "predicted_n": made},
            }
            for index, made in enumerate((8, 6))
        ],
        {"output": 14},
    ),
    (
        "its own form, counted as it goes on (llama.cpp#10720), of one prompt or of two",
        "openai.completions",
        [
            {"index": 0, "content": "a", "stop": False, "tokens_predicted": 3, "tokens_evaluated": 16},
            {"index": 1, "content": "b", "stop": False, "tokens_predicted": 4, "tokens_evaluated": 16},
            {"index": 0, "content": "", "stop": True, "tokens_predicted": 3, "tokens_evaluated": 16},
            {"index": 1, "content": "", "stop": True, "tokens_predicted": 5, "tokens_evaluated": 16},
        ],
        {"output": 8},
    ),
    (
        "the same, of three prompts, the last of which goes on",
        "openai.completions",
        [
            {"index": 0, "content": "", "stop": True, "tokens_predicted": 3, "tokens_evaluated": 16},
            {"index": 1, "content": "", "stop": True, "tokens_predicted": 5, "tokens_evaluated": 16},
            {"index": 2, "content": "c", "stop": False, "tokens_predicted": 1, "tokens_evaluated": 16},
        ],
        {"output": 8},
    ),
    (
        "all at once (OpenAI), and again",
        CHAT,
        [
            {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"} for index in range(2)]},
            *[{"choices": [], "usage": BASE}] * 2,
        ],
        TOLD,
    ),
    (
        "of one choice, with timings in each chunk (timings_per_token)",
        CHAT,
        [
            *[
                {"choices": [{"delta": {}}], "timings": {"prompt_n": 1, "predicted_n": made}}
                for made in (1, 2)
            ],
            {"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"predicted_n": 3}},
            {"choices": [], "usage": {"completion_tokens": 3}, "timings": {"predicted_n": 3}},
        ],
        {"output": 3},
    ),
]


@pytest.mark.parametrize("api, events, told", [row[1:] for row in SEVERAL], ids=[row[0] for row in SEVERAL])
def test_usage_of_several_choices(api: str, events: list[dict[str, Any]], told: dict[str, int]) -> None:
    """llama.cpp tells that of each choice alone: the sum is the answer's."""
    assert streamed(api, *events).tokens == told


def test_usage_of_several_choices_in_a_whole_answer() -> None:
    """There llama.cpp tells the first choice's alone (handle_completions_impl), which is not the answer's.

    Only of a chat it is certain that the others have the same prompt.
    """
    timings = {"prompt_n": 19, "cache_n": 0, "predicted_n": 83}
    for api, told in ((CHAT, {"input": 19}), ("openai.completions", {})):
        body = {"choices": [{"index": 0}, {"index": 1}], "usage": BASE}
        assert whole(api, body).tokens == TOLD
        assert whole(api, body | {"timings": timings}).tokens == told
        assert whole(api, {"choices": [{}], "usage": BASE, "timings": timings}).tokens == TOLD


OWN_FORM: list[tuple[str, dict[str, Any], str]] = [
    ("eos", {"stop_type": "eos"}, "stop"),
    ("word", {"stop_type": "word", "stopping_word": "\n"}, "stop"),
    ("limit", {"stop_type": "limit"}, "length"),
    ("neither, which the server calls so (to_json_oaicompat)", {"stop_type": "none"}, "length"),
    ("before stop_type (llama.cpp#10722)", {"stopped_eos": True, "stopped_limit": False}, "stop"),
    ("a word, before it", {"stopped_eos": False, "stopped_word": True}, "stop"),
    ("the limit, before it", {"stopped_eos": False, "stopped_word": False, "stopped_limit": True}, "length"),
]


@pytest.mark.parametrize("members, reason", [row[1:] for row in OWN_FORM], ids=[row[0] for row in OWN_FORM])
def test_the_own_form_of_llama_cpp(members: dict[str, Any], reason: str) -> None:
    """Counts beside the text and in the timings are one and the same, whole and streamed."""
    end = {
        "index": 0,
        "content": "",
        "stop": True,
        "model": "m",
        "tokens_predicted": 8,
        "tokens_evaluated": 5,
        "timings": {"prompt_n": 2, "cache_n": 3, "predicted_n": 8},
        "generation_settings": {"stop": [], "n_predict": 8},
        **members,
    }
    told = {"input": 5, "output": 8, "cache_read": 3}
    text = {"index": 0, "content": "Hi", "stop": False}
    assert streamed("openai.completions", text, end) == ResponseFacts(None, "m", [reason], told)
    assert whole("openai.completions", end | {"content": "Hi"}) == ResponseFacts(None, "m", [reason], told)


def test_answers_to_several_prompts() -> None:
    """A list of them: the outputs are added up. They may be several choices of one prompt, so no input is told."""
    own = [
        {
            "index": at,
            "content": "a",
            "stop": True,
            "stop_type": reason,
            "tokens_predicted": 8,
            "tokens_evaluated": 5,
        }
        for at, reason in enumerate(("eos", "limit"))
    ]
    usual = [
        {"choices": [{"text": "a", "index": 0, "finish_reason": reason}], "usage": BASE, "model": "m"}
        for reason in ("stop", "length")
    ]
    api = "openai.completions"
    assert whole(api, own) == ResponseFacts(finish_reasons=["stop", "length"], tokens={"output": 16})
    assert whole(api, usual) == ResponseFacts(
        model="m", finish_reasons=["stop", "length"], tokens={"output": 166}
    )
    assert whole(api, [own[0], {"content": "", "stop": True}]).tokens == {}
    assert whole(api, own[:1]).tokens == {"input": 5, "output": 8}
    assert whole(api, usual[:1]).tokens == TOLD
    assert whole(api, [own[0] | {"content": "a" * 200_000}, own[1]]).tokens == {"output": 16}
