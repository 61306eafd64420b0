"""Where compatible servers put their usage, what their sums mean, and that no report lowers a count.

One row per shape, each with the source that describes it; the numbers are our own where a source has none.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sidecar import apis
from sidecar.core.facts import EventKind, ResponseFacts, Route

CHAT, MESSAGES, GEMINI = "openai.chat", "anthropic.messages", "gemini.generate_content"


def streamed(api: str, *events: Any) -> ResponseFacts:
    """The facts of a stream of these events."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=api), facts)
    assert reader is not None
    for event in events:
        reader.event(b"", json.dumps(event).encode())
    return facts


def whole(api: str, body: Any) -> ResponseFacts:
    """The facts of a whole answer."""
    facts = ResponseFacts()
    reader = apis.body_reader(Route("/", api=api), facts)
    assert reader is not None
    reader.body(json.dumps(body).encode())
    return facts


BASE = {"prompt_tokens": 19, "completion_tokens": 83, "total_tokens": 102}
TOLD = {"input": 19, "output": 83}

USAGES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    (
        "OpenAI (platform.openai.com/docs/api-reference/chat/object)",
        BASE
        | {
            "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 64, "accepted_prediction_tokens": 0},
        },
        TOLD | {"cache_read": 16, "reasoning": 64},
    ),
    ("Moonshot (pi#2017): cached tokens at the top", BASE | {"cached_tokens": 16}, TOLD | {"cache_read": 16}),
    (
        "DeepSeek (api-docs.deepseek.com/guides/kv_cache)",
        BASE | {"prompt_cache_hit_tokens": 16, "prompt_cache_miss_tokens": 3},
        TOLD | {"cache_read": 16},
    ),
    (
        "Mistral (vercel/ai#14382): three places, some zero",
        BASE | {"num_cached_tokens": 16, "prompt_token_details": {"cached_tokens": 16}},
        TOLD | {"cache_read": 16},
    ),
    (
        "Mistral (symfony/ai#2343)",
        BASE | {"num_cached_tokens": 0, "prompt_tokens_details": {"cached_tokens": 16}},
        TOLD | {"cache_read": 16},
    ),
    (
        "OpenRouter (openrouter.ai/docs/use-cases/usage-accounting)",
        BASE | {"cost": 0.95, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 10}},
        TOLD | {"cache_read": 0, "cache_write": 10},
    ),
    (
        "LiteLLM (litellm.vercel.app/docs/completion/prompt_caching): the cached part is in the prompt",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cache_creation_input_tokens": 0,
        },
        {"input": 2006, "output": 300, "cache_read": 1920, "cache_write": 0, "reasoning": 0},
    ),
    (
        "LiteLLM (litellm#10667): Gemini's thoughts beside the completion, as the total proves",
        {
            "prompt_tokens": 19693,
            "completion_tokens": 7,
            "total_tokens": 20309,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": 609, "text_tokens": None},
        },
        {"input": 19693, "output": 616, "reasoning": 609},
    ),
    (
        "Anthropic behind a translator (unsloth#5670): the cached part is no part of what is called the prompt",
        {
            "prompt_tokens": 8,
            "completion_tokens": 862,
            "total_tokens": 870,
            "prompt_tokens_details": {"cached_tokens": 18901},
            "cache_creation_input_tokens": 1367,
            "cache_read_input_tokens": 18901,
        },
        {"input": 8, "output": 862},
    ),
    (
        "Gemini by OpenAI's API (openai-python#2641): thoughts are in the completion",
        {
            "prompt_tokens": 12,
            "completion_tokens": 1994,
            "total_tokens": 2006,
            "completion_tokens_details": {"audio_tokens": None, "reasoning_tokens": 1269},
        },
        {"input": 12, "output": 1994, "reasoning": 1269},
    ),
    (
        "Gemini behind a translator (CLIProxyAPI#5733): nothing but thoughts, beside the completion",
        {
            "prompt_tokens": 21,
            "completion_tokens": 0,
            "total_tokens": 81,
            "completion_tokens_details": {"reasoning_tokens": 60},
        },
        {"input": 21, "output": 60, "reasoning": 60},
    ),
    (
        "Groq (vercel/ai#1651): times among the counts",
        {
            "queue_time": 0.07535312,
            "prompt_tokens": 23,
            "prompt_time": 0.006,
            "completion_tokens": 19,
            "completion_time": 0.022,
            "total_tokens": 42,
            "total_time": 0.028,
        },
        {"input": 23, "output": 19},
    ),
    (
        "vLLM (vllm#44475): a rate among the details",
        {
            "prompt_tokens": 1656,
            "completion_tokens": 10,
            "total_tokens": 1666,
            "prompt_tokens_details": {"cached_tokens": 1632, "cached_rate": 0.9855},
        },
        {"input": 1656, "output": 10, "cache_read": 1632},
    ),
    ("Ollama (ollama: openai/openai.go), Cohere (docs.cohere.com/docs/compatibility-api)", BASE, TOLD),
    (
        "LiteLLM: Anthropic's counts beside OpenAI's",
        BASE | {"cache_read_input_tokens": 10, "cache_creation_input_tokens": 4},
        TOLD | {"cache_read": 10, "cache_write": 4},
    ),
    (
        "DashScope (alibabacloud.com/help/model-studio/context-cache)",
        BASE | {"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 12}},
        TOLD | {"cache_read": 0, "cache_write": 12},
    ),
    (
        "SGLang (sglang#15562, sglang#17156): reasoning at the top, no details",
        BASE | {"prompt_tokens_details": None, "reasoning_tokens": 20},
        TOLD | {"reasoning": 20},
    ),
    (
        "SGLang (dynamo#10925): cached tokens in the details",
        {
            "prompt_tokens": 516,
            "completion_tokens": 4,
            "total_tokens": 520,
            "prompt_tokens_details": {"audio_tokens": None, "cached_tokens": 512},
        },
        {"input": 516, "output": 4, "cache_read": 512},
    ),
    (
        "Perplexity (open-webui-cost-tracker#6): reasoning is billed apart from the completion",
        {
            "prompt_tokens": 108,
            "completion_tokens": 3256,
            "total_tokens": 3364,
            "citation_tokens": 7299,
            "num_search_queries": 74,
            "reasoning_tokens": 73248,
        },
        {"input": 108, "output": 3256},
    ),
    (
        "Perplexity (genai-prices#351): the same without citations",
        {
            "prompt_tokens": 33,
            "completion_tokens": 11395,
            "total_tokens": 11428,
            "reasoning_tokens": 193947,
        },
        {"input": 33, "output": 11395},
    ),
    (
        "Perplexity: less reasoning than completion is still apart",
        BASE | {"num_search_queries": 3, "reasoning_tokens": 20},
        TOLD,
    ),
    (
        "the names of the responses API",
        {"input_tokens": 19, "output_tokens": 83, "input_tokens_details": {"cached_tokens": 16}},
        TOLD | {"cache_read": 16},
    ),
    (
        "xAI (inspect_ai#5528): reasoning beside the completion, as the total proves",
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        {"input": 32, "output": 103, "reasoning": 94},
    ),
    (
        "xAI (docs.x.ai): less reasoning than completion, and the total still proves it",
        {
            "prompt_tokens": 32,
            "completion_tokens": 90,
            "total_tokens": 142,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"input": 32, "output": 110, "reasoning": 20},
    ),
    (
        "cached tokens beside the prompt, as the total proves",
        {
            "prompt_tokens": 15,
            "completion_tokens": 5,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 100},
        },
        {"input": 115, "output": 5, "cache_read": 100},
    ),
    (
        "reading and writing beside the prompt, reasoning beside the completion",
        {
            "prompt_tokens": 15,
            "completion_tokens": 5,
            "total_tokens": 137,
            "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 7},
        },
        {"input": 125, "output": 12, "cache_read": 100, "cache_write": 10, "reasoning": 7},
    ),
    (
        "a part that is larger than its whole, without a total",
        {"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
        {"input": 5, "output": 9},
    ),
    (
        "a cached part that is larger than the prompt, and a total of the two others",
        {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14, "cached_tokens": 6},
        {"input": 5, "output": 9},
    ),
    (
        "two parts of one size: the total proves neither",
        BASE
        | {
            "total_tokens": 112,
            "prompt_tokens_details": {"cached_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 10},
        },
        TOLD | {"cache_read": 10, "reasoning": 10},
    ),
    ("a total that fits nothing", BASE | {"total_tokens": 7}, TOLD),
    ("a total of another kind", BASE | {"total_tokens": 500, "cached_tokens": 2}, TOLD | {"cache_read": 2}),
]


def _moonshot(usage: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}]}


PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "the last chunk, without choices (OpenAI, Ollama, vLLM)": lambda usage: {
        "choices": [],
        "usage": usage,
    },
    "the last chunk, with its choice (Together: mlflow#11557, llama.cpp#15443, DeepSeek, Mistral)": lambda usage: {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": usage,
    },
    "the choice (Moonshot, langchainjs#11194)": _moonshot,
    "x_groq (Groq, Portkey-AI/gateway#1338)": lambda usage: {
        "choices": [],
        "x_groq": {"id": "r", "usage": usage},
    },
    "x_groq, with its choice (vercel/ai#1651)": lambda usage: {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "x_groq": {"id": "r", "usage": usage},
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("usage, told", [row[1:] for row in USAGES], ids=[row[0] for row in USAGES])
def test_usage_of_compatible_servers(usage: dict[str, Any], told: dict[str, int], place: str) -> None:
    """Each shape in each place of a stream, and in a whole body, tells the same."""
    chunk = PLACES[place](usage)
    assert streamed(CHAT, chunk) == ResponseFacts(
        tokens=told, finish_reasons=streamed(CHAT, chunk).finish_reasons
    )
    assert whole(CHAT, chunk).tokens == told
    for api in ("openai.completions", "openai.embeddings"):
        assert whole(api, {"usage": usage}).tokens == told
    assert whole("openai.responses", {"status": "completed", "usage": usage}).tokens == told


def test_moonshot_tells_the_usage_of_each_choice() -> None:
    """In the choice that ends, its own alone (platform.moonshot.ai/docs/guide: streaming output, n > 1): the sum is the answer's."""
    ends: list[dict[str, Any]] = [
        {"index": index, "delta": {}, "finish_reason": "length", "usage": BASE | {"completion_tokens": made}}
        for index, made in enumerate((13, 8))
    ]
    told = {"input": 19, "output": 21}
    assert streamed(CHAT, *({"choices": [one]} for one in ends)).tokens == told
    assert (
        streamed(CHAT, *({"choices": [one]} for one in ends), {"choices": [], "usage": BASE}).tokens == TOLD
    )
    for read in (streamed, whole):
        assert read(CHAT, {"choices": ends}).tokens == told
        assert read(CHAT, {"choices": ends, "usage": BASE}).tokens == TOLD


def test_azure_begins_with_its_filter() -> None:
    """The first chunk has no choices (docs.axflow.dev/documentation/models/azure-openai-chat): no output, no error."""
    facts = ResponseFacts()
    reader = apis.stream_reader(Route("/", api=CHAT), facts)
    assert reader is not None
    first = {
        "choices": [],
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0}],
    }
    assert reader.event(b"", json.dumps(first).encode()) is EventKind.EVENT
    assert facts == ResponseFacts()


def test_what_began_tells_no_output() -> None:
    """Claude's first count of its output is a placeholder (litellm#31035): absent where nothing more comes."""
    begun = {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 5, "output_tokens": 8, **_cached(2)}},
    }
    assert streamed(MESSAGES, begun).tokens == {"input": 7, "cache_read": 2}
    delta = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}}
    assert streamed(MESSAGES, begun, delta).tokens == {"input": 7, "cache_read": 2, "output": 3}
    counted = {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"outputTokenCount": 4}}
    assert streamed(MESSAGES, begun, counted).tokens["output"] == 4


def _claude(start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": start}}]
    return events + [{"type": "message_delta", "delta": {}, "usage": usage} for usage in deltas]


ANSWERED: dict[str, Any] = {"input_tokens": 23000, "output_tokens": 1000}
SUMMARY = {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500}
COMPACTED = ANSWERED | {"iterations": [SUMMARY, ANSWERED | {"type": "message"}]}
"""As shown on platform.claude.com/docs/en/build-with-claude/compaction: the two counts leave the compaction out."""


def _cached(count: int) -> dict[str, int]:
    return {"cache_read_input_tokens": count}


CUMULATIVE: list[tuple[str, str, list[dict[str, Any]], dict[str, int]]] = [
    (
        "a placeholder of 0 (envoy ai-gateway#1631)",
        MESSAGES,
        _claude({"input_tokens": 15, **_cached(100)}, {"input_tokens": 0, "output_tokens": 45}),
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "placeholders for the cache too",
        MESSAGES,
        _claude({"input_tokens": 15, **_cached(100)}, {"input_tokens": 0, "output_tokens": 45, **_cached(0)}),
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "placeholders first",
        MESSAGES,
        _claude(
            {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 15, "output_tokens": 45, **_cached(100)}
        ),
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "an estimate first, then its parts",
        MESSAGES,
        _claude({"input_tokens": 115}, {"input_tokens": 15, "output_tokens": 45, **_cached(100)}),
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "the same again",
        MESSAGES,
        _claude(
            {"input_tokens": 15, **_cached(100)},
            *[{"input_tokens": 15, "output_tokens": 45, **_cached(100)}] * 2,
        ),
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "Bedrock's own count at the end",
        MESSAGES,
        [
            *_claude({"input_tokens": 15, **_cached(100)}, {"output_tokens": 45}),
            {
                "type": "message_stop",
                "amazon-bedrock-invocationMetrics": {
                    "inputTokenCount": 15,
                    "outputTokenCount": 45,
                    "cacheReadInputTokenCount": 100,
                },
            },
        ],
        {"input": 115, "output": 45, "cache_read": 100},
    ),
    (
        "a compaction (pydantic-ai#5065), and a placeholder of 0",
        MESSAGES,
        _claude({"input_tokens": 23000}, COMPACTED | {"input_tokens": 0}, {"output_tokens": 1000}),
        {"input": 203000, "output": 4500},
    ),
    (
        "usage on every chunk (vLLM), and a placeholder behind",
        CHAT,
        [
            {
                "choices": [],
                "usage": {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count},
            }
            for count in (0, 1, 2, 3)
        ]
        + [{"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}],
        {"input": 9, "output": 3},
    ),
    (
        "the details after the counts (vLLM, oh-my-pi#5025)",
        CHAT,
        [
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": BASE},
            {"choices": [], "usage": BASE | {"prompt_tokens_details": {"cached_tokens": 16}}},
        ],
        TOLD | {"cache_read": 16},
    ),
    (
        "Groq's own place, and then the usual one (Portkey-AI/gateway#1338)",
        CHAT,
        [
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"usage": BASE},
            },
            {"choices": [], "usage": BASE},
        ],
        TOLD,
    ),
    (
        "metadata on every chunk, some of it missing",
        GEMINI,
        [
            {"usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}},
            {"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 5, "totalTokenCount": 14}},
            {
                "usageMetadata": {
                    "promptTokenCount": 9,
                    "candidatesTokenCount": 4,
                    "thoughtsTokenCount": 5,
                    "totalTokenCount": 18,
                }
            },
            {"usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}},
        ],
        {"input": 9, "output": 9, "reasoning": 5},
    ),
]


@pytest.mark.parametrize(
    "api, events, told", [row[1:] for row in CUMULATIVE], ids=[row[0] for row in CUMULATIVE]
)
def test_counts_never_fall(api: str, events: list[dict[str, Any]], told: dict[str, int]) -> None:
    """Reports in a stream are cumulative: what stands there for want of a number erases nothing."""
    assert streamed(api, *events).tokens == told


ADVICE = {"type": "advisor_message", "model": "m", "input_tokens": 90000, "output_tokens": 800}
ITERATIONS: list[tuple[str, list[dict[str, Any]], dict[str, int]]] = [
    ("what the page shows", COMPACTED["iterations"], {"input": 203000, "output": 4500}),
    ("another model had declined", [ADVICE | {"type": "message"}], {"input": 23000, "output": 1000}),
    (
        "compactions that used the cache (litellm#27065)",
        [SUMMARY | _cached(5000), {"type": "compaction", "cache_creation_input_tokens": 400}],
        {"input": 208400, "output": 4500, "cache_read": 5000, "cache_write": 400},
    ),
    (
        "an adviser is another model, and other iterations are in the counts (claude-code#84738)",
        [ANSWERED | {"type": "message"}, ADVICE],
        {"input": 23000, "output": 1000},
    ),
    ("more than is believed", [SUMMARY | {"input_tokens": 2**32}] * 2, {"input": 23000, "output": 8000}),
]


@pytest.mark.parametrize("parts, told", [row[1:] for row in ITERATIONS], ids=[row[0] for row in ITERATIONS])
def test_a_compaction_is_counted_too(parts: list[dict[str, Any]], told: dict[str, int]) -> None:
    """The model that was asked has read and written it, and it is told apart."""
    usage = ANSWERED | {"iterations": parts}
    assert whole(MESSAGES, {"type": "message", "content": [], "usage": usage}).tokens == told
    assert streamed(MESSAGES, *_claude({}, usage)).tokens == told


GEMINI_SUMS: list[tuple[dict[str, int], dict[str, int]]] = [
    (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 18},
        {"input": 10, "output": 8, "reasoning": 3},
    ),
    (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 15},
        {"input": 10, "output": 5, "reasoning": 3},
    ),
    (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 30, "totalTokenCount": 15},
        {"input": 10, "output": 35, "reasoning": 30},
    ),
    (
        {
            "promptTokenCount": 10,
            "candidatesTokenCount": 5,
            "toolUsePromptTokenCount": 4,
            "totalTokenCount": 19,
        },
        {"input": 14, "output": 5},
    ),
    *(
        (
            {"promptTokenCount": prompt, "candidatesTokenCount": made, "toolUsePromptTokenCount": 100}
            | {"thoughtsTokenCount": 3, "totalTokenCount": 118},
            {"input": 110, "output": 8, "reasoning": 3},
        )
        for prompt, made in ((10, 5), (10, 8), (110, 5), (110, 8))
    ),
    ({"promptTokenCount": 10, "cachedContentTokenCount": 11}, {"input": 10}),
    ({"thoughtsTokenCount": 3}, {"output": 3, "reasoning": 3}),
]


@pytest.mark.parametrize("usage, told", GEMINI_SUMS)
def test_sums_of_gemini(usage: dict[str, int], told: dict[str, int]) -> None:
    """Thoughts and tool use stand beside the two counts unless the total says that they are in there (litellm#10141)."""
    assert whole(GEMINI, {"usageMetadata": usage}).tokens == told
