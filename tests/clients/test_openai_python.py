"""What the `openai` client for Python does beyond the cases of every client: other APIs, many calls at once, errors.

The cases that all clients share are in `test_every_client.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from sidecar.testing import (
    Gate,
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_completion,
    json_answer,
    sse,
)

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 3,
        "output_tokens": 4,
        "total_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}


@pytest.fixture
def client(sidecar: RunningSidecar) -> Iterator[openai.OpenAI]:
    """The sync client, pointed at the sidecar as an app would."""
    with openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="k", max_retries=2) as made:
        yield made


@pytest.fixture
async def async_client(sidecar: RunningSidecar) -> AsyncIterator[openai.AsyncOpenAI]:
    """The async client, pointed at the sidecar as an app would."""
    async with openai.AsyncOpenAI(base_url=f"{sidecar.url}/v1", api_key="k", max_retries=2) as made:
        yield made


def own(session: str) -> dict[str, str]:
    """The header that names a session."""
    return {"X-Sidecar-Session-Id": session}


def completed(sink: OtlpSink, session: str) -> dict[str, Any]:
    """The attributes of the session's one CLIENT span, after checking that its request completed."""
    server = sink.span(kind="SERVER", attributes={"session.id": session})
    assert server.attributes["sidecar.outcome"] == "completed"
    return dict(sink.span(kind="CLIENT", trace_id=server.trace_id).attributes)


STREAM = [
    chat_chunk("Hel"),
    chat_chunk("lo"),
    chat_chunk(finish_reason="stop"),
    chat_chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
]


def test_an_error_of_the_sidecar_is_the_clients_own(start_sidecar: Any, upstream: ScriptedUpstream) -> None:
    """A 404 of ours parses as the client's own exception, with our text."""
    sidecar = start_sidecar(upstream=None, settings={"UPSTREAMS": f"named={upstream.url}"})
    with (
        openai.OpenAI(base_url=f"{sidecar.url}/v1", api_key="k", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match="no upstream is called 'v1'; known: named"),
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def test_responses(client: openai.OpenAI, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """The responses API, whole and streamed."""
    upstream.answer(json_answer(RESPONSE))
    made = client.responses.create(model="gpt-4o", input="Hi", extra_headers=own("sdk-responses"))
    assert made.output_text == "Hello"
    assert completed(sink, "sdk-responses")["gen_ai.usage.output_tokens"] == 4
    running = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
    events: list[Any] = [
        ("response.created", {"type": "response.created", "sequence_number": 0, "response": running}),
        (
            "response.output_text.delta",
            {
                "type": "response.output_text.delta",
                "sequence_number": 1,
                "item_id": "msg_1",
                "output_index": 0,
                "content_index": 0,
                "delta": "Hello",
                "logprobs": [],
            },
        ),
        ("response.completed", {"type": "response.completed", "sequence_number": 2, "response": RESPONSE}),
    ]
    upstream.answer(sse(events, done=False))
    with client.responses.create(
        model="gpt-4o", input="Hi", stream=True, extra_headers=own("sdk-responses-stream")
    ) as stream:
        types = [event.type for event in stream]
    assert types == [name for name, _ in events]
    assert completed(sink, "sdk-responses-stream")["gen_ai.response.id"] == "resp_1"


def test_embeddings(client: openai.OpenAI, upstream: ScriptedUpstream, sink: OtlpSink) -> None:
    """Embeddings complete, are no turn, and report their tokens."""
    upstream.answer(
        json_answer(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
                "model": "text-embedding-3-small",
                "usage": {"prompt_tokens": 2, "total_tokens": 2},
            }
        )
    )
    made = client.embeddings.create(
        model="text-embedding-3-small", input="x", encoding_format="float", extra_headers=own("sdk-embed")
    )
    assert made.data[0].embedding == [0.5, -1.0]
    attributes = completed(sink, "sdk-embed")
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 2


async def test_async_plain_and_streaming_at_once(
    async_client: openai.AsyncOpenAI, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """Twenty calls at the same time, half of them streams: each gets its own answer."""
    upstream.answer_with(
        lambda request: (
            sse(STREAM)
            if b'"stream":true' in request.body
            else json_answer(chat_completion(request.body.decode()[-40:]))
        )
    )

    async def plain(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"number {number}"}]
        made = await async_client.chat.completions.create(
            model="gpt-4o", messages=messages, user=f"user-{number}", extra_headers=own("sdk-async")
        )
        return made.choices[0].message.content or ""

    async def streamed() -> list[Any]:
        stream = await async_client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=own("sdk-async")
        )
        return [event.to_dict() async for event in stream]

    plains, streams = await asyncio.gather(
        asyncio.gather(*(plain(number) for number in range(10))),
        asyncio.gather(*(streamed() for _ in range(10))),
    )
    assert all(f'user-{number}"' in said for number, said in enumerate(plains))
    assert all(events == STREAM for events in streams)
    wanted = {"session.id": "sdk-async"}
    await asyncio.to_thread(
        sink.wait_for, lambda: len(sink.find_spans(kind="SERVER", attributes=wanted)) == 20
    )
    spans = sink.find_spans(kind="SERVER", attributes=wanted)
    assert sorted(int(str(span.attributes["sidecar.request.sequence"])) for span in spans) == list(
        range(1, 21)
    )
    assert {span.attributes["sidecar.outcome"] for span in spans} == {"completed"}


async def test_async_early_close(
    async_client: openai.AsyncOpenAI, upstream: ScriptedUpstream, sink: OtlpSink
) -> None:
    """A cancelled call ends the upstream's connection before its first byte."""
    gate = Gate()
    upstream.answer(Wait(gate))
    call = asyncio.create_task(
        async_client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, extra_headers=own("sdk-cancel")
        )
    )
    request = await asyncio.to_thread(upstream.request)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(upstream.closed, request)
    gate.open()
    server = await asyncio.to_thread(
        lambda: sink.span(kind="SERVER", attributes={"session.id": "sdk-cancel"})
    )
    assert server.attributes["sidecar.outcome.phase"] == "before_headers"
