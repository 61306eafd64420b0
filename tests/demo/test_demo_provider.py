"""The simulated provider as the official client sees it: three APIs, embeddings, and everything that goes wrong."""

from collections.abc import AsyncIterator
from random import Random

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from sidecar.demo.plan import PLAN_HEADER, Plan, drawn, of_model, parse
from sidecar.demo.provider import Provider

SHORT = Plan(words=6, first=0.0, pace=0.001).header()
TEXT = "a sidecar sits beside the app"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider that serves."""
    async with Provider(seed=7) as serving:
        yield serving


@pytest.fixture
async def client(provider: Provider) -> AsyncIterator[AsyncOpenAI]:
    """The official client, pointed at it; it retries nothing."""
    async with DefaultAsyncHttpxClient(trust_env=False) as http:
        yield AsyncOpenAI(api_key="x", base_url=f"{provider.url}/v1", max_retries=0, http_client=http)


def test_a_plan_survives_its_header() -> None:
    """What a header says is read back as it was meant."""
    plan = Plan(words=3, first=0.5, pace=0.001, fail="cut", after=2, retry_after=3, finish="length")
    assert parse(plan.header()[PLAN_HEADER]) == plan
    assert parse(Plan().header()[PLAN_HEADER]) == Plan()


@pytest.mark.parametrize("text", ["", "words", "words=-1, pace=x, first=1e9", "fail=maybe, nobody=1, ,=,"])
def test_a_plan_that_makes_no_sense(text: str) -> None:
    """Leaves everything as usual."""
    assert parse(text) == Plan()


def test_a_model_can_ask_for_a_failure() -> None:
    """By its name, so that any app can see one."""
    assert of_model("demo-429") == Plan(fail="429")
    assert of_model("demo-large") is None
    assert of_model("429") is None


def test_unplanned_answers_fail_now_and_then() -> None:
    """Not often, in every way, and the same for the same seed."""
    plans = [drawn(Random(number)) for number in range(1000)]
    failed = [plan.fail for plan in plans if plan.fail is not None]
    assert 40 < len(failed) < 130
    assert set(failed) == {"429", "500", "error", "cut"}
    assert plans == [drawn(Random(number)) for number in range(1000)]


async def test_chat(client: AsyncOpenAI) -> None:
    """A whole answer, with usage and a finish reason."""
    answer = await client.chat.completions.create(
        model="demo-large", messages=[{"role": "user", "content": "hi"}], extra_headers=SHORT
    )
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


@pytest.mark.parametrize("usage", [True, False])
async def test_chat_streamed(client: AsyncOpenAI, usage: bool) -> None:
    """The same answer word by word; usage in a last chunk, only if asked for."""
    stream = await client.chat.completions.create(
        model="demo-large",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": usage},
        extra_headers=SHORT,
    )
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(words) == TEXT
    assert len(words) == 8
    reported = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert reported == ([6] if usage else [])


async def test_responses(client: AsyncOpenAI) -> None:
    """A whole answer of the responses API."""
    answer = await client.responses.create(model="demo-large", input="hi", extra_headers=SHORT)
    assert (answer.output_text, answer.status) == (TEXT, "completed")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6


@pytest.mark.parametrize("finish, last", [("stop", "response.completed"), ("length", "response.incomplete")])
async def test_responses_streamed(client: AsyncOpenAI, finish: str, last: str) -> None:
    """Events numbered without a hole, the words among them, the whole response at the end."""
    headers = Plan(words=6, first=0.0, pace=0.001, finish=finish).header()
    stream = await client.responses.create(model="demo-large", input="hi", stream=True, extra_headers=headers)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(14))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert events[-1].type == last


async def test_embeddings(client: AsyncOpenAI) -> None:
    """One vector per text, packed as the client asks for by itself or as plain numbers."""
    for encoding in (openai.omit, "float"):
        answer = await client.embeddings.create(
            model="demo-embedding",
            input=["a", "b"],
            encoding_format=encoding,
            extra_headers=SHORT,
        )
        assert [vector.embedding for vector in answer.data] == [
            [0.5, -0.5, 0.25, 0.0],
            [0.5, -0.5, 0.25, 1.0],
        ]


async def test_models(client: AsyncOpenAI) -> None:
    """What an app can choose from."""
    assert [model.id async for model in client.models.list()] == [
        "demo-small",
        "demo-large",
        "demo-embedding",
    ]


async def test_messages(provider: Provider) -> None:
    """Anthropic's API, plain and streamed, as its documentation shows it."""
    body = {"model": "demo-large", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}]}
    async with aiohttp.ClientSession(headers=SHORT) as http:
        async with http.post(f"{provider.url}/v1/messages", json=body) as answer:
            whole = await answer.json()
        async with http.post(f"{provider.url}/v1/messages", json={**body, "stream": True}) as answer:
            text = await answer.text()
    assert whole["content"] == [{"type": "text", "text": TEXT}]
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("end_turn", 6)
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 6,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_a_rate_limit(client: AsyncOpenAI) -> None:
    """429 with `Retry-After`."""
    with pytest.raises(openai.RateLimitError) as raised:
        await client.responses.create(
            model="m", input="x", extra_headers=Plan(fail="429", first=0, retry_after=2).header()
        )
    assert raised.value.response.headers["retry-after"] == "2"


async def test_what_is_sent_again_comes_through(client: AsyncOpenAI) -> None:
    """A planned failure is over after the first attempt; the client's own retry succeeds."""
    headers = Plan(words=6, fail="500", first=0.0, pace=0.001).header()
    answer = await client.with_options(max_retries=1).responses.create(
        model="m", input="x", extra_headers=headers
    )
    assert answer.output_text == TEXT


@pytest.mark.parametrize(
    "fail, expected",
    [("500", openai.InternalServerError), ("error", openai.APIError), ("cut", openai.APIConnectionError)],
)
async def test_streams_that_fail(client: AsyncOpenAI, fail: str, expected: type[Exception]) -> None:
    """Refused at once, an error event after some words, or a connection that breaks off."""
    words = 0
    with pytest.raises(expected):  # noqa: PT012 - it may fail at the call or while it is read
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_headers=Plan(fail=fail, words=9, after=3, first=0.0, pace=0.001).header(),
        )
        async for chunk in stream:
            words += bool(chunk.choices[0].delta.content)
    assert words <= 3
    assert fail != "error" or words == 3


async def test_a_failure_of_a_plain_answer(client: AsyncOpenAI) -> None:
    """What would break a stream is a 500 where nothing is streamed."""
    with pytest.raises(openai.InternalServerError):
        await client.responses.create(
            model="m", input="x", extra_headers=Plan(fail="error", words=1, first=0.0).header()
        )


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 4}', b"\xff"])
async def test_bodies_that_make_no_sense(provider: Provider, path: str, body: bytes) -> None:
    """400 in the API's own shape."""
    async with aiohttp.ClientSession() as http, http.post(provider.url + path, data=body) as answer:
        assert answer.status == 400
        assert "error" in await answer.json()


async def test_an_unknown_route(client: AsyncOpenAI) -> None:
    """404, for whatever an app may try."""
    with pytest.raises(openai.NotFoundError):
        await client.get("/assistants", cast_to=object)
